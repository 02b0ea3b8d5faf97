/* What batches come to: for each operation its last state, and the newest of its values. A record in a batch is not
 * whole (batch.h): its base is in an earlier one of the batches, or under its life in the tables as they are before
 * them. A base that is not there, or is not the one, is the loss of that one operation, and of nothing else: it is
 * written all the same, as a record whose rest does not read, so that who asks for it is told DATA_LOSS. */
#ifndef IDEMD_MERGE_H
#define IDEMD_MERGE_H

#include "daemon/store/tables.h"

/* What one operation comes to. Views point into the batches. */
struct merged {
    uint64_t generation; /* a damaged one that is removed: its place */
    enum store_change_kind kind;
    bool born; /* it began in these batches: the tables have nothing of it */
    uint64_t expiry_key, body_expiry_key;
    struct record_delta record; /* PUT_UNFINISHED, FINISH */
    const uint8_t *base;        /* the bytes that it shares */
    struct bytes values[BLOB_KINDS];
};

/* Bytes of a base that had to be copied. */
struct merge_copy;

struct merge {
    const struct tables *tables;
    MDB_txn *txn;         /* in which the bases are that the batches do not have */
    uint64_t next_number; /* the tables have what is below, and nothing else */
    struct merged *merged;
    uint32_t count, capacity;
    uint32_t *slots; /* by life: position in merged, and 1 */
    uint32_t slot_mask;
    struct merge_copy *copies;
};

/* Good batches, oldest first. Views in `merged` point into them. Returns 0; EBADMSG where a change does not read, or is
 * in the tables already: once more would be on a newer base than it was made for; or LMDB's error. */
int merge_batches(struct merge *merge, const struct bytes *batches, uint32_t count);
/* The record whole, as the tables have it; returns its bytes. False in *good: its base is lost, and it does not read.
 */
uint32_t merge_record(const struct merged *merged, uint8_t out[RECORD_BYTES_MAX], bool *good);
void merge_free(struct merge *merge);

#endif
