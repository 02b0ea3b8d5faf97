/* One call's way through the engine.
 *
 *     decide_call: find -> rules -> (park) | room? -> values -> change -> waiters -> reply
 *
 * Whatever can go wrong - no room, a value that does not read - is looked at before the change, so that a change is
 * never half made. Waiters are looked at again by the same path, each time the state of their operation changed. */
#include "daemon/engine/decide.h"

#include <assert.h>
#include <stdio.h>

#include "daemon/engine/binding.h"
#include "daemon/base/memory.h"
#include "daemon/engine/space.h"
#include "proto/limits.h"

typedef void rule(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                  struct decision *decision);

static rule *rule_of(enum call_type type)
{
    static rule *const rules[] = {
        [CALL_BEGIN] = rules_begin,     [CALL_COMPLETE] = rules_complete,     [CALL_RELEASE] = rules_release,
        [CALL_RENEW] = rules_renew,     [CALL_CHECKPOINT] = rules_checkpoint, [CALL_GET] = rules_get,
        [CALL_RESOLVE] = rules_resolve, [CALL_FORGET] = rules_forget,
    };

    assert(type < sizeof rules / sizeof rules[0] && rules[type]);
    return rules[type];
}

/* ---- Replies ------------------------------------------------------------------ */

void decide_reply(struct engine *engine, const struct asker *asker, const struct reply *reply)
{
    engine->options.reply(engine->options.context, asker->party, asker->request, reply);
}

void decide_refuse(struct engine *engine, const struct asker *asker, enum code code, const char *reason,
                   const char *field, const char *message)
{
    const struct reply reply = {
        .call = asker->call->type, .code = code, .reason = reason, .field = field, .message = message};

    decide_reply(engine, asker, &reply);
}

struct reply_operation decide_describe(struct engine *engine, const struct lookup *found, const struct values *values,
                                       const struct now *now)
{
    const struct record *record = &found->record;
    struct reply_operation told = {.record = record, .replays = operation_replays(engine, found)};

    if (record->state == RECORD_RUNNING)
        told.lease_left_ms = operation_lease_left_ms(engine, found->operation, record->lease_ms, now);
    told.show_checkpoint = record->state != RECORD_DONE && record->checkpoint_name.size > 0;
    told.checkpoint_data = values->checkpoint;
    if (record->attempt > 1)
        told.input = values->input;
    return told;
}

/* When it makes sense to ask again: after about as long as it has been running, never beyond the lease. */
static uint32_t running_retry_after_ms(const struct record *record, uint32_t lease_left_ms, const struct now *now)
{
    enum { LEAST_MS = 50, MOST_MS = 5000 };
    const uint64_t ran_ms = now->wall_ms > record->begun_ms ? now->wall_ms - record->begun_ms : 0;
    uint32_t after_ms = ran_ms < LEAST_MS ? LEAST_MS : ran_ms > MOST_MS ? MOST_MS : (uint32_t)ran_ms;

    if (after_ms > lease_left_ms)
        after_ms = lease_left_ms;
    return after_ms ? after_ms : 1;
}

static uint64_t wall_of(uint64_t retention_ms, const struct now *now)
{
    return retention_ms - now->retention_ms + now->wall_ms;
}

/* What the rules said, as a reply; what is told of the operation comes with it where it is there. */
static void fill_reply(struct reply *reply, const struct call *call, const struct decision *decision,
                       const struct now *now)
{
    *reply = (struct reply){
        .call = call->type,
        .code = decision->code,
        .reason = decision->reason,
        .answer = decision->answer,
        .ownership = decision->ownership,
        .resumed = decision->resumed,
        .lease_ms = decision->lease_ms,
        .mismatch_operation = decision->mismatch_operation,
        .mismatch_fingerprint = decision->mismatch_fingerprint,
        .released_to = decision->released_to,
    };
    if (decision->answer == ANSWER_EXPIRED) {
        const struct policy *policy = call->policy;
        reply->window_now_ms = clock_latest(now, call->first_sent_ms);
        reply->window_keep_ms = call->keep_ms && call->keep_ms < policy->keep_ms ? call->keep_ms : policy->keep_ms;
    }
    if (decision->code == CODE_NOT_FOUND) {
        reply->field = "get.op";
        reply->message = "get.op: there is no operation with this namespace, caller and key";
    } else if (decision->code == CODE_FAILED_PRECONDITION) {
        reply->field = call->type == CALL_RESOLVE ? "resolve.revision" : "forget.revision";
        reply->message = call->type == CALL_RESOLVE
                             ? "resolve: only an interrupted operation, at the revision that it has"
                             : "forget: only a finished operation, at the revision that it has";
    }
}

