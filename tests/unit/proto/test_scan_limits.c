/* Each limit of the protocol at its edges: the limit passes, one beyond is refused under the field's path. The table of
 * this file is written from PROTOCOL.md and idem.proto in plain numbers, and must name every field there is. */
#include "proto/rule_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

#include "proto/scan.h"
#include "tests/unit/proto/wire_check.h"
#include "tests/unit/proto/wire_maker.h"

#define U32   UINT32_MAX
#define U64   UINT64_MAX
#define FENCE 9007199254740991ull
#define BODY  (1024 * 1024ull) /* no limit; as much as the test tries */

struct limit {
    const char *path;
    uint64_t least, most;
    bool or_none;
    bool required;
};

/* clang-format off */
static const struct limit limits[] = {
    {"timeout_ms", 0, U32, false, false},
    {"traceparent", 0, 64, false, false},

    {"hello.client", 0, 64, false, false},
    {"hello.token", 0, 1024, false, false},
    {"hello.replaces", 0, U64, false, false},
    {"hello.namespace", 0, 64, false, false},

    {"begin.op.namespace", 1, 64, false, true},
    {"begin.op.caller", 0, 128, false, false},
    {"begin.op.key", 1, 255, false, true},
    {"begin.operation", 0, 128, false, false},
    {"begin.fingerprint", 0, 64, false, false},
    {"begin.attempt_id", 16, 16, true, false},
    {"begin.owner", 0, 128, false, false},
    {"begin.lease_ms", 1000, 86400000, true, false},
    {"begin.wait_ms", 0, 60000, false, false},
    {"begin.if_interrupted", 0, 2, false, false},
    {"begin.first_sent_ms", 0, U64, false, false},
    {"begin.input", 0, 65536, false, false},
    {"begin.bind_to_connection", 0, U64, false, false},
    {"begin.keep_ms", 1000, 7776000000, true, false},
    {"begin.take_over_revision", 0, FENCE, false, false},
    {"begin.other_fingerprints", 0, 64, false, false},

    {"complete.op.namespace", 1, 64, false, true},
    {"complete.op.caller", 0, 128, false, false},
    {"complete.op.key", 1, 255, false, true},
    {"complete.fence", 1, FENCE, false, true},
    {"complete.outcome.kind", 1, 2, false, true},
    {"complete.outcome.code", 0, U32, false, false},
    {"complete.outcome.attributes.name", 0, 4000, false, false},
    {"complete.outcome.attributes.value", 0, 4000, false, false},
    {"complete.outcome.body", 0, BODY, false, false},
    {"complete.outcome.body_dropped", 0, U64, false, false},
    {"complete.outcome.body_bytes", 0, U64, false, false},
    {"complete.outcome.attributes_dropped", 0, U64, false, false},
    {"complete.keep_ms", 0, U64, false, false},
    {"complete.keep_body_ms", 0, U64, false, false},

    {"release.op.namespace", 1, 64, false, true},
    {"release.op.caller", 0, 128, false, false},
    {"release.op.key", 1, 255, false, true},
    {"release.fence", 1, FENCE, false, true},
    {"release.effect", 1, 3, false, true},

    {"renew.op.namespace", 1, 64, false, true},
    {"renew.op.caller", 0, 128, false, false},
    {"renew.op.key", 1, 255, false, true},
    {"renew.fence", 1, FENCE, false, true},
    {"renew.lease_ms", 1000, 86400000, true, false},

    {"checkpoint.op.namespace", 1, 64, false, true},
    {"checkpoint.op.caller", 0, 128, false, false},
    {"checkpoint.op.key", 1, 255, false, true},
    {"checkpoint.fence", 1, FENCE, false, true},
    {"checkpoint.checkpoint.name", 1, 64, false, true},
    {"checkpoint.checkpoint.data", 0, 65536, false, false},
    {"checkpoint.lease_ms", 1000, 86400000, true, false},

    {"get.op.namespace", 1, 64, false, true},
    {"get.op.caller", 0, 128, false, false},
    {"get.op.key", 1, 255, false, true},
    {"get.wait_ms", 0, 60000, false, false},

    {"recover.namespace", 1, 64, false, true},
    {"recover.operation", 0, 128, false, false},
    {"recover.owner", 0, 128, false, false},
    {"recover.lease_ms", 1000, 86400000, true, false},
    {"recover.limit", 0, 100, false, false},
    {"recover.wait_ms", 0, 60000, false, false},
    {"recover.attempt_id", 16, 16, true, false},
    {"recover.bind_to_connection", 0, U64, false, false},

    {"resolve.op.namespace", 1, 64, false, true},
    {"resolve.op.caller", 0, 128, false, false},
    {"resolve.op.key", 1, 255, false, true},
    {"resolve.revision", 1, FENCE, false, true},
    {"resolve.verdict", 1, 2, false, true},
    {"resolve.outcome.kind", 1, 2, false, true}, /* as made, with HAPPENED */
    {"resolve.outcome.code", 0, U32, false, false},
    {"resolve.outcome.attributes.name", 0, 4000, false, false},
    {"resolve.outcome.attributes.value", 0, 4000, false, false},
    {"resolve.outcome.body", 0, BODY, false, false},
    {"resolve.outcome.body_dropped", 0, U64, false, false},
    {"resolve.outcome.body_bytes", 0, U64, false, false},
    {"resolve.outcome.attributes_dropped", 0, U64, false, false},
    {"resolve.reason", 0, 256, false, false},

    {"forget.op.namespace", 1, 64, false, true},
    {"forget.op.caller", 0, 128, false, false},
    {"forget.op.key", 1, 255, false, true},
    {"forget.revision", 1, FENCE, false, true},
    {"forget.reason", 0, 256, false, false},

    {"list.namespace", 0, 64, false, false},
    {"list.state", 0, 3, false, false},
    {"list.limit", 0, 1000, false, false},
    {"list.cursor", 0, 64, false, false},

    {"stats.namespace", 0, 64, false, false},

    {"cancel.id", 1, U64, false, true},
};
/* clang-format on */

