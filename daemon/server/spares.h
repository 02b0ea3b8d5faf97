/* Pieces of memory of one size, some of which are kept when they are given back, for whoever asks next. Loop thread
 * only. */
#ifndef IDEMD_SPARES_H
#define IDEMD_SPARES_H

#include <stddef.h>
#include <stdint.h>

struct spare;

struct spares {
    size_t bytes;  /* of each, at least a pointer's */
    uint32_t most; /* so many are kept */
    uint32_t count;
    struct spare *first;
};

static inline struct spares spares_of(size_t bytes, uint32_t most)
{
    return (struct spares){.bytes = bytes, .most = most};
}

void *spares_take(struct spares *spares); /* not cleared; freed by spares_give or mem_free */
void spares_give(struct spares *spares, void *memory);
void spares_free(struct spares *spares); /* those that are kept */

#endif
