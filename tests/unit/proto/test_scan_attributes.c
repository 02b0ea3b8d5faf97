/* An outcome's attributes: counted, digested, and over their limits taken out without a trace in the rest.
 *
 * Outcomes are put together here byte by byte. What the scan must leave is worked out in the test: every byte that is
 * no attribute, in its order, at the outcome's front. */
#include "proto/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include <cmocka.h>

#include "idem/v1/idem.pb-c.h"
#include "tests/unit/proto/wire_check.h"
#include "tests/unit/proto/wire_maker.h"

enum {
    KIND = 1,
    CODE = 2,
    ATTRIBUTES = 3,
    BODY = 4,
    BODY_BYTES = 6,
    UNKNOWN = 20,
};

/* An outcome in the making, and beside it what must be left and what must be digested. */
static struct {
    uint8_t sent[WIRE_ROOM], left[WIRE_ROOM], digested[WIRE_ROOM];
    size_t sent_bytes, left_bytes, digested_bytes;
    unsigned count;
    size_t bytes; /* names and values */
} outcome;

static uint8_t made[WIRE_ROOM], request[WIRE_ROOM], scanned[WIRE_ROOM], filling[WIRE_ROOM];
static struct scan_result result;

/* ---- Making ---- */

static void start_outcome(void)
{
    outcome.sent_bytes = outcome.left_bytes = outcome.digested_bytes = 0;
    outcome.count = 0;
    outcome.bytes = 0;
    memset(filling, 'v', sizeof(filling));
}

static void add_rest(const uint8_t *field, size_t field_bytes)
{
    memcpy(outcome.sent + outcome.sent_bytes, field, field_bytes);
    memcpy(outcome.left + outcome.left_bytes, field, field_bytes);
    outcome.sent_bytes += field_bytes;
    outcome.left_bytes += field_bytes;
}

static void add_number(uint32_t number, uint64_t value)
{
    uint8_t field[16];

    add_rest(field, wire_put_varint(field, number, value));
}

static void add_bytes(uint32_t number, const char *bytes)
{
    uint8_t field[64];

    add_rest(field, wire_put_bytes(field, number, bytes, strlen(bytes)));
}

/* An Attribute message of these bytes. */
static void add_message(const uint8_t *message, size_t message_bytes)
{
    for (unsigned i = 0; i < 4; i++)
        outcome.digested[outcome.digested_bytes++] = (uint8_t)(message_bytes >> (8 * i));
    if (message_bytes > 0)
        memcpy(outcome.digested + outcome.digested_bytes, message, message_bytes);
    outcome.digested_bytes += message_bytes;
    outcome.sent_bytes += wire_put_bytes(outcome.sent + outcome.sent_bytes, ATTRIBUTES, message, message_bytes);
    outcome.count++;
}

static void add_attribute(size_t name_bytes, size_t value_bytes)
{
    static uint8_t message[WIRE_ROOM];
    size_t message_bytes = 0;

    if (name_bytes > 0)
        message_bytes = wire_put_bytes(message, 1, filling, name_bytes);
    if (value_bytes > 0)
        message_bytes += wire_put_bytes(message + message_bytes, 2, filling, value_bytes);
    add_message(message, message_bytes);
    outcome.bytes += name_bytes + value_bytes;
}

static void add_attributes(unsigned count, size_t name_bytes, size_t value_bytes)
{
    while (count-- > 0)
        add_attribute(name_bytes, value_bytes);
}

/* ---- Checking ---- */

/* The outcome in a whole Request of this call; its place in it. */
static size_t put_in(const char *path, size_t *outcome_at)
{
    static uint8_t field[WIRE_ROOM];
    uint32_t number = wire_field_at(path)->id;
    size_t size = wire_make_for(path, made);
    size_t field_bytes = wire_put_bytes(field, number, outcome.sent, outcome.sent_bytes);
    const uint8_t *found;

    size = wire_replace(request, made, size, path, field, field_bytes);
    found = wire_find(request, size, path, &field_bytes);
    *outcome_at = (size_t)(found - request) + field_bytes - outcome.sent_bytes;
    return size;
}

static void check_numbers(bool dropped)
{
    assert_int_equal(result.attributes_count, outcome.count);
    assert_int_equal(result.attributes_bytes, outcome.bytes);
    assert_int_equal(result.attributes_dropped, dropped);
    assert_true(result.attributes_digest == XXH3_64bits(outcome.digested, outcome.digested_bytes));
}

