/* One function a call. The scan has seen that each field is written as its type, stands no more often than it may, fits
 * its place and is within its limits, and left where it stands; so here it is only put where it belongs. Only of what
 * may stand more than once, other fingerprints and attributes, are the bytes walked again. */
#include "daemon/server/request_wire.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/server/request.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "proto/wire.h"

/* The numbers of idem.proto. */
enum { REQUEST_TIMEOUT_MS = 2, REQUEST_TRACEPARENT = 3, REQUEST_OWN_FIELDS = 3 };
enum { OP_NAMESPACE = 1, OP_CALLER = 2, OP_KEY = 3 };
enum {
    BEGIN_OPERATION = 2,
    BEGIN_FINGERPRINT = 3,
    BEGIN_ATTEMPT_ID = 4,
    BEGIN_OWNER = 5,
    BEGIN_LEASE_MS = 6,
    BEGIN_WAIT_MS = 7,
    BEGIN_IF_INTERRUPTED = 8,
    BEGIN_FIRST_SENT_MS = 9,
    BEGIN_INPUT = 10,
    BEGIN_BIND_TO_CONNECTION = 11,
    BEGIN_KEEP_MS = 12,
    BEGIN_TAKE_OVER_REVISION = 13,
    BEGIN_OTHER_FINGERPRINTS = 14,
};
enum { OWNERS_FENCE = 2, COMPLETE_OUTCOME = 3, COMPLETE_KEEP_MS = 4, COMPLETE_KEEP_BODY_MS = 5, RENEW_LEASE_MS = 3 };
enum { GET_WAIT_MS = 2 };
enum {
    OUTCOME_KIND = 1,
    OUTCOME_CODE = 2,
    OUTCOME_ATTRIBUTES = 3,
    OUTCOME_BODY = 4,
    OUTCOME_BODY_DROPPED = 5,
    OUTCOME_BODY_BYTES = 6,
    OUTCOME_ATTRIBUTES_DROPPED = 7,
};
enum { ATTRIBUTE_NAME = 1, ATTRIBUTE_VALUE = 2 };

/* ---- Fields ------------------------------------------------------------------------ */

struct cursor {
    const uint8_t *at, *end;
};

static struct cursor cursor_of(struct bytes message)
{
    return (struct cursor){message.data, message.data + message.size};
}

/* Steps over the next field; false at the end. Inline in each of the few loops: it takes half of their time. */
__attribute__((always_inline)) static inline bool next_field(struct cursor *cursor, struct wire_field *field)
{
    if (cursor->at == cursor->end)
        return false;
    const bool whole = wire_read(cursor->at, (size_t)(cursor->end - cursor->at), field);
    assert(whole && field->size <= (size_t)(cursor->end - cursor->at));
    cursor->at += field->size;
    return true;
}

static struct bytes value_of(const struct wire_field *field)
{
    assert(field->type == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
    return bytes_of(field->bytes, (uint32_t)field->value);
}

/* A field of bytes or text; `none` where it is not there. */
static inline struct bytes bytes_at(const struct scan_fields *fields, unsigned number, struct bytes none)
{
    const struct scan_value *value = &fields->values[number - 1];

    return scan_has(fields, number) ? bytes_of(value->bytes, (uint32_t)value->value) : none;
}

static inline uint32_t short_at(const struct scan_fields *fields, unsigned number)
{
    return (uint32_t)scan_number(fields, number);
}

/* As protobuf-c has it: any bit of the varint, also one that a 64-bit number has no place for. */
static inline bool flag_at(const struct scan_fields *fields, unsigned number)
{
    if (!scan_has(fields, number))
        return false;
    const uint8_t *byte = fields->values[number - 1].bytes;
    unsigned bits = *byte & 0x7f;
    while (*byte & 0x80)
        bits |= *++byte & 0x7f;
    return bits != 0;
}

static inline int32_t signed_at(const struct scan_fields *fields, unsigned number)
{
    return (int32_t)frame_unzigzag(short_at(fields, number));
}

static const struct bytes empty = {(const uint8_t *)"", 0}, none = {NULL, 0};

/* ---- Outcomes ---------------------------------------------------------------------- */

/* The attribute's fields in the form in which they are stored. */
static uint8_t *put_attribute(uint8_t *out, struct bytes attribute)
{
    struct cursor cursor = cursor_of(attribute);
    struct wire_field field;
    struct bytes name = {0}, value = {0};

    while (next_field(&cursor, &field)) {
        if (field.number == ATTRIBUTE_NAME)
            name = value_of(&field);
        else if (field.number == ATTRIBUTE_VALUE)
            value = value_of(&field);
    }
    return request_put_attribute(out, name, value);
}

/* In that form no attribute takes more than it took on the wire. */
static void put_attributes(struct arena *arena, struct bytes outcome, size_t sent_bytes, struct call *call)
{
    uint8_t *start = arena_alloc(arena, sent_bytes), *out = start;
    struct cursor cursor = cursor_of(outcome);
    struct wire_field field;

    assert(start);
    while (next_field(&cursor, &field))
        if (field.number == OUTCOME_ATTRIBUTES)
            out = put_attribute(out, value_of(&field));
    assert(out <= start + sent_bytes);
    call->outcome.attributes = bytes_of(start, (uint32_t)(out - start));
}

/* The body with its tag and length, where these stand before it with no byte wasted; else none. At least as many bytes
 * are there. */
static struct bytes body_field(struct bytes body)
{
    const size_t length_bytes = frame_varint_bytes(body.size);
    uint64_t length;

