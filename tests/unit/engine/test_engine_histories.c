/* Random histories of many clients over the engine, with a store and a clock of the test's own that crash and come
 * back.
 *
 * What is checked, at each step:
 *  - each call that is answered at once is answered as the naive model answers it in the state that its operation had,
 * and the first change it makes is the model's;
 *  - each stored change is one that a history may have: a grant never follows a running one, attempts count up, what is
 * done changes no more, numbers grow;
 *  - each answer that a client gets (it is released once what it rests on is durable) agrees with all before: no fence
 * is granted twice, permission to run again comes only with attempt above 1 or after somebody said that nothing
 * happened, and there is one outcome a life, byte for byte;
 *  - after a crash every operation is as its last durable change left it: nothing acknowledged is lost.
 * At the end of a history every parked call has been answered.
 *
 * IDEMD_TEST_SEED repeats a run, IDEMD_TEST_ROUNDS says how many histories. */
#include "daemon/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "tests/model/fake_store.h"
#include "tests/model/model.h"

enum { KEYS = 5, CLIENTS = 6, CHANGES_MAX = 20000, HELD_MAX = 4000, LIVES_MAX = 4000, STEPS = 400, BODY_MAX = 3000 };

static const char disk[] = "histories";
static const struct policy policy = {.keep_ms = 60000,
                                     .keep_min_ms = 1000,
                                     .keep_max_ms = 600000,
                                     .lease_ms = 5000,
                                     .grace_ms = 500,
                                     .if_interrupted = IF_INTERRUPTED_REPORT,
                                     .max_outcome_bytes = 65536};
static const char *const keys[KEYS] = {"alpha", "beta", "gamma", "delta", "epsilon"};

/* A stored change as it was observed: which key, and how it left it. */
struct seen_change {
    uint64_t number;
    int key;
    struct model_operation after;
};

/* An answer on its way to a client. */
struct held {
    uint64_t depends;
    int client, key;
    enum call_type type;
    enum answer answer;
    enum ownership ownership;
    bool resumed;
    uint64_t fence, generation, revision;
    uint32_t attempt, lease_left_ms;
    bool has_outcome, body_dropped;
    uint64_t outcome_sum;
    uint32_t outcome_size;
};

struct client {
    struct party party;
    bool open;
    uint64_t fences[KEYS]; /* of the last grant it was told of */
    uint8_t attempts[KEYS][16];
    bool trying[KEYS]; /* a Begin with this attempt id was sent, and no call with its fence */
    int parked_key[64];
};

static struct {
    struct store *store;
    struct engine *engine;
    struct now now;
    struct client clients[CLIENTS];
    struct model_operation state[KEYS]; /* after the last change, durable or not */
    struct seen_change changes[CHANGES_MAX];
    int change_count, durable_count;
    struct held held[HELD_MAX];
    int held_count;
    uint64_t fences[LIVES_MAX]; /* of all grants that clients were told of */
    int fence_keys[LIVES_MAX];
    int fence_count;
    struct {
        uint64_t number, generation, sum;
        uint32_t size;
    } outcomes[LIVES_MAX]; /* of lives, as they were finished */
    int outcome_count;
    uint64_t requests;
    /* Of the call at work. */
    int call_key;
    uint64_t call_request;
    int first_change; /* index of its first change; -1: none yet */
    bool answered;
    struct held reply;
    uint64_t random;
} world;

static uint64_t random_below(uint64_t limit)
{
    world.random ^= world.random << 13;
    world.random ^= world.random >> 7;
    world.random ^= world.random << 17;
    return (world.random * 0x2545f4914f6cdd1d >> 11) % limit;
}

static bool chance(unsigned percent)
{
    return random_below(100) < percent;
}

static uint64_t sum_of(const uint8_t *data, size_t size)
{
    uint64_t sum = 14695981039346656037u; /* FNV-1a */

    for (size_t i = 0; i < size; i++)
        sum = (sum ^ data[i]) * 1099511628211u;
    return sum;
}

