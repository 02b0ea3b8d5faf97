/* The commit log: what an OK waits for. Batches, one after the other, in files beside the tables.
 *
 *     DIR/store/log.0, log.1, ...      slots: files that are made once, written full, and used again and again
 *     a segment                        one use of a slot; segments are numbered without end
 *
 * A batch is written with one write and one flush, at the next multiple of BATCH_ALIGN_BYTES, and only after the flush
 * of the one before it has returned. When a slot is full the log goes on in a free one. A slot is free when all its
 * batches are applied to the tables, and that is flushed. Slots do not grow while the log is used, so a disk that is
 * full does not stop it: one slot at least has room for the largest change, and no batch is larger than that slot.
 *
 * Recovery reads every slot. A slot that the tables know of begins with a head of this store (slot.h): one that is
 * missing, shorter than it was made, zeroed, or of another store is damage. What is not applied yet has to be one chain
 * of batches without a gap, from the first change after the applied one on. What does not read counts as never written
 * if nothing follows it, since that is how a power cut leaves a batch whose flush had not returned, and nobody was told
 * of it. If something does follow, it is damage: what was acknowledged is lost then, and the store does not open. A bit
 * that flips in the very last batch cannot be told from a torn one.
 *
 * A torn batch may read whole later. Then what a newer segment has under its numbers counts. So no two segments have
 * the same number, although the number of one whose first batch is torn cannot be read: the tables know the newest
 * segment as of their last commit, and each start goes on two above what it finds, in a segment of its own. Recovery
 * itself writes nothing.
 *
 * Threads: wal_append is the writing thread's, wal_prepare and wal_add_slot the applying thread's, at the same time;
 * wal_has_room, wal_batch_bytes_max, wal_segment, wal_wants_slot, wal_applied, wal_slots and wal_bytes are anybody's.
 * The rest is called while there are no threads. */
#ifndef IDEMD_WAL_H
#define IDEMD_WAL_H

#include "daemon/store/disk.h"
#include "daemon/store/store.h"

struct wal;

enum {
    WAL_SLOT_BYTES_FIRST = 1024 * 1024,
    WAL_SLOT_BYTES_MAX = 16 * 1024 * 1024, /* each slot is twice the one before, up to this */
    WAL_SLOTS_MAX = 8, /* 1 + 2 + 4 + 8 + 4 * 16 MiB, or more if a change may be large: what may be not applied. Then
                          the store waits */
};

struct wal_options {
    const struct disk *disk;
    const char *directory;     /* DIR/store, for what is said of it */
    int folder;                /* the same, open for as long as the log is */
    const uint8_t *secret;     /* RECORD_SECRET_BYTES; copied */
    uint64_t applied;          /* number of the last change that the tables have */
    uint64_t segment;          /* the newest one that they know of */
    uint32_t slots;            /* how many they know of: a missing one is damage */
    uint64_t change_bytes_max; /* what one change takes in a batch at most: there is a slot that has room for it */
    bool accept_loss;          /* go on where changes are missing, with a line in the log of events for each gap */
};

/* Makes the first slot of a new store, in an open directory. Returns 0 or an errno. */
int wal_make(const struct disk *disk, int folder, const uint8_t *secret, uint64_t change_bytes_max);

/* Opens the slots and reads them. NULL: *error, 65 where something is lost. */
struct wal *wal_open(const struct wal_options *options, struct failure *error);
void wal_close(struct wal *wal); /* NULL is fine */

/* What is to be applied, oldest first: batch n, 0 .. wal_found - 1. Valid until wal_start. */
uint32_t wal_found(const struct wal *wal);
struct bytes wal_batch(const struct wal *wal, uint32_t n);
/* A missing or damaged slot was accepted: it may have held higher numbers than any that was found. */
bool wal_lost(const struct wal *wal);
/* Everything found is applied and flushed: all slots are free, the log goes on in a new segment, of which the tables
 * have to know before the first batch (wal_segment). Returns 0 or an errno; ENOSPC: there is no room for the largest
 * change. */
int wal_start(struct wal *wal);
/* The newest segment; before wal_start the one that it will go on in. */
uint64_t wal_segment(struct wal *wal);

/* Signs a copy of a sealed batch, writes and flushes it. Needs room. Returns 0 or an errno: then nothing may be assumed
 * of it, and the log may be used no more. */
int wal_append(struct wal *wal, const uint8_t *batch);
/* Is there room for a batch that takes so many bytes, padding included? */
bool wal_has_room(struct wal *wal, uint64_t padded_bytes);
/* The largest batch that there can be room for: there is, once everything before it is applied. At least as large as
 * the largest change asks for; it becomes larger when a slot is added. */
uint64_t wal_batch_bytes_max(struct wal *wal);
/* Every change up to `number` is in the tables, flushed. */
void wal_applied(struct wal *wal, uint64_t number);

/* It would be good to have another slot soon. */
bool wal_wants_slot(struct wal *wal);
/* Makes one, which counts once wal_add_slot was called: the tables have to know of it first. Returns 0 or an errno
 * (ENOSPC: the disk is full, and the log goes on with what it has). */
int wal_prepare(struct wal *wal);
void wal_add_slot(struct wal *wal);
/* How many there are, one that was prepared included. */
uint32_t wal_slots(struct wal *wal);
/* The path of a slot, which need not be there. */
enum { WAL_PATH_BYTES = 4096 + 32 };
void wal_slot_path(const struct wal *wal, uint32_t slot, char path[WAL_PATH_BYTES]);
/* The slot of the batch that was written last, or is being written. */
uint32_t wal_current(struct wal *wal);
/* Bytes on the disk. */
uint64_t wal_bytes(struct wal *wal);

#endif
