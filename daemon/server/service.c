/* From a message to an engine call, and from the engine's reply to bytes that go out when they may.
 *
 *     service_read: scan -> call     service_decide: (unpack) -> decide ... reply -> response -> (held) -> send
 *
 * An answer that rests on a change which is not flushed yet is held: in the queue of the batch in flight or of the open
 * one. When a batch is flushed its queue goes out whole. Hello and Stats are answered here; all else is the engine's.
 */
#include "daemon/server/service.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/random.h>

#include "daemon/server/arena.h"
#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "daemon/server/metrics.h"
#include "daemon/server/notes.h"
#include "daemon/server/request.h"
#include "daemon/server/request_wire.h"
#include "daemon/server/response_messages.h"
#include "daemon/server/response_wire.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "proto/scan.h"

/* A message that was read. */
struct read_message {
    struct service_message bytes;
    bool is_call; /* the rest is filled; else it is scanned again when its turn comes: unpacked then, or refused */
    uint64_t id;
    struct call call;
    uint32_t timeout_ms;
};

struct service {
    struct service_options options;
    struct store *store;
    struct engine *engine;
    struct arena *arena;
    struct held_answers held;
    uint64_t durable;      /* the newest number that was flushed, as of the last event */
    struct table sessions; /* by the number of the connection */
    uint64_t opened;       /* so many so far */
    uint64_t instance;
    uint64_t started_ms;
    struct metrics metrics;
    struct notes notes;
    const struct call *operators; /* the Resolve or Forget at work, or NULL */
    const struct now *now;        /* of the call at work */
    struct scan_result scan;      /* of the message at work */
    struct read_message read[SERVICE_READ_MAX];
};

static struct session *session_of(struct party *party)
{
    return (struct session *)(void *)party;
}

/* ---- Answers -------------------------------------------------------------------- */

static void send_now(struct service *service, struct session *session, const struct response *response)
{
    const struct service_outlet *outlet = &service->options.outlet;

    assert(session->open_calls > 0);
    session->open_calls--;
    outlet->send(outlet->context, session, response);
}

static void on_release(void *context, struct held_owner *owner, const struct response *response)
{
    send_now(context, (struct session *)(void *)((char *)owner - offsetof(struct session, held)), response);
}

static void count_answer(struct service *service, const struct reply *reply)
{
    struct metrics *metrics = &service->metrics;

    metrics->calls[reply->call - CALL_HELLO][reply->code]++;
    if (reply->code != CODE_OK)
        return;
    if (reply->call == CALL_BEGIN) {
        metrics->begins[reply->answer]++;
        metrics->resumed += reply->resumed;
        metrics->taken_over +=
            reply->answer == ANSWER_EXECUTE && !reply->resumed && reply->operation.record->attempt > 1;
    }
    metrics->taken_over += reply->call == CALL_RECOVER ? reply->list_count : 0;
    metrics->lost += reply->ownership == OWNERSHIP_LOST;
    metrics->final += reply->ownership == OWNERSHIP_FINAL;
}

static void note_operator(struct service *service, struct session *session, const struct reply *reply)
{
    char peer[PEER_BYTES];

    service->options.outlet.peer(service->options.outlet.context, session, peer);
    notes_operator(&service->notes, service->now->boot_ms, service->arena, service->operators, reply,
                   session->connection, peer);
    service->operators = NULL;
}

static void note_space(struct service *service)
{
    const struct engine_counts counts = engine_counts(service->engine);
    const struct store_space space = store_space(service->store, counts.running + counts.interrupted);

    notes_space(&service->notes, &space, service->now->boot_ms);
}

static struct response encode(const struct service *service, uint64_t request, const struct reply *reply)
{
    if (reply->code == CODE_OK && response_wire_has(reply))
        return response_wire_put(service->arena, request, reply, service->now);
    return response_of_reply(service->arena, request, reply, service->now);
}

/* An answer of the engine: encoded, then sent or held. */
static void on_reply(void *context, struct party *party, uint64_t request, const struct reply *reply)
{
    struct service *service = context;
    struct session *session = session_of(party);
    const size_t mark = arena_mark(service->arena);
    const struct response response = encode(service, request, reply);

    count_answer(service, reply);
    if (reply->code == CODE_RESOURCE_EXHAUSTED)
        note_space(service);
    /* Those that waited for what it decides are answered before or after it. */
    if (service->operators && reply->call == service->operators->type)
        note_operator(service, session, reply);
    if (reply->depends > store_durable_number(service->store))
        held_add(&service->held, &session->held, reply->depends, &response);
    else
        send_now(service, session, &response);
    arena_rewind(service->arena, mark);
}

