/* Keys and fingerprints against answers computed by other implementations (Python's uuid and hashlib), and the order of
 * keys that are ordered by time. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void named_keys_are_those_of_rfc_9562(void **state)
{
    static const struct {
        const char *name;
        size_t size;
        const char *key;
    } cases[] = {
        {NULL, 0, "a2e9b359-662d-5e33-b62b-0afc1a09eba0"},
        {"order 17", 8, "fb86eeb4-c56f-54f6-9e7c-a7d91900d99b"},
        {"a\0b", 3, "48225ebd-b15d-5643-9d78-4b4968656bdd"},
        {"\xff\x00\xfe", 3, "424dbf9d-18e5-59c5-91b9-d0eb72d6af8e"},
    };
    char key[IDEM_KEY_CHARS];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(idem_key_named(cases[i].name, cases[i].size, key), IDEM_OK);
        assert_string_equal(key, cases[i].key);
    }
}

/* The 60 bits that are time: milliseconds, then their part in 4096ths. */
static uint64_t time_of(const char *key)
{
    unsigned long long high, low, part;

    assert_int_equal(sscanf(key, "%8llx-%4llx-7%3llx", &high, &low, &part), 3);
    return high << 28 | low << 12 | part;
}

static uint64_t now_4096ths(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return ((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000) << 12 |
           (uint64_t)now.tv_nsec % 1000000 * 4096 / 1000000;
}

/* Holds while nobody sets the wall clock back during this test. */
static void keys_by_time_hold_the_time_to_a_part_of_a_millisecond(void **state)
{
    char key[IDEM_KEY_CHARS], earlier[IDEM_KEY_CHARS] = "";
    bool parts_seen = false;

    (void)state;
    for (int i = 0; i < 5000; i++) {
        const uint64_t before = now_4096ths();

        assert_int_equal(idem_key_v7(key), IDEM_OK);
        assert_in_range(time_of(key), before, now_4096ths());
        assert_non_null(strchr("89ab", key[19]));
        if (i > 0) {
            assert_true(time_of(key) >= time_of(earlier));
            assert_string_not_equal(key, earlier);
            /* Of different times, the text is in the order of time. */
            if (time_of(key) > time_of(earlier))
                assert_true(strcmp(key, earlier) > 0);
            parts_seen |= time_of(key) >> 12 == time_of(earlier) >> 12 && time_of(key) > time_of(earlier);
        }
        memcpy(earlier, key, sizeof key);
    }
    assert_true(parts_seen); /* also within one millisecond */
}

static void assert_digest(idem_fingerprint *fingerprint, const char *want)
{
    uint8_t digest[IDEM_FINGERPRINT_BYTES];
    char hex[2 * IDEM_FINGERPRINT_BYTES + 1];

    assert_int_equal(idem_fingerprint_final(fingerprint, digest), IDEM_OK);
    for (int i = 0; i < IDEM_FINGERPRINT_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, want);
}

static void fingerprints_are_sha_256_of_the_parts_with_their_lengths(void **state)
{
    idem_fingerprint fingerprint;

    (void)state;
    idem_fingerprint_init(&fingerprint);
    assert_digest(&fingerprint, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    idem_fingerprint_init(&fingerprint);
    idem_fingerprint_add(&fingerprint, NULL, NULL, 0);
    assert_digest(&fingerprint, "374708fff7719dd5979ec875d56cd2286f6d3cf7ec317a3b25632aab28ec37bb");
    idem_fingerprint_init(&fingerprint);
    idem_fingerprint_add(&fingerprint, "amount", "1700", 4);
    idem_fingerprint_add(&fingerprint, "currency", "EUR", 3);
    assert_digest(&fingerprint, "17672cbde2f81c971290a1471860e8af13026333c9361ce5c2ddd93931bc539b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(named_keys_are_those_of_rfc_9562),
        cmocka_unit_test(keys_by_time_hold_the_time_to_a_part_of_a_millisecond),
        cmocka_unit_test(fingerprints_are_sha_256_of_the_parts_with_their_lengths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
