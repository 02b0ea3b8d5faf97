/* What is logged of calls: what operators did and who they are, who says Hello, peers that send what is no frame, and a
 * store that is full. What a peer can repeat as often as it likes is logged at most once in a while. Loop thread only.
 */
#ifndef IDEMD_NOTES_H
#define IDEMD_NOTES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/server/arena.h"
#include "daemon/engine/engine.h"

/* Lines that a peer can cause: one in a while, and how many were left out since the last one. */
struct rate_limit {
    uint64_t from_ms; /* boot time from which on there may be a line */
    uint64_t left_out;
};

/* Start with {0}. */
struct notes {
    struct rate_limit bad_frames;
    struct rate_limit refused; /* operators' calls that changed nothing */
    struct rate_limit readers_dropped;
    struct rate_limit idle_closed;
    bool full;        /* as it was last logged */
    uint64_t full_ms; /* boot time from which on a change of it may be logged */
};

/* A Resolve or Forget was decided: which operation, what was asked, by whom, and what became of it. One that changed
 * something is always logged. */
void notes_operator(struct notes *notes, uint64_t boot_ms, struct arena *arena, const struct call *call,
                    const struct reply *reply, uint64_t connection, const char *peer);
/* At level debug. `client` is what Hello said, `replaces` a connection or 0. */
void notes_hello(const char *client, uint64_t connection, uint64_t replaces, const char *peer);
/* May a bad frame be logged now? If not, it is counted, for the next one that is. */
bool notes_bad_frame_due(struct notes *notes, uint64_t boot_ms);
void notes_bad_frame(struct notes *notes, const char *reason, const char *peer);
/* A connection is closed since its peer did not take its answers; unsent_bytes: what all such answers take. */
void notes_reader_dropped(struct notes *notes, uint64_t unsent_bytes, uint64_t boot_ms);
/* One of so many connections is closed since it is idle and another one needs its descriptor. */
void notes_idle_closed(struct notes *notes, uint64_t connections, uint64_t boot_ms);
/* The store is full now, or not. */
void notes_space(struct notes *notes, const struct store_space *space, uint64_t boot_ms);

#endif