static struct bytes text(const char *string)
{
    return bytes_of(string, (uint32_t)strlen(string));
}

static int key_of(const struct identity *id)
{
    for (int i = 0; i < KEYS; i++)
        if (bytes_equal(id->key, text(keys[i])))
            return i;
    fail_msg("a key that nobody uses");
    return -1;
}

static int client_of(const struct party *party)
{
    return (int)((const struct client *)(const void *)party - world.clients);
}

/* ---- What is observed -------------------------------------------------------------- */

/* May an operation go from one state to the other by one stored change? Returns what is wrong, or NULL. */
static const char *wrong_change(const struct model_operation *before, const struct model_operation *after,
                                const struct now *now)
{
    const bool absent = !model_is_there(before, now);

    if (after->state == RECORD_ABSENT)
        return absent ? "an absent operation was removed" : NULL;
    if (after->revision <= before->revision)
        return "a number did not grow";
    if (absent)
        return after->state == RECORD_RUNNING && after->attempt == 1 && after->fence == after->revision &&
                       after->generation == after->fence
                   ? NULL
                   : "a life did not start with a first grant";
    if (before->state == RECORD_DONE)
        return "what is done changed";
    if (after->generation != before->generation)
        return "a life changed";
    if (after->fence == before->fence)
        return after->attempt == before->attempt ? NULL : "attempts changed without a grant";
    if (before->state != RECORD_INTERRUPTED)
        return "a grant followed a running one";
    return after->attempt == before->attempt + 1 && after->fence == after->revision ? NULL
                                                                                    : "attempts did not count up";
}

static void remember_outcome(const struct record *record, const struct store_change *change)
{
    uint8_t bytes[65536 + RECORD_BYTES_MAX];
    size_t size = 0;

    if (record->inline_values.size) {
        memcpy(bytes, record->inline_values.data, record->inline_values.size);
        size = record->inline_values.size;
    }
    for (int kind = BLOB_ATTRIBUTES; kind <= BLOB_BODY; kind++) {
        if (change->values[kind].size)
            memcpy(bytes + size, change->values[kind].data, change->values[kind].size);
        size += change->values[kind].size;
    }
    assert_true(world.outcome_count < LIVES_MAX);
    world.outcomes[world.outcome_count].number = change->number;
    world.outcomes[world.outcome_count].generation = record->generation;
    world.outcomes[world.outcome_count].sum = sum_of(bytes, size);
    world.outcomes[world.outcome_count++].size = (uint32_t)size;
}

static void on_change(void *context, const struct store_change *change)
{
    struct seen_change *seen = &world.changes[world.change_count];
    const bool removed = change->kind == STORE_REMOVE_UNFINISHED || change->kind == STORE_REMOVE_FINISHED;
    struct record record;

    (void)context;
    assert_true(world.change_count < CHANGES_MAX);
    seen->number = change->number;
    if (removed) {
        for (seen->key = 0; seen->key < KEYS; seen->key++)
            if (world.state[seen->key].generation == change->generation &&
                world.state[seen->key].state != RECORD_ABSENT)
                break;
        assert_true(seen->key < KEYS);
        seen->after = world.state[seen->key];
        seen->after.state = RECORD_ABSENT;
    } else {
        assert_int_equal(record_decode(change->record, &record), RECORD_GOOD);
        seen->key = key_of(&record.id);
        model_of_record(&seen->after, &record);
        if (change->kind == STORE_FINISH)
            remember_outcome(&record, change);
    }
    const char *wrong = wrong_change(&world.state[seen->key], &seen->after, &world.now);
    if (wrong)
        fail_msg("%s: %s", keys[seen->key], wrong);
    if (world.first_change < 0)
        world.first_change = world.change_count;
    world.state[seen->key] = seen->after;
    world.change_count++;
}

/* ---- What clients are told ----------------------------------------------------------------- */

