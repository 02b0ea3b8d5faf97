/* The store: batches of changes made durable one after the other, and the records they left behind.
 *
 *      engine --append--> open batch --submit--> log: one write, one flush --> poll: durable
 *                                                  '--> tail --apply--> tables: one commit for many batches --> poll:
 * applied
 *
 * A batch is immutable bytes once it is submitted. One batch is in flight at a time while the loop fills the next
 * (group commit). What is in the log and not in the tables yet is the tail; it stays in memory, and is applied when it
 * has grown or is old enough: of what begins and finishes within the tail the tables see one record. In a batch a
 * record has only what is not in the record before it of its operation (batch.h), so each batch is applied once, in
 * order: the tables say, in the same commit, up to which number they are. A failed flush or commit is never tried
 * again: the store says so once, through poll, and the daemon stops (74), since what failed may yet be on the disk.
 *
 * Four LMDB tables: `finished` (place -> record, ordered by when it goes), `unfinished` (life -> record), `chunks`
 * ((place or life, kind, chunk) -> at most 4,080 bytes with their checksum) and `meta`.
 *
 * A place is 64 bits: seconds of the retention clock at which it may be swept, 34 bits, then a count, 30 bits. A life
 * is a number below 2^53, so that lives sort before all places of this century.
 *
 * All functions are for the loop thread. The store's two threads, one for the log and one for the tables, share nothing
 * with it but the batches they were given. */
#ifndef IDEMD_STORE_H
#define IDEMD_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/bytes.h"
#include "daemon/base/clock.h"
#include "daemon/base/failure.h"
#include "daemon/record/record.h"

struct store;
struct disk;

struct store_options {
    const char *directory;
    uint64_t quota_bytes;        /* of LMDB pages in use */
    uint64_t values_bytes_max;   /* what the values of one change have together at most */
    bool accept_loss;            /* start without what cannot be read, one log line for each */
    const struct disk *disk;     /* of the log; NULL: the system's */
    void (*wake)(void *context); /* called on the store's threads: there is something to poll */
    void *wake_context;
};

/* Opens DIR, making it and the store in it where DIR is absent or empty; not (71) while the wall clock is not set,
 * since numbers that start too low would bring fences of an earlier store back. Takes the lock first. NULL: *error says
 * why.
 */
struct store *store_open(const struct store_options *options, struct failure *error);
/* Waits for the batch in flight, drops the open one, applies the tail, gives the lock back. NULL is fine. */
void store_close(struct store *store);

struct store_facts {
    uint64_t store_id;                   /* random, new with every new store */
    uint8_t secret[RECORD_SECRET_BYTES]; /* of the identity hashes */
    struct clock_mark mark;              /* as of the last commit; of now in a new store */
    struct clock_past past;              /* up to that mark */
};
const struct store_facts *store_facts(const struct store *store);

/* Goes once, after open, through everything there is. `unfinished` gets each record with its life (also one whose rest
 * is bad); `finished` gets each head with its place, the namespace that the record
 * says it has (record_namespace), and how many bytes it takes. A bad head, one at a place that is not its own, or a
 * table that does not read whole ends the load: false and *error (65). With accept_loss each is logged, and what can be
 * read is: of a table from both its ends to where it breaks. Where a table's end itself is bad that does not help (65).
 */
struct store_visitor {
    void (*unfinished)(void *context, uint64_t generation, struct bytes record);
    void (*finished)(void *context, uint64_t expiry_key, const struct record *head, uint32_t record_bytes);
    void *context;
};
/* How many records that will be. */
uint64_t store_records(struct store *store);
bool store_load(struct store *store, const struct store_visitor *visitor, struct failure *error);

/* ---- Changing ---- */

enum store_change_kind {
    STORE_PUT_UNFINISHED = 1, /* the record under its life; values given replace those of their kind */
    STORE_FINISH = 2,         /* the record under its place with its values; what was under its life goes */
    STORE_REMOVE_UNFINISHED = 3,
    STORE_REMOVE_FINISHED = 4,
    STORE_TOUCH = 5, /* nothing changes, but the clocks are stored: store_touch */
};

struct store_change {
    enum store_change_kind kind;
    uint64_t number; /* store_next_number() */
    uint64_t generation;
    uint64_t expiry_key;             /* FINISH, REMOVE_FINISHED */
    uint64_t body_expiry_key;        /* of the BODY blob where it is not `place`; else 0 */
    struct bytes record;             /* the PUTs and FINISH */
    struct bytes base;               /* the record of the change before, where that is of the same life; else empty */
    struct bytes values[BLOB_KINDS]; /* by enum blob_kind; data NULL: none given. At most 16 MiB + 16 each */
};

/* The number the next change will have. */
uint64_t store_next_number(const struct store *store);
/* The number of the newest change given out, and the newest that is flushed. */
uint64_t store_newest_number(const struct store *store);
uint64_t store_durable_number(const struct store *store);

