/* Deadlines against a plain array that is searched whole. */
#include "daemon/base/deadline.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { OWNERS = 300 };

struct owner {
    uint64_t name;
    struct deadline deadline;
};

/* xorshift64: the same numbers in every run. */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Every slot points back, no parent is later than its child, and nobody else claims to be set. */
static void check(const struct deadlines *deadlines, const struct owner *owners, uint32_t count)
{
    uint32_t set = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!deadline_is_set(&owners[i].deadline))
            continue;
        set++;
        assert_true(owners[i].deadline.slot <= deadlines->count);
        assert_ptr_equal(deadlines->heap[owners[i].deadline.slot - 1], &owners[i].deadline);
    }
    assert_int_equal(set, deadlines->count);
    for (uint32_t i = 1; i < deadlines->count; i++)
        assert_true(deadlines->heap[(i - 1) / 4]->at_ms <= deadlines->heap[i]->at_ms);
}

static uint64_t earliest(const struct owner *owners, uint32_t count)
{
    uint64_t at_ms = UINT64_MAX;

    for (uint32_t i = 0; i < count; i++)
        if (deadline_is_set(&owners[i].deadline) && owners[i].deadline.at_ms < at_ms)
            at_ms = owners[i].deadline.at_ms;
    return at_ms;
}

static void empty_has_no_first(void **state)
{
    struct deadlines deadlines = {0};

    (void)state;
    assert_null(deadlines_first(&deadlines));
    deadlines_free(&deadlines);
}

static void one_is_set_moved_and_cleared(void **state)
{
    struct deadlines deadlines = {0};
    struct owner owner = {.name = 1};

    (void)state;
    assert_false(deadline_is_set(&owner.deadline));
    deadline_clear(&deadlines, &owner.deadline);
    deadline_set(&deadlines, &owner.deadline, 10);
    assert_true(deadline_is_set(&owner.deadline));
    assert_ptr_equal(deadlines_first(&deadlines), &owner.deadline);
    deadline_set(&deadlines, &owner.deadline, 5);
    assert_int_equal(deadlines_first(&deadlines)->at_ms, 5);
    assert_int_equal(deadlines.count, 1);
    deadline_clear(&deadlines, &owner.deadline);
    assert_false(deadline_is_set(&owner.deadline));
    assert_null(deadlines_first(&deadlines));
    deadline_clear(&deadlines, &owner.deadline);
    deadlines_free(&deadlines);
}

/* Zero and the last moment are times like others. */
static void the_ends_of_time(void **state)
{
    struct deadlines deadlines = {0};
    struct owner owners[3] = {{.name = 0}};

    (void)state;
    deadline_set(&deadlines, &owners[0].deadline, UINT64_MAX);
    deadline_set(&deadlines, &owners[1].deadline, 0);
    deadline_set(&deadlines, &owners[2].deadline, UINT64_MAX - 1);
    for (int i = 0; i < 3; i++) {
        static const int order[] = {1, 2, 0};
        assert_ptr_equal(deadlines_first(&deadlines), &owners[order[i]].deadline);
        deadline_clear(&deadlines, deadlines_first(&deadlines));
    }
    deadlines_free(&deadlines);
}

static void anything_in_any_order(void **state)
{
    struct deadlines deadlines = {0};
    struct owner *owners = calloc(OWNERS, sizeof *owners);
    uint64_t seed = 88172645463325252ull;

    (void)state;
    assert_non_null(owners);
    for (int step = 0; step < 30000; step++) {
        const uint64_t number = random_next(&seed);
        struct deadline *deadline = &owners[number % OWNERS].deadline;

        /* Few different times, so that many are equal; growing, shrinking, and moving both ways. */
        if (number >> 32 & 3)
            deadline_set(&deadlines, deadline, (number >> 40) % 50);
        else
            deadline_clear(&deadlines, deadline);
        if (deadlines.count)
            assert_int_equal(deadlines_first(&deadlines)->at_ms, earliest(owners, OWNERS));
        else
            assert_null(deadlines_first(&deadlines));
        if (step % 50 == 0)
            check(&deadlines, owners, OWNERS);
    }
    check(&deadlines, owners, OWNERS);
    deadlines_free(&deadlines);
    free(owners);
}

static void taken_out_in_order_of_time(void **state)
{
    struct deadlines deadlines = {0};
    struct owner *owners = calloc(OWNERS, sizeof *owners);
    uint64_t seed = 1, last_ms = 0;

    (void)state;
    assert_non_null(owners);
    for (uint64_t i = 0; i < OWNERS; i++) {
        owners[i].name = i;
        deadline_set(&deadlines, &owners[i].deadline, random_next(&seed) % 1000);
    }
    for (uint32_t left = OWNERS; left > 0; left--) {
        struct deadline *first = deadlines_first(&deadlines);
        assert_int_equal(deadlines.count, left);
        assert_true(first->at_ms >= last_ms);
        last_ms = first->at_ms;
        deadline_clear(&deadlines, first);
        check(&deadlines, owners, OWNERS);
    }
    for (uint64_t i = 0; i < OWNERS; i++)
        assert_int_equal(owners[i].name, i);
    deadlines_free(&deadlines);
    assert_null(deadlines.heap);
    free(owners);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_has_no_first),         cmocka_unit_test(one_is_set_moved_and_cleared),
        cmocka_unit_test(the_ends_of_time),           cmocka_unit_test(anything_in_any_order),
        cmocka_unit_test(taken_out_in_order_of_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
