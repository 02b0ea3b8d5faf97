/* From a Request's bytes to a struct call: what the engine understands. Generated protobuf types come in here and do
 * not go on. What scan.h lets pass has its limits checked already; here is what depends on the daemon's settings. */
#ifndef IDEMD_REQUEST_H
#define IDEMD_REQUEST_H

#include "daemon/server/arena.h"
#include "daemon/engine/rules.h"
#include "idem/v1/idem.pb-c.h"
#include "proto/scan.h"

/* Unpacks a scanned message, whose attributes are taken out where they have to be, into the arena. NULL: it does not
 * unpack, which the scan should have seen. */
Idem__V1__Request *request_unpack(struct arena *arena, const uint8_t *data, size_t size);

/* Makes a call of it; Hello and Stats, which are the service's own, excepted. Views point into the request and the
 * arena. `policy` is the namespace's. */
void request_to_call(struct arena *arena, const Idem__V1__Request *request, const struct scan_result *scan,
                     const struct policy *policy, struct call *call);

/* ---- An outcome, however its bytes were read ---- */

/* As it was sent. */
struct request_outcome {
    uint8_t kind;
    int32_t code;
    bool body_dropped, attributes_dropped;
    uint64_t body_bytes;
    struct bytes body;
    struct bytes body_field; /* the bytes of the body with tag and length, where they are at hand; else empty */
};

/* Fills all of call->outcome but the attributes. */
void request_set_outcome(struct arena *arena, const struct request_outcome *sent, const struct scan_result *scan,
                         struct call *call);
/* Writes an attribute in the form in which it is stored; returns the end of it. */
uint8_t *request_put_attribute(uint8_t *out, struct bytes name, struct bytes value);

#endif
