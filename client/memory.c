/* See memory.h. */
#include "client/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static unsigned long fail_at;
static int fail_on;

static int fails(void)
{
    if (fail_at == 0)
        return 0;
    if (fail_at == 1) {
        fail_at = fail_on ? 1 : 0;
        return 1;
    }
    fail_at--;
    return 0;
}

void idem__fail_allocation(unsigned long n, int on)
{
    fail_at = n;
    fail_on = on;
}

void *idem__alloc(size_t size)
{
    return fails() ? NULL : malloc(size ? size : 1);
}

void *idem__zero(size_t size)
{
    void *memory = idem__alloc(size);

    return memory ? memset(memory, 0, size) : NULL;
}

void *idem__resize(void *old, size_t size)
{
    return fails() ? NULL : realloc(old, size ? size : 1);
}

char *idem__string(const char *string)
{
    const size_t size = string ? strlen(string) + 1 : 1;
    char *copy = idem__alloc(size);

    return copy ? memcpy(copy, string ? string : "", size) : NULL;
}

void idem__free(void *memory)
{
    free(memory);
}
