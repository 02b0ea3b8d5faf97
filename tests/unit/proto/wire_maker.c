/* Whole valid Requests come from protobuf-c's own packer; edits are made on the bytes, by a reader of this file that
 * trusts what it reads: what it is given was packed here. */
#include "tests/unit/proto/wire_maker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "idem/v1/idem.pb-c.h"
#include "proto/frame.h"

static char namespace_text[] = "shop", caller_text[] = "acme", key_text[] = "order-1", name_text[] = "content-type";
static char operation_text[] = "POST /charges", owner_text[] = "api-7", client_text[] = "libidem 0.1";
static char traceparent_text[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", reason_text[] = "checked";
static uint8_t value_bytes[] = "application/json", sixteen_bytes[] = "0123456789abcdef";

static Idem__V1__OperationId op;
static Idem__V1__Attribute attributes[2];
static Idem__V1__Attribute *attribute_list[2] = {&attributes[0], &attributes[1]};
static ProtobufCBinaryData fingerprints[2];
static Idem__V1__Outcome outcome;
static Idem__V1__Checkpoint saved;

static ProtobufCBinaryData value(void)
{
    return (ProtobufCBinaryData){sizeof(value_bytes) - 1, value_bytes};
}

static ProtobufCBinaryData sixteen(void)
{
    return (ProtobufCBinaryData){16, sixteen_bytes};
}

static void fill_shared(void)
{
    idem__v1__operation_id__init(&op);
    idem__v1__outcome__init(&outcome);
    idem__v1__checkpoint__init(&saved);
    op.namespace_ = namespace_text;
    op.caller = caller_text;
    op.key = key_text;
    for (size_t i = 0; i < 2; i++) {
        idem__v1__attribute__init(&attributes[i]);
        attributes[i].name = name_text;
        attributes[i].value = value();
        fingerprints[i] = value();
    }
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    outcome.code = -2;
    outcome.n_attributes = 2;
    outcome.attributes = attribute_list;
    outcome.body = value();
    outcome.body_dropped = 1;
    outcome.body_bytes = 300;
    outcome.attributes_dropped = 1;
    saved.name = name_text;
    saved.data = value();
}

static size_t pack(Idem__V1__Request *request, Idem__V1__Request__CallCase call, uint8_t *out)
{
    size_t size;

    request->call_case = call;
    request->id = WIRE_ID;
    request->timeout_ms = 5000;
    request->traceparent = traceparent_text;
    size = idem__v1__request__get_packed_size(request);
    assert_true(size <= WIRE_ROOM);
    assert_int_equal(idem__v1__request__pack(request, out), size);
    return size;
}

static size_t make_hello(uint8_t *out)
{
    Idem__V1__HelloRequest hello;
    Idem__V1__Request request;

    idem__v1__hello_request__init(&hello);
    idem__v1__request__init(&request);
    hello.client = client_text;
    hello.token = value();
    hello.replaces = 99;
    hello.namespace_ = namespace_text;
    request.hello = &hello;
    return pack(&request, IDEM__V1__REQUEST__CALL_HELLO, out);
}

static size_t make_begin(uint8_t *out)
{
    Idem__V1__BeginRequest begin;
    Idem__V1__Request request;

    idem__v1__begin_request__init(&begin);
    idem__v1__request__init(&request);
    begin.op = &op;
    begin.operation = operation_text;
    begin.fingerprint = value();
    begin.attempt_id = sixteen();
    begin.owner = owner_text;
    begin.lease_ms = 30000;
    begin.wait_ms = 1000;
    begin.if_interrupted = IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_REPORT;
    begin.first_sent_ms = 1700000000000;
    begin.input = value();
    begin.bind_to_connection = 1;
    begin.keep_ms = 3600000;
    begin.take_over_revision = 12345;
    begin.n_other_fingerprints = 2;
    begin.other_fingerprints = fingerprints;
    request.begin = &begin;
    return pack(&request, IDEM__V1__REQUEST__CALL_BEGIN, out);
}

static size_t make_complete(uint8_t *out)
{
    Idem__V1__CompleteRequest complete;
    Idem__V1__Request request;

    idem__v1__complete_request__init(&complete);
    idem__v1__request__init(&request);
    complete.op = &op;
    complete.fence = 12345;
    complete.outcome = &outcome;
    complete.keep_ms = 5;
    complete.keep_body_ms = 6;
    request.complete = &complete;
    return pack(&request, IDEM__V1__REQUEST__CALL_COMPLETE, out);
}

static size_t make_release(uint8_t *out)
{
    Idem__V1__ReleaseRequest release;
    Idem__V1__Request request;

    idem__v1__release_request__init(&release);
    idem__v1__request__init(&request);
    release.op = &op;
    release.fence = 12345;
    release.effect = IDEM__V1__EFFECT__EFFECT_NONE;
    request.release = &release;
    return pack(&request, IDEM__V1__REQUEST__CALL_RELEASE, out);
}

static size_t make_renew(uint8_t *out)
{
    Idem__V1__RenewRequest renew;
    Idem__V1__Request request;

    idem__v1__renew_request__init(&renew);
    idem__v1__request__init(&request);
    renew.op = &op;
    renew.fence = 12345;
    renew.lease_ms = 30000;
    request.renew = &renew;
    return pack(&request, IDEM__V1__REQUEST__CALL_RENEW, out);
}

static size_t make_checkpoint(uint8_t *out)
{
    Idem__V1__CheckpointRequest checkpoint;
    Idem__V1__Request request;

    idem__v1__checkpoint_request__init(&checkpoint);
    idem__v1__request__init(&request);
    checkpoint.op = &op;
    checkpoint.fence = 12345;
    checkpoint.checkpoint = &saved;
    checkpoint.lease_ms = 30000;
    request.checkpoint = &checkpoint;
    return pack(&request, IDEM__V1__REQUEST__CALL_CHECKPOINT, out);
}

static size_t make_get(uint8_t *out)
{
    Idem__V1__GetRequest get;
    Idem__V1__Request request;

    idem__v1__get_request__init(&get);
    idem__v1__request__init(&request);
    get.op = &op;
    get.wait_ms = 1000;
    request.get = &get;
    return pack(&request, IDEM__V1__REQUEST__CALL_GET, out);
}

static size_t make_recover(uint8_t *out)
{
    Idem__V1__RecoverRequest recover;
    Idem__V1__Request request;

    idem__v1__recover_request__init(&recover);
    idem__v1__request__init(&request);
    recover.namespace_ = namespace_text;
    recover.operation = operation_text;
    recover.owner = owner_text;
    recover.lease_ms = 30000;
    recover.limit = 10;
    recover.wait_ms = 1000;
    recover.attempt_id = sixteen();
    recover.bind_to_connection = 1;
    request.recover = &recover;
    return pack(&request, IDEM__V1__REQUEST__CALL_RECOVER, out);
}

static size_t make_resolve(uint8_t *out)
{
    Idem__V1__ResolveRequest resolve;
    Idem__V1__Request request;

    idem__v1__resolve_request__init(&resolve);
    idem__v1__request__init(&request);
    resolve.op = &op;
    resolve.revision = 12345;
    resolve.verdict = IDEM__V1__VERDICT__VERDICT_HAPPENED;
    resolve.outcome = &outcome;
    resolve.reason = reason_text;
    request.resolve = &resolve;
    return pack(&request, IDEM__V1__REQUEST__CALL_RESOLVE, out);
}

static size_t make_forget(uint8_t *out)
{
    Idem__V1__ForgetRequest forget;
    Idem__V1__Request request;

    idem__v1__forget_request__init(&forget);
    idem__v1__request__init(&request);
    forget.op = &op;
    forget.revision = 12345;
    forget.reason = reason_text;
    request.forget = &forget;
    return pack(&request, IDEM__V1__REQUEST__CALL_FORGET, out);
}

static size_t make_list(uint8_t *out)
{
    Idem__V1__ListRequest list;
    Idem__V1__Request request;

    idem__v1__list_request__init(&list);
    idem__v1__request__init(&request);
    list.namespace_ = namespace_text;
    list.state = IDEM__V1__STATE__STATE_DONE;
    list.limit = 10;
    list.cursor = value();
    request.list = &list;
    return pack(&request, IDEM__V1__REQUEST__CALL_LIST, out);
}

static size_t make_stats(uint8_t *out)
{
    Idem__V1__StatsRequest stats;
    Idem__V1__Request request;

    idem__v1__stats_request__init(&stats);
    idem__v1__request__init(&request);
    stats.namespace_ = namespace_text;
    request.stats = &stats;
    return pack(&request, IDEM__V1__REQUEST__CALL_STATS, out);
}

static size_t make_cancel(uint8_t *out)
{
    Idem__V1__CancelRequest cancel;
    Idem__V1__Request request;

    idem__v1__cancel_request__init(&cancel);
    idem__v1__request__init(&request);
    cancel.id = 6;
    request.cancel = &cancel;
    return pack(&request, IDEM__V1__REQUEST__CALL_CANCEL, out);
}

size_t wire_make(uint32_t call, uint8_t *out)
{
    static size_t (*const makers[])(uint8_t *) = {
        make_hello,   make_begin,   make_complete, make_release, make_renew, make_checkpoint, make_get,
        make_recover, make_resolve, make_forget,   make_list,    make_stats, make_cancel,
    };

    assert_in_range(call, WIRE_CALL_FIRST, WIRE_CALL_LAST);
    fill_shared();
    return makers[call - WIRE_CALL_FIRST](out);
}

/* ---- Paths ---- */

static const ProtobufCFieldDescriptor *field_named(const ProtobufCMessageDescriptor *message, const char *path)
{
    size_t length = strcspn(path, ".");

    for (unsigned i = 0; i < message->n_fields; i++) {
        const char *name = message->fields[i].name;

        if (strncmp(name, path, length) == 0 && name[length] == 0)
            return &message->fields[i];
    }
    return NULL;
}

static const char *after_dot(const char *path)
{
    const char *dot = strchr(path, '.');

    return dot == NULL ? NULL : dot + 1;
}

size_t wire_make_for(const char *path, uint8_t *out)
{
    const ProtobufCFieldDescriptor *field = field_named(&idem__v1__request__descriptor, path);

    return wire_make(field != NULL && field->type == PROTOBUF_C_TYPE_MESSAGE ? field->id : WIRE_CALL_FIRST + 1, out);
}

const ProtobufCFieldDescriptor *wire_field_at(const char *path)
{
    const ProtobufCMessageDescriptor *message = &idem__v1__request__descriptor;
    const ProtobufCFieldDescriptor *field = NULL;

    for (const char *rest = path; rest != NULL; rest = after_dot(rest)) {
        field = field_named(message, rest);
        assert_non_null(field);
        message = field->descriptor;
    }
    return field;
}

static void each_field(const ProtobufCMessageDescriptor *message, const char *above,
                       void (*visit)(const char *path, const ProtobufCFieldDescriptor *field))
{
    for (unsigned i = 0; i < message->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->fields[i];
        char path[128];

        snprintf(path, sizeof(path), "%s%s%s", above, above[0] != 0 ? "." : "", field->name);
        visit(path, field);
        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
            each_field(field->descriptor, path, visit);
    }
}

void wire_each_field(void (*visit)(const char *path, const ProtobufCFieldDescriptor *field))
{
    each_field(&idem__v1__request__descriptor, "", visit);
}

/* ---- Bytes ---- */

size_t wire_put_varint(uint8_t *out, uint32_t number, uint64_t number_value)
{
    size_t size = frame_put_varint(out, number << 3 | PROTOBUF_C_WIRE_TYPE_VARINT);

    return size + frame_put_varint(out + size, number_value);
}

size_t wire_put_bytes(uint8_t *out, uint32_t number, const void *bytes, size_t size)
{
    size_t head = frame_put_varint(out, number << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);

    head += frame_put_varint(out + head, size);
    if (size > 0)
        memcpy(out + head, bytes, size);
    return head + size;
}

static size_t put_fixed64(uint8_t *out, uint32_t number, uint64_t number_value)
{
    size_t size = frame_put_varint(out, number << 3 | PROTOBUF_C_WIRE_TYPE_64BIT);

    for (size_t i = 0; i < 8; i++)
        out[size + i] = (uint8_t)(number_value >> (8 * i));
    return size + 8;
}

size_t wire_put(uint8_t *out, const ProtobufCFieldDescriptor *field, uint64_t field_value)
{
    static uint8_t text[WIRE_ROOM / 2];

    if (field->type == PROTOBUF_C_TYPE_FIXED64)
        return put_fixed64(out, field->id, field_value);
    if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_BYTES)
        return wire_put_varint(out, field->id, field_value);
    assert_true(field_value <= sizeof(text));
    if (text[0] == 0)
        memset(text, 'a', sizeof(text));
    return wire_put_bytes(out, field->id, text, (size_t)field_value);
}