/* Which answers about what is done have room for its outcome: the protocol's messages say so. */
static bool shows_outcome(enum call_type call, enum answer answer, enum ownership ownership)
{
    switch (call) {
    case CALL_BEGIN:
        return answer == ANSWER_REPLAY;
    case CALL_COMPLETE:
    case CALL_RESOLVE:
        return ownership == OWNERSHIP_FINAL;
    default:
        return call == CALL_GET;
    }
}

/* The parts that speak of the operation as it is now, and the number that all of it rests on. */
static void add_operation(struct engine *engine, struct reply *reply, const struct lookup *found,
                          const struct values *values, const struct now *now)
{
    if (!found->there) {
        reply->depends = store_newest_number(engine->store);
        return;
    }
    const struct record *record = &found->record;
    reply->depends = record->revision;
    reply->operation = decide_describe(engine, found, values, now);
    reply->running_retry_after_ms = running_retry_after_ms(record, reply->operation.lease_left_ms, now);
    if (record->state == RECORD_DONE) {
        reply->expires_ms = wall_of(record->expires_ms, now);
        reply->outcome = values->outcome;
        reply->body_dropped = values->body_dropped;
        reply->show_outcome = shows_outcome(reply->call, reply->answer, reply->ownership) && reply->code == CODE_OK;
    }
}

/* ---- Waiting ------------------------------------------------------------------------ */

bool decide_alive(struct engine *engine, const struct asker *asker)
{
    return !asker->parked || engine->options.alive(engine->options.context, asker->party);
}

void decide_unpark(struct engine *engine, struct parked *parked)
{
    struct space *recovers = parked->operation ? NULL : space_of_recovers(parked->queue), *space = parked->space;

    deadline_clear(&engine->waits, &parked->deadline);
    engine->waiting--;
    engine->waiting_bytes -= parked->bytes;
    parked_free(parked);
    if (recovers)
        space_let_go(engine, recovers);
    space_remove_waiting(engine, space);
}

/* ---- Shares ------------------------------------------------------------------------- */

/* Rounded up, so that a share of little is not nothing. */
static uint64_t percent_of(uint64_t percent, uint64_t amount)
{
    return amount / 100 * percent + (amount % 100 * percent + 99) / 100;
}

/* May a namespace that has `own` of the `all` that are taken take another one? */
static bool is_within_share(uint64_t share, uint64_t own, uint64_t all, uint64_t limit)
{
    const uint64_t others = all > own ? all - own : 0;

    return own < percent_of(share, limit > others ? limit - others : 0);
}

/* What is asked of one namespace only when so much is taken that some namespace may be over its share: as long as all
 * together have less than the share of everything, none is. */
static bool shares_matter(const struct engine *engine, uint64_t all, uint64_t limit)
{
    return engine->options.namespace_share && all >= percent_of(engine->options.namespace_share, limit);
}

/* Is one more of them, of which the namespace has `own` and all together have `all`, too many for its share? */
static bool over_share(const struct engine *engine, uint64_t own, uint64_t all, uint64_t limit)
{
    return !is_within_share(engine->options.namespace_share, own, all, limit);
}

enum { MESSAGE_BYTES = 256 };

static bool too_many_waiting(const struct engine *engine, struct bytes namespace, char message[MESSAGE_BYTES])
{
    if (!shares_matter(engine, engine->waiting, IDEM_WAITERS_MAX))
        return false;
    const uint64_t own = engine_counts_of(engine, namespace).waiting;
    if (!over_share(engine, own, engine->waiting, IDEM_WAITERS_MAX))
        return false;
    snprintf(message, MESSAGE_BYTES,
             "wait_ms: %llu calls of this namespace wait, and it may have %u %% of what the others leave of 10,000 "
             "(--namespace-share)",
             (unsigned long long)own, engine->options.namespace_share);
    return true;
}

