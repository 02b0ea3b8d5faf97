/* Starts of the store: after a commit that failed in its last write, on a directory that somebody else holds, that was
 * killed in the middle of being made, or that is a copy. */
#include "daemon/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <lmdb.h>

#include "daemon/store/check.h"
#include "daemon/base/logging.h"
#include "daemon/base/memory.h"
#include "daemon/store/origin.h"
#include "daemon/store/tables.h"
#include "tests/unit/folder.h"

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

/* Writes and flushes of the tables: the n-th from now fails. 0: none does. */
static unsigned fail_nth;

static bool fails(void)
{
    if (fail_nth == 0 || --fail_nth > 0)
        return false;
    errno = EIO;
    return true;
}

/* These stand before the C library's, for LMDB too. */
int fdatasync(int fd)
{
    return fails() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return fails() ? -1 : (ssize_t)syscall(SYS_writev, fd, parts, count);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (fails())
        return -1;
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

/* What was flushed, and whether a flush is the end of the process. */
enum { FLUSHED_MAX = 64 };

static struct {
    ino_t inodes[FLUSHED_MAX];
    int count;
    ino_t fatal;
} flushed;

int fsync(int fd)
{
    struct stat status;

    if (fails())
        return -1;
    assert_int_equal(fstat(fd, &status), 0);
    if (flushed.fatal == status.st_ino)
        raise(SIGKILL);
    if (flushed.count < FLUSHED_MAX)
        flushed.inodes[flushed.count++] = status.st_ino;
    return (int)syscall(SYS_fsync, fd);
}

static bool was_flushed(const char *path)
{
    struct stat status;
    bool found = false;

    assert_int_equal(stat(path, &status), 0);
    for (int i = 0; i < flushed.count; i++)
        found |= flushed.inodes[i] == status.st_ino;
    return found;
}

/* The disk has no room for what is asked for. */
static bool disk_is_full;

int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return disk_is_full ? ENOSPC : syscall(SYS_fallocate, fd, 0, (long)offset, (long)bytes) == 0 ? 0 : errno;
}

/* What LMDB says of a page that is damaged, for a test. 0: it is not. */
static int last_expiry_key_code, put_start_code;

int __wrap_tables_last_expiry_key(MDB_cursor *finished, MDB_cursor *chunks, uint64_t seconds, uint64_t *expiry_key);
int __real_tables_last_expiry_key(MDB_cursor *finished, MDB_cursor *chunks, uint64_t seconds, uint64_t *expiry_key);

int __wrap_tables_last_expiry_key(MDB_cursor *finished, MDB_cursor *chunks, uint64_t seconds, uint64_t *expiry_key)
{
    return last_expiry_key_code ? last_expiry_key_code
                                : __real_tables_last_expiry_key(finished, chunks, seconds, expiry_key);
}

int __wrap_tables_put_start(const struct tables *tables, const struct tables_state *state, const struct origin *origin,
                            const struct clock_past *past);
int __real_tables_put_start(const struct tables *tables, const struct tables_state *state, const struct origin *origin,
                            const struct clock_past *past);

int __wrap_tables_put_start(const struct tables *tables, const struct tables_state *state, const struct origin *origin,
                            const struct clock_past *past)
{
    return put_start_code ? put_start_code : __real_tables_put_start(tables, state, origin, past);
}

/* The machine is another for a test. */
static const uint8_t *machine_id;

void __wrap_host_machine_id(uint8_t id[HOST_ID_BYTES]);
void __real_host_machine_id(uint8_t id[HOST_ID_BYTES]);

void __wrap_host_machine_id(uint8_t id[HOST_ID_BYTES])
{
    if (machine_id)
        memcpy(id, machine_id, HOST_ID_BYTES);
    else
        __real_host_machine_id(id);
}

/* LMDB cannot open a store. */
static int env_open_code;

int __wrap_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode);
int __real_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode);

int __wrap_mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode)
{
    return env_open_code ? env_open_code : __real_mdb_env_open(env, path, flags, mode);
}

/* What the log says that matters here. */
static char copied[256];

