/* The bench's histogram: every bucket's edges, and how far a quantile may be off. */
#include "bench/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct histogram histogram;

static int set_up(void **state)
{
    (void)state;
    memset(&histogram, 0, sizeof histogram);
    return 0;
}

/* The largest value of the bucket that `value` is in: seen where a larger one is there as well. */
static uint64_t top_of_bucket_of(uint64_t value)
{
    memset(&histogram, 0, sizeof histogram);
    histogram_add(&histogram, value);
    histogram_add(&histogram, UINT64_MAX);
    return histogram_quantile(&histogram, 0.5);
}

static void nothing_gives_zero(void **state)
{
    (void)state;
    assert_int_equal(histogram_quantile(&histogram, 0), 0);
    assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
    assert_int_equal(histogram_quantile(&histogram, 1), 0);
}

static void one_value_is_every_quantile(void **state)
{
    static const uint64_t values[] = {0, 1, 63, 64, 127, 128, 129, 1000000007, UINT64_MAX - 1, UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        memset(&histogram, 0, sizeof histogram);
        histogram_add(&histogram, values[i]);
        assert_int_equal(histogram.count, 1);
        assert_int_equal(histogram_quantile(&histogram, 0), values[i]);
        assert_int_equal(histogram_quantile(&histogram, 0.5), values[i]);
        assert_int_equal(histogram_quantile(&histogram, 1), values[i]);
    }
}

/* Goes from bucket to bucket: the value after a bucket's last is the next one's first. */
static void every_bucket_has_its_edges(void **state)
{
    uint64_t first = 0, top;
    uint32_t buckets = 0;

    (void)state;
    for (;; first = top + 1, buckets++) {
        top = top_of_bucket_of(first);
        assert_true(top >= first);
        assert_int_equal(top_of_bucket_of(top), top);
        /* No wider than a 64th of what is in it. */
        assert_true(top - first <= first / 64);
        if (top == UINT64_MAX)
            break;
    }
    assert_int_equal(buckets + 1, HISTOGRAM_BUCKETS);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    for (uint64_t value = 0; value < 128; value++)
        assert_int_equal(top_of_bucket_of(value), value);
    assert_int_equal(top_of_bucket_of(128), 129);
}

/* Against the sorted values themselves: never below, and at most a 64th above. */
static void quantiles_are_within_their_bound(void **state)
{
    enum { VALUES = 10000 };
    static const double parts[] = {0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1};
    uint64_t value = 1, sorted[VALUES];

    (void)state;
    for (int i = 0; i < VALUES; i++) {
        sorted[i] = value;
        histogram_add(&histogram, value);
        value += value / 400 + 1;
    }
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const uint64_t exact = sorted[(int)(parts[i] * VALUES + 0.5) - 1];
        const uint64_t read = histogram_quantile(&histogram, parts[i]);
        assert_true(read >= exact);
        assert_true(read - exact <= exact / 64);
    }
}

static void a_quantile_is_never_above_the_most(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++)
        histogram_add(&histogram, 1000000);
    histogram_add(&histogram, 1000001);
    assert_int_equal(histogram_quantile(&histogram, 1), 1000001);
    assert_int_equal(histogram_quantile(&histogram, 0.5), 1000001);
}

static void rare_values_show_only_in_the_tail(void **state)
{
    (void)state;
    for (int i = 0; i < 999; i++)
        histogram_add(&histogram, 10);
    histogram_add(&histogram, 100);
    assert_int_equal(histogram_quantile(&histogram, 0.5), 10);
    assert_int_equal(histogram_quantile(&histogram, 0.999), 10);
    assert_int_equal(histogram_quantile(&histogram, 0.9999), 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_gives_zero, set_up),
        cmocka_unit_test_setup(one_value_is_every_quantile, set_up),
        cmocka_unit_test_setup(every_bucket_has_its_edges, set_up),
        cmocka_unit_test_setup(small_values_are_exact, set_up),
        cmocka_unit_test_setup(quantiles_are_within_their_bound, set_up),
        cmocka_unit_test_setup(a_quantile_is_never_above_the_most, set_up),
        cmocka_unit_test_setup(rare_values_show_only_in_the_tail, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
