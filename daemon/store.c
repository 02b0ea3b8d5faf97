/* The loop's side of the store, and its thread.
 *
 *     loop:    open batch --submit--> in flight ............ poll: durable, swept
 *     thread:                          `--> one LMDB commit --'
 *
 * The two share the slot below, under its mutex: a batch goes in, a result comes out, one at a time. Everything else is
 * the loop's. The loop reads through one transaction, taken at the first read of a turn and reset at its end. */
#include "daemon/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>

#include "daemon/batch.h"
#include "daemon/directory.h"
#include "daemon/load.h"
#include "daemon/memory.h"
#include "daemon/tables.h"

enum {
    AHEAD_BYTES =
        64 * 1024 * 1024, /* kept allocated beyond the last page, so that a commit does not meet a full disk */
    BATCH_BYTES_LEAST = 1024 * 1024,          /* reckoned with as the largest batch until there was a larger one */
    UNFINISHED_BYTES = 2 * TABLES_PAGE_BYTES, /* held for each unfinished operation, to finish it */
    POINTS_MAX = 1024,                        /* insertion points remembered */
    PLACE_COUNT_BITS = 30,
};
#define MAP_BYTES_OVER (16ull << 30) /* the map is this much larger than twice the quota, and sparse */

/* Where the next place of some seconds goes. */
struct point {
    uint64_t seconds, next_count;
};

/* What the thread did with a batch. */
struct result {
    int code; /* 0, or why it failed */
    uint64_t used_bytes, first_place;
    bool disk_full;
    struct store_swept *swept;
    uint32_t swept_count;
};

struct store {
    struct store_options options;
    struct store_facts facts;
    struct directory directory;
    struct tables tables;
    struct batch open, flight;
    bool busy;
    uint64_t durable;
    MDB_txn *reader; /* of the loop */
    bool reading;    /* it is not reset */
    struct point points[POINTS_MAX];
    uint32_t point_count;
    uint64_t submitted_ms; /* retention clock of the last batch handed over */
    uint64_t used_bytes, first_place, largest_batch_bytes;
    bool disk_full;
    struct store_swept *swept; /* of the last poll */
    off_t allocated;           /* of the file, ahead included; the thread's */

    pthread_t thread;
    bool threaded;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    const uint8_t *work; /* a batch to apply; NULL: none. These five are under the mutex */
    uint32_t work_bytes;
    bool done, stopping;
    struct result result;
};

/* ---- The thread ------------------------------------------------------------------------ */

/* Keeps the disk ahead of the file. Not supported is not full: then a commit that meets the end stops the daemon. */
static bool allocate_ahead(struct store *store)
{
    MDB_envinfo info;
    mdb_filehandle_t fd;
    off_t end;

    if (mdb_env_info(store->tables.env, &info) != 0 || mdb_env_get_fd(store->tables.env, &fd) != 0)
        return false;
    end = (off_t)(info.me_last_pgno + 1) * TABLES_PAGE_BYTES;
    if (store->allocated >= end + AHEAD_BYTES)
        return true;
    /* Half as much again, so that not every commit asks. */
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, end, AHEAD_BYTES + AHEAD_BYTES / 2) != 0)
        return errno == EOPNOTSUPP;
    store->allocated = end + AHEAD_BYTES + AHEAD_BYTES / 2;
    return true;
}

static void look(struct store *store, struct result *result)
{
    if (result->code == 0)
        result->code = tables_look(&store->tables, &result->used_bytes, &result->first_place);
    if (result->code == 0)
        result->disk_full = !allocate_ahead(store);
}

static struct result apply(struct store *store, const uint8_t *batch, uint32_t size)
{
    struct result result = {0};
    struct batch_header header;

    batch_read_header(batch, &header);
    if (header.sweep_s)
        result.swept = mem_alloc(TABLES_SWEPT_MAX * sizeof *result.swept);
    result.code = tables_apply(&store->tables, batch, size, result.swept, &result.swept_count);
    look(store, &result);
    return result;
}

