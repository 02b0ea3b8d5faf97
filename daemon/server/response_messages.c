/* A reply is put into generated messages (on the arena) and packed. If it has an outcome, it is ended by hand:
 *
 *     header | id | result tag, length | its fields | outcome tag, length | kind, code .. | attributes, body
 *     `------------------------------- head ----------------------------------------'    `--- shared ---'
 *
 * Each call has one function that fills its result. */
#include "daemon/server/response_messages.h"

#include <assert.h>

#include "proto/frame.h"
#include "proto/limits.h"

struct building {
    struct arena *arena;
    const struct reply *reply;
    const struct now *now;
};

/* Declares `name`, a new message of a generated type, on the arena. */
#define MAKE(building, type, name, init)                                                                               \
    type *name = arena_zero((building)->arena, sizeof *name);                                                          \
    init(name)

static char *text(const struct building *building, struct bytes bytes)
{
    return arena_string(building->arena, bytes);
}

static ProtobufCBinaryData binary(struct bytes bytes)
{
    return (ProtobufCBinaryData){.len = bytes.size, .data = (uint8_t *)(uintptr_t)bytes.data};
}

/* ---- Parts of results ------------------------------------------------------------ */

static Idem__V1__OperationId *make_op(const struct building *building, const struct identity *id)
{
    MAKE(building, Idem__V1__OperationId, op, idem__v1__operation_id__init);
    op->namespace_ = text(building, id->namespace);
    op->caller = text(building, id->caller);
    op->key = text(building, id->key);
    return op;
}

/* State and times only: what is told to a call that does not match. */
static Idem__V1__OperationInfo *make_info_of_times(const struct building *building,
                                                   const struct reply_operation *operation)
{
    const struct record *record = operation->record;
    MAKE(building, Idem__V1__OperationInfo, info, idem__v1__operation_info__init);

    info->state = (Idem__V1__State)record->state;
    info->begun_ms = record->begun_ms;
    info->interrupted_ms = record->interrupted_ms;
    info->done_ms = record->done_ms;
    info->expires_ms = record->state == RECORD_DONE ? response_wall_ms(building->now, record->expires_ms) : 0;
    info->lease_left_ms = operation->lease_left_ms;
    return info;
}

static Idem__V1__OperationInfo *make_info(const struct building *building, const struct reply_operation *operation)
{
    const struct record *record = operation->record;
    Idem__V1__OperationInfo *info = make_info_of_times(building, operation);

    info->revision = record->revision;
    info->operation = text(building, record->operation);
    info->attempt = record->attempt;
    info->owner = text(building, record->owner);
    info->traceparent = text(building, record->traceparent);
    info->kind = (Idem__V1__OutcomeKind)record->outcome_kind;
    info->resolved = !!(record->flags & RECORD_RESOLVED);
    info->replays = operation->replays;
    return info;
}

static Idem__V1__Checkpoint *make_checkpoint(const struct building *building, const struct reply_operation *operation)
{
    if (!operation->show_checkpoint)
        return NULL;
    MAKE(building, Idem__V1__Checkpoint, checkpoint, idem__v1__checkpoint__init);
    checkpoint->name = text(building, operation->record->checkpoint_name);
    checkpoint->data = binary(operation->checkpoint_data);
    return checkpoint;
}

static Idem__V1__Grant *make_grant(const struct building *building, const struct reply_operation *operation,
                                   uint32_t lease_ms, bool resumed)
{
    MAKE(building, Idem__V1__Grant, grant, idem__v1__grant__init);
    grant->fence = operation->record->fence;
    grant->lease_ms = lease_ms;
    grant->attempt = operation->record->attempt;
    grant->resumed = resumed;
    grant->checkpoint = make_checkpoint(building, operation);
    grant->input = binary(operation->input);
    return grant;
}

/* ---- One function a call --------------------------------------------------------- */

static void fill_begin(const struct building *building, Idem__V1__Response *response)
{
    const struct reply *reply = building->reply;
    const struct reply_operation *operation = &reply->operation;
    MAKE(building, Idem__V1__BeginResponse, begin, idem__v1__begin_response__init);

    response->begin = begin;
    begin->answer = (Idem__V1__BeginResponse__Answer)reply->answer;
    if (operation->record)
        begin->info =
            reply->answer == ANSWER_MISMATCH ? make_info_of_times(building, operation) : make_info(building, operation);
    if (reply->answer == ANSWER_EXECUTE) {
        begin->grant = make_grant(building, operation, reply->lease_ms, reply->resumed);
    } else if (reply->answer == ANSWER_RUNNING) {
        MAKE(building, Idem__V1__Running, running, idem__v1__running__init);
        running->owner = text(building, operation->record->owner);
        running->lease_left_ms = operation->lease_left_ms;
        running->retry_after_ms = reply->running_retry_after_ms;
        begin->running = running;
    } else if (reply->answer == ANSWER_MISMATCH) {
        MAKE(building, Idem__V1__Mismatch, mismatch, idem__v1__mismatch__init);
        mismatch->operation = reply->mismatch_operation;
        mismatch->fingerprint = reply->mismatch_fingerprint;
        begin->mismatch = mismatch;
    } else if (reply->answer == ANSWER_INTERRUPTED) {
        begin->checkpoint = make_checkpoint(building, operation);
    } else if (reply->answer == ANSWER_EXPIRED) {
        MAKE(building, Idem__V1__Window, window, idem__v1__window__init);
        window->now_ms = reply->window_now_ms;
        window->keep_ms = reply->window_keep_ms;
        begin->window = window;
    }
}

