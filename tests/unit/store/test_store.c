/* The store itself: what is durable, what is read again, what goes, and what it refuses to open. */
#include "daemon/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <lmdb.h>
#include <xxhash.h>

#include "daemon/store/batch.h"
#include "daemon/store/check.h"
#include "daemon/store/wal.h"
#include "daemon/base/memory.h"
#include "daemon/store/slot.h"
#include "daemon/store/tables.h"
#include "tests/model/sim_disk.h"
#include "tests/unit/folder.h"

/* Stands before clock_read_mark in what is tested: the wall clock stands still, so that numbers go on over a start
 * without a gap, and can be one that was never set. */
void __wrap_clock_read_mark(struct clock_mark *mark);
void __real_clock_read_mark(struct clock_mark *mark);

static uint64_t wall_ms_instead;

void __wrap_clock_read_mark(struct clock_mark *mark)
{
    __real_clock_read_mark(mark);
    if (wall_ms_instead)
        mark->wall_ms = wall_ms_instead;
}

/* And before fallocate. */
int __wrap_fallocate(int fd, int mode, off_t offset, off_t length);
int __real_fallocate(int fd, int mode, off_t offset, off_t length);

static int fallocate_errno;
static off_t fallocate_end;     /* beyond it there is nothing to be had; 0: no end */
static off_t fallocate_refused; /* the most that was asked for at once, in vain */

int __wrap_fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (fallocate_errno == 0 && (fallocate_end == 0 || offset + length <= fallocate_end))
        return __real_fallocate(fd, mode, offset, length);
    if (fallocate_refused < length)
        fallocate_refused = length;
    errno = fallocate_errno ? fallocate_errno : ENOSPC;
    return -1;
}

struct world {
    CMUnitTestFunction test;
    bool passed;
    char folder[TEST_FOLDER_BYTES], data[96];
    int wake[2];
    bool accept_loss;
    struct store *store;
    uint64_t boot_ms;        /* as the store is told */
    uint64_t applied;        /* as it told last */
    const struct disk *disk; /* of the log; NULL: the system's */
    uint64_t base;           /* number of the first change of the workload */
    uint64_t values_bytes_max;
};

static void on_wake(void *context)
{
    const struct world *world = context;

    assert_int_equal(write(world->wake[1], "w", 1), 1);
}

static struct store *try_open(struct world *world, uint64_t quota_bytes, struct failure *error)
{
    const struct store_options options = {.directory = world->data,
                                          .quota_bytes = quota_bytes,
                                          .values_bytes_max = world->values_bytes_max,
                                          .accept_loss = world->accept_loss,
                                          .disk = world->disk,
                                          .wake = on_wake,
                                          .wake_context = world};

    return store_open(&options, error);
}

static void reopen(struct world *world)
{
    struct failure error;

    store_close(world->store);
    world->store = try_open(world, UINT64_C(1) << 33, &error);
    if (!world->store)
        fail_msg("%s", error.message);
}

static int set_up(void **state)
{
    struct world *world = mem_zero(1, sizeof *world);
    struct clock_mark mark;

    __real_clock_read_mark(&mark);
    wall_ms_instead = mark.wall_ms;
    world->test = *(const CMUnitTestFunction *)*state;
    test_folder(world->folder);
    if (pipe(world->wake) != 0)
        return -1;
    snprintf(world->data, sizeof world->data, "%s/data", world->folder);
    world->boot_ms = 1000;
    world->values_bytes_max = 1024 * 1024;
    reopen(world);
    *state = world;
    return 0;
}

static void remove_store(struct world *world)
{
    static const char *const names[] = {"data/store/data.mdb",  "data/store/lock.mdb", "data/store/log.0",
                                        "data/store/log.1",     "data/store/log.2",    "data/store/log.3",
                                        "data/store/log.4",     "data/store/log.5",    "data/store/log.6",
                                        "data/store/log.7",     "data/store",          "data/store.new/data.mdb",
                                        "data/store.new/log.0", "data/store.new"};
    char path[160];

    store_close(world->store);
    world->store = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", world->folder, names[i]);
        remove(path);
    }
}

static int tear_down(void **state)
{
    struct world *world = *state;

    wall_ms_instead = 0;
    fallocate_errno = 0;
    fallocate_end = 0;
    store_close(world->store);
    if (world->passed)
        test_folder_remove(world->folder);
    close(world->wake[0]);
    close(world->wake[1]);
    mem_free(world);
    return 0;
}

/* A test that fails does not return. */
static void run(void **state)
{
    struct world *world = *state;

    world->test(state);
    world->passed = true;
}

/* Waits for what a thread of the store has to say. */
static struct store_event wait_event(struct world *world)
{
    struct store_event event;
    char byte;

    while (!store_poll(world->store, &event))
        assert_int_equal(read(world->wake[0], &byte, 1), 1);
    assert_false(event.failed);
    world->applied = event.applied;
    return event;
}

/* Hands the open batch over and waits until it is durable. Returns the event, good until the next. */
static struct store_event flush(struct world *world)
{
    struct store_event event = {0};
    struct clock_mark mark;

    store_end_turn(world->store);
    clock_read_mark(&mark);
    mark.retention_ms = mark.wall_ms;
    store_submit(world->store, &mark);
    assert_true(store_busy(world->store));
    while (store_busy(world->store))
        event = wait_event(world);
    assert_int_equal(store_durable_number(world->store), store_newest_number(world->store));
    return event;
}

/* Waits until what was flushed is in the tables. Returns the event, good until the next. */
static struct store_event apply(struct world *world, uint64_t sweep_s)
{
    struct store_event event = {0};

    store_end_turn(world->store);
    if (store_applying(world->store))
        wait_event(world);
    if (store_apply(world->store, sweep_s, world->boot_ms) != UINT64_MAX)
        store_apply(world->store, sweep_s, world->boot_ms += 5000);
    if (store_applying(world->store))
        event = wait_event(world);
    return event;
}

static struct store_event commit(struct world *world)
{
    struct store_event event;

    flush(world);
    do /* another slot for the log may come first */
        event = apply(world, 0);
    while (event.applied != store_durable_number(world->store));
    return event;
}

static uint8_t *pattern(uint32_t size, unsigned seed)
{
    uint8_t *data = mem_alloc(size);

    for (uint32_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i * 7 + seed + (i >> 8));
    return data;
}

static struct record some_record(struct store *store, const char *key)
{
    const uint64_t number = store_next_number(store);

    return (struct record){.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of(key, (uint32_t)strlen(key))},
                           .hash = 77,
                           .state = RECORD_RUNNING,
                           .generation = number,
                           .fence = number,
                           .revision = number,
                           .attempt = 1,
                           .lease_ms = 1000,
                           .begun_ms = 1};
}

/* `base`: the record that the operation had before, or NULL. */
static void append_on(struct store *store, enum store_change_kind kind, const struct record *record,
                      uint64_t expiry_key, const struct bytes values[BLOB_KINDS], const struct record *base)
{
    uint8_t encoded[RECORD_BYTES_MAX], encoded_base[RECORD_BYTES_MAX];
    struct store_change change = {.kind = kind,
                                  .number = store_next_number(store),
                                  .generation = record->generation,
                                  .expiry_key = expiry_key,
                                  .body_expiry_key = record->body_expiry_key};
    struct slice slices[BLOB_KINDS] = {{0}};

    if (kind == STORE_PUT_UNFINISHED || kind == STORE_FINISH)
        change.record = bytes_of(encoded, record_encode(record, encoded));
    if (base)
        change.base = bytes_of(encoded_base, record_encode(base, encoded_base));
    for (int i = 1; values && i < BLOB_KINDS; i++)
        change.values[i] = values[i];
    store_append(store, &change, slices);
    for (int i = 1; i < BLOB_KINDS; i++)
        if (change.values[i].data)
            assert_true(bytes_equal(slice_bytes(slices[i]), change.values[i]));
}

static void append(struct store *store, enum store_change_kind kind, const struct record *record, uint64_t expiry_key,
                   const struct bytes values[BLOB_KINDS])
{
    append_on(store, kind, record, expiry_key, values, NULL);
}

static struct record finished(const struct record *record, struct store *store, uint64_t expires_ms)
{
    struct record done = *record;

    done.state = RECORD_DONE;
    done.revision = store_next_number(store);
    done.done_ms = 2;
    done.outcome_kind = 1;
    done.input_bytes = done.checkpoint_bytes = 0;
    done.expires_ms = done.body_expires_ms = expires_ms;
    return done;
}

struct seen {
    uint32_t unfinished, finished;
    uint64_t generation, expiry_key;
};

static void on_unfinished(void *context, uint64_t generation, struct bytes record)
{
    struct seen *seen = context;
    struct record read;

    assert_int_equal(record_decode(record, &read), RECORD_GOOD);
    seen->unfinished++;
    seen->generation = generation;
}

static void on_any_unfinished(void *context, uint64_t generation, struct bytes record)
{
    struct seen *seen = context;

    assert_true(record.size > 0);
    seen->unfinished++;
    seen->generation = generation;
}

static void on_finished(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes)
{
    struct seen *seen = context;

    (void)record_bytes;
    assert_int_equal(head->hash, 77);
    seen->finished++;
    seen->expiry_key = expiry_key;
}

static bool load(struct world *world, struct seen *seen, struct failure *error)
{
    const struct store_visitor visitor = {on_unfinished, on_finished, seen};

    *seen = (struct seen){0};
    return store_load(world->store, &visitor, error);
}

static struct seen look(struct world *world)
{
    struct seen seen;
    struct failure error;

    assert_true(load(world, &seen, &error));
    return seen;
}

static void a_new_store(void **state)
{
    struct world *world = *state;
    struct store_facts before = *store_facts(world->store), after;
    const uint64_t next = store_next_number(world->store);
    struct stat status;

    assert_true(next > UINT64_C(1700000000) << 20 && next < UINT64_C(1) << 53);
    assert_int_equal(stat(world->data, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    reopen(world);
    after = *store_facts(world->store);
    assert_int_equal(before.store_id, after.store_id);
    assert_memory_equal(before.secret, after.secret, sizeof before.secret);
    assert_int_equal(store_next_number(world->store), next);
    assert_int_equal(store_first_expiry_key(world->store), 0);
}

static void values_of_every_size(void **state)
{
    static const uint32_t sizes[] = {1, 100, 4071, 4072, 4073, 8144, 8145, 1 << 20, 16 << 20};
    struct world *world = *state;

    world->values_bytes_max = UINT64_C(17) << 20;
    reopen(world);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes values[BLOB_KINDS] = {{0}};
        uint8_t *data = pattern(sizes[i], (unsigned)i), *read = mem_alloc(sizes[i]), *more = mem_alloc(sizes[i] + 1);
        struct record record = some_record(world->store, "k");

        values[BLOB_INPUT] = bytes_of(data, sizes[i]);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, values);
        commit(world);
        for (int round = 0; round < 2; round++) {
            assert_int_equal(store_read_value(world->store, record.generation, BLOB_INPUT, sizes[i], read),
                             STORE_FOUND);
            assert_memory_equal(data, read, sizes[i]);
            /* What is longer than was stored is not there whole. */
            assert_int_not_equal(store_read_value(world->store, record.generation, BLOB_INPUT, sizes[i] + 1, more),
                                 STORE_FOUND);
            store_end_turn(world->store);
            if (round == 0)
                reopen(world);
        }
        mem_free(data);
        mem_free(read);
        mem_free(more);
    }
}