/* The filler: all that is left of the outcome's room is one unknown field. */
static void check_filler(const uint8_t *filler, size_t size)
{
    uint64_t length = 0;

    assert_true(size > 6);
    assert_int_equal(filler[0] & 7, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
    assert_null(protobuf_c_message_descriptor_get_field(&idem__v1__outcome__descriptor, filler[0] >> 3));
    for (unsigned i = 0; i < 5; i++) {
        length |= (uint64_t)(filler[1 + i] & 0x7f) << (7 * i);
        assert_int_equal(filler[1 + i] >> 7, i < 4);
    }
    assert_int_equal(length, size - 6);
}

static void check_in(const char *path, bool dropped)
{
    size_t at, size = put_in(path, &at);

    assert_int_equal(wire_check(request, size, &result), SCAN_OK); /* unpacks it, too */
    check_numbers(dropped);
    memcpy(scanned, request, size);
    memset(scanned + size, 0xee, 8);
    assert_int_equal(scan_request(scanned, size, &wire_limits, &result), SCAN_OK);
    assert_memory_equal(scanned, request, size);
    if (!dropped)
        return;
    scan_take_out_attributes(scanned, &result);
    assert_memory_equal(scanned + size, "\xee\xee\xee\xee\xee\xee\xee\xee", 8);
    assert_memory_equal(scanned, request, at);
    assert_memory_equal(scanned + at, outcome.left, outcome.left_bytes);
    check_filler(scanned + at + outcome.left_bytes, outcome.sent_bytes - outcome.left_bytes);
    at += outcome.sent_bytes;
    assert_memory_equal(scanned + at, request + at, size - at);
}

static void are_kept(void)
{
    check_in("complete.outcome", false);
    check_in("resolve.outcome", false);
}

static void are_taken_out(void)
{
    check_in("complete.outcome", true);
    check_in("resolve.outcome", true);
}

/* ---- Tests ---- */

static void none_have_the_digest_of_nothing(void **state)
{
    (void)state;
    start_outcome();
    add_number(KIND, 1);
    are_kept();
    assert_true(result.attributes_digest == XXH3_64bits("", 0));
}

static void without_an_outcome_all_is_0(void **state)
{
    (void)state;
    for (uint32_t call = WIRE_CALL_FIRST; call <= WIRE_CALL_LAST; call++) {
        size_t size = wire_make(call, made);

        assert_int_equal(wire_check(made, size, &result), SCAN_OK);
        assert_int_equal(result.attributes_count, call == 12 || call == 18 ? 2 : 0);
        assert_int_equal(result.attributes_digest != 0, call == 12 || call == 18);
    }
}

static void sixty_four_are_kept(void **state)
{
    (void)state;
    for (unsigned count = 1; count <= 70; count++) {
        start_outcome();
        add_number(KIND, 1);
        add_attributes(count, 3, 5);
        if (count <= 64)
            are_kept();
        else
            are_taken_out();
    }
}

static void empty_ones_count(void **state)
{
    (void)state;
    start_outcome();
    add_number(KIND, 1);
    add_attributes(64, 0, 0);
    are_kept();
    add_attribute(0, 0);
    are_taken_out();
}

static void four_kib_are_kept(void **state)
{
    static const struct {
        unsigned count;
        size_t name_bytes, value_bytes;
    } fits[] = {{1, 4096, 0}, {1, 0, 4096}, {1, 1000, 3096}, {64, 60, 4}, {64, 0, 64}, {32, 128, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof(fits) / sizeof(fits[0]); i++) {
        for (size_t more = 0; more < 2; more++) {
            start_outcome();
            add_number(KIND, 2);
            add_attributes(fits[i].count - 1, fits[i].name_bytes, fits[i].value_bytes);
            add_attribute(fits[i].name_bytes + more, fits[i].value_bytes);
            assert_int_equal(outcome.bytes, 4096 + more);
            if (more == 0)
                are_kept();
            else
                are_taken_out();
        }
    }
}

static void huge_one_is_taken_out(void **state)
{
    (void)state;
    start_outcome();
    add_number(KIND, 1);
    add_attribute(12, 1024 * 1024);
    add_bytes(BODY, "body");
    are_taken_out();
    start_outcome();
    add_attribute(1024 * 1024, 0);
    add_number(KIND, 1);
    are_taken_out();
}

static void first_they_are_taken_out(void **state)
{
    (void)state;
    start_outcome();
    add_attributes(65, 1, 1);
    add_number(KIND, 1);
    add_number(CODE, 400);
    add_bytes(BODY, "the body");
    are_taken_out();
}

static void last_they_are_taken_out(void **state)
{
    (void)state;
    start_outcome();
    add_number(KIND, 1);
    add_number(CODE, 400);
    add_bytes(BODY, "the body");
    add_attributes(65, 1, 1);
    are_taken_out();
}

static void between_the_rest_they_are_taken_out(void **state)
{
    (void)state;
    start_outcome();
    add_attributes(20, 2, 30);
    add_number(KIND, 1);
    add_attributes(1, 1, 0);
    add_bytes(BODY, "the body");
    add_attributes(40, 0, 200);
    add_bytes(UNKNOWN, "from a newer client");
    add_number(BODY_BYTES, 1ull << 40);
    add_attributes(4, 3, 3);
    add_number(CODE, 3);
    are_taken_out();
}

/* The largest body beside the smallest that is over: bytes move by little, and by much. */
static void large_body_moves_whole(void **state)
{
    static uint8_t field[WIRE_ROOM];
    static uint8_t body[1024 * 1024];

    (void)state;
    for (size_t i = 0; i < sizeof(body); i++)
        body[i] = (uint8_t)(i * 7 + (i >> 8));
    start_outcome();
    add_attributes(65, 0, 0);
    add_rest(field, wire_put_bytes(field, BODY, body, sizeof(body)));
    add_number(KIND, 1);
    are_taken_out();
}

static void sixteen_unknown_fields_stay_beside_the_filler(void **state)
{
    (void)state;
    start_outcome();
    for (unsigned i = 0; i < 16; i++) {
        add_bytes(UNKNOWN + i, "?");
        add_attributes(5, 1, 1);
    }
    add_number(KIND, 1);
    are_taken_out();
}

/* Tags and lengths may be padded; what is taken out is what stood there. */
static void padded_ones_are_taken_out(void **state)
{
    static const uint8_t padded[] = {0x9a, 0x80, 0x00, 0x80, 0x80, 0x00}; /* attributes {} */

    (void)state;
    start_outcome();
    add_number(KIND, 1);
    add_attributes(64, 0, 0);
    memcpy(outcome.sent + outcome.sent_bytes, padded, sizeof(padded));
    outcome.sent_bytes += sizeof(padded);
    memset(outcome.digested + outcome.digested_bytes, 0, 4);
    outcome.digested_bytes += 4;
    outcome.count++;
    add_bytes(BODY, "after it");
    are_taken_out();
}

static void digest_keeps_bytes_and_order_apart(void **state)
{
    uint64_t digests[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        start_outcome();
        add_number(KIND, 1);
        add_attributes(1, i % 2 ? 1 : 2, i / 2 ? 1 : 2);
        add_attributes(1, i % 2 ? 2 : 1, i / 2 ? 2 : 1);
        check_in("complete.outcome", false);
        digests[i] = result.attributes_digest;
    }
    for (unsigned i = 0; i < 4; i++)
        for (unsigned j = 0; j < i; j++)
            assert_true(digests[i] != digests[j]);
}

/* Whatever an outcome carries is taken, but it has to be an outcome. */
static void bad_ones_are_refused(void **state)
{
    static const struct {
        const char *bytes, *field;
    } cases[] = {
        {"\x0a\x01z\x0a\x01z", "complete.outcome.attributes.name"},
        {"\x12\x01z\x12\x01z", "complete.outcome.attributes.value"},
        {"\x0a\x02z\xc3", "complete.outcome.attributes.name"},
        {"\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z"
         "\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z\x1a\x01z",
         "complete.outcome.attributes"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t at, size;

        start_outcome();
        add_number(KIND, 1);
        add_attributes(70, 1, 1);
        add_message((const uint8_t *)cases[i].bytes, strlen(cases[i].bytes));
        size = put_in("complete.outcome", &at);
        assert_int_equal(wire_check(request, size, &result), SCAN_INVALID); /* and leaves it as it was */
        assert_string_equal(result.field, cases[i].field);
    }
}

static void megabyte_of_empty_ones_is_taken_out(void **state)
{
    (void)state;
    start_outcome();
    add_attributes(250 * 1000, 0, 0);
    add_number(KIND, 1);
    add_attributes(250 * 1000, 0, 0);
    check_in("complete.outcome", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_have_the_digest_of_nothing),
        cmocka_unit_test(without_an_outcome_all_is_0),
        cmocka_unit_test(sixty_four_are_kept),
        cmocka_unit_test(empty_ones_count),
        cmocka_unit_test(four_kib_are_kept),
        cmocka_unit_test(huge_one_is_taken_out),
        cmocka_unit_test(first_they_are_taken_out),
        cmocka_unit_test(last_they_are_taken_out),
        cmocka_unit_test(between_the_rest_they_are_taken_out),
        cmocka_unit_test(large_body_moves_whole),
        cmocka_unit_test(sixteen_unknown_fields_stay_beside_the_filler),
        cmocka_unit_test(padded_ones_are_taken_out),
        cmocka_unit_test(digest_keeps_bytes_and_order_apart),
        cmocka_unit_test(bad_ones_are_refused),
        cmocka_unit_test(megabyte_of_empty_ones_is_taken_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
