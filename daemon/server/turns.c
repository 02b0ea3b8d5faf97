/* A turn reads for 10 ms. Each share is a part of the half that belongs to the ones that are ready, or to the ones that
 * are behind, since each reading of one costs something beside its calls. */
#include "daemon/server/turns.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/base/number.h"

enum {
    TURN_MS = 10, /* then leases, batches and answers have their turn */
    HALF_TURN_NS = TURN_MS * 1000000 / 2,
    SHARE_NS_MAX = 2000000,             /* what one is read and decided for in a turn; less if many wait, */
    SHARE_NS_MIN = 100000,              /* but no less than this; */
    SHARE_BEHIND_NS_MIN = 250000,       /* or this, if it is behind: putting it by costs a copy of what it sent */
    SHARE_LAG_MS_MAX = 1000,            /* who needs more than a share holds up the end of leases no longer than this */
    EVENTS_SURE = 48,                   /* so many events and fewer libev fetches in one wait, from the beginning */
    TAKEN_BYTES_MAX = 32 * 1024 * 1024, /* read in one turn, of all together */
};

static struct turn *turn_of(struct link *link)
{
    return (struct turn *)(void *)link;
}

static struct turn *turn_of_waiting(struct link *link)
{
    return (struct turn *)(void *)((char *)link - offsetof(struct turn, waiting));
}

/* ---- Time ---------------------------------------------------------------------------- */

/* Those on ready go first, but not for long if there are others: then both get the same time. */
static void charge(struct turns *turns, uint64_t ns)
{
    if (turns->charged > 0 && links_first(&turns->behind))
        turns->owed_ns = number_min(turns->owed_ns + ns, 2 * (uint64_t)HALF_TURN_NS);
    else if (turns->charged < 0)
        turns->owed_ns -= number_min(turns->owed_ns, ns);
}

void turns_read_clock(struct turns *turns)
{
    const uint64_t before_ns = turns->now->boot_ns;

    *turns->now = clock_now(turns->clock);
    charge(turns, turns->now->boot_ns - before_ns);
}

void turns_begin(struct turns *turns, uint64_t looked_ms)
{
    turns->began_ms = turns->now->boot_ms;
    if (!turns->seen_ms)
        turns->seen_ms = looked_ms; /* of the first turn */
    /* A wait that found more events than any before it may not have shown all: libev fetches so many at first, and more
     * when it met more. What the next one shows may be as old as what that one showed. */
    if (turns->events > turns->events_max)
        turns->events_max = turns->events;
    else
        turns->looked_ms = looked_ms;
    turns->events = 0;
    links_append(&turns->behind, &turns->later);
}

bool turns_has_room(const struct turns *turns)
{
    return turns->taken_bytes < TAKEN_BYTES_MAX;
}

bool turns_is_over(const struct turns *turns)
{
    return turns->now->boot_ms - turns->began_ms >= TURN_MS || !turns_has_room(turns);
}

uint64_t turns_seen_ms(struct turns *turns)
{
    struct link *first = links_first(&turns->waiting);
    uint64_t seen_ms = turns->events > turns->events_max ? turns->seen_ms : turns->looked_ms;

    if (first)
        seen_ms = number_min(seen_ms, turn_of_waiting(first)->since_ms);
    return turns->seen_ms = seen_ms;
}

/* ---- Who waits ------------------------------------------------------------------------- */

static uint32_t *count_of(struct turns *turns, const struct turn *turn)
{
    return turn->behind ? &turns->behind_count : &turns->ready_count;
}

/* It keeps its place in turns->waiting if it has one. */
static void enter(struct turns *turns, struct turn *turn, struct link *list)
{
    if (turn_is_waiting(turn))
        return;
    link_append(list, &turn->link);
    ++*count_of(turns, turn);
    if (!link_is_listed(&turn->waiting)) {
        turn->since_ms = turns->looked_ms;
        link_append(&turns->waiting, &turn->waiting);
    }
}

static void leave_list(struct turns *turns, struct turn *turn)
{
    if (!turn_is_waiting(turn))
        return;
    link_remove(&turn->link);
    assert(*count_of(turns, turn) > 0);
    --*count_of(turns, turn);
}

void turns_found(struct turns *turns, struct turn *turn)
{
    turns->events++;
    /* libev names them from the last to the first: so each is put before the others. */
    enter(turns, turn, turns->fresh.next);
}

void turns_go_on(struct turns *turns)
{
    links_append(&turns->ready, &turns->fresh);
}

void turns_resume(struct turns *turns, struct turn *turn)
{
    enter(turns, turn, turn->behind ? &turns->behind : &turns->ready);
}

/* Nothing it sent so far is passed over by the end of leases, unless it takes too many shares. */
void turns_again(struct turns *turns, struct turn *turn)
{
    if (turns->now->boot_ms - turn->since_ms >= SHARE_LAG_MS_MAX)
        link_remove(&turn->waiting);
    enter(turns, turn, &turns->later);
}

void turns_leave(struct turns *turns, struct turn *turn)
{
    leave_list(turns, turn);
    link_remove(&turn->waiting);
}

/* ---- Shares ------------------------------------------------------------------------------ */

struct turn *turns_next(const struct turns *turns)
{
    struct link *ready = links_first(&turns->ready), *behind = links_first(&turns->behind);

    if (!ready || (behind && turns->owed_ns >= HALF_TURN_NS))
        ready = behind;
    return ready ? turn_of(ready) : NULL;
}

/* How long the share of one that waits is. */
static uint64_t share_ns(struct turns *turns, const struct turn *turn)
{
    const uint64_t least_ns = turn->behind ? SHARE_BEHIND_NS_MIN : SHARE_NS_MIN;

    assert(*count_of(turns, turn) > 0);
    return number_max(least_ns, number_min(SHARE_NS_MAX, HALF_TURN_NS / *count_of(turns, turn)));
}

void turns_begin_share(struct turns *turns, struct turn *turn)
{
    assert(turn_is_waiting(turn));
    turns->share_from_ns = 0;
    turns->share_ns = share_ns(turns, turn);
    leave_list(turns, turn);
}

void turns_start_share(struct turns *turns, const struct turn *turn)
{
    if (turns->share_from_ns)
        return;
    turns->share_from_ns = turns->now->boot_ns;
    turns->charged = turn->behind ? -1 : 1;
}

bool turns_share_is_over(const struct turns *turns)
{
    return turns->now->boot_ns - turns->share_from_ns >= turns->share_ns || turns_is_over(turns);
}

void turn_end_share(struct turn *turn)
{
    if (!turn_is_waiting(turn))
        link_remove(&turn->waiting);
}

void turns_end_charge(struct turns *turns)
{
    if (turns->charged && turns_next(turns))
        turns_read_clock(turns);
    turns->charged = 0;
}

void turns_open(struct turns *turns, struct clock *clock, struct now *now)
{
    *turns = (struct turns){.clock = clock, .now = now, .events_max = EVENTS_SURE};
    links_open(&turns->ready);
    links_open(&turns->behind);
    links_open(&turns->later);
    links_open(&turns->fresh);
    links_open(&turns->waiting);
}