/* One operation's whole life, as records and values see it. */
static void a_generation(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k"), read;
    struct bytes values[BLOB_KINDS] = {{0}}, bytes;
    uint8_t *large = pattern(50000, 3), *out = mem_alloc(50000);

    record.input_bytes = 50000;
    values[BLOB_INPUT] = bytes_of(large, 50000);
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, values);
    commit(world);
    assert_int_equal(look(world).unfinished, 1);

    /* A shorter checkpoint replaces a longer one whole; the input stays. */
    record.checkpoint_bytes = 50000;
    record.revision = store_next_number(world->store);
    append(world->store, STORE_PUT_UNFINISHED, &record, 0,
           (struct bytes[BLOB_KINDS]){[BLOB_CHECKPOINT] = bytes_of(large, 50000)});
    record.revision = store_next_number(world->store);
    record.checkpoint_bytes = 10;
    append(world->store, STORE_PUT_UNFINISHED, &record, 0,
           (struct bytes[BLOB_KINDS]){[BLOB_CHECKPOINT] = bytes_of(large + 5, 10)});
    commit(world);
    assert_int_equal(store_read_value(world->store, record.generation, BLOB_CHECKPOINT, 10, out), STORE_FOUND);
    assert_memory_equal(out, large + 5, 10);
    assert_int_not_equal(store_read_value(world->store, record.generation, BLOB_CHECKPOINT, 50000, out), STORE_FOUND);
    assert_int_equal(store_read_value(world->store, record.generation, BLOB_INPUT, 50000, out), STORE_FOUND);
    store_end_turn(world->store);

    /* Finished: what was under the life goes. */
    struct record done = finished(&record, world->store, 1900000000000);
    done.body_field_bytes = 50000;
    const uint64_t expiry_key = store_expiry_key(world->store, done.expires_ms, 86400000);
    append(world->store, STORE_FINISH, &done, expiry_key,
           (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of(large, 50000)});
    commit(world);
    assert_int_equal(store_read_value(world->store, record.generation, BLOB_INPUT, 50000, out), STORE_MISSING);
    assert_int_equal(store_read_finished(world->store, expiry_key, &bytes), STORE_FOUND);
    assert_int_equal(record_decode(bytes, &read), RECORD_GOOD);
    assert_int_equal(read.revision, done.revision);
    assert_int_equal(store_read_value(world->store, expiry_key, BLOB_BODY, 50000, out), STORE_FOUND);
    store_end_turn(world->store);
    assert_int_equal(look(world).unfinished, 0);
    assert_int_equal(look(world).expiry_key, expiry_key);
    assert_int_equal(store_first_expiry_key(world->store), expiry_key);

    append(world->store, STORE_REMOVE_FINISHED, &done, expiry_key, NULL);
    commit(world);
    assert_int_equal(store_read_finished(world->store, expiry_key, &bytes), STORE_MISSING);
    assert_int_equal(store_read_value(world->store, expiry_key, BLOB_BODY, 50000, out), STORE_MISSING);
    store_end_turn(world->store);
    assert_int_equal(store_first_expiry_key(world->store), 0);
    mem_free(large);
    mem_free(out);
}

static void expiry_keys(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k");
    const uint64_t expires_ms = 1900000000001;
    uint64_t expiry_key = store_expiry_key(world->store, expires_ms, 86400000), other;

    /* Rounded up to a multiple of 8,192 s, the largest power of two not above an eighth of a day. */
    assert_int_equal(expiry_key_seconds(expiry_key) % 8192, 0);
    assert_true(expiry_key_seconds(expiry_key) * 1000 >= expires_ms);
    assert_true(expiry_key_seconds(expiry_key) * 1000 < expires_ms + 8192 * 1000);
    assert_int_equal(expiry_key_seconds(store_expiry_key(world->store, 1900000000000, 1000)), 1900000000);
    assert_int_equal(expiry_key_seconds(store_expiry_key(world->store, 1900000000001, 1000)), 1900000001);
    other = store_expiry_key(world->store, expires_ms, 86400000);
    assert_int_equal(other, expiry_key + 1);

    /* After a start the count goes on behind what is there, be it a record or a body's own place. */
    struct record done = finished(&record, world->store, expires_ms);
    append(world->store, STORE_FINISH, &done, other, NULL);
    commit(world);
    reopen(world);
    expiry_key = store_expiry_key(world->store, expires_ms, 86400000);
    assert_int_equal(expiry_key, other + 1);
    record = some_record(world->store, "k2");
    done = finished(&record, world->store, UINT64_C(1990000000000));
    done.body_field_bytes = 5;
    done.body_expiry_key = expiry_key;
    append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000),
           (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of("hello", 5)});
    commit(world);
    reopen(world);
    assert_int_equal(store_expiry_key(world->store, expires_ms, 86400000), expiry_key + 1);
}

static void sweeping(void **state)
{
    enum { SWEPT = 5000 };
    struct world *world = *state;
    uint8_t *body = pattern(9000, 1), *out = mem_alloc(9000);
    uint32_t swept = 0, slices = 0;
    uint64_t kept_expiry_key = 0, body_expiry_key = 0;
    struct store_event event;

    for (uint32_t i = 0; i < SWEPT; i++) {
        struct record record = some_record(world->store, "k");
        struct record done = finished(&record, world->store, 1800000000000 + i);
        append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000), NULL);
    }
    /* This one stays, and its body goes before it. */
    struct record record = some_record(world->store, "kept");
    struct record done = finished(&record, world->store, 1900000000000);
    body_expiry_key = done.body_expiry_key = store_expiry_key(world->store, 1800000003000, 1000);
    done.body_field_bytes = 9000;
    kept_expiry_key = store_expiry_key(world->store, done.expires_ms, 1000);
    append(world->store, STORE_FINISH, &done, kept_expiry_key,
           (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of(body, 9000)});
    commit(world);
    assert_int_equal(store_read_value(world->store, body_expiry_key, BLOB_BODY, 9000, out), STORE_FOUND);
    store_end_turn(world->store);
    assert_int_equal(expiry_key_seconds(store_first_expiry_key(world->store)), 1800000000);

    event = apply(world, 1799999999);
    assert_int_equal(event.swept_count, 0);
    do {
        event = apply(world, 1800000010);
        for (uint32_t i = 0; i < event.swept_count; i++)
            assert_int_equal(event.swept[i].hash, 77);
        swept += event.swept_count;
        slices++;
        assert_true(slices < 20);
    } while (expiry_key_seconds(store_first_expiry_key(world->store)) <= 1800000010);
    assert_int_equal(swept, SWEPT);
    assert_true(slices > 1);
    assert_int_equal(store_read_value(world->store, body_expiry_key, BLOB_BODY, 9000, out), STORE_MISSING);
    store_end_turn(world->store);
    assert_int_equal(store_first_expiry_key(world->store), kept_expiry_key);
    assert_int_equal(look(world).finished, 1);
    mem_free(body);
    mem_free(out);
}

/* Slices by themselves are a while apart, unless the first is overdue. */
static void sweeping_is_spread(void **state)
{
    enum { EVERY_MS = 20, SLICE = 4096 };
    struct world *world = *state;

    for (uint32_t i = 0; i < 4 * SLICE; i++) {
        struct record record = some_record(world->store, "k");
        struct record done = finished(&record, world->store, 1800000000000);
        append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000), NULL);
    }
    commit(world);
    const uint64_t now_ms = world->boot_ms + 1000;
    assert_int_equal(store_apply(world->store, 1800000000, now_ms), UINT64_MAX);
    assert_int_equal(wait_event(world).swept_count, SLICE);
    assert_int_equal(store_apply(world->store, 1800000001, now_ms + 1), now_ms + EVERY_MS);
    assert_false(store_applying(world->store));
    assert_int_equal(store_apply(world->store, 1800000001, now_ms + EVERY_MS), UINT64_MAX);
    assert_int_equal(wait_event(world).swept_count, SLICE);
    assert_int_equal(store_apply(world->store, 1800000002, now_ms + EVERY_MS), UINT64_MAX);
    assert_int_equal(wait_event(world).swept_count, SLICE);
}

static bool count_visits(void *context, uint64_t expiry_key, struct bytes record)
{
    uint32_t *left = context;

    (void)expiry_key, (void)record;
    return (*left)-- > 0;
}

static void listing(void **state)
{
    struct world *world = *state;
    uint64_t at = 0, first;
    uint32_t left, pages = 0;

    for (int i = 0; i < 10; i++) {
        struct record record = some_record(world->store, "k");
        struct record done = finished(&record, world->store, 1800000000000 + 1000 * (uint64_t)i);
        append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000), NULL);
    }
    commit(world);
    do {
        left = 3;
        at = store_list_finished(world->store, at, 100, count_visits, &left);
        pages++;
    } while (at);
    assert_int_equal(pages, 4); /* three, three, three, one: what a visit refused is not visited */
    left = 100;
    first = store_list_finished(world->store, 0, 4, count_visits, &left);
    assert_int_equal(left, 96);
    assert_int_equal(expiry_key_seconds(first), 1800000004);
    store_end_turn(world->store);
}

static void quota(void **state)
{
    struct world *world = *state;
    struct failure error;

    store_close(world->store);
    world->store = try_open(world, 64 << 20, &error);
    assert_non_null(world->store);
    assert_false(store_space(world->store, 0).full);
    /* Each unfinished operation holds two pages. */
    assert_false(store_space(world->store, 7000).full);
    assert_true(store_space(world->store, 8000).full);
    assert_true(store_space(world->store, 0).used_bytes < 1 << 20);
}

static void who_may_open(void **state)
{
    struct world *world = *state;
    struct failure error = {0};
    char path[160];

    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 75);
    store_close(world->store);
    world->store = NULL;

    /* A build that was cut off is built again. */
    snprintf(path, sizeof path, "%s/store", world->data);
    char left_over[200];
    snprintf(left_over, sizeof left_over, "%s/store.new", world->data);
    assert_int_equal(rename(path, left_over), 0);
    reopen(world);
    assert_int_not_equal(access(left_over, F_OK), 0);
    store_close(world->store);
    world->store = NULL;

    /* Something else, and no store. */
    assert_int_equal(rename(path, left_over), 0);
    snprintf(path, sizeof path, "%s/letter", world->data);
    fclose(fopen(path, "w"));
    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "letter"));
    snprintf(path, sizeof path, "%s/store", world->data);
    assert_int_equal(rename(left_over, path), 0);
    reopen(world);
}

/* Killed at any moment, a store has every change that it said was durable, and goes on above. */
static void killed(void **state)
{
    struct world *world = *state;

    for (int round = 0; round < 5; round++) {
        int said[2];
        uint64_t durable = 0, number;

        store_close(world->store);
        world->store = NULL;
        assert_int_equal(pipe(said), 0);
        const pid_t child = fork();
        if (child == 0) {
            reopen(world);
            for (;;) {
                for (int i = 0; i < 20; i++) {
                    struct record record = some_record(world->store, "k");
                    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
                }
                number = commit(world).durable;
                if (write(said[1], &number, sizeof number) != sizeof number)
                    _exit(1);
            }
        }
        close(said[1]);
        for (int i = 0; i < 20 + round * 7; i++)
            assert_int_equal(read(said[0], &durable, sizeof durable), sizeof durable);
        kill(child, SIGKILL);
        while (read(said[0], &number, sizeof number) == sizeof number)
            durable = number;
        waitpid(child, NULL, 0);
        close(said[0]);
        reopen(world);
        assert_true(store_durable_number(world->store) >= durable);
        assert_true(store_next_number(world->store) > durable);
        assert_true(look(world).generation >= durable);
    }
}

