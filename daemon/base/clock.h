/* The daemon's three clocks, and the one rule about them that has to outlive a reboot.
 * Only the loop reads them: the server, and connections when they have read a socket. Everybody else is handed a struct
 * now. How long something took is another matter, which
 * decides nothing: anybody may read that clock. */
#ifndef IDEMD_CLOCK_H
#define IDEMD_CLOCK_H

#include <stdint.h>

#include "daemon/base/host.h"

/* How the wall clock stood to the retention clock, in stretches of time in which it was not set. The wall clock may
 * have been years ahead once, and is right now: a time that it showed says how long ago that was only together with the
 * stretch in which it was shown. A clear struct is for a clock that was never set, and is not noted yet. */
enum { CLOCK_STRETCHES = 8 };
struct clock_past {
    uint64_t count;
    uint64_t noted_ms; /* retention clock, when it was noted last */
    struct clock_stretch {
        uint64_t from_ms, to_ms; /* wall times that it may have shown; UINT64_MAX: it goes on */
        int64_t ahead_ms;        /* of the wall clock the retention clock was, at the least */
    } stretches[CLOCK_STRETCHES];
};

/* At retention_ms the wall clock shows wall_ms. In order of the retention clock. */
void clock_past_note(struct clock_past *past, uint64_t retention_ms, uint64_t wall_ms);
/* Everything is possible: the past of a store that says nothing of it. */
void clock_past_unknown(struct clock_past *past);

/* In milliseconds, but for boot_ns. */
struct now {
    uint64_t boot_ms;              /* CLOCK_BOOTTIME: leases and waits; unmoved by setting the wall clock */
    uint64_t wall_ms;              /* CLOCK_REALTIME, Unix time: what people read */
    uint64_t retention_ms;         /* never goes back: when outcomes expire. Near Unix time */
    const struct clock_past *past; /* NULL: the wall clock was never set */
    uint64_t boot_ns;              /* boot_ms, but finer: for what is shorter than a millisecond */
};

/* It is now this late, at the latest, for somebody who read the wall clock when it showed shown_ms, and counted on from
 * there: what the wall clock shows, or more where it was set back since. */
uint64_t clock_latest(const struct now *now, uint64_t shown_ms);

/* The start of 2020: a wall clock before it was never set. */
#define CLOCK_UNSET_BEFORE_MS 1577836800000
/* The start of 2200: a wall clock from it on is wrong. Numbers that follow the clock are below 2^53 until 2242. */
#define CLOCK_WRONG_FROM_MS 7258118400000

/* Where the retention clock stood at a moment that is on disk. */
struct clock_mark {
    uint64_t retention_ms;
    uint64_t wall_ms;
    uint64_t boot_ms;
    uint8_t boot_id[HOST_ID_BYTES]; /* zeros where unknown */
};

/* How far a retention clock that stood at `mark` has got at `here` (whose retention_ms is not looked at). Within one
 * boot (same nonzero boot id) it advances with CLOCK_BOOTTIME; over a reboot it takes the wall clock's advance, at
 * least 0 and at most reboot_ms_max. Never less than mark->retention_ms. Pure. */
uint64_t clock_retention(const struct clock_mark *mark, const struct clock_mark *here, uint64_t reboot_ms_max);

/* A running clock: retention advances with CLOCK_BOOTTIME from where it was set. */
struct clock {
    uint64_t retention_minus_boot_ms; /* modulo 2^64 */
    uint64_t wall_minus_boot_ms;      /* as last told; moves when the wall clock was set, not for rounding */
    struct clock_past past;
};

/* Reads boot time, wall time and boot id now; retention_ms is 0. */
void clock_read_mark(struct clock_mark *mark);
/* Starts at `retention_ms` as of boot time `boot_ms`, and goes on from this past. */
void clock_start(struct clock *clock, uint64_t retention_ms, uint64_t boot_ms, const struct clock_past *past);
/* The three together: between two readings all advance alike, unless the wall clock was set. `past` is the clock's. */
struct now clock_now(struct clock *clock);

/* CLOCK_MONOTONIC, in nanoseconds: for the difference of two readings. On any thread; never 0. */
uint64_t clock_read_ns(void);

#endif
