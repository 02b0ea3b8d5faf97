/* The command that idem run runs: its start, its signals, its input and output, its end. */
#ifndef IDEM_COMMAND_CHILD_H
#define IDEM_COMMAND_CHILD_H

#include "client/command/keeper.h"
#include "client/command/output.h"

struct child {
    char **argv;                  /* ends with NULL */
    const struct meaning *extras; /* variables on top of ours; word NULL: the end */
    const uint8_t *input;         /* NULL: it has our standard input */
    size_t input_bytes;
    struct output *output;
    struct keeper *keeper; /* started; it is looked after */
};

/* Runs it to its end. What signals us signals it, except for those that were ignored when we started: they stay
 * ignored, and for it too. What another process that it left behind writes later is not its output. Returns true if it
 * ran; *status is what waitpid said. Else nothing was run, it said why, and *status is the exit status for that.
 *
 * Signals that would end us are blocked when it returns, so that its outcome can be stored first; child_end lets them
 * come, and does nothing if there was no child_run. */
bool child_run(const struct child *child, int *status);
void child_end(void);

#endif
