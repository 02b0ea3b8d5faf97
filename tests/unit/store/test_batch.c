/* The bytes of a batch against the format in batch.h, written down a second time here; what is damaged does not read,
 * and what another program signed is never read past its end. */
#include "daemon/store/batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <xxhash.h>

#include "daemon/base/memory.h"

enum { CHANGES_MAX = 512, RECORD_BYTES = 1900, BASES = 12, FUZZ_ROUNDS = 400000 };

static const struct clock_mark MARK = {.retention_ms = 0x1112131415161718,
                                       .wall_ms = 0x2122232425262728,
                                       .boot_ms = 0x3132333435363738,
                                       .boot_id = "0123456789abcde"};
static uint8_t secret[RECORD_SECRET_BYTES];

static int make_secret(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(i * 37 + 11);
    return 0;
}

/* xorshift64* */
static uint64_t random_below(uint64_t *state, uint64_t end)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * 2685821657736338717ull >> 16) % end;
}

/* ---- The format, a second time ----------------------------------------------------------- */

struct text {
    uint8_t bytes[64 * 1024];
    uint32_t size;
};

static void put_u8(struct text *text, unsigned byte)
{
    assert_true(text->size < sizeof text->bytes);
    text->bytes[text->size++] = (uint8_t)byte;
}

static void put_number(struct text *text, uint64_t number, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        put_u8(text, (unsigned)(number >> 8 * i & 0xff));
}

static void put_varint(struct text *text, uint64_t number)
{
    for (; number > 0x7f; number >>= 7)
        put_u8(text, 0x80 | (unsigned)(number & 0x7f));
    put_u8(text, (unsigned)number);
}

static void put_bytes(struct text *text, struct bytes bytes)
{
    for (uint32_t i = 0; i < bytes.size; i++)
        put_u8(text, bytes.data[i]);
}

/* As protobuf's sint64 has it. */
static void put_difference(struct text *text, uint64_t number, uint64_t *last)
{
    const int64_t difference = (int64_t)(number - *last);

    put_varint(text, difference < 0 ? ~((uint64_t)difference << 1) : (uint64_t)difference << 1);
    *last = number;
}

/* The numbers that the next change of a batch is written against. */
struct before {
    uint64_t expiry_key, expires_ms;
};

static uint64_t number_at(const uint8_t *data, unsigned bytes)
{
    uint64_t number = 0;

    for (unsigned i = bytes; i > 0; i--)
        number = number << 8 | data[i - 1];
    return number;
}

static struct bytes behind_head(struct bytes record)
{
    return bytes_of(record.data + 34, record.size - 34);
}

static uint32_t alike(const struct store_change *change)
{
    const struct bytes rest = behind_head(change->record);
    uint32_t count = 0;

    if (!change->base.data)
        return 0;
    const struct bytes base = behind_head(change->base);
    while (count < rest.size && count < base.size && rest.data[count] == base.data[count])
        count++;
    return count;
}

static void put_record(struct text *text, const struct store_change *change, struct before *before)
{
    const uint8_t *head = change->record.data;
    const uint32_t shared = alike(change);

    put_varint(text, number_at(head + 16, 4) * 4 + head[33] % 16);
    if (change->kind == STORE_FINISH)
        put_difference(text, number_at(head + 20, 6), &before->expires_ms);
    put_number(text, number_at(head + 8, 8), 8);
    if (change->number != change->generation)
        put_varint(text, shared);
    if (shared > 0)
        put_number(text, number_at(head + 4, 4), 4);
    put_varint(text, change->record.size - 34 - shared);
}

static void put_change(struct text *text, const struct store_change *change, struct before *before)
{
    const bool expiry_keys = change->kind == STORE_FINISH || change->kind == STORE_REMOVE_FINISHED;
    const bool record = change->kind == STORE_FINISH || change->kind == STORE_PUT_UNFINISHED;
    unsigned given = 0;

    for (unsigned kind = 1; kind <= 4; kind++)
        given |= change->values[kind].data ? 1u << (kind - 1) : 0;
    put_u8(text, (unsigned)change->kind | given << 3 | (change->generation ? 0 : 0x80));
    if (change->generation)
        put_varint(text, change->number - change->generation);
    if (expiry_keys) {
        put_difference(text, change->expiry_key, &before->expiry_key);
        put_varint(text, change->body_expiry_key);
    }
    if (record)
        put_record(text, change, before);
    for (unsigned kind = 1; kind <= 4; kind++)
        if (change->values[kind].data)
            put_varint(text, change->values[kind].size);
    if (record) {
        const struct bytes rest = behind_head(change->record);
        put_bytes(text, bytes_of(rest.data + alike(change), rest.size - alike(change)));
    }
    for (unsigned kind = 1; kind <= 4; kind++)
        put_bytes(text, change->values[kind]);
}

