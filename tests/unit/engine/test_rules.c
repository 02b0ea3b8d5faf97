/* The rules against the naive model: every state, every call, every argument that matters, before, at and after each
 * time that they look at. A case is a row of dials; an odometer turns them through all their positions, and everything
 * that was decided is compared field by field. What differs is printed with its case, once for each field and call. */
#include "daemon/engine/rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "idem/v1/idem.pb-c.h"
#include "tests/model/model.h"

enum {
    GENERATION = 1000,
    FENCE = 1100, /* of a second attempt */
    REVISION = 1200,
    NUMBER = 5000,
    LEASE_MS = 30000,
    POLICY_LEASE_MS = 20000,
    HOUR_MS = 3600 * 1000,
    DAY_MS = 24 * HOUR_MS,
    DIALS_MAX = 12,
    STATES_MAX = 512,
};

#define NOW_MS  UINT64_C(1700000000000) /* when a case happens, on the retention clock, unless a dial says otherwise */
#define TEXT(s) ((struct bytes){(const uint8_t *)(s), sizeof(s) - 1})
#define NONE    ((struct bytes){NULL, 0})

static const struct bytes attempt_a = {(const uint8_t *)"aaaaaaaaaaaaaaaa", 16};
static const struct bytes attempt_b = {(const uint8_t *)"bbbbbbbbbbbbbbbb", 16};

static const struct policy policies[2] = {
    {.keep_ms = 2 * DAY_MS,
     .keep_min_ms = 60 * 1000,
     .keep_max_ms = UINT64_C(30) * DAY_MS,
     .lease_ms = POLICY_LEASE_MS,
     .grace_ms = 5000,
     .if_interrupted = IF_INTERRUPTED_REPORT,
     .max_outcome_bytes = 1 << 20},
    {.keep_ms = 2 * DAY_MS,
     .keep_min_ms = 60 * 1000,
     .keep_max_ms = UINT64_C(30) * DAY_MS,
     .lease_ms = POLICY_LEASE_MS,
     .grace_ms = 5000,
     .if_interrupted = IF_INTERRUPTED_TAKE_OVER,
     .max_outcome_bytes = 1 << 20},
};
static const uint64_t keeps_ms[] = {0, 500, HOUR_MS, 60 * 1000, UINT64_C(100) * DAY_MS, 2 * DAY_MS};

/* ---- Dials ---- */

struct dials {
    unsigned count, at[DIALS_MAX], size[DIALS_MAX];
};

static struct dials dials_of(unsigned count, ...)
{
    struct dials dials = {.count = count};
    va_list sizes;
    assert_true(count <= DIALS_MAX);
    va_start(sizes, count);
    for (unsigned i = 0; i < count; i++)
        dials.size[i] = va_arg(sizes, unsigned);
    va_end(sizes);
    return dials;
}

static bool dials_turn(struct dials *dials)
{
    for (unsigned i = 0; i < dials->count; i++) {
        if (++dials->at[i] < dials->size[i])
            return true;
        dials->at[i] = 0;
    }
    return false;
}

/* ---- Comparing ---- */

static struct {
    const char *name;
    const struct record *current;
    const struct call *call;
    const struct now *now;
    unsigned long cases, differences;
    char seen[64][64];
    unsigned seen_count;
} bench;

static bool seen_before(const char *what)
{
    for (unsigned i = 0; i < bench.seen_count; i++)
        if (strcmp(bench.seen[i], what) == 0)
            return true;
    if (bench.seen_count < 64)
        snprintf(bench.seen[bench.seen_count++], sizeof bench.seen[0], "%s", what);
    return false;
}

