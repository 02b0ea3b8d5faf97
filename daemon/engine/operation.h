/* An operation in memory: from its Begin until its finished record can be read from the store. Everything that moves an
 * operation between the engine's lists is here; whose turn it is, is engine.c. */
#ifndef IDEMD_OPERATION_H
#define IDEMD_OPERATION_H

#include "daemon/base/deadline.h"
#include "daemon/engine/engine.h"
#include "daemon/base/index.h"
#include "daemon/engine/generations.h"
#include "daemon/engine/parked.h"
#include "daemon/base/table.h"

struct space;
struct holder;
struct sheaf;

/* A doubly linked list through one of an operation's links. */
struct operation_link {
    struct operation *previous, *next;
};
struct operation_list {
    struct operation *first, *last;
};

/* Defines link##_append and link##_remove: the lists differ only in which link they go through. */
#define LIST_FUNCTIONS(link)                                                                                           \
    static void link##_append(struct operation_list *list, struct operation *operation)                                \
    {                                                                                                                  \
        operation->link = (struct operation_link){.previous = list->last};                                             \
        if (list->last)                                                                                                \
            list->last->link.next = operation;                                                                         \
        else                                                                                                           \
            list->first = operation;                                                                                   \
        list->last = operation;                                                                                        \
    }                                                                                                                  \
    static void link##_remove(struct operation_list *list, struct operation *operation)                                \
    {                                                                                                                  \
        if (operation->link.previous)                                                                                  \
            operation->link.previous->link.next = operation->link.next;                                                \
        else                                                                                                           \
            list->first = operation->link.next;                                                                        \
        if (operation->link.next)                                                                                      \
            operation->link.next->link.previous = operation->link.previous;                                            \
        else                                                                                                           \
            list->last = operation->link.previous;                                                                     \
        operation->link = (struct operation_link){0};                                                                  \
    }

/* Which list of the engine an operation stands in: where its last change is. */
enum operation_stage {
    STAGE_APPLIED, /* in the store's tables: in no list */
    STAGE_OPEN,    /* in the open batch */
    STAGE_FLIGHT,  /* in the batch in flight */
    STAGE_BACKLOG, /* flushed, and not in the tables yet; by revision */
    STAGES,
};

struct operation {
    struct deadline lease; /* first member: in lease time (boot time less stalls); set while RUNNING and handed out */
    uint64_t hash;
    uint64_t generation;
    uint64_t revision;
    uint64_t expiry_key; /* DONE: where its record goes */
    uint8_t *record;     /* encoded; NULL while absent */
    uint16_t record_bytes;
    uint8_t state;      /* enum record_state; ABSENT only while its waiters are served */
    bool damaged;       /* its stored record does not read: DATA_LOSS */
    bool lease_pending; /* the lease runs from when the batch it is in is flushed */
    bool recovered;     /* RUNNING or INTERRUPTED by a grant of Recover */
    uint8_t stage;      /* enum operation_stage: how far its last change has got */
    uint32_t replays;
    uint32_t lease_ms;  /* of its record */
    struct slice input; /* where they are until they are applied; blob NULL: in the store, or none */
    struct slice value; /* the checkpoint's data, or DONE: attributes and body */
    struct parked_queue waiters;
    struct operation_link batch; /* those of the same stage */
    struct sheaf *sheaf;         /* RUNNING: bound to the party that this is of, or was */
    union {
        struct operation_link bound;       /* RUNNING: those of the same sheaf */
        struct operation_link interrupted; /* INTERRUPTED: those of its namespace */
    };
    struct operation_link named;        /* INTERRUPTED: those of its namespace and name */
    struct space *space;                /* RUNNING: its namespace's; INTERRUPTED: its name's, where it has one */
    struct table_entry recovered_entry; /* recovered: by namespace and attempt id */
};

enum { REPLAYS_KEPT = 4096, LATE = 16 };

struct engine {
    struct engine_options options;
    const struct policy *policy;
    struct store *store;
    uint8_t secret[RECORD_SECRET_BYTES];
    struct index *index;
    struct generations generations;
    struct deadlines leases;         /* in lease time */
    struct deadlines waits;          /* in boot time */
    uint64_t stalled_ms;             /* all stalls so far: lease time is boot time less this */
    uint64_t applied;                /* newest number that the store's records show */
    const struct store_swept *swept; /* to be taken from the index, after what is applied is in it */
    uint32_t swept_count;
    struct operation_list stages[STAGES];
    struct table gone;        /* holders whose party is gone, by its id */
    struct table taken;       /* holders that were taken over, by the id under which they were */
    struct deadlines graces;  /* when what is bound to them ends; in lease time */
    struct table spaces;      /* by namespace, and by namespace and name of operation */
    struct space *last_space; /* a namespace's: that an operation entered, where it is still there */
    struct blob *scratch;     /* for the values of one answer, where nobody kept it */
    uint8_t *retired;         /* the record of the last operation that changed, as it was */
    struct table recovered;   /* grants of Recover, by namespace and attempt id */
    struct {
        uint64_t expiry_key;
        uint64_t replays;
    } replays[REPLAYS_KEPT];
    struct late {
        uint64_t hash, expiry_key;
    } late[LATE]; /* loaded, and not in the index yet */
    struct prefetched {
        uint64_t expiry_key;
        struct bytes record;
        enum store_read read;
    } prefetched[PREFETCH_MAX]; /* read ahead; good until the store's turn ends */
    unsigned prefetched_count;
    uint32_t largest_bytes; /* of the values of one finished operation, as they were at the start */
    uint64_t running, interrupted, finished, waiting, waiting_bytes, record_bytes, space_bytes;
    uint64_t stored_bytes;  /* of all records with their values */
    uint64_t parked;        /* calls so far: what numbers them */
    uint64_t committed_ms;  /* boot time of the last batch handed over */
    bool called;            /* since then */
    uint32_t changes;       /* in this turn */
    uint64_t lease_ends_ms; /* boot time: while the tail is large, when leases end again */
    uint32_t looks;         /* operations that Lists may still look at in this turn */
};

