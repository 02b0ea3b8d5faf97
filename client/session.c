/* One growing buffer; the front moves when there is no room behind. */
#include "client/session.h"

#include <assert.h>
#include <string.h>

#include "client/memory.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { ROOM_BYTES = 4096, FIRST_BYTES = 16384 };

void session_reset(struct session *session, uint32_t message_bytes_max)
{
    session->size = session->taken = 0;
    session->message_bytes_max = message_bytes_max;
}

void session_free(struct session *session)
{
    idem__free(session->data);
    *session = (struct session){0};
}

uint8_t *session_room(struct session *session, size_t *size)
{
    if (session->taken) {
        memmove(session->data, session->data + session->taken, session->size - session->taken);
        session->size -= session->taken;
        session->taken = 0;
    }
    if (session->capacity - session->size < ROOM_BYTES) {
        const size_t capacity = session->capacity ? session->capacity * 2 : FIRST_BYTES;
        uint8_t *data = idem__resize(session->data, capacity);
        if (!data)
            return NULL;
        session->data = data;
        session->capacity = capacity;
    }
    *size = session->capacity - session->size;
    return session->data + session->size;
}

void session_fed(struct session *session, size_t size)
{
    assert(size <= session->capacity - session->size);
    session->size += size;
}

enum session_next session_next(struct session *session, const uint8_t **message, uint32_t *size)
{
    const uint8_t *at = session->data + session->taken;

    switch (frame_cut(at, session->size - session->taken, session->message_bytes_max, size)) {
    case FRAME_WHOLE:
        *message = at + IDEM_FRAME_HEADER_BYTES;
        session->taken += IDEM_FRAME_HEADER_BYTES + *size;
        return SESSION_MESSAGE;
    case FRAME_PARTIAL:
        return SESSION_MORE;
    case FRAME_BAD_FLAG:
    case FRAME_TOO_LONG:
        break;
    }
    return SESSION_BROKEN;
}
