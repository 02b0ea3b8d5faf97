/* What idemd means: (state, call, now) -> (answer, new state), as PROTOCOL.md has it.
 *
 *                Begin                        Complete
 *     (absent) ---------> RUNNING -------------------------> DONE --(expiry, Forget)--> (absent)
 *         ^                |   ^                              ^
 *         | Release        |   | Begin TAKE_OVER, Recover,    |
 *         |                v   | Renew, Checkpoint, resume    |
 *         |   lease end,  INTERRUPTED ------------------------+
 *         +--------------------+   Complete, Resolve HAPPENED
 *            Release, Resolve DID_NOT_HAPPEN
 *
 * Pure: no memory, no clock, no I/O. Records point into what the call and the current record point to. */
#ifndef IDEMD_RULES_H
#define IDEMD_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/clock.h"
#include "daemon/record/record.h"

/* The numbers below are those of idem.v1: rules know no protobuf, and a test compares them. */
enum answer {
    ANSWER_NONE = 0,
    ANSWER_EXECUTE = 1,
    ANSWER_REPLAY = 2,
    ANSWER_RUNNING = 3,
    ANSWER_MISMATCH = 4,
    ANSWER_INTERRUPTED = 5,
    ANSWER_EXPIRED = 6,
};
enum ownership { OWNERSHIP_NONE = 0, OWNERSHIP_HELD = 1, OWNERSHIP_LOST = 2, OWNERSHIP_FINAL = 3, OWNERSHIP_GONE = 4 };
enum effect { EFFECT_UNKNOWN = 1, EFFECT_NONE_BY_ME = 2, EFFECT_NONE = 3 };
enum verdict { VERDICT_HAPPENED = 1, VERDICT_DID_NOT_HAPPEN = 2 };
enum if_interrupted { IF_INTERRUPTED_DEFAULT = 0, IF_INTERRUPTED_REPORT = 1, IF_INTERRUPTED_TAKE_OVER = 2 };
enum code {
    CODE_OK = 0,
    CODE_CANCELLED = 1,
    CODE_INVALID_ARGUMENT = 3,
    CODE_DEADLINE_EXCEEDED = 4,
    CODE_NOT_FOUND = 5,
    CODE_PERMISSION_DENIED = 7,
    CODE_RESOURCE_EXHAUSTED = 8,
    CODE_FAILED_PRECONDITION = 9,
    CODE_UNIMPLEMENTED = 12,
    CODE_INTERNAL = 13,
    CODE_UNAVAILABLE = 14,
    CODE_DATA_LOSS = 15,
    CODE_UNAUTHENTICATED = 16,
};

/* A namespace's policy: idem.v1.Policy. Times in milliseconds. */
struct policy {
    uint64_t keep_ms, keep_min_ms, keep_max_ms;
    uint32_t lease_ms, grace_ms;
    enum if_interrupted if_interrupted; /* REPORT or TAKE_OVER */
    uint32_t max_outcome_bytes;
};

/* The calls, by their field number in idem.v1.Request. */
enum call_type {
    CALL_HELLO = 10,
    CALL_BEGIN = 11,
    CALL_COMPLETE = 12,
    CALL_RELEASE = 13,
    CALL_RENEW = 14,
    CALL_CHECKPOINT = 15,
    CALL_GET = 16,
    CALL_RECOVER = 17,
    CALL_RESOLVE = 18,
    CALL_FORGET = 19,
    CALL_LIST = 20,
    CALL_STATS = 21,
    CALL_CANCEL = 22,
};

/* An outcome as a call brings it, limits already applied. */
struct outcome {
    uint8_t kind; /* 1 SUCCEEDED, 2 FAILED */
    int32_t code;
    bool body_dropped, attributes_dropped;
    uint64_t body_bytes;     /* the size the body had */
    struct bytes attributes; /* wire form: idem.v1.Outcome's field 3, repeated; empty where dropped */
    struct bytes body_field; /* wire form: its field 4 with tag and length; empty where dropped or empty */
    uint64_t digest[2];      /* of the outcome as it was sent */
    bool digest_left_out;    /* it is not filled, and is that of record_plain_digest */
};

