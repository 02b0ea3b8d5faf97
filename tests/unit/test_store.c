/* The store itself: what is durable, what is read again, what goes, and what it refuses to open. */
#include "daemon/store.h"

#include <errno.h>
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

#include "daemon/batch.h"
#include "daemon/check.h"
#include "daemon/log.h"
#include "daemon/memory.h"
#include "daemon/tables.h"
#include "tests/model/sim_disk.h"

struct world {
    char folder[64], data[96];
    int wake[2];
    struct store *store;
    uint64_t boot_ms;        /* as the store is told */
    const struct disk *disk; /* of the log; NULL: the system's */
    uint64_t base;           /* number of the first change of the workload */
};

static void on_wake(void *context)
{
    const struct world *world = context;

    assert_int_equal(write(world->wake[1], "w", 1), 1);
}

static struct store *try_open(struct world *world, uint64_t quota_bytes, struct store_error *error)
{
    const struct store_options options = {.directory = world->data,
                                          .quota_bytes = quota_bytes,
                                          .disk = world->disk,
                                          .wake = on_wake,
                                          .wake_context = world};

    return store_open(&options, error);
}

static void reopen(struct world *world)
{
    struct store_error error;

    store_close(world->store);
    world->store = try_open(world, UINT64_C(1) << 33, &error);
    if (!world->store)
        fail_msg("%s", error.message);
}

static int set_up(void **state)
{
    struct world *world = mem_zero(1, sizeof *world);

    strcpy(world->folder, "/tmp/idemd-store-XXXXXX");
    if (!mkdtemp(world->folder) || pipe(world->wake) != 0)
        return -1;
    snprintf(world->data, sizeof world->data, "%s/data", world->folder);
    world->boot_ms = 1000;
    reopen(world);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"data/store/data.mdb",
                                        "data/store/lock.mdb",
                                        "data/store/log.0",
                                        "data/store/log.1",
                                        "data/store/log.2",
                                        "data/store/log.3",
                                        "data/store/log.4",
                                        "data/store/log.5",
                                        "data/store/log.6",
                                        "data/store/log.7",
                                        "data/store",
                                        "data/store.new/data.mdb",
                                        "data/store.new/log.0",
                                        "data/store.new",
                                        "data/lock",
                                        "data/letter",
                                        "data",
                                        ""};
    struct world *world = *state;
    char path[160];

    store_close(world->store);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", world->folder, names[i]);
        remove(path);
    }
    close(world->wake[0]);
    close(world->wake[1]);
    mem_free(world);
    return 0;
}

/* Waits for what a thread of the store has to say. */
static struct store_event wait_event(struct world *world)
{
    struct store_event event;
    char byte;

    while (!store_poll(world->store, &event))
        assert_int_equal(read(world->wake[0], &byte, 1), 1);
    assert_false(event.failed);
    return event;
}

/* Hands the open batch over and waits until it is durable. */
static void flush(struct world *world)
{
    struct clock_mark mark;

    store_end_turn(world->store);
    clock_read_mark(&mark);
    mark.retention_ms = mark.wall_ms;
    store_submit(world->store, &mark);
    assert_true(store_busy(world->store));
    while (store_busy(world->store))
        wait_event(world);
    assert_int_equal(store_durable_number(world->store), store_newest_number(world->store));
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
                           .life = number,
                           .fence = number,
                           .revision = number,
                           .attempt = 1,
                           .lease_ms = 1000,
                           .begun_ms = 1};
}

static void append(struct store *store, enum store_change_kind kind, const struct record *record, uint64_t place,
                   const struct bytes values[BLOB_KINDS])
{
    uint8_t encoded[RECORD_BYTES_MAX];
    struct store_change change = {.kind = kind,
                                  .number = store_next_number(store),
                                  .life = record->life,
                                  .place = place,
                                  .body_place = record->body_place};
    struct slice slices[BLOB_KINDS] = {{0}};

    if (kind == STORE_PUT_UNFINISHED || kind == STORE_FINISH)
        change.record = bytes_of(encoded, record_encode(record, encoded));
    for (int i = 1; values && i < BLOB_KINDS; i++)
        change.values[i] = values[i];
    store_append(store, &change, slices);
    for (int i = 1; i < BLOB_KINDS; i++)
        if (change.values[i].data)
            assert_true(bytes_equal(slice_bytes(slices[i]), change.values[i]));
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
    uint64_t life, place;
};

