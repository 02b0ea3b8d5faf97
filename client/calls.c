/* The thirteen calls: each fills a message, exchanges it, and reads the answer. What the daemon checks is not checked
 * here again; what would be misunderstood - an answer, ownership or state that is not known - is. */
#include "client/calls.h"

#include <string.h>
#include <sys/random.h>

#include "client/memory.h"
#include "client/transport.h"
#include "proto/limits.h"

enum { ATTEMPT_ID_BYTES = IDEM_ATTEMPT_ID_BYTES, AROUND_OUTCOME_BYTES = 2048 };

static char *text(const char *string)
{
    return (char *)(uintptr_t)(string ? string : "");
}

static ProtobufCBinaryData binary(idem_bytes bytes)
{
    return (ProtobufCBinaryData){bytes.size, (uint8_t *)(uintptr_t)bytes.data};
}

static Idem__V1__OperationId id_of(const idem_client *client, const idem_operation_id *op)
{
    Idem__V1__OperationId id = IDEM__V1__OPERATION_ID__INIT;

    id.namespace_ = text(op->namespace_ ? op->namespace_ : client->namespace_);
    id.caller = text(op->caller ? op->caller : client->caller);
    id.key = text(op->key);
    return id;
}

static bool bytes_good(idem_bytes bytes)
{
    return bytes.data || bytes.size == 0;
}

static idem_error misuse(idem_client *client, const char *message)
{
    return client ? client_fail(client, IDEM_ERR_MISUSE, message) : IDEM_ERR_MISUSE;
}

/* Every call starts here: false, and the answer is misuse. */
static bool begin_call(idem_client *client, const void *request, const void *reply)
{
    if (!client)
        return false;
    client_begin_call(client);
    if (request && reply)
        return true;
    client_fail(client, IDEM_ERR_MISUSE, "a request and a reply are needed");
    return false;
}

static idem_error unknown_answer(idem_client *client)
{
    return client_fail(client, IDEM_ERR_PROTOCOL, "the answer is none that this library knows: no permission to run");
}

static idem_error no_reply_memory(idem_client *client)
{
    return client_fail(client, IDEM_ERR_LOST, "no memory for the answer");
}

static bool ownership_known(Idem__V1__Ownership ownership)
{
    return ownership >= IDEM__V1__OWNERSHIP__OWNERSHIP_HELD && ownership <= IDEM__V1__OWNERSHIP__OWNERSHIP_GONE;
}

static bool state_known(const Idem__V1__OperationInfo *info)
{
    return info && info->state >= IDEM__V1__STATE__STATE_RUNNING && info->state <= IDEM__V1__STATE__STATE_DONE;
}

bool calls_attempt_id(uint8_t attempt_id[ATTEMPT_ID_BYTES])
{
    return getrandom(attempt_id, ATTEMPT_ID_BYTES, 0) == ATTEMPT_ID_BYTES;
}

/* How much of a wait to ask for at once. */
static uint32_t wait_part(const idem_client *client, uint64_t left_ms)
{
    const uint32_t most_ms = client->max_wait_ms ? client->max_wait_ms : IDEM_WAIT_MS_MAX;

    return left_ms < most_ms ? (uint32_t)left_ms : most_ms;
}

static uint64_t left_until(uint64_t end_ms)
{
    const uint64_t now_ms = transport_now_ms();

    return end_ms > now_ms ? end_ms - now_ms : 0;
}

/* ---- Hello -------------------------------------------------------------------------- */

