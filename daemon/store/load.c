/* Each record's head is read; the rest of an unfinished one is the engine's to read.
 *
 *     first record --- walk ---> | bad page | <--- walk back --- last record
 *
 * A table is whole when a walk from its first record meets its end, every key above the one before, after as many
 * records as LMDB counted. Else the load ends, or, where loss is accepted, the table is read from both its ends: what
 * lies between is lost. Since a bad page can make LMDB crash, a child process goes first and says how far it got. */
#include "daemon/store/load.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/logging.h"

struct table {
    const char *name;
    MDB_dbi dbi;
    uint64_t entries; /* as LMDB counts them */
};

struct loading {
    MDB_txn *txn;
    bool accept_loss;
    const struct store_visitor *visitor;
    struct failure *error;
};

/* Gives a record away. False: no more. */
typedef bool visit_record(const struct loading *loading, uint64_t key, const MDB_val *value);

static bool refuse(const struct loading *loading, const char *what, const char *table)
{
    loading->error->exit_code = 65;
    snprintf(loading->error->message, sizeof loading->error->message, "store: table %s %s", table, what);
    return false;
}

/* ---- Records --------------------------------------------------------------------------- */

/* A head that does not read: whose operation it was, nobody knows. */
static bool lose(const struct loading *loading, const char *table, uint64_t key)
{
    char what[192];

    if (loading->accept_loss) {
        log_event(LOG_ERROR, "lost", "table", table, "key", log_number(key), NULL);
        return true;
    }
    snprintf(what, sizeof what,
             "has a damaged head in record %llu, and with it is lost which operation it was; --accept-loss starts "
             "without it",
             (unsigned long long)key);
    return refuse(loading, what, table);
}

static bool visit_unfinished(const struct loading *loading, uint64_t key, const MDB_val *value)
{
    struct record head;

    if (value->mv_size > RECORD_BYTES_MAX)
        return lose(loading, "unfinished", key);
    const struct bytes record = bytes_of(value->mv_data, (uint32_t)value->mv_size);
    if (record_decode_head(record, &head) != RECORD_GOOD || head.generation != key || head.state == RECORD_DONE)
        return lose(loading, "unfinished", key);
    loading->visitor->unfinished(loading->visitor->context, key, record);
    return true;
}

static bool visit_finished(const struct loading *loading, uint64_t key, const MDB_val *value)
{
    const struct bytes record = bytes_of(value->mv_data, (uint32_t)value->mv_size);
    struct record head;

    /* At a place before its own end it would be swept too early. */
    if (value->mv_size > RECORD_BYTES_MAX || record_decode_head(record, &head) != RECORD_GOOD ||
        head.state != RECORD_DONE || expiry_key_seconds(key) * 1000 < head.expires_ms)
        return lose(loading, "finished", key);
    head.id.namespace = record_namespace(record);
    loading->visitor->finished(loading->visitor->context, key, &head, record.size);
    return true;
}

/* The scout's: touches every byte that could be read later. */
static bool visit_to_touch(const struct loading *loading, uint64_t key, const MDB_val *value)
{
    struct record record;

    (void)loading, (void)key;
    if (value->mv_size <= RECORD_BYTES_MAX)
        record_decode(bytes_of(value->mv_data, (uint32_t)value->mv_size), &record);
    return true;
}

/* ---- Walking --------------------------------------------------------------------------- */

struct way {
    bool back;            /* from the last record down */
    uint64_t until;       /* back: the first key that is not wanted */
    uint64_t records_max; /* goes no step beyond */
};

/* How far a walk got. */
struct reach {
    bool begun;            /* the table's end could be read */
    uint64_t records, key; /* how many, the last one's */
    int code;              /* why there were no more: MDB_NOTFOUND at the end; 0: it was stopped, or crashed */
};

/* The number that a key is, where it is one and in its order. */
static int read_key(const struct way *way, const volatile struct reach *reach, const MDB_val *key, uint64_t *number)
{
    if (key->mv_size != sizeof *number)
        return MDB_CORRUPTED;
    memcpy(number, key->mv_data, sizeof *number);
    if (reach->records == 0)
        return 0;
    return (way->back ? *number < reach->key : *number > reach->key) ? 0 : MDB_CORRUPTED;
}

/* One step: the record is visited, and only then counted. */
static int step(const struct loading *loading, MDB_cursor *cursor, const struct way *way, visit_record *visit,
                volatile struct reach *reach, bool *good)
{
    const MDB_cursor_op first = way->back ? MDB_LAST : MDB_FIRST, next = way->back ? MDB_PREV : MDB_NEXT;
    MDB_val key, value;
    uint64_t number;
    int code = mdb_cursor_get(cursor, &key, &value, reach->records ? next : first);

    if (code == 0)
        code = read_key(way, reach, &key, &number);
    if (code != 0)
        return code;
    reach->begun = true;
    if (way->back && number <= way->until)
        return MDB_NOTFOUND;
    if (!(*good = visit(loading, number, &value)))
        return 0;
    reach->key = number;
    reach->records++;
    return 0;
}

