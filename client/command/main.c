/* idem: options, a command, its options. The options that all commands have may stand before or after the command. */
#include "client/command/command.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/command/help.h"
#include "proto/standard.h"
#include "proto/text.h"

/* For "Try: idem NAME --help". */
static const char *subcommand_name;

/* ---- What all parts use ---------------------------------------------------------- */

static void say(const char *format, va_list arguments)
{
    char *text;
    const int size = vasprintf(&text, format, arguments);

    fputs("idem: ", stderr);
    if (size < 0) {
        fputs("out of memory", stderr);
    } else {
        text_print(stderr, text, (size_t)size);
        free(text);
    }
    fputc('\n', stderr);
}

void command_say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

int command_misuse(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    fprintf(stderr, "Try: idem %s%s--help\n", subcommand_name ? subcommand_name : "", subcommand_name ? " " : "");
    return EXIT_USAGE;
}

int command_failed(const struct command *command, idem_error error)
{
    const char *message = idem_message(command->client);

    if (error == IDEM_ERR_UNREACHABLE) {
        command_say("not reachable: %s", message);
        return EXIT_UNREACHABLE;
    }
    command_say("%s%s%s", idem_error_name(error), *message ? ": " : "", message);
    if (error == IDEM_ERR_NOT_FOUND)
        return EXIT_GONE;
    if (error == IDEM_ERR_INVALID_ARGUMENT || error == IDEM_ERR_MISUSE)
        return EXIT_USAGE;
    return error == IDEM_ERR_LOST ? EXIT_UNREACHABLE : EXIT_OTHER;
}

void *command_need(void *memory)
{
    if (!memory) {
        command_say("out of memory");
        exit(EXIT_SYSTEM);
    }
    return memory;
}

const char *command_duration(const char *text, uint64_t most_ms, uint64_t *ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000}};
    char *end;
    uint64_t count;

    if (*text < '0' || *text > '9')
        return "write a duration as 500ms, 30s, 5m, 24h, 7d";
    errno = 0;
    count = strtoull(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(end, units[i].unit) == 0) {
            if (errno || count > most_ms / units[i].ms)
                return most_ms == UINT32_MAX ? "at most 49d" : "too long";
            *ms = count * units[i].ms;
            return NULL;
        }
    return "write a duration as 500ms, 30s, 5m, 24h, 7d";
}

uint8_t *command_read_all(int fd, size_t bytes_max, size_t *size)
{
    size_t capacity = 65536;
    uint8_t *data = malloc(capacity);

    *size = 0;
    while (data) {
        const ssize_t got = read(fd, data + *size, capacity - *size);
        if (got == 0)
            return data;
        if (got < 0 && errno == EAGAIN) { /* somebody else made it so */
            struct pollfd look = {.fd = fd, .events = POLLIN};
            poll(&look, 1, -1);
            continue;
        }
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        *size += (size_t)got;
        if (*size > bytes_max) {
            errno = EFBIG;
            break;
        }
        if (*size == capacity) {
            uint8_t *larger = realloc(data, capacity *= 2);
            if (!larger)
                break;
            data = larger;
        }
    }
    const int failed = errno;
    free(data);
    errno = failed;
    return NULL;
}

/* ---- The options of all commands -------------------------------------------------- */

static const char *set_common(void *user, const char *name, const char *value)
{
    struct command *command = user;
    const char *wrong = NULL;
    uint64_t ms = 0;

    if (strcmp(name, "address") == 0)
        command->options.address = value;
    else if (strcmp(name, "namespace") == 0)
        command->options.namespace_ = value;
    else if (strcmp(name, "caller") == 0)
        command->options.caller = value;
    else if (strcmp(name, "json") == 0)
        command->json = true;
    else if (strcmp(name, "help") == 0)
        command->help = true;
    else if (!(wrong = command_duration(value, UINT32_MAX, &ms)) && ms == 0)
        wrong = "a call needs some time";
    else
        command->timeout_ms = (uint32_t)ms;
    return wrong;
}

static const char *set_start(void *user, const char *name, const char *value)
{
    const char **print = user;

    (void)value;
    *print = name;
    return NULL;
}

/* What stands only before a command. */
static const struct option_line start_options[] = {
    {"version", NULL, "print the version", 0},
    {"man", NULL, "print the manual page", 0},
};

/* ---- Running a command --------------------------------------------------------------- */

static bool find_subcommand(const char *name, struct subcommand *found)
{
    for (unsigned at = 0; help_subcommand(at, found); at++)
        if (strcmp(found->name, name) == 0)
            return true;
    return false;
}

static int open_client(struct command *command)
{
    const idem_error error = idem_open(&command->options, &command->client);

    if (error == IDEM_ERR_ADDRESS)
        return command_misuse("%s", idem_message(NULL));
    if (error != IDEM_OK) {
        command_say("%s", idem_error_name(error));
        return EXIT_OTHER;
    }
    return 0;
}

static int run_subcommand_of(struct command *command, const struct subcommand *subcommand, int argc, char **argv)
{
    const struct option_table tables[] = {subcommand->table, help_common(set_common, command)};
    const int left = options_read(tables, 2, argc, argv);
    int exit_code;

    if (left < 0)
        return EXIT_USAGE;
    if (command->help) {
        help_print(subcommand);
        return 0;
    }
    const bool words = strcmp(argv[left - 1], "--") == 0 && left < argc;
    if (!subcommand->takes_words && left < argc)
        return command_misuse("%s: what is this? Options start with --", argv[left]);
    if (subcommand->takes_words && !words)
        return command_misuse(left < argc ? "%s: write -- before the command that is to be run"
                                          : "%s: needs -- and a command that is to be run",
                              left < argc ? argv[left] : subcommand->name);
    if (subcommand->needs_client && (exit_code = open_client(command)) != 0)
        return exit_code;
    exit_code = subcommand->run(command, argc - left, argv + left);
    idem_close(command->client);
    return exit_code;
}

static int run_idem(int argc, char **argv)
{
    struct command command = {0};
    struct subcommand subcommand;
    const char *print = NULL;

    idem_options_init(&command.options);
    command.options.client = "idem " IDEMD_VERSION;
    const struct option_table tables[] = {
        help_common(set_common, &command),
        {start_options, sizeof start_options / sizeof start_options[0], set_start, &print}};
    const int at = options_read(tables, 2, argc, argv);
    if (at < 0)
        return EXIT_USAGE;
    if (print && strcmp(print, "version") == 0) {
        puts("idem " IDEMD_VERSION);
        return 0;
    }
    if (print || command.help) {
        if (print)
            help_print_man();
        else
            help_print_all();
        return 0;
    }
    if (at == argc)
        return command_misuse("a command is missing");
    if (!find_subcommand(argv[at], &subcommand))
        return command_misuse("%s: no such command", argv[at]);
    subcommand_name = subcommand.name;
    return run_subcommand_of(&command, &subcommand, argc - at, argv + at);
}

int main(int argc, char **argv)
{
    if (!standard_fill(false))
        return EXIT_SYSTEM;
    const int exit_code = run_idem(argc, argv);
    if (fflush(stdout) == 0 && !ferror(stdout))
        return exit_code;
    command_say("standard output cannot be written: %s", strerror(errno));
    return EXIT_OUTPUT;
}
