/* The commit log on a disk in memory: slots and segments, and what recovery says of a log that was damaged. */
#include "daemon/store/wal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "daemon/store/slot.h"
#include "tests/model/made_batch.h"
#include "tests/model/sim_disk.h"

#define MIB (UINT64_C(1) << 20)

enum { MADE_MAX = 256, PAGE = BATCH_ALIGN_BYTES, FIRST_AT = SLOT_FIRST_BATCH_AT };

struct world {
    struct wal *wal;
    uint8_t secret[RECORD_SECRET_BYTES];
    uint64_t applied; /* what the tables know */
    uint32_t slots;
    uint64_t segment; /* and the newest they know of */
    uint64_t change_bytes_max;
    struct made made[MADE_MAX]; /* what was appended */
    uint32_t count;
    uint64_t salt;
};

static int set_up(void **state)
{
    struct world *world = mem_zero(1, sizeof *world);

    sim_disk_reset(7);
    for (unsigned i = 0; i < sizeof world->secret; i++)
        world->secret[i] = (uint8_t)(i * 91 + 3);
    world->slots = 1;
    *state = world;
    return wal_make(&sim_disk, -1, world->secret, 0);
}

static int tear_down(void **state)
{
    struct world *world = *state;

    wal_close(world->wal);
    mem_free(world);
    return sim_disk_end() == 0 ? 0 : -1;
}

static struct wal *try_open(struct world *world, bool accept_loss, struct failure *error)
{
    const struct wal_options options = {.disk = &sim_disk,
                                        .directory = "dir",
                                        .secret = world->secret,
                                        .applied = world->applied,
                                        .segment = world->segment,
                                        .change_bytes_max = world->change_bytes_max,
                                        .slots = world->slots,
                                        .accept_loss = accept_loss};

    *error = (struct failure){0};
    return wal_open(&options, error);
}

static void reopen(struct world *world)
{
    struct failure error;

    wal_close(world->wal);
    world->wal = try_open(world, false, &error);
    if (!world->wal)
        fail_msg("%s", error.message);
}

/* Everything found is applied, and the tables know of the segment that comes. */
static void go_on(struct world *world)
{
    assert_int_equal(wal_start(world->wal), 0);
    assert_true(wal_segment(world->wal) > world->segment);
    world->segment = wal_segment(world->wal);
}

/* Opens, finds nothing that is not applied, and goes on. */
static void start(struct world *world)
{
    reopen(world);
    assert_int_equal(wal_found(world->wal), 0);
    go_on(world);
}

static struct made next_made(struct world *world, uint32_t changes, uint64_t bytes)
{
    const uint64_t first = world->count ? made_last(&world->made[world->count - 1]) + 1 : world->applied + 1;
    const struct made made = {first, changes, (uint32_t)bytes, ++world->salt};

    assert_true(world->count < MADE_MAX);
    world->made[world->count++] = made;
    return made;
}

static uint64_t newest(const struct world *world)
{
    return world->count ? made_last(&world->made[world->count - 1]) : world->applied;
}

/* What the disk has of the batch whose first change this is; of several, in the newest segment. */
static struct batch_header written(struct world *world, uint64_t first)
{
    struct batch_header header, found = {0};

    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++) {
        char name[16];
        uint64_t bytes = 0;

        snprintf(name, sizeof name, "log.%u", slot);
        const uint8_t *data = sim_disk_data(name, &bytes);
        for (uint64_t at = 0; data && at < bytes; at += PAGE) {
            if (!batch_good(data + at, bytes - at, world->secret))
                continue;
            batch_read_header(data + at, &header);
            if (header.first == first && header.segment >= found.segment)
                found = header;
        }
    }
    assert_int_equal(found.first, first);
    return found;
}

/* Appends a batch and returns where it says that it lies. */
static struct batch_header append(struct world *world, uint32_t changes, uint64_t bytes)
{
    const struct made made = next_made(world, changes, bytes);
    struct batch batch = make_made(&made);

    assert_true(wal_has_room(world->wal, batch.bytes->size));
    assert_int_equal(wal_append(world->wal, batch.bytes->data), 0);
    blob_release(batch.bytes);
    return written(world, batch.first);
}

/* Is the batch there where it says, whole? */
static void assert_lies(struct world *world, const char *name, const struct batch_header *header)
{
    uint64_t bytes;
    const uint8_t *data = sim_disk_data(name, &bytes);
    struct batch_header found;

    assert_non_null(data);
    assert_true(header->offset % PAGE == 0 && header->offset + batch_padded_bytes(header->bytes) <= bytes);
    assert_true(batch_good(data + header->offset, bytes - header->offset, world->secret));
    batch_read_header(data + header->offset, &found);
    assert_int_equal(found.segment, header->segment);
    assert_int_equal(found.offset, header->offset);
    assert_int_equal(found.first, header->first);
}

/* What was found is what was appended, from made[from] to before made[end]. */
static void assert_found(const struct world *world, uint32_t from, uint32_t end)
{
    assert_int_equal(wal_found(world->wal), end - from);
    for (uint32_t n = from; n < end; n++)
        assert_true(is_made(wal_batch(world->wal, n - from), &world->made[n]));
}

static uint64_t file_bytes(const char *name)
{
    uint64_t bytes = 0;

    assert_non_null(sim_disk_data(name, &bytes));
    return bytes;
}

static void make_slot(struct world *world)
{
    assert_true(wal_wants_slot(world->wal));
    assert_int_equal(wal_prepare(world->wal), 0);
    world->slots = wal_slots(world->wal);
    wal_add_slot(world->wal);
}

static void apply_to(struct world *world, uint64_t number)
{
    world->applied = number;
    world->segment = wal_segment(world->wal);
    wal_applied(world->wal, number);
}

