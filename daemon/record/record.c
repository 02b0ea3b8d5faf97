/* A record's bytes. The rest, after the head, is in this order; v is a varint, s a varint length and as many bytes:
 *
 *     u8 given, s namespace, s caller*, s key, s operation, s fingerprint, s owner, s traceparent*, v fence - life*,
 *     v attempt - 1*, v begun_ms: what stays as it is until another grant
 *     u8 given, v revision - fence: what changes, of which
 *     unfinished: s attempt_id*, s checkpoint name*, v flags*, v interrupted_ms* (1 + what it is after begun_ms,
 * zigzag), v input bytes*, v checkpoint bytes*, v keep_ms*, v lease_ms done: v flags*, v interrupted_ms*, v code
 * (zigzag)*, v body bytes*, v expires_ms - body_expires_ms*, v attributes bytes*, v body field bytes*,
 * v body_expiry_key*, v done_ms (as interrupted_ms), v kind * 2 + 1, or kind * 2 where the digest is left out,
 * 16 digest bytes where it is not, inline values up to the end
 *
 * What has a star is there where its bit of `given` is set, from the lowest on; else it is empty, or 0. Most are, and
 * each byte of a record is written twice and flushed. Of a done one the body bytes are left out where the inline values
 * say them, the body field bytes where the inline values are there.
 * Zigzag and varint are protobuf's. The checksums find what a disk broke; every read is bounded all the same. */
#include "daemon/record/record.h"

#include <assert.h>
#include <endian.h>

/* Most of what is hashed here is short: a call would cost as much. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proto/frame.h"
#include "proto/limits.h"

enum { VERSION = 2, VARINT_BYTES_MAX = 10, STRINGS = 9, VARINTS = 20, DIGEST_BYTES = 16 };
/* The head's fields; record.h. */
enum {
    CHECKSUM_AT = 4,
    HASH_AT = 8,
    VALUES_BYTES_AT = 16,
    EXPIRES_AT = 20,
    EXPIRES_BYTES = 6,
    GENERATION_AT = 26,
    GENERATION_BYTES = 7,
    STATE_AT = 33,
};
_Static_assert(EXPIRES_AT + EXPIRES_BYTES == GENERATION_AT && GENERATION_AT + GENERATION_BYTES == STATE_AT &&
                   STATE_AT + 1 == RECORD_HEAD_BYTES,
               "life and state are the head's last eight bytes, and expires_ms stands before them");

/* The bits of what is given. */
enum given_grant { GIVEN_CALLER = 1, GIVEN_TRACEPARENT = 2, GIVEN_FENCE = 4, GIVEN_ATTEMPT = 8, GIVEN_GRANT_END = 16 };
enum given_unfinished {
    GIVEN_ATTEMPT_ID = 1,
    GIVEN_CHECKPOINT_NAME = 2,
    GIVEN_FLAGS = 4,
    GIVEN_INTERRUPTED = 8,
    GIVEN_INPUT = 16,
    GIVEN_CHECKPOINT = 32,
    GIVEN_KEEP = 64,
    GIVEN_UNFINISHED_END = 128,
};
enum given_done {
    GIVEN_DONE_FLAGS = 1,
    GIVEN_DONE_INTERRUPTED = 2,
    GIVEN_CODE = 4,
    GIVEN_BODY = 8,
    GIVEN_BODY_EXPIRES = 16,
    GIVEN_ATTRIBUTES = 32,
    GIVEN_BODY_FIELD = 64,
    GIVEN_BODY_EXPIRY_KEY = 128,
};

/* What a record takes at most without inline values: the head, its strings with lengths of two bytes, twenty varints,
 * the digest. */
_Static_assert(RECORD_HEAD_BYTES + IDEM_NAMESPACE_BYTES_MAX + IDEM_CALLER_BYTES_MAX + IDEM_KEY_BYTES_MAX +
                       IDEM_OPERATION_BYTES_MAX + IDEM_FINGERPRINT_BYTES_MAX + IDEM_ATTEMPT_ID_BYTES +
                       IDEM_OWNER_BYTES_MAX + IDEM_TRACEPARENT_BYTES_MAX + IDEM_CHECKPOINT_NAME_BYTES_MAX +
                       2 * STRINGS + VARINTS * VARINT_BYTES_MAX + DIGEST_BYTES <=
                   RECORD_BYTES_MAX,
               "a record fits its page");

