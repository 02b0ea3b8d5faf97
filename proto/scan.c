/* The scan: one walk over a Request's bytes, guided by protobuf-c's descriptors and the rule table.
 *
 * scan_request() walks Request and what is nested in it, as deep as the schema goes and no deeper: a field whose
 * descriptor calls it a message is walked, an unknown one is stepped over. Two things can go wrong, and they are kept
 * apart. Bytes that are no protobuf end the walk at once: the frame is not a Request. A field against its rule is
 * noted, the first one only, and the walk goes on, since bytes further on may still show that this is no Request, and
 * the id may still come. So every byte is looked at a bounded number of times, and nothing is allocated. */
#include "proto/scan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Its streaming state can stand on the stack only where the header brings the code along. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "idem/v1/idem.pb-c.h"
#include "proto/limits.h"
#include "proto/rule_table.h"
#include "proto/wire.h"

enum {
    REQUEST_ID = 1,
    COMPLETE_OUTCOME = 3,
    RESOLVE_VERDICT = 3,
    RESOLVE_OUTCOME = 4,
    OUTCOME_KIND = 1,
    OUTCOME_ATTRIBUTES = 3,
    OUTCOME_FILLER = 15, /* no field of Outcome */
};

/* Where the walk stands: a message, and what it lies in, up to Request, which has no rule. Of a field that is no
 * message it is made when that is blamed. */
struct place {
    const struct place *above;
    const struct rule *rule;
};

struct walk {
    const uint8_t *start;
    const struct scan_limits *limits;
    struct scan_result *result;
    size_t broken_at;         /* the first byte of the field that is no protobuf */
    bool invalid;             /* result->field and result->message say why */
    uint32_t unknown_number;  /* the first unknown field of Request itself; 0: none */
    XXH3_state_t *attributes; /* their digest, begun with the first */
};

/* ---- Strings ---- */

/* How many bytes the character takes that starts text[0 .. size), 0 where that is none: the table of well-formed
 * sequences in the Unicode standard (no overlong ones, no surrogates, none above U+10FFFF), where only the second byte
 * has a range that depends on the first. */
static size_t character_bytes(const uint8_t *text, size_t size)
{
    uint8_t lead = text[0];
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;

    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4 || size < bytes || text[1] < least || text[1] > most)
        return 0;
    for (size_t i = 2; i < bytes; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return bytes;
}

#define EACH_BYTE(byte) (UINT64_MAX / 0xff * (byte))

/* Is none of the eight bytes 0 or beyond ASCII? What is subtracted borrows from no byte below the lowest that is 0. */
static bool word_is_plain(uint64_t word)
{
    return ((word | (word - EACH_BYTE(0x01))) & EACH_BYTE(0x80)) == 0;
}

static uint64_t load_word(const uint8_t *text)
{
    uint64_t word;

    memcpy(&word, text, sizeof(word));
    return word;
}

/* One to seven bytes as a word, in which some may stand twice, and what is no byte of them is plain. */
static uint64_t load_short(const uint8_t *text, size_t size)
{
    uint32_t first, last;

    if (size < sizeof(first))
        return EACH_BYTE(0x01) << 24 | text[0] | (uint64_t)text[size / 2] << 8 | (uint64_t)text[size - 1] << 16;
    memcpy(&first, text, sizeof(first));
    memcpy(&last, text + size - sizeof(last), sizeof(last));
    return first | (uint64_t)last << 32;
}

/* ASCII without U+0000, as nearly every text is: eight bytes at a time, the last eight over some that were looked at.
 */
static bool is_plain(const uint8_t *text, size_t size)
{
    if (size < sizeof(uint64_t))
        return size == 0 || word_is_plain(load_short(text, size));
    for (size_t at = 0; at + sizeof(uint64_t) < size; at += sizeof(uint64_t))
        if (!word_is_plain(load_word(text + at)))
            return false;
    return word_is_plain(load_word(text + size - sizeof(uint64_t)));
}

static bool is_utf8(const uint8_t *text, size_t size)
{
    size_t bytes;

    for (size_t at = 0; at < size; at += bytes) {
        bytes = character_bytes(text + at, size - at);
        if (bytes == 0)
            return false;
    }
    return true;
}

/* ---- Blame ---- */

/* Writes the path of `place` to out, and returns its length. As deep as the schema. */
static size_t put_path(const struct place *place, char *out, size_t room)
{
    size_t length;
    int added;

    out[0] = 0;
    if (place->rule == NULL)
        return 0;
    length = put_path(place->above, out, room);
    added = snprintf(out + length, room - length, "%s%s", length > 0 ? "." : "", place->rule->name);
    assert(added > 0 && (size_t)added < room - length);
    return length + (size_t)added;
}