/* Fills the current slot: no page is left of `bytes`, of which `used` are. */
static void fill_slot(struct world *world, uint64_t bytes, uint64_t used)
{
    while (used < bytes) {
        const uint64_t part = bytes - used < MIB ? bytes - used : MIB;
        append(world, 2, part);
        used += part;
    }
}

/* ---- The disk itself --------------------------------------------------------------------- */

/* A power cut keeps what was flushed, and leaves all sorts of things of what was not. */
static void the_disk(void **state)
{
    enum { BYTES = 16384 };
    uint8_t *old = mem_alloc(BYTES), *new = mem_alloc(BYTES);
    bool nothing = false, all = false, prefix = false, holes = false;

    (void)state;
    memset(old, 1, BYTES);
    memset(new, 2, BYTES);
    for (uint64_t seed = 0; seed < 300; seed++) {
        int file;
        uint64_t bytes;
        sim_disk_reset(seed);
        assert_int_equal(sim_disk.make(-1, "x/f", 4 * BYTES, &file), 0);
        assert_int_equal(sim_disk.write(file, BYTES, old, BYTES), 0);
        sim_disk_cut_power(SIM_WRITE, 1);
        assert_int_equal(sim_disk.write(file, 2 * BYTES, new, BYTES), EIO);
        assert_true(sim_disk_is_off());
        assert_int_equal(sim_disk.write(file, 0, new, BYTES), EIO);
        sim_disk.close(file);
        sim_disk_power_on();
        const uint8_t *data = sim_disk_data("f", &bytes);
        assert_int_equal(bytes, 4 * BYTES);
        assert_memory_equal(data + BYTES, old, BYTES);
        uint32_t written = 0, length = 0;
        for (uint32_t at = 0; at < BYTES; at++)
            if (data[2 * BYTES + at])
                written++, length = at + 1;
        for (uint32_t at = 0; at < BYTES; at++)
            assert_int_equal(data[at] + data[3 * BYTES + at], 0);
        nothing |= written == 0;
        all |= written == BYTES;
        prefix |= written == length && length % 512;
        holes |= written < length;
    }
    assert_true(nothing && all && prefix && holes);
    sim_disk_reset(7);
    sim_disk_fail(SIM_MAKE, 2, false, ENOSPC);
    int file;
    assert_int_equal(sim_disk.make(-1, "a", 1, &file), 0);
    sim_disk.close(file);
    assert_int_equal(sim_disk.make(-1, "b", 1, &file), ENOSPC);
    assert_int_equal(sim_disk.open(-1, "b", &file), ENOENT);
    assert_int_equal(sim_disk_failed(), 1);
    mem_free(old);
    mem_free(new);
}

/* ---- Appending and recovery ----------------------------------------------------------------- */

static void a_new_log(void **state)
{
    struct world *world = *state;
    uint64_t bytes;
    const uint8_t *data = sim_disk_data("log.0", &bytes);

    assert_int_equal(bytes, FIRST_AT + MIB);
    assert_null(slot_damage(data, bytes, 0, world->secret));
    for (uint64_t at = SLOT_HEAD_BYTES; at < bytes; at += 997)
        assert_int_equal(data[at], 0);
    assert_int_equal(sim_disk_open_files(), 0);
    start(world);
    assert_int_equal(wal_slots(world->wal), 1);
    assert_int_equal(wal_bytes(world->wal), FIRST_AT + MIB);
    assert_int_equal(wal_batch_bytes_max(world->wal), MIB);
    assert_true(wal_has_room(world->wal, PAGE));
    assert_true(wal_has_room(world->wal, MIB));
    assert_false(wal_has_room(world->wal, MIB + PAGE));
    assert_false(wal_wants_slot(world->wal));
}

static void append_and_recover(void **state)
{
    struct world *world = *state;
    struct batch_header header, before = {0};

    start(world);
    for (uint32_t i = 0; i < 40; i++) {
        const uint64_t calls = sim_disk_calls(SIM_ALL);
        header = append(world, 1 + i % 5, 200 + i * 331);
        assert_int_equal(sim_disk_calls(SIM_ALL), calls + 1); /* one write, which flushes */
        assert_int_equal(header.offset, i ? before.offset + batch_padded_bytes(before.bytes) : FIRST_AT);
        assert_int_equal(header.segment, i ? before.segment : header.segment);
        assert_lies(world, "log.0", &header);
        before = header;
    }
    for (uint32_t i = 0; i <= 40; i++) {
        const uint64_t changes = sim_disk_calls(SIM_CHANGES);
        world->applied = i ? made_last(&world->made[i - 1]) : 0;
        reopen(world);
        assert_found(world, i, 40);
        assert_int_equal(sim_disk_calls(SIM_CHANGES), changes); /* recovery writes nothing */
    }
    /* It goes on in a segment of its own, with the next number. */
    go_on(world);
    assert_true(append(world, 1, 300).segment > header.segment);
    assert_true(append(world, 1, 300).segment > header.segment);
    reopen(world);
    assert_found(world, 40, 42);
}

/* Its numbers were given out again meanwhile. */
static void a_torn_batch_reads_later(void **state)
{
    struct world *world = *state;

    start(world);
    append(world, 1, 300);
    const struct batch_header torn = append(world, 5, 3000);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    world->count--;
    reopen(world);
    assert_found(world, 0, world->count);
    world->applied = newest(world);
    start(world);
    const struct batch_header after = append(world, 2, 300);
    assert_int_equal(after.first, torn.first);
    assert_true(after.offset != torn.offset);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    reopen(world);
    assert_found(world, world->count - 1, world->count);

    /* What came after it is applied so far, and it says more. */
    const uint64_t before = world->applied;
    go_on(world);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    reopen(world);
    go_on(world);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    world->applied = newest(world);
    assert_true(world->applied < torn.last);
    reopen(world);
    assert_found(world, 0, 0);
    world->applied = before;
}