/* Messages that must be there. Resolve's outcome must with HAPPENED, as made. */
static const char *const required_messages[] = {
    "begin.op", "complete.op", "complete.outcome", "release.op", "renew.op", "checkpoint.op", "checkpoint.checkpoint",
    "get.op",   "resolve.op",  "resolve.outcome",  "forget.op",
};

static uint8_t made[WIRE_ROOM], edited[WIRE_ROOM], raw[WIRE_ROOM];

static size_t count_limits(void)
{
    return sizeof(limits) / sizeof(limits[0]);
}

static const struct limit *limit_of(const char *path)
{
    for (size_t i = 0; i < count_limits(); i++)
        if (strcmp(limits[i].path, path) == 0)
            return &limits[i];
    return NULL;
}

static bool is_required_message(const char *path)
{
    for (size_t i = 0; i < sizeof(required_messages) / sizeof(required_messages[0]); i++)
        if (strcmp(required_messages[i], path) == 0)
            return true;
    return false;
}

/* ---- Ranges ---- */

/* Puts this value (a length, or a number) into a whole valid Request and scans it. */
static enum scan_verdict scan_with(const char *path, uint64_t value, struct scan_result *result)
{
    size_t size = wire_make_for(path, made);
    size_t raw_bytes = wire_put(raw, wire_field_at(path), value);

    size = wire_replace(edited, made, size, path, raw, raw_bytes);
    return wire_check(edited, size, result);
}

static void passes(const char *path, uint64_t value)
{
    struct scan_result result;

    if (scan_with(path, value, &result) != SCAN_OK)
        fail_msg("%s = %llu: %s", path, (unsigned long long)value, result.message);
    assert_string_equal(result.field, "");
    assert_int_equal(result.id, WIRE_ID);
}

static void is_refused(const char *path, uint64_t value)
{
    struct scan_result result;

    if (scan_with(path, value, &result) != SCAN_INVALID)
        fail_msg("%s = %llu was not refused", path, (unsigned long long)value);
    assert_string_equal(result.field, path);
    assert_memory_equal(result.message, path, strlen(path));
    assert_int_equal(result.id, WIRE_ID);
}

static void every_limit_is_inclusive(void **state)
{
    (void)state;
    for (size_t i = 0; i < count_limits(); i++) {
        const struct limit *limit = &limits[i];

        passes(limit->path, limit->least);
        passes(limit->path, limit->most);
        if (limit->most != U64 && limit->most != BODY && limit->most != 4000)
            is_refused(limit->path, limit->most + 1);
        if (limit->or_none)
            passes(limit->path, 0);
        if (limit->least > 1 || (limit->least == 1 && !limit->or_none))
            is_refused(limit->path, limit->least - 1);
        if (limit->or_none)
            is_refused(limit->path, 1);
    }
}

static void numbers_far_out_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < count_limits(); i++) {
        ProtobufCType type = wire_field_at(limits[i].path)->type;
        bool is_short = type == PROTOBUF_C_TYPE_UINT32 || type == PROTOBUF_C_TYPE_SINT32;

        /* What would be a good number if it were cut to 32 bits. */
        if (is_short || type == PROTOBUF_C_TYPE_ENUM) {
            is_refused(limits[i].path, (1ull << 32) + limits[i].least);
            is_refused(limits[i].path, (1ull << 63) + limits[i].least);
            is_refused(limits[i].path, U64);
        }
    }
}

