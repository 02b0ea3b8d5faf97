/* The replies that are nearly all of the traffic, written straight to bytes: Begin's EXECUTE and REPLAY, Complete's and
 * Renew's. They are the bytes that response_messages.c makes of the same reply. */
#ifndef IDEMD_RESPONSE_WIRE_H
#define IDEMD_RESPONSE_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/server/arena.h"
#include "daemon/base/clock.h"
#include "daemon/engine/engine.h"
#include "daemon/server/response.h"

/* Is it one of those? Its code is OK. */
bool response_wire_has(const struct reply *reply);
/* Encodes such a reply, as response_of_reply does. */
struct response response_wire_put(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now);

#endif
