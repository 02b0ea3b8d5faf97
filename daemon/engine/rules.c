/* What follows from a call, by the tables of PROTOCOL.md. Each function starts from an empty
 * decision and fills in what its table row says; the small builders at the top make the next
 * record, so that a transition looks the same whoever causes it. */
#include "daemon/engine/rules.h"

#include <assert.h>
#include <stddef.h>

/* `next`, most of its bytes, is filled by whoever puts it. */
static void start(struct decision *decision)
{
    _Static_assert(CODE_OK == 0 && offsetof(struct decision, next) + sizeof(struct record) == sizeof(struct decision),
                   "what stands before the last member is cleared");
    memset(decision, 0, offsetof(struct decision, next));
}

static void fail(struct decision *decision, enum code code, const char *reason)
{
    decision->code = code;
    decision->reason = reason;
}

static uint64_t within(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

bool rules_expired(const struct record *record, const struct now *now)
{
    return record->state == RECORD_DONE && now->retention_ms >= record->expires_ms;
}

/* ---- The next record -------------------------------------------------------- */

static void put(struct decision *decision, const struct record *current, uint64_t number)
{
    assert(number > current->revision);
    decision->change = CHANGE_PUT;
    decision->next = *current;
    decision->next.revision = number;
}

static void set_flag(struct record *record, enum record_flags flag, bool on)
{
    record->flags = (uint8_t)(on ? record->flags | flag : record->flags & ~flag);
}

static void run(struct record *next, uint32_t lease_ms)
{
    next->state = RECORD_RUNNING;
    next->lease_ms = lease_ms;
    next->interrupted_ms = 0;
}

static void interrupt(struct decision *decision, const struct record *current, const struct now *now, uint64_t number)
{
    put(decision, current, number);
    decision->next.state = RECORD_INTERRUPTED;
    decision->next.interrupted_ms = now->wall_ms;
}

static void tell_grant(struct decision *decision, bool granted, uint32_t lease_ms)
{
    decision->answer = ANSWER_EXECUTE;
    decision->granted = granted;
    decision->resumed = !granted;
    decision->lease_anew = true;
    decision->lease_ms = lease_ms;
}

/* An acknowledged lease is not cut. As long as more of it is left than a shorter one would bring, the record keeps its
 * length, so that neither the flush nor a restart starts the shorter one. */
static uint32_t lease_to_keep(const struct record *current, uint32_t lease_ms)
{
    const bool cuts = current->state == RECORD_RUNNING && lease_ms < current->lease_left_ms;

    return cuts ? current->lease_ms : lease_ms;
}

static uint32_t lease_of(const struct call *call)
{
    return call->lease_ms ? call->lease_ms : call->policy->lease_ms;
}

/* A grant of an operation that was absent. */
static void grant_first(struct decision *decision, const struct call *call, const struct now *now, uint64_t number)
{
    decision->change = CHANGE_PUT;
    decision->next = (struct record){
        .id = call->id,
        .generation = number,
        .fence = number,
        .revision = number,
        .attempt = 1,
        .keep_ms = call->keep_ms,
        .begun_ms = now->wall_ms,
        .operation = call->operation,
        .fingerprint = call->fingerprint,
        .attempt_id = call->attempt_id,
        .owner = call->owner,
        .traceparent = call->traceparent,
        .input_bytes = call->input.size,
    };
    run(&decision->next, lease_of(call));
    set_flag(&decision->next, RECORD_BOUND, call->bind_to_connection);
    decision->new_input = call->input.size > 0;
    tell_grant(decision, true, lease_of(call));
}

/* A grant of an interrupted operation to somebody else: takeover. What the first Begin said of the
 * request stays. */
static void grant_again(struct decision *decision, const struct record *current, const struct call *call,
                        uint64_t number)
{
    assert(current->state == RECORD_INTERRUPTED);
    put(decision, current, number);
    decision->next.fence = number;
    decision->next.attempt = current->attempt + 1;
    decision->next.attempt_id = call->attempt_id;
    decision->next.owner = call->owner;
    decision->next.traceparent = call->traceparent;
    run(&decision->next, lease_of(call));
    set_flag(&decision->next, RECORD_BOUND, call->bind_to_connection);
    set_flag(&decision->next, RECORD_RECOVERED, call->type == CALL_RECOVER);
    tell_grant(decision, true, lease_of(call));
}

/* The grant that is current, to the attempt that has it: its reply was lost. Stored only where
 * something changes. */
static void resume(struct decision *decision, const struct record *current, const struct call *call, uint64_t number)
{
    const bool bind = call->bind_to_connection && !(current->flags & RECORD_BOUND);
    const uint32_t lease_ms = lease_of(call), keep_ms = lease_to_keep(current, lease_ms);

    if (current->state != RECORD_RUNNING || keep_ms != current->lease_ms || bind) {
        put(decision, current, number);
        run(&decision->next, keep_ms);
        set_flag(&decision->next, RECORD_BOUND, bind || current->flags & RECORD_BOUND);
    }
    tell_grant(decision, false, lease_ms);
}

static void finish(struct decision *decision, const struct record *current, const struct call *call, uint64_t keep_ms,
                   const struct now *now, uint64_t number)
{
    const struct policy *policy = call->policy;
    const struct outcome *outcome = &call->outcome;
    struct record *next = &decision->next;

    keep_ms = within(keep_ms ? keep_ms : policy->keep_ms, policy->keep_min_ms, policy->keep_max_ms);
    put(decision, current, number);
    next->state = RECORD_DONE;
    next->keep_ms = keep_ms;
    next->done_ms = now->wall_ms;
    next->interrupted_ms = 0;
    next->attempt_id = next->checkpoint_name = (struct bytes){0};
    next->input_bytes = next->checkpoint_bytes = 0;
    next->expires_ms = sum(now->retention_ms, keep_ms);
    next->body_expires_ms = next->expires_ms;
    if (call->keep_body_ms && call->keep_body_ms < keep_ms)
        next->body_expires_ms = sum(now->retention_ms, call->keep_body_ms);
    next->outcome_kind = outcome->kind;
    next->outcome_code = outcome->code;
    next->body_bytes = outcome->body_bytes;
    next->digest[0] = outcome->digest[0];
    next->digest[1] = outcome->digest[1];
    next->digest_left_out = outcome->digest_left_out;
    next->attributes_bytes = outcome->attributes.size;
    next->body_field_bytes = outcome->body_field.size;
    next->flags = 0;
    set_flag(next, RECORD_RESOLVED, call->type == CALL_RESOLVE);
    set_flag(next, RECORD_BODY_DROPPED, outcome->body_dropped);
    set_flag(next, RECORD_ATTRIBUTES_DROPPED, outcome->attributes_dropped);
    decision->ownership = OWNERSHIP_HELD;
}

/* ---- Begin ------------------------------------------------------------------- */

/* Was the key first sent so long ago that its outcome may have come and gone? At the latest: refusing is the safe
 * mistake. */
static bool too_old(const struct call *call, const struct now *now)
{
    const struct policy *policy = call->policy;
    const uint64_t window_ms = call->keep_ms && call->keep_ms < policy->keep_ms ? call->keep_ms : policy->keep_ms;

    return call->first_sent_ms && clock_latest(now, call->first_sent_ms) >= sum(call->first_sent_ms, window_ms);
}

static bool fingerprint_matches(const struct record *current, const struct call *call)
{
    const int others = sizeof call->other_fingerprints / sizeof call->other_fingerprints[0];

    if (bytes_equal(current->fingerprint, call->fingerprint))
        return true;
    for (int i = 0; i < others; i++)
        if (call->other_fingerprints[i].data && bytes_equal(current->fingerprint, call->other_fingerprints[i]))
            return true;
    return false;
}

static bool is_attempt(const struct record *current, struct bytes attempt_id, bool recovered)
{
    return attempt_id.size > 0 && bytes_equal(current->attempt_id, attempt_id) &&
           !!(current->flags & RECORD_RECOVERED) == recovered;
}

static bool takes_over(const struct record *current, const struct call *call)
{
    const enum if_interrupted what = call->if_interrupted ? call->if_interrupted : call->policy->if_interrupted;

    return what == IF_INTERRUPTED_TAKE_OVER &&
           (!call->take_over_revision || call->take_over_revision == current->revision);
}

void rules_begin(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                 struct decision *decision)
{
    start(decision);
    if (!current) {
        if (too_old(call, now))
            decision->answer = ANSWER_EXPIRED;
        else
            grant_first(decision, call, now, number);
        return;
    }
    decision->mismatch_operation = !bytes_equal(current->operation, call->operation);
    decision->mismatch_fingerprint = !fingerprint_matches(current, call);
    if (decision->mismatch_operation || decision->mismatch_fingerprint) {
        decision->answer = ANSWER_MISMATCH;
    } else if (current->state == RECORD_DONE) {
        decision->answer = ANSWER_REPLAY;
    } else if (is_attempt(current, call->attempt_id, false)) {
        resume(decision, current, call, number);
    } else if (current->state == RECORD_RUNNING) {
        decision->answer = ANSWER_RUNNING;
        decision->may_wait = true;
    } else if (takes_over(current, call)) {
        grant_again(decision, current, call, number);
        decision->next.keep_ms = call->keep_ms;
    } else {
        decision->answer = ANSWER_INTERRUPTED;
    }
}

/* Is it the outcome that is stored, sent again? */
static bool is_outcome_of(const struct record *current, const struct outcome *outcome)
{
    uint64_t digest[2] = {outcome->digest[0], outcome->digest[1]};

    if (outcome->digest_left_out) {
        const bool is_field = record_plain_digest(outcome->kind, outcome->code, outcome->body_field, digest);
        assert(is_field);
    }
    return record_has_digest(current, digest);
}

/* ---- The owner's calls --------------------------------------------------------- */

/* The column that all four share: the ownership where the grant is not both current and unfinished.
 * HELD: it is. */
static enum ownership owner_of(const struct record *current, uint64_t fence)
{
    if (!current || fence < current->generation)
        return OWNERSHIP_GONE;
    if (current->state == RECORD_DONE)
        return OWNERSHIP_FINAL;
    return fence == current->fence ? OWNERSHIP_HELD : OWNERSHIP_LOST;
}

void rules_complete(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                    struct decision *decision)
{
    start(decision);
    decision->ownership = owner_of(current, call->fence);
    if (decision->ownership == OWNERSHIP_HELD) {
        finish(decision, current, call, call->keep_ms ? call->keep_ms : current->keep_ms, now, number);
    } else if (decision->ownership == OWNERSHIP_FINAL) {
        const bool completed_it = call->fence == current->fence && !(current->flags & RECORD_RESOLVED);
        if (completed_it && is_outcome_of(current, &call->outcome))
            decision->ownership = OWNERSHIP_HELD;
    }
}

void rules_release(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision)
{
    start(decision);
    decision->ownership = owner_of(current, call->fence);
    if (decision->ownership != OWNERSHIP_HELD)
        return;
    if (call->effect == EFFECT_NONE || (call->effect == EFFECT_NONE_BY_ME && current->attempt == 1)) {
        decision->change = CHANGE_REMOVE;
        return;
    }
    decision->released_to = RECORD_INTERRUPTED;
    if (current->state == RECORD_RUNNING)
        interrupt(decision, current, now, number);
}

static void renew(struct decision *decision, const struct record *current, const struct call *call, uint64_t number)
{
    const uint32_t lease_ms = call->lease_ms ? call->lease_ms : current->lease_ms;
    const uint32_t keep_ms = lease_to_keep(current, lease_ms);

    if (current->state != RECORD_RUNNING || keep_ms != current->lease_ms) {
        put(decision, current, number);
        run(&decision->next, keep_ms);
    }
    decision->lease_anew = true;
    decision->lease_ms = lease_ms;
}

void rules_renew(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                 struct decision *decision)
{
    (void)now;
    start(decision);
    decision->ownership = owner_of(current, call->fence);
    if (decision->ownership == OWNERSHIP_HELD)
        renew(decision, current, call, number);
}

void rules_checkpoint(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                      struct decision *decision)
{
    (void)now;
    start(decision);
    decision->ownership = owner_of(current, call->fence);
    if (decision->ownership != OWNERSHIP_HELD)
        return;
    renew(decision, current, call, number);
    put(decision, current, number);
    run(&decision->next, lease_to_keep(current, decision->lease_ms));
    decision->next.checkpoint_name = call->checkpoint_name;
    decision->next.checkpoint_bytes = call->checkpoint_data.size;
    decision->new_checkpoint = true;
}

/* ---- Looking, recovering, operating ---------------------------------------------- */

void rules_get(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
               struct decision *decision)
{
    (void)call, (void)now, (void)number;
    start(decision);
    if (!current)
        fail(decision, CODE_NOT_FOUND, "NOT_FOUND");
    else
        decision->may_wait = current->state != RECORD_DONE;
}

void rules_resolve(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision)
{
    const bool happened = call->verdict == VERDICT_HAPPENED;

    start(decision);
    if (!current)
        decision->ownership = OWNERSHIP_GONE;
    else if (current->state == RECORD_DONE)
        decision->ownership = happened && is_outcome_of(current, &call->outcome) ? OWNERSHIP_HELD : OWNERSHIP_FINAL;
    else if (current->state != RECORD_INTERRUPTED)
        fail(decision, CODE_FAILED_PRECONDITION, "NOT_INTERRUPTED");
    else if (call->revision != current->revision)
        fail(decision, CODE_FAILED_PRECONDITION, "WRONG_REVISION");
    else if (happened)
        finish(decision, current, call, current->keep_ms, now, number);
    else {
        decision->ownership = OWNERSHIP_HELD;
        decision->change = CHANGE_REMOVE;
    }
}

void rules_forget(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                  struct decision *decision)
{
    (void)now, (void)number;
    start(decision);
    if (!current) {
        decision->ownership = OWNERSHIP_GONE;
    } else if (current->state != RECORD_DONE) {
        fail(decision, CODE_FAILED_PRECONDITION, "NOT_DONE");
    } else if (call->revision != current->revision) {
        fail(decision, CODE_FAILED_PRECONDITION, "WRONG_REVISION");
    } else {
        decision->ownership = OWNERSHIP_HELD;
        decision->change = CHANGE_REMOVE;
    }
}

void rules_recover(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision)
{
    (void)now;
    start(decision);
    grant_again(decision, current, call, number);
}

void rules_recover_again(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                         struct decision *decision)
{
    (void)now;
    assert(rules_is_recovered_by(current, call->attempt_id));
    start(decision);
    resume(decision, current, call, number);
}

bool rules_is_recovered_by(const struct record *current, struct bytes attempt_id)
{
    return current->state != RECORD_DONE && is_attempt(current, attempt_id, true);
}

void rules_lease_end(const struct record *current, const struct now *now, uint64_t number, struct decision *decision)
{
    assert(current->state == RECORD_RUNNING);
    start(decision);
    interrupt(decision, current, now, number);
}
