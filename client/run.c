/* Begin, call back, Complete or Release. Each call with the client lets the reply before it go, so the operation's name
 * is copied first, and the Begin's reply, which the callback is shown, is taken from the client: nothing can fail
 * between the permission to run and the callback.
 *
 * Once the callback has run, no error may say "not done": whatever keeps its outcome from being stored, the error is
 * IDEM_ERR_NOT_STORED. */
#include "client/calls.h"

#include <stdio.h>
#include <string.h>

#include "client/memory.h"
#include "client/transport.h"

struct idem_running {
    idem_client *client;
    idem_operation_id op;
    uint32_t timeout_ms;
    uint64_t lease_end_ms;
    idem_grant grant;
    void *name_memory;
    struct reply_memory grant_memory;
};

uint64_t idem_running_fence(const idem_running *running)
{
    return running ? running->grant.fence : 0;
}

uint32_t idem_running_attempt(const idem_running *running)
{
    return running ? running->grant.attempt : 0;
}

idem_checkpoint idem_running_checkpoint(const idem_running *running)
{
    return running ? running->grant.checkpoint : (idem_checkpoint){"", {NULL, 0}};
}

idem_bytes idem_running_input(const idem_running *running)
{
    return running ? running->grant.input : (idem_bytes){NULL, 0};
}

uint32_t idem_running_lease_left_ms(const idem_running *running)
{
    const uint64_t now_ms = transport_now_ms();

    return running && running->lease_end_ms > now_ms ? (uint32_t)(running->lease_end_ms - now_ms) : 0;
}

/* A lease counts from when the call was sent that was answered. */
static void held(idem_running *running, uint32_t lease_ms)
{
    running->lease_end_ms = running->client->sent_ms + lease_ms;
}

idem_error idem_running_renew(idem_running *running, idem_ownership *ownership)
{
    idem_renew_request request = {0};
    idem_renew_reply reply;
    idem_error error;

    if (!running || !ownership)
        return IDEM_ERR_MISUSE;
    request.op = running->op;
    request.fence = running->grant.fence;
    error = idem_renew(running->client, &request, running->timeout_ms, &reply);
    if (error != IDEM_OK)
        return error;
    if (reply.ownership == IDEM_HELD)
        held(running, reply.lease_ms);
    *ownership = reply.ownership;
    return IDEM_OK;
}

idem_error idem_running_store(idem_running *running, const char *name, idem_bytes data, idem_ownership *ownership)
{
    idem_checkpoint_request request = {.checkpoint = {name, data}};
    idem_renew_reply reply;
    idem_error error;

    if (!running || !ownership)
        return IDEM_ERR_MISUSE;
    request.op = running->op;
    request.fence = running->grant.fence;
    error = idem_checkpoint_store(running->client, &request, running->timeout_ms, &reply);
    if (error != IDEM_OK)
        return error;
    if (reply.ownership == IDEM_HELD)
        held(running, reply.lease_ms);
    *ownership = reply.ownership;
    return IDEM_OK;
}

/* ---- What outlives the Begin --------------------------------------------------------- */

static size_t string_bytes(const char *string)
{
    return string ? strlen(string) + 1 : 0;
}

/* Appends a string to memory that has room for it; NULL stays NULL. */
static const char *copy_string(char **at, const char *string)
{
    const size_t size = string_bytes(string);
    char *copy = *at;

    if (!string)
        return NULL;
    memcpy(copy, string, size);
    *at += size;
    return copy;
}

static bool keep_name(idem_running *running, const idem_operation_id *op)
{
    char *at = idem__alloc(string_bytes(op->namespace_) + string_bytes(op->caller) + string_bytes(op->key));

    if (!at)
        return false;
    running->name_memory = at;
    running->op.namespace_ = copy_string(&at, op->namespace_);
    running->op.caller = copy_string(&at, op->caller);
    running->op.key = copy_string(&at, op->key);
    return true;
}

