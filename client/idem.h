/* idem.h - libidem, the client of idemd: make an operation safe to retry.
 *
 * This program charges an order once, however often and wherever it is run:
 *
 *     #include <idem.h>
 *     #include <stdio.h>
 *
 *     static idem_done charge(idem_running *running, idem_outcome *outcome, void *user)
 *     {
 *         const char *order = user;
 *
 *         if (idem_running_attempt(running) > 1)
 *             return IDEM_DONE_UNKNOWN; // somebody may have charged before: look first
 *         printf("charging %s\n", order);
 *         outcome->code = 201;
 *         outcome->body = (idem_bytes){"receipt 17", 10};
 *         return IDEM_DONE_SUCCEEDED;
 *     }
 *
 *     int main(void)
 *     {
 *         char order[] = "order-4711";
 *         const idem_begin_request request = {.op = {.key = order}, .operation = "charge", .wait_ms = 5000};
 *         idem_client *client = NULL;
 *         idem_run_reply reply;
 *         idem_error error = idem_open(NULL, &client);
 *
 *         if (error == IDEM_OK)
 *             error = idem_run(client, &request, 0, charge, order, &reply); // begin, call back, complete
 *         if (error != IDEM_OK)
 *             fprintf(stderr, "%s: %s\n", idem_error_name(error), idem_message(client));
 *         else if (reply.outcome.kind == IDEM_SUCCEEDED)
 *             printf("%.*s\n", (int)reply.outcome.body.size, (const char *)reply.outcome.body.data);
 *         idem_close(client);
 *         return error == IDEM_OK && reply.outcome.kind == IDEM_SUCCEEDED ? 0 : 1;
 *     }
 *
 * What to do about an error is said by its class. This function goes on until the answer is known, for about a minute:
 *
 *     #include <idem.h>
 *     #include <unistd.h>
 *
 *     idem_error run_until_known(idem_client *client, const idem_begin_request *request, idem_callback *callback,
 *                                void *user, idem_run_reply *reply)
 *     {
 *         idem_error error = IDEM_OK;
 *
 *         for (int tries = 0; tries < 60; tries++) {
 *             error = idem_run(client, request, 0, callback, user, reply);
 *             switch (idem_error_class(error)) {
 *             case IDEM_CLASS_OK: // reply->begin.answer and reply->ownership say what became of it
 *                 return error;
 *             case IDEM_CLASS_NOT_DONE: // it had no effect, and may have one later
 *             case IDEM_CLASS_UNKNOWN:  // it may have been run: the same call again finds out
 *                 sleep(1);
 *                 break;
 *             case IDEM_CLASS_FINAL:  // the same call again would be answered in the same way
 *             case IDEM_CLASS_MISUSE: // the program is wrong
 *                 return error;
 *             }
 *         }
 *         return error;
 *     }
 *
 * An operation is named by (namespace, caller, key). The first Begin with a name is told EXECUTE and gets a fence; it
 * runs the operation and stores its outcome with Complete. Everyone else who comes with that name gets the outcome
 * (REPLAY), or is told that it is RUNNING, INTERRUPTED (its owner is gone, and nobody knows whether it took effect), or
 * that the name belongs to another request (MISMATCH). What each call means in every state stands in the protocol
 * document, proto/PROTOCOL.md.
 *
 * CAVEATS
 *  - A client is one connection, used by one thread at a time. Several threads use several clients; distinct clients
 *    are independent.
 *  - Every call blocks, until it is answered or its time is over. The library starts no thread, installs no signal
 *    handler, never logs and never exits. SIGPIPE is never raised, and a signal does not end a call.
 *  - One deadline covers all of a call: connecting, sending, waiting, receiving, and sending again. One step knows no
 *    deadline: looking up the name in "tcp:name:port" is getaddrinfo's. Where that matters give the number.
 *  - What a reply points to belongs to the client, and is good until the next call with it returns, or idem_close. A
 *    request may point into the reply before it: recover one operation, and complete it by the id it came with.
 *  - On an error the reply is not touched (idem_run's is: see there).
 *  - A lost connection is no error: the call is sent again, on a new connection that replaces the lost one, until its
 *    time is over. Every call is safe to send again. Only where its time is over the caller learns it, as an error of
 *    class IDEM_CLASS_UNKNOWN: the call may have had its effect. Calling again with the same request finds out.
 *  - A call that is given up gives its connection up with it, so that nothing of it waits at the daemon, and its answer
 *    cannot be taken for another's. Leases bound to that connection then have the namespace's grace (5 s), in which
 *    the next call of this client connects again and takes them over.
 *  - A client does not survive fork() in the child, where its calls are IDEM_ERR_MISUSE: open another one there. To
 *    close it there is fine.
 *  - Strings are UTF-8 without U+0000; NULL is the same as "". Bytes are any bytes. Limits are checked by the daemon,
 *    whose error names field and limit.
 *  - What a program may do wrong is an error, not a crash, as far as a library can see it: NULL where something is
 *    needed, a size without data.
 *  - Structs are zeroed before they are filled ({0} or named members), so that members left out have their default.
 */