/* A call whose connection is not alive is withdrawn: it is not answered, and no longer open. */
static bool on_alive(void *context, struct party *party)
{
    struct service *service = context;
    struct session *session = session_of(party);
    const bool alive = service->options.outlet.alive(service->options.outlet.context, session);

    session->open_calls -= !alive;
    return alive;
}

static void refuse(struct session *session, uint64_t id, unsigned call, enum code code, const char *reason,
                   const char *field, const char *message)
{
    struct service *service = session->service;
    const size_t mark = arena_mark(service->arena);
    const struct response response = response_of_error(service->arena, id, code, reason, field, message);

    if (metrics_call_name(call))
        service->metrics.calls[call - CALL_HELLO][code]++;
    send_now(service, session, &response);
    arena_rewind(service->arena, mark);
}

static void answer(struct session *session, const Idem__V1__Response *message)
{
    struct service *service = session->service;
    const struct response response = response_of_message(service->arena, message);

    service->metrics.calls[message->result_case - CALL_HELLO][CODE_OK]++;
    send_now(service, session, &response);
}

/* ---- Hello and Stats ---------------------------------------------------------------- */

static struct session *session_by_connection(const struct service *service, uint64_t connection)
{
    struct table_entry *entry = table_first(&service->sessions, (uint32_t)connection);

    for (; entry; entry = table_next(entry)) {
        struct session *session = (struct session *)(void *)((char *)entry - offsetof(struct session, by_connection));
        if (session->connection == connection)
            return session;
    }
    return NULL;
}

static void replace(struct session *session, uint64_t connection)
{
    struct service *service = session->service;
    struct session *old = connection ? session_by_connection(service, connection) : NULL;

    if (old == session)
        return;
    if (old) {
        engine_party_replace(service->engine, &old->party, &session->party, service->now);
        service->options.outlet.drop(service->options.outlet.context, old);
    }
    engine_party_adopt(service->engine, connection, &session->party, service->now);
}

static void say_hello(struct session *session, const Idem__V1__Request *request)
{
    const struct service *service = session->service;
    const struct policy *policy = &service->options.policy;
    Idem__V1__Policy told = IDEM__V1__POLICY__INIT;
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;

    told.keep_ms = policy->keep_ms;
    told.keep_min_ms = policy->keep_min_ms;
    told.keep_max_ms = policy->keep_max_ms;
    told.lease_ms = policy->lease_ms;
    told.grace_ms = policy->grace_ms;
    told.if_interrupted = (Idem__V1__IfInterrupted)policy->if_interrupted;
    hello.server = (char *)(uintptr_t) "idemd " IDEMD_VERSION;
    hello.instance = service->instance;
    hello.store_id = store_facts(service->store)->store_id;
    hello.connection = session->connection;
    hello.now_ms = service->now->wall_ms;
    hello.durable = true;
    hello.max_frame_bytes = service_message_bytes_max(service);
    hello.max_outcome_bytes = policy->max_outcome_bytes;
    hello.max_wait_ms = IDEM_WAIT_MS_MAX;
    hello.policy = &told;
    response.id = request->id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &hello;
    answer(session, &response);
}

static void on_hello(struct session *session, const Idem__V1__Request *request)
{
    if (session->greeted) {
        refuse(session, request->id, CALL_HELLO, CODE_FAILED_PRECONDITION, "HELLO_TWICE", "hello",
               "hello: a connection says it once");
        return;
    }
    session->greeted = true;
    if (log_enabled(LOG_DEBUG)) {
        const struct service_outlet *outlet = &session->service->options.outlet;
        char peer[PEER_BYTES];
        outlet->peer(outlet->context, session, peer);
        notes_hello(request->hello->client, session->connection, request->hello->replaces, peer);
    }
    replace(session, request->hello->replaces);
    say_hello(session, request);
}

struct stats {
    struct arena *arena;
    Idem__V1__StatsResponse *response;
    size_t capacity;
};

static Idem__V1__Label *make_label(struct arena *arena, const char *name, const char *value)
{
    Idem__V1__Label *label = arena_zero(arena, sizeof *label);

    idem__v1__label__init(label);
    label->name = (char *)(uintptr_t)name;
    label->value = (char *)(uintptr_t)value;
    return label;
}

