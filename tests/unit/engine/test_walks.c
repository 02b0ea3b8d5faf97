/* No call walks further than what it returns. Counted is how often a record is read and a deadline is set, never time:
 * the linker puts counters before both. */
#include "daemon/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/base/deadline.h"
#include "tests/model/fake_store.h"

enum { MANY = 6000, FEW = 8, LISTS_A_TURN = 4096, A_LIST = 1024, LEAST_A_LIST = 16, TOLD_MAX = 100 };

static const struct policy policy = {.keep_ms = 60000,
                                     .keep_min_ms = 1000,
                                     .keep_max_ms = 600000,
                                     .lease_ms = 5000,
                                     .grace_ms = 500,
                                     .if_interrupted = IF_INTERRUPTED_REPORT,
                                     .max_outcome_bytes = 65536};

/* ---- What is counted ---------------------------------------------------------- */

static uint64_t reads, deadlines_set;

void __real_record_read(struct bytes data, struct record *record);
void __wrap_record_read(struct bytes data, struct record *record);
void __wrap_record_read(struct bytes data, struct record *record)
{
    reads++;
    __real_record_read(data, record);
}

void __real_deadline_set(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms);
void __wrap_deadline_set(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms);
void __wrap_deadline_set(struct deadlines *deadlines, struct deadline *deadline, uint64_t at_ms)
{
    deadlines_set++;
    __real_deadline_set(deadlines, deadline, at_ms);
}

/* ---- The world ---------------------------------------------------------------- */

/* The last answer, and what Recover and List told in it. */
struct told {
    uint64_t request;
    enum code code;
    uint32_t count, lease_left_ms;
    uint64_t fences[TOLD_MAX];
    bool resumed, cancelled;
    uint8_t cursor[16];
    uint32_t cursor_bytes;
};

static struct {
    struct now now;
    struct store *store;
    struct engine *engine;
    uint64_t requests;
    struct told told;
    uint64_t answers, refusals, asked_alive;
    struct party *dead;
} world;

static void on_reply(void *context, struct party *party, uint64_t request, const struct reply *reply)
{
    struct told *told = &world.told;

    (void)context, (void)party;
    *told = (struct told){.request = request, .code = reply->code, .count = reply->list_count};
    world.answers++;
    world.refusals += reply->code != CODE_OK;
    told->cancelled = reply->cancelled;
    told->resumed = reply->resumed;
    told->lease_left_ms = reply->operation.lease_left_ms;
    if (reply->operation.record)
        told->fences[0] = reply->operation.record->fence;
    for (uint32_t i = 0; i < reply->list_count && i < TOLD_MAX; i++) {
        told->fences[i] = reply->list[i].record->fence;
        told->resumed = reply->list[i].resumed;
    }
    told->cursor_bytes = reply->cursor.size;
    if (reply->cursor.size)
        memcpy(told->cursor, reply->cursor.data, reply->cursor.size);
}

static bool on_alive(void *context, struct party *party)
{
    (void)context;
    world.asked_alive++;
    return party != world.dead;
}

static void open_world(void)
{
    const struct store_options store_options = {.directory = "walks", .quota_bytes = UINT64_C(1) << 33};
    struct engine_options options = {.reply = on_reply, .alive = on_alive, .unfinished_max = 1000000};
    struct failure error;

    memset(&world, 0, sizeof world);
    world.now = (struct now){.boot_ms = 1000000, .wall_ms = 1700000000000, .retention_ms = 1700000000000};
    world.store = options.store = store_open(&store_options, &error);
    assert_non_null(world.store);
    world.engine = engine_open(&options, &policy, &world.now, &error);
    assert_non_null(world.engine);
}

static void close_world(void)
{
    engine_close(world.engine);
    store_close(world.store);
    fake_disks_free();
    world.engine = NULL;
}

static int set_up(void **state)
{
    (void)state;
    open_world();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close_world();
    return 0;
}

static void end(void)
{
    engine_check(world.engine);
}

static uint64_t turn(void)
{
    const struct clock_mark mark = {
        .retention_ms = world.now.retention_ms, .wall_ms = world.now.wall_ms, .boot_ms = world.now.boot_ms};
    const uint64_t next_ms = engine_turn(world.engine, &world.now, world.now.boot_ms, &mark);
    struct store_event event;

    if (store_busy(world.store))
        fake_store_finish(world.store);
    while (store_poll(world.store, &event))
        engine_stored(world.engine, &event, &world.now);
    return next_ms;
}

