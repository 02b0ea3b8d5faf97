/* The floors with a network: what idemd is asked goes to a server that only sends it back. An echo counts as the answer
 * that was hoped for, whatever was asked. */
#include "bench/target.h"

#include "bench/floor_server.h"
#include "proto/frame.h"
#include "proto/limits.h"

static void open_requests(uint32_t body_bytes)
{
    target_idem.open(body_bytes);
}

static size_t request_bytes_max(void)
{
    return target_idem.request_bytes_max();
}

static size_t put_request(const struct target_request *request, uint8_t *out)
{
    return target_idem.put(request, out);
}

/* The request itself: its id is its first field. */
static size_t get_reply(const uint8_t *data, size_t size, struct target_reply *reply)
{
    uint32_t message_bytes;
    uint64_t id;
    const enum frame_cut cut = frame_cut(data, size, UINT32_MAX, &message_bytes);

    if (cut == FRAME_PARTIAL)
        return 0;
    if (cut != FRAME_WHOLE || message_bytes < 2 ||
        !frame_get_varint(data + IDEM_FRAME_HEADER_BYTES + 1, message_bytes - 1, &id))
        return SIZE_MAX;
    *reply = (struct target_reply){.sequence = id, .granted = true, .replayed = true};
    return IDEM_FRAME_HEADER_BYTES + message_bytes;
}

static bool start_echo(const char *where, char address[TARGET_ADDRESS_BYTES])
{
    (void)where;
    return floor_server_start(NULL, address);
}

static bool start_durable(const char *where, char address[TARGET_ADDRESS_BYTES])
{
    return floor_server_start(where, address);
}

const struct target target_floor_echo = {.name = "floor:echo",
                                         .start = start_echo,
                                         .stop = floor_server_stop,
                                         .open = open_requests,
                                         .request_bytes_max = request_bytes_max,
                                         .put = put_request,
                                         .get = get_reply};
const struct target target_floor_durable = {.name = "floor:durable:",
                                            .start = start_durable,
                                            .stop = floor_server_stop,
                                            .open = open_requests,
                                            .request_bytes_max = request_bytes_max,
                                            .put = put_request,
                                            .get = get_reply};
