/* The table of limits: what each field of each message in a Request may hold.
 *
 * One struct rule_message a message, one struct rule a field, in the order of the field numbers, which is that of
 * protobuf-c's descriptors: the rule of descriptor->fields[i] is rules[i]. The same message has two tables where its
 * place decides (an Outcome in a Complete needs its kind, one in a Resolve only with HAPPENED).
 *
 * A field's path ("begin.op.key") is the names from Request down to it, without Request. */
#ifndef IDEM_PROTO_RULE_TABLE_H
#define IDEM_PROTO_RULE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

enum {
    RULE_FIELDS_MAX = 16, /* of one message in a Request; Request itself has that many */
};

#define RULE_ANY   UINT64_MAX /* most: whatever its type can say */
#define RULE_TIMES UINT32_MAX /* times_max: as often as it likes */

/* What a field is declared as, as far as the scan tells types apart. The low three bits are how it is written on the
 * wire (protobuf's encoding guide); the test of the limits holds each against its descriptor. */
enum rule_type {
    RULE_NUMBER = 0,    /* uint64, an enum, bool */
    RULE_SHORT = 8 | 0, /* uint32, sint32: protobuf-c would cut what is longer */
    RULE_FIXED = 1,     /* fixed64 */
    RULE_BYTES = 2,
    RULE_TEXT = 8 | 2,   /* string */
    RULE_NESTED = 16 | 2 /* a message */
};

static inline uint32_t rule_wire_type(enum rule_type type)
{
    return (uint32_t)type & 7;
}

/* What else the scan has to do with a field than to hold it against its limits. */
enum rule_note {
    RULE_PLAIN,
    RULE_CALL,           /* one of the oneof: only one of all these may stand */
    RULE_KEEP,           /* its range is that of struct scan_limits, or 0 */
    RULE_ATTRIBUTE,      /* counted, and in the digest */
    RULE_ATTRIBUTE_PART, /* its bytes are counted */
};

struct rule {
    uint64_t least; /* string and bytes: of their length in bytes; a number or enum: of its value */
    uint64_t most;
    const struct rule_message *message; /* of a field that is a message: its own table; else NULL */
    uint8_t type;                       /* enum rule_type */
    uint8_t note;                       /* enum rule_note */
    bool or_none;                       /* 0 bytes, or the number 0, pass beside what lies between least and most */
    bool required;                      /* it must stand there */
    uint32_t times_max; /* how often it may stand; 0: it is singular, so once. At most one field of a message has it */
    const char *name;   /* as in idem.proto */
};

struct rule_message {
    const ProtobufCMessageDescriptor *descriptor;
    const struct rule *rules; /* fields of them */
    uint16_t required;        /* which of them say so: a bit each */
    uint8_t fields;           /* descriptor->n_fields */
    uint8_t dense, skipped;   /* their numbers: 1 .. dense, and on from dense + skipped + 1 without a gap */
    uint8_t kept;             /* enum scan_message: where the scan leaves what it saw */
};

/* Where the field of this number stands in rules and in descriptor->fields; `fields` where it is unknown. number >= 1.
 * It comes from the number alone, with no search; a test holds it against the descriptor. */
static inline uint32_t rule_index(const struct rule_message *message, uint32_t number)
{
    uint32_t index = number - 1;

    if (index >= message->dense) {
        if (index < (uint32_t)message->dense + message->skipped)
            return message->fields;
        index -= message->skipped;
    }
    if (index >= message->fields)
        return message->fields;
    return index;
}

extern const struct rule_message rule_table_request;

#endif
