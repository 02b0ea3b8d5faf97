/* The log: one line an event whatever is in the values, quoted where it must be, never half a character or half a pair.
 */
#include "daemon/base/logging.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static FILE *caught;
static int kept_stderr;

/* What was logged since the last catch_begin, without the time; valid until the next call. */
static const char *catch_end(void)
{
    static char text[32768];
    const char *rest;
    size_t size;

    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    rewind(caught);
    size = fread(text, 1, sizeof text - 1, caught);
    text[size] = '\0';
    fclose(caught);
    rest = strchr(text, 'Z');
    return size && rest ? rest + 1 : "";
}

static void catch_begin(void)
{
    caught = tmpfile();
    assert_non_null(caught);
    kept_stderr = dup(STDERR_FILENO);
    assert_true(kept_stderr >= 0 && dup2(fileno(caught), STDERR_FILENO) >= 0);
}

static const char *value_as_logged(enum log_format format, const char *value)
{
    static char out[16384];
    const char *line, *start;

    log_setup(LOG_INFO, format);
    catch_begin();
    log_event(LOG_INFO, "e", "k", value, NULL);
    line = catch_end();
    start = strstr(line, format == LOG_JSON ? "\"k\": " : "k=");
    assert_non_null(start);
    snprintf(out, sizeof out, "%s", start + (format == LOG_JSON ? 5 : 2));
    const size_t end_bytes = format == LOG_JSON ? 2 : 1;
    assert_true(strlen(out) > end_bytes);
    assert_string_equal(out + strlen(out) - end_bytes, format == LOG_JSON ? "}\n" : "\n");
    out[strlen(out) - end_bytes] = '\0';
    return out;
}

static void a_line_in_logfmt(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT);
    catch_begin();
    log_event(LOG_INFO, "ready", "listen", "unix:/run/x.sock", "version", "0.1.0", NULL);
    log_event(LOG_ERROR, "bare", NULL);
    assert_memory_equal(catch_end(), " level=info event=ready listen=unix:/run/x.sock version=0.1.0\n", 62);
}

static void a_line_in_json(void **state)
{
    (void)state;
    log_setup(LOG_INFO, LOG_JSON);
    catch_begin();
    log_event(LOG_WARN, "stalled", "ms", "15", NULL);
    assert_string_equal(catch_end(), "\", \"level\": \"warn\", \"event\": \"stalled\", \"ms\": \"15\"}\n");
}

static void it_begins_with_the_time_in_utc(void **state)
{
    static const char shape[] = "time=dddd-dd-ddTdd:dd:dd.dddZ level=";
    char text[128] = "";

    (void)state;
    log_setup(LOG_INFO, LOG_LOGFMT);
    catch_begin();
    log_event(LOG_INFO, "e", NULL);
    rewind(caught);
    assert_true(fread(text, 1, sizeof text - 1, caught) > sizeof shape - 1);
    catch_end();
    for (size_t i = 0; i < sizeof shape - 1; i++)
        if (shape[i] == 'd' && i >= 5 && i < 29)
            assert_in_range(text[i], '0', '9');
        else
            assert_int_equal(text[i], shape[i]);
}

static void only_what_is_asked_for(void **state)
{
    static const enum log_level levels[] = {LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG};

    (void)state;
    for (int set = 0; set < 4; set++)
        for (int said = 0; said < 4; said++) {
            log_setup(levels[set], LOG_LOGFMT);
            catch_begin();
            log_event(levels[said], "e", NULL);
            assert_int_equal(catch_end()[0] != '\0', said <= set);
        }
}

