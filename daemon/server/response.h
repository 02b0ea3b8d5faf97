/* An answer's bytes: a head of its own, and an outcome's attributes and body, which a thousand waiters share. Fields of
 * a message may come in any order, so the outcome goes last, and in it what is shared. */
#ifndef IDEMD_RESPONSE_H
#define IDEMD_RESPONSE_H

#include <stdint.h>

#include "daemon/base/bytes.h"
#include "daemon/base/clock.h"

struct response {
    const uint8_t *head; /* the frame's header, and all of the message but what is shared. Borrowed */
    uint32_t head_bytes;
    struct slice shared; /* follows the head; blob NULL: nothing does. Not held: whoever keeps it holds the blob */
};

/* A time of the retention clock as Unix time. */
static inline uint64_t response_wall_ms(const struct now *now, uint64_t retention_ms)
{
    return retention_ms - now->retention_ms + now->wall_ms;
}

#endif
