/* Every operation in memory, ordered by life, so that a List can go on where it was. An array with holes, which are
 * squeezed out a few entries at a time, with each operation that comes or goes: no step is long.
 *
 *      0 ......... to ......... from .............. count
 *        squeezed     nothing        not squeezed yet
 *
 * Loop thread only. */
#ifndef IDEMD_LIVES_H
#define IDEMD_LIVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct operation;

struct life {
    uint64_t life;
    struct operation *operation; /* NULL: a hole */
};

/* Embedded in its owner; start with {0}. */
struct lives {
    struct life *at;
    uint32_t count, capacity, holes;
    uint32_t to, from; /* both 0: nothing is being squeezed */
};

void lives_free(struct lives *lives);
/* Adds an operation, whose life is later than all before. */
void lives_append(struct lives *lives, uint64_t life, struct operation *operation);
/* Removes the one that is there. */
void lives_remove(struct lives *lives, uint64_t life, const struct operation *operation);
/* The position of the first whose life is at least `life`, and the one after a position; lives->count: there is none.
 * Valid until one comes or goes. */
uint32_t lives_find(const struct lives *lives, uint64_t life);
uint32_t lives_next(const struct lives *lives, uint32_t position);
/* How many operations there are. */
uint32_t lives_operations(const struct lives *lives);
/* Walks the whole array and asserts what must hold. For tests. */
void lives_check(const struct lives *lives);

#endif