static void *run(void *argument)
{
    struct store *store = argument;
    bool failed = false;

    pthread_mutex_lock(&store->mutex);
    while (!failed) {
        while (!store->work && !store->stopping)
            pthread_cond_wait(&store->condition, &store->mutex);
        if (!store->work)
            break;
        const uint8_t *batch = store->work;
        const uint32_t size = store->work_bytes;
        pthread_mutex_unlock(&store->mutex);
        const struct result result = apply(store, batch, size);
        pthread_mutex_lock(&store->mutex);
        store->result = result;
        store->work = NULL;
        store->done = true;
        failed = result.code != 0; /* never tried again: what failed may yet be on the disk */
        pthread_cond_broadcast(&store->condition);
        pthread_mutex_unlock(&store->mutex);
        store->options.wake(store->options.wake_context);
        pthread_mutex_lock(&store->mutex);
    }
    pthread_mutex_unlock(&store->mutex);
    return NULL;
}

/* ---- Opening ------------------------------------------------------------------------------- */

static uint64_t map_bytes(const struct store *store)
{
    return (2 * store->options.quota_bytes + MAP_BYTES_OVER) / TABLES_PAGE_BYTES * TABLES_PAGE_BYTES;
}

static bool make_facts(struct store_facts *facts, struct store_error *error)
{
    *facts = (struct store_facts){0};
    clock_read_mark(&facts->mark);
    facts->mark.retention_ms = facts->mark.wall_ms;
    if (facts->mark.wall_ms < CLOCK_UNSET_BEFORE_MS) {
        *error = (struct store_error){.exit_code = 71,
                                      .message = "the clock says it is before 2020, and a new store "
                                                 "takes its numbers from it: set the clock"};
        return false;
    }
    if (getrandom(&facts->store_id, sizeof facts->store_id, 0) == sizeof facts->store_id &&
        getrandom(facts->secret, sizeof facts->secret, 0) == sizeof facts->secret)
        return true;
    *error = (struct store_error){.exit_code = 71, .message = "getrandom gives no random bytes"};
    return false;
}

/* Builds a store beside its place and puts it there. */
static bool build(struct store *store, struct store_error *error)
{
    struct store_facts facts;
    struct tables tables;
    char path[4096];
    bool good;

    directory_store_path(&store->directory, true, path);
    if (!make_facts(&facts, error) || !directory_begin_build(&store->directory, error) ||
        !tables_open(&tables, path, map_bytes(store), false, error))
        return false;
    /* Numbers go on above those of a store that may have been lost. */
    good = tables_create(&tables, &facts, facts.mark.wall_ms / 1000 << 20, error);
    tables_close(&tables);
    return good && directory_end_build(&store->directory, error);
}

static bool open_store(struct store *store, struct store_error *error)
{
    char path[4096];
    uint64_t next;

    if (!directory_open(&store->directory, store->options.directory, true, error))
        return false;
    if (!directory_has_store(&store->directory) && !build(store, error))
        return false;
    directory_store_path(&store->directory, false, path);
    if (!tables_open(&store->tables, path, map_bytes(store), false, error) ||
        !tables_read_facts(&store->tables, &store->facts, &next, error))
        return false;
    batch_start(&store->open, next);
    store->durable = next - 1;
    store->submitted_ms = store->facts.mark.retention_ms;
    store->largest_batch_bytes = BATCH_BYTES_LEAST;
    return true;
}

