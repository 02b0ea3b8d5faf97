/* The short ways of a message, from bytes to a call and from a reply to bytes, against the ways through protobuf-c: the
 * same call, the same bytes, for random Requests that the scan passes and for random replies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/server/request.h"
#include "daemon/server/request_wire.h"
#include "daemon/server/response_messages.h"
#include "daemon/server/response_wire.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum {
    REQUESTS = 40000,
    REPLIES = 40000,
    ROOM = 512 * 1024,
    FIELDS_MAX = 200, /* of one message made here */
    NESTED_MAX = 6,
    OUTCOME_BYTES_MAX = 1000,
};

static const struct scan_limits limits = {IDEM_KEEP_MS_MIN, IDEM_KEEP_MS_MAX};
static const struct policy policy = {.max_outcome_bytes = OUTCOME_BYTES_MAX};

/* ---- Chance -------------------------------------------------------------------------- */

static uint64_t chance_state;

static uint64_t chance(void) /* splitmix64 */
{
    uint64_t mixed = chance_state += 0x9e3779b97f4a7c15;

    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static uint64_t below(uint64_t count)
{
    return chance() % count;
}

static bool one_in(uint64_t count)
{
    return below(count) == 0;
}

/* A number of [least, most], often at its limits. */
static uint64_t between(uint64_t least, uint64_t most)
{
    switch (below(4)) {
    case 0:
        return least;
    case 1:
        return most;
    default:
        return most - least == UINT64_MAX ? chance() >> below(64)
                                          : least + (chance() >> below(64)) % (most - least + 1);
    }
}

/* ---- Messages, as a careless writer would have them: fields in any order, padded varints, unknown fields ---- */

struct message {
    uint8_t *bytes;
    size_t size;
    size_t fields[FIELDS_MAX + 1]; /* where each starts; the last: the end */
    size_t count;
};

/* They are nested, so they are done with in turn. */
static uint8_t rooms[NESTED_MAX][ROOM];
static size_t rooms_taken;

static struct message new_message(void)
{
    assert_true(rooms_taken < NESTED_MAX);
    return (struct message){.bytes = rooms[rooms_taken++]};
}

static void free_message(const struct message *message)
{
    assert_ptr_equal(message->bytes, rooms[--rooms_taken]);
}

static size_t put_padded(uint8_t *out, uint64_t value, size_t bytes_max)
{
    size_t bytes = frame_put_varint(out, value);

    if (!one_in(16))
        return bytes;
    for (size_t wanted = bytes + below(bytes_max - bytes + 1); bytes < wanted; bytes++) {
        out[bytes - 1] |= 0x80;
        out[bytes] = 0;
    }
    return bytes;
}

static uint8_t *start_field(struct message *message, uint32_t number, unsigned type)
{
    uint8_t *out = message->bytes + message->size;

    assert_true(message->count < FIELDS_MAX && message->size < ROOM / 2);
    message->fields[message->count] = message->size;
    return out + put_padded(out, (uint64_t)number << 3 | type, 5);
}

static void end_field(struct message *message, const uint8_t *end)
{
    message->size = (size_t)(end - message->bytes);
    message->fields[++message->count] = message->size;
}

static void add_number(struct message *message, uint32_t number, uint64_t value)
{
    uint8_t *out = start_field(message, number, 0);

    end_field(message, out + put_padded(out, value, 10));
}

static void add_fixed(struct message *message, uint32_t number, uint64_t value, size_t width)
{
    uint8_t *out = start_field(message, number, width == 8 ? 1 : 5);

    for (size_t i = 0; i < width; i++)
        *out++ = (uint8_t)(value >> (8 * i));
    end_field(message, out);
}

static void add_bytes(struct message *message, uint32_t number, const void *bytes, size_t size)
{
    uint8_t *out = start_field(message, number, 2);

    out += put_padded(out, size, 5);
    memcpy(out, bytes, size);
    end_field(message, out + size);
}

/* 0, 1, and what is true though no 64-bit number holds it. */
static void add_flag(struct message *message, uint32_t number)
{
    uint8_t *out;

    if (!one_in(8)) {
        add_number(message, number, below(3));
        return;
    }
    out = start_field(message, number, 0);
    memset(out, 0x80, 9);
    out[9] = (uint8_t)below(128);
    end_field(message, out + 10);
}

static void add_random(struct message *message, uint32_t number, size_t size)
{
    static uint8_t bytes[ROOM];

    for (size_t at = 0; at < size; at += sizeof(uint64_t))
        memcpy(bytes + at, &(uint64_t){chance()}, sizeof(uint64_t));
    add_bytes(message, number, bytes, size);
}

/* A text of exactly that size. */
static void put_text(char *out, size_t size)
{
    static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    size_t at = 0;

    while (at < size) {
        const size_t bytes = 2 + below(3);
        if (one_in(4) && size - at >= bytes) {
            memcpy(out + at, characters[bytes - 2], bytes);
            at += bytes;
        } else {
            out[at++] = (char)(1 + below(127));
        }
    }
}

static void add_text(struct message *message, uint32_t number, size_t size)
{
    char text[512];

    assert_true(size <= sizeof text);
    put_text(text, size);
    add_bytes(message, number, text, size);
}

/* Unknown fields: numbers from `first` on. */
static void add_unknown(struct message *message, uint32_t first)
{
    for (uint64_t count = one_in(3) ? below(5) : 0; count > 0; count--) {
        const uint32_t number = one_in(4) ? (uint32_t)between(first, (1 << 29) - 1) : first + (uint32_t)below(4);
        switch (below(4)) {
        case 0:
            add_number(message, number, chance() >> below(64));
            break;
        case 1:
            add_fixed(message, number, chance(), 8);
            break;
        case 2:
            add_fixed(message, number, chance(), 4);
            break;
        default:
            add_random(message, number, below(40));
        }
    }
}

/* Puts `inner` into `outer` with its fields in any order, and is done with that. */
static void add_message(struct message *outer, uint32_t number, struct message *inner)
{
    static uint8_t bytes[ROOM];
    size_t order[FIELDS_MAX], size = 0;

    for (size_t i = 0; i < inner->count; i++)
        order[i] = i;
    for (size_t i = inner->count; i > 1; i--) {
        const size_t other = one_in(2) ? i - 1 : below(i), kept = order[i - 1];
        order[i - 1] = order[other];
        order[other] = kept;
    }
    for (size_t i = 0; i < inner->count; i++) {
        const size_t field = inner->fields[order[i]], field_bytes = inner->fields[order[i] + 1] - field;
        memcpy(bytes + size, inner->bytes + field, field_bytes);
        size += field_bytes;
    }
    free_message(inner);
    add_bytes(outer, number, bytes, size);
}

/* ---- Requests ------------------------------------------------------------------------ */

static void add_op(struct message *outer)
{
    struct message op = new_message();

    add_text(&op, 1, between(1, IDEM_NAMESPACE_BYTES_MAX));
    if (one_in(2))
        add_text(&op, 2, between(0, IDEM_CALLER_BYTES_MAX));
    add_text(&op, 3, between(1, IDEM_KEY_BYTES_MAX));
    add_unknown(&op, 4);
    add_message(outer, 1, &op);
}

static uint64_t lease(void)
{
    return one_in(3) ? 0 : between(IDEM_LEASE_MS_MIN, IDEM_LEASE_MS_MAX);
}

static void add_begin(struct message *request)
{
    struct message begin = new_message();

    add_op(&begin);
    if (one_in(2))
        add_text(&begin, 2, between(0, IDEM_OPERATION_BYTES_MAX));
    if (one_in(2))
        add_random(&begin, 3, between(0, IDEM_FINGERPRINT_BYTES_MAX));
    if (one_in(2))
        add_random(&begin, 4, one_in(2) ? 0 : IDEM_ATTEMPT_ID_BYTES);
    if (one_in(2))
        add_text(&begin, 5, between(0, IDEM_OWNER_BYTES_MAX));
    if (one_in(2))
        add_number(&begin, 6, lease());
    if (one_in(2))
        add_number(&begin, 7, between(0, IDEM_WAIT_MS_MAX));
    if (one_in(2))
        add_number(&begin, 8, below(3));
    if (one_in(2))
        add_number(&begin, 9, between(0, UINT64_MAX));
    if (one_in(2))
        add_random(&begin, 10, one_in(50) ? IDEM_INPUT_BYTES_MAX : between(0, 300));
    if (one_in(2))
        add_flag(&begin, 11);
    if (one_in(2))
        add_number(&begin, 12, one_in(3) ? 0 : between(IDEM_KEEP_MS_MIN, IDEM_KEEP_MS_MAX));
    if (one_in(2))
        add_fixed(&begin, 13, between(0, IDEM_FENCE_MAX), 8);
    for (uint64_t count = below(IDEM_OTHER_FINGERPRINTS_MAX + 1); count > 0; count--)
        add_random(&begin, 14, between(0, IDEM_FINGERPRINT_BYTES_MAX));
    add_unknown(&begin, 15);
    add_message(request, CALL_BEGIN, &begin);
}

static void add_attribute(struct message *outcome)
{
    struct message attribute = new_message();

    if (!one_in(4))
        add_text(&attribute, 1, between(0, 60));
    if (!one_in(4))
        add_random(&attribute, 2, between(0, one_in(10) ? 500 : 60));
    add_unknown(&attribute, 3);
    add_message(outcome, 3, &attribute);
}

static void add_outcome(struct message *complete)
{
    struct message outcome = new_message();

    add_number(&outcome, 1, 1 + below(2));
    if (one_in(2))
        add_number(&outcome, 2, between(0, UINT32_MAX));
    for (uint64_t count = one_in(2) ? 0 : one_in(4) ? between(60, 70) : below(5); count > 0; count--)
        add_attribute(&outcome);
    if (!one_in(4))
        add_random(&outcome, 4, one_in(3) ? between(OUTCOME_BYTES_MAX - 1, OUTCOME_BYTES_MAX + 1) : between(0, 128));
    if (one_in(3))
        add_flag(&outcome, 5);
    if (one_in(3))
        add_number(&outcome, 6, between(0, UINT64_MAX));
    if (one_in(3))
        add_flag(&outcome, 7);
    add_unknown(&outcome, 8);
    add_message(complete, 3, &outcome);
}

static void add_owners_call(struct message *request, enum call_type type)
{
    struct message call = new_message();

    add_op(&call);
    add_fixed(&call, 2, between(1, IDEM_FENCE_MAX), 8);
    if (type == CALL_RENEW) {
        if (one_in(2))
            add_number(&call, 3, lease());
        add_unknown(&call, 4);
    } else {
        add_outcome(&call);
        if (one_in(2))
            add_number(&call, 4, between(0, UINT64_MAX));
        if (one_in(2))
            add_number(&call, 5, between(0, UINT64_MAX));
        add_unknown(&call, 6);
    }
    add_message(request, type, &call);
}

static void add_get(struct message *request)
{
    struct message get = new_message();

    add_op(&get);
    if (one_in(2))
        add_number(&get, 2, between(0, IDEM_WAIT_MS_MAX));
    add_unknown(&get, 3);
    add_message(request, CALL_GET, &get);
}

/* One Request, as the value of the only field of a message. */
static void make_request(struct message *outer, enum call_type type)
{
    struct message request = new_message();

    add_number(&request, 1, between(1, UINT64_MAX));
    if (one_in(2))
        add_number(&request, 2, between(0, UINT32_MAX));
    if (one_in(2))
        add_text(&request, 3, between(0, IDEM_TRACEPARENT_BYTES_MAX));
    if (type == CALL_BEGIN)
        add_begin(&request);
    else if (type == CALL_GET)
        add_get(&request);
    else
        add_owners_call(&request, type);
    add_unknown(&request, 23);
    outer->size = outer->count = 0;
    add_message(outer, 1, &request);
}

/* ---- Equal? ---------------------------------------------------------------------------- */

#define SAME(member)       assert_true((got)->member == (expected)->member)
#define SAME_BYTES(member) assert_true(bytes_equal((got)->member, (expected)->member))

static void same_outcome(const struct outcome *got, const struct outcome *expected)
{
    SAME(kind);
    SAME(code);
    SAME(body_dropped);
    SAME(attributes_dropped);
    SAME(body_bytes);
    SAME_BYTES(attributes);
    SAME_BYTES(body_field);
    SAME(digest_left_out);
    SAME(digest[0]);
    SAME(digest[1]);
}

static void same_call(const struct call *got, const struct call *expected)
{
    SAME(type);
    SAME_BYTES(id.namespace);
    SAME_BYTES(id.caller);
    SAME_BYTES(id.key);
    SAME(hash);
    SAME_BYTES(traceparent);
    SAME(policy);
    SAME_BYTES(operation);
    SAME_BYTES(fingerprint);
    SAME_BYTES(attempt_id);
    SAME_BYTES(owner);
    SAME_BYTES(input);
    for (size_t i = 0; i < IDEM_OTHER_FINGERPRINTS_MAX; i++) {
        SAME_BYTES(other_fingerprints[i]);
        assert_true((got->other_fingerprints[i].data != NULL) == (expected->other_fingerprints[i].data != NULL));
    }
    SAME(lease_ms);
    SAME(wait_ms);
    SAME(if_interrupted);
    SAME(first_sent_ms);
    SAME(keep_ms);
    SAME(keep_body_ms);
    SAME(take_over_revision);
    SAME(bind_to_connection);
    SAME(fence);
    SAME(revision);
    same_outcome(&got->outcome, &expected->outcome);
    SAME(effect);
    SAME(verdict);
    SAME_BYTES(checkpoint_name);
    SAME_BYTES(checkpoint_data);
    SAME_BYTES(reason);
    SAME(limit);
    SAME(state);
    SAME_BYTES(cursor);
    SAME(cancel_id);
}

/* What was met, so that a test that meets nothing fails. */
static struct {
    unsigned attributes, attributes_dropped, body_dropped, body_in_place, body_anew, no_other_bytes, digest_left_out;
} met;

static void count_met(const struct call *call, const struct message *sent)
{
    const struct outcome *outcome = &call->outcome;
    const bool in_place = outcome->body_field.data >= sent->bytes && outcome->body_field.data < sent->bytes + ROOM;

    met.attributes += outcome->attributes.size > 0;
    met.attributes_dropped += outcome->attributes_dropped;
    met.body_dropped += outcome->body_dropped;
    met.body_in_place += outcome->body_field.size > 0 && in_place;
    met.body_anew += outcome->body_field.size > 0 && !in_place;
    met.no_other_bytes += call->other_fingerprints[0].data && call->other_fingerprints[0].size == 0;
}

/* The digest of a Complete, filled or not, is that of all that was sent. */
static void digest_is_of_what_was_sent(const struct call *call, const Idem__V1__Outcome *outcome,
                                       const struct scan_result *scan)
{
    const struct sent_outcome sent = {
        .kind = (int32_t)outcome->kind,
        .code = outcome->code,
        .attributes_digest = scan->attributes_digest,
        .attributes_count = scan->attributes_count,
        .body_dropped = outcome->body_dropped,
        .attributes_dropped = outcome->attributes_dropped,
        .body_bytes = outcome->body_bytes,
        .body = bytes_of(outcome->body.data, (uint32_t)outcome->body.len),
    };
    const struct outcome *own = &call->outcome;
    uint64_t digest[2] = {own->digest[0], own->digest[1]}, expected[2];

    record_digest(&sent, expected);
    if (own->digest_left_out) {
        met.digest_left_out++;
        assert_true(own->attributes.size == 0 && !own->body_dropped && !own->attributes_dropped);
        assert_true(record_plain_digest(own->kind, own->code, own->body_field, digest));
    }
    assert_memory_equal(digest, expected, sizeof digest);
}

static void read_both_ways(struct arena *arena, const struct message *sent)
{
    uint32_t size = (uint32_t)sent->size, timeout_ms = 1;
    uint8_t *data = sent->bytes;
    uint64_t value;
    struct scan_result scan;
    struct call got, expected;
    const Idem__V1__Request *request;
    uint8_t *unpacked;

    data += frame_get_varint(data, sent->size, &value); /* what is around the Request */
    data += frame_get_varint(data, sent->size, &value);
    size -= (uint32_t)(data - sent->bytes);
    assert_int_equal(scan_request(data, size, &limits, &scan), SCAN_OK);
    memset(&got, 0x5a, sizeof got);
    assert_true(request_wire_read(arena, &scan, &policy, &got, &timeout_ms));
    unpacked = malloc(size);
    assert_non_null(unpacked);
    memcpy(unpacked, data, size);
    if (scan.attributes_dropped)
        scan_take_out_attributes(unpacked, &scan);
    request = request_unpack(arena, unpacked, size);
    assert_non_null(request);
    request_to_call(arena, request, &scan, &policy, &expected);
    assert_true(scan.id == request->id);
    assert_int_equal(timeout_ms, request->timeout_ms);
    same_call(&got, &expected);
    if (got.type == CALL_COMPLETE)
        digest_is_of_what_was_sent(&got, request->complete->outcome, &scan);
    count_met(&got, sent);
    free(unpacked);
    arena_rewind(arena, 0);
}

static void requests_are_read_as_unpacked(void **state)
{
    static const enum call_type types[] = {CALL_BEGIN, CALL_COMPLETE, CALL_COMPLETE, CALL_RENEW, CALL_GET};
    struct arena *arena = arena_new((size_t)64 * 1024 * 1024);
    struct message sent = new_message();

    (void)state;
    for (unsigned i = 0; i < REQUESTS; i++) {
        chance_state = i;
        make_request(&sent, types[below(5)]);
        read_both_ways(arena, &sent);
    }
    assert_true(met.attributes > 100 && met.attributes_dropped > 100 && met.body_dropped > 100);
    assert_true(met.body_in_place > 100 && met.body_anew > 100 && met.no_other_bytes > 100);
    assert_true(met.digest_left_out > 100);
    free_message(&sent);
    arena_free(arena);
}

static void other_calls_are_left_alone(void **state)
{
    const struct call before = {.cancel_id = 7};
    struct call call = before;
    uint32_t timeout_ms = 7;

    (void)state;
    for (uint32_t type = 0; type <= CALL_CANCEL + 1; type++) {
        const struct scan_result scan = {.id = 1, .call = type};
        if (type == CALL_BEGIN || type == CALL_COMPLETE || type == CALL_RENEW || type == CALL_GET)
            continue;
        assert_false(request_wire_read(NULL, &scan, &policy, &call, &timeout_ms));
    }
    assert_true(call.cancel_id == before.cancel_id && timeout_ms == 7);
}

/* ---- Replies ----------------------------------------------------------------------------- */

static uint8_t texts[8][IDEM_INPUT_BYTES_MAX];

static struct bytes some_text(unsigned which, uint64_t most)
{
    const size_t size = one_in(3) ? 0 : between(0, most);

    put_text((char *)texts[which], size);
    return bytes_of(texts[which], (uint32_t)size);
}

static uint64_t some_number(uint64_t most)
{
    return one_in(3) ? 0 : between(0, most);
}

static void make_record(struct record *record)
{
    *record = (struct record){
        .state = (enum record_state)(1 + below(3)),
        .flags = (uint8_t)below(32),
        .fence = some_number(IDEM_FENCE_MAX),
        .revision = some_number(IDEM_FENCE_MAX),
        .attempt = (uint32_t)some_number(UINT32_MAX),
        .begun_ms = some_number(UINT64_MAX),
        .interrupted_ms = some_number(UINT64_MAX),
        .done_ms = some_number(UINT64_MAX),
        .operation = some_text(0, IDEM_OPERATION_BYTES_MAX),
        .owner = some_text(1, IDEM_OWNER_BYTES_MAX),
        .traceparent = some_text(2, IDEM_TRACEPARENT_BYTES_MAX),
        .checkpoint_name = some_text(3, IDEM_CHECKPOINT_NAME_BYTES_MAX),
        .expires_ms = some_number(UINT64_MAX),
        .outcome_kind = (uint8_t)below(3),
        .outcome_code = (int32_t)(uint32_t)some_number(UINT32_MAX),
        .body_bytes = some_number(UINT64_MAX),
    };
}

static void make_reply(struct reply *reply, const struct record *record, struct blob *blob)
{
    static const enum call_type calls[] = {CALL_BEGIN, CALL_COMPLETE, CALL_RENEW};

    *reply = (struct reply){
        .call = calls[below(3)],
        .answer = one_in(2) ? ANSWER_EXECUTE : ANSWER_REPLAY,
        .ownership = (enum ownership)below(5),
        .resumed = one_in(2),
        .lease_ms = (uint32_t)some_number(UINT32_MAX),
        .body_dropped = one_in(2),
        .expires_ms = some_number(UINT64_MAX),
        .operation = {.record = record,
                      .lease_left_ms = (uint32_t)some_number(UINT32_MAX),
                      .replays = some_number(UINT64_MAX),
                      .checkpoint_data = some_text(4, one_in(20) ? IDEM_CHECKPOINT_BYTES_MAX : 300),
                      .show_checkpoint = one_in(2),
                      .input = some_text(5, one_in(20) ? IDEM_INPUT_BYTES_MAX : 300)},
    };
    reply->show_outcome = reply->call != CALL_RENEW && one_in(2);
    reply->outcome = (struct slice){blob, (uint32_t)below(10), (uint32_t)some_number(blob->size - 10)};
}

static void write_both_ways(struct arena *arena, const struct reply *reply)
{
    const struct now now = {.wall_ms = some_number(UINT64_MAX), .retention_ms = some_number(UINT64_MAX)};
    const uint64_t id = between(1, UINT64_MAX);
    const struct response got = response_wire_put(arena, id, reply, &now);
    const struct response expected = response_of_reply(arena, id, reply, &now);

    assert_true(response_wire_has(reply));
    assert_int_equal(got.head_bytes, expected.head_bytes);
    assert_memory_equal(got.head, expected.head, got.head_bytes);
    assert_ptr_equal(got.shared.blob, expected.shared.blob);
    assert_int_equal(got.shared.offset, expected.shared.offset);
    assert_int_equal(got.shared.size, expected.shared.size);
    arena_rewind(arena, 0);
}

static void replies_are_written_as_packed(void **state)
{
    struct arena *arena = arena_new((size_t)64 * 1024 * 1024);
    struct blob *blob = blob_new(100000);
    struct record record;
    struct reply reply;

    (void)state;
    memset(blob->data + blob_extend(blob, 100000), 7, 100000);
    for (unsigned i = 0; i < REPLIES; i++) {
        chance_state = i;
        make_record(&record);
        make_reply(&reply, &record, blob);
        write_both_ways(arena, &reply);
    }
    blob_release(blob);
    arena_free(arena);
}

/* Of the same fields, every call but these three, and every other answer of Begin. */
static void other_replies_are_left_alone(void **state)
{
    (void)state;
    for (unsigned call = CALL_HELLO; call <= CALL_CANCEL; call++)
        for (unsigned answer = ANSWER_NONE; answer <= ANSWER_EXPIRED; answer++) {
            const struct reply reply = {.call = (enum call_type)call, .answer = (enum answer)answer};
            if (call == CALL_COMPLETE || call == CALL_RENEW ||
                (call == CALL_BEGIN && (answer == ANSWER_EXECUTE || answer == ANSWER_REPLAY)))
                continue;
            assert_false(response_wire_has(&reply));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_read_as_unpacked),
        cmocka_unit_test(other_calls_are_left_alone),
        cmocka_unit_test(replies_are_written_as_packed),
        cmocka_unit_test(other_replies_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
