/* Frames and varints: every length of what is there, every byte that can be wrong, the ends of every range. */
#include "proto/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/limits.h"

enum {
    UNTOUCHED = 0xee,
};

/* A copy that is exactly so long, so that a look beyond it is caught by the sanitizer. */
static enum frame_cut cut(const uint8_t *data, size_t size, uint32_t message_bytes_max, uint32_t *message_bytes)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    enum frame_cut found;

    assert_non_null(copy);
    if (size > 0)
        memcpy(copy, data, size);
    *message_bytes = 12345;
    found = frame_cut(copy, size, message_bytes_max, message_bytes);
    free(copy);
    return found;
}

static void header_is_flag_and_big_endian_length(void **state)
{
    static const uint8_t expected[] = {0, 0x01, 0x02, 0x03, 0x04, UNTOUCHED};
    uint8_t out[6];

    (void)state;
    memset(out, UNTOUCHED, sizeof(out));
    frame_put_header(out, 0x01020304);
    assert_memory_equal(out, expected, sizeof(out));
}

static void header_is_read_back(void **state)
{
    static const uint32_t lengths[] = {0, 1, 127, 128, 255, 256, 65535, 65536, 1u << 24, UINT32_MAX - 1, UINT32_MAX};
    uint8_t header[IDEM_FRAME_HEADER_BYTES];
    uint32_t found;

    (void)state;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        frame_put_header(header, lengths[i]);
        assert_int_equal(cut(header, sizeof(header), UINT32_MAX, &found),
                         lengths[i] == 0 ? FRAME_WHOLE : FRAME_PARTIAL);
        assert_int_equal(found, lengths[i]);
    }
}

static void frame_is_whole_with_its_last_byte(void **state)
{
    uint8_t data[IDEM_FRAME_HEADER_BYTES + 300 + 20] = {0};
    uint32_t found;

    (void)state;
    frame_put_header(data, 300);
    for (size_t size = 0; size <= sizeof(data); size++) {
        assert_int_equal(cut(data, size, 300, &found), size < 305 ? FRAME_PARTIAL : FRAME_WHOLE);
        assert_int_equal(found, size < IDEM_FRAME_HEADER_BYTES ? 0 : 300);
    }
}

static void empty_message_is_whole(void **state)
{
    static const uint8_t data[IDEM_FRAME_HEADER_BYTES] = {0};
    uint32_t found;

    (void)state;
    assert_int_equal(cut(data, sizeof(data), 0, &found), FRAME_WHOLE);
    assert_int_equal(found, 0);
    assert_int_equal(cut(NULL, 0, 0, &found), FRAME_PARTIAL);
}

static void flag_is_refused_from_its_byte_on(void **state)
{
    uint8_t data[IDEM_FRAME_HEADER_BYTES + 1] = {0};
    uint32_t found;

    (void)state;
    for (unsigned flag = 1; flag < 256; flag++) {
        data[0] = (uint8_t)flag;
        for (size_t size = 1; size <= sizeof(data); size++) {
            assert_int_equal(cut(data, size, UINT32_MAX, &found), FRAME_BAD_FLAG);
            assert_int_equal(found, 0);
        }
    }
}

static void length_over_the_limit_is_refused_from_the_header_on(void **state)
{
    static const uint32_t limits[] = {0, 1, 1000, 65536, UINT32_MAX - 1};
    uint8_t header[IDEM_FRAME_HEADER_BYTES];
    uint32_t found;

    (void)state;
    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        frame_put_header(header, limits[i] + 1);
        assert_int_equal(cut(header, sizeof(header), limits[i], &found), FRAME_TOO_LONG);
        assert_int_equal(found, limits[i] + 1);
        assert_int_equal(cut(header, sizeof(header) - 1, limits[i], &found), FRAME_PARTIAL);
        frame_put_header(header, limits[i]);
        assert_int_not_equal(cut(header, sizeof(header), limits[i], &found), FRAME_TOO_LONG);
    }
}

