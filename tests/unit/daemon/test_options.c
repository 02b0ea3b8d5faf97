/* What the daemon was told: each option at the edges of its range, from each place it can come from, and the sentence
 * that refuses it. */
#include "daemon/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/limits.h"

/* The variables of the test at hand: pairs of name and value. */
static const char *const *variables;

static char *const *environment(void)
{
    static char text[64][256];
    static char *all[65];
    size_t count = 0;

    for (const char *const *pair = variables; pair && *pair; pair += 2, count++) {
        snprintf(text[count], sizeof text[count], "%s=%s", pair[0], pair[1]);
        all[count] = text[count];
    }
    all[count] = NULL;
    return all;
}

static struct options options;
static struct options_error error;

/* Reads words, separated by '|', as the command line. */
static bool read_words(const char *words)
{
    static char text[4096];
    char *argv[64] = {(char *)(uintptr_t) "idemd"}, *rest;
    int argc = 1;

    options_release(&options);
    error = (struct options_error){0};
    snprintf(text, sizeof text, "%s", words);
    for (char *word = strtok_r(text, "|", &rest); word; word = strtok_r(NULL, "|", &rest))
        argv[argc++] = word;
    return options_read(&options, argc, argv, environment(), &error);
}

static void assert_refused(const char *words, int exit_code, const char *says)
{
    if (read_words(words))
        fail_msg("%s is taken", words);
    assert_int_equal(error.exit_code, exit_code);
    if (!strstr(error.message, says))
        fail_msg("\"%s\" does not say \"%s\"", error.message, says);
}

static int no_variables(void **state)
{
    (void)state;
    variables = NULL;
    return 0;
}

static int release(void **state)
{
    (void)state;
    options_release(&options);
    return 0;
}

static void the_defaults_are_the_protocols(void **state)
{
    const struct policy *policy = &options.server.policy;

    (void)state;
    assert_true(read_words(""));
    assert_int_equal(options.action, OPTIONS_RUN);
    assert_string_equal(options.server.data, "/var/lib/idemd");
    assert_int_equal(options.server.listen_count, 1);
    assert_string_equal(options.server.listen[0], "unix:" IDEM_UNIX_SOCKET);
    assert_true(options.server.quota_bytes == 8ull << 30);
    assert_false(options.server.accept_loss);
    assert_int_equal(options.log_level, LOG_INFO);
    assert_int_equal(options.log_format, LOG_LOGFMT);
    assert_int_equal(policy->keep_ms, IDEM_KEEP_MS_DEFAULT);
    assert_int_equal(policy->keep_min_ms, IDEM_KEEP_MS_MIN);
    assert_int_equal(policy->keep_max_ms, IDEM_KEEP_MS_MAX);
    assert_int_equal(policy->lease_ms, IDEM_LEASE_MS_DEFAULT);
    assert_int_equal(policy->grace_ms, IDEM_GRACE_MS_DEFAULT);
    assert_int_equal(policy->if_interrupted, IF_INTERRUPTED_REPORT);
    assert_int_equal(policy->max_outcome_bytes, IDEM_BODY_BYTES_DEFAULT);
    assert_int_equal(options.server.unfinished_max, 1000000);
    assert_int_equal(options.server.namespace_share, 50);
    assert_true(options.server.memory_max == 0);
    assert_null(options.check_data);
}

