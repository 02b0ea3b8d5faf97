/* One small function a call, over a few that they share. An outcome is turned into the form in which it is stored and
 * sent again: its attributes and body as they stand in an idem.v1.Outcome on the wire. */
#include "daemon/server/request.h"

#include <assert.h>

#include "proto/frame.h"
#include "proto/limits.h"

static void *allocate(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void free_nothing(void *arena, void *memory)
{
    (void)arena, (void)memory;
}

Idem__V1__Request *request_unpack(struct arena *arena, const uint8_t *data, size_t size)
{
    ProtobufCAllocator allocator = {allocate, free_nothing, arena};

    return idem__v1__request__unpack(&allocator, size, data);
}

static struct bytes text(const char *string)
{
    return bytes_of(string, string ? (uint32_t)strlen(string) : 0);
}

static struct bytes binary(ProtobufCBinaryData data)
{
    return bytes_of(data.data, (uint32_t)data.len);
}

static struct identity identity_of(const Idem__V1__OperationId *op)
{
    return (struct identity){text(op->namespace_), text(op->caller), text(op->key)};
}

/* ---- Outcomes -------------------------------------------------------------------- */

enum { ATTRIBUTES_TAG = 3 << 3 | 2, BODY_TAG = 4 << 3 | 2, NAME_TAG = 1 << 3 | 2, VALUE_TAG = 2 << 3 | 2 };

static size_t field_bytes(size_t size)
{
    return size ? 1 + frame_varint_bytes(size) + size : 0;
}

static uint8_t *put_field(uint8_t *out, uint8_t tag, struct bytes value)
{
    if (value.size == 0)
        return out;
    *out++ = tag;
    out += frame_put_varint(out, value.size);
    memcpy(out, value.data, value.size);
    return out + value.size;
}

static size_t attribute_bytes(struct bytes name, struct bytes value)
{
    return field_bytes(name.size) + field_bytes(value.size);
}

uint8_t *request_put_attribute(uint8_t *out, struct bytes name, struct bytes value)
{
    *out++ = ATTRIBUTES_TAG;
    out += frame_put_varint(out, attribute_bytes(name, value));
    out = put_field(out, NAME_TAG, name);
    return put_field(out, VALUE_TAG, value);
}

static struct bytes attributes_wire(struct arena *arena, const Idem__V1__Outcome *outcome)
{
    size_t size = 0;
    uint8_t *out, *start;

    for (size_t i = 0; i < outcome->n_attributes; i++) {
        const Idem__V1__Attribute *attribute = outcome->attributes[i];
        const size_t inner = attribute_bytes(text(attribute->name), binary(attribute->value));
        size += 1 + frame_varint_bytes(inner) + inner;
    }
    if (size == 0)
        return (struct bytes){0};
    start = out = arena_zero(arena, size);
    for (size_t i = 0; i < outcome->n_attributes; i++) {
        const Idem__V1__Attribute *attribute = outcome->attributes[i];
        out = request_put_attribute(out, text(attribute->name), binary(attribute->value));
    }
    assert(out == start + size);
    return bytes_of(start, (uint32_t)size);
}

/* What was sent is what is kept where no byte of its tag and length was wasted. */
static struct bytes body_wire(struct arena *arena, const struct request_outcome *sent)
{
    const size_t size = field_bytes(sent->body.size);

    if (size == 0 || sent->body_field.size == size)
        return size ? sent->body_field : (struct bytes){0};
    uint8_t *out = arena_alloc(arena, size);
    assert(out);
    put_field(out, BODY_TAG, sent->body);
    return bytes_of(out, (uint32_t)size);
}

static void digest_outcome(const struct request_outcome *sent, const struct scan_result *scan, uint64_t digest[2])
{
    const struct sent_outcome outcome = {
        .kind = (int32_t)sent->kind,
        .code = sent->code,
        .attributes_digest = scan->attributes_digest,
        .attributes_count = scan->attributes_count,
        .body_dropped = sent->body_dropped,
        .attributes_dropped = sent->attributes_dropped,
        .body_bytes = sent->body_bytes,
        .body = sent->body,
    };

    record_digest(&outcome, digest);
}

/* Nothing but a kind, a code and a body, all of which are kept: as most are. */
static bool is_plain(const struct request_outcome *sent, const struct scan_result *scan, const struct outcome *outcome)
{
    return scan->attributes_count == 0 && !sent->attributes_dropped && sent->body_bytes == 0 && !outcome->body_dropped;
}

void request_set_outcome(struct arena *arena, const struct request_outcome *sent, const struct scan_result *scan,
                         struct call *call)
{
    struct outcome *outcome = &call->outcome;

    outcome->kind = sent->kind;
    outcome->code = sent->code;
    outcome->attributes_dropped = sent->attributes_dropped || scan->attributes_dropped;
    outcome->body_dropped = sent->body_dropped || sent->body.size > call->policy->max_outcome_bytes;
    outcome->body_bytes = sent->body_dropped ? sent->body_bytes : sent->body.size;
    if (!outcome->body_dropped)
        outcome->body_field = body_wire(arena, sent);
    outcome->digest_left_out = is_plain(sent, scan, outcome);
    if (!outcome->digest_left_out)
        digest_outcome(sent, scan, outcome->digest);
}

static void set_outcome(struct arena *arena, const Idem__V1__Outcome *outcome, const struct scan_result *scan,
                        struct call *call)
{
    const struct request_outcome sent = {
        .kind = (uint8_t)outcome->kind,
        .code = outcome->code,
        .body_dropped = outcome->body_dropped,
        .attributes_dropped = outcome->attributes_dropped,
        .body_bytes = outcome->body_bytes,
        .body = binary(outcome->body),
    };

    request_set_outcome(arena, &sent, scan, call);
    call->outcome.attributes = attributes_wire(arena, outcome);
}

/* ---- Calls -------------------------------------------------------------------------- */

static void set_begin(const Idem__V1__BeginRequest *begin, struct call *call)
{
    call->id = identity_of(begin->op);
    call->operation = text(begin->operation);
    call->fingerprint = binary(begin->fingerprint);
    call->attempt_id = binary(begin->attempt_id);
    call->owner = text(begin->owner);
    call->lease_ms = begin->lease_ms;
    call->wait_ms = begin->wait_ms;
    call->if_interrupted = (enum if_interrupted)begin->if_interrupted;
    call->first_sent_ms = begin->first_sent_ms;
    call->input = binary(begin->input);
    call->bind_to_connection = begin->bind_to_connection;
    call->keep_ms = begin->keep_ms;
    call->take_over_revision = begin->take_over_revision;
    assert(begin->n_other_fingerprints <= IDEM_OTHER_FINGERPRINTS_MAX);
    for (size_t i = 0; i < begin->n_other_fingerprints; i++) {
        call->other_fingerprints[i] = binary(begin->other_fingerprints[i]);
        if (!call->other_fingerprints[i].data) /* given, though empty */
            call->other_fingerprints[i].data = (const uint8_t *)"";
    }
}

static void set_recover(const Idem__V1__RecoverRequest *recover, struct call *call)
{
    call->id.namespace = text(recover->namespace_);
    call->operation = text(recover->operation);
    call->owner = text(recover->owner);
    call->lease_ms = recover->lease_ms;
    call->limit = recover->limit ? recover->limit : 1;
    call->wait_ms = recover->wait_ms;
    call->attempt_id = binary(recover->attempt_id);
    call->bind_to_connection = recover->bind_to_connection;
}

static void set_resolve(struct arena *arena, const Idem__V1__ResolveRequest *resolve, const struct scan_result *scan,
                        struct call *call)
{
    call->id = identity_of(resolve->op);
    call->revision = resolve->revision;
    call->verdict = (enum verdict)resolve->verdict;
    call->reason = text(resolve->reason);
    if (resolve->verdict == IDEM__V1__VERDICT__VERDICT_HAPPENED)
        set_outcome(arena, resolve->outcome, scan, call);
}

static void set_list(const Idem__V1__ListRequest *list, struct call *call)
{
    call->id.namespace = text(list->namespace_);
    call->state = (enum record_state)list->state;
    call->limit = list->limit ? list->limit : IDEM_LIST_DEFAULT;
    call->cursor = binary(list->cursor);
}

/* An owner's call names its grant: what all four have. */
#define SET_OWNER(message)                                                                                             \
    do {                                                                                                               \
        call->id = identity_of((message)->op);                                                                         \
        call->fence = (message)->fence;                                                                                \
    } while (0)

void request_to_call(struct arena *arena, const Idem__V1__Request *request, const struct scan_result *scan,
                     const struct policy *policy, struct call *call)
{
    *call = (struct call){.type = (enum call_type)request->call_case, .policy = policy};
    call->traceparent = text(request->traceparent);
    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_BEGIN:
        set_begin(request->begin, call);
        break;
    case IDEM__V1__REQUEST__CALL_COMPLETE:
        SET_OWNER(request->complete);
        call->keep_ms = request->complete->keep_ms;
        call->keep_body_ms = request->complete->keep_body_ms;
        set_outcome(arena, request->complete->outcome, scan, call);
        break;
    case IDEM__V1__REQUEST__CALL_RELEASE:
        SET_OWNER(request->release);
        call->effect = (enum effect)request->release->effect;
        break;
    case IDEM__V1__REQUEST__CALL_RENEW:
        SET_OWNER(request->renew);
        call->lease_ms = request->renew->lease_ms;
        break;
    case IDEM__V1__REQUEST__CALL_CHECKPOINT:
        SET_OWNER(request->checkpoint);
        call->lease_ms = request->checkpoint->lease_ms;
        call->checkpoint_name = text(request->checkpoint->checkpoint->name);
        call->checkpoint_data = binary(request->checkpoint->checkpoint->data);
        break;
    case IDEM__V1__REQUEST__CALL_GET:
        call->id = identity_of(request->get->op);
        call->wait_ms = request->get->wait_ms;
        break;
    case IDEM__V1__REQUEST__CALL_RECOVER:
        set_recover(request->recover, call);
        break;
    case IDEM__V1__REQUEST__CALL_RESOLVE:
        set_resolve(arena, request->resolve, scan, call);
        break;
    case IDEM__V1__REQUEST__CALL_FORGET:
        call->id = identity_of(request->forget->op);
        call->revision = request->forget->revision;
        call->reason = text(request->forget->reason);
        break;
    case IDEM__V1__REQUEST__CALL_LIST:
        set_list(request->list, call);
        break;
    case IDEM__V1__REQUEST__CALL_CANCEL:
        call->cancel_id = request->cancel->id;
        break;
    default:
        assert(!"Hello and Stats are not the engine's");
    }
}
