/* The loop's side of the store, and what its two threads do.
 *
 *     loop:      open batches --submit--> in flight --poll--> tail --store_apply--> applying --poll--> gone
 *     writer:                             `--> log: write and flush
 *     applier:                                                  `--> a slot for the log, tables: one commit
 *
 * What is appended goes into one batch, unless that becomes larger than any slot of the log: slots do not grow, so that
 * a full disk stops nothing. Then it goes on in another, and they are handed over together and written one by one.
 *
 * A small batch is flushed on the loop itself while the disk is quick: a hand-over to a sleeping thread and back costs
 * about as much as the flush, and what comes meanwhile would make a second group of clients that waits for the first.
 * The loop reads through one transaction, taken at the first read of a turn and reset at its end. */
#include "daemon/store/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "daemon/store/ahead.h"
#include "daemon/store/apply.h"
#include "daemon/store/batch.h"
#include "daemon/store/directory.h"
#include "daemon/store/disk.h"
#include "daemon/store/load.h"
#include "daemon/store/wal.h"
#include "daemon/base/logging.h"
#include "daemon/store/mapped.h"
#include "daemon/base/memory.h"
#include "daemon/base/number.h"
#include "daemon/store/origin.h"
#include "daemon/store/expiry_keys.h"
#include "daemon/store/tables.h"
#include "daemon/store/worker.h"

enum {
    RESERVE_BYTES = 3 * 1024 * 1024,          /* of the quota: for outcomes when nothing new is granted */
    UNFINISHED_BYTES = 2 * TABLES_PAGE_BYTES, /* held for each unfinished operation, to finish it */
    APPLIER_NICE = 10,                        /* nobody waits for the tables */
    SPARES_MAX = 64,                          /* batches whose memory is kept, */
    SPARE_BYTES_MAX = 512 * 1024,             /* where it is no more than this */
    APPLY_BYTES = 3 * 1024 * 1024,            /* the tail is applied when it takes so much, */
    LATE_BYTES = 4 * APPLY_BYTES,             /* without rests where it takes so much */
    APPLY_MS = 5 * 1000,                      /* or is so old */
    /* What may go comes by the million at a time, since places are rounded: slices are put off so long, unless the
     * tail is applied, or the first is overdue. 200,000 records a second. */
    SWEEP_EVERY_MS = 20,
    SWEEP_LATE_S = 2,
    APPLY_AGAIN_MS = 100, /* where there was no memory to be had */
    DISK_AGAIN_MS = 1000, /* a full disk, or one without another slot, is asked again */
    /* On a full disk, of what the tables have room for: a commit writes pages anew before it gives others back, */
    COMMIT_ROOM_BYTES = 16 * 1024 * 1024,
    CHANGE_ROOM_BYTES = 2 * 1024, /* and what a change becomes there is more than what the log has of it */
    TRIM_BYTES = 1024 * 1024,     /* a tail of so much leaves memory to be given back */
    /* A batch is flushed on the loop where it is small, */
    INLINE_CHANGES = 64,
    INLINE_BYTES = 64 * 1024,
    INLINE_NS = 1000 * 1000, /* and the flush before took no longer: a slow disk must not hold up what needs none */
};
/* More than the log can hold, since each takes a byte at least; and 17 minutes of number_of_now. The most that is
 * skipped is four and a half hours of it, so that numbers stay far below 2^53. */
#define UNKNOWN_NUMBERS      (UINT64_C(1) << 30)
#define UNKNOWN_NUMBERS_MOST (UINT64_C(1) << 34)
#define TELL_NS              (60 * UINT64_C(1000000000)) /* so often it is logged at most that the disk has no room */
#define MAP_BYTES_OVER       (16ull << 30) /* the map is this much larger than twice the quota, and sparse */

/* A batch that is in the log and not in the tables. */
struct unapplied {
    struct blob *bytes;
    uint64_t last;
};

/* The writer's job. */
struct writing {
    const uint8_t *batch;
    int code;
    uint64_t began_ns, ended_ns;
};

/* The applier's job, and what came of it. */
struct applying {
    struct apply apply;
    struct bytes *batches; /* of the tail's first `batch_count` */
    bool any;              /* something to bring in, or to sweep */
    bool ask_disk;         /* for more to be kept allocated */
    bool trim;             /* memory is given back */
    int code;
    uint64_t began_ns, ended_ns;
    uint64_t used_bytes, first_expiry_key;
    uint64_t room_bytes;
    bool disk_full;
    bool put_off;  /* there was no memory for all of it */
    int slot_code; /* why there is no further slot; 0: there is, or none is needed */
};

struct store {
    struct store_options options;
    struct store_facts facts;
    struct directory directory;
    struct tables tables;
    struct wal *wal;
    struct worker writer, applier;
    struct writing writing;
    struct applying applying;
    struct tables_state state; /* of the tables; the applier's */