/* Turns until nothing is wanted at once, nor after what the store said then. */
static void settle(void)
{
    for (int quiet = 0; quiet < 3;)
        quiet = turn() <= world.now.boot_ms ? 0 : quiet + 1;
}

static struct bytes text(const char *string)
{
    return bytes_of(string, (uint32_t)strlen(string));
}

/* Makes a call; what it costs is counted from here. */
static void make_call(struct party *party, struct call *call)
{
    call->policy = &policy;
    reads = deadlines_set = 0;
    world.told = (struct told){0};
    engine_call(world.engine, party, ++world.requests, call, UINT64_MAX, &world.now);
}

static bool answered(void)
{
    return world.told.request == world.requests;
}

static void begin(struct party *party, const char *namespace, uint32_t number, const char *operation, bool bind)
{
    char key[16];
    struct call call = {.type = CALL_BEGIN, .operation = text(operation), .bind_to_connection = bind};

    snprintf(key, sizeof key, "k%u", number);
    call.id = (struct identity){text(namespace), bytes_of("", 0), text(key)};
    make_call(party, &call);
    assert_true(answered() && world.told.code == CODE_OK);
}

static void recover(struct party *party, const char *namespace, const char *operation, uint32_t limit, uint32_t wait_ms,
                    const char *attempt)
{
    struct call call = {.type = CALL_RECOVER,
                        .id = {.namespace = text(namespace)},
                        .operation = text(operation),
                        .limit = limit,
                        .wait_ms = wait_ms,
                        .attempt_id = attempt ? bytes_of(attempt, 16) : (struct bytes){0}};

    make_call(party, &call);
}

/* All leases end that are not longer than the default. */
static void interrupt_all(void)
{
    settle();
    world.now.boot_ms += policy.lease_ms + 1;
    settle();
}

/* ---- Recover -------------------------------------------------------------------- */

/* The two names share the lower half of their hash without a secret. */
static void recover_reads_what_it_grants(void **state)
{
    struct party party = {0};

    (void)state;
    for (uint32_t i = 0; i < MANY; i++)
        begin(&party, "n", i, "pay-82643", false);
    begin(&party, "n", MANY, "ship", false);
    const uint64_t ship = world.told.fences[0];
    interrupt_all();
    assert_int_equal(engine_counts(world.engine).interrupted, MANY + 1);
    recover(&party, "n", "unknown", 100, 0, NULL);
    assert_true(answered() && world.told.count == 0 && reads == 0);
    recover(&party, "n", "pay-192856", 100, 0, NULL);
    assert_true(answered() && world.told.count == 0 && reads == 0);
    recover(&party, "elsewhere", "", 100, 0, NULL);
    assert_true(answered() && world.told.count == 0 && reads == 0);
    recover(&party, "n", "ship", 100, 0, NULL);
    assert_true(world.told.count == 1 && world.told.fences[0] > ship && reads <= FEW);
    recover(&party, "n", "pay-82643", 100, 0, NULL);
    assert_true(world.told.count == 100 && reads <= 100 * FEW);
    recover(&party, "n", "", 100, 0, NULL);
    assert_true(world.told.count == 100 && reads <= 100 * FEW);
    end();
}

/* Of all that wait, only those are looked at that want what was interrupted; the first of them gets it, whether it
 * said a name or not. */
