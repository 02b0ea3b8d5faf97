/* What the calls share with run.c. */
#ifndef IDEM_CLIENT_CALLS_H
#define IDEM_CLIENT_CALLS_H

#include "client/reply.h"
#include "proto/limits.h"

/* A new attempt id. Always true. */
bool calls_attempt_id(uint8_t attempt_id[IDEM_ATTEMPT_ID_BYTES]);

#endif