static void add_metric(void *context, const char *name, const char *label_name, const char *label_value,
                       const char *label2_name, const char *label2_value, double value, const char *help)
{
    struct stats *stats = context;
    Idem__V1__Metric *metric = arena_zero(stats->arena, sizeof *metric);

    idem__v1__metric__init(metric);
    metric->name = (char *)(uintptr_t)name;
    metric->help = (char *)(uintptr_t)help;
    metric->value = value;
    metric->labels = arena_zero(stats->arena, 2 * sizeof *metric->labels);
    if (label_name)
        metric->labels[metric->n_labels++] = make_label(stats->arena, label_name, label_value);
    if (label2_name)
        metric->labels[metric->n_labels++] = make_label(stats->arena, label2_name, label2_value);
    assert(stats->response->n_metrics < stats->capacity);
    stats->response->metrics[stats->response->n_metrics++] = metric;
}

static struct metrics_gauges read_gauges(const struct service *service)
{
    const struct engine_counts counts = engine_counts(service->engine);
    const struct store_space space = store_space(service->store, counts.running + counts.interrupted);
    const struct service_outlet *outlet = &service->options.outlet;
    struct metrics_gauges gauges = {
        .started_ms = service->started_ms,
        .now_ms = service->now->wall_ms,
        .running = counts.running,
        .interrupted = counts.interrupted,
        .finished = counts.finished,
        .stored_bytes = counts.stored_bytes,
        .waiting = counts.waiting,
        .waiting_bytes = counts.waiting_bytes,
        .memory_bytes = counts.memory_bytes,
        .memory_used_bytes = mem_used(),
        .memory_limit_bytes = mem_limited(),
        .memory_full = mem_is_short(),
        .held_bytes = service->held.bytes,
        .store_used_bytes = space.used_bytes,
        .store_quota_bytes = space.quota_bytes,
        .store_full = space.full,
        .wal_bytes = store_wal_bytes(service->store),
        .backlog_bytes = store_backlog_bytes(service->store),
    };

    outlet->count(outlet->context, &gauges.connections, &gauges.buffered_bytes);
    return gauges;
}

static void on_stats(struct session *session, const Idem__V1__Request *request)
{
    struct service *service = session->service;
    const struct metrics_gauges gauges = read_gauges(service);
    Idem__V1__StatsResponse stats_response = IDEM__V1__STATS_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    struct stats stats = {service->arena, &stats_response, METRICS_MAX};
    const char *namespace = request->stats->namespace_;

    stats_response.metrics = arena_zero(service->arena, METRICS_MAX * sizeof *stats_response.metrics);
    if (*namespace) {
        const struct engine_counts counts =
            engine_counts_of(service->engine, bytes_of(namespace, (uint32_t)strlen(namespace)));
        const struct metrics_gauges of_namespace = {.started_ms = gauges.started_ms,
                                                    .running = counts.running,
                                                    .interrupted = counts.interrupted,
                                                    .finished = counts.finished,
                                                    .stored_bytes = counts.stored_bytes,
                                                    .waiting = counts.waiting};
        metrics_each_of_namespace(namespace, &of_namespace, add_metric, &stats);
    } else {
        metrics_each(&service->metrics, &gauges, add_metric, &stats);
    }
    response.id = request->id;
    response.result_case = IDEM__V1__RESPONSE__RESULT_STATS;
    response.stats = &stats_response;
    answer(session, &response);
}

/* ---- Messages ------------------------------------------------------------------------- */

static void on_engine_call(struct session *session, uint64_t id, uint32_t timeout_ms, struct call *call,
                           uint64_t read_ms)
{
    struct service *service = session->service;
    const uint64_t deadline_ms = timeout_ms ? read_ms + timeout_ms : UINT64_MAX;

    service->operators = call->type == CALL_RESOLVE || call->type == CALL_FORGET ? call : NULL;
    engine_call(service->engine, &session->party, id, call, deadline_ms, service->now);
    service->operators = NULL;
}

/* A message that is not read straight from its bytes. */
static void on_request(struct session *session, const Idem__V1__Request *request, const struct scan_result *scan,
                       uint64_t read_ms)
{
    struct service *service = session->service;
    struct call call;

    if (request->call_case == IDEM__V1__REQUEST__CALL_HELLO) {
        on_hello(session, request);
    } else if (request->call_case == IDEM__V1__REQUEST__CALL_STATS) {
        on_stats(session, request);
    } else {
        request_to_call(service->arena, request, scan, &service->options.policy, &call);
        on_engine_call(session, request->id, request->timeout_ms, &call, read_ms);
    }
}

static enum scan_verdict scan(struct service *service, const struct service_message *bytes)
{
    const struct policy *policy = &service->options.policy;
    const struct scan_limits limits = {.keep_ms_min = policy->keep_min_ms, .keep_ms_max = policy->keep_max_ms};

    return scan_request(bytes->data, bytes->size, &limits, &service->scan);
}

