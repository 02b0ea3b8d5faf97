/* Each record's head is read; the rest of an unfinished one is the engine's to read. */
#include "daemon/load.h"

#include <stdio.h>

#include "daemon/logging.h"

struct loading {
    MDB_txn *txn;
    bool accept_loss;
    const struct store_visitor *visitor;
    struct store_error *error;
};

/* A head that does not read: whose operation it was, nobody knows. */
static bool lose(struct loading *loading, const char *table, uint64_t key)
{
    if (loading->accept_loss) {
        log_event(LOG_ERROR, "lost", "table", table, "key", log_number(key), NULL);
        return true;
    }
    loading->error->exit_code = 65;
    snprintf(loading->error->message, sizeof loading->error->message,
             "store: the head of the record %llu in table %s is damaged, and with it is lost which operation it was; "
             "--accept-loss starts without it",
             (unsigned long long)key, table);
    return false;
}

static bool visit_unfinished(struct loading *loading, uint64_t key, struct bytes record)
{
    struct record head;

    if (record_decode_head(record, &head) != RECORD_GOOD || head.life != key || head.state == RECORD_DONE ||
        record.size > RECORD_BYTES_MAX)
        return lose(loading, "unfinished", key);
    loading->visitor->unfinished(loading->visitor->context, key, record);
    return true;
}

static bool visit_finished(struct loading *loading, uint64_t key, struct bytes record)
{
    struct record head;

    /* At a place before its own end it would be swept too early. */
    if (record_decode_head(record, &head) != RECORD_GOOD || head.state != RECORD_DONE ||
        record.size > RECORD_BYTES_MAX || store_place_seconds(key) * 1000 < head.expires_ms)
        return lose(loading, "finished", key);
    loading->visitor->finished(loading->visitor->context, key, &head);
    return true;
}

static bool load_table(struct loading *loading, MDB_dbi table, bool (*visit)(struct loading *, uint64_t, struct bytes))
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int code = mdb_cursor_open(loading->txn, table, &cursor);
    bool good = true;

    while (code == 0 && good && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        uint64_t number = 0;
        memcpy(&number, key.mv_data, key.mv_size < sizeof number ? key.mv_size : sizeof number);
        good = visit(loading, number, bytes_of(value.mv_data, (uint32_t)value.mv_size));
    }
    mdb_cursor_close(cursor);
    if (good && code != MDB_NOTFOUND) {
        loading->error->exit_code = 65;
        snprintf(loading->error->message, sizeof loading->error->message, "store: a table does not read: %s",
                 mdb_strerror(code));
        return false;
    }
    return good;
}

bool load_records(const struct tables *tables, MDB_txn *txn, bool accept_loss, const struct store_visitor *visitor,
                  struct store_error *error)
{
    struct loading loading = {txn, accept_loss, visitor, error};

    return load_table(&loading, tables->unfinished, visit_unfinished) &&
           load_table(&loading, tables->finished, visit_finished);
}
