/* When leases and waits end: late, never early, whatever the turns of the loop do in between. Time is an argument of
 * the engine, so each test says when a call was read, when its flush returned, and when the loop looked. */
#include "daemon/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/model/fake_store.h"

enum { LEASE_MS = 5000, LONG_MS = 20000, SHORT_MS = 1000, GRACE_MS = 500 };

static const char disk[] = "leases";
static const struct policy policy = {.keep_ms = 60000,
                                     .keep_min_ms = 1000,
                                     .keep_max_ms = 600000,
                                     .lease_ms = LEASE_MS,
                                     .grace_ms = GRACE_MS,
                                     .if_interrupted = IF_INTERRUPTED_REPORT,
                                     .max_outcome_bytes = 65536};

static struct {
    struct store *store;
    struct engine *engine;
    struct now now;
    struct party owner, other;
    uint64_t requests;
    /* Of the last reply. */
    uint64_t replied, fence, depends;
    enum code code;
    enum answer answer;
    enum ownership ownership;
    bool resumed;
    uint32_t lease_ms, left_ms;
} world;

static void on_reply(void *context, struct party *party, uint64_t request, const struct reply *reply)
{
    (void)context, (void)party;
    world.replied = request;
    world.depends = reply->depends;
    world.code = reply->code;
    world.answer = reply->answer;
    world.ownership = reply->ownership;
    world.resumed = reply->resumed;
    world.lease_ms = reply->lease_ms;
    world.left_ms = reply->operation.lease_left_ms;
    if (reply->operation.record)
        world.fence = reply->operation.record->fence;
}

static bool on_alive(void *context, struct party *party)
{
    (void)context, (void)party;
    return true;
}

static void open_engine(void)
{
    const struct store_options store_options = {.directory = disk, .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000};
    struct failure error;

    world.store = options.store = store_open(&store_options, &error);
    assert_non_null(world.store);
    world.engine = engine_open(&options, &policy, &world.now, &error);
    assert_non_null(world.engine);
    world.owner = (struct party){.id = 1, .age = 1};
    world.other = (struct party){.id = 2, .age = 2};
}

static int open_world(void **state)
{
    (void)state;
    world.now = (struct now){.boot_ms = 1000000, .wall_ms = 1700000000000, .retention_ms = 1700000000000};
    open_engine();
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    engine_check(world.engine);
    engine_close(world.engine);
    store_close(world.store);
    fake_disks_free();
    return 0;
}

static void pass(uint64_t ms)
{
    world.now.boot_ms += ms;
    world.now.wall_ms += ms;
    world.now.retention_ms += ms;
}

/* The end of a turn, for which the sockets were looked at a while ago. */
static uint64_t turn_seen(uint64_t ago_ms)
{
    const struct clock_mark mark = {
        .retention_ms = world.now.retention_ms, .wall_ms = world.now.wall_ms, .boot_ms = world.now.boot_ms};

    return engine_turn(world.engine, &world.now, world.now.boot_ms - ago_ms, &mark);
}

/* What was handed over is flushed, so long after it was. */
static void flush_after(uint64_t ms)
{
    struct store_event event;

    turn_seen(0);
    assert_true(store_busy(world.store));
    pass(ms);
    fake_store_finish(world.store);
    assert_true(store_poll(world.store, &event));
    engine_stored(world.engine, &event, &world.now);
    assert_true(world.depends <= store_durable_number(world.store));
}

static void turn(void)
{
    turn_seen(0);
    if (store_busy(world.store))
        flush_after(0);
}

static struct call call_of(enum call_type type)
{
    return (struct call){.type = type, .id = {bytes_of("n", 1), bytes_of("", 0), bytes_of("k", 1)}, .policy = &policy};
}

static void ask(struct party *party, struct call *call)
{
    engine_call(world.engine, party, ++world.requests, call, UINT64_MAX, &world.now);
}

static void begin(struct party *party, const char *attempt_id, uint32_t lease_ms)
{
    struct call call = call_of(CALL_BEGIN);

    call.attempt_id = bytes_of(attempt_id, 16);
    call.lease_ms = lease_ms;
    call.if_interrupted = party == &world.other ? IF_INTERRUPTED_TAKE_OVER : IF_INTERRUPTED_REPORT;
    ask(party, &call);
}

