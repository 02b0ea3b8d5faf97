/* apply() against a model so naive that it is obviously right: each change, whole as it was appended, one after the
 * other, on plain lists. */
#include "daemon/store/apply.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "tests/unit/folder.h"

enum { ENTRIES_MAX = 4096, BATCHES_MAX = 64, VALUE_BYTES_MAX = 20000, LIVES_MAX = 40, CHANGES_MAX = 20000 };
#ifdef __SANITIZE_ADDRESS__
enum { ROUNDS = 25 };
#else
enum { ROUNDS = 100 };
#endif

/* ---- The model ---------------------------------------------------------------------------- */

/* A record (kind 0) or a value of a life or place. */
struct entry {
    uint64_t key;
    unsigned kind;
    uint8_t *data;
    uint32_t size;
};

struct model {
    struct entry entries[ENTRIES_MAX];
    uint32_t count;
};

static void model_remove(struct model *model, uint64_t key, unsigned from_kind, unsigned to_kind)
{
    for (uint32_t i = 0; i < model->count;) {
        struct entry *entry = &model->entries[i];
        if (entry->key == key && entry->kind >= from_kind && entry->kind <= to_kind) {
            mem_free(entry->data);
            *entry = model->entries[--model->count];
        } else {
            i++;
        }
    }
}

static void model_put(struct model *model, uint64_t key, unsigned kind, struct bytes bytes)
{
    model_remove(model, key, kind, kind);
    assert_true(model->count < ENTRIES_MAX);
    struct entry *entry = &model->entries[model->count++];
    *entry = (struct entry){key, kind, mem_alloc(bytes.size), bytes.size};
    if (bytes.size)
        memcpy(entry->data, bytes.data, bytes.size);
}

static void model_change(struct model *model, const struct store_change *change)
{
    switch (change->kind) {
    case STORE_PUT_UNFINISHED:
        model_put(model, change->generation, 0, change->record);
        for (unsigned kind = 1; kind < BLOB_KINDS; kind++)
            if (change->values[kind].data)
                model_put(model, change->generation, kind, change->values[kind]);
        break;
    case STORE_FINISH:
        model_remove(model, change->generation, 0, BLOB_KINDS);
        model_put(model, change->expiry_key, 0, change->record);
        for (unsigned kind = 1; kind < BLOB_KINDS; kind++)
            if (change->values[kind].data)
                model_put(model,
                          kind == BLOB_BODY && change->body_expiry_key ? change->body_expiry_key : change->expiry_key,
                          kind, change->values[kind]);
        break;
    case STORE_REMOVE_UNFINISHED:
        model_remove(model, change->generation, 0, BLOB_KINDS);
        break;
    case STORE_REMOVE_FINISHED:
        model_remove(model, change->expiry_key, 0, BLOB_KINDS);
        if (change->body_expiry_key)
            model_remove(model, change->body_expiry_key, 0, BLOB_KINDS);
        break;
    case STORE_TOUCH:
        break;
    }
}

/* What may go at this time. Returns how many records, each of which was said to be swept. */
static uint32_t model_sweep(struct model *model, uint64_t sweep_s, const uint8_t *secret,
                            const struct store_swept *swept, uint32_t count)
{
    uint32_t records = 0;

    for (uint32_t i = 0; i < model->count;) {
        const struct entry *entry = &model->entries[i];
        bool said = entry->kind != 0;
        if (entry->key < TABLES_FIRST_EXPIRY_KEY || expiry_key_seconds(entry->key) > sweep_s) {
            i++;
            continue;
        }
        for (uint32_t at = 0; at < count && !said; at++) {
            struct record record;
            assert_int_equal(record_decode(bytes_of(entry->data, entry->size), &record), RECORD_GOOD);
            said = swept[at].expiry_key == entry->key && swept[at].hash == record.hash &&
                   swept[at].namespace_hash == record_namespace_hash(secret, record.id.namespace) &&
                   swept[at].bytes == (uint64_t)entry->size + record.values_bytes;
        }
        assert_true(said);
        records += entry->kind == 0;
        model_remove(model, entry->key, entry->kind, entry->kind);
    }
    return records;
}

