/* A look at a Request's bytes before anything is unpacked from them.
 *
 * protobuf-c allocates for every field it meets (a hostile frame of 1 MiB costs it half a million allocations) and
 * keeps no length of a string, so "ab\0cd" would become "ab". So each message is walked first, by its descriptor:
 * wire types, how often a field stands, how long it is, UTF-8, no U+0000, unknown fields, ranges of numbers. What
 * passes is small in everything but its values, and says what it seems to say.
 *
 * Pure: no allocation, no state. Thread-safe. */
#ifndef IDEM_PROTO_SCAN_H
#define IDEM_PROTO_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scan_verdict {
    SCAN_OK,
    SCAN_NOT_A_REQUEST, /* malformed bytes, or id 0: answer with id 0 and INVALID_ARGUMENT, close the connection */
    SCAN_INVALID,       /* INVALID_ARGUMENT for this Request; field and message say what */
    SCAN_UNIMPLEMENTED, /* its call is a field that this daemon does not know */
};

/* Limits that the daemon's options can move. */
struct scan_limits {
    uint64_t keep_ms_min, keep_ms_max; /* of BeginRequest.keep_ms; 0 is always allowed */
};

/* The messages of a Request whose fields are left for whoever reads on, so that nobody has to walk its bytes again. */
enum scan_message {
    SCAN_REQUEST,
    SCAN_CALL,    /* the message of its call */
    SCAN_OP,      /* the call's OperationId */
    SCAN_OUTCOME, /* the call's Outcome */
    SCAN_OTHER,   /* any that is nested deeper: the last, of use to nobody */
    SCAN_MESSAGES,
};

enum { SCAN_FIELDS_MAX = 16 };

/* A field that stands there, the last where it stands more than once. */
struct scan_value {
    uint64_t value;       /* a number; of what has a length: that */
    const uint8_t *bytes; /* of what has a length: where it starts; of a varint: where that starts */
};

/* The fields of one message. What is not there is not filled. */
struct scan_fields {
    uint32_t there;                            /* a bit each */
    struct scan_value values[SCAN_FIELDS_MAX]; /* of those that the message declares, in order of their numbers */
};

struct scan_result {
    uint64_t id;       /* Request.id; 0 where there is none */
    uint32_t call;     /* the field number of the call in Request; 0 where there is none */
    char field[64];    /* the field's path, e.g. "begin.op.key"; empty where none is to blame */
    char message[160]; /* for a person: what was wrong, and the limit */
    /* Of the outcome of a Complete or Resolve, where SCAN_OK: what was sent, also where it was taken out. */
    uint64_t attributes_digest; /* XXH3-64 over each Attribute's bytes in order, each after its length (LE32); an
                                   outcome with none has that of no bytes; 0 where there is no outcome */
    uint32_t attributes_count;
    uint32_t attributes_bytes;          /* names and values together */
    bool attributes_dropped;            /* over IDEM_ATTRIBUTES_MAX or IDEM_ATTRIBUTES_BYTES_MAX: not to be kept */
    uint32_t outcome_at, outcome_bytes; /* where that outcome is in the message */
    /* Where SCAN_OK, by enum scan_message; they point into `data`. SCAN_OUTCOME says nothing of dropped attributes. */
    struct scan_fields messages[SCAN_MESSAGES];
};

/* Does the message have its field of this number? For all but SCAN_REQUEST, whose numbers have a gap. */
static inline bool scan_has(const struct scan_fields *fields, unsigned number)
{
    return fields->there >> (number - 1) & 1;
}

/* A field's value, 0 where it is not there. */
static inline uint64_t scan_number(const struct scan_fields *fields, unsigned number)
{
    return scan_has(fields, number) ? fields->values[number - 1].value : 0;
}

/* Scans one Request, data[0 .. size). Every limit is inclusive. Attributes over their limits are no error: a Complete
 * is never refused for what it carries. `result` is filled as far as known whatever is returned. */
enum scan_verdict scan_request(const uint8_t *data, size_t size, const struct scan_limits *limits,
                               struct scan_result *result);

/* Of a Request that passed with attributes_dropped: overwrites its attributes in place, with one unknown field of the
 * same size, so that what is left unpacks without them. */
void scan_take_out_attributes(uint8_t *data, const struct scan_result *result);

#endif