/* Nobody knows which numbers a lost file of the log held. */
static void fences_do_not_come_back_after_a_loss(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k");
    char path[160];

    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    flush(world);
    const uint64_t next = store_next_number(world->store);
    store_close(world->store);
    world->store = NULL;
    snprintf(path, sizeof path, "%s/store/log.0", world->data);
    assert_int_equal(remove(path), 0);
    struct failure error;
    assert_null(try_open(world, UINT64_C(1) << 33, &error));
    assert_int_equal(error.exit_code, 65);
    world->accept_loss = true;
    reopen(world);
    const uint64_t after = store_next_number(world->store);
    assert_true(after > next + 100000);
    world->accept_loss = false;
    reopen(world);
    assert_int_equal(store_next_number(world->store), after);
}

static void how_long_batches_took(void **state)
{
    struct world *world = *state;
    const uint64_t began_ns = clock_read_ns();
    struct record record = some_record(world->store, "k");
    struct store_event event;

    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    const uint64_t changed_ns = clock_read_ns();
    poll(NULL, 0, 5);
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    const uint64_t waited_ns = clock_read_ns() - changed_ns;
    event = flush(world);
    const uint64_t whole_ns = clock_read_ns() - began_ns;
    assert_true(event.queue_ns >= waited_ns);
    assert_true(event.flush_ns > 0);
    assert_true(event.queue_ns + event.flush_ns <= whole_ns);
    assert_int_equal(event.apply_ns, 0);
    event = apply(world, 0);
    assert_true(event.apply_ns > 0);
    assert_int_equal(event.flush_ns, 0);

    /* The next batch is opened while this one is in flight. */
    struct clock_mark mark;
    clock_read_mark(&mark);
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    store_submit(world->store, &mark);
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    event = wait_event(world);
    assert_true(event.flush_ns > 0);
    assert_true(event.queue_ns <= clock_read_ns() - began_ns);
}

static void checking(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k");
    FILE *out = tmpfile();

    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    commit(world);
    assert_int_equal(check_data(world->data, out), 75);
    store_close(world->store);
    world->store = NULL;
    assert_int_equal(check_data(world->data, out), 0);
    assert_int_equal(check_data(world->folder, out), 65);
    fclose(out);
    reopen(world);
}

/* A child's crash ends it, and is not this test's. */
static void crash_alone(void)
{
    static const int signals[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS};

    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
}

/* The data file as bytes, while no store has it open. */
struct file {
    uint8_t *data;
    size_t size;
    char path[160];
};

static struct file read_file(struct world *world)
{
    struct file file;
    struct stat status;

    store_close(world->store);
    world->store = NULL;
    snprintf(file.path, sizeof file.path, "%s/store/data.mdb", world->data);
    FILE *from = fopen(file.path, "rb");
    assert_non_null(from);
    assert_int_equal(fstat(fileno(from), &status), 0);
    file.size = (size_t)status.st_size;
    file.data = mem_alloc((uint32_t)file.size);
    assert_int_equal(fread(file.data, 1, file.size, from), file.size);
    fclose(from);
    return file;
}

static void write_file(const struct file *file)
{
    FILE *to = fopen(file->path, "r+b");

    assert_non_null(to);
    assert_int_equal(fwrite(file->data, 1, file->size, to), file->size);
    assert_int_equal(fclose(to), 0);
}

/* The next node of a table's page with this key, at or after `at`: where its key stands, 0 where there is none. Before
 * the key stand u32 bytes of the value, u16 flags, u16 bytes of the key; after it the value. */
static size_t find_node(const struct file *file, const char *key, size_t at, uint32_t *value_bytes)
{
    const size_t size = strlen(key);

    for (at = at < 8 ? 8 : at; at + size <= file->size; at++)
        if (memcmp(file->data + at, key, size) == 0 && file->data[at - 2] == size && file->data[at - 1] == 0) {
            memcpy(value_bytes, file->data + at - 8, sizeof *value_bytes);
            return at;
        }
    return 0;
}

/* Changes one byte after the key in every copy of the node. Returns the bytes of its value. */
static uint32_t flip_in_node(struct file *file, const char *key, uint32_t offset)
{
    uint32_t value_bytes = 0;

    for (size_t at = 0; (at = find_node(file, key, at, &value_bytes)); at += strlen(key))
        file->data[at + strlen(key) + offset] ^= 0x20;
    write_file(file);
    return value_bytes;
}

static void nothing_it_says_of_itself_is_taken_damaged(void **state)
{
    static const char *const names[] = {"format", "store_id", "secret", "state"};
    struct world *world = *state;
    struct file file = read_file(world);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint32_t bytes = 1;
        for (uint32_t offset = 0; offset < bytes; offset++) {
            struct failure error = {0};
            bytes = flip_in_node(&file, names[i], offset);
            assert_true(bytes >= 4);
            world->store = try_open(world, 1 << 30, &error);
            if (world->store)
                fail_msg("byte %u of %s was changed, and the store opens", offset, names[i]);
            assert_int_equal(error.exit_code, 65);
            assert_non_null(strstr(error.message, names[i]));
            flip_in_node(&file, names[i], offset);
        }
    }
    reopen(world);
    mem_free(file.data);
}

/* A whole record at a place at which it would be swept too early, or under a life that is another's: it cannot have
 * been put there. */
/* Puts the record of one life under another. The store is closed then. */
static void copy_unfinished(struct world *world, uint64_t from, uint64_t to)
{
    struct store_facts facts;
    struct tables_state state;
    struct failure error;
    struct tables tables;
    uint8_t record[RECORD_BYTES_MAX];
    MDB_val key = {sizeof from, &from}, value;
    MDB_txn *txn;
    char path[160];

    store_close(world->store);
    world->store = NULL;
    snprintf(path, sizeof path, "%s/store", world->data);
    assert_true(tables_open(&tables, path, 1 << 24, false, &error));
    assert_true(tables_read_facts(&tables, &facts, &state, &error));
    assert_int_equal(mdb_txn_begin(tables.env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_get(txn, tables.unfinished, &key, &value), 0);
    memcpy(record, value.mv_data, value.mv_size);
    key.mv_data = &to;
    value.mv_data = record;
    assert_int_equal(mdb_put(txn, tables.unfinished, &key, &value, 0), 0);
    assert_int_equal(tables_put_state(&tables, txn, &state), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    tables_close(&tables);
}

static void what_lies_at_a_wrong_place_is_damage(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "early"), done = finished(&record, world->store, 1900000000001);
    struct failure error = {0};
    struct seen seen;
    FILE *out = tmpfile();

    append(world->store, STORE_FINISH, &done, UINT64_C(1900000001) << 30, NULL);
    commit(world);
    assert_int_equal(look(world).finished, 1);
    done.generation = done.fence = done.revision = store_next_number(world->store);
    append(world->store, STORE_FINISH, &done, UINT64_C(1900000000) << 30, NULL);
    commit(world);
    assert_false(load(world, &seen, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "finished"));
    world->accept_loss = true;
    reopen(world);
    assert_int_equal(look(world).expiry_key, UINT64_C(1900000001) << 30);
    assert_int_equal(look(world).finished, 1);
    append(world->store, STORE_REMOVE_FINISHED, &done, UINT64_C(1900000000) << 30, NULL);
    commit(world);

    /* The same for one that is not finished. */
    world->accept_loss = false;
    reopen(world);
    record = some_record(world->store, "another's");
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    commit(world);
    copy_unfinished(world, record.generation, record.generation + 1);
    reopen(world);
    assert_false(load(world, &seen, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "unfinished"));
    store_close(world->store);
    world->store = NULL;
    assert_int_equal(check_data(world->data, out), 65);
    fclose(out);
    world->accept_loss = true;
    reopen(world);
    assert_int_equal(look(world).unfinished, 1);
    assert_int_equal(look(world).generation, record.generation);
}

static void a_new_store_needs_a_clock_that_is_set(void **state)
{
    struct world *world = *state;
    struct failure error = {0};

    /* One that is there goes on: its own clock never goes back. */
    wall_ms_instead = CLOCK_UNSET_BEFORE_MS - 1;
    reopen(world);
    remove_store(world);
    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 71);
    assert_non_null(strstr(error.message, "set the clock"));
    wall_ms_instead = CLOCK_UNSET_BEFORE_MS;
    reopen(world);
}

/* The store knows how the clocks stood to each other, over any number of starts: a first_sent_ms from when the wall
 * clock was right is not too old because it was years ahead once. */
static void what_the_clocks_were_is_known_after_a_start(void **state)
{
    const uint64_t ahead_ms = UINT64_C(2000000000000), hour_ms = 3600 * 1000;
    struct world *world = *state;

    wall_ms_instead = ahead_ms;
    remove_store(world);
    reopen(world);
    /* A commit an hour later, after the clock was set right. */
    const struct clock_mark mark = {.retention_ms = ahead_ms + hour_ms, .wall_ms = ahead_ms / 2, .boot_ms = 1};
    store_touch(world->store);
    store_submit(world->store, &mark);
    wait_event(world);
    for (int i = 0; i < 3; i++) {
        reopen(world);
        const struct clock_past *past = &store_facts(world->store)->past;
        const struct now now = {
            .retention_ms = mark.retention_ms + hour_ms, .wall_ms = mark.wall_ms + hour_ms, .past = past};
        assert_int_equal(past->count, 2);
        assert_int_equal(clock_latest(&now, mark.wall_ms), now.wall_ms);
        assert_int_equal(clock_latest(&now, ahead_ms + 1), now.retention_ms);
    }
    wall_ms_instead = 0;
}

static void on_signal(int number)
{
    (void)number;
    abort();
}

/* A signal waits for the loop, and is never taken by the store's thread. */
static void the_thread_takes_no_signal(void **state)
{
    struct world *world = *state;
    sigset_t one, pending;

    sigemptyset(&one);
    sigaddset(&one, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &one, NULL);
    signal(SIGTERM, on_signal);
    kill(getpid(), SIGTERM);
    store_touch(world->store);
    commit(world);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGTERM));
    signal(SIGTERM, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
}

enum { META_MAIN_ROOT_AT = 128, META_LAST_COMMIT_AT = 144 };

/* A bit of either commit's number is changed. LMDB may take the commit before the last for the last one: then what came
 * in between is in the log. */
static void no_commit_is_passed_for_the_last(void **state)
{
    struct world *world = *state;
    uint32_t opened = 0;

    for (uint32_t commits = 0; commits < 6; commits++) {
        struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
        commit(world);
        const uint64_t next = store_next_number(world->store);
        struct file file = read_file(world);
        for (int at = 0; at < 2 * 8; at++)
            for (int bit = 0; bit < 8; bit++) {
                struct failure error = {0};
                uint8_t *byte = file.data + at / 8 * 4096 + META_LAST_COMMIT_AT + at % 8;
                *byte ^= (uint8_t)(1 << bit);
                write_file(&file);
                world->store = try_open(world, 1 << 30, &error);
                if (world->store) {
                    assert_int_equal(store_next_number(world->store), next);
                    assert_int_equal(look(world).unfinished, commits + 1);
                    store_close(world->store);
                    world->store = NULL;
                    opened++;
                } else {
                    assert_int_equal(error.exit_code, 65);
                }
                *byte ^= (uint8_t)(1 << bit);
            }
        write_file(&file);
        mem_free(file.data);
        reopen(world);
    }
    assert_true(opened > 0);
}