/* False: a visit ended it. *reach is shared where a scout walks. */
static bool walk(const struct loading *loading, const struct table *table, const struct way *way, visit_record *visit,
                 volatile struct reach *reach)
{
    MDB_cursor *cursor = NULL;
    int code = tables_open_cursor(loading->txn, table->dbi, &cursor);
    bool good = true;

    while (code == 0 && good && reach->records < way->records_max)
        code = step(loading, cursor, way, visit, reach, &good);
    reach->code = code;
    if (cursor)
        mdb_cursor_close(cursor);
    return good;
}

/* A crash of the scout's ends it, and nothing else happens. */
static void crash_alone(void)
{
    static const int signals[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};

    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        signal(signals[i], SIG_DFL);
}

/* Walks in a child process. */
static bool scout(const struct loading *loading, const struct table *table, const struct way *way, struct reach *reach)
{
    struct reach *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = -1;

    if (shared != MAP_FAILED && (child = fork()) == 0) {
        crash_alone();
        walk(loading, table, way, visit_to_touch, shared);
        _exit(0);
    }
    while (child > 0 && waitpid(child, NULL, 0) < 0)
        if (errno != EINTR)
            child = -1;
    if (child > 0)
        *reach = *shared;
    if (shared != MAP_FAILED)
        munmap(shared, sizeof *shared);
    if (child > 0)
        return true;
    refuse(loading, "cannot be looked through: no child process", table->name);
    loading->error->exit_code = 71;
    return false;
}

/* ---- Tables ------------------------------------------------------------------------------ */

/* Want of memory is no damage. */
static bool lacks_memory(const struct loading *loading, const struct table *table, const struct reach *reach)
{
    if (reach->code != ENOMEM)
        return false;
    refuse(loading, "cannot be read: no memory", table->name);
    loading->error->exit_code = 71;
    return true;
}

static bool is_whole(const struct table *table, const struct reach *reach)
{
    return reach->code == MDB_NOTFOUND && reach->records == table->entries;
}

static const char *reason(const struct reach *reach)
{
    return reach->code == 0              ? "reading on crashes"
           : reach->code == MDB_NOTFOUND ? "it ends, and should not"
                                         : mdb_strerror(reach->code);
}

static void log_side(const struct table *table, const char *side, const struct reach *reach)
{
    log_event(LOG_ERROR, "lost", "table", table->name, "read_from", side, "records", log_number(reach->records),
              "to_key", log_number(reach->key), "of_records", log_number(table->entries), "reason", reason(reach),
              NULL);
}

/* LMDB gives up on what it cannot bear by an abort: this says why first. */
static void on_assert(MDB_env *env, const char *message)
{
    (void)env;
    log_event(LOG_ERROR, "failed", "reason", "a table of the store does not read; --accept-loss starts with what does",
              "detail", message, NULL);
    _exit(65);
}

static bool load_whole(const struct loading *loading, const struct table *table, visit_record *visit)
{
    const struct way all = {.records_max = UINT64_MAX};
    struct reach reach = {0};
    char what[256];

    mdb_env_set_assert(mdb_txn_env(loading->txn), on_assert);
    const bool good = walk(loading, table, &all, visit, &reach);
    mdb_env_set_assert(mdb_txn_env(loading->txn), NULL);
    if (!good || is_whole(table, &reach))
        return good;
    if (lacks_memory(loading, table, &reach))
        return false;
    snprintf(what, sizeof what,
             "does not read behind its record %llu, of %llu: %s; --accept-loss starts with what can be read",
             (unsigned long long)reach.records, (unsigned long long)table->entries, reason(&reach));
    return refuse(loading, what, table->name);
}

static bool load_what_reads(const struct loading *loading, const struct table *table, visit_record *visit)
{
    struct way forth = {.records_max = UINT64_MAX}, back = {.back = true, .records_max = UINT64_MAX};
    struct reach head = {0}, backlog = {0}, walked = {0}, walked_back = {0};

    if (!scout(loading, table, &forth, &head))
        return false;
    if (is_whole(table, &head))
        return walk(loading, table, &forth, visit, &walked);
    back.until = head.records ? head.key : 0;
    if (lacks_memory(loading, table, &head) || !scout(loading, table, &back, &backlog) ||
        lacks_memory(loading, table, &backlog))
        return false;
    log_side(table, "first", &head);
    log_side(table, "last", &backlog);
    if (!head.begun || !backlog.begun)
        return refuse(loading, "is damaged at one of its ends, where the store could not go on: it needs a backup",
                      table->name);
    forth.records_max = head.records;
    back.records_max = backlog.records;
    return walk(loading, table, &forth, visit, &walked) && walk(loading, table, &back, visit, &walked_back);
}

static bool load_table(const struct loading *loading, const char *name, MDB_dbi dbi, visit_record *visit)
{
    struct table table = {name, dbi, 0};
    MDB_stat stat;

    if (mdb_stat(loading->txn, dbi, &stat) != 0)
        return refuse(loading, "does not read", name);
    table.entries = stat.ms_entries;
    return loading->accept_loss ? load_what_reads(loading, &table, visit) : load_whole(loading, &table, visit);
}

bool load_records(const struct tables *tables, MDB_txn *txn, bool accept_loss, const struct store_visitor *visitor,
                  struct failure *error)
{
    const struct loading loading = {txn, accept_loss, visitor, error};

    return load_table(&loading, "unfinished", tables->unfinished, visit_unfinished) &&
           load_table(&loading, "finished", tables->finished, visit_finished);
}
