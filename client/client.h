/* The library's inside: a client, its connection, and one call's way over it. */
#ifndef IDEM_CLIENT_CLIENT_H
#define IDEM_CLIENT_CLIENT_H

#include "client/idem.h"
#include "client/session.h"
#include "idem/v1/idem.pb-c.h"

struct idem_client {
    char *address, *namespace_, *caller, *client, *token, *owner;
    uint32_t timeout_ms;
    int fd; /* -1: not connected */
    struct session session;
    uint64_t connection; /* of the connection we have */
    uint64_t given_up;   /* one on which a call may still be unread: the next Hello replaces it */
    uint64_t next_id;
    uint32_t backoff;                      /* failures in a row */
    uint32_t max_frame_bytes, max_wait_ms; /* as Hello told; 0: not yet */
    uint64_t seed;                         /* of the jitter */
    /* The last reply, and what was made for it. */
    Idem__V1__Response *response;
    Idem__V1__Response *hello;
    void *reply_memory;
    char message[256], reason[64], field[64];
    uint32_t retry_after_ms;
};

/* Sets the last error's texts; returns it. message may be NULL. */
idem_error client_fail(idem_client *client, idem_error error, const char *message);
/* Forgets the last reply and error: the start of every call. */
void client_begin_call(idem_client *client);
/* When a call that starts now has to be over (CLOCK_MONOTONIC, ms). */
uint64_t client_deadline(const idem_client *client, uint32_t timeout_ms, uint32_t wait_ms);
/* Connects where there is no connection, Hello included. */
idem_error client_connect(idem_client *client, uint64_t deadline_ms);
/* Sends a call, again where it must, and receives its answer, which is then client->response: OK and with a result of
 * this call. The request's id and timeout_ms are filled in here. */
idem_error client_exchange(idem_client *client, Idem__V1__Request *request, uint64_t deadline_ms);
/* Memory that goes with the reply. NULL: no memory. */
void *client_reply_memory(idem_client *client, size_t size);
/* How many bytes a Request of this client may have. */
uint32_t client_message_bytes_max(const idem_client *client);

#endif
