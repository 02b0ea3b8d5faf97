/* From the daemon's messages to the public structs, which point into them. */
#ifndef IDEM_CLIENT_REPLY_H
#define IDEM_CLIENT_REPLY_H

#include "client/client.h"

idem_bytes reply_bytes(ProtobufCBinaryData data);
idem_checkpoint reply_checkpoint(const Idem__V1__Checkpoint *checkpoint);
idem_grant reply_grant(const Idem__V1__Grant *grant);
idem_info reply_info(const Idem__V1__OperationInfo *info);
idem_operation_id reply_id(const Idem__V1__OperationId *op);
/* An outcome that an answer has to have, with attributes of the client's reply memory. IDEM_ERR_PROTOCOL: it is not
 * there, or of a kind that is not known. IDEM_ERR_LOST: no memory. */
idem_error reply_outcome(idem_client *client, const Idem__V1__Outcome *outcome, idem_outcome *out);

/* Is it something that this library knows? What is not is never permission to run. */
bool reply_ownership_known(Idem__V1__Ownership ownership);
bool reply_state_known(Idem__V1__State state); /* absent is known too */
bool reply_grant_known(const Idem__V1__Grant *grant);
/* NULL is fine: there is none. */
bool reply_info_known(const Idem__V1__OperationInfo *info);
idem_error reply_unknown(idem_client *client);

#endif