#ifndef IDEM_H
#define IDEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IDEM_API __attribute__((visibility("default")))
#else
#define IDEM_API
#endif

typedef struct idem_client idem_client;

/* Bytes that somebody else owns. data may be NULL where size is 0. */
typedef struct idem_bytes {
    const void *data;
    size_t size;
} idem_bytes;

/* ---- Errors ------------------------------------------------------------------ */

/* What every call returns. With each: its class, and when it happens. */
typedef enum idem_error {
    IDEM_OK = 0,
    IDEM_ERR_MISUSE,            /* misuse: an argument that can never be right; nothing was sent */
    IDEM_ERR_ADDRESS,           /* misuse: the address is not unix:/path or tcp:host:port */
    IDEM_ERR_NO_MEMORY,         /* not done: before the call was sent. Later it is IDEM_ERR_LOST */
    IDEM_ERR_UNREACHABLE,       /* not done: it could not be sent until the time was over: mostly, no connection */
    IDEM_ERR_LOST,              /* unknown: it was sent, and no answer says what became of it */
    IDEM_ERR_PROTOCOL,          /* unknown: the answer is none that this library knows; it is never permission to run */
    IDEM_ERR_INVALID_ARGUMENT,  /* misuse: the daemon says which field, and its limit; or longer than any frame */
    IDEM_ERR_UNAUTHENTICATED,   /* not done: the token is wrong, or missing */
    IDEM_ERR_PERMISSION_DENIED, /* not done: the token has no right to this call; same whether or not the key exists */
    IDEM_ERR_NOT_FOUND,         /* final: Get of an absent operation */
    IDEM_ERR_FAILED_PRECONDITION, /* final: another revision or state than the call named */
    IDEM_ERR_RESOURCE_EXHAUSTED,  /* not done: the store is full, or too many wait */
    IDEM_ERR_DEADLINE_EXCEEDED,   /* not done: the daemon gave the call up before it was decided */
    IDEM_ERR_CANCELLED,           /* not done: somebody withdrew it */
    IDEM_ERR_UNIMPLEMENTED,       /* not done: a daemon older than this call */
    IDEM_ERR_DATA_LOSS,           /* final: the stored record is damaged; idem_forget removes it */
    IDEM_ERR_UNAVAILABLE,         /* unknown: the daemon was shutting down until the time was over */
    IDEM_ERR_INTERNAL,            /* unknown: the daemon failed until the time was over */
    IDEM_ERR_NOT_STORED,          /* unknown: idem_run ran the callback, and what came of it could not be stored */
} idem_error;

/* What an error says of the call's effect. A call whose first copy may have acted is never "not done": where its second
 * copy is refused (no room, no right, too late), the error is IDEM_ERR_LOST, and idem_message says what was answered.
 */
typedef enum idem_class {
    IDEM_CLASS_OK,
    IDEM_CLASS_NOT_DONE, /* it had no effect; it may be tried again later */
    IDEM_CLASS_UNKNOWN,  /* it may have had its effect; send the same call again to find out */
    IDEM_CLASS_FINAL,    /* that is the answer; sending it again gives the same */
    IDEM_CLASS_MISUSE,   /* the program is wrong */
} idem_class;

/* Never NULL, static. Any thread. */
IDEM_API const char *idem_error_name(idem_error error); /* "IDEM_ERR_LOST" */
IDEM_API idem_class idem_error_class(idem_error error);

/* About the last call of this client, where it returned an error: a sentence for a person, which names the daemon's
 * address if the connection is at fault; the daemon's reason for a
 * program ("STORE_FULL"), or ""; the path of the field ("begin.op.key"), or ""; after how many ms the same call may
 * succeed, or 0. Never NULL; good until the next call. Of NULL, idem_message says why this thread's last idem_open
 * failed, and the others say nothing. */
