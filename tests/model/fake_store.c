/* Sorted arrays of rows, and lists of changes. A disk holds what is durable; what readers see is a second set of rows,
 * which follows when a batch is applied. Batches that are durable and not yet applied wait in a list. */
#include "tests/model/fake_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { SWEEP_SLICE = 512, EXPIRY_KEY_COUNT_BITS = 30 };

/* ---- Rows ---- */

struct row {
    uint64_t key;
    enum blob_kind kind; /* 0 for a record */
    uint32_t size;
    uint8_t *data;
    bool damaged;
};

struct rows {
    struct row *at;
    uint32_t count, capacity;
};

/* The first row that is not before (key, kind). */
static uint32_t rows_find(const struct rows *rows, uint64_t key, enum blob_kind kind)
{
    uint32_t low = 0, high = rows->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct row *row = &rows->at[middle];
        if (row->key < key || (row->key == key && row->kind < kind))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct row *rows_get(const struct rows *rows, uint64_t key, enum blob_kind kind)
{
    uint32_t at = rows_find(rows, key, kind);
    bool there = at < rows->count && rows->at[at].key == key && rows->at[at].kind == kind;
    return there ? &rows->at[at] : NULL;
}

static uint8_t *copy_of(struct bytes bytes)
{
    uint8_t *data = malloc(bytes.size + 1);
    assert(data);
    if (bytes.size)
        memcpy(data, bytes.data, bytes.size);
    return data;
}

static void rows_put(struct rows *rows, uint64_t key, enum blob_kind kind, struct bytes bytes)
{
    struct row *row = rows_get(rows, key, kind);
    if (!row) {
        uint32_t at = rows_find(rows, key, kind);
        if (rows->count == rows->capacity) {
            rows->capacity = rows->capacity * 2 + 16;
            rows->at = realloc(rows->at, rows->capacity * sizeof *rows->at);
            assert(rows->at);
        }
        memmove(&rows->at[at + 1], &rows->at[at], (rows->count - at) * sizeof *rows->at);
        rows->count++;
        row = &rows->at[at];
        *row = (struct row){.key = key, .kind = kind};
    }
    free(row->data);
    row->data = copy_of(bytes);
    row->size = bytes.size;
    row->damaged = false;
}

/* All of a key's rows go; a missing one is fine, for applying twice is harmless. */
static void rows_remove(struct rows *rows, uint64_t key)
{
    uint32_t first = rows_find(rows, key, 0), last = first;
    while (last < rows->count && rows->at[last].key == key)
        free(rows->at[last++].data);
    if (last > first)
        memmove(&rows->at[first], &rows->at[last], (rows->count - last) * sizeof *rows->at);
    rows->count -= last - first;
}

static void rows_free(struct rows *rows)
{
    for (uint32_t i = 0; i < rows->count; i++)
        free(rows->at[i].data);
    free(rows->at);
    *rows = (struct rows){0};
}

static void rows_copy(struct rows *to, const struct rows *from)
{
    for (uint32_t i = 0; i < from->count; i++) {
        const struct row *row = &from->at[i];
        rows_put(to, row->key, row->kind, bytes_of(row->data, row->size));
        rows_get(to, row->key, row->kind)->damaged = row->damaged;
    }
}

/* ---- Tables: what one moment holds ---- */

struct tables {
    struct rows unfinished, finished, values;
};

static void tables_free(struct tables *tables)
{
    rows_free(&tables->unfinished);
    rows_free(&tables->finished);
    rows_free(&tables->values);
}

static void tables_copy(struct tables *to, const struct tables *from)
{
    rows_copy(&to->unfinished, &from->unfinished);
    rows_copy(&to->finished, &from->finished);
    rows_copy(&to->values, &from->values);
}

/* ---- Batches ---- */

struct change {
    struct store_change is; /* its bytes are copies */
    struct change *next;
};

struct batch {
    struct batch *next;
    struct change *first, **last;
    uint64_t newest; /* number of the last change, or of the last before */
    size_t bytes;
    struct clock_mark mark;
    struct blob *blob;
};

static struct batch *batch_new(uint64_t newest)
{
    struct batch *batch = calloc(1, sizeof *batch);
    assert(batch);
    batch->last = &batch->first;
    batch->newest = newest;
    batch->blob = blob_new(16);
    return batch;
}

static void change_free(struct change *change)
{
    free((void *)(uintptr_t)change->is.record.data);
    for (int kind = 0; kind < BLOB_KINDS; kind++)
        free((void *)(uintptr_t)change->is.values[kind].data);
    free(change);
}

static void batch_free(struct batch *batch)
{
    if (!batch)
        return;
    for (struct change *change = batch->first, *next; change; change = next) {
        next = change->next;
        change_free(change);
    }
    blob_release(batch->blob);
    free(batch);
}

static void put_values(struct rows *values, const struct store_change *change, uint64_t key)
{
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        uint64_t at = kind == BLOB_BODY && change->body_expiry_key ? change->body_expiry_key : key;
        if (change->values[kind].data)
            rows_put(values, at, kind, change->values[kind]);
    }
}

