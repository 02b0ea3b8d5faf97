/* What a socket tells of who is at its other end. */
#ifndef IDEMD_PEER_H
#define IDEMD_PEER_H

#include <stdbool.h>

enum { PEER_BYTES = 96 };

/* Who it is, for the log: "unix uid 1000 pid 4711", "tcp:127.0.0.1:40000", "unknown". */
void peer_describe(int fd, char text[PEER_BYTES]);
/* True if its input is still open, as far as the socket knows. */
bool peer_is_alive(int fd);
/* True if there may be something to read, if only its end. */
bool peer_has_input(int fd);

#endif
