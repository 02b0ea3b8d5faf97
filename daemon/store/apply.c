/* One transaction:
 *
 *     sweep a slice -> merge: for each life its last state, and the newest of its values -> what goes -> what is
 * unfinished, by life -> what is finished, by place -> the state
 *
 * Of an operation that began and finished within the batches only the finished record is written. In order of their
 * keys records are appended, and pages written full. Nothing is swept by the transaction that brings it: who was told
 * of it has to know first where it is.
 *
 * It may take milliseconds, and a thread that wakes on the same processor - the one that flushes the log - can wait
 * until the next tick of the kernel before this one is stopped, whatever its nice value. So, unless it is late, it
 * rests. */
#include "daemon/store/apply.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "daemon/store/merge.h"

enum {
    /* A sweep's slice: about 512 pages, of which a chunk takes one and eight records another. */
    SWEEP_COST_MAX = APPLY_SWEPT_MAX,
    SWEEP_CHUNK_COST = 8,
    WORK_NS_MAX = 150 * 1000, /* at a stretch; then it rests */
    REST_NS = 50 * 1000,      /* long enough to be off the processor; the kernel makes 0.1 ms of it */
    STEPS_A_LOOK = 8,         /* at the clock */
};

struct applying {
    struct apply *apply;
    struct tables *tables;
    MDB_txn *txn;
    MDB_cursor *chunks, *finished, *unfinished;
    struct merge merge;
    struct order *order;
    uint32_t steps;     /* since the clock was read */
    uint64_t rested_ns; /* when it last rested */
};

struct order {
    uint64_t key;
    uint32_t at;
};

/* ---- Resting ----------------------------------------------------------------------- */

/* After each step of the work. */
static void step(struct applying *applying)
{
    const struct timespec rest = {.tv_nsec = REST_NS};

    if (!applying->apply->throttle || ++applying->steps < STEPS_A_LOOK)
        return;
    applying->steps = 0;
    if (clock_read_ns() - applying->rested_ns < WORK_NS_MAX)
        return;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
    applying->rested_ns = clock_read_ns();
}

/* ---- Applying ---------------------------------------------------------------------------- */

static int delete_key(struct applying *applying, MDB_dbi table, uint64_t number)
{
    MDB_val key = {sizeof number, &number};
    const int code = mdb_del(applying->txn, table, &key, NULL);

    return code == MDB_NOTFOUND ? 0 : code;
}

/* What was under a life goes; its record's head says whether there are values to look for. */
static int delete_generation(struct applying *applying, uint64_t generation)
{
    MDB_val key = {sizeof generation, &generation}, value;
    int code = mdb_get(applying->txn, applying->tables->unfinished, &key, &value);

    if (code == MDB_NOTFOUND)
        return 0;
    if (code == 0 && record_values_bytes(bytes_of(value.mv_data, (uint32_t)value.mv_size)) != 0)
        code = tables_delete_chunks(applying->chunks, generation, 0, 0);
    return code ? code : delete_key(applying, applying->tables->unfinished, generation);
}

static int remove_finished(struct applying *applying, const struct merged *merged)
{
    int code = delete_key(applying, applying->tables->finished, merged->expiry_key);

    if (code == 0)
        code = tables_delete_chunks(applying->chunks, merged->expiry_key, 0, 0);
    if (code == 0 && merged->body_expiry_key)
        code = tables_delete_chunks(applying->chunks, merged->body_expiry_key, 0, 0);
    return code;
}

static int remove_what_goes(struct applying *applying, const struct merged *merged)
{
    if (merged->kind == STORE_REMOVE_FINISHED)
        return remove_finished(applying, merged);
    return merged->born || merged->kind == STORE_PUT_UNFINISHED ? 0 : delete_generation(applying, merged->generation);
}

/* The last key of a table; 0 where it is empty. */
static int last_key(MDB_cursor *cursor, uint64_t *last)
{
    MDB_val key, value;
    const int code = mdb_cursor_get(cursor, &key, &value, MDB_LAST);

    *last = 0;
    if (code == 0)
        memcpy(last, key.mv_data, sizeof *last);
    return code == MDB_NOTFOUND ? 0 : code;
}

/* An operation's record under its key, appended where that is the last. */
static int put_record(MDB_cursor *cursor, uint64_t number, const struct merged *merged, uint64_t *last)
{
    uint8_t record[RECORD_BYTES_MAX];
    bool good;
    MDB_val key = {sizeof number, &number}, value = {merge_record(merged, record, &good), record};
    const int code = mdb_cursor_put(cursor, &key, &value, number > *last ? MDB_APPEND : 0);

    if (!good)
        log_event(LOG_ERROR, "lost", "table", merged->kind == STORE_FINISH ? "finished" : "unfinished", "key",
                  log_number(number), "reason", "the record before it, which the log counts on, does not read", NULL);
    if (number > *last)
        *last = number;
    return code;
}

