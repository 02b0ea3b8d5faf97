/* Answers that wait for the disk. Each rests on a change of the open batch or of the one in flight; when that is
 * flushed, its answers go all at once, in the order in which they came. So their bytes lie one behind the other in
 * blocks that are used again, and none is allocated for itself. Loop thread only. */
#ifndef IDEMD_HELD_H
#define IDEMD_HELD_H

#include <stdint.h>

#include "daemon/server/response.h"

struct held;
struct held_block;

/* Whose answers they are: embedded in a session. Start with {0}. */
struct held_owner {
    struct held *first;
    uint64_t bytes;
};

struct held_queue {
    struct held *first, **last;
    struct held_block *blocks; /* which its answers lie in; the one that is filled comes first */
};

struct held_answers {
    struct held_queue open, flight; /* those that rest on the open batch, on the one in flight */
    uint64_t flight_end;            /* the newest number in the one in flight */
    uint64_t bytes;
    struct held_block *spare;
    unsigned spares;
};

void held_open(struct held_answers *answers);
/* Drops what is left. */
void held_close(struct held_answers *answers);

/* Keeps an answer until the number it depends on is flushed. The head is copied, the tail's blob held. */
void held_add(struct held_answers *answers, struct held_owner *owner, uint64_t depends,
              const struct response *response);
/* The open batch is in flight from now on; `newest` is its last number. What was in flight is released. */
void held_submitted(struct held_answers *answers, uint64_t newest);
/* What rests on the batch in flight goes out: `send` gets each answer whose owner is still there. Asserts that
 * everything up to the number that it depends on is durable. An answer is valid until `send` returns, which must not
 * hold another. */
typedef void held_send(void *context, struct held_owner *owner, const struct response *response);
void held_release(struct held_answers *answers, uint64_t durable, held_send *send, void *context);
/* The owner is gone: what is held for it is not sent. */
void held_forget(struct held_owner *owner);

#endif
