/* Reading clocks, and the rule by which retention goes on over a restart. */
#include "daemon/clock.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { READINGS_MAX = 8 }; /* of a clock, to get one that was not interrupted */

static uint64_t read_ms(clockid_t id)
{
    struct timespec time;

    clock_gettime(id, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
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

void clock_start(struct clock *clock, uint64_t retention_ms, uint64_t boot_ms)
{
    clock->retention_minus_boot_ms = retention_ms - boot_ms;
    clock->wall_minus_boot_ms = wall_minus_boot();
}

struct now clock_now(struct clock *clock)
{
    const uint64_t boot_ms = read_ms(CLOCK_BOOTTIME), offset_ms = wall_minus_boot();

    /* The two clocks are read one after the other, each rounded: a step of one is none. */
    if (offset_ms - clock->wall_minus_boot_ms + 1 > 2)
        clock->wall_minus_boot_ms = offset_ms;
    return (struct now){.boot_ms = boot_ms,
                        .wall_ms = boot_ms + clock->wall_minus_boot_ms,
                        .retention_ms = boot_ms + clock->retention_minus_boot_ms};
}

uint64_t clock_read_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}
