/* Operations in memory and the lists they stand in.
 *
 * An operation is entered into the lists of its state and left out of them again at each change of state or grant; what
 * it is, is its encoded record, replaced whole at each stored change. It stays in memory until the batch that finished
 * it is in the tables; then its index entry says where the record lies, and it goes. */
#include "daemon/engine/operation.h"

#include <assert.h>
#include <xxhash.h>

#include "daemon/engine/binding.h"
#include "daemon/base/memory.h"
#include "daemon/engine/space.h"

uint32_t operation_hash(const struct engine *engine, struct bytes namespace, struct bytes name)
{
    uint64_t hash = record_namespace_hash(engine->secret, namespace);

    if (name.size)
        hash ^= XXH3_64bits_withSecret(name.data, name.size, engine->secret, RECORD_SECRET_BYTES) >> 32;
    return (uint32_t)hash;
}

static struct bytes record_of(const struct operation *operation)
{
    return bytes_of(operation->record, operation->record_bytes);
}

/* Of an encoded record: with its values, as the store has it. */
static uint64_t stored_bytes(struct bytes record)
{
    return (uint64_t)record.size + record_values_bytes(record);
}

void operation_read(const struct operation *operation, struct record *record)
{
    assert(operation->record && !operation->damaged);
    record_read(record_of(operation), record);
    assert(record->revision == operation->revision && (int)record->state == operation->state);
}

/* ---- Lists -------------------------------------------------------------------- */

LIST_FUNCTIONS(batch)

/* At the end of the list of its stage. */
static void set_stage(struct engine *engine, struct operation *operation, enum operation_stage stage)
{
    if (operation->stage != STAGE_APPLIED)
        batch_remove(&engine->stages[operation->stage], operation);
    operation->stage = (uint8_t)stage;
    if (stage != STAGE_APPLIED)
        batch_append(&engine->stages[stage], operation);
}

static bool unflushed(const struct operation *operation)
{
    return operation->stage == STAGE_OPEN || operation->stage == STAGE_FLIGHT;
}

/* ---- Grants of Recover, by attempt id ------------------------------------------- */

static struct operation *of_recovered(struct table_entry *entry)
{
    return entry ? (struct operation *)(void *)((char *)entry - offsetof(struct operation, recovered_entry)) : NULL;
}

struct operation *operation_recovered(const struct engine *engine, struct bytes namespace, struct bytes attempt_id,
                                      const struct operation *after)
{
    if (attempt_id.size == 0)
        return NULL;
    return of_recovered(after ? table_next(&after->recovered_entry)
                              : table_first(&engine->recovered, operation_hash(engine, namespace, attempt_id)));
}

static void enter_recovered(struct engine *engine, struct operation *operation, const struct record *record)
{
    operation->recovered = true;
    table_add(&engine->recovered, &operation->recovered_entry,
              operation_hash(engine, record->id.namespace, record->attempt_id));
}

static void leave_recovered(struct engine *engine, struct operation *operation)
{
    table_remove(&engine->recovered, &operation->recovered_entry);
    operation->recovered = false;
}

/* ---- Entering and leaving a state ------------------------------------------------- */

static void enter(struct engine *engine, struct operation *operation, const struct record *record)
{
    operation->state = (uint8_t)record->state;
    if (record->state == RECORD_RUNNING)
        engine->running++;
    else if (record->state == RECORD_INTERRUPTED)
        engine->interrupted++;
    else if (record->state == RECORD_DONE)
        engine->finished++;
    if (operation->damaged)
        return;
    if (record->state != RECORD_DONE)
        space_enter(engine, operation, record);
    if (record->state != RECORD_DONE && record->flags & RECORD_RECOVERED && record->attempt_id.size)
        enter_recovered(engine, operation, record);
}

static void leave(struct engine *engine, struct operation *operation)
{
    if (operation->state == RECORD_RUNNING)
        engine->running--;
    else if (operation->state == RECORD_INTERRUPTED)
        engine->interrupted--;
    else if (operation->state == RECORD_DONE)
        engine->finished--;
    if (operation->space)
        space_leave(engine, operation);
    if (operation->recovered)
        leave_recovered(engine, operation);
    deadline_clear(&engine->leases, &operation->lease);
    binding_set(engine, operation, NULL);
    operation->lease_pending = false;
    operation->state = RECORD_ABSENT;
}

