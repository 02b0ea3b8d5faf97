/* The loop. Each turn:
 *
 *     wait -> sockets are read, calls decided -> leases and waits end -> the batch is handed over -> answers are
 * written
 *
 * What the wait finds is only noted. All the rest happens in one prepare callback, right before the loop waits again.
 * There, sockets are read for a limited time; who was not read then is the first in the next turn, and no lease ends
 * that a Renew in such a socket keeps. Timers only wake the loop. The store's threads wake it through an async watcher.
 *
 * A stall is the time by which a turn came later than planned, or lasted longer than it may: owners could not renew
 * then. */
#include "daemon/server/server.h"

#include <assert.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/server/conns.h"
#include "daemon/server/listener.h"
#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "daemon/base/number.h"
#include "daemon/server/service.h"
#include "daemon/store/store.h"
#include "proto/limits.h"

enum {
    STALL_MS_LEAST = 100,    /* a turn this late, or this long, is a stall */
    DRAIN_MS_MAX = 4 * 1000, /* open answers are written within this after SIGTERM */
    ACCEPT_AGAIN_MS = 1000,  /* after descriptors ran out */
    ACCEPTS_A_TURN = 64,
    MEMORY_LOG_MS = 10 * 1000, /* between two lines that say whether memory is short */
    ROUNDS_A_TURN = 8, /* over connections that were held up, and what was flushed; then sockets are looked at again */
    BACKLOG_BYTES_MAX = 32 * 1024 * 1024, /* of batches not flushed; over that nothing is decided */
    REBOOT_MS_MAX = 3600 * 1000,          /* what the retention clock takes of the wall clock over a reboot */
};

struct server {
    struct ev_loop *loop;
    struct store *store;
    struct service *service;
    struct conns conns;
    struct clock clock;
    struct clock_mark mark; /* its boot id */
    struct listener listeners[SERVER_LISTENERS_MAX];
    ev_io accepts[SERVER_LISTENERS_MAX];
    int listener_count;
    ev_prepare prepare;
    ev_check check;
    ev_timer wake;
    ev_async stored;
    ev_signal terminate, interrupt, hangup;
    struct now now;
    uint64_t closed;     /* of the connections that were closed so far, those that a turn has seen */
    uint64_t planned_ms; /* when (boot time) the loop wanted to wake at the latest; UINT64_MAX: no plan */
    uint64_t began_ms;   /* when its last wait ended */
    uint64_t turned_ms;  /* when it last came to the end of a turn, */
    uint64_t looked_ms;  /* and when it had before that: the wait after it showed everything that was there, but for
                            what a new connection brought, which the next wait shows */
    uint64_t woke_ns;    /* when its last wait ended, by clock_read_ns */
    uint64_t accept_again_ms; /* 0: accepting */
    uint64_t drain_end_ms;    /* 0: not draining */
    bool memory_short;        /* as it was last logged */
    uint64_t memory_log_ms;   /* boot time from which on it may be logged again */
    int exit_code;
};

/* ---- Time ---------------------------------------------------------------------------- */

static void read_clock(struct server *server)
{
    server->now = clock_now(&server->clock);
}

static void start_clock(struct server *server)
{
    clock_read_mark(&server->mark);
    clock_start(&server->clock, clock_retention(&store_facts(server->store)->mark, &server->mark, REBOOT_MS_MAX),
                server->mark.boot_ms, &store_facts(server->store)->past);
    read_clock(server);
}

/* It should have run at due_ms. If it did not, for long, nothing is known of the time since it ran last: that is the
 * stall. */
static void note_stall(struct server *server, uint64_t due_ms, uint64_t since_ms)
{
    if (due_ms >= server->now.boot_ms || server->now.boot_ms - due_ms < STALL_MS_LEAST)
        return;
    const uint64_t stalled_ms = server->now.boot_ms - since_ms;
    service_stalled(server->service, stalled_ms);
    conns_stalled(&server->conns, stalled_ms);
    log_event(LOG_WARN, "stalled", "ms", log_number(stalled_ms), NULL);
}

/* After waiting: how much later than planned is it? */
static void on_check(struct ev_loop *loop, ev_check *watcher, int events)
{
    struct server *server = watcher->data;

    (void)loop, (void)events;
    server->woke_ns = clock_read_ns();
    read_clock(server);
    server->began_ms = server->now.boot_ms;
    conns_begin_turn(&server->conns, server->looked_ms);
    if (!server->conns.paused)
        note_stall(server, server->planned_ms, server->turned_ms);
}

/* ---- The store ------------------------------------------------------------------------ */