/* ---- Hash -------------------------------------------------------------------------- */

static uint8_t *put_part(uint8_t *out, struct bytes part)
{
    out[0] = (uint8_t)part.size;
    out[1] = (uint8_t)(part.size >> 8);
    return bytes_put(out + 2, part);
}

uint64_t record_hash(const uint8_t secret[RECORD_SECRET_BYTES], const struct identity *id)
{
    uint8_t text[IDEM_NAMESPACE_BYTES_MAX + IDEM_CALLER_BYTES_MAX + IDEM_KEY_BYTES_MAX + 6], *end = text;

    assert(id->namespace.size <= IDEM_NAMESPACE_BYTES_MAX && id->caller.size <= IDEM_CALLER_BYTES_MAX &&
           id->key.size <= IDEM_KEY_BYTES_MAX);
    end = put_part(end, id->namespace);
    end = put_part(end, id->caller);
    end = put_part(end, id->key);
    return XXH3_64bits_withSecret(text, (size_t)(end - text), secret, RECORD_SECRET_BYTES);
}

uint64_t record_namespace_hash(const uint8_t secret[RECORD_SECRET_BYTES], struct bytes namespace)
{
    return XXH3_64bits_withSecret(namespace.size ? (const void *)namespace.data : "", namespace.size, secret,
                                  RECORD_SECRET_BYTES);
}

/* ---- Digest ------------------------------------------------------------------------ */

void record_digest(const struct sent_outcome *sent, uint64_t digest[2])
{
    const XXH128_hash_t body = XXH3_128bits(sent->body.size ? (const void *)sent->body.data : "", sent->body.size);
    const uint64_t parts[] = {
        (uint64_t)(int64_t)sent->kind,
        (uint64_t)(int64_t)sent->code,
        sent->attributes_digest,
        sent->attributes_count,
        sent->body_dropped,
        sent->attributes_dropped,
        sent->body_bytes,
        sent->body.size,
        body.low64,
        body.high64,
    };
    const XXH128_hash_t hash = XXH3_128bits(parts, sizeof parts);

    digest[0] = hash.low64;
    digest[1] = hash.high64;
}

/* The body in its field on the wire. False: it is not one whole field. */
static bool unwrap_body(struct bytes field, struct bytes *body)
{
    enum { BODY_TAG = 0x22 };
    uint64_t size = 0;

    *body = (struct bytes){0};
    if (field.size == 0)
        return true;
    const size_t length_bytes = frame_get_varint(field.data + 1, field.size - 1, &size);
    if (field.data[0] != BODY_TAG || length_bytes == 0 || size != field.size - 1 - length_bytes)
        return false;
    *body = bytes_of(field.data + 1 + length_bytes, (uint32_t)size);
    return true;
}

bool record_plain_digest(uint8_t kind, int32_t code, struct bytes body_field, uint64_t digest[2])
{
    struct sent_outcome sent = {.kind = kind, .code = code, .attributes_digest = XXH3_64bits("", 0)};

    if (!unwrap_body(body_field, &sent.body))
        return false;
    record_digest(&sent, digest);
    return true;
}

/* Is its outcome one of which a plain digest may be asked, and in it whole? */
static bool is_plain(const struct record *record)
{
    return record->attributes_bytes == 0 && !(record->flags & (RECORD_BODY_DROPPED | RECORD_ATTRIBUTES_DROPPED)) &&
           record->inline_values.size == record->body_field_bytes;
}

/* The digest of an outcome that is in its record whole, has no attributes, and was sent as most are. False: the record
 * does not say. */
static bool reckon_digest(const struct record *record, uint64_t digest[2])
{
    return is_plain(record) &&
           record_plain_digest(record->outcome_kind, record->outcome_code, record->inline_values, digest);
}