    struct batch open;
    struct batch *queue; /* those filled before it, oldest first, */
    uint32_t queue_count, queue_capacity;
    uint32_t flight_count; /* of which the first are handed over; the first of all is being written, */
    bool writing_first;    /* or waits for room in the log */
    bool flight_split;     /* more than one was handed over at once */
    bool flushed_inline;
    uint64_t queue_bytes;
    uint64_t batch_bytes_max; /* none is larger */
    bool failed;              /* a flush or a commit: nothing is tried again */
    uint64_t durable, applied;
    uint64_t flush_ns;  /* how long the last one took */
    uint64_t opened_ns; /* when the open batch got its first change */
    uint64_t queue_ns;  /* how long the one in flight had been open */
    struct blob *spares[SPARES_MAX];
    uint32_t spare_count;
    struct unapplied *backlog;
    uint32_t backlog_count, backlog_capacity, applying_count; /* the first of them are being applied */
    uint64_t backlog_bytes;
    uint64_t backlog_since_ms; /* boot time at which the oldest was found there; 0: not looked at yet */
    bool untrimmed;            /* a large tail went, and its memory may still be here */
    uint64_t sweep_next_ms;    /* boot time before which no slice is swept alone */
    bool put_off;              /* applying lacked memory, */
    uint64_t apply_again_ms;   /* and is not tried before this boot time */
    uint64_t disk_again_ms;    /* boot time before which a full disk is not asked again */
    uint64_t slot_told_ns;     /* when it was last logged that there is no further slot; 0: never */
    uint64_t disk_told_ns;     /* and that the disk is full */
    bool disk_told;            /* what was logged last */

    MDB_txn *reader;               /* of the loop */
    bool reading;                  /* it is not reset */
    MDB_cursor *finished, *chunks; /* its own: made once, since LMDB takes memory for each, which there may not be */
    struct expiry_keys expiry_keys;
    uint64_t submitted_ms; /* retention clock of the last batch handed over */
    uint64_t used_bytes, first_expiry_key;
    uint64_t room_bytes; /* what the tables can take without asking the disk */
    bool disk_full, no_slot;
    struct ahead ahead; /* the applier's */
};

static const struct disk *disk_of(const struct store *store)
{
    return store->options.disk ? store->options.disk : &disk_system;
}

/* ---- The writer -------------------------------------------------------------------------- */

static void run_writer(void *context)
{
    struct store *store = context;
    struct writing *writing = &store->writing;

    writing->began_ns = clock_read_ns();
    writing->code = wal_append(store->wal, writing->batch);
    writing->ended_ns = clock_read_ns();
}

/* ---- The applier --------------------------------------------------------------------------- */

static int look(struct store *store, struct applying *applying)
{
    const int code = tables_look(&store->tables, &applying->used_bytes, &applying->first_expiry_key);

    if (code == 0 && !ahead_keep(&store->ahead, &store->tables, applying->used_bytes, wal_bytes(store->wal),
                                 applying->ask_disk, &applying->room_bytes))
        applying->disk_full = true;
    return code;
}

/* Another slot is only good to have, unless the disk is broken. */
static int prepare_slot(struct store *store, struct applying *applying)
{
    const int code = wal_prepare(store->wal);

    applying->disk_full = code == ENOSPC || code == EDQUOT || code == EFBIG;
    applying->slot_code = code;
    return code == EIO ? code : 0;
}

/* What the tables have to know of the log. */
static void note_wal(struct store *store)
{
    store->state.wal_slots = wal_slots(store->wal);
    store->state.wal_segment = wal_segment(store->wal);
}

static void run_applier(void *context)
{
    struct store *store = context;
    struct applying *applying = &store->applying;
    const uint32_t slots_before = store->state.wal_slots;

    applying->began_ns = clock_read_ns();
    applying->put_off = false;
    applying->code = prepare_slot(store, applying);
    /* The tables know of a slot before anything is in it. */
    note_wal(store);
    if (applying->code == 0 && (applying->any || store->state.wal_slots != slots_before))
        applying->code = apply_parts(&applying->apply);
    /* Want of memory, also after a second try, had no effect on what is not done. */
    if (applying->code == 0) {
        wal_add_slot(store->wal);
        applying->code = look(store, applying);
    } else {
        store->state.wal_slots = slots_before;
    }
    if (applying->code == ENOMEM) {
        applying->put_off = true;
        applying->code = 0;
    }
    applying->ended_ns = clock_read_ns();
    if (applying->trim)
        mem_give_back();
}

/* ---- Opening ------------------------------------------------------------------------------- */

static uint64_t map_bytes(const struct store *store)
{
    return (2 * store->options.quota_bytes + MAP_BYTES_OVER) / TABLES_PAGE_BYTES * TABLES_PAGE_BYTES;
}

static bool make_facts(struct store_facts *facts, struct failure *error)
{
    *facts = (struct store_facts){0};
    clock_read_mark(&facts->mark);
    facts->mark.retention_ms = facts->mark.wall_ms;
    if (facts->mark.wall_ms < CLOCK_UNSET_BEFORE_MS) {
        *error = (struct failure){.exit_code = 71,
                                  .message = "the clock says it is before 2020, and a new store "
                                             "takes its numbers from it: set the clock"};
        return false;
    }
    if (getrandom(&facts->store_id, sizeof facts->store_id, 0) == sizeof facts->store_id &&
        getrandom(facts->secret, sizeof facts->secret, 0) == sizeof facts->secret)
        return true;
    *error = (struct failure){.exit_code = 71, .message = "getrandom gives no random bytes"};
    return false;
}