static bool poll_store(struct server *server)
{
    struct store_event event;

    if (!store_poll(server->store, &event))
        return false;
    if (event.failed) {
        /* What failed may yet be on the disk: nothing is answered, nothing tried again. */
        log_event(LOG_ERROR, "storage_failed", "reason", event.message, NULL);
        _exit(74);
    }
    /* Leases run from when the flush is known to have returned: not from when this turn began. */
    read_clock(server);
    service_stored(server->service, &event, &server->now);
    return true;
}

/* ---- Turning --------------------------------------------------------------------------- */

static struct clock_mark mark_of_now(const struct server *server)
{
    struct clock_mark mark = server->mark;

    mark.boot_ms = server->now.boot_ms;
    mark.wall_ms = server->now.wall_ms;
    mark.retention_ms = server->now.retention_ms;
    return mark;
}

static void stop_accepting(struct server *server)
{
    for (int i = 0; i < server->listener_count; i++)
        ev_io_stop(server->loop, &server->accepts[i]);
}

static void accept_again(struct server *server)
{
    if (!server->accept_again_ms || server->drain_end_ms)
        return;
    server->accept_again_ms = 0;
    for (int i = 0; i < server->listener_count; i++)
        ev_io_start(server->loop, &server->accepts[i]);
}

/* When too much waits for the disk nothing is decided until it went: a busy daemon reads slower, it does not refuse. */
static void press_back(struct server *server)
{
    const size_t backlog = store_unflushed_bytes(server->store) + service_held_bytes(server->service);

    if (backlog > BACKLOG_BYTES_MAX)
        conns_pause(&server->conns, true);
    else if (backlog < BACKLOG_BYTES_MAX / 2)
        conns_pause(&server->conns, false);
}

/* Says that memory got short, or that it no longer is. At the edge it may change many times a second. */
static void note_memory(struct server *server)
{
    mem_refill();
    const bool is_short = mem_is_short();
    if (is_short == server->memory_short || server->now.boot_ms < server->memory_log_ms)
        return;
    server->memory_short = is_short;
    server->memory_log_ms = server->now.boot_ms + MEMORY_LOG_MS;
    log_event(is_short ? LOG_WARN : LOG_INFO, is_short ? "memory_full" : "memory_free", "used_bytes",
              log_number(mem_used()), "limit_bytes", log_number(mem_limited()), NULL);
}

static void plan(struct server *server, uint64_t next_ms)
{
    if (server->accept_again_ms && server->accept_again_ms < next_ms)
        next_ms = server->accept_again_ms;
    if (server->drain_end_ms && server->drain_end_ms < next_ms)
        next_ms = server->drain_end_ms;
    if (next_ms < server->now.boot_ms)
        next_ms = server->now.boot_ms;
    server->planned_ms = next_ms;
    ev_timer_stop(server->loop, &server->wake);
    if (next_ms == UINT64_MAX)
        return;
    ev_now_update(server->loop);
    ev_timer_set(&server->wake, next_ms > server->now.boot_ms ? (double)(next_ms - server->now.boot_ms) / 1000 : 0.,
                 0.);
    ev_timer_start(server->loop, &server->wake);
}

static void on_prepare(struct ev_loop *loop, ev_prepare *watcher, int events)
{
    struct server *server = watcher->data;
    const bool paused = server->conns.paused;
    uint64_t next_ms, noted_ms = server->began_ms; /* stalls up to then are noted */
    int rounds = 0;
    bool again;

    (void)loop, (void)events;
    if (paused) { /* owners' calls were not read since the last turn */
        read_clock(server);
        service_stalled(server->service, server->now.boot_ms - server->turned_ms);
        noted_ms = server->now.boot_ms;
    }
    conns_ready(&server->conns);
    do {
        /* Calls that were read are decided before leases end. */
        conns_read(&server->conns);
        read_clock(server);
        note_stall(server, noted_ms, noted_ms);
        noted_ms = server->now.boot_ms;
        const struct clock_mark mark = mark_of_now(server);
        next_ms = service_turn(server->service, &server->now, conns_seen_ms(&server->conns), &mark);
        /* A batch that was flushed at once has started leases and let answers go: all is looked at again. */
        again = poll_store(server);
        conns_end_deadlines(&server->conns);
        press_back(server);
        conns_flush(&server->conns);
        again |= conns_can_read(&server->conns);
    } while (again && ++rounds < ROUNDS_A_TURN);
    note_stall(server, noted_ms, noted_ms);
    if (again)
        next_ms = server->now.boot_ms;
    server->looked_ms = server->turned_ms;
    server->turned_ms = server->now.boot_ms;
    note_memory(server);
    if (server->conns.closed != server->closed ||
        (server->accept_again_ms && server->accept_again_ms <= server->now.boot_ms))
        accept_again(server);
    server->closed = server->conns.closed;
    if (server->drain_end_ms && (server->conns.count == 0 || server->now.boot_ms >= server->drain_end_ms))
        ev_break(server->loop, EVBREAK_ALL);
    plan(server, number_min(next_ms, conns_next_ms(&server->conns)));
    service_turned(server->service, clock_read_ns() - server->woke_ns);
}