IDEM_API const char *idem_message(const idem_client *client);
IDEM_API const char *idem_reason(const idem_client *client);
IDEM_API const char *idem_field(const idem_client *client);
IDEM_API uint32_t idem_retry_after_ms(const idem_client *client);

/* ---- Opening ----------------------------------------------------------------- */

typedef struct idem_options {
    size_t size;            /* sizeof(idem_options); idem_options_init sets it */
    const char *address;    /* "unix:/path" (absolute) or "tcp:host:port" ("tcp:[::1]:port"). NULL: $IDEM_ADDRESS, then
                               unix:$XDG_RUNTIME_DIR/idemd.sock where that is there, then unix:/run/idemd/idemd.sock */
    const char *namespace_; /* of operations that name none. NULL: $IDEM_NAMESPACE, then "default" */
    const char *caller;     /* likewise. NULL: "" */
    const char *client;     /* name and version of the program, 0..64 bytes, for the daemon's log. NULL: "libidem" */
    const char *token;      /* where the listener asks for one. NULL: none */
    const char *owner;      /* of Begins and Recovers that name none. NULL: "HOST pid N" */
    uint32_t timeout_ms;    /* of calls that give none. 0: 10,000 */
    uint32_t reserved;      /* 0 */
} idem_options;

/* Everything at its default. */
IDEM_API void idem_options_init(idem_options *options);

/* Makes a client; connects with the first call. options NULL: all defaults. What options points to is copied. Variables
 * of the environment are not looked at in a program that runs with other rights than its caller's (setuid).
 * IDEM_OK: *client is to be closed by the caller. Else *client is NULL: IDEM_ERR_ADDRESS, IDEM_ERR_NO_MEMORY, or
 * IDEM_ERR_MISUSE (size not set; members of a later version that this library does not know). */
IDEM_API idem_error idem_open(const idem_options *options, idem_client **client);
/* Closes and frees, and with it the last reply. NULL is fine. */
IDEM_API void idem_close(idem_client *client);
/* The address in use. Good as long as the client. */
IDEM_API const char *idem_address(const idem_client *client);

/* ---- What calls are made of --------------------------------------------------- */

/* Names one operation. namespace_ and caller NULL: the client's. */
typedef struct idem_operation_id {
    const char *namespace_; /* 1..64 bytes */
    const char *caller;     /* 0..128 bytes: the tenant, account or user the key belongs to */
    const char *key;        /* 1..255 bytes: the idempotency key */
} idem_operation_id;

typedef enum idem_state { IDEM_ABSENT = 0, IDEM_RUNNING = 1, IDEM_INTERRUPTED = 2, IDEM_DONE = 3 } idem_state;
typedef enum idem_kind {
    IDEM_SUCCEEDED = 1,
    IDEM_FAILED = 2
} idem_kind; /* FAILED is final too: a retry gets it back */

typedef struct idem_attribute {
    const char *name;
    idem_bytes value;
} idem_attribute;

typedef struct idem_outcome {
    idem_kind kind;
    int32_t code;                     /* the application's: an HTTP status, an exit code */
    const idem_attribute *attributes; /* at most 64, names and values 4 KiB together; over that they are dropped */
    size_t attribute_count;
    idem_bytes body; /* what does not fit a frame is dropped before it is sent, what is over the daemon's limit by it */
    bool body_dropped;
    uint64_t body_bytes; /* in a reply: the size it had */
    bool attributes_dropped;
} idem_outcome;

typedef struct idem_checkpoint {
    const char *name; /* 1..64 bytes; "" or NULL: there is none */
    idem_bytes data;  /* 0..64 KiB */
} idem_checkpoint;

typedef struct idem_grant {
    uint64_t fence;    /* hand it to what the operation changes, which refuses a lower one than it has seen */
    uint32_t lease_ms; /* from when the call was sent */
    uint32_t attempt;  /* 1 for the first; above that somebody before may have done it: look before you run */
    bool resumed;      /* this attempt held it already */
    idem_checkpoint checkpoint;
    idem_bytes input; /* what the first Begin gave, where attempt > 1 */
} idem_grant;

typedef struct idem_info {
    idem_state state;
    uint64_t revision;
    const char *operation;
    uint32_t attempt;
    const char *owner;
    const char *traceparent;
    uint64_t begun_ms, interrupted_ms, done_ms, expires_ms; /* Unix time; 0: not yet */
    uint32_t lease_left_ms;
    idem_kind kind;
    bool resolved;
    uint64_t replays;
} idem_info;

