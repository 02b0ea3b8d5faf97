/* Connections with slots. A slot runs one operation at a time - one request, or two for a cycle - and each connection
 * has as many slots as requests may be in flight. In the closed loop a slot begins its next operation as soon as one
 * ends; in the open loop when the clock says so, and an operation that found no free slot in time still counts from
 * when it was due. */
#include "bench/load.h"

#include <errno.h>
#include <ev.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct slot {
    uint64_t began_ns, key, fence;
    enum target_step step;
    bool busy;
    bool completes; /* a claim that is followed by its outcome */
};

struct connection {
    struct load *load;
    ev_io readable, writable;
    int fd;
    struct slot *slots;
    uint32_t *order; /* in_order targets: slots by when their requests were sent, a ring */
    uint32_t order_first, order_count;
    uint8_t *out, *in;
    size_t out_size, out_sent, out_capacity, in_size, in_capacity;
    uint32_t busy;
};

struct load {
    const struct load_options *options;
    struct load_result *result;
    struct ev_loop *loop;
    struct connection *connections;
    ev_timer end, tick, due;
    ev_prepare flush;
    uint64_t next_key, started, replay_cursor;
    uint64_t began_ns, due_count; /* open loop: operations begun so far */
    uint32_t next_connection;
    bool ending, broken, filling;
};

static uint64_t now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void *need(void *memory)
{
    if (!memory) {
        fprintf(stderr, "idem-bench: out of memory\n");
        exit(71);
    }
    return memory;
}

static void fail(struct load *load, const char *what)
{
    if (!load->broken)
        fprintf(stderr, "idem-bench: %s: %s\n", load->options->address, what);
    load->broken = true;
    ev_break(load->loop, EVBREAK_ALL);
}

/* ---- Sending --------------------------------------------------------------------- */

static void send_step(struct connection *connection, uint32_t at)
{
    const struct load_options *options = connection->load->options;
    struct slot *slot = &connection->slots[at];
    const struct target_request request = {.step = slot->step,
                                           .key = slot->key,
                                           .sequence = at,
                                           .fence = slot->fence,
                                           .wait_ms = options->scenario == LOAD_HOT_KEY ? 60000 : 0};
    const size_t most = options->target->request_bytes_max();

    if (connection->out_capacity - connection->out_size < most) {
        connection->out_capacity = 2 * connection->out_capacity + most;
        connection->out = need(realloc(connection->out, connection->out_capacity));
    }
    connection->out_size += options->target->put(&request, connection->out + connection->out_size);
    connection->order[(connection->order_first + connection->order_count++) % options->pipeline] = at;
}

static void choose(struct load *load, struct slot *slot)
{
    const struct load_options *options = load->options;
    const bool stored = !load->filling && (options->scenario == LOAD_REPLAY ||
                                           (options->scenario == LOAD_MIXED && load->started % 10 != 0));

    slot->step = stored ? STEP_REPLAY : STEP_CLAIM;
    slot->completes = !stored && options->scenario != LOAD_CLAIM;
    slot->fence = 0;
    if (stored) {
        /* A stride that visits all keys in an order that is none for a cache. */
        load->replay_cursor = (load->replay_cursor + 7919) % options->keys;
        slot->key = options->first_key + load->replay_cursor;
    } else if (options->scenario == LOAD_HOT_KEY) {
        slot->key = load->next_key;
    } else {
        slot->key = load->next_key++;
    }
    load->started++;
}

static bool exhausted(const struct load *load)
{
    const struct load_options *options = load->options;
    const bool limited = load->filling || options->scenario == LOAD_CLAIM || options->scenario == LOAD_CYCLE;

    return load->ending || (limited && options->keys && load->started >= options->keys);
}

/* Begins an operation in a free slot of this connection. */
static void begin(struct connection *connection, uint32_t at, uint64_t began_ns)
{
    struct slot *slot = &connection->slots[at];

    choose(connection->load, slot);
    slot->busy = true;
    slot->began_ns = began_ns;
    connection->busy++;
    send_step(connection, at);
}

static bool flush(struct connection *connection)
{
    while (connection->out_sent < connection->out_size) {
        const ssize_t size = send(connection->fd, connection->out + connection->out_sent,
                                  connection->out_size - connection->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            ev_io_start(connection->load->loop, &connection->writable);
            return true;
        }
        if (size < 0)
            return false;
        connection->out_sent += (size_t)size;
    }
    connection->out_size = connection->out_sent = 0;
    ev_io_stop(connection->load->loop, &connection->writable);
    return true;
}

/* ---- Answers ---------------------------------------------------------------------- */

