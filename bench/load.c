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
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/plan.h"

enum {
    READ_BYTES = 65536,  /* room for each read */
    DUE_STEP_NS = 50000, /* the open loop wakes up no more often */
    LATE_ANSWERS_S = 10, /* how long answers may take after the end */
    SLOT_BITS = 10,      /* of a request's sequence; above them it counts, so that none is used twice */
};
_Static_assert(LOAD_PIPELINE_MAX <= 1 << SLOT_BITS, "a slot's number fits");

struct slot {
    struct operation operation;
    struct connection *connection;
    bool busy;
};

struct connection {
    struct load *load;
    ev_io readable, writable;
    int fd;
    bool dirty; /* has something to send when the turn ends */
    struct slot *slots;
    uint32_t *order; /* in_order targets: slots by when their requests were sent, a ring */
    uint32_t order_first, order_count;
    uint8_t *out, *in;
    size_t out_size, out_sent, out_capacity, in_size, in_capacity;
    uint64_t sent; /* requests */
};

struct load {
    const struct load_options *options;
    const struct target *target;
    struct load_result *result;
    struct plan plan;
    struct ev_loop *loop;
    struct connection *connections, **dirty;
    struct slot *slots;
    uint32_t *free; /* open loop: slots with nothing to do, a ring; the longest idle first */
    uint32_t slot_count, free_first, free_count, dirty_count, busy;
    size_t request_bytes_max;
    ev_timer end, tick;
    ev_io due;
    ev_prepare flush;
    int due_fd;
    uint64_t now_ns;              /* when the replies at hand were read */
    uint64_t began_ns, due_count; /* open loop: operations begun so far */
    bool broken;
};

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

/* Closed loop: a slot that is done begins again, as long as there is something to begin. */
static bool is_closed(const struct load *load)
{
    return load->plan.filling || load->options->rate == 0;
}

/* ---- Sending --------------------------------------------------------------------- */

static void make_room(struct connection *connection, size_t bytes)
{
    if (connection->out_capacity - connection->out_size >= bytes)
        return;
    connection->out_capacity = 2 * connection->out_capacity + bytes;
    connection->out = need(realloc(connection->out, connection->out_capacity));
}

static void push_order(struct connection *connection, uint32_t at)
{
    const uint32_t pipeline = connection->load->options->pipeline;
    const uint32_t last = connection->order_first + connection->order_count++;

    connection->order[last < pipeline ? last : last - pipeline] = at;
}

static uint32_t shift_order(struct connection *connection)
{
    const uint32_t at = connection->order[connection->order_first];

    if (++connection->order_first == connection->load->options->pipeline)
        connection->order_first = 0;
    connection->order_count--;
    return at;
}

static void send_step(struct slot *slot)
{
    struct connection *connection = slot->connection;
    struct load *load = connection->load;
    const uint32_t at = (uint32_t)(slot - connection->slots);
    struct target_request request = plan_request(&load->plan, &slot->operation);

    request.sequence = connection->sent++ << SLOT_BITS | at;
    make_room(connection, load->request_bytes_max);
    connection->out_size += load->target->put(&request, connection->out + connection->out_size);
    if (load->target->in_order)
        push_order(connection, at);
    if (connection->dirty)
        return;
    connection->dirty = true;
    load->dirty[load->dirty_count++] = connection;
}

