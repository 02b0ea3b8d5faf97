/* Calls about many operations: Recover, which grants what is interrupted, and List, which shows what there is.
 *
 * Both collect into an array of bounded size, then answer once. A page of either is bounded by count and by bytes, so
 * that it fits a frame. List walks the operations in memory by life, then the finished records by place; its cursor is
 * one byte that says which, and the life or place to go on from. */
#include <assert.h>
#include <stdlib.h>

#include "daemon/engine/binding.h"
#include "daemon/engine/decide.h"
#include "daemon/base/memory.h"
#include "daemon/engine/space.h"
#include "proto/limits.h"

enum {
    LOOKED_AT_MAX = 1024, /* operations one List looks at at most */
    LOOKED_AT_LEAST = 16, /* and though others have looked at all that a turn may look at */
    REFUSED_MAX = 64,     /* Recovers that wait and are refused for want of room when one operation is interrupted */
    UNREADABLE_MAX = 16,  /* operations with a value that does not read, which one Recover passes over */
    AROUND_BYTES = 256,   /* of an answer, around each record: tags, times, lengths */
    CURSOR_BYTES = 9,
    /* The walks, in their order: what is unfinished; what is done and not in the store's tables yet; what is there.
     * An operation only goes on from one to a later one, so none is missed. */
    WALK_UNFINISHED = 1,
    WALK_DONE = 2,
    WALK_FINISHED = 3,
};

/* What is collected for one answer. */
struct page {
    struct engine *engine;
    const struct call *call;
    const struct now *now;
    struct lookup *found;
    struct values *values;
    struct reply_operation *told;
    uint32_t count, limit;
    uint64_t bytes, bytes_max;
    bool refused; /* there was no room for a grant, and the asker was told */
};

static void page_open(struct page *page, struct engine *engine, const struct call *call, const struct now *now)
{
    assert(call->limit > 0 && call->limit <= IDEM_LIST_MAX);
    *page = (struct page){.engine = engine, .call = call, .now = now, .limit = call->limit};
    /* A frame is the largest body and this overhead; one operation with input and checkpoint always fits it. */
    page->bytes_max = call->policy->max_outcome_bytes + IDEM_FRAME_OVERHEAD_BYTES / 2;
}

static void page_close(struct page *page)
{
    for (uint32_t i = 0; i < page->count; i++)
        values_release(&page->values[i]);
    mem_free(page->found);
    mem_free(page->values);
    mem_free(page->told);
}

/* An empty page, which costs whoever asks nothing, takes no memory. */
static void page_fill(struct page *page)
{
    if (page->found)
        return;
    page->found = mem_zero(page->limit, sizeof *page->found);
    page->values = mem_zero(page->limit, sizeof *page->values);
    page->told = mem_zero(page->limit, sizeof *page->told);
}

/* Takes room for one more, of which this is the record. False: the page is full. */
static bool page_take(struct page *page, const struct record *record, bool with_values)
{
    uint64_t bytes = AROUND_BYTES + record->id.namespace.size + record->id.caller.size + record->id.key.size +
                     record->operation.size + record->owner.size + record->traceparent.size;

    if (with_values)
        bytes += (uint64_t)record->fingerprint.size + record->checkpoint_name.size + record->checkpoint_bytes +
                 record->input_bytes;
    if (page->count == page->limit || (page->count && page->bytes + bytes > page->bytes_max))
        return false;
    page->bytes += bytes;
    page_fill(page);
    return true;
}

static void page_reply(struct page *page, const struct asker *asker, struct bytes cursor)
{
    struct reply reply = {.call = page->call->type, .list = page->told, .list_count = page->count, .cursor = cursor};

    for (uint32_t i = 0; i < page->count; i++)
        if (page->found[i].record.revision > reply.depends)
            reply.depends = page->found[i].record.revision;
    /* A list says as well what is not there. */
    if (page->call->type == CALL_LIST || page->count == 0)
        reply.depends = store_newest_number(page->engine->store);
    decide_reply(page->engine, asker, &reply);
}

/* ---- Recover -------------------------------------------------------------------------- */