/* ---- Hello -------------------------------------------------------------------- */

typedef struct idem_hello_reply {
    const char *server;
    uint64_t instance, store_id, connection, now_ms;
    bool durable;
    uint32_t max_frame_bytes, max_outcome_bytes, max_wait_ms;
    uint64_t keep_ms, keep_min_ms, keep_max_ms; /* the namespace's policy */
    uint32_t lease_ms, grace_ms;
    int if_interrupted; /* an idem_if_interrupted */
} idem_hello_reply;

/* Connects where the client is not connected, and tells what the daemon said when it was: all calls do the first by
 * themselves.
 *
 * In all calls timeout_ms is the time from now in which everything has to happen. 0: the client's timeout_ms, and the
 * call's wait_ms on top. One that is given should leave room for the wait. */
IDEM_API idem_error idem_hello(idem_client *client, uint32_t timeout_ms, idem_hello_reply *reply);

/* ---- Begin --------------------------------------------------------------------- */

typedef enum idem_if_interrupted {
    IDEM_IF_INTERRUPTED_DEFAULT = 0, /* the namespace's policy */
    IDEM_REPORT = 1,                 /* answer INTERRUPTED, and let the caller decide */
    IDEM_TAKE_OVER = 2,              /* grant it again: the caller finds out first whether it took effect */
} idem_if_interrupted;

typedef enum idem_answer {
    IDEM_EXECUTE = 1,            /* run it: the caller owns the operation now */
    IDEM_REPLAY = 2,             /* it is done; outcome is what was stored */
    IDEM_ANSWER_RUNNING = 3,     /* another owner has it */
    IDEM_MISMATCH = 4,           /* the key belongs to another request */
    IDEM_ANSWER_INTERRUPTED = 5, /* its owner is gone; nobody knows whether it took effect */
    IDEM_EXPIRED = 6,            /* first sent too long ago to tell */
} idem_answer;

typedef struct idem_begin_request {
    idem_operation_id op;
    const char *operation;                /* 0..128 bytes: what is done, "POST /charges"; part of the match */
    idem_bytes fingerprint;               /* 0..64 bytes: digest of what is asked for; part of the match */
    const idem_bytes *other_fingerprints; /* at most 3 digests by older rules, which match too */
    size_t other_fingerprint_count;
    const uint8_t *attempt_id; /* 16 random bytes; NULL: the library makes them. See idem_begin */
    const char *owner;         /* NULL: the client's */
    uint32_t lease_ms;         /* 1 s .. 24 h; 0: the namespace's, which is 30 s where nobody set another */
    uint32_t wait_ms; /* how long to wait for another owner's outcome; any length: what is longer than the daemon's
                         longest is asked for in parts */
    idem_if_interrupted if_interrupted;
    uint64_t first_sent_ms;      /* Unix time at which this key was first sent; 0: not known */
    idem_bytes input;            /* 0..64 KiB: handed to whoever takes over */
    bool bind_to_connection;     /* the lease ends soon after this client is gone */
    uint64_t keep_ms;            /* how long the outcome is replayed; 0: the namespace's */
    uint64_t take_over_revision; /* not 0: take over only this very interruption */
    const char *traceparent;     /* W3C trace context, 0..64 bytes */
} idem_begin_request;

typedef struct idem_begin_reply {
    idem_answer answer;
    idem_grant grant;                            /* EXECUTE */
    idem_outcome outcome;                        /* REPLAY */
    const char *owner;                           /* RUNNING: who has it */
    uint32_t lease_left_ms, retry_after_ms;      /* RUNNING */
    bool operation_differs, fingerprint_differs; /* MISMATCH */
    idem_checkpoint checkpoint;                  /* INTERRUPTED: the last one */
    uint64_t window_now_ms, window_keep_ms;      /* EXPIRED */
    idem_info info;                              /* all but EXPIRED; for MISMATCH only state and times */
} idem_begin_reply;

/* Asks whether an operation may run. Only IDEM_OK with IDEM_EXECUTE is permission to.
 *
 * The attempt_id names this attempt: with it a grant whose answer was lost on the way is found again (`resumed`)
 * instead of being taken for another's. The library makes one for each call and keeps it while it sends the call again;
 * and where idem_begin returned an error of class IDEM_CLASS_UNKNOWN, the next idem_begin of this client for the same
 * op is the same attempt. So give one only where another client or process repeats a Begin that failed. Never give one
 * again once it has brought permission to run: whoever asks with it is told EXECUTE, attempt 1, as if nothing had been
 * run. */