static int put_unfinished(struct applying *applying, const struct merged *merged, uint64_t *last)
{
    int code = put_record(applying->unfinished, merged->generation, merged, last);

    for (unsigned kind = 1; code == 0 && kind < BLOB_KINDS; kind++) {
        const struct bytes data = merged->values[kind];
        if (!data.data)
            continue;
        code = tables_put_value(applying->tables, applying->txn, merged->generation, kind, data);
        if (code == 0 && !merged->born)
            code = tables_delete_chunks(applying->chunks, merged->generation, kind, tables_chunks_of(data.size));
    }
    return code;
}

static int finish(struct applying *applying, const struct merged *merged, uint64_t *last)
{
    int code = put_record(applying->finished, merged->expiry_key, merged, last);

    for (unsigned kind = 1; code == 0 && kind < BLOB_KINDS; kind++) {
        const uint64_t owner =
            kind == BLOB_BODY && merged->body_expiry_key ? merged->body_expiry_key : merged->expiry_key;
        if (merged->values[kind].data)
            code = tables_put_value(applying->tables, applying->txn, owner, kind, merged->values[kind]);
    }
    return code;
}

static int by_key(const void *a, const void *b)
{
    const struct order *x = a, *y = b;

    return (x->key > y->key) - (x->key < y->key);
}

/* Does `put` for all of a kind, in order of their keys. */
static int put_all(struct applying *applying, enum store_change_kind kind, MDB_cursor *cursor,
                   int (*put)(struct applying *applying, const struct merged *merged, uint64_t *last))
{
    uint32_t count = 0;
    uint64_t last;
    int code;

    for (uint32_t at = 0; at < applying->merge.count; at++) {
        const struct merged *merged = &applying->merge.merged[at];
        if (merged->kind == kind)
            applying->order[count++] =
                (struct order){kind == STORE_FINISH ? merged->expiry_key : merged->generation, at};
    }
    if (count == 0)
        return 0;
    qsort(applying->order, count, sizeof *applying->order, by_key);
    code = last_key(cursor, &last);
    for (uint32_t i = 0; i < count && code == 0; i++) {
        code = put(applying, &applying->merge.merged[applying->order[i].at], &last);
        step(applying);
    }
    return code;
}

static int merge_all(struct applying *applying)
{
    const struct apply *apply = applying->apply;
    int code = 0;

    for (uint32_t i = 0; i < apply->batch_count && code == 0; i++) {
        code = merge_batches(&applying->merge, &apply->batches[i], 1);
        applying->steps += STEPS_A_LOOK; /* a batch is many */
        step(applying);
    }
    return code;
}

static int put_changes(struct applying *applying)
{
    const struct merge *merge = &applying->merge;
    int code = merge_all(applying);

    for (uint32_t at = 0; at < merge->count && code == 0; at++) {
        code = remove_what_goes(applying, &merge->merged[at]);
        step(applying);
    }
    applying->order = mem_alloc(merge->count * sizeof *applying->order);
    if (code == 0)
        code = put_all(applying, STORE_PUT_UNFINISHED, applying->unfinished, put_unfinished);
    if (code == 0)
        code = put_all(applying, STORE_FINISH, applying->finished, finish);
    return code;
}

/* ---- Sweeping -------------------------------------------------------------------------------- */