/* A field of a message that was packed here. */
struct piece {
    uint32_t number;
    const uint8_t *bytes; /* of one with a length */
    size_t length;
    size_t size;
};

static struct piece piece_at(const uint8_t *in, size_t size)
{
    uint64_t tag, found = 0;
    size_t head = frame_get_varint(in, size, &tag);
    struct piece piece = {.number = (uint32_t)(tag >> 3)};

    assert_true(head > 0);
    if ((tag & 7) == PROTOBUF_C_WIRE_TYPE_64BIT) {
        piece.size = head + 8;
    } else {
        piece.size = head + frame_get_varint(in + head, size - head, &found);
        assert_true(piece.size > head);
    }
    if ((tag & 7) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
        piece.bytes = in + piece.size;
        piece.length = (size_t)found;
        piece.size += piece.length;
    }
    assert_true(piece.size <= size);
    return piece;
}

static size_t append(uint8_t *out, const void *bytes, size_t size)
{
    if (size > 0)
        memcpy(out, bytes, size);
    return size;
}

/* What is put in place of what. */
struct edit {
    const uint8_t *raw;
    size_t raw_bytes;
};

/* Each level has a buffer for what lies in the next one: Request, call, outcome, attribute. */
static uint8_t nested_bytes[4][WIRE_ROOM];

