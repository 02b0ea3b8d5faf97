/* A failure holds its exit code and its sentence, cut if it is too long. */
#include "daemon/base/failure.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void it_holds_code_and_sentence_and_is_false(void **state)
{
    struct failure failure = {0};

    (void)state;
    assert_false(failure_set(&failure, 73, "cannot create %s: %d", "/data", 13));
    assert_int_equal(failure.exit_code, 73);
    assert_string_equal(failure.message, "cannot create /data: 13");
}

static void the_last_one_counts(void **state)
{
    struct failure failure = {0};

    (void)state;
    failure_set(&failure, 74, "the first, which is long");
    failure_set(&failure, 65, "short");
    assert_int_equal(failure.exit_code, 65);
    assert_string_equal(failure.message, "short");
}

static void a_long_sentence_is_cut_and_ends(void **state)
{
    struct failure failure = {0};
    char text[2 * sizeof failure.message];

    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    failure_set(&failure, 71, "%s", text);
    assert_int_equal(strlen(failure.message), sizeof failure.message - 1);
    assert_memory_equal(failure.message, text, sizeof failure.message - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_holds_code_and_sentence_and_is_false),
        cmocka_unit_test(the_last_one_counts),
        cmocka_unit_test(a_long_sentence_is_cut_and_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