/* With every signal blocked: they are the loop's. */
static int start_thread(struct store *store)
{
    sigset_t all, before;
    int code;

    sigfillset(&all);
    if ((code = pthread_sigmask(SIG_SETMASK, &all, &before)) != 0)
        return code;
    code = pthread_create(&store->thread, NULL, run, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static bool start(struct store *store, struct store_error *error)
{
    struct result result = {0};
    int code;

    look(store, &result);
    if (result.code != 0) {
        error->exit_code = 65;
        snprintf(error->message, sizeof error->message, "store: its tables do not read: %s", mdb_strerror(result.code));
        return false;
    }
    store->used_bytes = result.used_bytes;
    store->first_place = result.first_place;
    store->disk_full = result.disk_full;
    if ((code = mdb_txn_begin(store->tables.env, NULL, MDB_RDONLY, &store->reader)) != 0 ||
        (code = start_thread(store)) != 0) {
        error->exit_code = 71;
        snprintf(error->message, sizeof error->message, "store: cannot be started: %s", mdb_strerror(code));
        return false;
    }
    store->threaded = true;
    mdb_txn_reset(store->reader);
    return true;
}

struct store *store_open(const struct store_options *options, struct store_error *error)
{
    struct store *store = mem_zero(1, sizeof *store);

    store->options = *options;
    store->directory.lock_fd = -1;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_cond_init(&store->condition, NULL);
    if (open_store(store, error) && start(store, error))
        return store;
    store_close(store);
    return NULL;
}

static void stop_thread(struct store *store)
{
    if (!store->threaded)
        return;
    pthread_mutex_lock(&store->mutex);
    store->stopping = true;
    pthread_cond_broadcast(&store->condition);
    pthread_mutex_unlock(&store->mutex);
    pthread_join(store->thread, NULL);
}

void store_close(struct store *store)
{
    if (!store)
        return;
    stop_thread(store);
    if (store->reader)
        mdb_txn_abort(store->reader);
    tables_close(&store->tables);
    directory_close(&store->directory);
    blob_release(store->open.bytes);
    blob_release(store->flight.bytes);
    mem_free(store->result.swept);
    mem_free(store->swept);
    pthread_mutex_destroy(&store->mutex);
    pthread_cond_destroy(&store->condition);
    mem_free(store);
}

const struct store_facts *store_facts(const struct store *store)
{
    return &store->facts;
}

/* ---- Loading ---------------------------------------------------------------------------------- */

static MDB_txn *reader(struct store *store)
{
    if (!store->reading) {
        const int code = mdb_txn_renew(store->reader);
        assert(code == 0); /* its slot is its own; nothing else can fail */
        store->reading = true;
    }
    return store->reader;
}

bool store_load(struct store *store, const struct store_visitor *visitor, struct store_error *error)
{
    const bool good = load_records(&store->tables, reader(store), store->options.accept_loss, visitor, error);

    store_end_turn(store);
    return good;
}

/* ---- Changing ------------------------------------------------------------------------------------ */

uint64_t store_next_number(const struct store *store)
{
    return store->open.next;
}

uint64_t store_newest_number(const struct store *store)
{
    return store->open.next - 1;
}

uint64_t store_durable_number(const struct store *store)
{
    return store->durable;
}

void store_append(struct store *store, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    batch_append(&store->open, change, values);
}

void store_sweep(struct store *store, uint64_t retention_s)
{
    store->open.sweep_s = retention_s;
}

void store_touch(struct store *store)
{
    store->open.touched = true;
}

bool store_busy(const struct store *store)
{
    return store->busy;
}

bool store_pending(const struct store *store)
{
    return store->open.changes || store->open.sweep_s || store->open.touched;
}

size_t store_backlog_bytes(const struct store *store)
{
    return (size_t)store->open.bytes->size + (store->busy ? store->flight.bytes->size : 0);
}

void store_submit(struct store *store, const struct clock_mark *mark)
{
    assert(store_pending(store) && !store->busy);
    batch_seal(&store->open, mark);
    store->submitted_ms = mark->retention_ms;
    store->flight = store->open;
    store->busy = true;
    if (store->flight.bytes->size > store->largest_batch_bytes)
        store->largest_batch_bytes = store->flight.bytes->size;
    batch_start(&store->open, store->flight.next);
    pthread_mutex_lock(&store->mutex);
    assert(!store->work && !store->done);
    store->work = store->flight.bytes->data;
    store->work_bytes = store->flight.bytes->size;
    pthread_cond_broadcast(&store->condition);
    pthread_mutex_unlock(&store->mutex);
}

static void take_result(struct store *store, const struct result *result, struct store_event *event)
{
    store->busy = false;
    store->durable = store->flight.next - 1;
    blob_release(store->flight.bytes);
    store->flight.bytes = NULL;
    store->used_bytes = result->used_bytes;
    store->first_place = result->first_place;
    store->disk_full = result->disk_full;
    store->swept = result->swept;
    event->durable = event->applied = store->durable;
    event->swept = result->swept;
    event->swept_count = result->swept_count;
}

bool store_poll(struct store *store, struct store_event *event)
{
    struct result result;
    bool done;

    pthread_mutex_lock(&store->mutex);
    done = store->done;
    result = store->result;
    if (done) {
        store->done = false;
        store->result = (struct result){0};
    }
    pthread_mutex_unlock(&store->mutex);
    if (!done)
        return false;
    *event = (struct store_event){0};
    mem_free(store->swept);
    store->swept = NULL;
    if (result.code != 0) {
        mem_free(result.swept);
        event->failed = true;
        snprintf(event->message, sizeof event->message, "a commit failed: %s", mdb_strerror(result.code));
        return true;
    }
    take_result(store, &result, event);
    return true;
}

/* ---- Places ----------------------------------------------------------------------------------------- */

/* Points that are over are never asked for again. */
static void drop_points(struct store *store, uint64_t before_s)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < store->point_count; i++)
        if (store->points[i].seconds >= before_s)
            store->points[kept++] = store->points[i];
    store->point_count = kept;
}

