/* See binding.h. A sheaf goes with its last operation, a holder with its last sheaf. */
#include "daemon/binding.h"

#include <assert.h>

#include "daemon/memory.h"

/* ---- Operations in sheaves, sheaves in holders ------------------------------------- */

static void holder_free(struct engine *engine, struct holder *holder)
{
    assert(!holder->first);
    if (holder->party)
        holder->party->holder = NULL;
    else
        table_remove(&engine->gone, &holder->entry);
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
        sheaf_enter(mem_zero(1, sizeof(struct sheaf)), holder);
    }
    return party->holder->first;
}

void binding_set(struct engine *engine, struct operation *operation, struct party *party)
{
    struct operation_link *link = &operation->bound;

    if (operation->sheaf && operation->sheaf->holder->party == party && party)
        return;
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
    table_add(&engine->gone, &holder->entry, (uint32_t)holder->id);
    deadline_set(&engine->graces, &holder->grace, operation_lease_time(engine, now) + engine->policy->grace_ms);
}

/* The party's own sheaves go into the holder: one at most, unless it has replaced another party before. */
static void take_over(struct engine *engine, struct holder *holder, struct party *party, const struct now *now)
{
    struct holder *own = party->holder;

    if (own) {
        for (struct sheaf *sheaf; (sheaf = own->first);) {
            sheaf_leave(sheaf);
            sheaf_enter(sheaf, holder);
        }
        holder_free(engine, own);
    }
    party->holder = holder;
    holder->party = party;
    holder->id = party->id;
    holder->renewed_ms = operation_lease_time(engine, now);
}

void binding_replace(struct engine *engine, struct party *old, struct party *party, const struct now *now)
{
    struct holder *holder = old->holder;

    if (!holder || old == party)
        return;
    old->holder = NULL;
    take_over(engine, holder, party, now);
}

void binding_adopt(struct engine *engine, uint64_t id, struct party *party, const struct now *now)
{
    struct table_entry *entry = id ? table_first(&engine->gone, (uint32_t)id) : NULL, *next;

    for (; entry; entry = next) {
        struct holder *holder = (struct holder *)(void *)((char *)entry - offsetof(struct holder, entry));

        next = table_next(entry);
        if (holder->id != id)
            continue;
        table_remove(&engine->gone, entry);
        deadline_clear(&engine->graces, &holder->grace);
        take_over(engine, holder, party, now);
    }
}

/* ---- Leases --------------------------------------------------------------------------- */

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