/* Header and body, without padding. */
static void put_batch(struct text *text, const struct store_change *changes, uint32_t count, uint64_t segment,
                      uint64_t offset)
{
    struct text body = {.size = 0};
    struct before before = {0};

    for (uint32_t i = 0; i < count; i++)
        put_change(&body, &changes[i], &before);
    text->size = 0;
    put_number(text, 0, 8);
    put_number(text, XXH3_64bits_withSecret(body.bytes, body.size, secret, sizeof secret), 8);
    put_number(text, 0x32626469, 4);
    put_number(text, 96 + body.size, 4);
    put_number(text, count, 4);
    put_number(text, 0, 4);
    put_number(text, segment, 8);
    put_number(text, offset, 8);
    put_number(text, changes[0].number, 8);
    put_number(text, MARK.retention_ms, 8);
    put_number(text, MARK.wall_ms, 8);
    put_number(text, MARK.boot_ms, 8);
    put_bytes(text, bytes_of(MARK.boot_id, 16));
    assert_int_equal(text->size, 96);
    const uint64_t checksum = XXH3_64bits_withSecret(text->bytes + 8, 88, secret, sizeof secret);
    text->size = 0;
    put_number(text, checksum, 8);
    text->size = 96;
    put_bytes(text, bytes_of(body.bytes, body.size));
}

/* ---- Changes ------------------------------------------------------------------------------- */

static uint8_t pool[8192];
static uint8_t records[2][RECORD_BYTES];      /* one that is unfinished, one that is done */
static uint8_t bases[2][BASES][RECORD_BYTES]; /* and what differs from them after so many bytes of the rest: */
static const uint32_t SHARES[BASES] = {0, 1, 7, 8, 9, 15, 16, 17, 100, 127, 128, 1866};

static int make_pools(void **state)
{
    for (unsigned i = 0; i < sizeof pool; i++)
        pool[i] = (uint8_t)(i * 31 + (i >> 8));
    for (unsigned done = 0; done < 2; done++) {
        memcpy(records[done], pool + done * 7, RECORD_BYTES);
        records[done][33] = done ? 0x23 : 0x22;
        for (unsigned n = 0; n < BASES; n++) {
            memcpy(bases[done][n], records[done], RECORD_BYTES);
            for (unsigned at = 34 + SHARES[n]; at < RECORD_BYTES; at += 3)
                bases[done][n][at] ^= 0x55;
        }
    }
    return make_secret(state);
}

/* A kind, a set of values (bit 0 is kind 1), the size of the values and of the record, with a life or without. A record
 * has one; where it is not its first change it may have a base. */
static struct store_change make_change(enum store_change_kind kind, unsigned given, uint32_t size, bool generation,
                                       uint64_t number)
{
    const bool record = kind == STORE_FINISH || kind == STORE_PUT_UNFINISHED, done = kind == STORE_FINISH;
    const uint32_t most = size < RECORD_BYTES - 34 ? size : RECORD_BYTES - 34;
    struct store_change change = {.kind = kind, .number = number};

    if (generation || record)
        change.generation = number - size;
    if (kind == STORE_FINISH || kind == STORE_REMOVE_FINISHED) {
        change.expiry_key = UINT64_C(0xfedcba9876543210) >> size % 40;
        change.body_expiry_key = size % 2 ? 0 : change.expiry_key - 1;
    }
    if (record)
        change.record = bytes_of(records[done], 34 + most);
    if (record && change.generation != number && (size + given) % 4)
        change.base = bytes_of(bases[done][(size + given) % BASES], given % 3 ? RECORD_BYTES : 34 + most / 2);
    for (unsigned i = 1; i <= 4; i++)
        if (given >> (i - 1) & 1)
            change.values[i] = bytes_of(pool + i, size + i * 5 * (size > 0));
    return change;
}

static struct batch make_batch(const struct store_change *changes, uint32_t count)
{
    struct batch batch;

    batch_start(&batch, changes[0].number, NULL);
    for (uint32_t i = 0; i < count; i++) {
        struct slice values[BLOB_KINDS] = {{0}};
        batch_append(&batch, &changes[i], values);
        for (int kind = 1; kind < BLOB_KINDS; kind++)
            if (changes[i].values[kind].data)
                assert_true(bytes_equal(slice_bytes(values[kind]), changes[i].values[kind]));
    }
    batch_seal(&batch, &MARK);
    return batch;
}