/* ---- The world ------------------------------------------------------------------------------- */

/* An operation that the test keeps, as the engine would. */
struct operation {
    uint64_t generation, expiry_key, body_expiry_key;
    bool finished;
    struct record record;
    uint8_t owner[64], name[64];
    uint8_t encoded[RECORD_BYTES_MAX]; /* as it was appended last */
    uint32_t encoded_bytes;
};

struct world {
    char folder[TEST_FOLDER_BYTES];
    struct tables tables;
    struct tables_state state;
    uint8_t secret[RECORD_SECRET_BYTES];
    struct model model;
    uint64_t seed, next, expiry_keys;
    struct operation operations[LIVES_MAX];
    uint32_t count;
    struct batch batches[BATCHES_MAX]; /* sealed, not applied; the last is open */
    uint32_t batch_count;
    struct store_change changes[CHANGES_MAX]; /* what is in the batches, in memory of its own */
    uint32_t change_count;
    uint8_t noise[VALUE_BYTES_MAX * 2];
    struct store_swept swept[APPLY_SWEPT_MAX];
    uint32_t swept_count;
};

static uint64_t random_below(struct world *world, uint64_t end)
{
    world->seed ^= world->seed >> 12;
    world->seed ^= world->seed << 25;
    world->seed ^= world->seed >> 27;
    return (world->seed * 2685821657736338717ull >> 16) % end;
}

static void clear_folder(struct world *world)
{
    char path[128];

    snprintf(path, sizeof path, "%s/data.mdb", world->folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock.mdb", world->folder);
    unlink(path);
}

static struct bytes copy_of(struct bytes bytes)
{
    uint8_t *copy = bytes.data ? mem_alloc(bytes.size) : NULL;

    if (bytes.size)
        memcpy(copy, bytes.data, bytes.size);
    return bytes_of(copy, bytes.size);
}

/* The first changes are no more wanted. */
static void drop_changes(struct world *world, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        mem_free((void *)(uintptr_t)world->changes[i].record.data);
        for (int kind = 1; kind < BLOB_KINDS; kind++)
            mem_free((void *)(uintptr_t)world->changes[i].values[kind].data);
    }
    world->change_count -= count;
    memmove(world->changes, world->changes + count, world->change_count * sizeof *world->changes);
}

/* An empty store. */
static void begin(struct world *world, uint64_t seed)
{
    struct failure error;
    struct store_facts facts = {.store_id = 5};

    for (uint32_t i = 0; i < world->model.count; i++)
        mem_free(world->model.entries[i].data);
    drop_changes(world, world->change_count);
    world->model.count = world->count = world->batch_count = 0;
    tables_close(&world->tables);
    clear_folder(world);
    world->seed = seed * 2 + 1;
    world->next = UINT64_C(1700000000) << 20;
    world->expiry_keys = 0;
    for (size_t i = 0; i < sizeof world->noise; i++)
        world->noise[i] = (uint8_t)random_below(world, 256);
    world->state = (struct tables_state){.next_number = world->next, .wal_slots = 3};
    if (!tables_open(&world->tables, world->folder, 256 << 20, false, &error) ||
        !tables_create(&world->tables, &facts, &world->state, &error) ||
        !tables_read_facts(&world->tables, &facts, &world->state, &error))
        fail_msg("%s", error.message);
}

static int set_up(void **state)
{
    struct world *world = mem_zero(1, sizeof *world);

    test_folder(world->folder);
    begin(world, 1);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;

    begin(world, 1);
    tables_close(&world->tables);
    mem_free(world);
    return 0;
}

/* ---- Changes --------------------------------------------------------------------------------- */

