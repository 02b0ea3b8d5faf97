/* The calls: one table says what each needs and who answers it. The service takes a connection's frames, has the engine
 * decide, and lets each answer go when what it states is durable. A session is one connection to it. Loop thread only.
 */
#ifndef IDEMD_SERVICE_H
#define IDEMD_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/server/held.h"
#include "daemon/server/peer.h"
#include "daemon/server/response.h"
#include "daemon/store/store.h"
#include "daemon/base/table.h"

struct service;

/* Embedded in its owner; opened by service_session_open. */
struct session {
    struct party party; /* first member */
    struct service *service;
    uint64_t connection; /* HelloResponse.connection: never given twice */
    struct table_entry by_connection;
    struct held_owner held; /* answers that wait for the disk */
    uint32_t open_calls;    /* read and not yet answered */
    bool greeted;
};

/* What the service needs of whoever owns the sockets. None of them may call the service. */
struct service_outlet {
    /* Sends an answer: its head is copied, what is shared held as long as needed. */
    void (*send)(void *context, struct session *session, const struct response *response);
    /* Another connection replaces this one: nothing more is read of it, and it is closed. */
    void (*drop)(void *context, struct session *session);
    /* As peer_is_alive, peer_describe. */
    bool (*alive)(void *context, struct session *session);
    void (*peer)(void *context, struct session *session, char text[PEER_BYTES]);
    /* What the sockets count, for Stats. */
    void (*count)(void *context, uint64_t *connections, uint64_t *buffered_bytes);
    void *context;
};

struct service_options {
    struct store *store;
    struct policy policy; /* of every namespace */
    uint64_t unfinished_max;
    uint32_t namespace_share; /* as in struct engine_options */
    struct service_outlet outlet;
};

/* NULL: *error says why. */
struct service *service_open(const struct service_options *options, const struct now *now, struct failure *error);
void service_close(struct service *service); /* NULL is fine; sessions are closed before */

void service_session_open(struct service *service, struct session *session);
/* The input of its connection ended: what it parked is withdrawn. Other calls are still answered. */
void service_session_input_ended(struct session *session, const struct now *now);
/* The connection is gone; answers to it are dropped. */
void service_session_close(struct session *session, const struct now *now);

/* Messages (frames without their headers) that came together are read together before the first of them is decided, so
 * that what they will look at in memory is fetched for all of them at once. Reading has no effect that can be seen: a
 * message that was read and not decided can be read again. */
enum { SERVICE_READ_MAX = PREFETCH_MAX };
struct service_message {
    uint8_t *data; /* may be changed */
    uint32_t size;
};
/* Reads up to SERVICE_READ_MAX messages, in place of those that were read before. */
void service_read(struct service *service, const struct service_message *messages, unsigned count);
/* Decides the message of that number of those that were read. read_ms: boot time at which it was read from the socket.
 * False: it was no Request; the answer that says so was sent, and the connection is to be closed after it. */
bool service_decide(struct session *session, unsigned number, uint64_t read_ms, const struct now *now);
/* Is that message a call about one operation, as most are? Those are decided in microseconds. Any other may take far
 * longer: List, Stats, and what has to be unpacked. */
bool service_is_brief(const struct service *service, unsigned number);
/* No more of those that were read will be decided; their data may go. */
void service_read_end(struct service *service);
/* The largest message it takes, which a frame may announce. */
uint32_t service_message_bytes_max(const struct service *service);
/* Says that a frame could not be read (id 0). The connection is to be closed after it. */
void service_bad_frame(struct session *session, const char *message);

/* Says that there is no room for the rest of its frame (id 0, UNAVAILABLE). The connection is to be closed after it. */
void service_no_memory(struct session *session);

/* For Stats and the log; see notes.h. */
void service_reader_dropped(struct service *service, uint64_t unsent_bytes, const struct now *now);
void service_idle_closed(struct service *service, uint64_t connections, const struct now *now);
/* Is a lease bound to its connection? Then it is not idle. */
bool service_session_is_bound(const struct session *session);

/* Once a turn, after all messages; see engine_turn. */
uint64_t service_turn(struct service *service, const struct now *now, uint64_t seen_ms, const struct clock_mark *mark);
/* Opening took that long: running leases count from now. */
void service_loaded(struct service *service, uint64_t took_ms);
/* A turn of the loop took that long, for Stats. */
void service_turned(struct service *service, uint64_t took_ns);
void service_stalled(struct service *service, uint64_t stalled_ms);
/* What store_poll said: lets answers go. */
void service_stored(struct service *service, const struct store_event *event, const struct now *now);
/* Answers everything that waits with UNAVAILABLE. */
void service_drain(struct service *service);
/* Bytes of answers that wait for the disk. */
uint64_t service_held_bytes(const struct service *service);

#endif
