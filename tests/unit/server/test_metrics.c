/* What Stats shows of the daemon as a whole: names and helps, histograms as Prometheus takes them, and numbers that are
 * still the same as a double. */
#include "daemon/server/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EXACT_MAX (UINT64_C(1) << 53) /* every whole number up to this has a double of its own */

struct seen {
    const char *name, *labels[2][2], *help;
    double value;
};
struct sight {
    struct seen seen[METRICS_MAX];
    size_t count;
};

static void look(void *context, const char *name, const char *label_name, const char *label_value,
                 const char *label2_name, const char *label2_value, double value, const char *help)
{
    struct sight *sight = context;

    assert_true(sight->count < METRICS_MAX);
    sight->seen[sight->count++] =
        (struct seen){name, {{label_name, label_value}, {label2_name, label2_value}}, help, value};
}

static void look_at(struct sight *sight, const struct metrics *metrics, const struct metrics_gauges *gauges)
{
    sight->count = 0;
    metrics_each(metrics, gauges, look, sight);
}

static bool ends_in(const char *text, const char *end)
{
    return strlen(text) >= strlen(end) && strcmp(text + strlen(text) - strlen(end), end) == 0;
}

static const struct seen *find(const struct sight *sight, const char *name)
{
    for (size_t i = 0; i < sight->count; i++)
        if (strcmp(sight->seen[i].name, name) == 0)
            return &sight->seen[i];
    return NULL;
}

/* Everything that is counted, each a number of its own, the largest that are exact. */
static void fill(struct metrics *metrics, struct metrics_gauges *gauges)
{
    uint64_t *const numbers[] = {(uint64_t *)(void *)metrics, (uint64_t *)(void *)gauges};
    const size_t sizes[] = {offsetof(struct metrics, queue_wait), sizeof *gauges};
    uint64_t next = EXACT_MAX;

    memset(metrics, 0, sizeof *metrics);
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < sizes[k] / sizeof(uint64_t); i++)
            numbers[k][i] = next--;
}

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static void everything_is_named_once_and_explained(void **state)
{
    struct metrics metrics;
    struct metrics_gauges gauges;
    struct sight sight;

    (void)state;
    fill(&metrics, &gauges);
    look_at(&sight, &metrics, &gauges);
    for (size_t i = 0; i < sight.count; i++) {
        const struct seen *seen = &sight.seen[i];
        assert_int_equal(strncmp(seen->name, "idemd_", 6), 0);
        assert_int_equal(strspn(seen->name, "abcdefghijklmnopqrstuvwxyz_"), strlen(seen->name));
        assert_true(strlen(seen->help) > 0);
        for (size_t k = 0; k < i; k++)
            assert_false(same_text(seen->name, sight.seen[k].name) &&
                         same_text(seen->labels[0][1], sight.seen[k].labels[0][1]) &&
                         same_text(seen->labels[1][1], sight.seen[k].labels[1][1]));
    }
}

/* As it is and as `idem stats` writes it. */
static void counts_are_exact_as_doubles(void **state)
{
    struct metrics metrics;
    struct metrics_gauges gauges;
    struct sight sight;
    uint64_t exact = 0;

    (void)state;
    fill(&metrics, &gauges);
    look_at(&sight, &metrics, &gauges);
    for (size_t i = 0; i < sight.count; i++) {
        char text[64];
        snprintf(text, sizeof text, "%.17g", sight.seen[i].value);
        assert_true(strtod(text, NULL) == sight.seen[i].value);
        if (!strstr(sight.seen[i].name, "_seconds_")) {
            assert_true(sight.seen[i].value > (double)(EXACT_MAX - METRICS_MAX));
            exact += (uint64_t)sight.seen[i].value;
        }
    }
    /* All were different, and no two have become the same: the sum is that of what was put in, less begins[0]. */
    uint64_t sum = 0;
    for (size_t i = 0; i < offsetof(struct metrics, queue_wait) / 8 + sizeof gauges / 8; i++)
        sum += EXACT_MAX - i;
    assert_int_equal(exact, sum - metrics.begins[0]);
    /* The largest that an option or a clock can bring: the quota in bytes, and Unix time for a thousand years. */
    assert_true(4096ull << 30 < EXACT_MAX);
    assert_true(1000ull * 366 * 86400 * 1000 < EXACT_MAX);
}