/* ---- Making and freeing -------------------------------------------------------------- */

static void drop_slice(struct slice *slice)
{
    blob_release(slice->blob);
    *slice = (struct slice){0};
}

static void set_record(struct engine *engine, struct operation *operation, const uint8_t *data, uint32_t size)
{
    engine->record_bytes += size;
    engine->record_bytes -= operation->record_bytes;
    /* Views of what it was may be in use until the next change. */
    mem_free(engine->retired);
    engine->retired = operation->record;
    operation->record = NULL;
    operation->record_bytes = (uint16_t)size;
    if (size > 0) {
        operation->record = mem_alloc(size);
        memcpy(operation->record, data, size);
    }
}

static struct operation *make(struct engine *engine, uint64_t hash, uint64_t generation)
{
    struct operation *operation = mem_zero(1, sizeof *operation);

    operation->hash = hash;
    operation->generation = generation;
    index_add(engine->index, hash, operation_entry(operation));
    generations_append(&engine->generations, operation->generation, operation);
    return operation;
}

void operation_discard(struct operation *operation)
{
    mem_free(operation->record);
    drop_slice(&operation->input);
    drop_slice(&operation->value);
    mem_free(operation);
}

/* Out of what it stands in whatever its state, and gone. */
static void forget(struct engine *engine, struct operation *operation)
{
    assert(operation->waiters.count == 0);
    set_stage(engine, operation, STAGE_APPLIED);
    generations_remove(&engine->generations, operation->generation, operation);
    engine->record_bytes -= operation->record_bytes;
    operation_discard(operation);
}

void operation_free_absent(struct engine *engine, struct operation *operation)
{
    assert(operation->state == RECORD_ABSENT);
    const bool was_there = index_remove(engine->index, operation->hash, operation_entry(operation));
    assert(was_there);
    forget(engine, operation);
}

struct operation *operation_load(struct engine *engine, uint64_t generation, struct bytes data)
{
    struct record record;
    const enum record_check check = record_decode(data, &record);

    assert(check != RECORD_BAD_HEAD);
    struct operation *operation = make(engine, record.hash, generation);
    operation->damaged = check != RECORD_GOOD;
    set_record(engine, operation, data.data, data.size);
    operation->revision = operation->damaged ? 0 : record.revision;
    operation->lease_ms = operation->damaged ? 0 : record.lease_ms;
    /* Lists of what is interrupted are in order of interruption: the engine enters it when all are here. */
    operation->state = (uint8_t)record.state;
    return operation;
}

void operation_enter_loaded(struct engine *engine, struct operation *operation)
{
    struct record record = {.state = operation->state};

    if (!operation->damaged) {
        operation_read(operation, &record);
        space_store(engine, record.id.namespace, stored_bytes(record_of(operation)), 0, false);
    }
    enter(engine, operation, &record);
}

/* ---- Changing -------------------------------------------------------------------------- */

static void touch(struct engine *engine, struct operation *operation)
{
    set_stage(engine, operation, STAGE_OPEN);
    /* What is applied can be read from the store: an operation that changes all the time must not keep its first batch.
     */
    if (operation->generation <= engine->applied)
        drop_slice(&operation->input);
}

static void hold(struct slice *slice, struct slice value)
{
    if (value.blob)
        blob_hold(value.blob);
    drop_slice(slice);
    *slice = value;
}

/* Attributes and body of a finished operation go into its record where they fit, else beside it. */
static void place_outcome(struct engine *engine, const struct call *call, struct record *next,
                          struct store_change *change, uint8_t inlined[RECORD_BYTES_MAX])
{
    const struct bytes attributes = call->outcome.attributes, body = call->outcome.body_field;
    const uint64_t keep_body_ms = next->keep_ms - (next->expires_ms - next->body_expires_ms);

