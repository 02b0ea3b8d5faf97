/* The floor of the store: what a daemon would hand to it, without network, protocol and rules. A claim is an unfinished
 * record as the daemon makes it, its outcome the finished one, a replay a look at that. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench/batches.h"
#include "bench/pool.h"
#include "daemon/record/record.h"
#include "daemon/store/store.h"
#include "proto/frame.h"

enum { LEASE_MS = 30000, FINGERPRINT_BYTES = 32, BODY_TAG = 0x22, BODY_AROUND_BYTES = 11 };
#define KEEP_MS     (24ull * 3600 * 1000)
#define QUOTA_BYTES (1ull << 40)

/* Where a key's outcome is, for who asks again. */
struct stored {
    uint64_t expiry_key, number;
};

static struct {
    struct store *store;
    char folder[512];
    int wake;
    struct clock_mark mark; /* as of the last batch */
    uint64_t begun_ms;      /* of all operations: what is finished says the same as what was claimed */
    uint64_t applied;
    uint64_t claimed_key; /* the newest claim's */
    uint64_t first_key, keys;
    struct stored *stored; /* of the keys to ask for again */
    uint32_t body_bytes;
    uint8_t *body;
} floor_lmdb;

static void on_wake(void *context)
{
    const uint64_t once = 1;

    (void)context;
    if (write(floor_lmdb.wake, &once, sizeof once) < 0)
        abort();
}

static void on_unfinished(void *context, uint64_t generation, struct bytes record)
{
    (void)context, (void)generation, (void)record;
}

static void on_finished(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes)
{
    (void)context, (void)expiry_key, (void)head, (void)record_bytes;
}

static void read_clock(void)
{
    clock_read_mark(&floor_lmdb.mark);
    floor_lmdb.mark.retention_ms = floor_lmdb.mark.wall_ms;
}

static bool open_store(const struct load_options *options)
{
    const struct store_options how = {.directory = floor_lmdb.folder,
                                      .quota_bytes = QUOTA_BYTES,
                                      .values_bytes_max = options->body_bytes + BODY_AROUND_BYTES,
                                      .wake = on_wake};
    const struct store_visitor nothing = {on_unfinished, on_finished, NULL};
    struct failure error;

    snprintf(floor_lmdb.folder, sizeof floor_lmdb.folder, "%s/idem-bench-XXXXXX", options->address);
    floor_lmdb.wake = eventfd(0, EFD_CLOEXEC);
    if (floor_lmdb.wake < 0 || !mkdtemp(floor_lmdb.folder)) {
        fprintf(stderr, "idem-bench: floor: %s: %s\n", floor_lmdb.folder, strerror(errno));
        floor_lmdb.folder[0] = '\0';
        return false;
    }
    floor_lmdb.store = store_open(&how, &error);
    if (!floor_lmdb.store || !store_load(floor_lmdb.store, &nothing, &error)) {
        fprintf(stderr, "idem-bench: floor: %s\n", error.message);
        return false;
    }
    return true;
}