IDEM_API idem_error idem_begin(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                               idem_begin_reply *reply);

/* ---- Calls of the owner --------------------------------------------------------- */

typedef enum idem_ownership {
    IDEM_HELD = 1,  /* the grant is current, and the call took effect, or had already */
    IDEM_LOST = 2,  /* a later grant owns the operation */
    IDEM_FINAL = 3, /* it is done, otherwise than this call says */
    IDEM_GONE = 4,  /* it is no more: released, forgotten, resolved or expired */
} idem_ownership;

typedef struct idem_complete_request {
    idem_operation_id op;
    uint64_t fence;
    idem_outcome outcome;
    uint64_t keep_ms, keep_body_ms; /* from now; 0: what Begin said; as long as the outcome */
} idem_complete_request;
typedef struct idem_complete_reply {
    idem_ownership ownership;
    idem_outcome outcome; /* FINAL: what is stored */
    uint64_t expires_ms;  /* HELD, FINAL: Unix time */
} idem_complete_reply;
/* Stores the outcome. HELD means that it is flushed. Never refused for its size. */
IDEM_API idem_error idem_complete(idem_client *client, const idem_complete_request *request, uint32_t timeout_ms,
                                  idem_complete_reply *reply);

typedef enum idem_effect {
    IDEM_EFFECT_UNKNOWN = 1,    /* it may have taken effect */
    IDEM_EFFECT_NONE_BY_ME = 2, /* this attempt did nothing */
    IDEM_EFFECT_NONE = 3,       /* no attempt did anything: the caller has checked */
} idem_effect;
typedef struct idem_release_request {
    idem_operation_id op;
    uint64_t fence;
    idem_effect effect;
} idem_release_request;
typedef struct idem_release_reply {
    idem_ownership ownership; /* GONE is success too */
    idem_state state;         /* HELD: what it is now: absent or interrupted */
} idem_release_reply;
/* Lets go without an outcome, and says what is known of the effect. */
IDEM_API idem_error idem_release(idem_client *client, const idem_release_request *request, uint32_t timeout_ms,
                                 idem_release_reply *reply);

typedef struct idem_renew_request {
    idem_operation_id op;
    uint64_t fence;
    uint32_t lease_ms; /* 0: as long as before */
} idem_renew_request;
typedef struct idem_renew_reply {
    idem_ownership ownership;
    uint32_t lease_ms; /* from when the call was sent */
} idem_renew_reply;
IDEM_API idem_error idem_renew(idem_client *client, const idem_renew_request *request, uint32_t timeout_ms,
                               idem_renew_reply *reply);

typedef struct idem_checkpoint_request {
    idem_operation_id op;
    uint64_t fence;
    idem_checkpoint checkpoint;
    uint32_t lease_ms; /* renews too; 0: as long as before */
} idem_checkpoint_request;
/* Stores how far it got, for whoever takes over, and renews. */
IDEM_API idem_error idem_checkpoint_store(idem_client *client, const idem_checkpoint_request *request,
                                          uint32_t timeout_ms, idem_renew_reply *reply);

/* ---- Looking, recovering, operating ----------------------------------------------- */

typedef struct idem_get_request {
    idem_operation_id op;
    uint32_t wait_ms; /* until it is done or absent; any length */
} idem_get_request;
typedef struct idem_get_reply {
    idem_info info;
    idem_outcome outcome;       /* DONE */
    idem_checkpoint checkpoint; /* RUNNING, INTERRUPTED */
} idem_get_reply;
/* Looks, and claims nothing. IDEM_ERR_NOT_FOUND where it is absent. */
IDEM_API idem_error idem_get(idem_client *client, const idem_get_request *request, uint32_t timeout_ms,
                             idem_get_reply *reply);

