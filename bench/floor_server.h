/* The least that a server does: a child process with the same kind of loop as the daemon's, that sends every frame back
 * as it came, all frames of a turn in one write a connection. With a directory it first makes all of them durable, in
 * one write and flush a turn: no server that answers only what is on the disk can do less. */
#ifndef IDEM_BENCH_FLOOR_SERVER_H
#define IDEM_BENCH_FLOOR_SERVER_H

#include <stdbool.h>

#include "bench/target.h"

/* Starts it on a Unix socket in a directory of its own. `directory` NULL: nothing is flushed. It ends with
 * floor_server_stop or with this process, whatever ends that, and removes what it made. False: standard error says why.
 */
bool floor_server_start(const char *directory, char address[TARGET_ADDRESS_BYTES]);
void floor_server_stop(void);

#endif