/* Nor does it count where of what came after it the first does not read: nothing is applied on top of it. */
static void a_torn_batch_stands_for_nothing(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    for (int i = 0; i < 3; i++)
        append(world, 1, 300);
    const struct batch_header torn = append(world, 5, 3000);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    world->count--;
    reopen(world);
    world->applied = newest(world);
    start(world);
    const struct batch_header first = append(world, 2, 300);
    assert_true(append(world, 1, 300).offset < torn.offset);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    sim_disk_flip("log.0", first.offset + 100, 0);
    wal_close(world->wal);
    world->wal = try_open(world, false, &error);
    assert_null(world->wal);
    assert_int_equal(error.exit_code, 65);
    world->wal = try_open(world, true, &error);
    assert_non_null(world->wal);
    assert_found(world, world->count - 1, world->count);
}

/* What another version wrote is neither torn nor damaged, and is not passed over: it was acknowledged. */
static void another_version(void **state)
{
    struct world *world = *state;
    struct failure error;
    uint64_t bytes;

    start(world);
    const struct batch_header header = append(world, 3, 3000);
    uint8_t *data = (uint8_t *)(uintptr_t)sim_disk_data("log.0", &bytes) + header.offset;
    data[19] = '1';
    batch_sign(data, header.segment, header.offset, world->secret);
    wal_close(world->wal);
    for (int accept_loss = 0; accept_loss < 2; accept_loss++) {
        world->wal = try_open(world, accept_loss, &error);
        assert_null(world->wal);
        assert_int_equal(error.exit_code, 65);
        assert_non_null(strstr(error.message, "log.0: has changes of another version of idemd"));
        assert_non_null(strstr(error.message, "idb1"));
    }
}

/* What an older segment left in a slot is never taken for the current one's, whatever the tables say of it. */
static void leftovers(void **state)
{
    struct world *world = *state;
    uint64_t segment = 0;

    start(world);
    for (uint32_t round = 0; round < 12; round++) {
        const uint32_t before = world->count;
        for (uint32_t i = 0; i < 12 - round; i++) {
            const struct batch_header header = append(world, 1 + i % 3, 200 + 2500 * (i % 4));
            assert_true(i ? header.segment == segment : header.segment > segment);
            assert_int_equal(header.offset == FIRST_AT, i == 0);
            segment = header.segment;
        }
        reopen(world);
        assert_found(world, before, world->count);
        reopen(world); /* and once more: nothing was done yet */
        assert_found(world, before, world->count);
        world->applied = newest(world);
        go_on(world);
        /* The tables may know more than the log was told, never less. */
        reopen(world);
        assert_found(world, 0, 0);
        go_on(world);
    }
}

/* A batch at another place than its own does not read as one that is to be applied. */
static void moved(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    for (int i = 0; i < 3; i++)
        append(world, 1, 300);
    uint64_t bytes;
    const uint8_t *data = sim_disk_data("log.0", &bytes);
    uint8_t *page = mem_alloc(PAGE), *file = mem_alloc(bytes);
    memcpy(page, data + FIRST_AT + 2 * PAGE, PAGE);
    memcpy(file, data, bytes);
    memcpy(file + FIRST_AT + 5 * PAGE, page, PAGE); /* a copy elsewhere */
    sim_disk_put("log.0", file, bytes);
    reopen(world);
    assert_found(world, 0, 3);
    memcpy(file + FIRST_AT + PAGE, page, PAGE); /* and over the second */
    sim_disk_put("log.0", file, bytes);
    wal_close(world->wal);
    world->wal = NULL;
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    mem_free(page);
    mem_free(file);
}

/* Another store's log is not an empty one of ours. */
static void another_secret(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    append(world, 1, 300);
    append(world, 1, 300);
    world->secret[5] ^= 1;
    world->secret[60] ^= 1;
    world->secret[100] ^= 1;
    world->secret[180] ^= 1;
    wal_close(world->wal);
    world->wal = try_open(world, false, &error);
    assert_null(world->wal);
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.0: is not as it was left: its first page"));
    world->applied = newest(world);
    world->wal = try_open(world, true, &error);
    assert_found(world, 0, 0);
    assert_true(wal_lost(world->wal));
    go_on(world);
    append(world, 1, 300);
    reopen(world);
    assert_found(world, world->count - 1, world->count);
}

/* The first batch of a new segment is torn, so that nobody can read the number of its segment, and reads whole after
 * the next start has given its numbers out again: the torn one does not count. */
static void a_torn_first_batch_reads_later(void **state)
{
    struct world *world = *state;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    apply_to(world, newest(world));
    fill_slot(world, 2 * MIB, PAGE);
    const struct batch_header torn = append(world, 3, 3000);
    assert_int_equal(torn.offset, FIRST_AT);
    assert_lies(world, "log.0", &torn);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    world->count--;
    reopen(world);
    assert_true(made_last(&world->made[world->count - 1]) + 1 == torn.first);
    world->applied = newest(world);
    go_on(world);
    const struct batch_header after = append(world, 2, 300);
    assert_lies(world, "log.1", &after);
    assert_int_equal(after.first, torn.first);
    assert_true(after.segment > torn.segment);
    sim_disk_flip("log.0", torn.offset + 200, 0);
    reopen(world);
    assert_found(world, world->count - 1, world->count);
    world->applied = newest(world);
    go_on(world);

    /* However often a start gets no further: no number comes twice. */
    uint64_t segment = after.segment;
    for (int round = 0; round < 4; round++) {
        const struct batch_header header = append(world, 1, 300);
        assert_true(header.segment > segment);
        segment = header.segment;
        sim_disk_flip("log.1", header.offset + 20, 0);
        world->count--;
        reopen(world);
        assert_found(world, 0, 0);
        go_on(world);
    }
}

/* ---- Slots ------------------------------------------------------------------------------------ */

