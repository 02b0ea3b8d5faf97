/* A record's bytes: what goes in comes out, and no damage goes unnoticed. */
#include "daemon/record/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto/limits.h"

static uint8_t filler[RECORD_BYTES_MAX];

static struct bytes some(uint32_t size)
{
    return bytes_of(filler, size);
}

static struct record running(void)
{
    return (struct record){
        .id = {some(7), some(0), some(36)},
        .hash = 0x1122334455667788,
        .state = RECORD_RUNNING,
        .flags = RECORD_BOUND,
        .generation = UINT64_C(1700000000) << 20,
        .fence = (UINT64_C(1700000000) << 20) + 5,
        .revision = (UINT64_C(1700000000) << 20) + 9,
        .attempt = 2,
        .lease_ms = 30000,
        .keep_ms = 5,
        .begun_ms = 1700000000123,
        .interrupted_ms = 0,
        .operation = some(12),
        .fingerprint = some(32),
        .attempt_id = some(16),
        .owner = some(9),
        .checkpoint_name = some(4),
        .input_bytes = 65536,
        .checkpoint_bytes = 3,
    };
}

static struct record done(void)
{
    struct record record = running();

    record.state = RECORD_DONE;
    record.flags = RECORD_RESOLVED | RECORD_BODY_DROPPED;
    record.attempt_id = record.checkpoint_name = (struct bytes){0};
    record.input_bytes = record.checkpoint_bytes = record.lease_ms = 0;
    record.keep_ms = 0;
    record.done_ms = record.begun_ms - 40; /* the wall clock was set back */
    record.expires_ms = 1700000900000;
    record.body_expires_ms = 1700000100000;
    record.body_expiry_key = 42;
    record.outcome_kind = 2;
    record.outcome_code = -5;
    record.body_bytes = UINT64_C(1) << 40;
    record.digest[0] = UINT64_MAX;
    record.digest[1] = 1;
    record.attributes_bytes = 5;
    record.body_field_bytes = 100;
    record.inline_values = some(105);
    return record;
}

static void assert_bytes(struct bytes a, struct bytes b)
{
    assert_true(bytes_equal(a, b));
}

static void assert_same(const struct record *a, const struct record *b)
{
    assert_bytes(a->id.namespace, b->id.namespace);
    assert_bytes(a->id.caller, b->id.caller);
    assert_bytes(a->id.key, b->id.key);
    assert_bytes(a->operation, b->operation);
    assert_bytes(a->fingerprint, b->fingerprint);
    assert_bytes(a->attempt_id, b->attempt_id);
    assert_bytes(a->owner, b->owner);
    assert_bytes(a->traceparent, b->traceparent);
    assert_bytes(a->checkpoint_name, b->checkpoint_name);
    assert_bytes(a->inline_values, b->inline_values);
    assert_int_equal(a->hash, b->hash);
    assert_int_equal(a->state, b->state);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->generation, b->generation);
    assert_int_equal(a->fence, b->fence);
    assert_int_equal(a->revision, b->revision);
    assert_int_equal(a->attempt, b->attempt);
    assert_int_equal(a->lease_ms, b->lease_ms);
    assert_int_equal(a->keep_ms, b->keep_ms);
    assert_int_equal(a->begun_ms, b->begun_ms);
    assert_int_equal(a->interrupted_ms, b->interrupted_ms);
    assert_int_equal(a->done_ms, b->done_ms);
    assert_int_equal(a->input_bytes, b->input_bytes);
    assert_int_equal(a->checkpoint_bytes, b->checkpoint_bytes);
    assert_int_equal(a->expires_ms, b->expires_ms);
    assert_int_equal(a->body_expires_ms, b->body_expires_ms);
    assert_int_equal(a->body_expiry_key, b->body_expiry_key);
    assert_int_equal(a->outcome_kind, b->outcome_kind);
    assert_int_equal(a->outcome_code, b->outcome_code);
    assert_int_equal(a->body_bytes, b->body_bytes);
    assert_true(record_has_digest(b, a->digest));
    assert_false(record_has_digest(b, (uint64_t[2]){a->digest[0], a->digest[1] ^ 1}));
    assert_int_equal(a->attributes_bytes, b->attributes_bytes);
    assert_int_equal(a->body_field_bytes, b->body_field_bytes);
}

static uint32_t round_trip(const struct record *record, uint8_t out[RECORD_BYTES_MAX])
{
    const uint32_t size = record_encode(record, out);
    struct record read;

    memset(&read, 0x5a, sizeof read); /* every field is filled, whatever was there */
    assert_int_equal(record_decode(bytes_of(out, size), &read), RECORD_GOOD);
    assert_same(record, &read);
    memset(&read, 0x5a, sizeof read);
    record_read(bytes_of(out, size), &read);
    assert_same(record, &read);
    return size;
}