static void fill_complete(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__CompleteResponse, complete, idem__v1__complete_response__init);
    complete->ownership = (Idem__V1__Ownership)building->reply->ownership;
    complete->expires_ms = building->reply->expires_ms;
    response->complete = complete;
}

static void fill_release(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__ReleaseResponse, release, idem__v1__release_response__init);
    release->ownership = (Idem__V1__Ownership)building->reply->ownership;
    release->state = (Idem__V1__State)building->reply->released_to;
    response->release = release;
}

static void fill_renew(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__RenewResponse, renew, idem__v1__renew_response__init);
    renew->ownership = (Idem__V1__Ownership)building->reply->ownership;
    renew->lease_ms = building->reply->lease_ms;
    response->renew = renew;
}

static void fill_checkpoint(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__CheckpointResponse, checkpoint, idem__v1__checkpoint_response__init);
    checkpoint->ownership = (Idem__V1__Ownership)building->reply->ownership;
    checkpoint->lease_ms = building->reply->lease_ms;
    response->checkpoint = checkpoint;
}

static void fill_get(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__GetResponse, get, idem__v1__get_response__init);
    get->info = make_info(building, &building->reply->operation);
    get->checkpoint = make_checkpoint(building, &building->reply->operation);
    response->get = get;
}

static Idem__V1__Recovered *make_recovered(const struct building *building, const struct reply_operation *operation)
{
    MAKE(building, Idem__V1__Recovered, recovered, idem__v1__recovered__init);
    recovered->op = make_op(building, &operation->record->id);
    recovered->grant = make_grant(building, operation, operation->lease_ms, operation->resumed);
    recovered->info = make_info(building, operation);
    recovered->fingerprint = binary(operation->record->fingerprint);
    return recovered;
}

static void fill_recover(const struct building *building, Idem__V1__Response *response)
{
    const struct reply *reply = building->reply;
    MAKE(building, Idem__V1__RecoverResponse, recover, idem__v1__recover_response__init);

    recover->n_operations = reply->list_count;
    recover->operations = arena_zero(building->arena, reply->list_count * sizeof *recover->operations);
    for (uint32_t i = 0; i < reply->list_count; i++)
        recover->operations[i] = make_recovered(building, &reply->list[i]);
    response->recover = recover;
}

static void fill_resolve(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__ResolveResponse, resolve, idem__v1__resolve_response__init);
    resolve->ownership = (Idem__V1__Ownership)building->reply->ownership;
    resolve->expires_ms = building->reply->expires_ms;
    response->resolve = resolve;
}

static void fill_forget(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__ForgetResponse, forget, idem__v1__forget_response__init);
    forget->ownership = (Idem__V1__Ownership)building->reply->ownership;
    response->forget = forget;
}

static void fill_list(const struct building *building, Idem__V1__Response *response)
{
    const struct reply *reply = building->reply;
    MAKE(building, Idem__V1__ListResponse, list, idem__v1__list_response__init);

    list->n_operations = reply->list_count;
    list->operations = arena_zero(building->arena, reply->list_count * sizeof *list->operations);
    for (uint32_t i = 0; i < reply->list_count; i++) {
        MAKE(building, Idem__V1__Listed, listed, idem__v1__listed__init);
        listed->op = make_op(building, &reply->list[i].record->id);
        listed->info = make_info(building, &reply->list[i]);
        list->operations[i] = listed;
    }
    list->cursor = binary(reply->cursor);
    response->list = list;
}

static void fill_cancel(const struct building *building, Idem__V1__Response *response)
{
    MAKE(building, Idem__V1__CancelResponse, cancel, idem__v1__cancel_response__init);
    cancel->cancelled = building->reply->cancelled;
    response->cancel = cancel;
}

typedef void fill(const struct building *building, Idem__V1__Response *response);

/* The result of each call: who fills it, and its field for an outcome (0: none). */
static const struct {
    fill *fill;
    uint8_t outcome_field;
} results[] = {
    [CALL_BEGIN] = {fill_begin, 3},     [CALL_COMPLETE] = {fill_complete, 2}, [CALL_RELEASE] = {fill_release, 0},
    [CALL_RENEW] = {fill_renew, 0},     [CALL_GET] = {fill_get, 2},           [CALL_CHECKPOINT] = {fill_checkpoint, 0},
    [CALL_FORGET] = {fill_forget, 0},   [CALL_RECOVER] = {fill_recover, 0},   [CALL_LIST] = {fill_list, 0},
    [CALL_RESOLVE] = {fill_resolve, 2}, [CALL_CANCEL] = {fill_cancel, 0},
};