/* Makes the commit before the last count. */
static void hide_last_commit(struct file *file)
{
    uint64_t commits[2];

    for (int i = 0; i < 2; i++)
        memcpy(&commits[i], file->data + i * 4096 + META_LAST_COMMIT_AT, sizeof commits[i]);
    const int newest = commits[1] > commits[0];
    commits[newest] -= 2;
    memcpy(file->data + newest * 4096 + META_LAST_COMMIT_AT, &commits[newest], sizeof commits[newest]);
    write_file(file);
}

/* The log went on over what was in the tables before this start, whose last commit counts no more: the one before has
 * it all too. */
static void a_start_commits_twice(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k");
    int status;

    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    commit(world);
    store_close(world->store);
    world->store = NULL;
    const pid_t child = fork();
    if (child == 0) {
        reopen(world);
        record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
        flush(world);
        raise(SIGKILL);
    }
    waitpid(child, &status, 0);
    struct file file = read_file(world);
    hide_last_commit(&file);
    reopen(world);
    assert_int_equal(look(world).unfinished, 2);
    mem_free(file.data);
}

/* A root that points where the one before it did. */
static void no_earlier_state_is_passed_for_the_last(void **state)
{
    struct world *world = *state;
    struct failure error = {0};

    for (int i = 0; i < 3; i++) {
        struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
        commit(world);
    }
    struct file file = read_file(world);
    uint64_t commits[2];
    for (int i = 0; i < 2; i++)
        memcpy(&commits[i], file.data + i * 4096 + META_LAST_COMMIT_AT, sizeof commits[i]);
    const int newest = commits[1] > commits[0];
    memcpy(file.data + newest * 4096 + META_MAIN_ROOT_AT, file.data + !newest * 4096 + META_MAIN_ROOT_AT, 8);
    write_file(&file);
    world->store = try_open(world, 1 << 30, &error);
    assert_null(world->store);
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "its state is not that of its last commit"));
    mem_free(file.data);
}

/* A file that grew under a larger quota: here it is said to, and the pages are a hole. */
static void a_file_above_the_map_has_room(void **state)
{
    enum { LAST_PAGE_AT = 136 };
    const uint64_t last_page = (UINT64_C(20) << 30) / 4096 - 1;
    struct world *world = *state;
    struct file file = read_file(world);
    struct failure error;

    for (int i = 0; i < 2; i++)
        memcpy(file.data + i * 4096 + LAST_PAGE_AT, &last_page, sizeof last_page);
    write_file(&file);
    assert_int_equal(truncate(file.path, (off_t)(last_page + 1) * 4096), 0);
    world->store = try_open(world, 64 << 20, &error);
    assert_non_null(world->store);
    for (int i = 0; i < 100; i++) {
        struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    }
    commit(world);
    mem_free(file.data);
}

static void what_cannot_be_allocated_ahead_is_full(void **state)
{
    static const struct {
        int code;
        bool full;
    } cases[] = {{ENOSPC, true}, {EDQUOT, true}, {EFBIG, true}, {EIO, true}, {EOPNOTSUPP, false}};
    struct world *world = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fallocate_errno = cases[i].code;
        reopen(world);
        assert_int_equal(store_space(world->store, 0).full, cases[i].full);
    }
}

/* On a full disk there is room for outcomes as long as what was kept lasts, and the disk is asked again though nothing
 * happens. */
static void a_full_disk(void **state)
{
    enum { MIB = 1024 * 1024 };
    struct world *world = *state;

    assert_false(store_space(world->store, 0).full);
    assert_true(store_takes(world->store, UINT64_C(1) << 40));
    fallocate_end = 40 * MIB;
    fallocate_refused = 0;
    reopen(world);
    /* Of what is refused ext4 keeps what it had found. */
    assert_true(fallocate_refused > 0 && fallocate_refused <= 4 * MIB);
    assert_true(store_space(world->store, 0).full);
    assert_true(store_takes(world->store, MIB));
    assert_true(store_takes(world->store, 11 * MIB));
    assert_false(store_takes(world->store, 13 * MIB));
    /* What waits to be applied counts. */
    uint8_t *data = pattern(MIB, 1);
    for (int i = 0; i < 6; i++) {
        const struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, MIB)});
    }
    assert_true(store_takes(world->store, 5 * MIB));
    assert_false(store_takes(world->store, 7 * MIB));
    mem_free(data);

    uint64_t again_ms = store_apply(world->store, 0, world->boot_ms);
    while (store_applying(world->store))
        wait_event(world);
    again_ms = store_apply(world->store, 0, world->boot_ms);
    assert_true(again_ms > world->boot_ms && again_ms <= world->boot_ms + 5000);
    fallocate_end = 0;
    store_apply(world->store, 0, again_ms);
    assert_true(store_applying(world->store));
    while (store_applying(world->store))
        wait_event(world);
    assert_false(store_space(world->store, 0).full);
}

/* check_data, whose child's crash is not this test's. */
static int checks(struct world *world)
{
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        FILE *sink = freopen("/dev/null", "w", stderr);
        crash_alone();
        _exit(sink ? check_data(world->data, sink) : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static off_t data_bytes(const struct world *world, char path[160])
{
    struct stat status;

    snprintf(path, 160, "%s/store/data.mdb", world->data);
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

/* The child's exit status, 256 for a signal. */
static int opens(struct world *world)
{
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct failure error = {0};
        world->store = try_open(world, UINT64_C(1) << 33, &error);
        fprintf(stderr, "%s\n", error.message);
        if (!world->store)
            _exit(error.exit_code);
        struct seen seen = {0};
        const struct store_visitor visitor = {on_any_unfinished, on_finished, &seen};
        if (!store_load(world->store, &visitor, &error))
            _exit(error.exit_code);
        for (uint64_t expiry_key = world->base; expiry_key < world->base + 64; expiry_key++) {
            uint8_t value[4000];
            store_read_value(world->store, expiry_key, BLOB_INPUT, sizeof value, value);
        }
        _exit(0);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256;
}

/* Wherever the file of the tables ends too early: it is said, and nothing crashes. */
static void tables_cut_short(void **state)
{
    enum { LIVES = 64, SIZE = 4000 };
    struct world *world = *state;
    uint8_t *data = pattern(SIZE, 1);
    char path[160];

    world->base = store_next_number(world->store);
    for (uint64_t n = 0; n < LIVES; n++) {
        const struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, SIZE)});
    }
    commit(world);
    store_close(world->store);
    world->store = NULL;
    struct file file = read_file(world);
    const off_t whole = data_bytes(world, path);
    assert_int_equal(opens(world), 0);
    for (off_t size = whole - 4096; size > 0; size -= 5 * 4096 + 100) {
        write_file(&file);
        assert_int_equal(truncate(path, size), 0);
        const int code = opens(world);
        if (code != 65 && code != 74)
            fail_msg("%lld of %lld bytes: %d", (long long)size, (long long)whole, code);
        assert_int_equal(checks(world), 65);
    }
    write_file(&file);
    mem_free(file.data);
    mem_free(data);
    reopen(world);
    assert_int_equal(look(world).unfinished, LIVES);

    /* While it is open. */
    const pid_t child = fork();
    int status = 0;
    if (child == 0) {
        if (truncate(path, 16384) != 0)
            _exit(1);
        uint8_t value[SIZE];
        for (uint64_t n = 0; n < LIVES; n++)
            store_read_value(world->store, world->base + n, BLOB_INPUT, SIZE, value);
        _exit(2);
    }
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 74);
    /* The parent's store is on the same file, and would meet the end too. */
    assert_int_equal(truncate(path, whole), 0);
}

/* A disk that has no room for what is to be applied in one commit has it for smaller ones, of which each gives back
 * pages that those after it use. */
static void applied_in_parts(void **state)
{
    enum { LIVES = 400, BATCHES = 8, SIZE = 4000, ROOM_PAGES = 250 };
    struct world *world = *state;
    const uint64_t first = store_next_number(world->store);
    uint8_t *data = pattern(SIZE, 1), read[SIZE];
    struct rlimit before, low;
    struct stat status;
    char path[160];

    for (uint64_t n = 0; n < LIVES; n++) {
        const struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, SIZE)});
        if (n % (LIVES / BATCHES) == LIVES / BATCHES - 1)
            commit(world);
    }
    for (uint64_t n = 0; n < LIVES; n++) {
        struct record record = some_record(world->store, "k");
        record.generation = record.fence = first + n;
        data[0] = (uint8_t)n;
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, SIZE)});
        if (n % (LIVES / BATCHES) == LIVES / BATCHES - 1)
            flush(world);
    }
    snprintf(path, sizeof path, "%s/store/data.mdb", world->data);
    assert_int_equal(stat(path, &status), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    low = before;
    low.rlim_cur = (rlim_t)status.st_size + ROOM_PAGES * TABLES_PAGE_BYTES;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    struct store_event event = {0};
    store_apply(world->store, 0, world->boot_ms += 5000);
    if (!store_applying(world->store))
        store_apply(world->store, 0, world->boot_ms += 5000);
    while (store_applying(world->store))
        if (store_poll(world->store, &event))
            break;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    if (event.failed)
        fail_msg("%s", event.message);
    assert_int_equal(event.applied, first + 2 * LIVES - 1);
    for (uint64_t n = 0; n < LIVES; n++) {
        assert_int_equal(store_read_value(world->store, first + n, BLOB_INPUT, SIZE, read), STORE_FOUND);
        assert_int_equal(read[0], (uint8_t)n);
    }
    store_end_turn(world->store);
    mem_free(data);
}

/* There is a store, and nothing in it: that is not a new one. */
static void a_store_without_its_file_is_refused(void **state)
{
    struct world *world = *state;
    struct file file = read_file(world);
    struct failure error = {0};

    assert_int_equal(truncate(file.path, 0), 0);
    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "empty"));
    assert_int_equal(checks(world), 65);
    assert_int_equal(unlink(file.path), 0);
    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "missing"));
    assert_int_equal(checks(world), 65);
    mem_free(file.data);
}

enum { PAGE = 4096, MANY = 2000, PAGE_FLAGS_AT = 10, PAGE_LOWER_AT = 12, LEAF = 2, FIRST_NODE_AT = 16 };

/* A store with many finished records, at places of 1800000000 s and counts 0 ..., in more than one commit so that LMDB
 * has no use for older copies of a page. */
static struct file many_finished(struct world *world)
{
    for (uint64_t i = 0; i < MANY; i++) {
        struct record record = some_record(world->store, "k");
        struct record done = finished(&record, world->store, 1800000000000);
        append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000), NULL);
    }
    commit(world);
    return read_file(world);
}

