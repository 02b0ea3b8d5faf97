/* A record's bytes. The rest, after the head, is in this order; v is a varint, s a varint length and as many bytes:
 *
 *     s namespace, s caller, s key, s operation, s fingerprint, s attempt_id, s owner, s traceparent, s checkpoint
 * name, v flags, v fence - life, v revision - fence, v attempt, v lease_ms, v keep_ms, v begun_ms, v interrupted_ms (0,
 * or 1 + what it is after begun_ms, zigzag), v done_ms (likewise), v input bytes, v checkpoint bytes, and where it is
 * done: v kind, v code (zigzag), v body bytes, v expires_ms - body_expires_ms, v attributes bytes, v body field bytes,
 * 16 digest bytes, s inline values
 *
 * Zigzag and varint are protobuf's. The checksums find what a disk broke; every read is bounded all the same. */
#include "daemon/record.h"

#include <assert.h>
#include <xxhash.h>

#include "proto/frame.h"
#include "proto/limits.h"

enum { VERSION = 1, VARINT_BYTES_MAX = 10, STRINGS = 9, VARINTS = 20, DIGEST_BYTES = 16 };

/* What a record takes at most without inline values: the head, its strings with lengths of two bytes, twenty varints,
 * the digest. */
_Static_assert(RECORD_HEAD_BYTES + IDEM_NAMESPACE_BYTES_MAX + IDEM_CALLER_BYTES_MAX + IDEM_KEY_BYTES_MAX +
                       IDEM_OPERATION_BYTES_MAX + IDEM_FINGERPRINT_BYTES_MAX + IDEM_ATTEMPT_ID_BYTES +
                       IDEM_OWNER_BYTES_MAX + IDEM_TRACEPARENT_BYTES_MAX + IDEM_CHECKPOINT_NAME_BYTES_MAX +
                       2 * (STRINGS + 1) + VARINTS * VARINT_BYTES_MAX + DIGEST_BYTES <=
                   RECORD_BYTES_MAX,
               "a record fits its page");

/* ---- Hash -------------------------------------------------------------------------- */

static uint8_t *put_part(uint8_t *out, struct bytes part)
{
    out[0] = (uint8_t)part.size;
    out[1] = (uint8_t)(part.size >> 8);
    if (part.size)
        memcpy(out + 2, part.data, part.size);
    return out + 2 + part.size;
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

/* ---- Writing ------------------------------------------------------------------------- */

static void store16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
}

static void store32(uint8_t *out, uint32_t value)
{
    store16(out, (uint16_t)value);
    store16(out + 2, (uint16_t)(value >> 16));
}

static void store64(uint8_t *out, uint64_t value)
{
    store32(out, (uint32_t)value);
    store32(out + 4, (uint32_t)(value >> 32));
}

