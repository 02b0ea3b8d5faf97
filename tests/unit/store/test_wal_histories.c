/* The log through whole histories on a disk that fails and loses power: whatever happens, what was acknowledged is
 * found again in order or was applied, and nothing is found that was not appended.
 *
 *     history:  (start, then appends, applies and slots in any order, until a fault, a power cut or enough)  again ...
 *
 * WAL_SEED=n runs one history again, WAL_HISTORIES=n as many as that. The tables are two numbers that outlive
 * everything: how far they are, and how many slots they know of. */
#include "daemon/store/wal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "tests/model/made_batch.h"
#include "tests/model/sim_disk.h"

#define MIB (UINT64_C(1) << 20)

#ifdef __SANITIZE_ADDRESS__
enum { HISTORIES = 40, CUTS = 2 }; /* each maps and unmaps many MiB, which is slow there */
#else
enum { HISTORIES = 1000, CUTS = 12 };
#endif
enum { MADE_MAX = 4096, LIVES = 6, STEPS = 24 };

struct world {
    struct wal *wal;
    uint8_t secret[RECORD_SECRET_BYTES];
    uint64_t seed;
    /* The tables. */
    uint64_t applied;
    uint64_t told; /* of which the log was told */
    uint64_t segment;
    uint64_t change_bytes_max; /* which the tables do not know of: it may be another at each start */
    uint32_t slots;
    /* What was appended, without what a power cut took. All but perhaps the last are acknowledged. */
    struct made *made;
    uint32_t count;
    bool last_unsure;
    uint64_t salt;
    bool logged; /* wal_make returned 0 */
};

static uint64_t random_below(struct world *world, uint64_t end)
{
    world->seed ^= world->seed >> 12;
    world->seed ^= world->seed << 25;
    world->seed ^= world->seed >> 27;
    return (world->seed * 2685821657736338717ull >> 16) % end;
}

static void begin(struct world *world, uint64_t seed)
{
    struct made *made = world->made ? world->made : mem_alloc(MADE_MAX * sizeof *made);

    *world = (struct world){.seed = seed * 2654435761u + 99, .slots = 1, .made = made, .change_bytes_max = 100000};
    world->applied = 1000 + random_below(world, 100);
    for (unsigned i = 0; i < sizeof world->secret; i++)
        world->secret[i] = (uint8_t)random_below(world, 256);
    sim_disk_reset(seed);
}

static void end(struct world *world)
{
    wal_close(world->wal);
    world->wal = NULL;
    assert_int_equal(sim_disk_open_files(), 0);
}

static uint64_t newest(const struct world *world)
{
    return world->count ? made_last(&world->made[world->count - 1]) : world->applied;
}

/* ---- What it does ------------------------------------------------------------------------- */

static int make(const struct world *world)
{
    return wal_make(&sim_disk, -1, world->secret, world->change_bytes_max);
}

/* The tables have what was found, and then the number of the segment that comes. */
static int go_on(struct world *world)
{
    world->slots = wal_slots(world->wal);
    world->segment = wal_segment(world->wal);
    world->applied = world->told = newest(world);
    const int code = wal_start(world->wal);
    if (code == 0)
        world->segment = wal_segment(world->wal);
    return code;
}

/* Returns 0 or what failed: then the log is to be closed. What is larger than any slot is made smaller. */
static int append(struct world *world, uint32_t changes, uint64_t bytes)
{
    const uint64_t most = wal_batch_bytes_max(world->wal);

    assert_true(most >= world->change_bytes_max);
    bytes = bytes < most ? bytes : most;
    const struct made made = {newest(world) + 1, changes, (uint32_t)bytes, ++world->salt};
    struct batch batch = make_made(&made);
    int code = 0;

    if (!wal_has_room(world->wal, batch.bytes->size)) {
        /* Never so when all is applied. */
        assert_true(world->told < newest(world));
    } else {
        assert_true(world->count < MADE_MAX);
        world->made[world->count++] = made;
        code = wal_append(world->wal, batch.bytes->data);
        world->last_unsure = code != 0;
    }
    blob_release(batch.bytes);
    return code;
}

/* The tables take some of what is acknowledged, and the log is told, or not in time. */
static void apply_some(struct world *world, bool all)
{
    uint32_t first = 0;

    while (first < world->count && made_last(&world->made[first]) <= world->applied)
        first++;
    if (first == world->count)
        return;
    const uint64_t end_at = first + 1 + (all ? world->count - first - 1 : random_below(world, world->count - first));
    world->applied = made_last(&world->made[end_at - 1]);
    world->segment = wal_segment(world->wal);
    if (all || random_below(world, 8)) {
        world->told = world->applied;
        wal_applied(world->wal, world->told);
    }
    if (all)
        assert_true(wal_has_room(world->wal, wal_batch_bytes_max(world->wal)));
}