static void read_message(struct service *service, const struct service_message *bytes, struct read_message *message)
{
    message->bytes = *bytes;
    message->is_call =
        scan(service, bytes) == SCAN_OK && request_wire_read(service->arena, &service->scan, &service->options.policy,
                                                             &message->call, &message->timeout_ms);
    message->id = service->scan.id;
}

void service_read(struct service *service, const struct service_message *messages, unsigned count)
{
    struct call *calls[SERVICE_READ_MAX];
    unsigned call_count = 0;

    assert(count <= SERVICE_READ_MAX);
    for (unsigned i = 0; i < count; i++) {
        read_message(service, &messages[i], &service->read[i]);
        if (service->read[i].is_call)
            calls[call_count++] = &service->read[i].call;
    }
    engine_prefetch(service->engine, calls, call_count);
}

bool service_is_brief(const struct service *service, unsigned number)
{
    return service->read[number].is_call;
}

void service_read_end(struct service *service)
{
    arena_rewind(service->arena, 0);
}

static void unpack(struct session *session, const struct service_message *bytes, uint64_t read_ms)
{
    struct arena *arena = session->service->arena;
    const struct scan_result *scanned = &session->service->scan;
    const size_t mark = arena_mark(arena);
    const Idem__V1__Request *request;

    if (scanned->attributes_dropped)
        scan_take_out_attributes(bytes->data, scanned);
    request = request_unpack(arena, bytes->data, bytes->size);
    if (request)
        on_request(session, request, scanned, read_ms);
    else
        refuse(session, scanned->id, scanned->call, CODE_INTERNAL, "UNPACK", NULL, "the request could not be unpacked");
    arena_rewind(arena, mark);
}

/* A message that is none of the usual calls. */
static bool decide_other(struct session *session, const struct service_message *bytes, uint64_t read_ms)
{
    struct service *service = session->service;
    const struct scan_result *scanned = &service->scan;
    const enum scan_verdict verdict = scan(service, bytes);

    if (verdict == SCAN_NOT_A_REQUEST) {
        service_bad_frame(session, scanned->message);
        return false;
    }
    session->open_calls++;
    if (verdict == SCAN_INVALID)
        refuse(session, scanned->id, scanned->call, CODE_INVALID_ARGUMENT, "INVALID_ARGUMENT", scanned->field,
               scanned->message);
    else if (verdict == SCAN_UNIMPLEMENTED)
        refuse(session, scanned->id, 0, CODE_UNIMPLEMENTED, "UNKNOWN_CALL", NULL,
               "this daemon does not know this call");
    else
        unpack(session, bytes, read_ms);
    return true;
}

bool service_decide(struct session *session, unsigned number, uint64_t read_ms, const struct now *now)
{
    struct read_message *message = &session->service->read[number];

    session->service->now = now;
    if (!message->is_call)
        return decide_other(session, &message->bytes, read_ms);
    session->open_calls++;
    on_engine_call(session, message->id, message->timeout_ms, &message->call, read_ms);
    return true;
}

void service_bad_frame(struct session *session, const char *message)
{
    struct service *service = session->service;

    service->metrics.bad_frames++;
    if (notes_bad_frame_due(&service->notes, service->now->boot_ms)) {
        char peer[PEER_BYTES];
        service->options.outlet.peer(service->options.outlet.context, session, peer);
        notes_bad_frame(&service->notes, message, peer);
    }
    session->open_calls++;
    refuse(session, 0, 0, CODE_INVALID_ARGUMENT, "BAD_FRAME", NULL, message);
}

void service_no_memory(struct session *session)
{
    session->open_calls++;
    refuse(session, 0, 0, CODE_UNAVAILABLE, "NO_MEMORY", NULL,
           "the memory for frames that have begun is used up; send it again");
}

void service_reader_dropped(struct service *service, uint64_t unsent_bytes, const struct now *now)
{
    service->metrics.readers_dropped++;
    notes_reader_dropped(&service->notes, unsent_bytes, now->boot_ms);
}

void service_idle_closed(struct service *service, uint64_t connections, const struct now *now)
{
    service->metrics.idle_closed++;
    notes_idle_closed(&service->notes, connections, now->boot_ms);
}

bool service_session_is_bound(const struct session *session)
{
    return session->party.holder != NULL;
}

uint32_t service_message_bytes_max(const struct service *service)
{
    const uint32_t largest = engine_largest_bytes(service->engine), set = service->options.policy.max_outcome_bytes;

    return (largest > set ? largest : set) + IDEM_FRAME_OVERHEAD_BYTES;
}

