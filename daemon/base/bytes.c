/* Counted bytes. */
#include "daemon/base/bytes.h"

#include <assert.h>

#include "daemon/base/memory.h"

struct blob *blob_new(uint32_t capacity)
{
    struct blob *blob = mem_alloc(sizeof *blob);

    *blob = (struct blob){.references = 1, .capacity = capacity, .data = mem_alloc(capacity)};
    return blob;
}

struct blob *blob_hold(struct blob *blob)
{
    assert(blob->references > 0 && blob->references < UINT32_MAX);
    blob->references++;
    return blob;
}

void blob_release(struct blob *blob)
{
    if (!blob)
        return;
    assert(blob->references > 0);
    if (--blob->references > 0)
        return;
    mem_free(blob->data);
    mem_free(blob);
}

uint32_t blob_extend(struct blob *blob, uint32_t size)
{
    const uint32_t offset = blob->size;

    assert(size <= UINT32_MAX - offset);
    if (size > blob->capacity - offset) {
        uint64_t capacity = (uint64_t)blob->capacity * 2;
        if (capacity < (uint64_t)offset + size)
            capacity = (uint64_t)offset + size;
        blob->capacity = capacity > UINT32_MAX ? UINT32_MAX : (uint32_t)capacity;
        blob->data = mem_resize(blob->data, blob->capacity);
    }
    blob->size = offset + size;
    return offset;
}
