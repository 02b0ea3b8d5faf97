/* The library's inside: a client, its connection, and one call's way over it. */
#ifndef IDEM_CLIENT_CLIENT_H
#define IDEM_CLIENT_CLIENT_H

#include <sys/types.h>

#include "client/idem.h"
#include "client/session.h"
#include "idem/v1/idem.pb-c.h"
#include "proto/limits.h"

/* An attempt whose answer was lost. The same call again is the same attempt, so that a grant made unseen is found. */
struct attempt {
    bool open;
    uint8_t id[IDEM_ATTEMPT_ID_BYTES];
    uint8_t of[IDEM_FINGERPRINT_BYTES]; /* digest of what it was an attempt at */
};

/* What a reply points to. */
struct reply_memory {
    Idem__V1__Response *response;
    void *made; /* for it: arrays of public structs */
};

struct idem_client {
    char *address, *namespace_, *caller, *client, *token, *owner;
    uint32_t timeout_ms;
    pid_t pid; /* that opened it */
    int fd;    /* -1: not connected */
    struct session session;
    uint64_t connection; /* of the connection we have */
    uint64_t given_up;   /* one on which a call may still be unread: the next Hello replaces it */
    uint64_t next_id;
    uint64_t sent_ms;                      /* when the copy that was answered last was sent */
    uint32_t backoff;                      /* failures in a row, of one call */
    uint32_t max_frame_bytes, max_wait_ms; /* as Hello told; 0: not yet */
    uint64_t seed;                         /* of the jitter */
    struct attempt begun, recovered;
    Idem__V1__Response *response; /* the last reply, and what was made for it */
    void *reply_memory;
    struct reply_memory before; /* the reply before it: the request under way may point into it */
    Idem__V1__Response *hello;
    ProtobufCAllocator allocator;
    bool no_memory; /* the allocator had none since this was last cleared */
    bool greeting;  /* Hello is under way: the other side has not shown yet that it is idemd */
    char message[512], reason[64], field[64];
    uint32_t retry_after_ms;
};

/* ---- error.c ---- */

/* What idem_message(NULL) says from now on in this thread. address: for IDEM_ERR_ADDRESS; not NULL then. */
void client_opened(idem_error error, const char *address);

/* Sets the last error's texts; returns it. message may be NULL. */
idem_error client_fail(idem_client *client, idem_error error, const char *message);
/* The same of what the other side did; its address is put in front. */
idem_error client_fail_there(idem_client *client, idem_error error, const char *message);
/* The same of a Response's status that is not OK. */
idem_error client_fail_status(idem_client *client, const Idem__V1__Status *status);
/* Forgets them. */
void client_forget_error(idem_client *client);

/* ---- client.c ---- */

/* The start of every call: forgets the last error, and puts the last reply aside until client_end_call. */
void client_begin_call(idem_client *client);
/* The end of every call: what was put aside goes, and on an error all else. Returns error. */
idem_error client_end_call(idem_client *client, idem_error error);
/* Takes the last reply from the client, so that it outlives the calls that follow, until client_free_reply. */
struct reply_memory client_take_reply(idem_client *client);
void client_free_reply(idem_client *client, struct reply_memory *memory);
/* When a call that starts now has to be over (CLOCK_MONOTONIC, ms). */
uint64_t client_deadline(const idem_client *client, uint32_t timeout_ms, uint32_t wait_ms);
/* Connects where there is no connection, Hello included; tries again until the deadline. */
idem_error client_connect(idem_client *client, uint64_t deadline_ms);
/* Sends a call, again where it must, and receives its answer, which is then client->response: OK and with a result of
 * this call. The request's id and timeout_ms are filled in here; its wait_ms, of any length, is asked for in parts; the
 * body of its outcome is dropped where no frame can carry it. */
idem_error client_exchange(idem_client *client, Idem__V1__Request *request, uint64_t deadline_ms);
/* Memory that goes with the reply, cleared. NULL: no memory. */
void *client_reply_memory(idem_client *client, size_t size);
/* How many bytes a Request of this client may have. */
uint32_t client_message_bytes_max(const idem_client *client);

#endif