static struct point *point_of(struct store *store, uint64_t seconds)
{
    uint64_t last = 0;

    for (uint32_t i = 0; i < store->point_count; i++)
        if (store->points[i].seconds == seconds)
            return &store->points[i];
    if (store->point_count == POINTS_MAX)
        drop_points(store, store->submitted_ms / 1000);
    /* At most 17 multiples of each step lie ahead, and there are 23 steps up to 90 days. */
    assert(store->point_count < POINTS_MAX);
    const int code = tables_last_place(&store->tables, reader(store), seconds, &last);
    assert(code == 0);
    store->points[store->point_count] = (struct point){seconds, last ? (last & ((1u << PLACE_COUNT_BITS) - 1)) + 1 : 0};
    return &store->points[store->point_count++];
}

uint64_t store_place(struct store *store, uint64_t expires_ms, uint64_t keep_ms)
{
    uint64_t step_s = 1, seconds = expires_ms / 1000 + (expires_ms % 1000 != 0);

    while (step_s * 2 <= keep_ms / 1000 / 8)
        step_s *= 2;
    seconds = (seconds + step_s - 1) / step_s * step_s;
    assert(seconds < 1ull << 33);
    for (;; seconds++) {
        struct point *point = point_of(store, seconds);
        if (point->next_count < 1ull << PLACE_COUNT_BITS)
            return seconds << PLACE_COUNT_BITS | point->next_count++;
    }
}

uint64_t store_first_place(const struct store *store)
{
    return store->first_place;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

enum store_read store_read_finished(struct store *store, uint64_t place, struct bytes *record)
{
    return tables_read_finished(&store->tables, reader(store), place, record);
}

enum store_read store_read_value(struct store *store, uint64_t key, enum blob_kind kind, uint32_t size, uint8_t *out)
{
    return tables_read_value(&store->tables, reader(store), key, kind, size, out);
}

uint64_t store_list_finished(struct store *store, uint64_t place, uint32_t records_max,
                             bool (*visit)(void *context, uint64_t place, struct bytes record), void *context)
{
    MDB_cursor *cursor;
    MDB_val key = {sizeof place, &place}, value;
    uint64_t at = 0;
    int code = mdb_cursor_open(reader(store), store->tables.finished, &cursor);

    if (code != 0)
        return 0;
    code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (uint32_t seen = 0; code == 0; seen++) {
        memcpy(&at, key.mv_data, sizeof at);
        if (seen == records_max || !visit(context, at, bytes_of(value.mv_data, (uint32_t)value.mv_size)))
            break;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return code == 0 ? at : 0;
}

void store_end_turn(struct store *store)
{
    if (!store->reading)
        return;
    mdb_txn_reset(store->reader);
    store->reading = false;
}

struct store_space store_space(const struct store *store, uint64_t unfinished)
{
    const uint64_t needed = store->used_bytes + 3 * store->largest_batch_bytes + unfinished * UNFINISHED_BYTES +
                            store->open.bytes->size + (store->busy ? store->flight.bytes->size : 0);

    return (struct store_space){.used_bytes = store->used_bytes,
                                .quota_bytes = store->options.quota_bytes,
                                .full = store->disk_full || needed > store->options.quota_bytes};
}
