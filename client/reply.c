/* Copies of numbers, views of everything else. Numbers that stand for something are held against what is known. */
#include "client/reply.h"

idem_bytes reply_bytes(ProtobufCBinaryData data)
{
    return (idem_bytes){data.data, data.len};
}

idem_checkpoint reply_checkpoint(const Idem__V1__Checkpoint *checkpoint)
{
    return checkpoint ? (idem_checkpoint){checkpoint->name, reply_bytes(checkpoint->data)}
                      : (idem_checkpoint){"", {NULL, 0}};
}

idem_grant reply_grant(const Idem__V1__Grant *grant)
{
    return (idem_grant){
        .fence = grant->fence,
        .lease_ms = grant->lease_ms,
        .attempt = grant->attempt,
        .resumed = grant->resumed,
        .checkpoint = reply_checkpoint(grant->checkpoint),
        .input = reply_bytes(grant->input),
    };
}

idem_info reply_info(const Idem__V1__OperationInfo *info)
{
    if (!info)
        return (idem_info){.operation = "", .owner = "", .traceparent = ""};
    return (idem_info){
        .state = (idem_state)info->state,
        .revision = info->revision,
        .operation = info->operation,
        .attempt = info->attempt,
        .owner = info->owner,
        .traceparent = info->traceparent,
        .begun_ms = info->begun_ms,
        .interrupted_ms = info->interrupted_ms,
        .done_ms = info->done_ms,
        .expires_ms = info->expires_ms,
        .lease_left_ms = info->lease_left_ms,
        .kind = (idem_kind)info->kind,
        .resolved = info->resolved,
        .replays = info->replays,
    };
}

idem_operation_id reply_id(const Idem__V1__OperationId *op)
{
    return op ? (idem_operation_id){op->namespace_, op->caller, op->key} : (idem_operation_id){"", "", ""};
}

static bool kind_known(Idem__V1__OutcomeKind kind)
{
    return kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED ||
           kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED;
}

idem_error reply_outcome(idem_client *client, const Idem__V1__Outcome *outcome, idem_outcome *out)
{
    idem_attribute *attributes;

    if (!outcome || !kind_known(outcome->kind))
        return reply_unknown(client);
    attributes = client_reply_memory(client, outcome->n_attributes * sizeof *attributes);
    if (!attributes)
        return client_fail(client, IDEM_ERR_LOST, "no memory for the answer");
    for (size_t i = 0; i < outcome->n_attributes; i++)
        attributes[i] = (idem_attribute){outcome->attributes[i]->name, reply_bytes(outcome->attributes[i]->value)};
    *out = (idem_outcome){
        .kind = (idem_kind)outcome->kind,
        .code = outcome->code,
        .attributes = attributes,
        .attribute_count = outcome->n_attributes,
        .body = reply_bytes(outcome->body),
        .body_dropped = outcome->body_dropped,
        .body_bytes = outcome->body_bytes,
        .attributes_dropped = outcome->attributes_dropped,
    };
    return IDEM_OK;
}

bool reply_ownership_known(Idem__V1__Ownership ownership)
{
    return ownership >= IDEM__V1__OWNERSHIP__OWNERSHIP_HELD && ownership <= IDEM__V1__OWNERSHIP__OWNERSHIP_GONE;
}

bool reply_state_known(Idem__V1__State state)
{
    return state >= IDEM__V1__STATE__STATE_UNSPECIFIED && state <= IDEM__V1__STATE__STATE_DONE;
}

bool reply_grant_known(const Idem__V1__Grant *grant)
{
    return grant && grant->fence > 0 && grant->fence <= IDEM_FENCE_MAX && grant->attempt > 0;
}

bool reply_info_known(const Idem__V1__OperationInfo *info)
{
    return !info || (reply_state_known(info->state) &&
                     (info->kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_UNSPECIFIED || kind_known(info->kind)));
}

idem_error reply_unknown(idem_client *client)
{
    return client_fail_there(client, IDEM_ERR_PROTOCOL,
                             "the answer is none that this library knows: no permission to run");
}
