/* From an engine's reply to a Response's bytes: a small head, and a shared tail that holds an outcome's attributes and
 * body, so that a thousand waiters cost one copy. Fields of a message may come in any order, so the outcome goes last,
 * and in it what is shared. */
#ifndef IDEMD_RESPONSE_H
#define IDEMD_RESPONSE_H

#include "daemon/server/arena.h"
#include "daemon/engine/engine.h"
#include "idem/v1/idem.pb-c.h"

struct response {
    const uint8_t *head; /* the frame's header and all of the message but the tail; in the arena */
    uint32_t head_bytes;
    struct slice shared; /* not held */
};

/* A time of the retention clock as Unix time. */
static inline uint64_t response_wall_ms(const struct now *now, uint64_t retention_ms)
{
    return retention_ms - now->retention_ms + now->wall_ms;
}

/* Encodes a reply of the engine. `now` is for times that are told as Unix time. Asserts that the arena has room. */
struct response response_of_reply(struct arena *arena, uint64_t id, const struct reply *reply, const struct now *now);
/* The same by way of generated messages, for any reply. The bytes are the same. */
struct response response_of_reply_by_messages(struct arena *arena, uint64_t id, const struct reply *reply,
                                              const struct now *now);
/* An error. field and reason may be NULL. */
struct response response_of_error(struct arena *arena, uint64_t id, enum code code, const char *reason,
                                  const char *field, const char *message);
/* Any Response that is made by hand: Hello, Stats. */
struct response response_of_message(struct arena *arena, const Idem__V1__Response *message);

#endif
