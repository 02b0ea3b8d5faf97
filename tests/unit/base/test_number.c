/* The smaller and the larger of two numbers. */
#include "daemon/base/number.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void the_smaller_is_the_smaller_in_either_order(void **state)
{
    (void)state;
    assert_int_equal(number_min(1, 2), 1);
    assert_int_equal(number_min(2, 1), 1);
    assert_int_equal(number_min(3, 3), 3);
    assert_true(number_min(UINT64_MAX, 0) == 0);
}

static void the_larger_is_the_larger_in_either_order(void **state)
{
    (void)state;
    assert_int_equal(number_max(1, 2), 2);
    assert_int_equal(number_max(2, 1), 2);
    assert_int_equal(number_max(3, 3), 3);
    assert_true(number_max(0, UINT64_MAX) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_smaller_is_the_smaller_in_either_order),
        cmocka_unit_test(the_larger_is_the_larger_in_either_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