static void every_option_is_taken(void **state)
{
    const struct policy *policy = &options.server.policy;

    (void)state;
    assert_true(read_words(
        "--data|/d|--listen|tcp:localhost:4336|--quota|64MiB|--accept-loss|--log-level|debug|"
        "--log-format|json|--keep|2h|--keep-min|90s|--keep-max|7d|--lease|1m|--grace|250ms|"
        "--if-interrupted|take-over|--max-outcome|64KiB|--max-unfinished|17|--max-memory|64MiB|--namespace-share|7"));
    assert_string_equal(options.server.data, "/d");
    assert_int_equal(options.server.listen_count, 1);
    assert_string_equal(options.server.listen[0], "tcp:localhost:4336");
    assert_int_equal(options.server.quota_bytes, 64 << 20);
    assert_true(options.server.accept_loss);
    assert_int_equal(options.log_level, LOG_DEBUG);
    assert_int_equal(options.log_format, LOG_JSON);
    assert_int_equal(policy->keep_ms, 2 * 3600 * 1000);
    assert_int_equal(policy->keep_min_ms, 90 * 1000);
    assert_int_equal(policy->keep_max_ms, 7 * 24 * 3600 * 1000);
    assert_int_equal(policy->lease_ms, 60 * 1000);
    assert_int_equal(policy->grace_ms, 250);
    assert_int_equal(policy->if_interrupted, IF_INTERRUPTED_TAKE_OVER);
    assert_int_equal(policy->max_outcome_bytes, 65536);
    assert_int_equal(options.server.unfinished_max, 17);
    assert_int_equal(options.server.memory_max, 64 << 20);
    assert_int_equal(options.server.namespace_share, 7);
}

static void every_variable_is_taken(void **state)
{
    static const char *const all[] = {
        "IDEMD_DATA",
        "/v",
        "IDEMD_LISTEN",
        "unix:/v/s",
        "IDEMD_QUOTA",
        "1GiB",
        "IDEMD_ACCEPT_LOSS",
        "true",
        "IDEMD_LOG_LEVEL",
        "error",
        "IDEMD_LOG_FORMAT",
        "json",
        "IDEMD_KEEP",
        "3d",
        "IDEMD_KEEP_MIN",
        "5m",
        "IDEMD_KEEP_MAX",
        "30d",
        "IDEMD_LEASE",
        "1s",
        "IDEMD_GRACE",
        "0s",
        "IDEMD_IF_INTERRUPTED",
        "take-over",
        "IDEMD_MAX_OUTCOME",
        "16MiB",
        "IDEMD_MAX_UNFINISHED",
        "1",
        NULL,
    };
    const struct policy *policy = &options.server.policy;

    (void)state;
    variables = all;
    assert_true(read_words(""));
    assert_string_equal(options.server.data, "/v");
    assert_string_equal(options.server.listen[0], "unix:/v/s");
    assert_true(options.server.quota_bytes == 1ull << 30);
    assert_true(options.server.accept_loss);
    assert_int_equal(options.log_level, LOG_ERROR);
    assert_int_equal(options.log_format, LOG_JSON);
    assert_int_equal(policy->keep_ms, 3 * 24 * 3600 * 1000);
    assert_int_equal(policy->keep_min_ms, 5 * 60 * 1000);
    assert_int_equal(policy->keep_max_ms, 30ull * 24 * 3600 * 1000);
    assert_int_equal(policy->lease_ms, 1000);
    assert_int_equal(policy->grace_ms, 0);
    assert_int_equal(policy->if_interrupted, IF_INTERRUPTED_TAKE_OVER);
    assert_int_equal(policy->max_outcome_bytes, 16 << 20);
    assert_int_equal(options.server.unfinished_max, 1);
}

static void the_command_line_wins(void **state)
{
    static const char *const some[] = {"IDEMD_LEASE", "5s", "IDEMD_DATA", "/v", "IDEMD_ACCEPT_LOSS", "1", NULL};

    (void)state;
    variables = some;
    assert_true(read_words("--lease|7s|--accept-loss=false"));
    assert_int_equal(options.server.policy.lease_ms, 7000);
    assert_string_equal(options.server.data, "/v");
    assert_false(options.server.accept_loss);
    assert_true(read_words("--lease|7s|--lease|8s"));
    assert_int_equal(options.server.policy.lease_ms, 8000);
}

static void a_value_may_follow_an_equals_sign(void **state)
{
    (void)state;
    assert_true(read_words("--data=/a=b|--lease=2s"));
    assert_string_equal(options.server.data, "/a=b");
    assert_int_equal(options.server.policy.lease_ms, 2000);
}

