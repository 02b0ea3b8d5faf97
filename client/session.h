/* What comes in: fed bytes, hands out messages. Never touches a socket. */
#ifndef IDEM_CLIENT_SESSION_H
#define IDEM_CLIENT_SESSION_H

#include <stddef.h>
#include <stdint.h>

struct session {
    uint8_t *data;
    size_t size, capacity, taken; /* taken: of the front, handed out already */
    uint32_t message_bytes_max;
};

enum session_next { SESSION_MESSAGE, SESSION_MORE, SESSION_BROKEN };

/* Nothing is in it; what it held is kept for reuse. */
void session_reset(struct session *session, uint32_t message_bytes_max);
void session_free(struct session *session);
/* Where to read to, and how much fits (at least 4 KiB). NULL: no memory. */
uint8_t *session_room(struct session *session, size_t *size);
void session_fed(struct session *session, size_t size);
/* The next message, good until the next call. SESSION_MORE: it is not whole yet. SESSION_BROKEN: these bytes are no
 * frames, or one is longer than message_bytes_max. */
enum session_next session_next(struct session *session, const uint8_t **message, uint32_t *size);

#endif