/* The leaf that holds the finished record of this count. */
static uint8_t *leaf_of(const struct file *file, uint64_t count)
{
    const uint64_t expiry_key = UINT64_C(1800000000) << 30 | count;

    for (size_t at = 0; at < file->size; at += PAGE) {
        uint8_t *page = file->data + at;
        if (page[PAGE_FLAGS_AT] != LEAF)
            continue;
        for (size_t i = 8; i + sizeof expiry_key <= PAGE; i++)
            if (page[i - 2] == sizeof expiry_key && page[i - 1] == 0 &&
                memcmp(page + i, &expiry_key, sizeof expiry_key) == 0)
                return page;
    }
    fail_msg("no leaf");
    return NULL;
}

static uint32_t records_on(const uint8_t *page)
{
    return (uint32_t)((page[PAGE_LOWER_AT] | page[PAGE_LOWER_AT + 1] << 8) - FIRST_NODE_AT) / 2;
}

static void fill_zeros(uint8_t *page)
{
    memset(page, 0, PAGE);
}

static void fill_ones(uint8_t *page)
{
    memset(page, 0xff, PAGE);
}

static void fill_text(uint8_t *page)
{
    for (int i = 0; i < PAGE; i++)
        page[i] = (uint8_t)('a' + i % 26);
}

/* It looks like a leaf, and what it holds is nothing. */
static void fill_behind_header(uint8_t *page)
{
    memset(page + FIRST_NODE_AT, 0x5a, PAGE - FIRST_NODE_AT);
}

static void no_nodes(uint8_t *page)
{
    page[PAGE_LOWER_AT] = FIRST_NODE_AT;
    page[PAGE_LOWER_AT + 1] = 0;
}

static void one_node_less(uint8_t *page)
{
    page[PAGE_LOWER_AT] = (uint8_t)(page[PAGE_LOWER_AT] - 2);
}

static void another_kind(uint8_t *page)
{
    page[PAGE_FLAGS_AT] = 4;
}

typedef void spoil(uint8_t *page);
static spoil *const spoils[] = {fill_zeros, fill_ones,     fill_text,   fill_behind_header,
                                no_nodes,   one_node_less, another_kind};

