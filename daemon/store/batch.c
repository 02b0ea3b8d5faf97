/* Writing and reading the bytes of a batch. */
#include "daemon/store/batch.h"

#include <assert.h>
#include <xxhash.h>

#include "proto/frame.h"

enum {
    VARINT_BYTES_MAX = 10,
    CHANGE_HEADER_BYTES_MAX = 1 + VARINT_BYTES_MAX * 11 + 12,
    NO_GENERATION = 0x80,
    KIND_BITS = 3
};
#define MAGIC 0x32626469u /* "idb2" */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie");

/* As it lies in a file. */
struct header {
    uint64_t checksum, body_checksum;
    uint32_t magic, bytes, changes, zero;
    uint64_t segment, offset, first;
    uint64_t retention_ms, wall_ms, boot_ms;
    uint8_t boot_id[16];
};
_Static_assert(sizeof(struct header) == BATCH_HEADER_BYTES, "no holes");
_Static_assert(CHANGE_HEADER_BYTES_MAX + RECORD_BYTES_MAX <= BATCH_CHANGE_BYTES_MAX, "what is said of a change holds");
_Static_assert(sizeof(((struct clock_mark *)0)->boot_id) == 16, "a boot id is 16 bytes");

/* ---- Writing -------------------------------------------------------------------- */

void batch_start(struct batch *batch, uint64_t next, struct blob *bytes)
{
    assert(!bytes || bytes->references == 1);
    *batch = (struct batch){.bytes = bytes ? bytes : blob_new(BATCH_ALIGN_BYTES), .first = next, .next = next};
    batch->bytes->size = 0;
    blob_extend(batch->bytes, BATCH_HEADER_BYTES);
}

static bool has_expiry_key(enum store_change_kind kind)
{
    return kind == STORE_FINISH || kind == STORE_REMOVE_FINISHED;
}

static bool has_record(enum store_change_kind kind)
{
    return kind == STORE_FINISH || kind == STORE_PUT_UNFINISHED;
}

/* A number by how it differs from the one before. */
static size_t put_difference(uint8_t *out, uint64_t value, uint64_t *last)
{
    const int64_t difference = (int64_t)(value - *last);

    *last = value;
    return frame_put_varint(out, frame_zigzag(difference));
}

static uint8_t *put_record(struct batch *batch, uint8_t *at, const struct store_change *change,
                           const struct record_delta *part)
{
    const bool first = change->number == change->generation;

    assert(change->generation && (!first || !part->shared));
    at += frame_put_varint(at, (uint64_t)part->values_bytes << 2 | part->state);
    if (change->kind == STORE_FINISH)
        at += put_difference(at, part->expires_ms, &batch->expires_ms);
    memcpy(at, &part->hash, sizeof part->hash);
    at += sizeof part->hash;
    if (!first)
        at += frame_put_varint(at, part->shared);
    if (part->shared) {
        memcpy(at, &part->checksum, sizeof part->checksum);
        at += sizeof part->checksum;
    }
    return at + frame_put_varint(at, part->own.size);
}

static uint32_t put_change_header(struct batch *batch, uint8_t *out, const struct store_change *change,
                                  const struct record_delta *part)
{
    uint8_t *at = out + 1;

    assert(change->generation <= change->number);
    out[0] = (uint8_t)(change->kind | (change->generation ? 0 : NO_GENERATION));
    if (change->generation)
        at += frame_put_varint(at, change->number - change->generation);
    if (has_expiry_key(change->kind)) {
        at += put_difference(at, change->expiry_key, &batch->expiry_key);
        at += frame_put_varint(at, change->body_expiry_key);
    }
    if (has_record(change->kind))
        at = put_record(batch, at, change, part);
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        if (!change->values[kind].data)
            continue;
        out[0] = (uint8_t)(out[0] | 1u << (KIND_BITS + kind - 1));
        at += frame_put_varint(at, change->values[kind].size);
    }
    return (uint32_t)(at - out);
}

static void append_bytes(struct batch *batch, struct bytes bytes)
{
    const uint32_t offset = blob_extend(batch->bytes, bytes.size);

    if (bytes.size)
        memcpy(batch->bytes->data + offset, bytes.data, bytes.size);
}

