/* A reserved stretch of address space and a mark in it. Pages that a large frame touched go back to the system when it
 * is rewound to nothing. */
#include "daemon/server/arena.h"

#include <assert.h>
#include <stdalign.h>
#include <sys/mman.h>

#include "daemon/base/memory.h"

enum { KEPT_BYTES = 512 * 1024 }; /* of touched pages, for the next frame */

struct arena {
    uint8_t *memory;
    size_t size, used, touched;
};

struct arena *arena_new(size_t size)
{
    struct arena *arena = mem_zero(1, sizeof *arena);

    arena->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena->memory == MAP_FAILED) {
        mem_free(arena);
        return NULL;
    }
    arena->size = size;
    return arena;
}

void arena_free(struct arena *arena)
{
    if (!arena)
        return;
    munmap(arena->memory, arena->size);
    mem_free(arena);
}

void *arena_alloc(struct arena *arena, size_t size)
{
    const size_t align = alignof(max_align_t);
    uint8_t *memory = arena->memory + arena->used;

    if (size > arena->size - arena->used || arena->size - arena->used - size < align)
        return NULL;
    arena->used += (size + align - 1) / align * align;
    if (arena->touched < arena->used)
        arena->touched = arena->used;
    return memory;
}

void *arena_zero(struct arena *arena, size_t size)
{
    void *memory = arena_alloc(arena, size);

    assert(memory);
    return memset(memory, 0, size);
}

char *arena_string(struct arena *arena, struct bytes bytes)
{
    char *string = arena_alloc(arena, (size_t)bytes.size + 1);

    assert(string);
    if (bytes.size)
        memcpy(string, bytes.data, bytes.size);
    string[bytes.size] = '\0';
    return string;
}

size_t arena_mark(const struct arena *arena)
{
    return arena->used;
}

void arena_rewind(struct arena *arena, size_t mark)
{
    assert(mark <= arena->used);
    arena->used = mark;
    if (mark == 0 && arena->touched > KEPT_BYTES) {
        madvise(arena->memory + KEPT_BYTES, arena->size - KEPT_BYTES, MADV_DONTNEED);
        arena->touched = KEPT_BYTES;
    }
}
