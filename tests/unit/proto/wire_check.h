/* Holds what protobuf-c unpacks of a Request against its bytes and against the limits, by code that shares nothing with
 * the scan. Every disagreement is a failed assert. For unit tests and the fuzzer. */
#ifndef IDEM_TESTS_WIRE_CHECK_H
#define IDEM_TESTS_WIRE_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "proto/scan.h"

/* Scans a copy of the bytes. What passes is unpacked and checked; what does not must be left as it was. */
enum scan_verdict wire_check(const uint8_t *data, size_t size, struct scan_result *result);

/* The limits that it scans with. */
extern const struct scan_limits wire_limits;

#endif