static void addresses_add_up_and_replace_what_came_before(void **state)
{
    static const char *const two[] = {"IDEMD_LISTEN", "  unix:/v/1  tcp:127.0.0.1:0 ", NULL};

    (void)state;
    variables = two;
    assert_true(read_words(""));
    assert_int_equal(options.server.listen_count, 2);
    assert_string_equal(options.server.listen[0], "unix:/v/1");
    assert_string_equal(options.server.listen[1], "tcp:127.0.0.1:0");
    assert_true(read_words("--listen|unix:/a|--listen|unix:/b|--listen|unix:/c"));
    assert_int_equal(options.server.listen_count, 3);
    assert_string_equal(options.server.listen[0], "unix:/a");
    assert_string_equal(options.server.listen[2], "unix:/c");
}

static void at_most_sixteen_addresses(void **state)
{
    char words[1024] = "";

    (void)state;
    for (int i = 0; i < SERVER_LISTENERS_MAX; i++)
        snprintf(words + strlen(words), sizeof words - strlen(words), "--listen|unix:/s/%d|", i);
    assert_true(read_words(words));
    assert_int_equal(options.server.listen_count, SERVER_LISTENERS_MAX);
    snprintf(words + strlen(words), sizeof words - strlen(words), "--listen|unix:/s/more");
    assert_refused(words, 64, "at most 16 addresses");
}

static void the_edges_of_every_range(void **state)
{
    static const struct {
        const char *option, *least, *most, *under, *over;
    } ranges[] = {
        {"--quota", "64MiB", "4096GiB", "67108863", "4398046511105"},
        {"--keep-min", "1s", "24h", "999ms", "7776000001ms"},
        {"--keep-max", "24h", "90d", "999ms", "91d"},
        {"--lease", "1s", "24h", "999ms", "86400001ms"},
        {"--grace", "0ms", "24h", "", "25h"},
        {"--max-outcome", "64KiB", "16MiB", "65535", "16777217"},
        {"--max-unfinished", "1", "100000000", "0", "100000001"},
        {"--namespace-share", "1", "100", "0", "101"},
        {"--max-memory", "64MiB", "1048576GiB", "67108863", "1125899906842625"},
    };
    char words[128];

    (void)state;
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        snprintf(words, sizeof words, "%s|%s", ranges[i].option, ranges[i].least);
        assert_true(read_words(words));
        snprintf(words, sizeof words, "%s|%s", ranges[i].option, ranges[i].most);
        assert_true(read_words(words));
        snprintf(words, sizeof words, "%s|%s", ranges[i].option, ranges[i].over);
        assert_refused(words, 64, "out of its range");
        assert_non_null(strstr(error.message, ranges[i].option));
        assert_non_null(strstr(error.message, ranges[i].option[2] == 'k' ? "90d" : ranges[i].most));
        if (!*ranges[i].under)
            continue;
        snprintf(words, sizeof words, "%s|%s", ranges[i].option, ranges[i].under);
        assert_refused(words, 64, "out of its range");
    }
}

static void a_range_holds_for_variables_too(void **state)
{
    static const char *const short_lease[] = {"IDEMD_LEASE", "1ms", NULL};
    static const char *const no_address[] = {"IDEMD_LISTEN", "unix:/a nonsense", NULL};
    static const char *const empty[] = {"IDEMD_LISTEN", " ", NULL};

    (void)state;
    variables = short_lease;
    assert_refused("", 78, "IDEMD_LEASE: 1ms: ");
    variables = no_address;
    assert_refused("", 78, "IDEMD_LISTEN: nonsense: ");
    variables = empty;
    assert_refused("", 78, "IDEMD_LISTEN");
    /* A wrong variable is not made right by an option: what is in force may be read from either. */
    variables = short_lease;
    assert_refused("--lease|5s", 78, "IDEMD_LEASE");
}

