/* First the scan's own word (what it may return together with what), then protobuf-c's: it must unpack, with few
 * allocations, to strings and bytes as long as those on the wire, to numbers that were not cut, to every repeat; then
 * the limits once more, on the unpacked structs, in plain C. */
#include "tests/unit/proto/wire_check.h"

#undef NDEBUG
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "idem/v1/idem.pb-c.h"

const struct scan_limits wire_limits = {1000, 90ull * 24 * 3600 * 1000};

enum {
    /* 64 attributes with 16 unknown fields each, name and value; and what is around them. */
    ALLOCATIONS_MAX = 64 * (16 + 4) + 200,
};

/* ---- A plain reader ---- */

struct cursor {
    const uint8_t *at, *end;
};

static uint64_t take_varint(struct cursor *cursor)
{
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte;

    do {
        assert(cursor->at < cursor->end && shift < 70);
        byte = *cursor->at++;
        value += (uint64_t)(byte % 128) << shift;
        shift += 7;
    } while (byte >= 128);
    return value;
}

static struct cursor take_bytes(struct cursor *cursor, uint64_t size)
{
    struct cursor taken = {cursor->at, cursor->at + size};

    assert(size <= (size_t)(cursor->end - cursor->at));
    cursor->at += size;
    return taken;
}

static uint64_t fixed_value(struct cursor bytes)
{
    uint64_t value = 0;

    while (bytes.end > bytes.at)
        value = value << 8 | *--bytes.end;
    return value;
}

/* ---- Unpacked against the wire ---- */

enum { ATTRIBUTES = 3 }; /* their field number in Outcome */

/* What the scan has left of the fields that are compared. */
static const struct scan_result *left;

static void same_message(const ProtobufCMessage *message, struct cursor wire);

static const struct scan_fields *fields_left(const ProtobufCMessageDescriptor *descriptor)
{
    if (descriptor == &idem__v1__request__descriptor)
        return &left->messages[SCAN_REQUEST];
    if (descriptor == &idem__v1__operation_id__descriptor)
        return &left->messages[SCAN_OP];
    if (descriptor == &idem__v1__outcome__descriptor)
        return &left->messages[SCAN_OUTCOME];
    if (descriptor == &idem__v1__attribute__descriptor || descriptor == &idem__v1__checkpoint__descriptor)
        return NULL;
    return &left->messages[SCAN_CALL];
}

static bool is_dropped(const struct scan_fields *fields, size_t index)
{
    return left->attributes_dropped && fields == &left->messages[SCAN_OUTCOME] && index == ATTRIBUTES - 1;
}

/* The field at `wire`, after its tag; of those that may stand again the last is left. */
static void same_as_left(const struct scan_fields *fields, size_t index, bool repeated, unsigned wire_type,
                         struct cursor wire)
{
    const struct scan_value *value = &fields->values[index];
    const uint8_t *start = wire.at;
    uint64_t number = wire_type == 1 ? fixed_value(take_bytes(&wire, 8)) : take_varint(&wire);

    if (is_dropped(fields, index))
        return;
    assert(fields->there >> index & 1);
    if (value->bytes == (wire_type == 2 ? wire.at : start))
        assert(value->value == number);
    else
        assert(repeated && value->bytes > start && value->bytes <= wire.end);
}

static void same_bytes(const void *unpacked, size_t unpacked_bytes, struct cursor wire)
{
    assert(unpacked_bytes == (size_t)(wire.end - wire.at));
    assert(unpacked_bytes == 0 || memcmp(unpacked, wire.at, unpacked_bytes) == 0);
}

static void same_number(ProtobufCType type, const void *member, uint64_t value)
{
    uint32_t short_value;
    uint64_t long_value;

    switch (type) {
    case PROTOBUF_C_TYPE_BOOL:
        assert((*(const protobuf_c_boolean *)member != 0) == (value != 0));
        return;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        memcpy(&long_value, member, sizeof(long_value));
        assert(long_value == value);
        return;
    case PROTOBUF_C_TYPE_SINT32:
        memcpy(&short_value, member, sizeof(short_value));
        assert(value == (uint32_t)(short_value << 1 ^ (short_value >> 31 ? UINT32_MAX : 0)));
        return;
    default:
        assert(type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_ENUM);
        memcpy(&short_value, member, sizeof(short_value));
        assert(short_value == value);
    }
}

