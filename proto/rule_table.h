/* The table of limits: what each field of each message in a Request may hold.
 *
 * One struct rule_message a message, one struct rule a field, in the order of the field numbers, which is that of
 * protobuf-c's descriptors: the rule of descriptor->fields[i] is rules[i]. The same message has two tables where its
 * place decides (an Outcome in a Complete needs its kind, one in a Resolve only with HAPPENED).
 *
 * A field's path ("begin.op.key") is the names from Request down to it, without Request. */
#ifndef IDEM_PROTO_RULE_TABLE_H
#define IDEM_PROTO_RULE_TABLE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

enum {
    RULE_FIELDS_MAX = 16, /* of one message in a Request; Request itself has that many */
};

#define RULE_ANY   UINT64_MAX /* most: whatever its type can say */
#define RULE_TIMES UINT32_MAX /* times_max: as often as it likes */

/* What else the scan has to do with a field than to hold it against its limits. */
enum rule_note {
    RULE_PLAIN,
    RULE_ID,             /* the Request's own: 0 makes it no Request */
    RULE_CALL,           /* one of the oneof: only one of all these may stand */
    RULE_KEEP,           /* its range is that of struct scan_limits, or 0 */
    RULE_VERDICT,        /* of a Resolve: decides whether an outcome must be there */
    RULE_OUTCOME,        /* its attributes may have to be taken out of it */
    RULE_KIND,           /* the outcome's */
    RULE_ATTRIBUTE,      /* counted, and in the digest */
    RULE_ATTRIBUTE_PART, /* its bytes are counted */
};

struct rule {
    const char *name; /* as in idem.proto */
    uint64_t least;   /* string and bytes: of their length in bytes; a number or enum: of its value */
    uint64_t most;
    uint32_t times_max; /* how often it may stand; 0: it is singular, so once */
    bool or_none;       /* 0 bytes, or the number 0, pass beside what lies between least and most */
    bool required;      /* it must stand there */
    enum rule_note note;
    const struct rule_message *message; /* of a field that is a message: its own table; else NULL */
};

struct rule_message {
    const ProtobufCMessageDescriptor *descriptor;
    const struct rule *rules; /* fields of them */
    uint8_t fields;           /* descriptor->n_fields */
    uint8_t required;         /* how many of them say so */
    uint8_t dense, skipped;   /* their numbers: 1 .. dense, and on from dense + skipped + 1 without a gap */
};

/* Where the field of this number stands in rules and in descriptor->fields; `fields` where it is unknown. number >= 1.
 * It comes from the number alone, with no search. */
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
    assert(message->descriptor->fields[index].id == number);
    return index;
}

extern const struct rule_message rule_table_request;

#endif
