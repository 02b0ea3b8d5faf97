/* A batch: changes as bytes, numbered without a gap. The loop fills it; once it is sealed it never changes, and the
 * store's thread reads nothing else.
 *
 * Layout, little-endian. Header, BATCH_HEADER_BYTES: u32 bytes in all, u32 changes, u64 first and last number (last =
 * first - 1 where there is none), u64 retention, wall and boot time in ms, 16 bytes boot id, u64 sweep until (seconds
 * of the retention clock, 0: no). Then each change: u32 its bytes, u32 kind, u64 number, life, place, body_place, u32
 * record bytes, u32 bytes of each value by kind 1 .. 4 (0xffffffff: none), the record, the values in that order. */
#ifndef IDEMD_BATCH_H
#define IDEMD_BATCH_H

#include "daemon/store.h"

enum { BATCH_HEADER_BYTES = 80 };

/* A batch being filled. */
struct batch {
    struct blob *bytes;
    uint64_t first, next; /* numbers */
    uint32_t changes;
    uint64_t sweep_s;
    bool touched;
};

/* Starts a new one, whose first change is number `next`. */
void batch_start(struct batch *batch, uint64_t next);
void batch_append(struct batch *batch, const struct store_change *change, struct slice values[BLOB_KINDS]);
/* Writes the header. */
void batch_seal(struct batch *batch, const struct clock_mark *mark);

/* What a sealed batch says of itself. */
struct batch_header {
    uint64_t first, last, sweep_s;
    struct clock_mark mark;
    uint32_t changes;
};
void batch_read_header(const uint8_t *data, struct batch_header *header);
/* Reads the change at *offset (start with BATCH_HEADER_BYTES) and moves on. False: the end. Views point into data. */
bool batch_read_change(const uint8_t *data, uint32_t size, uint32_t *offset, struct store_change *change);

#endif