static void owner_begins(uint32_t lease_ms)
{
    begin(&world.owner, "owner's attempt.", lease_ms);
    assert_int_equal(world.answer, ANSWER_EXECUTE);
}

static void renew(uint32_t lease_ms)
{
    struct call call = call_of(CALL_RENEW);

    call.fence = world.fence;
    call.lease_ms = lease_ms;
    ask(&world.owner, &call);
    assert_int_equal(world.ownership, OWNERSHIP_HELD);
}

/* The operation is the owner's for exactly so much longer: at that millisecond it still is, in the next no more. */
static void check_left(uint64_t ms)
{
    pass(ms);
    turn();
    begin(&world.other, "other's attempt.", 0);
    assert_int_equal(world.answer, ANSWER_RUNNING);
    pass(1);
    turn();
    begin(&world.other, "other's attempt.", 0);
    assert_int_equal(world.answer, ANSWER_EXECUTE);
}

/* ---- From when it counts -------------------------------------------------------------------------- */

static void a_stored_lease_runs_from_when_its_flush_returned(void **state)
{
    (void)state;
    owner_begins(0);
    flush_after(70);
    check_left(LEASE_MS);
}

static void a_renewed_lease_runs_from_when_the_call_was_read(void **state)
{
    (void)state;
    owner_begins(0);
    turn();
    pass(3000);
    turn_seen(0);
    pass(96); /* the turn is long, and the call is sent and read in it */
    renew(0);
    turn_seen(96);
    check_left(LEASE_MS);
}

static void a_renewal_that_came_in_time_is_read_before_the_lease_ends(void **state)
{
    (void)state;
    owner_begins(0);
    turn();
    pass(LEASE_MS + 1);
    /* The sockets were looked at before that: the Renew may be in one of them. */
    const uint64_t next_ms = turn_seen(2);
    assert_in_range(next_ms, world.now.boot_ms, world.now.boot_ms + 1);
    begin(&world.other, "other's attempt.", 0);
    assert_int_equal(world.answer, ANSWER_RUNNING);
    renew(0);
    turn();
    check_left(LEASE_MS);
}

static void a_lease_that_was_over_when_the_sockets_were_looked_at_ends(void **state)
{
    (void)state;
    owner_begins(0);
    turn();
    pass(LEASE_MS + 3);
    turn_seen(2);
    assert_int_equal(engine_counts(world.engine).interrupted, 1);
}

static void the_grace_counts_from_when_the_end_was_read(void **state)
{
    struct call call = call_of(CALL_BEGIN);

    (void)state;
    call.bind_to_connection = true;
    ask(&world.owner, &call);
    turn();
    pass(90); /* of a turn */
    engine_party_close(world.engine, &world.owner, &world.now);
    turn_seen(90);
    check_left(GRACE_MS);
}

/* ---- Bound leases, and Hellos that were not answered --------------------------------------------------- */

/* Parties in the order in which their connections were accepted. */
enum { FIRST, SECOND, THIRD, FOURTH, PARTIES };

static void open_parties(struct party parties[PARTIES])
{
    for (int i = 0; i < PARTIES; i++)
        parties[i] = (struct party){.id = 100 + (uint64_t)i, .age = 10 + (uint64_t)i};
}

static void begin_bound(struct party *party)
{
    struct call call = call_of(CALL_BEGIN);

    call.bind_to_connection = true;
    call.lease_ms = LONG_MS;
    ask(party, &call);
    assert_int_equal(world.answer, ANSWER_EXECUTE);
    turn();
}

static void close_party(struct party *party)
{
    engine_party_close(world.engine, party, &world.now);
}

/* Says Hello, of which the answer may be lost, with the id of a connection that is closed. */
static void hello(struct party *party, uint64_t replaces)
{
    engine_party_adopt(world.engine, replaces, party, &world.now);
}

static uint32_t left_ms(void)
{
    struct call call = call_of(CALL_GET);

    ask(&world.other, &call);
    return world.left_ms;
}