/* Whether a store with this damage loads. In a process of its own, since LMDB ends the process at some of them. */
static bool loads(struct world *world)
{
    const pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct failure error;
        struct seen seen;
        FILE *sink = freopen("/dev/null", "w", stderr);
        crash_alone();
        world->store = try_open(world, 1 << 30, &error);
        if (sink && (!world->store || !load(world, &seen, &error)))
            _exit(error.exit_code);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void what_lies_on_both_sides_of_a_bad_page_is_read(void **state)
{
    struct world *world = *state;
    struct file file = many_finished(world);
    uint8_t *page = leaf_of(&file, MANY / 2), good[PAGE];
    const uint32_t on_page = records_on(page);

    assert_true(on_page > 10 && on_page < 60);
    memcpy(good, page, PAGE);
    for (size_t i = 0; i < sizeof spoils / sizeof spoils[0]; i++) {
        spoils[i](page);
        write_file(&file);
        world->accept_loss = false;
        assert_false(loads(world));
        world->accept_loss = true;
        reopen(world);
        const struct seen seen = look(world);
        if (spoils[i] == one_node_less)
            assert_int_equal(seen.finished, MANY - 1);
        else if (spoils[i] == no_nodes) /* LMDB steps on its first all the same */
            assert_int_equal(seen.finished, MANY - on_page + 1);
        else
            assert_int_equal(seen.finished, MANY - on_page);
        assert_int_equal(seen.unfinished, 0);
        store_close(world->store);
        world->store = NULL;
        memcpy(page, good, PAGE);
    }
    write_file(&file);
    world->accept_loss = false;
    reopen(world);
    assert_int_equal(look(world).finished, MANY);
    mem_free(file.data);
}

/* Also where every record that is met is whole. */
static void checking_finds_every_bad_page(void **state)
{
    struct world *world = *state;
    struct file file = many_finished(world);
    uint8_t *page = leaf_of(&file, MANY / 2), good[PAGE];

    memcpy(good, page, PAGE);
    for (size_t i = 0; i < sizeof spoils / sizeof spoils[0]; i++) {
        spoils[i](page);
        write_file(&file);
        assert_int_equal(checks(world), 65);
        memcpy(page, good, PAGE);
    }
    write_file(&file);
    assert_int_equal(checks(world), 0);
    mem_free(file.data);
}

/* Writes another format's version where the store says its own. */
static void set_format(struct world *world, uint32_t format)
{
    struct failure error;
    struct tables_state state;
    struct store_facts facts;
    struct tables tables;
    uint8_t bytes[sizeof(uint64_t) + sizeof format];
    const uint64_t checksum = XXH3_64bits_withSeed(&format, sizeof format, XXH3_64bits("format", 6));
    char name[] = "format";
    MDB_val key = {6, name}, value = {sizeof bytes, bytes};
    MDB_txn *txn;
    char path[160];

    memcpy(bytes, &checksum, sizeof checksum);
    memcpy(bytes + sizeof checksum, &format, sizeof format);
    snprintf(path, sizeof path, "%s/store", world->data);
    assert_true(tables_open(&tables, path, 1 << 24, false, &error));
    assert_true(tables_read_facts(&tables, &facts, &state, &error));
    assert_int_equal(mdb_txn_begin(tables.env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_put(txn, tables.meta, &key, &value, 0), 0);
    assert_int_equal(tables_put_state(&tables, txn, &state), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    tables_close(&tables);
}

static void another_versions_format_is_named(void **state)
{
    struct world *world = *state;
    struct failure error;

    store_close(world->store);
    set_format(world, 77);
    world->store = try_open(world, 1 << 30, &error);
    assert_null(world->store);
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "its format is 77"));
    assert_non_null(strstr(error.message, "start the version of idemd that wrote it"));
}

/* A limit that somebody set, and may not think of. */
static void address_space_that_cannot_be_had_is_named(void **state)
{
    struct world *world = *state;
    struct failure error;
    struct rlimit before, limit;
    unsigned long long pages;
    FILE *statm = fopen("/proc/self/statm", "re");

    store_close(world->store);
    assert_non_null(statm);
    assert_int_equal(fscanf(statm, "%llu", &pages), 1);
    fclose(statm);
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    limit = before;
    limit.rlim_cur = pages * (rlim_t)sysconf(_SC_PAGESIZE) + (UINT64_C(1) << 30);
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    world->store = try_open(world, 1 << 30, &error);
    assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
    assert_null(world->store);
    assert_int_equal(error.exit_code, 71);
    assert_non_null(strstr(error.message, "ulimit -v"));
    reopen(world);
}

static void a_table_with_a_bad_end_is_refused(void **state)
{
    struct world *world = *state;
    struct file file = many_finished(world);
    const uint64_t ends[] = {0, MANY - 1};
    uint8_t good[PAGE];

    for (int i = 0; i < 2; i++) {
        uint8_t *page = leaf_of(&file, ends[i]);
        memcpy(good, page, PAGE);
        fill_ones(page);
        write_file(&file);
        world->accept_loss = true;
        assert_false(loads(world));
        memcpy(page, good, PAGE);
    }
    write_file(&file);
    mem_free(file.data);
}

/* The sum of all that was loaded: what is absent or is another makes it another. */
static void sum_unfinished(void *context, uint64_t generation, struct bytes record)
{
    uint64_t *sum = context;

    (void)record;
    *sum += generation * UINT64_C(0x9e3779b97f4a7c15);
}

static void sum_finished(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes)
{
    uint64_t *sum = context;

    (void)record_bytes, (void)expiry_key; /* at another one than it was put at, but not before its end, it is there */
    *sum += (head->generation ^ head->expires_ms << 20) * UINT64_C(0xd1342543de82ef95);
}

static uint64_t sum_of(struct world *world)
{
    uint64_t sum = 0;
    const struct store_visitor visitor = {sum_unfinished, sum_finished, &sum};
    struct failure error;

    world->store = try_open(world, 1 << 30, &error);
    return world->store && store_load(world->store, &visitor, &error) ? sum : 0;
}

/* 0: refused, in whatever way. */
static uint64_t sum_in_child(struct world *world)
{
    int results[2], status;
    uint64_t sum = 0;

    assert_int_equal(pipe(results), 0);
    const pid_t child = fork();
    if (child == 0) {
        FILE *sink = freopen("/dev/null", "w", stderr);
        crash_alone();
        alarm(20);
        sum = sum_of(world);
        _exit(sink && write(results[1], &sum, sizeof sum) == sizeof sum ? 0 : 1);
    }
    close(results[1]);
    if (read(results[0], &sum, sizeof sum) != sizeof sum)
        sum = 0;
    close(results[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return sum;
}

/* Leaves and branches, more than one commit old in part. */
static struct file file_of_many_commits(struct world *world)
{
    for (uint64_t i = 0; i < 40; i++) {
        struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
        for (uint64_t j = 0; j < 5; j++) {
            struct record done = finished(&record, world->store, 1800000000000 + i * j * 1000);
            done.generation = done.fence = done.revision;
            append(world->store, STORE_FINISH, &done, store_expiry_key(world->store, done.expires_ms, 1000), NULL);
        }
        commit(world);
    }
    return read_file(world);
}

/* One bit anywhere in the file: the store is refused, or has every key still. A number of such bits, always the same.
 */
static void no_flipped_bit_makes_a_key_absent(void **state)
{
    enum { FLIPS = 300 };
    struct world *world = *state;
    struct file file = file_of_many_commits(world);
    const uint64_t sum = sum_in_child(world);
    uint64_t random = 88172645463325252, refused = 0;

    assert_int_not_equal(sum, 0);
    for (int i = 0; i < FLIPS; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        const uint64_t bit = random % (file.size * 8);
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        write_file(&file);
        const uint64_t flipped = sum_in_child(world);
        if (flipped != 0 && flipped != sum)
            fail_msg("bit %d of byte %d is changed, and a key is absent", (int)(bit % 8), (int)(bit / 8));
        refused += flipped == 0;
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(refused > FLIPS / 50);
    write_file(&file);
    mem_free(file.data);
}

/* ---- A workload of which every number tells its change ------------------------------------------- */

/* In turns of four numbers: a life begins with an input, has a checkpoint, finishes with a body, each on the record
 * before, whichever daemon and batch that was in; then a life begins
 * that stays, or the one of the turn before goes. */
enum { TURN = 4, SIZE_MAX_OF_WORK = 9000 };

static uint32_t work_size(uint64_t number)
{
    return (uint32_t)(number * 2654435761u % SIZE_MAX_OF_WORK) + 1;
}

static uint64_t work_expiry_key(const struct world *world, uint64_t number)
{
    return UINT64_C(1900000000) << 30 | (number - world->base);
}

static struct record work_record(uint64_t generation, uint64_t number)
{
    return (struct record){.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("k", 1)},
                           .hash = 77,
                           .state = RECORD_RUNNING,
                           .generation = generation,
                           .fence = generation,
                           .revision = number,
                           .attempt = 1,
                           .lease_ms = 1000,
                           .begun_ms = generation,
                           .operation = bytes_of("work", 4),
                           .owner = bytes_of("somebody", 8)};
}

/* What a turn's life has after its first change, or its second. */
static struct record work_begun(uint64_t generation, uint64_t number)
{
    struct record record = work_record(generation, number);

    record.input_bytes = work_size(generation);
    if (number > generation)
        record.checkpoint_bytes = work_size(number);
    return record;
}

static void work_begin(struct world *world, uint64_t generation, uint64_t number)
{
    const uint32_t size = work_size(number);
    uint8_t *data = pattern(size, (unsigned)number);
    const struct record record = work_begun(generation, number), before = work_begun(generation, generation);
    struct bytes values[BLOB_KINDS] = {{0}};

    values[number == generation ? BLOB_INPUT : BLOB_CHECKPOINT] = bytes_of(data, size);
    append_on(world->store, STORE_PUT_UNFINISHED, &record, 0, values, number == generation ? NULL : &before);
    mem_free(data);
}

static void work_finish(struct world *world, uint64_t generation, uint64_t number)
{
    const uint32_t size = work_size(number);
    uint8_t *data = pattern(size, (unsigned)number);
    const struct record before = work_begun(generation, number - 1);
    struct record done = finished(&before, world->store, 1900000000000);
    const struct bytes values[BLOB_KINDS] = {[BLOB_BODY] = bytes_of(data, size)};

    done.body_field_bytes = size;
    append_on(world->store, STORE_FINISH, &done, work_expiry_key(world, number), values, &before);
    mem_free(data);
}

static void work(struct world *world)
{
    const uint64_t number = store_next_number(world->store), at = number - world->base, turn = at / TURN;
    struct record record;

    if (at % TURN < 2) {
        work_begin(world, number - at % TURN, number);
    } else if (at % TURN == 2) {
        work_finish(world, number - 2, number);
    } else if (turn % 2 == 0) {
        record = work_record(number, number);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    } else {
        record = work_record(number - TURN, number);
        append(world->store, STORE_REMOVE_UNFINISHED, &record, 0, NULL);
    }
}

static void assert_value(struct world *world, uint64_t key, enum blob_kind kind, uint64_t number)
{
    const uint32_t size = work_size(number);
    uint8_t *data = pattern(size, (unsigned)number), *out = mem_alloc(size);

    assert_int_equal(store_read_value(world->store, key, kind, size, out), STORE_FOUND);
    assert_memory_equal(out, data, size);
    mem_free(data);
    mem_free(out);
}

/* The store has what the workload left up to the newest number that is durable, and that only. */
static void assert_worked(struct world *world)
{
    const uint64_t count = store_durable_number(world->store) + 1 - world->base;
    uint32_t unfinished = 0, done = 0;
    const struct seen seen = look(world);

    for (uint64_t at = 0; at < count; at++) {
        const uint64_t number = world->base + at, in_turn = at % TURN, turn = at / TURN;
        struct bytes bytes;
        struct record record;
        if (in_turn == 2) {
            done++;
            assert_int_equal(store_read_finished(world->store, work_expiry_key(world, number), &bytes), STORE_FOUND);
            assert_int_equal(record_decode(bytes, &record), RECORD_GOOD);
            assert_int_equal(record.revision, number);
            assert_value(world, work_expiry_key(world, number), BLOB_BODY, number);
        } else if (in_turn < 2 && turn == (count - 1) / TURN && (count - 1) % TURN < 2) {
            unfinished += in_turn == 0;
            assert_value(world, number - in_turn, in_turn ? BLOB_CHECKPOINT : BLOB_INPUT, number);
        } else if (in_turn < 2) {
            uint8_t byte;
            assert_int_equal(store_read_value(world->store, number, BLOB_INPUT, 1, &byte), STORE_MISSING);
        } else {
            unfinished += turn % 2 == 0 && at + TURN >= count;
        }
    }
    store_end_turn(world->store);
    assert_int_equal(seen.unfinished, unfinished);
    assert_int_equal(seen.finished, done);
}

/* As wait_event, of a store that may fail. */
static struct store_event wait_any(struct world *world)
{
    struct store_event event;
    char byte;

    while (!store_poll(world->store, &event))
        assert_int_equal(read(world->wake[0], &byte, 1), 1);
    return event;
}

/* The tail is old enough. */
static void begin_apply(struct world *world)
{
    store_apply(world->store, 0, world->boot_ms);
    if (!store_applying(world->store))
        store_apply(world->store, 0, world->boot_ms += 5000);
}

static void work_and_flush(struct world *world, int changes)
{
    for (int i = 0; i < changes; i++)
        work(world);
    flush(world);
}

/* ---- Killed at chosen moments ------------------------------------------------------------------------- */

enum moment { AFTER_FLUSH, WHILE_APPLYING, AFTER_COMMIT, ANY_MOMENT, MOMENTS };

/* In the child. Says what is durable as soon as it is. */
static void say_durable(struct world *world, int said)
{
    const uint64_t durable = store_durable_number(world->store);

    if (write(said, &durable, sizeof durable) != sizeof durable)
        _exit(1);
}

static void live_and_die(struct world *world, enum moment moment, unsigned round, int said)
{
    char byte;

    reopen(world);
    for (unsigned i = 0; moment == ANY_MOMENT || i < 3 + round % 4; i++) {
        work_and_flush(world, 1 + (int)((i * 7 + round) % 50));
        say_durable(world, said);
        if (moment == ANY_MOMENT && i % 3 == 2)
            apply(world, 0);
    }
    if (moment != AFTER_FLUSH) {
        while (poll(&(struct pollfd){.fd = world->wake[0], .events = POLLIN}, 1, 0) > 0)
            if (read(world->wake[0], &byte, 1) != 1)
                _exit(1);
        begin_apply(world);
        if (!store_applying(world->store))
            _exit(2);
        if (moment == WHILE_APPLYING)
            usleep(round * 97 % 2500);
        else if (read(world->wake[0], &byte, 1) != 1) /* it is in the tables, and nobody took note */
            _exit(1);
    }
    raise(SIGKILL);
}

static void killed_at(struct world *world, enum moment moment, unsigned round)
{
    int said[2];
    uint64_t durable = 0, number;
    unsigned count = 0;

    store_close(world->store);
    world->store = NULL;
    assert_int_equal(pipe(said), 0);
    const pid_t child = fork();
    if (child == 0)
        live_and_die(world, moment, round, said[1]);
    close(said[1]);
    while (read(said[0], &number, sizeof number) == sizeof number) {
        durable = number;
        if (moment == ANY_MOMENT && ++count == 2 + round)
            kill(child, SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(said[0]);

    /* Recovery may be killed too, and does it again. */
    for (unsigned i = 0; i < 2; i++) {
        const pid_t opener = fork();
        if (opener == 0) {
            reopen(world);
            raise(SIGKILL);
        }
        usleep((round * 131 + i * 977) % 4000);
        kill(opener, SIGKILL);
        waitpid(opener, NULL, 0);
    }
    reopen(world);
    assert_true(store_durable_number(world->store) >= durable);
    if (moment != ANY_MOMENT)
        assert_int_equal(store_durable_number(world->store), durable);
    assert_int_equal(store_next_number(world->store), store_durable_number(world->store) + 1);
    assert_worked(world);
    reopen(world);
    assert_worked(world);
}

static void killed_at_each_moment(void **state)
{
    struct world *world = *state;

    world->base = store_next_number(world->store);
    for (unsigned round = 0; round < 6; round++)
        for (enum moment moment = 0; moment < MOMENTS; moment++)
            killed_at(world, moment, round);
}

/* ---- When it is applied --------------------------------------------------------------------------------- */

static void applied_when_old(void **state)
{
    struct world *world = *state;

    world->base = store_next_number(world->store);
    assert_int_equal(store_apply(world->store, 0, 1000), UINT64_MAX);
    work_and_flush(world, 5);
    assert_int_equal(store_apply(world->store, 0, 2000), 7000);
    work_and_flush(world, 1);
    assert_int_equal(store_apply(world->store, 0, 6999), 7000);
    assert_false(store_applying(world->store));
    assert_true(store_backlog_bytes(world->store) > 0);
    store_apply(world->store, 0, 7000);
    assert_true(store_applying(world->store));
    /* What comes meanwhile is flushed, and is the next tail. */
    work_and_flush(world, 3);
    while (store_applying(world->store))
        wait_event(world);
    assert_int_equal(world->applied, world->base + 5);
    assert_int_equal(store_durable_number(world->store), world->base + 8);
    assert_int_equal(store_apply(world->store, 0, 9000), 14000);
    reopen(world);
    assert_worked(world);
}

static void applied_when_large(void **state)
{
    enum { PART = 200 * 1024, LIMIT = 4 * 1024 * 1024 };
    struct world *world = *state;
    uint8_t *data = pattern(PART, 1);
    uint64_t flushed = 0;

    for (;;) {
        struct record record = some_record(world->store, "k");
        record.input_bytes = PART;
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, PART)});
        flush(world);
        flushed += PART;
        store_apply(world->store, 0, 1000);
        struct store_event event = {0};
        const bool began = store_applying(world->store);
        while (store_applying(world->store))
            event = wait_event(world);
        if (began && event.applied == event.durable)
            break;
        assert_true(flushed < LIMIT); /* until then it makes slots, nothing else */
        assert_true(store_backlog_bytes(world->store) >= flushed);
    }
    assert_true(flushed + 16 * PART > LIMIT);
    assert_int_equal(store_backlog_bytes(world->store), 0);
    mem_free(data);
}

static void assert_in_tables(struct world *world, uint64_t next)
{
    struct tables tables;
    struct tables_state state;
    struct store_facts facts;
    struct failure error;
    char path[128];

    snprintf(path, sizeof path, "%s/store", world->data);
    assert_true(tables_open(&tables, path, 1 << 30, true, &error));
    assert_true(tables_read_facts(&tables, &facts, &state, &error));
    tables_close(&tables);
    assert_int_equal(state.next_number, next);
}

/* Closing waits for the batch in flight, drops the open one, and leaves nothing to recover. */
static void closing_applies(void **state)
{
    struct world *world = *state;
    struct clock_mark mark;

    world->base = store_next_number(world->store);
    for (int round = 0; round < 4; round++) {
        work_and_flush(world, 30);
        work_and_flush(world, 1);
        clock_read_mark(&mark);
        mark.retention_ms = mark.wall_ms;
        for (int i = 0; i < (round % 2 ? 2 : 20); i++)
            work(world);
        store_submit(world->store, &mark);
        const uint64_t next = store_next_number(world->store);
        for (int i = 0; i < round; i++)
            work(world);
        if (round == 3) {
            begin_apply(world);
            assert_true(store_applying(world->store));
        }
        store_close(world->store);
        world->store = NULL;
        assert_in_tables(world, next);
        reopen(world);
        assert_int_equal(store_next_number(world->store), next);
        assert_worked(world);
    }
}

/* ---- What the log's files hold ------------------------------------------------------------------------------ */

/* The child leaves so many batches in the log, and nothing of them in the tables. */
static void leave_in_log(struct world *world, int batches)
{
    store_close(world->store);
    world->store = NULL;
    const pid_t child = fork();
    if (child == 0) {
        reopen(world);
        for (int i = 0; i < batches; i++)
            work_and_flush(world, 5);
        raise(SIGKILL);
    }
    waitpid(child, NULL, 0);
}

static void flip_in_log(struct world *world, long byte)
{
    char path[128];

    snprintf(path, sizeof path, "%s/store/log.0", world->data);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fseek(file, byte, SEEK_SET);
    const int was = fgetc(file);
    fseek(file, byte, SEEK_SET);
    fputc(was ^ 4, file);
    fclose(file);
}

/* A damaged batch that others follow: the store does not open, and does without it when told to. */
static void damage_in_the_log(void **state)
{
    struct world *world = *state;
    struct failure error = {0};
    FILE *out = tmpfile();

    const uint64_t first = world->base = store_next_number(world->store);
    leave_in_log(world, 6);
    assert_int_equal(check_data(world->data, out), 0);
    flip_in_log(world, SLOT_FIRST_BATCH_AT + 200);
    assert_null(try_open(world, UINT64_C(1) << 33, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.0"));
    assert_int_equal(check_data(world->data, out), 65);
    /* Whole again, it opens: nobody wrote to it meanwhile. */
    flip_in_log(world, SLOT_FIRST_BATCH_AT + 200);
    assert_int_equal(check_data(world->data, out), 0);
    reopen(world);
    assert_int_equal(store_durable_number(world->store), first + 29);
    assert_worked(world);

    leave_in_log(world, 6);
    flip_in_log(world, SLOT_FIRST_BATCH_AT + 200);
    const struct store_options options = {.directory = world->data,
                                          .quota_bytes = UINT64_C(1) << 33,
                                          .values_bytes_max = world->values_bytes_max,
                                          .accept_loss = true,
                                          .wake = on_wake,
                                          .wake_context = world};
    world->store = store_open(&options, &error);
    assert_non_null(world->store);
    assert_int_equal(store_durable_number(world->store), first + 59);
    store_close(world->store);
    world->store = NULL;
    fclose(out);
    reopen(world);
    assert_int_equal(store_durable_number(world->store), first + 59);
}

/* Copies of the store's two files, to be put back. */
static void put_back(struct world *world, const struct file files[2])
{
    (void)world;
    for (int i = 0; i < 2; i++)
        write_file(&files[i]);
}

static struct file read_log(struct world *world)
{
    enum { USED_BYTES = 64 * 1024 };
    struct file file = {.size = USED_BYTES, .data = mem_alloc(USED_BYTES)};

    snprintf(file.path, sizeof file.path, "%s/store/log.0", world->data);
    FILE *from = fopen(file.path, "rb");
    assert_non_null(from);
    assert_int_equal(fread(file.data, 1, file.size, from), file.size);
    fclose(from);
    return file;
}

/* What a start made of a damaged log: each record is what the workload gave it, or says of itself that it is damaged.
 * Returns how many do. */
static uint32_t damaged_of_work(struct world *world, uint64_t count)
{
    uint32_t damaged = 0;

    for (uint64_t at = 2; at < count; at += TURN) {
        const uint64_t number = world->base + at;
        struct bytes bytes;
        struct record record;
        if (store_read_finished(world->store, work_expiry_key(world, number), &bytes) != STORE_FOUND)
            continue;
        const enum record_check check = record_decode(bytes, &record);
        assert_int_not_equal(check, RECORD_BAD_HEAD);
        assert_int_equal(record.hash, 77);
        assert_int_equal(record.generation, number - 2);
        assert_int_equal(record.expires_ms, 1900000000000);
        damaged += check != RECORD_GOOD;
        if (check != RECORD_GOOD)
            continue;
        assert_int_equal(record.revision, number);
        assert_int_equal(record.begun_ms, number - 2);
        assert_true(bytes_equal(record.owner, bytes_of("somebody", 8)));
        assert_int_equal(record.body_field_bytes, work_size(number));
    }
    store_end_turn(world->store);
    return damaged;
}

/* A batch's bytes, each damaged in turn, where changes of later batches count on the records in it, and later ones on
 * theirs. */
static void each_byte_of_what_others_count_on(void **state)
{
    enum { BATCHES = 4, CHANGES = BATCHES * 3 };
    struct world *world = *state;
    const struct store_options options = {.directory = world->data,
                                          .quota_bytes = UINT64_C(1) << 33,
                                          .values_bytes_max = world->values_bytes_max,
                                          .accept_loss = true,
                                          .wake = on_wake,
                                          .wake_context = world};
    struct failure error;
    struct batch_header header;
    uint32_t damaged = 0, opened = 0;
    FILE *out = tmpfile();

    world->base = store_next_number(world->store);
    store_close(world->store);
    world->store = NULL;
    const pid_t child = fork();
    if (child == 0) {
        reopen(world);
        for (int i = 0; i < BATCHES; i++)
            work_and_flush(world, CHANGES / BATCHES);
        raise(SIGKILL);
    }
    waitpid(child, NULL, 0);
    struct file tables = read_file(world), wal = read_log(world);
    for (size_t offset = SLOT_FIRST_BATCH_AT, batch = 0; batch < BATCHES;
         batch++, offset += batch_padded_bytes(header.bytes)) {
        batch_read_header(wal.data + offset, &header);
        assert_true(offset + header.bytes < wal.size);
        /* All of the header and of the first change, and something of each value behind it. */
        for (size_t at = 0; at < header.bytes; at += at < 200 ? 3 : 977) {
            put_back(world, (struct file[2]){tables, wal});
            flip_in_log(world, (long)(offset + at));
            world->store = try_open(world, UINT64_C(1) << 33, &error);
            assert_int_equal(world->store == NULL, batch < BATCHES - 1);
            if (!world->store) {
                assert_int_equal(error.exit_code, 65);
                assert_int_equal(check_data(world->data, out), 65);
                world->store = store_open(&options, &error);
                assert_non_null(world->store);
            }
            damaged += damaged_of_work(world, CHANGES);
            store_close(world->store);
            /* What is known to be damaged does not keep the store from opening. */
            world->store = NULL;
            reopen(world);
            struct seen seen = {0};
            const struct store_visitor visitor = {on_any_unfinished, on_finished, &seen};
            assert_true(store_load(world->store, &visitor, &error));
            store_close(world->store);
            world->store = NULL;
            opened++;
        }
    }
    assert_true(damaged > 0 && opened > 100);
    mem_free(tables.data);
    mem_free(wal.data);
    fclose(out);
    reopen(world);
}

/* More than is brought in at once: in parts, of which each may be the last before a kill. */
static void much_to_recover(void **state)
{
    enum { BATCHES = 45, LIVES = 60, SIZE = 16000 };
    struct world *world = *state;
    const struct store_facts facts = *store_facts(world->store);
    const uint64_t first = store_next_number(world->store);
    uint8_t *data = pattern(SIZE, 9), *out = mem_alloc(SIZE);
    struct failure error = {0};
    char path[128];

    store_close(world->store);
    world->store = NULL;
    snprintf(path, sizeof path, "%s/store", world->data);
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct wal_options options = {.disk = &disk_system,
                                        .directory = path,
                                        .folder = folder,
                                        .secret = facts.secret,
                                        .applied = first - 1,
                                        .slots = 1,
                                        .change_bytes_max = LIVES * (SIZE + BATCH_CHANGE_BYTES_MAX)};
    struct wal *wal = wal_open(&options, &error);
    assert_non_null(wal);
    assert_int_equal(wal_start(wal), 0);
    for (uint64_t n = 0; n < BATCHES; n++) {
        struct batch batch;
        batch_start(&batch, first + n * LIVES, NULL);
        for (uint32_t i = 0; i < LIVES; i++) {
            uint8_t encoded[RECORD_BYTES_MAX];
            struct record record = work_record(batch.next, batch.next);
            record.input_bytes = SIZE;
            struct store_change change = {.kind = STORE_PUT_UNFINISHED, .number = batch.next, .generation = batch.next};
            change.record = bytes_of(encoded, record_encode(&record, encoded));
            change.values[BLOB_INPUT] = bytes_of(data, SIZE);
            batch_append(&batch, &change, NULL);
        }
        batch_seal(&batch, &facts.mark);
        assert_int_equal(wal_prepare(wal), 0);
        wal_add_slot(wal);
        assert_true(wal_has_room(wal, batch.bytes->size));
        assert_int_equal(wal_append(wal, batch.bytes->data), 0);
        blob_release(batch.bytes);
    }
    wal_close(wal);
    close(folder);
    for (unsigned i = 0; i < 6; i++) {
        const pid_t opener = fork();
        if (opener == 0) {
            reopen(world);
            raise(SIGKILL);
        }
        usleep(30000 * i);
        kill(opener, SIGKILL);
        waitpid(opener, NULL, 0);
    }
    reopen(world);
    assert_int_equal(store_next_number(world->store), first + (uint64_t)BATCHES * LIVES);
    assert_int_equal(look(world).unfinished, BATCHES * LIVES);
    for (uint64_t n = first; n < first + (uint64_t)BATCHES * LIVES; n += 7) {
        assert_int_equal(store_read_value(world->store, n, BLOB_INPUT, SIZE, out), STORE_FOUND);
        assert_memory_equal(out, data, SIZE);
    }
    store_end_turn(world->store);
    mem_free(data);
    mem_free(out);
}

/* ---- On a disk that fails ---------------------------------------------------------------------------------- */

static int set_up_sim(void **state)
{
    struct world *world;

    if (set_up(state) != 0)
        return -1;
    world = *state;
    store_close(world->store);
    world->store = NULL;
    /* Built again, with its log on the other disk. */
    char path[200];
    static const char *const names[] = {"store/data.mdb", "store/lock.mdb", "store/log.0", "store"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", world->data, names[i]);
        if (remove(path) != 0)
            return -1;
    }
    sim_disk_reset(11);
    world->disk = &sim_disk;
    reopen(world);
    world->base = store_next_number(world->store);
    return 0;
}

static int tear_down_sim(void **state)
{
    const int code = tear_down(state);

    return sim_disk_end() == 0 ? code : -1;
}

static void a_failed_flush(void **state)
{
    struct world *world = *state;
    struct clock_mark mark;

    /* On the loop, and on the writing thread. */
    for (int changes = 1; changes <= 21; changes += 5) {
        struct store_event event;
        work_and_flush(world, 7);
        const uint64_t durable = store_durable_number(world->store);
        sim_disk_fail(SIM_WRITE, 1, true, EIO);
        for (int i = 0; i < changes; i++)
            work(world);
        clock_read_mark(&mark);
        store_submit(world->store, &mark);
        event = wait_any(world);
        assert_true(event.failed);
        assert_non_null(strstr(event.message, strerror(EIO)));
        assert_int_equal(store_durable_number(world->store), durable);
        for (int i = 0; i < 3; i++)
            assert_false(store_poll(world->store, &event)); /* it says so once */
        sim_disk_power_on();
        reopen(world);
        /* The batch that failed may be there all the same, whole. */
        assert_true(store_durable_number(world->store) == durable ||
                    store_durable_number(world->store) == durable + (uint64_t)changes);
        assert_worked(world);
    }
}

/* The log went on over what the last commit had brought into the tables, and that commit counts no more. */
static void what_was_written_over_is_missed(void **state)
{
    enum { BYTES = 1000 * 1000 };
    struct world *world = *state;
    uint8_t *data = pattern(BYTES, 1);
    struct failure error = {0};
    struct clock_mark mark;

    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC); /* there is one slot */
    for (int i = 0; i < 2; i++) {
        struct record record = some_record(world->store, "k");
        record.input_bytes = BYTES;
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, BYTES)});
        if (i == 0)
            commit(world);
        else
            flush(world);
    }
    /* It ends without another commit. */
    sim_disk_fail(SIM_WRITE, 1, true, EIO);
    struct record record = some_record(world->store, "k");
    append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    clock_read_mark(&mark);
    store_submit(world->store, &mark);
    assert_true(wait_any(world).failed);
    store_close(world->store);
    world->store = NULL;
    sim_disk_power_on();
    struct file file = read_file(world);
    hide_last_commit(&file);
    assert_null(try_open(world, 1 << 30, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.0"));
    mem_free(file.data);
    mem_free(data);
}

static void no_room_in_the_log(void **state)
{
    struct world *world = *state;
    uint8_t *data = pattern(300 * 1024, 1);
    struct store_event event = {0};
    int flushed = 0;

    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC); /* another slot is not to be had */
    for (int round = 0; round < 3; round++) {
        for (flushed = 0; store_ready(world->store); flushed++) {
            assert_true(flushed < 10);
            struct record record = some_record(world->store, "k");
            record.input_bytes = 300 * 1024;
            append(world->store, STORE_PUT_UNFINISHED, &record, 0,
                   (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, 300 * 1024)});
            if (store_ready(world->store))
                flush(world);
        }
        /* Three are in - the first of them since the round before -, the next has no room. */
        assert_int_equal(flushed, round ? 3 : 4);
        assert_true(store_pending(world->store) && !store_busy(world->store));
        /* That is a reason to apply, at once. */
        store_apply(world->store, 0, 1000);
        assert_true(store_applying(world->store));
        while (store_applying(world->store))
            event = wait_event(world);
        assert_int_equal(event.applied, store_durable_number(world->store));
        assert_true(store_space(world->store, 0).full);
        assert_true(store_ready(world->store));
        flush(world);
    }
    mem_free(data);
}

