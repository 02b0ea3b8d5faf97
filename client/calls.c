/* The calls: each fills a message, exchanges it, and reads the answer. What the daemon checks is not checked here
 * again; what would be misunderstood - an answer, ownership or state that is not known - is, and what cannot be read.
 *
 * A public function is a frame around the one that does it: begin_call, the call, client_end_call. Inside, the request
 * may point into the last reply, and the reply is not touched before all of the answer was found good. */
#include "client/calls.h"

#include <string.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "client/memory.h"

enum {
    ATTEMPT_ID_BYTES = IDEM_ATTEMPT_ID_BYTES,
    BYTES_MOST =
        64 * 1024 * 1024,    /* of anything but a body: more than any frame holds, and sums of it do not overflow */
    METRICS_MAX = 64 * 1024, /* of one answer; the daemon has some hundreds */
};

_Static_assert(IDEM_ATTEMPT_ID_BYTES == sizeof(uuid_t), "an attempt id is a random UUID");

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
    return bytes.size == 0 || (bytes.data && bytes.size <= BYTES_MOST);
}

static idem_error misuse(idem_client *client, const char *message)
{
    return client_fail(client, IDEM_ERR_MISUSE, message);
}

static idem_error bad_bytes(idem_client *client)
{
    return misuse(client, "a size without data, or over 64 MiB");
}

/* Every call starts here: false, and the answer is IDEM_ERR_MISUSE. */
static bool begin_call(idem_client *client, const void *request, const void *reply)
{
    if (!client || client->pid != getpid())
        return false;
    client_begin_call(client);
    if (request && reply)
        return true;
    misuse(client, "a request and a reply are needed");
    return false;
}

/* ---- Attempts ---------------------------------------------------------------------------- */

bool calls_attempt_id(uint8_t attempt_id[IDEM_ATTEMPT_ID_BYTES])
{
    uuid_generate_random(attempt_id);
    return true;
}

/* An attempt at what the parts name: the caller's, the one whose answer was lost, or a new one. */
static struct attempt start_attempt(const struct attempt *lost, const uint8_t *given, const char *const parts[3])
{
    struct attempt attempt = {0};
    idem_fingerprint digest;

    idem_fingerprint_init(&digest);
    for (int i = 0; i < 3; i++)
        idem_fingerprint_add(&digest, NULL, parts[i], strlen(parts[i]));
    idem_fingerprint_final(&digest, attempt.of);
    if (given)
        memcpy(attempt.id, given, sizeof attempt.id);
    else if (lost->open && memcmp(lost->of, attempt.of, sizeof attempt.of) == 0)
        memcpy(attempt.id, lost->id, sizeof attempt.id);
    else
        calls_attempt_id(attempt.id);
    return attempt;
}

/* Kept where nobody knows what became of it; once there is an answer it is over. */
static void end_attempt(struct attempt *lost, const struct attempt *attempt, idem_error error)
{
    if (idem_error_class(error) == IDEM_CLASS_UNKNOWN) {
        *lost = *attempt;
        lost->open = true;
    } else if (error == IDEM_OK && memcmp(lost->of, attempt->of, sizeof lost->of) == 0) {
        lost->open = false;
    }
}

/* ---- Hello -------------------------------------------------------------------------- */

static void read_hello(const Idem__V1__HelloResponse *hello, idem_hello_reply *reply)
{
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
}

idem_error idem_hello(idem_client *client, uint32_t timeout_ms, idem_hello_reply *reply)
{
    idem_error error;

    if (!begin_call(client, reply, reply))
        return IDEM_ERR_MISUSE;
    client->backoff = 0;
    error = client_connect(client, client_deadline(client, timeout_ms, 0));
    if (error == IDEM_OK)
        read_hello(client->hello->hello, reply);
    return client_end_call(client, error);
}

/* ---- Begin --------------------------------------------------------------------------- */

