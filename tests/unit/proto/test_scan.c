/* What is a Request and what is not: damaged bytes of every kind, ids, calls, unknown fields, strings. Limits of single
 * fields are in test_scan_limits.c, attributes in test_scan_attributes.c. */
#include "proto/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/proto/wire_check.h"
#include "tests/unit/proto/wire_maker.h"

static uint8_t made[WIRE_ROOM], edited[WIRE_ROOM], raw[WIRE_ROOM];
static struct scan_result result;

static enum scan_verdict scan_bytes(const char *bytes, size_t size)
{
    return wire_check((const uint8_t *)bytes, size, &result);
}

/* A Request of these bytes. */
#define SCAN(text) scan_bytes(text, sizeof(text) - 1)

static void is_not_a_request(enum scan_verdict verdict)
{
    assert_int_equal(verdict, SCAN_NOT_A_REQUEST);
    assert_int_equal(result.id, 0);
    assert_int_equal(result.call, 0);
    assert_true(result.message[0] != 0);
}

static void is_invalid(enum scan_verdict verdict, const char *field)
{
    assert_int_equal(verdict, SCAN_INVALID);
    assert_string_equal(result.field, field);
    assert_int_equal(result.id, WIRE_ID);
}

/* ---- Whole Requests ---- */

static void every_call_passes(void **state)
{
    (void)state;
    for (uint32_t call = WIRE_CALL_FIRST; call <= WIRE_CALL_LAST; call++) {
        size_t size = wire_make(call, made);

        assert_int_equal(wire_check(made, size, &result), SCAN_OK);
        assert_int_equal(result.id, WIRE_ID);
        assert_int_equal(result.call, call);
        assert_string_equal(result.field, "");
        assert_string_equal(result.message, "");
    }
}

static void call_may_stand_before_the_id(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\xa2\x01\x00\x08\x07"), SCAN_OK); /* list {} id: 7 */
    assert_int_equal(result.id, 7);
    assert_int_equal(result.call, 20);
    is_invalid(SCAN("\xb2\x01\x00\x08\x07"), "cancel.id"); /* cancel {} id: 7 */
}

static void any_nonzero_id_is_one(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\xa2\x01\x00"), SCAN_OK);
    assert_true(result.id == UINT64_MAX);
    is_not_a_request(SCAN("\x08\x00\xa2\x01\x00"));
    assert_string_equal(result.field, "id");
    is_not_a_request(SCAN("\xa2\x01\x00"));
    assert_string_equal(result.field, "id");
    is_not_a_request(SCAN(""));
}

static void one_call_must_be_there(void **state)
{
    (void)state;
    is_invalid(SCAN("\x08\x07"), "call");
    is_invalid(SCAN("\x08\x07\x52\x00\x52\x00"), "call");     /* hello twice */
    is_invalid(SCAN("\x08\x07\x52\x00\xa2\x01\x00"), "call"); /* hello and list */
    assert_int_equal(result.call, 10);
}

static void unknown_call_is_unimplemented(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\x08\x07\xba\x01\x02hi"), SCAN_UNIMPLEMENTED); /* field 23 */
    assert_int_equal(result.id, 7);
    assert_int_equal(result.call, 0);
    assert_string_equal(result.field, "call");
    assert_string_equal(result.message, "call is not known here: it is field 23");
    assert_int_equal(SCAN("\x08\x07\xba\x01\x02hi\xc2\x01\x00"), SCAN_UNIMPLEMENTED); /* and 24: the first is told */
    assert_string_equal(result.message, "call is not known here: it is field 23");
    assert_int_equal(SCAN("\xba\x01\x02hi\x08\x07"), SCAN_UNIMPLEMENTED);
    assert_int_equal(result.id, 7);
    assert_int_equal(SCAN("\x08\x07\xb8\x01\x05"), SCAN_UNIMPLEMENTED);
    assert_int_equal(SCAN("\x08\x07\xba\x01\x02hi\xa2\x01\x00"), SCAN_OK); /* beside a known one it is nothing */
    is_not_a_request(SCAN("\xba\x01\x02hi"));
}

