/* Non-blocking sockets and poll: each step waits no longer than the one deadline of its call. */
#include "client/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t transport_now_ms(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

/* Waits for events on a descriptor. False: the deadline, or poll failed; errno says which. */
static bool wait_for(int fd, short events, uint64_t deadline_ms)
{
    for (;;) {
        const uint64_t now_ms = transport_now_ms();
        struct pollfd look = {.fd = fd, .events = events};
        int ready;

        if (now_ms >= deadline_ms) {
            errno = ETIMEDOUT;
            return false;
        }
        ready = poll(&look, 1, deadline_ms - now_ms > INT_MAX ? INT_MAX : (int)(deadline_ms - now_ms));
        if (ready > 0)
            return true;
        if (ready < 0 && errno != EINTR)
            return false;
    }
}

static bool port_good(const char *port)
{
    const size_t digits = strspn(port, "0123456789");
    const int number = digits > 0 && digits <= 5 && !port[digits] ? atoi(port) : 0;

    return number > 0 && number <= UINT16_MAX;
}

static bool split(const char *text, char *host, size_t host_bytes, const char **port)
{
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;

    if (size >= 2 && text[0] == '[' && text[size - 1] == ']') {
        text++;
        size -= 2;
    }
    if (size == 0 || size >= host_bytes || !port_good(colon + 1))
        return false;
    memcpy(host, text, size);
    host[size] = '\0';
    *port = colon + 1;
    return true;
}

bool transport_address_good(const char *address)
{
    struct sockaddr_un name;
    char host[256];
    const char *port;

    if (strncmp(address, "unix:", 5) == 0)
        return address[5] == '/' && strlen(address + 5) < sizeof name.sun_path;
    return strncmp(address, "tcp:", 4) == 0 && split(address + 4, host, sizeof host, &port);
}

/* A program that has closed its standard output must not write into our socket: it gets none of these numbers. */
static int open_socket(int family)
{
    const int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    const int higher = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    const int failed = errno;
    close(fd);
    errno = failed;
    return higher;
}

static int start_connect(const struct sockaddr *name, socklen_t size, uint64_t deadline_ms)
{
    const int fd = open_socket(name->sa_family);
    int failed = 0;
    socklen_t failed_bytes = sizeof failed;

    if (fd < 0)
        return -1;
    if (connect(fd, name, size) == 0)
        return fd;
    /* A Unix socket whose backlog is full says EAGAIN, and does not go on by itself. */
    if ((errno == EINPROGRESS || errno == EINTR) && wait_for(fd, POLLOUT, deadline_ms) &&
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &failed_bytes) == 0) {
        if (failed == 0)
            return fd;
        errno = failed;
    }
    failed = errno;
    close(fd);
    errno = failed;
    return -1;
}

/* When the first of so many tries has to be over. */
static uint64_t share_of(uint64_t deadline_ms, uint64_t tries)
{
    const uint64_t now_ms = transport_now_ms();

    return deadline_ms > now_ms ? now_ms + (deadline_ms - now_ms + tries - 1) / tries : deadline_ms;
}

static int connect_tcp(const char *host_port, uint64_t deadline_ms)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[256];
    const char *port;
    const int on = 1;
    uint64_t left = 0;
    int fd = -1;

    if (!split(host_port, host, sizeof host, &port) || getaddrinfo(host, port, &hints, &found) != 0) {
        errno = ENXIO;
        return -1;
    }
    for (const struct addrinfo *one = found; one; one = one->ai_next)
        left++;
    for (const struct addrinfo *one = found; one && fd < 0; one = one->ai_next, left--)
        fd = start_connect(one->ai_addr, one->ai_addrlen, share_of(deadline_ms, left));
    const int failed = errno;
    freeaddrinfo(found);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    errno = failed;
    return fd;
}

int transport_connect(const char *address, uint64_t deadline_ms)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    if (strncmp(address, "tcp:", 4) == 0)
        return connect_tcp(address + 4, deadline_ms);
    strncpy(name.sun_path, address + 5, sizeof name.sun_path - 1);
    return start_connect((struct sockaddr *)&name, sizeof name, deadline_ms);
}

bool transport_send(int fd, const uint8_t *data, size_t size, uint64_t deadline_ms)
{
    while (size > 0) {
        const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for(fd, POLLOUT, deadline_ms))
                return false;
        } else if (sent < 0 && errno != EINTR) {
            return false;
        }
    }
    return true;
}

bool transport_quiet(int fd)
{
    char byte;

    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

ssize_t transport_receive(int fd, uint8_t *data, size_t size, uint64_t deadline_ms)
{
    for (;;) {
        const ssize_t got = recv(fd, data, size, 0);

        if (got >= 0)
            return got;
        if (errno == EINTR)
            continue;
        if ((errno != EAGAIN && errno != EWOULDBLOCK) || !wait_for(fd, POLLIN, deadline_ms))
            return -1;
    }
}

void transport_pause(uint64_t until_ms)
{
    uint64_t now_ms;

    while ((now_ms = transport_now_ms()) < until_ms)
        poll(NULL, 0, until_ms - now_ms > INT_MAX ? INT_MAX : (int)(until_ms - now_ms));
}