static bool too_many_unfinished(const struct engine *engine, struct bytes namespace, char message[MESSAGE_BYTES])
{
    const uint64_t all = engine->running + engine->interrupted, limit = engine->options.unfinished_max;

    if (all >= limit) {
        snprintf(message, MESSAGE_BYTES,
                 "%llu operations are unfinished, and no more than %llu may be (--max-unfinished)",
                 (unsigned long long)all, (unsigned long long)limit);
        return true;
    }
    if (!shares_matter(engine, all, limit))
        return false;
    const struct engine_counts counts = engine_counts_of(engine, namespace);
    const uint64_t own = counts.running + counts.interrupted;
    if (!over_share(engine, own, all, limit))
        return false;
    snprintf(message, MESSAGE_BYTES,
             "%llu operations of this namespace are unfinished, and it may have %u %% of what the others leave of %llu "
             "(--namespace-share, --max-unfinished)",
             (unsigned long long)own, engine->options.namespace_share, (unsigned long long)limit);
    return true;
}

/* Of the tables' pages a namespace has the part that its records and values have of all. */
static bool takes_too_much(const struct engine *engine, struct bytes namespace, const struct store_space *space,
                           char message[MESSAGE_BYTES])
{
    if (!shares_matter(engine, space->needed_bytes, space->quota_bytes))
        return false;
    const struct engine_counts counts = engine_counts_of(engine, namespace);
    const double part = engine->stored_bytes ? (double)counts.stored_bytes / (double)engine->stored_bytes : 0;
    const uint64_t own =
        (uint64_t)(part * (double)space->used_bytes) + (counts.running + counts.interrupted) * space->unfinished_bytes;
    if (!over_share(engine, own, space->needed_bytes, space->quota_bytes))
        return false;
    snprintf(message, MESSAGE_BYTES,
             "this namespace takes %llu bytes of the store, and it may have %u %% of what the others leave of %llu "
             "(--namespace-share, --quota): it replays, completes and releases, and is granted nothing new",
             (unsigned long long)own, engine->options.namespace_share, (unsigned long long)space->quota_bytes);
    return true;
}

/* ---- Waiting, its limits ------------------------------------------------------------ */

static const char *waiting_limit(const struct engine *engine, const struct asker *asker,
                                 const struct operation *operation, char message[MESSAGE_BYTES])
{
    if (mem_is_short())
        return "wait_ms: the daemon's memory is full (--max-memory), and no more calls can wait";
    if (operation && operation->waiters.count >= IDEM_WAITERS_PER_OPERATION_MAX)
        return "wait_ms: 1,024 calls wait for this operation, and no more can";
    if (engine->waiting >= IDEM_WAITERS_MAX)
        return "wait_ms: 10,000 calls wait, and no more can";
    if (too_many_waiting(engine, asker->call->id.namespace, message))
        return message;
    if (asker->party->parked_count >= IDEM_WAITERS_PER_CONNECTION_MAX)
        return "wait_ms: 256 calls of this connection wait, and no more can";
    if (engine->waiting_bytes + parked_bytes(asker->call) > IDEM_WAITERS_BYTES_MAX)
        return "wait_ms: the calls that wait take 64 MiB, and no more can";
    return NULL;
}

static const char *waiting_field(enum call_type type)
{
    return type == CALL_BEGIN ? "begin.wait_ms" : type == CALL_GET ? "get.wait_ms" : "recover.wait_ms";
}

bool decide_park(struct engine *engine, const struct asker *asker, struct parked_queue *queue,
                 struct operation *operation, const struct now *now)
{
    char message[MESSAGE_BYTES];
    const char *limit = waiting_limit(engine, asker, operation, message);
    const uint64_t wait_end_ms = now->boot_ms + asker->call->wait_ms;