/* Whether reading would reckon the digest that it has, so that it need not be written. */
static bool can_leave_digest_out(const struct record *record)
{
    uint64_t reckoned[2];

    if (record->digest_left_out) {
        assert(is_plain(record));
        return true;
    }
    return reckon_digest(record, reckoned) && memcmp(reckoned, record->digest, sizeof reckoned) == 0;
}

bool record_has_digest(const struct record *record, const uint64_t digest[2])
{
    uint64_t own[2] = {record->digest[0], record->digest[1]};

    return (!record->digest_left_out || reckon_digest(record, own)) && own[0] == digest[0] && own[1] == digest[1];
}

/* ---- Writing ------------------------------------------------------------------------- */

static void store32(uint8_t *out, uint32_t value)
{
    value = htole32(value);
    memcpy(out, &value, sizeof value);
}

static void store64(uint8_t *out, uint64_t value)
{
    value = htole64(value);
    memcpy(out, &value, sizeof value);
}

/* A time that may be missing, near another. */
static uint64_t time_near(uint64_t time_ms, uint64_t base_ms)
{
    return time_ms ? 1 + frame_zigzag((int64_t)(time_ms - base_ms)) : 0;
}

static inline uint8_t *put_varint(uint8_t *out, uint64_t value)
{
    return out + frame_put_varint(out, value);
}

static inline uint8_t *put_string(uint8_t *out, struct bytes string)
{
    return bytes_put(put_varint(out, string.size), string);
}

static void check_strings(const struct record *record)
{
    assert(record->id.namespace.size <= IDEM_NAMESPACE_BYTES_MAX && record->id.caller.size <= IDEM_CALLER_BYTES_MAX);
    assert(record->id.key.size <= IDEM_KEY_BYTES_MAX && record->operation.size <= IDEM_OPERATION_BYTES_MAX);
    assert(record->fingerprint.size <= IDEM_FINGERPRINT_BYTES_MAX);
    assert(record->attempt_id.size <= IDEM_ATTEMPT_ID_BYTES && record->owner.size <= IDEM_OWNER_BYTES_MAX);
    assert(record->traceparent.size <= IDEM_TRACEPARENT_BYTES_MAX);
    assert(record->checkpoint_name.size <= IDEM_CHECKPOINT_NAME_BYTES_MAX);
}

/* Numbers and strings that are mostly not there: `given` says whether one is. */
static uint8_t *put_given(uint8_t *out, uint8_t *given, unsigned bit, uint64_t value)
{
    if (value == 0)
        return out;
    *given = (uint8_t)(*given | bit);
    return put_varint(out, value);
}

static uint8_t *put_given_string(uint8_t *out, uint8_t *given, unsigned bit, struct bytes string)
{
    if (string.size == 0)
        return out;
    *given = (uint8_t)(*given | bit);
    return put_string(out, string);
}

/* What stays as it is. */
static uint8_t *put_grant(uint8_t *out, const struct record *record)
{
    uint8_t *const given = out++;

    *given = 0;
    out = put_string(out, record->id.namespace);
    out = put_given_string(out, given, GIVEN_CALLER, record->id.caller);
    out = put_string(out, record->id.key);
    out = put_string(out, record->operation);
    out = put_string(out, record->fingerprint);
    out = put_string(out, record->owner);
    out = put_given_string(out, given, GIVEN_TRACEPARENT, record->traceparent);
    out = put_given(out, given, GIVEN_FENCE, record->fence - record->generation);
    out = put_given(out, given, GIVEN_ATTEMPT, record->attempt - 1);
    return put_varint(out, record->begun_ms);
}

static uint8_t *put_unfinished(uint8_t *out, const struct record *record)
{
    uint8_t *const given = out++;

    *given = 0;
    out = put_varint(out, record->revision - record->fence);
    out = put_given_string(out, given, GIVEN_ATTEMPT_ID, record->attempt_id);
    out = put_given_string(out, given, GIVEN_CHECKPOINT_NAME, record->checkpoint_name);
    out = put_given(out, given, GIVEN_FLAGS, record->flags);
    out = put_given(out, given, GIVEN_INTERRUPTED, time_near(record->interrupted_ms, record->begun_ms));
    out = put_given(out, given, GIVEN_INPUT, record->input_bytes);
    out = put_given(out, given, GIVEN_CHECKPOINT, record->checkpoint_bytes);
    out = put_given(out, given, GIVEN_KEEP, record->keep_ms);
    return put_varint(out, record->lease_ms);
}