/* What goes with the answer; IDEM_ERR_PROTOCOL where it is not there. */
static idem_error read_answer(idem_client *client, const Idem__V1__BeginResponse *begin, idem_begin_reply *reply)
{
    switch (begin->answer) {
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_EXECUTE:
        if (!reply_grant_known(begin->grant))
            return reply_unknown(client);
        reply->grant = reply_grant(begin->grant);
        return IDEM_OK;
    case IDEM__V1__BEGIN_RESPONSE__ANSWER__ANSWER_REPLAY:
        return reply_outcome(client, begin->outcome, &reply->outcome);
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
        return reply_unknown(client);
    }
}

static idem_error read_begin(idem_client *client, idem_begin_reply *reply)
{
    const Idem__V1__BeginResponse *begin = client->response->begin;
    idem_begin_reply read = {.answer = (idem_answer)begin->answer, .owner = "", .info = reply_info(begin->info)};
    idem_error error;

    read.checkpoint = reply_checkpoint(NULL);
    if (!reply_info_known(begin->info))
        return reply_unknown(client);
    error = read_answer(client, begin, &read);
    if (error == IDEM_OK)
        *reply = read;
    return error;
}

static bool fingerprints_good(const idem_begin_request *request)
{
    if (request->other_fingerprint_count > IDEM_OTHER_FINGERPRINTS_MAX ||
        (request->other_fingerprint_count && !request->other_fingerprints))
        return false;
    for (size_t i = 0; i < request->other_fingerprint_count; i++)
        if (!bytes_good(request->other_fingerprints[i]))
            return false;
    return bytes_good(request->fingerprint);
}

static void fill_begin(const idem_client *client, const idem_begin_request *request, Idem__V1__BeginRequest *begin)
{
    begin->operation = text(request->operation);
    begin->fingerprint = binary(request->fingerprint);
    begin->owner = text(request->owner ? request->owner : client->owner);
    begin->lease_ms = request->lease_ms;
    begin->wait_ms = request->wait_ms;
    begin->if_interrupted = (Idem__V1__IfInterrupted)request->if_interrupted;
    begin->first_sent_ms = request->first_sent_ms;
    begin->input = binary(request->input);
    begin->bind_to_connection = request->bind_to_connection;
    begin->keep_ms = request->keep_ms;
    begin->take_over_revision = request->take_over_revision;
    for (size_t i = 0; i < request->other_fingerprint_count; i++)
        begin->other_fingerprints[i] = binary(request->other_fingerprints[i]);
    begin->n_other_fingerprints = request->other_fingerprint_count;
}

static idem_error begin_it(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                           idem_begin_reply *reply)
{
    Idem__V1__BeginRequest begin = IDEM__V1__BEGIN_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    ProtobufCBinaryData others[IDEM_OTHER_FINGERPRINTS_MAX];
    Idem__V1__OperationId id = id_of(client, &request->op);
    struct attempt attempt;
    idem_error error;

    if (!fingerprints_good(request) || !bytes_good(request->input))
        return misuse(client, "a size without data or over 64 MiB, or more than 3 other_fingerprints");
    attempt =
        start_attempt(&client->begun, request->attempt_id, (const char *const[3]){id.namespace_, id.caller, id.key});
    begin.op = &id;
    begin.other_fingerprints = others;
    begin.attempt_id = (ProtobufCBinaryData){ATTEMPT_ID_BYTES, attempt.id};
    fill_begin(client, request, &begin);
    message.traceparent = text(request->traceparent);
    message.call_case = IDEM__V1__REQUEST__CALL_BEGIN;
    message.begin = &begin;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, request->wait_ms));
    if (error == IDEM_OK)
        error = read_begin(client, reply);
    end_attempt(&client->begun, &attempt, error);
    return error;
}

idem_error idem_begin(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                      idem_begin_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, begin_it(client, request, timeout_ms, reply));
}

/* ---- Outcomes -------------------------------------------------------------------------- */

