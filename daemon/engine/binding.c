/* See binding.h. A sheaf goes with its last operation, a holder with its last sheaf. */
#include "daemon/engine/binding.h"

#include <assert.h>

#include "daemon/base/memory.h"

/* ---- Operations in sheaves, sheaves in holders ------------------------------------- */

static void holder_free(struct engine *engine, struct holder *holder)
{
    assert(!holder->first);
    if (holder->party)
        holder->party->holder = NULL;
    else
        table_remove(&engine->gone, &holder->gone);
    if (holder->taken_as)
        table_remove(&engine->taken, &holder->taken);
    deadline_clear(&engine->graces, &holder->grace);
    mem_free(holder);
}

static void sheaf_enter(struct sheaf *sheaf, struct holder *holder)
{
    sheaf->holder = holder;
    sheaf->previous = NULL;
    sheaf->next = holder->first;
    if (holder->first)
        holder->first->previous = sheaf;
    holder->first = sheaf;
}

static void sheaf_leave(struct sheaf *sheaf)
{
    if (sheaf->previous)
        sheaf->previous->next = sheaf->next;
    else
        sheaf->holder->first = sheaf->next;
    if (sheaf->next)
        sheaf->next->previous = sheaf->previous;
}

static void unbind(struct engine *engine, struct operation *operation)
{
    struct operation_link *link = &operation->bound;
    struct sheaf *sheaf = operation->sheaf;

    if (link->previous)
        link->previous->bound.next = link->next;
    else
        sheaf->first = link->next;
    if (link->next)
        link->next->bound.previous = link->previous;
    *link = (struct operation_link){0};
    operation->sheaf = NULL;
    if (sheaf->first)
        return;
    struct holder *holder = sheaf->holder;
    sheaf_leave(sheaf);
    mem_free(sheaf);
    if (!holder->first)
        holder_free(engine, holder);
}

static struct sheaf *sheaf_of(struct party *party)
{
    if (!party->holder) {
        struct holder *holder = party->holder = mem_zero(1, sizeof *holder);
        holder->party = party;
        holder->id = party->id;
        holder->age = party->age;
        sheaf_enter(mem_zero(1, sizeof(struct sheaf)), holder);
    }
    return party->holder->first;
}

void binding_set(struct engine *engine, struct operation *operation, struct party *party)
{
    struct operation_link *link = &operation->bound;

    if (operation->sheaf && operation->sheaf->holder->party == party && party)
        return;
    /* A lease that goes on does not lose what its holder gave it. */
    if (party && deadline_is_set(&operation->lease))
        binding_has_time(engine, operation);
    if (operation->sheaf)
        unbind(engine, operation);
    if (!party)
        return;
    struct sheaf *sheaf = operation->sheaf = sheaf_of(party);
    *link = (struct operation_link){.next = sheaf->first};
    if (sheaf->first)
        sheaf->first->bound.previous = operation;
    sheaf->first = operation;
}

/* ---- What happens to all of a holder -------------------------------------------------- */

void binding_orphan(struct engine *engine, struct party *party, const struct now *now)
{
    struct holder *holder = party->holder;

    if (!holder)
        return;
    party->holder = NULL;
    holder->party = NULL;
    table_add(&engine->gone, &holder->gone, (uint32_t)holder->id);
    deadline_set(&engine->graces, &holder->grace, operation_lease_time(engine, now) + engine->policy->grace_ms);
}

/* The party, which names another by `id`, gets a holder. Its own sheaves go into it: one at most, unless the party has
 * replaced another before. */
