/* key and ping. */
#include "client/command/command.h"

#include <string.h>

int command_key(int argc, char **argv)
{
    char key[IDEM_KEY_CHARS];
    idem_error error;

    if (argc == 1 || (argc == 2 && strcmp(argv[1], "--v7") == 0))
        error = idem_key_v7(key);
    else if (argc == 2 && strcmp(argv[1], "--v4") == 0)
        error = idem_key_v4(key);
    else if (argc == 3 && strcmp(argv[1], "--name") == 0)
        error = idem_key_named(argv[2], strlen(argv[2]), key);
    else
        return command_misuse("key takes --v7, --v4, or --name NAME");
    if (error != IDEM_OK) {
        command_say("%s", idem_error_name(error));
        return EXIT_OTHER;
    }
    puts(key);
    return 0;
}

int command_ping(struct command *command, int argc, char **argv)
{
    enum { TRY_MS = 2000 };
    idem_hello_reply hello;
    uint64_t wait_ms = 0;

    if (argc == 3 && strcmp(argv[1], "--wait") == 0) {
        if (!command_duration(argv[2], UINT32_MAX, &wait_ms))
            return command_misuse("--wait %s: write a duration as 500ms, 30s, 5m, 24h, 7d", argv[2]);
    } else if (argc != 1) {
        return command_misuse("ping takes --wait D");
    }
    /* The library tries again until the time is over; without --wait one short while is enough to know. */
    const idem_error error = idem_hello(command->client, wait_ms ? (uint32_t)wait_ms : TRY_MS, &hello);
    if (error != IDEM_OK)
        return command_failed(command, error);
    printf("server %s\ninstance %llu\nstore_id %llu\n", hello.server, (unsigned long long)hello.instance,
           (unsigned long long)hello.store_id);
    return 0;
}
