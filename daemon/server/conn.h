/* One connection: bytes in, frames cut out of them, answers out. It is bounded both ways: while its answers pile up, or
 * it has as many open calls as one may have, nothing more is read of it. For conns.c, which has all of them. Loop
 * thread only.
 *
 *      conn_read: recv -> cut -> service          answers -> outbox -> conn_flush
 *
 *                     end of input                    last answer sent
 *      READING -----------------------> ENDED -----------------------------------> closed
 *         |  frame that cannot be one                 last answer sent               ^
 *         +---------------------------> REFUSED -----------------------> LINGERING --+  peer's end, or time
 *         |  another connection replaces it                                          |
 *         +---------------------------> DROPPED -------------------------------------+  end of the turn
 */
#ifndef IDEMD_CONN_H
#define IDEMD_CONN_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/deadline.h"
#include "daemon/base/link.h"
#include "daemon/server/outbox.h"
#include "daemon/server/service.h"
#include "daemon/server/turns.h"

/* What connections have in common. */
struct conns {
    struct ev_loop *loop;
    struct service *service;
    struct link list; /* all of them */
    uint32_t count;
    uint64_t closed;            /* so far */
    struct link dirty;          /* to be looked at before the loop waits */
    struct link silent;         /* idle, and have said nothing so far; the first has been for the longest */
    struct link idle;           /* idle, but for leases that may be bound to them; likewise */
    struct turns turns;         /* those that have something to be read */
    struct deadlines deadlines; /* boot time less stalls: frames that must arrive, peers that must close */
    struct deadlines stuck;     /* likewise: answers that must move */
    uint64_t stalled_ms;
    uint64_t in_bytes;      /* memory of unfinished frames */
    struct outboxes unsent; /* answers that were not sent yet */
    bool paused;            /* nothing is decided: the store is behind */
    bool draining;          /* nothing more is read */
    uint8_t *scratch;       /* where reads go that a frame boundary ends */
    struct now *now;        /* of the last read in this turn, or of the turn */
};

enum { CONN_SCRATCH_BYTES = 64 * 1024 };

enum conn_state { CONN_READING, CONN_ENDED, CONN_REFUSED, CONN_LINGERING, CONN_DROPPED };

struct conn {
    struct session session;   /* first member */
    struct deadline deadline; /* of a frame, or of lingering */
    struct deadline stuck;    /* of answers that do not move */
    struct conns *conns;
    struct link link;  /* in conns->list */
    struct link dirty; /* in conns->dirty */
    struct link idle;  /* in conns->silent or conns->idle */
    struct turn turn;
    ev_io readable, writable;
    int fd;
    enum conn_state state;
    bool heard;  /* its peer has said something */
    bool unread; /* there may be something in the socket */
    bool more;   /* whole frames were read and not decided */
    bool eof;    /* the peer's input has ended; what was read before is still decided */
    uint8_t *in; /* what was read and not decided */
    uint32_t in_size, in_capacity;
    uint64_t read_ms; /* when it was read last; accepted, if it never was */
    struct outbox out;
};

static inline struct conn *conn_of_link(struct link *link)
{
    return (struct conn *)(void *)((char *)link - offsetof(struct conn, link));
}

/* Takes a connected, non-blocking socket over. */
void conn_open(struct conns *conns, int fd);
/* Closes it at once. Its memory is gone. */
void conn_close(struct conn *conn);

/* Reads and decides for it, in its share of the turn. */
void conn_read(struct conn *conn);
/* Reads nothing more; its open calls are still answered. */
void conn_stop_reading(struct conn *conn);
/* It was held up; if it can go on, it waits for its turn. */
void conn_resume(struct conn *conn);
/* Its deadline is over: its frame did not arrive, or its peer did not close. */
void conn_is_late(struct conn *conn);
/* Sends what has gathered; closes it if it is over. */
void conn_flush(struct conn *conn);
/* Puts an answer into its outbox. */
void conn_send(struct conn *conn, const struct response *response);
/* Is its input open, as far as is known? */
bool conn_is_alive(const struct conn *conn);
/* Puts it on conns->dirty: conn_flush comes before the loop waits. */
void conn_mark_dirty(struct conn *conn);
/* Nothing more is read or sent; conn_flush closes it. */
void conn_drop(struct conn *conn);

/* The time that peers are held to: the daemon's own stalls are not theirs. */
static inline uint64_t conns_peer_time(const struct conns *conns)
{
    return conns->now->boot_ms - conns->stalled_ms;
}

#endif