/* Puts, measures, reads back, and tries each shorter length. */
static void check_varint(uint64_t value, size_t bytes)
{
    uint8_t out[12];
    uint64_t found = 99;

    memset(out, UNTOUCHED, sizeof(out));
    assert_int_equal(frame_put_varint(out, value), bytes);
    assert_int_equal(frame_varint_bytes(value), bytes);
    assert_int_equal(out[bytes], UNTOUCHED);
    for (size_t size = 0; size < bytes; size++) {
        assert_int_equal(frame_get_varint(out, size, &found), 0);
        assert_int_equal(found, 99);
    }
    assert_int_equal(frame_get_varint(out, bytes, &found), bytes);
    assert_true(found == value);
    found = 99;
    assert_int_equal(frame_get_varint(out, sizeof(out), &found), bytes); /* the same, whatever follows it */
    assert_true(found == value);
    memset(out + bytes, 0, sizeof(out) - bytes);
    assert_int_equal(frame_get_varint(out, sizeof(out), &found), bytes);
    assert_true(found == value);
}

static void varint_takes_a_byte_for_seven_bits(void **state)
{
    (void)state;
    check_varint(0, 1);
    for (unsigned bits = 1; bits <= 64; bits++) {
        uint64_t lowest = 1ull << (bits - 1);

        check_varint(lowest, (bits + 6) / 7);
        check_varint(lowest + (lowest - 1), (bits + 6) / 7);
        check_varint(lowest | 1, (bits + 6) / 7);
    }
}

static void varint_bytes_are_those_of_the_guide(void **state)
{
    static const uint8_t expected[] = {0x96, 0x01}; /* 150, the encoding guide's own example */
    uint8_t out[10];

    (void)state;
    assert_int_equal(frame_put_varint(out, 150), sizeof(expected));
    assert_memory_equal(out, expected, sizeof(expected));
}

static void varint_may_be_padded_to_ten_bytes(void **state)
{
    uint8_t data[11] = {0x85, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
    uint64_t found = 99;

    (void)state;
    assert_int_equal(frame_get_varint(data, sizeof(data), &found), 0);
    assert_int_equal(found, 99);
    data[9] = 0;
    assert_int_equal(frame_get_varint(data, sizeof(data), &found), 10);
    assert_int_equal(found, 5);
}

static void varint_drops_what_is_above_64_bits(void **state)
{
    uint8_t data[10];
    uint64_t found = 0;

    (void)state;
    memset(data, 0xff, sizeof(data));
    data[9] = 0x7f;
    assert_int_equal(frame_get_varint(data, sizeof(data), &found), 10);
    assert_true(found == UINT64_MAX);
    data[9] = 0x7e;
    assert_int_equal(frame_get_varint(data, sizeof(data), &found), 10);
    assert_true(found == UINT64_MAX >> 1);
}

/* The examples of protobuf's encoding guide, and both ends of 32 and of 64 bits. */
static void zigzag_makes_small_numbers_of_either_sign_small(void **state)
{
    static const struct {
        int64_t number;
        uint64_t zigzag;
    } pairs[] = {
        {0, 0},
        {-1, 1},
        {1, 2},
        {-2, 3},
        {INT32_MAX, 0xfffffffe},
        {INT32_MIN, 0xffffffff},
        {INT64_MAX, UINT64_MAX - 1},
        {INT64_MIN, UINT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        assert_true(frame_zigzag(pairs[i].number) == pairs[i].zigzag);
        assert_true(frame_unzigzag(pairs[i].zigzag) == pairs[i].number);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_is_flag_and_big_endian_length),
        cmocka_unit_test(header_is_read_back),
        cmocka_unit_test(frame_is_whole_with_its_last_byte),
        cmocka_unit_test(empty_message_is_whole),
        cmocka_unit_test(flag_is_refused_from_its_byte_on),
        cmocka_unit_test(length_over_the_limit_is_refused_from_the_header_on),
        cmocka_unit_test(varint_takes_a_byte_for_seven_bits),
        cmocka_unit_test(varint_bytes_are_those_of_the_guide),
        cmocka_unit_test(varint_may_be_padded_to_ten_bytes),
        cmocka_unit_test(varint_drops_what_is_above_64_bits),
        cmocka_unit_test(zigzag_makes_small_numbers_of_either_sign_small),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