    if (body.size == 0)
        return none;
    const uint8_t *start = body.data - length_bytes - 1;
    if (*start != (OUTCOME_BODY << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) ||
        frame_get_varint(start + 1, length_bytes, &length) != length_bytes || length != body.size)
        return none;
    return bytes_of(start, (uint32_t)(1 + length_bytes + body.size));
}

static void read_outcome(struct arena *arena, const struct scan_result *scan, struct call *call)
{
    const struct scan_fields *fields = &scan->messages[SCAN_OUTCOME];
    const struct bytes message = bytes_at(&scan->messages[SCAN_CALL], COMPLETE_OUTCOME, none);
    const struct bytes body = bytes_at(fields, OUTCOME_BODY, none);
    const struct request_outcome sent = {
        .kind = (uint8_t)scan_number(fields, OUTCOME_KIND),
        .code = signed_at(fields, OUTCOME_CODE),
        .body_dropped = flag_at(fields, OUTCOME_BODY_DROPPED),
        .attributes_dropped = flag_at(fields, OUTCOME_ATTRIBUTES_DROPPED),
        .body_bytes = scan_number(fields, OUTCOME_BODY_BYTES),
        .body = body,
        .body_field = body_field(body),
    };

    request_set_outcome(arena, &sent, scan, call);
    if (scan_has(fields, OUTCOME_ATTRIBUTES))
        put_attributes(arena, message, message.size, call);
}

/* ---- Calls ------------------------------------------------------------------------- */

static void read_identity(const struct scan_fields *op, struct identity *id)
{
    id->namespace = bytes_at(op, OP_NAMESPACE, none);
    id->caller = bytes_at(op, OP_CALLER, empty);
    id->key = bytes_at(op, OP_KEY, none);
    assert(id->namespace.size > 0 && id->key.size > 0);
}

/* The message of the call itself. */
static struct bytes call_message(const struct scan_result *scan)
{
    return bytes_at(&scan->messages[SCAN_REQUEST], REQUEST_OWN_FIELDS + 1 + scan->call - CALL_HELLO, none);
}

static void read_other_fingerprints(struct bytes begin, struct call *call)
{
    struct cursor cursor = cursor_of(begin);
    struct wire_field field;
    uint32_t count = 0;

    while (next_field(&cursor, &field)) {
        if (field.number != BEGIN_OTHER_FINGERPRINTS)
            continue;
        assert(count < IDEM_OTHER_FINGERPRINTS_MAX);
        call->other_fingerprints[count++] = value_of(&field); /* given, though empty: its data is not NULL */
    }
}

static void read_begin(const struct scan_result *scan, struct call *call)
{
    const struct scan_fields *begin = &scan->messages[SCAN_CALL];

    call->operation = bytes_at(begin, BEGIN_OPERATION, empty);
    call->fingerprint = bytes_at(begin, BEGIN_FINGERPRINT, none);
    call->attempt_id = bytes_at(begin, BEGIN_ATTEMPT_ID, none);
    call->owner = bytes_at(begin, BEGIN_OWNER, empty);
    call->lease_ms = short_at(begin, BEGIN_LEASE_MS);
    call->wait_ms = short_at(begin, BEGIN_WAIT_MS);
    call->if_interrupted = (enum if_interrupted)scan_number(begin, BEGIN_IF_INTERRUPTED);
    call->first_sent_ms = scan_number(begin, BEGIN_FIRST_SENT_MS);
    call->input = bytes_at(begin, BEGIN_INPUT, none);
    call->bind_to_connection = flag_at(begin, BEGIN_BIND_TO_CONNECTION);
    call->keep_ms = scan_number(begin, BEGIN_KEEP_MS);
    call->take_over_revision = scan_number(begin, BEGIN_TAKE_OVER_REVISION);
    if (scan_has(begin, BEGIN_OTHER_FINGERPRINTS))
        read_other_fingerprints(call_message(scan), call);
}

static void read_complete(struct arena *arena, const struct scan_result *scan, struct call *call)
{
    const struct scan_fields *complete = &scan->messages[SCAN_CALL];

    call->fence = scan_number(complete, OWNERS_FENCE);
    call->keep_ms = scan_number(complete, COMPLETE_KEEP_MS);
    call->keep_body_ms = scan_number(complete, COMPLETE_KEEP_BODY_MS);
    read_outcome(arena, scan, call);
}

bool request_wire_read(struct arena *arena, const struct scan_result *scan, const struct policy *policy,
                       struct call *call, uint32_t *timeout_ms)
{
    const struct scan_fields *request = &scan->messages[SCAN_REQUEST], *fields = &scan->messages[SCAN_CALL];

    if (scan->call != CALL_BEGIN && scan->call != CALL_COMPLETE && scan->call != CALL_RENEW && scan->call != CALL_GET)
        return false;
    *call = (struct call){.type = (enum call_type)scan->call, .policy = policy};
    call->operation = call->owner = empty;
    call->traceparent = bytes_at(request, REQUEST_TRACEPARENT, empty);
    *timeout_ms = short_at(request, REQUEST_TIMEOUT_MS);
    read_identity(&scan->messages[SCAN_OP], &call->id);
    if (scan->call == CALL_BEGIN) {
        read_begin(scan, call);
    } else if (scan->call == CALL_COMPLETE) {
        read_complete(arena, scan, call);
    } else if (scan->call == CALL_RENEW) {
        call->fence = scan_number(fields, OWNERS_FENCE);
        call->lease_ms = short_at(fields, RENEW_LEASE_MS);
    } else {
        call->wait_ms = short_at(fields, GET_WAIT_MS);
    }
    return true;
}