/* The grant without what its reply held: that goes when the run is over. */
static void drop_views(idem_begin_reply *begin)
{
    begin->grant.checkpoint = (idem_checkpoint){"", {NULL, 0}};
    begin->grant.input = (idem_bytes){NULL, 0};
    begin->info.operation = begin->info.owner = begin->info.traceparent = "";
}

/* ---- The run ------------------------------------------------------------------------------ */

/* It was run, and what came of it is not known to be stored; says why. */
static idem_error not_stored(idem_client *client, idem_error error)
{
    char message[sizeof client->message];

    if (error == IDEM_OK)
        return IDEM_OK;
    snprintf(message, sizeof message, "%s%s%.160s", idem_error_name(error), *client->message ? ": " : "",
             client->message);
    memcpy(client->message, message, sizeof message);
    return IDEM_ERR_NOT_STORED;
}

static idem_error complete(idem_running *running, idem_kind kind, const idem_outcome *outcome, idem_run_reply *reply)
{
    idem_complete_request request = {.op = running->op, .fence = running->grant.fence, .outcome = *outcome};
    idem_complete_reply completed;
    idem_error error;

    request.outcome.kind = kind;
    error = idem_complete(running->client, &request, running->timeout_ms, &completed);
    if (error != IDEM_OK)
        return error;
    reply->ownership = completed.ownership;
    if (completed.ownership == IDEM_HELD)
        reply->outcome = request.outcome;
    else if (completed.ownership == IDEM_FINAL)
        reply->outcome = completed.outcome;
    return IDEM_OK;
}

static idem_error release(idem_running *running, idem_effect effect, idem_run_reply *reply)
{
    const idem_release_request request = {.op = running->op, .fence = running->grant.fence, .effect = effect};
    idem_release_reply released;
    const idem_error error = idem_release(running->client, &request, running->timeout_ms, &released);

    if (error == IDEM_OK)
        reply->ownership = released.ownership;
    return error;
}

static idem_error call_back(idem_running *running, idem_callback *callback, void *user, idem_run_reply *reply)
{
    idem_outcome outcome = {0};

    reply->ran = true;
    switch (callback(running, &outcome, user)) {
    case IDEM_DONE_SUCCEEDED:
        return complete(running, IDEM_SUCCEEDED, &outcome, reply);
    case IDEM_DONE_FAILED:
        return complete(running, IDEM_FAILED, &outcome, reply);
    case IDEM_DONE_NOTHING:
        return release(running, IDEM_EFFECT_NONE_BY_ME, reply);
    case IDEM_DONE_UNKNOWN:
        break;
    }
    /* What it says is not known, so neither is what it did. */
    return release(running, IDEM_EFFECT_UNKNOWN, reply);
}

static idem_error run(idem_running *running, const idem_begin_request *request, idem_callback *callback, void *user,
                      idem_run_reply *reply)
{
    idem_error error = idem_begin(running->client, request, running->timeout_ms, &reply->begin);

    if (error != IDEM_OK || reply->begin.answer != IDEM_EXECUTE) {
        reply->outcome = reply->begin.outcome;
        return error;
    }
    running->grant = reply->begin.grant;
    running->grant_memory = client_take_reply(running->client);
    held(running, running->grant.lease_ms);
    drop_views(&reply->begin);
    return not_stored(running->client, call_back(running, callback, user, reply));
}

idem_error idem_run(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                    idem_callback *callback, void *user, idem_run_reply *reply)
{
    idem_running running = {.client = client, .timeout_ms = timeout_ms};
    idem_error error;

    if (reply)
        *reply = (idem_run_reply){0};
    if (!client)
        return IDEM_ERR_MISUSE;
    if (!request || !callback || !reply)
        return client_fail(client, IDEM_ERR_MISUSE, "a request, a callback and a reply are needed");
    if (!keep_name(&running, &request->op))
        return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the operation's name");
    error = run(&running, request, callback, user, reply);
    idem__free(running.name_memory);
    client_free_reply(client, &running.grant_memory);
    return error;
}