static void a_hello_that_was_not_answered_loses_nothing(void **state)
{
    struct party parties[PARTIES];

    (void)state;
    open_parties(parties);
    begin_bound(&parties[FIRST]);
    close_party(&parties[FIRST]);
    assert_int_equal(left_ms(), GRACE_MS);
    /* However many in a row. */
    for (int i = SECOND; i < PARTIES; i++) {
        hello(&parties[i], parties[FIRST].id);
        assert_int_equal(left_ms(), LONG_MS);
        if (i + 1 == PARTIES)
            break;
        close_party(&parties[i]);
        assert_int_equal(left_ms(), GRACE_MS);
        pass(GRACE_MS / 2);
        turn();
    }
    check_left(LONG_MS);
    close_party(&parties[FOURTH]);
}

static void a_hello_that_was_not_answered_may_still_be_open(void **state)
{
    struct party parties[PARTIES];

    (void)state;
    open_parties(parties);
    begin_bound(&parties[FIRST]);
    close_party(&parties[FIRST]);
    hello(&parties[SECOND], parties[FIRST].id);
    hello(&parties[THIRD], parties[FIRST].id);
    close_party(&parties[SECOND]);
    assert_int_equal(left_ms(), LONG_MS);
    /* Its answer was received: it is known by its own number. */
    close_party(&parties[THIRD]);
    assert_int_equal(left_ms(), GRACE_MS);
    hello(&parties[FOURTH], parties[THIRD].id);
    assert_int_equal(left_ms(), LONG_MS);
    close_party(&parties[FOURTH]);
}

static void a_hello_that_is_read_late_takes_nothing(void **state)
{
    struct party parties[PARTIES];

    (void)state;
    open_parties(parties);
    begin_bound(&parties[FIRST]);
    engine_party_replace(world.engine, &parties[FIRST], &parties[THIRD], &world.now);
    hello(&parties[SECOND], parties[FIRST].id); /* it was sent before the third's */
    close_party(&parties[SECOND]);
    assert_int_equal(left_ms(), LONG_MS);
    close_party(&parties[THIRD]);
    hello(&parties[SECOND], parties[FIRST].id);
    assert_int_equal(left_ms(), GRACE_MS);
    hello(&parties[FOURTH], parties[FIRST].id);
    assert_int_equal(left_ms(), LONG_MS);
    close_party(&parties[FOURTH]);
}

static void what_a_replacement_gave_is_not_cut(void **state)
{
    struct party parties[PARTIES];

    (void)state;
    open_parties(parties);
    begin_bound(&parties[FIRST]);
    pass(LONG_MS - SHORT_MS);
    engine_party_replace(world.engine, &parties[FIRST], &parties[SECOND], &world.now);
    assert_int_equal(left_ms(), LONG_MS);
    renew(SHORT_MS); /* on another connection, where it is bound from then on */
    close_party(&parties[SECOND]);
    check_left(LONG_MS);
    close_party(&world.owner);
}

/* ---- Waits -------------------------------------------------------------------------------------------- */

static void a_wait_is_not_shorter_than_asked_for(void **state)
{
    struct call call = call_of(CALL_GET);

    (void)state;
    owner_begins(0);
    turn();
    call.wait_ms = 200;
    ask(&world.other, &call);
    pass(200);
    assert_int_equal(turn_seen(0), world.now.boot_ms + 1);
    assert_int_not_equal(world.replied, world.requests);
    pass(1);
    turn_seen(0);
    assert_int_equal(world.replied, world.requests);
    assert_int_equal(world.code, CODE_OK);
}

static void a_client_that_gives_up_is_not_given_up_earlier(void **state)
{
    struct call call = call_of(CALL_GET);

    (void)state;
    owner_begins(0);
    turn();
    call.wait_ms = 2000;
    engine_call(world.engine, &world.other, ++world.requests, &call, world.now.boot_ms + 200, &world.now);
    pass(200);
    turn_seen(0);
    assert_int_not_equal(world.replied, world.requests);
    pass(1);
    turn_seen(0);
    assert_int_equal(world.replied, world.requests);
    assert_int_equal(world.code, CODE_DEADLINE_EXCEEDED);
}

/* ---- The longest counts --------------------------------------------------------------------------------- */

