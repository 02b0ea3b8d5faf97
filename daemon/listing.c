/* Calls about many operations: Recover, which grants what is interrupted, and List, which shows what there is.
 *
 * Both collect into an array of bounded size, then answer once. A page of either is bounded by count and by bytes, so
 * that it fits a frame. List walks the operations in memory by life, then the finished records by place; its cursor is
 * one byte that says which, and the life or place to go on from. */
#include <assert.h>

#include "daemon/decide.h"
#include "daemon/memory.h"
#include "proto/limits.h"

enum {
    LOOKED_AT_MAX = 4096, /* operations one List looks at: what bounds the time it takes */
    AROUND_BYTES = 256,   /* of an answer, around each record: tags, times, lengths */
    CURSOR_BYTES = 9,
    /* The walks, in their order: what is unfinished; what is done and not in the store's tables yet; what is there.
     * An operation only goes on from one to a later one, so none is missed. */
    WALK_UNFINISHED = 1,
    WALK_DONE = 2,
    WALK_PLACES = 3,
};

/* What is collected for one answer. */
struct page {
    struct engine *engine;
    const struct call *call;
    const struct now *now;
    struct found *found;
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
    page->found = mem_zero(call->limit, sizeof *page->found);
    page->values = mem_zero(call->limit, sizeof *page->values);
    page->told = mem_zero(call->limit, sizeof *page->told);
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

static bool recover_wants(const struct call *call, const struct record *record)
{
    return bytes_equal(call->id.namespace, record->id.namespace) &&
           (call->operation.size == 0 || bytes_equal(call->operation, record->operation));
}

/* Grants one operation, or gives its grant again. False: the page is full. What does not read is passed over: it cannot
 * be granted, and List and Get say why. */
static bool recover_one(struct page *page, const struct asker *asker, struct operation *operation, bool again)
{
    struct engine *engine = page->engine;
    struct found found = {.operation = operation, .there = true};
    struct values values;
    struct decision decision;

    operation_read(operation, &found.record);
    if (!again && page->count == 0 && decide_no_room(engine, asker, false)) {
        page->refused = true;
        return false;
    }
    if (!page_take(page, &found.record, true))
        return false;
    if (!values_fetch(engine, &found, VALUES_INPUT | VALUES_CHECKPOINT, page->now, &values))
        return true;
    found.record.lease_left_ms = operation_lease_left_ms(engine, operation, found.record.lease_ms, page->now);
    (again ? rules_recover_again : rules_recover)(&found.record, page->call, page->now,
                                                  store_next_number(engine->store), &decision);
    if (decision.change != CHANGE_NONE)
        operation_change(engine, &found, page->call, &decision);

    struct found *told = &page->found[page->count];
    *told = (struct found){.operation = operation, .there = true};
    operation_read(operation, &told->record);
    operation_bind(operation, told->record.flags & RECORD_BOUND ? asker->party : NULL);
    operation_lease_anew(engine, operation, decision.lease_ms, page->now);
    page->values[page->count] = values;
    page->told[page->count] = decide_describe(engine, told, &page->values[page->count], page->now);
    page->told[page->count].resumed = decision.resumed;
    page->told[page->count].lease_ms = decision.lease_ms;
    page->count++;
    return true;
}

/* The grants that this Recover has already made, where it was sent before. */
static void recover_again(struct page *page, const struct asker *asker)
{
    struct operation *next;

    for (struct operation *operation = operation_recovered(page->engine, page->call->attempt_id); operation;
         operation = next) {
        struct record record;

        next = operation->recovered_next;
        operation_read(operation, &record);
        if (!rules_is_recovered_by(&record, page->call->attempt_id) ||
            !bytes_equal(record.id.namespace, page->call->id.namespace))
            continue;
        if (!recover_one(page, asker, operation, true))
            return;
    }
}

static void recover_new(struct page *page, const struct asker *asker)
{
    const struct call *call = page->call;
    const struct space *space = operation_space(page->engine, call->id.namespace);
    const uint32_t tag = operation_tag(call->operation);
    struct operation *next;

    for (struct operation *operation = space ? space->interrupted.first : NULL; operation; operation = next) {
        struct record record;

        /* Granting one takes it from the list, and the last one takes the list. */
        next = operation->interrupted.next;
        if (call->operation.size && operation->operation_tag != tag)
            continue;
        operation_read(operation, &record);
        if (recover_wants(call, &record) && !recover_one(page, asker, operation, false))
            return;
    }
}

void listing_recover(struct engine *engine, const struct asker *asker, const struct now *now)
{
    struct page page;

    page_open(&page, engine, asker->call, now);
    recover_again(&page, asker);
    if (page.count == 0)
        recover_new(&page, asker);
    if (page.count == 0 && !page.refused && asker->call->wait_ms)
        decide_park(engine, asker, &engine->recovers, NULL, now);
    else if (!page.refused)
        page_reply(&page, asker, (struct bytes){0});
    page_close(&page);
}

static bool recover_parked(struct engine *engine, struct parked *parked, struct operation *operation,
                           const struct now *now)
{
    const struct asker asker = {
        .party = parked->party, .request = parked->request, .call = &parked->call, .parked = true};
    struct page page;

    if (!decide_alive(engine, &asker)) {
        decide_unpark(engine, parked);
        return false;
    }
    page_open(&page, engine, &parked->call, now);
    recover_one(&page, &asker, operation, false);
    const bool granted = page.count > 0, refused = page.refused;
    if (granted)
        page_reply(&page, &asker, (struct bytes){0});
    page_close(&page);
    if (granted || refused)
        decide_unpark(engine, parked);
    return granted;
}

void listing_serve_recovers(struct engine *engine, struct operation *operation, const struct now *now)
{
    struct parked *next;
    struct record record;

    operation_read(operation, &record);
    for (struct parked *parked = engine->recovers.first; parked; parked = next) {
        next = parked->queue_next;
        if (recover_wants(&parked->call, &record) && recover_parked(engine, parked, operation, now))
            return;
    }
}

/* ---- List ------------------------------------------------------------------------------- */

static bool list_wants(const struct page *page, const struct record *record)
{
    const struct call *call = page->call;

    return (call->state == RECORD_ABSENT || call->state == record->state) &&
           (call->id.namespace.size == 0 || bytes_equal(call->id.namespace, record->id.namespace)) &&
           !rules_expired(record, page->now);
}

static void list_add(struct page *page, const struct found *found)
{
    static const struct values none;

    page->found[page->count] = *found;
    page->told[page->count] = decide_describe(page->engine, &page->found[page->count], &none, page->now);
    page->told[page->count].show_checkpoint = false;
    page->count++;
}

/* Goes through what is in memory from `life` on, done or not. Returns the life to go on from, 0 at the end. */
static uint64_t list_lives(struct page *page, uint64_t life, bool done, uint32_t *looked_at)
{
    const struct lives *lives = &page->engine->lives;

    for (uint32_t i = operation_position(page->engine, life); i < lives->count; i++) {
        struct operation *operation = lives->at[i].operation;
        struct found found = {.operation = operation, .there = true};

        if (*looked_at == LOOKED_AT_MAX)
            return lives->at[i].life;
        ++*looked_at;
        if (!operation || operation->damaged || (operation->state == RECORD_DONE) != done)
            continue;
        operation_read(operation, &found.record);
        if (!list_wants(page, &found.record))
            continue;
        if (!page_take(page, &found.record, false))
            return lives->at[i].life;
        list_add(page, &found);
    }
    return 0;
}

static bool list_visit(void *context, uint64_t place, struct bytes data)
{
    struct page *page = context;
    struct found found = {.place = place, .there = true};

    if (record_decode(data, &found.record) != RECORD_GOOD || !list_wants(page, &found.record) ||
        !operation_is_at(page->engine, found.record.hash, place))
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
    if (cursor.size != CURSOR_BYTES || cursor.data[0] < WALK_UNFINISHED || cursor.data[0] > WALK_PLACES)
        return false;
    *walk = cursor.data[0];
    for (int i = 0; i < 8; i++)
        *from = *from << 8 | cursor.data[1 + i];
    return true;
}

/* Returns where this walk is to go on, 0 at its end. */
static uint64_t list_walk(struct page *page, uint8_t walk, uint64_t from, uint32_t *looked_at)
{
    if (walk != WALK_PLACES)
        return list_lives(page, from, walk == WALK_DONE, looked_at);
    return store_list_finished(page->engine->store, from, LOOKED_AT_MAX - *looked_at, list_visit, page);
}

void listing_list(struct engine *engine, const struct asker *asker, const struct now *now)
{
    uint8_t cursor_bytes[CURSOR_BYTES], walk;
    struct bytes cursor = {0};
    uint32_t looked_at = 0;
    uint64_t from;
    struct page page;

    if (!get_cursor(asker->call->cursor, &walk, &from)) {
        decide_refuse(engine, asker, CODE_INVALID_ARGUMENT, "BAD_CURSOR", "list.cursor",
                      "list.cursor: not a cursor that this daemon gave");
        return;
    }
    page_open(&page, engine, asker->call, now);
    do
        from = list_walk(&page, walk, from, &looked_at);
    while (!from && looked_at < LOOKED_AT_MAX && ++walk <= WALK_PLACES);
    if (walk <= WALK_PLACES && (from || looked_at == LOOKED_AT_MAX))
        cursor = put_cursor(cursor_bytes, walk, from);
    page_reply(&page, asker, cursor);
    page_close(&page);
}