static int sweep_records(struct applying *applying)
{
    struct apply *apply = applying->apply;
    MDB_val key, value;
    int code = mdb_cursor_get(applying->finished, &key, &value, MDB_FIRST);

    while (code == 0 && apply->swept_count < APPLY_SWEPT_MAX) {
        const struct bytes record = bytes_of(value.mv_data, (uint32_t)value.mv_size);
        struct record head;
        uint64_t expiry_key;

        memcpy(&expiry_key, key.mv_data, sizeof expiry_key);
        if (expiry_key_seconds(expiry_key) > apply->sweep_s)
            return 0;
        if (record_decode_head(record, &head) != RECORD_GOOD)
            head = (struct record){0};
        apply->swept[apply->swept_count++] =
            (struct store_swept){.hash = head.hash,
                                 .expiry_key = expiry_key,
                                 .namespace_hash = record_namespace_hash(apply->secret, record_namespace(record)),
                                 .bytes = (uint64_t)record.size + head.values_bytes};
        if ((code = mdb_cursor_del(applying->finished, 0)) != 0)
            return code;
        step(applying);
        code = mdb_cursor_get(applying->finished, &key, &value, MDB_FIRST);
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

static int sweep_chunks(struct applying *applying)
{
    uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
    MDB_val key = {sizeof bytes, bytes}, value;
    int code;

    tables_make_chunk_key(bytes, TABLES_FIRST_EXPIRY_KEY, 0, 0);
    code = mdb_cursor_get(applying->chunks, &key, &value, MDB_SET_RANGE);
    for (uint32_t cost = applying->apply->swept_count; code == 0 && cost < SWEEP_COST_MAX; cost += SWEEP_CHUNK_COST) {
        uint64_t expiry_key;
        unsigned kind;
        uint32_t chunk;

        tables_chunk_key(&key, &expiry_key, &kind, &chunk);
        if (expiry_key_seconds(expiry_key) > applying->apply->sweep_s)
            return 0;
        if ((code = mdb_cursor_del(applying->chunks, 0)) != 0)
            return code;
        step(applying);
        tables_make_chunk_key(bytes, TABLES_FIRST_EXPIRY_KEY, 0, 0);
        key = (MDB_val){sizeof bytes, bytes};
        code = mdb_cursor_get(applying->chunks, &key, &value, MDB_SET_RANGE);
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

static int sweep(struct applying *applying)
{
    const int code = applying->apply->sweep_s ? sweep_records(applying) : 0;

    return code || !applying->apply->sweep_s ? code : sweep_chunks(applying);
}

/* ---- All of it ---------------------------------------------------------------------------- */

static int open_cursors(struct applying *applying)
{
    const struct tables *tables = applying->tables;
    int code = mdb_cursor_open(applying->txn, tables->chunks, &applying->chunks);

    if (code == 0)
        code = mdb_cursor_open(applying->txn, tables->finished, &applying->finished);
    if (code == 0)
        code = mdb_cursor_open(applying->txn, tables->unfinished, &applying->unfinished);
    return code;
}

static void close_cursors(struct applying *applying)
{
    MDB_cursor *const cursors[] = {applying->chunks, applying->finished, applying->unfinished};

    for (size_t i = 0; i < sizeof cursors / sizeof cursors[0]; i++)
        if (cursors[i])
            mdb_cursor_close(cursors[i]);
}

static void next_state(const struct apply *apply, struct tables_state *state)
{
    struct batch_header header;

    *state = *apply->state;
    if (apply->batch_count == 0)
        return;
    batch_read_header(apply->batches[apply->batch_count - 1].data, &header);
    state->next_number = header.last + 1;
    state->mark = header.mark;
}

/* LMDB calls a write that was short EIO, as it calls a broken disk. But it is a full one: no call has failed. */
static int commit(MDB_txn *txn)
{
    errno = 0;
    const int code = mdb_txn_commit(txn);
    return code == EIO && errno == 0 ? ENOSPC : code;
}

static int apply_once(struct apply *apply)
{
    struct applying applying = {.apply = apply, .tables = apply->tables, .rested_ns = clock_read_ns()};
    struct tables_state state;
    int code = mdb_txn_begin(apply->tables->env, NULL, 0, &applying.txn);

    apply->swept_count = 0;
    if (code != 0)
        return code;
    next_state(apply, &state);
    applying.merge =
        (struct merge){.tables = apply->tables, .txn = applying.txn, .next_number = apply->state->next_number};
    code = open_cursors(&applying);
    if (code == 0)
        code = sweep(&applying);
    if (code == 0)
        code = put_changes(&applying);
    if (code == 0)
        code = tables_put_state(apply->tables, applying.txn, &state);
    close_cursors(&applying);
    merge_free(&applying.merge);
    mem_free(applying.order);
    if (code != 0) {
        mdb_txn_abort(applying.txn);
        return code;
    }
    code = commit(applying.txn);
    if (code == 0)
        *apply->state = state;
    return code;
}

/* LMDB's own memory comes from the system. What ended for want of it had no effect, a commit neither: only what the
 * meta page names counts, and after a meta page that could not be written LMDB begins no transaction. */
int apply(struct apply *apply)
{
    const int code = apply_once(apply);

    if (code == ENOMEM) {
        mem_give_reserve();
        return apply_once(apply);
    }
    return code;
}

static bool is_full(int code)
{
    return code == ENOSPC || code == EDQUOT || code == EFBIG;
}

/* What a commit gave back can be used by the one after the next. */
static int commit_nothing(const struct apply *apply_whole)
{
    struct apply nothing = {.tables = apply_whole->tables, .state = apply_whole->state};
    const int code = apply(&nothing);

    return is_full(code) ? 0 : code;
}

/* A commit that finds no room has changed nothing: LMDB writes all pages, and then the one that makes them count. If
 * that one fails, LMDB refuses every transaction after it. So trying again is safe. */
int apply_parts(struct apply *whole)
{
    struct apply part = *whole;
    bool waited = false; /* for what earlier commits gave back */
    uint32_t done = 0;
    int code;

    do {
        part.batches = whole->batches + done;
        if (part.batch_count > whole->batch_count - done)
            part.batch_count = whole->batch_count - done;
        code = apply(&part);
        if (code == 0) {
            if (part.sweep_s)
                whole->swept_count = part.swept_count;
            part.sweep_s = 0; /* once */
            done += part.batch_count;
            waited = false;
        } else if (is_full(code) && !waited) {
            waited = true;
            code = commit_nothing(whole);
        } else if (is_full(code) && part.batch_count > 1) {
            part.batch_count /= 2;
            code = 0;
        }
    } while (code == 0 && done < whole->batch_count);
    whole->done_count = done;
    return code;
}