    assert(!asker->parked);
    if (limit) {
        decide_refuse(engine, asker, CODE_RESOURCE_EXHAUSTED, "TOO_MANY_WAITERS", waiting_field(asker->call->type),
                      limit);
        return false;
    }
    struct parked *parked = parked_new(asker->call, asker->party, asker->request, queue);
    parked->operation = operation;
    parked->space = space_add_waiting(engine, asker->call->id.namespace);
    parked->arrival = engine->parked++;
    parked->deadline_is_timeout = asker->deadline_ms < wait_end_ms;
    deadline_set(&engine->waits, &parked->deadline, parked->deadline_is_timeout ? asker->deadline_ms : wait_end_ms);
    engine->waiting++;
    engine->waiting_bytes += parked->bytes;
    return true;
}

/* ---- Deciding ------------------------------------------------------------------------- */

bool decide_no_room(struct engine *engine, const struct asker *asker, bool first)
{
    const uint64_t unfinished = engine->running + engine->interrupted;
    char message[MESSAGE_BYTES];

    if (mem_is_short()) {
        decide_refuse(engine, asker, CODE_RESOURCE_EXHAUSTED, "MEMORY_FULL", NULL,
                      "the daemon's memory is full (--max-memory): it replays, completes and releases, and grants "
                      "nothing new");
        return true;
    }
    if (first && too_many_unfinished(engine, asker->call->id.namespace, message)) {
        decide_refuse(engine, asker, CODE_RESOURCE_EXHAUSTED, "TOO_MANY_UNFINISHED", NULL, message);
        return true;
    }
    const struct store_space space = store_space(engine->store, unfinished + first);
    if (space.full) {
        decide_refuse(
            engine, asker, CODE_RESOURCE_EXHAUSTED, "STORE_FULL", NULL,
            "the store is full (--quota, or the disk): it replays, completes and releases, and grants nothing new");
        return true;
    }
    if ((first || asker->call->type == CALL_CHECKPOINT) &&
        takes_too_much(engine, asker->call->id.namespace, &space, message)) {
        decide_refuse(engine, asker, CODE_RESOURCE_EXHAUSTED, "STORE_FULL", NULL, message);
        return true;
    }
    return false;
}

/* An outcome for which a full disk has no room left. */
static bool no_room_for_outcome(struct engine *engine, const struct asker *asker, const struct decision *decision)
{
    const struct outcome *outcome = &asker->call->outcome;

    if (decision->change != CHANGE_PUT || decision->next.state != RECORD_DONE ||
        store_takes(engine->store, outcome->attributes.size + outcome->body_field.size))
        return false;
    decide_refuse(engine, asker, CODE_RESOURCE_EXHAUSTED, "STORE_FULL", NULL,
                  "the disk is full, and so is what was kept free for outcomes: Renew, and send it again when there is "
                  "room");
    return true;
}

static void decide_damaged(struct engine *engine, const struct asker *asker, struct lookup *found)
{
    struct reply reply = {.call = asker->call->type, .ownership = OWNERSHIP_HELD};

    if (asker->call->type != CALL_FORGET) {
        decide_refuse(engine, asker, CODE_DATA_LOSS, "DAMAGED", NULL,
                      "the stored record of this operation is damaged; Forget removes it");
        return;
    }
    operation_remove_damaged(engine, found, asker->call);
    reply.depends = store_newest_number(engine->store);
    decide_reply(engine, asker, &reply);
}

static unsigned values_needed(const struct call *call, const struct decision *decision)
{
    if (decision->answer == ANSWER_EXECUTE)
        return VALUES_CHECKPOINT | VALUES_INPUT;
    if (decision->answer == ANSWER_INTERRUPTED || call->type == CALL_GET)
        return VALUES_CHECKPOINT | (call->type == CALL_GET ? VALUES_OUTCOME : 0);
    return shows_outcome(call->type, decision->answer, decision->ownership) ? VALUES_OUTCOME : 0;
}

/* Does the change alter what others of this operation may be told? */
static bool concerns_waiters(const struct lookup *found, const struct decision *decision)
{
    return decision->change == CHANGE_REMOVE || decision->granted ||
           (decision->change == CHANGE_PUT && found->record.state != decision->next.state);
}

