/* The calls that are nearly all of the traffic (Begin, Complete, Renew, Get), from a scanned message straight to a
 * struct call, with nothing unpacked or copied in between. It gives what request.h gives of the same bytes. */
#ifndef IDEMD_REQUEST_WIRE_H
#define IDEMD_REQUEST_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/server/arena.h"
#include "daemon/engine/rules.h"
#include "proto/scan.h"

/* Makes a call of what scan_request passed with *scan, and tells Request.timeout_ms. Views point into what was scanned
 * and the arena; attributes that are not to be kept are left out. `policy` is the namespace's. False: it is another
 * call. */
bool request_wire_read(struct arena *arena, const struct scan_result *scan, const struct policy *policy,
                       struct call *call, uint32_t *timeout_ms);

#endif
