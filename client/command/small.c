/* key and ping. */
#include "client/command/command.h"

#include <string.h>

#include "proto/text.h"

#define LINES(lines) (lines), sizeof(lines) / sizeof(lines)[0]

/* ---- key ------------------------------------------------------------------------ */

static struct {
    bool v4, v7;
    const char *name;
} key;

static const struct option_line key_options[] = {
    {"v7", NULL, "a UUID that is ordered by time; this is the default", 0},
    {"v4", NULL, "a random UUID", 0},
    {"name", "NAME", "the same UUID whenever the same NAME is given", 0},
};

static const char *set_key(void *user, const char *name, const char *value)
{
    (void)user;
    if (strcmp(name, "v7") == 0)
        key.v7 = true;
    else if (strcmp(name, "v4") == 0)
        key.v4 = true;
    else
        key.name = value;
    return NULL;
}

static int run_key(struct command *command, int argc, char **argv)
{
    char made[IDEM_KEY_CHARS];
    idem_error error;

    (void)command;
    (void)argc;
    (void)argv;
    if (key.v7 + key.v4 + (key.name != NULL) > 1)
        return command_misuse("only one of --v7, --v4 and --name can be given");
    if (key.v4)
        error = idem_key_v4(made);
    else if (key.name)
        error = idem_key_named(key.name, strlen(key.name), made);
    else
        error = idem_key_v7(made);
    if (error != IDEM_OK) {
        command_say("%s", idem_error_name(error));
        return EXIT_OTHER;
    }
    puts(made);
    return 0;
}

static const struct meaning key_exits[] = {
    {"0", "the key is printed"},
    {NULL, NULL},
};

const struct subcommand key_subcommand = {
    .name = "key",
    .usage = "[OPTION]...",
    .about = "Make an idempotency key and print it.",
    .table = {LINES(key_options), set_key, NULL},
    .exits = key_exits,
    .run = run_key,
};

/* ---- ping ------------------------------------------------------------------------ */

static uint64_t ping_wait_ms;

static const struct option_line ping_options[] = {
    {"wait", "D", "how long to try until the daemon answers; without it --timeout counts, or 2s", 0},
};

static const char *set_ping(void *user, const char *name, const char *value)
{
    (void)user;
    (void)name;
    return command_duration(value, UINT32_MAX, &ping_wait_ms);
}

static int run_ping(struct command *command, int argc, char **argv)
{
    enum { TRY_MS = 2000 }; /* to know that nobody answers, this is enough */
    const uint32_t timeout_ms = ping_wait_ms          ? (uint32_t)ping_wait_ms
                                : command->timeout_ms ? command->timeout_ms
                                                      : TRY_MS;
    idem_hello_reply hello;
    const idem_error error = idem_hello(command->client, timeout_ms, &hello);

    (void)argc;
    (void)argv;
    if (error != IDEM_OK)
        return command_failed(command, error);
    fputs("server ", stdout);
    text_print(stdout, hello.server, strlen(hello.server));
    printf("\ninstance %llu\nstore_id %llu\n", (unsigned long long)hello.instance, (unsigned long long)hello.store_id);
    return 0;
}

static const struct meaning ping_exits[] = {
    {"0", "the daemon answers"},
    {NULL, NULL},
};

const struct subcommand ping_subcommand = {
    .name = "ping",
    .usage = "[OPTION]...",
    .about = "Ask whether the daemon answers, and print what it says of itself.",
    .table = {LINES(ping_options), set_ping, NULL},
    .exits = ping_exits,
    .needs_client = true,
    .run = run_ping,
};