static void take_over(struct engine *engine, struct holder *holder, uint64_t id, struct party *party,
                      const struct now *now)
{
    struct holder *own = party->holder;

    if (own) {
        for (struct sheaf *sheaf; (sheaf = own->first);) {
            sheaf_leave(sheaf);
            sheaf_enter(sheaf, holder);
        }
        holder_free(engine, own);
    }
    if (holder->taken_as)
        table_remove(&engine->taken, &holder->taken);
    holder->taken_as = id;
    if (id)
        table_add(&engine->taken, &holder->taken, (uint32_t)id);
    party->holder = holder;
    holder->party = party;
    holder->id = party->id;
    holder->age = party->age;
    holder->renewed_ms = operation_lease_time(engine, now);
}

void binding_replace(struct engine *engine, struct party *old, struct party *party, const struct now *now)
{
    struct holder *holder = old->holder;

    if (!holder || old == party)
        return;
    old->holder = NULL;
    take_over(engine, holder, old->id, party, now);
}

/* Takes it from its party, which is there or gone. */
static void detach(struct engine *engine, struct holder *holder)
{
    if (holder->party) {
        holder->party->holder = NULL;
    } else {
        table_remove(&engine->gone, &holder->gone);
        deadline_clear(&engine->graces, &holder->grace);
    }
}

static struct holder *find_gone(const struct engine *engine, uint64_t id)
{
    for (struct table_entry *entry = table_first(&engine->gone, (uint32_t)id); entry; entry = table_next(entry)) {
        struct holder *holder = (struct holder *)(void *)((char *)entry - offsetof(struct holder, gone));
        if (holder->id == id)
            return holder;
    }
    return NULL;
}

static struct holder *find_taken(const struct engine *engine, uint64_t id, uint64_t age)
{
    for (struct table_entry *entry = table_first(&engine->taken, (uint32_t)id); entry; entry = table_next(entry)) {
        struct holder *holder = (struct holder *)(void *)((char *)entry - offsetof(struct holder, taken));
        if (holder->taken_as == id && holder->age < age)
            return holder;
    }
    return NULL;
}

void binding_adopt(struct engine *engine, uint64_t id, struct party *party, const struct now *now)
{
    struct holder *holder;

    while (id && ((holder = find_gone(engine, id)) || (holder = find_taken(engine, id, party->age)))) {
        detach(engine, holder);
        take_over(engine, holder, id, party, now);
    }
}

/* ---- Leases --------------------------------------------------------------------------- */

/* When its lease ends by what happened to its holder; 0: nothing did. */
static uint64_t renewed_end_ms(const struct operation *operation)
{
    const struct holder *holder = operation->sheaf ? operation->sheaf->holder : NULL;

    return holder && holder->renewed_ms ? holder->renewed_ms + operation->lease_ms : 0;
}

uint64_t binding_lease_end_ms(const struct operation *operation)
{
    const struct holder *holder = operation->sheaf ? operation->sheaf->holder : NULL;
    const uint64_t renewed_ms = renewed_end_ms(operation);
    const uint64_t at_ms = operation->lease.at_ms > renewed_ms ? operation->lease.at_ms : renewed_ms;

    return holder && !holder->party && holder->grace.at_ms < at_ms ? holder->grace.at_ms : at_ms;
}

bool binding_has_time(struct engine *engine, struct operation *operation)
{
    const uint64_t renewed_ms = renewed_end_ms(operation);

    if (operation->lease.at_ms >= renewed_ms)
        return false;
    deadline_set(&engine->leases, &operation->lease, renewed_ms);
    return true;
}

struct operation *binding_grace_over(const struct engine *engine, uint64_t lease_time)
{
    const struct deadline *first = deadlines_first(&engine->graces);
    const struct holder *holder = (const struct holder *)(const void *)first;

    return first && first->at_ms < lease_time ? holder->first->first : NULL;
}

void binding_check(const struct operation *operation)
{
    const struct sheaf *sheaf = operation->sheaf;

    if (!sheaf)
        return;
    assert(sheaf->first && sheaf->holder->first);
    assert(!sheaf->holder->party || sheaf->holder->party->holder == sheaf->holder);
    assert(!sheaf->holder->party == deadline_is_set(&sheaf->holder->grace));
}