static void append(struct world *world, struct store_change *change)
{
    if (world->batch_count == 0)
        batch_start(&world->batches[world->batch_count++], world->next, NULL);
    change->number = world->next++;
    batch_append(&world->batches[world->batch_count - 1], change, NULL);
    assert_true(world->change_count < CHANGES_MAX);
    struct store_change *kept = &world->changes[world->change_count++];
    *kept = *change;
    kept->record = copy_of(change->record);
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        kept->values[kind] = copy_of(change->values[kind]);
}

/* The operation's record as it is now, on the one that it had. */
static void append_record(struct world *world, struct operation *operation, struct store_change *change)
{
    uint8_t encoded[RECORD_BYTES_MAX];

    change->record = bytes_of(encoded, record_encode(&operation->record, encoded));
    if (operation->encoded_bytes && random_below(world, 16)) /* it need not say so */
        change->base = bytes_of(operation->encoded, operation->encoded_bytes);
    append(world, change);
    memcpy(operation->encoded, encoded, change->record.size);
    operation->encoded_bytes = change->record.size;
}

/* The open batch is over, if anything is in it. */
static void cut_batch(struct world *world)
{
    const struct clock_mark mark = {.retention_ms = world->next, .wall_ms = 7, .boot_ms = 8, .boot_id = "boot"};

    if (world->batch_count == 0 || world->batch_count == BATCHES_MAX)
        return;
    struct batch *batch = &world->batches[world->batch_count - 1];
    if (batch->next == batch->first)
        return;
    batch_seal(batch, &mark);
    batch_sign(batch->bytes->data, 1, 0, world->secret);
    batch_start(&world->batches[world->batch_count++], world->next, NULL);
}

static struct bytes noise(struct world *world, uint32_t size)
{
    return bytes_of(world->noise + random_below(world, sizeof world->noise - size), size);
}

static uint32_t some_size(struct world *world)
{
    static const uint32_t edges[] = {0, 1, 4071, 4072, 4073, 8144, 8145, VALUE_BYTES_MAX};

    return random_below(world, 2) ? edges[random_below(world, sizeof edges / sizeof edges[0])]
                                  : (uint32_t)random_below(world, VALUE_BYTES_MAX);
}

static uint64_t new_expiry_key(struct world *world, uint64_t seconds)
{
    return seconds << 30 | world->expiry_keys++;
}

static struct bytes some_text(struct world *world, uint8_t text[64])
{
    const uint32_t size = (uint32_t)random_below(world, 65);

    memcpy(text, noise(world, size).data, size);
    return bytes_of(text, size);
}

static void put(struct world *world, struct operation *operation, bool input, bool checkpoint)
{
    struct store_change change = {.kind = STORE_PUT_UNFINISHED, .generation = operation->generation};
    struct record *record = &operation->record;

    if (input) {
        change.values[BLOB_INPUT] = noise(world, some_size(world));
        record->input_bytes = change.values[BLOB_INPUT].size;
    }
    if (checkpoint) {
        change.values[BLOB_CHECKPOINT] = noise(world, some_size(world));
        record->checkpoint_bytes = change.values[BLOB_CHECKPOINT].size;
    }
    record->revision = world->next;
    /* What a record begins with changes now and then: all that is behind it is its own. */
    if (random_below(world, 8) == 0)
        record->owner = some_text(world, operation->owner);
    if (random_below(world, 8) == 0)
        record->attempt++;
    if (random_below(world, 2))
        record->checkpoint_name = some_text(world, operation->name);
    record->lease_ms = (uint32_t)random_below(world, 3);
    append_record(world, operation, &change);
}

static void grant(struct world *world)
{
    struct operation *operation = &world->operations[world->count++];

    *operation = (struct operation){.generation = world->next};
    operation->record = (struct record){.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("key", 3)},
                                        .hash = operation->generation * 31,
                                        .state = RECORD_RUNNING,
                                        .generation = operation->generation,
                                        .fence = operation->generation,
                                        .attempt = 1,
                                        .begun_ms = 1};
    operation->record.owner = some_text(world, operation->owner);
    put(world, operation, random_below(world, 2), false);
}

