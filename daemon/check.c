/* Every record is decoded and compared with its key; every value that a record speaks of is read; every chunk's
 * checksum is taken, and a chunk that belongs to no record is told as well. */
#include "daemon/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/directory.h"
#include "daemon/disk.h"
#include "daemon/log.h"
#include "daemon/memory.h"
#include "daemon/merge.h"
#include "daemon/tables.h"

#define MAP_BYTES (1ull << 40) /* address space only */

struct check {
    FILE *out;
    struct tables tables;
    MDB_txn *txn;
    uint64_t unfinished, finished, chunks, logged, damaged;
};

static void damage(struct check *check, const char *table, uint64_t key, const char *what, const struct record *record)
{
    check->damaged++;
    fprintf(check->out, "damaged: %s %" PRIu64 ": %s", table, key, what);
    if (record)
        fprintf(check->out, " (namespace %.*s, caller %.*s, key %.*s)", (int)record->id.namespace.size,
                (const char *)record->id.namespace.data, (int)record->id.caller.size,
                record->id.caller.size ? (const char *)record->id.caller.data : "", (int)record->id.key.size,
                (const char *)record->id.key.data);
    fputc('\n', check->out);
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
    if (record.life != key || record.state == RECORD_DONE)
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
    if (record.state != RECORD_DONE || store_place_seconds(key) * 1000 < record.expires_ms)
        damage(check, "finished", key, "the record of another place", &record);
    if (record.inline_values.size)
        return;
    check_value(check, "finished", key, key, BLOB_ATTRIBUTES, record.attributes_bytes, &record);
    /* A body with a place of its own may be swept before its record. */
    if (!record.body_place)
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
        damage(check, name, 0, mdb_strerror(code), NULL);
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
        damage(check, "log", merged->life, "the record before it, which it counts on, does not read", NULL);
    else if (record_decode(bytes_of(data, size), &record) != RECORD_GOOD)
        damage(check, "log", merged->life, "its record does not read", NULL);
}

/* What a start would make of the log: its changes, and the record that each operation would have of them. */
static void check_batches(struct check *check, const struct log *log, uint64_t next_number)
{
    struct merge merge = {.tables = &check->tables, .txn = check->txn, .next_number = next_number};
    struct bytes *batches = mem_alloc(log_found(log) * sizeof *batches);
    int code;

    for (uint32_t n = 0; n < log_found(log); n++) {
        struct batch_header header;
        batches[n] = log_batch(log, n);
        batch_read_header(batches[n].data, &header);
        check->logged += header.last - header.first + 1;
    }
    if ((code = merge_batches(&merge, batches, log_found(log))) != 0)
        damage(check, "log", next_number, code == EBADMSG ? "a change does not read" : mdb_strerror(code), NULL);
    for (uint32_t at = 0; at < merge.count; at++)
        check_merged(check, &merge.merged[at]);
    merge_free(&merge);
    mem_free(batches);
}

/* What the log has and the tables have not is read too. */
static void check_log(struct check *check, const char *path, const struct store_facts *facts,
                      const struct tables_state *state)
{
    const struct log_options options = {.disk = &disk_system,
                                        .directory = path,
                                        .secret = facts->secret,
                                        .applied = state->next_number - 1,
                                        .slots = state->log_slots};
    struct store_error error;
    struct log *log = log_open(&options, &error);

    if (!log) {
        check->damaged++;
        fprintf(check->out, "damaged: %s\n", error.message);
        return;
    }
    check_batches(check, log, state->next_number);
    log_close(log);
}

/* The child's part. */
static int check_store(const char *path, FILE *out)
{
    struct check check = {.out = out};
    struct store_facts facts;
    struct store_error error;
    struct tables_state state;

    if (!tables_open(&check.tables, path, MAP_BYTES, true, &error) ||
        !tables_read_facts(&check.tables, &facts, &state, &error)) {
        fprintf(out, "damaged: %s\n", error.message);
        return 65;
    }
    if (mdb_txn_begin(check.tables.env, NULL, MDB_RDONLY, &check.txn) != 0)
        return 71;
    check_log(&check, path, &facts, &state);
    walk(&check, check.tables.unfinished, "unfinished", check_unfinished);
    walk(&check, check.tables.finished, "finished", check_finished);
    walk(&check, check.tables.chunks, "chunks", NULL);
    mdb_txn_abort(check.txn);
    tables_close(&check.tables);
    fprintf(out,
            "%" PRIu64 " unfinished, %" PRIu64 " finished, %" PRIu64 " parts of values, %" PRIu64
            " changes of the log read; %" PRIu64 " damaged\n",
            check.unfinished, check.finished, check.chunks, check.logged, check.damaged);
    return check.damaged ? 65 : 0;
}

int check_data(const char *directory_path, FILE *out)
{
    struct directory directory;
    struct store_error error;
    char path[4096];
    int status = 0;

    if (!directory_open(&directory, directory_path, DIRECTORY_READ, &error)) {
        fprintf(stderr, "idemd: %s\n", error.message);
        return error.exit_code;
    }
    directory_store_path(&directory, false, path);
    fflush(out);
    const pid_t child = fork();
    if (child == 0) {
        const int exit_code = check_store(path, out);
        fflush(out);
        _exit(exit_code);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        directory_close(&directory);
        return 71;
    }
    directory_close(&directory);
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(out, "damaged: reading it crashes (signal %d): its pages are not to be trusted\n", WTERMSIG(status));
    return 65;
}
