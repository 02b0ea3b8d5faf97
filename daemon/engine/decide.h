/* One call's way through the engine: find, rules, change, waiters, reply. The engine's inside; see engine.h. */
#ifndef IDEMD_DECIDE_H
#define IDEMD_DECIDE_H

#include "daemon/engine/operation.h"
#include "daemon/engine/values.h"

/* A call at work, or a parked one that is looked at again. */
struct asker {
    struct party *party;
    uint64_t request;
    const struct call *call;
    uint64_t deadline_ms; /* boot time; UINT64_MAX: never */
    bool parked;          /* it waits already: may_wait leaves it where it is */
};

/* Decides a call that names one operation: answers it, or parks it. */
void decide_call(struct engine *engine, const struct asker *asker, const struct now *now);
/* The state of an operation changed: looks at who waits for it, and for anything interrupted, in their order. The
 * operation may be gone afterwards. */
void decide_waiters(struct engine *engine, struct operation *operation, const struct now *now);
/* A lease has ended. */
void decide_lease_end(struct engine *engine, struct operation *operation, const struct now *now);
/* The end of a wait, or of the patience of the client: the parked call is answered and goes. */
void decide_wait_end(struct engine *engine, struct parked *parked, const struct now *now);

/* Who asks by a parked call. */
struct asker decide_asker(const struct parked *parked);
/* Takes a parked call out, with nothing said. */
void decide_unpark(struct engine *engine, struct parked *parked);
/* Parks a call until `wait_ms` from now or its deadline; queue and operation (NULL: a Recover) say for what. False: one
 * of the limits is reached, and it was answered so. */
bool decide_park(struct engine *engine, const struct asker *asker, struct parked_queue *queue,
                 struct operation *operation, const struct now *now);
/* There is no room for another grant (first: of an absent operation) or checkpoint; the asker was told. */
bool decide_no_room(struct engine *engine, const struct asker *asker, bool first);
/* Is the asker's connection still there to be granted anything? */
bool decide_alive(struct engine *engine, const struct asker *asker);

void decide_reply(struct engine *engine, const struct asker *asker, const struct reply *reply);
void decide_refuse(struct engine *engine, const struct asker *asker, enum code code, const char *reason,
                   const char *field, const char *message);
/* What a reply tells of an operation: with the values fetched before. */
struct reply_operation decide_describe(struct engine *engine, const struct lookup *found, const struct values *values,
                                       const struct now *now);

/* listing.c: calls about many operations. */
void listing_recover(struct engine *engine, const struct asker *asker, const struct now *now);
/* Gives what was just interrupted to the Recovers that wait, first come, first served. */
void listing_serve_recovers(struct engine *engine, struct operation *operation, const struct now *now);
/* A parked Recover has waited for as long as it said: it is answered. */
void listing_recover_ended(struct engine *engine, const struct asker *asker, const struct now *now);
void listing_list(struct engine *engine, const struct asker *asker, const struct now *now);

#endif