/* The size of the body that the inline values hold, as far as they do. */
static uint64_t inline_body_bytes(const struct record *record)
{
    const struct bytes values = record->inline_values;
    struct bytes body;

    if (values.size <= record->attributes_bytes ||
        !unwrap_body(bytes_of(values.data + record->attributes_bytes, values.size - record->attributes_bytes), &body))
        return 0;
    return body.size;
}

static uint8_t *put_digest(uint8_t *out, const struct record *record)
{
    const bool left_out = can_leave_digest_out(record);

    out = put_varint(out, (uint64_t)record->outcome_kind << 1 | !left_out);
    if (left_out)
        return out;
    store64(out, record->digest[0]);
    store64(out + 8, record->digest[1]);
    return out + DIGEST_BYTES;
}

static uint8_t *put_done(uint8_t *out, const struct record *record)
{
    const struct bytes values = record->inline_values;
    /* Given, though it may be 0, where it is not what the inline values say. */
    const bool body_told = record->body_bytes == inline_body_bytes(record);
    uint8_t *const given = out++;

    *given = body_told ? 0 : GIVEN_BODY;
    out = put_varint(out, record->revision - record->fence);
    out = put_given(out, given, GIVEN_DONE_FLAGS, record->flags);
    out = put_given(out, given, GIVEN_DONE_INTERRUPTED, time_near(record->interrupted_ms, record->begun_ms));
    out = put_given(out, given, GIVEN_CODE, frame_zigzag(record->outcome_code));
    out = body_told ? out : put_varint(out, record->body_bytes);
    out = put_given(out, given, GIVEN_BODY_EXPIRES, record->expires_ms - record->body_expires_ms);
    out = put_given(out, given, GIVEN_ATTRIBUTES, record->attributes_bytes);
    out = put_given(out, given, GIVEN_BODY_FIELD, values.size ? 0 : record->body_field_bytes);
    out = put_given(out, given, GIVEN_BODY_EXPIRY_KEY, record->body_expiry_key);
    out = put_varint(out, time_near(record->done_ms, record->begun_ms));
    out = put_digest(out, record);
    if (values.size)
        memcpy(out, values.data, values.size);
    return out + values.size;
}

static uint8_t *put_rest(uint8_t *out, const struct record *record)
{
    out = put_grant(out, record);
    return record->state == RECORD_DONE ? put_done(out, record) : put_unfinished(out, record);
}

static uint32_t checksum(const uint8_t *data, size_t size)
{
    return (uint32_t)XXH3_64bits(data, size);
}

static void put_head(uint8_t *out, const struct record_delta *part, uint64_t generation)
{
    assert(part->expires_ms >> 8 * EXPIRES_BYTES == 0 && generation >> 8 * GENERATION_BYTES == 0);
    store32(out + CHECKSUM_AT, part->checksum);
    store64(out + HASH_AT, part->hash);
    store32(out + VALUES_BYTES_AT, part->values_bytes);
    /* Each is written with eight bytes, and what that is too much is written over by what follows. */
    store64(out + EXPIRES_AT, part->expires_ms);
    store64(out + GENERATION_AT, generation | (uint64_t)(VERSION << 4 | part->state) << 8 * GENERATION_BYTES);
    store32(out, checksum(out + CHECKSUM_AT, RECORD_HEAD_BYTES - CHECKSUM_AT));
}