/* What the wire says of a field with a length, against the struct's member. */
static void same_text(ProtobufCType type, const void *member, struct cursor wire)
{
    if (type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)member;

        same_bytes(text, strlen(text), wire);
    } else if (type == PROTOBUF_C_TYPE_BYTES) {
        const ProtobufCBinaryData *data = member;

        same_bytes(data->data, data->len, wire);
    } else {
        assert(type == PROTOBUF_C_TYPE_MESSAGE);
        same_message(*(ProtobufCMessage *const *)member, wire);
    }
}

static const char *member_of(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t index)
{
    const char *base = (const char *)message;

    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        assert(index == 0);
        return base + field->offset;
    }
    assert(index < *(const size_t *)(base + field->quantifier_offset));
    base = *(char *const *)(base + field->offset);
    return base + index * (field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : sizeof(void *));
}

static void same_field(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t index,
                       unsigned wire_type, struct cursor *wire)
{
    const void *member = member_of(message, field, index);
    uint64_t value = wire_type == 1 ? fixed_value(take_bytes(wire, 8)) : take_varint(wire);

    if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        assert(*(const int *)((const char *)message + field->quantifier_offset) == (int)field->id);
    if (wire_type == 2)
        same_text(field->type, member, take_bytes(wire, value));
    else
        same_number(field->type, member, value);
}

static void skip_field(unsigned wire_type, struct cursor *wire)
{
    uint64_t value;

    assert(wire_type == 0 || wire_type == 1 || wire_type == 2 || wire_type == 5);
    if (wire_type == 1 || wire_type == 5) {
        take_bytes(wire, wire_type == 1 ? 8 : 4);
        return;
    }
    value = take_varint(wire);
    if (wire_type == 2)
        take_bytes(wire, value);
}

static void same_message(const ProtobufCMessage *message, struct cursor wire)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    const struct scan_fields *fields = fields_left(descriptor);
    size_t times[16] = {0};
    uint32_t there = 0;
    unsigned unknown = 0;

    assert(descriptor->n_fields <= 16);
    while (wire.at < wire.end) {
        uint64_t tag = take_varint(&wire);
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag / 8));

        if (field == NULL) {
            skip_field(tag % 8, &wire);
            unknown++;
        } else {
            if (fields)
                same_as_left(fields, (size_t)(field - descriptor->fields), field->label == PROTOBUF_C_LABEL_REPEATED,
                             tag % 8, wire);
            if (!is_dropped(fields, (size_t)(field - descriptor->fields)))
                there |= 1u << (field - descriptor->fields);
            same_field(message, field, times[field - descriptor->fields]++, tag % 8, &wire);
        }
    }
    assert(fields == NULL || fields->there == there);
    assert(message->n_unknown_fields == unknown);
    for (unsigned i = 0; i < descriptor->n_fields; i++)
        if (descriptor->fields[i].label == PROTOBUF_C_LABEL_REPEATED)
            assert(*(const size_t *)((const char *)message + descriptor->fields[i].quantifier_offset) == times[i]);
}

/* ---- The limits once more ---- */

static void between(uint64_t value, uint64_t least, uint64_t most)
{
    assert(value >= least && value <= most);
}

static void between_or_0(uint64_t value, uint64_t least, uint64_t most)
{
    assert(value == 0 || (value >= least && value <= most));
}

static void check_text(const char *text, size_t least, size_t most)
{
    between(strlen(text), least, most);
}

static void check_op(const Idem__V1__OperationId *op)
{
    assert(op != NULL);
    check_text(op->namespace_, 1, 64);
    check_text(op->caller, 0, 128);
    check_text(op->key, 1, 255);
    between(op->base.n_unknown_fields, 0, 16);
}

static void check_fence(uint64_t fence)
{
    between(fence, 1, 9007199254740991u);
}

static void check_begin(const Idem__V1__BeginRequest *begin)
{
    check_op(begin->op);
    check_text(begin->operation, 0, 128);
    between(begin->fingerprint.len, 0, 64);
    between_or_0(begin->attempt_id.len, 16, 16);
    check_text(begin->owner, 0, 128);
    between_or_0(begin->lease_ms, 1000, 86400000);
    between(begin->wait_ms, 0, 60000);
    between(begin->if_interrupted, 0, 2);
    between(begin->input.len, 0, 65536);
    between_or_0(begin->keep_ms, 1000, 7776000000);
    between(begin->take_over_revision, 0, 9007199254740991u);
    between(begin->n_other_fingerprints, 0, 3);
    for (size_t i = 0; i < begin->n_other_fingerprints; i++)
        between(begin->other_fingerprints[i].len, 0, 64);
}

