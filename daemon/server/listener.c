/* Opening is the whole story: a Unix socket's file outlives a killed daemon, so a file in the way is tried before it is
 * removed. */
#include "daemon/server/listener.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

static int exit_code_of(int error)
{
    return error == EADDRINUSE                         ? 69
           : error == EACCES || error == EPERM         ? 77
           : error == ENOENT || error == EROFS         ? 73
           : error == ENAMETOOLONG || error == ENOTDIR ? 73
                                                       : 71;
}

static bool fail(struct failure *error, const char *address, const char *what, int code)
{
    error->exit_code = exit_code_of(code);
    snprintf(error->message, sizeof error->message, "cannot listen on %s: %s%s%s", address, what, code ? ": " : "",
             code ? strerror(code) : "");
    return false;
}

/* What did not work closes it. */
static bool give_up(struct listener *listener, const char *address, const char *what, struct failure *error)
{
    fail(error, address, what, errno);
    close(listener->fd);
    listener->fd = -1;
    return false;
}

/* ---- Unix -------------------------------------------------------------------------- */

/* Is somebody listening behind this file? */
static bool answers(const struct sockaddr_un *name)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool answered;

    if (fd < 0)
        return true; /* not known: then the file stays */
    answered = connect(fd, (const struct sockaddr *)name, sizeof *name) == 0 || errno != ECONNREFUSED;
    close(fd);
    return answered;
}

/* Removes a socket file that was left behind. */
static void remove_stale(const struct sockaddr_un *name)
{
    struct stat status;

    if (lstat(name->sun_path, &status) == 0 && S_ISSOCK(status.st_mode) && !answers(name))
        unlink(name->sun_path);
}

/* Makes the folder that holds the socket, as for /run/idemd after a boot; its own parent must be there. */
static void make_folder(const char *path)
{
    char folder[sizeof((struct listener *)0)->path];
    char *slash;

    snprintf(folder, sizeof folder, "%s", path);
    slash = strrchr(folder, '/');
    if (slash && slash != folder) {
        *slash = '\0';
        mkdir(folder, 0755);
    }
}

/* Nobody can connect before listen, and then only who may. The mode that is set before bind is the one with which Linux
 * makes the file, less the umask. */
static bool start_unix(struct listener *listener, const char *address, const struct sockaddr_un *name,
                       const struct listener_access *access, struct failure *error)
{
    const char *path = name->sun_path;
    struct stat status;

    listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0)
        return fail(error, address, "socket", errno);
    if (fchmod(listener->fd, (mode_t)access->mode) != 0)
        return give_up(listener, address, "its mode cannot be set", error);
    if (bind(listener->fd, (const struct sockaddr *)name, sizeof *name) != 0)
        return give_up(listener, address, "bind", error);
    /* From here on the file is ours to remove. */
    snprintf(listener->path, sizeof listener->path, "%s", path);
    if (lstat(path, &status) == 0) {
        listener->device = status.st_dev;
        listener->inode = status.st_ino;
    }
    const char *failed = access->group >= 0 && lchown(path, (uid_t)-1, (gid_t)access->group) != 0
                             ? "it cannot be given to its group"
                         : chmod(path, (mode_t)access->mode) != 0 ? "its mode cannot be set"
                         : listen(listener->fd, BACKLOG) != 0     ? "listen"
                                                                  : NULL;
    if (!failed)
        return true;
    fail(error, address, failed, errno);
    listener_close(listener);
    return false;
}

static bool open_unix(struct listener *listener, const char *address, const char *path,
                      const struct listener_access *access, struct failure *error)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof name.sun_path)
        return fail(error, address, "the path is longer than 107 bytes", ENAMETOOLONG);
    memcpy(name.sun_path, path, strlen(path) + 1);
    make_folder(path);
    remove_stale(&name);
    if (!start_unix(listener, address, &name, access, error))
        return false;
    snprintf(listener->address, sizeof listener->address, "unix:%s", path);
    return true;
}

/* ---- TCP --------------------------------------------------------------------------- */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static void describe(struct listener *listener)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    char host[64] = "?", port[16] = "?";

    if (getsockname(listener->fd, (struct sockaddr *)&name, &size) == 0)
        getnameinfo((struct sockaddr *)&name, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(listener->address, sizeof listener->address, strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

static bool start_tcp(struct listener *listener, const char *address, const struct addrinfo *found,
                      struct failure *error)
{
    const int on = 1;

    listener->fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0)
        return fail(error, address, "socket", errno);
    setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return (bind(listener->fd, found->ai_addr, found->ai_addrlen) == 0 && listen(listener->fd, BACKLOG) == 0) ||
           give_up(listener, address, "bind", error);
}

/* Splits "host:port" or "[host]:port". */
static bool split(const char *text, char host[64], char port[16])
{
    const char *colon = strrchr(text, ':');
    size_t size = colon ? (size_t)(colon - text) : 0;

    if (size >= 2 && text[0] == '[' && text[size - 1] == ']') {
        text++;
        size -= 2;
    }
    if (!colon || size == 0 || size >= 64 || strlen(colon + 1) >= 16 || !colon[1])
        return false;
    memcpy(host, text, size);
    host[size] = '\0';
    strcpy(port, colon + 1);
    return true;
}

static bool open_tcp(struct listener *listener, const char *address, const char *host_port, struct failure *error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[64], port[16];
    bool good;

    if (!split(host_port, host, port))
        return fail(error, address, "write it as tcp:host:port", EINVAL);
    if (getaddrinfo(host, port, &hints, &found) != 0 || !found)
        return fail(error, address, "the host is not known, or the port is no number", EINVAL);
    good = is_loopback(found->ai_addr);
    if (!good) {
        fail(error, address, "not a loopback address, and TLS and authentication are not there yet", 0);
        error->exit_code = 78;
    } else {
        good = start_tcp(listener, address, found, error);
    }
    freeaddrinfo(found);
    if (good)
        describe(listener);
    return good;
}

bool listener_open(struct listener *listener, const char *address, const struct listener_access *access,
                   struct failure *error)
{
    *listener = (struct listener){.fd = -1};
    if (strncmp(address, "unix:", 5) == 0)
        return open_unix(listener, address, address + 5, access, error);
    if (strncmp(address, "tcp:", 4) == 0)
        return open_tcp(listener, address, address + 4, error);
    return fail(error, address, "write it as unix:/path or tcp:host:port", EINVAL);
}

/* Somebody may have removed the file, and a successor may have made its own there. While our socket is open no other
 * file gets its inode's number. A successor that puts its file there just between these two calls loses it all the
 * same: there is no call that removes a file only if it is the right one. */
static void remove_file(const struct listener *listener)
{
    struct stat status;

    if (lstat(listener->path, &status) == 0 && status.st_dev == listener->device && status.st_ino == listener->inode)
        unlink(listener->path);
}

void listener_close(struct listener *listener)
{
    if (listener->fd < 0)
        return;
    if (listener->path[0])
        remove_file(listener);
    close(listener->fd);
    listener->fd = -1;
}

/* accept takes a descriptor before it looks whether anybody is there. */
static enum listener_accept refused(const struct listener *listener, int error)
{
    struct pollfd look = {.fd = listener->fd, .events = POLLIN};

    if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM)
        return LISTENER_NONE;
    return poll(&look, 1, 0) == 0 ? LISTENER_NONE : LISTENER_NO_DESCRIPTORS;
}

enum listener_accept listener_accept(struct listener *listener, int *fd)
{
    const int on = 1;

    *fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (*fd < 0)
        return refused(listener, errno);
    if (!listener->path[0])
        setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return LISTENER_ACCEPTED;
}