enum recovered {
    RECOVERED,
    RECOVERED_NOT,    /* a value does not read: it cannot be granted, and List and Get say why */
    RECOVERED_ENOUGH, /* the page is full, or there is no room for a grant */
};

/* Grants one operation, or gives its grant again. */
static enum recovered recover_one(struct page *page, const struct asker *asker, struct operation *operation, bool again)
{
    struct engine *engine = page->engine;
    struct lookup found = {.operation = operation, .there = true};
    struct values values;
    struct decision decision;

    operation_read(operation, &found.record);
    if (!again && page->count == 0 && decide_no_room(engine, asker, false)) {
        page->refused = true;
        return RECOVERED_ENOUGH;
    }
    if (!page_take(page, &found.record, true))
        return RECOVERED_ENOUGH;
    if (!values_fetch(engine, &found, VALUES_INPUT | VALUES_CHECKPOINT, page->now, &values))
        return RECOVERED_NOT;
    found.record.lease_left_ms = operation_lease_left_ms(engine, operation, found.record.lease_ms, page->now);
    (again ? rules_recover_again : rules_recover)(&found.record, page->call, page->now,
                                                  store_next_number(engine->store), &decision);
    if (decision.change != CHANGE_NONE)
        operation_change(engine, &found, page->call, &decision);

    struct lookup *told = &page->found[page->count];
    *told = (struct lookup){.operation = operation, .there = true};
    operation_read(operation, &told->record);
    binding_set(engine, operation, told->record.flags & RECORD_BOUND ? asker->party : NULL);
    operation_lease_anew(engine, operation, decision.lease_ms, page->now);
    page->values[page->count] = values;
    page->told[page->count] = decide_describe(engine, told, &page->values[page->count], page->now);
    page->told[page->count].resumed = decision.resumed;
    page->told[page->count].lease_ms = decision.lease_ms;
    page->count++;
    return RECOVERED;
}

/* Grants that a Recover has made, in the order in which it made them. */
struct grants {
    struct grant {
        uint64_t fence;
        struct operation *operation;
    } at[IDEM_RECOVER_MAX];
    uint32_t count;
};

static int by_fence(const void *a, const void *b)
{
    const struct grant *x = a, *y = b;

    return (x->fence > y->fence) - (x->fence < y->fence);
}

static void find_grants(const struct engine *engine, const struct call *call, struct grants *grants)
{
    struct operation *operation = NULL;

    grants->count = 0;
    while (grants->count < IDEM_RECOVER_MAX &&
           (operation = operation_recovered(engine, call->id.namespace, call->attempt_id, operation))) {
        struct record record;

        operation_read(operation, &record);
        if (rules_is_recovered_by(&record, call->attempt_id) && bytes_equal(record.id.namespace, call->id.namespace))
            grants->at[grants->count++] = (struct grant){record.fence, operation};
    }
    qsort(grants->at, grants->count, sizeof grants->at[0], by_fence);
}

/* The grants that this Recover has already made, where it was sent before. */
static void recover_again(struct page *page, const struct asker *asker)
{
    struct grants grants;

    find_grants(page->engine, page->call, &grants);
    for (uint32_t i = 0; i < grants.count; i++)
        if (recover_one(page, asker, grants.at[i].operation, true) == RECOVERED_ENOUGH)
            return;
}

static struct operation *longest_interrupted(const struct engine *engine, const struct call *call)
{
    const struct space *space = space_find(engine, call->id.namespace, call->operation);

    return space ? space->interrupted.first : NULL;
}

static void recover_new(struct page *page, const struct asker *asker)
{
    struct operation *operation;
    uint32_t unreadable = 0;

    /* What is granted is interrupted no more. What cannot be does not stand in the way of the others. */
    while (unreadable < UNREADABLE_MAX && (operation = longest_interrupted(page->engine, page->call))) {
        const enum recovered recovered = recover_one(page, asker, operation, false);

        if (recovered == RECOVERED_ENOUGH)
            return;
        if (recovered == RECOVERED_NOT) {
            space_stand_last(operation);
            unreadable++;
        }
    }
}

