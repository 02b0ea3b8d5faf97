/* The engine where numbers are large: what must not happen all in one turn. */
#include "daemon/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/model/fake_store.h"

static const struct policy policy = {.keep_ms = 60000,
                                     .keep_min_ms = 1000,
                                     .keep_max_ms = 600000,
                                     .lease_ms = 5000,
                                     .grace_ms = 500,
                                     .if_interrupted = IF_INTERRUPTED_REPORT,
                                     .max_outcome_bytes = 65536};
static struct now now = {.boot_ms = 1000000, .wall_ms = 1700000000000, .retention_ms = 1700000000000};
static uint32_t replies;

static void on_reply(void *context, struct party *party, uint64_t request, const struct reply *reply)
{
    (void)context, (void)party, (void)request;
    replies += reply->code == CODE_OK;
}

static bool on_alive(void *context, struct party *party)
{
    (void)context, (void)party;
    return true;
}

static uint64_t turn(struct engine *engine, struct store *store)
{
    const struct clock_mark mark = {.retention_ms = now.retention_ms, .wall_ms = now.wall_ms, .boot_ms = now.boot_ms};
    const uint64_t next_ms = engine_turn(engine, &now, now.boot_ms, &mark);
    struct store_event event;

    if (store_busy(store))
        fake_store_finish(store);
    if (store_poll(store, &event))
        engine_stored(engine, &event, &now);
    return next_ms;
}

static void begin_as(struct engine *engine, struct party *party, uint32_t number, struct bytes owner)
{
    char key[16];
    const int size = snprintf(key, sizeof key, "k%u", number);
    struct call call = {.type = CALL_BEGIN,
                        .owner = owner,
                        .id = {bytes_of("n", 1), bytes_of("", 0), bytes_of(key, (uint32_t)size)},
                        .policy = &policy};

    engine_call(engine, party, number + 1, &call, UINT64_MAX, &now);
}

static void begin(struct engine *engine, struct party *party, uint32_t number)
{
    begin_as(engine, party, number, bytes_of("", 0));
}

/* The turns until nothing is wanted at once. */
static uint32_t turns_wanted(struct engine *engine, struct store *store)
{
    uint32_t turns = 0;

    while (turn(engine, store) == now.boot_ms)
        turns++;
    return turns;
}