static uint64_t wal_file_bytes(void)
{
    uint64_t bytes = 0;

    assert_non_null(sim_disk_data("log.0", &bytes));
    return bytes;
}

/* More is appended than any slot has room for, and there is no other to be had: it is written in parts, each when what
 * is before it is applied, and no file grows. All of it is one to who handed it over. */
static void more_than_a_slot_at_once(void **state)
{
    enum { PARTS = 7, BYTES = 600 * 1000 };
    struct world *world = *state;
    uint8_t *data = pattern(BYTES, 1), *read = mem_alloc(BYTES);
    const uint64_t first = store_next_number(world->store), file = wal_file_bytes();
    struct clock_mark mark;
    uint32_t durable_events = 0;

    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC);
    for (int i = 0; i < PARTS; i++) {
        const struct record record = some_record(world->store, "k");
        append(world->store, STORE_PUT_UNFINISHED, &record, 0,
               (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, BYTES)});
    }
    assert_true(store_unflushed_bytes(world->store) > PARTS * BYTES);
    clock_read_mark(&mark);
    mark.retention_ms = mark.wall_ms;
    store_submit(world->store, &mark);
    /* What comes now waits for all of that. */
    const struct record after = some_record(world->store, "after");
    append(world->store, STORE_PUT_UNFINISHED, &after, 0, NULL);
    while (store_busy(world->store)) {
        const uint64_t durable = store_durable_number(world->store);
        assert_false(store_ready(world->store));
        if (!store_applying(world->store))
            store_apply(world->store, 1, world->boot_ms);
        wait_event(world);
        durable_events += store_durable_number(world->store) > durable;
    }
    assert_int_equal(durable_events, PARTS);
    assert_int_equal(store_durable_number(world->store), first + PARTS - 1);
    assert_int_equal(wal_file_bytes(), file);
    if (store_applying(world->store))
        wait_event(world);
    while (!store_ready(world->store))
        apply(world, 0);
    commit(world);
    assert_int_equal(store_unflushed_bytes(world->store), BATCH_HEADER_BYTES);
    reopen(world);
    for (uint64_t n = first; n < first + PARTS; n++) {
        assert_int_equal(store_read_value(world->store, n, BLOB_INPUT, BYTES, read), STORE_FOUND);
        assert_memory_equal(read, data, BYTES);
    }
    store_end_turn(world->store);
    assert_int_equal(look(world).unfinished, PARTS + 1);
    mem_free(data);
    mem_free(read);
}