static void check_outcome(const struct held *told)
{
    for (int i = 0; i < world.outcome_count; i++) {
        if (world.outcomes[i].generation != told->generation)
            continue;
        if (!told->body_dropped) {
            assert_int_equal(world.outcomes[i].size, told->outcome_size);
            assert_int_equal(world.outcomes[i].sum, told->outcome_sum);
        }
        return;
    }
    fail_msg("an outcome of a life that was never finished");
}

static void check_grant(const struct held *told)
{
    for (int i = 0; i < world.fence_count; i++) {
        if (told->resumed) {
            if (world.fences[i] == told->fence) {
                assert_int_equal(world.fence_keys[i], told->key);
                return;
            }
            continue;
        }
        assert_int_not_equal(world.fences[i], told->fence);
    }
    assert_true(world.fence_count < LIVES_MAX);
    world.fence_keys[world.fence_count] = told->key;
    world.fences[world.fence_count++] = told->fence;
}

/* The client has the answer now. Some answers are lost on their way. */
static void release(const struct held *told)
{
    struct client *client = &world.clients[told->client];

    if (told->has_outcome)
        check_outcome(told);
    if (told->type != CALL_BEGIN || told->answer != ANSWER_EXECUTE || !client->open || chance(15))
        return;
    check_grant(told);
    client->fences[told->key] = told->fence;
}

static void release_durable(void)
{
    const uint64_t durable = store_durable_number(world.store);
    int kept = 0;

    for (int i = 0; i < world.held_count; i++) {
        if (world.held[i].depends <= durable)
            release(&world.held[i]);
        else
            world.held[kept++] = world.held[i];
    }
    world.held_count = kept;
    while (world.durable_count < world.change_count && world.changes[world.durable_count].number <= durable)
        world.durable_count++;
}

static void on_reply(void *context, struct party *party, uint64_t request, const struct reply *reply)
{
    struct held told = {.depends = reply->depends,
                        .client = client_of(party),
                        .type = reply->call,
                        .answer = reply->answer,
                        .ownership = reply->ownership,
                        .resumed = reply->resumed};
    const struct record *record = reply->operation.record;

    (void)context;
    assert_true(world.clients[told.client].open);
    assert_true(reply->depends < store_next_number(world.store));
    if (record) {
        told.key = key_of(&record->id);
        told.fence = record->fence;
        told.generation = record->generation;
        told.revision = record->revision;
        told.attempt = record->attempt;
        told.lease_left_ms = reply->operation.lease_left_ms;
    }
    if (reply->show_outcome) {
        const struct bytes outcome = slice_bytes(reply->outcome);
        told.has_outcome = true;
        told.body_dropped = reply->body_dropped;
        told.outcome_size = outcome.size;
        told.outcome_sum = sum_of(outcome.data, outcome.size);
    }
    if (request == world.call_request) {
        assert_false(world.answered);
        world.answered = true;
        world.reply = told;
        world.reply.depends = (uint64_t)reply->code; /* for the comparison with the model */
    }
    if (reply->code != CODE_OK)
        return;
    assert_true(world.held_count < HELD_MAX);
    world.held[world.held_count++] = told;
}

static bool on_alive(void *context, struct party *party)
{
    (void)context;
    assert_true(world.clients[client_of(party)].open);
    return true;
}

/* ---- The world -------------------------------------------------------------------------------- */

static void noop(void *context)
{
    (void)context;
}

static void open_world(void)
{
    const struct store_options store_options = {.directory = disk, .quota_bytes = UINT64_C(1) << 33, .wake = noop};
    const struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct engine_options with_store = options;
    struct failure error;

    world.store = store_open(&store_options, &error);
    assert_non_null(world.store);
    fake_store_observe(world.store, on_change, NULL);
    with_store.store = world.store;
    world.engine = engine_open(&with_store, &policy, &world.now, &error);
    assert_non_null(world.engine);
    for (int i = 0; i < CLIENTS; i++)
        world.clients[i] = (struct client){.open = true};
}