static uint64_t zigzag(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

static int64_t unzigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* A time that may be missing, near another. */
static uint64_t time_near(uint64_t time_ms, uint64_t base_ms)
{
    return time_ms ? 1 + zigzag((int64_t)(time_ms - base_ms)) : 0;
}

static inline uint8_t *put_varint(uint8_t *out, uint64_t value)
{
    if (value < 0x80) { /* most of them */
        *out = (uint8_t)value;
        return out + 1;
    }
    return out + frame_put_varint(out, value);
}

static uint8_t *put_string(uint8_t *out, struct bytes string)
{
    out = put_varint(out, string.size);
    if (string.size)
        memcpy(out, string.data, string.size);
    return out + string.size;
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

static uint8_t *put_outcome(uint8_t *out, const struct record *record)
{
    out = put_varint(out, record->outcome_kind);
    out = put_varint(out, zigzag(record->outcome_code));
    out = put_varint(out, record->body_bytes);
    out = put_varint(out, record->expires_ms - record->body_expires_ms);
    out = put_varint(out, record->attributes_bytes);
    out = put_varint(out, record->body_field_bytes);
    store64(out, record->digest[0]);
    store64(out + 8, record->digest[1]);
    return put_string(out + 16, record->inline_values);
}

static uint8_t *put_rest(uint8_t *out, const struct record *record)
{
    const struct bytes strings[STRINGS] = {record->id.namespace, record->id.caller,   record->id.key,
                                           record->operation,    record->fingerprint, record->attempt_id,
                                           record->owner,        record->traceparent, record->checkpoint_name};

    for (int i = 0; i < STRINGS; i++)
        out = put_string(out, strings[i]);
    out = put_varint(out, record->flags);
    out = put_varint(out, record->fence - record->life);
    out = put_varint(out, record->revision - record->fence);
    out = put_varint(out, record->attempt);
    out = put_varint(out, record->lease_ms);
    out = put_varint(out, record->keep_ms);
    out = put_varint(out, record->begun_ms);
    out = put_varint(out, time_near(record->interrupted_ms, record->begun_ms));
    out = put_varint(out, time_near(record->done_ms, record->begun_ms));
    out = put_varint(out, record->input_bytes);
    out = put_varint(out, record->checkpoint_bytes);
    return record->state == RECORD_DONE ? put_outcome(out, record) : out;
}

static uint32_t checksum(const uint8_t *data, size_t size)
{
    return (uint32_t)XXH3_64bits(data, size);
}

static void put_head(uint8_t *out, const struct record *record, uint16_t rest_bytes)
{
    const bool done = record->state == RECORD_DONE;

    out[4] = VERSION;
    out[5] = (uint8_t)record->state;
    store16(out + 6, rest_bytes);
    store64(out + 8, record->hash);
    store64(out + 16, done ? record->expires_ms : 0);
    store64(out + 24, record->life);
    store64(out + 32, done ? record->body_place : 0);
    store32(out + 40,
            record->input_bytes + record->checkpoint_bytes + record->attributes_bytes + record->body_field_bytes);
    store32(out + 44, checksum(out + RECORD_HEAD_BYTES, rest_bytes));
    store32(out, checksum(out + 4, RECORD_HEAD_BYTES - 4));
}

uint32_t record_encode(const struct record *record, uint8_t out[RECORD_BYTES_MAX])
{
    uint8_t *end;

    check_strings(record);
    assert(record->state != RECORD_ABSENT && record->fence >= record->life && record->revision >= record->fence);
    assert(record->state == RECORD_DONE || record->inline_values.size == 0);
    assert(record->state != RECORD_DONE || record->body_expires_ms <= record->expires_ms);
    end = put_rest(out + RECORD_HEAD_BYTES, record);
    assert(end - out <= RECORD_BYTES_MAX);
    put_head(out, record, (uint16_t)(end - out - RECORD_HEAD_BYTES));
    return (uint32_t)(end - out);
}

/* What a record takes at most, were each number as long as it can be. */
static size_t bytes_at_most(const struct record *record)
{
    return RECORD_HEAD_BYTES + record->id.namespace.size + record->id.caller.size + record->id.key.size +
           record->operation.size + record->fingerprint.size + record->attempt_id.size + record->owner.size +
           record->traceparent.size + record->checkpoint_name.size + 2 * (STRINGS + 1) + VARINTS * VARINT_BYTES_MAX +
           DIGEST_BYTES;
}

bool record_has_inline_room(const struct record *record, uint64_t bytes)
{
    uint8_t rest[RECORD_BYTES_MAX];
    struct record without = *record;
    size_t size;

    if (bytes_at_most(record) + bytes <= RECORD_BYTES_MAX)
        return true;
    without.inline_values = (struct bytes){0};
    size = RECORD_HEAD_BYTES + (size_t)(put_rest(rest, &without) - rest);
    /* The length of the values takes two bytes where it took one. */
    return size + 1 + bytes <= RECORD_BYTES_MAX;
}

/* ---- Reading --------------------------------------------------------------------------- */

static uint16_t load16(const uint8_t *data)
{
    return (uint16_t)(data[0] | data[1] << 8);
}

static uint32_t load32(const uint8_t *data)
{
    return load16(data) | (uint32_t)load16(data + 2) << 16;
}

static uint64_t load64(const uint8_t *data)
{
    return load32(data) | (uint64_t)load32(data + 4) << 32;
}

/* What is left to read; bad once something did not fit, and then all it gives is empty. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};

static inline uint64_t get_varint(struct reader *reader)
{
    uint64_t value = 0;

    if (reader->at < reader->end && *reader->at < 0x80 && !reader->bad) /* most of them */
        return *reader->at++;
    const size_t size = reader->bad ? 0 : frame_get_varint(reader->at, (size_t)(reader->end - reader->at), &value);

    if (size == 0) {
        reader->bad = true;
        return 0;
    }
    reader->at += size;
    return value;
}

static uint64_t get_varint_below(struct reader *reader, uint64_t most)
{
    const uint64_t value = get_varint(reader);

    reader->bad |= value > most;
    return reader->bad ? 0 : value;
}

static struct bytes get_string(struct reader *reader, uint32_t most)
{
    const uint64_t size = get_varint_below(reader, most);
    const struct bytes string = {reader->at, (uint32_t)size};

    if (reader->bad || size > (uint64_t)(reader->end - reader->at)) {
        reader->bad = true;
        return (struct bytes){0};
    }
    reader->at += size;
    return string;
}

static uint64_t get_time_near(struct reader *reader, uint64_t base_ms)
{
    const uint64_t value = get_varint(reader);

    return value ? base_ms + (uint64_t)unzigzag(value - 1) : 0;
}

static void get_outcome(struct reader *reader, struct record *record)
{
    record->outcome_kind = (uint8_t)get_varint_below(reader, UINT8_MAX);
    record->outcome_code = (int32_t)unzigzag(get_varint_below(reader, UINT32_MAX));
    record->body_bytes = get_varint(reader);
    record->body_expires_ms = record->expires_ms - get_varint_below(reader, record->expires_ms);
    record->attributes_bytes = (uint32_t)get_varint_below(reader, UINT32_MAX);
    record->body_field_bytes = (uint32_t)get_varint_below(reader, UINT32_MAX);
    if (reader->bad || reader->end - reader->at < 16) {
        reader->bad = true;
        return;
    }
    record->digest[0] = load64(reader->at);
    record->digest[1] = load64(reader->at + 8);
    reader->at += 16;
    record->inline_values = get_string(reader, RECORD_BYTES_MAX);
    reader->bad |= record->inline_values.size &&
                   record->inline_values.size != (uint64_t)record->attributes_bytes + record->body_field_bytes;
}

static void get_rest(struct reader *reader, struct record *record)
{
    record->id.namespace = get_string(reader, IDEM_NAMESPACE_BYTES_MAX);
    record->id.caller = get_string(reader, IDEM_CALLER_BYTES_MAX);
    record->id.key = get_string(reader, IDEM_KEY_BYTES_MAX);
    record->operation = get_string(reader, IDEM_OPERATION_BYTES_MAX);
    record->fingerprint = get_string(reader, IDEM_FINGERPRINT_BYTES_MAX);
    record->attempt_id = get_string(reader, IDEM_ATTEMPT_ID_BYTES);
    record->owner = get_string(reader, IDEM_OWNER_BYTES_MAX);
    record->traceparent = get_string(reader, IDEM_TRACEPARENT_BYTES_MAX);
    record->checkpoint_name = get_string(reader, IDEM_CHECKPOINT_NAME_BYTES_MAX);
    record->flags = (uint8_t)get_varint_below(reader, UINT8_MAX);
    record->fence = record->life + get_varint_below(reader, IDEM_FENCE_MAX);
    record->revision = record->fence + get_varint_below(reader, IDEM_FENCE_MAX);
    record->attempt = (uint32_t)get_varint_below(reader, UINT32_MAX);
    record->lease_ms = (uint32_t)get_varint_below(reader, UINT32_MAX);
    record->keep_ms = get_varint(reader);
    record->begun_ms = get_varint(reader);
    record->interrupted_ms = get_time_near(reader, record->begun_ms);
    record->done_ms = get_time_near(reader, record->begun_ms);
    record->input_bytes = (uint32_t)get_varint_below(reader, IDEM_INPUT_BYTES_MAX);
    record->checkpoint_bytes = (uint32_t)get_varint_below(reader, IDEM_CHECKPOINT_BYTES_MAX);
    if (record->state == RECORD_DONE)
        get_outcome(reader, record);
}

static void get_head(const uint8_t *data, struct record *record)
{
    *record = (struct record){
        .state = (enum record_state)data[5],
        .hash = load64(data + 8),
        .expires_ms = load64(data + 16),
        .life = load64(data + 24),
        .body_place = load64(data + 32),
        .values_bytes = load32(data + 40),
    };
}

enum record_check record_decode_head(struct bytes data, struct record *record)
{
    if (data.size < RECORD_HEAD_BYTES || load32(data.data) != checksum(data.data + 4, RECORD_HEAD_BYTES - 4))
        return RECORD_BAD_HEAD;
    if (data.data[4] != VERSION || data.data[5] < RECORD_RUNNING || data.data[5] > RECORD_DONE)
        return RECORD_BAD_HEAD;
    get_head(data.data, record);
    return RECORD_GOOD;
}

void record_read(struct bytes data, struct record *record)
{
    struct reader reader = {data.data + RECORD_HEAD_BYTES, data.data + data.size, false};

    get_head(data.data, record);
    get_rest(&reader, record);
    assert(!reader.bad && reader.at == reader.end);
}

enum record_check record_decode(struct bytes data, struct record *record)
{
    struct reader reader;

    if (record_decode_head(data, record) != RECORD_GOOD)
        return RECORD_BAD_HEAD;
    const uint32_t rest_bytes = load16(data.data + 6);
    const struct record head = *record;
    if (rest_bytes != data.size - RECORD_HEAD_BYTES ||
        load32(data.data + 44) != checksum(data.data + RECORD_HEAD_BYTES, rest_bytes))
        return RECORD_BAD_REST;
    reader = (struct reader){data.data + RECORD_HEAD_BYTES, data.data + data.size, false};
    get_rest(&reader, record);
    if (!reader.bad && reader.at == reader.end)
        return RECORD_GOOD;
    *record = head;
    return RECORD_BAD_REST;
}

uint32_t record_values_bytes(struct bytes data)
{
    return data.size < RECORD_HEAD_BYTES ? 0 : load32(data.data + 40);
}