static void values_are_quoted_where_they_must_be(void **state)
{
    static const struct {
        const char *value, *logfmt, *json;
    } cases[] = {
        {"plain", "plain", "\"plain\""},
        {"", "\"\"", "\"\""},
        {"two words", "\"two words\"", "\"two words\""},
        {"a=b", "\"a=b\"", "\"a=b\""},
        {"say \"no\"", "\"say \\\"no\\\"\"", "\"say \\\"no\\\"\""},
        {"back\\slash", "\"back\\\\slash\"", "\"back\\\\slash\""},
        {"line\nlevel=error", "\"line\\u000alevel=error\"", "\"line\\u000alevel=error\""},
        {"\x1b[2J\x7f", "\"\\u001b[2J\\u007f\"", "\"\\u001b[2J\\u007f\""},
        {"\xc2\x9b"
         "31m\xe2\x80\xae",
         "\"\\u009b31m\\u202e\"", "\"\\u009b31m\\u202e\""},
        {"gr\xc3\xbc\xc3\x9f", "\"gr\xc3\xbc\xc3\x9f\"", "\"gr\xc3\xbc\xc3\x9f\""},
        {"\xf0\x9f\x94\x91", "\"\xf0\x9f\x94\x91\"", "\"\xf0\x9f\x94\x91\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(value_as_logged(LOG_LOGFMT, cases[i].value), cases[i].logfmt);
        assert_string_equal(value_as_logged(LOG_JSON, cases[i].value), cases[i].json);
    }
}

/* Alone, cut short, too long, overlong, a surrogate, beyond the last character. */
static void what_is_no_utf8_is_replaced(void **state)
{
    static const struct {
        const char *value, *json;
    } cases[] = {
        {"a\x80z", "\"a\xef\xbf\xbdz\""},
        {"a\xc3", "\"a\xef\xbf\xbd\""},
        {"a\xc3z", "\"a\xef\xbf\xbdz\""},
        {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xe0\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xf4\x90\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xff", "\"\xef\xbf\xbd\""},
        {"\xed\x9f\xbf\xee\x80\x80", "\"\xed\x9f\xbf\xee\x80\x80\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(value_as_logged(LOG_JSON, cases[i].value), cases[i].json);
}

static void a_long_value_is_cut_between_characters(void **state)
{
    char value[1100];
    const char *out;

    (void)state;
    memset(value, 'v', sizeof value);
    value[1024] = '\0';
    assert_int_equal(strlen(value_as_logged(LOG_LOGFMT, value)), 1024);
    value[1024] = 'v';
    value[1025] = '\0';
    assert_int_equal(strlen(value_as_logged(LOG_LOGFMT, value)), 1024 + 2);
    value[1023] = '\xc3';
    value[1024] = '\xbc';
    out = value_as_logged(LOG_JSON, value);
    assert_int_equal(strlen(out), 1023 + 2);
    assert_string_equal(out + 1020, "vvvv\"");
}

static void a_pair_without_room_is_left_out(void **state)
{
    char long_value[601];
    const char *line;

    (void)state;
    memset(long_value, '\x01', 600);
    long_value[600] = '\0';
    log_setup(LOG_INFO, LOG_JSON);
    catch_begin();
    log_event(LOG_INFO, "e", "a", long_value, "b", long_value, "c", "small", NULL);
    line = catch_end();
    assert_non_null(strstr(line, "\"a\": \"\\u0001"));
    assert_null(strstr(line, "\"b\""));
    assert_string_equal(strstr(line, "\"c\""), "\"c\": \"small\"}\n");
}

/* Nobody reads. Those who log go on, and nobody else who has the pipe is made not to block. */
static void a_full_pipe_is_not_waited_for(void **state)
{
    enum { LINES = 1000 };
    static char text[65536];
    unsigned got = 0, lost = 0;
    int fds[2];

    (void)state;
    alarm(60);
    log_setup(LOG_INFO, LOG_LOGFMT);
    assert_int_equal(pipe(fds), 0);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 8192) >= 8192);
    const int flags = fcntl(fds[1], F_GETFL);
    kept_stderr = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    for (int i = 0; i < LINES; i++)
        log_event(LOG_INFO, "told", NULL);
    const ssize_t first = read(fds[0], text, sizeof text / 2);
    log_event(LOG_INFO, "at_last", NULL);
    const ssize_t second = read(fds[0], text + first, sizeof text / 2 - 1);
    dup2(kept_stderr, STDERR_FILENO);
    close(kept_stderr);
    assert_int_equal(fcntl(fds[1], F_GETFL), flags);
    close(fds[0]);
    close(fds[1]);
    alarm(0);
    assert_true(first > 0 && second > 0);
    text[first + second] = '\0';
    for (const char *at = text; (at = strstr(at, "event=told\n")); at++)
        got++;
    const char *said = strstr(text, "event=log_lost lines=");
    assert_non_null(said);
    assert_int_equal(sscanf(said, "event=log_lost lines=%u", &lost), 1);
    assert_int_equal(got + lost, LINES);
    assert_non_null(strstr(said, "event=at_last\n"));
}

static void numbers_of_one_event_do_not_overwrite_each_other(void **state)
{
    const char *numbers[8];

    (void)state;
    for (uint64_t i = 0; i < 8; i++)
        numbers[i] = log_number(UINT64_MAX - i);
    for (int i = 0; i < 8; i++) {
        char expected[32];
        snprintf(expected, sizeof expected, "1844674407370955161%d", 5 - i);
        if (i <= 5)
            assert_string_equal(numbers[i], expected);
    }
    assert_string_equal(numbers[7], "18446744073709551608");
    assert_string_equal(log_number(0), "0");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_in_logfmt),
        cmocka_unit_test(a_line_in_json),
        cmocka_unit_test(it_begins_with_the_time_in_utc),
        cmocka_unit_test(only_what_is_asked_for),
        cmocka_unit_test(values_are_quoted_where_they_must_be),
        cmocka_unit_test(what_is_no_utf8_is_replaced),
        cmocka_unit_test(a_long_value_is_cut_between_characters),
        cmocka_unit_test(a_pair_without_room_is_left_out),
        cmocka_unit_test(a_full_pipe_is_not_waited_for),
        cmocka_unit_test(numbers_of_one_event_do_not_overwrite_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
