/* A heap with four children a node: flatter than two, and the children of a node share a cache line. */
#include "daemon/base/deadline.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/base/memory.h"

enum { CHILDREN = 4 };

static void expiry_key(struct deadlines *deadlines, uint32_t at, struct deadline *deadline)
{
    deadlines->heap[at] = deadline;
    deadline->slot = at + 1;
}

static void rise(struct deadlines *deadlines, uint32_t at, struct deadline *deadline)
{
    while (at > 0) {
        const uint32_t parent = (at - 1) / CHILDREN;
        if (deadlines->heap[parent]->at_ms <= deadline->at_ms)
            break;
        expiry_key(deadlines, at, deadlines->heap[parent]);
        at = parent;
    }
    expiry_key(deadlines, at, deadline);
}

static uint32_t least_child(const struct deadlines *deadlines, uint32_t at)
{
    const uint32_t first = at * CHILDREN + 1;
    uint32_t least = first;

    for (uint32_t child = first + 1; child < first + CHILDREN && child < deadlines->count; child++)
        if (deadlines->heap[child]->at_ms < deadlines->heap[least]->at_ms)
            least = child;
    return least;
}

static void sink(struct deadlines *deadlines, uint32_t at, struct deadline *deadline)
{
    while ((uint64_t)at * CHILDREN + 1 < deadlines->count) {
        const uint32_t child = least_child(deadlines, at);
        if (deadlines->heap[child]->at_ms >= deadline->at_ms)
            break;
        expiry_key(deadlines, at, deadlines->heap[child]);
        at = child;
    }
    expiry_key(deadlines, at, deadline);
}

/* Puts an entry where it belongs, starting from a free place. */
static void settle(struct deadlines *deadlines, uint32_t at, struct deadline *deadline)
{
    if (at > 0 && deadlines->heap[(at - 1) / CHILDREN]->at_ms > deadline->at_ms)
        rise(deadlines, at, deadline);
    else
        sink(deadlines, at, deadline);
}

void deadline_set(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms)
{
    deadline->at_ms = at_ms;
    if (deadline_is_set(deadline)) {
        assert(deadlines->heap[deadline->slot - 1] == deadline);
        settle(deadlines, deadline->slot - 1, deadline);
        return;
    }
    if (deadlines->count == deadlines->capacity) {
        deadlines->capacity = deadlines->capacity ? deadlines->capacity * 2 : 16;
        deadlines->heap = mem_resize(deadlines->heap, deadlines->capacity * sizeof *deadlines->heap);
    }
    rise(deadlines, deadlines->count++, deadline);
}

void deadline_clear(struct deadlines *deadlines, struct deadline *deadline)
{
    const uint32_t at = deadline->slot - 1;
    struct deadline *last;

    if (!deadline_is_set(deadline))
        return;
    assert(at < deadlines->count && deadlines->heap[at] == deadline);
    last = deadlines->heap[--deadlines->count];
    deadline->slot = 0;
    if (last != deadline)
        settle(deadlines, at, last);
}

struct deadline *deadlines_first(const struct deadlines *deadlines)
{
    return deadlines->count ? deadlines->heap[0] : NULL;
}

void deadlines_free(struct deadlines *deadlines)
{
    mem_free(deadlines->heap);
    *deadlines = (struct deadlines){0};
}