static bool fail(struct failure *error, int exit_code, const char *what, int code)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "store: %s: %s", what, mdb_strerror(code));
    return false;
}

/* Something of the tables failed: by damage (65), for want of memory, which says nothing of the store (71), or because
 * the disk did (74). */
static bool fail_tables(const struct store *store, struct failure *error, const char *what, int code)
{
    const bool damaged = code == EBADMSG || code == MDB_CORRUPTED || code == MDB_PAGE_NOTFOUND || code == MDB_NOTFOUND;

    error->exit_code = damaged ? 65 : code == ENOMEM ? 71 : 74;
    snprintf(error->message, sizeof error->message, "%.250s/store/data.mdb: %s: %s", store->options.directory, what,
             mdb_strerror(code));
    return false;
}

/* Numbers follow the clock, a million a second, which is more than are given out: so those of a start are above all
 * that was given out before it, in this directory, in one that was here earlier, or in the one that this is a copy of.
 */
static uint64_t number_of_now(uint64_t wall_ms)
{
    return (wall_ms << 20) / 1000;
}

/* What one change takes in a batch at most. */
static uint64_t change_bytes_max(const struct store *store)
{
    return BATCH_CHANGE_BYTES_MAX + store->options.values_bytes_max;
}

/* Builds a store beside its place and puts it there. */
static bool build(struct store *store, struct failure *error)
{
    struct store_facts facts;
    struct tables_state state;
    struct tables tables;
    char path[4096];
    int code;
    bool good;

    directory_store_path(&store->directory, true, path);
    if (!make_facts(&facts, error) || !directory_begin_build(&store->directory, error) ||
        !tables_open(&tables, path, map_bytes(store), false, error))
        return false;
    state = (struct tables_state){.next_number = number_of_now(facts.mark.wall_ms), .mark = facts.mark, .wal_slots = 1};
    good = tables_create(&tables, &facts, &state, error);
    tables_close(&tables);
    if (!good)
        return false;
    const int folder = openat(store->directory.fd, "store.new", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    code = folder < 0 ? errno : wal_make(disk_of(store), folder, facts.secret, change_bytes_max(store));
    if (folder >= 0)
        close(folder);
    if (code != 0)
        return fail(error, 74, "its log cannot be made", code);
    return directory_end_build(&store->directory, error);
}

/* Brings in batches [first, end) of what the log held, and the number of its slots. */
static int recover_part(struct store *store, uint32_t first, uint32_t end)
{
    struct bytes *batches = mem_alloc((end - first) * sizeof *batches);
    struct apply recovering = {
        .tables = &store->tables, .batches = batches, .batch_count = end - first, .state = &store->state};
    int code;

    for (uint32_t n = first; n < end; n++)
        batches[n - first] = wal_batch(store->wal, n);
    note_wal(store);
    code = apply_parts(&recovering);
    mem_free(batches);
    return code;
}

/* What is in the log and not in the tables is brought in, in parts. */
static int recover(struct store *store)
{
    const uint32_t found = wal_found(store->wal);
    uint32_t first = 0;
    int code = 0;

    while (code == 0 && first < found) {
        uint64_t bytes = 0;
        uint32_t end = first;
        while (end < found && bytes < APPLY_BYTES)
            bytes += wal_batch(store->wal, end++).size;
        code = recover_part(store, first, end);
        first = end;
    }
    return code;
}

static bool open_wal(struct store *store, const char *path, struct failure *error)
{
    const struct wal_options options = {.disk = disk_of(store),
                                        .directory = path,
                                        .folder = store->directory.store_fd,
                                        .secret = store->facts.secret,
                                        .applied = store->state.next_number - 1,
                                        .segment = store->state.wal_segment,
                                        .change_bytes_max = change_bytes_max(store),
                                        .slots = store->state.wal_slots,
                                        .accept_loss = store->options.accept_loss};
    const uint64_t next = store->state.next_number;
    int code;

    store->wal = wal_open(&options, error);
    if (!store->wal)
        return false;
    if ((code = recover(store)) != 0)
        return fail_tables(store, error, "what the log holds cannot be brought into it", code);
    if (store->state.next_number > next)
        log_event(LOG_INFO, "recovered", "changes", log_number(store->state.next_number - next), NULL);
    store->facts.mark = store->state.mark;
    return true;
}

/* Is this another place than where the store was at the start before? Then says so. */
static bool is_copy(const struct origin *before, const struct origin *here)
{
    const char *difference = origin_difference(before, here);

    if (difference)
        log_event(LOG_WARN, "copied", "reason", difference, "what",
                  "this directory was copied, restored or moved: what the original began or finished since is not "
                  "known here, and the original must not go on beside it",
                  NULL);
    return difference;
}

/* How many numbers are left out where it is not known how many were given out. By chance, so that two stores that go on
 * from one backup do not give out the same. */
static bool draw_skip(uint64_t next, uint64_t *skip, struct failure *error)
{
    const uint64_t end = number_of_now(CLOCK_WRONG_FROM_MS);
    uint64_t drawn;

    if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) {
        *error = (struct failure){.exit_code = 71, .message = "getrandom gives no random bytes"};
        return false;
    }
    *skip = UNKNOWN_NUMBERS + drawn % (UNKNOWN_NUMBERS_MOST - UNKNOWN_NUMBERS);
    if (next + *skip < end)
        return true;
    *error = (struct failure){.exit_code = 65,
                              .message = "the store's numbers are so far ahead of the clock that none can be "
                                         "left out: put another copy back"};
    return false;
}