/* One call with its arguments checked. Views are borrowed for the time of the call. Which fields count is up to its
 * type; they have the names and meanings of idem.v1. */
struct call {
    enum call_type type;
    struct identity id; /* for Recover and List only id.namespace */
    uint64_t hash;      /* record_hash of id; 0: not known yet, the engine fills it */
    struct bytes traceparent;
    const struct policy *policy; /* of its namespace; outlives the call, parked or not */

    struct bytes operation, fingerprint, attempt_id, owner, input;
    struct bytes other_fingerprints[3];
    uint32_t lease_ms, wait_ms;
    enum if_interrupted if_interrupted;
    uint64_t first_sent_ms, keep_ms, keep_body_ms;
    uint64_t take_over_revision;
    bool bind_to_connection;

    uint64_t fence;    /* the owner's calls */
    uint64_t revision; /* Resolve, Forget */
    struct outcome outcome;
    enum effect effect;
    enum verdict verdict;
    struct bytes checkpoint_name, checkpoint_data;
    struct bytes reason;

    uint32_t limit;          /* Recover, List; the default already filled in */
    enum record_state state; /* List; ABSENT: any */
    struct bytes cursor;
    uint64_t cancel_id;
};

enum change {
    CHANGE_NONE,
    CHANGE_PUT,    /* the operation is decision.next from now on */
    CHANGE_REMOVE, /* it is absent from now on */
};

/* What follows from a call. */
struct decision {
    enum code code;           /* not OK: nothing below counts but `reason` */
    const char *reason;       /* for a program: "WRONG_REVISION", "NOT_INTERRUPTED"; or NULL */
    enum answer answer;       /* Begin */
    enum ownership ownership; /* the owner's calls, Resolve, Forget */
    bool mismatch_operation, mismatch_fingerprint;
    bool resumed;  /* EXECUTE: this attempt_id already held it */
    bool granted;  /* EXECUTE: a new grant, with fence = revision = number */
    bool may_wait; /* the answer may change with the state: park the call where it has wait_ms */

    enum change change;
    bool new_checkpoint; /* CHANGE_PUT: the checkpoint's data is the call's, not what was stored */
    bool new_input;      /* CHANGE_PUT: likewise the input */
    bool lease_anew;     /* the lease runs from the answer on, with lease_ms, and never ends earlier than it did */
    uint32_t lease_ms;   /* EXECUTE, and HELD of Renew and Checkpoint: what to tell */
    enum record_state released_to; /* Release HELD: ABSENT or INTERRUPTED */

    struct record next; /* CHANGE_PUT, else not filled; its hash and body_expiry_key are the engine's to fill */
};

/* Is the outcome of this DONE record over? At expires_ms it is. */
bool rules_expired(const struct record *record, const struct now *now);

/* One function a call. `current` is NULL where the operation is absent (an expired one is absent: the caller has
 * looked); of what runs, lease_left_ms is filled. `number` is what a stored change will be numbered, higher than all
 * before. Each fills *decision whole, but for `next` where nothing is put. */
void rules_begin(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                 struct decision *decision);
void rules_complete(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                    struct decision *decision);
void rules_release(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision);
void rules_renew(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                 struct decision *decision);
void rules_checkpoint(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                      struct decision *decision);
/* code NOT_FOUND, or OK; may_wait unless DONE or absent. */
void rules_get(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
               struct decision *decision);
void rules_resolve(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision);
void rules_forget(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                  struct decision *decision);
/* Recover's grant of one interrupted operation: EXECUTE. `current` is INTERRUPTED. A grant of this Recover's attempt_id
 * that is still current is given again by rules_recover_again instead (current RUNNING or INTERRUPTED). */
void rules_recover(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                   struct decision *decision);
void rules_recover_again(const struct record *current, const struct call *call, const struct now *now, uint64_t number,
                         struct decision *decision);
/* Would Recover sent again find this grant to be its own? */
bool rules_is_recovered_by(const struct record *current, struct bytes attempt_id);
/* The lease of a RUNNING record has ended. */
void rules_lease_end(const struct record *current, const struct now *now, uint64_t number, struct decision *decision);

#endif