/* Notes the first field that is against its rule; the format goes on after the field's path. */
__attribute__((cold, format(printf, 3, 4))) static void blame(struct walk *walk, const struct place *place,
                                                              const char *format, ...)
{
    struct scan_result *result = walk->result;
    va_list arguments;
    int length;

    if (walk->invalid)
        return;
    walk->invalid = true;
    put_path(place, result->field, sizeof(result->field));
    length =
        snprintf(result->message, sizeof(result->message), "%s ", result->field[0] != 0 ? result->field : "Request");
    assert(length > 0 && (size_t)length < sizeof(result->message));
    va_start(arguments, format);
    vsnprintf(result->message + length, sizeof(result->message) - (size_t)length, format, arguments);
    va_end(arguments);
}

/* The same where `field` is the whole path. */
static void blame_top(struct walk *walk, const char *field, const char *what)
{
    const struct rule rule = {.name = field};
    const struct place request = {NULL, NULL};
    const struct place place = {&request, &rule};

    blame(walk, &place, "%s", what);
}

/* ---- Rules ---- */

static uint64_t least_of(const struct walk *walk, const struct rule *rule)
{
    return rule->note == RULE_KEEP ? walk->limits->keep_ms_min : rule->least;
}

static uint64_t most_of(const struct walk *walk, const struct rule *rule)
{
    return rule->note == RULE_KEEP ? walk->limits->keep_ms_max : rule->most;
}

/* Is a number, or the length of what has one, in the field's range? */
static bool is_in_range(const struct walk *walk, const struct rule *rule, uint64_t value)
{
    return (value >= least_of(walk, rule) && value <= most_of(walk, rule)) || (value == 0 && rule->or_none);
}

__attribute__((cold)) static void blame_range(struct walk *walk, const struct place *place, uint64_t value,
                                              bool is_length)
{
    const struct rule *rule = place->rule;
    const uint64_t least = least_of(walk, rule), most = most_of(walk, rule);
    const char *verb = is_length ? "has" : "is";
    const char *unit = is_length ? " bytes" : "";
    const char *none = rule->or_none ? "0 or " : "";

    assert(least <= most);
    if (least == most)
        blame(walk, place, "%s %" PRIu64 "%s; it takes %s%" PRIu64, verb, value, unit, none, most);
    else
        blame(walk, place, "%s %" PRIu64 "%s; it takes %s%" PRIu64 " to %" PRIu64, verb, value, unit, none, least,
              most);
}

__attribute__((cold)) static void blame_string(struct walk *walk, const struct place *place, const uint8_t *text,
                                               size_t size)
{
    if (memchr(text, 0, size) != NULL)
        blame(walk, place, "holds U+0000");
    else
        blame(walk, place, "is not UTF-8");
}

static bool is_text(const uint8_t *text, size_t size)
{
    return is_plain(text, size) || (memchr(text, 0, size) == NULL && is_utf8(text, size));
}

__attribute__((cold)) static void blame_short(struct walk *walk, const struct place *place)
{
    blame(walk, place, "does not fit its 32 bits");
}

/* A field that is no message, in the one at `above`. */
static inline void check_value(struct walk *walk, const struct place *above, const struct rule *rule,
                               struct scan_value field)
{
    const struct place place = {above, rule};

