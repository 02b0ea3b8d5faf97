/* The engine where numbers are large: what must not happen all in one turn. */
#include "daemon/engine.h"

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
static struct now now = {1000000, 1700000000000, 1700000000000};
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

static void begin(struct engine *engine, struct party *party, uint32_t number)
{
    char key[16];
    const int size = snprintf(key, sizeof key, "k%u", number);
    struct call call = {.type = CALL_BEGIN,
                        .id = {bytes_of("n", 1), bytes_of("", 0), bytes_of(key, (uint32_t)size)},
                        .policy = &policy};

    engine_call(engine, party, number + 1, &call, UINT64_MAX, &now);
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
static void handed_over_as_calls_come(void **state)
{
    enum { MANY = 1024, A_TURN = 64, CALLS = 256, A_CALL = 2 };
    const struct store_options store_options = {.directory = "handed over", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct store_error error;
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

/* As after a restart: ten thousand leases end in the same millisecond. They end in several turns, each wanted at once.
 */
static void many_leases_end_a_part_at_a_time(void **state)
{
    enum { MANY = 10000, MOST_A_TURN = 512 };
    const struct store_options store_options = {.directory = "many", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct store_error error;
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
        cmocka_unit_test(handed_over_as_calls_come),
        cmocka_unit_test(many_leases_end_a_part_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
