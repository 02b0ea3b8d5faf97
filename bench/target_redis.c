/* Redis's side, with what people use for this job: a claim is SET NX EX with the 48 bytes that fingerprint and owner
 * take, the outcome SET XX EX, a replay GET. Who finds a key claimed asks again until its outcome is there. Source of
 * the protocol: the RESP2 specification. */
#include "bench/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/pool.h"

enum { FINGERPRINT_BYTES = 32, CLAIM_BYTES = 48, KEEP_S = 24 * 3600, AROUND_BYTES = 256 };

/* A request in three parts: to the key, from there to the value, and what is after that. */
struct redis_template {
    char head[64], between[64], tail[64];
    size_t head_bytes, between_bytes, value_bytes, backlog_bytes;
};

static struct redis_template claim, complete, get;

static struct redis_template set(uint32_t value_bytes, const char *condition)
{
    struct redis_template template = {.value_bytes = value_bytes};

    template.head_bytes = (size_t)sprintf(template.head, "*6\r\n$3\r\nSET\r\n$%d\r\n", POOL_KEY_BYTES);
    template.between_bytes = (size_t)sprintf(template.between, "\r\n$%u\r\n", value_bytes);
    template.backlog_bytes =
        (size_t)sprintf(template.tail, "\r\n$2\r\n%s\r\n$2\r\nEX\r\n$5\r\n%d\r\n", condition, KEEP_S);
    return template;
}

static void open_redis(uint32_t body_bytes)
{
    claim = set(CLAIM_BYTES, "NX");
    complete = set(body_bytes, "XX");
    get.head_bytes = (size_t)sprintf(get.head, "*2\r\n$3\r\nGET\r\n$%d\r\n", POOL_KEY_BYTES);
    get.backlog_bytes = (size_t)sprintf(get.tail, "\r\n");
}

static size_t request_bytes_max(void)
{
    return AROUND_BYTES + (complete.value_bytes > CLAIM_BYTES ? complete.value_bytes : CLAIM_BYTES);
}

static uint8_t *append(uint8_t *out, const void *data, size_t size)
{
    memcpy(out, data, size);
    return out + size;
}

static size_t put_request(const struct target_request *request, uint8_t *out)
{
    const struct redis_template *template = request->step == STEP_CLAIM      ? &claim
                                            : request->step == STEP_COMPLETE ? &complete
                                                                             : &get;
    uint8_t *at = append(out, template->head, template->head_bytes);

    pool_put_key(at, request->key);
    at = append(at + POOL_KEY_BYTES, template->between, template->between_bytes);
    if (request->step == STEP_CLAIM) {
        at = append(at, pool_value(request->key, POOL_FINGERPRINT), FINGERPRINT_BYTES);
        at = append(at, pool_value(request->key, POOL_OWNER), CLAIM_BYTES - FINGERPRINT_BYTES);
    } else {
        at = append(at, pool_value(request->key, POOL_BODY), template->value_bytes);
    }
    at = append(at, template->tail, template->backlog_bytes);
    return (size_t)(at - out);
}

static size_t get_value(const uint8_t *data, size_t size, size_t line, struct target_reply *reply)
{
    const long length = strtol((const char *)data + 1, NULL, 10);

    if (length < 0) {
        reply->pending = true; /* NX: claimed already. GET: no such key, which the load takes for an error */
        return line;
    }
    if (size < line + (size_t)length + 2)
        return 0;
    /* A claim without its outcome yet. Where both have the same size they are not told apart. */
    reply->pending = length == CLAIM_BYTES && complete.value_bytes != CLAIM_BYTES;
    reply->replayed = !reply->pending && (size_t)length >= complete.value_bytes;
    return line + (size_t)length + 2;
}

static size_t get_reply(const uint8_t *data, size_t size, struct target_reply *reply)
{
    const uint8_t *end = size ? memchr(data, '\n', size) : NULL;
    size_t line;

    if (!end)
        return 0;
    line = (size_t)(end - data) + 1;
    *reply = (struct target_reply){0};
    switch (data[0]) {
    case '+':
        reply->granted = true;
        return line;
    case '$':
        return get_value(data, size, line, reply);
    case '-':
    case ':':
        reply->failed = true;
        return line;
    default:
        return SIZE_MAX;
    }
}

const struct target target_redis = {.name = "redis:",
                                    .in_order = true,
                                    .open = open_redis,
                                    .request_bytes_max = request_bytes_max,
                                    .put = put_request,
                                    .get = get_reply};
