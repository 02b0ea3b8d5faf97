/* What is measured: how a target's requests look and its replies are read. The load generator's loop is the same for
 * all. */
#ifndef IDEM_BENCH_TARGET_H
#define IDEM_BENCH_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum target_step {
    STEP_CLAIM,    /* ask whether the operation may run */
    STEP_COMPLETE, /* store its outcome */
    STEP_REPLAY,   /* ask again for what is stored */
};

struct target_request {
    enum target_step step;
    uint64_t key;      /* a number that stands for an idempotency key */
    uint64_t attempt;  /* a number that no other operation has */
    uint64_t sequence; /* which of the connection's requests this is */
    uint64_t fence;    /* of the claim; COMPLETE */
    uint32_t wait_ms;  /* CLAIM: wait for another owner's outcome */
};

struct target_reply {
    uint64_t sequence; /* of its request; in_order targets leave it */
    uint64_t fence;
    bool granted;  /* CLAIM: it may run */
    bool replayed; /* the stored outcome is here */
    bool pending;  /* another owner has it and did not wait or not long enough: ask again */
    bool failed;   /* an error, or an answer that this step does not expect */
};

struct load_options;
struct load_result;

enum { TARGET_ADDRESS_BYTES = 128 };

struct target {
    const char *name; /* in --target, up to and with the colon before where it is, if that has to be said */
    bool in_order;    /* replies come in the order of requests */
    /* Starts what is measured where that is the generator's own, and writes its address. `where` is what follows the
     * name. NULL: it is running already. */
    bool (*start)(const char *where, char address[TARGET_ADDRESS_BYTES]);
    void (*stop)(void);
    /* The whole load, for a target without a network, which has none of what follows. As load_run. */
    bool (*run)(const struct load_options *options, struct load_result *result);
    /* Prepares for a run: what is the same in all requests. */
    void (*open)(uint32_t body_bytes);
    size_t (*request_bytes_max)(void);
    /* Writes one request; returns its bytes. */
    size_t (*put)(const struct target_request *request, uint8_t *out);
    /* Reads one reply from data. Returns its bytes, 0 where it is not whole yet, SIZE_MAX where it is none. */
    size_t (*get)(const uint8_t *data, size_t size, struct target_reply *reply);
};

extern const struct target target_idem, target_redis;
extern const struct target target_floor_echo, target_floor_durable, target_floor_log, target_floor_lmdb;

#endif