static void assert_record(const struct batch_change *read, const struct store_change *change)
{
    const struct record_delta *part = &read->record;
    const uint8_t *head = change->record.data;

    assert_null(read->is.record.data);
    if (!head)
        return;
    const struct bytes rest = behind_head(change->record);
    assert_int_equal(part->state, head[33] % 16);
    assert_int_equal(part->values_bytes, number_at(head + 16, 4));
    assert_int_equal(part->hash, number_at(head + 8, 8));
    assert_int_equal(part->expires_ms, change->kind == STORE_FINISH ? number_at(head + 20, 6) : 0);
    assert_int_equal(part->shared, alike(change));
    assert_int_equal(part->checksum, part->shared ? number_at(head + 4, 4) : 0);
    assert_true(bytes_equal(part->own, bytes_of(rest.data + part->shared, rest.size - part->shared)));
}

static void assert_reads(const uint8_t *data, const struct store_change *changes, uint32_t count)
{
    struct batch_reader reader;
    struct batch_change read;

    batch_read(data, &reader);
    for (uint32_t i = 0; i < count; i++) {
        assert_true(batch_next(&reader, &read));
        const struct store_change *change = &read.is;
        assert_int_equal(change->kind, changes[i].kind);
        assert_int_equal(change->number, changes[i].number);
        assert_int_equal(change->generation, changes[i].generation);
        assert_int_equal(change->expiry_key, changes[i].expiry_key);
        assert_int_equal(change->body_expiry_key, changes[i].body_expiry_key);
        assert_record(&read, &changes[i]);
        for (int kind = 1; kind < BLOB_KINDS; kind++) {
            assert_int_equal(change->values[kind].data == NULL, changes[i].values[kind].data == NULL);
            assert_true(bytes_equal(change->values[kind], changes[i].values[kind]));
        }
    }
    assert_false(batch_next(&reader, &read));
    assert_false(reader.bad);
}

static void assert_format(const struct store_change *changes, uint32_t count, uint64_t segment, uint64_t offset)
{
    struct text *expected = mem_alloc(sizeof *expected);
    struct batch batch = make_batch(changes, count);
    const uint32_t padded = batch.bytes->size;
    uint8_t *data = batch.bytes->data;
    struct batch_header header;

    batch_sign(data, segment, offset, secret);
    put_batch(expected, changes, count, segment, offset);
    assert_int_equal(padded, (expected->size + 4095) / 4096 * 4096);
    assert_int_equal(padded, batch_padded_bytes(expected->size));
    assert_memory_equal(data, expected->bytes, expected->size);
    for (uint32_t i = expected->size; i < padded; i++)
        assert_int_equal(data[i], 0);

    assert_true(batch_good(data, padded, secret));
    assert_true(batch_good(data, expected->size, secret));
    batch_read_header(data, &header);
    assert_int_equal(header.first, changes[0].number);
    assert_int_equal(header.last, changes[count - 1].number);
    assert_int_equal(header.segment, segment);
    assert_int_equal(header.offset, offset);
    assert_int_equal(header.bytes, expected->size);
    assert_memory_equal(&header.mark, &MARK, sizeof MARK);
    assert_reads(data, changes, count);
    blob_release(batch.bytes);
    mem_free(expected);
}

/* ---- Tests --------------------------------------------------------------------------------- */

static const enum store_change_kind KINDS[] = {STORE_PUT_UNFINISHED, STORE_FINISH, STORE_REMOVE_UNFINISHED,
                                               STORE_REMOVE_FINISHED, STORE_TOUCH};
static const uint32_t SIZES[] = {0, 1, 100, 127, 128, 300, 5000};

/* Each kind with each set of values, alone in a batch. */
static void every_change(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < sizeof KINDS / sizeof KINDS[0]; kind++)
        for (unsigned given = 0; given < 16; given++)
            for (size_t size = 0; size < sizeof SIZES / sizeof SIZES[0]; size++)
                for (int generation = 0; generation < 2; generation++) {
                    const struct store_change change =
                        make_change(KINDS[kind], given, SIZES[size], generation, UINT64_C(1700000000) << 20 | 77);
                    assert_format(&change, 1, size + 1, size * BATCH_ALIGN_BYTES);
                }
}

