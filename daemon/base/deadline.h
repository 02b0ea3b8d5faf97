/* Deadlines: what has to happen at which time. A heap of pointers to entries that live in their owners' structs, so
 * that a million leases cost eight bytes each and one timer. Times are whatever clock its user counts in. Loop thread
 * only. */
#ifndef IDEMD_DEADLINE_H
#define IDEMD_DEADLINE_H

#include <stdbool.h>
#include <stdint.h>

/* Embedded in its owner; cleared by {0}. */
struct deadline {
    uint64_t at_ms;
    uint32_t slot; /* 1 + position in the heap; 0: not set */
};

struct deadlines {
    struct deadline **heap;
    uint32_t count, capacity;
};

void deadlines_free(struct deadlines *deadlines); /* the array only */
/* Sets, or moves, an entry. */
void deadline_set(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms);
void deadline_clear(struct deadlines *deadlines, struct deadline *deadline); /* not set: fine */
static inline bool deadline_is_set(const struct deadline *deadline)
{
    return deadline->slot != 0;
}
/* The earliest entry, or NULL. */
struct deadline *deadlines_first(const struct deadlines *deadlines);

#endif