/* ---- Damaged bytes ---- */

static void what_the_wire_format_forbids(void **state)
{
    (void)state;
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\x00\x00"));                          /* field 0 */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\x02\x00"));                          /* field 0, with a length */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\x80\x80\x80\x80\x10\x00"));          /* field 2^29 */
    assert_int_equal(SCAN("\x08\x07\xa2\x01\x00\xf8\xff\xff\xff\x0f\x00"), SCAN_OK); /* 2^29-1 */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xf8\xff\xff\xff\x1f\x00"));          /* a tag over 32 bits */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xf8\x81\x80\x80\x80\x00\x00"));      /* a tag of six bytes */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfb\x01\xfc\x01"));                  /* a group */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfc\x01"));                          /* its end alone */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfe\x01\x00"));                      /* wire type 6 */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xff\x01\x00"));                      /* wire type 7 */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfa\x01\x80\x80\x80\x80\x80\x00"));  /* a length of six bytes */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfa\x01\xff\xff\xff\xff\x0f"));      /* a length of 4 GiB */
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfa\x01\x01"));                      /* one beyond the end */
}

static void varints_take_ten_bytes_at_most(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\x08\x87\x80\x80\x80\x80\x80\x80\x80\x80\x00\xa2\x01\x00"), SCAN_OK);
    assert_int_equal(result.id, 7);
    is_not_a_request(SCAN("\x08\x87\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00\xa2\x01\x00"));
    is_not_a_request(SCAN("\xa2\x01\x00\x08\x87"));
}

static void unknown_fields_are_whole(void **state)
{
    (void)state;
    assert_int_equal(SCAN("\x08\x07\xa2\x01\x00\xf9\x01"
                          "12345678"),
                     SCAN_OK);
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xf9\x01"
                          "1234567"));
    assert_int_equal(SCAN("\x08\x07\xa2\x01\x00\xfd\x01"
                          "1234"),
                     SCAN_OK);
    is_not_a_request(SCAN("\x08\x07\xa2\x01\x00\xfd\x01"
                          "123"));
    assert_int_equal(SCAN("\x08\x07\xa2\x01\x00\xfa\x01\x03\xff\xff\xff"), SCAN_OK); /* nobody looks into it */
}

/* Each known field, written as each other wire type; what it holds would be right for that type. */
static void as_another_type(const char *path, const ProtobufCFieldDescriptor *field)
{
    static const uint8_t values[6][8] = {{1}, {1, 2, 3, 4, 5, 6, 7, 8}, {0}, {0}, {0}, {1, 2, 3, 4}};
    static const size_t value_bytes[6] = {1, 8, 1, 0, 0, 4};

    for (unsigned type = 0; type < 6; type++) {
        size_t size = wire_make_for(path, made);
        size_t field_bytes, tag_bytes = field->id < 16 ? 1 : 2;
        const uint8_t *found = wire_find(made, size, path, &field_bytes);

        if ((found[0] & 7u) == type)
            continue;
        memcpy(raw, found, tag_bytes);
        raw[0] = (uint8_t)((raw[0] & ~7u) | type);
        memcpy(raw + tag_bytes, values[type], value_bytes[type]);
        size = wire_replace(edited, made, size, path, raw, tag_bytes + value_bytes[type]);
        is_not_a_request(wire_check(edited, size, &result));
    }
}

static void known_fields_have_their_wire_type(void **state)
{
    (void)state;
    wire_each_field(as_another_type);
}