/* Of one that is unfinished what is said of outcomes is not stored. */
static void round_trip_unfinished(const struct record *record, uint8_t out[RECORD_BYTES_MAX])
{
    struct record without = *record;

    without.expires_ms = without.body_expires_ms = without.body_expiry_key = without.body_bytes = without.done_ms = 0;
    without.digest[0] = without.digest[1] = 0;
    without.attributes_bytes = without.body_field_bytes = without.outcome_kind = 0;
    without.outcome_code = 0;
    without.inline_values = (struct bytes){0};
    round_trip(&without, out);
}

static void what_goes_in_comes_out(void **state)
{
    uint8_t out[RECORD_BYTES_MAX];
    struct record record = running(), head;

    (void)state;
    round_trip(&record, out);
    record = done();
    const uint32_t size = round_trip(&record, out);
    assert_int_equal(record_decode_head(bytes_of(out, size), &head), RECORD_GOOD);
    assert_int_equal(head.hash, record.hash);
    assert_int_equal(head.expires_ms, record.expires_ms);
    assert_int_equal(head.generation, record.generation);
    assert_int_equal(record_values_bytes(bytes_of(out, size)), 105);
    record.interrupted_ms = record.begun_ms + 1;
    record.outcome_code = INT32_MIN;
    round_trip(&record, out);
}

/* A finished one whose outcome says nothing but its kind and a body of 200 bytes. */
static struct record typical(void)
{
    static uint8_t body_field[203] = {0x22, 200, 1};
    struct sent_outcome sent = {.kind = 1, .attributes_digest = UINT64_C(0x2d06800538d394c2) /* of no bytes */};
    struct record record = done();

    memcpy(body_field + 3, filler, 200);
    record.id = (struct identity){some(5), some(0), some(24)};
    record.operation = some(13);
    record.fingerprint = some(32);
    record.owner = some(14);
    record.attempt = 1;
    record.fence = record.generation;
    record.done_ms = record.begun_ms + 40;
    record.body_expires_ms = record.expires_ms;
    record.body_expiry_key = 0;
    record.flags = 0;
    record.outcome_kind = 1;
    record.outcome_code = 0;
    record.body_bytes = 200;
    record.attributes_bytes = 0;
    record.body_field_bytes = sizeof body_field;
    record.inline_values = bytes_of(body_field, sizeof body_field);
    sent.body = some(200);
    record_digest(&sent, record.digest);
    return record;
}

/* Every byte of it is written and flushed with each operation. */
static void a_typical_one_is_small(void **state)
{
    uint8_t out[RECORD_BYTES_MAX];
    const struct record record = typical();

    (void)state;
    assert_int_equal(round_trip(&record, out), 341);
}

/* The digest is left out only where reading reckons the same. */
static void no_digest_is_lost(void **state)
{
    uint8_t out[RECORD_BYTES_MAX];
    struct record record = typical(), other;

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int bit = 0; bit < 64; bit++) {
            other = record;
            other.digest[i] ^= UINT64_C(1) << bit;
            assert_int_equal(round_trip(&other, out), 341 + 16);
        }
    other = record;
    other.flags = RECORD_BODY_DROPPED;
    assert_int_equal(round_trip(&other, out), 341 + 16 + 1);
    other.flags = RECORD_ATTRIBUTES_DROPPED;
    assert_int_equal(round_trip(&other, out), 341 + 16 + 1);
    other = record;
    other.outcome_code = 1;
    assert_int_equal(round_trip(&other, out), 341 + 16 + 1);
    other = record;
    other.attributes_bytes = 3, other.body_field_bytes = 200; /* of which no body can be read, so its size is said */
    assert_int_equal(round_trip(&other, out), 341 + 16 + 1 + 2);
    other = record;
    other.inline_values = (struct bytes){0}; /* it lies beside the record, which says how large it is */
    assert_int_equal(round_trip(&other, out), 341 + 16 - 203 + 2 + 2);
    for (uint32_t size = 0; size < 203; size++) { /* a field that is not whole */
        other = record;
        other.inline_values.size = other.body_field_bytes = size;
        round_trip(&other, out);
    }
    /* No body at all. */
    other.inline_values.size = other.body_field_bytes = 0;
    other.body_bytes = 0;
    record_digest(&(struct sent_outcome){.kind = 1, .attributes_digest = UINT64_C(0x2d06800538d394c2)}, other.digest);
    assert_int_equal(round_trip(&other, out), 341 - 203);
}