static void an_interruption_looks_for_its_own_recover(void **state)
{
    enum { PARTIES = 39, EACH = 256 };
    static struct party parties[PARTIES];
    struct party party = {0}, named = {0}, any = {0};

    (void)state;
    memset(parties, 0, sizeof parties);
    for (uint32_t i = 0; i < PARTIES * EACH; i++)
        recover(&parties[i / EACH], "n", "unknown", 1, 60000, NULL);
    assert_int_equal(engine_counts(world.engine).waiting, PARTIES * EACH);
    for (uint32_t i = 0; i < 4; i++)
        begin(&party, "n", i, i == 3 ? "unknown" : "pay", false);
    recover(&named, "n", "pay", 1, 60000, NULL);
    const uint64_t first = world.requests;
    recover(&any, "n", "", 1, 60000, NULL);
    recover(&named, "n", "pay", 1, 60000, NULL);
    settle();
    world.now.boot_ms += policy.lease_ms + 1;
    reads = world.asked_alive = 0;
    const uint64_t before = world.answers;
    turn();
    /* Three were interrupted and granted in the order in which they were asked for, then the one with the other name.
     */
    assert_int_equal(world.answers - before, 4);
    assert_int_equal(engine_counts(world.engine).waiting, PARTIES * EACH - 1);
    assert_true(named.parked_count == 0 && any.parked_count == 0 && first + 2 == world.requests);
    assert_int_equal(world.asked_alive, 4);
    assert_true(reads <= 4 * 2 * FEW);
    for (int i = 0; i < PARTIES; i++)
        engine_party_close(world.engine, &parties[i], &world.now);
    end();
}

static void waiting_recovers_are_served_in_order(void **state)
{
    struct party party = {0}, waiters[4] = {{0}};
    static const char *const names[] = {"", "pay", "", "pay"};

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        recover(&waiters[i], "n", names[i], 1, 60000, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        struct call release = {.type = CALL_RELEASE, .effect = EFFECT_UNKNOWN};
        begin(&party, "n", 0, "pay", false);
        char key[] = "k0";
        if (i == 0) {
            release.fence = world.told.fences[0];
            release.id = (struct identity){text("n"), bytes_of("", 0), text(key)};
            make_call(&party, &release);
        } else {
            interrupt_all();
        }
        for (uint32_t j = 0; j < 4; j++)
            assert_int_equal(waiters[j].parked_count, j > i);
    }
    end();
}

static void a_recover_sent_again_is_answered_alike(void **state)
{
    enum { LIMIT = 20 };
    struct party party = {0};
    struct told first;

    (void)state;
    for (uint32_t i = 0; i < 2 * LIMIT; i++)
        begin(&party, "n", i, "pay", false);
    interrupt_all();
    recover(&party, "n", "", LIMIT, 0, "0123456789abcdef");
    assert_true(world.told.count == LIMIT && !world.told.resumed);
    first = world.told;
    recover(&party, "n", "", LIMIT, 0, "0123456789abcdef");
    assert_true(world.told.count == LIMIT && world.told.resumed);
    assert_memory_equal(world.told.fences, first.fences, sizeof first.fences);
    /* Also of what is interrupted again, which comes to be so in another order. */
    struct call renew = {.type = CALL_RENEW, .lease_ms = 9000, .fence = first.fences[0]};
    renew.id = (struct identity){text("n"), bytes_of("", 0), text("k0")};
    make_call(&party, &renew);
    assert_int_equal(world.told.code, CODE_OK);
    interrupt_all();
    interrupt_all();
    recover(&party, "n", "", LIMIT, 0, "0123456789abcdef");
    assert_memory_equal(world.told.fences, first.fences, sizeof first.fences);
    /* As many as fit, from the first on. */
    recover(&party, "n", "", 3, 0, "0123456789abcdef");
    assert_int_equal(world.told.count, 3);
    assert_memory_equal(world.told.fences, first.fences, 3 * sizeof first.fences[0]);
    end();
}

/* Each of many has its own attempt, or its own namespace with the same one. */
static void a_recover_sent_again_reads_its_own(void **state)
{
    struct party party = {0};
    char attempt[17], namespace[16];

    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(namespace, sizeof namespace, "n%u", i % 2 ? i : 0);
        begin(&party, namespace, i, "pay", false);
    }
    interrupt_all();
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(namespace, sizeof namespace, "n%u", i % 2 ? i : 0);
        snprintf(attempt, sizeof attempt, "%016u", i % 2 ? 0 : i + 1);
        recover(&party, namespace, "", 1, 0, attempt);
        assert_true(world.told.count == 1 && !world.told.resumed && reads <= 2 * FEW);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(namespace, sizeof namespace, "n%u", i % 2 ? i : 0);
        snprintf(attempt, sizeof attempt, "%016u", i % 2 ? 0 : i + 1);
        recover(&party, namespace, "", 1, 0, attempt);
        assert_true(world.told.count == 1 && world.told.resumed && reads <= 2 * FEW);
    }
    end();
}