static bool attributes_good(const idem_outcome *from)
{
    if (from->attribute_count && !from->attributes)
        return false;
    for (size_t i = 0; i < from->attribute_count && i < IDEM_ATTRIBUTES_MAX; i++)
        if (!bytes_good(from->attributes[i].value))
            return false;
    return true;
}

static bool attributes_fit(const idem_outcome *from)
{
    size_t bytes = 0;

    if (from->attribute_count > IDEM_ATTRIBUTES_MAX)
        return false;
    for (size_t i = 0; i < from->attribute_count; i++)
        bytes += strlen(text(from->attributes[i].name)) + from->attributes[i].value.size;
    return bytes <= IDEM_ATTRIBUTES_BYTES_MAX;
}

/* Attributes as messages, in one piece of memory. NULL: no memory. */
static Idem__V1__Attribute **make_attributes(const idem_outcome *from)
{
    Idem__V1__Attribute **pointers, *attributes;

    pointers = idem__alloc(from->attribute_count * (sizeof *attributes + sizeof *pointers));
    if (!pointers)
        return NULL;
    attributes = (Idem__V1__Attribute *)(void *)(pointers + from->attribute_count);
    for (size_t i = 0; i < from->attribute_count; i++) {
        idem__v1__attribute__init(&attributes[i]);
        attributes[i].name = text(from->attributes[i].name);
        attributes[i].value = binary(from->attributes[i].value);
        pointers[i] = &attributes[i];
    }
    return pointers;
}

/* An outcome as a message, which is to be ended by end_outcome. Attributes over their limit are dropped. */
static idem_error put_outcome(idem_client *client, const idem_outcome *from, Idem__V1__Outcome *outcome)
{
    const bool fit = attributes_fit(from);

    if (fit && from->attribute_count) {
        if (!(outcome->attributes = make_attributes(from)))
            return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the attributes");
        outcome->n_attributes = from->attribute_count;
    }
    outcome->attributes_dropped = from->attributes_dropped || !fit;
    outcome->kind = (Idem__V1__OutcomeKind)from->kind;
    outcome->code = from->code;
    outcome->body = binary(from->body);
    outcome->body_dropped = from->body_dropped;
    outcome->body_bytes = from->body_bytes;
    return IDEM_OK;
}

static void end_outcome(Idem__V1__Outcome *outcome)
{
    idem__free(outcome->attributes);
    outcome->attributes = NULL;
}

static bool outcome_good(const idem_outcome *outcome)
{
    return attributes_good(outcome) && (outcome->body.data || outcome->body.size == 0);
}

/* What Complete and Resolve are answered with. FINAL without what is stored would be half an answer. */
static idem_error read_completed(idem_client *client, Idem__V1__Ownership ownership, const Idem__V1__Outcome *outcome,
                                 uint64_t expires_ms, idem_complete_reply *reply)
{
    idem_complete_reply read = {.ownership = (idem_ownership)ownership, .expires_ms = expires_ms};
    idem_error error = IDEM_OK;

    if (!reply_ownership_known(ownership))
        return reply_unknown(client);
    if (outcome || ownership == IDEM__V1__OWNERSHIP__OWNERSHIP_FINAL)
        error = reply_outcome(client, outcome, &read.outcome);
    if (error == IDEM_OK)
        *reply = read;
    return error;
}

/* ---- Calls of the owner -------------------------------------------------------------------- */

static idem_error complete(idem_client *client, const idem_complete_request *request, uint32_t timeout_ms,
                           idem_complete_reply *reply)
{
    Idem__V1__CompleteRequest complete = IDEM__V1__COMPLETE_REQUEST__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__OperationId id = id_of(client, &request->op);
    idem_error error;

    if (!outcome_good(&request->outcome))
        return bad_bytes(client);
    if ((error = put_outcome(client, &request->outcome, &outcome)) != IDEM_OK)
        return error;
    complete.op = &id;
    complete.fence = request->fence;
    complete.outcome = &outcome;
    complete.keep_ms = request->keep_ms;
    complete.keep_body_ms = request->keep_body_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_COMPLETE;
    message.complete = &complete;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    end_outcome(&outcome);
    if (error != IDEM_OK)
        return error;
    const Idem__V1__CompleteResponse *answer = client->response->complete;
    return read_completed(client, answer->ownership, answer->outcome, answer->expires_ms, reply);
}

