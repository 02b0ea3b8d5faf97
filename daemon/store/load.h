/* What is in the store, read once at start. */
#ifndef IDEMD_LOAD_H
#define IDEMD_LOAD_H

#include "daemon/store/store.h"
#include "daemon/store/tables.h"

/* store_load, in a transaction that is good for reading. */
bool load_records(const struct tables *tables, MDB_txn *txn, bool accept_loss, const struct store_visitor *visitor,
                  struct failure *error);

#endif