    if (rule->type == RULE_SHORT && field.value > UINT32_MAX) /* protobuf-c would cut it */
        blame_short(walk, &place);
    if (field.value - rule->least > rule->most - rule->least && !is_in_range(walk, rule, field.value))
        blame_range(walk, &place, field.value, rule_wire_type(rule->type) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
    if (rule->type != RULE_TEXT || walk->invalid) /* nobody would hear of it */
        return;
    if (!is_text(field.bytes, (size_t)field.value))
        blame_string(walk, &place, field.bytes, (size_t)field.value);
}

__attribute__((cold)) static void blame_times(struct walk *walk, const struct place *place, uint32_t times)
{
    const struct rule *rule = place->rule;

    if (rule->times_max == 0)
        blame(walk, place, "stands twice; it may stand once");
    else
        blame(walk, place, "stands %" PRIu32 " times; it may stand %" PRIu32 " times", times, rule->times_max);
}

/* A field stands again: for the times-th time, where it may at all. The calls are counted together. */
static void check_again(struct walk *walk, const struct place *above, const struct rule *rule, uint32_t times)
{
    const struct place place = {above, rule};

    if (rule->note != RULE_CALL && times > rule->times_max)
        blame_times(walk, &place, times);
}

static void blame_missing(struct walk *walk, const struct place *place)
{
    const struct rule *rule = place->rule;
    const bool has_length = rule_wire_type(rule->type) == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;

    if (rule->message != NULL)
        blame(walk, place, "is missing");
    else
        blame(walk, place, "is missing; it takes %" PRIu64 " to %" PRIu64 "%s", rule->least, rule->most,
              has_length ? " bytes" : "");
}

__attribute__((cold)) static void blame_required(struct walk *walk, const struct place *above,
                                                 const struct rule_message *message, uint32_t there)
{
    for (unsigned i = 0; i < message->fields; i++) {
        const struct place place = {above, &message->rules[i]};

        if (place.rule->required && !(there >> i & 1))
            blame_missing(walk, &place);
    }
}

/* The length goes before the bytes, or "ab", "c" would give the digest of "a", "bc". */
static void add_attribute(struct walk *walk, struct scan_value field)
{
    uint8_t length[4];

    for (size_t i = 0; i < sizeof(length); i++)
        length[i] = (uint8_t)(field.value >> (8 * i));
    if (walk->result->attributes_count == 0)
        XXH3_64bits_reset(walk->attributes);
    XXH3_64bits_update(walk->attributes, length, sizeof(length));
    XXH3_64bits_update(walk->attributes, field.bytes, (size_t)field.value);
    walk->result->attributes_count++;
}

static void take_note(struct walk *walk, const struct rule *rule, uint32_t number, struct scan_value field)
{
    switch ((enum rule_note)rule->note) {
    case RULE_PLAIN:
    case RULE_KEEP:
        break;
    case RULE_CALL:
        if (walk->result->call == 0)
            walk->result->call = number;
        else
            blame_top(walk, "call", "stands twice; it may stand once");
        break;
    case RULE_ATTRIBUTE:
        add_attribute(walk, field);
        break;
    case RULE_ATTRIBUTE_PART:
        walk->result->attributes_bytes += (uint32_t)field.value;
        break;
    }
}

/* ---- The walk ---- */

static void step_over(struct walk *walk, const struct place *place, uint32_t number, uint32_t unknown)
{
    if (place->rule == NULL && walk->unknown_number == 0)
        walk->unknown_number = number;
    if (unknown > IDEM_UNKNOWN_FIELDS_MAX)
        blame(walk, place, "holds more than %d unknown fields", IDEM_UNKNOWN_FIELDS_MAX);
}

static bool is_broken_at(struct walk *walk, const uint8_t *at)
{
    walk->broken_at = (size_t)(at - walk->start);
    return false;
}

/* False where the bytes are no such message: no protobuf, or a known field written as another type. walk->broken_at
 * then says where. What it saw of each field is left in the result. */
static bool walk_message(struct walk *walk, const struct place *place, const struct rule_message *message,
                         struct scan_value bytes)
{
    struct scan_fields *fields = &walk->result->messages[message->kept];
    const uint8_t *const end = bytes.bytes + bytes.value;
    uint32_t there = 0, unknown = 0, again = 0;
    struct wire_field field;

    for (const uint8_t *at = bytes.bytes; at < end; at += field.size) {
        if (!wire_read(at, (size_t)(end - at), &field))
            return is_broken_at(walk, at);
        assert(field.size <= (size_t)(end - at));
        const uint32_t index = rule_index(message, field.number);
        if (index == message->fields) {
            step_over(walk, place, field.number, ++unknown);
            continue;
        }
        const struct rule *rule = &message->rules[index];
        const struct scan_value value = {field.value, field.bytes};
        if (field.type != rule_wire_type(rule->type))
            return is_broken_at(walk, at);
        if (there >> index & 1)
            check_again(walk, place, rule, rule->times_max > 0 ? ++again + 1 : 2);
        there |= 1u << index;
        fields->values[index] = value;
        if (rule->note != RULE_PLAIN)
            take_note(walk, rule, field.number, value);
        if (rule->message == NULL)
            check_value(walk, place, rule, value);
        else if (!walk_message(walk, &(struct place){place, rule}, rule->message, value))
            return false;
    }
    fields->there = there;
    if ((message->required & ~there) != 0)
        blame_required(walk, place, message, there);
    return true;
}

/* ---- What no single field can tell ---- */

/* HAPPENED needs the outcome, and its kind: what Begin will replay. */
static void check_resolve(struct walk *walk)
{
    const struct scan_fields *messages = walk->result->messages;

    if (walk->result->call != IDEM__V1__REQUEST__CALL_RESOLVE ||
        scan_number(&messages[SCAN_CALL], RESOLVE_VERDICT) != IDEM__V1__VERDICT__VERDICT_HAPPENED)
        return;
    if (!scan_has(&messages[SCAN_CALL], RESOLVE_OUTCOME))
        blame_top(walk, "resolve.outcome", "is missing; HAPPENED needs it");
    else if (scan_number(&messages[SCAN_OUTCOME], OUTCOME_KIND) == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_UNSPECIFIED)
        blame_top(walk, "resolve.outcome.kind", "is missing; HAPPENED needs it");
}

/* No call that is known: the client forgot it, or is newer than this daemon. */
static enum scan_verdict blame_call(struct walk *walk)
{
    char what[64];