/* Two copies of a Recover wait: both get the same, and no more than one is granted. */
static void a_waiting_recover_sent_twice_gets_one(void **state)
{
    struct party party = {0}, one = {0}, other = {0}, third = {0};

    (void)state;
    for (uint32_t i = 0; i < 2; i++)
        begin(&party, "n", i, "pay", false);
    recover(&one, "n", "", 1, 20000, "0123456789abcdef");
    recover(&other, "n", "", 1, 20000, "0123456789abcdef");
    recover(&third, "n", "", 1, 20000, NULL);
    interrupt_all();
    assert_true(one.parked_count == 0 && other.parked_count == 0 && third.parked_count == 0);
    assert_int_equal(engine_counts(world.engine).interrupted, 0);
    /* And where nothing else is interrupted, it is told at the end of its wait. */
    recover(&one, "m", "", 1, 30000, "0123456789abcdef");
    recover(&other, "m", "", 1, 20000, "0123456789abcdef");
    begin(&party, "m", 0, "pay", false);
    interrupt_all();
    assert_true(one.parked_count == 0 && other.parked_count == 1);
    const uint64_t fence = world.told.fences[0];
    world.told = (struct told){0};
    world.now.boot_ms += 3000;
    const struct call renew = {
        .type = CALL_RENEW, .lease_ms = 60000, .fence = fence, .id = {text("m"), bytes_of("", 0), text("k0")}};
    struct call renewing = renew;
    make_call(&party, &renewing);
    settle();
    world.now.boot_ms += 20001;
    turn();
    assert_int_equal(other.parked_count, 0);
    assert_true(world.told.count == 1 && world.told.resumed && world.told.fences[0] == fence);
    end();
}

/* Those whose connection is gone are looked at once, and then gone. */
static void dead_waiters_are_looked_at_once(void **state)
{
    enum { DEAD = 256 };
    struct party party = {0}, dead = {0}, waiter = {0};

    (void)state;
    for (uint32_t i = 0; i < DEAD; i++)
        recover(&dead, "n", "", 1, 60000, NULL);
    recover(&waiter, "n", "", 1, 60000, NULL);
    world.dead = &dead;
    begin(&party, "n", 0, "pay", false);
    interrupt_all();
    assert_true(dead.parked_count == 0 && waiter.parked_count == 0);
    assert_int_equal(world.asked_alive, DEAD + 1);
    end();
}

/* Where there is no room, not all that wait are refused at once. At the end of its wait each is told how it is then. */
static void refusals_for_want_of_room_are_few_at_a_time(void **state)
{
    enum { WAITERS = 200, REFUSED_MAX = 64 };
    struct party party = {0}, waiter = {0};

    (void)state;
    begin(&party, "n", 0, "pay", false);
    for (uint32_t i = 0; i < WAITERS; i++)
        recover(&waiter, "n", "", 1, 10000 + (i == WAITERS - 1), NULL);
    fake_store_set_full(world.store, true);
    interrupt_all();
    assert_int_equal(world.refusals, REFUSED_MAX);
    assert_int_equal(waiter.parked_count, WAITERS - REFUSED_MAX);
    world.now.boot_ms += 10000 - policy.lease_ms;
    settle();
    assert_int_equal(world.refusals, WAITERS - 1);
    fake_store_set_full(world.store, false);
    world.now.boot_ms += 1;
    settle();
    assert_true(waiter.parked_count == 0 && world.told.count == 1);
    end();
}

/* What cannot be granted, because its input does not read, hides nothing, and is not read each time. */
static void what_does_not_read_is_passed_over(void **state)
{
    enum { BAD = 100, MOST = 16 };
    static const uint8_t input[300] = {1};
    struct party party = {0};
    uint32_t recovers = 0;

    (void)state;
    for (uint32_t i = 0; i < BAD; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%u", i);
        struct call call = {
            .type = CALL_BEGIN, .id = {text("n"), bytes_of("", 0), text(key)}, .input = bytes_of(input, sizeof input)};
        make_call(&party, &call);
    }
    begin(&party, "n", BAD, "", false);
    const uint64_t good = world.told.fences[0];
    interrupt_all();
    for (uint32_t i = 0; i < BAD; i++)
        assert_true(fake_disk_damage_value("walks", fake_disk_unfinished("walks", i), BLOB_INPUT));
    do {
        recover(&party, "n", "", 100, 0, NULL);
        assert_true(answered() && reads <= (MOST + 1) * FEW);
        recovers++;
    } while (world.told.count == 0);
    assert_true(world.told.count == 1 && world.told.fences[0] > good);
    assert_true(recovers <= BAD / MOST + 1);
    end();
}

