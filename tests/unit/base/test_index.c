/* The index against a plain array of entries, with tags that collide on purpose; and its size at a million. */
#include "daemon/base/index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct entry {
    uint64_t hash, value;
};

/* What the index is to be. */
struct naive {
    struct entry *entries;
    size_t count, capacity;
};

/* xorshift64*: the same numbers in every run. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717ull;
}

static void naive_add(struct naive *naive, uint64_t hash, uint64_t value)
{
    if (naive->count == naive->capacity) {
        naive->capacity = naive->capacity ? naive->capacity * 2 : 64;
        naive->entries = realloc(naive->entries, naive->capacity * sizeof *naive->entries);
        assert_non_null(naive->entries);
    }
    naive->entries[naive->count++] = (struct entry){hash, value};
}

/* Goes through the places of a hash, each of which is to be among the naive ones of the same tag, once. */
static void check_tag(const struct index *index, const struct naive *naive, uint64_t hash)
{
    struct index_cursor cursor = {0};
    uint64_t value, found = 0, expected = 0, sum = 0, expected_sum = 0;

    while ((value = index_find(index, hash, &cursor))) {
        found++;
        sum += value * value;
    }
    assert_int_equal(index_find(index, hash, &cursor), 0); /* the end is the end */
    for (size_t i = 0; i < naive->count; i++)
        if ((uint32_t)naive->entries[i].hash == (uint32_t)hash) {
            expected++;
            expected_sum += naive->entries[i].value * naive->entries[i].value;
        }
    assert_int_equal(found, expected);
    assert_int_equal(sum, expected_sum);
}

static void check_all(const struct index *index, const struct naive *naive)
{
    index_check(index);
    assert_int_equal(index_count(index), naive->count);
    for (size_t i = 0; i < naive->count; i++)
        check_tag(index, naive, naive->entries[i].hash);
}

static void empty_holds_nothing_and_costs_little(void **state)
{
    struct index *index = index_new();
    struct index_cursor cursor = {0};

    (void)state;
    assert_int_equal(index_count(index), 0);
    assert_int_equal(index_find(index, 0, &cursor), 0);
    assert_false(index_remove(index, 0, 1));
    assert_false(index_replace(index, 0, 1, 2));
    assert_true(index_memory_bytes(index) <= 20 * 1024);
    index_check(index);
    index_free(index);
    index_free(NULL);
}

static void an_entry_is_found_replaced_and_removed(void **state)
{
    struct index *index = index_new();
    struct index_cursor cursor = {0};

    (void)state;
    index_add(index, 0xfeedbeef12345678, 42);
    assert_int_equal(index_find(index, 0xfeedbeef12345678, &cursor), 42);
    assert_int_equal(index_find(index, 0xfeedbeef12345678, &cursor), 0);
    assert_false(index_replace(index, 0xfeedbeef12345678, 41, 43));
    assert_false(index_replace(index, 0xfeedbeef12345679, 42, 43));
    assert_true(index_replace(index, 0xfeedbeef12345678, 42, UINT64_MAX));
    assert_false(index_remove(index, 0xfeedbeef12345678, 42));
    assert_int_equal(index_count(index), 1);
    assert_true(index_remove(index, 0xfeedbeef12345678, UINT64_MAX));
    assert_false(index_remove(index, 0xfeedbeef12345678, UINT64_MAX));
    assert_int_equal(index_count(index), 0);
    index_check(index);
    index_free(index);
}

/* Two hundred of one tag: a chain of forty buckets that no split can shorten. */
static void equal_tags_stand_beside_each_other(void **state)
{
    enum { EQUAL = 200 };
    static const uint64_t tag = 0x9abcdef0;
    struct index *index = index_new();
    struct naive naive = {0};

    (void)state;
    for (uint64_t i = 1; i <= EQUAL; i++) {
        index_add(index, i << 32 | tag, i);
        naive_add(&naive, i << 32 | tag, i);
        index_add(index, i << 32 | i, 1000 + i); /* and others, so that it grows */
        naive_add(&naive, i << 32 | i, 1000 + i);
    }
    check_all(index, &naive);
    /* From the front, so that what is left stands at the chain's end. */
    for (uint64_t i = 1; i < EQUAL; i++)
        assert_true(index_remove(index, i << 32 | tag, i));
    index_check(index);
    struct index_cursor cursor = {0};
    assert_int_equal(index_find(index, tag, &cursor), EQUAL);
    assert_int_equal(index_find(index, tag, &cursor), 0);
    /* Buckets that were let go are used again. */
    const size_t before = index_memory_bytes(index);
    for (uint64_t i = 1; i < EQUAL; i++)
        index_add(index, i << 32 | tag, i);
    check_all(index, &naive);
    assert_int_equal(index_memory_bytes(index), before);
    index_free(index);
    free(naive.entries);
}