idem_error idem_hello(idem_client *client, uint32_t timeout_ms, idem_hello_reply *reply)
{
    idem_error error;

    if (!begin_call(client, reply, reply))
        return IDEM_ERR_MISUSE;
    error = client_connect(client, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    const Idem__V1__HelloResponse *hello = client->hello->hello;
    *reply = (idem_hello_reply){
        .server = hello->server,
        .instance = hello->instance,
        .store_id = hello->store_id,
        .connection = hello->connection,
        .now_ms = hello->now_ms,
        .durable = hello->durable,
        .max_frame_bytes = hello->max_frame_bytes,
        .max_outcome_bytes = hello->max_outcome_bytes,
        .max_wait_ms = hello->max_wait_ms,
    };
    if (hello->policy) {
        reply->keep_ms = hello->policy->keep_ms;
        reply->keep_min_ms = hello->policy->keep_min_ms;
        reply->keep_max_ms = hello->policy->keep_max_ms;
        reply->lease_ms = hello->policy->lease_ms;
        reply->grace_ms = hello->policy->grace_ms;
        reply->if_interrupted = (int)hello->policy->if_interrupted;
    }
    return IDEM_OK;
}

/* ---- Begin --------------------------------------------------------------------------- */

static idem_error read_begin(idem_client *client, idem_begin_reply *reply)
{
    const Idem__V1__BeginResponse *begin = client->response->begin;

    *reply = (idem_begin_reply){.owner = "", .info = reply_info(begin->info)};
    reply->answer = (idem_answer)begin->answer;
    switch (begin->answer) {
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE:
        if (!begin->grant || begin->grant->fence == 0)
            return unknown_answer(client);
        reply->grant = reply_grant(begin->grant);
        return IDEM_OK;
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY:
        if (!begin->outcome)
            return unknown_answer(client);
        return reply_outcome_of(client, begin->outcome, &reply->outcome) ? IDEM_OK : no_reply_memory(client);
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING:
        if (begin->running) {
            reply->owner = begin->running->owner;
            reply->lease_left_ms = begin->running->lease_left_ms;
            reply->retry_after_ms = begin->running->retry_after_ms;
        }
        return IDEM_OK;
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_MISMATCH:
        reply->operation_differs = begin->mismatch && begin->mismatch->operation;
        reply->fingerprint_differs = begin->mismatch && begin->mismatch->fingerprint;
        return IDEM_OK;
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_INTERRUPTED:
        reply->checkpoint = reply_checkpoint(begin->checkpoint);
        return IDEM_OK;
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXPIRED:
        reply->window_now_ms = begin->window ? begin->window->now_ms : 0;
        reply->window_keep_ms = begin->window ? begin->window->keep_ms : 0;
        return IDEM_OK;
    default:
        return unknown_answer(client);
    }
}

idem_error idem_begin(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                      idem_begin_reply *reply)
{
    Idem__V1__BeginRequest begin = IDEM__V1__BEGIN_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    ProtobufCBinaryData others[IDEM_OTHER_FINGERPRINTS_MAX];
    uint8_t attempt_id[ATTEMPT_ID_BYTES];
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    if (!bytes_good(request->fingerprint) || !bytes_good(request->input) ||
        request->other_fingerprint_count > IDEM_OTHER_FINGERPRINTS_MAX)
        return misuse(client, "bytes without data, or more than 3 other_fingerprints");
    if (!request->attempt_id && !calls_attempt_id(attempt_id))
        return client_fail(client, IDEM_ERR_INTERNAL, "getrandom gives no random bytes");
    const uint64_t deadline_ms = client_deadline(client, timeout_ms, request->wait_ms);
    const uint64_t wait_end_ms = transport_now_ms() + request->wait_ms;
    Idem__V1__OperationId id = id_of(client, &request->op);
    for (size_t i = 0; i < request->other_fingerprint_count; i++)
        others[i] = binary(request->other_fingerprints[i]);
    begin.op = &id;
    begin.operation = text(request->operation);
    begin.fingerprint = binary(request->fingerprint);
    begin.attempt_id = binary((idem_bytes){request->attempt_id ? request->attempt_id : attempt_id, ATTEMPT_ID_BYTES});
    begin.owner = text(request->owner ? request->owner : client->owner);
    begin.lease_ms = request->lease_ms;
    begin.if_interrupted = (Idem__V1__IfInterrupted)request->if_interrupted;
    begin.first_sent_ms = request->first_sent_ms;
    begin.input = binary(request->input);
    begin.bind_to_connection = request->bind_to_connection;
    begin.keep_ms = request->keep_ms;
    begin.take_over_revision = request->take_over_revision;
    begin.n_other_fingerprints = request->other_fingerprint_count;
    begin.other_fingerprints = others;
    message.traceparent = text(request->traceparent);
    message.call_case = IDEM__V1__REQUEST__CALL_BEGIN;
    message.begin = &begin;
    /* A wait that is longer than the daemon's longest is asked for in parts, by one attempt. */
    do {
        begin.wait_ms = wait_part(client, left_until(wait_end_ms));
        client_begin_call(client);
        error = client_exchange(client, &message, deadline_ms);
    } while (error == IDEM_OK && client->response->begin->answer == IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_RUNNING &&
             left_until(wait_end_ms) > 0);
    return error == IDEM_OK ? read_begin(client, reply) : error;
}

/* ---- Outcomes -------------------------------------------------------------------------- */

/* An outcome as a message. Its attributes are in memory of the caller's, freed with idem__free. */
static idem_error put_outcome(idem_client *client, const idem_outcome *from, Idem__V1__Outcome *outcome,
                              Idem__V1__Attribute **memory)
{
    Idem__V1__Attribute **pointers;
    bool dropped = from->attributes_dropped;
    size_t count = from->attribute_count, bytes = 0;

    *memory = NULL;
    if (!bytes_good(from->body) || (count && !from->attributes))
        return misuse(client, "bytes without data");
    for (size_t i = 0; i < count; i++)
        bytes += (from->attributes[i].name ? strlen(from->attributes[i].name) : 0) + from->attributes[i].value.size;
    if (count > IDEM_ATTRIBUTES_MAX || bytes > IDEM_ATTRIBUTES_BYTES_MAX) {
        count = 0;
        dropped = true;
    }
    if (count) {
        *memory = idem__alloc(count * (sizeof **memory + sizeof *pointers));
        if (!*memory)
            return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the attributes");
        pointers = (Idem__V1__Attribute **)(void *)(*memory + count);
        for (size_t i = 0; i < count; i++) {
            idem__v1__attribute__init(&(*memory)[i]);
            (*memory)[i].name = text(from->attributes[i].name);
            (*memory)[i].value = binary(from->attributes[i].value);
            pointers[i] = &(*memory)[i];
        }
        outcome->attributes = pointers;
    }
    outcome->n_attributes = count;
    outcome->attributes_dropped = dropped;
    outcome->kind = (Idem__V1__OutcomeKind)from->kind;
    outcome->code = from->code;
    outcome->body = binary(from->body);
    outcome->body_dropped = from->body_dropped;
    outcome->body_bytes = from->body_bytes;
    return IDEM_OK;
}

/* A body that no frame can carry is dropped here; the rest of the outcome is stored. */
static void fit_frame(idem_client *client, Idem__V1__Outcome *outcome, uint64_t deadline_ms)
{
    /* The limit is known once connected; whether that works out, the call itself will tell. */
    client_connect(client, deadline_ms);
    const uint32_t most = client_message_bytes_max(client) - IDEM_ATTRIBUTES_BYTES_MAX - AROUND_OUTCOME_BYTES;

    if (outcome->body.len <= most)
        return;
    outcome->body_dropped = true;
    outcome->body_bytes = outcome->body.len;
    outcome->body = (ProtobufCBinaryData){0, NULL};
}

/* ---- Calls of the owner -------------------------------------------------------------------- */

idem_error idem_complete(idem_client *client, const idem_complete_request *request, uint32_t timeout_ms,
                         idem_complete_reply *reply)
{
    Idem__V1__CompleteRequest complete = IDEM__V1__COMPLETE_REQUEST__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__Attribute *memory;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    if ((error = put_outcome(client, &request->outcome, &outcome, &memory)) != IDEM_OK)
        return error;
    const uint64_t deadline_ms = client_deadline(client, timeout_ms, 0);
    Idem__V1__OperationId id = id_of(client, &request->op);
    complete.op = &id;
    complete.fence = request->fence;
    complete.outcome = &outcome;
    complete.keep_ms = request->keep_ms;
    complete.keep_body_ms = request->keep_body_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_COMPLETE;
    message.complete = &complete;
    fit_frame(client, &outcome, deadline_ms);
    error = client_exchange(client, &message, deadline_ms);
    idem__free(memory);
    if (error != IDEM_OK)
        return error;
    const Idem__V1__CompleteResponse *answer = client->response->complete;
    if (!ownership_known(answer->ownership))
        return unknown_answer(client);
    *reply = (idem_complete_reply){.ownership = (idem_ownership)answer->ownership, .expires_ms = answer->expires_ms};
    return reply_outcome_of(client, answer->outcome, &reply->outcome) ? IDEM_OK : no_reply_memory(client);
}

idem_error idem_release(idem_client *client, const idem_release_request *request, uint32_t timeout_ms,
                        idem_release_reply *reply)
{
    Idem__V1__ReleaseRequest release = IDEM__V1__RELEASE_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    Idem__V1__OperationId id = id_of(client, &request->op);
    release.op = &id;
    release.fence = request->fence;
    release.effect = (Idem__V1__Effect)request->effect;
    message.call_case = IDEM__V1__REQUEST__CALL_RELEASE;
    message.release = &release;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    if (!ownership_known(client->response->release->ownership))
        return unknown_answer(client);
    *reply = (idem_release_reply){(idem_ownership)client->response->release->ownership,
                                  (idem_state)client->response->release->state};
    return IDEM_OK;
}

idem_error idem_renew(idem_client *client, const idem_renew_request *request, uint32_t timeout_ms,
                      idem_renew_reply *reply)
{
    Idem__V1__RenewRequest renew = IDEM__V1__RENEW_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    Idem__V1__OperationId id = id_of(client, &request->op);
    renew.op = &id;
    renew.fence = request->fence;
    renew.lease_ms = request->lease_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_RENEW;
    message.renew = &renew;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    if (!ownership_known(client->response->renew->ownership))
        return unknown_answer(client);
    *reply = (idem_renew_reply){(idem_ownership)client->response->renew->ownership, client->response->renew->lease_ms};
    return IDEM_OK;
}

idem_error idem_checkpoint_store(idem_client *client, const idem_checkpoint_request *request, uint32_t timeout_ms,
                                 idem_renew_reply *reply)
{
    Idem__V1__CheckpointRequest store = IDEM__V1__CHECKPOINT_REQUEST__INIT;
    Idem__V1__Checkpoint checkpoint = IDEM__V1__CHECKPOINT__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    if (!bytes_good(request->checkpoint.data))
        return misuse(client, "bytes without data");
    Idem__V1__OperationId id = id_of(client, &request->op);
    checkpoint.name = text(request->checkpoint.name);
    checkpoint.data = binary(request->checkpoint.data);
    store.op = &id;
    store.fence = request->fence;
    store.checkpoint = &checkpoint;
    store.lease_ms = request->lease_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_CHECKPOINT;
    message.checkpoint = &store;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    const Idem__V1__CheckpointResponse *answer = client->response->checkpoint;
    if (!ownership_known(answer->ownership))
        return unknown_answer(client);
    *reply = (idem_renew_reply){(idem_ownership)answer->ownership, answer->lease_ms};
    return IDEM_OK;
}

/* ---- Looking, recovering, operating ----------------------------------------------------------- */

idem_error idem_get(idem_client *client, const idem_get_request *request, uint32_t timeout_ms, idem_get_reply *reply)
{
    Idem__V1__GetRequest get = IDEM__V1__GET_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    const uint64_t deadline_ms = client_deadline(client, timeout_ms, request->wait_ms);
    const uint64_t wait_end_ms = transport_now_ms() + request->wait_ms;
    Idem__V1__OperationId id = id_of(client, &request->op);
    get.op = &id;
    message.call_case = IDEM__V1__REQUEST__CALL_GET;
    message.get = &get;
    do {
        get.wait_ms = wait_part(client, left_until(wait_end_ms));
        client_begin_call(client);
        error = client_exchange(client, &message, deadline_ms);
    } while (error == IDEM_OK && state_known(client->response->get->info) &&
             client->response->get->info->state != IDEM__V1__STATE__STATE_DONE && left_until(wait_end_ms) > 0);
    if (error != IDEM_OK)
        return error;
    const Idem__V1__GetResponse *answer = client->response->get;
    if (!state_known(answer->info) || (answer->info->state == IDEM__V1__STATE__STATE_DONE && !answer->outcome))
        return unknown_answer(client);
    *reply = (idem_get_reply){.info = reply_info(answer->info), .checkpoint = reply_checkpoint(answer->checkpoint)};
    return reply_outcome_of(client, answer->outcome, &reply->outcome) ? IDEM_OK : no_reply_memory(client);
}

static idem_error read_recover(idem_client *client, idem_recover_reply *reply)
{
    const Idem__V1__RecoverResponse *answer = client->response->recover;
    idem_recovered *operations = client_reply_memory(client, (answer->n_operations + 1) * sizeof *operations);

    if (!operations)
        return no_reply_memory(client);
    for (size_t i = 0; i < answer->n_operations; i++) {
        const Idem__V1__Recovered *one = answer->operations[i];
        if (!one->op || !one->grant || one->grant->fence == 0)
            return unknown_answer(client);
        operations[i] = (idem_recovered){reply_id(one->op), reply_grant(one->grant), reply_info(one->info),
                                         reply_bytes(one->fingerprint)};
    }
    *reply = (idem_recover_reply){operations, answer->n_operations};
    return IDEM_OK;
}

idem_error idem_recover(idem_client *client, const idem_recover_request *request, uint32_t timeout_ms,
                        idem_recover_reply *reply)
{
    Idem__V1__RecoverRequest recover = IDEM__V1__RECOVER_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    uint8_t attempt_id[ATTEMPT_ID_BYTES];
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    if (!request->attempt_id && !calls_attempt_id(attempt_id))
        return client_fail(client, IDEM_ERR_INTERNAL, "getrandom gives no random bytes");
    const uint64_t deadline_ms = client_deadline(client, timeout_ms, request->wait_ms);
    const uint64_t wait_end_ms = transport_now_ms() + request->wait_ms;
    recover.namespace_ = text(request->namespace_ ? request->namespace_ : client->namespace_);
    recover.operation = text(request->operation);
    recover.owner = text(request->owner ? request->owner : client->owner);
    recover.lease_ms = request->lease_ms;
    recover.limit = request->limit;
    recover.attempt_id = binary((idem_bytes){request->attempt_id ? request->attempt_id : attempt_id, ATTEMPT_ID_BYTES});
    recover.bind_to_connection = request->bind_to_connection;
    message.call_case = IDEM__V1__REQUEST__CALL_RECOVER;
    message.recover = &recover;
    do {
        recover.wait_ms = wait_part(client, left_until(wait_end_ms));
        client_begin_call(client);
        error = client_exchange(client, &message, deadline_ms);
    } while (error == IDEM_OK && client->response->recover->n_operations == 0 && left_until(wait_end_ms) > 0);
    return error == IDEM_OK ? read_recover(client, reply) : error;
}

idem_error idem_resolve(idem_client *client, const idem_resolve_request *request, uint32_t timeout_ms,
                        idem_complete_reply *reply)
{
    Idem__V1__ResolveRequest resolve = IDEM__V1__RESOLVE_REQUEST__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__Attribute *memory = NULL;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    const uint64_t deadline_ms = client_deadline(client, timeout_ms, 0);
    Idem__V1__OperationId id = id_of(client, &request->op);
    resolve.op = &id;
    resolve.revision = request->revision;
    resolve.verdict = (Idem__V1__Verdict)request->verdict;
    resolve.reason = text(request->reason);
    if (request->verdict == IDEM_HAPPENED) {
        if ((error = put_outcome(client, &request->outcome, &outcome, &memory)) != IDEM_OK)
            return error;
        resolve.outcome = &outcome;
        fit_frame(client, &outcome, deadline_ms);
    }
    message.call_case = IDEM__V1__REQUEST__CALL_RESOLVE;
    message.resolve = &resolve;
    error = client_exchange(client, &message, deadline_ms);
    idem__free(memory);
    if (error != IDEM_OK)
        return error;
    const Idem__V1__ResolveResponse *answer = client->response->resolve;
    if (!ownership_known(answer->ownership))
        return unknown_answer(client);
    *reply = (idem_complete_reply){.ownership = (idem_ownership)answer->ownership, .expires_ms = answer->expires_ms};
    return reply_outcome_of(client, answer->outcome, &reply->outcome) ? IDEM_OK : no_reply_memory(client);
}

idem_error idem_forget(idem_client *client, const idem_forget_request *request, uint32_t timeout_ms,
                       idem_ownership *ownership)
{
    Idem__V1__ForgetRequest forget = IDEM__V1__FORGET_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, ownership))
        return IDEM_ERR_MISUSE;
    Idem__V1__OperationId id = id_of(client, &request->op);
    forget.op = &id;
    forget.revision = request->revision;
    forget.reason = text(request->reason);
    message.call_case = IDEM__V1__REQUEST__CALL_FORGET;
    message.forget = &forget;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    if (!ownership_known(client->response->forget->ownership))
        return unknown_answer(client);
    *ownership = (idem_ownership)client->response->forget->ownership;
    return IDEM_OK;
}

