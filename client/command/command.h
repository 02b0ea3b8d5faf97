/* The idem command: what its parts share. */
#ifndef IDEM_COMMAND_H
#define IDEM_COMMAND_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "client/idem.h"

/* The command's own exit codes: sysexits, and a reply's by COMMANDS in the manual. */
enum command_exit {
    EXIT_MISMATCH = 65,
    EXIT_USAGE = 64,
    EXIT_UNREACHABLE = 69,
    EXIT_OTHER = 70,
    EXIT_RUNNING = 75,
    EXIT_INTERRUPTED = 76,
    EXIT_EXPIRED = 77,
};

struct command {
    idem_client *client;
    bool json;
    uint32_t timeout_ms; /* 0: the library's */
};

/* Says "idem: ..." on standard error. */
void command_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says why, and how to get help; returns EXIT_USAGE. */
int command_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says what the library's last error was; returns the exit code for it. */
int command_failed(const struct command *command, idem_error error);

/* "500ms", "30s", "5m", "24h", "7d". False: not written so, or over most_ms. */
bool command_duration(const char *text, uint64_t most_ms, uint64_t *ms);
/* Everything from a descriptor, at most bytes_max. NULL: errno says why (EFBIG: it was more). */
uint8_t *command_read_all(int fd, size_t bytes_max, size_t *size);

/* message.c: any message of the protocol, by its descriptor. */

/* Fills a field of a request from an option "--name value". name without the dashes; nested messages op, outcome and
 * checkpoint are reached by their fields' own names. Returns NULL, or what is wrong with it. Memory lives until the
 * process ends. */
const char *message_set(ProtobufCMessage *message, const char *name, const char *value, bool *known);
/* One "name value" line per field that is set, nested names with dots. */
void message_print_text(FILE *out, const ProtobufCMessage *message);
/* One line of JSON, in the protobuf JSON mapping. */
void message_print_json(FILE *out, const ProtobufCMessage *message);
/* The options of a request, one line each. */
void message_print_help(FILE *out, const ProtobufCMessageDescriptor *descriptor);

/* one_call.c: begin, complete, .. stats. False: it is none of them. */
bool one_call_known(const char *name);
int one_call(struct command *command, int argc, char **argv);
void one_call_list(FILE *out);

/* run.c, and the small ones. */
int command_run(struct command *command, int argc, char **argv);
int command_key(int argc, char **argv);
int command_ping(struct command *command, int argc, char **argv);

#endif