static struct clock_mark mark_now(void)
{
    return (struct clock_mark){
        .retention_ms = world.now.retention_ms, .wall_ms = world.now.wall_ms, .boot_ms = world.now.boot_ms};
}

static void poll_store(void)
{
    struct store_event event;

    if (!store_poll(world.store, &event))
        return;
    assert_false(event.failed);
    engine_stored(world.engine, &event, &world.now);
    release_durable();
}

static void turn(void)
{
    const struct clock_mark mark = mark_now();

    world.first_change = -1;
    world.call_request = 0;
    engine_turn(world.engine, &world.now, world.now.boot_ms, &mark);
    release_durable();
}

static void pass_time(uint64_t ms)
{
    world.now.boot_ms += ms;
    world.now.wall_ms += ms;
    world.now.retention_ms += ms;
}

/* What a Get says of an operation: world.reply. */
static void look_at(int key)
{
    struct call call = {.type = CALL_GET, .id = {text("n"), text("c"), text(keys[key])}, .policy = &policy};

    world.call_request = ++world.requests;
    world.answered = false;
    engine_call(world.engine, &world.clients[0].party, world.call_request, &call, UINT64_MAX, &world.now);
    assert_true(world.answered);
}

/* Each operation is as its last change left it, seen by a Get. */
static void check_states(void)
{
    for (int key = 0; key < KEYS; key++) {
        look_at(key);
        if (!model_is_there(&world.state[key], &world.now)) {
            assert_int_equal(world.reply.depends, CODE_NOT_FOUND);
            continue;
        }
        assert_int_equal(world.reply.depends, CODE_OK);
        assert_int_equal(world.reply.revision, world.state[key].revision);
        assert_int_equal(world.reply.fence, world.state[key].fence);
        assert_int_equal(world.reply.attempt, world.state[key].attempt);
    }
}

/* The power goes; what was not durable is gone, and so is what rested on it. */
static void crash(void)
{
    const bool survives = store_busy(world.store) && chance(50);
    uint64_t kept;

    engine_close(world.engine);
    fake_store_crash(world.store, survives);
    pass_time(random_below(3000));
    world.held_count = 0;
    /* Whatever the disk says was the last number: at least all that was durable. */
    const struct store_options look = {.directory = disk, .wake = noop};
    struct failure error;
    struct store *store = store_open(&look, &error);
    assert_non_null(store);
    kept = store_durable_number(store);
    store_close(store);
    if (world.durable_count > 0)
        assert_true(kept >= world.changes[world.durable_count - 1].number);
    while (world.change_count > 0 && world.changes[world.change_count - 1].number > kept)
        world.change_count--;
    /* Numbers that nobody was told of are given again. */
    while (world.outcome_count > 0 && world.outcomes[world.outcome_count - 1].number > kept)
        world.outcome_count--;
    world.durable_count = world.change_count;
    for (int key = 0; key < KEYS; key++)
        world.state[key] = (struct model_operation){.state = RECORD_ABSENT};
    for (int i = 0; i < world.change_count; i++)
        world.state[world.changes[i].key] = world.changes[i].after;
    open_world();
    check_states();
}

/* ---- Steps ---------------------------------------------------------------------------------------- */

/* The model's word on a call that was answered at once. */
static void compare_with_model(const struct call *call, const struct model_operation *before, uint64_t number)
{
    struct model_decision decision;
    char why[256];

    model_decide(before, call, &world.now, number, &decision);
    if (decision.may_wait && call->wait_ms)
        fail_msg("%s: a call that should wait was answered", keys[world.call_key]);
    assert_int_equal(world.reply.depends, decision.code);
    if (decision.code != CODE_OK)
        return;
    assert_int_equal(world.reply.answer, decision.answer);
    assert_int_equal(world.reply.ownership, decision.ownership);
    assert_int_equal(world.reply.resumed, decision.resumed);
    assert_int_equal(world.first_change >= 0, decision.changed);
    if (decision.changed && decision.next.state != RECORD_ABSENT &&
        !model_same(&decision.next, &world.changes[world.first_change].after, false, why, sizeof why))
        fail_msg("%s: %s", keys[world.call_key], why);
}