/* Whatever is against a limit: where the bytes are no Request, they are answered as none. */
static void damage_wins_over_limits(void **state)
{
    size_t size, raw_bytes;

    (void)state;
    size = wire_make(11, made);
    raw_bytes = wire_put(raw, wire_field_at("begin.op.key"), 300);
    size = wire_replace(edited, made, size, "begin.op.key", raw, raw_bytes);
    is_invalid(wire_check(edited, size, &result), "begin.op.key");
    edited[size] = 0x08; /* a second id, cut off */
    is_not_a_request(wire_check(edited, size + 1, &result));

    size = wire_replace(made, edited, size, "begin.?", (const uint8_t *)"\x0a\x05", 2); /* inside, further on */
    is_not_a_request(wire_check(made, size, &result));

    size = wire_make(12, made);
    size = wire_replace(edited, made, size, "complete.fence", NULL, 0);
    is_invalid(wire_check(edited, size, &result), "complete.fence");
    size = wire_replace(made, edited, size, "complete.outcome.attributes", (const uint8_t *)"\x1a\x02\x0a\x01", 4);
    is_not_a_request(wire_check(made, size, &result));

    is_not_a_request(SCAN("\x08\x07\x52\x00\x52\x02\x0a\x01")); /* in the second of two calls */
}

static void first_violation_is_told(void **state)
{
    (void)state;
    /* list { limit: 1001 state: 9 } id: 7 timeout_ms: 2^32 */
    is_invalid(SCAN("\xa2\x01\x05\x18\xe9\x07\x10\x09\x08\x07\x10\x80\x80\x80\x80\x10"), "list.limit");
    assert_string_equal(result.message, "list.limit is 1001; it takes 0 to 1000");
}

/* ---- Every prefix, every bit ---- */

/* A cut at the end of a field of Request leaves one without its call; any other leaves no Request. */
static void every_prefix_is_refused(void **state)
{
    (void)state;
    for (uint32_t call = WIRE_CALL_FIRST; call <= WIRE_CALL_LAST; call++) {
        size_t size = wire_make(call, made);
        size_t id_end, timeout_end, traceparent_end;

        wire_find(made, size, "id", &id_end);
        wire_find(made, size, "timeout_ms", &timeout_end);
        timeout_end += id_end;
        wire_find(made, size, "traceparent", &traceparent_end);
        traceparent_end += timeout_end;
        for (size_t cut = 0; cut < size; cut++) {
            enum scan_verdict verdict = wire_check(made, cut, &result);

            if (cut == id_end || cut == timeout_end || cut == traceparent_end)
                is_invalid(verdict, "call");
            else
                is_not_a_request(verdict);
        }
    }
}