static void change_apply(struct tables *tables, const struct store_change *change)
{
    if (change->kind == STORE_PUT_UNFINISHED) {
        rows_put(&tables->unfinished, change->generation, 0, change->record);
        put_values(&tables->values, change, change->generation);
        return;
    }
    if (change->kind == STORE_FINISH || change->kind == STORE_REMOVE_UNFINISHED) {
        rows_remove(&tables->unfinished, change->generation);
        rows_remove(&tables->values, change->generation);
    }
    if (change->kind == STORE_FINISH) {
        rows_put(&tables->finished, change->expiry_key, 0, change->record);
        put_values(&tables->values, change, change->expiry_key);
    }
    if (change->kind == STORE_REMOVE_FINISHED) {
        rows_remove(&tables->finished, change->expiry_key);
        rows_remove(&tables->values, change->expiry_key);
        rows_remove(&tables->values, change->body_expiry_key);
    }
}

struct swept {
    struct store_swept *at;
    uint32_t count;
};

/* What readers see goes, and from the disk the same. */
static void tables_sweep(struct tables *tables, struct tables *disk, const uint8_t *secret, uint64_t sweep_s,
                         uint32_t slice, struct swept *swept)
{
    struct rows *finished = &tables->finished, *values = &tables->values;
    uint32_t left = slice;
    while (left && finished->count && expiry_key_seconds(finished->at[0].key) <= sweep_s) {
        struct record head;
        struct row *row = &finished->at[0];
        uint64_t expiry_key = row->key;
        const struct bytes record = bytes_of(row->data, row->size);
        assert(record_decode_head(record, &head) == RECORD_GOOD);
        swept->at[swept->count++] =
            (struct store_swept){head.hash, expiry_key, record_namespace_hash(secret, record_namespace(record)),
                                 (uint64_t)record.size + head.values_bytes};
        rows_remove(finished, expiry_key);
        rows_remove(values, expiry_key);
        rows_remove(&disk->finished, expiry_key);
        rows_remove(&disk->values, expiry_key);
        left--;
    }
    /* Bodies that go before their records: places lie above all lives. */
    for (uint32_t i = 0; left && i < values->count;) {
        uint64_t key = values->at[i].key;
        bool over = key > UINT64_C(1) << 53 && expiry_key_seconds(key) <= sweep_s;
        if (over) {
            rows_remove(values, key);
            rows_remove(&disk->values, key);
        } else {
            i++;
        }
        left -= over;
    }
}

/* Applied to the disk, then to what readers see: with the same result, since it is the same batches in the same order.
 */
static void batch_apply(struct tables *tables, const struct batch *batch)
{
    for (const struct change *change = batch->first; change; change = change->next)
        change_apply(tables, &change->is);
}

/* ---- Disks ---- */

struct disk {
    struct disk *next;
    char directory[128];
    struct tables tables;
    struct store_facts facts;
    uint64_t newest;      /* number of the last durable change */
    uint64_t expiry_keys; /* ever given */
    int refuse_open;
    bool refuse_load;
    struct store *open; /* the lock */
};

static struct disk *disks;

static struct disk *disk_of(const char *directory)
{
    struct disk *disk = disks;
    while (disk && strcmp(disk->directory, directory) != 0)
        disk = disk->next;
    if (disk)
        return disk;
    disk = calloc(1, sizeof *disk);
    assert(disk && strlen(directory) < sizeof disk->directory);
    strcpy(disk->directory, directory);
    disk->facts.store_id = 4711;
    for (int i = 0; i < RECORD_SECRET_BYTES; i++)
        disk->facts.secret[i] = (uint8_t)(i * 37 + 11);
    disk->newest = FAKE_FIRST_NUMBER - 1;
    disk->next = disks;
    disks = disk;
    return disk;
}