static void slots_double(void **state)
{
    static const char *const names[] = {"log.0", "log.1", "log.2", "log.3", "log.4", "log.5", "log.6", "log.7"};
    struct world *world = *state;
    uint64_t expected = MIB, total = FIRST_AT + MIB;

    start(world);
    for (uint32_t slot = 0; slot < WAL_SLOTS_MAX; slot++) {
        struct batch_header header = append(world, 1, 300);
        assert_int_equal(header.offset, FIRST_AT);
        assert_lies(world, names[slot], &header);
        assert_false(wal_wants_slot(world->wal)); /* hardly anything is in it */
        fill_slot(world, expected, PAGE);
        assert_int_equal(file_bytes(names[slot]), FIRST_AT + expected);
        assert_int_equal(wal_bytes(world->wal), total);
        assert_false(wal_has_room(world->wal, PAGE));
        if (slot == WAL_SLOTS_MAX - 1)
            break;
        /* Prepared it is there, and counts once the tables know. */
        assert_true(wal_wants_slot(world->wal));
        assert_int_equal(wal_prepare(world->wal), 0);
        assert_int_equal(wal_slots(world->wal), slot + 2);
        assert_false(wal_has_room(world->wal, PAGE));
        world->slots = wal_slots(world->wal);
        wal_add_slot(world->wal);
        assert_int_equal(wal_slots(world->wal), slot + 2);
        assert_true(wal_has_room(world->wal, PAGE));
        assert_false(wal_wants_slot(world->wal));
        expected = expected * 2 < WAL_SLOT_BYTES_MAX ? expected * 2 : WAL_SLOT_BYTES_MAX;
        total += FIRST_AT + expected;
    }
    assert_int_equal(total, 79 * MIB + WAL_SLOTS_MAX * FIRST_AT);
    assert_false(wal_wants_slot(world->wal));
    assert_int_equal(wal_prepare(world->wal), 0);
    assert_int_equal(wal_slots(world->wal), WAL_SLOTS_MAX);
    reopen(world);
    assert_found(world, 0, world->count);
}

/* A prepared slot of which the tables did not learn is not one at the next start. It is made again. */
static void prepared_and_forgotten(void **state)
{
    struct world *world = *state;

    start(world);
    fill_slot(world, MIB, 0);
    assert_int_equal(wal_prepare(world->wal), 0);
    reopen(world);
    assert_int_equal(wal_slots(world->wal), 1);
    assert_found(world, 0, world->count);
    world->applied = newest(world);
    go_on(world);
    fill_slot(world, MIB, 0);
    assert_false(wal_has_room(world->wal, PAGE));
    make_slot(world);
    const struct batch_header header = append(world, 1, 300);
    assert_lies(world, "log.1", &header);
}

/* No slot, since the disk is full: the log goes on with what it has. */
static void no_slot_to_have(void **state)
{
    struct world *world = *state;

    start(world);
    fill_slot(world, MIB / 2, 0);
    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC);
    assert_true(wal_wants_slot(world->wal));
    assert_int_equal(wal_prepare(world->wal), ENOSPC);
    assert_int_equal(wal_slots(world->wal), 1);
    wal_add_slot(world->wal);
    assert_int_equal(wal_slots(world->wal), 1);
    fill_slot(world, MIB, MIB / 2);
    assert_false(wal_has_room(world->wal, PAGE));
    assert_int_equal(wal_prepare(world->wal), ENOSPC);
    apply_to(world, newest(world));
    assert_true(wal_has_room(world->wal, PAGE));
    sim_disk_fail(0, 0, false, 0);
    append(world, 1, 300);
    fill_slot(world, MIB, PAGE);
    make_slot(world);
    append(world, 1, 300);
}

/* Room is what is free, and a slot is free when all that is in it is applied. */
static void used_again(void **state)
{
    struct world *world = *state;
    uint64_t last_of[3];
    struct batch_header header;

    start(world);
    fill_slot(world, MIB, 0);
    last_of[0] = newest(world);
    make_slot(world);
    header = append(world, 3, 300);
    assert_lies(world, "log.1", &header);
    fill_slot(world, 2 * MIB, PAGE);
    last_of[1] = newest(world);
    make_slot(world);
    append(world, 3, 300);
    fill_slot(world, 4 * MIB, PAGE);
    last_of[2] = newest(world);
    assert_false(wal_has_room(world->wal, PAGE));

    /* One change short of it nothing is free. */
    apply_to(world, world->made[0].first);
    assert_false(wal_has_room(world->wal, PAGE));
    apply_to(world, last_of[0] - 1);
    assert_false(wal_has_room(world->wal, PAGE));
    apply_to(world, last_of[0]);
    assert_true(wal_has_room(world->wal, PAGE));
    assert_true(wal_has_room(world->wal, MIB));
    assert_false(wal_has_room(world->wal, MIB + PAGE)); /* no slot grows */
    assert_int_equal(wal_batch_bytes_max(world->wal), 4 * MIB);
    const uint64_t segment = header.segment;
    header = append(world, 1, 300);
    assert_int_equal(header.offset, FIRST_AT);
    assert_true(header.segment > segment);
    assert_lies(world, "log.0", &header);
    uint32_t n = 0;
    while (world->made[n].first <= world->applied)
        n++;
    fill_slot(world, MIB, PAGE);
    assert_false(wal_has_room(world->wal, PAGE));
    apply_to(world, last_of[1] - 1);
    assert_false(wal_has_room(world->wal, PAGE));
    apply_to(world, last_of[1]);
    assert_true(wal_has_room(world->wal, PAGE));
    header = append(world, 1, 300);
    assert_lies(world, "log.1", &header);

    /* With everything as of then, recovery has it all in order, though it lies in slots 2, 0 and 1. */
    reopen(world);
    while (world->made[n].first <= world->applied)
        n++;
    assert_found(world, n, world->count);
    world->applied = last_of[0];
    n = 0;
    while (world->made[n].first <= world->applied)
        n++;
    wal_close(world->wal);
    world->wal = NULL;
    /* Slot 1 was used again: the tables cannot know less than the log was told. That would be a gap. */
    struct failure error;
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
}