idem_error idem_list(idem_client *client, const idem_list_request *request, uint32_t timeout_ms, idem_list_reply *reply)
{
    Idem__V1__ListRequest list = IDEM__V1__LIST_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    uint8_t cursor[IDEM_CURSOR_BYTES_MAX];
    idem_error error;

    if (!client || !request || !reply || !bytes_good(request->cursor) || request->cursor.size > sizeof cursor)
        return misuse(client, "a request and a reply are needed, and a cursor of at most 64 bytes");
    /* It may point into the last reply, which goes now. */
    if (request->cursor.size)
        memcpy(cursor, request->cursor.data, request->cursor.size);
    client_begin_call(client);
    list.namespace_ = text(request->namespace_);
    list.state = (Idem__V1__State)request->state;
    list.limit = request->limit;
    list.cursor = (ProtobufCBinaryData){request->cursor.size, cursor};
    message.call_case = IDEM__V1__REQUEST__CALL_LIST;
    message.list = &list;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    const Idem__V1__ListResponse *answer = client->response->list;
    idem_listed *operations = client_reply_memory(client, (answer->n_operations + 1) * sizeof *operations);
    if (!operations)
        return no_reply_memory(client);
    for (size_t i = 0; i < answer->n_operations; i++)
        operations[i] = (idem_listed){reply_id(answer->operations[i]->op), reply_info(answer->operations[i]->info)};
    *reply = (idem_list_reply){operations, answer->n_operations, reply_bytes(answer->cursor)};
    return IDEM_OK;
}

