/* A message is written from its end to its start: the length of what is nested is then known when it is due, and no
 * pass over the fields is needed to count them first. So each function below puts its fields in falling order of their
 * numbers. Zeros and empty strings are not written. */
#include "daemon/server/response_wire.h"

#include <assert.h>
#include <endian.h>

#include "proto/frame.h"
#include "proto/limits.h"

enum { VARINT = 0, FIXED_64 = 1, LENGTH_DELIMITED = 2 };

enum {
    /* More than all numbers, tags and lengths of a reply here take: three dozen fields of at most 11 bytes. */
    NUMBERS_BYTES_MAX = 400,
};

/* ---- Fields, backward ----------------------------------------------------------------
 * Each takes where what follows starts, and returns where it starts itself: so that stays in a register. */

#define INLINE __attribute__((always_inline)) static inline

/* A longer one is the end of eight bytes that are written together; what stands before it is not written yet. */
INLINE uint8_t *put_varint(uint8_t *at, uint64_t value)
{
    if (value < 0x80) {
        *--at = (uint8_t)value;
        return at;
    }
    const size_t bytes = frame_varint_bytes(value);
    if (bytes > sizeof(uint64_t)) {
        frame_put_long_varint(at - bytes, value);
        return at - bytes;
    }
    const uint64_t word = htole64(frame_varint_word(value, bytes) << 8 * (sizeof word - bytes));
    memcpy(at - sizeof word, &word, sizeof word);
    return at - bytes;
}

/* Every field's number is below 16, so its tag takes one byte. */
static inline uint8_t *put_tag(uint8_t *at, unsigned number, unsigned type)
{
    assert(number < 16);
    *--at = (uint8_t)(number << 3 | type);
    return at;
}

INLINE uint8_t *put_number(uint8_t *at, unsigned number, uint64_t value)
{
    return value ? put_tag(put_varint(at, value), number, VARINT) : at;
}

static inline uint8_t *put_fixed(uint8_t *at, unsigned number, uint64_t value)
{
    if (value == 0)
        return at;
    at -= sizeof value;
    value = htole64(value);
    memcpy(at, &value, sizeof value);
    return put_tag(at, number, FIXED_64);
}

INLINE uint8_t *put_bytes(uint8_t *at, unsigned number, struct bytes value)
{
    if (value.size == 0)
        return at;
    at -= value.size;
    bytes_put(at, value);
    return put_tag(put_varint(at, value.size), number, LENGTH_DELIMITED);
}

/* Puts length and tag of a message before what was written up to `end`, to which `more` bytes come that are sent from
 * elsewhere. */
static inline uint8_t *close_message(uint8_t *at, unsigned number, const uint8_t *end, uint32_t more)
{
    return put_tag(put_varint(at, (uint64_t)(end - at) + more), number, LENGTH_DELIMITED);
}

/* ---- Parts of results ---------------------------------------------------------------- */

static uint8_t *put_info(uint8_t *at, unsigned number, const struct reply_operation *operation, const struct now *now)
{
    const struct record *record = operation->record;
    const uint8_t *end = at;

    at = put_number(at, 14, operation->replays);
    at = put_number(at, 13, !!(record->flags & RECORD_RESOLVED));
    at = put_number(at, 12, record->outcome_kind);
    at = put_number(at, 11, operation->lease_left_ms);
    at = put_number(at, 10, record->state == RECORD_DONE ? response_wall_ms(now, record->expires_ms) : 0);
    at = put_number(at, 9, record->done_ms);
    at = put_number(at, 8, record->interrupted_ms);
    at = put_number(at, 7, record->begun_ms);
    at = put_bytes(at, 6, record->traceparent);
    at = put_bytes(at, 5, record->owner);
    at = put_number(at, 4, record->attempt);
    at = put_bytes(at, 3, record->operation);
    at = put_fixed(at, 2, record->revision);
    at = put_number(at, 1, record->state);
    return close_message(at, number, end, 0);
}

static uint8_t *put_checkpoint(uint8_t *at, unsigned number, const struct reply_operation *operation)
{
    const uint8_t *end = at;

    at = put_bytes(at, 2, operation->checkpoint_data);
    at = put_bytes(at, 1, operation->record->checkpoint_name);
    return close_message(at, number, end, 0);
}