/* Full and all applied: a log of one slot goes on in it. */
static void one_slot_only(void **state)
{
    struct world *world = *state;
    uint64_t segment = 0;

    start(world);
    for (int round = 0; round < 5; round++) {
        const struct batch_header header = append(world, 1, 300);
        assert_true(header.segment > segment);
        assert_int_equal(header.offset, FIRST_AT);
        assert_lies(world, "log.0", &header);
        segment = header.segment;
        const uint32_t before = world->count;
        fill_slot(world, MIB, PAGE);
        assert_false(wal_has_room(world->wal, PAGE));
        apply_to(world, newest(world) - 1);
        assert_false(wal_has_room(world->wal, PAGE));
        apply_to(world, newest(world));
        assert_true(wal_has_room(world->wal, PAGE));
        assert_int_equal(world->count, before + 1);
    }
}

/* While the log is used no slot grows: a full disk would not let it. What is larger than any has no room. */
static void no_slot_grows(void **state)
{
    struct world *world = *state;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    apply_to(world, newest(world));
    assert_int_equal(wal_batch_bytes_max(world->wal), 2 * MIB);
    assert_true(wal_has_room(world->wal, 2 * MIB));
    assert_false(wal_has_room(world->wal, 2 * MIB + PAGE));
    /* The disk is full from now on, and the largest batch finds its place whenever all before it is applied. */
    sim_disk_fail(SIM_MAKE, 1, true, ENOSPC);
    for (int round = 0; round < 5; round++) {
        append(world, 1, 300);
        assert_false(wal_has_room(world->wal, 2 * MIB));
        apply_to(world, newest(world));
        assert_true(wal_has_room(world->wal, 2 * MIB));
        append(world, 3, 2 * MIB);
        apply_to(world, newest(world));
        wal_prepare(world->wal);
        assert_int_equal(file_bytes("log.0"), FIRST_AT + MIB);
        assert_int_equal(file_bytes("log.1"), FIRST_AT + 2 * MIB);
    }
    sim_disk_fail(0, 0, false, 0);
}

/* There is room for the largest change from the start on, also if it became larger since the log was made. */
static void room_for_the_largest_change(void **state)
{
    static const uint64_t changes[] = {MIB, 3 * MIB + 77, 17 * MIB, 5000};
    struct world *world = *state;
    uint64_t largest = 0;

    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        world->change_bytes_max = changes[i];
        start(world);
        largest = changes[i] > largest ? changes[i] : largest;
        assert_true(wal_batch_bytes_max(world->wal) >= BATCH_HEADER_BYTES + largest);
        append(world, 1, BATCH_HEADER_BYTES + changes[i]);
        if (wal_wants_slot(world->wal))
            make_slot(world);
        reopen(world);
        assert_found(world, world->count - 1, world->count);
        world->applied = newest(world);
        go_on(world);
    }

    /* No room for it: the start says so, and nothing is lost. */
    append(world, 1, 300);
    world->change_bytes_max = 30 * MIB;
    reopen(world);
    sim_disk_fail(SIM_WRITE, 1, true, ENOSPC);
    world->applied = newest(world);
    assert_int_equal(wal_start(world->wal), ENOSPC);
    sim_disk_fail(0, 0, false, 0);
    start(world);
    append(world, 1, 30 * MIB);

    /* A new log has it in its first slot. */
    sim_disk_drop("log.0");
    assert_int_equal(wal_make(&sim_disk, -1, world->secret, 5 * MIB), 0);
    assert_true(file_bytes("log.0") >= FIRST_AT + BATCH_HEADER_BYTES + 5 * MIB);
}

/* What an attempt to make a slot has left says nothing, whatever it is, and is replaced when there is room. Nor does it
 * keep the log from going on while the disk is full. */
static void cut_off_in_the_making(void **state)
{
    static const uint64_t sizes[] = {0, 1, 511, 5000, 2 * MIB - 1, 2 * MIB + PAGE, 9 * MIB};
    struct world *world = *state;
    uint8_t *zeros = mem_zero(1, 9 * MIB);

    start(world);
    append(world, 1, 300);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        sim_disk_put("log.1", zeros, sizes[i]);
        sim_disk_fail(SIM_MAKE | SIM_WRITE, 1, true, ENOSPC);
        reopen(world);
        assert_int_equal(wal_slots(world->wal), 1);
        assert_found(world, world->count - 1, world->count);
        world->applied = newest(world);
        go_on(world);
        sim_disk_fail(SIM_MAKE, 1, true, ENOSPC);
        fill_slot(world, MIB, 0);
        assert_int_equal(wal_prepare(world->wal), ENOSPC);
        sim_disk_put("log.1", zeros, sizes[i]);
        sim_disk_fail(0, 0, false, 0);
        make_slot(world);
        assert_int_equal(file_bytes("log.1"), FIRST_AT + 2 * MIB);
        const struct batch_header header = append(world, 1, 300);
        assert_lies(world, "log.1", &header);
        world->applied = newest(world) - 1;
        reopen(world);
        assert_found(world, world->count - 1, world->count);
        /* Once more, without it. */
        world->slots = 1;
        wal_close(world->wal);
        world->wal = NULL;
        sim_disk_drop("log.1");
        world->applied = newest(world);
        start(world);
        append(world, 1, 300);
    }
    mem_free(zeros);
}

/* The tables are one commit behind and do not know of a slot that has batches: it is read all the same, and so has to
 * be each before it. */
static void a_slot_that_the_tables_forgot(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    world->slots = 1;
    reopen(world);
    assert_int_equal(wal_slots(world->wal), 2);
    assert_found(world, 0, world->count);
    world->applied = newest(world);
    go_on(world);
    world->slots = 2;
    fill_slot(world, 2 * MIB, 0);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    wal_close(world->wal);
    world->wal = NULL;
    world->slots = 1;
    uint64_t bytes;
    const uint8_t *data = sim_disk_data("log.1", &bytes);
    uint8_t *copy = mem_zero(1, bytes);
    memcpy(copy + FIRST_AT, data + FIRST_AT, bytes - FIRST_AT);
    sim_disk_put("log.1", copy, bytes);
    mem_free(copy);
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.1: is not as it was left"));
    sim_disk_drop("log.1");
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.1: is not as it was left: it is missing"));
}

