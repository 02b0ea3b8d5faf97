/* The commit log: what an OK waits for. Batches, one after the other, in files beside the tables.
 *
 *     DIR/store/log.0, log.1, ...      slots: files that are made once, written full, and used again and again
 *     a segment                        one use of a slot; segments are numbered without end
 *
 * A batch is written with one write and one flush, at the next multiple of BATCH_ALIGN_BYTES, and only after the flush
 * of the one before it has returned. When a slot is full the log goes on in a free one. A slot is free when all its
 * batches are applied to the tables, and that is flushed.
 *
 * Recovery reads every slot. What is not applied yet has to be one chain of batches without a gap, from the first
 * change after the applied one on. What does not read counts as never written where nothing follows it - that is how a
 * power cut leaves a batch whose flush had not returned, so nobody was told of it - and as damage where something does:
 * what was acknowledged is lost then, and the store does not open. A bit that flips in the very last batch cannot be
 * told from a torn one; should one that was torn read whole later, what a newer segment has under its numbers counts.
 * Recovery writes nothing; afterwards the log goes on in a segment of its own, never in an old
 * one.
 *
 * Threads: log_append is the writing thread's, log_prepare and log_add_slot the applying thread's, at the same time;
 * log_has_room, log_wants_slot, log_applied, log_slots and log_bytes are anybody's. The rest is called while there are
 * no threads. */
#ifndef IDEMD_LOG_H
#define IDEMD_LOG_H

#include "daemon/disk.h"
#include "daemon/store.h"

struct log;

enum {
    LOG_SLOT_BYTES_FIRST = 1024 * 1024,
    LOG_SLOT_BYTES_MAX = 16 * 1024 * 1024, /* each slot is twice the one before, up to this */
    LOG_SLOTS_MAX = 8, /* 1 + 2 + 4 + 8 + 4 * 16 MiB: what may be not applied. Then the store waits */
};

struct log_options {
    const struct disk *disk;
    const char *directory; /* DIR/store */
    const uint8_t *secret; /* RECORD_SECRET_BYTES; copied */
    uint64_t applied;      /* number of the last change that the tables have */
    uint32_t slots;        /* how many the tables know of: a missing one is damage */
    bool accept_loss;      /* go on where changes are missing, with a line in the log of events for each gap */
};

/* Makes the first slot of a new store. Returns 0 or an errno. */
int log_make(const struct disk *disk, const char *directory);

/* Opens the slots and reads them. NULL: *error, 65 where something is lost. */
struct log *log_open(const struct log_options *options, struct store_error *error);
void log_close(struct log *log); /* NULL is fine */

/* What is to be applied, oldest first: batch n, 0 .. log_found - 1. Valid until log_start. */
uint32_t log_found(const struct log *log);
struct bytes log_batch(const struct log *log, uint32_t n);
/* A missing slot was accepted: it may have held higher numbers than any that was found. */
bool log_lost(const struct log *log);
/* Everything found is applied and flushed: all slots are free, the log goes on in a new segment. Returns 0 or an errno.
 */
int log_start(struct log *log);

/* Signs a copy of a sealed batch, writes and flushes it. Needs room. Returns 0 or an errno: then nothing may be assumed
 * of it, and the log may be used no more. */
int log_append(struct log *log, const uint8_t *batch);
/* Is there room for a batch that takes so many bytes, padding included? */
bool log_has_room(struct log *log, uint64_t padded_bytes);
/* Every change up to `number` is in the tables, flushed. */
void log_applied(struct log *log, uint64_t number);

/* It would be good to have another slot soon. */
bool log_wants_slot(struct log *log);
/* Makes one, which counts once log_add_slot was called: the tables have to know of it first. Slots that grew are cut
 * back. Returns 0 or an errno (ENOSPC: the disk is full, and the log goes on with what it has). */
int log_prepare(struct log *log);
void log_add_slot(struct log *log);
/* How many there are, one that was prepared included. */
uint32_t log_slots(struct log *log);
/* Bytes on the disk. */
uint64_t log_bytes(struct log *log);

#endif
