/* LMDB behind one wall. Flags are 0: NOSYNC and NOMETASYNC lose what was acknowledged, WRITEMAP lets a stray pointer
 * write to the store. No DUPSORT, no nested transactions. Values are read by memcpy, since LMDB aligns them to two
 * bytes only. */
#include "daemon/store/tables.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "daemon/base/memory.h"

enum {
    FORMAT_VERSION = 3, /* of records (record.h) and of the log (batch.h, slot.h) too */
    TABLE_COUNT = 4,
    CHECKSUM_BYTES = 8,
    STATE_NUMBERS = 7,
    STATE_BYTES = STATE_NUMBERS * 8 + 16,
    ORIGIN_BYTES = 3 * 8 + 2 * HOST_ID_BYTES,
};
_Static_assert(CHECKSUM_BYTES + TABLES_CHUNK_BYTES <= 4080, "a chunk fits one overflow page");

static bool fail(struct failure *error, const char *what, int code)
{
    error->exit_code =
        code == EACCES || code == EPERM                                                                    ? 77
        : code == ENOSPC || code == EIO                                                                    ? 74
        : code == EMFILE || code == ENFILE || code == ENOMEM || code == EAGAIN || code == MDB_READERS_FULL ? 71
        : code == MDB_INVALID || code == MDB_VERSION_MISMATCH || code == MDB_CORRUPTED || code == MDB_PAGE_NOTFOUND ||
                code == MDB_NOTFOUND || code == 0
            ? 65
            : 74;
    snprintf(error->message, sizeof error->message, "store: %s%s%s", what, code ? ": " : "",
             code ? mdb_strerror(code) : "");
    return false;
}

static MDB_val val(const void *data, size_t size)
{
    return (MDB_val){size, (void *)(uintptr_t)data};
}

static MDB_val text_val(const char *text)
{
    return val(text, strlen(text));
}

/* ---- LMDB's memory ------------------------------------------------------------------- */

int tables_begin_reading(const struct tables *tables, MDB_txn **txn)
{
    const int code = mdb_txn_begin(tables->env, NULL, MDB_RDONLY, txn);

    if (code != ENOMEM)
        return code;
    mem_give_reserve();
    return mdb_txn_begin(tables->env, NULL, MDB_RDONLY, txn);
}

int tables_open_cursor(MDB_txn *txn, MDB_dbi table, MDB_cursor **cursor)
{
    const int code = mdb_cursor_open(txn, table, cursor);

    if (code != ENOMEM)
        return code;
    mem_give_reserve();
    return mdb_cursor_open(txn, table, cursor);
}

/* ---- Opening ------------------------------------------------------------------------- */

static uint64_t file_bytes(const char *path)
{
    struct stat status;
    char file[4096 + 16];

    snprintf(file, sizeof file, "%s/data.mdb", path);
    return stat(file, &status) == 0 ? (uint64_t)status.st_size / TABLES_PAGE_BYTES * TABLES_PAGE_BYTES : 0;
}

/* The map needs no memory, only addresses; where they are refused it is by a limit that somebody set. */
static bool fail_map(struct failure *error, const char *path, uint64_t bytes)
{
    error->exit_code = 71;
    snprintf(error->message, sizeof error->message,
             "store: %.200s: %llu MiB of address space cannot be had: raise or remove the limit (ulimit -v), or lower "
             "--quota",
             path, (unsigned long long)(bytes >> 20));
    return false;
}

/* LMDB maps its lock file with what holes it has, and a page for which a full disk has no room would end the process
 * (SIGBUS). The file has what LMDB would make of it at least; what is there stays. */
static bool make_lock_room(const char *path, struct failure *error)
{
    enum { LOCK_BYTES = 8192 };
    char file[4096 + 16];
    struct stat status;
    int code;

    snprintf(file, sizeof file, "%s/lock.mdb", path);
    const int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || fstat(fd, &status) != 0)
        code = errno;
    else
        code = posix_fallocate(fd, 0, status.st_size > LOCK_BYTES ? status.st_size : LOCK_BYTES);
    if (fd >= 0)
        close(fd);
    return code == 0 || fail(error, file, code);
}

