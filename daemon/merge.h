/* What batches come to: for each operation its last state, and the newest of its values. */
#ifndef IDEMD_MERGE_H
#define IDEMD_MERGE_H

#include "daemon/batch.h"

/* What one operation comes to. Views point into the batches. */
struct merged {
    uint64_t life; /* a damaged one that is removed: its place */
    enum store_change_kind kind;
    bool born; /* it began in these batches: the tables have nothing of it */
    uint64_t place, body_place;
    struct bytes record, values[BLOB_KINDS];
};

struct merge {
    uint64_t next_number; /* the tables have what is below */
    struct merged *merged;
    uint32_t count, capacity;
    uint32_t *slots; /* by life: position in merged, and 1 */
    uint32_t slot_mask;
};

/* Good batches, oldest first. Views in `merged` point into them. Returns 0, or EBADMSG where a change does not read. */
int merge_batches(struct merge *merge, const struct bytes *batches, uint32_t count);
void merge_free(struct merge *merge);

#endif