uint32_t record_encode(const struct record *record, uint8_t out[RECORD_BYTES_MAX])
{
    struct record_delta part = {
        .state = record->state,
        .values_bytes = record->state == RECORD_DONE ? record->attributes_bytes + record->body_field_bytes
                                                     : record->input_bytes + record->checkpoint_bytes,
        .hash = record->hash,
        .expires_ms = record->state == RECORD_DONE ? record->expires_ms : 0,
    };
    uint8_t *end;

    check_strings(record);
    assert(record->state != RECORD_ABSENT && record->fence >= record->generation && record->revision >= record->fence);
    assert(record->state == RECORD_DONE || record->inline_values.size == 0);
    assert(record->inline_values.size == 0 ||
           record->inline_values.size == (uint64_t)record->attributes_bytes + record->body_field_bytes);
    assert(record->attempt > 0);
    assert(record->state != RECORD_DONE || record->body_expires_ms <= record->expires_ms);
    end = put_rest(out + RECORD_HEAD_BYTES, record);
    assert(end - out <= RECORD_BYTES_MAX);
    part.checksum = checksum(out + RECORD_HEAD_BYTES, (size_t)(end - out - RECORD_HEAD_BYTES));
    put_head(out, &part, record->generation);
    return (uint32_t)(end - out);
}

/* What a record takes at most, were each number as long as it can be. */
static size_t bytes_at_most(const struct record *record)
{
    return RECORD_HEAD_BYTES + record->id.namespace.size + record->id.caller.size + record->id.key.size +
           record->operation.size + record->fingerprint.size + record->attempt_id.size + record->owner.size +
           record->traceparent.size + record->checkpoint_name.size + 2 * STRINGS + VARINTS * VARINT_BYTES_MAX +
           DIGEST_BYTES;
}

/* Apart from its caller, which seldom comes here: all of a record is written to learn its size. */
__attribute__((noinline)) static size_t bytes_without_values(const struct record *record)
{
    uint8_t rest[RECORD_BYTES_MAX];
    struct record without = *record;

    without.inline_values = (struct bytes){0};
    without.digest_left_out = false; /* as if it were written, to be sure */
    return RECORD_HEAD_BYTES + (size_t)(put_rest(rest, &without) - rest);
}

bool record_has_inline_room(const struct record *record, uint64_t bytes)
{
    return bytes_at_most(record) + bytes <= RECORD_BYTES_MAX ||
           bytes_without_values(record) + bytes <= RECORD_BYTES_MAX;
}

/* ---- Reading --------------------------------------------------------------------------- */

static uint32_t load32(const uint8_t *data)
{
    uint32_t value;

    memcpy(&value, data, sizeof value);
    return le32toh(value);
}

static uint64_t load64(const uint8_t *data)
{
    uint64_t value;

    memcpy(&value, data, sizeof value);
    return le64toh(value);
}

/* A number of so many bytes, of eight that are there. */
static uint64_t load_low(const uint8_t *data, unsigned bytes)
{
    return load64(data) & ((UINT64_C(1) << 8 * bytes) - 1);
}

/* What is left to read. Once something did not fit it is bad and at its end, so that all it then gives is empty. What
 * stands below is inline in each of its two users, so that both pointers stay in registers: of the fifty steps of a
 * record each is a handful of instructions. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};

#define INLINE __attribute__((always_inline)) static inline

INLINE uint64_t fail(struct reader *reader)
{
    reader->bad = true;
    reader->at = reader->end;
    return 0;
}

INLINE uint64_t get_varint(struct reader *reader)
{
    uint64_t value;

    if (reader->at < reader->end && *reader->at < 0x80) /* most of them */
        return *reader->at++;
    const size_t size = frame_get_varint(reader->at, (size_t)(reader->end - reader->at), &value);
    if (size == 0)
        return fail(reader);
    reader->at += size;
    return value;
}

INLINE uint64_t get_varint_below(struct reader *reader, uint64_t most)
{
    const uint64_t value = get_varint(reader);

    return value <= most ? value : fail(reader);
}

INLINE struct bytes get_string(struct reader *reader, uint32_t most)
{
    const uint64_t size = get_varint_below(reader, most);
    const struct bytes string = {reader->at, (uint32_t)size};

    if (size > (uint64_t)(reader->end - reader->at)) {
        fail(reader);
        return (struct bytes){0};
    }
    reader->at += size;
    return string;
}

