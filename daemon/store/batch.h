/* A batch: changes as bytes, numbered without a gap; the unit of the commit log. The loop fills it; once it is sealed
 * it never changes, and the store's threads read nothing else.
 *
 * Format, little-endian. Header, BATCH_HEADER_BYTES:
 *      0  u64  XXH3-64 over bytes 8 .. 95, under the store's secret
 *      8  u64  XXH3-64 over bytes 96 .. end of the batch, under the store's secret
 *     16  u32  "idb2"; these four bytes and the checksum before stay where they are in every version
 *     20  u32  bytes of the batch, header included
 *     24  u32  changes
 *     28  u32  0
 *     32  u64  number of its segment, 40 u64 its offset there: a batch at another place than its own does not read
 *     48  u64  number of its first change; the others' follow without a gap
 *     56  u64  retention clock, 64 u64 wall clock, 72 u64 boot clock, in ms; 80 16 bytes boot id
 * Then each change; v is a varint, d a varint of the zigzag of what the number is more than the one before of its sort
 * in this batch (before the first: 0):
 *     u8 kind (3 bits), which values are given (4 bits, by kind 1 .. 4), no life (1 bit)
 *     v number - life, where there is one
 *     of FINISH and REMOVE_FINISHED: d place, v body_expiry_key
 *     of PUT_UNFINISHED and FINISH, the record: v values_bytes * 4 + state, of FINISH d expires_ms, u64 hash, where
 *         number - life is not 0 v shared, where shared is not 0 u32 checksum, v own bytes
 *     v bytes of each value given
 *     the record's own bytes, the values in order.
 * On the disk a batch is padded with zeros to a multiple of BATCH_ALIGN_BYTES, so that no sector that was flushed is
 * written again. The padding belongs to no checksum.
 *
 * Why a record is not whole: each byte here is flushed before somebody hears OK, and a finished record begins with what
 * its unfinished one said: who, what, and since when. So it has the bytes that are its own, and how many it shares with
 * its base: the record that the change before of the same life had, earlier in the log or in the tables. The head's
 * checksums and life are reckoned again. What remains of the head is what is needed where the base is lost: the hash
 * and the end, so that the operation is known to be damaged, and does not look absent. The checksum of the whole rest
 * says whether a base is the right one: no record is made from a wrong one unnoticed.
 *
 * The secret is in the checksums so that nobody can store bytes that look like a batch. */
#ifndef IDEMD_BATCH_H
#define IDEMD_BATCH_H

#include "daemon/store/store.h"

enum {
    BATCH_HEADER_BYTES = 96,
    BATCH_ALIGN_BYTES = 4096,
    BATCH_CHANGE_BYTES_MAX = RECORD_BYTES_MAX + 256, /* what a change takes at most, beside its values */
};

/* A batch being filled. */
struct batch {
    struct blob *bytes;
    uint64_t first, next;            /* numbers */
    uint64_t expiry_key, expires_ms; /* the last one's */
};

/* Starts a new one, whose first change is number `next`. Takes `bytes`, which nobody else has a reference to, to fill
 * them anew; NULL: makes some. */
void batch_start(struct batch *batch, uint64_t next, struct blob *bytes);
/* What a change takes at most. */
static inline uint64_t batch_change_bytes_most(const struct store_change *change)
{
    uint64_t bytes = BATCH_CHANGE_BYTES_MAX;

    for (int kind = 1; kind < BLOB_KINDS; kind++)
        bytes += change->values[kind].size;
    return bytes;
}
/* Of the record only what is not in its base. */
void batch_append(struct batch *batch, const struct store_change *change, struct slice values[BLOB_KINDS]);
/* Writes the header, all but place and checksums, and pads. Needs a change. */
void batch_seal(struct batch *batch, const struct clock_mark *mark);
/* What it takes in the log. */
static inline uint64_t batch_padded_bytes(uint64_t bytes)
{
    return (bytes + BATCH_ALIGN_BYTES - 1) / BATCH_ALIGN_BYTES * BATCH_ALIGN_BYTES;
}
/* Finishes the header of a sealed batch: where it goes, and the checksums. Any thread. */
void batch_sign(uint8_t *data, uint64_t segment, uint64_t offset, const uint8_t secret[RECORD_SECRET_BYTES]);

/* What a batch says of itself. */
struct batch_header {
    uint64_t first, last;
    uint64_t segment, offset;
    struct clock_mark mark;
    uint32_t bytes;
};
/* Of a batch that is good. */
void batch_read_header(const uint8_t *data, struct batch_header *header);
/* Is there a whole, good batch in the first of `size` bytes? */
bool batch_good(const uint8_t *data, uint64_t size, const uint8_t secret[RECORD_SECRET_BYTES]);

/* Are these the first `size` bytes of a batch of this store in the format of another version? Then its digit is set. */
bool batch_of_other_version(const uint8_t *data, uint64_t size, const uint8_t secret[RECORD_SECRET_BYTES],
                            char *version);

/* A change as a batch has it. */
struct batch_change {
    struct store_change is;     /* without record and base */
    struct record_delta record; /* the PUTs and FINISH */
};
/* Goes through the changes of a good batch. Views point into it. */
struct batch_reader {
    const uint8_t *at, *end;
    uint64_t number, last;
    uint64_t expiry_key, expires_ms; /* the last one's */
    bool bad; /* a change that does not read, or not as many as the header says: another program made the batch */
};
void batch_read(const uint8_t *data, struct batch_reader *reader);
/* False: the end, or bad. */
bool batch_next(struct batch_reader *reader, struct batch_change *change);

#endif