static void random_bytes(void *out, size_t size)
{
    const ssize_t got = getrandom(out, size, 0);

    assert(got == (ssize_t)size);
}

/* ---- Sessions ---------------------------------------------------------------------------- */

void service_session_open(struct service *service, struct session *session)
{
    *session = (struct session){.service = service};
    /* Nobody can guess another's, and none is given twice: 64 random bits. */
    do
        random_bytes(&session->connection, sizeof session->connection);
    while (session->connection == 0 || session_by_connection(service, session->connection));
    session->party.id = session->connection;
    session->party.age = ++service->opened;
    table_add(&service->sessions, &session->by_connection, (uint32_t)session->connection);
}

void service_session_input_ended(struct session *session, const struct now *now)
{
    /* What is withdrawn is never answered. */
    session->open_calls -= session->party.parked_count;
    engine_party_close(session->service->engine, &session->party, now);
}

void service_session_close(struct session *session, const struct now *now)
{
    struct service *service = session->service;

    service_session_input_ended(session, now);
    held_forget(&session->held);
    table_remove(&service->sessions, &session->by_connection);
    session->service = NULL;
}

/* ---- Turning ------------------------------------------------------------------------------- */

uint64_t service_turn(struct service *service, const struct now *now, uint64_t seen_ms, const struct clock_mark *mark)
{
    const bool was_busy = store_busy(service->store);
    uint64_t next_ms;

    service->now = now;
    next_ms = engine_turn(service->engine, now, seen_ms, mark);
    if (!was_busy && store_busy(service->store))
        held_submitted(&service->held, store_newest_number(service->store));
    return next_ms;
}

void service_loaded(struct service *service, uint64_t took_ms)
{
    engine_stalled(service->engine, took_ms);
}

void service_stalled(struct service *service, uint64_t stalled_ms)
{
    service->metrics.stalls++;
    service->metrics.stalled_ms += stalled_ms;
    engine_stalled(service->engine, stalled_ms);
}

void service_turned(struct service *service, uint64_t took_ns)
{
    durations_add(&service->metrics.loop_turn, took_ns);
}

/* 0: that did not happen. */
static void count_duration(struct durations *durations, uint64_t ns)
{
    if (ns)
        durations_add(durations, ns);
}

void service_stored(struct service *service, const struct store_event *event, const struct now *now)
{
    service->now = now;
    service->metrics.batches += event->flush_ns != 0;
    service->metrics.durable_changes += event->durable - service->durable;
    service->durable = event->durable;
    service->metrics.swept += event->swept_count;
    count_duration(&service->metrics.queue_wait, event->queue_ns);
    count_duration(&service->metrics.flush, event->flush_ns);
    count_duration(&service->metrics.apply, event->apply_ns);
    engine_stored(service->engine, event, now);
    note_space(service);
    if (!store_busy(service->store))
        held_release(&service->held, service->durable, on_release, service);
}

void service_drain(struct service *service)
{
    engine_drain(service->engine);
}

uint64_t service_held_bytes(const struct service *service)
{
    return service->held.bytes;
}

/* ---- Opening and closing --------------------------------------------------------------------- */

struct service *service_open(const struct service_options *options, const struct now *now, struct failure *error)
{
    struct service *service = mem_zero(1, sizeof *service);
    const struct engine_options engine_options = {.store = options->store,
                                                  .reply = on_reply,
                                                  .alive = on_alive,
                                                  .context = service,
                                                  .unfinished_max = options->unfinished_max,
                                                  .namespace_share = options->namespace_share,
                                                  .cold_reads = &service->metrics.cold_read};

    service->options = *options;
    service->store = options->store;
    service->durable = store_durable_number(options->store);
    service->now = now;
    service->started_ms = now->wall_ms;
    held_open(&service->held);
    random_bytes(&service->instance, sizeof service->instance);
    service->engine = engine_open(&engine_options, &service->options.policy, now, error);
    if (!service->engine)
        goto failed;
    /* A frame unpacked, what is made of it, and one reply. */
    service->arena = arena_new((size_t)4 * service_message_bytes_max(service) + 8 * 1024 * 1024);
    if (!service->arena) {
        *error = (struct failure){.exit_code = 71,
                                  .message = "no address space is left: raise or remove the limit (ulimit -v)"};
        goto failed;
    }
    return service;

failed:
    service_close(service);
    return NULL;
}

void service_close(struct service *service)
{
    if (!service)
        return;
    assert(service->sessions.entries == 0);
    table_free(&service->sessions);
    held_close(&service->held);
    engine_close(service->engine);
    arena_free(service->arena);
    mem_free(service);
}