static void keep_follows_the_limits_given(void **state)
{
    static const struct scan_limits narrow = {5000, 6000};
    static const struct {
        uint64_t value;
        enum scan_verdict verdict;
    } cases[] = {{0, SCAN_OK},    {1, SCAN_INVALID},    {4999, SCAN_INVALID}, {5000, SCAN_OK},
                 {6000, SCAN_OK}, {6001, SCAN_INVALID}, {U64, SCAN_INVALID}};
    struct scan_result result;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t size = wire_make(11, made);
        size_t raw_bytes = wire_put(raw, wire_field_at("begin.keep_ms"), cases[i].value);

        size = wire_replace(edited, made, size, "begin.keep_ms", raw, raw_bytes);
        assert_int_equal(scan_request(edited, size, &narrow, &result), cases[i].verdict);
    }
    assert_string_equal(result.message, "begin.keep_ms is 18446744073709551615; it takes 0 or 5000 to 6000");
}

static void messages_name_field_and_limit(void **state)
{
    struct scan_result result;

    (void)state;
    scan_with("begin.op.key", 256, &result);
    assert_string_equal(result.message, "begin.op.key has 256 bytes; it takes 1 to 255");
    scan_with("begin.attempt_id", 15, &result);
    assert_string_equal(result.message, "begin.attempt_id has 15 bytes; it takes 0 or 16");
    scan_with("release.effect", 0, &result);
    assert_string_equal(result.message, "release.effect is 0; it takes 1 to 3");
    scan_with("recover.lease_ms", 999, &result);
    assert_string_equal(result.message, "recover.lease_ms is 999; it takes 0 or 1000 to 86400000");
}

/* ---- Presence ---- */