void __wrap_log_event(enum log_level level, const char *event, ...);

void __wrap_log_event(enum log_level level, const char *event, ...)
{
    va_list arguments;
    const char *key;

    (void)level;
    va_start(arguments, event);
    while (strcmp(event, "copied") == 0 && (key = va_arg(arguments, const char *))) {
        const char *value = va_arg(arguments, const char *);
        if (strcmp(key, "reason") == 0)
            snprintf(copied, sizeof copied, "%s", value);
    }
    va_end(arguments);
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
    char folder[TEST_FOLDER_BYTES], data[96];
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

static struct store *try_open(struct world *world, const char *directory, struct failure *error)
{
    const struct store_options options = {.directory = directory,
                                          .quota_bytes = UINT64_C(1) << 33,
                                          .accept_loss = world->accept_loss,
                                          .wake = on_wake,
                                          .wake_context = world};

    *error = (struct failure){0};
    return store_open(&options, error);
}

static void close_store(struct world *world)
{
    store_close(world->store);
    world->store = NULL;
}

static void reopen(struct world *world)
{
    struct failure error;

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
    memset(&flushed, 0, sizeof flushed);
    fail_nth = 0;
    machine_id = NULL;
    env_open_code = 0;
    last_expiry_key_code = put_start_code = 0;
    disk_is_full = false;
    copied[0] = '\0';
    test_folder(world->folder);
    if (pipe(world->wake) != 0)
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
                                  .generation = number,
                                  .fence = number,
                                  .revision = number,
                                  .attempt = 1,
                                  .lease_ms = 1000,
                                  .begun_ms = 1};
    uint8_t encoded[RECORD_BYTES_MAX];
    struct store_change change = {.kind = STORE_PUT_UNFINISHED, .number = number, .generation = number};

    change.record = bytes_of(encoded, record_encode(&record, encoded));
    store_append(world->store, &change, NULL);
    return number;
}

/* How many there are, and the sum of their lives. */
struct seen {
    uint32_t count;
    uint64_t generations;
};

static void on_unfinished(void *context, uint64_t generation, struct bytes record)
{
    struct seen *seen = context;
    struct record read;

    assert_int_equal(record_decode(record, &read), RECORD_GOOD);
    seen->count++;
    seen->generations += generation;
}

static void on_finished(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes)
{
    (void)context, (void)expiry_key, (void)head, (void)record_bytes;
    fail();
}

static struct seen look(struct world *world)
{
    struct seen seen = {0};
    const struct store_visitor visitor = {on_unfinished, on_finished, &seen};
    struct failure error;

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
            expected.generations += begin(world);
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
        assert_int_equal(look(world).generations, expected.generations);
        reopen(world);
        assert_int_equal(look(world).generations, expected.generations);
    }
}

/* Each write and each flush of a start, and of bringing changes in, fails once. The next start works. */
static void the_nth_write_fails(void **state)
{
    struct world *world = *state;
    struct seen expected = {0};
    struct failure error;
    uint32_t met = 0;

    for (unsigned nth = 1, last_met = 1; nth <= last_met + 1; nth++)
        for (int at_start = 0; at_start < 2; at_start++) {
            expected.count++;
            expected.generations += begin(world);
            flush(world);
            const uint64_t next = store_next_number(world->store);
            fail_nth = at_start ? 0 : nth;
            apply(world);
            close_store(world);
            wall_ms += 1000;
            fail_nth = at_start ? nth : fail_nth;
            world->store = try_open(world, world->data, &error);
            if (!world->store)
                assert_int_equal(error.exit_code, 74);
            last_met = fail_nth == 0 ? nth : last_met;
            met += fail_nth == 0;
            fail_nth = 0;
            reopen(world);
            assert_true(store_next_number(world->store) >= next);
            assert_int_equal(look(world).count, expected.count);
            assert_int_equal(look(world).generations, expected.generations);
            assert_true(nth < 100);
        }
    assert_true(met > 20);
}

/* ---- What a killed daemon left unflushed ------------------------------------------------------------ */