/* ---- What recovery says ------------------------------------------------------------------------ */

static void missing_slot(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    apply_to(world, world->made[0].changes);
    wal_close(world->wal);
    world->wal = NULL;
    sim_disk_drop("log.1");
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.1"));
    assert_int_equal(sim_disk_open_files(), 0);
    assert_null(sim_disk_data("log.1", &world->salt));
    /* Also where nothing of what it held was needed. */
    world->applied = newest(world);
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);

    /* A slot that the tables do not know of need not be there. */
    world->slots = 1;
    world->wal = try_open(world, false, &error);
    assert_non_null(world->wal);
    world->slots = 2;
    wal_close(world->wal);
    world->wal = try_open(world, true, &error);
    assert_non_null(world->wal);
    assert_int_equal(wal_slots(world->wal), 2);
    go_on(world);
    const struct batch_header header = append(world, 1, 300);
    assert_lies(world, "log.1", &header);
    wal_close(world->wal);
    world->wal = NULL;

    sim_disk_drop("log.0");
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    assert_non_null(strstr(error.message, "log.0"));
}

/* What the tables know of is there whole, or something is lost: nothing that can become of a file passes for one that
 * was never written to. */
static void known_slots(void **state)
{
    enum {
        EMPTY,
        SHORT,
        PAGE_SHORT,
        ZEROED,
        FIRST_PAGE_ZEROED,
        FIRST_BATCH_ZEROED,
        OTHER_SLOT,
        OTHER_STORE,
        MISSING,
        ALL_KINDS
    };
    static const char *const reasons[] = {
        "it is empty",
        "it is shorter than it was made",
        "it is shorter than it was made",
        "its first page is zeros",
        "its first page is zeros",
        "it has zeros where its first batch was",
        "it is another file of the log, under a wrong name",
        "its first page is damaged, or was written by another store",
        "it is missing",
    };
    struct world *world = *state;
    uint8_t other_secret[RECORD_SECRET_BYTES] = {1};
    struct failure error;
    uint64_t bytes;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    const uint8_t *there = sim_disk_data("log.1", &bytes);
    uint8_t *good = mem_alloc(bytes), *bad = mem_alloc(bytes);
    memcpy(good, there, bytes);
    wal_close(world->wal);
    world->wal = NULL;
    /* Also a slot of which everything is applied, and one in which nothing was. */
    for (int round = 0; round < 3; round++) {
        if (round == 1)
            world->applied = newest(world);
        if (round == 2)
            slot_write_head(good, 1, bytes, world->secret);
        for (int kind = 0; kind < ALL_KINDS; kind++) {
            memcpy(bad, good, bytes);
            if (kind == ZEROED)
                memset(bad, 0, bytes);
            if (kind == FIRST_PAGE_ZEROED)
                memset(bad, 0, PAGE);
            if (kind == FIRST_BATCH_ZEROED)
                memset(bad + FIRST_AT, 0, PAGE);
            if (kind == OTHER_SLOT)
                slot_write_head(bad, 0, bytes, world->secret);
            if (kind == OTHER_STORE)
                slot_write_head(bad, 1, bytes, other_secret);
            sim_disk_put("log.1", bad,
                         kind == EMPTY        ? 0
                         : kind == SHORT      ? 5000
                         : kind == PAGE_SHORT ? bytes - PAGE
                                              : bytes);
            if (kind == MISSING)
                sim_disk_drop("log.1");
            world->wal = try_open(world, false, &error);
            assert_null(world->wal);
            assert_int_equal(error.exit_code, 65);
            assert_non_null(strstr(error.message, "log.1: is not as it was left"));
            if (!strstr(error.message, reasons[kind]))
                fail_msg("%d: %s", kind, error.message);
            assert_int_equal(sim_disk_open_files(), 0);
            /* Accepted, it is a slot again, and the next start has nothing to complain of. */
            world->wal = try_open(world, true, &error);
            assert_non_null(world->wal);
            assert_true(wal_lost(world->wal));
            const uint64_t before = world->applied;
            world->applied = newest(world);
            go_on(world);
            reopen(world);
            assert_false(wal_lost(world->wal));
            wal_close(world->wal);
            world->wal = NULL;
            world->applied = before;
            if (round < 2)
                world->segment = 0;
            sim_disk_put("log.1", good, bytes);
        }
    }
    mem_free(good);
    mem_free(bad);
}

/* Without the slot that has the middle: only accept_loss goes on, with what the others have. */
static void lost_middle(void **state)
{
    struct world *world = *state;
    struct failure error;

    start(world);
    fill_slot(world, MIB, 0);
    make_slot(world);
    append(world, 1, 300);
    fill_slot(world, 2 * MIB, PAGE);
    make_slot(world);
    append(world, 1, 300);
    append(world, 2, 300);
    wal_close(world->wal);
    world->wal = NULL;
    sim_disk_drop("log.1");
    assert_null(try_open(world, false, &error));
    assert_int_equal(error.exit_code, 65);
    world->wal = try_open(world, true, &error);
    assert_non_null(world->wal);
    assert_int_equal(wal_found(world->wal), 3);
    assert_true(is_made(wal_batch(world->wal, 0), &world->made[0]));
    assert_true(is_made(wal_batch(world->wal, 1), &world->made[world->count - 2]));
    assert_true(is_made(wal_batch(world->wal, 2), &world->made[world->count - 1]));
    world->applied = newest(world);
    go_on(world);
    append(world, 1, 300);
    reopen(world);
    assert_found(world, world->count - 1, world->count);
}