static void begin(struct load *load, struct slot *slot, uint64_t began_ns)
{
    plan_next(&load->plan, &slot->operation);
    slot->operation.began_ns = began_ns;
    slot->busy = true;
    load->busy++;
    send_step(slot);
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

static void flush_all(struct load *load)
{
    for (uint32_t i = 0; i < load->dirty_count; i++) {
        load->dirty[i]->dirty = false;
        if (!flush(load->dirty[i]))
            fail(load, strerror(errno));
    }
    load->dirty_count = 0;
}

/* ---- Answers ---------------------------------------------------------------------- */

static void push_free(struct load *load, struct slot *slot)
{
    const uint64_t last = (uint64_t)load->free_first + load->free_count++;

    load->free[last < load->slot_count ? last : last - load->slot_count] = (uint32_t)(slot - load->slots);
}

static struct slot *shift_free(struct load *load)
{
    struct slot *slot = &load->slots[load->free[load->free_first]];

    if (++load->free_first == load->slot_count)
        load->free_first = 0;
    load->free_count--;
    return slot;
}

static void finish(struct load *load, struct slot *slot, bool failed)
{
    slot->busy = false;
    load->busy--;
    load->result->operations++;
    load->result->errors += failed;
    histogram_add(&load->result->latency_ns, load->now_ns - slot->operation.began_ns);
    plan_done(&load->plan, &slot->operation);
    if (!is_closed(load))
        push_free(load, slot);
    else if (!plan_exhausted(&load->plan))
        begin(load, slot, load->now_ns);
    if (load->busy == 0 && plan_exhausted(&load->plan))
        ev_break(load->loop, EVBREAK_ALL);
}

static void answered(struct load *load, struct slot *slot, const struct target_reply *reply)
{
    struct operation *operation = &slot->operation;

    if (operation->step == STEP_CLAIM && operation->completes && reply->granted) {
        operation->step = STEP_COMPLETE;
        operation->fence = reply->fence;
        send_step(slot);
    } else if (reply->pending && load->options->scenario == LOAD_HOT_KEY) {
        operation->step = STEP_REPLAY;
        send_step(slot);
    } else {
        const bool missing = operation->step == STEP_REPLAY && !reply->replayed;
        finish(load, slot, reply->failed || reply->pending || missing);
    }
}

/* Whose reply it is; NULL where it is nobody's. */
static struct slot *slot_of(struct connection *connection, const struct target_reply *reply)
{
    const struct load *load = connection->load;
    uint64_t at = reply->sequence & ((1 << SLOT_BITS) - 1);

    if (load->target->in_order) {
        if (connection->order_count == 0)
            return NULL;
        at = shift_order(connection);
    }
    return at < load->options->pipeline && connection->slots[at].busy ? &connection->slots[at] : NULL;
}

/* Returns the bytes that are no whole reply yet, at the end of what is there. */
static size_t take_replies(struct connection *connection)
{
    struct load *load = connection->load;
    const uint8_t *at = connection->in;
    size_t left = connection->in_size;

    while (!load->broken) {
        struct target_reply reply;
        struct slot *slot;
        const size_t bytes = load->target->get(at, left, &reply);

        if (bytes == 0)
            break;
        slot = bytes == SIZE_MAX ? NULL : slot_of(connection, &reply);
        if (!slot) {
            fail(load, "sent what is no reply to anything that was asked");
            break;
        }
        at += bytes;
        left -= bytes;
        answered(load, slot, &reply);
    }
    return left;
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = watcher->data;
    struct load *load = connection->load;
    ssize_t size;
    size_t left;

    (void)loop, (void)events;
    if (connection->in_capacity - connection->in_size < READ_BYTES) {
        connection->in_capacity = 2 * (connection->in_capacity + READ_BYTES);
        connection->in = need(realloc(connection->in, connection->in_capacity));
    }
    size = recv(connection->fd, connection->in + connection->in_size, connection->in_capacity - connection->in_size,
                MSG_DONTWAIT);
    if (size <= 0) {
        if (size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            fail(load, size == 0 ? "closed the connection" : strerror(errno));
        return;
    }
    load->now_ns = plan_now_ns();
    connection->in_size += (size_t)size;
    left = take_replies(connection);
    if (left && left < connection->in_size)
        memmove(connection->in, connection->in + connection->in_size - left, left);
    connection->in_size = left;
}

static void on_writable(struct ev_loop *loop, ev_io *watcher, int events)
{
    struct connection *connection = watcher->data;

    (void)loop, (void)events;
    if (!flush(connection))
        fail(connection->load, strerror(errno));
}

/* ---- Time ----------------------------------------------------------------------------- */

static uint64_t due_ns(const struct load *load)
{
    return load->began_ns + (uint64_t)((double)load->due_count * 1e9 / load->options->rate);
}

static void wake_at(struct load *load, uint64_t at_ns)
{
    const struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at_ns / 1000000000u), .tv_nsec = (long)(at_ns % 1000000000u)}};

    if (timerfd_settime(load->due_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        fail(load, strerror(errno));
}

/* The open loop: begins what is due, in the slots that were idle longest. Where there is none, the next answer is what
 * it waits for. */
static void begin_due(struct load *load)
{
    const uint64_t now = plan_now_ns();

    while (load->free_count && !plan_exhausted(&load->plan) && due_ns(load) <= now) {
        struct slot *slot = shift_free(load);
        begin(load, slot, due_ns(load));
        load->due_count++;
    }
    if (load->free_count && !plan_exhausted(&load->plan))
        wake_at(load, due_ns(load) > now + DUE_STEP_NS ? due_ns(load) : now + DUE_STEP_NS);
}

/* The end of a turn. Everything that it made is sent at once: a system call a connection, not a request. */
static void on_flush(struct ev_loop *loop, ev_prepare *watcher, int events)
{
    struct load *load = watcher->data;

    (void)loop, (void)events;
    if (!is_closed(load))
        begin_due(load);
    flush_all(load);
}

/* Something is due; the end of the turn looks at it. */
static void on_due(struct ev_loop *loop, ev_io *watcher, int events)
{
    uint64_t times;

    (void)loop, (void)events;
    if (read(watcher->fd, &times, sizeof times) < 0 && errno != EAGAIN)
        fail(watcher->data, strerror(errno));
}

static void on_end(struct ev_loop *loop, ev_timer *watcher, int events)
{
    struct load *load = watcher->data;

    (void)events;
    if (load->plan.ending)
        fail(load, "did not answer within ten seconds after the end of the load");
    load->plan.ending = true;
    if (load->busy == 0) {
        ev_break(loop, EVBREAK_ALL);
        return;
    }
    ev_timer_stop(loop, watcher);
    ev_timer_set(watcher, LATE_ANSWERS_S, 0.);
    ev_timer_start(loop, watcher);
}

static void on_tick(struct ev_loop *loop, ev_timer *watcher, int events)
{
    const struct load *load = watcher->data;

    (void)loop, (void)events;
    plan_progress(load->began_ns, load->result->operations);
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

static bool open_connection(struct load *load, uint32_t at)
{
    struct connection *connection = &load->connections[at];
    const char *address = load->options->address;
    const uint32_t pipeline = load->options->pipeline;

    connection->load = load;
    connection->fd = strncmp(address, "unix:", 5) == 0  ? connect_unix(address + 5)
                     : strncmp(address, "tcp:", 4) == 0 ? connect_tcp(address + 4)
                                                        : -1;
    if (connection->fd < 0)
        return false;
    connection->slots = load->slots + (size_t)at * pipeline;
    for (uint32_t i = 0; i < pipeline; i++)
        connection->slots[i].connection = connection;
    connection->order = need(calloc(pipeline, sizeof *connection->order));
    ev_io_init(&connection->readable, on_readable, connection->fd, EV_READ);
    ev_io_init(&connection->writable, on_writable, connection->fd, EV_WRITE);
    connection->readable.data = connection->writable.data = connection;
    ev_io_start(load->loop, &connection->readable);
    return true;
}

static void close_connection(struct load *load, struct connection *connection)
{
    if (!connection->load || connection->fd < 0)
        return;
    ev_io_stop(load->loop, &connection->readable);
    ev_io_stop(load->loop, &connection->writable);
    close(connection->fd);
    free(connection->order);
    free(connection->in);
    free(connection->out);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Slots take turns over the connections, so that the first operations are spread. */
static struct slot *nth_slot(struct load *load, uint32_t n)
{
    const uint32_t connections = load->options->connections;

    return &load->connections[n % connections].slots[n / connections];
}

static void begin_all(struct load *load)
{
    load->began_ns = load->now_ns = plan_now_ns();
    for (uint32_t n = 0; n < load->slot_count && !plan_exhausted(&load->plan); n++)
        begin(load, nth_slot(load, n), load->now_ns);
}

/* Makes the keys that are asked for later. */
static void fill(struct load *load)
{
    struct load_result *result = load->result;
    struct load_result *made = need(calloc(1, sizeof *made));

    load->plan.filling = true;
    load->result = made;
    begin_all(load);
    ev_run(load->loop, 0);
    load->plan.filling = false;
    load->plan.started = 0;
    load->result = result;
    if (made->errors)
        fail(load, "the keys to ask for could not be made");
    free(made);
}

static void start_timers(struct load *load)
{
    ev_now_update(load->loop);
    ev_timer_init(&load->end, on_end, load->options->seconds, 0.);
    ev_timer_init(&load->tick, on_tick, PLAN_PROGRESS_NS / 1e9, PLAN_PROGRESS_NS / 1e9);
    ev_io_init(&load->due, on_due, load->due_fd, EV_READ);
    load->end.data = load->tick.data = load->due.data = load;
    ev_timer_start(load->loop, &load->end);
    if (load->options->progress)
        ev_timer_start(load->loop, &load->tick);
    if (!is_closed(load))
        ev_io_start(load->loop, &load->due);
}

static void stop_timers(struct load *load)
{
    ev_timer_stop(load->loop, &load->end);
    ev_timer_stop(load->loop, &load->tick);
    ev_io_stop(load->loop, &load->due);
    if (load->options->progress)
        plan_progress_end();
}

static void run(struct load *load)
{
    const double cpu_before = plan_cpu_seconds();

    load->began_ns = plan_now_ns();
    start_timers(load);
    if (is_closed(load))
        begin_all(load);
    else
        for (uint32_t n = 0; n < load->slot_count; n++)
            push_free(load, nth_slot(load, n));
    ev_run(load->loop, 0);
    load->result->seconds = (double)(plan_now_ns() - load->began_ns) / 1e9;
    load->result->busy = (plan_cpu_seconds() - cpu_before) / load->result->seconds;
    stop_timers(load);
}

static void open_load(struct load *load, const struct load_options *options)
{
    load->slot_count = options->connections * options->pipeline;
    load->loop = need(ev_loop_new(EVFLAG_AUTO));
    load->connections = need(calloc(options->connections, sizeof *load->connections));
    load->dirty = need(calloc(options->connections, sizeof *load->dirty));
    load->slots = need(calloc(load->slot_count, sizeof *load->slots));
    load->free = need(calloc(load->slot_count, sizeof *load->free));
    load->target->open(options->body_bytes);
    load->request_bytes_max = load->target->request_bytes_max();
    load->due_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (load->due_fd < 0)
        fail(load, strerror(errno));
    for (uint32_t i = 0; i < options->connections && !load->broken; i++)
        if (!open_connection(load, i))
            fail(load, "cannot connect");
    ev_prepare_init(&load->flush, on_flush);
    load->flush.data = load;
    ev_prepare_start(load->loop, &load->flush);
}

static void close_load(struct load *load)
{
    for (uint32_t i = 0; i < load->options->connections; i++)
        close_connection(load, &load->connections[i]);
    if (load->due_fd >= 0)
        close(load->due_fd);
    ev_loop_destroy(load->loop);
    free(load->connections);
    free(load->dirty);
    free(load->slots);
    free(load->free);
}

static bool run_network(const struct load_options *options, struct load_result *result)
{
    struct load load = {.options = options,
                        .target = options->target,
                        .result = result,
                        .plan = {.options = options, .next_key = options->first_key}};

    *result = (struct load_result){0};
    open_load(&load, options);
    if (plan_fills(&load.plan) && !load.broken)
        fill(&load);
    if (!load.broken)
        run(&load);
    close_load(&load);
    return !load.broken;
}

bool load_run(const struct load_options *options, struct load_result *result)
{
    const struct target *target = options->target;
    struct load_options there = *options;
    char address[TARGET_ADDRESS_BYTES];
    bool good;

    if (target->run)
        return target->run(options, result);
    if (!target->start)
        return run_network(options, result);
    if (!target->start(options->address, address))
        return false;
    there.address = address;
    good = run_network(&there, result);
    target->stop();
    return good;
}