static const struct {
    const char *name;
    size_t offset;
} expected[METRICS_HISTOGRAMS] = {
    {"idemd_queue_wait_seconds", offsetof(struct metrics, queue_wait)},
    {"idemd_flush_seconds", offsetof(struct metrics, flush)},
    {"idemd_apply_seconds", offsetof(struct metrics, apply)},
    {"idemd_cold_read_seconds", offsetof(struct metrics, cold_read.durations)},
    {"idemd_loop_turn_seconds", offsetof(struct metrics, loop_turn)},
};

/* Buckets lie one after the other, then sum and count. */
static void check_histogram(const struct sight *sight, const char *name, const struct durations *durations)
{
    char whole[64];
    double edge = 0, count = 0;

    snprintf(whole, sizeof whole, "%s_bucket", name);
    const struct seen *at = find(sight, whole);
    assert_non_null(at);
    const char *help = at->help;
    for (unsigned i = 0; i < DURATION_BUCKETS; i++, at++) {
        assert_string_equal(at->name, whole);
        assert_string_equal(at->labels[0][0], "le");
        assert_null(at->labels[1][0]);
        assert_true(strtod(at->labels[0][1], NULL) > edge);
        edge = strtod(at->labels[0][1], NULL);
        assert_true(at->value == count + (double)durations->buckets[i]);
        count = at->value;
        assert_string_equal(at->help, help);
    }
    assert_true(isinf(edge));
    assert_string_equal(at[-1].labels[0][1], "+Inf");
    snprintf(whole, sizeof whole, "%s_sum", name);
    assert_string_equal(at->name, whole);
    assert_true(at->value == (double)durations->sum_ns / 1e9);
    snprintf(whole, sizeof whole, "%s_count", name);
    assert_string_equal(at[1].name, whole);
    assert_true(at[1].value == count);
    assert_null(at->labels[0][0]);
    assert_null(at[1].labels[0][0]);
    assert_string_equal(at[1].help, help);
}

static void histograms_are_cumulative(void **state)
{
    struct metrics metrics = {0};
    const struct metrics_gauges gauges = {0};
    struct sight sight;
    uint64_t ns = 1;

    (void)state;
    for (size_t i = 0; i < METRICS_HISTOGRAMS; i++) {
        struct durations *durations = (void *)((char *)&metrics + expected[i].offset);
        for (unsigned k = 0; k < 50 * (i + 1); k++, ns = ns * 7 % 99999999977)
            durations_add(durations, ns);
    }
    look_at(&sight, &metrics, &gauges);
    for (size_t i = 0; i < METRICS_HISTOGRAMS; i++)
        check_histogram(&sight, expected[i].name, (const void *)((const char *)&metrics + expected[i].offset));
}

static void histograms_are_there_before_anything_happened(void **state)
{
    const struct metrics metrics = {0};
    const struct metrics_gauges gauges = {0};
    struct sight sight;
    size_t buckets = 0;

    (void)state;
    look_at(&sight, &metrics, &gauges);
    for (size_t i = 0; i < METRICS_HISTOGRAMS; i++)
        check_histogram(&sight, expected[i].name, &(struct durations){0});
    for (size_t i = 0; i < sight.count; i++)
        buckets += ends_in(sight.seen[i].name, "_bucket");
    assert_int_equal(buckets, METRICS_HISTOGRAMS * DURATION_BUCKETS);
}

static void sums_are_in_seconds(void **state)
{
    struct metrics metrics = {0};
    const struct metrics_gauges gauges = {0};
    struct sight sight;

    (void)state;
    durations_add(&metrics.flush, 1500000000);
    durations_add(&metrics.flush, 250000);
    look_at(&sight, &metrics, &gauges);
    assert_true(find(&sight, "idemd_flush_seconds_sum")->value == 1.50025);
    assert_true(find(&sight, "idemd_flush_seconds_count")->value == 2);
    assert_true(find(&sight, "idemd_apply_seconds_sum")->value == 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_named_once_and_explained),
        cmocka_unit_test(counts_are_exact_as_doubles),
        cmocka_unit_test(histograms_are_cumulative),
        cmocka_unit_test(histograms_are_there_before_anything_happened),
        cmocka_unit_test(sums_are_in_seconds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