static void finish(struct world *world, struct operation *operation, uint64_t seconds, uint64_t body_seconds)
{
    struct store_change change = {.kind = STORE_FINISH, .generation = operation->generation};
    struct record *record = &operation->record;

    operation->finished = true;
    operation->expiry_key = change.expiry_key = new_expiry_key(world, seconds);
    if (random_below(world, 2))
        change.values[BLOB_ATTRIBUTES] = noise(world, some_size(world));
    if (random_below(world, 2))
        change.values[BLOB_BODY] = noise(world, some_size(world));
    if (change.values[BLOB_BODY].data && body_seconds)
        operation->body_expiry_key = change.body_expiry_key = new_expiry_key(world, body_seconds);
    record->state = RECORD_DONE;
    record->revision = world->next;
    record->done_ms = 2;
    record->outcome_kind = 1;
    record->input_bytes = record->checkpoint_bytes = 0;
    record->attributes_bytes = change.values[BLOB_ATTRIBUTES].size;
    record->body_field_bytes = change.values[BLOB_BODY].size;
    record->body_expiry_key = change.body_expiry_key;
    record->expires_ms = record->body_expires_ms = seconds * 1000;
    append_record(world, operation, &change);
}

/* damaged: nobody knows of which life it was; as one that was read is, what is removed is in the tables. */
static void drop(struct world *world, struct operation *operation, bool damaged)
{
    struct store_change change = {.kind = operation->finished ? STORE_REMOVE_FINISHED : STORE_REMOVE_UNFINISHED,
                                  .generation = operation->generation,
                                  .expiry_key = operation->expiry_key,
                                  .body_expiry_key = operation->body_expiry_key};

    if (damaged)
        change.generation = 0;
    append(world, &change);
    *operation = world->operations[--world->count];
    operation->record.owner.data = operation->owner;
    operation->record.checkpoint_name.data = operation->name;
}

/* ---- What the tables have ---------------------------------------------------------------------- */

static uint64_t rows_of(MDB_txn *txn, MDB_dbi table)
{
    MDB_stat stat;

    assert_int_equal(mdb_stat(txn, table, &stat), 0);
    return stat.ms_entries;
}

static void assert_record(struct world *world, MDB_txn *txn, const struct entry *entry)
{
    struct bytes record;

    if (entry->key >= TABLES_FIRST_EXPIRY_KEY) {
        assert_int_equal(tables_read_finished(&world->tables, txn, entry->key, &record), STORE_FOUND);
    } else {
        uint64_t number = entry->key;
        MDB_val key = {sizeof number, &number}, value;
        assert_int_equal(mdb_get(txn, world->tables.unfinished, &key, &value), 0);
        record = bytes_of(value.mv_data, (uint32_t)value.mv_size);
    }
    assert_true(bytes_equal(record, bytes_of(entry->data, entry->size)));
}

/* Each record and each value of the model, and nothing else: no chunk is left over. */
static void assert_tables(struct world *world)
{
    uint8_t *out = mem_alloc(VALUE_BYTES_MAX + 1);
    uint64_t finished = 0, unfinished = 0, chunks = 0;
    MDB_txn *txn;

    assert_int_equal(mdb_txn_begin(world->tables.env, NULL, MDB_RDONLY, &txn), 0);
    for (uint32_t i = 0; i < world->model.count; i++) {
        const struct entry *entry = &world->model.entries[i];
        if (entry->kind == 0) {
            assert_record(world, txn, entry);
            finished += entry->key >= TABLES_FIRST_EXPIRY_KEY;
            unfinished += entry->key < TABLES_FIRST_EXPIRY_KEY;
            continue;
        }
        assert_int_equal(tables_read_value(&world->tables, txn, entry->key, entry->kind, entry->size, out),
                         STORE_FOUND);
        if (entry->size)
            assert_memory_equal(out, entry->data, entry->size);
        chunks += tables_chunks_of(entry->size);
    }
    assert_int_equal(rows_of(txn, world->tables.finished), finished);
    assert_int_equal(rows_of(txn, world->tables.unfinished), unfinished);
    assert_int_equal(rows_of(txn, world->tables.chunks), chunks);
    mdb_txn_abort(txn);
    mem_free(out);
}