/* ---- List ------------------------------------------------------------------------ */

static void list(struct party *party, const char *namespace, enum record_state state, bool go_on)
{
    uint8_t cursor[16];
    struct call call = {.type = CALL_LIST, .id = {.namespace = text(namespace)}, .limit = 100, .state = state};

    memcpy(cursor, world.told.cursor, sizeof cursor);
    if (go_on)
        call.cursor = bytes_of(cursor, world.told.cursor_bytes);
    make_call(party, &call);
    assert_true(answered() && world.told.code == CODE_OK);
}

static void lists_of_a_turn_look_at_so_many(void **state)
{
    enum { LISTS = 1000 };
    struct party party = {0};
    uint64_t read = 0;

    (void)state;
    for (uint32_t i = 0; i < MANY; i++)
        begin(&party, "n", i, "pay", false);
    settle();
    for (uint32_t i = 0; i < LISTS; i++) {
        list(&party, "elsewhere", RECORD_DONE, false);
        read += reads;
        list(&party, "", RECORD_INTERRUPTED, false);
        read += reads;
        assert_true(world.told.count == 0 && world.told.cursor_bytes > 0);
    }
    assert_true(read <= LISTS_A_TURN + 2 * LISTS * LEAST_A_LIST);
    turn();
    list(&party, "", RECORD_INTERRUPTED, false);
    assert_true(reads <= A_LIST && world.told.cursor_bytes > 0);
    /* Of a namespace where nothing is unfinished, and of a state that nothing there has, it is known. */
    list(&party, "elsewhere", RECORD_RUNNING, false);
    assert_true(reads == 0 && world.told.cursor_bytes == 0);
    list(&party, "n", RECORD_INTERRUPTED, false);
    assert_true(reads == 0 && world.told.cursor_bytes == 0);
    end();
}

/* It sees each once and comes to an end, also where just as many are there as one call looks at. */
static void a_list_ends(void **state)
{
    static const uint32_t counts[] = {A_LIST - 1, A_LIST, A_LIST + 1, 4 * A_LIST};
    struct party party = {0};

    (void)state;
    for (int i = 0; i < 4; i++) {
        const uint32_t count = counts[i];
        uint32_t seen = 0;
        uint64_t last = 0;

        for (uint32_t number = 0; number < count; number++)
            begin(&party, "n", number, "pay", false);
        settle();
        for (bool go_on = false; !go_on || world.told.cursor_bytes; go_on = true) {
            list(&party, "", RECORD_ABSENT, go_on);
            for (uint32_t at = 0; at < world.told.count; at++) {
                assert_true(world.told.fences[at] > last);
                last = world.told.fences[at];
            }
            seen += world.told.count;
            assert_true(seen <= count);
            turn();
        }
        assert_int_equal(seen, count);
        world.told.cursor_bytes = 0;
        uint32_t calls = 0;
        do {
            list(&party, "", RECORD_DONE, calls++ > 0);
            assert_true(calls < FEW);
            turn();
        } while (world.told.cursor_bytes);
    }
}

/* ---- Bound grants ------------------------------------------------------------------ */

static void begin_bound(struct party *party, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        begin(party, "n", first + i, "pay", true);
}

static uint32_t lease_left(uint32_t number)
{
    struct party party = {0};
    char key[16];
    struct call call = {.type = CALL_GET};

    snprintf(key, sizeof key, "k%u", number);
    call.id = (struct identity){text("n"), bytes_of("", 0), text(key)};
    make_call(&party, &call);
    assert_int_equal(world.told.code, CODE_OK);
    return world.told.lease_left_ms;
}

static void pass(uint64_t ms)
{
    world.now.boot_ms += ms;
}

/* Turns until so many are interrupted, at most A_TURN in each. */
static void check_ends(uint32_t count)
{
    enum { A_TURN = 512 };
    uint64_t before = engine_counts(world.engine).interrupted;

    while (engine_counts(world.engine).interrupted < count) {
        const uint64_t next_ms = turn(), ended = engine_counts(world.engine).interrupted;
        assert_true(ended > before && ended - before <= A_TURN);
        assert_true(ended == count || next_ms <= world.now.boot_ms);
        before = ended;
    }
    settle();
    assert_int_equal(engine_counts(world.engine).interrupted, count);
}