    next->body_expiry_key = 0;
    next->inline_values = (struct bytes){0};
    change->expiry_key = store_expiry_key(engine->store, next->expires_ms, next->keep_ms);
    if (record_has_inline_room(next, (uint64_t)attributes.size + body.size)) {
        if (attributes.size)
            memcpy(inlined, attributes.data, attributes.size);
        if (body.size)
            memcpy(inlined + attributes.size, body.data, body.size);
        next->inline_values = bytes_of(inlined, attributes.size + body.size);
        return;
    }
    if (next->digest_left_out) { /* it takes the body, which is not in the record */
        const bool is_field = record_plain_digest(next->outcome_kind, next->outcome_code, body, next->digest);
        assert(is_field);
        next->digest_left_out = false;
    }
    if (next->body_expires_ms < next->expires_ms && body.size)
        next->body_expiry_key = store_expiry_key(engine->store, next->body_expires_ms, keep_body_ms);
    change->body_expiry_key = next->body_expiry_key;
    if (attributes.size)
        change->values[BLOB_ATTRIBUTES] = attributes;
    if (body.size)
        change->values[BLOB_BODY] = body;
}

static void fill_values(const struct call *call, const struct decision *decision, struct store_change *change)
{
    static const uint8_t empty[1];

    if (decision->new_input)
        change->values[BLOB_INPUT] = call->input;
    if (decision->new_checkpoint)
        change->values[BLOB_CHECKPOINT] = call->checkpoint_data.data ? call->checkpoint_data : bytes_of(empty, 0);
}

static void keep_values(struct operation *operation, const struct decision *decision,
                        const struct slice values[BLOB_KINDS])
{
    if (decision->next.state == RECORD_DONE) {
        struct slice outcome = values[values[BLOB_ATTRIBUTES].blob ? BLOB_ATTRIBUTES : BLOB_BODY];
        outcome.size = values[BLOB_ATTRIBUTES].size + values[BLOB_BODY].size;
        drop_slice(&operation->input);
        hold(&operation->value, outcome);
        return;
    }
    if (decision->new_input)
        hold(&operation->input, values[BLOB_INPUT]);
    if (decision->new_checkpoint)
        hold(&operation->value, values[BLOB_CHECKPOINT]);
}

/* A key that was let go and granted again, with its waiters still there: a new life of the same struct. */
static void begin_generation(struct engine *engine, struct operation *operation, uint64_t generation)
{
    if (operation->generation == generation)
        return;
    assert(operation->state == RECORD_ABSENT);
    generations_remove(&engine->generations, operation->generation, operation);
    operation->generation = generation;
    operation->replays = 0;
    generations_append(&engine->generations, operation->generation, operation);
}

static struct operation *change_put(struct engine *engine, struct lookup *found, const struct call *call,
                                    struct decision *decision)
{
    struct record *next = &decision->next;
    struct operation *operation = found->operation;
    struct store_change change = {.number = next->revision, .generation = next->generation};
    struct slice values[BLOB_KINDS] = {{0}};
    uint8_t encoded[RECORD_BYTES_MAX], inlined[RECORD_BYTES_MAX];

    assert(!found->expiry_key); /* what is in the store is done, and done is never put again */
    next->hash = operation ? operation->hash : call->hash;
    change.kind = next->state == RECORD_DONE ? STORE_FINISH : STORE_PUT_UNFINISHED;
    if (next->state == RECORD_DONE)
        place_outcome(engine, call, next, &change, inlined);
    fill_values(call, decision, &change);
    change.record = bytes_of(encoded, record_encode(next, encoded));
    if (operation && operation->record && operation->generation == next->generation)
        change.base = record_of(operation);
    store_append(engine->store, &change, values);

    if (!operation)
        operation = make(engine, next->hash, next->generation);
    begin_generation(engine, operation, next->generation);
    space_store(engine, next->id.namespace, stored_bytes(change.record),
                operation->state == RECORD_ABSENT ? 0 : stored_bytes(record_of(operation)), next->state == RECORD_DONE);
    if (operation->state != (int)next->state || decision->granted) {
        if (operation->state != RECORD_ABSENT)
            leave(engine, operation);
        enter(engine, operation, next);
    }
    keep_values(operation, decision, values);
    set_record(engine, operation, encoded, change.record.size);
    next->inline_values.data = operation->record + operation->record_bytes - next->inline_values.size;
    operation->revision = next->revision;
    operation->lease_ms = next->lease_ms;
    operation->expiry_key = change.expiry_key;
    touch(engine, operation);
    return operation;
}