/* Where its maker says so it is not even reckoned: the bytes are the same. */
static void a_plain_digest_need_not_be_filled(void **state)
{
    uint8_t with[RECORD_BYTES_MAX], without[RECORD_BYTES_MAX];
    struct record record = typical(), other = record;
    const uint32_t size = record_encode(&record, with);
    uint64_t digest[2];

    (void)state;
    other.digest[0] = other.digest[1] = 0;
    other.digest_left_out = true;
    assert_int_equal(record_encode(&other, without), size);
    assert_memory_equal(with, without, size);
    assert_true(record_has_digest(&other, record.digest));
    assert_true(record_plain_digest(record.outcome_kind, record.outcome_code, record.inline_values, digest));
    assert_memory_equal(digest, record.digest, sizeof digest);
    assert_false(record_has_inline_room(&other, RECORD_BYTES_MAX)); /* which looks at it without its values */
}

/* Everything as large as it can be still fits, and what room is left can be used to the last byte. */
static void the_largest_fits(void **state)
{
    uint8_t out[RECORD_BYTES_MAX];
    struct record record = done(), unfinished;

    (void)state;
    record.id =
        (struct identity){some(IDEM_NAMESPACE_BYTES_MAX), some(IDEM_CALLER_BYTES_MAX), some(IDEM_KEY_BYTES_MAX)};
    record.operation = some(IDEM_OPERATION_BYTES_MAX);
    record.fingerprint = some(IDEM_FINGERPRINT_BYTES_MAX);
    record.owner = some(IDEM_OWNER_BYTES_MAX);
    record.traceparent = some(IDEM_TRACEPARENT_BYTES_MAX);
    unfinished = record;
    unfinished.state = RECORD_RUNNING;
    unfinished.attempt_id = some(IDEM_ATTEMPT_ID_BYTES);
    unfinished.checkpoint_name = some(IDEM_CHECKPOINT_NAME_BYTES_MAX);
    unfinished.lease_ms = UINT32_MAX;
    unfinished.keep_ms = UINT64_MAX;
    unfinished.input_bytes = IDEM_INPUT_BYTES_MAX;
    unfinished.checkpoint_bytes = IDEM_CHECKPOINT_BYTES_MAX;
    round_trip_unfinished(&unfinished, out);
    record.inline_values = (struct bytes){0};
    record.attempt = UINT32_MAX;
    record.begun_ms = UINT64_MAX >> 2;
    record.body_bytes = UINT64_MAX;
    record.attributes_bytes = 10;
    record.body_field_bytes = RECORD_BYTES_MAX;
    round_trip(&record, out);
    uint32_t room = 300;
    while (record_has_inline_room(&record, room + 1))
        room++;
    assert_true(room > 300 && room < RECORD_BYTES_MAX);
    record.inline_values = some(room);
    record.body_field_bytes = room - 10;
    assert_true(round_trip(&record, out) <= RECORD_BYTES_MAX);
}