INLINE uint64_t get_time_near(struct reader *reader, uint64_t base_ms)
{
    const uint64_t value = get_varint(reader);

    return value ? base_ms + (uint64_t)frame_unzigzag(value - 1) : 0;
}

INLINE void get_digest(struct reader *reader, struct record *record)
{
    if (reader->end - reader->at < DIGEST_BYTES) {
        fail(reader);
        return;
    }
    record->digest[0] = load64(reader->at);
    record->digest[1] = load64(reader->at + 8);
    reader->at += DIGEST_BYTES;
}

/* What only a finished one has; expires_ms, of the head, is 0. A record is not cleared before it is filled. */
INLINE void set_no_outcome(struct record *record)
{
    record->outcome_kind = 0;
    record->outcome_code = 0;
    record->body_bytes = record->body_expires_ms = record->body_expiry_key = 0;
    record->attributes_bytes = record->body_field_bytes = 0;
    record->digest[0] = record->digest[1] = 0;
    record->digest_left_out = false;
    record->inline_values = (struct bytes){0};
    record->done_ms = 0;
}

/* What only an unfinished one has. */
INLINE void set_no_grant(struct record *record)
{
    record->attempt_id = record->checkpoint_name = (struct bytes){0};
    record->input_bytes = record->checkpoint_bytes = record->lease_ms = record->lease_left_ms = 0;
    record->keep_ms = 0;
}

INLINE uint64_t get_given(struct reader *reader, unsigned given, unsigned bit, uint64_t most)
{
    return given & bit ? get_varint_below(reader, most) : 0;
}

INLINE struct bytes get_given_string(struct reader *reader, unsigned given, unsigned bit, uint32_t most)
{
    return given & bit ? get_string(reader, most) : (struct bytes){0};
}

INLINE unsigned get_given_bits(struct reader *reader, unsigned end)
{
    const uint8_t given = reader->at < reader->end && !reader->bad ? *reader->at : UINT8_MAX;

    reader->bad |= reader->at == reader->end || given >= end;
    reader->at += !reader->bad;
    return reader->bad ? 0 : given;
}

INLINE void get_grant(struct reader *reader, struct record *record)
{
    const unsigned given = get_given_bits(reader, GIVEN_GRANT_END);

    record->id.namespace = get_string(reader, IDEM_NAMESPACE_BYTES_MAX);
    record->id.caller = get_given_string(reader, given, GIVEN_CALLER, IDEM_CALLER_BYTES_MAX);
    record->id.key = get_string(reader, IDEM_KEY_BYTES_MAX);
    record->operation = get_string(reader, IDEM_OPERATION_BYTES_MAX);
    record->fingerprint = get_string(reader, IDEM_FINGERPRINT_BYTES_MAX);
    record->owner = get_string(reader, IDEM_OWNER_BYTES_MAX);
    record->traceparent = get_given_string(reader, given, GIVEN_TRACEPARENT, IDEM_TRACEPARENT_BYTES_MAX);
    record->fence = record->generation + get_given(reader, given, GIVEN_FENCE, IDEM_FENCE_MAX);
    record->attempt = (uint32_t)get_given(reader, given, GIVEN_ATTEMPT, UINT32_MAX - 1) + 1;
    record->begun_ms = get_varint(reader);
}

INLINE void get_unfinished(struct reader *reader, struct record *record)
{
    const unsigned given = get_given_bits(reader, GIVEN_UNFINISHED_END);

    record->revision = record->fence + get_varint_below(reader, IDEM_FENCE_MAX);
    record->attempt_id = get_given_string(reader, given, GIVEN_ATTEMPT_ID, IDEM_ATTEMPT_ID_BYTES);
    record->checkpoint_name = get_given_string(reader, given, GIVEN_CHECKPOINT_NAME, IDEM_CHECKPOINT_NAME_BYTES_MAX);
    record->flags = (uint8_t)get_given(reader, given, GIVEN_FLAGS, UINT8_MAX);
    record->interrupted_ms = given & GIVEN_INTERRUPTED ? get_time_near(reader, record->begun_ms) : 0;
    record->input_bytes = (uint32_t)get_given(reader, given, GIVEN_INPUT, IDEM_INPUT_BYTES_MAX);
    record->checkpoint_bytes = (uint32_t)get_given(reader, given, GIVEN_CHECKPOINT, IDEM_CHECKPOINT_BYTES_MAX);
    record->keep_ms = get_given(reader, given, GIVEN_KEEP, UINT64_MAX);
    record->lease_ms = (uint32_t)get_varint_below(reader, UINT32_MAX);
    record->lease_left_ms = 0;
    set_no_outcome(record);
}