static void say_case(void)
{
    const struct record *r = bench.current;
    const struct call *c = bench.call;
    if (r)
        fprintf(stderr,
                "  state %d attempt %u fence %llu revision %llu flags %d attempt_id %.*s checkpoint %u keep %llu "
                "expires %llu body_expires %llu\n",
                r->state, r->attempt, (unsigned long long)r->fence, (unsigned long long)r->revision, r->flags,
                (int)r->attempt_id.size, (const char *)r->attempt_id.data, r->checkpoint_bytes,
                (unsigned long long)r->keep_ms, (unsigned long long)r->expires_ms,
                (unsigned long long)r->body_expires_ms);
    else
        fprintf(stderr, "  absent\n");
    fprintf(stderr,
            "  call %d fence %llu revision %llu effect %d verdict %d lease %u wait %u bind %d attempt_id %.*s "
            "if_interrupted %d/%d take_over %llu first_sent %llu keep %llu keep_body %llu\n",
            c->type, (unsigned long long)c->fence, (unsigned long long)c->revision, c->effect, c->verdict, c->lease_ms,
            c->wait_ms, c->bind_to_connection, (int)c->attempt_id.size, (const char *)c->attempt_id.data,
            c->if_interrupted, c->policy->if_interrupted, (unsigned long long)c->take_over_revision,
            (unsigned long long)c->first_sent_ms, (unsigned long long)c->keep_ms, (unsigned long long)c->keep_body_ms);
    fprintf(stderr, "  now wall %llu retention %llu\n", (unsigned long long)bench.now->wall_ms,
            (unsigned long long)bench.now->retention_ms);
}

__attribute__((format(printf, 2, 3))) static void differ(const char *field, const char *format, ...)
{
    char what[64];
    va_list arguments;
    bench.differences++;
    snprintf(what, sizeof what, "%s %s", bench.name, field);
    if (seen_before(what))
        return;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", what);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    say_case();
}