static void on_unfinished(void *context, uint64_t life, struct bytes record)
{
    struct seen *seen = context;
    struct record read;

    assert_int_equal(record_decode(record, &read), RECORD_GOOD);
    seen->unfinished++;
    seen->life = life;
}

static void on_finished(void *context, uint64_t place, const struct record *head)
{
    struct seen *seen = context;

    assert_int_equal(head->hash, 77);
    seen->finished++;
    seen->place = place;
}

static struct seen look(struct world *world)
{
    struct seen seen = {0};
    const struct store_visitor visitor = {on_unfinished, on_finished, &seen};
    struct store_error error;

    assert_true(store_load(world->store, &visitor, &error));
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
    assert_int_equal(store_first_place(world->store), 0);
}

static void values_of_every_size(void **state)
{
    static const uint32_t sizes[] = {1, 100, 4071, 4072, 4073, 8144, 8145, 1 << 20, 16 << 20};
    struct world *world = *state;

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bytes values[BLOB_KINDS] = {{0}};
        uint8_t *data = pattern(sizes[i], (unsigned)i), *read = mem_alloc(sizes[i]), *more = mem_alloc(sizes[i] + 1);
        struct record record = some_record(world->store, "k");

        values[BLOB_INPUT] = bytes_of(data, sizes[i]);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, values);
        commit(world);
        for (int round = 0; round < 2; round++) {
            assert_int_equal(store_read_value(world->store, record.life, BLOB_INPUT, sizes[i], read), STORE_FOUND);
            assert_memory_equal(data, read, sizes[i]);
            /* What is longer than was stored is not there whole. */
            assert_int_not_equal(store_read_value(world->store, record.life, BLOB_INPUT, sizes[i] + 1, more),
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
static void a_life(void **state)
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
    assert_int_equal(store_read_value(world->store, record.life, BLOB_CHECKPOINT, 10, out), STORE_FOUND);
    assert_memory_equal(out, large + 5, 10);
    assert_int_not_equal(store_read_value(world->store, record.life, BLOB_CHECKPOINT, 50000, out), STORE_FOUND);
    assert_int_equal(store_read_value(world->store, record.life, BLOB_INPUT, 50000, out), STORE_FOUND);
    store_end_turn(world->store);

    /* Finished: what was under the life goes. */
    struct record done = finished(&record, world->store, 1900000000000);
    done.body_field_bytes = 50000;
    const uint64_t place = store_place(world->store, done.expires_ms, 86400000);
    append(world->store, STORE_FINISH, &done, place, (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of(large, 50000)});
    commit(world);
    assert_int_equal(store_read_value(world->store, record.life, BLOB_INPUT, 50000, out), STORE_MISSING);
    assert_int_equal(store_read_finished(world->store, place, &bytes), STORE_FOUND);
    assert_int_equal(record_decode(bytes, &read), RECORD_GOOD);
    assert_int_equal(read.revision, done.revision);
    assert_int_equal(store_read_value(world->store, place, BLOB_BODY, 50000, out), STORE_FOUND);
    store_end_turn(world->store);
    assert_int_equal(look(world).unfinished, 0);
    assert_int_equal(look(world).place, place);
    assert_int_equal(store_first_place(world->store), place);

    append(world->store, STORE_REMOVE_FINISHED, &done, place, NULL);
    commit(world);
    assert_int_equal(store_read_finished(world->store, place, &bytes), STORE_MISSING);
    assert_int_equal(store_read_value(world->store, place, BLOB_BODY, 50000, out), STORE_MISSING);
    store_end_turn(world->store);
    assert_int_equal(store_first_place(world->store), 0);
    mem_free(large);
    mem_free(out);
}

static void places(void **state)
{
    struct world *world = *state;
    struct record record = some_record(world->store, "k");
    const uint64_t expires_ms = 1900000000001;
    uint64_t place = store_place(world->store, expires_ms, 86400000), other;

    /* Rounded up to a multiple of 8,192 s, the largest power of two not above an eighth of a day. */
    assert_int_equal(store_place_seconds(place) % 8192, 0);
    assert_true(store_place_seconds(place) * 1000 >= expires_ms);
    assert_true(store_place_seconds(place) * 1000 < expires_ms + 8192 * 1000);
    assert_int_equal(store_place_seconds(store_place(world->store, 1900000000000, 1000)), 1900000000);
    assert_int_equal(store_place_seconds(store_place(world->store, 1900000000001, 1000)), 1900000001);
    other = store_place(world->store, expires_ms, 86400000);
    assert_int_equal(other, place + 1);

    /* After a start the count goes on behind what is there, be it a record or a body's own place. */
    struct record done = finished(&record, world->store, expires_ms);
    append(world->store, STORE_FINISH, &done, other, NULL);
    commit(world);
    reopen(world);
    place = store_place(world->store, expires_ms, 86400000);
    assert_int_equal(place, other + 1);
    record = some_record(world->store, "k2");
    done = finished(&record, world->store, UINT64_C(1990000000000));
    done.body_field_bytes = 5;
    done.body_place = place;
    append(world->store, STORE_FINISH, &done, store_place(world->store, done.expires_ms, 1000),
           (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of("hello", 5)});
    commit(world);
    reopen(world);
    assert_int_equal(store_place(world->store, expires_ms, 86400000), place + 1);
}

static void sweeping(void **state)
{
    enum { MANY = 5000 };
    struct world *world = *state;
    uint8_t *body = pattern(9000, 1), *out = mem_alloc(9000);
    uint32_t swept = 0, slices = 0;
    uint64_t kept_place = 0, body_place = 0;
    struct store_event event;

    for (uint32_t i = 0; i < MANY; i++) {
        struct record record = some_record(world->store, "k");
        struct record done = finished(&record, world->store, 1800000000000 + i);
        append(world->store, STORE_FINISH, &done, store_place(world->store, done.expires_ms, 1000), NULL);
    }
    /* This one stays, and its body goes before it. */
    struct record record = some_record(world->store, "kept");
    struct record done = finished(&record, world->store, 1900000000000);
    body_place = done.body_place = store_place(world->store, 1800000003000, 1000);
    done.body_field_bytes = 9000;
    kept_place = store_place(world->store, done.expires_ms, 1000);
    append(world->store, STORE_FINISH, &done, kept_place,
           (struct bytes[BLOB_KINDS]){[BLOB_BODY] = bytes_of(body, 9000)});
    commit(world);
    assert_int_equal(store_read_value(world->store, body_place, BLOB_BODY, 9000, out), STORE_FOUND);
    store_end_turn(world->store);
    assert_int_equal(store_place_seconds(store_first_place(world->store)), 1800000000);

    event = apply(world, 1799999999);
    assert_int_equal(event.swept_count, 0);
    do {
        event = apply(world, 1800000010);
        for (uint32_t i = 0; i < event.swept_count; i++)
            assert_int_equal(event.swept[i].hash, 77);
        swept += event.swept_count;
        slices++;
        assert_true(slices < 20);
    } while (store_place_seconds(store_first_place(world->store)) <= 1800000010);
    assert_int_equal(swept, MANY);
    assert_true(slices > 1);
    assert_int_equal(store_read_value(world->store, body_place, BLOB_BODY, 9000, out), STORE_MISSING);
    store_end_turn(world->store);
    assert_int_equal(store_first_place(world->store), kept_place);
    assert_int_equal(look(world).finished, 1);
    mem_free(body);
    mem_free(out);
}

static bool count_visits(void *context, uint64_t place, struct bytes record)
{
    uint32_t *left = context;

    (void)place, (void)record;
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
        append(world->store, STORE_FINISH, &done, store_place(world->store, done.expires_ms, 1000), NULL);
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
    assert_int_equal(store_place_seconds(first), 1800000004);
    store_end_turn(world->store);
}

static void quota(void **state)
{
    struct world *world = *state;
    struct store_error error;

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
    struct store_error error = {0};
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
        assert_true(look(world).life >= durable);
    }
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

/* ---- A workload of which every number tells its change ------------------------------------------- */

/* In turns of four numbers: a life begins with an input, has a checkpoint, finishes with a body; then a life begins
 * that stays, or the one of the turn before goes. */
enum { TURN = 4, SIZE_MAX_OF_WORK = 9000 };

static uint32_t work_size(uint64_t number)
{
    return (uint32_t)(number * 2654435761u % SIZE_MAX_OF_WORK) + 1;
}

static uint64_t work_place(const struct world *world, uint64_t number)
{
    return UINT64_C(1900000000) << 30 | (number - world->base);
}

static struct record work_record(uint64_t life, uint64_t number)
{
    return (struct record){.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("k", 1)},
                           .hash = 77,
                           .state = RECORD_RUNNING,
                           .life = life,
                           .fence = life,
                           .revision = number,
                           .attempt = 1,
                           .lease_ms = 1000,
                           .begun_ms = 1};
}