/* The inline values are what is left. */
INLINE void get_inline_values(struct reader *reader, struct record *record, unsigned given)
{
    const uint64_t size = (uint64_t)(reader->end - reader->at);

    reader->bad |= size > 0 && (size < record->attributes_bytes || given & GIVEN_BODY_FIELD);
    if (reader->bad)
        return;
    record->inline_values = bytes_of(reader->at, (uint32_t)size);
    reader->at = reader->end;
    if (size > 0)
        record->body_field_bytes = (uint32_t)size - record->attributes_bytes;
    if (!(given & GIVEN_BODY))
        record->body_bytes = inline_body_bytes(record);
}

INLINE void get_done(struct reader *reader, struct record *record)
{
    const unsigned given = get_given_bits(reader, UINT8_MAX + 1);

    set_no_grant(record);
    record->digest[0] = record->digest[1] = 0;
    record->inline_values = (struct bytes){0};
    record->revision = record->fence + get_varint_below(reader, IDEM_FENCE_MAX);
    record->flags = (uint8_t)get_given(reader, given, GIVEN_DONE_FLAGS, UINT8_MAX);
    record->interrupted_ms = given & GIVEN_DONE_INTERRUPTED ? get_time_near(reader, record->begun_ms) : 0;
    record->outcome_code = (int32_t)frame_unzigzag(get_given(reader, given, GIVEN_CODE, UINT32_MAX));
    record->body_bytes = get_given(reader, given, GIVEN_BODY, UINT64_MAX);
    record->body_expires_ms = record->expires_ms - get_given(reader, given, GIVEN_BODY_EXPIRES, record->expires_ms);
    record->attributes_bytes = (uint32_t)get_given(reader, given, GIVEN_ATTRIBUTES, UINT32_MAX);
    record->body_field_bytes = (uint32_t)get_given(reader, given, GIVEN_BODY_FIELD, UINT32_MAX);
    record->body_expiry_key = get_given(reader, given, GIVEN_BODY_EXPIRY_KEY, UINT64_MAX);
    record->done_ms = get_time_near(reader, record->begun_ms);
    const uint64_t kind = get_varint_below(reader, UINT8_MAX << 1 | 1);
    record->outcome_kind = (uint8_t)(kind >> 1);
    record->digest_left_out = !(kind & 1);
    if (!record->digest_left_out)
        get_digest(reader, record);
    get_inline_values(reader, record, given);
}

INLINE void get_rest(struct reader *reader, struct record *record)
{
    get_grant(reader, record);
    if (record->state == RECORD_DONE)
        get_done(reader, record);
    else
        get_unfinished(reader, record);
}

static void get_head(const uint8_t *data, struct record *record)
{
    record->state = (enum record_state)(data[STATE_AT] & 15);
    record->hash = load64(data + HASH_AT);
    record->expires_ms = load_low(data + EXPIRES_AT, EXPIRES_BYTES);
    record->generation = load_low(data + GENERATION_AT, GENERATION_BYTES);
    record->values_bytes = load32(data + VALUES_BYTES_AT);
}

static bool is_good_head(struct bytes data)
{
    if (data.size < RECORD_HEAD_BYTES ||
        load32(data.data) != checksum(data.data + CHECKSUM_AT, RECORD_HEAD_BYTES - CHECKSUM_AT))
        return false;
    const unsigned state = data.data[STATE_AT] & 15;
    return data.data[STATE_AT] >> 4 == VERSION && state >= RECORD_RUNNING && state <= RECORD_DONE;
}

