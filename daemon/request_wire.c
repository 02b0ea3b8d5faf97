/* One walk over the bytes, with a table a call: where in struct call the field of each number goes. The scan has seen
 * that each field is written as its type, stands no more often than it may, fits its place and is within its limits, so
 * that here is only put where it belongs what stands there; numbers that no table has are stepped over. */
#include "daemon/request_wire.h"

#include <assert.h>
#include <stddef.h>

#include "daemon/request.h"
#include "proto/limits.h"
#include "proto/wire.h"

enum { REQUEST_TIMEOUT_MS = 2, REQUEST_TRACEPARENT = 3 };
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

/* As protobuf-c has it: any bit of the varint, also one that a 64-bit number has no place for. */
static bool flag_of(const struct wire_field *field)
{
    const uint8_t *byte = field->bytes;
    unsigned bits = *byte & 0x7f;

    while (*byte & 0x80)
        bits |= *++byte & 0x7f;
    return bits != 0;
}

/* protobuf's zigzag: 0, -1, 1, -2 .. */
static int32_t signed_of(const struct wire_field *field)
{
    const uint32_t value = (uint32_t)field->value;

    return (int32_t)(value >> 1 ^ (0u - (value & 1)));
}

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

static void read_outcome(struct arena *arena, struct bytes message, const struct scan_result *scan, struct call *call)
{
    struct request_outcome sent = {0};
    struct cursor cursor = cursor_of(message);
    struct wire_field field;
    size_t attributes_bytes = 0;

    while (next_field(&cursor, &field)) {
        switch (field.number) {
        case OUTCOME_KIND:
            sent.kind = (uint8_t)field.value;
            break;
        case OUTCOME_CODE:
            sent.code = signed_of(&field);
            break;
        case OUTCOME_ATTRIBUTES:
            attributes_bytes += scan->attributes_dropped ? 0 : field.size;
            break;
        case OUTCOME_BODY:
            sent.body = value_of(&field);
            sent.body_field = bytes_of(cursor.at - field.size, (uint32_t)field.size);
            break;
        case OUTCOME_BODY_DROPPED:
            sent.body_dropped = flag_of(&field);
            break;
        case OUTCOME_BODY_BYTES:
            sent.body_bytes = field.value;
            break;
        case OUTCOME_ATTRIBUTES_DROPPED:
            sent.attributes_dropped = flag_of(&field);
            break;
        default:
            break;
        }
    }
    request_set_outcome(arena, &sent, scan, call);
    if (attributes_bytes > 0)
        put_attributes(arena, message, attributes_bytes, call);
}

/* ---- Calls ------------------------------------------------------------------------- */

enum place_kind {
    PLACE_NONE, /* no field of ours */
    PLACE_BYTES,
    PLACE_32,
    PLACE_64,
    PLACE_FLAG,
    PLACE_ID,                 /* the operation's */
    PLACE_OTHER_FINGERPRINTS, /* one after the other */
    PLACE_OUTCOME,
};

/* Where a field goes, by its number. */
struct place {
    uint16_t kind;
    uint16_t offset; /* in struct call, or struct identity */
};

#define IN_CALL(as, member)                                                                                            \
    {                                                                                                                  \
        (as), offsetof(struct call, member)                                                                            \
    }
#define IN_IDENTITY(as, member)                                                                                        \
    {                                                                                                                  \
        (as), offsetof(struct identity, member)                                                                        \
    }
#define COUNT(places) (sizeof(places) / sizeof((places)[0]))

_Static_assert(sizeof(enum if_interrupted) == sizeof(uint32_t), "its place is one of 32 bits");

static const struct place identity_places[] = {
    [1] = IN_IDENTITY(PLACE_BYTES, namespace),
    [2] = IN_IDENTITY(PLACE_BYTES, caller),
    [3] = IN_IDENTITY(PLACE_BYTES, key),
};
static const struct place begin_places[] = {
    [1] = IN_CALL(PLACE_ID, id),
    [2] = IN_CALL(PLACE_BYTES, operation),
    [3] = IN_CALL(PLACE_BYTES, fingerprint),
    [4] = IN_CALL(PLACE_BYTES, attempt_id),
    [5] = IN_CALL(PLACE_BYTES, owner),
    [6] = IN_CALL(PLACE_32, lease_ms),
    [7] = IN_CALL(PLACE_32, wait_ms),
    [8] = IN_CALL(PLACE_32, if_interrupted),
    [9] = IN_CALL(PLACE_64, first_sent_ms),
    [10] = IN_CALL(PLACE_BYTES, input),
    [11] = IN_CALL(PLACE_FLAG, bind_to_connection),
    [12] = IN_CALL(PLACE_64, keep_ms),
    [13] = IN_CALL(PLACE_64, take_over_revision),
    [14] = IN_CALL(PLACE_OTHER_FINGERPRINTS, other_fingerprints),
};
static const struct place complete_places[] = {
    [1] = IN_CALL(PLACE_ID, id),      [2] = IN_CALL(PLACE_64, fence),        [3] = IN_CALL(PLACE_OUTCOME, outcome),
    [4] = IN_CALL(PLACE_64, keep_ms), [5] = IN_CALL(PLACE_64, keep_body_ms),
};
static const struct place renew_places[] = {
    [1] = IN_CALL(PLACE_ID, id),
    [2] = IN_CALL(PLACE_64, fence),
    [3] = IN_CALL(PLACE_32, lease_ms),
};
static const struct place get_places[] = {
    [1] = IN_CALL(PLACE_ID, id),
    [2] = IN_CALL(PLACE_32, wait_ms),
};