static void check_outcome(const Idem__V1__Outcome *outcome, unsigned kind_least, const struct scan_result *result)
{
    size_t bytes = 0;

    between(outcome->kind, kind_least, 2);
    between(outcome->base.n_unknown_fields, 0, 16 + result->attributes_dropped);
    for (size_t i = 0; i < outcome->n_attributes; i++)
        bytes += strlen(outcome->attributes[i]->name) + outcome->attributes[i]->value.len;
    if (result->attributes_dropped) {
        assert(outcome->n_attributes == 0);
        assert(result->attributes_count > 64 || result->attributes_bytes > 4096);
    } else {
        assert(outcome->n_attributes == result->attributes_count && outcome->n_attributes <= 64);
        assert(bytes == result->attributes_bytes && bytes <= 4096);
    }
}

static void check_resolve(const Idem__V1__ResolveRequest *resolve, const struct scan_result *result)
{
    check_op(resolve->op);
    check_fence(resolve->revision);
    between(resolve->verdict, 1, 2);
    assert(resolve->verdict != IDEM__V1__VERDICT__VERDICT_HAPPENED || resolve->outcome != NULL);
    if (resolve->outcome != NULL)
        check_outcome(resolve->outcome, resolve->verdict == IDEM__V1__VERDICT__VERDICT_HAPPENED, result);
    check_text(resolve->reason, 0, 256);
}

static void check_recover(const Idem__V1__RecoverRequest *recover)
{
    check_text(recover->namespace_, 1, 64);
    check_text(recover->operation, 0, 128);
    check_text(recover->owner, 0, 128);
    between_or_0(recover->lease_ms, 1000, 86400000);
    between(recover->limit, 0, 100);
    between(recover->wait_ms, 0, 60000);
    between_or_0(recover->attempt_id.len, 16, 16);
}

static void check_owners_call(const Idem__V1__Request *request, const struct scan_result *result)
{
    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_COMPLETE:
        check_op(request->complete->op);
        check_fence(request->complete->fence);
        assert(request->complete->outcome != NULL);
        check_outcome(request->complete->outcome, 1, result);
        return;
    case IDEM__V1__REQUEST__CALL_RELEASE:
        check_op(request->release->op);
        check_fence(request->release->fence);
        between(request->release->effect, 1, 3);
        return;
    case IDEM__V1__REQUEST__CALL_RENEW:
        check_op(request->renew->op);
        check_fence(request->renew->fence);
        between_or_0(request->renew->lease_ms, 1000, 86400000);
        return;
    default:
        assert(request->call_case == IDEM__V1__REQUEST__CALL_CHECKPOINT);
        check_op(request->checkpoint->op);
        check_fence(request->checkpoint->fence);
        check_text(request->checkpoint->checkpoint->name, 1, 64);
        between(request->checkpoint->checkpoint->data.len, 0, 65536);
        between_or_0(request->checkpoint->lease_ms, 1000, 86400000);
    }
}

static void check_operators_call(const Idem__V1__Request *request)
{
    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_FORGET:
        check_op(request->forget->op);
        check_fence(request->forget->revision);
        check_text(request->forget->reason, 0, 256);
        return;
    case IDEM__V1__REQUEST__CALL_LIST:
        check_text(request->list->namespace_, 0, 64);
        between(request->list->state, 0, 3);
        between(request->list->limit, 0, 1000);
        between(request->list->cursor.len, 0, 64);
        return;
    default:
        assert(request->call_case == IDEM__V1__REQUEST__CALL_STATS);
        check_text(request->stats->namespace_, 0, 64);
    }
}

static void check_limits(const Idem__V1__Request *request, const struct scan_result *result)
{
    assert(request->id != 0 && request->id == result->id);
    assert((uint32_t)request->call_case == result->call);
    check_text(request->traceparent, 0, 64);
    between(request->base.n_unknown_fields, 0, 16);
    switch (request->call_case) {
    case IDEM__V1__REQUEST__CALL_HELLO:
        check_text(request->hello->client, 0, 64);
        between(request->hello->token.len, 0, 1024);
        check_text(request->hello->namespace_, 0, 64);
        return;
    case IDEM__V1__REQUEST__CALL_BEGIN:
        check_begin(request->begin);
        return;
    case IDEM__V1__REQUEST__CALL_GET:
        check_op(request->get->op);
        between(request->get->wait_ms, 0, 60000);
        return;
    case IDEM__V1__REQUEST__CALL_RECOVER:
        check_recover(request->recover);
        return;
    case IDEM__V1__REQUEST__CALL_RESOLVE:
        check_resolve(request->resolve, result);
        return;
    case IDEM__V1__REQUEST__CALL_CANCEL:
        assert(request->cancel->id != 0);
        return;
    default:
        if (request->call_case <= IDEM__V1__REQUEST__CALL_CHECKPOINT)
            check_owners_call(request, result);
        else
            check_operators_call(request);
    }
}

