/* The daemon: store, service, sockets and one loop. */
#ifndef IDEMD_SERVER_H
#define IDEMD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/rules.h"

enum { SERVER_LISTENERS_MAX = 16 };

struct server_options {
    const char *data; /* the store's directory */
    const char *listen[SERVER_LISTENERS_MAX];
    int listen_count;
    int socket_mode;      /* of Unix sockets */
    int64_t socket_group; /* likewise; -1: the process's */
    uint64_t quota_bytes;
    bool accept_loss;
    struct policy policy; /* of the default namespace, and of every one that has none of its own */
    uint64_t unfinished_max;
    uint32_t namespace_share; /* percent of what the other namespaces leave, 1 .. 100 */
    uint64_t memory_max;      /* bytes; 0: what suits the machine */
};

/* Runs until it is told to stop (SIGTERM, SIGINT). Returns the exit code, after it logged why. */
int server_run(const struct server_options *options);

#endif