static void finish(struct connection *connection, uint32_t at, bool failed)
{
    struct load *load = connection->load;
    struct slot *slot = &connection->slots[at];
    const uint64_t now = now_ns();

    slot->busy = false;
    connection->busy--;
    load->result->operations++;
    load->result->errors += failed;
    histogram_add(&load->result->latency_ns, now - slot->began_ns);
    if (exhausted(load)) {
        for (uint32_t i = 0; i < load->options->connections; i++)
            if (load->connections[i].busy)
                return;
        ev_break(load->loop, EVBREAK_ALL);
    } else if (!load->options->rate || load->filling) {
        begin(connection, at, now);
    }
}

static void answered(struct connection *connection, const struct target_reply *reply)
{
    struct load *load = connection->load;
    const struct load_options *options = load->options;
    const uint32_t first = connection->order[connection->order_first];
    const uint32_t at = options->target->in_order ? first : (uint32_t)reply->sequence;
    struct slot *slot;

    if (at >= options->pipeline || !connection->slots[at].busy) {
        fail(load, "a reply to nothing that was asked");
        return;
    }
    if (options->target->in_order)
        connection->order_first = (connection->order_first + 1) % options->pipeline;
    connection->order_count--;
    slot = &connection->slots[at];
    if (slot->step == STEP_CLAIM && slot->completes && reply->granted) {
        slot->step = STEP_COMPLETE;
        slot->fence = reply->fence;
        send_step(connection, at);
        return;
    }
    /* The hot key is done: the next one gets hot. */
    if (options->scenario == LOAD_HOT_KEY && slot->step == STEP_COMPLETE && slot->key == load->next_key)
        load->next_key++;
    finish(connection, at, reply->failed || (slot->step == STEP_REPLAY && !reply->replayed));
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = watcher->data;
    struct load *load = connection->load;
    ssize_t size;
    size_t at = 0;

    (void)loop, (void)events;
    if (connection->in_capacity - connection->in_size < 65536) {
        connection->in_capacity = connection->in_capacity * 2 + 131072;
        connection->in = need(realloc(connection->in, connection->in_capacity));
    }
    size = recv(connection->fd, connection->in + connection->in_size, connection->in_capacity - connection->in_size,
                MSG_DONTWAIT);
    if (size <= 0) {
        if (size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            fail(load, size == 0 ? "closed the connection" : strerror(errno));
        return;
    }
    connection->in_size += (size_t)size;
    while (!load->broken) {
        struct target_reply reply;
        const size_t bytes = load->options->target->get(connection->in + at, connection->in_size - at, &reply);
        if (bytes == 0)
            break;
        if (bytes == SIZE_MAX) {
            fail(load, "sent what is no reply");
            return;
        }
        at += bytes;
        answered(connection, &reply);
    }
    memmove(connection->in, connection->in + at, connection->in_size - at);
    connection->in_size -= at;
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = watcher->data;

    (void)loop, (void)events;
    if (!flush(connection))
        fail(connection->load, strerror(errno));
}

/* Everything that a turn made is sent at once: a system call a connection, not a request. */
static void on_flush(struct ev_loop *loop, ev_prepare *watcher, int events)
{
    struct load *load = watcher->data;

    (void)loop, (void)events;
    for (uint32_t i = 0; i < load->options->connections; i++)
        if (load->connections[i].out_sent < load->connections[i].out_size && !flush(&load->connections[i]))
            fail(load, strerror(errno));
}

/* ---- Time ----------------------------------------------------------------------------- */

/* The open loop: begins what is due, on the next connection with a free slot. */
static void on_due(struct ev_loop *loop, ev_timer *watcher, int events)
{
    struct load *load = watcher->data;
    const struct load_options *options = load->options;
    const double period_ns = 1e9 / options->rate;
    const uint64_t now = now_ns();

    (void)loop, (void)events;
    while (!exhausted(load)) {
        const uint64_t due_ns = load->began_ns + (uint64_t)((double)load->due_count * period_ns);
        struct connection *connection = NULL;
        uint32_t at = 0;

        if (due_ns > now)
            break;
        for (uint32_t i = 0; i < options->connections && !connection; i++) {
            struct connection *candidate = &load->connections[(load->next_connection + i) % options->connections];
            if (candidate->busy < options->pipeline)
                connection = candidate;
        }
        if (!connection)
            break;
        load->next_connection = (uint32_t)(connection - load->connections) + 1;
        while (connection->slots[at].busy)
            at++;
        load->due_count++;
        begin(connection, at, due_ns);
    }
}

static void on_end(struct ev_loop *loop, ev_timer *watcher, int events)
{
    struct load *load = watcher->data;

    (void)events;
    if (load->ending)
        fail(load, "did not answer within ten seconds after the end of the load");
    load->ending = true;
    for (uint32_t i = 0; i < load->options->connections; i++)
        if (load->connections[i].busy) {
            ev_timer_stop(loop, watcher);
            ev_timer_set(watcher, 10., 0.);
            ev_timer_start(loop, watcher);
            return;
        }
    ev_break(loop, EVBREAK_ALL);
}

static void on_tick(struct ev_loop *loop, ev_timer *watcher, int events)
{
    const struct load *load = watcher->data;
    const double seconds = (double)(now_ns() - load->began_ns) / 1e9;

    (void)loop, (void)events;
    fprintf(stderr, "\r%5.1f s  %10llu operations  %9.0f/s ", seconds, (unsigned long long)load->result->operations,
            (double)load->result->operations / seconds);
}

/* ---- Connecting -------------------------------------------------------------------------- */

static int connect_unix(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || strlen(path) >= sizeof name.sun_path)
        return -1;
    memcpy(name.sun_path, path, strlen(path));
    return connect(fd, (struct sockaddr *)&name, sizeof name) == 0 ? fd : -1;
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

static bool open_connection(struct load *load, struct connection *connection)
{
    const char *address = load->options->address;
    const uint32_t pipeline = load->options->pipeline;

    connection->load = load;
    connection->fd = strncmp(address, "unix:", 5) == 0  ? connect_unix(address + 5)
                     : strncmp(address, "tcp:", 4) == 0 ? connect_tcp(address + 4)
                                                        : -1;
    if (connection->fd < 0)
        return false;
    connection->slots = need(calloc(pipeline, sizeof *connection->slots));
    connection->order = need(calloc(pipeline, sizeof *connection->order));
    ev_io_init(&connection->readable, on_readable, connection->fd, EV_READ);
    ev_io_init(&connection->writable, on_writable, connection->fd, EV_WRITE);
    connection->readable.data = connection->writable.data = connection;
    ev_io_start(load->loop, &connection->readable);
    return true;
}

static void close_connections(struct load *load)
{
    for (uint32_t i = 0; i < load->options->connections; i++) {
        struct connection *connection = &load->connections[i];
        if (!connection->load)
            continue;
        if (connection->slots) {
            ev_io_stop(load->loop, &connection->readable);
            ev_io_stop(load->loop, &connection->writable);
        }
        if (connection->fd >= 0)
            close(connection->fd);
        free(connection->slots);
        free(connection->order);
        free(connection->in);
        free(connection->out);
    }
    free(load->connections);
}

/* ---- Running --------------------------------------------------------------------------------- */

static void start_all(struct load *load)
{
    const struct load_options *options = load->options;

    load->began_ns = now_ns();
    for (uint32_t at = 0; at < options->pipeline; at++)
        for (uint32_t i = 0; i < options->connections; i++)
            if (!exhausted(load))
                begin(&load->connections[i], at, now_ns());
}

/* Makes the keys that are asked for later. */
static void fill(struct load *load)
{
    struct load_result made = {0}, *result = load->result;

    load->filling = true;
    load->result = &made;
    start_all(load);
    ev_run(load->loop, 0);
    load->filling = false;
    load->result = result;
    load->started = 0;
    if (made.errors)
        fail(load, "the keys to ask for could not be made");
}

static void run(struct load *load)
{
    const struct load_options *options = load->options;

    load->began_ns = now_ns();
    ev_now_update(load->loop);
    ev_timer_init(&load->end, on_end, options->seconds, 0.);
    ev_timer_init(&load->tick, on_tick, 0.5, 0.5);
    ev_timer_init(&load->due, on_due, 0., 0.0005);
    load->end.data = load->tick.data = load->due.data = load;
    ev_timer_start(load->loop, &load->end);
    if (options->progress)
        ev_timer_start(load->loop, &load->tick);
    if (options->rate)
        ev_timer_start(load->loop, &load->due);
    else
        start_all(load);
    ev_run(load->loop, 0);
    load->result->seconds = (double)(now_ns() - load->began_ns) / 1e9;
    ev_timer_stop(load->loop, &load->end);
    ev_timer_stop(load->loop, &load->tick);
    ev_timer_stop(load->loop, &load->due);
    if (options->progress)
        fprintf(stderr, "\r%60s\r", "");
}

bool load_run(const struct load_options *options, struct load_result *result)
{
    struct load load = {.options = options, .result = result, .loop = ev_loop_new(EVFLAG_AUTO)};
    const bool asks = options->scenario == LOAD_REPLAY || options->scenario == LOAD_MIXED;

    *result = (struct load_result){0};
    need(load.loop);
    load.next_key = options->first_key;
    load.connections = need(calloc(options->connections, sizeof *load.connections));
    options->target->open(options->body_bytes);
    for (uint32_t i = 0; i < options->connections && !load.broken; i++)
        if (!open_connection(&load, &load.connections[i]))
            fail(&load, "cannot connect");
    ev_prepare_init(&load.flush, on_flush);
    load.flush.data = &load;
    ev_prepare_start(load.loop, &load.flush);
    if (asks && !load.broken)
        fill(&load);
    if (!load.broken)
        run(&load);
    close_connections(&load);
    ev_loop_destroy(load.loop);
    return !load.broken;
}