static void make_call(int client, int key, struct call *call)
{
    struct model_operation before = world.state[key];
    const uint64_t number = store_next_number(world.store);
    const uint64_t deadline = chance(20) ? world.now.boot_ms + 1 + random_below(3000) : UINT64_MAX;

    look_at(key); /* what is left of its lease is in no change */
    before.lease_left_ms = world.reply.lease_left_ms;
    call->id = (struct identity){text("n"), text("c"), text(keys[key])};
    call->policy = &policy;
    call->hash = 0;
    world.call_key = key;
    world.call_request = ++world.requests;
    world.first_change = -1;
    world.answered = false;
    engine_call(world.engine, &world.clients[client].party, world.call_request, call, deadline, &world.now);
    if (world.answered) {
        compare_with_model(call, &before, number);
    } else {
        struct model_decision decision;
        model_decide(&before, call, &world.now, number, &decision);
        assert_true(decision.may_wait && call->wait_ms);
        assert_int_equal(world.first_change, -1);
    }
    world.call_request = 0;
    release_durable();
}

static void fill_random(uint8_t *out, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)random_below(256);
}

static void step_begin(int client, int key)
{
    struct client *who = &world.clients[client];
    static uint8_t input[500];
    struct call call = {.type = CALL_BEGIN, .operation = text(chance(95) ? "pay" : "other"), .owner = text("owner")};

    /* A lost answer is asked for again with the same attempt; an attempt whose fence was used is over. */
    if (!who->trying[key] || chance(30))
        fill_random(who->attempts[key], 16);
    who->trying[key] = true;
    call.attempt_id = bytes_of(who->attempts[key], 16);
    call.fingerprint = text(chance(95) ? "fingerprint" : "another");
    call.wait_ms = chance(50) ? (uint32_t)random_below(8000) : 0;
    call.if_interrupted = (enum if_interrupted)random_below(3);
    call.lease_ms = chance(30) ? 1000 + (uint32_t)random_below(9000) : 0;
    call.bind_to_connection = chance(20);
    call.keep_ms = chance(30) ? 1000 + random_below(20000) : 0;
    if (chance(30)) {
        fill_random(input, sizeof input);
        call.input = bytes_of(input, (uint32_t)random_below(sizeof input));
    }
    if (call.if_interrupted == IF_INTERRUPTED_TAKE_OVER && chance(30))
        call.take_over_revision = world.state[key].revision + random_below(2);
    make_call(client, key, &call);
}

static uint64_t some_fence(int client, int key)
{
    const uint64_t known = world.clients[client].fences[key];

    if (known && chance(80))
        return known;
    return world.fence_count && chance(70) ? world.fences[random_below((uint64_t)world.fence_count)]
                                           : FAKE_FIRST_NUMBER + random_below(200);
}

/* An outcome whose bytes follow from a small number, so that two are the same or not. */
static void make_outcome(struct outcome *outcome, uint64_t variant)
{
    static uint8_t body[BODY_MAX + 8];
    const uint32_t sizes[] = {0, 10, 300, BODY_MAX};
    const uint32_t size = sizes[variant % 4];
    uint32_t head = 0;

    *outcome = (struct outcome){.kind = (uint8_t)(1 + variant % 2), .code = (int32_t)variant, .body_bytes = size};
    outcome->digest[0] = variant;
    outcome->digest[1] = ~variant;
    if (size == 0)
        return;
    body[head++] = 4 << 3 | 2;
    if (size < 128) {
        body[head++] = (uint8_t)size;
    } else {
        body[head++] = (uint8_t)(size | 128);
        body[head++] = (uint8_t)(size >> 7);
    }
    memset(body + head, (int)('a' + variant % 26), size);
    outcome->body_field = bytes_of(body, head + size);
}

