/* idemd's side. Requests are packed once by protobuf-c and then patched where they differ, so that the load generator
 * costs little beside the server it measures; each has operation, a 32-byte fingerprint, attempt_id and owner, as real
 * ones do. */
#include "bench/target.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bench/pool.h"
#include "idem/v1/idem.pb-c.h"
#include "proto/frame.h"
#include "proto/limits.h"

/* A packed request with the places of what differs. */
struct idem_template {
    uint8_t *frame;
    size_t size, id, key, fingerprint, attempt, fence, body, body_bytes;
};

static struct idem_template claim, claim_waiting, complete;

static const char key_mark[POOL_KEY_BYTES + 1] = "KEYKEYKEYKEYKEYKEYKEYKEY";
static const uint8_t fingerprint_mark[32] = "FINGERPRINTFINGERPRINTFINGERPRIN";
static const uint8_t attempt_mark[16] = "ATTEMPTATTEMPTAT";
static const uint64_t fence_mark = 0x0010203040506070u;
static const uint64_t id_base = 1ull << 41; /* ids with a varint of six bytes */

static size_t find(const struct idem_template *template, const void *mark, size_t size)
{
    const uint8_t *found = memmem(template->frame, template->size, mark, size);

    assert(found);
    return (size_t)(found - template->frame);
}

static struct idem_template pack(const Idem__V1__Request *request)
{
    struct idem_template template = {0};
    const size_t size = idem__v1__request__get_packed_size(request);

    template.size = IDEM_FRAME_HEADER_BYTES + size;
    template.frame = malloc(template.size);
    if (!template.frame)
        abort();
    frame_put_header(template.frame, (uint32_t)size);
    idem__v1__request__pack(request, template.frame + IDEM_FRAME_HEADER_BYTES);
    template.id = IDEM_FRAME_HEADER_BYTES + 1; /* field 1 is packed first */
    template.key = find(&template, key_mark, POOL_KEY_BYTES);
    return template;
}

static struct idem_template pack_claim(uint32_t wait_ms)
{
    Idem__V1__OperationId op = IDEM__V1__OPERATION_ID__INIT;
    Idem__V1__BeginRequest begin = IDEM__V1__BEGIN_REQUEST__INIT;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    struct idem_template template;

    op.namespace_ = (char *)(uintptr_t) "bench";
    op.key = (char *)(uintptr_t)key_mark;
    begin.op = &op;
    begin.operation = (char *)(uintptr_t) "POST /charges";
    begin.fingerprint = (ProtobufCBinaryData){sizeof fingerprint_mark, (uint8_t *)(uintptr_t)fingerprint_mark};
    begin.attempt_id = (ProtobufCBinaryData){sizeof attempt_mark, (uint8_t *)(uintptr_t)attempt_mark};
    begin.owner = (char *)(uintptr_t) "bench pid 4711";
    begin.wait_ms = wait_ms;
    request.id = id_base;
    request.call_case = IDEM__V1__REQUEST__CALL_BEGIN;
    request.begin = &begin;
    template = pack(&request);
    template.fingerprint = find(&template, fingerprint_mark, sizeof fingerprint_mark);
    template.attempt = find(&template, attempt_mark, sizeof attempt_mark);
    return template;
}

/* The body is what a Complete ends with. */
static struct idem_template pack_complete(uint32_t body_bytes)
{
    Idem__V1__OperationId op = IDEM__V1__OPERATION_ID__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__CompleteRequest done = IDEM__V1__COMPLETE_REQUEST__INIT;
    Idem__V1__Request request = IDEM__V1__REQUEST__INIT;
    uint8_t *body = (uint8_t *)(uintptr_t)pool_value(0, POOL_BODY);
    struct idem_template template;

    op.namespace_ = (char *)(uintptr_t) "bench";
    op.key = (char *)(uintptr_t)key_mark;
    outcome.kind = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED;
    outcome.code = 200;
    outcome.body = (ProtobufCBinaryData){body_bytes, body};
    done.op = &op;
    done.fence = fence_mark;
    done.outcome = &outcome;
    request.id = id_base;
    request.call_case = IDEM__V1__REQUEST__CALL_COMPLETE;
    request.complete = &done;
    template = pack(&request);
    template.fence = find(&template, &fence_mark, sizeof fence_mark);
    template.body_bytes = body_bytes;
    template.body = template.size - body_bytes;
    assert(memcmp(template.frame + template.body, body, body_bytes) == 0);
    return template;
}

