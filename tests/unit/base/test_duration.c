/* The buckets of durations against a search through their edges, at, before and after each; and the sample. */
#include "daemon/base/duration.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t edge_ns(unsigned bucket)
{
    static const uint64_t steps[] = {1, 2, 5};
    uint64_t ns = 10000;

    for (unsigned i = 0; i < bucket / 3; i++)
        ns *= 10;
    return ns * steps[bucket % 3];
}

static unsigned bucket_by_search(uint64_t ns)
{
    unsigned bucket = 0;

    while (bucket < DURATION_EDGES && ns > edge_ns(bucket))
        bucket++;
    return bucket;
}

static uint64_t count_of(const struct durations *durations)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < DURATION_BUCKETS; i++)
        count += durations->buckets[i];
    return count;
}

/* Adds one, which has to be in its bucket and in no other. */
static void check_one(uint64_t ns)
{
    struct durations durations = {0};

    durations_add(&durations, ns);
    assert_int_equal(durations.buckets[bucket_by_search(ns)], 1);
    assert_int_equal(count_of(&durations), 1);
    assert_int_equal(durations.sum_ns, ns);
}

static void an_edge_is_under_itself(void **state)
{
    (void)state;
    for (unsigned i = 0; i < DURATION_EDGES; i++) {
        assert_int_equal(bucket_by_search(edge_ns(i)), i);
        check_one(edge_ns(i) - 1);
        check_one(edge_ns(i));
        check_one(edge_ns(i) + 1);
    }
    assert_int_equal(edge_ns(DURATION_EDGES - 1), 10000000000ull);
}

static void the_least_and_the_most(void **state)
{
    (void)state;
    check_one(0);
    check_one(1);
    check_one(UINT64_MAX - 1);
    check_one(UINT64_MAX);
    assert_int_equal(bucket_by_search(0), 0);
    assert_int_equal(bucket_by_search(UINT64_MAX), DURATION_BUCKETS - 1);
}

static void around_every_power_of_two(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        check_one((1ull << bit) - 1);
        check_one(1ull << bit);
        check_one((1ull << bit) + 1);
    }
}

/* From a microsecond upwards in steps that grow with it, over every edge. */
static void everything_is_counted_once(void **state)
{
    struct durations durations = {0};
    uint64_t counts[DURATION_BUCKETS] = {0}, count = 0, sum_ns = 0;

    (void)state;
    for (uint64_t ns = 0; ns < 20000000000ull; ns += 1000 + ns / 1000, count++) {
        durations_add(&durations, ns);
        counts[bucket_by_search(ns)]++;
        sum_ns += ns;
    }
    for (unsigned i = 0; i < DURATION_BUCKETS; i++) {
        assert_int_equal(durations.buckets[i], counts[i]);
        assert_int_not_equal(counts[i], 0);
    }
    assert_int_equal(count_of(&durations), count);
    assert_int_equal(durations.sum_ns, sum_ns);
}

/* In seconds, with a point or an exponent, and no longer than it need be. */
static void edges_are_written_as_openmetrics_has_them(void **state)
{
    char shortest[32];

    (void)state;
    for (unsigned i = 0; i < DURATION_EDGES; i++) {
        snprintf(shortest, sizeof shortest, "%g", (double)edge_ns(i) / 1e9);
        if (!strpbrk(shortest, ".e"))
            strcat(shortest, ".0");
        assert_string_equal(durations_edge(i), shortest);
        assert_true(strtod(durations_edge(i), NULL) == (double)edge_ns(i) / 1e9);
    }
    assert_string_equal(durations_edge(DURATION_EDGES), "+Inf");
}

static void the_first_is_timed_and_then_one_in_so_many(void **state)
{
    struct durations_sampled sampled = {0};

    (void)state;
    for (unsigned i = 0; i < 10 * DURATION_SAMPLE; i++) {
        const uint64_t began_ns = durations_sampled_begin(&sampled);
        assert_int_equal(began_ns != 0, i % DURATION_SAMPLE == 0);
        durations_sampled_end(&sampled, began_ns);
        assert_int_equal(count_of(&sampled.durations), i / DURATION_SAMPLE + 1);
    }
}

/* A record and its values are read one after the other: all are timed as often. */
static void what_takes_turns_is_timed_alike(void **state)
{
    (void)state;
    for (unsigned turns = 2; turns <= 4; turns++) {
        struct durations_sampled sampled = {0};
        unsigned timed[4] = {0};
        for (unsigned i = 0; i < turns * DURATION_SAMPLE * 10; i++)
            timed[i % turns] += durations_sampled_begin(&sampled) != 0;
        for (unsigned i = 0; i < turns; i++)
            assert_int_equal(timed[i], 10);
    }
}

static void without_a_sample_nothing_is_timed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * DURATION_SAMPLE; i++) {
        const uint64_t began_ns = durations_sampled_begin(NULL);
        assert_int_equal(began_ns, 0);
        durations_sampled_end(NULL, began_ns);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_edge_is_under_itself),
        cmocka_unit_test(the_least_and_the_most),
        cmocka_unit_test(around_every_power_of_two),
        cmocka_unit_test(everything_is_counted_once),
        cmocka_unit_test(edges_are_written_as_openmetrics_has_them),
        cmocka_unit_test(the_first_is_timed_and_then_one_in_so_many),
        cmocka_unit_test(what_takes_turns_is_timed_alike),
        cmocka_unit_test(without_a_sample_nothing_is_timed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
