/* Bound grants: those whose lease is cut to the grace when their connection goes, and which a connection that replaces
 * it takes over. Both happen to as many as there are, in one step: a holder stands for all grants of a connection, and
 * what happens to all of them is noted in it.
 *
 *      operation --> sheaf --> holder --> party             the connection is there
 *                                 '-----> grace, id         it is gone: a party that replaces it finds it by its id
 *
 * When a party that has a holder takes over another, its sheaves go there, not the operations in them.
 *
 * A client whose Hello was not answered does not know the number of that connection. Its next one names the connection
 * before it, again. So a holder is also found by the id under which it was taken over last, which takes no more memory
 * however many Hellos are lost in a row. A Hello that was lost may be read late, after the one that was sent in its
 * place: it gets nothing from a connection that is younger than its own. */
#ifndef IDEMD_BINDING_H
#define IDEMD_BINDING_H

#include "daemon/engine/operation.h"

struct holder {
    struct deadline grace;    /* first member: gone: when its leases end at the latest; in lease time */
    struct table_entry gone;  /* by the id of its party, once that is gone */
    struct table_entry taken; /* by taken_as, where that is not 0 */
    struct party *party;      /* NULL: it is gone */
    uint64_t id, age;         /* of the party */
    uint64_t taken_as;        /* the id under which the party took it over; 0: it did not */
    uint64_t renewed_ms;      /* lease time at which a party took it over, with full leases; 0: none did */
    struct sheaf *first;
};

struct sheaf {
    struct holder *holder;
    struct sheaf *previous, *next; /* of the same holder */
    struct operation *first;
};

/* Binds a grant to a party; NULL: to none. */
void binding_set(struct engine *engine, struct operation *operation, struct party *party);
/* The party is gone: the leases that are bound to it end within the grace. */
void binding_orphan(struct engine *engine, struct party *party, const struct now *now);
/* `party` gets what is bound to `old`, with full leases. */
void binding_replace(struct engine *engine, struct party *old, struct party *party, const struct now *now);
/* The same of what was bound to a party that is gone, by its id, as long as its grace lasts; and of what an older party
 * took over under that id. */
void binding_adopt(struct engine *engine, uint64_t id, struct party *party, const struct now *now);

/* When the running lease of an operation ends (lease time), all that happened to its holder considered. */
uint64_t binding_lease_end_ms(const struct operation *operation);
/* Of one whose deadline is set. True: it has more time, since its holder was taken over, and the deadline says so now.
 */
bool binding_has_time(struct engine *engine, struct operation *operation);
/* The next grant whose holder's grace is over at lease_time; NULL: there is none. It is to end, or to be bound to none.
 */
struct operation *binding_grace_over(const struct engine *engine, uint64_t lease_time);

void binding_check(const struct operation *operation);

#endif