static void found_in_memory(struct operation *operation, struct lookup *found)
{
    found->operation = operation;
    found->expiry_key = 0;
    found->there = found->damaged = false;
    if (operation && operation->state != RECORD_ABSENT) {
        operation_read(operation, &found->record);
        found->there = true;
    }
}

static void change(struct engine *engine, const struct call *call, struct lookup *found, struct decision *decision)
{
    struct operation *operation = operation_change(engine, found, call, decision);

    found->operation = operation;
    found->expiry_key = 0;
    found->there = decision->change == CHANGE_PUT;
    if (found->there)
        found->record = decision->next;
}

/* Carries out what was decided and is possible. *found is as it is afterwards. */
static void carry_out(struct engine *engine, const struct asker *asker, struct lookup *found, struct decision *decision,
                      const struct now *now)
{
    if (decision->change != CHANGE_NONE)
        change(engine, asker->call, found, decision);
    if (decision->lease_anew) {
        assert(found->operation && found->record.state == RECORD_RUNNING);
        binding_set(engine, found->operation, found->record.flags & RECORD_BOUND ? asker->party : NULL);
        operation_lease_anew(engine, found->operation, decision->lease_ms, now);
    }
    if (decision->answer == ANSWER_REPLAY)
        operation_count_replay(engine, found);
}

/* Answers one asker by what the rules said of what was found: true. False: it goes on waiting, or waits from now on.
 * *again: the operation's other waiters have to be looked at. */
static bool decide(struct engine *engine, const struct asker *asker, struct lookup *found, struct decision *decision,
                   const struct now *now, bool *again)
{
    const struct call *call = asker->call;
    struct values values;
    struct reply reply;

    *again = false;
    if (decision->may_wait && call->wait_ms) {
        if (!asker->parked)
            decide_park(engine, asker, &found->operation->waiters, found->operation, now);
        return false;
    }
    if (decision->answer == ANSWER_EXECUTE && !decide_alive(engine, asker))
        return true;
    if (decision->granted || (call->type == CALL_CHECKPOINT && decision->change != CHANGE_NONE)) {
        if (decide_no_room(engine, asker, decision->granted && !found->there))
            return true;
    }
    if (no_room_for_outcome(engine, asker, decision))
        return true;
    if (!values_fetch(engine, found, values_needed(call, decision), now, &values)) {
        decide_refuse(engine, asker, CODE_DATA_LOSS, "DAMAGED", NULL,
                      "a stored value of this operation is damaged; Forget removes it once it is done");
        return true;
    }
    *again = concerns_waiters(found, decision);
    carry_out(engine, asker, found, decision, now);
    fill_reply(&reply, call, decision, now);
    add_operation(engine, &reply, found, &values, now);
    decide_reply(engine, asker, &reply);
    values_release(&values);
    return true;
}

static void apply_rule(struct engine *engine, const struct call *call, struct lookup *found, const struct now *now,
                       struct decision *decision)
{
    if (found->there && found->record.state == RECORD_RUNNING)
        found->record.lease_left_ms = operation_lease_left_ms(engine, found->operation, found->record.lease_ms, now);
    rule_of(call->type)(found->there ? &found->record : NULL, call, now, store_next_number(engine->store), decision);
}

/* Of what is done: does a part of its outcome not read? Then it can be forgotten whatever its revision, which nobody
 * can learn. */
static bool values_damaged(struct engine *engine, const struct lookup *found, const struct now *now)
{
    struct values values;

    if (!found->there || found->record.state != RECORD_DONE)
        return false;
    if (!values_fetch(engine, found, VALUES_OUTCOME, now, &values))
        return true;
    values_release(&values);
    return false;
}