static idem_metric read_metric(const Idem__V1__Metric *from)
{
    enum { LABELS = sizeof((idem_metric *)0)->label_names / sizeof(char *) };
    idem_metric metric = {.name = from->name, .help = from->help, .value = from->value};

    for (size_t i = 0; i < from->n_labels && i < LABELS; i++) {
        metric.label_names[i] = from->labels[i]->name;
        metric.label_values[i] = from->labels[i]->value;
    }
    return metric;
}

idem_error idem_stats(idem_client *client, const char *namespace_, uint32_t timeout_ms, idem_stats_reply *reply)
{
    Idem__V1__StatsRequest stats = IDEM__V1__STATS_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, reply, reply))
        return IDEM_ERR_MISUSE;
    stats.namespace_ = text(namespace_);
    message.call_case = IDEM__V1__REQUEST__CALL_STATS;
    message.stats = &stats;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    const Idem__V1__StatsResponse *answer = client->response->stats;
    idem_metric *metrics = client_reply_memory(client, (answer->n_metrics + 1) * sizeof *metrics);
    if (!metrics)
        return no_reply_memory(client);
    for (size_t i = 0; i < answer->n_metrics; i++)
        metrics[i] = read_metric(answer->metrics[i]);
    *reply = (idem_stats_reply){metrics, answer->n_metrics};
    return IDEM_OK;
}
