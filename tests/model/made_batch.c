/* See made_batch.h. */
#include "tests/model/made_batch.h"

#include <assert.h>

#include "daemon/base/memory.h"

/* xorshift64*, eight bytes at a time */
static void fill(uint8_t *data, uint32_t size, uint64_t seed)
{
    uint64_t state = seed * 2 + 1;

    for (uint32_t at = 0; at < size; at += 8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        const uint64_t number = state * 2685821657736338717ull;
        memcpy(data + at, &number, size - at < 8 ? size - at : 8);
    }
}

/* One change with a value that brings it to its bytes, and touches. */
struct batch make_made(const struct made *made)
{
    const struct clock_mark mark = {.retention_ms = made->first, .wall_ms = made->salt, .boot_ms = made->bytes};
    uint32_t size = made->bytes - BATCH_HEADER_BYTES;
    uint8_t *value = mem_alloc(size), record[RECORD_HEAD_BYTES] = {0};
    struct batch batch;

    assert(made->changes > 0 && made->bytes >= MADE_BYTES_MIN + made->changes);
    fill(value, size, made->first << 20 ^ made->salt);
    record[RECORD_HEAD_BYTES - 1] = RECORD_RUNNING;
    for (;;) {
        batch_start(&batch, made->first, NULL);
        const struct store_change put = {.kind = STORE_PUT_UNFINISHED,
                                         .number = made->first,
                                         .generation = made->first,
                                         .record = bytes_of(record, sizeof record),
                                         .values[BLOB_INPUT] = bytes_of(value, size)};
        batch_append(&batch, &put, NULL);
        for (uint32_t i = 1; i < made->changes; i++) {
            const struct store_change touch = {.kind = STORE_TOUCH, .number = made->first + i};
            batch_append(&batch, &touch, NULL);
        }
        if (batch.bytes->size <= made->bytes)
            break;
        size -= batch.bytes->size - made->bytes;
        blob_release(batch.bytes);
    }
    mem_free(value);
    batch_seal(&batch, &mark);
    return batch;
}

bool is_made(struct bytes found, const struct made *made)
{
    struct batch batch = make_made(made);
    struct batch_header expected, header;

    batch_read_header(batch.bytes->data, &expected);
    batch_read_header(found.data, &header);
    const bool same = found.size == expected.bytes && header.bytes == expected.bytes &&
                      header.first == expected.first && header.last == expected.last &&
                      memcmp(&header.mark, &expected.mark, sizeof header.mark) == 0 &&
                      memcmp(found.data + BATCH_HEADER_BYTES, batch.bytes->data + BATCH_HEADER_BYTES,
                             expected.bytes - BATCH_HEADER_BYTES) == 0;
    blob_release(batch.bytes);
    return same;
}