static void step_owner(int client, int key)
{
    struct call call = {.fence = some_fence(client, key)};

    world.clients[client].trying[key] = false;
    switch (random_below(6)) {
    case 0:
    case 1:
        call.type = CALL_COMPLETE;
        make_outcome(&call.outcome, random_below(8));
        call.keep_ms = chance(30) ? random_below(30000) : 0;
        call.keep_body_ms = chance(20) ? random_below(5000) : 0;
        break;
    case 2:
        call.type = CALL_RELEASE;
        call.effect = (enum effect)(1 + random_below(3));
        break;
    case 3:
    case 4:
        call.type = CALL_RENEW;
        call.lease_ms = chance(50) ? 1000 + (uint32_t)random_below(9000) : 0;
        break;
    default:
        call.type = CALL_CHECKPOINT;
        call.checkpoint_name = text("half");
        call.checkpoint_data = text(keys[random_below(KEYS)]);
    }
    make_call(client, key, &call);
}

static void step_look(int client, int key)
{
    struct call call = {.type = CALL_GET, .wait_ms = chance(40) ? (uint32_t)random_below(8000) : 0};

    make_call(client, key, &call);
}

static void step_operate(int client, int key)
{
    struct call call = {.revision = chance(80) ? world.state[key].revision : 12345};

    if (call.revision == 0)
        call.revision = 1;
    if (chance(50)) {
        call.type = CALL_FORGET;
    } else {
        call.type = CALL_RESOLVE;
        call.verdict = (enum verdict)(1 + random_below(2));
        if (call.verdict == VERDICT_HAPPENED)
            make_outcome(&call.outcome, random_below(8));
    }
    make_call(client, key, &call);
}

/* Many operations at once: the checks on changes and grants are what holds it. */
static void step_recover(int client)
{
    static uint8_t attempt[16];
    struct call call = {.type = CALL_RECOVER,
                        .id = {.namespace = text("n")},
                        .policy = &policy,
                        .owner = text("recoverer"),
                        .limit = 1 + (uint32_t)random_below(3),
                        .wait_ms = chance(50) ? (uint32_t)random_below(5000) : 0,
                        .attempt_id = bytes_of(attempt, 16)};

    if (chance(50))
        call.operation = text(chance(80) ? "pay" : "other");
    if (chance(60))
        fill_random(attempt, sizeof attempt);
    world.first_change = -1;
    world.call_request = 0;
    engine_call(world.engine, &world.clients[client].party, ++world.requests, &call, UINT64_MAX, &world.now);
}

static void step_connection(int client)
{
    struct client *old = &world.clients[client];

    world.first_change = -1;
    if (chance(50)) {
        const int other = (client + 1) % CLIENTS;
        engine_party_replace(world.engine, &old->party, &world.clients[other].party, &world.now);
    } else {
        engine_party_close(world.engine, &old->party, &world.now);
    }
    assert_int_equal(old->party.parked_count, 0);
    old->open = false;
    /* What was on its way to it is lost; what it knows it may use on its next connection. */
    for (int i = 0; i < world.held_count; i++)
        if (world.held[i].client == client)
            world.held[i].type = CALL_HELLO;
    old->party = (struct party){0};
    old->open = true;
}

/* The tables follow late, and the log may be full. */
static void step_store(void)
{
    if (fake_store_lags(world.store))
        fake_store_apply(world.store);
    else if (chance(80))
        fake_store_lazy(world.store, chance(80));
    else
        fake_store_set_no_room(world.store, chance(50));
}