/* The number of this start's first change. What is not known here may have had numbers that somebody knows, and a fence
 * never comes back. */
static bool first_number(const struct store *store, bool copy, uint64_t *first, struct failure *error)
{
    uint64_t next = store->state.next_number, skip = 0;
    struct clock_mark mark;

    clock_read_mark(&mark);
    const uint64_t now = number_of_now(mark.wall_ms);
    const bool unsure = wal_lost(store->wal) || (copy && next >= now);
    if (unsure && !draw_skip(next, &skip, error))
        return false;
    next += skip;
    *first = next > now ? next : now;
    return true;
}

/* Where numbers go on, the log's next segment, and where the store lies, are stored before the first number is given
 * out: what is in the log has to follow on what is in the tables without a gap. By two commits, so that both of LMDB's
 * meta pages lead to it, and it stays where one of them is damaged: a loss, or a copy, is noticed only once. */
static bool settle(struct store *store, struct failure *error)
{
    struct origin before, here;
    uint64_t first;
    int code = tables_read_origin(&store->tables, &before);

    /* Else a copy would not be noticed, now or later. */
    if (code != 0 && code != MDB_NOTFOUND && code != MDB_CORRUPTED)
        return fail_tables(store, error, "where it lay does not read", code);
    origin_read(store->directory.data_fd, &here);
    if (!first_number(store, code == 0 && is_copy(&before, &here), &first, error))
        return false;
    if ((code = tables_read_past(&store->tables, &store->facts.past)) != 0)
        return fail_tables(store, error, "what it says of the clocks does not read", code);
    clock_past_note(&store->facts.past, store->facts.mark.retention_ms, store->facts.mark.wall_ms);
    store->state.next_number = first;
    note_wal(store);
    for (int i = 0; i < 2 && code == 0; i++)
        code = tables_put_start(&store->tables, &store->state, &here, &store->facts.past);
    return code == 0 || fail_tables(store, error, "its state cannot be written", code);
}

static bool check_clock(struct failure *error)
{
    struct clock_mark mark;

    clock_read_mark(&mark);
    if (mark.wall_ms < CLOCK_WRONG_FROM_MS)
        return true;
    *error = (struct failure){.exit_code = 71,
                              .message = "the clock says it is after the year 2199, and the store takes its "
                                         "numbers from it: set the clock"};
    return false;
}

static bool take_directory(struct store *store, struct failure *error)
{
    if (!directory_open(&store->directory, store->options.directory, DIRECTORY_HOLD, error))
        return false;
    if (!directory_has_store(&store->directory) &&
        (!build(store, error) || !directory_open_data(&store->directory, DIRECTORY_HOLD, error)))
        return false;
    return directory_flush(&store->directory, error);
}

static bool check_length(struct store *store, const char *path, struct failure *error)
{
    if (tables_check_length(&store->tables, path, error))
        return true;
    if (error->exit_code != 65 || !store->options.accept_loss)
        return false;
    log_event(LOG_ERROR, "lost", "reason", error->message, NULL);
    return true;
}

/* The tables are damaged where nobody can go on without them. Also called by LMDB, on any thread. */
_Noreturn static void end_unread(const struct store *store, const char *reason)
{
    char folder[4096], path[4096 + 16];

    directory_store_path(&store->directory, false, folder);
    snprintf(path, sizeof path, "%s/data.mdb", folder);
    log_event(LOG_ERROR, "storage_failed", "file", path, "reason", reason, "what",
              "a page is damaged; idemd --check-data tells what still reads", NULL);
    _exit(store->reader ? 74 : 65); /* at a start it is refused as damage */
}

static void on_lmdb_assert(MDB_env *env, const char *message)
{
    end_unread(mdb_env_get_userctx(env), message);
}

/* LMDB aborts on some of the damage that it meets, unless it is told what to do. */
static void guard_tables(struct store *store)
{
    mdb_env_set_userctx(store->tables.env, store);
    mdb_env_set_assert(store->tables.env, on_lmdb_assert);
}

static bool open_store(struct store *store, struct failure *error)
{
    char path[4096];
    int code;

    if (!check_clock(error) || !take_directory(store, error))
        return false;
    directory_store_path(&store->directory, false, path);
    if (!tables_open(&store->tables, path, map_bytes(store), false, error))
        return false;
    mapped_guard(&store->tables, path);
    guard_tables(store);
    if (!check_length(store, path, error) || !tables_read_facts(&store->tables, &store->facts, &store->state, error) ||
        !open_wal(store, path, error) || !settle(store, error))
        return false;
    if ((code = wal_start(store->wal)) != 0)
        return fail(error, 74, "its log cannot be written", code);
    store->batch_bytes_max = wal_batch_bytes_max(store->wal);
    batch_start(&store->open, store->state.next_number, NULL);
    store->durable = store->applied = store->state.next_number - 1;
    store->submitted_ms = store->facts.mark.retention_ms;
    return true;
}

