/* A turn: every readable connection is read once and its whole frames are appended to the batch; before the loop waits
 * again the batch is flushed and every connection's frames go back. */
#include "bench/floor_server.h"

#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/flushed_file.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { READ_BYTES = 65536, BACKLOG = 4096 };

struct floor_server {
    struct ev_loop *loop;
    struct flushed_file *file; /* NULL: nothing is flushed */
    struct floor_peer *dirty;  /* with something to send back when the turn ends */
    ev_io acceptable;
    ev_prepare flush;
    ev_signal end;
    char folder[48];
    struct sockaddr_un name;
};

struct floor_peer {
    struct floor_server *server;
    struct floor_peer *next_dirty;
    ev_io readable, writable;
    bool dirty;
    uint8_t *data; /* [whole frames to send back | the start of one that is not whole yet] */
    size_t size, whole, sent, capacity;
};

static pid_t child;

static _Noreturn void give_up(struct floor_server *server, const char *what)
{
    fprintf(stderr, "idem-bench: floor: %s: %s\n", what, strerror(errno));
    unlink(server->name.sun_path);
    rmdir(server->folder);
    _exit(71);
}

/* ---- One connection ------------------------------------------------------------------ */

static void close_peer(struct floor_peer *peer)
{
    ev_io_stop(peer->server->loop, &peer->readable);
    ev_io_stop(peer->server->loop, &peer->writable);
    close(peer->readable.fd);
    free(peer->data);
    free(peer);
}

/* The whole frames behind those that are known go into the batch. */
static bool take_frames(struct floor_peer *peer)
{
    const size_t before = peer->whole;
    uint32_t bytes;

    for (;;) {
        const enum frame_cut cut = frame_cut(peer->data + peer->whole, peer->size - peer->whole, UINT32_MAX, &bytes);
        if (cut == FRAME_PARTIAL)
            break;
        if (cut != FRAME_WHOLE)
            return false;
        peer->whole += IDEM_FRAME_HEADER_BYTES + bytes;
    }
    if (peer->server->file && peer->whole > before) {
        memcpy(flushed_file_room(peer->server->file, peer->whole - before), peer->data + before, peer->whole - before);
        flushed_file_take(peer->server->file, peer->whole - before);
    }
    return true;
}

static void make_dirty(struct floor_peer *peer)
{
    if (peer->dirty || peer->whole == 0)
        return;
    peer->dirty = true;
    peer->next_dirty = peer->server->dirty;
    peer->server->dirty = peer;
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct floor_peer *peer = watcher->data;
    ssize_t size;

    (void)loop, (void)events;
    if (peer->capacity - peer->size < READ_BYTES) {
        peer->capacity = 2 * (peer->capacity + READ_BYTES);
        peer->data = realloc(peer->data, peer->capacity);
        if (!peer->data)
            give_up(peer->server, "memory");
    }
    size = recv(watcher->fd, peer->data + peer->size, peer->capacity - peer->size, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size > 0)
        peer->size += (size_t)size;
    if (size <= 0 || !take_frames(peer)) {
        close_peer(peer);
        return;
    }
    make_dirty(peer);
}

/* Sends what may go. What does not go now goes when the socket has room, and nothing more is read until then. */
static bool send_back(struct floor_peer *peer)
{
    struct ev_loop *loop = peer->server->loop;

    while (peer->sent < peer->whole) {
        const ssize_t size =
            send(peer->readable.fd, peer->data + peer->sent, peer->whole - peer->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 && errno == EAGAIN) {
            ev_io_stop(loop, &peer->readable);
            ev_io_start(loop, &peer->writable);
            return true;
        }
        if (size < 0)
            return false;
        peer->sent += (size_t)size;
    }
    if (peer->size > peer->whole)
        memmove(peer->data, peer->data + peer->whole, peer->size - peer->whole);
    peer->size -= peer->whole;
    peer->whole = peer->sent = 0;
    ev_io_stop(loop, &peer->writable);
    ev_io_start(loop, &peer->readable);
    return true;
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    (void)loop, (void)events;
    if (!send_back(watcher->data))
        close_peer(watcher->data);
}