void batch_append(struct batch *batch, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    uint8_t header[CHANGE_HEADER_BYTES_MAX];
    struct record_delta part = {0};

    assert(change->number == batch->next);
    if (has_record(change->kind))
        record_delta_make(change->record, change->base, &part);
    append_bytes(batch, bytes_of(header, put_change_header(batch, header, change, &part)));
    append_bytes(batch, part.own);
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        if (!change->values[kind].data)
            continue;
        if (values)
            values[kind] = (struct slice){batch->bytes, batch->bytes->size, change->values[kind].size};
        append_bytes(batch, change->values[kind]);
    }
    batch->next++;
}

void batch_seal(struct batch *batch, const struct clock_mark *mark)
{
    const uint32_t bytes = batch->bytes->size, padding = (uint32_t)(batch_padded_bytes(bytes) - bytes);
    struct header header = {
        .magic = MAGIC,
        .bytes = bytes,
        .changes = (uint32_t)(batch->next - batch->first),
        .first = batch->first,
        .retention_ms = mark->retention_ms,
        .wall_ms = mark->wall_ms,
        .boot_ms = mark->boot_ms,
    };

    assert(batch->next > batch->first);
    memcpy(header.boot_id, mark->boot_id, sizeof header.boot_id);
    blob_extend(batch->bytes, padding);
    memcpy(batch->bytes->data, &header, sizeof header);
    memset(batch->bytes->data + bytes, 0, padding);
}

static uint64_t header_checksum(const struct header *header, const uint8_t *secret)
{
    return XXH3_64bits_withSecret((const uint8_t *)header + sizeof header->checksum,
                                  sizeof *header - sizeof header->checksum, secret, RECORD_SECRET_BYTES);
}

static uint64_t body_checksum(const uint8_t *data, uint32_t bytes, const uint8_t *secret)
{
    return XXH3_64bits_withSecret(data + BATCH_HEADER_BYTES, bytes - BATCH_HEADER_BYTES, secret, RECORD_SECRET_BYTES);
}

void batch_sign(uint8_t *data, uint64_t segment, uint64_t offset, const uint8_t secret[RECORD_SECRET_BYTES])
{
    struct header header;

    memcpy(&header, data, sizeof header);
    header.segment = segment;
    header.offset = offset;
    header.body_checksum = body_checksum(data, header.bytes, secret);
    header.checksum = header_checksum(&header, secret);
    memcpy(data, &header, sizeof header);
}

/* ---- Reading -------------------------------------------------------------------- */

static bool good_header(const uint8_t *data, uint64_t size, const uint8_t *secret, struct header *header)
{
    if (size < sizeof *header)
        return false;
    memcpy(header, data, sizeof *header);
    return header->checksum == header_checksum(header, secret);
}

bool batch_good(const uint8_t *data, uint64_t size, const uint8_t secret[RECORD_SECRET_BYTES])
{
    struct header header;

    return good_header(data, size, secret, &header) && header.magic == MAGIC && header.bytes > BATCH_HEADER_BYTES &&
           header.bytes <= size && header.changes > 0 &&
           header.body_checksum == body_checksum(data, header.bytes, secret);
}

bool batch_of_other_version(const uint8_t *data, uint64_t size, const uint8_t secret[RECORD_SECRET_BYTES],
                            char *version)
{
    const uint32_t name_mask = 0x00ffffff;
    struct header header;

    if (!good_header(data, size, secret, &header) || header.magic == MAGIC ||
        (header.magic & name_mask) != (MAGIC & name_mask))
        return false;
    *version = (char)(header.magic >> 24);
    return true;
}

void batch_read_header(const uint8_t *data, struct batch_header *out)
{
    struct header header;

    memcpy(&header, data, sizeof header);
    *out = (struct batch_header){
        .first = header.first,
        .last = header.first + header.changes - 1,
        .segment = header.segment,
        .offset = header.offset,
        .mark = {.retention_ms = header.retention_ms, .wall_ms = header.wall_ms, .boot_ms = header.boot_ms},
        .bytes = header.bytes,
    };
    memcpy(out->mark.boot_id, header.boot_id, sizeof header.boot_id);
}

