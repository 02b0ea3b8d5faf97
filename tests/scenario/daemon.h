/* A real daemon for tests in C: $IDEMD_BUILD/daemon/idemd on a directory and socket of its own. */
#ifndef IDEM_TESTS_DAEMON_H
#define IDEM_TESTS_DAEMON_H

#include <sys/types.h>

#include "tests/unit/folder.h"

struct test_daemon {
    char folder[TEST_FOLDER_BYTES], address[128];
    pid_t pid;
};

/* Starts it and waits for its ready line. Aborts where that does not work. */
void daemon_start(struct test_daemon *daemon);
/* SIGTERM, and waits. Returns its exit status. */
int daemon_stop(struct test_daemon *daemon);
/* SIGKILL, and starts it again on the same directory. */
void daemon_restart(struct test_daemon *daemon);

#endif
