/* From an engine's reply to a Response's bytes, by way of generated messages. Everything lies in the arena. */
#ifndef IDEMD_RESPONSE_MESSAGES_H
#define IDEMD_RESPONSE_MESSAGES_H

#include "daemon/engine/engine.h"
#include "daemon/server/arena.h"
#include "daemon/server/response.h"
#include "idem/v1/idem.pb-c.h"

/* Encodes any reply of the engine. `now` is for times that are told as Unix time. Asserts that the arena has room. */
struct response response_of_reply(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now);
/* An error. field and reason may be NULL. */
struct response response_of_error(struct arena *arena, uint64_t id, enum code code, const char *reason,
                                  const char *field, const char *message);
/* Any Response that is made by hand: Hello, Stats. */
struct response response_of_message(struct arena *arena, const Idem__V1__Response *message);

#endif