/* The end of a connection costs the same whatever is bound to it; then its grants end a part at a time. */
static void a_connection_ends_at_once(void **state)
{
    struct party party = {.id = 17};

    (void)state;
    begin_bound(&party, 0, MANY);
    begin(&party, "n", MANY, "pay", false);
    settle();
    reads = deadlines_set = 0;
    engine_party_close(world.engine, &party, &world.now);
    assert_true(reads == 0 && deadlines_set == 1);
    assert_int_equal(lease_left(MANY / 2), policy.grace_ms);
    assert_int_equal(lease_left(MANY), policy.lease_ms);
    pass(policy.grace_ms);
    settle();
    assert_int_equal(engine_counts(world.engine).interrupted, 0);
    pass(1);
    check_ends(MANY);
    pass(policy.lease_ms);
    check_ends(MANY + 1);
    end();
}

/* So does taking over what is bound, whether the old connection is open or gone; all have their full lease then. */
static void a_connection_is_replaced_at_once(void **state)
{
    struct party parties[4] = {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4}};

    (void)state;
    begin_bound(&parties[0], 0, MANY);
    begin_bound(&parties[1], MANY, FEW); /* before it says Hello */
    settle();
    pass(policy.lease_ms / 2);
    settle();
    reads = deadlines_set = 0;
    engine_party_replace(world.engine, &parties[0], &parties[1], &world.now);
    assert_true(reads == 0 && deadlines_set == 0);
    assert_int_equal(lease_left(MANY / 2), policy.lease_ms);
    pass(policy.lease_ms);
    settle();
    assert_int_equal(engine_counts(world.engine).interrupted, 0);

    reads = deadlines_set = 0;
    engine_party_close(world.engine, &parties[1], &world.now);
    engine_party_adopt(world.engine, 1, &parties[2], &world.now); /* that is another's by now */
    assert_null(parties[2].holder);
    engine_party_adopt(world.engine, 2, &parties[2], &world.now);
    assert_true(reads == 0 && deadlines_set == 1);
    pass(policy.grace_ms + 1);
    settle();
    assert_int_equal(engine_counts(world.engine).interrupted, 0);
    assert_int_equal(lease_left(0), policy.lease_ms - policy.grace_ms - 1);
    assert_int_equal(lease_left(MANY), policy.lease_ms - policy.grace_ms - 1);
    engine_check(world.engine);
    pass(policy.lease_ms - policy.grace_ms);
    check_ends(MANY + FEW);
    engine_party_adopt(world.engine, 2, &parties[3], &world.now);
    assert_true(!parties[2].holder && !parties[3].holder);
    end();
}

/* Among very many that are gone, each is found by its number. */
static void one_of_many_that_are_gone_is_found(void **state)
{
    static struct party parties[MANY];
    struct party party = {.id = UINT64_MAX};

    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        parties[i] = (struct party){.id = (uint64_t)(i + 1) << 32 | i % 100}; /* halves of numbers may be the same */
        begin(&parties[i], "n", i, "pay", true);
    }
    settle();
    for (uint32_t i = 0; i < MANY; i++)
        engine_party_close(world.engine, &parties[i], &world.now);
    reads = deadlines_set = 0;
    engine_party_adopt(world.engine, parties[MANY / 2].id, &party, &world.now);
    engine_party_adopt(world.engine, 4711, &party, &world.now);
    assert_true(reads == 0 && deadlines_set == 0);
    pass(policy.grace_ms + 1);
    check_ends(MANY - 1);
    assert_int_equal(lease_left(MANY / 2), policy.lease_ms - policy.grace_ms - 1);
    engine_party_close(world.engine, &party, &world.now);
    end();
}

