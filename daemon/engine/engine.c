/* The engine's own life: loading, turning, parties, closing. One call's way is decide.c, calls about many operations
 * are listing.c, what is in memory is operation.c. */
#include "daemon/engine/engine.h"

#include <assert.h>
#include <stdlib.h>

#include "daemon/engine/binding.h"
#include "daemon/engine/decide.h"
#include "daemon/base/memory.h"
#include "daemon/base/number.h"
#include "daemon/engine/space.h"
#include "proto/limits.h"

enum {
    HEARTBEAT_MS = 1000, /* while leases run the loop turns at least so often, so that a stall is noticed */
    /* The rest ends in the next turns: late is allowed, and a turn stays short. */
    LEASE_ENDS_A_TURN = 512,
    WAIT_ENDS_A_TURN = 512,
    /* A million leases that end together are as many changes, far more than the tables take in that time. Nobody waits
     * for most of them, so while the tail is large they leave the log to calls: that many end now and then. */
    BACKLOG_BYTES_CALM = 4 * 1024 * 1024,
    LEASE_ENDS_EVERY_MS = 20,
    LOOKS_A_TURN = 4096, /* operations that all Lists of a turn may look at */
    /* Of what was applied, and of what was swept, a turn takes over so much, and so much for each change that was made
     * since the last: no change adds more than one operation, so this keeps up, and a short turn stays short. */
    EVICTIONS_A_TURN = 64,
    EVICTIONS_A_CHANGE = 2,
    SWEPT_A_TURN = 256,
    SWEPT_A_CHANGE = 4,
    SWEPT_AHEAD = 8,      /* whose places in the index are fetched while others are taken */
    TOUCH_MS = 60 * 1000, /* the retention clock is stored at least so often while there are calls */
};

/* ---- Opening ---------------------------------------------------------------------- */

static void load_unfinished(void *context, uint64_t generation, struct bytes record)
{
    operation_load(context, generation, record);
}

/* What was loaded last is not in the index yet: by the time it gets there, its place in memory is at hand. */
static void load_late(struct engine *engine, uint64_t hash, uint64_t expiry_key)
{
    struct late *late = &engine->late[engine->finished % LATE];

    if (late->expiry_key)
        index_add(engine->index, late->hash, late->expiry_key);
    *late = (struct late){hash, expiry_key};
    index_prefetch(engine->index, hash);
}

static void load_finished(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes)
{
    struct engine *engine = context;

    space_store(engine, head->id.namespace, (uint64_t)record_bytes + head->values_bytes, 0, true);
    load_late(engine, head->hash, expiry_key);
    engine->finished++;
    if (engine->largest_bytes < head->values_bytes)
        engine->largest_bytes = head->values_bytes;
}

static int by_revision(const void *a, const void *b)
{
    const struct operation *const *x = a, *const *y = b;

    return ((*x)->revision > (*y)->revision) - ((*x)->revision < (*y)->revision);
}

/* A running lease has its last acknowledged length again, from now. One that was bound is bound to `before`. */
static void load_lease(struct engine *engine, struct operation *operation, struct party *before, const struct now *now)
{
    struct record record;

    if (operation->damaged || operation->state != RECORD_RUNNING)
        return;
    operation_read(operation, &record);
    operation_lease_anew(engine, operation, record.lease_ms, now);
    if (record.flags & RECORD_BOUND)
        binding_set(engine, operation, before);
}

static void enter_loaded(struct engine *engine, const struct now *now)
{
    const uint32_t count = engine->generations.count;
    struct operation **sorted = mem_alloc(count * sizeof *sorted);
    struct party before = {0}; /* all connections of the time before */

    for (uint32_t i = 0; i < count; i++)
        sorted[i] = engine->generations.at[i].operation;
    if (count > 0)
        qsort(sorted, count, sizeof *sorted, by_revision);
    for (uint32_t i = 0; i < count; i++) {
        operation_enter_loaded(engine, sorted[i]);
        load_lease(engine, sorted[i], &before, now);
    }
    binding_orphan(engine, &before, now);
    mem_free(sorted);
}

struct engine *engine_open(const struct engine_options *options, const struct policy *policy, const struct now *now,
                           struct failure *error)
{
    struct engine *engine = mem_zero(1, sizeof *engine);
    const struct store_visitor visitor = {load_unfinished, load_finished, engine};

