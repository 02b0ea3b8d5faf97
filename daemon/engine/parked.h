/* A call that waits: a copy of everything it brought, in one piece of memory, in three lists - its operation's (or, for
 * Recover, that of the space it waits for), its party's, and the deadlines. */
#ifndef IDEMD_PARKED_H
#define IDEMD_PARKED_H

#include "daemon/base/deadline.h"
#include "daemon/engine/engine.h"

/* Calls that wait for the same thing, in order of arrival. */
struct parked_queue {
    struct parked *first, *last;
    uint32_t count;
};

struct parked {
    struct deadline deadline; /* first member: the end of the wait or of the call, whichever comes first */
    bool deadline_is_timeout; /* at the deadline the client has given up */
    uint64_t request;
    struct party *party;
    struct parked *party_previous, *party_next;
    struct parked_queue *queue;
    struct parked *queue_previous, *queue_next;
    struct operation *operation; /* NULL: a Recover */
    struct space *space;         /* its namespace's */
    uint64_t arrival;            /* grows from one that is parked to the next */
    uint32_t bytes;
    struct call call; /* its views point behind this struct */
};

/* What a parked copy of the call takes. */
uint32_t parked_bytes(const struct call *call);
/* Makes the copy and enters it into party and queue. */
struct parked *parked_new(const struct call *call, struct party *party, uint64_t request, struct parked_queue *queue);
/* Takes it out of both and frees it. Its deadline is clear. */
void parked_free(struct parked *parked);

#endif