static void a_variable_of_ours_that_is_unknown_is_refused(void **state)
{
    static const char *const wrong[] = {"IDEMD_QUOTTA", "1GiB", NULL};
    static const char *const beginning[] = {"IDEMD_QUOTA_", "1GiB", NULL};
    static const char *const none[] = {"IDEMD_", "", NULL};
    static const char *const others[] = {"IDEMDQUOTA", "x", "IDEM_ADDRESS", "y", "idemd_quota", "z", "MY_IDEMD_X",
                                         "",           NULL};

    (void)state;
    variables = wrong;
    assert_refused("", 78, "IDEMD_QUOTTA: no such variable");
    assert_true(read_words("--help"));
    variables = beginning;
    assert_refused("--quota|1GiB", 78, "IDEMD_QUOTA_: no such variable");
    variables = none;
    assert_refused("", 78, "IDEMD_: no such variable");
    variables = others;
    assert_true(read_words(""));
}

static void who_may_connect(void **state)
{
    static const char *const both[] = {"IDEMD_SOCKET_MODE", "0606", "IDEMD_SOCKET_GROUP", "7", NULL};
    static const char *const modes[] = {"",      "8",     "60",  "66",   "01666", "1777",
                                        "06660", "0x1b0", "668", "-660", " 660",  "u=rw"};
    static const char *const groups[] = {"", "no such group", "-1", "4294967295", "99999999999999999999", "7 "};
    char words[128];

    (void)state;
    assert_true(read_words(""));
    assert_int_equal(options.server.socket_mode, 0600);
    assert_int_equal(options.server.socket_group, -1);
    assert_true(read_words("--socket-group|root"));
    assert_int_equal(options.server.socket_mode, 0660);
    assert_int_equal(options.server.socket_group, 0);
    assert_true(read_words("--socket-group|4294967294|--socket-mode|640"));
    assert_int_equal(options.server.socket_mode, 0640);
    assert_true(options.server.socket_group == 4294967294);
    assert_true(read_words("--socket-mode|0777"));
    assert_int_equal(options.server.socket_mode, 0777);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        snprintf(words, sizeof words, "--socket-mode=%s", modes[i]);
        assert_refused(words, 64, "octal");
    }
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) {
        snprintf(words, sizeof words, "--socket-group=%s", groups[i]);
        assert_refused(words, 64, "group");
    }
    variables = both;
    assert_true(read_words(""));
    assert_int_equal(options.server.socket_mode, 0606);
    assert_int_equal(options.server.socket_group, 7);
}

static void keep_lies_between_its_bounds(void **state)
{
    (void)state;
    assert_true(read_words("--keep|5s|--keep-min|5s|--keep-max|5s"));
    assert_refused("--keep|5s|--keep-min|5001ms", 78, "--keep-min");
    assert_refused("--keep|5001ms|--keep-max|5s", 78, "--keep-max");
    assert_refused("--keep-min|25h", 78, "--keep");
}

static void addresses_that_are_none(void **state)
{
    static const char *const none[] = {
        "",
        "unix:",
        "unix:s",
        "unix",
        "/s",
        "tcp:",
        "tcp:4336",
        "tcp::4336",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:",
        "udp:1.2.3.4",
        "tcp:localhost:65536",
        "tcp:[::1]",
        "tcp:localhost:-1",
        "tcp:localhost: 1",
        "tcp:localhost:123456",
        "UNIX:/s",
        "tcp:localhost:http",
    };
    char word[64];

    (void)state;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        snprintf(word, sizeof word, "--listen=%s", none[i]);
        assert_refused(word, 64, "unix:/path or tcp:host:port");
    }
}

static void tcp_is_for_this_machine_alone(void **state)
{
    static const char *const near[] = {"127.0.0.1", "127.255.255.254", "localhost", "[::1]"};
    static const char *const far[] = {"0.0.0.0",
                                      "10.0.0.1",
                                      "[::]",
                                      "example.org",
                                      "127.example.org",
                                      "localhost.example.org",
                                      "128.0.0.1",
                                      "[::2]",
                                      "::1",
                                      "127.1",
                                      "a-name-that-is-longer-than-any-loopback-address-could-ever-be-written"};
    char word[128];

    (void)state;
    for (size_t i = 0; i < sizeof near / sizeof near[0]; i++) {
        snprintf(word, sizeof word, "--listen=tcp:%s:65535", near[i]);
        assert_true(read_words(word));
    }
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
        snprintf(word, sizeof word, "--listen=tcp:%s:1", far[i]);
        assert_refused(word, 64, "TLS and authentication are not there yet");
    }
}