static void work(struct world *world)
{
    const uint64_t number = store_next_number(world->store), at = number - world->base, turn = at / TURN;
    const uint32_t size = work_size(number);
    uint8_t *data = pattern(size, (unsigned)number);
    struct bytes values[BLOB_KINDS] = {{0}};
    struct record record = work_record(number - at % TURN, number);

    if (at % TURN == 0) {
        record.input_bytes = size;
        values[BLOB_INPUT] = bytes_of(data, size);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, values);
    } else if (at % TURN == 1) {
        record.input_bytes = work_size(number - 1);
        record.checkpoint_bytes = size;
        values[BLOB_CHECKPOINT] = bytes_of(data, size);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, values);
    } else if (at % TURN == 2) {
        struct record done = finished(&record, world->store, 1900000000000);
        done.body_field_bytes = size;
        values[BLOB_BODY] = bytes_of(data, size);
        append(world->store, STORE_FINISH, &done, work_place(world, number), values);
    } else if (turn % 2 == 0) {
        record = work_record(number, number);
        append(world->store, STORE_PUT_UNFINISHED, &record, 0, NULL);
    } else {
        record = work_record(number - TURN, number);
        append(world->store, STORE_REMOVE_UNFINISHED, &record, 0, NULL);
    }
    mem_free(data);
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
            assert_int_equal(store_read_finished(world->store, work_place(world, number), &bytes), STORE_FOUND);
            assert_int_equal(record_decode(bytes, &record), RECORD_GOOD);
            assert_int_equal(record.revision, number);
            assert_value(world, work_place(world, number), BLOB_BODY, number);
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
    assert_true(store_tail_bytes(world->store) > 0);
    store_apply(world->store, 0, 7000);
    assert_true(store_applying(world->store));
    /* What comes meanwhile is flushed, and is the next tail. */
    work_and_flush(world, 3);
    struct store_event event = {0};
    while (store_applying(world->store))
        event = wait_event(world);
    assert_int_equal(event.applied, world->base + 5);
    assert_int_equal(event.durable, world->base + 8);
    assert_int_equal(store_apply(world->store, 0, 9000), 14000);
    reopen(world);
    assert_worked(world);
}

