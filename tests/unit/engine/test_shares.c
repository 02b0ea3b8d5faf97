/* What one namespace may take of what all share: the places for calls that wait, the unfinished operations, the store.
 * And that what each namespace has is counted right, whatever becomes of it, over a restart too. */
#include "daemon/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "proto/limits.h"
#include "tests/model/fake_store.h"

static const struct policy policy = {.keep_ms = 60000,
                                     .keep_min_ms = 1000,
                                     .keep_max_ms = 600000,
                                     .lease_ms = 5000,
                                     .grace_ms = 500,
                                     .if_interrupted = IF_INTERRUPTED_REPORT,
                                     .max_outcome_bytes = 65536};
static struct now now;

/* The last reply. */
static struct {
    uint32_t count;
    enum code code;
    char reason[32], message[256];
    uint64_t fence, revision;
} told;

static struct engine *engine;
static struct engine_options options;
static struct party party;

static void on_reply(void *context, struct party *to, uint64_t request, const struct reply *reply)
{
    (void)context, (void)to, (void)request;
    told.count++;
    told.code = reply->code;
    snprintf(told.reason, sizeof told.reason, "%s", reply->reason ? reply->reason : "");
    snprintf(told.message, sizeof told.message, "%s", reply->message ? reply->message : "");
    told.fence = reply->operation.record ? reply->operation.record->fence : 0;
    told.revision = reply->operation.record ? reply->operation.record->revision : 0;
}

static bool on_alive(void *context, struct party *to)
{
    (void)context, (void)to;
    return true;
}

static struct bytes text(const char *string)
{
    return bytes_of(string, (uint32_t)strlen(string));
}

static void open_engine(uint32_t share, uint64_t unfinished_max)
{
    const struct store_options store_options = {.directory = "shares", .quota_bytes = UINT64_C(1) << 33};
    struct failure error;

    options = (struct engine_options){.reply = on_reply,
                                      .alive = on_alive,
                                      .unfinished_max = unfinished_max,
                                      .namespace_share = share,
                                      .store = store_open(&store_options, &error)};
    assert_non_null(options.store);
    engine = engine_open(&options, &policy, &now, &error);
    assert_non_null(engine);
}

static void close_engine(void)
{
    engine_party_close(engine, &party, &now);
    party = (struct party){0};
    engine_check(engine);
    engine_close(engine);
    store_close(options.store);
}

static void turn(void)
{
    const struct clock_mark mark = {.retention_ms = now.retention_ms, .wall_ms = now.wall_ms, .boot_ms = now.boot_ms};
    struct store_event event;

    for (int i = 0; i < 4; i++) {
        engine_turn(engine, &now, now.boot_ms, &mark);
        if (store_busy(options.store))
            fake_store_finish(options.store);
        while (store_poll(options.store, &event))
            engine_stored(engine, &event, &now);
    }
}

static void advance(uint64_t ms)
{
    now.boot_ms += ms;
    now.wall_ms += ms;
    now.retention_ms += ms;
}

static int set_up(void **state)
{
    (void)state;
    now = (struct now){.boot_ms = 1000000, .wall_ms = 1700000000000, .retention_ms = 1700000000000};
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close_engine();
    fake_disks_free();
    return 0;
}

static struct identity id_of(const char *namespace, const char *key)
{
    return (struct identity){text(namespace), text(""), text(key)};
}

/* The key of a number, until the next. */
static const char *key_of(unsigned number)
{
    static char key[16];

    snprintf(key, sizeof key, "k%u", number);
    return key;
}

static bool begin(const char *namespace, const char *key)
{
    struct call call = {.type = CALL_BEGIN, .id = id_of(namespace, key), .policy = &policy};

    engine_call(engine, &party, 1, &call, UINT64_MAX, &now);
    return told.code == CODE_OK;
}