    engine->options = *options;
    engine->policy = policy;
    engine->store = options->store;
    engine->applied = store_durable_number(options->store);
    engine->committed_ms = now->boot_ms;
    engine->looks = LOOKS_A_TURN;
    engine->index = index_new();
    memcpy(engine->secret, store_facts(options->store)->secret, sizeof engine->secret);
    index_reserve(engine->index, store_records(options->store));
    if (!store_load(options->store, &visitor, error)) {
        engine_close(engine);
        return NULL;
    }
    for (uint32_t i = 0; i < LATE; i++)
        if (engine->late[i].expiry_key)
            index_add(engine->index, engine->late[i].hash, engine->late[i].expiry_key);
    enter_loaded(engine, now);
    return engine;
}

/* All that wait have a deadline. NULL: nobody does. */
static struct parked *some_parked(const struct engine *engine)
{
    return (struct parked *)(void *)deadlines_first(&engine->waits);
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    for (struct parked *parked; (parked = some_parked(engine));)
        decide_unpark(engine, parked);
    for (uint32_t i = generations_find(&engine->generations, 0); i < engine->generations.count;
         i = generations_next(&engine->generations, i)) {
        struct operation *operation = engine->generations.at[i].operation;
        if (!operation)
            continue;
        binding_set(engine, operation, NULL);
        if (operation->space)
            space_leave(engine, operation);
        operation_discard(operation);
    }
    assert(engine->gone.entries == 0 && engine->taken.entries == 0);
    table_free(&engine->gone);
    table_free(&engine->taken);
    deadlines_free(&engine->graces);
    space_free_all(engine);
    table_free(&engine->recovered);
    mem_free(engine->retired);
    blob_release(engine->scratch);
    generations_free(&engine->generations);
    deadlines_free(&engine->leases);
    deadlines_free(&engine->waits);
    index_free(engine->index);
    mem_free(engine);
}

/* ---- Calls ---------------------------------------------------------------------------- */

static void cancel(struct engine *engine, const struct asker *asker)
{
    struct reply reply = {.call = CALL_CANCEL};
    struct parked *parked = asker->party->parked;

    while (parked && parked->request != asker->call->cancel_id)
        parked = parked->party_next;
    if (parked) {
        const struct asker cancelled = {.party = parked->party, .request = parked->request, .call = &parked->call};
        decide_refuse(engine, &cancelled, CODE_CANCELLED, "CANCELLED", NULL, "cancelled by its own connection");
        decide_unpark(engine, parked);
        reply.cancelled = true;
    }
    decide_reply(engine, asker, &reply);
}

void engine_prefetch(struct engine *engine, struct call *const calls[], unsigned count)
{
    uint64_t hashes[PREFETCH_MAX];

    assert(count <= PREFETCH_MAX);
    for (unsigned i = 0; i < count; i++)
        hashes[i] = calls[i]->hash = record_hash(engine->secret, &calls[i]->id);
    operation_prefetch(engine, hashes, count);
}

void engine_call(struct engine *engine, struct party *party, uint64_t request, struct call *call, uint64_t deadline_ms,
                 const struct now *now)
{
    const struct asker asker = {.party = party, .request = request, .call = call, .deadline_ms = deadline_ms};

    engine->called = true;
    if (now->boot_ms >= deadline_ms) {
        decide_refuse(engine, &asker, CODE_DEADLINE_EXCEEDED, "TIMEOUT", "timeout_ms",
                      "timeout_ms passed before the call was decided; it had no effect");
        return;
    }
    switch (call->type) {
    case CALL_RECOVER:
        listing_recover(engine, &asker, now);
        break;
    case CALL_LIST:
        listing_list(engine, &asker, now);
        break;
    case CALL_CANCEL:
        cancel(engine, &asker);
        break;
    default:
        if (call->hash == 0)
            call->hash = record_hash(engine->secret, &call->id);
        decide_call(engine, &asker, now);
    }
}

/* ---- Parties ------------------------------------------------------------------------------ */

void engine_party_close(struct engine *engine, struct party *party, const struct now *now)
{
    while (party->parked)
        decide_unpark(engine, party->parked);
    binding_orphan(engine, party, now);
    assert(party->parked_count == 0);
}

void engine_party_replace(struct engine *engine, struct party *old, struct party *party, const struct now *now)
{
    binding_replace(engine, old, party, now);
    engine_party_close(engine, old, now);
}

void engine_party_adopt(struct engine *engine, uint64_t id, struct party *party, const struct now *now)
{
    binding_adopt(engine, id, party, now);
}

void engine_drain(struct engine *engine)
{
    for (struct parked *parked; (parked = some_parked(engine));) {
        const struct asker asker = decide_asker(parked);

        decide_refuse(engine, &asker, CODE_UNAVAILABLE, "DRAINING", NULL,
                      "the daemon is shutting down; ask again when it is back");
        decide_unpark(engine, parked);
    }
}

/* ---- Turning -------------------------------------------------------------------------------- */

