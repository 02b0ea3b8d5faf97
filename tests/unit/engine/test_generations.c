/* The list of lives against a plain array: what comes and goes, in which order, and that no step moves many. */
#include "daemon/engine/generations.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 100000, STEPS = 300000, SQUEEZED_A_STEP = 8 };

/* Operations are only pointed to. */
static char expiry_keys[MOST];

static struct operation *operation_of(uint32_t number)
{
    return (struct operation *)(void *)&expiry_keys[number];
}

/* xorshift64: the same numbers in every run. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Goes through what is there, against what should be. */
static void check_order(const struct generations *generations, const bool *in, uint32_t next)
{
    uint32_t position = generations_find(generations, 0), there = 0;

    generations_check(generations);
    for (uint32_t number = 0; number < next; number++) {
        if (!in[number])
            continue;
        while (position < generations->count && !generations->at[position].operation)
            position = generations_next(generations, position);
        assert_true(position < generations->count);
        assert_int_equal(generations->at[position].generation, number + 1);
        assert_ptr_equal(generations->at[position].operation, operation_of(number));
        assert_int_equal(generations->at[generations_find(generations, number + 1)].generation, number + 1);
        position = generations_next(generations, position);
        there++;
    }
    assert_int_equal(generations_operations(generations), there);
}

static void keeps_their_order(void **state)
{
    bool *in = calloc(MOST, sizeof *in);
    struct generations generations = {0};
    uint64_t random = 88172645463325252u;
    uint32_t next = 0;

    (void)state;
    assert_non_null(in);
    for (uint32_t step = 0; step < STEPS; step++) {
        /* More come at first, and more go later. */
        const bool come = random_next(&random) % 100 < (step < STEPS / 3 ? 70u : 25u);
        const uint32_t from = generations.from, number = next ? (uint32_t)random_next(&random) % next : 0;

        if (come && next < MOST) {
            generations_append(&generations, next + 1, operation_of(next));
            in[next++] = true;
        } else if (in[number]) {
            generations_remove(&generations, number + 1, operation_of(number));
            in[number] = false;
        }
        assert_true(generations.from <= from + SQUEEZED_A_STEP);
        if (step % 4096 == 0)
            check_order(&generations, in, next);
    }
    check_order(&generations, in, next);
    generations_free(&generations);
    free(in);
}

/* Of very many, all but a few go. The holes are squeezed out in steps that are all short, and the memory is given back.
 */
static void no_step_moves_many(void **state)
{
    struct generations generations = {0};
    uint32_t capacity;

    (void)state;
    for (uint32_t i = 0; i < MOST; i++)
        generations_append(&generations, i + 1, operation_of(i));
    capacity = generations.capacity;
    for (uint32_t i = 0; i < MOST; i++) {
        const uint32_t from = generations.from;

        if (i % 1000 == 0)
            continue;
        generations_remove(&generations, i + 1, operation_of(i));
        assert_true(generations.from <= from + SQUEEZED_A_STEP);
    }
    generations_check(&generations);
    assert_int_equal(generations_operations(&generations), MOST / 1000);
    assert_true(generations.capacity < capacity / 4);
    for (uint32_t i = 0; i < MOST; i += 1000)
        assert_int_equal(generations.at[generations_find(&generations, i + 1)].generation, i + 1);
    for (uint32_t i = 0; i < MOST; i += 1000)
        generations_remove(&generations, i + 1, operation_of(i));
    assert_int_equal(generations_operations(&generations), 0);
    assert_int_equal(generations_find(&generations, 0) < generations.count
                         ? generations.at[generations_find(&generations, 0)].operation != NULL
                         : 0,
                     0);
    generations_free(&generations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_their_order),
        cmocka_unit_test(no_step_moves_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
