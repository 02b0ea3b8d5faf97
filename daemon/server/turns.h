/* Whose turn it is to be read. One turn of the loop reads for a limited time, each connection for a share of it, and
 * what is left goes on in the next turn. Whoever is quiet, or was done when it was read last, comes before those that
 * always have more to be read; but these get half of the time if they need it.
 *
 *     found by the wait --> fresh --turns_go_on--> ready ---.
 *                                                           |--> turns_next: whoever has waited for the longest
 *     more than its share --> later --next turn--> behind --'
 *
 * Leases end only for owners whose calls were read; so it is known of each time whether all that was sent before it was
 * read (turns_seen_ms). Loop thread only. */
#ifndef IDEMD_TURNS_H
#define IDEMD_TURNS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/clock.h"
#include "daemon/base/link.h"

/* Embedded in what is to be read. Start with {0}. */
struct turn {
    struct link link;    /* first member; in one of four lists of struct turns */
    struct link waiting; /* likewise, in turns->waiting */
    bool behind;         /* when it was read last, there was more than its share was enough for */
    uint64_t since_ms;   /* while it waits: what it was not read for arrived after this, if within its share */
};

struct turns {
    struct clock *clock;
    struct now *now;        /* of the last reading of the clock */
    struct link ready;      /* whoever has waited for the longest comes first */
    struct link behind;     /* likewise, and their last share was too short for what they sent: ready goes first */
    struct link later;      /* have had their share of this turn, and have more */
    struct link fresh;      /* the last wait found them */
    struct link waiting;    /* all of those four lists; whoever has waited for the longest comes first */
    uint32_t ready_count;   /* on ready and fresh */
    uint32_t behind_count;  /* on behind and later */
    uint64_t began_ms;      /* boot time at which the turn began, */
    uint64_t share_from_ns; /* and the share of the one that is read; 0: not yet */
    uint64_t share_ns;      /* how long it is */
    uint64_t owed_ns;       /* what those on ready had more than those on behind, while both waited */
    int charged;            /* whose the time is that passes: 1: ready's, -1: behind's, 0: nobody's */
    uint64_t taken_bytes;   /* read since turns_clear_taken */
    uint64_t looked_ms;     /* what turns_begin was told */
    uint64_t seen_ms;       /* what turns_seen_ms said */
    uint32_t events;        /* so many the last wait found, and the most that one wait found */
    uint32_t events_max;
};

/* `clock` is read into *now after each read of a socket: no call is decided with a time before it was sent. */
void turns_open(struct turns *turns, struct clock *clock, struct now *now);
/* Right after a wait, before its events; and once before the first. looked_ms (boot time): this wait or the one before
 * showed all that was there by then. */
void turns_begin(struct turns *turns, uint64_t looked_ms);
/* Reads the clock; the time since it was read last is charged to whoever had it. */
void turns_read_clock(struct turns *turns);

/* ---- Who waits. Each function does nothing if it waits already ---- */

/* The wait found that it has something to be read. */
void turns_found(struct turns *turns, struct turn *turn);
/* After the events of a wait, before anybody is read: those that were found can be. */
void turns_go_on(struct turns *turns);
/* It can go on: there is, or may be, something to be read. */
void turns_resume(struct turns *turns, struct turn *turn);
/* It has had its share, and has more: its next share is in the next turn. */
void turns_again(struct turns *turns, struct turn *turn);
/* It has nothing to be read, or may not be read. */
void turns_leave(struct turns *turns, struct turn *turn);
static inline bool turn_is_waiting(const struct turn *turn)
{
    return link_is_listed(&turn->link);
}
static inline bool turns_any_waits(const struct turns *turns)
{
    return links_first(&turns->waiting) != NULL;
}

/* ---- Shares ---- */

/* Whose turn it is; NULL: nobody's. */
struct turn *turns_next(const struct turns *turns);
/* It is no longer on a list, but keeps its place among those who wait until turn_end_share. */
void turns_begin_share(struct turns *turns, struct turn *turn);
/* What it was given its share for begins: what passed before was not its time. Only the first of a share counts. */
void turns_start_share(struct turns *turns, const struct turn *turn);
/* Its time is over, as of when the clock was last read; or the turn's. */
bool turns_share_is_over(const struct turns *turns);
/* Its place among those who wait is given up, unless it was put on a list again. */
void turn_end_share(struct turn *turn);
/* Charges the last share, and nobody from then on. */
void turns_end_charge(struct turns *turns);

/* ---- The turn ---- */

/* The time for reading is over, as of when the clock was last read, or enough was read. */
bool turns_is_over(const struct turns *turns);
/* May more be read before there is a place where it goes? */
bool turns_has_room(const struct turns *turns);
/* So many bytes were read; all of them went where they go. */
static inline void turns_take(struct turns *turns, uint64_t bytes)
{
    turns->taken_bytes += bytes;
}
static inline void turns_clear_taken(struct turns *turns)
{
    turns->taken_bytes = 0;
}
/* Whatever arrived before this time (boot time) was read, or whoever sent it had its share and had sent more, or may
 * not be read. */
uint64_t turns_seen_ms(struct turns *turns);

#endif
