/* The limits of idem.v1, inclusive, as PROTOCOL.md states them. Both sides know them. */
#ifndef IDEM_PROTO_LIMITS_H
#define IDEM_PROTO_LIMITS_H

enum {
    /* Names: each a byte count. */
    IDEM_NAMESPACE_BYTES_MAX = 64,
    IDEM_CALLER_BYTES_MAX = 128,
    IDEM_KEY_BYTES_MAX = 255,
    IDEM_OPERATION_BYTES_MAX = 128,
    IDEM_FINGERPRINT_BYTES_MAX = 64,
    IDEM_OTHER_FINGERPRINTS_MAX = 3,
    IDEM_ATTEMPT_ID_BYTES = 16,
    IDEM_OWNER_BYTES_MAX = 128,
    IDEM_TRACEPARENT_BYTES_MAX = 64,
    IDEM_CHECKPOINT_NAME_BYTES_MAX = 64,
    IDEM_CLIENT_BYTES_MAX = 64,
    IDEM_TOKEN_BYTES_MAX = 1024,
    IDEM_REASON_BYTES_MAX = 256,
    IDEM_CURSOR_BYTES_MAX = 64,

    /* Values. */
    IDEM_INPUT_BYTES_MAX = 64 * 1024,
    IDEM_CHECKPOINT_BYTES_MAX = 64 * 1024,
    IDEM_ATTRIBUTES_MAX = 64,              /* of one outcome */
    IDEM_ATTRIBUTES_BYTES_MAX = 4 * 1024,  /* their names and values together */
    IDEM_BODY_BYTES_DEFAULT = 1024 * 1024, /* an outcome's body */
    IDEM_BODY_BYTES_LEAST = 64 * 1024,     /* the range it can be set to */
    IDEM_BODY_BYTES_MOST = 16 * 1024 * 1024,

    /* Frames: the largest body and this much for everything around it. */
    IDEM_FRAME_HEADER_BYTES = 5,
    IDEM_FRAME_OVERHEAD_BYTES = 256 * 1024,
    IDEM_UNKNOWN_FIELDS_MAX = 16, /* in one message */

    /* Times, in milliseconds. */
    IDEM_LEASE_MS_MIN = 1000,
    IDEM_LEASE_MS_MAX = 24 * 3600 * 1000,
    IDEM_LEASE_MS_DEFAULT = 30 * 1000,
    IDEM_GRACE_MS_DEFAULT = 5 * 1000,
    IDEM_WAIT_MS_MAX = 60 * 1000,
    IDEM_KEEP_MS_MIN = 1000,
    IDEM_KEEP_MS_DEFAULT = 24 * 3600 * 1000,

    /* Waiting and pages. */
    IDEM_WAITERS_PER_OPERATION_MAX = 1024,
    IDEM_WAITERS_MAX = 10 * 1000,
    IDEM_WAITERS_PER_CONNECTION_MAX = 256,
    IDEM_WAITERS_BYTES_MAX = 64 * 1024 * 1024,
    IDEM_OPEN_CALLS_MAX = 1024,              /* of one connection */
    IDEM_UNFINISHED_MAX = 100 * 1000 * 1000, /* what a daemon can be set to; its default is a million */
    IDEM_RECOVER_MAX = 100,
    IDEM_LIST_DEFAULT = 100,
    IDEM_LIST_MAX = 1000,

    IDEM_TCP_PORT = 4336,
};

#define IDEM_KEEP_MS_MAX (90ull * 24 * 3600 * 1000)
#define IDEM_FENCE_MAX   ((1ull << 53) - 1)
#define IDEM_UNIX_SOCKET "/run/idemd/idemd.sock"

_Static_assert(IDEM_BODY_BYTES_LEAST <= IDEM_BODY_BYTES_DEFAULT, "the default is in its range");
_Static_assert(IDEM_BODY_BYTES_DEFAULT <= IDEM_BODY_BYTES_MOST, "the default is in its range");
_Static_assert(IDEM_FRAME_OVERHEAD_BYTES >=
                   IDEM_INPUT_BYTES_MAX + IDEM_CHECKPOINT_BYTES_MAX + IDEM_ATTRIBUTES_BYTES_MAX + 16384,
               "whatever goes with a body fits beside it");

#endif
