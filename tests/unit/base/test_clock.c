/* The retention clock's one rule, in every case; and that the clocks read are the ones that were meant. */
#include "daemon/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { HOUR_MS = 3600 * 1000 };

static struct clock_mark mark_at(uint64_t wall_ms, uint64_t boot_ms, uint8_t boot)
{
    struct clock_mark mark = {.retention_ms = 5000000, .wall_ms = wall_ms, .boot_ms = boot_ms};

    memset(mark.boot_id, boot, sizeof mark.boot_id);
    return mark;
}

static uint64_t advance(struct clock_mark mark, struct clock_mark here)
{
    const uint64_t retention_ms = clock_retention(&mark, &here, HOUR_MS);

    assert_true(retention_ms >= mark.retention_ms);
    return retention_ms - mark.retention_ms;
}

static void within_a_boot_it_goes_with_boot_time(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 100, 1)), 0);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 101, 1)), 1);
    /* The wall clock counts for nothing, forwards or backwards, and neither does the limit. */
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(9000000, 107, 1)), 7);
    assert_int_equal(advance(mark_at(9000000, 100, 1), mark_at(1000, 107, 1)), 7);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 100 + 10ull * HOUR_MS, 1)), 10ull * HOUR_MS);
}

static void it_does_not_go_back_within_a_boot(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 99, 1)), 0);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 0, 1)), 0);
}

static void over_a_reboot_it_takes_the_wall_clocks_advance(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000, 100, 2)), 0);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1001, 7, 2)), 1);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(61000, 90000, 2)), 60000);
}

static void over_a_reboot_at_most_so_much(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000 + HOUR_MS - 1, 5, 2)), HOUR_MS - 1);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000 + HOUR_MS, 5, 2)), HOUR_MS);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1000 + HOUR_MS + 1, 5, 2)), HOUR_MS);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(UINT64_MAX, 5, 2)), HOUR_MS);
}

static void it_does_not_go_back_over_a_reboot(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(999, 200, 2)), 0);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(0, 200, 2)), 0);
}

/* Two unknown boots are not the same boot: boot times of different boots say nothing about each other. */
static void an_unknown_boot_is_another_boot(void **state)
{
    (void)state;
    assert_int_equal(advance(mark_at(1000, 100, 0), mark_at(1005, 900, 0)), 5);
    assert_int_equal(advance(mark_at(1000, 100, 1), mark_at(1005, 900, 0)), 5);
    assert_int_equal(advance(mark_at(1000, 100, 0), mark_at(1005, 900, 1)), 5);
    assert_int_equal(advance(mark_at(1000, 100, 0), mark_at(999, 900, 0)), 0);
}

static void one_differing_byte_is_another_boot(void **state)
{
    (void)state;
    for (size_t i = 0; i < 16; i++) {
        struct clock_mark here = mark_at(1003, 900, 1);
        here.boot_id[i] ^= 0x80;
        assert_int_equal(advance(mark_at(1000, 100, 1), here), 3);
    }
}