static void a_sockets_path_fits(void **state)
{
    char word[256] = "--listen=unix:/";

    (void)state;
    memset(word + strlen("--listen=unix:/"), 'p', 106);
    assert_true(read_words(word));
    word[strlen(word)] = 'p';
    assert_refused(word, 64, "at most 107 bytes");
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"0ms", 0},
                {"500ms", 500},
                {"30s", 30000},
                {"5m", 300000},
                {"24h", 86400000},
                {"7d", 604800000},
                {"007s", 7000},
                {"213503982334d", 213503982334ull * 86400000},
                {"18446744073709551615ms", UINT64_MAX}};
    static const char *const bad[] = {"",
                                      "s",
                                      "5",
                                      "5 s",
                                      " 5s",
                                      "5S",
                                      "-1s",
                                      "+1s",
                                      "1.5s",
                                      "5ss",
                                      "5sec",
                                      "1w",
                                      "0x5s",
                                      "1h30m",
                                      "18446744073709551616ms",
                                      "213503982335d"};
    uint64_t ms;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(options_duration(good[i].text, &ms));
        assert_true(ms == good[i].ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ms = 77;
        if (options_duration(bad[i], &ms))
            fail_msg("%s is taken", bad[i]);
        assert_int_equal(ms, 77);
    }
}

static void byte_counts(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"1048576", 1048576},
                {"64KiB", 65536},
                {"16MiB", 16777216},
                {"8GiB", 8ull << 30},
                {"17179869183GiB", 17179869183ull << 30},
                {"18446744073709551615", UINT64_MAX}};
    static const char *const bad[] = {"",
                                      "KiB",
                                      "1KB",
                                      "1K",
                                      "1k",
                                      "1kib",
                                      "1 KiB",
                                      "-1",
                                      "+1",
                                      "1.5MiB",
                                      "0x10",
                                      "1TiB",
                                      "18446744073709551616",
                                      "17179869184GiB"};
    uint64_t bytes;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(options_bytes(good[i].text, &bytes));
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bytes = 77;
        if (options_bytes(bad[i], &bytes))
            fail_msg("%s is taken", bad[i]);
        assert_int_equal(bytes, 77);
    }
}

static void values_of_another_kind(void **state)
{
    (void)state;
    assert_refused("--lease|30", 64, "--lease: 30: write a duration as 500ms");
    assert_refused("--quota|8GB", 64, "--quota: 8GB: write a number of bytes");
    assert_refused("--max-unfinished|1KiB", 64, "--max-unfinished: 1KiB: write a number");
    assert_refused("--log-level|loud", 64, "--log-level: loud: error, warn, info or debug");
    assert_refused("--log-format|xml", 64, "logfmt or json");
    assert_refused("--if-interrupted|run", 64, "report or take-over");
    assert_refused("--accept-loss=maybe", 64, "true or false");
    assert_refused("--data=", 64, "a path is not empty");
    assert_refused("--check-data=", 64, "a path is not empty");
    assert_refused("--data|--listen|unix:/x", 64, "--data: needs a value");
    assert_refused("--check-data|--quota=1GiB", 64, "--check-data: needs a value");
    assert_true(read_words("--data=--x"));
}

static void words_that_are_no_options(void **state)
{
    (void)state;
    assert_refused("--nonsense", 64, "--nonsense");
    assert_refused("--dat|x", 64, "--dat: no such option");
    assert_refused("--data2|x", 64, "no such option");
    assert_refused("stray", 64, "stray");
    assert_refused("-d", 64, "-d");
    assert_refused("--", 64, "no such option");
    assert_refused("--data", 64, "--data: needs a value");
    assert_refused("--lease|5s|--quota", 64, "--quota: needs a value");
    assert_refused("--version=1", 64, "takes no value");
    assert_refused("--config|x", 64, "--config");
}