#define SAME(member)                                                                                                   \
    do {                                                                                                               \
        if (wanted->member != got->member)                                                                             \
            differ(#member, "wanted %lld, got %lld", (long long)wanted->member, (long long)got->member);               \
    } while (0)

static void compare_next(const struct model_decision *wanted, const struct decision *got)
{
    char why[1024], *colon;
    struct model_operation next;
    enum change change = !wanted->changed                      ? CHANGE_NONE
                         : wanted->next.state == RECORD_ABSENT ? CHANGE_REMOVE
                                                               : CHANGE_PUT;
    if (change != got->change)
        differ("change", "wanted %d, got %d", change, got->change);
    if (change != CHANGE_PUT || got->change != CHANGE_PUT)
        return;
    model_of_record(&next, &got->next);
    if (!model_same(&wanted->next, &next, false, why, sizeof why)) {
        colon = strchr(why, ':');
        *colon = 0;
        differ(why, "%s", colon + 1);
    }
    if (got->new_checkpoint != wanted->checkpointed)
        differ("new_checkpoint", "got %d", got->new_checkpoint);
    bool new_input = wanted->granted && wanted->next.attempt == 1;
    if (got->new_input != new_input && (got->new_input || bench.call->input.size))
        differ("new_input", "got %d", got->new_input);
}

static void compare(const struct model_decision *wanted, const struct decision *got)
{
    bench.cases++;
    SAME(code);
    if (wanted->reason && (!got->reason || strcmp(wanted->reason, got->reason) != 0))
        differ("reason", "wanted %s, got %s", wanted->reason, got->reason ? got->reason : "none");
    if (wanted->code != CODE_OK || got->code != CODE_OK)
        return;
    SAME(answer);
    SAME(ownership);
    SAME(mismatch_operation);
    SAME(mismatch_fingerprint);
    SAME(resumed);
    SAME(granted);
    SAME(may_wait);
    SAME(lease_anew);
    SAME(lease_ms);
    SAME(released_to);
    compare_next(wanted, got);
}

/* ---- States ---- */

static struct record states[STATES_MAX];
static unsigned states_count;

static struct record state_common(enum record_state state, unsigned attempt)
{
    return (struct record){
        .id = {TEXT("ns"), TEXT("tenant"), TEXT("key")},
        .hash = 77,
        .state = state,
        .generation = GENERATION,
        .fence = attempt == 1 ? GENERATION : FENCE,
        .revision = REVISION,
        .attempt = attempt,
        .lease_ms = LEASE_MS,
        .begun_ms = NOW_MS - HOUR_MS,
        .operation = TEXT("POST /charges"),
        .fingerprint = TEXT("fingerprint-1"),
        .owner = TEXT("api-7"),
        .traceparent = TEXT("trace-1"),
    };
}

static void add_unfinished(void)
{
    /* Beside the leases that calls ask for: dial_lease. */
    static const uint32_t lefts_ms[] = {0, LEASE_MS / 3, LEASE_MS / 3 + 1};
    struct dials d = dials_of(8, 2u, 2u, 2u, 2u, 2u, 2u, 3u, 3u);
    do {
        unsigned attempt = 1 + d.at[1];
        struct record record = state_common(d.at[0] ? RECORD_INTERRUPTED : RECORD_RUNNING, attempt);
        if (d.at[2] && attempt == 1)
            continue; /* what Recover granted was granted before */
        if (d.at[7] && record.state == RECORD_INTERRUPTED)
            continue; /* nothing is left of its lease */
        record.lease_left_ms = lefts_ms[d.at[7]];
        record.flags = (d.at[2] ? RECORD_RECOVERED : 0) | (d.at[3] ? RECORD_BOUND : 0);
        record.attempt_id = d.at[4] ? attempt_a : NONE;
        if (d.at[5]) {
            record.checkpoint_name = TEXT("step 1");
            record.checkpoint_bytes = 17;
            record.input_bytes = 40;
        }
        record.keep_ms = keeps_ms[d.at[6] * 2]; /* none, an hour, more than is allowed */
        record.interrupted_ms = record.state == RECORD_INTERRUPTED ? NOW_MS - 60 * 1000 : 0;
        if (record.state == RECORD_RUNNING && !d.at[5] && !d.at[6])
            record.revision = record.fence; /* nothing but the grant so far */
        states[states_count++] = record;
    } while (dials_turn(&d));
}

static void add_done(void)
{
    struct dials d = dials_of(5, 2u, 2u, 3u, 2u, 2u);
    do {
        struct record record = state_common(RECORD_DONE, 1 + d.at[0]);
        record.flags = d.at[1] ? RECORD_RESOLVED : 0;
        record.attempt_id = attempt_a;
        record.done_ms = NOW_MS - 30 * 1000;
        record.keep_ms = d.at[4] ? HOUR_MS : 0;
        record.expires_ms = NOW_MS + 1000;
        record.body_expires_ms = d.at[3] ? NOW_MS - 1000 : record.expires_ms;
        record.outcome_kind = 1;
        record.outcome_code = 201;
        record.digest[0] = 11;
        record.digest[1] = 12;
        record.body_bytes = d.at[2] == 0 ? 0 : 100;
        record.body_field_bytes = d.at[2] == 1 ? 102 : 0;
        if (d.at[2] == 2)
            record.flags |= RECORD_BODY_DROPPED | RECORD_ATTRIBUTES_DROPPED;
        states[states_count++] = record;
    } while (dials_turn(&d));
}

static int setup(void **state)
{
    (void)state;
    add_unfinished();
    add_done();
    assert_true(states_count < STATES_MAX);
    return 0;
}

/* The times that matter in a state: around the ends of an outcome and its body; else just now. */
enum { TIMES_DONE = 6 };
static unsigned times_of(const struct record *record)
{
    return record && record->state == RECORD_DONE ? TIMES_DONE : 1;
}

static struct now time_of(const struct record *record, unsigned which, unsigned wall)
{
    struct now now = {.boot_ms = 5000000, .retention_ms = NOW_MS};
    if (record && record->state == RECORD_DONE)
        now.retention_ms = (which < 3 ? record->body_expires_ms : record->expires_ms) + which % 3 - 1;
    now.wall_ms = wall == 0 ? now.retention_ms : wall == 1 ? now.retention_ms + DAY_MS : now.retention_ms - DAY_MS;
    return now;
}

typedef void rule(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                  struct decision *decision);

/* One case. Rules are given what is there; the model looks itself. */
static void try_rule(rule *decide, const char *name, const struct record *record, const struct call *call,
                     const struct now *now)
{
    struct model_operation operation;
    struct model_decision wanted;
    struct decision got;
    memset(&got, 0xa5, sizeof got); /* each rule fills it whole */
    if (record)
        model_of_record(&operation, record);
    else
        model_name(&operation, &call->id);
    bench.name = name;
    bench.current = record;
    bench.call = call;
    bench.now = now;
    if (record && record->state == RECORD_DONE && rules_expired(record, now) != !model_is_there(&operation, now))
        differ("expired", "got %d", rules_expired(record, now));
    model_decide(&operation, call, now, NUMBER, &wanted);
    decide(model_is_there(&operation, now) ? record : NULL, call, now, NUMBER, &got);
    compare(&wanted, &got);
}

static void try_times(rule *decide, const char *name, const struct record *record, const struct call *call)
{
    for (unsigned which = 0; which < times_of(record); which++) {
        struct now now = time_of(record, which, which % 3);
        try_rule(decide, name, record, call, &now);
    }
}

/* The case in every state that is there, and absent. */
static void try_states(rule *decide, const char *name, const struct call *call)
{
    try_times(decide, name, NULL, call);
    for (unsigned i = 0; i < states_count; i++)
        try_times(decide, name, &states[i], call);
}

static void finish(unsigned long cases_at_least)
{
    unsigned long cases = bench.cases, differences = bench.differences;
    bench.cases = bench.differences = 0;
    bench.seen_count = 0;
    assert_true(cases >= cases_at_least);
    assert_int_equal(differences, 0);
}

static struct call call_of(enum call_type type)
{
    return (struct call){
        .type = type,
        .id = {TEXT("ns"), TEXT("tenant"), TEXT("key")},
        .hash = 77,
        .traceparent = TEXT("trace-2"),
        .policy = &policies[0],
        .owner = TEXT("api-9"),
    };
}

/* ---- Begin ---- */

static void dial_match(struct call *call, unsigned operation, unsigned fingerprint)
{
    static const struct bytes right = TEXT("fingerprint-1"), wrong = TEXT("fingerprint-2");
    call->operation = operation == 0 ? TEXT("POST /charges") : operation == 1 ? TEXT("POST /charge") : NONE;
    call->fingerprint = fingerprint == 0 ? right : fingerprint == 5 ? NONE : wrong;
    if (fingerprint == 2)
        call->other_fingerprints[0] = right;
    if (fingerprint == 3) {
        call->other_fingerprints[0] = call->other_fingerprints[1] = TEXT("fingerprint-3");
        call->other_fingerprints[2] = right;
    }
    if (fingerprint == 4)
        call->other_fingerprints[0] = TEXT("fingerprint-");
}

static void dial_lease(struct call *call, unsigned lease)
{
    static const uint32_t leases_ms[] = {0, LEASE_MS, 2 * LEASE_MS, LEASE_MS / 3, POLICY_LEASE_MS};
    call->lease_ms = leases_ms[lease];
}

static void dial_attempt(struct call *call, unsigned attempt)
{
    call->attempt_id = attempt == 0 ? NONE : attempt == 1 ? attempt_a : attempt_b;
}

static struct call begin_of(const struct dials *d, const struct record *record)
{
    struct call call = call_of(CALL_BEGIN);
    dial_match(&call, d->at[0], d->at[1]);
    dial_attempt(&call, d->at[2]);
    call.if_interrupted = d->at[3];
    call.policy = &policies[d->at[4]];
    call.take_over_revision = d->at[5] == 0 ? 0 : record->revision + d->at[5] - 1;
    dial_lease(&call, d->at[6]);
    call.bind_to_connection = d->at[7];
    if (d->at[8]) { /* what must not count where the operation is there */
        call.first_sent_ms = 1;
        call.keep_ms = HOUR_MS;
        call.wait_ms = 5000;
        call.input = TEXT("the second's input");
    }
    return call;
}

static void test_begin_of_what_is_there(void **state)
{
    struct dials d = dials_of(9, 2u, 6u, 3u, 3u, 2u, 3u, 4u, 2u, 2u);
    (void)state;
    do {
        for (unsigned i = 0; i < states_count; i++) {
            const struct record *record = &states[i];
            if (record->keep_ms != 0)
                continue; /* it does not count here */
            struct call call = begin_of(&d, record);
            try_times(rules_begin, "begin", record, &call);
        }
    } while (dials_turn(&d));
    finish(1000 * 1000);
}

static void dial_first_sent(struct call *call, unsigned first_sent, const struct now *now)
{
    uint64_t later_ms = now->wall_ms > now->retention_ms ? now->wall_ms : now->retention_ms;
    uint64_t edge_ms = later_ms - model_window_ms(call->policy, call->keep_ms);
    const uint64_t times_ms[] = {0, 1, edge_ms - 1, edge_ms, edge_ms + 1, later_ms, later_ms + 1, UINT64_MAX};
    call->first_sent_ms = times_ms[first_sent];
}

static void test_begin_of_what_is_absent(void **state)
{
    /* The wall clock was never set; nothing is known; it was a year ahead until an hour ago, and is right since. */
    static const uint64_t year_ms = UINT64_C(365) * DAY_MS;
    static const struct clock_past unknown = {.count = 1, .stretches = {{0, UINT64_MAX, 0}}};
    const struct clock_past ahead = {.count = 2,
                                     .stretches = {{NOW_MS - 2 * HOUR_MS, NOW_MS - HOUR_MS, 0},
                                                   {NOW_MS - HOUR_MS - year_ms, UINT64_MAX, (int64_t)year_ms}}};
    const struct clock_past *const pasts[] = {NULL, &unknown, &ahead};
    struct dials d = dials_of(10, 3u, 8u, 6u, 3u, 5u, 2u, 3u, 2u, 2u, 3u);
    (void)state;
    do {
        struct call call = call_of(CALL_BEGIN);
        struct now now = time_of(NULL, 0, d.at[0]);
        now.past = pasts[d.at[9]];
        if (now.past == &ahead)
            now.wall_ms -= year_ms;
        call.keep_ms = keeps_ms[d.at[2]];
        dial_first_sent(&call, d.at[1], &now);
        dial_attempt(&call, d.at[3]);
        dial_lease(&call, d.at[4]);
        call.bind_to_connection = d.at[5];
        dial_match(&call, d.at[6], d.at[6] ? 5 : 0);
        call.input = d.at[7] ? TEXT("input") : NONE;
        if (d.at[8]) { /* what only counts where it is there */
            call.if_interrupted = IF_INTERRUPTED_TAKE_OVER;
            call.take_over_revision = REVISION;
            call.wait_ms = 5000;
        }
        try_rule(rules_begin, "begin", NULL, &call, &now);
    } while (dials_turn(&d));
    finish(50 * 1000);
}

/* Its outcome over, it begins as if it had never been. */
static void test_begin_of_what_is_expired(void **state)
{
    struct dials d = dials_of(5, 2u, 6u, 3u, 3u, 2u);
    (void)state;
    do {
        for (unsigned i = 0; i < states_count; i++) {
            struct call call = call_of(CALL_BEGIN);
            dial_match(&call, d.at[0], d.at[1]);
            dial_attempt(&call, d.at[2]);
            call.if_interrupted = d.at[3];
            call.input = d.at[4] ? TEXT("input") : NONE;
            if (states[i].state == RECORD_DONE)
                try_times(rules_begin, "begin", &states[i], &call);
        }
    } while (dials_turn(&d));
    finish(1000);
}

/* ---- The owner's calls ---- */

enum { FENCES = 9 };
static void dial_fence(struct call *call, unsigned fence)
{
    static const uint64_t fences[FENCES] = {0,         1,     GENERATION - 1, GENERATION,       GENERATION + 1,
                                            FENCE - 1, FENCE, FENCE + 1,      UINT64_MAX / 4096};
    call->fence = fences[fence];
}

static void dial_outcome(struct call *call, unsigned outcome)
{
    struct outcome *o = &call->outcome;
    *o = (struct outcome){.kind = 1, .code = 201, .digest = {11, 12}};
    if (outcome == 1 || outcome == 2)
        o->digest[outcome - 1] = 99; /* another one */
    if (outcome == 1) {
        o->kind = 2;
        o->code = -500;
        o->attributes = TEXT("\x1a\x06\x0a\x01n\x12\x01v");
        o->body_field = TEXT("\x22\x04"
                             "body");
        o->body_bytes = 4;
    }
    if (outcome == 2) {
        o->body_dropped = o->attributes_dropped = true;
        o->body_bytes = 1 << 30;
    }
}

static void test_complete(void **state)
{
    struct dials d = dials_of(4, (unsigned)FENCES, 3u, 6u, 6u);
    (void)state;
    do {
        struct call call = call_of(CALL_COMPLETE);
        dial_fence(&call, d.at[0]);
        dial_outcome(&call, d.at[1]);
        call.keep_ms = keeps_ms[d.at[2]];
        const uint64_t keeps_body_ms[] = {0, 1, 60 * 1000, HOUR_MS, HOUR_MS + 1, UINT64_C(200) * DAY_MS};
        call.keep_body_ms = keeps_body_ms[d.at[3]];
        try_states(rules_complete, "complete", &call);
    } while (dials_turn(&d));
    finish(200 * 1000);
}

static void test_release(void **state)
{
    struct dials d = dials_of(2, (unsigned)FENCES, 3u);
    (void)state;
    do {
        struct call call = call_of(CALL_RELEASE);
        dial_fence(&call, d.at[0]);
        call.effect = EFFECT_UNKNOWN + d.at[1];
        try_states(rules_release, "release", &call);
    } while (dials_turn(&d));
    finish(5000);
}

static void test_renew(void **state)
{
    struct dials d = dials_of(2, (unsigned)FENCES, 5u);
    (void)state;
    do {
        struct call call = call_of(CALL_RENEW);
        dial_fence(&call, d.at[0]);
        dial_lease(&call, d.at[1]);
        try_states(rules_renew, "renew", &call);
    } while (dials_turn(&d));
    finish(5000);
}

static void test_checkpoint(void **state)
{
    struct dials d = dials_of(4, (unsigned)FENCES, 5u, 2u, 2u);
    (void)state;
    do {
        struct call call = call_of(CALL_CHECKPOINT);
        dial_fence(&call, d.at[0]);
        dial_lease(&call, d.at[1]);
        call.checkpoint_name = d.at[2] ? TEXT("step 1") : TEXT("step 2");
        call.checkpoint_data = d.at[3] ? TEXT("seventeen letters") : NONE;
        try_states(rules_checkpoint, "checkpoint", &call);
    } while (dials_turn(&d));
    finish(20 * 1000);
}

/* ---- Looking, recovering, operating ---- */

static void test_get(void **state)
{
    (void)state;
    for (unsigned wait = 0; wait < 2; wait++) {
        struct call call = call_of(CALL_GET);
        call.wait_ms = wait * 5000;
        try_states(rules_get, "get", &call);
    }
    finish(500);
}

static void test_resolve(void **state)
{
    struct dials d = dials_of(4, 6u, 2u, 3u, 2u);
    (void)state;
    do {
        static const uint64_t revisions[] = {0, GENERATION, FENCE, REVISION - 1, REVISION, REVISION + 1};
        struct call call = call_of(CALL_RESOLVE);
        call.revision = revisions[d.at[0]];
        call.verdict = VERDICT_HAPPENED + d.at[1];
        dial_outcome(&call, d.at[2]);
        call.policy = &policies[d.at[3]];
        call.reason = TEXT("looked at the ledger");
        try_states(rules_resolve, "resolve", &call);
    } while (dials_turn(&d));
    finish(10 * 1000);
}

static void test_forget(void **state)
{
    static const uint64_t revisions[] = {0, GENERATION, FENCE, REVISION - 1, REVISION, REVISION + 1};
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        struct call call = call_of(CALL_FORGET);
        call.revision = revisions[i];
        try_states(rules_forget, "forget", &call);
    }
    finish(1000);
}