static void assert_state(struct world *world)
{
    struct store_facts facts;
    struct tables_state state;
    struct failure error;

    assert_true(tables_read_facts(&world->tables, &facts, &state, &error));
    assert_int_equal(state.next_number, world->state.next_number);
    assert_memory_equal(&state.mark, &world->state.mark, sizeof state.mark);
    assert_int_equal(state.wal_slots, 3);
}

/* ---- Applying ------------------------------------------------------------------------------------ */

static int try_apply(struct world *world, uint32_t count, uint64_t sweep_s)
{
    struct bytes batches[BATCHES_MAX];
    struct apply job = {.tables = &world->tables,
                        .batches = batches,
                        .batch_count = count,
                        .state = &world->state,
                        .sweep_s = sweep_s,
                        .secret = world->secret,
                        .swept = world->swept};

    for (uint32_t i = 0; i < count; i++)
        batches[i] = bytes_of(world->batches[i].bytes->data, world->batches[i].bytes->size);
    const int code = apply(&job);
    world->swept_count = job.swept_count;
    return code;
}

/* The model takes the changes one by one. */
static void model_batch(struct world *world, const struct batch *batch)
{
    uint32_t count = 0;

    while (count < world->change_count && world->changes[count].number < batch->next)
        model_change(&world->model, &world->changes[count++]);
    assert_int_equal(count, batch->next - batch->first);
    drop_changes(world, count);
}

/* Applies the first batches, and sees that the tables are what the model is: what is swept goes first, so that nothing
 * is swept by the transaction that brings it. */
static void apply_first(struct world *world, uint32_t count, uint64_t sweep_s)
{
    assert_int_equal(try_apply(world, count, sweep_s), 0);
    assert_int_equal(model_sweep(&world->model, sweep_s, world->secret, world->swept, world->swept_count),
                     world->swept_count);
    for (uint32_t i = 0; i < count; i++)
        model_batch(world, &world->batches[i]);
    if (count > 0) {
        assert_int_equal(world->state.next_number, world->batches[count - 1].next);
        assert_int_equal(world->state.mark.retention_ms, world->batches[count - 1].next);
    }
    assert_tables(world);
    assert_state(world);
}

static void forget_first(struct world *world, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        blob_release(world->batches[i].bytes);
    world->batch_count -= count;
    memmove(world->batches, world->batches + count, world->batch_count * sizeof *world->batches);
}

static uint64_t some_sweep(struct world *world)
{
    static const uint64_t seconds[] = {1, 1799999000, 1799999001, 1799999002, 1800000000, 1800001999, 1900000000};

    return random_below(world, 3) ? 0 : seconds[random_below(world, sizeof seconds / sizeof seconds[0])];
}

/* All sealed batches, in as many parts as chance has it. Once more is refused: their bases are no more what they were.
 */
static void apply_all(struct world *world)
{
    cut_batch(world);
    uint32_t sealed = world->batch_count ? world->batch_count - 1 : 0;

    if (sealed == 0)
        apply_first(world, 0, some_sweep(world));
    while (sealed > 0) {
        const uint32_t part = random_below(world, 2) ? sealed : 1 + (uint32_t)random_below(world, sealed);
        apply_first(world, part, some_sweep(world));
        if (random_below(world, 4) == 0) {
            assert_int_equal(try_apply(world, part, 0), EBADMSG);
            assert_tables(world);
            assert_state(world);
        }
        forget_first(world, part);
        sealed -= part;
    }
}