/* A word too long for the sentence is cut, not written over its end. */
static void long_words_are_cut(void **state)
{
    char word[2048] = "--data=";

    (void)state;
    memset(word, 'w', sizeof word - 1);
    assert_refused(word, 64, "no such option");
    memcpy(word, "--lease=", 8);
    assert_refused(word, 64, "write a duration");
    assert_true(strlen(error.message) < sizeof error.message);
}

static void help_wins(void **state)
{
    static const char *const wrong[] = {"IDEMD_LEASE", "nonsense", NULL};

    (void)state;
    variables = wrong;
    assert_true(read_words("--help"));
    assert_int_equal(options.action, OPTIONS_HELP);
    assert_true(read_words("--nonsense|--version"));
    assert_int_equal(options.action, OPTIONS_VERSION);
    assert_true(read_words("--man"));
    assert_int_equal(options.action, OPTIONS_MAN);
    assert_true(read_words("--check-data|/d|--help"));
    assert_int_equal(options.action, OPTIONS_HELP);
}

static void check_data_names_its_directory(void **state)
{
    (void)state;
    assert_true(read_words("--check-data|/some/where"));
    assert_int_equal(options.action, OPTIONS_CHECK_DATA);
    assert_string_equal(options.check_data, "/some/where");
    assert_refused("--check-data", 64, "needs a value");
}

/* What a printer wrote; the caller frees it. */
static char *printed(void (*print)(FILE *out))
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    print(out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static const char *const names[] = {"data",       "listen",         "quota",       "accept-loss",    "log-level",
                                    "log-format", "keep",           "keep-min",    "keep-max",       "lease",
                                    "grace",      "if-interrupted", "max-outcome", "max-unfinished", "check-data",
                                    "version",    "help",           "socket-mode", "socket-group"};

static void help_has_every_option_in_eighty_columns(void **state)
{
    char *text = printed(options_print_help);
    size_t column = 0;

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char start[64];
        snprintf(start, sizeof start, "\n  --%s", names[i]);
        assert_non_null(strstr(text, start));
    }
    assert_null(strstr(text, "--man"));
    assert_non_null(strstr(text, "IDEMD_MAX_UNFINISHED"));
    assert_non_null(strstr(text, "SIGHUP"));
    assert_non_null(strstr(text, "Exit status:"));
    for (const char *at = text; *at; at++) {
        column = *at == '\n' ? 0 : column + 1;
        assert_true(column <= 80);
    }
    assert_int_equal(column, 0);
    free(text);
}

static void the_manual_page_has_every_option(void **state)
{
    char *text = printed(options_print_man);

    (void)state;
    assert_memory_equal(text, ".TH IDEMD 8 ", 12);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char start[64] = "\\fB\\-\\-";
        for (const char *at = names[i]; *at; at++)
            snprintf(start + strlen(start), sizeof start - strlen(start), *at == '-' ? "\\-" : "%c", *at);
        assert_non_null(strstr(text, start));
    }
    assert_non_null(strstr(text, "IDEMD_MAX_UNFINISHED"));
    assert_non_null(strstr(text, ".SH EXIT STATUS"));
    assert_non_null(strstr(text, "SIGHUP"));
    free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, no_variables, release)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(the_defaults_are_the_protocols),
        TEST(every_option_is_taken),
        TEST(every_variable_is_taken),
        TEST(the_command_line_wins),
        TEST(a_value_may_follow_an_equals_sign),
        TEST(addresses_add_up_and_replace_what_came_before),
        TEST(at_most_sixteen_addresses),
        TEST(the_edges_of_every_range),
        TEST(a_range_holds_for_variables_too),
        TEST(a_variable_of_ours_that_is_unknown_is_refused),
        TEST(who_may_connect),
        TEST(keep_lies_between_its_bounds),
        TEST(addresses_that_are_none),
        TEST(tcp_is_for_this_machine_alone),
        TEST(a_sockets_path_fits),
        TEST(durations),
        TEST(byte_counts),
        TEST(values_of_another_kind),
        TEST(words_that_are_no_options),
        TEST(long_words_are_cut),
        TEST(help_wins),
        TEST(check_data_names_its_directory),
        TEST(help_has_every_option_in_eighty_columns),
        TEST(the_manual_page_has_every_option),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
