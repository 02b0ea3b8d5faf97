/* Sockets that listen, Unix and TCP. */
#ifndef IDEMD_LISTENER_H
#define IDEMD_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>

#include "daemon/base/failure.h"

struct listener {
    int fd;
    char address[160]; /* as logged: with the port that was given, where 0 was asked for */
    char path[108];    /* Unix: the socket's file; else empty */
    dev_t device;      /* which file that is */
    ino_t inode;
};

/* Who may connect to a Unix socket: whoever may write its file. */
struct listener_access {
    int mode;
    int64_t group; /* -1: the process's */
};

/* Listens on "unix:/path" or "tcp:host:port" (a loopback address), non-blocking. A socket file that nobody listens on
 * any more is replaced; the folder of the default path is made. False: *error says why (69 in use, 71, 73, 77). */
bool listener_open(struct listener *listener, const char *address, const struct listener_access *access,
                   struct failure *error);
/* Closes it, and removes its file, unless another has been put in its place. */
void listener_close(struct listener *listener);

enum listener_accept { LISTENER_ACCEPTED, LISTENER_NONE, LISTENER_NO_DESCRIPTORS };
/* Accepts one connection: *fd, non-blocking, close-on-exec. */
enum listener_accept listener_accept(struct listener *listener, int *fd);

#endif
