/* The answers of one connection that were not sent. Heads are copied, one behind the other, into pieces of memory; what
 * is shared is held, and sent from where it lies. All of it goes out in as few calls as the socket allows.
 *
 *     outbox_add:   head head head | shared | head head | shared | head      --> outbox_send: sendmsg
 *                   `-- a piece -'
 *
 * Whoever owns it bounds `bytes`, and the sum over all of them. Loop thread only. */
#ifndef IDEMD_OUTBOX_H
#define IDEMD_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/link.h"
#include "daemon/server/response.h"
#include "daemon/server/spares.h"

/* What all outboxes have in common. */
struct outboxes {
    uint64_t bytes; /* memory that their answers keep; what several of them share counts once */
    struct spares spares;
};

struct outbox {
    struct outboxes *all;
    struct link pieces;
    uint64_t bytes; /* still to be sent */
};

void outboxes_open(struct outboxes *all);
void outboxes_close(struct outboxes *all); /* every outbox is empty */

void outbox_open(struct outbox *outbox, struct outboxes *all);
/* Puts an answer behind the others. Copies its head, and holds or copies what is shared. */
void outbox_add(struct outbox *outbox, const struct response *response);
/* Sends what the socket takes without waiting. Nothing is left, or the rest goes out when it is writable again. False:
 * the connection is broken. */
bool outbox_send(struct outbox *outbox, int fd);
/* Drops what was not sent. */
void outbox_clear(struct outbox *outbox);

static inline bool outbox_is_empty(const struct outbox *outbox)
{
    return outbox->bytes == 0;
}

#endif