void engine_stalled(struct engine *engine, uint64_t stalled_ms)
{
    engine->stalled_ms += stalled_ms;
}

/* Milliseconds are cut off: a clock that shows at_ms may be a part of one short of what was asked for. It is over when
 * the clock shows more. */
static bool is_over(const struct deadline *deadline, uint64_t time_ms)
{
    return deadline && deadline->at_ms < time_ms;
}

/* A lease whose holder's grace is over. One that was not even flushed in that time is not bound any more. */
static void end_grace(struct engine *engine, struct operation *operation, const struct now *now)
{
    if (deadline_is_set(&operation->lease))
        decide_lease_end(engine, operation, now);
    else
        binding_set(engine, operation, NULL);
}

static void end_leases(struct engine *engine, const struct now *now, uint64_t seen_ms)
{
    const uint64_t lease_time = seen_ms - engine->stalled_ms;
    struct operation *operation;

    if (store_backlog_bytes(engine->store) > BACKLOG_BYTES_CALM) {
        if (now->boot_ms < engine->lease_ends_ms)
            return;
        engine->lease_ends_ms = now->boot_ms + LEASE_ENDS_EVERY_MS;
    }
    for (int i = 0; i < LEASE_ENDS_A_TURN; i++) {
        struct deadline *first = deadlines_first(&engine->leases);

        if (!is_over(first, lease_time)) {
            if (!(operation = binding_grace_over(engine, lease_time)))
                return;
            end_grace(engine, operation, now);
        } else if (!binding_has_time(engine, (struct operation *)(void *)first)) {
            decide_lease_end(engine, (struct operation *)(void *)first, now);
        }
    }
}

static void end_waits(struct engine *engine, const struct now *now)
{
    struct deadline *first;

    for (int i = 0; i < WAIT_ENDS_A_TURN && is_over(first = deadlines_first(&engine->waits), now->boot_ms); i++)
        decide_wait_end(engine, (struct parked *)(void *)first, now);
}

/* Takes what is no more from the index, at most so much. */
static void take_swept(struct engine *engine, uint32_t most)
{
    for (uint32_t i = 0; i < most && engine->swept_count > 0; i++) {
        if (engine->swept_count > SWEPT_AHEAD)
            index_prefetch(engine->index, engine->swept[SWEPT_AHEAD].hash);
        if (index_remove(engine->index, engine->swept->hash, engine->swept->expiry_key)) {
            engine->finished--;
            space_unstore(engine, engine->swept->namespace_hash, engine->swept->bytes, true);
        }
        engine->swept++;
        engine->swept_count--;
    }
}

/* What was applied is taken over in parts, so that no turn is long. False: all of it is. */
static bool take_applied(struct engine *engine)
{
    const uint32_t changes = engine->changes;

    engine->changes = 0;
    /* A record is in the index before its sweeping takes it from there. */
    if (operation_evict(engine, EVICTIONS_A_TURN + changes * EVICTIONS_A_CHANGE))
        return true;
    take_swept(engine, SWEPT_A_TURN + changes * SWEPT_A_CHANGE);
    return engine->swept_count > 0;
}

/* Lets the store apply, and sweep what may go; returns when (boot time) there may be something to do. */
static uint64_t apply(struct engine *engine, const struct now *now)
{
    uint64_t sweep_s = 0, next_ms = UINT64_MAX;

    if (take_applied(engine))
        return now->boot_ms;
    if (store_applying(engine->store))
        return UINT64_MAX; /* what comes of it wakes the loop */
    const uint64_t first = store_first_expiry_key(engine->store);
    const uint64_t due_ms = expiry_key_seconds(first) * 1000;
    if (first && due_ms <= now->retention_ms)
        sweep_s = now->retention_ms / 1000;
    else if (first)
        next_ms = now->boot_ms + (due_ms - now->retention_ms);
    return number_min(next_ms, store_apply(engine->store, sweep_s, now->boot_ms));
}

static void submit(struct engine *engine, const struct now *now, const struct clock_mark *mark)
{
    if (engine->called && now->boot_ms - engine->committed_ms >= TOUCH_MS && !store_pending(engine->store))
        store_touch(engine->store);
    if (!store_pending(engine->store) || !store_ready(engine->store))
        return;
    store_submit(engine->store, mark);
    operation_batch_submitted(engine);
    engine->committed_ms = now->boot_ms;
    engine->called = false;
}

/* What was read of the store is good no longer. */
static void end_reading(struct engine *engine)
{
    store_end_turn(engine->store);
    engine->prefetched_count = 0;
}