/* An index entry of an operation in memory is its address with the highest bit set: places of the store never have it.
 */
#define OPERATION_IN_MEMORY (1ull << 63)

static inline uint64_t operation_entry(const struct operation *operation)
{
    return OPERATION_IN_MEMORY | (uint64_t)(uintptr_t)operation;
}

static inline bool operation_is_entry(uint64_t entry)
{
    return entry & OPERATION_IN_MEMORY;
}

static inline struct operation *operation_at_entry(uint64_t entry)
{
    return (struct operation *)(uintptr_t)(entry & ~OPERATION_IN_MEMORY);
}

/* Where a call found its operation. */
struct lookup {
    struct operation *operation; /* in memory, or NULL */
    uint64_t expiry_key;         /* in the store, or 0 */
    uint64_t stored_bytes;       /* in the store: of the record and its values */
    bool there;                  /* record is filled */
    bool damaged;                /* it exists and does not read; life and place of `record` are filled */
    struct record record;
};
/* Looks a call's operation up. What has expired is not there. Views in found->record are valid until the operation is
 * changed or the turn ends. */
void operation_find(struct engine *engine, const struct identity *id, uint64_t hash, const struct now *now,
                    struct lookup *found);
/* Brings what operation_find of these hashes will look at into the cache; at most PREFETCH_MAX. */
void operation_prefetch(struct engine *engine, const uint64_t *hashes, unsigned count);
/* Unpacks the record of an operation in memory, which is there and not damaged. */
void operation_read(const struct operation *operation, struct record *record);

/* Makes an operation in memory out of a record from the store, at start. */
struct operation *operation_load(struct engine *engine, uint64_t generation, struct bytes record);
/* Enters it into the lists of its state; in order of revision, since what is interrupted is kept in order. */
void operation_enter_loaded(struct engine *engine, struct operation *operation);
/* Carries a decision out: stores it, and moves the operation where its new state belongs. `operation` NULL: a new one
 * is made. Returns it, or NULL where what was removed was only in the store. What is put is decision->next, whose views
 * are good until the next change. */
struct operation *operation_change(struct engine *engine, struct lookup *found, const struct call *call,
                                   struct decision *decision);
/* Removes what does not read. */
void operation_remove_damaged(struct engine *engine, struct lookup *found, const struct call *call);
/* An absent operation without waiters goes. */
void operation_free_absent(struct engine *engine, struct operation *operation);
/* Gives its memory back and leaves no list: for closing the engine. */
void operation_discard(struct operation *operation);

/* The lease starts, or starts anew, at `now`: now or when its batch is flushed. Never nearer than before. */
void operation_lease_anew(struct engine *engine, struct operation *operation, uint32_t lease_ms, const struct now *now);
uint32_t operation_lease_left_ms(const struct engine *engine, const struct operation *operation, uint32_t lease_ms,
                                 const struct now *now);

/* The open batch was handed over; what was in flight is flushed. */
void operation_batch_submitted(struct engine *engine);
void operation_batch_durable(struct engine *engine, const struct now *now);
/* Goes on with what is applied, at most `most` operations: those that are done are in the index from then on, and no
 * more in memory. False: there is nothing left to do. */
bool operation_evict(struct engine *engine, uint32_t most);
/* Does the index say that this record is what there is of its operation? Not where it was removed, and that is not
 * applied yet. */
bool operation_is_at(const struct engine *engine, uint64_t hash, uint64_t expiry_key);

/* One more replay of what was found; returns how many there were since the start, where known. */
uint64_t operation_count_replay(struct engine *engine, const struct lookup *found);
uint64_t operation_replays(struct engine *engine, const struct lookup *found);

/* Of a namespace, and of a name in it where that is not empty. Nobody outside can tell which names share one. */
uint32_t operation_hash(const struct engine *engine, struct bytes namespace, struct bytes name);
/* Goes through what may be grants of Recover with this attempt id in this namespace: `after` NULL gives the first. At
 * most as many as one Recover grants are, and a few others. */
struct operation *operation_recovered(const struct engine *engine, struct bytes namespace, struct bytes attempt_id,
                                      const struct operation *after);
static inline uint64_t operation_lease_time(const struct engine *engine, const struct now *now)
{
    return now->boot_ms - engine->stalled_ms;
}

void operation_check(const struct engine *engine, const struct operation *operation);

#endif