static void remove_stored(struct engine *engine, const struct lookup *found)
{
    const struct operation *operation = found->operation;
    const bool finished = !operation || operation->state == RECORD_DONE;
    const struct store_change change = {
        .kind = finished ? STORE_REMOVE_FINISHED : STORE_REMOVE_UNFINISHED,
        .number = store_next_number(engine->store),
        .generation = found->record.generation,
        .expiry_key = operation ? operation->expiry_key : found->expiry_key,
        .body_expiry_key = found->record.body_expiry_key,
    };

    store_append(engine->store, &change, NULL);
}

static void unstore(struct engine *engine, struct bytes namespace, uint64_t bytes, bool finished)
{
    space_unstore(engine, record_namespace_hash(engine->secret, namespace), bytes, finished);
}

static struct operation *change_remove(struct engine *engine, struct lookup *found)
{
    struct operation *operation = found->operation;

    remove_stored(engine, found);
    if (!operation) {
        const bool was_there = index_remove(engine->index, found->record.hash, found->expiry_key);
        assert(was_there);
        engine->finished--;
        unstore(engine, found->record.id.namespace, found->stored_bytes, true);
        return NULL;
    }
    const bool was_done = operation->state == RECORD_DONE;
    leave(engine, operation);
    unstore(engine, found->record.id.namespace, stored_bytes(record_of(operation)), was_done);
    set_record(engine, operation, NULL, 0);
    drop_slice(&operation->input);
    drop_slice(&operation->value);
    return operation;
}

struct operation *operation_change(struct engine *engine, struct lookup *found, const struct call *call,
                                   struct decision *decision)
{
    assert(decision->change != CHANGE_NONE);
    engine->changes++;
    return decision->change == CHANGE_PUT ? change_put(engine, found, call, decision) : change_remove(engine, found);
}

void operation_remove_damaged(struct engine *engine, struct lookup *found, const struct call *call)
{
    struct operation *operation = found->operation;

    assert(found->damaged);
    remove_stored(engine, found);
    if (operation) {
        leave(engine, operation);
        operation_free_absent(engine, operation);
    } else {
        const bool was_there = index_remove(engine->index, call->hash, found->expiry_key);
        assert(was_there);
        engine->finished--;
        unstore(engine, call->id.namespace, found->stored_bytes, true);
    }
}

/* ---- Leases -------------------------------------------------------------------------------- */

static void lease_extend(struct engine *engine, struct operation *operation, uint64_t at_ms)
{
    if (!deadline_is_set(&operation->lease) || operation->lease.at_ms < at_ms)
        deadline_set(&engine->leases, &operation->lease, at_ms);
}

void operation_lease_anew(struct engine *engine, struct operation *operation, uint32_t lease_ms, const struct now *now)
{
    assert(operation->state == RECORD_RUNNING);
    operation->lease_pending = unflushed(operation);
    /* A lease that runs already must not end while its renewal is being flushed. */
    if (deadline_is_set(&operation->lease) || !operation->lease_pending)
        lease_extend(engine, operation, operation_lease_time(engine, now) + lease_ms);
}

uint32_t operation_lease_left_ms(const struct engine *engine, const struct operation *operation, uint32_t lease_ms,
                                 const struct now *now)
{
    const uint64_t lease_time = operation_lease_time(engine, now);

    if (!deadline_is_set(&operation->lease))
        return operation->state == RECORD_RUNNING ? lease_ms : 0;
    const uint64_t end_ms = binding_lease_end_ms(operation);
    return end_ms > lease_time ? (uint32_t)(end_ms - lease_time) : 0;
}

/* ---- Batches ---------------------------------------------------------------------------------- */