static int prepare(struct world *world, bool tell)
{
    const int code = wal_prepare(world->wal);

    if (code != 0 && code != ENOSPC)
        return code;
    if (!tell)
        return 0;
    world->slots = wal_slots(world->wal);
    world->segment = wal_segment(world->wal);
    wal_add_slot(world->wal);
    return 0;
}

/* Opens after whatever happened, and looks at what is found. Returns 0, or an exit code. */
static int recover(struct world *world)
{
    const struct wal_options options = {.disk = &sim_disk,
                                        .directory = "dir",
                                        .secret = world->secret,
                                        .applied = world->applied,
                                        .segment = world->segment,
                                        .change_bytes_max = world->change_bytes_max,
                                        .slots = world->slots};
    struct failure error = {0};
    uint32_t at = 0;

    world->wal = wal_open(&options, &error);
    if (!world->wal) {
        assert_int_not_equal(error.exit_code, 0);
        assert_true(strlen(error.message) > 0);
        return error.exit_code;
    }
    while (at < world->count && made_last(&world->made[at]) <= world->applied)
        at++;
    for (uint32_t n = 0; n < wal_found(world->wal); n++, at++) {
        assert_true(at < world->count);
        assert_true(is_made(wal_batch(world->wal, n), &world->made[at]));
    }
    /* Only what was not acknowledged may be missing. */
    if (at < world->count) {
        assert_true(world->last_unsure);
        assert_int_equal(at, world->count - 1);
        world->count--;
    }
    world->last_unsure = false;
    return 0;
}

/* ---- The n-th failure ----------------------------------------------------------------------- */

/* Slots made, filled, used again, grown and cut back; a restart in the middle. Stops at the first failure, as the
 * daemon does. */
static int scenario(struct world *world, bool grow)
{
    int code;

    if (!world->logged && (code = make(world)) != 0)
        return code;
    world->logged = true;
    if ((code = recover(world)) != 0 || (code = go_on(world)) != 0)
        return code;
    for (int i = 0; i < 5; i++)
        if ((code = append(world, 1 + i % 3, 200 + i * 5000)) != 0)
            return code;
    if ((code = append(world, 9, 600 * 1024)) != 0 || (code = prepare(world, true)) != 0 ||
        (code = append(world, 9, 600 * 1024)) != 0 || (code = append(world, 2, 1500 * 1024)) != 0 ||
        (code = prepare(world, false)) != 0 || (code = prepare(world, true)) != 0)
        return code;
    apply_some(world, true);
    if ((code = append(world, 1, 2 * MIB)) != 0 || (code = append(world, 1, 300)) != 0)
        return code;
    apply_some(world, false);
    apply_some(world, true);
    if ((code = prepare(world, true)) != 0 || (code = append(world, 1, 900 * 1024)) != 0)
        return code;
    end(world);
    world->change_bytes_max = grow ? 5 * MIB : 200000;
    if ((code = recover(world)) != 0 || (code = go_on(world)) != 0 || (grow && (code = append(world, 1, 5 * MIB)) != 0))
        return code;
    for (int i = 0; i < 3; i++)
        if ((code = append(world, 2, 400 * 1024)) != 0)
            return code;
    return append(world, 1, 200);
}

static void the_nth_failure(void **state)
{
    static const int codes[] = {EIO, ENOSPC};
    struct world world = {0};

    (void)state;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        for (int from_then_on = 0; from_then_on < 2; from_then_on++)
            for (uint32_t nth = 1;; nth++) {
                begin(&world, nth);
                sim_disk_fail(SIM_ALL, nth, from_then_on, codes[i]);
                const int code = scenario(&world, from_then_on == 0 && codes[i] == EIO);
                const uint32_t failed = sim_disk_failed();
                /* What failed was said, or it was a full disk that had no room for another slot. */
                assert_true(failed || code == 0);
                if (code == 65)
                    fail_msg("failure %u is taken for damage", nth);
                if (failed && code == 0)
                    assert_int_equal(codes[i], ENOSPC);
                end(&world);
                sim_disk_fail(0, 0, false, 0);
                if (!world.logged)
                    assert_int_equal(make(&world), 0); /* nothing was left */
                assert_int_equal(recover(&world), 0);
                assert_int_equal(go_on(&world), 0);
                assert_int_equal(append(&world, 1, 300), 0);
                end(&world);
                assert_int_equal(recover(&world), 0);
                end(&world);
                if (!failed)
                    break;
            }
    mem_free(world.made);
}

