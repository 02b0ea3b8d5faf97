/* What PROTOCOL.md says of one operation, written down a second time and as naively as possible: tests hold the
 * daemon's rules and engine against it. Nothing here is shared with them but the types of a call.
 *
 * An operation is one struct of plain values that can be copied and compared. Of large values only their size and a
 * digest are kept: two that are equal in both are taken to be equal. */
#ifndef IDEMD_TESTS_MODEL_H
#define IDEMD_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/engine/rules.h"

enum { MODEL_TEXT_MAX = 255 };

struct model_text {
    uint32_t size;
    uint8_t data[MODEL_TEXT_MAX];
};

struct model_value {
    uint32_t size;
    uint64_t sum;
};

struct model_outcome {
    uint8_t kind;
    int32_t code;
    bool body_dropped, attributes_dropped;
    uint64_t body_bytes;
    struct model_value attributes, body;
    uint64_t digest[2];
};

struct model_operation {
    struct model_text namespace, caller, key;
    enum record_state state; /* ABSENT: only the names above count */
    uint64_t generation, fence, revision;
    uint32_t attempt, lease_ms;
    uint32_t lease_left_ms; /* RUNNING: of the lease that was acknowledged. Nobody stores it */
    uint64_t keep_ms;
    bool bound, recovered, resolved;
    uint64_t begun_ms, interrupted_ms, done_ms;
    struct model_text operation, fingerprint, attempt_id, owner, traceparent;
    struct model_text checkpoint_name;
    struct model_value checkpoint, input;
    /* DONE */
    struct model_outcome outcome;
    uint64_t expires_ms, body_expires_ms; /* retention clock */
};

/* What a call may be answered in a state, and the state after it. */
struct model_decision {
    enum code code;
    const char *reason; /* NULL: PROTOCOL.md names none */
    enum answer answer;
    enum ownership ownership;
    bool mismatch_operation, mismatch_fingerprint;
    bool granted, resumed, may_wait;
    bool changed; /* the operation is `next` from now on, which is ABSENT where it is no more */
    bool checkpointed;
    bool lease_anew;
    uint32_t lease_ms;
    enum record_state released_to;
    struct model_operation next;
};

struct model_text model_text(struct bytes bytes);
struct model_value model_value(struct bytes bytes);
bool model_text_equal(const struct model_text *a, const struct model_text *b);
bool model_value_equal(struct model_value a, struct model_value b);

/* The operation that these names name, absent. */
void model_name(struct model_operation *operation, const struct identity *id);
bool model_is_named(const struct model_operation *operation, const struct identity *id);
/* The operation as a record has it. Of input and checkpoint a record knows only the sizes: their sums are 0. Of the
 * outcome's values likewise. */
void model_of_record(struct model_operation *operation, const struct record *record);

/* Is it there at this time? An expired one is not. */
bool model_is_there(const struct model_operation *operation, const struct now *now);
/* Is its body served at this time? */
bool model_has_body(const struct model_operation *operation, const struct now *now);
/* A namespace's keep time for what a call asked for. */
uint64_t model_keep_ms(const struct policy *policy, uint64_t keep_ms);
/* How long ago is too long for a Begin of an absent operation. */
uint64_t model_window_ms(const struct policy *policy, uint64_t keep_ms);
bool model_takes_over(const struct model_operation *operation, const struct call *call);

/* Any call that names one operation, which is as it is (also expired). `number` is that of a stored change. */
void model_decide(const struct model_operation *operation, const struct call *call, const struct now *now,
                  uint64_t number, struct model_decision *decision);
/* Recover: of one operation that is interrupted; or sent again, of one that it granted before. */
void model_recover(const struct model_operation *operation, const struct call *call, const struct now *now,
                   uint64_t number, struct model_decision *decision);
void model_recover_again(const struct model_operation *operation, const struct call *call, uint64_t number,
                         struct model_decision *decision);
bool model_is_recovered_by(const struct model_operation *operation, struct bytes attempt_id);
/* The lease of a running operation ends. */
void model_lease_end(const struct model_operation *operation, const struct now *now, uint64_t number,
                     struct model_decision *decision);

/* Says in `why` how two operations differ in what anybody could ever see; true where they do not. Sums are compared
 * where `sums` says so. */
bool model_same(const struct model_operation *wanted, const struct model_operation *got, bool sums, char *why,
                size_t why_bytes);

#endif