/* At the end what was handed over and not written yet is dropped: nobody was told of it. */
static void closed_between_parts(void **state)
{
    enum { PARTS = 4, BYTES = 600 * 1000 };
    struct world *world = *state;
    uint8_t *data = pattern(BYTES, 1);
    struct clock_mark mark;

    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC);
    for (int written = 0; written < PARTS - 1; written++) {
        const uint32_t before = look(world).unfinished;
        for (int i = 0; i < PARTS; i++) {
            const struct record record = some_record(world->store, "k");
            append(world->store, STORE_PUT_UNFINISHED, &record, 0,
                   (struct bytes[BLOB_KINDS]){[BLOB_INPUT] = bytes_of(data, BYTES)});
        }
        while (!store_ready(world->store))
            apply(world, 0);
        clock_read_mark(&mark);
        mark.retention_ms = mark.wall_ms;
        const uint64_t durable = store_durable_number(world->store);
        store_submit(world->store, &mark);
        while (store_durable_number(world->store) < durable + (uint64_t)written) {
            if (!store_applying(world->store))
                store_apply(world->store, 0, world->boot_ms);
            wait_event(world);
        }
        reopen(world);
        const uint32_t after = look(world).unfinished;
        assert_true(after >= before + (uint32_t)written && after <= before + PARTS);
        assert_int_equal(store_durable_number(world->store), store_newest_number(world->store));
    }
    mem_free(data);
}

/* After a commit that failed nothing is tried again, neither then nor at the end: it may yet be on the disk. */
static void a_failed_commit(void **state)
{
    struct world *world = *state;
    struct rlimit before, low;
    struct store_event event;
    struct stat status;
    char path[128];

    work(world);
    commit(world);
    const uint64_t applied = store_durable_number(world->store);
    work_and_flush(world, 100);
    work_and_flush(world, 100);
    snprintf(path, sizeof path, "%s/store/data.mdb", world->data);
    assert_int_equal(stat(path, &status), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    low = before;
    low.rlim_cur = (rlim_t)status.st_size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    do { /* another slot for the log may come first, for which there are free pages */
        begin_apply(world);
        assert_true(store_applying(world->store));
        event = wait_any(world);
    } while (!event.failed && event.applied == applied);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_true(event.failed);
    assert_false(store_poll(world->store, &event));
    const uint64_t durable = store_durable_number(world->store);
    store_close(world->store);
    world->store = NULL;
    assert_in_tables(world, applied + 1);
    reopen(world);
    assert_int_equal(store_durable_number(world->store), durable);
    assert_worked(world);
}

/* A whole life of the store, of which the n-th call to the log's disk fails, or is the last before the power goes.
 * Returns how far it was durable. */
static uint64_t generation_with_faults(struct world *world)
{
    struct failure error = {0};
    uint64_t durable = world->base - 1;

    world->store = try_open(world, UINT64_C(1) << 33, &error);
    if (!world->store) {
        assert_int_equal(error.exit_code, 74);
        return durable;
    }
    for (int i = 0; i < 60; i++) {
        struct clock_mark mark;
        struct store_event event = {0};
        for (int change = 0; change <= i % 7; change++)
            work(world);
        clock_read_mark(&mark);
        mark.retention_ms = mark.wall_ms;
        if (store_ready(world->store))
            store_submit(world->store, &mark);
        if (!store_applying(world->store))
            store_apply(world->store, 0, world->boot_ms += 1000);
        while (!event.failed && (store_busy(world->store) || store_applying(world->store)))
            event = wait_any(world);
        durable = store_durable_number(world->store);
        if (event.failed)
            break;
    }
    return durable;
}

static void the_nth_failure(void **state)
{
    static const int codes[] = {EIO, ENOSPC};
    struct world *world = *state;
    bool met = true;

    for (uint32_t nth = 1; met; nth++) {
        met = false;
        for (int mode = 0; mode < 6; mode++) {
            store_close(world->store);
            sim_disk_power_on();
            if (mode < 4)
                sim_disk_fail(SIM_ALL, nth, mode % 2, codes[mode / 2]);
            else
                sim_disk_cut_power(SIM_CHANGES, nth);
            const uint64_t durable = generation_with_faults(world);
            met |= sim_disk_failed() > 0 || sim_disk_is_off();
            store_close(world->store);
            world->store = NULL;
            sim_disk_power_on();
            reopen(world);
            assert_true(store_durable_number(world->store) >= durable);
        }
        assert_worked(world);
        assert_true(nth < 400);
    }
}

int main(void)
{
#define STORE_TEST(name)                                                                                               \
    {                                                                                                                  \
#name, run, set_up, tear_down, &(CMUnitTestFunction)                                                           \
        {                                                                                                              \
            name                                                                                                       \
        }                                                                                                              \
    }
#define SIM_TEST(name)                                                                                                 \
    {                                                                                                                  \
#name, run, set_up_sim, tear_down_sim, &(CMUnitTestFunction)                                                   \
        {                                                                                                              \
            name                                                                                                       \
        }                                                                                                              \
    }
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_new_store),
        STORE_TEST(values_of_every_size),
        STORE_TEST(a_generation),
        STORE_TEST(expiry_keys),
        STORE_TEST(sweeping),
        STORE_TEST(sweeping_is_spread),
        STORE_TEST(listing),
        STORE_TEST(quota),
        STORE_TEST(who_may_open),
        STORE_TEST(killed),
        STORE_TEST(checking),
        STORE_TEST(how_long_batches_took),
        STORE_TEST(fences_do_not_come_back_after_a_loss),
        STORE_TEST(what_lies_at_a_wrong_place_is_damage),
        STORE_TEST(what_lies_on_both_sides_of_a_bad_page_is_read),
        STORE_TEST(checking_finds_every_bad_page),
        STORE_TEST(a_store_without_its_file_is_refused),
        STORE_TEST(what_the_clocks_were_is_known_after_a_start),
        STORE_TEST(a_new_store_needs_a_clock_that_is_set),
        STORE_TEST(no_commit_is_passed_for_the_last),
        STORE_TEST(a_start_commits_twice),
        STORE_TEST(no_earlier_state_is_passed_for_the_last),
        STORE_TEST(no_flipped_bit_makes_a_key_absent),
        STORE_TEST(a_file_above_the_map_has_room),
        STORE_TEST(what_cannot_be_allocated_ahead_is_full),
        STORE_TEST(a_full_disk),
        STORE_TEST(applied_in_parts),
        STORE_TEST(tables_cut_short),
        STORE_TEST(the_thread_takes_no_signal),
        STORE_TEST(another_versions_format_is_named),
        STORE_TEST(address_space_that_cannot_be_had_is_named),
        STORE_TEST(a_table_with_a_bad_end_is_refused),
        STORE_TEST(nothing_it_says_of_itself_is_taken_damaged),
        STORE_TEST(killed_at_each_moment),
        STORE_TEST(applied_when_old),
        STORE_TEST(applied_when_large),
        STORE_TEST(closing_applies),
        STORE_TEST(damage_in_the_log),
        STORE_TEST(each_byte_of_what_others_count_on),
        STORE_TEST(much_to_recover),
        SIM_TEST(a_failed_flush),
        SIM_TEST(what_was_written_over_is_missed),
        SIM_TEST(no_room_in_the_log),
        SIM_TEST(more_than_a_slot_at_once),
        SIM_TEST(closed_between_parts),
        SIM_TEST(a_failed_commit),
        SIM_TEST(the_nth_failure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