typedef struct idem_recover_request {
    const char *namespace_; /* NULL: the client's */
    const char *operation;  /* NULL: any */
    const char *owner;      /* NULL: the client's */
    uint32_t lease_ms;
    uint32_t limit;            /* 1..100; 0: 1. Of several, copy what is needed before the next call */
    uint32_t wait_ms;          /* for one to appear; any length */
    const uint8_t *attempt_id; /* as in idem_begin */
    bool bind_to_connection;
} idem_recover_request;
typedef struct idem_recovered {
    idem_operation_id op;
    idem_grant grant;
    idem_info info;
    idem_bytes fingerprint;
} idem_recovered;
typedef struct idem_recover_reply {
    const idem_recovered *operations;
    size_t count; /* 0: nothing is interrupted */
} idem_recover_reply;
/* Takes over what is interrupted in a namespace, longest interrupted first. */
IDEM_API idem_error idem_recover(idem_client *client, const idem_recover_request *request, uint32_t timeout_ms,
                                 idem_recover_reply *reply);

typedef enum idem_verdict { IDEM_HAPPENED = 1, IDEM_DID_NOT_HAPPEN = 2 } idem_verdict;
typedef struct idem_resolve_request {
    idem_operation_id op;
    uint64_t revision; /* what the operator looked at */
    idem_verdict verdict;
    idem_outcome outcome; /* HAPPENED */
    const char *reason;   /* 0..256 bytes, for the log */
} idem_resolve_request;
/* An operator's word on an interrupted operation. */
IDEM_API idem_error idem_resolve(idem_client *client, const idem_resolve_request *request, uint32_t timeout_ms,
                                 idem_complete_reply *reply);

typedef struct idem_forget_request {
    idem_operation_id op;
    uint64_t revision;
    const char *reason;
} idem_forget_request;
/* Removes a finished operation. *ownership: HELD or GONE. */
IDEM_API idem_error idem_forget(idem_client *client, const idem_forget_request *request, uint32_t timeout_ms,
                                idem_ownership *ownership);

typedef struct idem_list_request {
    const char *namespace_; /* NULL: every one */
    idem_state state;       /* IDEM_ABSENT: any */
    uint32_t limit;         /* 1..1000; 0: 100 */
    idem_bytes cursor;      /* of the last page's reply; empty: from the start */
} idem_list_request;
typedef struct idem_listed {
    idem_operation_id op;
    idem_info info;
} idem_listed;
typedef struct idem_list_reply {
    const idem_listed *operations;
    size_t count;
    idem_bytes cursor; /* empty: that was the last page. A page may be empty and have one */
} idem_list_reply;
IDEM_API idem_error idem_list(idem_client *client, const idem_list_request *request, uint32_t timeout_ms,
                              idem_list_reply *reply);

typedef struct idem_metric {
    const char *name, *help;
    const char *label_names[4], *label_values[4]; /* NULL: no more */
    double value;
} idem_metric;
typedef struct idem_stats_reply {
    const idem_metric *metrics;
    size_t count;
} idem_stats_reply;
/* What the daemon counts since its start. namespace_ NULL: of all. */
IDEM_API idem_error idem_stats(idem_client *client, const char *namespace_, uint32_t timeout_ms,
                               idem_stats_reply *reply);

/* ---- Running ------------------------------------------------------------------------ */

/* An operation that this client owns, while its callback runs. */
typedef struct idem_running idem_running;

/* What a callback says of what it did. */
typedef enum idem_done {
    IDEM_DONE_SUCCEEDED = 1, /* it took effect; *outcome is kept and given to everyone who asks */
    IDEM_DONE_FAILED = 2,    /* it failed for good; *outcome is kept likewise */
    IDEM_DONE_NOTHING = 3,   /* this attempt did nothing; it may be run again */
    IDEM_DONE_UNKNOWN = 4,   /* it may have taken effect: the operation is left interrupted */
} idem_done;

/* Runs the operation. Fills *outcome (kind is set by what it returns); what that points to stays good until idem_run
 * returns, and for as long as the caller reads reply->outcome. It may make other calls with the client; those for this
 * operation go through `running`. It must not close the client. */
typedef idem_done idem_callback(idem_running *running, idem_outcome *outcome, void *user);

/* Good until the callback returns. Where the attempt is above 1, somebody may have done it before: look before you run.
 */
IDEM_API uint64_t idem_running_fence(const idem_running *running);
IDEM_API uint32_t idem_running_attempt(const idem_running *running);
IDEM_API idem_checkpoint idem_running_checkpoint(const idem_running *running);
IDEM_API idem_bytes idem_running_input(const idem_running *running);
/* How much of the lease is left for certain, in ms: counted from when Begin or the last renewal was sent. After a Begin
 * that waited this may be little or 0, though the daemon counts from its answer: idem_running_renew makes it known. */