static void park_recover(struct engine *engine, const struct asker *asker, const struct now *now)
{
    struct space *space = space_get(engine, asker->call->id.namespace, asker->call->operation);

    if (!decide_park(engine, asker, &space->recovers, NULL, now))
        space_let_go(engine, space);
}

void listing_recover(struct engine *engine, const struct asker *asker, const struct now *now)
{
    struct page page;

    page_open(&page, engine, asker->call, now);
    recover_again(&page, asker);
    if (page.count == 0)
        recover_new(&page, asker);
    if (page.count == 0 && !page.refused && asker->call->wait_ms)
        park_recover(engine, asker, now);
    else if (!page.refused)
        page_reply(&page, asker, (struct bytes){0});
    page_close(&page);
}

void listing_recover_ended(struct engine *engine, const struct asker *asker, const struct now *now)
{
    struct page page;

    if (!decide_alive(engine, asker))
        return;
    page_open(&page, engine, asker->call, now);
    recover_again(&page, asker);
    if (page.count == 0) {
        page.limit = 1;
        recover_new(&page, asker);
    }
    if (!page.refused)
        page_reply(&page, asker, (struct bytes){0});
    page_close(&page);
}

/* Offers an interrupted operation to a Recover that waits. False: that goes on waiting, since nobody can be granted it.
 */
static bool recover_parked(struct engine *engine, struct parked *parked, struct operation *operation,
                           const struct now *now, uint32_t *refused)
{
    const struct asker asker = decide_asker(parked);
    struct page page;

    if (!decide_alive(engine, &asker)) {
        decide_unpark(engine, parked);
        return true;
    }
    page_open(&page, engine, &parked->call, now);
    /* It was sent twice, and the other one has been answered: it gets the same. */
    recover_again(&page, &asker);
    if (page.count == 0)
        recover_one(&page, &asker, operation, false);
    const bool answered = page.count > 0 || page.refused;
    *refused += page.refused;
    if (page.count > 0)
        page_reply(&page, &asker, (struct bytes){0});
    page_close(&page);
    if (answered)
        decide_unpark(engine, parked);
    return answered;
}

void listing_serve_recovers(struct engine *engine, struct operation *operation, const struct now *now)
{
    struct parked *parked;
    uint32_t refused = 0;

    /* Each that is looked at waits no longer, but for the last. Where there is no room, the rest are told so when
     * something else is interrupted, or at the end of their waits. */
    while (operation->state == RECORD_INTERRUPTED && refused < REFUSED_MAX && (parked = space_first_recover(operation)))
        if (!recover_parked(engine, parked, operation, now, &refused))
            return;
}

/* ---- List ------------------------------------------------------------------------------- */

static bool list_wants(const struct page *page, const struct record *record)
{
    const struct call *call = page->call;

    return (call->state == RECORD_ABSENT || call->state == record->state) &&
           (call->id.namespace.size == 0 || bytes_equal(call->id.namespace, record->id.namespace)) &&
           !rules_expired(record, page->now);
}

static void list_add(struct page *page, const struct lookup *found)
{
    static const struct values none;

    page->found[page->count] = *found;
    page->told[page->count] = decide_describe(page->engine, &page->found[page->count], &none, page->now);
    page->told[page->count].show_checkpoint = false;
    page->count++;
}

/* Goes through what is in memory from `life` on, done or not, as far as it may look. Returns the life to go on from, 0
 * at the end. */
static uint64_t list_generations(struct page *page, uint64_t generation, bool done, uint32_t *looks)
{
    const struct generations *generations = &page->engine->generations;

    for (uint32_t i = generations_find(generations, generation); i < generations->count;
         i = generations_next(generations, i)) {
        struct operation *operation = generations->at[i].operation;
        struct lookup found = {.operation = operation, .there = true};

        if (*looks == 0)
            return generations->at[i].generation;
        --*looks;
        if (!operation || operation->damaged || (operation->state == RECORD_DONE) != done)
            continue;
        operation_read(operation, &found.record);
        if (!list_wants(page, &found.record))
            continue;
        if (!page_take(page, &found.record, false))
            return generations->at[i].generation;
        list_add(page, &found);
    }
    return 0;
}

