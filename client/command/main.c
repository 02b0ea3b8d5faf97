/* idem: global options, then a command. */
#include "client/command/command.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: idem [-s ADDRESS] [-n NAMESPACE] [--caller C] [--timeout D] [--json] COMMAND ...\n"
    "\n"
    "  run --key K [--operation O] [--lease D] [--wait D] [--keep D] [--if-interrupted report|take-over]\n"
    "      [--on-failure doubt|release|keep] [--stdin] -- COMMAND [ARG]...\n"
    "                 run a command once for its key; later runs get its output and exit status again\n"
    "  key [--v7|--v4|--name NAME]\n"
    "                 make a key\n"
    "  ping [--wait D]\n"
    "                 0 once the daemon answers\n"
    "  one call each, with every field as an option (idem CALL --help lists them):\n";

static const char usage_end[] = "\n"
                                "  -s ADDRESS     unix:/path or tcp:host:port; else $IDEM_ADDRESS, then "
                                "unix:$XDG_RUNTIME_DIR/idemd.sock where it is,\n"
                                "                 then unix:/run/idemd/idemd.sock\n"
                                "  -n NAMESPACE   else $IDEM_NAMESPACE, then default\n"
                                "  --caller C     the tenant, account or user that keys belong to\n"
                                "  --timeout D    how long a call may take (10s)\n"
                                "  --json         print replies as JSON, in the protobuf JSON mapping\n"
                                "\n"
                                "Durations are written 500ms, 30s, 5m, 24h, 7d.\n";

void command_say(const char *format, ...)
{
    va_list arguments;

    fputs("idem: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

int command_misuse(const char *format, ...)
{
    va_list arguments;

    fputs("idem: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputs("\nTry: idem --help\n", stderr);
    return EXIT_USAGE;
}

int command_failed(const struct command *command, idem_error error)
{
    const char *message = idem_message(command->client);

    if (error == IDEM_ERR_UNREACHABLE) {
        command_say("%s: not reachable: %s", idem_address(command->client), message);
        return EXIT_UNREACHABLE;
    }
    command_say("%s%s%s", idem_error_name(error), *message ? ": " : "", message);
    if (error == IDEM_ERR_NOT_FOUND)
        return 17;
    if (error == IDEM_ERR_INVALID_ARGUMENT || error == IDEM_ERR_MISUSE)
        return EXIT_USAGE;
    return error == IDEM_ERR_LOST ? EXIT_UNREACHABLE : EXIT_OTHER;
}

bool command_duration(const char *text, uint64_t most_ms, uint64_t *ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000}};
    char *end;
    uint64_t count;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    count = strtoull(text, &end, 10);
    if (errno)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (strcmp(end, units[i].unit) == 0 && count <= most_ms / units[i].ms) {
            *ms = count * units[i].ms;
            return true;
        }
    return false;
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
    free(data);
    return NULL;
}

static void help(void)
{
    fputs(usage, stdout);
    one_call_list(stdout);
    fputs(usage_end, stdout);
}

/* One global option. Returns how many words it took; 0: it is none; -1: it was wrong, and said so. */
static int global_option(struct command *command, idem_options *options, int argc, char **argv)
{
    const char *name = argv[0], *value = argc > 1 ? argv[1] : NULL;
    uint64_t ms;

    if (strcmp(name, "--json") == 0) {
        command->json = true;
        return 1;
    }
    if (strcmp(name, "-s") != 0 && strcmp(name, "-n") != 0 && strcmp(name, "--caller") != 0 &&
        strcmp(name, "--timeout") != 0)
        return 0;
    if (!value) {
        command_misuse("%s needs a value", name);
        return -1;
    }
    if (strcmp(name, "-s") == 0)
        options->address = value;
    else if (strcmp(name, "-n") == 0)
        options->namespace_ = value;
    else if (strcmp(name, "--caller") == 0)
        options->caller = value;
    else if (command_duration(value, UINT32_MAX, &ms) && ms > 0)
        command->timeout_ms = (uint32_t)ms;
    else {
        command_misuse("--timeout %s: write a duration as 500ms, 30s, 5m, 24h, 7d, at most 49d", value);
        return -1;
    }
    return 2;
}

static int dispatch(struct command *command, const idem_options *options, int argc, char **argv)
{
    idem_error error;
    int exit_code;

    if (strcmp(argv[0], "key") == 0)
        return command_key(argc, argv);
    if (strcmp(argv[0], "run") != 0 && strcmp(argv[0], "ping") != 0 && !one_call_known(argv[0]))
        return command_misuse("%s: no such command", argv[0]);
    error = idem_open(options, &command->client);
    if (error == IDEM_ERR_ADDRESS)
        return command_misuse("an address is written unix:/path or tcp:host:port");
    if (error != IDEM_OK) {
        command_say("%s", idem_error_name(error));
        return EXIT_OTHER;
    }
    exit_code = strcmp(argv[0], "run") == 0    ? command_run(command, argc, argv)
                : strcmp(argv[0], "ping") == 0 ? command_ping(command, argc, argv)
                                               : one_call(command, argc, argv);
    idem_close(command->client);
    return exit_code;
}

int main(int argc, char **argv)
{
    struct command command = {0};
    idem_options options;
    int at = 1;

    idem_options_init(&options);
    options.client = "idem " IDEMD_VERSION;
    while (at < argc && argv[at][0] == '-') {
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            help();
            return 0;
        }
        if (strcmp(argv[at], "--version") == 0) {
            puts("idem " IDEMD_VERSION);
            return 0;
        }
        const int taken = global_option(&command, &options, argc - at, argv + at);
        if (taken < 0)
            return EXIT_USAGE;
        if (taken == 0)
            return command_misuse("%s: no such option", argv[at]);
        at += taken;
    }
    if (at == argc)
        return command_misuse("a command is missing");
    const int exit_code = dispatch(&command, &options, argc - at, argv + at);
    if (fflush(stdout) != 0 && exit_code == 0) {
        command_say("standard output cannot be written");
        return EXIT_OTHER;
    }
    return exit_code;
}
