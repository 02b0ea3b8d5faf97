/* Who renews the lease while a command runs: a process of its own. So a reader that has stopped, a terminal that stops
 * the whole job (Ctrl-Z), or a signal that stops idem itself do not let the lease lapse while the command may run on.
 * It ends when idem ends, however that happens. */
#ifndef IDEM_COMMAND_KEEPER_H
#define IDEM_COMMAND_KEEPER_H

#include <sys/types.h>

#include "client/command/command.h"

struct keeper {
    const struct command *command;
    idem_operation_id op;
    uint64_t fence;
    pid_t pid;            /* 0: there is none */
    int news;             /* to be polled for POLLIN; -1: there is none */
    uint64_t start_at_ms; /* not before then: one that ends at once must not be started in a loop */
    bool lost;            /* somebody else has decided the operation: there is nothing to renew */
};

uint64_t keeper_now_ms(void);
/* Starts it; it renews first when a third of lease_left_ms is over. False: errno says why. */
bool keeper_start(struct keeper *keeper, uint32_t lease_left_ms);
/* Reads what it tells, says what has to be said, and notices its end. */
void keeper_hear(struct keeper *keeper);
/* Starts another one, if the last one ended by itself and it is time. Returns how long to wait before the next look,
 * in ms; -1: for ever. */
int keeper_restart(struct keeper *keeper);
/* Ends it. */
void keeper_stop(struct keeper *keeper);

#endif
