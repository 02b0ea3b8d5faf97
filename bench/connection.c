#include "bench/connection.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/need.h"

enum { READ_BYTES = 65536 }; /* room for each read */

static void fail(struct connection *connection, const char *what)
{
    connection->user.failed(connection->user.context, what);
}

/* ---- Sending --------------------------------------------------------------------- */

uint8_t *connection_room(struct connection *connection, size_t bytes)
{
    if (connection->out_capacity - connection->out_size < bytes) {
        connection->out_capacity = 2 * connection->out_capacity + bytes;
        connection->out = need(realloc(connection->out, connection->out_capacity));
    }
    return connection->out + connection->out_size;
}

void connection_take(struct connection *connection, size_t bytes)
{
    connection->out_size += bytes;
}

void connection_flush(struct connection *connection)
{
    while (connection->out_sent < connection->out_size) {
        const ssize_t size = send(connection->fd, connection->out + connection->out_sent,
                                  connection->out_size - connection->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            ev_io_start(connection->loop, &connection->writable);
            return;
        }
        if (size < 0) {
            fail(connection, strerror(errno));
            return;
        }
        connection->out_sent += (size_t)size;
    }
    connection->out_size = connection->out_sent = 0;
    ev_io_stop(connection->loop, &connection->writable);
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)loop, (void)events;
    connection_flush(watcher->data);
}

/* ---- Receiving ------------------------------------------------------------------- */

static void use_received(struct connection *connection)
{
    const size_t used = connection->user.received(connection->user.context, connection->in, connection->in_size);

    connection->in_size -= used;
    if (used && connection->in_size)
        memmove(connection->in, connection->in + used, connection->in_size);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = watcher->data;
    ssize_t size;

    (void)loop, (void)events;
    if (connection->in_capacity - connection->in_size < READ_BYTES) {
        connection->in_capacity = 2 * (connection->in_capacity + READ_BYTES);
        connection->in = need(realloc(connection->in, connection->in_capacity));
    }
    size = recv(connection->fd, connection->in + connection->in_size, connection->in_capacity - connection->in_size,
                MSG_DONTWAIT);
    if (size > 0) {
        connection->in_size += (size_t)size;
        use_received(connection);
    } else if (size == 0) {
        fail(connection, "closed the connection");
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        fail(connection, strerror(errno));
    }
}

/* ---- Connecting ------------------------------------------------------------------ */

static int connect_unix(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof name.sun_path)
        return -1;
    memcpy(name.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int connect_tcp(const char *host_port)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(host_port, ':');
    struct addrinfo *found = NULL;
    char host[128];
    int fd = -1;
    const int on = 1;

    if (!colon || (size_t)(colon - host_port) >= sizeof host)
        return -1;
    snprintf(host, sizeof host, "%.*s", (int)(colon - host_port), host_port);
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0)
        return -1;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    freeaddrinfo(found);
    return fd;
}

bool connection_open(struct connection *connection, struct ev_loop *loop, const char *address,
                     const struct connection_user *user)
{
    connection->fd = strncmp(address, "unix:", 5) == 0  ? connect_unix(address + 5)
                     : strncmp(address, "tcp:", 4) == 0 ? connect_tcp(address + 4)
                                                        : -1;
    if (connection->fd < 0)
        return false;
    connection->open = true;
    connection->loop = loop;
    connection->user = *user;
    ev_io_init(&connection->readable, on_readable, connection->fd, EV_READ);
    ev_io_init(&connection->writable, on_writable, connection->fd, EV_WRITE);
    connection->readable.data = connection->writable.data = connection;
    ev_io_start(loop, &connection->readable);
    return true;
}

void connection_close(struct connection *connection)
{
    if (!connection->open)
        return;
    ev_io_stop(connection->loop, &connection->readable);
    ev_io_stop(connection->loop, &connection->writable);
    close(connection->fd);
    free(connection->in);
    free(connection->out);
    connection->open = false;
}