/* Copies a change into the open batch. `values` (by kind, may be NULL) gets where the values given now lie; ATTRIBUTES
 * and BODY lie one right after the other. A slice is valid as long as its holder holds the blob. */
void store_append(struct store *store, const struct store_change *change, struct slice values[BLOB_KINDS]);
/* Asks for a flush though nothing was changed: keeps the retention clock. */
void store_touch(struct store *store);

/* A batch is in flight. */
bool store_busy(const struct store *store);
/* Something waits in the open batch. */
bool store_pending(const struct store *store);
/* The open batch may be handed over: none is in flight, and the log has room. It gets room when more is applied. */
bool store_ready(const struct store *store);
/* Bytes in the open batch and in flight: over its limit the daemon reads slower. */
size_t store_unflushed_bytes(const struct store *store);
/* Hands the open batch over, with where the clocks stand. Only when pending and ready. A small one may be durable at
 * once: poll after it. */
void store_submit(struct store *store, const struct clock_mark *mark);

/* The thread that applies is at work. */
bool store_applying(const struct store *store);
/* Lets it begin when there is enough to do: the tail has grown or is old, the log runs out of room, or something is to
 * be swept (one slice of what may go at sweep_s of the retention clock or before; 0: nothing). Not while applying.
 * Returns when (boot time) it wants to be asked again; UINT64_MAX: no need. */
uint64_t store_apply(struct store *store, uint64_t sweep_s, uint64_t boot_ms);

struct store_swept {
    uint64_t hash, expiry_key;
    uint64_t namespace_hash; /* record_namespace_hash, of what record_namespace says */
    uint64_t bytes;          /* of the record and its values */
};
struct store_event {
    bool failed; /* nothing else counts; message says what. Stop. */
    char message[512];
    uint64_t durable;                /* every change up to this number is flushed */
    uint64_t applied;                /* and up to this one can be read by store_read */
    const struct store_swept *swept; /* finished records that are no more; valid until store_apply begins again */
    uint32_t swept_count;
    /* How long what ended took. 0: nothing of the kind ended. */
    uint64_t queue_ns; /* from the batch's first change until it was handed over */
    uint64_t flush_ns; /* writing and flushing it */
    uint64_t apply_ns; /* bringing what was flushed into the tables, sweeping included */
};
/* Takes what the store's threads have to say. False: nothing new. Cheap. */
bool store_poll(struct store *store, struct store_event *event);

/* A new key for something that is over at expires_ms (retention clock) after it was to be kept keep_ms: see
 * expiry_keys.h. */
uint64_t store_expiry_key(struct store *store, uint64_t expires_ms, uint64_t keep_ms);
static inline uint64_t expiry_key_seconds(uint64_t expiry_key)
{
    return expiry_key >> 30;
}
/* The first place there is, as of the last batch applied; 0 where there is none. */
uint64_t store_first_expiry_key(const struct store *store);

/* ---- Reading: a snapshot as of the last poll that said `applied`, taken at the first read of a turn ---- */

enum store_read { STORE_FOUND, STORE_MISSING, STORE_DAMAGED };

/* *record points into the map, until store_end_turn. Not checked: record_decode does. */
enum store_read store_read_finished(struct store *store, uint64_t expiry_key, struct bytes *record);
/* Reads a value of exactly `size` bytes to `out`. key is a place or a life. */
enum store_read store_read_value(struct store *store, uint64_t key, enum blob_kind kind, uint32_t size, uint8_t *out);
/* Visits finished records from `place` on, in order, until `visit` returns false or `records_max` were seen. Returns
 * the place to go on from - the one at which it stopped, which counts as not visited - or 0 at the end. */
uint64_t store_list_finished(struct store *store, uint64_t expiry_key, uint32_t records_max,
                             bool (*visit)(void *context, uint64_t expiry_key, struct bytes record), void *context);
/* Lets the snapshot go. Called at the end of every turn, before the loop waits. */
void store_end_turn(struct store *store);

struct store_space {
    uint64_t used_bytes; /* of the tables: pages in use, exact */
    uint64_t
        needed_bytes; /* the same, with what is kept for the unfinished, for what is to be applied, and in reserve */
    uint64_t unfinished_bytes; /* what is kept for each unfinished operation */

    uint64_t quota_bytes;
    bool full; /* with `unfinished` operations there is no room for another grant or checkpoint */
};
struct store_space store_space(const struct store *store, uint64_t unfinished);
/* On a full disk the store goes on with what it has kept allocated. Is there enough for an outcome of so many bytes?
 * True while the disk has room. */
bool store_takes(const struct store *store, uint64_t values_bytes);
/* Bytes of the log's files; of the tail. */
uint64_t store_wal_bytes(const struct store *store);
uint64_t store_backlog_bytes(const struct store *store);

#endif