static bool open_floor(const struct load_options *options)
{
    const bool asks = options->scenario == LOAD_REPLAY || options->scenario == LOAD_MIXED;

    floor_lmdb.first_key = options->first_key;
    floor_lmdb.keys = asks ? options->keys : 0;
    floor_lmdb.stored = calloc(floor_lmdb.keys + 1, sizeof *floor_lmdb.stored);
    floor_lmdb.body_bytes = options->body_bytes;
    floor_lmdb.body = malloc(options->body_bytes + BODY_AROUND_BYTES);
    if (!floor_lmdb.stored || !floor_lmdb.body)
        return false;
    read_clock();
    floor_lmdb.begun_ms = floor_lmdb.mark.wall_ms;
    return open_store(options);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

static void close_floor(void)
{
    store_close(floor_lmdb.store);
    if (floor_lmdb.folder[0])
        nftw(floor_lmdb.folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    if (floor_lmdb.wake >= 0)
        close(floor_lmdb.wake);
    free(floor_lmdb.stored);
    free(floor_lmdb.body);
}

/* ---- Requests ---------------------------------------------------------------------------- */

/* The strings that a record points to. */
struct texts {
    uint8_t key[POOL_KEY_BYTES], attempt[16];
};

static struct record record_of(const struct target_request *request, uint64_t number, struct texts *texts)
{
    struct record record = {.id.namespace = bytes_of("bench", 5),
                            .id.key = bytes_of(texts->key, sizeof texts->key),
                            .state = RECORD_RUNNING,
                            .generation = request->fence ? request->fence : number,
                            .fence = request->fence ? request->fence : number,
                            .revision = number,
                            .attempt = 1,
                            .lease_ms = LEASE_MS,
                            .begun_ms = floor_lmdb.begun_ms,
                            .operation = bytes_of("POST /charges", 13),
                            .attempt_id = bytes_of(texts->attempt, sizeof texts->attempt),
                            .owner = bytes_of("bench pid 4711", 14)};

    pool_put_key(texts->key, request->key);
    pool_put_attempt(texts->attempt, request->attempt);
    record.fingerprint = bytes_of(pool_value(request->key, POOL_FINGERPRINT), FINGERPRINT_BYTES);
    record.hash = record_hash(store_facts(floor_lmdb.store)->secret, &record.id);
    return record;
}

/* `before`: the operation's record so far, as a daemon has it in memory; NULL: it has none. */
static void append(enum store_change_kind kind, const struct record *record, const struct record *before,
                   struct store_change *change)
{
    uint8_t encoded[RECORD_BYTES_MAX], base[RECORD_BYTES_MAX];
    struct slice values[BLOB_KINDS] = {{0}};

    change->kind = kind;
    change->number = record->revision;
    change->generation = record->generation;
    change->record = bytes_of(encoded, record_encode(record, encoded));
    if (before)
        change->base = bytes_of(base, record_encode(before, base));
    store_append(floor_lmdb.store, change, values);
}

static void claim(const struct target_request *request, uint64_t *fence)
{
    struct texts texts;
    struct store_change change = {0};
    const struct record record = record_of(request, store_next_number(floor_lmdb.store), &texts);

    *fence = 0;
    if (request->key == floor_lmdb.claimed_key) /* the hot key: it has its owner */
        return;
    floor_lmdb.claimed_key = request->key;
    append(STORE_PUT_UNFINISHED, &record, NULL, &change);
    *fence = record.fence;
}

/* The body as it stands in an Outcome on the wire: nothing where it is empty. */
static struct bytes body_field(uint64_t key)
{
    size_t size;

    if (floor_lmdb.body_bytes == 0)
        return (struct bytes){0};
    floor_lmdb.body[0] = BODY_TAG;
    size = 1 + frame_put_varint(floor_lmdb.body + 1, floor_lmdb.body_bytes);
    memcpy(floor_lmdb.body + size, pool_value(key, POOL_BODY), floor_lmdb.body_bytes);
    return bytes_of(floor_lmdb.body, (uint32_t)size + floor_lmdb.body_bytes);
}

static void complete(const struct target_request *request)
{
    const uint64_t number = store_next_number(floor_lmdb.store), at = request->key - floor_lmdb.first_key;
    const struct bytes body = body_field(request->key);
    struct texts texts;
    struct record record = record_of(request, number, &texts);
    const struct record claimed = record;
    struct store_change change = {0};

    record.state = RECORD_DONE;
    record.done_ms = floor_lmdb.mark.wall_ms;
    record.keep_ms = KEEP_MS;
    record.expires_ms = record.body_expires_ms = floor_lmdb.mark.retention_ms + KEEP_MS;
    record.outcome_kind = 1;
    record.outcome_code = 200;
    record.body_bytes = floor_lmdb.body_bytes;
    record.body_field_bytes = body.size;
    if (record_has_inline_room(&record, body.size))
        record.inline_values = body;
    else
        change.values[BLOB_BODY] = body;
    change.expiry_key = store_expiry_key(floor_lmdb.store, record.expires_ms, KEEP_MS);
    if (at < floor_lmdb.keys)
        floor_lmdb.stored[at] = (struct stored){change.expiry_key, number};
    append(STORE_FINISH, &record, &claimed, &change);
}

/* What was not applied yet a daemon has in memory. */
static bool replay(const struct target_request *request)
{
    const struct stored *stored = &floor_lmdb.stored[request->key - floor_lmdb.first_key];
    struct record record;
    struct bytes encoded;

    if (stored->number > floor_lmdb.applied)
        return true;
    if (store_read_finished(floor_lmdb.store, stored->expiry_key, &encoded) != STORE_FOUND ||
        record_decode(encoded, &record) != RECORD_GOOD)
        return false;
    return record.inline_values.size == record.body_field_bytes ||
           store_read_value(floor_lmdb.store, stored->expiry_key, BLOB_BODY, record.body_field_bytes,
                            floor_lmdb.body) == STORE_FOUND;
}

static bool put(const struct target_request *request, uint64_t *fence)
{
    switch (request->step) {
    case STEP_CLAIM:
        claim(request, fence);
        return true;
    case STEP_COMPLETE:
        if (request->fence)
            complete(request);
        return true;
    default:
        return replay(request);
    }
}

/* Takes what the store has to say; waits for it where `wait`. False: it failed. */
static bool poll_store(bool wait)
{
    struct store_event event;
    uint64_t times;

    while (!store_poll(floor_lmdb.store, &event)) {
        if (!wait)
            return true;
        if (read(floor_lmdb.wake, &times, sizeof times) < 0 && errno != EINTR)
            return false;
    }
    if (event.failed) {
        fprintf(stderr, "idem-bench: floor: %s\n", event.message);
        return false;
    }
    floor_lmdb.applied = event.applied;
    return true;
}

/* Waits until the store has nothing in flight; the tables follow as they do in the daemon. */
static bool flush(void)
{

    store_end_turn(floor_lmdb.store);
    if (!store_pending(floor_lmdb.store))
        return true;
    read_clock();
    while (!store_ready(floor_lmdb.store)) {
        if (!store_applying(floor_lmdb.store))
            store_apply(floor_lmdb.store, 0, floor_lmdb.mark.boot_ms);
        if (!poll_store(true))
            return false;
    }
    store_submit(floor_lmdb.store, &floor_lmdb.mark);
    while (store_busy(floor_lmdb.store))
        if (!poll_store(true))
            return false;
    if (!store_applying(floor_lmdb.store))
        store_apply(floor_lmdb.store, 0, floor_lmdb.mark.boot_ms);
    return poll_store(false);
}

static bool run(const struct load_options *options, struct load_result *result)
{
    static const struct batches lmdb = {open_floor, put, flush, close_floor};

    floor_lmdb.wake = -1;
    return batches_run(options, result, &lmdb);
}

const struct target target_floor_lmdb = {.name = "floor:lmdb:", .run = run};
