/* The naive model. It is one function for each row of PROTOCOL.md's tables, and knows nothing of memory, storage or
 * speed. Where PROTOCOL.md is silent, what was chosen here is said in a comment that begins with "Silent". */
#include "tests/model/model.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct model_text model_text(struct bytes bytes)
{
    struct model_text text = {.size = bytes.size};
    if (bytes.size)
        memcpy(text.data, bytes.data, bytes.size);
    return text;
}

struct model_value model_value(struct bytes bytes)
{
    struct model_value value = {.size = bytes.size};
    if (bytes.size)
        value.sum = XXH3_64bits(bytes.data, bytes.size);
    return value;
}

bool model_text_equal(const struct model_text *a, const struct model_text *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

bool model_value_equal(struct model_value a, struct model_value b)
{
    return a.size == b.size && a.sum == b.sum;
}

static bool text_is(const struct model_text *text, struct bytes bytes)
{
    return text->size == bytes.size && (bytes.size == 0 || memcmp(text->data, bytes.data, bytes.size) == 0);
}

void model_name(struct model_operation *operation, const struct identity *id)
{
    *operation = (struct model_operation){.state = RECORD_ABSENT};
    operation->namespace = model_text(id->namespace);
    operation->caller = model_text(id->caller);
    operation->key = model_text(id->key);
}

bool model_is_named(const struct model_operation *operation, const struct identity *id)
{
    return text_is(&operation->namespace, id->namespace) && text_is(&operation->caller, id->caller) &&
           text_is(&operation->key, id->key);
}

static void outcome_of_record(struct model_outcome *outcome, const struct record *record)
{
    outcome->kind = record->outcome_kind;
    outcome->code = record->outcome_code;
    outcome->body_dropped = record->flags & RECORD_BODY_DROPPED;
    outcome->attributes_dropped = record->flags & RECORD_ATTRIBUTES_DROPPED;
    outcome->body_bytes = record->body_bytes;
    outcome->attributes.size = record->attributes_bytes;
    outcome->body.size = record->body_field_bytes;
    outcome->digest[0] = record->digest[0];
    outcome->digest[1] = record->digest[1];
}

void model_of_record(struct model_operation *operation, const struct record *record)
{
    model_name(operation, &record->id);
    operation->state = record->state;
    operation->generation = record->generation;
    operation->fence = record->fence;
    operation->revision = record->revision;
    operation->attempt = record->attempt;
    operation->lease_ms = record->lease_ms;
    operation->lease_left_ms = record->lease_left_ms;
    operation->keep_ms = record->keep_ms;
    operation->bound = record->flags & RECORD_BOUND;
    operation->recovered = record->flags & RECORD_RECOVERED;
    operation->resolved = record->flags & RECORD_RESOLVED;
    operation->begun_ms = record->begun_ms;
    operation->interrupted_ms = record->interrupted_ms;
    operation->done_ms = record->done_ms;
    operation->operation = model_text(record->operation);
    operation->fingerprint = model_text(record->fingerprint);
    operation->attempt_id = model_text(record->attempt_id);
    operation->owner = model_text(record->owner);
    operation->traceparent = model_text(record->traceparent);
    operation->checkpoint_name = model_text(record->checkpoint_name);
    operation->checkpoint.size = record->checkpoint_bytes;
    operation->input.size = record->input_bytes;
    if (record->state == RECORD_DONE) {
        outcome_of_record(&operation->outcome, record);
        operation->expires_ms = record->expires_ms;
        operation->body_expires_ms = record->body_expires_ms;
    }
}

bool model_is_there(const struct model_operation *operation, const struct now *now)
{
    if (operation->state == RECORD_DONE)
        return now->retention_ms < operation->expires_ms;
    return operation->state != RECORD_ABSENT;
}

bool model_has_body(const struct model_operation *operation, const struct now *now)
{
    return !operation->outcome.body_dropped && now->retention_ms < operation->body_expires_ms;
}

uint64_t model_keep_ms(const struct policy *policy, uint64_t keep_ms)
{
    if (keep_ms == 0)
        keep_ms = policy->keep_ms;
    if (keep_ms < policy->keep_min_ms)
        keep_ms = policy->keep_min_ms;
    if (keep_ms > policy->keep_max_ms)
        keep_ms = policy->keep_max_ms;
    return keep_ms;
}

/* By the letter: what the call said, also where the outcome would be kept longer. */
uint64_t model_window_ms(const struct policy *policy, uint64_t keep_ms)
{
    return keep_ms != 0 && keep_ms < policy->keep_ms ? keep_ms : policy->keep_ms;
}

static bool is_too_old(const struct call *call, const struct now *now)
{
    /* By each stretch of the past in which the wall clock may have shown that time. */
    uint64_t later = now->wall_ms;
    for (unsigned i = 0; now->past && i < now->past->count; i++) {
        const struct clock_stretch *stretch = &now->past->stretches[i];
        uint64_t then = now->retention_ms - (uint64_t)stretch->ahead_ms;
        if (stretch->from_ms <= call->first_sent_ms && call->first_sent_ms <= stretch->to_ms && later < then)
            later = then;
    }
    if (call->first_sent_ms == 0 || call->first_sent_ms > later)
        return false;
    return later - call->first_sent_ms >= model_window_ms(call->policy, call->keep_ms);
}

static bool fingerprint_matches(const struct model_operation *operation, const struct call *call)
{
    if (text_is(&operation->fingerprint, call->fingerprint))
        return true;
    for (int i = 0; i < 3; i++)
        if (call->other_fingerprints[i].size && text_is(&operation->fingerprint, call->other_fingerprints[i]))
            return true;
    return false;
}

bool model_takes_over(const struct model_operation *operation, const struct call *call)
{
    enum if_interrupted what = call->if_interrupted;
    if (what == IF_INTERRUPTED_DEFAULT)
        what = call->policy->if_interrupted;
    if (call->take_over_revision != 0 && call->take_over_revision != operation->revision)
        return false;
    return what == IF_INTERRUPTED_TAKE_OVER;
}

static uint32_t lease_of_begin(const struct call *call)
{
    return call->lease_ms ? call->lease_ms : call->policy->lease_ms;
}

/* A grant: the first of a life, or one more. The fingerprint that was stored stays, since the key is bound to it. */
static void grant(struct model_decision *decision, const struct call *call, uint64_t number, bool recovered)
{
    struct model_operation *next = &decision->next;
    next->state = RECORD_RUNNING;
    next->fence = next->revision = number;
    next->attempt++;
    next->lease_ms = lease_of_begin(call);
    next->bound = call->bind_to_connection;
    next->recovered = recovered;
    next->interrupted_ms = 0;
    next->attempt_id = model_text(call->attempt_id);
    next->owner = model_text(call->owner);
    next->traceparent = model_text(call->traceparent);
    if (!recovered) /* Silent: a Recover does not say how long to keep, so what Begin said stays. */
        next->keep_ms = call->keep_ms;
    decision->answer = ANSWER_EXECUTE;
    decision->granted = decision->changed = decision->lease_anew = true;
    decision->lease_ms = next->lease_ms;
}

static void grant_first(struct model_decision *decision, const struct call *call, const struct now *now,
                        uint64_t number)
{
    struct model_operation *next = &decision->next;
    model_name(next, &call->id);
    next->generation = number;
    next->begun_ms = now->wall_ms;
    next->operation = model_text(call->operation);
    next->fingerprint = model_text(call->fingerprint);
    next->input = model_value(call->input);
    grant(decision, call, number, false);
}

/* The length that is stored: a lease that was acknowledged keeps its own while more of it is left than of the new one.
 */
static uint32_t longer_lease(const struct model_operation *operation, uint32_t lease_ms)
{
    if (operation->state == RECORD_RUNNING && operation->lease_left_ms > lease_ms)
        return operation->lease_ms;
    return lease_ms;
}

/* The same attempt sent again: the lease anew. Silent: it may ask for a binding that it had not, and not give one up;
 * all else it has said before. */
static void resume(struct model_decision *decision, const struct call *call, uint64_t number)
{
    struct model_operation *next = &decision->next;
    uint32_t lease_ms = lease_of_begin(call);
    decision->answer = ANSWER_EXECUTE;
    decision->resumed = decision->lease_anew = true;
    decision->lease_ms = lease_ms;
    lease_ms = longer_lease(next, lease_ms);
    bool bound = next->bound || call->bind_to_connection;
    if (next->state == RECORD_RUNNING && next->lease_ms == lease_ms && next->bound == bound)
        return;
    decision->changed = true;
    next->state = RECORD_RUNNING;
    next->interrupted_ms = 0;
    next->lease_ms = lease_ms;
    next->bound = bound;
    next->revision = number;
}

static void decide_begin(const struct model_operation *operation, bool there, const struct call *call,
                         const struct now *now, uint64_t number, struct model_decision *decision)
{
    bool same_attempt = call->attempt_id.size && text_is(&operation->attempt_id, call->attempt_id);
    if (!there && is_too_old(call, now)) {
        decision->answer = ANSWER_EXPIRED;
    } else if (!there) {
        grant_first(decision, call, now, number);
    } else if (!text_is(&operation->operation, call->operation) || !fingerprint_matches(operation, call)) {
        decision->answer = ANSWER_MISMATCH;
        decision->mismatch_operation = !text_is(&operation->operation, call->operation);
        decision->mismatch_fingerprint = !fingerprint_matches(operation, call);
    } else if (operation->state == RECORD_DONE) {
        decision->answer = ANSWER_REPLAY;
    } else if (same_attempt && !operation->recovered) {
        resume(decision, call, number);
    } else if (operation->state == RECORD_RUNNING) {
        decision->answer = ANSWER_RUNNING;
        decision->may_wait = true;
    } else if (model_takes_over(operation, call)) {
        grant(decision, call, number, false);
    } else {
        decision->answer = ANSWER_INTERRUPTED;
    }
}

/* Done: what only an unfinished operation needs is no more. Silent: when it was interrupted goes too. */
static void finish(struct model_decision *decision, const struct call *call, const struct now *now, uint64_t number,
                   uint64_t keep_ms, uint64_t keep_body_ms)
{
    struct model_operation *next = &decision->next;
    const struct outcome *sent = &call->outcome;
    next->state = RECORD_DONE;
    next->revision = number;
    next->done_ms = now->wall_ms;
    next->interrupted_ms = 0;
    next->resolved = call->type == CALL_RESOLVE;
    next->checkpoint_name.size = 0;
    next->checkpoint = next->input = (struct model_value){0};
    next->outcome.kind = sent->kind;
    next->outcome.code = sent->code;
    next->outcome.body_dropped = sent->body_dropped;
    next->outcome.attributes_dropped = sent->attributes_dropped;
    next->outcome.body_bytes = sent->body_bytes;
    next->outcome.attributes = model_value(sent->attributes);
    next->outcome.body = model_value(sent->body_field);
    next->outcome.digest[0] = sent->digest[0];
    next->outcome.digest[1] = sent->digest[1];
    next->expires_ms = now->retention_ms + model_keep_ms(call->policy, keep_ms);
    next->body_expires_ms = next->expires_ms;
    if (keep_body_ms != 0 && now->retention_ms + keep_body_ms < next->expires_ms)
        next->body_expires_ms = now->retention_ms + keep_body_ms;
    decision->changed = true;
}

static bool is_stored_outcome(const struct model_operation *operation, const struct call *call)
{
    return operation->outcome.digest[0] == call->outcome.digest[0] &&
           operation->outcome.digest[1] == call->outcome.digest[1];
}

/* The rows that all calls of the owner share. True: this grant is current, and nothing is decided yet. */
static bool is_current(const struct model_operation *operation, bool there, const struct call *call,
                       struct model_decision *decision)
{
    if (!there || call->fence < operation->generation)
        decision->ownership = OWNERSHIP_GONE;
    else if (operation->state == RECORD_DONE)
        decision->ownership = OWNERSHIP_FINAL;
    else if (call->fence != operation->fence)
        decision->ownership = OWNERSHIP_LOST;
    else
        decision->ownership = OWNERSHIP_HELD;
    return decision->ownership == OWNERSHIP_HELD;
}

static void decide_complete(const struct model_operation *operation, bool there, const struct call *call,
                            const struct now *now, uint64_t number, struct model_decision *decision)
{
    if (is_current(operation, there, call, decision)) {
        uint64_t keep_ms = call->keep_ms ? call->keep_ms : operation->keep_ms;
        finish(decision, call, now, number, keep_ms, call->keep_body_ms);
        return;
    }
    /* Silent: what an operator resolved no grant completed, so a late owner is told FINAL also of an equal outcome. */
    bool completed_it =
        decision->ownership == OWNERSHIP_FINAL && call->fence == operation->fence && !operation->resolved;
    if (completed_it && is_stored_outcome(operation, call))
        decision->ownership = OWNERSHIP_HELD;
}

static void interrupt(struct model_decision *decision, const struct now *now, uint64_t number)
{
    decision->changed = true;
    decision->next.state = RECORD_INTERRUPTED;
    decision->next.revision = number;
    decision->next.interrupted_ms = now->wall_ms;
}

static void remove_it(struct model_decision *decision)
{
    decision->changed = true;
    decision->next.state = RECORD_ABSENT;
}

static void decide_release(const struct model_operation *operation, bool there, const struct call *call,
                           const struct now *now, uint64_t number, struct model_decision *decision)
{
    if (!is_current(operation, there, call, decision))
        return;
    bool nothing_happened =
        call->effect == EFFECT_NONE || (call->effect == EFFECT_NONE_BY_ME && operation->attempt == 1);
    decision->released_to = nothing_happened ? RECORD_ABSENT : RECORD_INTERRUPTED;
    if (nothing_happened)
        remove_it(decision);
    else if (operation->state == RECORD_RUNNING) /* sent again it has its effect once */
        interrupt(decision, now, number);
}

/* Renew and Checkpoint: the lease of a current grant, RUNNING again if it was interrupted. */
static void renew(const struct model_operation *operation, const struct call *call, uint64_t number,
                  struct model_decision *decision)
{
    struct model_operation *next = &decision->next;
    uint32_t lease_ms = call->lease_ms ? call->lease_ms : operation->lease_ms;
    decision->lease_anew = true;
    decision->lease_ms = lease_ms;
    lease_ms = longer_lease(operation, lease_ms);
    if (operation->state == RECORD_RUNNING && operation->lease_ms == lease_ms)
        return;
    decision->changed = true;
    next->state = RECORD_RUNNING;
    next->interrupted_ms = 0;
    next->lease_ms = lease_ms;
    next->revision = number;
}

static void decide_renew(const struct model_operation *operation, bool there, const struct call *call, uint64_t number,
                         struct model_decision *decision)
{
    if (is_current(operation, there, call, decision))
        renew(operation, call, number, decision);
}

static void decide_checkpoint(const struct model_operation *operation, bool there, const struct call *call,
                              uint64_t number, struct model_decision *decision)
{
    if (!is_current(operation, there, call, decision))
        return;
    renew(operation, call, number, decision);
    decision->changed = decision->checkpointed = true;
    decision->next.revision = number;
    decision->next.checkpoint_name = model_text(call->checkpoint_name);
    decision->next.checkpoint = model_value(call->checkpoint_data);
}

static void refuse(struct model_decision *decision, const char *reason)
{
    decision->code = CODE_FAILED_PRECONDITION;
    decision->reason = reason;
}

static void decide_resolve(const struct model_operation *operation, bool there, const struct call *call,
                           const struct now *now, uint64_t number, struct model_decision *decision)
{
    if (!there) {
        decision->ownership = OWNERSHIP_GONE;
    } else if (operation->state == RECORD_DONE) {
        bool same = call->verdict == VERDICT_HAPPENED && is_stored_outcome(operation, call);
        decision->ownership = same ? OWNERSHIP_HELD : OWNERSHIP_FINAL;
    } else if (operation->state == RECORD_RUNNING) {
        refuse(decision, "NOT_INTERRUPTED");
    } else if (call->revision != operation->revision) {
        refuse(decision, "WRONG_REVISION");
    } else {
        decision->ownership = OWNERSHIP_HELD;
        if (call->verdict == VERDICT_HAPPENED)
            finish(decision, call, now, number, operation->keep_ms, 0);
        else
            remove_it(decision);
    }
}

static void decide_forget(const struct model_operation *operation, bool there, const struct call *call,
                          struct model_decision *decision)
{
    if (!there) {
        decision->ownership = OWNERSHIP_GONE;
    } else if (operation->state != RECORD_DONE || call->revision != operation->revision) {
        refuse(decision, operation->state == RECORD_DONE ? "WRONG_REVISION" : NULL);
    } else {
        decision->ownership = OWNERSHIP_HELD;
        remove_it(decision);
    }
}

static void start(struct model_decision *decision, const struct model_operation *operation)
{
    *decision = (struct model_decision){.code = CODE_OK, .next = *operation};
}

void model_decide(const struct model_operation *operation, const struct call *call, const struct now *now,
                  uint64_t number, struct model_decision *decision)
{
    bool there = model_is_there(operation, now);
    start(decision, operation);
    if (call->type == CALL_BEGIN)
        decide_begin(operation, there, call, now, number, decision);
    if (call->type == CALL_COMPLETE)
        decide_complete(operation, there, call, now, number, decision);
    if (call->type == CALL_RELEASE)
        decide_release(operation, there, call, now, number, decision);
    if (call->type == CALL_RENEW)
        decide_renew(operation, there, call, number, decision);
    if (call->type == CALL_CHECKPOINT)
        decide_checkpoint(operation, there, call, number, decision);
    if (call->type == CALL_RESOLVE)
        decide_resolve(operation, there, call, now, number, decision);
    if (call->type == CALL_FORGET)
        decide_forget(operation, there, call, decision);
    if (call->type == CALL_GET) {
        decision->code = there ? CODE_OK : CODE_NOT_FOUND;
        decision->may_wait = there && operation->state != RECORD_DONE;
    }
}

void model_recover(const struct model_operation *operation, const struct call *call, const struct now *now,
                   uint64_t number, struct model_decision *decision)
{
    (void)now;
    start(decision, operation);
    grant(decision, call, number, true);
}

bool model_is_recovered_by(const struct model_operation *operation, struct bytes attempt_id)
{
    return (operation->state == RECORD_RUNNING || operation->state == RECORD_INTERRUPTED) && operation->recovered &&
           attempt_id.size != 0 && text_is(&operation->attempt_id, attempt_id);
}

void model_recover_again(const struct model_operation *operation, const struct call *call, uint64_t number,
                         struct model_decision *decision)
{
    start(decision, operation);
    resume(decision, call, number);
}

void model_lease_end(const struct model_operation *operation, const struct now *now, uint64_t number,
                     struct model_decision *decision)
{
    start(decision, operation);
    interrupt(decision, now, number);
}

/* ---- Comparing: one table of what can be seen ---- */

enum field_kind { FIELD_TEXT, FIELD_VALUE, FIELD_U64, FIELD_U32, FIELD_I32, FIELD_U8, FIELD_BOOL };
enum field_when { WHEN_ALWAYS, WHEN_THERE, WHEN_UNFINISHED, WHEN_DONE };

struct field {
    const char *name;
    size_t offset;
    enum field_kind kind;
    enum field_when when;
};

#define FIELD(member, kind, when)                                                                                      \
    {                                                                                                                  \
#member, offsetof(struct model_operation, member), kind, when                                                  \
    }

/* Who ran it, for how long and bound to what is nobody's business once it is done. */
static const struct field fields[] = {
    FIELD(namespace, FIELD_TEXT, WHEN_ALWAYS),
    FIELD(caller, FIELD_TEXT, WHEN_ALWAYS),
    FIELD(key, FIELD_TEXT, WHEN_ALWAYS),
    FIELD(generation, FIELD_U64, WHEN_THERE),
    FIELD(fence, FIELD_U64, WHEN_THERE),
    FIELD(revision, FIELD_U64, WHEN_THERE),
    FIELD(attempt, FIELD_U32, WHEN_THERE),
    FIELD(lease_ms, FIELD_U32, WHEN_UNFINISHED),
    FIELD(keep_ms, FIELD_U64, WHEN_UNFINISHED),
    FIELD(bound, FIELD_BOOL, WHEN_UNFINISHED),
    FIELD(recovered, FIELD_BOOL, WHEN_UNFINISHED),
    FIELD(resolved, FIELD_BOOL, WHEN_THERE),
    FIELD(begun_ms, FIELD_U64, WHEN_THERE),
    FIELD(interrupted_ms, FIELD_U64, WHEN_THERE),
    FIELD(done_ms, FIELD_U64, WHEN_THERE),
    FIELD(operation, FIELD_TEXT, WHEN_THERE),
    FIELD(fingerprint, FIELD_TEXT, WHEN_THERE),
    FIELD(attempt_id, FIELD_TEXT, WHEN_UNFINISHED),
    FIELD(owner, FIELD_TEXT, WHEN_THERE),
    FIELD(traceparent, FIELD_TEXT, WHEN_THERE),
    FIELD(checkpoint_name, FIELD_TEXT, WHEN_THERE),
    FIELD(checkpoint, FIELD_VALUE, WHEN_THERE),
    FIELD(input, FIELD_VALUE, WHEN_THERE),
    FIELD(outcome.kind, FIELD_U8, WHEN_DONE),
    FIELD(outcome.code, FIELD_I32, WHEN_DONE),
    FIELD(outcome.body_dropped, FIELD_BOOL, WHEN_DONE),
    FIELD(outcome.attributes_dropped, FIELD_BOOL, WHEN_DONE),
    FIELD(outcome.body_bytes, FIELD_U64, WHEN_DONE),
    FIELD(outcome.attributes, FIELD_VALUE, WHEN_DONE),
    FIELD(outcome.body, FIELD_VALUE, WHEN_DONE),
    FIELD(outcome.digest[0], FIELD_U64, WHEN_DONE),
    FIELD(outcome.digest[1], FIELD_U64, WHEN_DONE),
    FIELD(expires_ms, FIELD_U64, WHEN_DONE),
    FIELD(body_expires_ms, FIELD_U64, WHEN_DONE),
};

static bool counts(enum field_when when, enum record_state state)
{
    if (when == WHEN_ALWAYS)
        return true;
    if (when == WHEN_DONE)
        return state == RECORD_DONE;
    return state != RECORD_ABSENT && (when == WHEN_THERE || state != RECORD_DONE);
}

static long long number_in(enum field_kind kind, const void *at)
{
    if (kind == FIELD_U64)
        return (long long)*(const uint64_t *)at;
    if (kind == FIELD_U32)
        return *(const uint32_t *)at;
    if (kind == FIELD_I32)
        return *(const int32_t *)at;
    if (kind == FIELD_U8)
        return *(const uint8_t *)at;
    if (kind == FIELD_BOOL)
        return *(const bool *)at;
    return ((const struct model_value *)at)->size;
}

static bool field_same(enum field_kind kind, const void *wanted, const void *got, bool sums)
{
    if (kind == FIELD_TEXT)
        return model_text_equal(wanted, got);
    if (kind == FIELD_VALUE && sums)
        return model_value_equal(*(const struct model_value *)wanted, *(const struct model_value *)got);
    return number_in(kind, wanted) == number_in(kind, got);
}

static void say_field(const struct field *field, const void *wanted, const void *got, char *why, size_t why_bytes)
{
    if (field->kind == FIELD_TEXT) {
        const struct model_text *a = wanted, *b = got;
        snprintf(why, why_bytes, "%s: wanted \"%.*s\", got \"%.*s\"", field->name, (int)a->size, (const char *)a->data,
                 (int)b->size, (const char *)b->data);
    } else {
        snprintf(why, why_bytes, "%s: wanted %lld, got %lld", field->name, number_in(field->kind, wanted),
                 number_in(field->kind, got));
    }
}

bool model_same(const struct model_operation *wanted, const struct model_operation *got, bool sums, char *why,
                size_t why_bytes)
{
    if (wanted->state != got->state) {
        snprintf(why, why_bytes, "state: wanted %d, got %d", wanted->state, got->state);
        return false;
    }
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const void *a = (const char *)wanted + fields[i].offset, *b = (const char *)got + fields[i].offset;
        if (!counts(fields[i].when, wanted->state) || field_same(fields[i].kind, a, b, sums))
            continue;
        say_field(&fields[i], a, b, why, why_bytes);
        return false;
    }
    return true;
}
