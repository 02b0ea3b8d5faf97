/* Connections: bytes in, frames cut out of them, answers out. Bounded both ways: a connection whose answers pile up, or
 * which has as many open calls as one may have, is read no further until they went. Loop thread only.
 *
 *      readable -> cut -> service_read, _decide          answers -> outbox -> one sendmsg a turn
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
#include <stdint.h>

#include "daemon/base/deadline.h"
#include "daemon/base/link.h"
#include "daemon/server/outbox.h"
#include "daemon/server/service.h"

struct conn;

/* All connections of the daemon. */
struct conns {
    struct ev_loop *loop;
    struct service *service;
    struct conn *first;
    uint32_t count;
    uint64_t closed;            /* so far */
    struct link dirty;          /* to be looked at before the loop waits */
    struct link ready;          /* have something to read or to decide; who has waited for the longest comes first */
    struct link behind;         /* likewise, and their last share was too short for what they sent: ready goes first */
    struct link later;          /* likewise, and have had their share of this turn */
    struct link fresh;          /* likewise, and the last wait found them */
    struct link waiting;        /* all of those four lists; what has waited for the longest comes first */
    uint32_t ready_count;       /* on ready and fresh */
    uint32_t behind_count;      /* on behind and later */
    struct link silent;         /* idle, and have said nothing so far; the first has been for the longest */
    struct link idle;           /* idle, but for leases that may be bound to them; likewise */
    struct deadlines deadlines; /* boot time less stalls: frames that must arrive, peers that must close */
    struct deadlines stuck;     /* likewise: answers that must move */
    uint64_t stalled_ms;
    uint64_t in_bytes;               /* memory of unfinished frames */
    struct outboxes unsent;          /* answers that were not sent yet */
    uint64_t readers_dropped_since;  /* the last line about them */
    uint64_t readers_dropped_log_ms; /* boot time before which there is no other */
    uint64_t idle_closed_since;      /* the last line about them */
    uint64_t idle_closed_log_ms;     /* boot time before which there is no other */
    uint64_t taken_bytes;            /* decided since the batch could last be handed over */
    bool paused;                     /* nothing is decided: the store is behind */
    bool draining;                   /* nothing more is read */
    uint8_t *scratch;                /* where reads go that a frame boundary ends */
    struct clock *clock;
    struct now now;         /* of the last read in this turn, or of the turn */
    uint64_t turn_ms;       /* boot time at which the turn began, */
    uint64_t share_from_ns; /* and the share of the connection that is read; 0: not yet */
    uint64_t share_ns;      /* how long it is */
    uint64_t owed_ns;       /* what those on ready had more than those on behind, while both waited */
    int charged;            /* whose the time is that passes: 1: ready's, -1: behind's, 0: nobody's */
    uint64_t looked_ms;     /* what conns_begin_turn was told */
    uint64_t seen_ms;       /* what conns_seen_ms said */
    uint32_t events;        /* connections that the last wait found readable, and the most that one wait found */
    uint32_t events_max;
};

/* `clock` is read after each read of a socket: no call is decided with a time before it was sent. */
void conns_open(struct conns *conns, struct ev_loop *loop, struct clock *clock);
/* What the service calls. conns->service is set once the service is open. */
struct service_outlet conns_outlet(struct conns *conns);
/* Takes a connected, non-blocking socket over. */
void conn_open(struct conns *conns, int fd);

/* Descriptors ran out: closes the connection that has been idle for the longest, one that said nothing
 * within 100 ms before any other. Idle is one that has no open call, no bound lease, nothing unsent and nothing unread.
 * False: none is. */
bool conns_close_idle(struct conns *conns);

/* Sends what has gathered; closes what is over. After the service's turn, when a batch could be handed over. */
void conns_flush(struct conns *conns);
/* Right after a wait, before its events; and once before the first. looked_ms (boot time): this wait or the one before
 * showed all that was there by then. */
void conns_begin_turn(struct conns *conns, uint64_t looked_ms);
/* Reads and decides for connections that have something, until each had its share or the turn's time is over: then the
 * service has to turn, and the rest goes on in the next turn. Whoever is quiet, or was done when it was read last, goes
 * before those that always have more to be read; but these get half of the time, if they need it. */
void conns_read(struct conns *conns);
/* Is there somebody for conns_read, and time for it in this turn? */
bool conns_can_read(const struct conns *conns);
/* Whatever arrived before this time (boot time) was decided, or its connection had its share and had sent more, or has
 * more open calls or unread answers than it may. */
uint64_t conns_seen_ms(struct conns *conns);
/* Ends frames that did not arrive in time, and connections whose answers do not move. */
void conns_end_deadlines(struct conns *conns);
/* When (boot time) there is something of that kind to do; UINT64_MAX: never. */
uint64_t conns_next_ms(const struct conns *conns);
/* The daemon did not read for so long: peers have that much more time. */
void conns_stalled(struct conns *conns, uint64_t stalled_ms);
/* Before a turn's first conns_read: takes note of those that the wait found, and of held up connections that can go on,
 * without sending anything. */
void conns_ready(struct conns *conns);
/* Stops deciding, or goes on. */
void conns_pause(struct conns *conns, bool paused);
/* Reads nothing more; each connection is closed when its open calls are answered. */
void conns_drain(struct conns *conns);
/* Closes all that are left. */
void conns_close(struct conns *conns);

#endif