static void assert_refused(const char *reason)
{
    assert_int_equal(told.code, CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(told.reason, reason);
}

static void finish(const char *namespace, const char *key, uint64_t fence)
{
    struct call call = {.type = CALL_COMPLETE, .id = id_of(namespace, key), .fence = fence, .policy = &policy};

    call.outcome.kind = 1;
    engine_call(engine, &party, 1, &call, UINT64_MAX, &now);
    assert_int_equal(told.code, CODE_OK);
}

static unsigned begin_many(const char *namespace, unsigned from, unsigned most)
{
    unsigned count = 0;

    while (count < most && begin(namespace, key_of(from + count)))
        count++;
    return count;
}

/* ---- Shares ----------------------------------------------------------------------------- */

static void half_of_what_the_others_leave(void **state)
{
    (void)state;
    open_engine(50, 100);
    assert_int_equal(begin_many("a", 0, 1000), 50);
    assert_refused("TOO_MANY_UNFINISHED");
    assert_string_equal(told.message, "50 operations of this namespace are unfinished, and it may have 50 % of what "
                                      "the others leave of 100 (--namespace-share, --max-unfinished)");
    assert_int_equal(begin_many("b", 0, 1000), 25);
    assert_refused("TOO_MANY_UNFINISHED");
    assert_int_equal(begin_many("c", 0, 1000), 13); /* of 25, rounded up */
    /* The first has more than its share now, and gets no more; what it has it keeps. */
    assert_true(begin("a", "k0"));
    assert_false(begin("a", "another"));
    /* There is always something left for one that has nothing. */
    for (unsigned i = 0; i < 5; i++) {
        char name[2] = {(char)('d' + i), '\0'};
        assert_true(begin(name, "k"));
    }
    turn();
}

static void one_that_finished_has_room_again(void **state)
{
    (void)state;
    open_engine(50, 4);
    assert_true(begin("a", "k0"));
    const uint64_t fence = told.fence;
    assert_true(begin("a", "k1"));
    assert_false(begin("a", "k2"));
    finish("a", "k0", fence);
    assert_true(begin("a", "k2"));
    /* Left interrupted they count as before. */
    turn();
    advance(6000);
    turn();
    assert_int_equal(engine_counts_of(engine, text("a")).interrupted, 2);
    assert_false(begin("a", "k3"));
    assert_true(begin("b", "k3"));
}

static void all_of_it_where_shares_are_off(void **state)
{
    (void)state;
    open_engine(100, 10);
    assert_int_equal(begin_many("a", 0, 100), 10);
    assert_refused("TOO_MANY_UNFINISHED");
    assert_string_equal(told.message, "10 operations are unfinished, and no more than 10 may be (--max-unfinished)");
    assert_false(begin("b", "k"));
}

static void a_share_of_one_is_one(void **state)
{
    (void)state;
    open_engine(1, 1);
    assert_true(begin("a", "k"));
    assert_false(begin("b", "k"));
}

static bool waits(struct party *of, const char *namespace, const char *key)
{
    struct call call = {.type = CALL_GET, .id = id_of(namespace, key), .wait_ms = 60000, .policy = &policy};
    const uint32_t before = told.count;

    engine_call(engine, of, 1, &call, UINT64_MAX, &now);
    return told.count == before;
}

static bool recover_waits(struct party *of, const char *namespace, const char *operation)
{
    struct call call = {.type = CALL_RECOVER,
                        .id = {.namespace = text(namespace)},
                        .operation = text(operation),
                        .limit = 1,
                        .wait_ms = 60000,
                        .policy = &policy};
    const uint32_t before = told.count;

    engine_call(engine, of, 1, &call, UINT64_MAX, &now);
    return told.count == before;
}

static void places_to_wait_are_shared(void **state)
{
    enum { PARTIES = 40, A_PARTY = 250 };
    struct party parties[PARTIES] = {{0}};
    uint32_t count = 0;

    (void)state;
    open_engine(50, 1000);
    for (unsigned i = 0; i < 20; i++)
        assert_true(begin("a", key_of(i)) && begin("b", key_of(i)));
    for (unsigned i = 0; i < PARTIES; i++)
        for (unsigned k = 0; k < A_PARTY; k++)
            count += waits(&parties[i], "a", key_of(i / 2));
    assert_int_equal(count, IDEM_WAITERS_MAX / 2);
    assert_refused("TOO_MANY_WAITERS");
    assert_int_equal(engine_counts_of(engine, text("a")).waiting, IDEM_WAITERS_MAX / 2);
    assert_false(recover_waits(&parties[PARTIES - 1], "a", "charge"));
    assert_refused("TOO_MANY_WAITERS");
    /* Others have what is left, a Recover too. */
    assert_true(waits(&parties[PARTIES - 1], "b", "k0"));
    assert_true(recover_waits(&parties[PARTIES - 1], "b", "charge") && recover_waits(&parties[PARTIES - 1], "b", ""));
    assert_int_equal(engine_counts_of(engine, text("b")).waiting, 3);
    /* Those that go make room. */
    engine_party_close(engine, &parties[0], &now);
    assert_true(waits(&parties[PARTIES - 1], "a", "k0"));
    for (unsigned i = 1; i < PARTIES; i++)
        engine_party_close(engine, &parties[i], &now);
    assert_int_equal(engine_counts_of(engine, text("a")).waiting, 0);
    assert_int_equal(engine_counts_of(engine, text("b")).waiting, 0);
}

static void the_store_is_shared(void **state)
{
    (void)state;
    open_engine(50, 1000);
    assert_true(begin("a", "k"));
    finish("a", "k", told.fence);
    /* All that is stored is the one namespace's. */
    fake_store_set_space(options.store, 49 << 20, 100 << 20);
    assert_true(begin("a", "k1"));
    const uint64_t fence = told.fence;
    fake_store_set_space(options.store, 51 << 20, 100 << 20);
    assert_false(begin("a", "k2"));
    assert_refused("STORE_FULL");
    assert_true(begin("b", "k2"));
    /* What is there goes on: it completes, and is replayed. */
    finish("a", "k1", fence);
    assert_true(begin("a", "k1"));
    struct call checkpoint = {.type = CALL_CHECKPOINT, .id = id_of("b", "k2"), .policy = &policy};
    begin("b", "k2");
    checkpoint.fence = told.fence;
    checkpoint.checkpoint_name = text("half");
    engine_call(engine, &party, 1, &checkpoint, UINT64_MAX, &now);
    assert_int_equal(told.code, CODE_OK);
}

static void short_of_memory_nothing_new_is_taken_on(void **state)
{
    (void)state;
    open_engine(50, 1000);
    assert_true(begin("a", "done"));
    finish("a", "done", told.fence);
    assert_true(begin("a", "k"));
    const uint64_t fence = told.fence;
    mem_limit(1);
    assert_false(begin("a", "k1"));
    assert_refused("MEMORY_FULL");
    assert_false(waits(&party, "a", "k"));
    assert_refused("TOO_MANY_WAITERS");
    assert_true(begin("a", "done") && begin("a", "k"));
    finish("a", "k", fence);
    mem_limit(0);
    assert_true(begin("a", "k1"));
}

/* ---- Counting ----------------------------------------------------------------------------- */

static struct engine_counts of(const char *namespace)
{
    return engine_counts_of(engine, text(namespace));
}

static void forget(const char *namespace, const char *key)
{
    struct call get = {.type = CALL_GET, .id = id_of(namespace, key), .policy = &policy};
    struct call call = {.type = CALL_FORGET, .id = get.id, .policy = &policy};

    engine_call(engine, &party, 1, &get, UINT64_MAX, &now);
    assert_int_equal(told.code, CODE_OK);
    call.revision = told.revision;
    engine_call(engine, &party, 1, &call, UINT64_MAX, &now);
    assert_int_equal(told.code, CODE_OK);
}

static void what_a_namespace_has_is_counted(void **state)
{
    (void)state;
    open_engine(50, 1000);
    assert_int_equal(of("a").stored_bytes, 0);
    uint64_t fences[4];
    for (unsigned i = 0; i < 4; i++) {
        assert_true(begin("a", key_of(i)) && begin("b", key_of(i)));
        begin("a", key_of(i));
        fences[i] = told.fence;
    }
    const uint64_t four = of("a").stored_bytes;
    assert_true(four > 0 && four % 4 == 0 && of("b").stored_bytes == four);
    for (unsigned i = 0; i < 3; i++)
        finish("a", key_of(i), fences[i]);
    assert_int_equal(of("a").finished, 3);
    assert_int_equal(of("a").running, 1);
    const uint64_t bytes = of("a").stored_bytes;
    assert_int_equal(engine_counts(engine).stored_bytes, bytes + four);
    turn(); /* now they are in the tables alone */
    assert_int_equal(of("a").finished, 3);
    assert_int_equal(of("a").stored_bytes, bytes);

    close_engine();
    open_engine(50, 1000);
    assert_int_equal(of("a").finished, 3);
    assert_int_equal(of("a").stored_bytes, bytes);
    assert_int_equal(of("b").stored_bytes, four);
    assert_int_equal(engine_counts(engine).stored_bytes, bytes + four);

    /* They expire, and are swept. */
    advance(10 * policy.keep_ms);
    turn();
    advance(1000);
    turn();
    assert_int_equal(of("a").finished, 0);
    assert_true(of("a").stored_bytes > 0); /* of the one that is interrupted */
    assert_int_equal(engine_counts(engine).stored_bytes, of("a").stored_bytes + of("b").stored_bytes);
}

static void what_is_forgotten_counts_no_more(void **state)
{
    (void)state;
    open_engine(50, 1000);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(begin("a", key_of(i)));
        finish("a", key_of(i), told.fence);
        if (i == 0)
            turn(); /* one in the store, one still in memory */
    }
    assert_int_equal(of("a").finished, 2);
    forget("a", "k0");
    forget("a", "k1");
    assert_int_equal(of("a").finished, 0);
    assert_int_equal(of("a").stored_bytes, 0);
    assert_int_equal(engine_counts(engine).stored_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(half_of_what_the_others_leave, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_finished_has_room_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_of_it_where_shares_are_off, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_share_of_one_is_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(places_to_wait_are_shared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_store_is_shared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(short_of_memory_nothing_new_is_taken_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_namespace_has_is_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_forgotten_counts_no_more, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