idem_error idem_complete(idem_client *client, const idem_complete_request *request, uint32_t timeout_ms,
                         idem_complete_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, complete(client, request, timeout_ms, reply));
}

static idem_error release(idem_client *client, const idem_release_request *request, uint32_t timeout_ms,
                          idem_release_reply *reply)
{
    Idem__V1__ReleaseRequest release = IDEM__V1__RELEASE_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__OperationId id = id_of(client, &request->op);
    idem_error error;

    release.op = &id;
    release.fence = request->fence;
    release.effect = (Idem__V1__Effect)request->effect;
    message.call_case = IDEM__V1__REQUEST__CALL_RELEASE;
    message.release = &release;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    const Idem__V1__ReleaseResponse *answer = client->response->release;
    if (!reply_ownership_known(answer->ownership) || !reply_state_known(answer->state))
        return reply_unknown(client);
    *reply = (idem_release_reply){(idem_ownership)answer->ownership, (idem_state)answer->state};
    return IDEM_OK;
}

idem_error idem_release(idem_client *client, const idem_release_request *request, uint32_t timeout_ms,
                        idem_release_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, release(client, request, timeout_ms, reply));
}

static idem_error read_renewed(idem_client *client, Idem__V1__Ownership ownership, uint32_t lease_ms,
                               idem_renew_reply *reply)
{
    if (!reply_ownership_known(ownership))
        return reply_unknown(client);
    *reply = (idem_renew_reply){(idem_ownership)ownership, lease_ms};
    return IDEM_OK;
}

static idem_error renew(idem_client *client, const idem_renew_request *request, uint32_t timeout_ms,
                        idem_renew_reply *reply)
{
    Idem__V1__RenewRequest renew = IDEM__V1__RENEW_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__OperationId id = id_of(client, &request->op);
    idem_error error;

    renew.op = &id;
    renew.fence = request->fence;
    renew.lease_ms = request->lease_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_RENEW;
    message.renew = &renew;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    if (error != IDEM_OK)
        return error;
    return read_renewed(client, client->response->renew->ownership, client->response->renew->lease_ms, reply);
}

idem_error idem_renew(idem_client *client, const idem_renew_request *request, uint32_t timeout_ms,
                      idem_renew_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, renew(client, request, timeout_ms, reply));
}

static idem_error store(idem_client *client, const idem_checkpoint_request *request, uint32_t timeout_ms,
                        idem_renew_reply *reply)
{
    Idem__V1__CheckpointRequest store = IDEM__V1__CHECKPOINT_REQUEST__INIT;
    Idem__V1__Checkpoint checkpoint = IDEM__V1__CHECKPOINT__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__OperationId id = id_of(client, &request->op);
    idem_error error;

    if (!bytes_good(request->checkpoint.data))
        return bad_bytes(client);
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
    return read_renewed(client, client->response->checkpoint->ownership, client->response->checkpoint->lease_ms, reply);
}

idem_error idem_checkpoint_store(idem_client *client, const idem_checkpoint_request *request, uint32_t timeout_ms,
                                 idem_renew_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, store(client, request, timeout_ms, reply));
}

/* ---- Looking, recovering, operating ----------------------------------------------------------- */