static void step(void)
{
    const int client = (int)random_below(CLIENTS), key = (int)random_below(KEYS);
    const uint64_t what = random_below(100);

    if (what < 30)
        step_begin(client, key);
    else if (what < 52)
        step_owner(client, key);
    else if (what < 60)
        step_look(client, key);
    else if (what < 66)
        step_operate(client, key);
    else if (what < 70)
        step_recover(client);
    else if (what < 73)
        step_connection(client);
    else if (what < 82)
        pass_time(random_below(chance(20) ? 20000 : 1000));
    else if (what < 92)
        turn();
    else if (what < 97)
        store_busy(world.store) ? fake_store_finish(world.store) : turn();
    else if (what < 99)
        step_store();
    else
        crash();
    poll_store();
    engine_check(world.engine);
}

/* Everything comes to rest: all that waits is answered. */
static void settle(void)
{
    fake_store_lazy(world.store, false);
    fake_store_set_no_room(world.store, false);
    for (int i = 0; i < 50; i++) {
        pass_time(10000);
        turn();
        if (fake_store_lags(world.store))
            fake_store_apply(world.store);
        if (store_busy(world.store))
            fake_store_finish(world.store);
        poll_store();
        engine_check(world.engine);
    }
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(world.clients[i].party.parked_count, 0);
    assert_int_equal(world.held_count, 0);
    check_states();
}

static void one_history(uint64_t seed)
{
    memset(&world, 0, sizeof world);
    world.random = seed * 2 + 1;
    world.now = (struct now){.boot_ms = 1000000, .wall_ms = 1700000000000, .retention_ms = 1700000000000};
    for (int i = 0; i < 20; i++)
        random_below(2);
    open_world();
    for (int i = 0; i < STEPS; i++)
        step();
    settle();
    engine_close(world.engine);
    store_close(world.store);
    fake_disks_free();
}

static uint64_t setting(const char *name, uint64_t standard)
{
    const char *value = getenv(name);

    return value ? strtoull(value, NULL, 10) : standard;
}

static void random_histories(void **state)
{
    const uint64_t seed = setting("IDEMD_TEST_SEED", (uint64_t)time(NULL) << 16);
    const uint64_t rounds = setting("IDEMD_TEST_ROUNDS", 300);

    (void)state;
    for (uint64_t round = 0; round < rounds; round++) {
        /* Printed before each, since an assert of the engine's ends the process. */
        if (round % 50 == 0)
            print_message("IDEMD_TEST_SEED=%llu IDEMD_TEST_ROUNDS=50\n", (unsigned long long)(seed + round));
        one_history(seed + round);
    }
}

/* The checkers themselves: a history that breaks a promise is found. */
static void checkers_find_what_is_wrong(void **state)
{
    struct now now = {.retention_ms = 100};
    struct model_operation before = {.state = RECORD_RUNNING, .generation = 5, .fence = 5, .revision = 5, .attempt = 1},
                           after;

    (void)state;
    after = before;
    after.revision = 6;
    assert_null(wrong_change(&before, &after, &now));
    after.fence = 6;
    after.attempt = 2;
    assert_string_equal(wrong_change(&before, &after, &now), "a grant followed a running one");
    before.state = RECORD_INTERRUPTED;
    assert_null(wrong_change(&before, &after, &now));
    after.attempt = 1;
    assert_non_null(wrong_change(&before, &after, &now));
    after.revision = 5;
    assert_string_equal(wrong_change(&before, &after, &now), "a number did not grow");
    before.state = RECORD_DONE;
    before.expires_ms = 1000;
    after.revision = 7;
    assert_string_equal(wrong_change(&before, &after, &now), "what is done changed");
    now.retention_ms = 1000; /* it has expired: a new life */
    assert_non_null(wrong_change(&before, &after, &now));
    after.generation = after.fence = after.revision;
    assert_null(wrong_change(&before, &after, &now));
    after.state = RECORD_ABSENT;
    assert_string_equal(wrong_change(&before, &after, &now), "an absent operation was removed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkers_find_what_is_wrong),
        cmocka_unit_test(random_histories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
