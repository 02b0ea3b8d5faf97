/* Begin, call back, Complete or Release. What the callback is shown of its grant is copied first, since each call with
 * the client lets the reply before it go. */
#include "client/calls.h"

#include <string.h>

#include "client/memory.h"
#include "client/transport.h"

struct idem_running {
    idem_client *client;
    idem_operation_id op;
    uint32_t timeout_ms;
    uint64_t fence, lease_end_ms;
    uint32_t attempt;
    idem_checkpoint checkpoint;
    idem_bytes input;
    void *memory; /* of the two */
};

uint64_t idem_running_fence(const idem_running *running)
{
    return running->fence;
}

uint32_t idem_running_attempt(const idem_running *running)
{
    return running->attempt;
}

idem_checkpoint idem_running_checkpoint(const idem_running *running)
{
    return running->checkpoint;
}

idem_bytes idem_running_input(const idem_running *running)
{
    return running->input;
}

uint32_t idem_running_lease_left_ms(const idem_running *running)
{
    const uint64_t now_ms = transport_now_ms();

    return running->lease_end_ms > now_ms ? (uint32_t)(running->lease_end_ms - now_ms) : 0;
}

idem_error idem_running_renew(idem_running *running, idem_ownership *ownership)
{
    const idem_renew_request request = {.op = running->op, .fence = running->fence};
    const uint64_t sent_ms = transport_now_ms();
    idem_renew_reply reply;
    const idem_error error = idem_renew(running->client, &request, running->timeout_ms, &reply);

    if (error != IDEM_OK)
        return error;
    if (reply.ownership == IDEM_HELD)
        running->lease_end_ms = sent_ms + reply.lease_ms;
    *ownership = reply.ownership;
    return IDEM_OK;
}

idem_error idem_running_store(idem_running *running, const char *name, idem_bytes data, idem_ownership *ownership)
{
    const idem_checkpoint_request request = {.op = running->op, .fence = running->fence, .checkpoint = {name, data}};
    const uint64_t sent_ms = transport_now_ms();
    idem_renew_reply reply;
    const idem_error error = idem_checkpoint_store(running->client, &request, running->timeout_ms, &reply);

    if (error != IDEM_OK)
        return error;
    if (reply.ownership == IDEM_HELD)
        running->lease_end_ms = sent_ms + reply.lease_ms;
    *ownership = reply.ownership;
    return IDEM_OK;
}

/* Copies checkpoint and input of the grant. False: no memory. */
static bool keep_grant(idem_running *running, const idem_grant *grant)
{
    const size_t name_bytes = strlen(grant->checkpoint.name) + 1;
    char *at = running->memory = idem__alloc(name_bytes + grant->checkpoint.data.size + grant->input.size);

    if (!at)
        return false;
    memcpy(at, grant->checkpoint.name, name_bytes);
    running->checkpoint.name = at;
    at += name_bytes;
    if (grant->checkpoint.data.size)
        memcpy(at, grant->checkpoint.data.data, grant->checkpoint.data.size);
    running->checkpoint.data = (idem_bytes){at, grant->checkpoint.data.size};
    at += grant->checkpoint.data.size;
    if (grant->input.size)
        memcpy(at, grant->input.data, grant->input.size);
    running->input = (idem_bytes){at, grant->input.size};
    running->fence = grant->fence;
    running->attempt = grant->attempt;
    return true;
}

static idem_error complete(idem_running *running, idem_kind kind, idem_outcome *outcome, idem_run_reply *reply)
{
    idem_complete_request request = {.op = running->op, .fence = running->fence, .outcome = *outcome};
    idem_complete_reply completed;
    idem_error error;

    request.outcome.kind = kind;
    error = idem_complete(running->client, &request, running->timeout_ms, &completed);
    if (error != IDEM_OK)
        return error;
    reply->ownership = completed.ownership;
    reply->outcome = completed.ownership == IDEM_FINAL ? completed.outcome : request.outcome;
    return IDEM_OK;
}

static idem_error release(idem_running *running, idem_effect effect, idem_run_reply *reply)
{
    const idem_release_request request = {.op = running->op, .fence = running->fence, .effect = effect};
    idem_release_reply released;
    const idem_error error = idem_release(running->client, &request, running->timeout_ms, &released);

    if (error == IDEM_OK)
        reply->ownership = released.ownership;
    return error;
}

static idem_error run(idem_running *running, idem_callback *callback, void *user, idem_run_reply *reply)
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
    return release(running, IDEM_EFFECT_UNKNOWN, reply);
}

/* The grant without what the last reply held: that goes with the calls that follow. */
static void drop_views(idem_run_reply *reply)
{
    reply->begin.grant.checkpoint = (idem_checkpoint){"", {NULL, 0}};
    reply->begin.grant.input = (idem_bytes){NULL, 0};
    reply->begin.info.operation = reply->begin.info.owner = reply->begin.info.traceparent = "";
}

idem_error idem_run(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                    idem_callback *callback, void *user, idem_run_reply *reply)
{
    idem_running running = {.client = client, .timeout_ms = timeout_ms};
    const uint64_t sent_ms = transport_now_ms();
    idem_error error;

    if (!client || !request || !callback || !reply)
        return client ? client_fail(client, IDEM_ERR_MISUSE, "a request, a callback and a reply are needed")
                      : IDEM_ERR_MISUSE;
    *reply = (idem_run_reply){0};
    running.op = request->op;
    error = idem_begin(client, request, timeout_ms, &reply->begin);
    if (error != IDEM_OK || reply->begin.answer != IDEM_EXECUTE) {
        reply->outcome = reply->begin.outcome;
        return error;
    }
    if (!keep_grant(&running, &reply->begin.grant)) {
        /* Nothing was run: say so, so that the next may. */
        running.fence = reply->begin.grant.fence;
        release(&running, IDEM_EFFECT_NONE_BY_ME, reply);
        return client_fail(client, IDEM_ERR_NO_MEMORY, "no memory for the grant; it was released");
    }
    running.lease_end_ms = sent_ms + reply->begin.grant.lease_ms;
    drop_views(reply);
    error = run(&running, callback, user, reply);
    idem__free(running.memory);
    return error;
}
