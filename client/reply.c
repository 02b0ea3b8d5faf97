/* Copies of numbers, views of everything else. */
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

idem_outcome reply_outcome(const Idem__V1__Outcome *outcome, idem_attribute *attributes)
{
    for (size_t i = 0; i < outcome->n_attributes; i++)
        attributes[i] = (idem_attribute){outcome->attributes[i]->name, reply_bytes(outcome->attributes[i]->value)};
    return (idem_outcome){
        .kind = (idem_kind)outcome->kind,
        .code = outcome->code,
        .attributes = attributes,
        .attribute_count = outcome->n_attributes,
        .body = reply_bytes(outcome->body),
        .body_dropped = outcome->body_dropped,
        .body_bytes = outcome->body_bytes,
        .attributes_dropped = outcome->attributes_dropped,
    };
}

bool reply_outcome_of(idem_client *client, const Idem__V1__Outcome *outcome, idem_outcome *out)
{
    idem_attribute *attributes = NULL;

    *out = (idem_outcome){0};
    if (!outcome)
        return true;
    if (outcome->n_attributes) {
        attributes = client_reply_memory(client, outcome->n_attributes * sizeof *attributes);
        if (!attributes)
            return false;
    }
    *out = reply_outcome(outcome, attributes);
    return true;
}
