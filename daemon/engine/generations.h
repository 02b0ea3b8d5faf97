/* Every operation in memory, ordered by life, so that a List can go on where it was. An array with holes, which are
 * squeezed out a few entries at a time, with each operation that comes or goes: no step is long.
 *
 *      0 ......... to ......... from .............. count
 *        squeezed     nothing        not squeezed yet
 *
 * Loop thread only. */
#ifndef IDEMD_GENERATIONS_H
#define IDEMD_GENERATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct operation;

struct generation {
    uint64_t generation;
    struct operation *operation; /* NULL: a hole */
};

/* Embedded in its owner; start with {0}. */
struct generations {
    struct generation *at;
    uint32_t count, capacity, holes;
    uint32_t to, from; /* both 0: nothing is being squeezed */
};

void generations_free(struct generations *generations);
/* Adds an operation, whose life is later than all before. */
void generations_append(struct generations *generations, uint64_t generation, struct operation *operation);
/* Removes the one that is there. */
void generations_remove(struct generations *generations, uint64_t generation, const struct operation *operation);
/* The position of the first whose life is at least `life`, and the one after a position; lives->count: there is none.
 * Valid until one comes or goes. */
uint32_t generations_find(const struct generations *generations, uint64_t generation);
uint32_t generations_next(const struct generations *generations, uint32_t position);
/* How many operations there are. */
uint32_t generations_operations(const struct generations *generations);
/* Walks the whole array and asserts what must hold. For tests. */
void generations_check(const struct generations *generations);

#endif
