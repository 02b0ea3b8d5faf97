/* Why the daemon, or a part of it, cannot start. */
#ifndef IDEMD_FAILURE_H
#define IDEMD_FAILURE_H

#include <stdbool.h>

/* An exit code of sysexits.h (64 usage, 65 data not ours or damaged, 69 address in use, 71 a system resource is
 * missing, 73 cannot create, 74 I/O, 75 held by another process, 77 no permission, 78 configuration) and a sentence
 * that names the path and the reason. */
struct failure {
    int exit_code;
    char message[512];
};

/* Fills it like printf; a longer message is cut. Returns false, so that a function which fails can return it. */
bool failure_set(struct failure *failure, int exit_code, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