static void without(const char *path, const ProtobufCFieldDescriptor *field)
{
    const struct limit *limit = limit_of(path);
    bool required = limit != NULL ? limit->required : is_required_message(path);
    size_t size = wire_make_for(path, made);
    struct scan_result result;
    enum scan_verdict verdict;

    if (strcmp(path, "id") == 0 || (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return;
    size = wire_replace(edited, made, size, path, NULL, 0);
    verdict = wire_check(edited, size, &result);
    if (verdict != (required ? SCAN_INVALID : SCAN_OK))
        fail_msg("without %s: %d, %s", path, verdict, result.message);
    assert_string_equal(result.field, required ? path : "");
}

static void only_required_fields_must_be_there(void **state)
{
    (void)state;
    wire_each_field(without);
}

static void twice(const char *path, const ProtobufCFieldDescriptor *field)
{
    size_t size = wire_make_for(path, made);
    size_t field_bytes;
    const uint8_t *found = wire_find(made, size, path, &field_bytes);
    struct scan_result result;
    enum scan_verdict verdict;

    memcpy(raw, found, field_bytes);
    memcpy(raw + field_bytes, found, field_bytes);
    size = wire_replace(edited, made, size, path, raw, 2 * field_bytes);
    verdict = wire_check(edited, size, &result);
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        assert_int_equal(verdict, SCAN_OK);
        return;
    }
    if (verdict != SCAN_INVALID)
        fail_msg("%s twice: %d", path, verdict);
    assert_string_equal(result.field, field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF ? "call" : path);
    assert_int_equal(result.id, WIRE_ID);
}

static void singular_fields_stand_once(void **state)
{
    (void)state;
    wire_each_field(twice);
}

static void other_fingerprints_stand_three_times(void **state)
{
    struct scan_result result;
    size_t raw_bytes = 0;

    (void)state;
    for (unsigned times = 1; times <= 5; times++) {
        size_t size = wire_make(11, made);

        raw_bytes += wire_put_bytes(raw + raw_bytes, 14, "digest", 6);
        size = wire_replace(edited, made, size, "begin.other_fingerprints", raw, raw_bytes);
        assert_int_equal(wire_check(edited, size, &result), times <= 3 ? SCAN_OK : SCAN_INVALID);
        assert_string_equal(result.field, times <= 3 ? "" : "begin.other_fingerprints");
    }
    assert_string_equal(result.message, "begin.other_fingerprints stands 4 times; it may stand 3 times");
}

/* DID_NOT_HAPPEN needs no outcome, and where there is one, no kind; but a kind must be one. */
static void only_happened_needs_an_outcome(void **state)
{
    struct scan_result result;
    size_t size, bytes;

    (void)state;
    size = wire_make(18, made);
    bytes = wire_put_varint(raw, 3, 2);
    size = wire_replace(edited, made, size, "resolve.verdict", raw, bytes);
    bytes = wire_replace(made, edited, size, "resolve.outcome.kind", NULL, 0);
    assert_int_equal(wire_check(made, bytes, &result), SCAN_OK);
    bytes = wire_replace(made, edited, size, "resolve.outcome", NULL, 0);
    assert_int_equal(wire_check(made, bytes, &result), SCAN_OK);
    bytes = wire_put_varint(raw, 1, 3);
    bytes = wire_replace(made, edited, size, "resolve.outcome.kind", raw, bytes);
    assert_int_equal(wire_check(made, bytes, &result), SCAN_INVALID);
    assert_string_equal(result.field, "resolve.outcome.kind");
}

/* ---- The tables ---- */

static void is_in_the_table(const char *path, const ProtobufCFieldDescriptor *field)
{
    if (field->type != PROTOBUF_C_TYPE_MESSAGE && strcmp(path, "id") != 0 && limit_of(path) == NULL)
        fail_msg("no limit is tested for %s", path);
    assert_true(strlen(path) < sizeof(((struct scan_result *)NULL)->field));
}

static void every_field_is_tested(void **state)
{
    (void)state;
    wire_each_field(is_in_the_table);
}

/* Each number up to well beyond the last is found where the descriptor has it, or is unknown to both. */
static void check_numbers(const struct rule_message *message)
{
    for (uint32_t number = 1; number < 300; number++) {
        const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(message->descriptor, number);

        assert_int_equal(rule_index(message, number),
                         field != NULL ? (size_t)(field - message->descriptor->fields) : message->fields);
    }
    assert_int_equal(rule_index(message, (1 << 29) - 1), message->fields);
}

static enum rule_type type_of(ProtobufCType declared)
{
    switch (declared) {
    case PROTOBUF_C_TYPE_STRING:
        return RULE_TEXT;
    case PROTOBUF_C_TYPE_BYTES:
        return RULE_BYTES;
    case PROTOBUF_C_TYPE_MESSAGE:
        return RULE_NESTED;
    case PROTOBUF_C_TYPE_FIXED64:
        return RULE_FIXED;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32:
        return RULE_SHORT;
    default:
        assert_true(declared == PROTOBUF_C_TYPE_UINT64 || declared == PROTOBUF_C_TYPE_BOOL ||
                    declared == PROTOBUF_C_TYPE_ENUM);
        return RULE_NUMBER;
    }
}

static void check_rules(const struct rule_message *message)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    unsigned required = 0, repeated = 0;

    assert_true(descriptor->n_fields <= RULE_FIELDS_MAX);
    assert_int_equal(message->fields, descriptor->n_fields);
    check_numbers(message);
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        const struct rule *rule = &message->rules[i];

        required |= (unsigned)rule->required << i;
        repeated += rule->times_max > 0;
        assert_string_equal(rule->name, field->name);
        assert_int_equal(rule->type, type_of(field->type));
        assert_true(rule->least <= rule->most);
        assert_int_equal(rule->message != NULL, field->type == PROTOBUF_C_TYPE_MESSAGE);
        assert_int_equal(rule->times_max > 0, field->label == PROTOBUF_C_LABEL_REPEATED);
        assert_int_equal(rule->note == RULE_CALL, (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0);
        if (rule->message == NULL) { /* a repeated number could be packed, which the scan does not read */
            assert_true(field->label != PROTOBUF_C_LABEL_REPEATED || field->type == PROTOBUF_C_TYPE_BYTES);
            continue;
        }
        assert_ptr_equal(rule->message->descriptor, field->descriptor);
        check_rules(rule->message);
    }
    assert_int_equal(message->required, required);
    assert_true(repeated <= 1); /* the scan counts once a message */
    assert_true(message == &rule_table_request ? message->kept == SCAN_REQUEST : message->kept != SCAN_REQUEST);
}

static void rules_are_those_of_the_descriptors(void **state)
{
    (void)state;
    check_rules(&rule_table_request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_is_tested),
        cmocka_unit_test(rules_are_those_of_the_descriptors),
        cmocka_unit_test(every_limit_is_inclusive),
        cmocka_unit_test(numbers_far_out_are_refused),
        cmocka_unit_test(keep_follows_the_limits_given),
        cmocka_unit_test(messages_name_field_and_limit),
        cmocka_unit_test(only_required_fields_must_be_there),
        cmocka_unit_test(singular_fields_stand_once),
        cmocka_unit_test(other_fingerprints_stand_three_times),
        cmocka_unit_test(only_happened_needs_an_outcome),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