/* What was applied is taken over in parts, which are larger in a turn that decides much. */
static void evicted_as_calls_come(void **state)
{
    enum { MANY = 1024, A_TURN = 64, CALLS = 256, A_CALL = 2 };
    const struct store_options store_options = {.directory = "handed over", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct failure error;
    struct party party = {0};

    (void)state;
    options.store = store_open(&store_options, &error);
    assert_non_null(options.store);
    struct engine *engine = engine_open(&options, &policy, &now, &error);
    assert_non_null(engine);
    for (uint32_t round = 0; round < 2; round++) {
        const uint32_t calls = round * CALLS;
        for (uint32_t i = 0; i < MANY; i++)
            begin(engine, &party, round * 2 * MANY + i);
        turn(engine, options.store);         /* flushes them */
        turns_wanted(engine, options.store); /* takes over what came before, and lets them be applied */
        for (uint32_t i = 0; i < calls; i++)
            begin(engine, &party, (round * 2 + 1) * MANY + i);
        assert_int_equal(turns_wanted(engine, options.store), (MANY - calls * A_CALL) / A_TURN);
        engine_check(engine);
    }
    engine_close(engine);
    store_close(options.store);
    fake_disks_free();
}

/* While the tables are far behind, leases end now and then only, so that the log has room for calls; they all end. */
static void leases_end_slowly_while_the_backlog_is_large(void **state)
{
    enum { MANY = 30000, MOST_AT_A_TIME = 512, EVERY_MS = 20 };
    static const uint8_t owner[128] = "an owner whose name takes as much as it may";
    const struct store_options store_options = {.directory = "slowly", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct failure error;
    struct party party = {0};

    (void)state;
    options.store = store_open(&store_options, &error);
    assert_non_null(options.store);
    struct engine *engine = engine_open(&options, &policy, &now, &error);
    assert_non_null(engine);
    fake_store_lazy(options.store, true);
    for (uint32_t i = 0; i < MANY; i++)
        begin_as(engine, &party, i, bytes_of(owner, sizeof owner));
    turn(engine, options.store);
    assert_true(store_backlog_bytes(options.store) > 4 * 1024 * 1024);
    now.boot_ms += policy.lease_ms + 1;
    turn(engine, options.store);
    assert_int_equal(engine_counts(engine).interrupted, MOST_AT_A_TIME);
    for (uint32_t i = 2; i < 5; i++) {
        assert_int_equal(turn(engine, options.store), now.boot_ms + EVERY_MS);
        assert_int_equal(engine_counts(engine).interrupted, (i - 1) * MOST_AT_A_TIME);
        now.boot_ms += EVERY_MS;
        turn(engine, options.store);
        assert_int_equal(engine_counts(engine).interrupted, i * MOST_AT_A_TIME);
    }
    fake_store_apply(options.store);
    fake_store_lazy(options.store, false);
    while (engine_counts(engine).interrupted < MANY)
        turn(engine, options.store);
    engine_check(engine);
    engine_close(engine);
    store_close(options.store);
    fake_disks_free();
}

/* What lease ends leave to be taken over is taken over as fast as they come. */
static void what_leases_leave_is_evicted_in_time(void **state)
{
    enum { MANY = 20000, A_TURN = 512 };
    const struct store_options store_options = {.directory = "in time", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct failure error;
    struct party party = {0};
    uint32_t turns = 0;

    (void)state;
    options.store = store_open(&store_options, &error);
    assert_non_null(options.store);
    struct engine *engine = engine_open(&options, &policy, &now, &error);
    assert_non_null(engine);
    for (uint32_t i = 0; i < MANY; i++)
        begin(engine, &party, i);
    turn(engine, options.store);
    now.boot_ms += policy.lease_ms + 1;
    for (; engine_counts(engine).interrupted < MANY; turns++)
        turn(engine, options.store);
    assert_int_equal(turns, (MANY + A_TURN - 1) / A_TURN);
    /* Nearly all of it is applied and taken over by now. */
    assert_true(turns_wanted(engine, options.store) <= 2 * A_TURN / 64 + 2);
    engine_check(engine);
    engine_close(engine);
    store_close(options.store);
    fake_disks_free();
}

/* As after a restart: ten thousand leases end in the same millisecond. They end in several turns, each wanted at once.
 */
static void many_leases_end_a_part_at_a_time(void **state)
{
    enum { MANY = 10000, MOST_A_TURN = 512 };
    const struct store_options store_options = {.directory = "many", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct failure error;
    struct party party = {0};
    uint64_t before = 0;
    const uint32_t replied = replies;
    int turns = 0;

    (void)state;
    options.store = store_open(&store_options, &error);
    assert_non_null(options.store);
    struct engine *engine = engine_open(&options, &policy, &now, &error);
    assert_non_null(engine);
    for (uint32_t i = 0; i < MANY; i++)
        begin(engine, &party, i);
    assert_int_equal(replies - replied, MANY);
    turn(engine, options.store);
    now.boot_ms += 5001;
    while (engine_counts(engine).interrupted < MANY) {
        const uint64_t next_ms = turn(engine, options.store), ended = engine_counts(engine).interrupted;
        assert_true(ended > before && ended - before <= MOST_A_TURN);
        assert_true(ended == MANY || next_ms <= now.boot_ms);
        before = ended;
        turns++;
    }
    assert_int_equal(turns, (MANY + MOST_A_TURN - 1) / MOST_A_TURN);
    engine_check(engine);
    engine_close(engine);
    store_close(options.store);
    fake_disks_free();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evicted_as_calls_come),
        cmocka_unit_test(leases_end_slowly_while_the_backlog_is_large),
        cmocka_unit_test(what_leases_leave_is_evicted_in_time),
        cmocka_unit_test(many_leases_end_a_part_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