void fake_disks_free(void)
{
    while (disks) {
        struct disk *next = disks->next;
        assert(!disks->open);
        tables_free(&disks->tables);
        free(disks);
        disks = next;
    }
}

void fake_disk_refuse_open(const char *directory, int exit_code)
{
    disk_of(directory)->refuse_open = exit_code;
}

void fake_disk_refuse_load(const char *directory, bool refuse)
{
    disk_of(directory)->refuse_load = refuse;
}

struct fake_disk_counts fake_disk_counts(const char *directory)
{
    const struct tables *tables = &disk_of(directory)->tables;
    return (struct fake_disk_counts){tables->unfinished.count, tables->finished.count, tables->values.count};
}

uint64_t fake_disk_unfinished(const char *directory, uint32_t n)
{
    const struct rows *rows = &disk_of(directory)->tables.unfinished;
    return n < rows->count ? rows->at[n].key : 0;
}

uint64_t fake_disk_finished(const char *directory, uint32_t n)
{
    const struct rows *rows = &disk_of(directory)->tables.finished;
    return n < rows->count ? rows->at[n].key : 0;
}

/* ---- The store ---- */

/* What readers were given, until the end of the turn. */
struct lent {
    struct lent *next;
    uint8_t *data;
};

struct store {
    struct disk *disk;
    struct tables readable;
    struct rows newest; /* the record that each life was given last */
    struct batch *open, *flight;
    struct batch *unapplied, **unapplied_last; /* durable; oldest first */
    uint64_t durable, applied;                 /* as polled */
    bool applying;                             /* store_apply began */
    uint64_t applying_sweep_s;
    const struct batch *applying_last;   /* up to this one; NULL: only sweeps */
    bool finished, applied_done, failed; /* what the next poll says */
    bool full, no_room, lazy, reads_ahead;
    uint64_t used_bytes, quota_bytes;
    uint32_t sweep_slice;
    struct store_swept *swept;
    struct lent *lent;
    void (*wake)(void *);
    void *wake_context;
    void (*observe)(void *, const struct store_change *);
    void *observe_context;
};

static struct store *refuse(struct failure *error, int exit_code, const char *message)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%s", message);
    return NULL;
}

struct store *store_open(const struct store_options *options, struct failure *error)
{
    struct disk *disk = disk_of(options->directory);
    if (disk->open)
        return refuse(error, 75, "another store holds this directory");
    if (disk->refuse_open)
        return refuse(error, disk->refuse_open, "refused, as told");
    struct store *store = calloc(1, sizeof *store);
    assert(store);
    store->disk = disk;
    disk->open = store;
    tables_copy(&store->readable, &disk->tables);
    rows_copy(&store->newest, &disk->tables.unfinished);
    store->open = batch_new(disk->newest);
    store->unapplied_last = &store->unapplied;
    store->durable = store->applied = disk->newest;
    store->sweep_slice = SWEEP_SLICE;
    store->used_bytes = 4096;
    store->quota_bytes = 1 << 30;
    store->wake = options->wake;
    store->wake_context = options->wake_context;
    return store;
}

static void store_free(struct store *store)
{
    store_end_turn(store);
    store->disk->open = NULL;
    tables_free(&store->readable);
    rows_free(&store->newest);
    batch_free(store->open);
    batch_free(store->flight);
    while (store->unapplied) {
        struct batch *next = store->unapplied->next;
        batch_free(store->unapplied);
        store->unapplied = next;
    }
    free(store->swept);
    free(store);
}

void store_close(struct store *store)
{
    if (store)
        fake_store_crash(store, true);
}

const struct store_facts *store_facts(const struct store *store)
{
    return &store->disk->facts;
}

uint64_t store_records(struct store *store)
{
    return store->readable.unfinished.count + store->readable.finished.count;
}

bool store_load(struct store *store, const struct store_visitor *visitor, struct failure *error)
{
    const struct tables *tables = &store->readable;
    if (store->disk->refuse_load)
        return refuse(error, 65, "a bad head, as told"), false;
    for (uint32_t i = 0; i < tables->unfinished.count; i++) {
        const struct row *row = &tables->unfinished.at[i];
        visitor->unfinished(visitor->context, row->key, bytes_of(row->data, row->size));
    }
    for (uint32_t i = 0; i < tables->finished.count; i++) {
        const struct row *row = &tables->finished.at[i];
        struct record head = {0};
        assert(record_decode_head(bytes_of(row->data, row->size), &head) == RECORD_GOOD);
        head.id.namespace = record_namespace(bytes_of(row->data, row->size));
        visitor->finished(visitor->context, row->key, &head, row->size);
    }
    return true;
}