static void step(struct world *world)
{
    struct operation *operation = world->count ? &world->operations[random_below(world, world->count)] : NULL;

    switch (random_below(world, 10)) {
    case 0:
    case 1:
    case 2:
        if (world->count < LIVES_MAX)
            grant(world);
        break;
    case 3:
    case 4:
        if (operation && !operation->finished)
            put(world, operation, false, random_below(world, 4));
        break;
    case 5:
    case 6:
        if (operation && !operation->finished)
            finish(world, operation, 1800000000 + random_below(world, 3) * 1000,
                   random_below(world, 2) ? 1799999000 + random_below(world, 3) : 0);
        break;
    case 7:
        if (operation)
            drop(world, operation, false);
        break;
    case 8: {
        struct store_change touch = {.kind = STORE_TOUCH};
        append(world, &touch);
        break;
    }
    default:
        cut_batch(world);
    }
}

/* A record that reads badly, removed by its place alone. */
static void drop_damaged(struct world *world)
{
    for (uint32_t i = 0; i < world->count; i++)
        if (world->operations[i].finished) {
            drop(world, &world->operations[i], true);
            return;
        }
}

static void random_changes(void **state)
{
    struct world *world = *state;

    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        begin(world, seed);
        print_message("seed %llu\r", (unsigned long long)seed);
        for (int applies = 0; applies < 12; applies++) {
            if (random_below(world, 2))
                drop_damaged(world); /* the first of the next apply, so that it is in the tables */
            for (uint64_t steps = random_below(world, 60); steps > 0; steps--)
                step(world);
            apply_all(world);
        }
        forget_first(world, world->batch_count);
    }
}

/* ---- Bases that are lost --------------------------------------------------------------------------- */

/* What became of the record of a life in the tables. */
enum harm { HARM_GONE, HARM_SHORT, HARM_BIT, HARM_KINDS };

/* Returns the first byte of its rest that is not what it was; UINT32_MAX: all is. A byte that is missing is taken for a
 * zero, and may have been one. */