/* wire_check() says whether what passes nevertheless is sane. */
static void no_flipped_bit_confuses(void **state)
{
    unsigned verdicts[4] = {0};

    (void)state;
    for (uint32_t call = WIRE_CALL_FIRST; call <= WIRE_CALL_LAST; call++) {
        size_t size = wire_make(call, made);

        for (size_t bit = 0; bit < 8 * size; bit++) {
            made[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            verdicts[wire_check(made, size, &result)]++;
            made[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        }
    }
    for (size_t i = 0; i < 4; i++) /* each of them comes up */
        assert_true(verdicts[i] > 0);
}

/* ---- Unknown fields ---- */

static void with_unknown_fields(const char *message)
{
    char path[128];

    for (unsigned count = 15; count <= 18; count++) {
        size_t size = wire_make_for(message, made);
        size_t raw_bytes = 0;

        for (unsigned i = 0; i < count; i++) /* fields 100, 101, .. and among them one again and again */
            raw_bytes += wire_put_bytes(raw + raw_bytes, i % 3 == 0 ? 100 : 100 + i, "\0\xff", i % 3);
        strcpy(path, message);
        strcat(path, message[0] != 0 ? ".?" : "?");
        size = wire_replace(edited, made, size, path, raw, raw_bytes);
        if (count <= 16)
            assert_int_equal(wire_check(edited, size, &result), SCAN_OK);
        else
            is_invalid(wire_check(edited, size, &result), message);
    }
}

static void with_unknown_fields_in(const char *path, const ProtobufCFieldDescriptor *field)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        with_unknown_fields(path);
}

static void sixteen_unknown_fields_are_skipped(void **state)
{
    (void)state;
    with_unknown_fields("");
    assert_string_equal(result.message, "Request holds more than 16 unknown fields");
    wire_each_field(with_unknown_fields_in);
}

/* Nested as deep as a frame allows: bytes of an unknown field are not looked into. */
static void depth_of_unknown_fields_costs_nothing(void **state)
{
    size_t start = sizeof(raw), size;

    (void)state;
    for (size_t inner = 0; inner < 1024 * 1024; inner = sizeof(raw) - start) {
        uint8_t head[16];
        size_t head_bytes = wire_put_varint(head, 1, inner);

        head[0] |= PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
        start -= head_bytes;
        memcpy(raw + start, head, head_bytes);
    }
    memcpy(edited, "\x08\x07\xa2\x01\x00", 5);
    size = 5 + wire_put_bytes(edited + 5, 99, raw + start, sizeof(raw) - start);
    assert_int_equal(wire_check(edited, size, &result), SCAN_OK);
}

/* ---- A frame full of tiny fields ---- */

static void is_refused_full_of(const char *tiny, const char *above, const char *blamed)
{
    size_t tiny_bytes = 2, raw_bytes = 0;
    size_t size = wire_make_for(above, made);
    char path[128];

    while (raw_bytes + tiny_bytes <= 1024 * 1024) {
        memcpy(raw + raw_bytes, tiny, tiny_bytes);
        raw_bytes += tiny_bytes;
    }
    strcpy(path, above);
    strcat(path, above[0] != 0 ? ".?" : "?");
    size = wire_replace(edited, made, size, path, raw, raw_bytes);
    is_invalid(wire_check(edited, size, &result), blamed);
}

static void hostile_megabyte_is_refused(void **state)
{
    (void)state;
    is_refused_full_of("\x48\x00", "", "");                 /* unknown, 524,288 times */
    is_refused_full_of("\x78\x00", "begin", "begin");       /* deeper */
    is_refused_full_of("\x78\x00", "begin.op", "begin.op"); /* and deeper */
    is_refused_full_of("\x10\x01", "", "timeout_ms");       /* known: timeout_ms */
    is_refused_full_of("\x52\x00", "", "call");             /* hello {} */
    is_refused_full_of("\x0a\x00", "begin", "begin.op");    /* op {}, hence the second one */
    is_refused_full_of("\x72\x00", "begin", "begin.other_fingerprints");
    is_refused_full_of("\x12\x00", "begin.op", "begin.op.caller");
    is_refused_full_of("\x0a\x00", "complete.outcome.attributes", "complete.outcome.attributes.name");
}

/* ---- Strings ---- */

static enum scan_verdict scan_owner(const void *text, size_t size)
{
    size_t made_bytes = wire_make(11, made);
    size_t raw_bytes = wire_put_bytes(raw, 5, text, size);

    made_bytes = wire_replace(edited, made, made_bytes, "begin.owner", raw, raw_bytes);
    return scan_request(edited, made_bytes, &wire_limits, &result);
}

/* The bit pattern of a character in so many bytes, whether or not it may be written so. */
static void put_character(uint8_t *out, uint32_t character, unsigned bytes)
{
    static const uint8_t leads[5] = {0, 0, 0xc0, 0xe0, 0xf0};

    for (unsigned i = bytes; i-- > 0; character >>= 6)
        out[i] = (uint8_t)(i > 0 ? 0x80 | (character & 0x3f) : leads[bytes] | character);
}

static unsigned shortest(uint32_t character)
{
    return character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
}

static void check_character(uint32_t character, unsigned bytes)
{
    bool is_surrogate = character >= 0xd800 && character <= 0xdfff;
    bool good = bytes == shortest(character) && !is_surrogate && character <= 0x10ffff && character != 0;
    uint8_t text[6] = {'x', 0, 0, 0, 0, 0};

    put_character(text + 1, character, bytes);
    text[1 + bytes] = 'y';
    if (scan_owner(text, bytes + 2) != (good ? SCAN_OK : SCAN_INVALID))
        fail_msg("U+%04X in %u bytes", (unsigned)character, bytes);
}

static void characters_are_written_as_unicode_says(void **state)
{
    (void)state;
    for (uint32_t character = 0; character < 0x80; character++)
        check_character(character, 1);
    for (uint32_t character = 0; character < 0x800; character++)
        check_character(character, 2);
    for (uint32_t character = 0; character < 0x10000; character++)
        check_character(character, 3);
    for (uint32_t character = 0; character < 0x200000; character += character < 0x1ff00 ? 1 : 61)
        check_character(character, 4);
    check_character(0x10ffff, 4);
    check_character(0x110000, 4);
    check_character(0x1fffff, 4);
}

static void bytes_that_start_or_end_no_character(void **state)
{
    static const char *const texts[] = {
        "\x80",
        "\xbf",
        "a\x80",
        "\xc0\x80",
        "\xc1\xbf",
        "\xc3",
        "a\xc3",
        "\xc3(",
        "\xe2\x82",
        "\xe2",
        "\xe2(\xac",
        "\xe2\x82(",
        "\xf0\x9f\x98",
        "\xf0\x9f",
        "\xf0",
        "\xf0(\x98\x80",
        "\xf0\x9f(\x80",
        "\xf0\x9f\x98(",
        "\xf5\x80\x80\x80",
        "\xf8\x88\x80\x80\x80",
        "\xfc\x84\x80\x80\x80\x80",
        "\xfe",
        "\xff",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        is_invalid(scan_owner(texts[i], strlen(texts[i])), "begin.owner");
        assert_string_equal(result.message, "begin.owner is not UTF-8");
    }
}

static void with_bad_text(const char *path, const ProtobufCFieldDescriptor *field)
{
    static const char *const texts[] = {"ab\xffxy", "\xed\xa0\x80", "ab\0cd", "\0"};
    static const size_t text_bytes[] = {5, 3, 5, 1};

    if (field->type != PROTOBUF_C_TYPE_STRING)
        return;
    for (size_t i = 0; i < 4; i++) {
        size_t size = wire_make_for(path, made);
        size_t raw_bytes = wire_put_bytes(raw, field->id, texts[i], text_bytes[i]);

        size = wire_replace(edited, made, size, path, raw, raw_bytes);
        is_invalid(wire_check(edited, size, &result), path);
        assert_non_null(strstr(result.message, i < 2 ? "is not UTF-8" : "holds U+0000"));
    }
}

static void every_string_is_looked_at(void **state)
{
    (void)state;
    wire_each_field(with_bad_text);
}

static void with_any_bytes(const char *path, const ProtobufCFieldDescriptor *field)
{
    size_t size = wire_make_for(path, made);
    size_t raw_bytes = wire_put_bytes(raw, field->id, "\0\xff\xc0\x80\xed\xa0\x80\0\1\2\3\4\5\6\7", 16);

    if (field->type != PROTOBUF_C_TYPE_BYTES)
        return;
    size = wire_replace(edited, made, size, path, raw, raw_bytes);
    assert_int_equal(wire_check(edited, size, &result), SCAN_OK);
}

static void bytes_may_hold_anything(void **state)
{
    (void)state;
    wire_each_field(with_any_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_passes),
        cmocka_unit_test(call_may_stand_before_the_id),
        cmocka_unit_test(any_nonzero_id_is_one),
        cmocka_unit_test(one_call_must_be_there),
        cmocka_unit_test(unknown_call_is_unimplemented),
        cmocka_unit_test(what_the_wire_format_forbids),
        cmocka_unit_test(varints_take_ten_bytes_at_most),
        cmocka_unit_test(unknown_fields_are_whole),
        cmocka_unit_test(known_fields_have_their_wire_type),
        cmocka_unit_test(damage_wins_over_limits),
        cmocka_unit_test(first_violation_is_told),
        cmocka_unit_test(every_prefix_is_refused),
        cmocka_unit_test(no_flipped_bit_confuses),
        cmocka_unit_test(sixteen_unknown_fields_are_skipped),
        cmocka_unit_test(depth_of_unknown_fields_costs_nothing),
        cmocka_unit_test(hostile_megabyte_is_refused),
        cmocka_unit_test(characters_are_written_as_unicode_says),
        cmocka_unit_test(bytes_that_start_or_end_no_character),
        cmocka_unit_test(every_string_is_looked_at),
        cmocka_unit_test(bytes_may_hold_anything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