/* ---- Changing ---- */

uint64_t store_newest_number(const struct store *store)
{
    return store->open->newest;
}

uint64_t store_next_number(const struct store *store)
{
    return store->open->newest + 1;
}

uint64_t store_durable_number(const struct store *store)
{
    return store->durable;
}

/* A change's base is what its life was given last, byte for byte. */
static void check_base(const struct store *store, const struct store_change *change)
{
    const struct row *row = rows_get(&store->newest, change->generation, 0);
    assert((row != NULL) == (change->base.data != NULL));
    assert(!row || bytes_equal(bytes_of(row->data, row->size), change->base));
}

static void keep_newest(struct store *store, const struct store_change *change)
{
    if (change->kind == STORE_PUT_UNFINISHED)
        rows_put(&store->newest, change->generation, 0, change->record);
    else if (change->kind != STORE_TOUCH)
        rows_remove(&store->newest, change->generation);
}

/* What the engine owes the store. */
static void check_change(const struct store *store, const struct store_change *change)
{
    struct record record;
    assert(change->number == store_next_number(store));
    if (change->kind == STORE_TOUCH)
        return;
    assert(change->generation != 0 && change->generation <= change->number);
    if (change->kind == STORE_FINISH || change->kind == STORE_REMOVE_FINISHED)
        assert(change->expiry_key >> 53 != 0);
    if (change->kind == STORE_FINISH)
        assert(!rows_get(&store->readable.finished, change->expiry_key, 0));
    if (change->kind != STORE_PUT_UNFINISHED && change->kind != STORE_FINISH)
        return;
    check_base(store, change);
    assert(record_decode(change->record, &record) == RECORD_GOOD);
    assert(record.generation == change->generation && record.revision == change->number);
    assert(record.body_expiry_key == change->body_expiry_key);
    assert(record.hash == record_hash(store->disk->facts.secret, &record.id));
    assert((record.state == RECORD_DONE) == (change->kind == STORE_FINISH));
    for (int kind = 1; kind < BLOB_KINDS; kind++)
        /* Only a checkpoint may be given empty, to replace one that was not. */
        assert(!change->values[kind].data || change->values[kind].size > 0 || kind == BLOB_CHECKPOINT);
}

static void keep_values(struct batch *batch, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    for (int kind = 1; kind < BLOB_KINDS; kind++) {
        struct bytes value = change->values[kind];
        if (!value.data)
            continue;
        uint32_t offset = blob_extend(batch->blob, value.size);
        memcpy(batch->blob->data + offset, value.data, value.size);
        batch->bytes += value.size;
        if (values)
            values[kind] = (struct slice){batch->blob, offset, value.size};
    }
}

void store_append(struct store *store, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    struct batch *batch = store->open;
    struct change *kept = calloc(1, sizeof *kept);
    assert(kept);
    check_change(store, change);
    keep_newest(store, change);
    kept->is = *change;
    kept->is.base = (struct bytes){0};
    kept->is.record.data = copy_of(change->record);
    for (int kind = 0; kind < BLOB_KINDS; kind++)
        kept->is.values[kind].data = change->values[kind].data ? copy_of(change->values[kind]) : NULL;
    if (values)
        memset(values, 0, sizeof(struct slice[BLOB_KINDS]));
    keep_values(batch, change, values);
    *batch->last = kept;
    batch->last = &kept->next;
    batch->newest = change->number;
    batch->bytes += change->record.size;
    if (store->observe && change->kind != STORE_TOUCH)
        store->observe(store->observe_context, &kept->is);
}

void store_touch(struct store *store)
{
    const struct store_change change = {.kind = STORE_TOUCH, .number = store_next_number(store)};
    store_append(store, &change, NULL);
}

bool store_busy(const struct store *store)
{
    return store->flight != NULL;
}

bool store_pending(const struct store *store)
{
    return store->open->first != NULL;
}

bool store_ready(const struct store *store)
{
    return !store_busy(store) && !store->no_room;
}

size_t store_unflushed_bytes(const struct store *store)
{
    return store->open->bytes + (store->flight ? store->flight->bytes : 0);
}

uint64_t store_backlog_bytes(const struct store *store)
{
    uint64_t bytes = 0;

    for (const struct batch *batch = store->unapplied; batch; batch = batch->next)
        bytes += batch->bytes;
    return bytes;
}

