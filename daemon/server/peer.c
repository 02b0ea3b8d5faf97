/* See peer.h. */
#include "daemon/server/peer.h"

#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void describe_unix(int fd, char text[PEER_BYTES])
{
    struct ucred who;
    socklen_t size = sizeof who;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        snprintf(text, PEER_BYTES, "unix uid %u pid %d", (unsigned)who.uid, (int)who.pid);
}

static void describe_tcp(int fd, char text[PEER_BYTES])
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    char host[64], port[16];

    if (getpeername(fd, (struct sockaddr *)&name, &size) == 0 &&
        getnameinfo((struct sockaddr *)&name, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(text, PEER_BYTES, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

void peer_describe(int fd, char text[PEER_BYTES])
{
    int family = AF_UNSPEC;
    socklen_t size = sizeof family;

    strcpy(text, "unknown"); /* it may be gone */
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0)
        return;
    if (family == AF_UNIX)
        describe_unix(fd, text);
    else
        describe_tcp(fd, text);
}

bool peer_is_alive(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLRDHUP};

    return poll(&look, 1, 0) <= 0 || !(look.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

bool peer_has_input(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};

    return poll(&look, 1, 0) != 0;
}
