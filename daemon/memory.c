/* See memory.h: one line, then the end. */
#include "daemon/memory.h"

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *need(void *memory)
{
    static const char line[] = "idemd: out of memory\n";

    if (!memory) {
        const ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
        (void)written;
        _exit(71);
    }
    return memory;
}

/* malloc(0) may be NULL; ours never is. */
static size_t at_least_one(size_t size)
{
    return size ? size : 1;
}

void *mem_alloc(size_t size)
{
    return need(malloc(at_least_one(size)));
}

void *mem_zero(size_t count, size_t size)
{
    return need(calloc(at_least_one(count), at_least_one(size)));
}

void *mem_resize(void *old, size_t size)
{
    return need(realloc(old, at_least_one(size)));
}

void *mem_pages(size_t size)
{
    enum { PAGE_BYTES = 4096 };

    return need(aligned_alloc(PAGE_BYTES, (at_least_one(size) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES));
}

char *mem_string(const char *string)
{
    return need(strdup(string));
}

void mem_free(void *memory)
{
    free(memory);
}

void mem_set_up(void)
{
    enum { LARGE_BYTES = 64 * 1024 };

    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
}

void mem_give_back(void)
{
    malloc_trim(0);
}

void *mem_reserve(size_t size)
{
    void *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return need(start == MAP_FAILED ? NULL : start);
}

void mem_use_reserved(void *start, size_t size)
{
    need(mprotect(start, size, PROT_READ | PROT_WRITE) == 0 ? start : NULL);
}

void mem_unreserve(void *reserved, size_t size)
{
    if (reserved)
        munmap(reserved, size);
}