/* By their numbers in Request. */
static const struct table {
    const struct place *places; /* NULL: not read here */
    uint32_t count;
} tables[] = {
    [CALL_BEGIN] = {begin_places, COUNT(begin_places)},
    [CALL_COMPLETE] = {complete_places, COUNT(complete_places)},
    [CALL_RENEW] = {renew_places, COUNT(renew_places)},
    [CALL_GET] = {get_places, COUNT(get_places)},
};

static void read_identity(struct bytes message, struct identity *id)
{
    struct cursor cursor = cursor_of(message);
    struct wire_field field;

    while (next_field(&cursor, &field)) {
        if (field.number >= COUNT(identity_places))
            continue;
        const struct bytes value = value_of(&field);
        memcpy((uint8_t *)id + identity_places[field.number].offset, &value, sizeof value);
    }
}

static void add_other_fingerprint(struct call *call, struct bytes value)
{
    uint32_t count = 0;

    while (count < IDEM_OTHER_FINGERPRINTS_MAX && call->other_fingerprints[count].data)
        count++;
    assert(count < IDEM_OTHER_FINGERPRINTS_MAX);
    call->other_fingerprints[count] = value; /* given, though empty: its data is not NULL */
}

static void read_field(struct arena *arena, const struct wire_field *field, struct place place,
                       const struct scan_result *scan, struct call *call)
{
    uint8_t *out = (uint8_t *)call + place.offset;

    switch ((enum place_kind)place.kind) {
    case PLACE_NONE:
        break;
    case PLACE_BYTES:
        memcpy(out, &(struct bytes){field->bytes, (uint32_t)field->value}, sizeof(struct bytes));
        break;
    case PLACE_32:
        memcpy(out, &(uint32_t){(uint32_t)field->value}, sizeof(uint32_t));
        break;
    case PLACE_64:
        memcpy(out, &field->value, sizeof(uint64_t));
        break;
    case PLACE_FLAG:
        memcpy(out, &(bool){flag_of(field)}, sizeof(bool));
        break;
    case PLACE_ID:
        read_identity(value_of(field), &call->id);
        break;
    case PLACE_OTHER_FINGERPRINTS:
        add_other_fingerprint(call, value_of(field));
        break;
    case PLACE_OUTCOME:
        read_outcome(arena, value_of(field), scan, call);
        break;
    }
}

static void read_call(struct arena *arena, struct bytes message, const struct scan_result *scan, struct call *call)
{
    const struct table *table = &tables[scan->call];
    struct cursor cursor = cursor_of(message);
    struct wire_field field;

    while (next_field(&cursor, &field))
        if (field.number < table->count)
            read_field(arena, &field, table->places[field.number], scan, call);
}

bool request_wire_read(struct arena *arena, const uint8_t *data, uint32_t size, const struct scan_result *scan,
                       const struct policy *policy, struct call *call, uint32_t *timeout_ms)
{
    const struct bytes none = bytes_of("", 0);
    struct cursor cursor = cursor_of(bytes_of(data, size));
    struct wire_field field;

    if (scan->call >= COUNT(tables) || !tables[scan->call].places)
        return false;
    *call = (struct call){.type = (enum call_type)scan->call, .policy = policy};
    call->id.caller = call->traceparent = call->operation = call->owner = none;
    *timeout_ms = 0;
    while (next_field(&cursor, &field)) {
        if (field.number == scan->call)
            read_call(arena, value_of(&field), scan, call);
        else if (field.number == REQUEST_TIMEOUT_MS)
            *timeout_ms = (uint32_t)field.value;
        else if (field.number == REQUEST_TRACEPARENT)
            call->traceparent = value_of(&field);
    }
    assert(call->id.namespace.size > 0 && call->id.key.size > 0);
    return true;
}