static uint8_t *put_grant(uint8_t *at, unsigned number, const struct reply *reply)
{
    const struct reply_operation *operation = &reply->operation;
    const uint8_t *end = at;

    at = put_bytes(at, 6, operation->input);
    if (operation->show_checkpoint)
        at = put_checkpoint(at, 5, operation);
    at = put_number(at, 4, reply->resumed);
    at = put_number(at, 3, operation->record->attempt);
    at = put_number(at, 2, reply->lease_ms);
    at = put_fixed(at, 1, operation->record->fence);
    return close_message(at, number, end, 0);
}

/* All of it but what is shared, which follows it. */
static inline uint8_t *put_outcome(uint8_t *at, unsigned number, const struct reply *reply)
{
    const struct record *record = reply->operation.record;
    const uint8_t *end = at;

    at = put_number(at, 7, !!(record->flags & RECORD_ATTRIBUTES_DROPPED));
    at = put_number(at, 6, record->body_bytes);
    at = put_number(at, 5, reply->body_dropped);
    at = put_number(at, 2, frame_zigzag(record->outcome_code));
    at = put_number(at, 1, record->outcome_kind);
    return close_message(at, number, end, reply->outcome.size);
}

/* ---- Results: first the outcome, since it goes last, then the fields --------------------- */

static uint8_t *put_begin(uint8_t *at, const struct reply *reply, const struct now *now)
{
    if (reply->show_outcome)
        at = put_outcome(at, 3, reply);
    at = put_info(at, 7, &reply->operation, now);
    if (reply->answer == ANSWER_EXECUTE)
        at = put_grant(at, 2, reply);
    return put_number(at, 1, reply->answer);
}

static uint8_t *put_complete(uint8_t *at, const struct reply *reply)
{
    if (reply->show_outcome)
        at = put_outcome(at, 2, reply);
    at = put_number(at, 3, reply->expires_ms);
    return put_number(at, 1, reply->ownership);
}

static uint8_t *put_renew(uint8_t *at, const struct reply *reply)
{
    at = put_number(at, 2, reply->lease_ms);
    return put_number(at, 1, reply->ownership);
}

static uint8_t *put_result(uint8_t *at, const struct reply *reply, const struct now *now)
{
    if (reply->call == CALL_BEGIN)
        return put_begin(at, reply, now);
    if (reply->call == CALL_COMPLETE)
        return put_complete(at, reply);
    return put_renew(at, reply);
}

/* ---- Responses ----------------------------------------------------------------------- */

bool response_wire_has(const struct reply *reply)
{
    if (reply->call == CALL_BEGIN)
        return reply->answer == ANSWER_EXECUTE || reply->answer == ANSWER_REPLAY;
    return reply->call == CALL_COMPLETE || reply->call == CALL_RENEW;
}

/* Room for the strings that a reply may hold. */
static size_t strings_bytes(const struct reply *reply)
{
    const struct record *record = reply->operation.record;

    if (reply->call != CALL_BEGIN)
        return 0;
    return (size_t)record->operation.size + record->owner.size + record->traceparent.size +
           record->checkpoint_name.size + reply->operation.checkpoint_data.size + reply->operation.input.size;
}

struct response response_wire_put(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now)
{
    assert(reply->code == CODE_OK && response_wire_has(reply));
    assert(reply->operation.record || (reply->call != CALL_BEGIN && !reply->show_outcome));
    const size_t room = IDEM_FRAME_HEADER_BYTES + NUMBERS_BYTES_MAX + strings_bytes(reply);
    uint8_t *const start = arena_alloc(arena, room), *at = start + room;
    const uint8_t *const end = at;
    const struct slice shared = reply->show_outcome ? reply->outcome : (struct slice){0};

    assert(start);
    at = put_result(at, reply, now);
    at = close_message(at, reply->call, end, shared.size);
    at = put_number(at, 1, id);
    const size_t message_bytes = (size_t)(end - at) + shared.size;
    at -= IDEM_FRAME_HEADER_BYTES;
    assert(at >= start);
    frame_put_header(at, (uint32_t)message_bytes);
    return (struct response){.head = at, .head_bytes = (uint32_t)(end - at), .shared = shared};
}