static void open_idem(uint32_t body_bytes)
{
    complete = pack_complete(body_bytes);
    claim = pack_claim(0);
    claim_waiting = pack_claim(IDEM_WAIT_MS_MAX);
}

static size_t request_bytes_max(void)
{
    return complete.size > claim_waiting.size ? complete.size : claim_waiting.size;
}

static size_t put_request(const struct target_request *request, uint8_t *out)
{
    const struct idem_template *template = request->step == STEP_COMPLETE ? &complete
                                           : request->wait_ms             ? &claim_waiting
                                                                          : &claim;

    memcpy(out, template->frame, template->size - template->body_bytes);
    frame_put_varint(out + template->id, id_base + request->sequence);
    pool_put_key(out + template->key, request->key);
    if (request->step == STEP_COMPLETE) {
        memcpy(out + template->fence, &request->fence, sizeof request->fence);
        memcpy(out + template->body, pool_value(request->key, POOL_BODY), template->body_bytes);
    } else {
        memcpy(out + template->fingerprint, pool_value(request->key, POOL_FINGERPRINT), sizeof fingerprint_mark);
        pool_put_attempt(out + template->attempt, request->attempt);
    }
    return template->size;
}

/* Goes through a message's fields. Returns the bytes after this one, NULL at the end or where it does not read. */
static const uint8_t *next_field(const uint8_t *at, const uint8_t *end, uint32_t *field, uint64_t *value,
                                 const uint8_t **data)
{
    uint64_t tag;
    size_t size;

    *data = NULL;
    if (at == end || !(size = frame_get_varint(at, (size_t)(end - at), &tag)))
        return NULL;
    at += size;
    *field = (uint32_t)(tag >> 3);
    if ((tag & 7) == 1) {
        if (end - at < 8)
            return NULL;
        memcpy(value, at, 8);
        return at + 8;
    }
    if (!(size = frame_get_varint(at, (size_t)(end - at), value)))
        return NULL;
    at += size;
    if ((tag & 7) == 0)
        return at;
    if ((tag & 7) != 2 || *value > (uint64_t)(end - at))
        return NULL;
    *data = at;
    return at + *value;
}

static void read_result(uint32_t call, const uint8_t *at, const uint8_t *end, struct target_reply *reply)
{
    uint32_t field, inner_field;
    uint64_t value, inner_value, answer = 0;
    const uint8_t *data, *inner, *inner_data;

    while ((at = next_field(at, end, &field, &value, &data))) {
        if (field == 1 && !data)
            answer = value;
        if (call != 11 || field != 2 || !data)
            continue;
        inner = data;
        while ((inner = next_field(inner, data + value, &inner_field, &inner_value, &inner_data)))
            if (inner_field == 1)
                reply->fence = inner_value;
    }
    reply->granted = call == 11 && answer == IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE;
    reply->replayed = call == 11 && answer == IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY;
    reply->pending = call == 11 && answer == IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING;
    if (reply->pending) {
        reply->failed = false;
        return;
    }
    reply->failed = call == 12 ? answer != IDEM__V1__OWNERSHIP__OWNERSHIP_HELD : !reply->granted && !reply->replayed;
}

static size_t get_reply(const uint8_t *data, size_t size, struct target_reply *reply)
{
    uint32_t message_bytes, field;
    uint64_t value;
    const uint8_t *at, *end, *inner;

    switch (frame_cut(data, size, UINT32_MAX, &message_bytes)) {
    case FRAME_PARTIAL:
        return 0;
    case FRAME_WHOLE:
        break;
    default:
        return SIZE_MAX;
    }
    *reply = (struct target_reply){.failed = true};
    at = data + IDEM_FRAME_HEADER_BYTES;
    end = at + message_bytes;
    while ((at = next_field(at, end, &field, &value, &inner))) {
        if (field == 1)
            reply->sequence = value - id_base;
        else if (field >= 10 && inner)
            read_result(field, inner, inner + value, reply);
    }
    if (reply->replayed && message_bytes < complete.body_bytes) /* its body is missing */
        reply->replayed = false;
    return IDEM_FRAME_HEADER_BYTES + message_bytes;
}

const struct target target_idem = {
    .name = "idem:", .open = open_idem, .request_bytes_max = request_bytes_max, .put = put_request, .get = get_reply};
