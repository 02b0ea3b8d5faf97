/* Redis's side, with what people use for this job: a claim is SET NX EX with the 48 bytes that fingerprint and owner
 * take, the outcome SET XX EX, a replay GET. Source of the protocol: the RESP2 specification. */
#include "bench/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLAIM_BYTES = 48, KEEP_S = 24 * 3600, AROUND_BYTES = 256 };

static char *value;
static uint32_t value_bytes;

static void open_redis(uint32_t body_bytes)
{
    value_bytes = body_bytes > CLAIM_BYTES ? body_bytes : CLAIM_BYTES;
    value = malloc(value_bytes);
    if (!value)
        abort();
    memset(value, 'b', value_bytes);
    value_bytes = body_bytes;
}

static size_t request_bytes_max(void)
{
    return AROUND_BYTES + (value_bytes > CLAIM_BYTES ? value_bytes : CLAIM_BYTES);
}

static size_t put_set(uint8_t *out, const char *key, uint32_t size, const char *condition)
{
    const int head = sprintf((char *)out, "*6\r\n$3\r\nSET\r\n$24\r\n%s\r\n$%u\r\n", key, size);

    memcpy(out + head, value, size);
    return (size_t)head + size +
           (size_t)sprintf((char *)out + head + size, "\r\n$2\r\n%s\r\n$2\r\nEX\r\n$5\r\n%d\r\n", condition, KEEP_S);
}

static size_t put_request(const struct target_request *request, uint8_t *out)
{
    char key[25];

    snprintf(key, sizeof key, "%024llx", (unsigned long long)request->key);
    if (request->step == STEP_CLAIM)
        return put_set(out, key, CLAIM_BYTES, "NX");
    if (request->step == STEP_COMPLETE)
        return put_set(out, key, value_bytes, "XX");
    return (size_t)sprintf((char *)out, "*2\r\n$3\r\nGET\r\n$24\r\n%s\r\n", key);
}

static size_t get_reply(const uint8_t *data, size_t size, struct target_reply *reply)
{
    const uint8_t *end = memmem(data, size, "\r\n", 2);
    size_t line;

    if (!end)
        return 0;
    line = (size_t)(end - data) + 2;
    *reply = (struct target_reply){0};
    if (data[0] == '+') {
        reply->granted = true;
        return line;
    }
    if (data[0] == '$') {
        const long length = strtol((const char *)data + 1, NULL, 10);
        if (length < 0) {
            reply->failed = true;
            return line;
        }
        reply->replayed = true;
        return size >= line + (size_t)length + 2 ? line + (size_t)length + 2 : 0;
    }
    reply->failed = true;
    return data[0] == '-' || data[0] == ':' ? line : SIZE_MAX;
}

const struct target target_redis = {.name = "redis",
                                    .in_order = true,
                                    .open = open_redis,
                                    .request_bytes_max = request_bytes_max,
                                    .put = put_request,
                                    .get = get_reply};