static size_t replace(uint8_t *out, const uint8_t *in, size_t size, const ProtobufCMessageDescriptor *message,
                      const char *path, const struct edit *edit, unsigned depth)
{
    const ProtobufCFieldDescriptor *field = field_named(message, path);
    const char *rest = after_dot(path);
    struct piece piece;
    size_t put = 0;
    bool found = false;

    assert_true(depth < 4);
    for (size_t at = 0; at < size; at += piece.size) {
        piece = piece_at(in + at, size - at);
        if (field == NULL || piece.number != field->id || (found && rest != NULL)) {
            put += append(out + put, in + at, piece.size);
            continue;
        }
        if (rest != NULL) {
            uint8_t *inner = nested_bytes[depth];
            size_t bytes = replace(inner, piece.bytes, piece.length, field->descriptor, rest, edit, depth + 1);

            put += wire_put_bytes(out + put, piece.number, inner, bytes);
        } else if (!found) {
            put += append(out + put, edit->raw, edit->raw_bytes);
        }
        found = true;
    }
    assert_true(found || rest == NULL);
    return found ? put : put + append(out + put, edit->raw, edit->raw_bytes);
}

size_t wire_replace(uint8_t *out, const uint8_t *in, size_t size, const char *path, const uint8_t *raw,
                    size_t raw_bytes)
{
    const struct edit edit = {raw, raw_bytes};

    return replace(out, in, size, &idem__v1__request__descriptor, path, &edit, 0);
}

const uint8_t *wire_find(const uint8_t *in, size_t size, const char *path, size_t *field_bytes)
{
    const ProtobufCMessageDescriptor *message = &idem__v1__request__descriptor;
    const char *rest = path;

    for (size_t at = 0; at < size;) {
        const ProtobufCFieldDescriptor *field = field_named(message, rest);
        struct piece piece = piece_at(in + at, size - at);

        assert_non_null(field);
        if (piece.number != field->id) {
            at += piece.size;
        } else if (after_dot(rest) == NULL) {
            *field_bytes = piece.size;
            return in + at;
        } else {
            message = field->descriptor;
            rest = after_dot(rest);
            in = piece.bytes;
            size = piece.length;
            at = 0;
        }
    }
    fail_msg("there is no %s", path);
    return NULL;
}