/* Five batches in two segments: the first three in one slot, the others in the next. Written down by the format, so
 * that the files are small and every byte of them can be damaged. */
enum { FIRST = 3, SECOND = 2, ALL = FIRST + SECOND };
static const uint32_t BYTES[ALL] = {170, 300, 5000, 180, 4096};

static void put_two_segments(struct world *world)
{
    for (uint32_t slot = 0, n = 0; slot < 2; slot++) {
        struct blob *file = blob_new(PAGE);
        blob_extend(file, SLOT_HEAD_BYTES);
        file->size = FIRST_AT;
        for (; n < (slot ? ALL : FIRST); n++) {
            if (world->count == n)
                next_made(world, 1 + n, BYTES[n]);
            struct batch batch = make_made(&world->made[n]);
            batch_sign(batch.bytes->data, 4 + slot, file->size, world->secret);
            const uint32_t at = blob_extend(file, batch.bytes->size);
            memcpy(file->data + at, batch.bytes->data, batch.bytes->size);
            blob_release(batch.bytes);
        }
        const uint32_t at = blob_extend(file, 2 * PAGE);
        memset(file->data + at, 0, 2 * PAGE);
        uint8_t head[SLOT_HEAD_BYTES];
        slot_write_head(head, slot, file->size, world->secret);
        memcpy(file->data, head, FIRST_AT);
        sim_disk_put(slot ? "log.1" : "log.0", file->data, file->size);
        blob_release(file);
    }
    world->slots = 2;
}

static uint32_t start_of(uint32_t n)
{
    uint32_t at = FIRST_AT;

    for (uint32_t i = n < FIRST ? 0 : FIRST; i < n; i++)
        at += (uint32_t)batch_padded_bytes(BYTES[i]);
    return at;
}

static const char *file_of(uint32_t n)
{
    return n < FIRST ? "log.0" : "log.1";
}

/* How long batch n really is. */
static uint32_t bytes_of_made(const struct world *world, uint32_t n)
{
    struct batch batch = make_made(&world->made[n]);
    struct batch_header header;

    batch_read_header(batch.bytes->data, &header);
    blob_release(batch.bytes);
    return header.bytes;
}

/* Opens: those from `from` to before `end` are there (end 0: it is damage). */
static void assert_answer(struct world *world, uint32_t from, uint32_t end)
{
    struct failure error;

    world->wal = try_open(world, false, &error);
    if (end == 0) {
        assert_null(world->wal);
        assert_int_equal(error.exit_code, 65);
        assert_true(strlen(error.message) > 0);
        return;
    }
    if (!world->wal)
        fail_msg("%s", error.message);
    assert_found(world, from, end);
    wal_close(world->wal);
    world->wal = NULL;
}

/* A bit that flips in the very last batch cannot be told from one that was torn: it counts as never written, though it
 * may have been acknowledged. In every other one it is damage, unless it was applied already. The padding is nobody's.
 */
static void flipped_bits(void **state)
{
    struct world *world = *state;

    put_two_segments(world);
    assert_answer(world, 0, ALL);
    for (uint32_t applied = 0; applied < ALL; applied++) {
        world->applied = applied ? made_last(&world->made[applied - 1]) : 0;
        for (uint32_t n = 0; n < ALL; n++) {
            const uint32_t bytes = bytes_of_made(world, n), step = applied ? 7 : 1;
            for (uint32_t at = 0; at < batch_padded_bytes(bytes); at += step) {
                sim_disk_flip(file_of(n), start_of(n) + at, at % 8);
                if (at >= bytes || n < applied)
                    assert_answer(world, applied, ALL);
                else if (n == ALL - 1 && applied == ALL - 1)
                    assert_answer(world, ALL - 1, ALL - 1);
                else
                    assert_answer(world, applied, n == ALL - 1 ? ALL - 1 : 0);
                sim_disk_flip(file_of(n), start_of(n) + at, at % 8);
            }
        }
    }
    assert_answer(world, ALL - 1, ALL);
}

/* A file that ends earlier than it was made has lost something, whatever was in that part of it. */
static void cut_files(void **state)
{
    struct world *world = *state;

    for (uint32_t slot = 0; slot < 2; slot++) {
        const char *name = slot ? "log.1" : "log.0";
        put_two_segments(world);
        const uint64_t whole = file_bytes(name);
        for (uint64_t size = whole; size < UINT64_MAX; size = size >= 5 ? size - 5 : UINT64_MAX) {
            put_two_segments(world);
            sim_disk_cut(name, size);
            assert_answer(world, 0, size == whole ? ALL : 0);
        }
    }
}

/* Two in a row at the end, both damaged: nothing later reads, so the chain ends before. One in front of a good one is
 * a gap, which accept_loss goes over. */
static void gaps(void **state)
{
    struct world *world = *state;
    struct failure error;

    put_two_segments(world);
    for (unsigned bad = 0; bad < 1u << ALL; bad++) {
        uint32_t good_end = 0, last_good = 0, good = 0;
        for (uint32_t n = 0; n < ALL; n++) {
            if (bad >> n & 1)
                sim_disk_flip(file_of(n), start_of(n) + 100 + 7 * n, n);
            else
                good++, last_good = n + 1;
            good_end += n == good_end && !(bad >> n & 1);
        }
        world->wal = try_open(world, false, &error);
        assert_int_equal(world->wal != NULL, last_good == good_end);
        if (world->wal)
            assert_found(world, 0, good_end);
        else
            assert_int_equal(error.exit_code, 65);
        wal_close(world->wal);

        world->wal = try_open(world, true, &error);
        assert_non_null(world->wal);
        assert_int_equal(wal_found(world->wal), good);
        for (uint32_t n = 0, at = 0; n < ALL; n++)
            if (!(bad >> n & 1))
                assert_true(is_made(wal_batch(world->wal, at++), &world->made[n]));
        wal_close(world->wal);
        world->wal = NULL;
        put_two_segments(world);
    }
}

