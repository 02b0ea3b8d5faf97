/* Reading clocks, and the rule by which retention goes on over a restart. */
#include "daemon/base/clock.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { READINGS_MAX = 8 }; /* of a clock, to get one that was not interrupted */

enum { NS_A_MS = 1000000 };

static uint64_t read_ns(clockid_t id)
{
    struct timespec time;

    clock_gettime(id, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t read_ms(clockid_t id)
{
    return read_ns(id) / NS_A_MS;
}

static bool same_boot(const struct clock_mark *a, const struct clock_mark *b)
{
    return memcmp(a->boot_id, b->boot_id, sizeof a->boot_id) == 0 && host_id_known(a->boot_id);
}

uint64_t clock_retention(const struct clock_mark *mark, const struct clock_mark *here, uint64_t reboot_ms_max)
{
    uint64_t advance_ms;

    if (same_boot(mark, here)) {
        advance_ms = here->boot_ms > mark->boot_ms ? here->boot_ms - mark->boot_ms : 0;
    } else {
        advance_ms = here->wall_ms > mark->wall_ms ? here->wall_ms - mark->wall_ms : 0;
        if (advance_ms > reboot_ms_max)
            advance_ms = reboot_ms_max;
    }
    return mark->retention_ms + advance_ms;
}

/* ---- The past ---------------------------------------------------------------------- */

enum { SAME_MS = 1000 }; /* a clock that was set by less was not set */

static uint64_t distance(int64_t a, int64_t b)
{
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Makes room: the two neighbours that are most alike become one, which may have been either. */
static void join_two(struct clock_past *past)
{
    struct clock_stretch *at = past->stretches;
    unsigned best = 0;

    for (unsigned i = 1; i + 1 < past->count; i++)
        if (distance(at[i].ahead_ms, at[i + 1].ahead_ms) < distance(at[best].ahead_ms, at[best + 1].ahead_ms))
            best = i;
    at[best] = (struct clock_stretch){
        .from_ms = at[best].from_ms < at[best + 1].from_ms ? at[best].from_ms : at[best + 1].from_ms,
        .to_ms = at[best].to_ms > at[best + 1].to_ms ? at[best].to_ms : at[best + 1].to_ms,
        .ahead_ms = least(at[best].ahead_ms, at[best + 1].ahead_ms)};
    past->count--;
    memmove(at + best + 1, at + best + 2, (past->count - best - 1) * sizeof *at);
}

void clock_past_note(struct clock_past *past, uint64_t retention_ms, uint64_t wall_ms)
{
    const int64_t ahead_ms = (int64_t)(retention_ms - wall_ms);
    uint64_t from_ms = wall_ms;

    if (past->count > 0) {
        struct clock_stretch *last = &past->stretches[past->count - 1];

        if (distance(last->ahead_ms, ahead_ms) <= SAME_MS) {
            last->ahead_ms = least(last->ahead_ms, ahead_ms);
            past->noted_ms = retention_ms;
            return;
        }
        /* It was set at some time since it was noted last: each of the two may have gone on for all of that. */
        last->to_ms = retention_ms - (uint64_t)last->ahead_ms;
        from_ms = ahead_ms > 0 && past->noted_ms < (uint64_t)ahead_ms ? 0 : past->noted_ms - (uint64_t)ahead_ms;
    }
    if (past->count == CLOCK_STRETCHES)
        join_two(past);
    past->stretches[past->count++] = (struct clock_stretch){from_ms, UINT64_MAX, ahead_ms};
    past->noted_ms = retention_ms;
}

void clock_past_unknown(struct clock_past *past)
{
    *past = (struct clock_past){.count = 1, .stretches = {{0, UINT64_MAX, 0}}};
}

uint64_t clock_latest(const struct now *now, uint64_t shown_ms)
{
    uint64_t latest_ms = now->wall_ms;

    for (unsigned i = 0; now->past && i < now->past->count; i++) {
        const struct clock_stretch *stretch = &now->past->stretches[i];
        const uint64_t then_ms = now->retention_ms - (uint64_t)stretch->ahead_ms;

        if (shown_ms >= stretch->from_ms && shown_ms <= stretch->to_ms && then_ms > latest_ms)
            latest_ms = then_ms;
    }
    return latest_ms;
}

/* ---- Reading ----------------------------------------------------------------------- */

void clock_read_mark(struct clock_mark *mark)
{
    *mark = (struct clock_mark){.wall_ms = read_ms(CLOCK_REALTIME), .boot_ms = read_ms(CLOCK_BOOTTIME)};
    host_boot_id(mark->boot_id);
}

/* Whoever is stopped between the two readings reads again: else the wall clock would look as if it had been set. */
static uint64_t wall_minus_boot(void)
{
    uint64_t boot_ms = read_ms(CLOCK_BOOTTIME), wall_ms = 0;

    for (int i = 0; i < READINGS_MAX; i++) {
        const uint64_t before_ms = boot_ms;
        wall_ms = read_ms(CLOCK_REALTIME);
        boot_ms = read_ms(CLOCK_BOOTTIME);
        if (boot_ms == before_ms)
            return wall_ms - before_ms;
    }
    return wall_ms - boot_ms;
}

static struct now now_at(const struct clock *clock, uint64_t boot_ms)
{
    return (struct now){.boot_ms = boot_ms,
                        .wall_ms = boot_ms + clock->wall_minus_boot_ms,
                        .retention_ms = boot_ms + clock->retention_minus_boot_ms,
                        .past = &clock->past};
}

/* The wall clock was set. */
static void set_offset(struct clock *clock, uint64_t boot_ms, uint64_t offset_ms)
{
    clock->wall_minus_boot_ms = offset_ms;
    const struct now now = now_at(clock, boot_ms);
    clock_past_note(&clock->past, now.retention_ms, now.wall_ms);
}

void clock_start(struct clock *clock, uint64_t retention_ms, uint64_t boot_ms, const struct clock_past *past)
{
    clock->retention_minus_boot_ms = retention_ms - boot_ms;
    clock->past = *past;
    set_offset(clock, boot_ms, wall_minus_boot());
}

struct now clock_now(struct clock *clock)
{
    const uint64_t boot_ns = read_ns(CLOCK_BOOTTIME), boot_ms = boot_ns / NS_A_MS, offset_ms = wall_minus_boot();
    struct now now;

    /* The two clocks are read one after the other, each rounded: a step of one is none. */
    if (offset_ms - clock->wall_minus_boot_ms + 1 > 2)
        set_offset(clock, boot_ms, offset_ms);
    clock->past.noted_ms = boot_ms + clock->retention_minus_boot_ms;
    now = now_at(clock, boot_ms);
    now.boot_ns = boot_ns;
    return now;
}

uint64_t clock_read_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}