static uint64_t system_ms(clockid_t id)
{
    struct timespec time;

    assert_int_equal(clock_gettime(id, &time), 0);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void a_mark_is_of_now(void **state)
{
    static const uint8_t unknown[16];
    const uint64_t boot_ms = system_ms(CLOCK_BOOTTIME);
    struct clock_mark first, second;

    (void)state;
    memset(&first, 0xee, sizeof first);
    clock_read_mark(&first);
    clock_read_mark(&second);
    assert_in_range(first.boot_ms, boot_ms, system_ms(CLOCK_BOOTTIME));
    assert_true(second.boot_ms >= first.boot_ms);
    assert_true(first.wall_ms > 1600000000000ull);
    assert_int_equal(first.retention_ms, 0);
    assert_memory_equal(first.boot_id, second.boot_id, 16);
    assert_memory_not_equal(first.boot_id, unknown, 16);
}

static const struct clock_past never;

static void a_running_clock_goes_on_from_where_it_was_set(void **state)
{
    const uint64_t boot_ms = system_ms(CLOCK_BOOTTIME);
    struct clock clock;
    struct now now;

    (void)state;
    clock_start(&clock, 7000000000ull, boot_ms, &never);
    now = clock_now(&clock);
    assert_in_range(now.boot_ms, boot_ms, system_ms(CLOCK_BOOTTIME));
    assert_true(now.wall_ms > 1600000000000ull);
    assert_int_equal(now.retention_ms, 7000000000ull + (now.boot_ms - boot_ms));
    /* Set behind boot time: the difference is taken modulo 2^64. */
    clock_start(&clock, 3, boot_ms, &never);
    now = clock_now(&clock);
    assert_int_equal(now.retention_ms, 3 + (now.boot_ms - boot_ms));
}

/* What is told of one moment in Unix time is the same in every answer: no reading rounds it another way. */
static void readings_agree_on_the_time_between_the_clocks(void **state)
{
    struct clock clock;
    struct now first;
    int steps = 0;

    (void)state;
    clock_start(&clock, 0, system_ms(CLOCK_BOOTTIME), &never);
    first = clock_now(&clock);
    for (int i = 0; i < 20000; i++) {
        const struct now now = clock_now(&clock);
        steps += now.wall_ms - now.boot_ms != first.wall_ms - first.boot_ms;
        first = now;
    }
    assert_in_range(steps, 0, 1); /* a clock that is set, or slewed, meanwhile */
}

/* ---- The past ------------------------------------------------------------------------ */

#define HOUR_MS  UINT64_C(3600000)
#define YEARS_MS (UINT64_C(9) * 365 * 24 * HOUR_MS)
#define START_MS UINT64_C(1800000000000) /* retention clock */

/* How late it is for somebody who counts from when the wall clock showed that time. */
static uint64_t latest(const struct clock_past *past, uint64_t retention_ms, uint64_t wall_ms, uint64_t shown_ms)
{
    const struct now now = {.retention_ms = retention_ms, .wall_ms = wall_ms, .past = past};

    return clock_latest(&now, shown_ms);
}

static void a_clock_that_was_ahead_once_does_not_count_for_ever(void **state)
{
    struct clock_past past = {0};
    const uint64_t now_ms = START_MS + 2 * HOUR_MS, wall_ms = now_ms - YEARS_MS;

    (void)state;
    clock_past_note(&past, START_MS, START_MS); /* a store is made */
    clock_past_note(&past, START_MS + HOUR_MS, START_MS + HOUR_MS - YEARS_MS);
    assert_int_equal(past.count, 2);
    /* What was shown when it was right is as long ago as it seems; what it showed while it was ahead is not in the
     * future. */
    assert_int_equal(latest(&past, now_ms, wall_ms, wall_ms - HOUR_MS / 2), wall_ms);
    assert_int_equal(latest(&past, now_ms, wall_ms, START_MS + HOUR_MS / 2), now_ms);
    assert_int_equal(latest(&past, now_ms, wall_ms, START_MS - 1), wall_ms);
    assert_int_equal(latest(NULL, now_ms, wall_ms, START_MS), wall_ms);
}

static void what_was_shown_before_a_step_back_is_longer_ago(void **state)
{
    struct clock_past past = {0};
    const uint64_t now_ms = START_MS + 20 * HOUR_MS, wall_ms = now_ms - 5 * HOUR_MS;

    (void)state;
    clock_past_note(&past, START_MS, START_MS);
    clock_past_note(&past, START_MS + 10 * HOUR_MS, START_MS + 5 * HOUR_MS);
    /* Shown once, before; shown twice: the earlier counts; shown only since. */
    assert_int_equal(latest(&past, now_ms, wall_ms, START_MS + 2 * HOUR_MS), now_ms);
    assert_int_equal(latest(&past, now_ms, wall_ms, START_MS + 7 * HOUR_MS), now_ms);
    assert_int_equal(latest(&past, now_ms, wall_ms, START_MS + 11 * HOUR_MS), wall_ms);
}

static void of_an_unknown_past_the_later_clock_counts(void **state)
{
    struct clock_past past;

    (void)state;
    clock_past_unknown(&past);
    assert_int_equal(latest(&past, START_MS, START_MS - HOUR_MS, 7), START_MS);
    assert_int_equal(latest(&past, START_MS, START_MS + HOUR_MS, 7), START_MS + HOUR_MS);
    clock_past_note(&past, START_MS, START_MS - YEARS_MS);
    assert_int_equal(latest(&past, START_MS + 1, START_MS + 1 - YEARS_MS, START_MS - YEARS_MS), START_MS + 1);
}

/* More steps than there is room for: those that are alike are taken together, so that what is far off stays apart. */
static void many_steps_are_taken_together(void **state)
{
    struct clock_past past = {0};
    uint64_t now_ms = START_MS, ahead_ms = 0;

    (void)state;
    clock_past_note(&past, now_ms, now_ms);
    for (int i = 0; i < 50; i++) {
        now_ms += 20 * HOUR_MS;
        ahead_ms = YEARS_MS - (uint64_t)i * 5 * HOUR_MS; /* a machine that is off at night */
        clock_past_note(&past, now_ms, now_ms - ahead_ms);
        assert_true(past.count <= CLOCK_STRETCHES);
        const uint64_t wall_ms = now_ms + HOUR_MS - ahead_ms;
        assert_int_equal(latest(&past, now_ms + HOUR_MS, wall_ms, wall_ms - HOUR_MS), wall_ms);
        assert_int_equal(latest(&past, now_ms + HOUR_MS, wall_ms, START_MS + HOUR_MS), now_ms + HOUR_MS);
    }
}

static void slewing_is_no_step(void **state)
{
    struct clock_past past = {0};

    (void)state;
    for (uint64_t i = 0; i < 1000; i++)
        clock_past_note(&past, START_MS + i * HOUR_MS, START_MS + i * HOUR_MS - i % 800);
    assert_int_equal(past.count, 1);
}

static void nanoseconds_go_on(void **state)
{
    struct timespec time;
    uint64_t last_ns;

    (void)state;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &time), 0);
    last_ns = (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
    for (int i = 0; i < 1000; i++) {
        const uint64_t ns = clock_read_ns();
        assert_true(ns >= last_ns);
        last_ns = ns;
    }
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &time), 0);
    assert_true((uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec >= last_ns);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(within_a_boot_it_goes_with_boot_time),
        cmocka_unit_test(it_does_not_go_back_within_a_boot),
        cmocka_unit_test(over_a_reboot_it_takes_the_wall_clocks_advance),
        cmocka_unit_test(over_a_reboot_at_most_so_much),
        cmocka_unit_test(it_does_not_go_back_over_a_reboot),
        cmocka_unit_test(an_unknown_boot_is_another_boot),
        cmocka_unit_test(one_differing_byte_is_another_boot),
        cmocka_unit_test(a_mark_is_of_now),
        cmocka_unit_test(a_running_clock_goes_on_from_where_it_was_set),
        cmocka_unit_test(readings_agree_on_the_time_between_the_clocks),
        cmocka_unit_test(a_clock_that_was_ahead_once_does_not_count_for_ever),
        cmocka_unit_test(what_was_shown_before_a_step_back_is_longer_ago),
        cmocka_unit_test(of_an_unknown_past_the_later_clock_counts),
        cmocka_unit_test(many_steps_are_taken_together),
        cmocka_unit_test(slewing_is_no_step),
        cmocka_unit_test(nanoseconds_go_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
