/* Copying a call means copying what its views show: one table says which of its members are views. */
#include "daemon/engine/parked.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/base/memory.h"

static const size_t views[] = {
    offsetof(struct call, id.namespace),
    offsetof(struct call, id.caller),
    offsetof(struct call, id.key),
    offsetof(struct call, traceparent),
    offsetof(struct call, operation),
    offsetof(struct call, fingerprint),
    offsetof(struct call, attempt_id),
    offsetof(struct call, owner),
    offsetof(struct call, input),
    offsetof(struct call, other_fingerprints[0]),
    offsetof(struct call, other_fingerprints[1]),
    offsetof(struct call, other_fingerprints[2]),
};
enum { VIEWS = sizeof views / sizeof views[0] };

static const struct bytes *view_of(const struct call *call, int i)
{
    return (const struct bytes *)(const void *)((const char *)call + views[i]);
}

uint32_t parked_bytes(const struct call *call)
{
    uint64_t bytes = sizeof(struct parked);

    for (int i = 0; i < VIEWS; i++)
        bytes += view_of(call, i)->size;
    assert(bytes < UINT32_MAX);
    return (uint32_t)bytes;
}

static void copy_views(struct parked *parked, const struct call *call)
{
    uint8_t *to = (uint8_t *)(parked + 1);

    for (int i = 0; i < VIEWS; i++) {
        const struct bytes *from = view_of(call, i);
        struct bytes *view = (struct bytes *)(void *)((char *)&parked->call + views[i]);
        if (from->size > 0)
            memcpy(to, from->data, from->size);
        /* An empty view that was given stays one that was given. */
        view->data = from->data ? to : NULL;
        to += from->size;
    }
}

static void enter_party(struct parked *parked, struct party *party)
{
    parked->party = party;
    parked->party_next = party->parked;
    if (party->parked)
        party->parked->party_previous = parked;
    party->parked = parked;
    party->parked_count++;
}

static void leave_party(struct parked *parked)
{
    struct party *party = parked->party;

    if (parked->party_previous)
        parked->party_previous->party_next = parked->party_next;
    else
        party->parked = parked->party_next;
    if (parked->party_next)
        parked->party_next->party_previous = parked->party_previous;
    assert(party->parked_count > 0);
    party->parked_count--;
}

static void enter_queue(struct parked *parked, struct parked_queue *queue)
{
    parked->queue = queue;
    parked->queue_previous = queue->last;
    if (queue->last)
        queue->last->queue_next = parked;
    else
        queue->first = parked;
    queue->last = parked;
    queue->count++;
}

static void leave_queue(struct parked *parked)
{
    struct parked_queue *queue = parked->queue;

    if (parked->queue_previous)
        parked->queue_previous->queue_next = parked->queue_next;
    else
        queue->first = parked->queue_next;
    if (parked->queue_next)
        parked->queue_next->queue_previous = parked->queue_previous;
    else
        queue->last = parked->queue_previous;
    assert(queue->count > 0);
    queue->count--;
}

struct parked *parked_new(const struct call *call, struct party *party, uint64_t request, struct parked_queue *queue)
{
    const uint32_t bytes = parked_bytes(call);
    struct parked *parked = mem_alloc(bytes);

    *parked = (struct parked){.request = request, .bytes = bytes, .call = *call};
    copy_views(parked, call);
    enter_party(parked, party);
    enter_queue(parked, queue);
    return parked;
}

void parked_free(struct parked *parked)
{
    assert(!deadline_is_set(&parked->deadline));
    leave_party(parked);
    leave_queue(parked);
    mem_free(parked);
}