/* All of them in one batch; and a batch for each size around a multiple of the padding. */
static void batches_of_many(void **state)
{
    struct store_change *changes = mem_zero(CHANGES_MAX, sizeof *changes);
    uint32_t count = 0;

    (void)state;
    for (size_t kind = 0; kind < sizeof KINDS / sizeof KINDS[0]; kind++)
        for (unsigned given = 0; given < 16; given++)
            for (int generation = 0; generation < 2; generation++, count++)
                changes[count] = make_change(KINDS[kind], given, given * 3, generation, 1000 + count);
    for (uint32_t i = 1; i <= count; i++)
        assert_format(changes, i, UINT64_MAX, UINT64_C(1) << 62);
    for (uint32_t size = 3900; size < 4100; size++) {
        changes[0] = make_change(STORE_REMOVE_UNFINISHED, 1, size, true, 100000);
        assert_format(changes, 1, 1, 0);
    }
    mem_free(changes);
}

static struct batch small_batch(struct store_change changes[3])
{
    changes[0] = make_change(STORE_PUT_UNFINISHED, 1, 20, true, 5000);
    changes[1] = make_change(STORE_FINISH, 8, 33, true, 5001);
    assert_true(alike(&changes[1]) > 0);
    changes[2] = make_change(STORE_TOUCH, 0, 0, false, 5002);
    struct batch batch = make_batch(changes, 3);
    batch_sign(batch.bytes->data, 7, 8192, secret);
    return batch;
}

static void damage(void **state)
{
    struct store_change changes[3];
    struct batch batch = small_batch(changes);
    uint8_t *data = batch.bytes->data, *exact;
    struct batch_header header;
    uint8_t other[RECORD_SECRET_BYTES];

    (void)state;
    batch_read_header(data, &header);
    for (uint32_t bit = 0; bit < batch.bytes->size * 8; bit++) {
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ 1u << bit % 8);
        /* The padding belongs to no checksum. */
        assert_int_equal(batch_good(data, batch.bytes->size, secret), bit / 8 >= header.bytes);
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ 1u << bit % 8);
    }
    /* Cut anywhere: memory of just that size, so that the address sanitizer sees a byte read too much. */
    for (uint32_t size = 0; size < header.bytes; size++) {
        exact = mem_alloc(size);
        memcpy(exact, data, size);
        assert_false(batch_good(exact, size, secret));
        mem_free(exact);
    }
    for (unsigned i = 0; i < sizeof secret; i++) {
        memcpy(other, secret, sizeof secret);
        other[i] ^= 1;
        /* A secret is taken in parts: which bytes of it matter depends on the lengths. Not one of them: another. */
        if (!batch_good(data, batch.bytes->size, other))
            continue;
        memset(other, (int)i, sizeof other);
        assert_false(batch_good(data, batch.bytes->size, other));
    }
    memset(data, 0, batch.bytes->size);
    assert_false(batch_good(data, batch.bytes->size, secret));
    blob_release(batch.bytes);
}

/* Neither torn nor of nobody: whoever finds one has to say so. */
static void other_versions(void **state)
{
    struct store_change changes[3];
    struct batch batch = small_batch(changes);
    uint8_t *data = batch.bytes->data;
    char version = 0;

    (void)state;
    assert_false(batch_of_other_version(data, batch.bytes->size, secret, &version));
    for (unsigned byte = 0; byte < 4; byte++) {
        data[16 + byte] ^= 3;
        assert_false(batch_of_other_version(data, batch.bytes->size, secret, &version)); /* a broken one */
        batch_sign(data, 7, 8192, secret);
        assert_false(batch_good(data, batch.bytes->size, secret));
        assert_int_equal(batch_of_other_version(data, batch.bytes->size, secret, &version), byte == 3);
        assert_int_equal(batch_of_other_version(data, 95, secret, &version), false);
        if (byte == 3)
            assert_int_equal(version, '1');
        data[16 + byte] ^= 3;
    }
    blob_release(batch.bytes);
}

/* Signed again for another place, as the log does with each batch. */
static void expiry_keys(void **state)
{
    struct store_change changes[3];
    struct batch batch = small_batch(changes);
    struct batch_header header;

    (void)state;
    for (uint64_t segment = 1; segment < 5; segment++)
        for (uint64_t offset = 0; offset < 5 * 4096; offset += 4096) {
            batch_sign(batch.bytes->data, segment, offset, secret);
            assert_true(batch_good(batch.bytes->data, batch.bytes->size, secret));
            batch_read_header(batch.bytes->data, &header);
            assert_int_equal(header.segment, segment);
            assert_int_equal(header.offset, offset);
            assert_reads(batch.bytes->data, changes, 3);
        }
    blob_release(batch.bytes);
}

