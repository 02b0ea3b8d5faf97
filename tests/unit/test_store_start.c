/* Starts of the store: after a commit that failed in its last write, on a directory that somebody else holds, that was
 * killed in the middle of being made, or that is a copy. */
#include "daemon/store.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/memory.h"

/* ---- Calls that the tests watch or fail ----------------------------------------------------- */

/* LMDB ends a commit with one write of all that a meta page holds but its first bytes. */
enum { META_WRITE_BYTES = 120 };

enum meta_fault {
    META_NOT_WRITTEN,
    META_HALF_WRITTEN,
    META_WRITTEN, /* and reported as failed */
    META_SHORT,   /* half of it is written, and that is what the call says */
    META_FAULTS,
};

static struct {
    bool armed, hit;
    enum meta_fault fault;
    bool write_back; /* LMDB can write the old number back */
} meta;

/* Stands before the C library's, for LMDB too. */
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    const bool is_meta = size == META_WRITE_BYTES && (offset < 4096 || offset / 4096 == 1);
    size_t part = size;

    if (!meta.armed || !is_meta)
        return (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset);
    if (meta.hit) {
        if (meta.write_back)
            return (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset);
        errno = EIO;
        return -1;
    }
    meta.hit = true;
    if (meta.fault == META_NOT_WRITTEN)
        part = 0;
    else if (meta.fault != META_WRITTEN)
        part = size / 2;
    if (part > 0 && syscall(SYS_pwrite64, fd, data, part, offset) != (long)part)
        return -1;
    if (meta.fault == META_SHORT)
        return (ssize_t)part;
    errno = EIO;
    return -1;
}

/* The clock stands still, so that numbers go on without a gap, unless a test sets it on. */
void __wrap_clock_read_mark(struct clock_mark *mark);
void __real_clock_read_mark(struct clock_mark *mark);

static uint64_t wall_ms;

void __wrap_clock_read_mark(struct clock_mark *mark)
{
    __real_clock_read_mark(mark);
    mark->wall_ms = wall_ms;
}

/* ---- A store ------------------------------------------------------------------------------------ */

struct world {
    char folder[64], data[96];
    int wake[2];
    bool accept_loss;
    struct store *store;
    uint64_t boot_ms; /* as the store is told */
};

static void on_wake(void *context)
{
    const struct world *world = context;

    assert_int_equal(write(world->wake[1], "w", 1), 1);
}

static struct store *try_open(struct world *world, const char *directory, struct store_error *error)
{
    const struct store_options options = {.directory = directory,
                                          .quota_bytes = UINT64_C(1) << 33,
                                          .accept_loss = world->accept_loss,
                                          .wake = on_wake,
                                          .wake_context = world};

    *error = (struct store_error){0};
    return store_open(&options, error);
}

static void close_store(struct world *world)
{
    store_close(world->store);
    world->store = NULL;
}

static void reopen(struct world *world)
{
    struct store_error error;

    close_store(world);
    world->store = try_open(world, world->data, &error);
    if (!world->store)
        fail_msg("%s", error.message);
}

static void shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *format, ...)
{
    char command[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    struct world *world = mem_zero(1, sizeof *world);
    struct clock_mark mark;

    __real_clock_read_mark(&mark);
    wall_ms = mark.wall_ms;
    memset(&meta, 0, sizeof meta);
    strcpy(world->folder, "/tmp/idemd-start-XXXXXX");
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
    struct world *world = *state;

    close_store(world);
    shell("rm -rf %s", world->folder);
    close(world->wake[0]);
    close(world->wake[1]);
    mem_free(world);
    return 0;
}

static struct store_event wait_any(struct world *world)
{
    struct store_event event;
    char byte;

    while (!store_poll(world->store, &event))
        assert_int_equal(read(world->wake[0], &byte, 1), 1);
    return event;
}

static void flush(struct world *world)
{
    struct clock_mark mark;

    clock_read_mark(&mark);
    mark.retention_ms = mark.wall_ms;
    store_submit(world->store, &mark);
    while (store_busy(world->store))
        assert_false(wait_any(world).failed);
}

static struct store_event apply(struct world *world)
{
    struct store_event event = {0};

    store_apply(world->store, 0, world->boot_ms);
    if (!store_applying(world->store))
        store_apply(world->store, 0, world->boot_ms += 5000);
    while (store_applying(world->store))
        event = wait_any(world);
    return event;
}

/* An operation begins. Returns its number, which is its fence. */
static uint64_t begin(struct world *world)
{
    const uint64_t number = store_next_number(world->store);
    const struct record record = {.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("k", 1)},
                                  .hash = 77,
                                  .state = RECORD_RUNNING,
                                  .life = number,
                                  .fence = number,
                                  .revision = number,
                                  .attempt = 1,
                                  .lease_ms = 1000,
                                  .begun_ms = 1};
    uint8_t encoded[RECORD_BYTES_MAX];
    struct store_change change = {.kind = STORE_PUT_UNFINISHED, .number = number, .life = number};

    change.record = bytes_of(encoded, record_encode(&record, encoded));
    store_append(world->store, &change, NULL);
    return number;
}

/* How many there are, and the sum of their lives. */
struct seen {
    uint32_t count;
    uint64_t lives;
};

static void on_unfinished(void *context, uint64_t life, struct bytes record)
{
    struct seen *seen = context;
    struct record read;

    assert_int_equal(record_decode(record, &read), RECORD_GOOD);
    seen->count++;
    seen->lives += life;
}

static void on_finished(void *context, uint64_t place, const struct record *head)
{
    (void)context, (void)place, (void)head;
    fail();
}

static struct seen look(struct world *world)
{
    struct seen seen = {0};
    const struct store_visitor visitor = {on_unfinished, on_finished, &seen};
    struct store_error error;

    assert_true(store_load(world->store, &visitor, &error));
    return seen;
}

/* ---- A commit whose last write fails -------------------------------------------------------------- */

/* The commit before the failed one counts, and what is not in it is in the log. */
static void a_failed_write_of_a_meta_page(void **state)
{
    struct world *world = *state;
    struct seen expected = {0};

    for (int i = 0; i < META_FAULTS * 4; i++) {
        meta.fault = (enum meta_fault)(i % META_FAULTS);
        meta.write_back = i / META_FAULTS % 2;
        for (int j = 0; j < 1 + i % 3; j++) {
            expected.count++;
            expected.lives += begin(world);
            flush(world);
        }
        const uint64_t next = store_next_number(world->store);
        meta.armed = true;
        meta.hit = false;
        assert_true(apply(world).failed);
        assert_true(meta.hit);
        close_store(world);
        meta.armed = false;
        reopen(world);
        assert_int_equal(store_next_number(world->store), next);
        assert_int_equal(look(world).count, expected.count);
        assert_int_equal(look(world).lives, expected.lives);
        reopen(world);
        assert_int_equal(look(world).lives, expected.lives);
    }
}

int main(void)
{
#define START_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        START_TEST(a_failed_write_of_a_meta_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