IDEM_API uint32_t idem_running_lease_left_ms(const idem_running *running);
/* Renews the lease, or stores a checkpoint and renews. IDEM_OK with *ownership other than IDEM_HELD: stop, somebody
 * else has it. */
IDEM_API idem_error idem_running_renew(idem_running *running, idem_ownership *ownership);
IDEM_API idem_error idem_running_store(idem_running *running, const char *name, idem_bytes data,
                                       idem_ownership *ownership);

typedef struct idem_run_reply {
    idem_begin_reply begin;   /* how it began. Where its answer is not IDEM_EXECUTE nothing was run */
    bool ran;                 /* the callback was called */
    idem_ownership ownership; /* of the Complete or Release after it; 0 where there was no answer to it */
    idem_outcome outcome; /* REPLAY: what was stored. Run and completed: what the callback gave where ownership is HELD,
                             what is stored where it is FINAL; else kind is 0: there is none */
} idem_run_reply;

/* Begin, the callback where it may run, then Complete or Release. timeout_ms is for each of the calls. *reply is always
 * filled in, and all zero where nothing is known.
 *
 * IT DOES NOT RENEW THE LEASE while the callback runs, because the library starts no thread. A lease lasts as long as
 * request->lease_ms says, or, if that is 0, as long as the namespace's policy says: 30 s unless the daemon was started
 * with another --lease (idem_hello tells). It counts from when Begin was sent. A callback that may take longer asks for
 * a longer lease, or calls idem_running_renew (or idem_running_store) in time, say whenever a third of it has passed.
 * When the lease ends while the callback runs, the operation is interrupted: another caller may take it over and run
 * it at the same time, and what this callback did is then not stored (ownership LOST, FINAL or GONE).
 *
 *  - IDEM_OK, not ran: reply->begin.answer says why: REPLAY, RUNNING, MISMATCH, INTERRUPTED, EXPIRED.
 *  - IDEM_OK, ran, ownership HELD: its outcome is stored (or it was released, as the callback said).
 *  - IDEM_OK, ran, another ownership: it was run, but somebody else had decided the operation: LOST, FINAL, GONE.
 *  - IDEM_ERR_NOT_STORED, always ran: whether anything is stored is unknown, and idem_message says why. It may have
 *    taken effect: begin again with the same key to find out.
 *  - Any other error: nothing was run. */
IDEM_API idem_error idem_run(idem_client *client, const idem_begin_request *request, uint32_t timeout_ms,
                             idem_callback *callback, void *user, idem_run_reply *reply);

/* ---- Keys and fingerprints ------------------------------------------------------------ */

enum { IDEM_KEY_CHARS = 37, IDEM_FINGERPRINT_BYTES = 32 }; /* a UUID in text, with its NUL; a SHA-256 digest */

/* Make a key. v7: ordered by time (RFC 9562, 5.7; its 12 bits after the milliseconds count on). v4: random. named: the
 * same for the same name (RFC 9562, 5.5), in the namespace b70a9d5e-2c41-4e0f-9a63-1d8e57f2c036. Any thread. */
IDEM_API idem_error idem_key_v7(char key[IDEM_KEY_CHARS]);
IDEM_API idem_error idem_key_v4(char key[IDEM_KEY_CHARS]);
IDEM_API idem_error idem_key_named(const void *name, size_t size, char key[IDEM_KEY_CHARS]);

/* A digest of what a request asks for: SHA-256 over labelled parts, each with its lengths, so that ("ab","c") and
 * ("a","bc") differ. Format: for each part the label's length (8 bytes, big-endian), the label, the value's length, the
 * value. A part that cannot be read (NULL with a size) is IDEM_ERR_MISUSE, and so is final then: there is no digest of
 * something else. After final it is to be initialised again. Any thread. */
typedef struct idem_fingerprint {
    uint64_t state[31]; /* the library's */
    uint64_t bad;
} idem_fingerprint;
IDEM_API idem_error idem_fingerprint_init(idem_fingerprint *fingerprint);
IDEM_API idem_error idem_fingerprint_add(idem_fingerprint *fingerprint, const char *label, const void *value,
                                         size_t size);
IDEM_API idem_error idem_fingerprint_final(idem_fingerprint *fingerprint, uint8_t digest[IDEM_FINGERPRINT_BYTES]);

#ifdef __cplusplus
}
#endif

#endif