/* Said once in a while: the log goes on with what it has. */
static void tell_no_slot(struct store *store, int code)
{
    const uint64_t now = clock_read_ns();
    char path[WAL_PATH_BYTES];

    if (store->slot_told_ns && now - store->slot_told_ns < TELL_NS)
        return;
    store->slot_told_ns = now;
    wal_slot_path(store->wal, wal_slots(store->wal), path);
    log_event(LOG_WARN, "no_slot", "file", path, "reason", strerror(code), "what",
              "the log cannot have another file, and goes on with those it has", NULL);
}

/* At most once in a while: a disk that is nearly full may change from one to the other with each commit. */
static void tell_disk(struct store *store, bool full)
{
    const uint64_t now = clock_read_ns();

    if (full == store->disk_told || (full && store->disk_told_ns && now - store->disk_told_ns < TELL_NS))
        return;
    store->disk_told = full;
    if (full)
        store->disk_told_ns = now;
    log_event(full ? LOG_WARN : LOG_INFO, full ? "disk_full" : "disk_has_room", "directory", store->options.directory,
              "kept_bytes", log_number(store->room_bytes), "what",
              full ? "nothing new is granted until there is room; what is granted can be completed"
                   : "new operations are granted again",
              NULL);
}

static void take_look(struct store *store, const struct applying *applying)
{
    if (applying->slot_code)
        tell_no_slot(store, applying->slot_code);
    store->room_bytes = applying->room_bytes;
    tell_disk(store, applying->disk_full);
    store->used_bytes = applying->used_bytes;
    store->first_expiry_key = applying->first_expiry_key;
    store->disk_full = applying->disk_full;
    store->no_slot = applying->slot_code != 0;
}

static bool start(struct store *store, struct failure *error)
{
    int code;

    store->applying.ask_disk = true;
    code = look(store, &store->applying);
    if (code != 0)
        return fail(error, code > 0 ? 71 : 65, "its tables do not read", code); /* LMDB's own codes are negative */
    take_look(store, &store->applying);
    store->applying.apply =
        (struct apply){.tables = &store->tables, .state = &store->state, .secret = store->facts.secret};
    if ((code = tables_begin_reading(&store->tables, &store->reader)) != 0)
        return fail(error, 71, "cannot be read", code);
    if ((code = tables_open_cursor(store->reader, store->tables.finished, &store->finished)) != 0 ||
        (code = tables_open_cursor(store->reader, store->tables.chunks, &store->chunks)) != 0)
        return fail(error, 71, "cannot be read", code);
    mdb_txn_reset(store->reader);
    if ((code = worker_start(&store->writer)) != 0 || (code = worker_start(&store->applier)) != 0)
        return fail(error, 71, "its threads cannot be started", code);
    return true;
}

static uint64_t last_place(void *context, uint64_t seconds);

struct store *store_open(const struct store_options *options, struct failure *error)
{
    struct store *store = mem_zero(1, sizeof *store);
    const struct worker worker = {.context = store, .wake = options->wake, .wake_context = options->wake_context};

    store->options = *options;
    store->directory = directory_none();
    store->expiry_keys.last = last_place;
    store->expiry_keys.context = store;
    store->writer = store->applier = worker;
    store->writer.run = run_writer;
    store->applier.run = run_applier;
    store->applier.nice = APPLIER_NICE;
    if (open_store(store, error) && start(store, error))
        return store;
    store_close(store);
    return NULL;
}

/* What is left is brought in, so that the next start has nothing to do. Without success it does it all the same. Not
 * after a failure: what a commit left unflushed may read as if it were on the disk. */
static void apply_rest(struct store *store)
{
    struct bytes *batches = mem_alloc(store->backlog_count * sizeof *batches);
    struct apply rest = {
        .tables = &store->tables, .batches = batches, .batch_count = store->backlog_count, .state = &store->state};

    for (uint32_t i = 0; i < store->backlog_count; i++)
        batches[i] = bytes_of(store->backlog[i].bytes->data, store->backlog[i].bytes->size);
    if (store->backlog_count > 0)
        apply_parts(&rest);
    mem_free(batches);
}

/* A batch's memory is used again for the next, or goes. */
static void spare(struct store *store, struct blob *bytes)
{
    if (bytes->references == 1 && bytes->capacity <= SPARE_BYTES_MAX && store->spare_count < SPARES_MAX)
        store->spares[store->spare_count++] = bytes;
    else
        blob_release(bytes);
}

static void drop_spares(struct store *store)
{
    while (store->spare_count > 0)
        blob_release(store->spares[--store->spare_count]);
}

static void drop_queue(struct store *store)
{
    while (store->queue_count > 0)
        blob_release(store->queue[--store->queue_count].bytes);
    mem_free(store->queue);
}

static void drop_backlog(struct store *store, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        store->backlog_bytes -= store->backlog[i].bytes->size;
        spare(store, store->backlog[i].bytes);
    }
    store->backlog_count -= count;
    if (store->backlog_count > 0)
        memmove(store->backlog, store->backlog + count, store->backlog_count * sizeof *store->backlog);
}

