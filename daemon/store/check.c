/* Every record is decoded and compared with its key; every value that a record speaks of is read; every chunk's
 * checksum is taken, and a chunk that belongs to no record is told as well.
 *
 * Nothing is written and no lock file is needed, so that a file system that is mounted to be read can be checked. What
 * cannot be read for want of memory or descriptors is not damage: then the check says that it could not be made. */
#include "daemon/store/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/store/directory.h"
#include "daemon/store/disk.h"
#include "daemon/store/wal.h"
#include "daemon/base/memory.h"
#include "daemon/store/merge.h"
#include "daemon/store/tables.h"
#include "proto/text.h"

struct check {
    FILE *out;
    struct tables tables;
    MDB_txn *txn;
    uint64_t unfinished, finished, chunks, logged, damaged;
    int failed; /* an errno: something could not be looked at; 0: all could */
};

static void print(FILE *out, const char *before, struct bytes text)
{
    fputs(before, out);
    if (text.size)
        text_print(out, text.data, text.size);
}

static void damage(struct check *check, const char *table, uint64_t key, const char *what, const struct record *record)
{
    check->damaged++;
    fprintf(check->out, "damaged: %s %" PRIu64 ": %s", table, key, what);
    if (record) {
        print(check->out, " (namespace ", record->id.namespace);
        print(check->out, ", caller ", record->id.caller);
        print(check->out, ", key ", record->id.key);
        fputc(')', check->out);
    }
    fputc('\n', check->out);
}

/* LMDB's own codes are negative: they, and what does not read as ours, are damage; the system's errors are not. */
static void unreadable(struct check *check, const char *table, uint64_t key, int code)
{
    if (code <= 0 || code == EINVAL)
        damage(check, table, key, mdb_strerror(code), NULL);
    else if (code == EBADMSG)
        damage(check, table, key, "a change does not read", NULL);
    else
        check->failed = code;
}

static void check_value(struct check *check, const char *table, uint64_t key, uint64_t owner, enum blob_kind kind,
                        uint32_t size, const struct record *record)
{
    static const char *const names[] = {"", "its input", "its checkpoint", "its attributes", "its body"};
    char what[64];

    if (size == 0)
        return;
    uint8_t *data = mem_alloc(size);
    const enum store_read read = tables_read_value(&check->tables, check->txn, owner, kind, size, data);
    mem_free(data);
    if (read == STORE_FOUND)
        return;
    snprintf(what, sizeof what, "%s %s", names[kind], read == STORE_MISSING ? "is missing" : "does not read");
    damage(check, table, key, what, record);
}

static void check_unfinished(struct check *check, uint64_t key, struct bytes data)
{
    struct record record;
    const enum record_check checked = record_decode(data, &record);

    check->unfinished++;
    if (checked != RECORD_GOOD) {
        damage(check, "unfinished", key,
               checked == RECORD_BAD_HEAD ? "its head does not read" : "its record does not read", NULL);
        return;
    }
    if (record.generation != key || record.state == RECORD_DONE)
        damage(check, "unfinished", key, "the record of another place", &record);
    check_value(check, "unfinished", key, key, BLOB_INPUT, record.input_bytes, &record);
    check_value(check, "unfinished", key, key, BLOB_CHECKPOINT, record.checkpoint_bytes, &record);
}

static void check_finished(struct check *check, uint64_t key, struct bytes data)
{
    struct record record;
    const enum record_check checked = record_decode(data, &record);

    check->finished++;
    if (checked != RECORD_GOOD) {
        damage(check, "finished", key,
               checked == RECORD_BAD_HEAD ? "its head does not read" : "its record does not read", NULL);
        return;
    }
    if (record.state != RECORD_DONE || expiry_key_seconds(key) * 1000 < record.expires_ms)
        damage(check, "finished", key, "the record of another place", &record);
    if (record.inline_values.size)
        return;
    check_value(check, "finished", key, key, BLOB_ATTRIBUTES, record.attributes_bytes, &record);
    /* A body with a place of its own may be swept before its record. */
    if (!record.body_expiry_key)
        check_value(check, "finished", key, key, BLOB_BODY, record.body_field_bytes, &record);
}