static idem_error read_get(idem_client *client, idem_get_reply *reply)
{
    const Idem__V1__GetResponse *answer = client->response->get;
    idem_get_reply read = {.info = reply_info(answer->info), .checkpoint = reply_checkpoint(answer->checkpoint)};
    idem_error error = IDEM_OK;

    /* What is absent is NOT_FOUND, so there is a state. */
    if (!reply_info_known(answer->info) || read.info.state == IDEM_ABSENT)
        return reply_unknown(client);
    if (read.info.state == IDEM_DONE)
        error = reply_outcome(client, answer->outcome, &read.outcome);
    if (error == IDEM_OK)
        *reply = read;
    return error;
}

idem_error idem_get(idem_client *client, const idem_get_request *request, uint32_t timeout_ms, idem_get_reply *reply)
{
    Idem__V1__GetRequest get = IDEM__V1__GET_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    Idem__V1__OperationId id = id_of(client, &request->op);
    get.op = &id;
    get.wait_ms = request->wait_ms;
    message.call_case = IDEM__V1__REQUEST__CALL_GET;
    message.get = &get;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, request->wait_ms));
    return client_end_call(client, error == IDEM_OK ? read_get(client, reply) : error);
}

static idem_error read_recover(idem_client *client, idem_recover_reply *reply)
{
    const Idem__V1__RecoverResponse *answer = client->response->recover;
    idem_recovered *operations;

    if (answer->n_operations > IDEM_RECOVER_MAX)
        return reply_unknown(client);
    if (!(operations = client_reply_memory(client, answer->n_operations * sizeof *operations)))
        return client_fail(client, IDEM_ERR_LOST, "no memory for the answer");
    for (size_t i = 0; i < answer->n_operations; i++) {
        const Idem__V1__Recovered *one = answer->operations[i];
        if (!one->op || !reply_grant_known(one->grant) || !reply_info_known(one->info))
            return reply_unknown(client);
        operations[i] = (idem_recovered){reply_id(one->op), reply_grant(one->grant), reply_info(one->info),
                                         reply_bytes(one->fingerprint)};
    }
    *reply = (idem_recover_reply){operations, answer->n_operations};
    return IDEM_OK;
}

static idem_error recover(idem_client *client, const idem_recover_request *request, uint32_t timeout_ms,
                          idem_recover_reply *reply)
{
    Idem__V1__RecoverRequest recover = IDEM__V1__RECOVER_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    struct attempt attempt;
    idem_error error;

    recover.namespace_ = text(request->namespace_ ? request->namespace_ : client->namespace_);
    recover.operation = text(request->operation);
    recover.owner = text(request->owner ? request->owner : client->owner);
    recover.lease_ms = request->lease_ms;
    recover.limit = request->limit;
    recover.wait_ms = request->wait_ms;
    attempt = start_attempt(&client->recovered, request->attempt_id,
                            (const char *const[3]){recover.namespace_, recover.operation, ""});
    recover.attempt_id = (ProtobufCBinaryData){ATTEMPT_ID_BYTES, attempt.id};
    recover.bind_to_connection = request->bind_to_connection;
    message.call_case = IDEM__V1__REQUEST__CALL_RECOVER;
    message.recover = &recover;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, request->wait_ms));
    if (error == IDEM_OK)
        error = read_recover(client, reply);
    end_attempt(&client->recovered, &attempt, error);
    return error;
}

idem_error idem_recover(idem_client *client, const idem_recover_request *request, uint32_t timeout_ms,
                        idem_recover_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, recover(client, request, timeout_ms, reply));
}

static idem_error resolve_it(idem_client *client, const idem_resolve_request *request, uint32_t timeout_ms,
                             idem_complete_reply *reply)
{
    Idem__V1__ResolveRequest resolve = IDEM__V1__RESOLVE_REQUEST__INIT;
    Idem__V1__Outcome outcome = IDEM__V1__OUTCOME__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    Idem__V1__OperationId id = id_of(client, &request->op);
    idem_error error;

    resolve.op = &id;
    resolve.revision = request->revision;
    resolve.verdict = (Idem__V1__Verdict)request->verdict;
    resolve.reason = text(request->reason);
    if (request->verdict == IDEM_HAPPENED) {
        if (!outcome_good(&request->outcome))
            return bad_bytes(client);
        if ((error = put_outcome(client, &request->outcome, &outcome)) != IDEM_OK)
            return error;
        resolve.outcome = &outcome;
    }
    message.call_case = IDEM__V1__REQUEST__CALL_RESOLVE;
    message.resolve = &resolve;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    end_outcome(&outcome);
    if (error != IDEM_OK)
        return error;
    const Idem__V1__ResolveResponse *answer = client->response->resolve;
    return read_completed(client, answer->ownership, answer->outcome, answer->expires_ms, reply);
}