/* The power goes in each call of the scenario that changes the disk, several times, as each leaves something else. */
static void the_nth_power_cut(void **state)
{
    struct world world = {0};

    (void)state;
    for (uint32_t nth = 1;; nth++) {
        bool off = false;
        for (uint64_t seed = 0; seed < CUTS; seed++) {
            begin(&world, seed * 1000 + nth);
            sim_disk_cut_power(SIM_CHANGES, nth);
            scenario(&world, seed == 0);
            off = sim_disk_is_off();
            end(&world);
            sim_disk_power_on();
            if (!world.logged)
                continue; /* the store was not built: it is built again */
            assert_int_equal(recover(&world), 0);
            assert_int_equal(go_on(&world), 0);
            assert_int_equal(append(&world, 1, 300), 0);
            end(&world);
            assert_int_equal(recover(&world), 0);
            end(&world);
            if (!off)
                break;
        }
        if (!off)
            break;
    }
    mem_free(world.made);
}

/* ---- Histories ------------------------------------------------------------------------------ */

static uint64_t some_bytes(struct world *world)
{
    switch (random_below(world, 8)) {
    case 0:
        return MADE_BYTES_MIN + 100 + random_below(world, 300 * 1024);
    case 1:
        return MADE_BYTES_MIN + 100 + random_below(world, MIB);
    case 2:
        return random_below(world, 200) ? MADE_BYTES_MIN + 4096 * (1 + random_below(world, 3)) - random_below(world, 3)
                                        : 16 * MIB + random_below(world, 3 * MIB);
    default:
        return MADE_BYTES_MIN + 100 + random_below(world, 9000);
    }
}

static int step(struct world *world)
{
    const uint64_t what = random_below(world, 10);

    if (what < 7)
        return append(world, 1 + (uint32_t)random_below(world, 60), some_bytes(world));
    if (what < 9)
        apply_some(world, random_below(world, 4) == 0);
    return what < 9 || (wal_slots(world->wal) > 3 && random_below(world, 8)) ? 0
                                                                             : prepare(world, random_below(world, 8));
}

/* From start to end of one daemon. Returns false where the power went or something failed. */
static bool live(struct world *world)
{
    if (random_below(world, 6) == 0)
        world->change_bytes_max = random_below(world, 10) ? 1 + random_below(world, 2 * MIB) : 5 * MIB;
    if (recover(world) != 0)
        return false;
    /* What was found is brought in, in parts; the power may go in between. */
    if (random_below(world, 6) == 0) {
        apply_some(world, false);
        return false;
    }
    if (go_on(world) != 0)
        return false;
    for (uint64_t steps = random_below(world, STEPS); steps > 0; steps--)
        if (step(world) != 0)
            return false;
    return true;
}

static void random_histories(void **state)
{
    const char *given = getenv("WAL_SEED"), *many = getenv("WAL_HISTORIES");
    const uint64_t first = given ? strtoull(given, NULL, 10) : 1;
    const uint64_t histories = many ? strtoull(many, NULL, 10) : given ? 1 : HISTORIES;
    struct world world = {0};
    uint64_t cuts = 0, unsure_kept = 0;

    (void)state;
    for (uint64_t seed = first; seed < first + histories; seed++) {
        begin(&world, seed);
        print_message("seed %llu\r", (unsigned long long)seed);
        assert_int_equal(make(&world), 0);
        for (int generation = 0; generation < LIVES; generation++) {
            const uint32_t before = world.count;
            const bool unsure = world.last_unsure;
            if (random_below(&world, 4))
                sim_disk_cut_power(SIM_CHANGES, 1 + (uint32_t)random_below(&world, 2 * STEPS / 3));
            else if (random_below(&world, 3) == 0)
                sim_disk_fail(SIM_CHANGES, 1 + (uint32_t)random_below(&world, STEPS), random_below(&world, 2),
                              random_below(&world, 2) ? EIO : ENOSPC);
            live(&world);
            unsure_kept += unsure && world.count >= before;
            cuts += sim_disk_is_off();
            end(&world);
            sim_disk_power_on();
        }
        /* In the end it opens. */
        assert_int_equal(recover(&world), 0);
        end(&world);
    }
    print_message("%llu histories from seed %llu, %llu power cuts, %llu unacknowledged batches were found again\n",
                  (unsigned long long)histories, (unsigned long long)first, (unsigned long long)cuts,
                  (unsigned long long)unsure_kept);
    mem_free(world.made);
}

static int no_disk(void **state)
{
    (void)state;
    return sim_disk_end() == 0 ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_nth_failure, no_disk),
        cmocka_unit_test_teardown(the_nth_power_cut, no_disk),
        cmocka_unit_test_teardown(random_histories, no_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