enum record_check record_decode_head(struct bytes data, struct record *record)
{
    if (!is_good_head(data))
        return RECORD_BAD_HEAD;
    *record = (struct record){0};
    get_head(data.data, record);
    return RECORD_GOOD;
}

struct bytes record_namespace(struct bytes data)
{
    struct reader reader = {data.data + RECORD_HEAD_BYTES + 1, data.data + data.size, false};

    if (data.size <= RECORD_HEAD_BYTES)
        return (struct bytes){0};
    return get_string(&reader, IDEM_NAMESPACE_BYTES_MAX);
}

/* Fills all of the record where it is good. */
INLINE bool get_all(struct bytes data, struct record *record)
{
    struct reader reader = {data.data + RECORD_HEAD_BYTES, data.data + data.size, false};

    get_head(data.data, record);
    get_rest(&reader, record);
    return !reader.bad && reader.at == reader.end;
}

void record_read(struct bytes data, struct record *record)
{
    const bool good = get_all(data, record);

    assert(good);
}

enum record_check record_decode(struct bytes data, struct record *record)
{
    if (!is_good_head(data))
        return RECORD_BAD_HEAD;
    if (load32(data.data + CHECKSUM_AT) == checksum(data.data + RECORD_HEAD_BYTES, data.size - RECORD_HEAD_BYTES) &&
        get_all(data, record))
        return RECORD_GOOD;
    record_decode_head(data, record);
    return RECORD_BAD_REST;
}

uint32_t record_values_bytes(struct bytes data)
{
    return data.size < RECORD_HEAD_BYTES ? 0 : load32(data.data + VALUES_BYTES_AT);
}

/* ---- Without its base -------------------------------------------------------------------- */

struct bytes record_rest(struct bytes data)
{
    return data.size < RECORD_HEAD_BYTES ? (struct bytes){0}
                                         : bytes_of(data.data + RECORD_HEAD_BYTES, data.size - RECORD_HEAD_BYTES);
}

/* How many bytes two begin with alike: eight at a time, since the loop does it with each change. */
static uint32_t same_bytes(struct bytes a, struct bytes b)
{
    const uint32_t most = a.size < b.size ? a.size : b.size;
    uint32_t at = 0;

    for (; at + 8 <= most; at += 8) {
        uint64_t x, y;
        memcpy(&x, a.data + at, sizeof x);
        memcpy(&y, b.data + at, sizeof y);
        if (x != y)
            break;
    }
    while (at < most && a.data[at] == b.data[at])
        at++;
    return at;
}

void record_delta_make(struct bytes record, struct bytes base, struct record_delta *part)
{
    const struct bytes rest = record_rest(record);
    struct record head;

    assert(record.size >= RECORD_HEAD_BYTES && record.size <= RECORD_BYTES_MAX);
    get_head(record.data, &head);
    *part = (struct record_delta){
        .state = head.state,
        .values_bytes = head.values_bytes,
        .hash = head.hash,
        .expires_ms = head.expires_ms,
        .shared = base.data ? same_bytes(rest, record_rest(base)) : 0,
        .checksum = load32(record.data + CHECKSUM_AT),
    };
    part->own = bytes_of(rest.data + part->shared, rest.size - part->shared);
}

uint32_t record_delta_apply(const struct record_delta *part, uint64_t generation, const uint8_t *base,
                            uint8_t out[RECORD_BYTES_MAX], bool *good)
{
    const uint32_t rest_bytes = part->shared + part->own.size;
    uint8_t *const rest = out + RECORD_HEAD_BYTES;
    struct record_delta whole = *part;

    assert(rest_bytes <= RECORD_BYTES_MAX - RECORD_HEAD_BYTES);
    if (part->shared)
        memcpy(rest, base, part->shared);
    if (part->own.size)
        memcpy(rest + part->shared, part->own.data, part->own.size);
    whole.checksum = checksum(rest, rest_bytes);
    *good = !part->shared || whole.checksum == part->checksum;
    if (!*good)
        whole.checksum = ~whole.checksum;
    put_head(out, &whole, generation);
    return RECORD_HEAD_BYTES + rest_bytes;
}