void batch_read(const uint8_t *data, struct batch_reader *reader)
{
    struct batch_header header;

    batch_read_header(data, &header);
    *reader = (struct batch_reader){
        .at = data + BATCH_HEADER_BYTES, .end = data + header.bytes, .number = header.first, .last = header.last};
}

static uint64_t get_varint(struct batch_reader *reader)
{
    uint64_t value = 0;
    const size_t size = reader->bad ? 0 : frame_get_varint(reader->at, (size_t)(reader->end - reader->at), &value);

    if (size == 0)
        reader->bad = true;
    reader->at += size;
    return size ? value : 0;
}

static void get_bytes(struct batch_reader *reader, uint64_t size, struct bytes *bytes)
{
    if (reader->bad || size > (uint64_t)(reader->end - reader->at)) {
        reader->bad = true;
        return;
    }
    *bytes = bytes_of(reader->at, (uint32_t)size);
    reader->at += size;
}

static uint64_t get_difference(struct batch_reader *reader, uint64_t *last)
{
    return *last += (uint64_t)frame_unzigzag(get_varint(reader));
}

static void get_number(struct batch_reader *reader, void *number, uint32_t size)
{
    struct bytes bytes = {0};

    get_bytes(reader, size, &bytes);
    if (!reader->bad)
        memcpy(number, bytes.data, size);
}

/* Returns how many bytes of its own the record has. */
static uint64_t get_record(struct batch_reader *reader, const struct store_change *change, struct record_delta *part)
{
    const uint64_t first = get_varint(reader);
    uint64_t shared = 0;

    part->state = (enum record_state)(first & 3);
    part->values_bytes = (uint32_t)(first >> 2);
    if (change->kind == STORE_FINISH)
        part->expires_ms = get_difference(reader, &reader->expires_ms);
    get_number(reader, &part->hash, sizeof part->hash);
    if (change->number != change->generation)
        shared = get_varint(reader);
    if (shared)
        get_number(reader, &part->checksum, sizeof part->checksum);
    const uint64_t own = get_varint(reader), most = RECORD_BYTES_MAX - RECORD_HEAD_BYTES;
    reader->bad |= !change->generation || first >> 2 > UINT32_MAX || part->expires_ms >> 48 || shared > most ||
                   own > most - shared || (part->state == RECORD_DONE) != (change->kind == STORE_FINISH) ||
                   part->state == RECORD_ABSENT;
    part->shared = (uint32_t)shared;
    return own;
}

bool batch_next(struct batch_reader *reader, struct batch_change *out)
{
    struct store_change *change = &out->is;
    uint64_t own_bytes = 0, value_bytes[BLOB_KINDS] = {0};

    /* Fewer changes than the header says would be a gap that nobody sees. */
    reader->bad |= (reader->at == reader->end) != (reader->number == reader->last + 1);
    if (reader->bad || reader->at == reader->end)
        return false;
    const uint8_t first = *reader->at++;
    *out = (struct batch_change){
        .is = {.kind = (enum store_change_kind)(first & ((1u << KIND_BITS) - 1)), .number = reader->number++}};
    if (!(first & NO_GENERATION))
        change->generation = change->number - get_varint(reader);
    if (has_expiry_key(change->kind)) {
        change->expiry_key = get_difference(reader, &reader->expiry_key);
        change->body_expiry_key = get_varint(reader);
    }
    if (has_record(change->kind))
        own_bytes = get_record(reader, change, &out->record);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (first & 1u << (KIND_BITS + kind - 1))
            value_bytes[kind] = get_varint(reader);
    get_bytes(reader, own_bytes, &out->record.own);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (first & 1u << (KIND_BITS + kind - 1))
            get_bytes(reader, value_bytes[kind], &change->values[kind]);
    reader->bad |= change->kind < STORE_PUT_UNFINISHED || change->kind > STORE_TOUCH;
    return !reader->bad;
}
