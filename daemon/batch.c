/* Writing and reading the bytes of a batch. What is read was written by this process: sizes are asserted, not doubted.
 */
#include "daemon/batch.h"

#include <assert.h>

enum { NO_VALUE = -1, CHANGE_HEADER_BYTES = 8 + 4 * 8 + 4 + 4 * (BLOB_KINDS - 1) };

static void put32(uint8_t **out, uint32_t value)
{
    memcpy(*out, &value, sizeof value);
    *out += sizeof value;
}

static void put64(uint8_t **out, uint64_t value)
{
    memcpy(*out, &value, sizeof value);
    *out += sizeof value;
}

static uint32_t get32(const uint8_t **data)
{
    uint32_t value;

    memcpy(&value, *data, sizeof value);
    *data += sizeof value;
    return value;
}

static uint64_t get64(const uint8_t **data)
{
    uint64_t value;

    memcpy(&value, *data, sizeof value);
    *data += sizeof value;
    return value;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "integers are copied as they lie");

void batch_start(struct batch *batch, uint64_t next)
{
    enum { FIRST_BYTES = 4096 };

    *batch = (struct batch){.bytes = blob_new(FIRST_BYTES), .first = next, .next = next};
    blob_extend(batch->bytes, BATCH_HEADER_BYTES);
}

static uint64_t change_bytes(const struct store_change *change)
{
    uint64_t bytes = CHANGE_HEADER_BYTES + (uint64_t)change->record.size;

    for (int kind = 1; kind < BLOB_KINDS; kind++)
        if (change->values[kind].data)
            bytes += change->values[kind].size;
    return bytes;
}

void batch_append(struct batch *batch, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    const uint64_t bytes = change_bytes(change);
    const uint32_t offset = blob_extend(batch->bytes, (uint32_t)bytes);
    uint8_t *const start = batch->bytes->data + offset, *out = start;

    assert(change->number == batch->next && bytes <= UINT32_MAX);
    put32(&out, (uint32_t)bytes);
    put32(&out, change->kind);
    put64(&out, change->number);
    put64(&out, change->life);
    put64(&out, change->place);
    put64(&out, change->body_place);
    put32(&out, change->record.size);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        put32(&out, change->values[kind].data ? change->values[kind].size : (uint32_t)NO_VALUE);
    if (change->record.size)
        memcpy(out, change->record.data, change->record.size);
    out += change->record.size;
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        const struct bytes value = change->values[kind];
        if (!value.data)
            continue;
        if (value.size)
            memcpy(out, value.data, value.size);
        if (values)
            values[kind] = (struct slice){batch->bytes, offset + (uint32_t)(out - start), value.size};
        out += value.size;
    }
    assert(out == start + bytes);
    batch->next++;
    batch->changes++;
}

void batch_seal(struct batch *batch, const struct clock_mark *mark)
{
    uint8_t *out = batch->bytes->data;

    put32(&out, batch->bytes->size);
    put32(&out, batch->changes);
    put64(&out, batch->first);
    put64(&out, batch->next - 1);
    put64(&out, mark->retention_ms);
    put64(&out, mark->wall_ms);
    put64(&out, mark->boot_ms);
    memcpy(out, mark->boot_id, sizeof mark->boot_id);
    out += sizeof mark->boot_id;
    put64(&out, batch->sweep_s);
    assert(out <= batch->bytes->data + BATCH_HEADER_BYTES);
}

void batch_read_header(const uint8_t *data, struct batch_header *header)
{
    data += 4;
    header->changes = get32(&data);
    header->first = get64(&data);
    header->last = get64(&data);
    header->mark.retention_ms = get64(&data);
    header->mark.wall_ms = get64(&data);
    header->mark.boot_ms = get64(&data);
    memcpy(header->mark.boot_id, data, sizeof header->mark.boot_id);
    data += sizeof header->mark.boot_id;
    header->sweep_s = get64(&data);
}

bool batch_read_change(const uint8_t *data, uint32_t size, uint32_t *offset, struct store_change *change)
{
    const uint8_t *at = data + *offset;
    uint32_t sizes[BLOB_KINDS];

    if (*offset == size)
        return false;
    assert(size - *offset >= CHANGE_HEADER_BYTES);
    const uint32_t bytes = get32(&at);
    assert(bytes <= size - *offset);
    *change = (struct store_change){.kind = (enum store_change_kind)get32(&at)};
    change->number = get64(&at);
    change->life = get64(&at);
    change->place = get64(&at);
    change->body_place = get64(&at);
    change->record.size = get32(&at);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        sizes[kind] = get32(&at);
    change->record.data = at;
    at += change->record.size;
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        if (sizes[kind] == (uint32_t)NO_VALUE)
            continue;
        change->values[kind] = bytes_of(at, sizes[kind]);
        at += sizes[kind];
    }
    assert(at == data + *offset + bytes);
    *offset += bytes;
    return true;
}
