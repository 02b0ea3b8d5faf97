/* Writing and reading the bytes of a batch. */
#include "daemon/batch.h"

#include <assert.h>
#include <xxhash.h>

#include "proto/frame.h"

enum { VARINT_BYTES_MAX = 10, CHANGE_HEADER_BYTES_MAX = 1 + VARINT_BYTES_MAX * 8, NO_LIFE = 0x80, KIND_BITS = 3 };
#define MAGIC 0x31626469u /* "idb1" */

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
_Static_assert(sizeof(((struct clock_mark *)0)->boot_id) == 16, "a boot id is 16 bytes");

/* ---- Writing -------------------------------------------------------------------- */

void batch_start(struct batch *batch, uint64_t next, struct blob *bytes)
{
    assert(!bytes || bytes->references == 1);
    *batch = (struct batch){.bytes = bytes ? bytes : blob_new(BATCH_ALIGN_BYTES), .first = next, .next = next};
    batch->bytes->size = 0;
    blob_extend(batch->bytes, BATCH_HEADER_BYTES);
}

static bool has_place(enum store_change_kind kind)
{
    return kind == STORE_FINISH || kind == STORE_REMOVE_FINISHED;
}

static bool has_record(enum store_change_kind kind)
{
    return kind == STORE_FINISH || kind == STORE_PUT_UNFINISHED;
}

static uint32_t put_change_header(uint8_t *out, const struct store_change *change)
{
    uint8_t *at = out + 1;

    assert(change->life <= change->number);
    out[0] = (uint8_t)(change->kind | (change->life ? 0 : NO_LIFE));
    if (change->life)
        at += frame_put_varint(at, change->number - change->life);
    if (has_place(change->kind)) {
        at += frame_put_varint(at, change->place);
        at += frame_put_varint(at, change->body_place);
    }
    if (has_record(change->kind))
        at += frame_put_varint(at, change->record.size);
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

    assert(change->number == batch->next);
    append_bytes(batch, bytes_of(header, put_change_header(header, change)));
    append_bytes(batch, change->record);
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

bool batch_good(const uint8_t *data, uint64_t size, const uint8_t secret[RECORD_SECRET_BYTES])
{
    struct header header;

    if (size < sizeof header)
        return false;
    memcpy(&header, data, sizeof header);
    return header.magic == MAGIC && header.checksum == header_checksum(&header, secret) &&
           header.bytes > BATCH_HEADER_BYTES && header.bytes <= size && header.changes > 0 &&
           header.body_checksum == body_checksum(data, header.bytes, secret);
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
    *reader = (struct batch_reader){data + BATCH_HEADER_BYTES, data + header.bytes, header.first, header.last, false};
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

bool batch_next(struct batch_reader *reader, struct store_change *change)
{
    uint64_t record_bytes = 0, value_bytes[BLOB_KINDS] = {0};

    /* Fewer changes than the header says would be a gap that nobody sees. */
    reader->bad |= (reader->at == reader->end) != (reader->number == reader->last + 1);
    if (reader->bad || reader->at == reader->end)
        return false;
    const uint8_t first = *reader->at++;
    *change = (struct store_change){.kind = (enum store_change_kind)(first & ((1u << KIND_BITS) - 1)),
                                    .number = reader->number++};
    if (!(first & NO_LIFE))
        change->life = change->number - get_varint(reader);
    if (has_place(change->kind)) {
        change->place = get_varint(reader);
        change->body_place = get_varint(reader);
    }
    if (has_record(change->kind))
        record_bytes = get_varint(reader);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (first & 1u << (KIND_BITS + kind - 1))
            value_bytes[kind] = get_varint(reader);
    get_bytes(reader, record_bytes, &change->record);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (first & 1u << (KIND_BITS + kind - 1))
            get_bytes(reader, value_bytes[kind], &change->values[kind]);
    reader->bad |= change->kind < STORE_PUT_UNFINISHED || change->kind > STORE_TOUCH;
    return !reader->bad;
}