static void applied_when_large(void **state)
{
    enum { PART = 200 * 1024, LIMIT = 16 * 1024 * 1024 };
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
        assert_true(store_tail_bytes(world->store) >= flushed);
    }
    assert_true(flushed + 16 * PART > LIMIT);
    assert_int_equal(store_tail_bytes(world->store), 0);
    mem_free(data);
}

static void assert_in_tables(struct world *world, uint64_t next)
{
    struct tables tables;
    struct tables_state state;
    struct store_facts facts;
    struct store_error error;
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
    struct store_error error = {0};
    FILE *out = tmpfile();

    const uint64_t first = world->base = store_next_number(world->store);
    leave_in_log(world, 6);
    assert_int_equal(check_data(world->data, out), 0);
    flip_in_log(world, 200);
    assert_null(try_open(world, UINT64_C(1) << 33, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.0"));
    assert_int_equal(check_data(world->data, out), 65);
    /* Whole again, it opens: nobody wrote to it meanwhile. */
    flip_in_log(world, 200);
    assert_int_equal(check_data(world->data, out), 0);
    reopen(world);
    assert_int_equal(store_durable_number(world->store), first + 29);
    assert_worked(world);

    leave_in_log(world, 6);
    flip_in_log(world, 200);
    const struct store_options options = {.directory = world->data,
                                          .quota_bytes = UINT64_C(1) << 33,
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

/* More than is brought in at once: in parts, of which each may be the last before a kill. */
static void much_to_recover(void **state)
{
    enum { BATCHES = 45, LIVES = 60, SIZE = 16000 };
    struct world *world = *state;
    const struct store_facts facts = *store_facts(world->store);
    const uint64_t first = store_next_number(world->store);
    uint8_t *data = pattern(SIZE, 9), *out = mem_alloc(SIZE);
    struct store_error error = {0};
    char path[128];

    store_close(world->store);
    world->store = NULL;
    snprintf(path, sizeof path, "%s/store", world->data);
    const struct log_options options = {
        .disk = &disk_system, .directory = path, .secret = facts.secret, .applied = first - 1, .slots = 1};
    struct log *log = log_open(&options, &error);
    assert_non_null(log);
    assert_int_equal(log_start(log), 0);
    for (uint64_t n = 0; n < BATCHES; n++) {
        struct batch batch;
        batch_start(&batch, first + n * LIVES);
        for (uint32_t i = 0; i < LIVES; i++) {
            uint8_t encoded[RECORD_BYTES_MAX];
            struct record record = work_record(batch.next, batch.next);
            record.input_bytes = SIZE;
            struct store_change change = {.kind = STORE_PUT_UNFINISHED, .number = batch.next, .life = batch.next};
            change.record = bytes_of(encoded, record_encode(&record, encoded));
            change.values[BLOB_INPUT] = bytes_of(data, SIZE);
            batch_append(&batch, &change, NULL);
        }
        batch_seal(&batch, &facts.mark);
        assert_int_equal(log_prepare(log), 0);
        log_add_slot(log);
        assert_true(log_has_room(log, batch.bytes->size));
        assert_int_equal(log_append(log, batch.bytes->data), 0);
        blob_release(batch.bytes);
    }
    log_close(log);
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
    begin_apply(world);
    while (store_applying(world->store))
        event = wait_any(world);
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
static uint64_t life_with_faults(struct world *world)
{
    struct store_error error = {0};
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
            const uint64_t durable = life_with_faults(world);
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
#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define SIM_TEST(name)   cmocka_unit_test_setup_teardown(name, set_up_sim, tear_down_sim)
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_new_store),
        STORE_TEST(values_of_every_size),
        STORE_TEST(a_life),
        STORE_TEST(places),
        STORE_TEST(sweeping),
        STORE_TEST(listing),
        STORE_TEST(quota),
        STORE_TEST(who_may_open),
        STORE_TEST(killed),
        STORE_TEST(checking),
        STORE_TEST(killed_at_each_moment),
        STORE_TEST(applied_when_old),
        STORE_TEST(applied_when_large),
        STORE_TEST(closing_applies),
        STORE_TEST(damage_in_the_log),
        STORE_TEST(much_to_recover),
        SIM_TEST(a_failed_flush),
        SIM_TEST(no_room_in_the_log),
        SIM_TEST(a_failed_commit),
        SIM_TEST(the_nth_failure),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