static void try_recover(const struct record *record, const struct call *call, const struct now *now, bool again)
{
    struct model_operation operation;
    struct model_decision wanted;
    struct decision got;
    memset(&got, 0xa5, sizeof got);
    model_of_record(&operation, record);
    bench.name = again ? "recover again" : "recover";
    bench.current = record;
    bench.call = call;
    bench.now = now;
    if (again) {
        model_recover_again(&operation, call, NUMBER, &wanted);
        rules_recover_again(record, call, now, NUMBER, &got);
    } else {
        model_recover(&operation, call, now, NUMBER, &wanted);
        rules_recover(record, call, now, NUMBER, &got);
    }
    compare(&wanted, &got);
}

static void test_recover(void **state)
{
    struct dials d = dials_of(3, 3u, 5u, 2u);
    (void)state;
    do {
        struct call call = call_of(CALL_RECOVER);
        struct now now = time_of(NULL, 0, d.at[0]);
        call.id.caller = call.id.key = NONE;
        call.limit = 1;
        dial_attempt(&call, d.at[0]);
        dial_lease(&call, d.at[1]);
        call.bind_to_connection = d.at[2];
        for (unsigned i = 0; i < states_count; i++) {
            struct model_operation operation;
            model_of_record(&operation, &states[i]);
            bool own = model_is_recovered_by(&operation, call.attempt_id);
            bench.current = &states[i];
            bench.call = &call;
            bench.now = &now;
            bench.name = "recover";
            if (rules_is_recovered_by(&states[i], call.attempt_id) != own)
                differ("is_recovered_by", "wanted %d", own);
            if (own)
                try_recover(&states[i], &call, &now, true);
            if (states[i].state == RECORD_INTERRUPTED)
                try_recover(&states[i], &call, &now, false);
        }
    } while (dials_turn(&d));
    finish(2000);
}

