/* The table against what should be in it: growing and shrinking, a bucket at a time. */
#include "daemon/base/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { OWNERS = 5000, STEPS = 200000 };

struct owner {
    struct table_entry entry;
    uint32_t hash;
    int in;
};

/* xorshift64: the same numbers in every run. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int finds(const struct table *table, const struct owner *owner)
{
    const struct table_entry *entry = table_first(table, owner->hash);

    while (entry && entry != &owner->entry)
        entry = table_next(entry);
    return entry != NULL;
}

static void count_entry(void *context, struct table_entry *entry)
{
    uint32_t *in = context;

    --*in;
    memset(entry, 0xff, sizeof *entry); /* it may be freed */
}

static void empty_finds_nothing(void **state)
{
    struct table table = {0};

    (void)state;
    assert_null(table_first(&table, 17));
    assert_int_equal(table_memory_bytes(&table), 0);
    table_check(&table);
    table_free(&table);
}

/* Comes and goes at random, more coming in the first half and more going in the second. Hashes are few enough that many
 * share one. */
static void finds_what_is_in_it(void **state)
{
    struct owner *owners = calloc(OWNERS, sizeof *owners);
    struct table table = {0};
    uint64_t random = 88172645463325252u;
    uint32_t in = 0;

    (void)state;
    assert_non_null(owners);
    for (uint32_t i = 0; i < OWNERS; i++)
        owners[i].hash = (uint32_t)random_next(&random) % (OWNERS / 2) * 0x9e3779b9u;
    for (uint32_t step = 0; step < STEPS; step++) {
        struct owner *owner = &owners[random_next(&random) % OWNERS];
        const int come = random_next(&random) % 100 < (step < STEPS / 2 ? 80u : 20u);

        assert_int_equal(finds(&table, owner), owner->in);
        if (come == owner->in)
            continue;
        if (come)
            table_add(&table, &owner->entry, owner->hash);
        else
            table_remove(&table, &owner->entry);
        owner->in = come;
        in += come ? 1 : -1u;
        assert_int_equal(table.entries, in);
        if (step % 1024 == 0)
            table_check(&table);
    }
    table_check(&table);
    table_clear(&table, count_entry, &in);
    assert_int_equal(in, 0);
    table_check(&table);
    free(owners);
}

/* However many there are, one more or less moves a few buckets at most, and they are neither too few nor too many. */
static void grows_and_shrinks_in_small_steps(void **state)
{
    enum { MANY = 300000 };
    struct owner *owners = calloc(MANY, sizeof *owners);
    struct table table = {0};
    uint64_t random = 88172645463325252u;

    (void)state;
    assert_non_null(owners);
    for (uint32_t i = 0; i < MANY; i++) {
        const uint32_t before = table.buckets;
        table_add(&table, &owners[i].entry, (uint32_t)random_next(&random));
        assert_true(before == 0 || table.buckets - before <= 1);
        assert_true(table.buckets >= table.entries);
    }
    table_check(&table);
    assert_int_equal(table.buckets, MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        const uint32_t before = table.buckets;
        table_remove(&table, &owners[i].entry);
        assert_true(before - table.buckets <= 4);
        if (i % 50000 == 0)
            table_check(&table);
    }
    assert_int_equal(table.entries, 0);
    assert_int_equal(table.buckets, 64);
    table_check(&table);
    table_free(&table);
    free(owners);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_finds_nothing),
        cmocka_unit_test(finds_what_is_in_it),
        cmocka_unit_test(grows_and_shrinks_in_small_steps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
