/* The store's four LMDB tables: what is in them, how a batch is applied, how a record is read.
 *
 *     finished    place (8 bytes, MDB_INTEGERKEY)                      -> record
 *     unfinished  life (8 bytes, MDB_INTEGERKEY)                       -> record
 *     chunks      place or life (8 bytes), kind (1), chunk (3), big-endian -> XXH3-64 (8 bytes), at most 4,072 bytes of
 *                 a value
 *     meta        "format", "store_id", "secret", "state", "origin", "clocks" -> XXH3-64 (8 bytes), see tables.c
 *
 * A chunk fills one overflow page at most. Its checksum is seeded with its key, so that a chunk at a wrong place is
 * noticed. */
#ifndef IDEMD_TABLES_H
#define IDEMD_TABLES_H

#include <lmdb.h>

#include "daemon/store/batch.h"
#include "daemon/store/origin.h"
#include "daemon/store/store.h"

enum {
    TABLES_CHUNK_BYTES = 4072,
    TABLES_PAGE_BYTES = 4096,
};
/* Lives are below this, places above. */
#define TABLES_FIRST_EXPIRY_KEY (1ull << 53)

struct tables {
    MDB_env *env;
    MDB_dbi finished, unfinished, chunks, meta;
};

/* What "meta" says of the store's state. */
struct tables_state {
    uint64_t next_number; /* of the first change that is not applied */
    struct clock_mark mark;
    uint32_t wal_slots;   /* so many files the log has */
    uint64_t wal_segment; /* the newest segment of the log, as of this commit */
};

/* Opens DIR/store (path), with room for map_bytes more than its file has now, which may be from a time with a larger
 * quota. read_only: writes nothing, not even locks; nobody else may write meanwhile. false: *error, 65 where it is not
 * a store of ours or of another version. */
bool tables_open(struct tables *tables, const char *path, uint64_t map_bytes, bool read_only, struct failure *error);
void tables_close(struct tables *tables); /* not open: fine */
/* As mdb_txn_begin and mdb_cursor_open: with a second try, since LMDB takes memory from the system for each. */
int tables_begin_reading(const struct tables *tables, MDB_txn **txn);
int tables_open_cursor(MDB_txn *txn, MDB_dbi table, MDB_cursor **cursor);
/* Is the file as long as its last commit needs it? Else a read would meet its end some day. false: *error, 65. */
bool tables_check_length(const struct tables *tables, const char *path, struct failure *error);
/* Makes the tables of a new store. */
bool tables_create(struct tables *tables, const struct store_facts *facts, const struct tables_state *state,
                   struct failure *error);
/* Reads what is known of the store. */
bool tables_read_facts(struct tables *tables, struct store_facts *facts, struct tables_state *state,
                       struct failure *error);
int tables_put_state(const struct tables *tables, MDB_txn *txn, const struct tables_state *state);
/* Where the store lay when it was started last. Returns 0; MDB_NOTFOUND or MDB_CORRUPTED: that is not known; or another
 * of LMDB's errors. */
int tables_read_origin(const struct tables *tables, struct origin *origin);
/* How the clocks stood to each other, as of that start. Unknown where it is not there. Returns 0 or LMDB's error. */
int tables_read_past(const struct tables *tables, struct clock_past *past);
/* One commit of how a start begins. Returns 0 or LMDB's error. */
int tables_put_start(const struct tables *tables, const struct tables_state *state, const struct origin *origin,
                     const struct clock_past *past);

/* As of now, in a transaction of the calling thread: pages in use, the first place there is (0: none). Returns 0 or an
 * error. */
int tables_look(struct tables *tables, uint64_t *used_bytes, uint64_t *first_expiry_key);

enum store_read tables_read_finished(const struct tables *tables, MDB_txn *txn, uint64_t expiry_key,
                                     struct bytes *record);
enum store_read tables_read_value(const struct tables *tables, MDB_txn *txn, uint64_t key, enum blob_kind kind,
                                  uint32_t size, uint8_t *out);
/* The largest place of these seconds in use, by a record or a value; 0 where there is none. The cursors are of those
 * tables. Returns 0 or an error. */
int tables_last_expiry_key(MDB_cursor *finished, MDB_cursor *chunks, uint64_t seconds, uint64_t *expiry_key);

/* A chunk's key and what it says; for checking. False: not a key of ours. */
bool tables_chunk_key(const MDB_val *key, uint64_t *owner, unsigned *kind, uint32_t *chunk);
bool tables_chunk_good(const MDB_val *key, const MDB_val *value);

/* Puts a value's chunks; what it had more of before stays. Deletes a value's chunks from the `first` on; kind 0: of
 * every kind. Return 0 or LMDB's error. */
int tables_put_value(const struct tables *tables, MDB_txn *txn, uint64_t owner, unsigned kind, struct bytes data);
int tables_delete_chunks(MDB_cursor *chunks, uint64_t owner, unsigned kind, uint32_t first);
static inline uint32_t tables_chunks_of(uint32_t size)
{
    return (size + TABLES_CHUNK_BYTES - 1) / TABLES_CHUNK_BYTES;
}
/* The key of a chunk. */
enum { TABLES_CHUNK_KEY_BYTES = 12 };
void tables_make_chunk_key(uint8_t key[TABLES_CHUNK_KEY_BYTES], uint64_t owner, unsigned kind, uint32_t chunk);

#endif