/* Reads all there is; every byte of every view is touched, and lies in the body. Returns how many changes there are. */
static uint32_t read_all(const uint8_t *data, uint32_t size, bool *bad)
{
    struct batch_reader reader;
    struct batch_change change;
    uint32_t count = 0;
    volatile uint8_t sum = 0;

    batch_read(data, &reader);
    while (batch_next(&reader, &change)) {
        const struct bytes *values = change.is.values;
        const struct bytes views[] = {change.record.own, values[1], values[2], values[3], values[4]};
        /* So that it can be joined with whatever its base is. */
        assert_true(change.record.shared + change.record.own.size <= RECORD_BYTES_MAX - RECORD_HEAD_BYTES);
        for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
            assert_true(!views[i].data || (views[i].data >= data + 96 && views[i].data + views[i].size <= data + size));
            for (uint32_t at = 0; at < views[i].size; at++)
                sum = (uint8_t)(sum + views[i].data[at]);
        }
        count++;
        assert_true(count <= size);
    }
    assert_false(batch_next(&reader, &change));
    *bad = reader.bad;
    return count;
}

/* A batch whose header tells so many bytes and changes, in memory of just that size. */
static uint8_t *resigned(const uint8_t *data, uint32_t size, uint32_t changes)
{
    uint8_t *copy = mem_alloc(size);

    memcpy(copy, data, size);
    memcpy(copy + 20, &size, sizeof size);
    memcpy(copy + 24, &changes, sizeof changes);
    batch_sign(copy, 7, 8192, secret);
    return copy;
}

/* A good checksum over a body that ends early: the batch was made by another program. */
static void cut_and_signed_again(void **state)
{
    struct store_change changes[3];
    struct batch batch = small_batch(changes);
    struct batch_header header;

    (void)state;
    batch_read_header(batch.bytes->data, &header);
    for (uint32_t size = 97; size < header.bytes; size++) {
        uint8_t *copy = resigned(batch.bytes->data, size, 3);
        bool bad;
        assert_true(batch_good(copy, size, secret));
        assert_true(read_all(copy, size, &bad) < 3);
        assert_true(bad);
        mem_free(copy);
    }
    for (uint32_t count = 1; count < 6; count++) {
        uint8_t *copy = resigned(batch.bytes->data, header.bytes, count);
        bool bad;
        read_all(copy, header.bytes, &bad);
        assert_int_equal(bad, count != 3);
        mem_free(copy);
    }
    blob_release(batch.bytes);
}

static void mutate(uint8_t *body, uint32_t size, uint64_t *seed)
{
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe, 0x81, 0xf8};

    switch (random_below(seed, 4)) {
    case 0:
        body[random_below(seed, size)] ^= (uint8_t)(1u << random_below(seed, 8));
        break;
    case 1:
        body[random_below(seed, size)] = edges[random_below(seed, sizeof edges)];
        break;
    case 2: {
        const uint32_t at = (uint32_t)random_below(seed, size), length = (uint32_t)random_below(seed, 12);
        memset(body + at, 0xff, at + length < size ? length : size - at);
        break;
    }
    default:
        for (uint32_t i = 0; i < size; i++)
            body[i] = (uint8_t)random_below(seed, 256);
    }
}

/* Nothing is read outside, whatever was signed: the memory ends where the batch does. */
static void garbage_signed(void **state)
{
    struct store_change changes[3];
    struct batch batch = small_batch(changes);
    struct batch_header header;
    uint64_t seed = 4711;

    (void)state;
    batch_read_header(batch.bytes->data, &header);
    for (uint32_t round = 0; round < FUZZ_ROUNDS; round++) {
        const uint32_t size = round % 2 ? header.bytes : 97 + (uint32_t)random_below(&seed, header.bytes - 96);
        const uint32_t count = (uint32_t)random_below(&seed, 4) ? 3 : (uint32_t)random_below(&seed, UINT32_MAX);
        uint8_t *copy = mem_alloc(size);
        bool bad;

        memcpy(copy, batch.bytes->data, size);
        for (uint64_t i = random_below(&seed, 4); i < 4; i++)
            mutate(copy + 96, size - 96, &seed);
        uint8_t *signed_again = resigned(copy, size, count ? count : 1);
        const uint32_t read = read_all(signed_again, size, &bad);
        /* What reads to the end is what the header says. */
        assert_true(bad || read == (count ? count : 1));
        mem_free(copy);
        mem_free(signed_again);
    }
    blob_release(batch.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_change),   cmocka_unit_test(batches_of_many), cmocka_unit_test(damage),
        cmocka_unit_test(other_versions), cmocka_unit_test(expiry_keys),     cmocka_unit_test(cut_and_signed_again),
        cmocka_unit_test(garbage_signed),
    };

    return cmocka_run_group_tests(tests, make_pools, NULL);
}