static void close_cursor(MDB_cursor *cursor)
{
    if (cursor)
        mdb_cursor_close(cursor);
}

void store_close(struct store *store)
{
    struct store_event event;

    if (!store)
        return;
    worker_stop(&store->writer);
    worker_stop(&store->applier);
    if (store->reader) {
        store_poll(store, &event);
        if (!store->failed)
            apply_rest(store);
        close_cursor(store->finished);
        close_cursor(store->chunks);
        mdb_txn_abort(store->reader);
    }
    drop_backlog(store, store->backlog_count);
    drop_queue(store);
    drop_spares(store);
    wal_close(store->wal);
    mapped_release();
    tables_close(&store->tables);
    directory_close(&store->directory);
    blob_release(store->open.bytes);
    mem_free(store->backlog);
    mem_free(store->applying.batches);
    mem_free(store->applying.apply.swept);
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

/* One of the reader's cursors, over what the reader sees now. */
static MDB_cursor *renewed(struct store *store, MDB_cursor *cursor)
{
    const int code = mdb_cursor_renew(reader(store), cursor);

    assert(code == 0); /* it is the reader's, and not a writer's; nothing else can fail */
    return cursor;
}

uint64_t store_records(struct store *store)
{
    MDB_stat unfinished = {0}, finished = {0};

    mdb_stat(reader(store), store->tables.unfinished, &unfinished);
    mdb_stat(reader(store), store->tables.finished, &finished);
    return unfinished.ms_entries + finished.ms_entries;
}

bool store_load(struct store *store, const struct store_visitor *visitor, struct failure *error)
{
    mdb_env_set_assert(store->tables.env, NULL); /* loading has its own way with damage */
    const bool good = load_records(&store->tables, reader(store), store->options.accept_loss, visitor, error);

    guard_tables(store);
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

bool store_pending(const struct store *store)
{
    return store->open.next > store->open.first || store->queue_count > store->flight_count;
}

static void close_open(struct store *store)
{
    if (store->queue_count == store->queue_capacity) {
        store->queue_capacity = store->queue_capacity ? 2 * store->queue_capacity : 8;
        store->queue = mem_resize(store->queue, store->queue_capacity * sizeof *store->queue);
    }
    store->queue[store->queue_count++] = store->open;
    store->queue_bytes += store->open.bytes->size;
    batch_start(&store->open, store->open.next, store->spare_count ? store->spares[--store->spare_count] : NULL);
}

/* The first batch that is not being written yet. */
static const struct batch *next_to_write(const struct store *store)
{
    return store->writing_first < store->queue_count ? &store->queue[store->writing_first] : &store->open;
}

static bool has_room(const struct store *store, const struct batch *batch)
{
    return wal_has_room(store->wal, batch_padded_bytes(batch->bytes->size));
}

void store_append(struct store *store, const struct store_change *change, struct slice values[BLOB_KINDS])
{
    if (!store_pending(store))
        store->opened_ns = clock_read_ns();
    if (store->open.next > store->open.first &&
        store->open.bytes->size + batch_change_bytes_most(change) > store->batch_bytes_max)
        close_open(store);
    batch_append(&store->open, change, values);
}

void store_touch(struct store *store)
{
    const struct store_change change = {.kind = STORE_TOUCH, .number = store->open.next};

    store_append(store, &change, NULL);
}

bool store_busy(const struct store *store)
{
    return store->flight_count > 0;
}

bool store_ready(const struct store *store)
{
    return store->flight_count == 0 && has_room(store, next_to_write(store));
}

size_t store_unflushed_bytes(const struct store *store)
{
    return (size_t)(store->open.bytes->size + store->queue_bytes);
}

static void write_first(struct store *store, bool on_loop)
{
    store->writing = (struct writing){.batch = store->queue[0].bytes->data};
    store->writing_first = true;
    store->flushed_inline = on_loop;
    if (on_loop)
        run_writer(store);
    else
        worker_give(&store->writer);
}

void store_submit(struct store *store, const struct clock_mark *mark)
{
    const bool on_loop = store->queue_count == 0 && store->open.next - store->open.first <= INLINE_CHANGES &&
                         store->open.bytes->size <= INLINE_BYTES && store->flush_ns <= INLINE_NS;

    assert(store_pending(store) && store_ready(store));
    close_open(store);
    store->queue_bytes = 0;
    for (uint32_t i = 0; i < store->queue_count; i++) {
        batch_seal(&store->queue[i], mark);
        store->queue_bytes += store->queue[i].bytes->size; /* padded now */
    }
    store->submitted_ms = mark->retention_ms;
    store->queue_ns = clock_read_ns() - store->opened_ns;
    store->flight_count = store->queue_count;
    store->flight_split = store->flight_count > 1;
    write_first(store, on_loop);
}

/* ---- Applying ------------------------------------------------------------------------------------- */

bool store_applying(const struct store *store)
{
    return worker_busy(&store->applier);
}

/* Has the tail grown, is it old, or does the log need the room? */
static bool backlog_due(struct store *store, uint64_t boot_ms)
{
    if (store->backlog_count == 0)
        return false;
    if (!store->backlog_since_ms)
        store->backlog_since_ms = boot_ms;
    return store->backlog_bytes >= APPLY_BYTES || boot_ms - store->backlog_since_ms >= APPLY_MS ||
           !has_room(store, next_to_write(store));
}

static void give_backlog(struct store *store)
{
    struct applying *applying = &store->applying;

    applying->batches = mem_resize(applying->batches, store->backlog_count * sizeof *applying->batches);
    for (uint32_t i = 0; i < store->backlog_count; i++)
        applying->batches[i] = bytes_of(store->backlog[i].bytes->data, store->backlog[i].bytes->size);
    store->applying_count = store->backlog_count;
    store->untrimmed |= store->backlog_bytes >= TRIM_BYTES;
    store->backlog_since_ms = 0;
}

static void give_applier(struct store *store, bool due, uint64_t sweep_s)
{
    struct applying *applying = &store->applying;

    store->applying_count = 0;
    if (due)
        give_backlog(store);
    if (sweep_s && !applying->apply.swept)
        applying->apply.swept = mem_alloc(APPLY_SWEPT_MAX * sizeof *applying->apply.swept);
    applying->any = due || sweep_s;
    applying->apply.throttle = store->backlog_bytes < LATE_BYTES;
    applying->apply.batches = applying->batches;
    applying->apply.batch_count = store->applying_count;
    applying->apply.sweep_s = sweep_s;
    applying->apply.swept_count = applying->apply.done_count = 0;
    worker_give(&store->applier);
}

/* A slice alone costs a commit. */
static bool put_off_sweep(const struct store *store, uint64_t sweep_s, uint64_t boot_ms)
{
    return boot_ms < store->sweep_next_ms && sweep_s < expiry_key_seconds(store->first_expiry_key) + SWEEP_LATE_S;
}

uint64_t store_apply(struct store *store, uint64_t sweep_s, uint64_t boot_ms)
{
    struct applying *applying = &store->applying;
    const bool due = backlog_due(store, boot_ms);
    const bool again = boot_ms >= store->disk_again_ms;
    const bool slot = (!store->no_slot || again) && wal_wants_slot(store->wal);
    const bool disk = store->disk_full && again;
    uint64_t next_ms = UINT64_MAX;

    assert(!worker_busy(&store->applier));
    if (store->put_off) {
        store->put_off = false;
        store->apply_again_ms = boot_ms + APPLY_AGAIN_MS;
    }
    if (boot_ms < store->apply_again_ms)
        return store->apply_again_ms;
    /* What is applied and swept has to be known to be durable before, which is said of all that was handed over. */
    if (store->flight_split)
        sweep_s = 0;
    if (sweep_s && !due && put_off_sweep(store, sweep_s, boot_ms)) {
        next_ms = store->sweep_next_ms;
        sweep_s = 0;
    }
    applying->trim = store->untrimmed && store->backlog_count == 0 && !store_pending(store) && !store_busy(store);
    if (store->disk_full)
        next_ms = number_min(next_ms, store->disk_again_ms);
    if (!due && !sweep_s && !slot && !disk && !applying->trim)
        return store->backlog_count ? number_min(next_ms, store->backlog_since_ms + APPLY_MS) : next_ms;
    applying->ask_disk = !store->disk_full || again;
    if (slot || disk)
        store->disk_again_ms = boot_ms + DISK_AGAIN_MS;
    if (applying->trim) {
        store->untrimmed = false;
        drop_spares(store);
    }
    if (sweep_s)
        store->sweep_next_ms = boot_ms + SWEEP_EVERY_MS;
    give_applier(store, due, sweep_s);
    return UINT64_MAX;
}

/* ---- What the threads say ------------------------------------------------------------------------- */

static void fail_event(struct store *store, struct store_event *event, const char *file, const char *what, int code)
{
    store->failed = event->failed = true;
    snprintf(event->message, sizeof event->message, "%.300s: %s failed: %s", file, what, mdb_strerror(code));
}

/* The file of the log that was written last. */
static void fail_written(struct store *store, struct store_event *event, int code)
{
    char path[WAL_PATH_BYTES];

    wal_slot_path(store->wal, wal_current(store->wal), path);
    fail_event(store, event, path, "a flush of the log (pwritev2)", code);
}

static void fail_applied(struct store *store, struct store_event *event, const struct applying *applying)
{
    char folder[4096], path[WAL_PATH_BYTES];

    if (applying->slot_code == applying->code) {
        wal_slot_path(store->wal, wal_slots(store->wal), path);
        fail_event(store, event, path, "making another file of the log (open, fallocate, pwrite, fsync)",
                   applying->code);
        return;
    }
    directory_store_path(&store->directory, false, folder);
    snprintf(path, sizeof path, "%s/data.mdb", folder);
    fail_event(store, event, path, "a commit of the tables (pwritev, fdatasync, or the write of a meta page)",
               applying->code);
}

/* What was written is the tail's. */
static void join_shared(struct store *store)
{
    struct blob *bytes = store->queue[0].bytes;

    store->durable = store->queue[0].next - 1;
    if (store->backlog_count == store->backlog_capacity) {
        store->backlog_capacity = store->backlog_capacity ? 2 * store->backlog_capacity : 64;
        store->backlog = mem_resize(store->backlog, store->backlog_capacity * sizeof *store->backlog);
    }
    store->backlog[store->backlog_count++] = (struct unapplied){bytes, store->durable};
    store->backlog_bytes += bytes->size;
    store->queue_bytes -= bytes->size;
    store->flight_count--;
    memmove(store->queue, store->queue + 1, --store->queue_count * sizeof *store->queue);
}

/* The next of those that were handed over, as soon as there is room. At the end of the store no thread takes it. */
static void write_next(struct store *store)
{
    if (store->flight_count == 0)
        store->flight_split = false;
    else if (!store->writing_first && store->writer.started && has_room(store, next_to_write(store)))
        write_first(store, false);
}

static void take_written(struct store *store, struct store_event *event)
{
    const struct writing *writing = &store->writing;

    store->writing_first = store->flushed_inline = false;
    if (writing->code != 0) {
        fail_written(store, event, writing->code);
        return;
    }
    join_shared(store);
    event->queue_ns = store->queue_ns;
    store->flush_ns = event->flush_ns = writing->ended_ns - writing->began_ns;
    write_next(store);
}

static void take_applied(struct store *store, struct store_event *event)
{
    const struct applying *applying = &store->applying;

    if (applying->code != 0) {
        fail_applied(store, event, applying);
        return;
    }
    store->put_off = applying->put_off;
    if (applying->put_off)
        store->applying_count = applying->apply.done_count;
    else
        take_look(store, applying);
    if (store->applying_count > 0) {
        store->applied = store->backlog[store->applying_count - 1].last;
        wal_applied(store->wal, store->applied);
    }
    store->batch_bytes_max = wal_batch_bytes_max(store->wal);
    write_next(store);
    drop_backlog(store, store->applying_count);
    store->applying_count = 0;
    event->swept = applying->apply.swept;
    event->swept_count = applying->apply.swept_count;
    event->apply_ns = applying->any ? applying->ended_ns - applying->began_ns : 0;
}

bool store_poll(struct store *store, struct store_event *event)
{
    const bool written = store->writing_first && (store->flushed_inline || worker_take(&store->writer));
    const bool applied = worker_take(&store->applier);

    if (!written && !applied)
        return false;
    *event = (struct store_event){0};
    if (written)
        take_written(store, event);
    if (applied)
        take_applied(store, event);
    event->durable = store->durable;
    event->applied = store->applied;
    return true;
}

/* ---- Places ----------------------------------------------------------------------------------------- */

static uint64_t last_place(void *context, uint64_t seconds)
{
    struct store *store = context;
    uint64_t last;
    const int code =
        tables_last_expiry_key(renewed(store, store->finished), renewed(store, store->chunks), seconds, &last);

    /* Without it a place may be given out twice. */
    if (code != 0)
        end_unread(store, mdb_strerror(code));
    return last;
}

uint64_t store_expiry_key(struct store *store, uint64_t expires_ms, uint64_t keep_ms)
{
    return expiry_keys_next(&store->expiry_keys, expires_ms, keep_ms, store->submitted_ms / 1000);
}

uint64_t store_first_expiry_key(const struct store *store)
{
    return store->first_expiry_key;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

enum store_read store_read_finished(struct store *store, uint64_t expiry_key, struct bytes *record)
{
    return tables_read_finished(&store->tables, reader(store), expiry_key, record);
}

enum store_read store_read_value(struct store *store, uint64_t key, enum blob_kind kind, uint32_t size, uint8_t *out)
{
    return tables_read_value(&store->tables, reader(store), key, kind, size, out);
}

uint64_t store_list_finished(struct store *store, uint64_t expiry_key, uint32_t records_max,
                             bool (*visit)(void *context, uint64_t expiry_key, struct bytes record), void *context)
{
    MDB_cursor *cursor = renewed(store, store->finished);
    MDB_val key = {sizeof expiry_key, &expiry_key}, value;
    uint64_t at = 0;
    int code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);

    for (uint32_t seen = 0; code == 0; seen++) {
        memcpy(&at, key.mv_data, sizeof at);
        if (seen == records_max || !visit(context, at, bytes_of(value.mv_data, (uint32_t)value.mv_size)))
            break;
        code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
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
    const uint64_t needed = store->used_bytes + RESERVE_BYTES + unfinished * UNFINISHED_BYTES + store->backlog_bytes +
                            store_unflushed_bytes(store);

    return (struct store_space){.used_bytes = store->used_bytes,
                                .needed_bytes = needed,
                                .unfinished_bytes = UNFINISHED_BYTES,
                                .quota_bytes = store->options.quota_bytes,
                                .full = store->disk_full || needed > store->options.quota_bytes};
}

bool store_takes(const struct store *store, uint64_t values_bytes)
{
    if (!store->disk_full)
        return true;
    const uint64_t changes = store_newest_number(store) - store->applied;
    const uint64_t bytes = store->backlog_bytes + store_unflushed_bytes(store) + values_bytes;

    return store->room_bytes >= COMMIT_ROOM_BYTES + changes * CHANGE_ROOM_BYTES + 2 * bytes;
}

uint64_t store_wal_bytes(const struct store *store)
{
    return wal_bytes(store->wal);
}

uint64_t store_backlog_bytes(const struct store *store)
{
    return store->backlog_bytes;
}