void store_submit(struct store *store, const struct clock_mark *mark)
{
    assert(store_pending(store) && store_ready(store));
    store->flight = store->open;
    store->flight->mark = *mark;
    store->open = batch_new(store->flight->newest);
}

bool store_applying(const struct store *store)
{
    return store->applying;
}

uint64_t store_apply(struct store *store, uint64_t sweep_s, uint64_t boot_ms)
{
    (void)boot_ms;
    assert(!store->applying);
    if (!store->unapplied && !sweep_s)
        return UINT64_MAX;
    /* What was told to be swept is the engine's no more. */
    free(store->swept);
    store->swept = NULL;
    store->applying = true;
    store->applying_sweep_s = sweep_s;
    store->applying_last = NULL;
    for (const struct batch *batch = store->unapplied; batch; batch = batch->next)
        store->applying_last = batch;
    if (!store->lazy)
        fake_store_apply(store);
    return UINT64_MAX;
}

/* The batch in flight is on the disk. */
static void commit(struct store *store)
{
    struct batch *batch = store->flight;
    assert(batch && !store->finished);
    batch_apply(&store->disk->tables, batch);
    store->disk->newest = batch->newest;
    store->disk->facts.mark = batch->mark;
}

static void poll_durable(struct store *store, struct store_event *event)
{
    struct batch *batch = store->flight;
    store->finished = false;
    store->flight = NULL;
    *store->unapplied_last = batch;
    store->unapplied_last = &batch->next;
    store->durable = event->durable = batch->newest;
}

static void poll_applied(struct store *store, struct store_event *event)
{
    struct swept swept = {.at = calloc(store->sweep_slice, sizeof(struct store_swept))};
    bool last = !store->applying_last;
    assert(swept.at);
    store->applying = store->applied_done = false;
    if (store->applying_sweep_s)
        tables_sweep(&store->readable, &store->disk->tables, store->disk->facts.secret, store->applying_sweep_s,
                     store->sweep_slice, &swept);
    while (!last) {
        struct batch *batch = store->unapplied;
        last = batch == store->applying_last;
        store->unapplied = batch->next;
        store->applied = batch->newest;
        batch_apply(&store->readable, batch);
        batch_free(batch);
    }
    if (!store->unapplied)
        store->unapplied_last = &store->unapplied;
    event->applied = store->applied;
    event->swept = store->swept = swept.at;
    event->swept_count = swept.count;
}

bool store_poll(struct store *store, struct store_event *event)
{
    if (!store->finished && !store->applied_done && !store->failed)
        return false;
    *event = (struct store_event){.failed = store->failed, .durable = store->durable, .applied = store->applied};
    if (store->failed) {
        snprintf(event->message, sizeof event->message, "a commit failed, as told");
        return true;
    }
    if (store->finished)
        poll_durable(store, event);
    if (store->applied_done)
        poll_applied(store, event);
    return true;
}

/* ---- Places ---- */

uint64_t store_expiry_key(struct store *store, uint64_t expires_ms, uint64_t keep_ms)
{
    uint64_t step = 1, seconds = (expires_ms + 999) / 1000;
    while (step * 2 <= keep_ms / 8000)
        step *= 2;
    seconds = (seconds + step - 1) / step * step;
    return seconds << EXPIRY_KEY_COUNT_BITS | ++store->disk->expiry_keys;
}

uint64_t store_first_expiry_key(const struct store *store)
{
    const struct rows *finished = &store->readable.finished, *values = &store->readable.values;
    const uint32_t first_value = rows_find(values, UINT64_C(1) << 53, 0);
    uint64_t first = finished->count ? finished->at[0].key : 0;
    if (first_value < values->count && (!first || values->at[first_value].key < first))
        first = values->at[first_value].key;
    return first;
}

/* ---- Reading ---- */

/* A copy that goes stale at the end of the turn. */
static struct bytes lend(struct store *store, const struct row *row)
{
    struct lent *lent = malloc(sizeof *lent);
    assert(lent);
    *lent = (struct lent){store->lent, copy_of(bytes_of(row->data, row->size))};
    if (row->damaged)
        lent->data[RECORD_HEAD_BYTES] ^= 0xff;
    store->lent = lent;
    return bytes_of(lent->data, row->size);
}

static const struct tables *read_from(const struct store *store)
{
    return store->reads_ahead ? &store->disk->tables : &store->readable;
}