static void test_lease_end(void **state)
{
    struct call call = call_of(CALL_RENEW);
    (void)state;
    for (unsigned i = 0; i < states_count; i++) {
        struct now now = time_of(NULL, 0, i % 3);
        struct model_operation operation;
        struct model_decision wanted;
        struct decision got;
        if (states[i].state != RECORD_RUNNING)
            continue;
        memset(&got, 0xa5, sizeof got);
        bench.name = "lease end";
        bench.current = &states[i];
        bench.call = &call;
        bench.now = &now;
        model_of_record(&operation, &states[i]);
        model_lease_end(&operation, &now, NUMBER, &wanted);
        rules_lease_end(&states[i], &now, NUMBER, &got);
        compare(&wanted, &got);
    }
    finish(50);
}

/* ---- The numbers that go over the wire ---- */

static void test_numbers_are_those_of_the_wire(void **state)
{
    (void)state;
    assert_int_equal(ANSWER_NONE, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_UNSPECIFIED);
    assert_int_equal(ANSWER_EXECUTE, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE);
    assert_int_equal(ANSWER_REPLAY, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY);
    assert_int_equal(ANSWER_RUNNING, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING);
    assert_int_equal(ANSWER_MISMATCH, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_MISMATCH);
    assert_int_equal(ANSWER_INTERRUPTED, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_INTERRUPTED);
    assert_int_equal(ANSWER_EXPIRED, IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXPIRED);
    assert_int_equal(OWNERSHIP_NONE, IDEM__V1__OWNERSHIP__OWNERSHIP_UNSPECIFIED);
    assert_int_equal(OWNERSHIP_HELD, IDEM__V1__OWNERSHIP__OWNERSHIP_HELD);
    assert_int_equal(OWNERSHIP_LOST, IDEM__V1__OWNERSHIP__OWNERSHIP_LOST);
    assert_int_equal(OWNERSHIP_FINAL, IDEM__V1__OWNERSHIP__OWNERSHIP_FINAL);
    assert_int_equal(OWNERSHIP_GONE, IDEM__V1__OWNERSHIP__OWNERSHIP_GONE);
    assert_int_equal(EFFECT_UNKNOWN, IDEM__V1__EFFECT__EFFECT_UNKNOWN);
    assert_int_equal(EFFECT_NONE_BY_ME, IDEM__V1__EFFECT__EFFECT_NONE_BY_ME);
    assert_int_equal(EFFECT_NONE, IDEM__V1__EFFECT__EFFECT_NONE);
    assert_int_equal(VERDICT_HAPPENED, IDEM__V1__VERDICT__VERDICT_HAPPENED);
    assert_int_equal(VERDICT_DID_NOT_HAPPEN, IDEM__V1__VERDICT__VERDICT_DID_NOT_HAPPEN);
    assert_int_equal(IF_INTERRUPTED_DEFAULT, IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_UNSPECIFIED);
    assert_int_equal(IF_INTERRUPTED_REPORT, IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_REPORT);
    assert_int_equal(IF_INTERRUPTED_TAKE_OVER, IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_TAKE_OVER);
    assert_int_equal(RECORD_ABSENT, IDEM__V1__STATE__STATE_UNSPECIFIED);
    assert_int_equal(RECORD_RUNNING, IDEM__V1__STATE__STATE_RUNNING);
    assert_int_equal(RECORD_INTERRUPTED, IDEM__V1__STATE__STATE_INTERRUPTED);
    assert_int_equal(RECORD_DONE, IDEM__V1__STATE__STATE_DONE);
}

