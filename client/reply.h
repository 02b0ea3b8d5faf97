/* From the daemon's messages to the public structs, which point into them; and from public structs to messages. */
#ifndef IDEM_CLIENT_REPLY_H
#define IDEM_CLIENT_REPLY_H

#include "client/client.h"

idem_bytes reply_bytes(ProtobufCBinaryData data);
idem_checkpoint reply_checkpoint(const Idem__V1__Checkpoint *checkpoint);
idem_grant reply_grant(const Idem__V1__Grant *grant);
idem_info reply_info(const Idem__V1__OperationInfo *info);
idem_operation_id reply_id(const Idem__V1__OperationId *op);
/* attributes: room for as many as it has. */
idem_outcome reply_outcome(const Idem__V1__Outcome *outcome, idem_attribute *attributes);
/* As reply_outcome, with attributes of the client's reply memory. False: no memory. */
bool reply_outcome_of(idem_client *client, const Idem__V1__Outcome *outcome, idem_outcome *out);

#endif