static void on_wake(struct ev_loop *loop, ev_timer *watcher, int events)
{
    (void)loop, (void)watcher, (void)events;
}

/* ---- Events ------------------------------------------------------------------------------ */

static void on_accept(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct server *server = watcher->data;
    struct listener *listener = &server->listeners[watcher - server->accepts];

    (void)loop, (void)events;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd;
        enum listener_accept result = listener_accept(listener, &fd);

        if (result == LISTENER_NO_DESCRIPTORS && conns_close_idle(&server->conns)) {
            /* That it closed is no reason to try again, if another process has taken the descriptor. */
            server->closed = server->conns.closed;
            result = listener_accept(listener, &fd);
        }

        if (result == LISTENER_ACCEPTED) {
            conn_open(&server->conns, fd);
            continue;
        }
        if (result == LISTENER_NO_DESCRIPTORS) {
            /* The connection stays in the backlog, so the watcher would fire without end. */
            log_event(LOG_WARN, "no_descriptors", "connections", log_number(server->conns.count), NULL);
            stop_accepting(server);
            server->accept_again_ms = server->now.boot_ms + ACCEPT_AGAIN_MS;
        }
        return;
    }
}

/* One of the store's threads has something to say. Called on that thread. */
static void on_store_wake(void *context)
{
    struct server *server = context;

    ev_async_send(server->loop, &server->stored);
}

static void on_stored(struct ev_loop *loop, ev_async *watcher, int events)
{
    (void)loop, (void)events;
    poll_store(watcher->data);
}

static void on_terminate(struct ev_loop *loop, ev_signal *watcher, int events)
{
    struct server *server = watcher->data;

    (void)loop, (void)events;
    if (server->drain_end_ms)
        return;
    log_event(LOG_INFO, "draining", "connections", log_number(server->conns.count), NULL);
    server->drain_end_ms = server->now.boot_ms + DRAIN_MS_MAX;
    server->accept_again_ms = 0;
    stop_accepting(server);
    for (int i = 0; i < server->listener_count; i++)
        listener_close(&server->listeners[i]);
    service_drain(server->service);
    conns_drain(&server->conns);
}

/* A terminal that is closed, or a script that asks every daemon to reload, ends nothing. */
static void on_hangup(struct ev_loop *loop, ev_signal *watcher, int events)
{
    (void)loop, (void)watcher, (void)events;
    log_event(LOG_INFO, "hangup", "reason", "SIGHUP changes nothing: there is nothing to reload", NULL);
}

/* ---- Starting and stopping ------------------------------------------------------------------ */

static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool open_listeners(struct server *server, const struct server_options *options, struct failure *error)
{
    const struct listener_access access = {options->socket_mode, options->socket_group};

    for (int i = 0; i < options->listen_count; i++) {
        if (!listener_open(&server->listeners[i], options->listen[i], &access, error))
            return false;
        server->listener_count++;
        ev_io_init(&server->accepts[i], on_accept, server->listeners[i].fd, EV_READ);
        server->accepts[i].data = server;
        ev_io_start(server->loop, &server->accepts[i]);
    }
    return true;
}

/* A daemon that cannot take a single connection would only look as if it worked. */
static bool can_connect(const struct server *server, struct failure *error)
{
    const int fd = fcntl(server->listeners[0].fd, F_DUPFD_CLOEXEC, 0);

    if (fd < 0) {
        *error = (struct failure){.exit_code = 71};
        snprintf(error->message, sizeof error->message,
                 "no descriptor is left for a connection: %s: raise the limit (ulimit -n)", strerror(errno));
        return false;
    }
    close(fd);
    return true;
}

/* sd_notify's protocol: one datagram to the socket that the variable names. Source: sd_notify(3). */
static void notify_ready(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd;

    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof name.sun_path)
        return;
    memcpy(name.sun_path, path, strlen(path));
    if (path[0] == '@')
        name.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&name,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))) < 0)
        log_event(LOG_WARN, "notify_failed", "reason", strerror(errno), NULL);
    close(fd);
}

static void say_ready(const struct server *server)
{
    char addresses[SERVER_LISTENERS_MAX * sizeof server->listeners[0].address];
    size_t size = 0;

    addresses[0] = '\0';
    for (int i = 0; i < server->listener_count; i++)
        size += (size_t)snprintf(addresses + size, sizeof addresses - size, "%s%s", i ? " " : "",
                                 server->listeners[i].address);
    log_event(LOG_INFO, "ready", "listen", addresses, "version", IDEMD_VERSION, NULL);
    notify_ready();
}

