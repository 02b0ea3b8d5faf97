/* A message is written from its end to its start: the length of what is nested is then known when it is due, and no
 * pass over the fields is needed to count them first. So each function below puts its fields in falling order of their
 * numbers, and each put_ function moves `at` down to what it wrote. Zeros and empty strings are not written. */
#include "daemon/response_wire.h"

#include <assert.h>

#include "daemon/response.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { VARINT = 0, FIXED_64 = 1, LENGTH_DELIMITED = 2 };

enum {
    /* More than all numbers, tags and lengths of a reply here take: three dozen fields of at most 11 bytes. */
    NUMBERS_BYTES_MAX = 400,
};

struct writer {
    uint8_t *at;    /* the first byte that is written */
    uint8_t *start; /* of the room */
};

/* ---- Fields, backward ---------------------------------------------------------------- */

static inline void put_varint(struct writer *writer, uint64_t value)
{
    if (value < 0x80) {
        *--writer->at = (uint8_t)value;
        return;
    }
    writer->at -= frame_varint_bytes(value);
    frame_put_varint(writer->at, value);
}

/* Every field's number is below 16, so its tag takes one byte. */
static inline void put_tag(struct writer *writer, unsigned number, unsigned type)
{
    assert(number < 16);
    *--writer->at = (uint8_t)(number << 3 | type);
}

static inline void put_number(struct writer *writer, unsigned number, uint64_t value)
{
    if (value == 0)
        return;
    put_varint(writer, value);
    put_tag(writer, number, VARINT);
}

static inline void put_fixed(struct writer *writer, unsigned number, uint64_t value)
{
    if (value == 0)
        return;
    writer->at -= sizeof value;
    for (size_t i = 0; i < sizeof value; i++)
        writer->at[i] = (uint8_t)(value >> (8 * i));
    put_tag(writer, number, FIXED_64);
}

static inline void put_bytes(struct writer *writer, unsigned number, struct bytes value)
{
    if (value.size == 0)
        return;
    writer->at -= value.size;
    memcpy(writer->at, value.data, value.size);
    put_varint(writer, value.size);
    put_tag(writer, number, LENGTH_DELIMITED);
}

/* Puts length and tag of a message before what was written since `end`, to which `more` bytes come that are sent from
 * elsewhere. */
static inline void close_message(struct writer *writer, unsigned number, const uint8_t *end, uint32_t more)
{
    put_varint(writer, (uint64_t)(end - writer->at) + more);
    put_tag(writer, number, LENGTH_DELIMITED);
}

/* protobuf's zigzag: 0, -1, 1, -2 .. */
static uint32_t zigzag(int32_t value)
{
    return (uint32_t)value << 1 ^ (value < 0 ? UINT32_MAX : 0);
}

/* ---- Parts of results ---------------------------------------------------------------- */

static void put_info(struct writer *writer, unsigned number, const struct reply_operation *operation,
                     const struct now *now)
{
    const struct record *record = operation->record;
    const uint8_t *end = writer->at;

    put_number(writer, 14, operation->replays);
    put_number(writer, 13, !!(record->flags & RECORD_RESOLVED));
    put_number(writer, 12, record->outcome_kind);
    put_number(writer, 11, operation->lease_left_ms);
    put_number(writer, 10, record->state == RECORD_DONE ? response_wall_ms(now, record->expires_ms) : 0);
    put_number(writer, 9, record->done_ms);
    put_number(writer, 8, record->interrupted_ms);
    put_number(writer, 7, record->begun_ms);
    put_bytes(writer, 6, record->traceparent);
    put_bytes(writer, 5, record->owner);
    put_number(writer, 4, record->attempt);
    put_bytes(writer, 3, record->operation);
    put_fixed(writer, 2, record->revision);
    put_number(writer, 1, record->state);
    close_message(writer, number, end, 0);
}

static void put_checkpoint(struct writer *writer, unsigned number, const struct reply_operation *operation)
{
    const uint8_t *end = writer->at;

    put_bytes(writer, 2, operation->checkpoint_data);
    put_bytes(writer, 1, operation->record->checkpoint_name);
    close_message(writer, number, end, 0);
}

static void put_grant(struct writer *writer, unsigned number, const struct reply *reply)
{
    const struct reply_operation *operation = &reply->operation;
    const uint8_t *end = writer->at;

    put_bytes(writer, 6, operation->input);
    if (operation->show_checkpoint)
        put_checkpoint(writer, 5, operation);
    put_number(writer, 4, reply->resumed);
    put_number(writer, 3, operation->record->attempt);
    put_number(writer, 2, reply->lease_ms);
    put_fixed(writer, 1, operation->record->fence);
    close_message(writer, number, end, 0);
}

/* All of it but what is shared, which follows it. */
static void put_outcome(struct writer *writer, unsigned number, const struct reply *reply)
{
    const struct record *record = reply->operation.record;
    const uint8_t *end = writer->at;

    put_number(writer, 7, !!(record->flags & RECORD_ATTRIBUTES_DROPPED));
    put_number(writer, 6, record->body_bytes);
    put_number(writer, 5, reply->body_dropped);
    put_number(writer, 2, zigzag(record->outcome_code));
    put_number(writer, 1, record->outcome_kind);
    close_message(writer, number, end, reply->outcome.size);
}

/* ---- Results: first the outcome, since it goes last, then the fields --------------------- */

static void put_begin(struct writer *writer, const struct reply *reply, const struct now *now)
{
    if (reply->show_outcome)
        put_outcome(writer, 3, reply);
    put_info(writer, 7, &reply->operation, now);
    if (reply->answer == ANSWER_EXECUTE)
        put_grant(writer, 2, reply);
    put_number(writer, 1, reply->answer);
}

static void put_complete(struct writer *writer, const struct reply *reply)
{
    if (reply->show_outcome)
        put_outcome(writer, 2, reply);
    put_number(writer, 3, reply->expires_ms);
    put_number(writer, 1, reply->ownership);
}

static void put_renew(struct writer *writer, const struct reply *reply)
{
    put_number(writer, 2, reply->lease_ms);
    put_number(writer, 1, reply->ownership);
}

static void put_result(struct writer *writer, const struct reply *reply, const struct now *now)
{
    if (reply->call == CALL_BEGIN)
        put_begin(writer, reply, now);
    else if (reply->call == CALL_COMPLETE)
        put_complete(writer, reply);
    else
        put_renew(writer, reply);
}

/* ---- Responses ----------------------------------------------------------------------- */

static bool is_written_here(const struct reply *reply)
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

bool response_wire_put(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now,
                       struct response *response)
{
    if (!is_written_here(reply))
        return false;
    assert(reply->code == CODE_OK && (reply->operation.record || (reply->call != CALL_BEGIN && !reply->show_outcome)));
    const size_t room = IDEM_FRAME_HEADER_BYTES + NUMBERS_BYTES_MAX + strings_bytes(reply);
    struct writer writer = {.start = arena_alloc(arena, room)};
    assert(writer.start);
    const uint8_t *end = writer.at = writer.start + room;
    const struct slice tail = reply->show_outcome ? reply->outcome : (struct slice){0};

    put_result(&writer, reply, now);
    close_message(&writer, reply->call, end, tail.size);
    put_number(&writer, 1, id);
    const size_t message_bytes = (size_t)(end - writer.at) + tail.size;
    writer.at -= IDEM_FRAME_HEADER_BYTES;
    assert(writer.at >= writer.start);
    frame_put_header(writer.at, (uint32_t)message_bytes);
    *response = (struct response){.head = writer.at, .head_bytes = (uint32_t)(end - writer.at), .tail = tail};
    return true;
}
