/* The replies that are nearly all of the traffic, written straight to bytes: Begin's EXECUTE and REPLAY, Complete's and
 * Renew's. They are the bytes that protobuf-c writes of what response.c makes of the same reply. */
#ifndef IDEMD_RESPONSE_WIRE_H
#define IDEMD_RESPONSE_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/arena.h"
#include "daemon/clock.h"
#include "daemon/engine.h"

struct response;

/* Encodes a reply whose code is OK, as response_of_reply says. False, and nothing is done: it is of another kind. */
bool response_wire_put(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now,
                       struct response *response);

#endif