/* ---- Bytes -------------------------------------------------------------------------- */

enum { LENGTH_DELIMITED = 2 };

struct response response_of_message(struct arena *arena, const Idem__V1__Response *message)
{
    const size_t size = idem__v1__response__get_packed_size(message);
    uint8_t *head = arena_alloc(arena, IDEM_FRAME_HEADER_BYTES + size);

    assert(head);
    frame_put_header(head, (uint32_t)size);
    idem__v1__response__pack(message, head + IDEM_FRAME_HEADER_BYTES);
    return (struct response){.head = head, .head_bytes = (uint32_t)(IDEM_FRAME_HEADER_BYTES + size)};
}

/* What stands of an outcome before its attributes and body. */
static Idem__V1__Outcome outcome_head(const struct reply *reply)
{
    const struct record *record = reply->operation.record;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;

    outcome.kind = (Idem__V1__OutcomeKind)record->outcome_kind;
    outcome.code = record->outcome_code;
    outcome.body_dropped = reply->body_dropped;
    outcome.body_bytes = record->body_bytes;
    outcome.attributes_dropped = !!(record->flags & RECORD_ATTRIBUTES_DROPPED);
    return outcome;
}

static uint8_t *put_tag(uint8_t *out, uint32_t field, uint64_t size)
{
    out += frame_put_varint(out, field << 3 | LENGTH_DELIMITED);
    return out + frame_put_varint(out, size);
}

static size_t tag_bytes(uint32_t field, uint64_t size)
{
    return frame_varint_bytes(field << 3 | LENGTH_DELIMITED) + frame_varint_bytes(size);
}

/* Packs a Response whose result ends in an outcome; attributes and body are sent from where they lie. `result` is the
 * result's message without the outcome; `around` is the Response without its result. */
static struct response with_outcome(struct arena *arena, const Idem__V1__Response *around,
                                    const ProtobufCMessage *result, const struct reply *reply)
{
    const uint32_t call = (uint32_t)reply->call, field = results[reply->call].outcome_field;
    const Idem__V1__Outcome outcome = outcome_head(reply);
    const size_t outcome_bytes = idem__v1__outcome__get_packed_size(&outcome) + reply->outcome.size;
    const size_t fields_bytes = protobuf_c_message_get_packed_size(result);
    const size_t result_bytes = fields_bytes + tag_bytes(field, outcome_bytes) + outcome_bytes;
    const size_t message_bytes =
        idem__v1__response__get_packed_size(around) + tag_bytes(call, result_bytes) + result_bytes;
    const size_t head_bytes = IDEM_FRAME_HEADER_BYTES + message_bytes - reply->outcome.size;
    uint8_t *head = arena_alloc(arena, head_bytes), *out = head;

    assert(head && field != 0);
    frame_put_header(out, (uint32_t)message_bytes);
    out += IDEM_FRAME_HEADER_BYTES;
    out += idem__v1__response__pack(around, out);
    out = put_tag(out, call, result_bytes);
    out += protobuf_c_message_pack(result, out);
    out = put_tag(out, field, outcome_bytes);
    out += idem__v1__outcome__pack(&outcome, out);
    assert(out == head + head_bytes);
    return (struct response){.head = head, .head_bytes = (uint32_t)head_bytes, .shared = reply->outcome};
}

struct response response_of_reply(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now)
{
    const struct building building = {arena, reply, now};
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT, around = IDEM__V1__RESPONSE__INIT;

    if (reply->code != CODE_OK)
        return response_of_error(arena, id, reply->code, reply->reason, reply->field, reply->message);
    assert(reply->call < sizeof results / sizeof results[0] && results[reply->call].fill);
    response.id = around.id = id;
    results[reply->call].fill(&building, &response);
    response.result_case = (Idem__V1__Response__ResultCase)reply->call;
    if (reply->show_outcome)
        return with_outcome(arena, &around, &response.hello->base, reply);
    return response_of_message(arena, &response);
}

struct response response_of_error(struct arena *arena, uint64_t id, enum code code, const char *reason,
                                  const char *field, const char *message)
{
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Status status = IDEM__V1__STATUS__INIT;

    assert(code != CODE_OK);
    status.code = (Idem__V1__Code)code;
    if (message)
        status.message = (char *)(uintptr_t)message;
    if (reason)
        status.reason = (char *)(uintptr_t)reason;
    if (field)
        status.field = (char *)(uintptr_t)field;
    response.id = id;
    response.status = &status;
    return response_of_message(arena, &response);
}