/* When (lease time) a lease or a grace ends; UINT64_MAX: none runs. */
static uint64_t first_end_ms(const struct engine *engine)
{
    const struct deadline *lease = deadlines_first(&engine->leases), *grace = deadlines_first(&engine->graces);

    return number_min(lease ? lease->at_ms : UINT64_MAX, grace ? grace->at_ms : UINT64_MAX);
}

static uint64_t next_lease_ms(const struct engine *engine, const struct now *now, uint64_t seen_ms)
{
    const uint64_t end_ms = first_end_ms(engine);

    if (end_ms == UINT64_MAX)
        return UINT64_MAX;
    if (end_ms < seen_ms - engine->stalled_ms) /* more have ended than end in one turn */
        return store_backlog_bytes(engine->store) > BACKLOG_BYTES_CALM ? number_max(engine->lease_ends_ms, now->boot_ms)
                                                                       : now->boot_ms;
    /* One that is over, and may have been renewed by what is not read yet, is looked at soon. */
    return number_min(number_max(end_ms + engine->stalled_ms, now->boot_ms) + 1, now->boot_ms + HEARTBEAT_MS);
}

static uint64_t next_wait_ms(const struct engine *engine)
{
    const struct deadline *wait = deadlines_first(&engine->waits);

    return wait ? wait->at_ms + 1 : UINT64_MAX;
}

uint64_t engine_turn(struct engine *engine, const struct now *now, uint64_t seen_ms, const struct clock_mark *mark)
{
    uint64_t next_ms;

    engine->looks = LOOKS_A_TURN;
    end_leases(engine, now, seen_ms);
    end_waits(engine, now);
    submit(engine, now, mark);
    next_ms = apply(engine, now);
    end_reading(engine);
    return number_min(next_ms, number_min(next_lease_ms(engine, now, seen_ms), next_wait_ms(engine)));
}

void engine_stored(struct engine *engine, const struct store_event *event, const struct now *now)
{
    assert(!event->failed && event->applied >= engine->applied);
    /* What is read from now on has to show what the index will say. */
    end_reading(engine);
    engine->applied = event->applied;
    if (!store_busy(engine->store))
        operation_batch_durable(engine, now);
    if (event->swept_count > 0) {
        assert(engine->swept_count == 0); /* nothing is applied before it is taken over */
        engine->swept = event->swept;
        engine->swept_count = event->swept_count;
    }
}

uint32_t engine_largest_bytes(const struct engine *engine)
{
    return engine->largest_bytes;
}

struct engine_counts engine_counts(const struct engine *engine)
{
    return (struct engine_counts){
        .running = engine->running,
        .interrupted = engine->interrupted,
        .finished = engine->finished,
        .stored_bytes = engine->stored_bytes,
        .waiting = engine->waiting,
        .waiting_bytes = engine->waiting_bytes,
        .memory_bytes =
            engine->record_bytes + engine->space_bytes + table_memory_bytes(&engine->spaces) +
            table_memory_bytes(&engine->recovered) + engine->generations.capacity * sizeof(struct generation) +
            generations_operations(&engine->generations) * sizeof(struct operation) + index_memory_bytes(engine->index),
    };
}

struct engine_counts engine_counts_of(const struct engine *engine, struct bytes namespace)
{
    const struct space *space = space_find(engine, namespace, (struct bytes){0});

    if (!space)
        return (struct engine_counts){0};
    return (struct engine_counts){.running = space->running_count,
                                  .interrupted = space->interrupted_count,
                                  .finished = space->finished,
                                  .stored_bytes = space->stored_bytes,
                                  .waiting = space->waiting};
}

void engine_check(const struct engine *engine)
{
    uint64_t running = 0, interrupted = 0, waiting = 0;

    index_check(engine->index);
    table_check(&engine->gone);
    table_check(&engine->taken);
    table_check(&engine->spaces);
    table_check(&engine->recovered);
    for (uint32_t i = 0; i < engine->waits.count; i++)
        waiting += ((const struct parked *)(const void *)engine->waits.heap[i])->operation == NULL;
    generations_check(&engine->generations);
    for (uint32_t i = generations_find(&engine->generations, 0); i < engine->generations.count;
         i = generations_next(&engine->generations, i)) {
        const struct operation *operation = engine->generations.at[i].operation;
        if (!operation)
            continue;
        assert(operation->generation == engine->generations.at[i].generation);
        operation_check(engine, operation);
        running += operation->state == RECORD_RUNNING;
        interrupted += operation->state == RECORD_INTERRUPTED;
        waiting += operation->waiters.count;
    }
    assert(running == engine->running && interrupted == engine->interrupted && waiting == engine->waiting &&
           engine->waits.count == engine->waiting);
}