static uint32_t harm(struct world *world, uint64_t generation, enum harm what)
{
    MDB_val key = {sizeof generation, &generation}, value;
    uint8_t record[RECORD_BYTES_MAX];
    uint32_t byte = 0;
    MDB_txn *txn;

    assert_int_equal(mdb_txn_begin(world->tables.env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_get(txn, world->tables.unfinished, &key, &value), 0);
    const size_t size = value.mv_size;
    memcpy(record, value.mv_data, size);
    value.mv_data = record;
    if (what == HARM_SHORT) {
        value.mv_size = random_below(world, RECORD_HEAD_BYTES + 20);
        byte = value.mv_size < RECORD_HEAD_BYTES ? 0 : (uint32_t)value.mv_size - RECORD_HEAD_BYTES;
    } else if (what == HARM_BIT) {
        const uint32_t bit = (uint32_t)random_below(world, value.mv_size * 8);
        record[bit / 8] ^= (uint8_t)(1u << bit % 8);
        byte = bit / 8 < RECORD_HEAD_BYTES ? UINT32_MAX : bit / 8 - RECORD_HEAD_BYTES;
    }
    while (what != HARM_BIT && byte < size - RECORD_HEAD_BYTES && record[RECORD_HEAD_BYTES + byte] == 0)
        byte++;
    if (what == HARM_GONE)
        assert_int_equal(mdb_del(txn, world->tables.unfinished, &key, NULL), 0);
    else
        assert_int_equal(mdb_put(txn, world->tables.unfinished, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    return byte;
}

/* What reading an operation's record says. A good one is the one that was appended. */
static enum record_check read_back(struct world *world, const struct operation *operation, struct record *record)
{
    uint64_t number = operation->finished ? operation->expiry_key : operation->generation;
    MDB_val key = {sizeof number, &number}, value;
    MDB_txn *txn;

    assert_int_equal(mdb_txn_begin(world->tables.env, NULL, MDB_RDONLY, &txn), 0);
    const MDB_dbi table = operation->finished ? world->tables.finished : world->tables.unfinished;
    assert_int_equal(mdb_get(txn, table, &key, &value), 0);
    const struct bytes data = bytes_of(value.mv_data, (uint32_t)value.mv_size);
    const enum record_check check = record_decode(data, record);
    if (check == RECORD_GOOD)
        assert_true(bytes_equal(data, bytes_of(operation->encoded, operation->encoded_bytes)));
    assert_int_equal(record->hash, operation->record.hash);
    assert_int_equal(record->generation, operation->generation);
    assert_int_equal(record->state, operation->record.state);
    assert_int_equal(record->expires_ms, operation->finished ? operation->record.expires_ms : 0);
    mdb_txn_abort(txn);
    return check;
}

/* How many bytes the newest change shares. */
static uint32_t shared_by_newest(struct world *world)
{
    const struct batch *batch = &world->batches[world->batch_count - 1];
    struct batch_change change = {.record = {.shared = 0}};
    struct batch_reader reader;
    struct clock_mark mark = {.boot_ms = 0};
    struct batch copy = *batch;

    copy.bytes = blob_new(batch->bytes->size);
    memcpy(copy.bytes->data + blob_extend(copy.bytes, batch->bytes->size), batch->bytes->data, batch->bytes->size);
    batch_seal(&copy, &mark);
    batch_read(copy.bytes->data, &reader);
    while (batch_next(&reader, &change))
        ;
    assert_false(reader.bad);
    blob_release(copy.bytes);
    return change.record.shared;
}

/* One of three operations loses its record in the tables, and goes on by `puts` changes and perhaps its end, within one
 * tail or several. It is known to be damaged, unless what is left of the base is what counts; the others are whole. */
static void lose_one(struct world *world, enum harm what, uint32_t puts, bool ends, bool parts)
{
    struct record record;
    uint32_t shared = UINT32_MAX; /* of what it had, all the changes since do */

    begin(world, world->seed);
    for (int i = 0; i < 3; i++)
        grant(world);
    apply_all(world);
    struct operation *hurt = &world->operations[1];
    const uint32_t byte = harm(world, hurt->generation, what);
    for (uint32_t i = 0; i < puts; i++) {
        put(world, hurt, false, false);
        const uint32_t shares = shared_by_newest(world);
        shared = shares < shared ? shares : shared;
        if (parts) {
            cut_batch(world);
            assert_int_equal(try_apply(world, 1, 0), 0);
            forget_first(world, 1);
        }
    }
    if (ends) {
        finish(world, hurt, 1800000000, 0);
        const uint32_t shares = shared_by_newest(world);
        shared = shares < shared ? shares : shared;
    }
    for (int i = 0; i < 3; i += 2)
        finish(world, &world->operations[i], 1800000000, 0);
    cut_batch(world);
    assert_int_equal(try_apply(world, 1, 0), 0);

    const bool lost = byte < shared;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_back(world, &world->operations[i], &record),
                         i == 1 && lost ? RECORD_BAD_REST : RECORD_GOOD);
    }
    forget_first(world, world->batch_count);
}

static void a_lost_base_is_the_loss_of_one(void **state)
{
    struct world *world = *state;

    for (uint32_t round = 0; round < 16 * ROUNDS; round++) {
        world->seed = round + 1;
        lose_one(world, (enum harm)(round % HARM_KINDS), 1 + round % 4, round % 3, false);
        lose_one(world, (enum harm)(round % HARM_KINDS), round % 3, true, false);
        lose_one(world, (enum harm)(round % HARM_KINDS), 1, true, true);
    }
}

/* Changes are missing, and that was accepted: what began in them is known by what ended after them, and nothing else
 * is the worse for it. */
static void changes_that_are_missing(void **state)
{
    struct world *world = *state;
    struct record record;
    uint32_t as_good = 0;

    for (uint32_t round = 0; round < 16 * ROUNDS; round++) {
        begin(world, round + 1);
        grant(world);
        grant(world);
        apply_all(world);
        grant(world); /* in what is lost */
        put(world, &world->operations[0], false, false);
        cut_batch(world);
        bool counts_on_it[3];
        for (int i = 0; i < 3; i++) {
            finish(world, &world->operations[i], 1800000000, 0);
            counts_on_it[i] = shared_by_newest(world) > 0;
        }
        cut_batch(world);
        forget_first(world, 1);
        assert_int_equal(try_apply(world, 1, 0), 0);
        /* The tables have an older record of the first: what it shares with the one that is lost is as good. */
        if (read_back(world, &world->operations[0], &record) != RECORD_GOOD)
            assert_true(counts_on_it[0]);
        else
            as_good += counts_on_it[0];
        assert_int_equal(read_back(world, &world->operations[1], &record), RECORD_GOOD);
        assert_int_equal(read_back(world, &world->operations[2], &record),
                         counts_on_it[2] ? RECORD_BAD_REST : RECORD_GOOD);
        forget_first(world, world->batch_count);
    }
    assert_true(as_good > ROUNDS);
}

/* Of an apply that fails nothing is in the tables, nor in the state. */
static void all_or_nothing(void **state)
{
    struct world *world = *state;
    struct tables_state before;
    const uint32_t wrong = 1000;

    begin(world, 3);
    for (int i = 0; i < 30; i++)
        step(world);
    grant(world);
    apply_all(world);
    grant(world);
    finish(world, &world->operations[0], 1800000000, 0);
    cut_batch(world);
    grant(world);
    cut_batch(world);
    before = world->state;
    /* The second is of another program. */
    uint8_t *data = world->batches[1].bytes->data;
    memcpy(data + 24, &wrong, sizeof wrong);
    batch_sign(data, 1, 0, world->secret);
    assert_int_equal(try_apply(world, 2, 1900000000), EBADMSG);
    assert_memory_equal(&world->state, &before, sizeof before);
    assert_tables(world);
    assert_state(world);
    apply_first(world, 1, 0);
    forget_first(world, world->batch_count);
}

/* More than one slice: each takes some, and what it says it took is gone. */
static void slices(void **state)
{
    enum { MANY = 9000 };
    struct world *world = *state;
    uint32_t swept = 0, rounds = 0;
    uint64_t used, first = 1;

    begin(world, 5);
    for (uint32_t i = 0; i < MANY; i++) {
        world->count = 0;
        struct operation *operation = &world->operations[0];
        grant(world);
        finish(world, operation, 1800000000 + i / 100, 0);
        if (i == MANY / 2)
            cut_batch(world);
    }
    cut_batch(world);
    assert_int_equal(try_apply(world, world->batch_count - 1, 1900000000), 0);
    assert_int_equal(world->swept_count, 0);
    forget_first(world, world->batch_count);
    for (; first; rounds++) {
        assert_true(rounds < 1000);
        assert_int_equal(try_apply(world, 0, 1800000000 + MANY), 0);
        assert_true(world->swept_count <= APPLY_SWEPT_MAX);
        for (uint32_t i = 0; i < world->swept_count; i++)
            assert_true(i == 0 || world->swept[i].expiry_key > world->swept[i - 1].expiry_key);
        swept += world->swept_count;
        assert_int_equal(tables_look(&world->tables, &used, &first), 0);
    }
    assert_int_equal(swept, MANY);
    assert_true(rounds > 2);
    assert_tables(world);
}

int main(void)
{
#define APPLY_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        APPLY_TEST(random_changes),
        APPLY_TEST(a_lost_base_is_the_loss_of_one),
        APPLY_TEST(changes_that_are_missing),
        APPLY_TEST(all_or_nothing),
        APPLY_TEST(slices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