static void check_chunk(struct check *check, const MDB_val *key, const MDB_val *value)
{
    uint64_t owner = 0;
    uint32_t chunk = 0;
    unsigned kind = 0;

    check->chunks++;
    if (!tables_chunk_key(key, &owner, &kind, &chunk))
        damage(check, "chunks", owner, "a key that is none of ours", NULL);
    else if (!tables_chunk_good(key, value))
        damage(check, "chunks", owner, "a part of a value does not read", NULL);
}

static void walk(struct check *check, MDB_dbi table, const char *name,
                 void (*visit)(struct check *check, uint64_t key, struct bytes data))
{
    MDB_cursor *cursor;
    MDB_stat stat = {0};
    MDB_val key, value;
    uint64_t entries = 0;
    int code = mdb_stat(check->txn, table, &stat);

    if (code == 0 && (code = mdb_cursor_open(check->txn, table, &cursor)) == 0) {
        while ((code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
            uint64_t number = 0;
            memcpy(&number, key.mv_data, key.mv_size < sizeof number ? key.mv_size : sizeof number);
            entries++;
            if (visit)
                visit(check, number, bytes_of(value.mv_data, (uint32_t)value.mv_size));
            else
                check_chunk(check, &key, &value);
        }
        mdb_cursor_close(cursor);
    }
    if (code != MDB_NOTFOUND)
        unreadable(check, name, 0, code);
    else if (entries != stat.ms_entries)
        damage(check, name, 0, "it holds not as many entries as it says", NULL);
}

static void check_merged(struct check *check, const struct merged *merged)
{
    uint8_t data[RECORD_BYTES_MAX];
    struct record record;
    bool good;

    if (merged->kind != STORE_PUT_UNFINISHED && merged->kind != STORE_FINISH)
        return;
    const uint32_t size = merge_record(merged, data, &good);
    if (!good)
        damage(check, "log", merged->generation, "the record before it, which it counts on, does not read", NULL);
    else if (record_decode(bytes_of(data, size), &record) != RECORD_GOOD)
        damage(check, "log", merged->generation, "its record does not read", NULL);
}

/* What a start would make of the log: its changes, and the record that each operation would have of them. */
static void check_batches(struct check *check, const struct wal *wal, uint64_t next_number)
{
    struct merge merge = {.tables = &check->tables, .txn = check->txn, .next_number = next_number};
    struct bytes *batches = mem_alloc(wal_found(wal) * sizeof *batches);
    int code;

    for (uint32_t n = 0; n < wal_found(wal); n++) {
        struct batch_header header;
        batches[n] = wal_batch(wal, n);
        batch_read_header(batches[n].data, &header);
        check->logged += header.last - header.first + 1;
    }
    if ((code = merge_batches(&merge, batches, wal_found(wal))) != 0)
        unreadable(check, "log", next_number, code);
    for (uint32_t at = 0; at < merge.count; at++)
        check_merged(check, &merge.merged[at]);
    merge_free(&merge);
    mem_free(batches);
}

static int open_to_read(int folder, const char *name, int *file)
{
    const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return errno;
    *file = fd;
    return 0;
}

/* Why something could not be opened: damage, or another reason. Returns the exit code. */
static int say_error(struct check *check, const struct failure *error)
{
    const bool damaged = error->exit_code == 65;

    check->damaged += damaged;
    print(check->out,
          damaged ? "damaged: " : "not checked: ", bytes_of(error->message, (uint32_t)strlen(error->message)));
    fputc('\n', check->out);
    return error->exit_code;
}

/* What the log has and the tables have not is read too. Returns 0, or the exit code where it cannot be opened. */
static int check_log(struct check *check, const char *path, int folder, const struct store_facts *facts,
                     const struct tables_state *state)
{
    struct disk disk = disk_system;
    const struct wal_options options = {.disk = &disk,
                                        .directory = path,
                                        .folder = folder,
                                        .secret = facts->secret,
                                        .applied = state->next_number - 1,
                                        .segment = state->wal_segment,
                                        .slots = state->wal_slots};
    struct failure error;

    disk.open = open_to_read;
    struct wal *wal = wal_open(&options, &error);
    if (!wal)
        return say_error(check, &error);
    check_batches(check, wal, state->next_number);
    wal_close(wal);
    return 0;
}

static void check_tables(struct check *check)
{
    walk(check, check->tables.unfinished, "unfinished", check_unfinished);
    walk(check, check->tables.finished, "finished", check_finished);
    walk(check, check->tables.chunks, "chunks", NULL);
}

/* The child's part. */
static int check_store(const char *path, int folder, FILE *out)
{
    struct check check = {.out = out};
    struct store_facts facts;
    struct failure error;
    struct tables_state state;
    int code;

    if (!tables_open(&check.tables, path, 0, true, &error) || !tables_check_length(&check.tables, path, &error) ||
        !tables_read_facts(&check.tables, &facts, &state, &error)) {
        tables_close(&check.tables);
        return say_error(&check, &error);
    }
    if ((code = mdb_txn_begin(check.tables.env, NULL, MDB_RDONLY, &check.txn)) != 0) {
        fprintf(out, "not checked: %s\n", mdb_strerror(code));
        tables_close(&check.tables);
        return 71;
    }
    int exit_code = check_log(&check, path, folder, &facts, &state);
    check_tables(&check);
    mdb_txn_abort(check.txn);
    tables_close(&check.tables);
    fprintf(out,
            "%" PRIu64 " unfinished, %" PRIu64 " finished, %" PRIu64 " parts of values, %" PRIu64
            " changes of the log read; %" PRIu64 " damaged\n",
            check.unfinished, check.finished, check.chunks, check.logged, check.damaged);
    if (check.failed) {
        fprintf(out, "not checked to its end: %s\n", strerror(check.failed));
        exit_code = 71;
    }
    return check.damaged ? 65 : exit_code;
}

/* Reading what is damaged can do that. */
static bool is_crash(int signal)
{
    return signal == SIGABRT || signal == SIGBUS || signal == SIGFPE || signal == SIGILL || signal == SIGSEGV;
}

/* Waits for the child. */
static int exit_code_of(pid_t child, FILE *out)
{
    int status;

    while (waitpid(child, &status, 0) != child)
        if (errno != EINTR)
            return 71;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    if (is_crash(WTERMSIG(status))) {
        fprintf(out, "damaged: reading it crashes (signal %d): its pages are not to be trusted\n", WTERMSIG(status));
        return 65;
    }
    fprintf(out, "not checked to its end: signal %d ended the check\n", WTERMSIG(status));
    return 71;
}

int check_data(const char *directory_path, FILE *out)
{
    struct directory directory;
    struct failure error;
    char path[4096];

    if (!directory_open(&directory, directory_path, DIRECTORY_READ, &error)) {
        print(stderr, "idemd: ", bytes_of(error.message, (uint32_t)strlen(error.message)));
        fputc('\n', stderr);
        return error.exit_code;
    }
    directory_store_path(&directory, false, path);
    fflush(out);
    const pid_t child = fork();
    if (child == 0) {
        const int exit_code = check_store(path, directory.store_fd, out);
        _exit(fflush(out) == 0 ? exit_code : 74);
    }
    if (child < 0)
        fprintf(out, "not checked: no process can be made: %s\n", strerror(errno));
    const int exit_code = child < 0 ? 71 : exit_code_of(child, out);
    directory_close(&directory);
    return exit_code;
}