/* ---- The server ------------------------------------------------------------------------ */

static void on_flush(struct ev_loop *loop, ev_prepare *watcher, int events)
{
    struct floor_server *server = watcher->data;

    (void)loop, (void)events;
    if (server->file && !flushed_file_flush(server->file))
        give_up(server, "the batch is not on the disk");
    while (server->dirty) {
        struct floor_peer *peer = server->dirty;
        server->dirty = peer->next_dirty;
        peer->dirty = false;
        if (!send_back(peer))
            close_peer(peer);
    }
}

static void on_acceptable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct floor_peer *peer;
    const int fd = accept4(watcher->fd, NULL, NULL, SOCK_CLOEXEC);

    (void)events;
    if (fd < 0)
        return;
    peer = calloc(1, sizeof *peer);
    if (!peer)
        give_up(watcher->data, "memory");
    peer->server = watcher->data;
    ev_io_init(&peer->readable, on_readable, fd, EV_READ);
    ev_io_init(&peer->writable, on_writable, fd, EV_WRITE);
    peer->readable.data = peer->writable.data = peer;
    ev_io_start(loop, &peer->readable);
}

static void on_end(struct ev_loop *loop, ev_signal *watcher, int events)
{
    (void)watcher, (void)events;
    ev_break(loop, EVBREAK_ALL);
}

static int listen_in(struct floor_server *server)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(server->folder, "/tmp/idem-bench-XXXXXX");
    if (!mkdtemp(server->folder))
        give_up(server, server->folder);
    server->name.sun_family = AF_UNIX;
    snprintf(server->name.sun_path, sizeof server->name.sun_path, "%s/s", server->folder);
    if (fd < 0 || bind(fd, (struct sockaddr *)&server->name, sizeof server->name) != 0 || listen(fd, BACKLOG) != 0)
        give_up(server, server->name.sun_path);
    return fd;
}

/* Tells the generator where it listens, then serves until the generator stops it or is no more. */
static _Noreturn void serve(const char *directory, pid_t parent, int tell)
{
    struct floor_server server = {.loop = ev_default_loop(EVFLAG_AUTO)};

    ev_signal_init(&server.end, on_end, SIGTERM);
    ev_signal_start(server.loop, &server.end);
    signal(SIGINT, SIG_IGN); /* the terminal's: the generator's end is ours */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(71);
    if (directory && !(server.file = flushed_file_open(directory)))
        _exit(71);
    ev_io_init(&server.acceptable, on_acceptable, listen_in(&server), EV_READ);
    ev_prepare_init(&server.flush, on_flush);
    server.acceptable.data = server.flush.data = &server;
    ev_io_start(server.loop, &server.acceptable);
    ev_prepare_start(server.loop, &server.flush);
    if (write(tell, server.name.sun_path, sizeof server.name.sun_path) < 0)
        give_up(&server, "the generator is gone");
    close(tell);
    ev_run(server.loop, 0);
    unlink(server.name.sun_path);
    rmdir(server.folder);
    _exit(0);
}

bool floor_server_start(const char *directory, char address[TARGET_ADDRESS_BYTES])
{
    const pid_t parent = getpid();
    struct sockaddr_un name;
    ssize_t size;
    int told[2];

    if (pipe(told) != 0 || (child = fork()) < 0) {
        fprintf(stderr, "idem-bench: floor: %s\n", strerror(errno));
        return false;
    }
    if (child == 0) {
        close(told[0]);
        serve(directory, parent, told[1]);
    }
    close(told[1]);
    size = read(told[0], name.sun_path, sizeof name.sun_path);
    close(told[0]);
    if (size != (ssize_t)sizeof name.sun_path) {
        floor_server_stop();
        return false;
    }
    snprintf(address, TARGET_ADDRESS_BYTES, "unix:%s", name.sun_path);
    return true;
}

void floor_server_stop(void)
{
    if (child <= 0)
        return;
    kill(child, SIGTERM);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    child = 0;
}