static void no_flipped_bit_goes_unnoticed(void **state)
{
    uint8_t out[RECORD_BYTES_MAX];
    const struct record records[] = {running(), done(), typical()};
    struct record read;

    (void)state;
    for (int i = 0; i < 3; i++) {
        const uint32_t size = record_encode(&records[i], out);
        for (uint32_t bit = 0; bit < size * 8; bit++) {
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
            const enum record_check check = record_decode(bytes_of(out, size), &read);
            assert_int_equal(check, bit / 8 < RECORD_HEAD_BYTES ? RECORD_BAD_HEAD : RECORD_BAD_REST);
            if (check == RECORD_BAD_REST)
                assert_int_equal(read.hash, records[i].hash);
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

static void no_part_of_one_is_taken_for_it(void **state)
{
    uint8_t out[RECORD_BYTES_MAX + 1];
    const struct record record = done();
    const uint32_t size = record_encode(&record, out);
    struct record read;

    (void)state;
    for (uint32_t part = 0; part < size; part++)
        assert_int_not_equal(record_decode(bytes_of(out, part), &read), RECORD_GOOD);
    out[size] = 0;
    assert_int_equal(record_decode(bytes_of(out, size + 1), &read), RECORD_BAD_REST);
}

/* Parts of an identity never run together, and another secret is another hash. */
static void identities_have_hashes_of_their_own(void **state)
{
    static const char *const names[][3] = {{"n", "a", "bc"}, {"n", "ab", "c"}, {"na", "", "bc"}, {"n", "", "abc"}};
    uint8_t secret[RECORD_SECRET_BYTES], other[RECORD_SECRET_BYTES];
    uint64_t hashes[4];

    (void)state;
    for (int i = 0; i < RECORD_SECRET_BYTES; i++)
        secret[i] = (uint8_t)(i * 31 + 7), other[i] = (uint8_t)(i * 59 + 13);
    for (int i = 0; i < 4; i++) {
        struct identity id;
        struct bytes *parts[] = {&id.namespace, &id.caller, &id.key};
        for (int k = 0; k < 3; k++)
            *parts[k] = bytes_of(names[i][k], (uint32_t)strlen(names[i][k]));
        hashes[i] = record_hash(secret, &id);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(hashes[i], hashes[k]);
        assert_int_not_equal(hashes[i], record_hash(other, &id));
    }
}

/* ---- Without its base ---- */

static void assert_joined(struct bytes record, struct bytes base, const struct record *is)
{
    uint8_t out[RECORD_BYTES_MAX];
    struct record_delta part;
    struct record read;
    bool good;

    record_delta_make(record, base, &part);
    assert_int_equal(part.shared + part.own.size, record.size - RECORD_HEAD_BYTES);
    /* Only so much of the base is looked at. */
    uint8_t *exact = malloc(part.shared + 1);
    assert_non_null(exact);
    if (part.shared)
        memcpy(exact, base.data + RECORD_HEAD_BYTES, part.shared);
    assert_int_equal(record_delta_apply(&part, is->generation, exact, out, &good), record.size);
    assert_true(good);
    assert_memory_equal(out, record.data, record.size);
    /* Another one in its place: known by its head, and not to be read. */
    for (uint32_t bit = 0; bit < part.shared * 8; bit++) {
        exact[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(record_delta_apply(&part, is->generation, exact, out, &good), record.size);
        assert_false(good);
        assert_int_equal(record_decode(bytes_of(out, record.size), &read), RECORD_BAD_REST);
        assert_int_equal(read.hash, is->hash);
        assert_int_equal(read.generation, is->generation);
        assert_int_equal(read.state, is->state);
        assert_int_equal(read.expires_ms, is->state == RECORD_DONE ? is->expires_ms : 0);
        assert_int_equal(read.values_bytes, is->state == RECORD_DONE ? is->attributes_bytes + is->body_field_bytes
                                                                     : is->input_bytes + is->checkpoint_bytes);
        exact[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(exact);
}

static void split_and_joined(void **state)
{
    uint8_t records[5][RECORD_BYTES_MAX];
    struct record is[5] = {running(), running(), done(), typical(), running()};
    uint32_t sizes[5];

    (void)state;
    is[1].revision++;
    is[1].checkpoint_name = some(9);
    is[4].owner = some(10);
    for (int i = 0; i < 5; i++)
        sizes[i] = record_encode(&is[i], records[i]);
    for (int i = 0; i < 5; i++) {
        const struct bytes record = bytes_of(records[i], sizes[i]);
        assert_joined(record, (struct bytes){0}, &is[i]);
        for (int k = 0; k < 5; k++)
            for (uint32_t size = 0; size <= sizes[k]; size += size < RECORD_HEAD_BYTES ? RECORD_HEAD_BYTES : 13)
                assert_joined(record, bytes_of(records[k], size), &is[i]);
    }
}

/* What stays as it is from the grant on is what a record begins with: the outcome need not say it again. */
static void an_outcome_shares_what_the_grant_said(void **state)
{
    uint8_t before[RECORD_BYTES_MAX], after[RECORD_BYTES_MAX];
    struct record was = running(), is = done();
    struct record_delta part;

    (void)state;
    was.id.caller = is.id.caller = some(11);
    was.traceparent = is.traceparent = some(55);
    record_delta_make(bytes_of(after, record_encode(&is, after)), bytes_of(before, record_encode(&was, before)), &part);
    /* Given, the strings with their lengths, fence, attempt, and when it began. */
    assert_true(part.shared >= 1 + 8 + 12 + 37 + 13 + 33 + 10 + 56 + 1 + 1 + 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(a_typical_one_is_small),
        cmocka_unit_test(no_digest_is_lost),
        cmocka_unit_test(a_plain_digest_need_not_be_filled),
        cmocka_unit_test(the_largest_fits),
        cmocka_unit_test(no_flipped_bit_goes_unnoticed),
        cmocka_unit_test(no_part_of_one_is_taken_for_it),
        cmocka_unit_test(split_and_joined),
        cmocka_unit_test(an_outcome_shares_what_the_grant_said),
        cmocka_unit_test(identities_have_hashes_of_their_own),
    };

    for (uint32_t i = 0; i < sizeof filler; i++)
        filler[i] = (uint8_t)('a' + i % 26);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