/* Hashes of few tags, so that adding, replacing and removing meet chains, empty and full buckets. */
static void random_steps(uint64_t seed, uint64_t tags, uint64_t keep)
{
    struct index *index = index_new();
    struct naive naive = {0};

    for (uint64_t step = 1; step <= 8000; step++) {
        const uint64_t number = random_next(&seed);
        const size_t at = naive.count ? (size_t)(number >> 20) % naive.count : 0;
        struct entry *entry = naive.count ? &naive.entries[at] : NULL;

        if (!entry || (number % 10 < 5 && naive.count < keep) || number % 10 < 2) {
            const uint64_t hash = (number >> 8) % tags * 0x9e3779b1u | number << 40;
            index_add(index, hash, step);
            naive_add(&naive, hash, step);
        } else if (number % 10 < 7) {
            assert_true(index_remove(index, entry->hash, entry->value));
            assert_false(index_remove(index, entry->hash, entry->value));
            *entry = naive.entries[--naive.count];
        } else {
            assert_true(index_replace(index, entry->hash, entry->value, 1000000 + step));
            entry->value = 1000000 + step;
        }
        check_tag(index, &naive, number);
        if (naive.count)
            check_tag(index, &naive, naive.entries[number % naive.count].hash);
        if (step % 1000 == 0)
            check_all(index, &naive);
    }
    while (naive.count) {
        naive.count--;
        assert_true(index_remove(index, naive.entries[naive.count].hash, naive.entries[naive.count].value));
    }
    check_all(index, &naive);
    index_free(index);
    free(naive.entries);
}

static void random_steps_with_many_tags(void **state)
{
    (void)state;
    random_steps(1, 1u << 31, 2000);
}

static void random_steps_with_few_tags(void **state)
{
    (void)state;
    random_steps(2, 40, 600);
}

static void random_steps_around_empty(void **state)
{
    (void)state;
    random_steps(3, 7, 12);
}

static uint64_t hash_of(uint64_t i)
{
    uint64_t seed = i * 0x9e3779b97f4a7c15ull + 1;

    return random_next(&seed);
}

/* A million (a tenth under the sanitizers): everything found, and at most twenty bytes an entry all the way. */
static void a_million_in_twenty_bytes_each(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    enum { MANY = 100 * 1000 };
#else
    enum { MANY = 1000 * 1000 };
#endif
    struct index *index = index_new();

    (void)state;
    for (uint64_t i = 1; i <= MANY; i++) {
        index_add(index, hash_of(i), i);
        if (i >= 10000 && i % 10000 == 0)
            assert_true(index_memory_bytes(index) <= i * 20);
    }
    index_check(index);
    assert_int_equal(index_count(index), MANY);
    for (uint64_t i = 1; i <= MANY; i++) {
        struct index_cursor cursor = {0};
        uint64_t value;
        while ((value = index_find(index, hash_of(i), &cursor)) != i)
            assert_int_not_equal(value, 0);
    }
    for (uint64_t i = 1; i <= MANY; i += 2)
        assert_true(index_remove(index, hash_of(i), i));
    index_check(index);
    assert_int_equal(index_count(index), MANY / 2);
    /* What was removed makes room for what comes. */
    const size_t before = index_memory_bytes(index);
    for (uint64_t i = 1; i <= MANY; i += 2)
        index_add(index, hash_of(MANY + i), MANY + i);
    index_check(index);
    assert_true(index_memory_bytes(index) <= before + before / 20);
    index_free(index);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_holds_nothing_and_costs_little),
        cmocka_unit_test(an_entry_is_found_replaced_and_removed),
        cmocka_unit_test(equal_tags_stand_beside_each_other),
        cmocka_unit_test(random_steps_with_many_tags),
        cmocka_unit_test(random_steps_with_few_tags),
        cmocka_unit_test(random_steps_around_empty),
        cmocka_unit_test(a_million_in_twenty_bytes_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
