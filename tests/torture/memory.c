/* Part of the preloaded library: memory that cannot be had, for the suite `shortage`. Allocations, and address space
 * that belongs to no file (in interpose.c), count as one kind of call. The real call is the next library's: the C
 * library's, or that of the sanitizers. */
#define _GNU_SOURCE
#include "interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES_MAX = 16 };

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
} next;

/* A function that data points to, without a cast that the standard does not have. */
#define FIND(name)                                                                                                     \
    do {                                                                                                               \
        void *found = dlsym(RTLD_NEXT, #name);                                                                         \
        memcpy(&next.name, &found, sizeof next.name);                                                                  \
    } while (0)

static void find(void)
{
    FIND(calloc);
    FIND(realloc);
    FIND(aligned_alloc);
    FIND(posix_memalign);
    FIND(malloc); /* the last: then all are there */
}

static bool prepared;

/* The first call of backtrace loads a library; and what the loader needs is no concern of this. */
__attribute__((constructor)) static void prepare(void)
{
    void *frame;

    backtrace(&frame, 1);
    prepared = true;
}

/* Says who asked, in the control block: what is named is not so easily found again under a debugger. */
static void say_where(struct faults *faults)
{
    void *frames[FRAMES_MAX];
    const int count = backtrace(frames, FRAMES_MAX);
    size_t at = 0;

    for (int i = 2; i < count && at < sizeof faults->where - 1; i++) {
        Dl_info info = {0};
        if (!dladdr(frames[i], &info) || !info.dli_fname)
            continue;
        at += (size_t)snprintf(faults->where + at, sizeof faults->where - at, "%s+%#lx ", info.dli_fname,
                               (unsigned long)((char *)frames[i] - (char *)info.dli_fbase));
    }
}

static bool fails(void)
{
    struct faults *faults = interpose_faults;

    if (!next.malloc)
        find();
    if (!prepared || interpose_fault(KIND_MEMORY) == GOES_ON)
        return false;
    if (atomic_load(&faults->hits) == 1)
        say_where(faults);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return fails() ? NULL : next.malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : next.calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return fails() ? NULL : next.realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : next.aligned_alloc(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    return fails() ? ENOMEM : next.posix_memalign(memory, alignment, size);
}

/* Address space that was reserved becomes memory. */
int mprotect(void *start, size_t size, int protection)
{
    return fails() ? -1 : (int)syscall(SYS_mprotect, start, size, (long)protection);
}
