/* What is shown: every character there is, every byte that is none, in both forms. */
#include "proto/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *escaped(const char *text, size_t size, enum text_form form)
{
    static char out[256];
    size_t written = 0;

    while (size > 0) {
        size_t taken;
        /* A copy that is exactly so long, so that a look beyond it is caught by the sanitizer. */
        char *copy = malloc(size);
        assert_non_null(copy);
        memcpy(copy, text, size);
        written += text_escape(out + written, copy, size, form, &taken);
        free(copy);
        assert_in_range(taken, 1, size);
        text += taken;
        size -= taken;
    }
    out[written] = '\0';
    return out;
}

static void each_form_has_its_escapes(void **state)
{
    static const struct {
        const char *text, *plain, *json;
    } cases[] = {
        {"plain", "plain", "plain"},
        {"\x1b[2J\n\x7f", "\\x1b[2J\\x0a\\x7f", "\\u001b[2J\\u000a\\u007f"},
        {"a\\x1b\"", "a\\\\x1b\"", "a\\\\x1b\\\""},
        {"\xc2\x9b", "\\u009b", "\\u009b"},
        {"\x9b", "\\x9b", "\xef\xbf\xbd"},
        {"\xe2\x80\xae\xd8\x9c", "\\u202e\\u061c", "\\u202e\\u061c"},
        {"\xf3\xa0\x80\x81", "\\U000e0001", "\\udb40\\udc01"},
        {"gr\xc3\xbc\xc3\x9f \xf0\x9f\x94\x91", "gr\xc3\xbc\xc3\x9f \xf0\x9f\x94\x91",
         "gr\xc3\xbc\xc3\x9f \xf0\x9f\x94\x91"},
        {"a\xc3", "a\\xc3", "a\xef\xbf\xbd"},
        {"\xc0\x80", "\\xc0\\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(escaped(cases[i].text, strlen(cases[i].text), TEXT_PLAIN), cases[i].plain);
        assert_string_equal(escaped(cases[i].text, strlen(cases[i].text), TEXT_JSON), cases[i].json);
    }
    assert_string_equal(escaped("a\0b", 3, TEXT_PLAIN), "a\\x00b");
}

static size_t encode(char out[5], uint32_t code)
{
    const size_t bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t heads[] = {0, 0, 0xc0, 0xe0, 0xf0};

    for (size_t i = bytes - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(heads[bytes] | code);
    out[bytes] = '\0';
    return bytes;
}

/* What a terminal obeys, or what changes the order or the lines of what is shown. */
static bool must_be_escaped(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e || code == 0x200f ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

static void every_character_is_itself_or_escaped(void **state)
{
    unsigned changed = 0;

    (void)state;
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char text[5], out[TEXT_CHARACTER_BYTES_MAX];
        const size_t bytes = encode(text, code);
        size_t taken;
        if (code >= 0xd800 && code <= 0xdfff)
            continue;
        for (int form = TEXT_PLAIN; form <= TEXT_JSON; form++) {
            const size_t written = text_escape(out, text, bytes, (enum text_form)form, &taken);
            assert_int_equal(taken, bytes);
            assert_in_range(written, 1, sizeof out);
            if (written == bytes && memcmp(out, text, bytes) == 0) {
                assert_false(must_be_escaped(code));
                continue;
            }
            changed++;
            assert_int_equal(out[0], '\\');
            for (size_t i = 1; i < written; i++)
                assert_in_range(out[i], 0x21, 0x7e);
        }
    }
    assert_in_range(changed, 2 * 65, 2 * 300); /* not more than are harmful */
}

static void every_byte_that_is_none_is_escaped(void **state)
{
    (void)state;
    for (unsigned byte = 0x80; byte <= 0xff; byte++) {
        const char text[] = {(char)byte, 'z'};
        char expected[16];
        snprintf(expected, sizeof expected, "\\x%02xz", byte);
        assert_string_equal(escaped(text, 2, TEXT_PLAIN), expected);
        assert_string_equal(escaped(text, 2, TEXT_JSON), "\xef\xbf\xbdz");
        expected[4] = '\0';
        assert_string_equal(escaped(text, 1, TEXT_PLAIN), expected);
    }
}

static void a_stream_gets_it_whole(void **state)
{
    char *written = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&written, &size);

    (void)state;
    assert_non_null(out);
    text_print(out, NULL, 0);
    text_print(out, "k\x1b]0;t\a\xff", 8);
    fclose(out);
    assert_string_equal(written, "k\\x1b]0;t\\x07\\xff");
    free(written);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_form_has_its_escapes),
        cmocka_unit_test(every_character_is_itself_or_escaped),
        cmocka_unit_test(every_byte_that_is_none_is_escaped),
        cmocka_unit_test(a_stream_gets_it_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
