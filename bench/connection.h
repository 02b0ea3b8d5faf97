/* One connection of the load: its socket, the bytes to send, and the bytes that came. What they mean is its user's. */
#ifndef IDEM_BENCH_CONNECTION_H
#define IDEM_BENCH_CONNECTION_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct connection_user {
    /* Bytes came. Returns how many of them were used, counted from the first; the others come again, with more behind
     * them. */
    size_t (*received)(void *context, const uint8_t *data, size_t size);
    /* The connection is of no more use; `what` says why, until this call returns. */
    void (*failed)(void *context, const char *what);
    void *context;
};

struct connection {
    struct ev_loop *loop;
    struct connection_user user;
    ev_io readable, writable;
    bool open;
    int fd;
    uint8_t *out, *in;
    size_t out_size, out_sent, out_capacity, in_size, in_capacity;
};

/* Connects to unix:/path or tcp:host:port and begins to read. False: it cannot be reached; errno may say why. */
bool connection_open(struct connection *connection, struct ev_loop *loop, const char *address,
                     const struct connection_user *user);
/* Does nothing to one that was zeroed and never opened. */
void connection_close(struct connection *connection);

/* Returns room for `bytes` behind what is to be sent, until the next call. */
uint8_t *connection_room(struct connection *connection, size_t bytes);
/* So many bytes of that room were filled. */
void connection_take(struct connection *connection, size_t bytes);
/* Sends what the socket takes now, and the rest when it has room again. May call `failed`. */
void connection_flush(struct connection *connection);

#endif