void operation_batch_submitted(struct engine *engine)
{
    struct operation_list *flight = &engine->stages[STAGE_FLIGHT], *open = &engine->stages[STAGE_OPEN];

    assert(!flight->first);
    *flight = *open;
    *open = (struct operation_list){0};
    for (struct operation *operation = flight->first; operation; operation = operation->batch.next)
        operation->stage = STAGE_FLIGHT;
}

static void start_lease(struct engine *engine, struct operation *operation, const struct now *now)
{
    operation->lease_pending = false;
    lease_extend(engine, operation, operation_lease_time(engine, now) + operation->lease_ms);
}

static uint64_t *replays_slot(struct engine *engine, uint64_t expiry_key, bool take)
{
    const uint64_t slot = expiry_key * 0x9e3779b97f4a7c15u >> 52;

    _Static_assert(REPLAYS_KEPT == 1 << 12, "the slot is the product's twelve highest bits");
    if (engine->replays[slot].expiry_key != expiry_key) {
        if (!take)
            return NULL;
        engine->replays[slot].expiry_key = expiry_key;
        engine->replays[slot].replays = 0;
    }
    return &engine->replays[slot].replays;
}

/* Its record can be read from the store: the index says where, and the operation goes. */
static void hand_over(struct engine *engine, struct operation *operation)
{
    const bool was_there =
        index_replace(engine->index, operation->hash, operation_entry(operation), operation->expiry_key);

    assert(was_there);
    if (operation->replays)
        *replays_slot(engine, operation->expiry_key, true) = operation->replays;
    forget(engine, operation);
}

void operation_batch_durable(struct engine *engine, const struct now *now)
{
    struct operation *operation;

    while ((operation = engine->stages[STAGE_FLIGHT].first)) {
        set_stage(engine, operation, STAGE_BACKLOG);
        if (operation->state == RECORD_RUNNING && operation->lease_pending)
            start_lease(engine, operation, now);
    }
}

bool operation_evict(struct engine *engine, uint32_t most)
{
    struct operation *operation;

    for (uint32_t i = 0; i < most; i++) {
        operation = engine->stages[STAGE_BACKLOG].first;
        if (!operation || operation->revision > engine->applied)
            return false;
        if (operation->batch.next)
            index_prefetch(engine->index, operation->batch.next->hash);
        set_stage(engine, operation, STAGE_APPLIED);
        drop_slice(&operation->input);
        drop_slice(&operation->value);
        if (operation->state == RECORD_DONE)
            hand_over(engine, operation);
    }
    return true;
}

uint64_t operation_count_replay(struct engine *engine, const struct lookup *found)
{
    return found->operation ? ++found->operation->replays : ++*replays_slot(engine, found->expiry_key, true);
}

uint64_t operation_replays(struct engine *engine, const struct lookup *found)
{
    const uint64_t *replays;

    if (found->operation)
        return found->operation->replays;
    replays = replays_slot(engine, found->expiry_key, false);
    return replays ? *replays : 0;
}

/* ---- Checking -------------------------------------------------------------------------------------- */

void operation_check(const struct engine *engine, const struct operation *operation)
{
    struct record record;

    assert(operation->state != RECORD_ABSENT);
    assert(operation->generation <= operation->revision || operation->damaged);
    assert(!operation->sheaf || operation->state == RECORD_RUNNING);
    binding_check(operation);
    if (operation->damaged)
        return;
    operation_read(operation, &record);
    assert(record.generation == operation->generation && record.hash == operation->hash);
    assert((operation->space != NULL) == (record.state != RECORD_DONE));
    if (operation->space)
        space_check(operation);
    assert(!deadline_is_set(&operation->lease) || record.state == RECORD_RUNNING);
    /* A running operation has a lease, or gets it when its batch is flushed. */
    assert(record.state != RECORD_RUNNING || deadline_is_set(&operation->lease) ||
           (operation->lease_pending && unflushed(operation)));
    assert(record.state != RECORD_DONE || (operation->stage != STAGE_APPLIED && operation->waiters.count == 0));
    /* What is handed over goes from the front of the tail. */
    assert(operation->stage != STAGE_BACKLOG || !operation->batch.next ||
           operation->revision < operation->batch.next->revision || operation->batch.next->state == RECORD_ABSENT);
    (void)engine;
}
