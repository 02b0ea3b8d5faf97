/* Lanes with slots. A slot runs one operation at a time: one request, or two if it is a cycle. A lane is a connection
 * with as many slots as requests may be in flight on it. In the closed loop a slot begins its next operation as soon as
 * one ends. In the open loop the clock says when, and an operation that finds no free slot in time still counts from
 * when it was due. */
#include "bench/load.h"

#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "bench/connection.h"
#include "bench/need.h"
#include "bench/plan.h"

enum {
    DUE_STEP_NS = 50000, /* the open loop wakes up no more often */
    LATE_ANSWERS_S = 10, /* how long answers may take after the end */
    SLOT_BITS = 10,      /* of a request's sequence; above them it counts, so that none is used twice */
};
_Static_assert(LOAD_PIPELINE_MAX <= 1 << SLOT_BITS, "a slot's number fits");

struct load_slot {
    struct plan_operation operation;
    struct lane *lane;
    bool busy;
};

struct lane {
    struct load *load;
    struct connection connection;
    bool dirty; /* has something to send when the turn ends */
    struct load_slot *slots;
    uint32_t *order; /* in_order targets: slots by when their requests were sent, a ring */
    uint32_t order_first, order_count;
    uint64_t sent; /* requests */
};

struct load {
    const struct load_options *options;
    const struct target *target;
    struct load_result *result;
    struct plan plan;
    struct ev_loop *loop;
    struct lane *lanes, **dirty;
    struct load_slot *slots;
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

static void push_order(struct lane *lane, uint32_t at)
{
    const uint32_t pipeline = lane->load->options->pipeline;
    const uint32_t last = lane->order_first + lane->order_count++;

    lane->order[last < pipeline ? last : last - pipeline] = at;
}

static uint32_t shift_order(struct lane *lane)
{
    const uint32_t at = lane->order[lane->order_first];

    if (++lane->order_first == lane->load->options->pipeline)
        lane->order_first = 0;
    lane->order_count--;
    return at;
}

static void send_step(struct load_slot *slot)
{
    struct lane *lane = slot->lane;
    struct load *load = lane->load;
    const uint32_t at = (uint32_t)(slot - lane->slots);
    struct target_request request = plan_request(&load->plan, &slot->operation);
    uint8_t *room = connection_room(&lane->connection, load->request_bytes_max);

    request.sequence = lane->sent++ << SLOT_BITS | at;
    connection_take(&lane->connection, load->target->put(&request, room));
    if (load->target->in_order)
        push_order(lane, at);
    if (lane->dirty)
        return;
    lane->dirty = true;
    load->dirty[load->dirty_count++] = lane;
}

static void begin(struct load *load, struct load_slot *slot, uint64_t began_ns)
{
    plan_next(&load->plan, &slot->operation);
    slot->operation.began_ns = began_ns;
    slot->busy = true;
    load->busy++;
    send_step(slot);
}

static void flush_all(struct load *load)
{
    for (uint32_t i = 0; i < load->dirty_count; i++) {
        load->dirty[i]->dirty = false;
        connection_flush(&load->dirty[i]->connection);
    }
    load->dirty_count = 0;
}

/* ---- Answers ---------------------------------------------------------------------- */

static void push_free(struct load *load, struct load_slot *slot)
{
    const uint64_t last = (uint64_t)load->free_first + load->free_count++;

    load->free[last < load->slot_count ? last : last - load->slot_count] = (uint32_t)(slot - load->slots);
}

static struct load_slot *shift_free(struct load *load)
{
    struct load_slot *slot = &load->slots[load->free[load->free_first]];

    if (++load->free_first == load->slot_count)
        load->free_first = 0;
    load->free_count--;
    return slot;
}

static void finish(struct load *load, struct load_slot *slot, bool failed)
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

static void answered(struct load *load, struct load_slot *slot, const struct target_reply *reply)
{
    struct plan_operation *operation = &slot->operation;

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

/* Whose reply it is; NULL if it is nobody's. */
static struct load_slot *slot_of(struct lane *lane, const struct target_reply *reply)
{
    const struct load *load = lane->load;
    uint64_t at = reply->sequence & ((1 << SLOT_BITS) - 1);

    if (load->target->in_order) {
        if (lane->order_count == 0)
            return NULL;
        at = shift_order(lane);
    }
    return at < load->options->pipeline && lane->slots[at].busy ? &lane->slots[at] : NULL;
}

/* Returns the bytes of the whole replies. */
static size_t on_received(void *context, const uint8_t *data, size_t size)
{
    struct lane *lane = context;
    struct load *load = lane->load;
    size_t used = 0;

    load->now_ns = plan_now_ns();
    while (!load->broken) {
        struct target_reply reply;
        struct load_slot *slot;
        const size_t bytes = load->target->get(data + used, size - used, &reply);

        if (bytes == 0)
            break;
        slot = bytes == SIZE_MAX ? NULL : slot_of(lane, &reply);
        if (!slot) {
            fail(load, "sent what is no reply to anything that was asked");
            break;
        }
        used += bytes;
        answered(load, slot, &reply);
    }
    return used;
}

static void on_failed(void *context, const char *what)
{
    const struct lane *lane = context;

    fail(lane->load, what);
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
        struct load_slot *slot = shift_free(load);
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

/* ---- Running --------------------------------------------------------------------------------- */

static bool open_lane(struct load *load, uint32_t at)
{
    struct lane *lane = &load->lanes[at];
    const uint32_t pipeline = load->options->pipeline;
    const struct connection_user user = {on_received, on_failed, lane};

    lane->load = load;
    lane->slots = load->slots + (size_t)at * pipeline;
    for (uint32_t i = 0; i < pipeline; i++)
        lane->slots[i].lane = lane;
    lane->order = need(calloc(pipeline, sizeof *lane->order));
    return connection_open(&lane->connection, load->loop, load->options->address, &user);
}

static void close_lane(struct lane *lane)
{
    connection_close(&lane->connection);
    free(lane->order);
}

/* Slots take turns over the lanes, so that the first operations are spread. */
static struct load_slot *nth_slot(struct load *load, uint32_t n)
{
    const uint32_t connections = load->options->connections;

    return &load->lanes[n % connections].slots[n / connections];
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
    load->lanes = need(calloc(options->connections, sizeof *load->lanes));
    load->dirty = need(calloc(options->connections, sizeof *load->dirty));
    load->slots = need(calloc(load->slot_count, sizeof *load->slots));
    load->free = need(calloc(load->slot_count, sizeof *load->free));
    load->target->open(options->body_bytes);
    load->request_bytes_max = load->target->request_bytes_max();
    load->due_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (load->due_fd < 0)
        fail(load, strerror(errno));
    for (uint32_t i = 0; i < options->connections && !load->broken; i++)
        if (!open_lane(load, i))
            fail(load, "cannot connect");
    ev_prepare_init(&load->flush, on_flush);
    load->flush.data = load;
    ev_prepare_start(load->loop, &load->flush);
}

static void close_load(struct load *load)
{
    for (uint32_t i = 0; i < load->options->connections; i++)
        close_lane(&load->lanes[i]);
    if (load->due_fd >= 0)
        close(load->due_fd);
    ev_loop_destroy(load->loop);
    free(load->lanes);
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