static void interrupt(void)
{
    owner_begins(0);
    turn();
    pass(LEASE_MS + 1);
    turn();
    assert_int_equal(engine_counts(world.engine).interrupted, 1);
}

static void a_shorter_renewal_does_not_cut_one_that_is_being_flushed(void **state)
{
    (void)state;
    interrupt();
    renew(LONG_MS);
    assert_int_equal(world.lease_ms, LONG_MS);
    renew(SHORT_MS);
    assert_int_equal(world.lease_ms, SHORT_MS);
    flush_after(30);
    check_left(LONG_MS);
}

static void a_longer_renewal_after_a_shorter_one_counts(void **state)
{
    (void)state;
    interrupt();
    renew(SHORT_MS);
    renew(LONG_MS);
    renew(SHORT_MS);
    flush_after(30);
    check_left(LONG_MS);
}

static void a_shorter_renewal_does_not_cut_one_in_the_batch_before(void **state)
{
    (void)state;
    interrupt();
    renew(LONG_MS);
    turn_seen(0);
    assert_true(store_busy(world.store));
    renew(SHORT_MS);
    flush_after(30);
    check_left(LONG_MS);
}

static void begun_again_with_a_shorter_lease_it_has_the_longer_one(void **state)
{
    (void)state;
    owner_begins(LONG_MS);
    owner_begins(SHORT_MS);
    assert_true(world.resumed);
    flush_after(30);
    check_left(LONG_MS);
}

static void a_checkpoint_with_a_shorter_lease_does_not_cut(void **state)
{
    struct call call = call_of(CALL_CHECKPOINT);

    (void)state;
    owner_begins(LONG_MS);
    call.fence = world.fence;
    call.lease_ms = SHORT_MS;
    call.checkpoint_name = bytes_of("half", 4);
    ask(&world.owner, &call);
    flush_after(30);
    check_left(LONG_MS);
}

static void restart(void)
{
    engine_close(world.engine);
    fake_store_crash(world.store, false);
    open_engine();
}

static void a_restart_does_not_cut_to_a_shorter_renewal(void **state)
{
    (void)state;
    owner_begins(LONG_MS);
    renew(SHORT_MS);
    flush_after(0);
    renew(SHORT_MS);
    turn();
    restart();
    check_left(LONG_MS);
}

/* A shorter length counts as soon as it cuts nothing. */
static void a_shorter_renewal_is_stored_when_less_is_left(void **state)
{
    (void)state;
    owner_begins(LONG_MS);
    turn();
    pass(LONG_MS - SHORT_MS - 1);
    renew(SHORT_MS);
    assert_false(store_pending(world.store));
    pass(1);
    renew(SHORT_MS);
    assert_true(store_pending(world.store));
    flush_after(0);
    restart();
    check_left(SHORT_MS);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, open_world, close_world)
    const struct CMUnitTest tests[] = {
        TEST(a_stored_lease_runs_from_when_its_flush_returned),
        TEST(a_renewed_lease_runs_from_when_the_call_was_read),
        TEST(a_renewal_that_came_in_time_is_read_before_the_lease_ends),
        TEST(a_lease_that_was_over_when_the_sockets_were_looked_at_ends),
        TEST(the_grace_counts_from_when_the_end_was_read),
        TEST(a_hello_that_was_not_answered_loses_nothing),
        TEST(a_hello_that_was_not_answered_may_still_be_open),
        TEST(a_hello_that_is_read_late_takes_nothing),
        TEST(what_a_replacement_gave_is_not_cut),
        TEST(a_wait_is_not_shorter_than_asked_for),
        TEST(a_client_that_gives_up_is_not_given_up_earlier),
        TEST(a_shorter_renewal_does_not_cut_one_that_is_being_flushed),
        TEST(a_longer_renewal_after_a_shorter_one_counts),
        TEST(a_shorter_renewal_does_not_cut_one_in_the_batch_before),
        TEST(begun_again_with_a_shorter_lease_it_has_the_longer_one),
        TEST(a_checkpoint_with_a_shorter_lease_does_not_cut),
        TEST(a_restart_does_not_cut_to_a_shorter_renewal),
        TEST(a_shorter_renewal_is_stored_when_less_is_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