bool tables_open(struct tables *tables, const char *path, uint64_t map_bytes, bool read_only, struct failure *error)
{
    const uint64_t bytes = file_bytes(path) + map_bytes;
    int code, dead;

    *tables = (struct tables){0};
    if (!read_only && !make_lock_room(path, error))
        return false;
    if ((code = mdb_env_create(&tables->env)) != 0)
        return fail(error, "the environment cannot be made", code);
    if ((code = mdb_env_set_maxdbs(tables->env, TABLE_COUNT)) != 0 ||
        (code = mdb_env_set_mapsize(tables->env, bytes)) != 0 ||
        (code = mdb_env_open(tables->env, path, read_only ? MDB_RDONLY | MDB_NOLOCK : 0, 0600)) != 0 ||
        (code = mdb_reader_check(tables->env, &dead)) != 0) {
        if (code == ENOMEM)
            fail_map(error, path, bytes);
        else
            fail(error, path, code);
        tables_close(tables);
        return false;
    }
    return true;
}

void tables_close(struct tables *tables)
{
    if (tables->env)
        mdb_env_close(tables->env);
    tables->env = NULL;
}

/* How many pages from `first` on are free. The free list has for each commit, as its value, how many pages it gave
 * back, and their numbers. */
static int count_free(const struct tables *tables, uint64_t first, uint64_t *count)
{
    enum { FREE_TABLE = 0 };
    MDB_cursor *cursor = NULL;
    MDB_txn *txn = NULL;
    MDB_val key, value;
    int code = tables_begin_reading(tables, &txn);

    *count = 0;
    if (code == 0)
        code = tables_open_cursor(txn, FREE_TABLE, &cursor);
    while (code == 0 && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        for (size_t at = sizeof(uint64_t); at + sizeof(uint64_t) <= value.mv_size; at += sizeof(uint64_t)) {
            uint64_t page;
            memcpy(&page, (const uint8_t *)value.mv_data + at, sizeof page);
            *count += page >= first;
        }
    if (cursor)
        mdb_cursor_close(cursor);
    if (txn)
        mdb_txn_abort(txn);
    return code == MDB_NOTFOUND ? 0 : code;
}

/* Pages that a commit took and gave back at once are never written: at the end of the file only those may be missing.
 */
bool tables_check_length(const struct tables *tables, const char *path, struct failure *error)
{
    MDB_envinfo info;
    mdb_filehandle_t fd;
    struct stat status;
    uint64_t free_pages;
    int code = mdb_env_info(tables->env, &info);

    if (code == 0)
        code = mdb_env_get_fd(tables->env, &fd);
    if (code == 0 && fstat(fd, &status) != 0)
        code = errno;
    if (code != 0)
        return fail(error, path, code);
    const uint64_t pages = (uint64_t)status.st_size / TABLES_PAGE_BYTES;
    if (pages > info.me_last_pgno)
        return true;
    if ((code = count_free(tables, pages, &free_pages)) != 0)
        return fail(error, path, code);
    if (free_pages >= info.me_last_pgno + 1 - pages)
        return true;
    error->exit_code = 65;
    snprintf(error->message, sizeof error->message,
             "%.300s/data.mdb: was cut short: it has %llu bytes, and what is in it reaches to %llu: put a copy back",
             path, (unsigned long long)status.st_size, (unsigned long long)(info.me_last_pgno + 1) * TABLES_PAGE_BYTES);
    return false;
}

static int open_tables(struct tables *tables, MDB_txn *txn, unsigned create)
{
    int code;

    if ((code = mdb_dbi_open(txn, "finished", MDB_INTEGERKEY | create, &tables->finished)) != 0 ||
        (code = mdb_dbi_open(txn, "unfinished", MDB_INTEGERKEY | create, &tables->unfinished)) != 0 ||
        (code = mdb_dbi_open(txn, "chunks", create, &tables->chunks)) != 0)
        return code;
    return mdb_dbi_open(txn, "meta", create, &tables->meta);
}

/* ---- What the store says of itself ------------------------------------------------------ */

/* Each entry of "meta" is a checksum and then its bytes. Seeded with the entry's name: one is never taken for another.
 */
static uint64_t meta_checksum(const char *name, const void *data, size_t size)
{
    return XXH3_64bits_withSeed(data, size, XXH3_64bits(name, strlen(name)));
}

static int put_meta(const struct tables *tables, MDB_txn *txn, const char *name, const void *data, size_t size)
{
    const uint64_t checksum = meta_checksum(name, data, size);
    MDB_val key = text_val(name), value = {CHECKSUM_BYTES + size, NULL};
    const int code = mdb_put(txn, tables->meta, &key, &value, MDB_RESERVE);

    if (code != 0)
        return code;
    memcpy(value.mv_data, &checksum, CHECKSUM_BYTES);
    memcpy((uint8_t *)value.mv_data + CHECKSUM_BYTES, data, size);
    return 0;
}

/* A secret with one bit changed would make every key look absent, an older number would bring fences back. */
static int get_meta(const struct tables *tables, MDB_txn *txn, const char *name, void *data, size_t size)
{
    MDB_val key = text_val(name), value;
    const int code = mdb_get(txn, tables->meta, &key, &value);
    uint64_t checksum;

    if (code != 0)
        return code;
    if (value.mv_size != CHECKSUM_BYTES + size)
        return MDB_CORRUPTED;
    memcpy(&checksum, value.mv_data, CHECKSUM_BYTES);
    memcpy(data, (const uint8_t *)value.mv_data + CHECKSUM_BYTES, size);
    return checksum == meta_checksum(name, data, size) ? 0 : MDB_CORRUPTED;
}

/* LMDB has two meta pages, which it writes by turns, each with the number of its commit and the roots as of it; the
 * larger number counts. They have no checksum, so every commit writes its number into the state as well: a number or a
 * root that is damaged cannot join the number of one commit and the state of another. That the commit before the last
 * passes for the last, with all that belongs to it, cannot be told here, and does no harm: nothing of that commit is
 * written over before the next, and what is not in it is in the log, where a change that is missing is noticed. Such is
 * also what LMDB leaves where the write of a meta page fails. */
int tables_put_state(const struct tables *tables, MDB_txn *txn, const struct tables_state *state)
{
    const struct clock_mark *mark = &state->mark;
    const uint64_t numbers[STATE_NUMBERS] = {state->next_number, mark->retention_ms, mark->wall_ms,     mark->boot_ms,
                                             state->wal_slots,   mdb_txn_id(txn),    state->wal_segment};
    uint8_t bytes[STATE_BYTES];

    memcpy(bytes, numbers, sizeof numbers);
    memcpy(bytes + sizeof numbers, mark->boot_id, sizeof mark->boot_id);
    return put_meta(tables, txn, "state", bytes, sizeof bytes);
}

/* A struct without gaps is its own format. */
_Static_assert(sizeof(struct origin) == ORIGIN_BYTES, "an origin has no gaps");
_Static_assert(sizeof(struct clock_past) == (2 + 3 * CLOCK_STRETCHES) * sizeof(uint64_t), "a past has no gaps");

int tables_read_origin(const struct tables *tables, struct origin *origin)
{
    MDB_txn *txn = NULL;
    int code = tables_begin_reading(tables, &txn);

    if (code != 0)
        return code;
    code = get_meta(tables, txn, "origin", origin, sizeof *origin);
    mdb_txn_abort(txn);
    return code;
}

int tables_read_past(const struct tables *tables, struct clock_past *past)
{
    MDB_txn *txn = NULL;
    int code = tables_begin_reading(tables, &txn);

    if (code != 0)
        return code;
    code = get_meta(tables, txn, "clocks", past, sizeof *past);
    mdb_txn_abort(txn);
    if (code == 0 && past->count > CLOCK_STRETCHES)
        return MDB_CORRUPTED;
    if (code != MDB_NOTFOUND)
        return code;
    clock_past_unknown(past);
    return 0;
}

int tables_put_start(const struct tables *tables, const struct tables_state *state, const struct origin *origin,
                     const struct clock_past *past)
{
    MDB_txn *txn = NULL;
    int code = mdb_txn_begin(tables->env, NULL, 0, &txn);

    if (code != 0)
        return code;
    if ((code = put_meta(tables, txn, "origin", origin, sizeof *origin)) == 0 &&
        (code = put_meta(tables, txn, "clocks", past, sizeof *past)) == 0)
        code = tables_put_state(tables, txn, state);
    if (code == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return code;
}

bool tables_create(struct tables *tables, const struct store_facts *facts, const struct tables_state *state,
                   struct failure *error)
{
    const uint32_t format = FORMAT_VERSION;
    MDB_txn *txn = NULL;
    int code;

    if ((code = mdb_txn_begin(tables->env, NULL, 0, &txn)) != 0)
        return fail(error, "new", code);
    if ((code = open_tables(tables, txn, MDB_CREATE)) != 0 ||
        (code = put_meta(tables, txn, "format", &format, sizeof format)) != 0 ||
        (code = put_meta(tables, txn, "store_id", &facts->store_id, sizeof facts->store_id)) != 0 ||
        (code = put_meta(tables, txn, "secret", facts->secret, sizeof facts->secret)) != 0 ||
        (code = put_meta(tables, txn, "clocks", &facts->past, sizeof facts->past)) != 0 ||
        (code = tables_put_state(tables, txn, state)) != 0) {
        mdb_txn_abort(txn);
        return fail(error, "new", code);
    }
    code = mdb_txn_commit(txn);
    return code == 0 || fail(error, "new", code);
}

static bool read_entry(const struct tables *tables, MDB_txn *txn, const char *name, void *data, size_t size,
                       struct failure *error)
{
    const int code = get_meta(tables, txn, name, data, size);
    char what[80];

    if (code == 0)
        return true;
    snprintf(what, sizeof what, "the entry \"%s\" of its table meta is %s", name,
             code == MDB_NOTFOUND ? "missing" : "damaged");
    return fail(error, what, code);
}

static bool read_entries(const struct tables *tables, MDB_txn *txn, struct store_facts *facts,
                         uint8_t state[STATE_BYTES], struct failure *error)
{
    uint32_t format;

    if (!read_entry(tables, txn, "format", &format, sizeof format, error))
        return false;
    if (format != FORMAT_VERSION) {
        char what[120];
        snprintf(what, sizeof what,
                 "its format is %u, and this idemd reads %u: start the version of idemd that wrote it", format,
                 FORMAT_VERSION);
        return fail(error, what, 0);
    }
    return read_entry(tables, txn, "store_id", &facts->store_id, sizeof facts->store_id, error) &&
           read_entry(tables, txn, "secret", facts->secret, sizeof facts->secret, error) &&
           read_entry(tables, txn, "state", state, STATE_BYTES, error);
}

bool tables_read_facts(struct tables *tables, struct store_facts *facts, struct tables_state *state,
                       struct failure *error)
{
    uint64_t numbers[STATE_NUMBERS];
    uint8_t bytes[STATE_BYTES];
    MDB_txn *txn = NULL;
    int code = tables_begin_reading(tables, &txn);

    if (code != 0)
        return fail(error, "facts", code);
    if ((code = open_tables(tables, txn, 0)) != 0) {
        mdb_txn_abort(txn);
        return fail(error, "it has not the tables of a store of idemd", code);
    }
    if (!read_entries(tables, txn, facts, bytes, error)) {
        mdb_txn_abort(txn);
        return false;
    }
    memcpy(numbers, bytes, sizeof numbers);
    if (numbers[5] != mdb_txn_id(txn)) {
        mdb_txn_abort(txn);
        return fail(error, "its state is not that of its last commit", MDB_CORRUPTED);
    }
    /* Committed, not aborted: else the handles of the tables that it opened would go. */
    if ((code = mdb_txn_commit(txn)) != 0)
        return fail(error, "facts", code);
    *state =
        (struct tables_state){.next_number = numbers[0], .wal_slots = (uint32_t)numbers[4], .wal_segment = numbers[6]};
    state->mark = (struct clock_mark){.retention_ms = numbers[1], .wall_ms = numbers[2], .boot_ms = numbers[3]};
    memcpy(state->mark.boot_id, bytes + sizeof numbers, sizeof state->mark.boot_id);
    facts->mark = state->mark;
    return true;
}

/* ---- Chunks ------------------------------------------------------------------------------ */

void tables_make_chunk_key(uint8_t key[TABLES_CHUNK_KEY_BYTES], uint64_t owner, unsigned kind, uint32_t chunk)
{
    for (int i = 0; i < 8; i++)
        key[i] = (uint8_t)(owner >> (56 - 8 * i));
    key[8] = (uint8_t)kind;
    for (int i = 0; i < 3; i++)
        key[9 + i] = (uint8_t)(chunk >> (16 - 8 * i));
}

bool tables_chunk_key(const MDB_val *key, uint64_t *owner, unsigned *kind, uint32_t *chunk)
{
    const uint8_t *bytes = key->mv_data;

    if (key->mv_size != TABLES_CHUNK_KEY_BYTES)
        return false;
    *owner = 0;
    for (int i = 0; i < 8; i++)
        *owner = *owner << 8 | bytes[i];
    *kind = bytes[8];
    *chunk = (uint32_t)bytes[9] << 16 | (uint32_t)bytes[10] << 8 | bytes[11];
    return *kind > 0 && *kind < BLOB_KINDS;
}

static uint64_t chunk_checksum(const MDB_val *key, const uint8_t *data, size_t size)
{
    return XXH3_64bits_withSeed(data, size, XXH3_64bits(key->mv_data, key->mv_size));
}

bool tables_chunk_good(const MDB_val *key, const MDB_val *value)
{
    uint64_t checksum;

    if (value->mv_size <= CHECKSUM_BYTES || value->mv_size > CHECKSUM_BYTES + TABLES_CHUNK_BYTES)
        return false;
    memcpy(&checksum, value->mv_data, CHECKSUM_BYTES);
    return checksum ==
           chunk_checksum(key, (const uint8_t *)value->mv_data + CHECKSUM_BYTES, value->mv_size - CHECKSUM_BYTES);
}

/* Sought anew each time: where a cursor stands after a deletion at a page's end is not worth a guess. */
int tables_delete_chunks(MDB_cursor *chunks, uint64_t owner, unsigned kind, uint32_t first)
{
    uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
    int code;

    tables_make_chunk_key(bytes, owner, kind, first);
    for (;;) {
        MDB_val key = val(bytes, sizeof bytes), value;
        uint64_t found_owner;
        unsigned found_kind;
        uint32_t found_chunk;

        if ((code = mdb_cursor_get(chunks, &key, &value, MDB_SET_RANGE)) != 0)
            return code == MDB_NOTFOUND ? 0 : code;
        if (!tables_chunk_key(&key, &found_owner, &found_kind, &found_chunk) || found_owner != owner ||
            (kind && found_kind != kind))
            return 0;
        if ((code = mdb_cursor_del(chunks, 0)) != 0)
            return code;
    }
}

int tables_put_value(const struct tables *tables, MDB_txn *txn, uint64_t owner, unsigned kind, struct bytes data)
{
    uint32_t chunk = 0;

    for (uint32_t at = 0; at < data.size; at += TABLES_CHUNK_BYTES, chunk++) {
        const uint32_t size = data.size - at < TABLES_CHUNK_BYTES ? data.size - at : TABLES_CHUNK_BYTES;
        uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
        MDB_val key = val(bytes, sizeof bytes), value = {CHECKSUM_BYTES + size, NULL};

        tables_make_chunk_key(bytes, owner, kind, chunk);
        const uint64_t checksum = chunk_checksum(&key, data.data + at, size);
        const int code = mdb_put(txn, tables->chunks, &key, &value, MDB_RESERVE);
        if (code != 0)
            return code;
        memcpy(value.mv_data, &checksum, CHECKSUM_BYTES);
        memcpy((uint8_t *)value.mv_data + CHECKSUM_BYTES, data.data + at, size);
    }
    return 0;
}

/* ---- Looking ------------------------------------------------------------------------------------ */

static uint64_t pages_of(const MDB_stat *stat)
{
    return stat->ms_branch_pages + stat->ms_leaf_pages + stat->ms_overflow_pages;
}

/* The tables' pages, those of the free list and of the table of tables, and two pages of meta. */
static int count_pages(const struct tables *tables, MDB_txn *txn, uint64_t *pages)
{
    enum { FREE_TABLE = 0, MAIN_TABLE = 1 }; /* LMDB's handles of its own two tables; mdb.c */
    const MDB_dbi all[] = {FREE_TABLE, MAIN_TABLE, tables->finished, tables->unfinished, tables->chunks, tables->meta};

    *pages = 2;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        MDB_stat stat;
        const int code = mdb_stat(txn, all[i], &stat);
        if (code != 0)
            return code;
        *pages += pages_of(&stat);
    }
    return 0;
}

static int first_key(MDB_txn *txn, MDB_dbi table, MDB_val *key, MDB_cursor_op from)
{
    MDB_cursor *cursor;
    MDB_val value;
    int code = tables_open_cursor(txn, table, &cursor);

    if (code != 0)
        return code;
    code = mdb_cursor_get(cursor, key, &value, from);
    mdb_cursor_close(cursor);
    return code;
}

static int find_first_expiry_key(const struct tables *tables, MDB_txn *txn, uint64_t *expiry_key)
{
    uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
    MDB_val key;
    uint64_t owner;
    unsigned kind;
    uint32_t chunk;
    int code = first_key(txn, tables->finished, &key, MDB_FIRST);

    *expiry_key = 0;
    if (code == 0)
        memcpy(expiry_key, key.mv_data, sizeof *expiry_key);
    else if (code != MDB_NOTFOUND)
        return code;
    tables_make_chunk_key(bytes, TABLES_FIRST_EXPIRY_KEY, 0, 0);
    key = val(bytes, sizeof bytes);
    code = first_key(txn, tables->chunks, &key, MDB_SET_RANGE);
    if (code == 0 && tables_chunk_key(&key, &owner, &kind, &chunk) && (!*expiry_key || owner < *expiry_key))
        *expiry_key = owner;
    return code == MDB_NOTFOUND ? 0 : code;
}

int tables_look(struct tables *tables, uint64_t *used_bytes, uint64_t *first_expiry_key)
{
    MDB_txn *txn;
    int code = tables_begin_reading(tables, &txn);

    if (code != 0)
        return code;
    code = count_pages(tables, txn, used_bytes);
    *used_bytes *= TABLES_PAGE_BYTES;
    if (code == 0)
        code = find_first_expiry_key(tables, txn, first_expiry_key);
    mdb_txn_abort(txn);
    return code;
}

/* ---- Reading --------------------------------------------------------------------------------------- */

enum store_read tables_read_finished(const struct tables *tables, MDB_txn *txn, uint64_t expiry_key,
                                     struct bytes *record)
{
    MDB_val key = val(&expiry_key, sizeof expiry_key), value;
    const int code = mdb_get(txn, tables->finished, &key, &value);

    if (code == MDB_NOTFOUND)
        return STORE_MISSING;
    if (code != 0 || value.mv_size > RECORD_BYTES_MAX)
        return STORE_DAMAGED;
    *record = bytes_of(value.mv_data, (uint32_t)value.mv_size);
    return STORE_FOUND;
}

enum store_read tables_read_value(const struct tables *tables, MDB_txn *txn, uint64_t key_number, enum blob_kind kind,
                                  uint32_t size, uint8_t *out)
{
    for (uint32_t at = 0, chunk = 0; at < size; at += TABLES_CHUNK_BYTES, chunk++) {
        const uint32_t part = size - at < TABLES_CHUNK_BYTES ? size - at : TABLES_CHUNK_BYTES;
        uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
        MDB_val key = val(bytes, sizeof bytes), value;

        tables_make_chunk_key(bytes, key_number, kind, chunk);
        const int code = mdb_get(txn, tables->chunks, &key, &value);
        if (code == MDB_NOTFOUND)
            return STORE_MISSING;
        if (code != 0 || value.mv_size != CHECKSUM_BYTES + part || !tables_chunk_good(&key, &value))
            return STORE_DAMAGED;
        memcpy(out + at, (const uint8_t *)value.mv_data + CHECKSUM_BYTES, part);
    }
    return STORE_FOUND;
}

/* The key before the first one that is not below `key`. */
static int key_before(MDB_cursor *cursor, MDB_val *key)
{
    MDB_val value;
    const int code = mdb_cursor_get(cursor, key, &value, MDB_SET_RANGE);

    return mdb_cursor_get(cursor, key, &value, code == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
}

int tables_last_expiry_key(MDB_cursor *finished, MDB_cursor *chunks, uint64_t seconds, uint64_t *expiry_key)
{
    const uint64_t end = (seconds + 1) << 30;
    uint8_t bytes[TABLES_CHUNK_KEY_BYTES] = {0};
    MDB_val key = val(&end, sizeof end);
    uint64_t found;
    unsigned kind;
    uint32_t chunk;
    int code = key_before(finished, &key);

    *expiry_key = 0;
    if (code == 0) {
        memcpy(&found, key.mv_data, sizeof found);
        if (expiry_key_seconds(found) == seconds)
            *expiry_key = found;
    } else if (code != MDB_NOTFOUND) {
        return code;
    }
    tables_make_chunk_key(bytes, end, 0, 0);
    key = val(bytes, sizeof bytes);
    code = key_before(chunks, &key);
    if (code == 0 && tables_chunk_key(&key, &found, &kind, &chunk) && expiry_key_seconds(found) == seconds &&
        found > *expiry_key)
        *expiry_key = found;
    return code == MDB_NOTFOUND ? 0 : code;
}
