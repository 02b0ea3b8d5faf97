/* What each namespace has; and what is interrupted, by namespace and name of operation. So a Recover touches only what
 * it grants, an operation that is interrupted only the Recovers that want it, and no namespace can take what all share.
 *
 * A space is a namespace's, or that of one name of operation in a namespace; the latter has only what is interrupted.
 * It is there while anything stands in it: what is finished counts, too. */
#ifndef IDEMD_SPACE_H
#define IDEMD_SPACE_H

#include <stddef.h>

#include "daemon/engine/operation.h"

struct space {
    struct table_entry entry;
    struct space *whole;               /* of one name of operation: its namespace's; else NULL */
    struct operation_list interrupted; /* longest first */
    struct parked_queue recovers;      /* Recovers that wait for just this: any operation, or this name */
    uint32_t running_count, interrupted_count;
    uint32_t names;                  /* of a namespace: how many spaces of names it has, */
    uint32_t waiting;                /* how many calls that wait, and */
    uint64_t finished, stored_bytes; /* how many finished records, and the bytes of all with their values */
    uint8_t namespace_bytes, operation_bytes;
    uint8_t text[]; /* namespace, then name of operation */
};

/* The space of a namespace, or of a name of operation in it where that is not empty; NULL: there is none. */
struct space *space_find(const struct engine *engine, struct bytes namespace, struct bytes operation);
/* The same, made if there is none. It goes with space_let_go unless something was entered. */
struct space *space_get(struct engine *engine, struct bytes namespace, struct bytes operation);
void space_let_go(struct engine *engine, struct space *space);

/* An operation that is RUNNING or INTERRUPTED now by this record, or no longer will be. */
void space_enter(struct engine *engine, struct operation *operation, const struct record *record);
void space_leave(struct engine *engine, struct operation *operation);
/* What is interrupted and cannot be granted now stands last from now on. */
void space_stand_last(struct operation *operation);

/* A record of this namespace was stored in place of another: so many bytes with its values, in place of so many (0:
 * there was none). finished: it is now. */
void space_store(struct engine *engine, struct bytes namespace, uint64_t bytes, uint64_t before, bool finished);
/* A stored record is no more. Only its namespace's hash may be known (record_namespace_hash). */
void space_unstore(struct engine *engine, uint64_t namespace_hash, uint64_t bytes, bool finished);
/* A call of this namespace waits; or no longer. */
struct space *space_add_waiting(struct engine *engine, struct bytes namespace);
void space_remove_waiting(struct engine *engine, struct space *space);

/* Of what is interrupted: which waiting Recover came first; NULL: none wants it. */
struct parked *space_first_recover(const struct operation *operation);
static inline struct space *space_of_recovers(struct parked_queue *queue)
{
    return (struct space *)(void *)((char *)queue - offsetof(struct space, recovers));
}

void space_check(const struct operation *operation);
/* Frees those that are left, when nothing stands in them but what is finished. */
void space_free_all(struct engine *engine);

#endif