static void test_codes_are_those_of_the_wire(void **state)
{
    (void)state;
    assert_int_equal(CODE_OK, IDEM__V1__CODE__CODE_OK);
    assert_int_equal(CODE_CANCELLED, IDEM__V1__CODE__CODE_CANCELLED);
    assert_int_equal(CODE_INVALID_ARGUMENT, IDEM__V1__CODE__CODE_INVALID_ARGUMENT);
    assert_int_equal(CODE_DEADLINE_EXCEEDED, IDEM__V1__CODE__CODE_DEADLINE_EXCEEDED);
    assert_int_equal(CODE_NOT_FOUND, IDEM__V1__CODE__CODE_NOT_FOUND);
    assert_int_equal(CODE_PERMISSION_DENIED, IDEM__V1__CODE__CODE_PERMISSION_DENIED);
    assert_int_equal(CODE_RESOURCE_EXHAUSTED, IDEM__V1__CODE__CODE_RESOURCE_EXHAUSTED);
    assert_int_equal(CODE_FAILED_PRECONDITION, IDEM__V1__CODE__CODE_FAILED_PRECONDITION);
    assert_int_equal(CODE_UNIMPLEMENTED, IDEM__V1__CODE__CODE_UNIMPLEMENTED);
    assert_int_equal(CODE_INTERNAL, IDEM__V1__CODE__CODE_INTERNAL);
    assert_int_equal(CODE_UNAVAILABLE, IDEM__V1__CODE__CODE_UNAVAILABLE);
    assert_int_equal(CODE_DATA_LOSS, IDEM__V1__CODE__CODE_DATA_LOSS);
    assert_int_equal(CODE_UNAUTHENTICATED, IDEM__V1__CODE__CODE_UNAUTHENTICATED);
}