enum store_read store_read_finished(struct store *store, uint64_t expiry_key, struct bytes *record)
{
    const struct row *row = rows_get(&read_from(store)->finished, expiry_key, 0);
    if (!row)
        return STORE_MISSING;
    *record = lend(store, row);
    return STORE_FOUND;
}

enum store_read store_read_value(struct store *store, uint64_t key, enum blob_kind kind, uint32_t size, uint8_t *out)
{
    const struct row *row = rows_get(&read_from(store)->values, key, kind);
    if (!row)
        return STORE_MISSING;
    if (row->damaged || row->size != size)
        return STORE_DAMAGED;
    memcpy(out, row->data, size);
    return STORE_FOUND;
}

uint64_t store_list_finished(struct store *store, uint64_t expiry_key, uint32_t records_max,
                             bool (*visit)(void *context, uint64_t expiry_key, struct bytes record), void *context)
{
    const struct rows *rows = &read_from(store)->finished;
    for (uint32_t i = rows_find(rows, expiry_key, 0), seen = 0; i < rows->count; i++, seen++)
        if (seen == records_max || !visit(context, rows->at[i].key, lend(store, &rows->at[i])))
            return rows->at[i].key;
    return 0;
}

void store_end_turn(struct store *store)
{
    while (store->lent) {
        struct lent *next = store->lent->next;
        free(store->lent->data);
        free(store->lent);
        store->lent = next;
    }
}

struct store_space store_space(const struct store *store, uint64_t unfinished)
{
    enum { UNFINISHED_BYTES = 8192 };

    return (struct store_space){.used_bytes = store->used_bytes,
                                .needed_bytes = store->used_bytes + unfinished * UNFINISHED_BYTES,
                                .unfinished_bytes = UNFINISHED_BYTES,
                                .quota_bytes = store->quota_bytes,
                                .full = store->full};
}

bool store_takes(const struct store *store, uint64_t values_bytes)
{
    (void)store, (void)values_bytes;
    return true;
}

/* ---- The thread, and trouble ---- */

void fake_store_finish(struct store *store)
{
    commit(store);
    store->finished = true;
    if (store->wake)
        store->wake(store->wake_context);
}

void fake_store_lazy(struct store *store, bool lazy)
{
    store->lazy = lazy;
}

void fake_store_apply(struct store *store)
{
    assert(store->applying);
    store->applied_done = true;
    if (store->wake)
        store->wake(store->wake_context);
}

bool fake_store_lags(const struct store *store)
{
    return store->applying && !store->applied_done;
}

void fake_store_set_no_room(struct store *store, bool no_room)
{
    store->no_room = no_room;
}

void fake_store_fail(struct store *store)
{
    store->failed = true;
}

void fake_store_read_ahead(struct store *store, bool ahead)
{
    store->reads_ahead = ahead;
}

void fake_store_crash(struct store *store, bool flight_survives)
{
    if (store->flight && flight_survives && !store->finished)
        commit(store);
    store_free(store);
}

void fake_store_set_space(struct store *store, uint64_t used_bytes, uint64_t quota_bytes)
{
    store->used_bytes = used_bytes;
    store->quota_bytes = quota_bytes;
}

void fake_store_set_full(struct store *store, bool full)
{
    store->full = full;
}

void fake_store_sweep_slice(struct store *store, uint32_t records)
{
    store->sweep_slice = records;
}

static bool damage(struct rows *rows, uint64_t key, enum blob_kind kind)
{
    struct row *row = rows_get(rows, key, kind);
    if (row)
        row->damaged = true;
    return row != NULL;
}

/* In what a start would load, the bytes themselves are damaged. */
static bool damage_record(struct tables *tables, uint64_t key)
{
    struct row *row = rows_get(&tables->unfinished, key, 0);
    if (row)
        row->data[RECORD_HEAD_BYTES] ^= 0xff;
    return row || damage(&tables->finished, key, 0);
}

bool fake_disk_damage(const char *directory, uint64_t key)
{
    struct disk *disk = disk_of(directory);
    const bool readable = disk->open && damage_record(&disk->open->readable, key);
    return damage_record(&disk->tables, key) || readable;
}

bool fake_disk_damage_value(const char *directory, uint64_t key, enum blob_kind kind)
{
    struct disk *disk = disk_of(directory);
    const bool readable = disk->open && damage(&disk->open->readable.values, key, kind);
    return damage(&disk->tables.values, key, kind) || readable;
}

void fake_store_observe(struct store *store, void (*observe)(void *context, const struct store_change *change),
                        void *context)
{
    store->observe = observe;
    store->observe_context = context;
}
