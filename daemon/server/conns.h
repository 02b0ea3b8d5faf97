/* All connections of the daemon: which of them are read in a turn, for how long, and which have to go if memory or
 * descriptors run out. Loop thread only. */
#ifndef IDEMD_CONNS_H
#define IDEMD_CONNS_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/server/conn.h"

/* `clock` is read into *now after each read of a socket: no call is decided with a time before it was sent. */
void conns_open(struct conns *conns, struct ev_loop *loop, struct clock *clock, struct now *now);
/* Closes all that are left. */
void conns_close(struct conns *conns);
/* What the service calls. conns->service is set once the service is open. */
struct service_outlet conns_outlet(struct conns *conns);

/* Descriptors ran out: closes the connection that has been idle for the longest, one that said nothing
 * within 100 ms before any other. Idle is one that has no open call, no bound lease, nothing unsent and nothing unread.
 * False: none is. */
bool conns_close_idle(struct conns *conns);

/* Right after a wait, before its events; and once before the first. looked_ms (boot time): this wait or the one before
 * showed all that was there by then. */
void conns_begin_turn(struct conns *conns, uint64_t looked_ms);
/* Before a turn's first conns_read: takes note of those that the wait found, and of held up connections that can go on,
 * without sending anything. */
void conns_ready(struct conns *conns);
/* Reads and decides for connections that have something, until each had its share or the turn's time is over: then the
 * service has to turn, and the rest goes on in the next turn. See turns.h. */
void conns_read(struct conns *conns);
/* Is there somebody for conns_read, and time for it in this turn? */
bool conns_can_read(const struct conns *conns);
/* Whatever arrived before this time (boot time) was decided, or its connection had its share and had sent more, or has
 * more open calls or unread answers than it may. */
uint64_t conns_seen_ms(struct conns *conns);
/* Sends what has gathered; closes what is over. After the service's turn, when a batch could be submitted. */
void conns_flush(struct conns *conns);

/* Ends frames that did not arrive in time, and connections whose answers do not move. */
void conns_end_deadlines(struct conns *conns);
/* When (boot time) there is something of that kind to do; UINT64_MAX: never. */
uint64_t conns_next_ms(const struct conns *conns);
/* The daemon did not read for so long: peers have that much more time. */
void conns_stalled(struct conns *conns, uint64_t stalled_ms);

/* Stops deciding, or goes on. */
void conns_pause(struct conns *conns, bool paused);
/* Reads nothing more; each connection is closed when its open calls are answered. */
void conns_drain(struct conns *conns);

#endif