void decide_call(struct engine *engine, const struct asker *asker, const struct now *now)
{
    struct lookup found;
    struct decision decision;
    bool again;

    operation_find(engine, &asker->call->id, asker->call->hash, now, &found);
    if (found.damaged) {
        decide_damaged(engine, asker, &found);
        return;
    }
    apply_rule(engine, asker->call, &found, now, &decision);
    if (asker->call->type == CALL_FORGET && decision.code != CODE_OK && values_damaged(engine, &found, now)) {
        found.damaged = true;
        decide_damaged(engine, asker, &found);
        return;
    }
    decide(engine, asker, &found, &decision, now, &again);
    if (again && found.operation)
        decide_waiters(engine, found.operation, now);
}

/* ---- Waiters --------------------------------------------------------------------------- */

struct asker decide_asker(const struct parked *parked)
{
    return (struct asker){.party = parked->party,
                          .request = parked->request,
                          .call = &parked->call,
                          .deadline_ms = UINT64_MAX,
                          .parked = true};
}

/* Looks at one waiter. True: the state changed under the others. */
static bool serve_one(struct engine *engine, struct parked *parked, const struct now *now)
{
    const struct asker asker = decide_asker(parked);
    struct lookup found;
    struct decision decision;
    bool again;

    found_in_memory(parked->operation, &found);
    apply_rule(engine, &parked->call, &found, now, &decision);
    if (decide(engine, &asker, &found, &decision, now, &again))
        decide_unpark(engine, parked);
    return again;
}

/* Of an interrupted operation: the first waiter that is owed the grant, since all others then go on waiting. */
static struct parked *first_taker(struct engine *engine, struct operation *operation, const struct now *now)
{
    struct parked *next;

    for (struct parked *parked = operation->waiters.first; parked; parked = next) {
        const struct asker asker = decide_asker(parked);
        struct lookup found;
        struct decision decision;

        next = parked->queue_next;
        if (parked->call.type != CALL_BEGIN)
            continue;
        found_in_memory(operation, &found);
        apply_rule(engine, &parked->call, &found, now, &decision);
        if (decision.answer != ANSWER_EXECUTE)
            continue;
        if (decide_alive(engine, &asker))
            return parked;
        decide_unpark(engine, parked);
    }
    return NULL;
}

/* One round over the waiters, in order. True: the state changed, and those before have to be looked at again. */
static bool serve_round(struct engine *engine, struct operation *operation, const struct now *now)
{
    struct parked *next;

    if (operation->state == RECORD_INTERRUPTED) {
        struct parked *taker = first_taker(engine, operation, now);
        if (taker)
            return serve_one(engine, taker, now) || operation->waiters.first;
    }
    for (struct parked *parked = operation->waiters.first; parked; parked = next) {
        next = parked->queue_next;
        if (serve_one(engine, parked, now))
            return true;
    }
    return false;
}

void decide_waiters(struct engine *engine, struct operation *operation, const struct now *now)
{
    while (serve_round(engine, operation, now))
        ;
    if (operation->state == RECORD_INTERRUPTED)
        listing_serve_recovers(engine, operation, now);
    if (operation->state == RECORD_ABSENT)
        operation_free_absent(engine, operation);
}

void decide_lease_end(struct engine *engine, struct operation *operation, const struct now *now)
{
    struct lookup found;
    struct decision decision;

    found_in_memory(operation, &found);
    rules_lease_end(&found.record, now, store_next_number(engine->store), &decision);
    const struct call nobody = {.hash = operation->hash};
    operation_change(engine, &found, &nobody, &decision);
    decide_waiters(engine, operation, now);
}

void decide_wait_end(struct engine *engine, struct parked *parked, const struct now *now)
{
    const struct asker asker = decide_asker(parked);
    struct lookup found;
    struct decision decision;
    bool again;

    if (parked->deadline_is_timeout) {
        decide_refuse(engine, &asker, CODE_DEADLINE_EXCEEDED, "TIMEOUT", "timeout_ms",
                      "timeout_ms passed while the call waited; it had no effect");
    } else if (!parked->operation) {
        listing_recover_ended(engine, &asker, now);
    } else {
        parked->call.wait_ms = 0;
        found_in_memory(parked->operation, &found);
        apply_rule(engine, &parked->call, &found, now, &decision);
        assert(decision.change == CHANGE_NONE);
        decide(engine, &asker, &found, &decision, now, &again);
    }
    decide_unpark(engine, parked);
}
