/* The output of a command that idem runs: kept for later runs, and passed on as it comes.
 *
 * Passing on never waits, because whoever reads may have stopped (a pager, a terminal after Ctrl-S), and it does not
 * make the descriptors non-blocking, because others have them too. What cannot be written yet is queued; when the
 * command has ended and its outcome is stored, output_finish waits. */
#ifndef IDEM_COMMAND_OUTPUT_H
#define IDEM_COMMAND_OUTPUT_H

#include "client/command/command.h"

enum output_stream { OUTPUT_STANDARD = 0, OUTPUT_ERROR = 1, OUTPUT_STREAMS = 2 };

struct outlet {
    uint8_t *queued;
    size_t size, sent, capacity;
    int failed; /* errno of the write that did; nothing is written after that */
};

struct output {
    /* In the order in which it came: parts of one stream (1 standard output, 2 standard error), four bytes length,
     * big-endian, and as many bytes. */
    uint8_t *kept;
    size_t kept_bytes, kept_capacity, kept_max;
    uint64_t all_bytes; /* of all parts; if this is over kept_max nothing is kept */
    struct outlet outlets[OUTPUT_STREAMS];
};

/* Keeps a part, and queues it to be passed on. */
void output_add(struct output *output, enum output_stream stream, const uint8_t *data, size_t size);
/* Passes on what can be written without waiting. */
void output_pass(struct output *output, enum output_stream stream);
/* Is something queued? */
bool output_waits(const struct output *output, enum output_stream stream);
/* Is there room for more? The command waits while there is none. */
bool output_has_room(const struct output *output, enum output_stream stream);
/* Will nobody ever see more of this stream: neither whoever reads now, nor a later run? */
bool output_in_vain(const struct output *output, enum output_stream stream);
/* Writes all that is queued, however long that takes. */
void output_finish(struct output *output);
/* Writes a kept output again. */
void output_replay(struct output *output, idem_bytes kept);
/* The exit status of idem: that of the command, unless it is 0 and some of the output could not be written. */
int output_exit(const struct output *output, int exit_status);
void output_free(struct output *output);

#endif