static bool list_visit(void *context, uint64_t expiry_key, struct bytes data)
{
    struct page *page = context;
    struct lookup found = {.expiry_key = expiry_key, .there = true};

    if (record_decode(data, &found.record) != RECORD_GOOD || !list_wants(page, &found.record) ||
        !operation_is_at(page->engine, found.record.hash, expiry_key))
        return true;
    if (!page_take(page, &found.record, false))
        return false;
    list_add(page, &found);
    return true;
}

static struct bytes put_cursor(uint8_t out[CURSOR_BYTES], uint8_t walk, uint64_t from)
{
    out[0] = walk;
    for (int i = 0; i < 8; i++)
        out[1 + i] = (uint8_t)(from >> (56 - 8 * i));
    return bytes_of(out, CURSOR_BYTES);
}

static bool get_cursor(struct bytes cursor, uint8_t *walk, uint64_t *from)
{
    *walk = WALK_UNFINISHED;
    *from = 0;
    if (cursor.size == 0)
        return true;
    if (cursor.size != CURSOR_BYTES || cursor.data[0] < WALK_UNFINISHED || cursor.data[0] > WALK_FINISHED)
        return false;
    *walk = cursor.data[0];
    for (int i = 0; i < 8; i++)
        *from = *from << 8 | cursor.data[1 + i];
    return true;
}

/* Can a walk find nothing that this List wants? */
static bool list_is_empty(const struct page *page, uint8_t walk)
{
    const struct call *call = page->call;
    const bool done = walk != WALK_UNFINISHED;

    if (call->state != RECORD_ABSENT && (call->state == RECORD_DONE) != done)
        return true;
    if (done || call->id.namespace.size == 0)
        return false;
    const struct engine_counts counts = engine_counts_of(page->engine, call->id.namespace);
    return (call->state == RECORD_RUNNING || counts.interrupted == 0) &&
           (call->state == RECORD_INTERRUPTED || counts.running == 0);
}

/* Returns where this walk is to go on, 0 at its end. */
static uint64_t list_walk(struct page *page, uint8_t walk, uint64_t from, uint32_t *looks)
{
    uint32_t most = *looks;

    if (list_is_empty(page, walk))
        return 0;
    if (walk != WALK_FINISHED)
        return list_generations(page, from, walk == WALK_DONE, looks);
    /* It is the last: it may look at all that is left. */
    *looks = 0;
    return store_list_finished(page->engine->store, from, most, list_visit, page);
}

/* How many operations this List may look at: a share of what a turn may, so that many of them hold nobody else up. */
static uint32_t take_looks(struct engine *engine)
{
    uint32_t looks = engine->looks < LOOKED_AT_MAX ? engine->looks : LOOKED_AT_MAX;

    if (looks < LOOKED_AT_LEAST)
        looks = LOOKED_AT_LEAST;
    engine->looks -= looks < engine->looks ? looks : engine->looks;
    return looks;
}

void listing_list(struct engine *engine, const struct asker *asker, const struct now *now)
{
    uint8_t cursor_bytes[CURSOR_BYTES], walk;
    struct bytes cursor = {0};
    struct page page;
    uint32_t looks;
    uint64_t from;
    bool over;

    if (!get_cursor(asker->call->cursor, &walk, &from)) {
        decide_refuse(engine, asker, CODE_INVALID_ARGUMENT, "BAD_CURSOR", "list.cursor",
                      "list.cursor: not a cursor that this daemon gave");
        return;
    }
    page_open(&page, engine, asker->call, now);
    looks = take_looks(engine);
    do {
        from = list_walk(&page, walk, from, &looks);
        over = !from && walk++ == WALK_FINISHED;
    } while (!from && !over && looks > 0);
    if (!over)
        cursor = put_cursor(cursor_bytes, walk, from);
    page_reply(&page, asker, cursor);
    page_close(&page);
}
