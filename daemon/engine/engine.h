/* Who owns what. The engine finds an operation, asks the rules, and does what they say: appends the new state to the
 * open batch, parks a call, wakes others, sets a deadline. It knows no socket, no protobuf, no LMDB and no clock: time
 * is an argument, the store is an interface, answers go out by a callback, so a test can be its world. (How long its
 * reads take is measured where that is asked for, and decides nothing.) Loop thread only.
 *
 *     call --> find (index) --> rules --> change (store) --> waiters --> reply, released at its number
 *
 * A party is one connection to the engine: what it has parked, and which grants are bound to it.
 *
 * Leases and waits end late, never early, so it matters which time each function is given:
 *  - engine_call: when the call was read, or any time after that. Its caller counts from when it was sent.
 *  - engine_stored: when the flush was known to have returned, or after. A lease that has to be stored runs from there.
 *  - engine_turn: now, to end waits; and for leases the time before which nothing was sent that is not decided. A Renew
 *    that came before the end of its lease keeps it, however long the turn was in which it came.
 *  - A deadline is over when the clock shows more than it, since clocks here show whole milliseconds. */
#ifndef IDEMD_ENGINE_H
#define IDEMD_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/bytes.h"
#include "daemon/base/clock.h"
#include "daemon/base/duration.h"
#include "daemon/engine/rules.h"
#include "daemon/store/store.h"

struct engine;
struct holder;
struct operation;
struct parked;

/* Embedded in its owner; start with {0}. */
struct party {
    uint64_t id;           /* its owner's name for it: the connection's number; 0: none */
    uint64_t age;          /* a connection that was accepted later has a larger one */
    struct parked *parked; /* calls of this connection that wait, newest first */
    uint32_t parked_count;
    struct holder *holder; /* of the grants that are bound to it; NULL: none is */
};

/* What is told of one operation beside its record. */
struct reply_operation {
    const struct record *record; /* NULL: none. Valid during the callback */
    uint32_t lease_left_ms;
    uint64_t replays;
    struct bytes checkpoint_data; /* valid during the callback; the name is the record's */
    bool show_checkpoint;
    struct bytes input; /* Grant.input */
    uint32_t lease_ms;  /* Recover: as in struct reply */
    bool resumed;
};

/* An answer. `call` says which of the fields count; they have the names and meanings of idem.v1. Valid during the
 * callback. */
struct reply {
    enum call_type call;
    enum code code;
    const char *reason, *field; /* static strings or NULL */
    const char *message;
    uint32_t retry_after_ms; /* of the status */
    uint64_t depends;        /* goes out when the store is durable up to here */

    enum answer answer;
    enum ownership ownership;
    struct reply_operation operation;
    bool resumed;
    uint32_t lease_ms;
    uint32_t running_retry_after_ms;
    bool mismatch_operation, mismatch_fingerprint;
    uint64_t window_now_ms, window_keep_ms;
    enum record_state released_to;

    bool show_outcome;    /* REPLAY, FINAL, a Get that found it done; its kind and code are in operation.record */
    bool body_dropped;    /* its body is not there, or past its keep time */
    struct slice outcome; /* its attributes and body in wire form; the receiver holds the blob to keep it */
    uint64_t expires_ms;  /* Unix time; 0: not told */

    const struct reply_operation *list; /* Recover, List */
    uint32_t list_count;
    struct bytes cursor;
    bool cancelled;
};

struct engine_options {
    struct store *store;
    /* The answer to the call that `party` sent as `request`. Called in the call itself, or later for a parked one;
     * never after engine_party_close. It must not call the engine. */
    void (*reply)(void *context, struct party *party, uint64_t request, const struct reply *reply);
    /* Is the input of this party still open, as far as the socket knows? Asked before a parked call is granted
     * anything; false: that call is withdrawn, without an answer. */
    bool (*alive)(void *context, struct party *party);
    void *context;
    uint64_t unfinished_max;
    uint32_t namespace_share; /* percent that one namespace may take of what the others leave of what all share: the
                               * store's quota, unfinished_max, the places for calls that wait; 0: all of it */
    struct durations_sampled *cold_reads; /* of records and values from the store; NULL: not timed */
};

/* Loads what the store holds; running leases start anew from `now`. NULL: *error says why. */
struct engine *engine_open(const struct engine_options *options, const struct policy *policy, const struct now *now,
                           struct failure *error);
void engine_close(struct engine *engine); /* NULL is fine; parked calls get no answer */

/* These calls, which all name one operation each, come next: fills in their hashes, and fetches what deciding them will
 * look at, the misses of one beside those of the others. Has no other effect. */
enum { PREFETCH_MAX = 16 };
void engine_prefetch(struct engine *engine, struct call *const calls[], unsigned count);
/* Decides one call that was read at `now` or before, or parks a copy of it; its hash is filled in where it is 0.
 * deadline_ms (boot time) is when its client gives up; UINT64_MAX: never. */
void engine_call(struct engine *engine, struct party *party, uint64_t request, struct call *call, uint64_t deadline_ms,
                 const struct now *now);

/* The input of this connection ended: its parked calls are withdrawn without an answer, its bound leases cut to the
 * grace. The party may be used no more. */
void engine_party_close(struct engine *engine, struct party *party, const struct now *now);
/* `party` replaces `old`: bindings go over with their full lease; then old is closed. */
void engine_party_replace(struct engine *engine, struct party *old, struct party *party, const struct now *now);
/* `party` replaces one that is there no more, by its id: what was bound to it and is still in its grace goes over; and
 * what an earlier connection got under that id, whose client had no answer and names the same one again. */
void engine_party_adopt(struct engine *engine, uint64_t id, struct party *party, const struct now *now);
/* Shutting down: every parked call is answered UNAVAILABLE (DRAINING). */
void engine_drain(struct engine *engine);

/* The loop did not turn for stalled_ms: running leases are that much longer. */
void engine_stalled(struct engine *engine, uint64_t stalled_ms);
/* Ends the leases that were over at seen_ms, then the waits that are over; then hands the open batch over, if there is
 * one and the store is free. Once a turn, after all calls. seen_ms (boot time): every call that arrived before was
 * decided. Returns when (boot time) it wants to be called again at the latest; UINT64_MAX: no need. */
uint64_t engine_turn(struct engine *engine, const struct now *now, uint64_t seen_ms, const struct clock_mark *mark);
/* What store_poll said before `now`. */
void engine_stored(struct engine *engine, const struct store_event *event, const struct now *now);

/* The most that the attributes and body of one operation took that was done when the engine was opened: a replay has to
 * fit a frame, whatever the limit is now. */
uint32_t engine_largest_bytes(const struct engine *engine);

struct engine_counts {
    uint64_t running, interrupted, finished;
    uint64_t stored_bytes; /* of all records with their values, as they are stored */
    uint64_t waiting, waiting_bytes;
    uint64_t memory_bytes; /* of operations and index */
};
struct engine_counts engine_counts(const struct engine *engine);
/* Of one namespace; waiting_bytes and memory_bytes are not known by namespace, and 0. */
struct engine_counts engine_counts_of(const struct engine *engine, struct bytes namespace);
/* Walks everything and asserts what must hold. For tests. */
void engine_check(const struct engine *engine);

#endif
