/* The idem command: what its parts share. */
#ifndef IDEM_COMMAND_H
#define IDEM_COMMAND_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "client/command/options.h"
#include "client/idem.h"

/* The command's own exit codes: sysexits, and a reply's by the help of its call. */
enum command_exit {
    EXIT_REPLAY = 10,
    EXIT_ANSWER_RUNNING = 11,
    EXIT_ANSWER_MISMATCH = 12,
    EXIT_ANSWER_INTERRUPTED = 13,
    EXIT_ANSWER_EXPIRED = 14,
    EXIT_LOST = 15,
    EXIT_FINAL = 16,
    EXIT_GONE = 17,
    EXIT_USAGE = 64,
    EXIT_MISMATCH = 65,
    EXIT_UNREACHABLE = 69,
    EXIT_OTHER = 70,
    EXIT_SYSTEM = 71,
    EXIT_OUTPUT = 74,
    EXIT_RUNNING = 75,
    EXIT_INTERRUPTED = 76,
    EXIT_EXPIRED = 77,
    EXIT_NOT_STARTED = 126, /* as a shell has it */
    EXIT_NO_COMMAND = 127,
};

struct command {
    idem_client *client;  /* NULL until the options are read */
    idem_options options; /* what the command line says; NULL: it does not */
    uint32_t timeout_ms;  /* 0: the library's */
    bool json, help;
};

/* A word and what it means: an exit code, an environment variable, a word of an option. */
struct meaning {
    const char *word, *text; /* word NULL: the end */
};

/* One command of idem, as main.c reads, runs and explains it. */
struct subcommand {
    const char *name, *usage, *about; /* usage: what follows the name, without the options that all commands have */
    struct option_table table;
    const struct meaning *exits, *variables; /* NULL: none */
    const char *example;                     /* NULL: none */
    bool needs_client, takes_words;          /* takes_words: after "--" */
    /* argv[0] is the first word after "--". Returns the exit code. */
    int (*run)(struct command *command, int argc, char **argv);
};

/* ---- main.c ---- */

/* Says "idem: ..." on standard error, escaped, since some of it may come from elsewhere. */
void command_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says why, and how to get help; returns EXIT_USAGE. */
int command_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says what the library's last error was; returns the exit code for it. */
int command_failed(const struct command *command, idem_error error);
/* memory, if it is not NULL; else it says so and exits. */
void *command_need(void *memory);

/* "500ms", "30s", "5m", "24h", "7d". Returns NULL, or what is wrong with it: not written so, or over most_ms. */
const char *command_duration(const char *text, uint64_t most_ms, uint64_t *ms);
/* Everything from a descriptor, at most bytes_max. NULL: errno says why (EFBIG: it was more). */
uint8_t *command_read_all(int fd, size_t bytes_max, size_t *size);

/* ---- message.c: any message of the protocol, by its descriptor ---- */

/* Fills a field of a request from an option. name without the dashes; nested messages op, outcome and checkpoint are
 * reached by their fields' own names. Returns NULL, or what is wrong with it. Memory lives until the process ends. */
const char *message_set(ProtobufCMessage *message, const char *name, const char *value);
/* Fills in the options of a request, and returns how many there are. Namespace and caller are missing, since every
 * command has them. What lines point to is good until the next call. */
enum { MESSAGE_OPTIONS_MAX = 32 };
size_t message_options(const ProtobufCMessageDescriptor *descriptor, struct option_line lines[MESSAGE_OPTIONS_MAX]);
/* One "name value" line per field that is set, nested names with dots. */
void message_print_text(FILE *out, const ProtobufCMessage *message);
/* One line of JSON, in the protobuf JSON mapping. */
void message_print_json(FILE *out, const ProtobufCMessage *message);

/* ---- The commands ---- */

extern const struct subcommand run_subcommand, key_subcommand, ping_subcommand;
/* one_call.c: begin, complete, ... stats, in the protocol's order; `at` counts from 0. False: there is no more. What
 * it fills in is good until the next call. */
bool one_call_at(unsigned at, struct subcommand *subcommand);

#endif