/* The sentence says which changes are lost, in which file, and between which bytes of it. */
static void where_the_damage_is(void **state)
{
    static const struct {
        uint32_t bad;
        const char *changes, *expiry_key;
    } expected[] = {
        {0, "changes 1 to 1 ", "log.0: is damaged"},
        {0, "changes 1 to 1 ", "before byte 8192"},
        {1, "changes 2 to 3 ", "from byte 8192"},
        {2, "changes 4 to 6 ", "log.0: is damaged"},
        {2, "changes 4 to 6 ", "from byte 12288"},
        {3, "changes 7 to 10 ",
         "log.0: is damaged: the changes 7 to 10 do not read, and later ones do (from byte 20480"},
    };
    struct world *world = *state;
    struct failure error;

    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        put_two_segments(world);
        sim_disk_flip(file_of(expected[i].bad), start_of(expected[i].bad) + 20, 3);
        assert_null(try_open(world, false, &error));
        if (!strstr(error.message, expected[i].changes) || !strstr(error.message, expected[i].expiry_key))
            fail_msg("%zu: %s", i, error.message);
    }
}

/* A disk that does not read is neither damage nor an empty log. */
static void unreadable(void **state)
{
    static const struct {
        int code, exit_code;
    } answers[] = {{EIO, 74}, {EACCES, 77}, {EPERM, 77}, {EMFILE, 71}, {ENOMEM, 71}};
    struct world *world = *state;
    struct failure error;

    put_two_segments(world);
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
        for (uint32_t nth = 1;; nth++) {
            sim_disk_fail(SIM_ALL, nth, false, answers[i].code);
            world->wal = try_open(world, false, &error);
            if (sim_disk_failed() == 0) {
                assert_found(world, 0, ALL);
                wal_close(world->wal);
                world->wal = NULL;
                break;
            }
            assert_null(world->wal);
            assert_int_equal(error.exit_code, answers[i].exit_code);
            assert_non_null(strstr(error.message, "log."));
            assert_int_equal(sim_disk_open_files(), 0);
        }
}

/* ---- Two threads ---------------------------------------------------------------------------------- */

enum { THREAD_BATCHES = 200 };

struct threads {
    struct world *world;
    atomic_uint_fast64_t durable;
    atomic_bool over, broken;
};

static void *write_many(void *context)
{
    struct threads *threads = context;
    struct world *world = threads->world;

    for (uint32_t n = 0; n < THREAD_BATCHES && !threads->broken;) {
        const uint64_t bytes = n % 60 == 50 ? WAL_SLOT_BYTES_MAX + MIB : 200 + n * 3571 % (400 * 1024);
        const struct made made = {n * 3 + 1, 3, (uint32_t)bytes, n};
        struct batch batch = make_made(&made);
        while (!wal_has_room(world->wal, batch.bytes->size) && !threads->broken)
            sched_yield();
        if (wal_append(world->wal, batch.bytes->data) != 0)
            threads->broken = true;
        blob_release(batch.bytes);
        world->made[n++] = made;
        threads->durable = made_last(&made);
    }
    threads->over = true;
    return NULL;
}

static void *apply_many(void *context)
{
    struct threads *threads = context;
    struct wal *wal = threads->world->wal;

    while (!threads->over && !threads->broken) {
        const uint64_t durable = threads->durable;
        if (wal_prepare(wal) != 0)
            threads->broken = true;
        threads->world->slots = wal_slots(wal);
        wal_add_slot(wal);
        if (durable > 0 && durable % 5 == 0)
            wal_applied(wal, threads->world->applied = durable);
        if (durable > 0 && !wal_has_room(wal, MIB))
            wal_applied(wal, threads->world->applied = durable);
        sched_yield();
    }
    return NULL;
}

/* Appending and applying at once, as the store's threads do. */
static void two_threads(void **state)
{
    struct world *world = *state;
    struct threads threads = {.world = world};
    pthread_t writer, applier;
    uint32_t first = 0;

    world->change_bytes_max = WAL_SLOT_BYTES_MAX + MIB;
    start(world);
    assert_int_equal(pthread_create(&writer, NULL, write_many, &threads), 0);
    assert_int_equal(pthread_create(&applier, NULL, apply_many, &threads), 0);
    pthread_join(writer, NULL);
    pthread_join(applier, NULL);
    assert_false(threads.broken);
    world->count = THREAD_BATCHES;
    while (first < world->count && made_last(&world->made[first]) <= world->applied)
        first++;
    assert_true(world->slots > 1);
    reopen(world);
    assert_found(world, first, world->count);
}

int main(void)
{
#define WAL_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WAL_TEST(the_disk),
        WAL_TEST(a_new_log),
        WAL_TEST(append_and_recover),
        WAL_TEST(leftovers),
        WAL_TEST(a_torn_batch_reads_later),
        WAL_TEST(a_torn_batch_stands_for_nothing),
        WAL_TEST(a_torn_first_batch_reads_later),
        WAL_TEST(another_version),
        WAL_TEST(moved),
        WAL_TEST(another_secret),
        WAL_TEST(slots_double),
        WAL_TEST(prepared_and_forgotten),
        WAL_TEST(no_slot_to_have),
        WAL_TEST(used_again),
        WAL_TEST(one_slot_only),
        WAL_TEST(no_slot_grows),
        WAL_TEST(room_for_the_largest_change),
        WAL_TEST(cut_off_in_the_making),
        WAL_TEST(a_slot_that_the_tables_forgot),
        WAL_TEST(missing_slot),
        WAL_TEST(known_slots),
        WAL_TEST(lost_middle),
        WAL_TEST(flipped_bits),
        WAL_TEST(cut_files),
        WAL_TEST(gaps),
        WAL_TEST(where_the_damage_is),
        WAL_TEST(unreadable),
        WAL_TEST(two_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