static void start_watchers(struct server *server)
{
    ev_prepare_init(&server->prepare, on_prepare);
    ev_check_init(&server->check, on_check);
    /* The clock is read before anything that the wait brought is looked at. */
    ev_set_priority(&server->check, EV_MAXPRI);
    ev_timer_init(&server->wake, on_wake, 0., 0.);
    ev_signal_init(&server->terminate, on_terminate, SIGTERM);
    ev_signal_init(&server->interrupt, on_terminate, SIGINT);
    server->woke_ns = clock_read_ns();
    server->prepare.data = server->check.data = server->terminate.data = server->interrupt.data = server;
    ev_prepare_start(server->loop, &server->prepare);
    ev_check_start(server->loop, &server->check);
    ev_signal_start(server->loop, &server->terminate);
    ev_signal_start(server->loop, &server->interrupt);
    ev_signal_init(&server->hangup, on_hangup, SIGHUP);
    ev_signal_start(server->loop, &server->hangup);
}

/* What libev asks of an allocator is realloc, with size 0 for free. Source: ev_set_allocator in ev(3). */
static void *loop_memory(void *old, long size)
{
    if (size > 0)
        return mem_resize(old, (size_t)size);
    mem_free(old);
    return NULL;
}

/* What libev cannot go on without: mostly a descriptor, at a start. Left to itself it would abort. */
static void loop_failed(const char *what)
{
    char reason[200];

    snprintf(reason, sizeof reason, "%s: %s", what, strerror(errno));
    log_event(LOG_ERROR, "loop_failed", "reason", reason, NULL);
    _exit(71);
}

static bool start(struct server *server, const struct server_options *options, struct failure *error)
{
    const struct store_options store_options = {.directory = options->data,
                                                .quota_bytes = options->quota_bytes,
                                                .values_bytes_max =
                                                    options->policy.max_outcome_bytes + IDEM_FRAME_OVERHEAD_BYTES,
                                                .accept_loss = options->accept_loss,
                                                .wake = on_store_wake,
                                                .wake_context = server};

    raise_descriptors();
    ev_set_allocator(loop_memory);
    ev_set_syserr_cb(loop_failed);
    server->loop = ev_default_loop(EVFLAG_AUTO);
    if (!server->loop) {
        *error = (struct failure){.exit_code = 71, .message = "the event loop could not be made"};
        return false;
    }
    ev_async_init(&server->stored, on_stored);
    server->stored.data = server;
    ev_async_start(server->loop, &server->stored);
    server->store = store_open(&store_options, error);
    if (!server->store)
        return false;
    start_clock(server);
    conns_open(&server->conns, server->loop, &server->clock, &server->now);
    const struct service_options service_options = {.store = server->store,
                                                    .policy = options->policy,
                                                    .unfinished_max = options->unfinished_max,
                                                    .namespace_share = options->namespace_share,
                                                    .outlet = conns_outlet(&server->conns)};
    server->service = service_open(&service_options, &server->now, error);
    server->conns.service = server->service;
    if (!server->service || !open_listeners(server, options, error) || !can_connect(server, error))
        return false;
    /* Leases and graces count from being ready, not from before what is stored was read. */
    const uint64_t loading_ms = server->now.boot_ms;
    read_clock(server);
    service_loaded(server->service, server->now.boot_ms - loading_ms);
    server->began_ms = server->turned_ms = server->looked_ms = server->now.boot_ms;
    conns_begin_turn(&server->conns, server->looked_ms);
    mem_limit(options->memory_max ? options->memory_max : mem_suitable_limit());
    start_watchers(server);
    return true;
}

static void stop(struct server *server)
{
    for (int i = 0; i < server->listener_count; i++)
        listener_close(&server->listeners[i]);
    if (server->conns.loop)
        conns_close(&server->conns);
    service_close(server->service);
    store_close(server->store);
    if (server->loop)
        ev_default_destroy();
}

int server_run(const struct server_options *options)
{
    struct server *server = mem_zero(1, sizeof *server);
    struct failure error = {0};
    int exit_code = 0;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file as large as ulimit -f allows is a full disk */
    signal(SIGHUP, SIG_IGN);  /* until the loop sees it */
    server->planned_ms = UINT64_MAX;
    if (start(server, options, &error)) {
        read_clock(server);
        say_ready(server);
        ev_run(server->loop, 0);
        log_event(LOG_INFO, "stopped", NULL);
    } else {
        exit_code = error.exit_code;
        log_event(LOG_ERROR, "not_started", "reason", error.message, NULL);
    }
    stop(server);
    mem_free(server);
    return exit_code;
}