/* ---- Together ---- */

static void *counted_alloc(void *count, size_t size)
{
    ++*(unsigned *)count;
    return malloc(size);
}

static void counted_free(void *count, void *memory)
{
    (void)count;
    free(memory);
}

/* What the scan has left, against the bytes that it saw. */
static void check_left(const uint8_t *scanned, size_t size, const struct scan_result *result)
{
    Idem__V1__Request *request = idem__v1__request__unpack(NULL, size, scanned);

    assert(request != NULL);
    left = result;
    same_message(&request->base, (struct cursor){scanned, scanned + size});
    idem__v1__request__free_unpacked(request, NULL);
}

static void check_passed(const uint8_t *scanned, size_t size, const struct scan_result *result)
{
    unsigned allocations = 0;
    ProtobufCAllocator allocator = {counted_alloc, counted_free, &allocations};
    Idem__V1__Request *request = idem__v1__request__unpack(&allocator, size, scanned);

    assert(request != NULL);
    assert(allocations <= ALLOCATIONS_MAX);
    check_limits(request, result);
    idem__v1__request__free_unpacked(request, &allocator);
}

static const Idem__V1__Outcome *outcome_in(const Idem__V1__Request *request)
{
    return request->call_case == IDEM__V1__REQUEST__CALL_COMPLETE ? request->complete->outcome
                                                                  : request->resolve->outcome;
}

/* But for its attributes, the outcome must be what was sent. */
static void check_taken_out(const uint8_t *sent, const uint8_t *scanned, size_t size, const struct scan_result *result)
{
    Idem__V1__Request *before = idem__v1__request__unpack(NULL, size, sent);
    Idem__V1__Request *after = idem__v1__request__unpack(NULL, size, scanned);
    const Idem__V1__Outcome *whole, *less;

    assert(before != NULL && after != NULL);
    whole = outcome_in(before);
    less = outcome_in(after);
    assert(whole->n_attributes == result->attributes_count && less->n_attributes == 0);
    assert(whole->kind == less->kind && whole->code == less->code && whole->body_bytes == less->body_bytes);
    assert(whole->body.len == less->body.len);
    assert(whole->body.len == 0 || memcmp(whole->body.data, less->body.data, whole->body.len) == 0);
    assert(whole->body_dropped == less->body_dropped && whole->attributes_dropped == less->attributes_dropped);
    assert(less->base.n_unknown_fields == whole->base.n_unknown_fields + 1);
    idem__v1__request__free_unpacked(before, NULL);
    idem__v1__request__free_unpacked(after, NULL);
}

static void check_word(enum scan_verdict verdict, const struct scan_result *result)
{
    assert((result->id == 0) == (verdict == SCAN_NOT_A_REQUEST));
    assert((result->message[0] == 0) == (verdict == SCAN_OK));
    assert(verdict == SCAN_OK || !result->attributes_dropped);
    assert(verdict != SCAN_OK || (result->call >= 10 && result->call <= 22));
    assert(verdict != SCAN_UNIMPLEMENTED || result->call == 0);
    assert(strlen(result->message) < sizeof(result->message) - 1);
}

enum scan_verdict wire_check(const uint8_t *data, size_t size, struct scan_result *result)
{
    uint8_t *scanned = malloc(size > 0 ? size : 1); /* exactly so long: whoever looks beyond is caught */
    enum scan_verdict verdict;

    assert(scanned != NULL);
    if (size > 0)
        memcpy(scanned, data, size);
    verdict = scan_request(scanned, size, &wire_limits, result);
    check_word(verdict, result);
    assert(size == 0 || memcmp(data, scanned, size) == 0);
    if (verdict == SCAN_OK)
        check_left(scanned, size, result);
    if (result->attributes_dropped) {
        scan_take_out_attributes(scanned, result);
        check_taken_out(data, scanned, size, result);
    }
    if (verdict == SCAN_OK)
        check_passed(scanned, size, result);
    free(scanned);
    return verdict;
}