static void test_calls_are_the_fields_of_a_request(void **state)
{
    static const struct {
        const char *name;
        enum call_type type;
    } calls[] = {
        {"hello", CALL_HELLO},     {"begin", CALL_BEGIN},     {"complete", CALL_COMPLETE},
        {"release", CALL_RELEASE}, {"renew", CALL_RENEW},     {"checkpoint", CALL_CHECKPOINT},
        {"get", CALL_GET},         {"recover", CALL_RECOVER}, {"resolve", CALL_RESOLVE},
        {"forget", CALL_FORGET},   {"list", CALL_LIST},       {"stats", CALL_STATS},
        {"cancel", CALL_CANCEL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field_by_name(&idem__v1__request__descriptor, calls[i].name);
        assert_non_null(field);
        assert_int_equal(field->id, calls[i].type);
    }
}

/* ---- The comparison itself can fail ---- */

static void test_the_comparison_sees_a_difference(void **state)
{
    struct model_operation a, b;
    struct record other;
    char why[1024];
    (void)state;
    for (unsigned i = 0; i < states_count; i++) {
        other = states[i];
        model_of_record(&a, &states[i]);
        model_of_record(&b, &other);
        assert_true(model_same(&a, &b, true, why, sizeof why));
        other.revision++;
        model_of_record(&b, &other);
        assert_false(model_same(&a, &b, true, why, sizeof why));
        assert_true(strncmp(why, "revision:", 9) == 0);
        other = states[i];
        other.owner = TEXT("api-8");
        model_of_record(&b, &other);
        assert_false(model_same(&a, &b, true, why, sizeof why));
        b = a;
        b.input.sum++;
        assert_false(model_same(&a, &b, true, why, sizeof why));
        if (i > 100)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_of_what_is_there),
        cmocka_unit_test(test_begin_of_what_is_absent),
        cmocka_unit_test(test_begin_of_what_is_expired),
        cmocka_unit_test(test_complete),
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_renew),
        cmocka_unit_test(test_checkpoint),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_forget),
        cmocka_unit_test(test_recover),
        cmocka_unit_test(test_lease_end),
        cmocka_unit_test(test_numbers_are_those_of_the_wire),
        cmocka_unit_test(test_codes_are_those_of_the_wire),
        cmocka_unit_test(test_calls_are_the_fields_of_a_request),
        cmocka_unit_test(test_the_comparison_sees_a_difference),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