idem_error idem_resolve(idem_client *client, const idem_resolve_request *request, uint32_t timeout_ms,
                        idem_complete_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, resolve_it(client, request, timeout_ms, reply));
}

static idem_error read_forget(idem_client *client, idem_ownership *ownership)
{
    if (!reply_ownership_known(client->response->forget->ownership))
        return reply_unknown(client);
    *ownership = (idem_ownership)client->response->forget->ownership;
    return IDEM_OK;
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
    return client_end_call(client, error == IDEM_OK ? read_forget(client, ownership) : error);
}

static idem_error read_list(idem_client *client, idem_list_reply *reply)
{
    const Idem__V1__ListResponse *answer = client->response->list;
    idem_listed *operations;

    if (answer->n_operations > IDEM_LIST_MAX)
        return reply_unknown(client);
    if (!(operations = client_reply_memory(client, answer->n_operations * sizeof *operations)))
        return client_fail(client, IDEM_ERR_LOST, "no memory for the answer");
    for (size_t i = 0; i < answer->n_operations; i++) {
        const Idem__V1__Listed *one = answer->operations[i];
        if (!one->op || !reply_info_known(one->info))
            return reply_unknown(client);
        operations[i] = (idem_listed){reply_id(one->op), reply_info(one->info)};
    }
    *reply = (idem_list_reply){operations, answer->n_operations, reply_bytes(answer->cursor)};
    return IDEM_OK;
}

static idem_error list(idem_client *client, const idem_list_request *request, uint32_t timeout_ms,
                       idem_list_reply *reply)
{
    Idem__V1__ListRequest list = IDEM__V1__LIST_REQUEST__INIT;
    Idem__V1__Request message = IDEM__V1__REQUEST__INIT;
    idem_error error;

    if (!bytes_good(request->cursor))
        return bad_bytes(client);
    list.namespace_ = text(request->namespace_);
    list.state = (Idem__V1__State)request->state;
    list.limit = request->limit;
    list.cursor = binary(request->cursor);
    message.call_case = IDEM__V1__REQUEST__CALL_LIST;
    message.list = &list;
    error = client_exchange(client, &message, client_deadline(client, timeout_ms, 0));
    return error == IDEM_OK ? read_list(client, reply) : error;
}

idem_error idem_list(idem_client *client, const idem_list_request *request, uint32_t timeout_ms, idem_list_reply *reply)
{
    if (!begin_call(client, request, reply))
        return IDEM_ERR_MISUSE;
    return client_end_call(client, list(client, request, timeout_ms, reply));
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

static idem_error read_stats(idem_client *client, idem_stats_reply *reply)
{
    const Idem__V1__StatsResponse *answer = client->response->stats;
    idem_metric *metrics;

    if (answer->n_metrics > METRICS_MAX)
        return reply_unknown(client);
    if (!(metrics = client_reply_memory(client, answer->n_metrics * sizeof *metrics)))
        return client_fail(client, IDEM_ERR_LOST, "no memory for the answer");
    for (size_t i = 0; i < answer->n_metrics; i++)
        metrics[i] = read_metric(answer->metrics[i]);
    *reply = (idem_stats_reply){metrics, answer->n_metrics};
    return IDEM_OK;
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
    return client_end_call(client, error == IDEM_OK ? read_stats(client, reply) : error);
}