    if (walk->unknown_number == 0) {
        blame_top(walk, "call", "is missing");
        return SCAN_INVALID;
    }
    snprintf(what, sizeof(what), "is not known here: it is field %" PRIu32, walk->unknown_number);
    blame_top(walk, "call", what);
    return SCAN_UNIMPLEMENTED;
}

/* What was found is forgotten: such a frame is not answered with an id that may not be one. */
static enum scan_verdict not_a_request(struct scan_result *result, const char *field, const char *why)
{
    memset(result, 0, sizeof(*result));
    snprintf(result->field, sizeof(result->field), "%s", field);
    snprintf(result->message, sizeof(result->message), "%s", why);
    return SCAN_NOT_A_REQUEST;
}

static enum scan_verdict is_broken(const struct walk *walk)
{
    char why[96];

    snprintf(why, sizeof(why), "these bytes are not a Request: what starts at byte %zu is malformed", walk->broken_at);
    return not_a_request(walk->result, "", why);
}

/* ---- Attributes over their limits ---- */

/* The outcome has passed the walk, so its fields read well. More than 64 attributes, or more than 4 KiB of them, leave
 * more room than a filler's head needs. */
void scan_take_out_attributes(uint8_t *data, const struct scan_result *result)
{
    uint8_t *outcome = data + result->outcome_at;
    struct wire_field field;
    size_t kept = 0;

    assert(result->attributes_dropped);
    for (size_t at = 0; at < result->outcome_bytes; at += field.size) {
        bool whole = wire_read(outcome + at, result->outcome_bytes - at, &field);

        assert(whole);
        if (field.number == OUTCOME_ATTRIBUTES)
            continue;
        memmove(outcome + kept, outcome + at, field.size);
        kept += field.size;
    }
    wire_put_filler(outcome + kept, result->outcome_bytes - kept, OUTCOME_FILLER);
}

/* The bytes of the call's outcome; NULL where there is none. */
static const struct scan_value *outcome_of(const struct scan_result *result)
{
    const struct scan_fields *call = &result->messages[SCAN_CALL];
    unsigned number = 0;

    if (result->call == IDEM__V1__REQUEST__CALL_COMPLETE)
        number = COMPLETE_OUTCOME;
    else if (result->call == IDEM__V1__REQUEST__CALL_RESOLVE)
        number = RESOLVE_OUTCOME;
    return number != 0 && scan_has(call, number) ? &call->values[number - 1] : NULL;
}

static void finish_outcome(struct walk *walk, const struct scan_value *outcome)
{
    struct scan_result *result = walk->result;

    result->outcome_at = (uint32_t)(outcome->bytes - walk->start);
    result->outcome_bytes = (uint32_t)outcome->value;
    result->attributes_digest =
        result->attributes_count > 0 ? XXH3_64bits_digest(walk->attributes) : XXH3_64bits("", 0);
    result->attributes_dropped =
        result->attributes_count > IDEM_ATTRIBUTES_MAX || result->attributes_bytes > IDEM_ATTRIBUTES_BYTES_MAX;
    if (result->attributes_dropped)
        result->messages[SCAN_OUTCOME].there &= ~(1u << (OUTCOME_ATTRIBUTES - 1));
}

/* Of the two strings, which are long, only the first byte. */
static void begin_result(struct scan_result *result)
{
    result->id = 0;
    result->call = 0;
    result->field[0] = result->message[0] = '\0';
    result->attributes_digest = 0;
    result->attributes_count = result->attributes_bytes = 0;
    result->attributes_dropped = false;
    result->outcome_at = result->outcome_bytes = 0;
    for (int i = 0; i < SCAN_MESSAGES; i++)
        result->messages[i].there = 0;
}

enum scan_verdict scan_request(const uint8_t *data, size_t size, const struct scan_limits *limits,
                               struct scan_result *result)
{
    const struct place request = {NULL, NULL};
    XXH3_state_t attributes;
    struct walk walk = {.start = data, .limits = limits, .result = result, .attributes = &attributes};

    assert(size <= INT32_MAX && limits->keep_ms_min <= limits->keep_ms_max);
    begin_result(result);
    if (!walk_message(&walk, &request, &rule_table_request, (struct scan_value){size, data}))
        return is_broken(&walk);
    result->id = scan_number(&result->messages[SCAN_REQUEST], REQUEST_ID);
    if (result->id == 0)
        return not_a_request(result, "id", "id is missing or 0; it takes 1 or more");
    check_resolve(&walk);
    if (walk.invalid)
        return SCAN_INVALID;
    if (result->call == 0)
        return blame_call(&walk);
    const struct scan_value *outcome = outcome_of(result);
    if (outcome != NULL)
        finish_outcome(&walk, outcome);
    return SCAN_OK;
}