static void path_of(const struct world *world, const char *name, char path[160])
{
    snprintf(path, 160, "%s/%s", world->folder, name);
}

static void flushed_whole(const struct world *world)
{
    static const char *const names[] = {"", "data", "data/store", "data/store/data.mdb"};
    char path[160];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        path_of(world, names[i], path);
        if (!was_flushed(path))
            fail_msg("%s is not flushed", path);
    }
}

/* Killed between the renaming and the flush of it, and later. */
static void names_are_flushed_at_every_start(void **state)
{
    struct world *world = *state;
    struct stat status;
    int result;

    close_store(world);
    shell("rm -r %s", world->data);
    assert_int_equal(mkdir(world->data, 0700), 0);
    assert_int_equal(stat(world->data, &status), 0);
    const pid_t child = fork();
    if (child == 0) {
        flushed.fatal = status.st_ino;
        reopen(world);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
    shell("test -d %s/store", world->data);
    flushed.count = 0;
    reopen(world);
    flushed_whole(world);
    flushed.count = 0;
    reopen(world);
    flushed_whole(world);
}

/* As under a service manager: the directory belongs to the daemon's user, and the one that it is in is closed to it. */
static void a_parent_that_cannot_be_opened(void **state)
{
    struct world *world = *state;
    int status;

    close_store(world);
    shell("chmod a+x %s/..", world->folder);
    shell("chmod a=x %s", world->folder);
    if (geteuid() == 0)
        shell("chown -R 65534:65534 %s", world->data);
    const pid_t child = fork();
    if (child == 0) {
        struct failure error;
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(1);
        _exit(try_open(world, world->data, &error) ? 0 : error.exit_code);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    shell("chmod u=rwx %s", world->folder);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- Who holds a directory ----------------------------------------------------------------------------- */

/* Another process tries to open the store: its exit code, and what it says. */
static int open_in_child(struct world *world, const char *directory, char message[512])
{
    int said[2], status;
    ssize_t size;

    assert_int_equal(pipe(said), 0);
    const pid_t child = fork();
    if (child == 0) {
        struct failure error;
        if (try_open(world, directory, &error))
            _exit(0);
        size = write(said[1], error.message, strlen(error.message));
        _exit(size > 0 ? error.exit_code : 1);
    }
    close(said[1]);
    size = read(said[0], message, 511);
    message[size > 0 ? size : 0] = '\0';
    close(said[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void held(struct world *world, const char *directory)
{
    char message[512], process[32];

    snprintf(process, sizeof process, "process %ld", (long)getpid());
    assert_int_equal(open_in_child(world, directory, message), 75);
    if (!strstr(message, process))
        fail_msg("%s", message);
}

/* Whatever is done to the files in it. */
static void one_directory_one_daemon(void **state)
{
    struct world *world = *state;
    char other[160];

    held(world, world->data);
    shell("rm %s/lock", world->data);
    held(world, world->data);
    shell("touch %s/lock", world->data);
    held(world, world->data);
    shell("mv %s %s/moved", world->data, world->folder);
    path_of(world, "moved", other);
    held(world, other);
    shell("mv %s %s", other, world->data);
    path_of(world, "link", other);
    assert_int_equal(symlink(world->data, other), 0);
    held(world, other);
}

static void one_file_one_daemon(void **state)
{
    struct world *world = *state;
    char other[160], message[512];

    path_of(world, "linked", other);
    shell("cp -al %s %s", world->data, other);
    held(world, other);
    shell("rm -r %s", other);
    assert_int_equal(mkdir(other, 0700), 0);
    shell("mv %s/store %s", world->data, other);
    held(world, other);
    shell("mv %s/store %s", other, world->data);
    close_store(world);
    assert_int_equal(open_in_child(world, world->data, message), 0);
    reopen(world);
}

/* One that knows of DIR/lock only. */
static void an_older_daemon_holds_it(void **state)
{
    struct world *world = *state;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct failure error;
    char path[160];

    close_store(world);
    path_of(world, "data/lock", path);
    const int fd = open(path, O_RDWR);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_null(try_open(world, world->data, &error));
    assert_int_equal(error.exit_code, 75);
    close(fd);
    reopen(world);
    /* And it does not come in where we are. */
    const int late = open(path, O_RDWR);
    assert_int_not_equal(fcntl(late, F_OFD_SETLK, &lock), 0);
    close(late);
}

static void a_mounted_file_system_is_no_stranger(void **state)
{
    struct world *world = *state;
    char other[160];

    close_store(world);
    path_of(world, "mounted", other);
    shell("mkdir -p %s/lost+found", other);
    struct failure error;
    world->store = try_open(world, other, &error);
    assert_non_null(world->store);
}

/* ---- Numbers, over copies and losses --------------------------------------------------------------------- */

/* Before it is changed, numbers go on from where they were; then from the clock. */
static void numbers_follow_the_clock(void **state)
{
    struct world *world = *state;
    const uint64_t next = store_next_number(world->store);

    assert_true(next >> 20 <= wall_ms / 1000 && (next >> 20) + 1 > wall_ms / 1000);
    reopen(world);
    assert_int_equal(store_next_number(world->store), next);
    const uint64_t generation = begin(world);
    flush(world);
    wall_ms += 10;
    reopen(world);
    const uint64_t later = store_next_number(world->store);
    assert_true(later > next + 10000 && later < next + 11000);
    assert_int_equal(look(world).generations, generation);
    /* Back again: what is stored counts. */
    wall_ms -= 1000000;
    reopen(world);
    assert_int_equal(store_next_number(world->store), later);
    wall_ms = 0;
    reopen(world);
    assert_int_equal(store_next_number(world->store), later);
}

/* Also where it is killed before it gave one out, or after. */
static void a_gap_in_the_numbers_is_no_loss(void **state)
{
    struct world *world = *state;
    uint64_t next = store_next_number(world->store);
    struct seen seen = {0};
    int status;

    for (int i = 0; i < 8; i++) {
        close_store(world);
        wall_ms += 5000;
        const pid_t child = fork();
        if (child == 0) {
            reopen(world);
            for (int j = 0; j < i % 4; j++) {
                begin(world);
                flush(world);
            }
            if (i > 4)
                apply(world);
            raise(SIGKILL);
        }
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        reopen(world);
        seen.count += (uint32_t)(i % 4);
        assert_int_equal(look(world).count, seen.count);
        assert_true(store_next_number(world->store) > next + 5000000);
        next = store_next_number(world->store);
    }
}

/* What the original gave out after it was copied, the copy does not give out again. */
static void a_copy_starts_above_its_original(void **state)
{
    struct world *world = *state;
    char other[160];

    begin(world);
    flush(world);
    close_store(world);
    path_of(world, "copy", other);
    shell("cp -a %s %s", world->data, other);
    reopen(world);
    assert_string_equal(copied, "");
    for (int i = 0; i < 200; i++)
        begin(world);
    flush(world);
    const uint64_t given = store_next_number(world->store);
    close_store(world);
    wall_ms++;
    struct failure error;
    world->store = try_open(world, other, &error);
    assert_non_null(world->store);
    assert_non_null(strstr(copied, "another file"));
    assert_true(store_next_number(world->store) >= given);
    assert_int_equal(look(world).count, 1);
    /* It says so once. */
    close_store(world);
    copied[0] = '\0';
    world->store = try_open(world, other, &error);
    assert_non_null(world->store);
    assert_string_equal(copied, "");
}

/* The clock says nothing there: it is behind. */
static void a_copy_starts_above_its_original_with_a_slow_clock(void **state)
{
    struct world *world = *state;
    char other[160];

    close_store(world);
    path_of(world, "copy", other);
    shell("cp -a %s %s", world->data, other);
    wall_ms -= 1000000;
    reopen(world);
    for (int i = 0; i < 200; i++)
        begin(world);
    flush(world);
    const uint64_t given = store_next_number(world->store);
    close_store(world);
    struct failure error;
    world->store = try_open(world, other, &error);
    assert_non_null(world->store);
    assert_true(store_next_number(world->store) >= given);
}

static void another_machine(void **state)
{
    static const uint8_t one[HOST_ID_BYTES] = {1}, another[HOST_ID_BYTES] = {2}, unknown[HOST_ID_BYTES] = {0};
    struct world *world = *state;

    machine_id = unknown;
    reopen(world);
    machine_id = one;
    reopen(world);
    assert_string_equal(copied, "");
    machine_id = another;
    reopen(world);
    assert_non_null(strstr(copied, "another machine"));
}

static void what_makes_a_copy(void **state)
{
    const struct origin before = {.device = 1, .inode = 2, .born_ns = 3, .machine_id = {4}, .boot_id = {5}};
    struct origin here = before;

    (void)state;
    assert_null(origin_difference(&before, &here));
    /* Devices are numbered anew at each boot. */
    here.device = 9;
    assert_non_null(origin_difference(&before, &here));
    here.boot_id[0] = 9;
    assert_null(origin_difference(&before, &here));
    /* An inode's number is given to the next file. */
    here = before;
    here.born_ns = 9;
    assert_non_null(origin_difference(&before, &here));
    here.born_ns = 0;
    assert_null(origin_difference(&before, &here));
    here.inode = 9;
    assert_non_null(origin_difference(&before, &here));
    here = before;
    memset(here.boot_id, 0, sizeof here.boot_id);
    memset(here.machine_id, 0, sizeof here.machine_id);
    here.device = 9;
    assert_null(origin_difference(&before, &here));
}

/* Both meta pages lead to what a start knew of a loss, and of the clock. */
static void a_skip_outlives_a_bad_meta_page(void **state)
{
    enum { META_LAST_COMMIT_AT = 144, PAGE = 4096 };
    struct world *world = *state;
    char path[160];

    begin(world);
    flush(world);
    const uint64_t next = store_next_number(world->store);
    close_store(world);
    path_of(world, "data/store/log.0", path);
    assert_int_equal(remove(path), 0);
    wall_ms -= 1000000;
    world->accept_loss = true;
    reopen(world);
    world->accept_loss = false;
    const uint64_t skipped = store_next_number(world->store);
    assert_true(skipped > next + 1000000);
    close_store(world);
    /* The newer commit does not count. */
    path_of(world, "data/store/data.mdb", path);
    const int fd = open(path, O_RDWR);
    uint64_t commits[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pread(fd, &commits[i], 8, i * PAGE + META_LAST_COMMIT_AT), 8);
    const int newest = commits[1] > commits[0];
    commits[newest] -= 2;
    assert_int_equal(pwrite(fd, &commits[newest], 8, newest * PAGE + META_LAST_COMMIT_AT), 8);
    close(fd);
    reopen(world);
    assert_int_equal(store_next_number(world->store), skipped);
}

static void a_clock_that_is_wrong(void **state)
{
    struct world *world = *state;
    struct failure error;
    char other[160];

    close_store(world);
    path_of(world, "new", other);
    const uint64_t was = wall_ms;
    wall_ms = CLOCK_WRONG_FROM_MS;
    assert_null(try_open(world, world->data, &error));
    assert_int_equal(error.exit_code, 71);
    assert_non_null(strstr(error.message, "set the clock"));
    assert_null(try_open(world, other, &error));
    assert_int_equal(error.exit_code, 71);
    wall_ms = was;
    reopen(world);
    const uint64_t next = store_next_number(world->store);
    wall_ms = CLOCK_WRONG_FROM_MS - 1;
    reopen(world);
    assert_true(store_next_number(world->store) > next && store_next_number(world->store) < UINT64_C(1) << 53);
}

/* ---- Checking ----------------------------------------------------------------------------------------------- */

/* What a check says. Returns its exit code. */
static int check(struct world *world, char *said, size_t bytes)
{
    FILE *out = tmpfile();

    assert_non_null(out);
    const int exit_code = check_data(world->data, out);
    rewind(out);
    said[fread(said, 1, bytes - 1, out)] = '\0';
    fclose(out);
    return exit_code;
}

/* The directory and all in it cannot be written to by this user: as where its file system is mounted to be read. */
static void checking_writes_nothing(void **state)
{
    struct world *world = *state;
    char said[4096];
    int status;

    begin(world);
    flush(world);
    apply(world);
    close_store(world);
    for (bool again = true;; again = false) {
        shell("chmod a+x %s/..", world->folder);
        shell("chmod -R a=rX %s", world->folder);
        const pid_t child = fork();
        if (child == 0) {
            if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
                _exit(1);
            _exit(check(world, said, sizeof said));
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        shell("chmod -R u+w %s", world->folder);
        if (!again)
            break;
        shell("rm %s/lock %s/store/lock.mdb", world->data, world->data);
    }
    /* Then without the files of locks, and there are none. */
    shell("test ! -e %s/lock && test ! -e %s/store/lock.mdb", world->data, world->data);
    shell("chmod -R go-rwx %s", world->data);
    reopen(world);
}

/* Every call that needs a descriptor fails once for want of one. */
static void too_few_descriptors_are_no_damage(void **state)
{
    struct world *world = *state;
    struct rlimit limit;
    int exit_code = 71, first, status;
    char said[4096];

    close_store(world);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    first = dup(0);
    close(first);
    for (int files = 0; exit_code != 0; files++) {
        assert_true(files < 32);
        const pid_t child = fork();
        if (child == 0) {
            FILE *out = fopen("/dev/null", "w");
            limit.rlim_cur = (rlim_t)(first + 1 + files);
            _exit(out && setrlimit(RLIMIT_NOFILE, &limit) == 0 ? check_data(world->data, out) : 1);
        }
        waitpid(child, &status, 0);
        assert_true(WIFEXITED(status));
        exit_code = WEXITSTATUS(status);
        if (exit_code != 0)
            assert_int_equal(exit_code, 71);
    }
    env_open_code = ENOMEM;
    assert_int_equal(check(world, said, sizeof said), 71);
    assert_non_null(strstr(said, "not checked"));
    assert_null(strstr(said, "damaged"));
    env_open_code = 0;
    assert_int_equal(check(world, said, sizeof said), 0);
}

/* A key can hold what a terminal obeys. */
static void a_check_escapes_what_it_shows(void **state)
{
    struct world *world = *state;
    const uint64_t number = store_next_number(world->store);
    const struct record record = {.id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("k\033]0;x\a", 7)},
                                  .hash = 77,
                                  .state = RECORD_DONE,
                                  .generation = number,
                                  .fence = number,
                                  .revision = number,
                                  .attempt = 1,
                                  .begun_ms = 1,
                                  .done_ms = 2,
                                  .outcome_kind = 1,
                                  .expires_ms = 1900000000001,
                                  .body_expires_ms = 1900000000001};
    uint8_t encoded[RECORD_BYTES_MAX];
    /* At a place before its end. */
    struct store_change change = {
        .kind = STORE_FINISH, .number = number, .generation = number, .expiry_key = UINT64_C(1900000000) << 30};
    char said[4096];

    change.record = bytes_of(encoded, record_encode(&record, encoded));
    store_append(world->store, &change, NULL);
    flush(world);
    apply(world);
    close_store(world);
    assert_int_equal(check(world, said, sizeof said), 65);
    assert_null(strchr(said, '\033'));
    assert_null(strchr(said, '\a'));
    assert_non_null(strstr(said, "key k\\x1b]0;x\\x07)"));
}

/* A slot that is a part of two stores, by a hard link, is used by one of them. */
static void one_slot_one_daemon(void **state)
{
    struct world *world = *state;
    struct failure error;
    char other[128];

    close_store(world);
    snprintf(other, sizeof other, "%s/other", world->folder);
    shell("cp -a %s %s && ln -f %s/store/log.0 %s/store/log.0", world->data, other, world->data, other);
    reopen(world);
    assert_null(try_open(world, other, &error));
    assert_int_equal(error.exit_code, 75);
    assert_non_null(strstr(error.message, "/other/store/log.0"));
    close_store(world);
    struct store *store = try_open(world, other, &error);
    assert_non_null(store);
    store_close(store);
}

/* Two restores of one backup, whose numbers are ahead of the clock, do not give out the same fences. */
static void restores_do_not_meet(void **state)
{
    enum { RESTORES = 3 };
    struct world *world = *state;
    uint64_t first[RESTORES];
    struct failure error;
    char path[160];

    close_store(world);
    wall_ms += UINT64_C(10) * 24 * 3600 * 1000;
    reopen(world);
    const uint64_t next = store_next_number(world->store);
    close_store(world);
    wall_ms -= UINT64_C(10) * 24 * 3600 * 1000;
    for (int i = 0; i < RESTORES; i++) {
        snprintf(path, sizeof path, "%s/restore%d", world->folder, i);
        shell("cp -a %s %s", world->data, path);
        struct store *store = try_open(world, path, &error);
        assert_non_null(store);
        first[i] = store_next_number(store);
        assert_true(first[i] >= next + (UINT64_C(1) << 30) && first[i] <= next + (UINT64_C(1) << 34));
        for (int before = 0; before < i; before++)
            assert_true(first[before] != first[i]);
        store_close(store);
    }
}

/* A place is asked for, and the tables do not read: the daemon ends with a line, by no signal. */
static void a_damaged_page_ends_with_a_line(void **state)
{
    struct world *world = *state;
    int status;

    last_expiry_key_code = MDB_PAGE_NOTFOUND;
    const pid_t child = fork();
    if (child == 0) {
        store_expiry_key(world->store, 1900000000000, 1000);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 74);
}

/* What is damaged at a start is called so, and by its name. */
static void damage_at_a_start(void **state)
{
    static const struct {
        int code, exit_code;
    } cases[] = {{MDB_CORRUPTED, 65}, {MDB_PAGE_NOTFOUND, 65}, {EIO, 74}, {ENOSPC, 74}};
    struct world *world = *state;
    struct failure error;

    close_store(world);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_start_code = cases[i].code;
        assert_null(try_open(world, world->data, &error));
        assert_int_equal(error.exit_code, cases[i].exit_code);
        assert_non_null(strstr(error.message, "/data/store/data.mdb"));
    }
}

/* LMDB maps its lock file: a start that has no room for it says so. */
static void no_room_for_the_lock_file(void **state)
{
    struct world *world = *state;
    struct failure error;

    close_store(world);
    shell("rm %s/store/lock.mdb", world->data);
    disk_is_full = true;
    assert_null(try_open(world, world->data, &error));
    disk_is_full = false;
    assert_int_equal(error.exit_code, 74);
    assert_non_null(strstr(error.message, "/store/lock.mdb"));
    reopen(world);
}

int main(void)
{
#define START_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        START_TEST(a_failed_write_of_a_meta_page),
        START_TEST(the_nth_write_fails),
        START_TEST(names_are_flushed_at_every_start),
        START_TEST(a_parent_that_cannot_be_opened),
        START_TEST(one_directory_one_daemon),
        START_TEST(one_file_one_daemon),
        START_TEST(one_slot_one_daemon),
        START_TEST(restores_do_not_meet),
        START_TEST(a_damaged_page_ends_with_a_line),
        START_TEST(damage_at_a_start),
        START_TEST(no_room_for_the_lock_file),
        START_TEST(an_older_daemon_holds_it),
        START_TEST(a_mounted_file_system_is_no_stranger),
        START_TEST(numbers_follow_the_clock),
        START_TEST(a_gap_in_the_numbers_is_no_loss),
        START_TEST(a_copy_starts_above_its_original),
        START_TEST(a_copy_starts_above_its_original_with_a_slow_clock),
        START_TEST(another_machine),
        START_TEST(what_makes_a_copy),
        START_TEST(a_skip_outlives_a_bad_meta_page),
        START_TEST(a_clock_that_is_wrong),
        START_TEST(checking_writes_nothing),
        START_TEST(too_few_descriptors_are_no_damage),
        START_TEST(a_check_escapes_what_it_shows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
