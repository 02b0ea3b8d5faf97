/* Keys and fingerprints. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void versions_and_variants(void **state)
{
    char v7[IDEM_KEY_CHARS], v4[IDEM_KEY_CHARS], named[IDEM_KEY_CHARS];

    (void)state;
    assert_int_equal(idem_key_v7(v7), IDEM_OK);
    assert_int_equal(idem_key_v4(v4), IDEM_OK);
    assert_int_equal(idem_key_named("order 17", 8, named), IDEM_OK);
    assert_int_equal(strlen(v7), 36);
    assert_int_equal(v7[14], '7');
    assert_int_equal(v4[14], '4');
    assert_int_equal(named[14], '5');
    assert_non_null(strchr("89ab", v7[19]));
    assert_non_null(strchr("89ab", v4[19]));
    assert_int_equal(idem_key_v7(NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_key_named(NULL, 3, named), IDEM_ERR_MISUSE);
}

/* Known answer, by another implementation: Python's uuid.uuid5(UUID("b70a9d5e-2c41-4e0f-9a63-1d8e57f2c036"), "order
 * 17"). */
static void a_name_has_one_key(void **state)
{
    char key[IDEM_KEY_CHARS], again[IDEM_KEY_CHARS], other[IDEM_KEY_CHARS];

    (void)state;
    idem_key_named("order 17", 8, key);
    idem_key_named("order 17", 8, again);
    idem_key_named("order 18", 8, other);
    assert_string_equal(key, "fb86eeb4-c56f-54f6-9e7c-a7d91900d99b");
    assert_string_equal(key, again);
    assert_string_not_equal(key, other);
}

static void v7_is_ordered_and_none_comes_twice(void **state)
{
    enum { MANY = 2000 };
    static char keys[MANY][IDEM_KEY_CHARS];

    (void)state;
    for (int i = 0; i < MANY; i++)
        idem_key_v7(keys[i]);
    for (int i = 1; i < MANY; i++) {
        assert_true(strncmp(keys[i - 1], keys[i], 13) <= 0); /* the time */
        for (int k = 0; k < i; k++)
            assert_string_not_equal(keys[i], keys[k]);
    }
}

static void digest_of(const char *const parts[][2], int count, uint8_t digest[IDEM_FINGERPRINT_BYTES])
{
    idem_fingerprint fingerprint;

    idem_fingerprint_init(&fingerprint);
    for (int i = 0; i < count; i++)
        idem_fingerprint_add(&fingerprint, parts[i][0], parts[i][1], strlen(parts[i][1]));
    idem_fingerprint_final(&fingerprint, digest);
}

static void parts_do_not_run_together(void **state)
{
    static const char *const cases[][2][2] = {
        {{"a", "ab"}, {"b", "c"}}, {{"a", "a"}, {"b", "bc"}}, {{"aab", ""}, {"b", "c"}},
        {{"b", "c"}, {"a", "ab"}}, {{"a", "abc"}, {"b", ""}},
    };
    enum { CASES = sizeof cases / sizeof cases[0] };
    uint8_t digests[CASES][IDEM_FINGERPRINT_BYTES];

    (void)state;
    for (int i = 0; i < CASES; i++) {
        digest_of(cases[i], 2, digests[i]);
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(digests[i], digests[k], IDEM_FINGERPRINT_BYTES);
    }
}

/* Known answer, by another implementation of the format in idem.h: Python's hashlib. */
static void a_known_digest(void **state)
{
    static const char *const parts[][2] = {{"amount", "4999"}, {"card", ""}};
    static const uint8_t expected[IDEM_FINGERPRINT_BYTES] = {
        0x10, 0x82, 0x0b, 0x00, 0xb6, 0x2a, 0x1f, 0x15, 0x0f, 0x98, 0x5e, 0xa9, 0x3a, 0x2a, 0x94, 0x3e,
        0x1d, 0xfe, 0x1b, 0x43, 0x88, 0x2e, 0x16, 0x82, 0x6c, 0xeb, 0x3d, 0x19, 0x92, 0x04, 0x71, 0xa2};
    uint8_t digest[IDEM_FINGERPRINT_BYTES];

    (void)state;
    digest_of(parts, 2, digest);
    assert_memory_equal(digest, expected, sizeof digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_and_variants),
        cmocka_unit_test(a_name_has_one_key),
        cmocka_unit_test(v7_is_ordered_and_none_comes_twice),
        cmocka_unit_test(parts_do_not_run_together),
        cmocka_unit_test(a_known_digest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
