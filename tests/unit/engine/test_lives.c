/* The list of lives against a plain array: what comes and goes, in which order, and that no step moves many. */
#include "daemon/engine/lives.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 100000, STEPS = 300000, SQUEEZED_A_STEP = 8 };

/* Operations are only pointed to. */
static char places[MOST];

static struct operation *operation_of(uint32_t number)
{
    return (struct operation *)(void *)&places[number];
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
static void check_order(const struct lives *lives, const bool *in, uint32_t next)
{
    uint32_t position = lives_find(lives, 0), there = 0;

    lives_check(lives);
    for (uint32_t number = 0; number < next; number++) {
        if (!in[number])
            continue;
        while (position < lives->count && !lives->at[position].operation)
            position = lives_next(lives, position);
        assert_true(position < lives->count);
        assert_int_equal(lives->at[position].life, number + 1);
        assert_ptr_equal(lives->at[position].operation, operation_of(number));
        assert_int_equal(lives->at[lives_find(lives, number + 1)].life, number + 1);
        position = lives_next(lives, position);
        there++;
    }
    assert_int_equal(lives_operations(lives), there);
}

static void keeps_their_order(void **state)
{
    bool *in = calloc(MOST, sizeof *in);
    struct lives lives = {0};
    uint64_t random = 88172645463325252u;
    uint32_t next = 0;

    (void)state;
    assert_non_null(in);
    for (uint32_t step = 0; step < STEPS; step++) {
        /* More come at first, and more go later. */
        const bool come = random_next(&random) % 100 < (step < STEPS / 3 ? 70u : 25u);
        const uint32_t from = lives.from, number = next ? (uint32_t)random_next(&random) % next : 0;

        if (come && next < MOST) {
            lives_append(&lives, next + 1, operation_of(next));
            in[next++] = true;
        } else if (in[number]) {
            lives_remove(&lives, number + 1, operation_of(number));
            in[number] = false;
        }
        assert_true(lives.from <= from + SQUEEZED_A_STEP);
        if (step % 4096 == 0)
            check_order(&lives, in, next);
    }
    check_order(&lives, in, next);
    lives_free(&lives);
    free(in);
}

/* Of very many, all but a few go. The holes are squeezed out in steps that are all short, and the memory is given back.
 */
static void no_step_moves_many(void **state)
{
    struct lives lives = {0};
    uint32_t capacity;

    (void)state;
    for (uint32_t i = 0; i < MOST; i++)
        lives_append(&lives, i + 1, operation_of(i));
    capacity = lives.capacity;
    for (uint32_t i = 0; i < MOST; i++) {
        const uint32_t from = lives.from;

        if (i % 1000 == 0)
            continue;
        lives_remove(&lives, i + 1, operation_of(i));
        assert_true(lives.from <= from + SQUEEZED_A_STEP);
    }
    lives_check(&lives);
    assert_int_equal(lives_operations(&lives), MOST / 1000);
    assert_true(lives.capacity < capacity / 4);
    for (uint32_t i = 0; i < MOST; i += 1000)
        assert_int_equal(lives.at[lives_find(&lives, i + 1)].life, i + 1);
    for (uint32_t i = 0; i < MOST; i += 1000)
        lives_remove(&lives, i + 1, operation_of(i));
    assert_int_equal(lives_operations(&lives), 0);
    assert_int_equal(lives_find(&lives, 0) < lives.count ? lives.at[lives_find(&lives, 0)].operation != NULL : 0, 0);
    lives_free(&lives);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_their_order),
        cmocka_unit_test(no_step_moves_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