/* A Renew on another connection takes a grant from one that is gone, and only this one. */
static void a_renewal_elsewhere_takes_one_grant(void **state)
{
    struct party party = {.id = 1}, other = {.id = 2};
    struct call renew = {.type = CALL_RENEW, .id = {text("n"), bytes_of("", 0), text("k7")}};

    (void)state;
    begin_bound(&party, 0, 7);
    begin(&party, "n", 7, "pay", true);
    renew.fence = world.told.fences[0];
    settle();
    engine_party_close(world.engine, &party, &world.now);
    make_call(&other, &renew);
    assert_int_equal(world.told.code, CODE_OK);
    assert_non_null(other.holder);
    pass(policy.grace_ms + 1);
    check_ends(7);
    assert_int_equal(lease_left(7), policy.lease_ms - policy.grace_ms - 1);
    engine_party_close(world.engine, &other, &world.now);
    pass(policy.grace_ms + 1);
    check_ends(8);
    end();
}

/* A grant whose connection and grace are gone before it is flushed has the lease that it was stored with: late is
 * allowed. */
static void a_grace_may_end_before_the_flush(void **state)
{
    struct party party = {.id = 1};

    (void)state;
    fake_store_set_no_room(world.store, true);
    begin(&party, "n", 0, "pay", true);
    turn();
    engine_party_close(world.engine, &party, &world.now);
    pass(policy.grace_ms + 1);
    turn();
    engine_check(world.engine);
    assert_int_equal(engine_counts(world.engine).running, 1);
    fake_store_set_no_room(world.store, false);
    settle();
    assert_int_equal(lease_left(0), policy.lease_ms);
    pass(policy.lease_ms + 1);
    check_ends(1);
    end();
}

/* After a restart what was bound has the grace, all of it together. */
static void a_restart_leaves_the_grace(void **state)
{
    struct party party = {.id = 1};

    (void)state;
    begin_bound(&party, 0, MANY);
    begin(&party, "n", MANY, "pay", false);
    settle();
    engine_close(world.engine);
    store_close(world.store);
    open_world();
    assert_int_equal(lease_left(MANY / 2), policy.grace_ms);
    assert_int_equal(lease_left(MANY), policy.lease_ms);
    pass(policy.grace_ms + 1);
    check_ends(MANY);
    end();
}

/* ---- Ends ------------------------------------------------------------------------- */

static void many_waits_end_a_part_at_a_time(void **state)
{
    enum { PARTIES = 8, EACH = 256, A_TURN = 512 };
    static struct party parties[PARTIES];

    (void)state;
    memset(parties, 0, sizeof parties);
    for (uint32_t i = 0; i < PARTIES * EACH; i++)
        recover(&parties[i / EACH], "n", "", 1, 1000, NULL);
    world.now.boot_ms += 1001;
    for (uint32_t left = PARTIES * EACH; left > 0; left -= A_TURN) {
        const uint64_t before = world.answers;
        assert_int_equal(engine_counts(world.engine).waiting, left);
        assert_true(turn() <= world.now.boot_ms || left == A_TURN);
        assert_int_equal(world.answers - before, A_TURN);
    }
    assert_int_equal(engine_counts(world.engine).waiting, 0);
    end();
}

static void a_drain_answers_all_that_wait(void **state)
{
    struct party party = {0};

    (void)state;
    for (uint32_t i = 0; i < MANY; i++)
        begin(&party, "n", i, "pay", false);
    settle();
    for (uint32_t i = 0; i < 100; i++)
        recover(&party, "n", i % 2 ? "pay" : "", 1, 1000, NULL);
    struct call get = {.type = CALL_GET, .id = {text("n"), bytes_of("", 0), text("k7")}, .wait_ms = 1000};
    make_call(&party, &get);
    assert_int_equal(party.parked_count, 101);
    reads = 0;
    engine_drain(world.engine);
    assert_true(party.parked_count == 0 && world.refusals == 101 && reads == 0);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(recover_reads_what_it_grants, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_interruption_looks_for_its_own_recover, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waiting_recovers_are_served_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_recover_sent_again_is_answered_alike, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_recover_sent_again_reads_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_waiting_recover_sent_twice_gets_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dead_waiters_are_looked_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refusals_for_want_of_room_are_few_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_read_is_passed_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lists_of_a_turn_look_at_so_many, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_list_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_connection_ends_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_connection_is_replaced_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_of_many_that_are_gone_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_renewal_elsewhere_takes_one_grant, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_grace_may_end_before_the_flush, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_restart_leaves_the_grace, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_waits_end_a_part_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_drain_answers_all_that_wait, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
