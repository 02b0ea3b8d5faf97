/* The limits of idem.v1's calls, field by field, as idem.proto and PROTOCOL.md state them.
 *
 * Rows stand in the order of their field numbers. What nothing bounds says RULE_ANY; so does what is
 * brought within its bounds later and never refused (a Complete's keep times, an outcome's body). */
#include "proto/rule_table.h"

#include "idem/v1/idem.pb-c.h"
#include "proto/limits.h"
#include "proto/scan.h"

/* One row a line. */
/* clang-format off */
#define ROW(as, field, from, to)    .name = (field), .least = (from), .most = (to), .type = (as)
#define TEXT(field, from, to)       {ROW(RULE_TEXT, field, from, to)}
#define BYTES(field, from, to)      {ROW(RULE_BYTES, field, from, to)}
#define NUMBER(field, from, to)     {ROW(RULE_NUMBER, field, from, to)}
#define SHORT(field, from, to)      {ROW(RULE_SHORT, field, from, to)}
#define FIXED(field, from, to)      {ROW(RULE_FIXED, field, from, to)}
#define FLAG(field)                 {ROW(RULE_NUMBER, field, 0, RULE_ANY)}
#define NEEDED(as, field, from, to) {ROW(as, field, from, to), .required = true}
#define FENCE(field)                NEEDED(RULE_FIXED, field, 1, IDEM_FENCE_MAX)
#define MESSAGE(field, table) \
    {.name = (field), .most = RULE_ANY, .type = RULE_NESTED, .required = true, .message = &(table)}
#define CALL(field, table) \
    {.name = (field), .most = RULE_ANY, .type = RULE_NESTED, .note = RULE_CALL, .message = &(table)}
#define LEASE(field)   {ROW(RULE_SHORT, field, IDEM_LEASE_MS_MIN, IDEM_LEASE_MS_MAX), .or_none = true}
#define WAIT(field)    SHORT(field, 0, IDEM_WAIT_MS_MAX)
#define ATTEMPT(field) {ROW(RULE_BYTES, field, IDEM_ATTEMPT_ID_BYTES, IDEM_ATTEMPT_ID_BYTES), .or_none = true}

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
/* required: a bit for each row that says so. */
#define TABLE(table, message, rows, required, kept) \
    static const struct rule_message table = { \
        &idem__v1__##message##__descriptor, rows, required, COUNT(rows), COUNT(rows), 0, kept}

/* ---- What calls share ---- */

static const struct rule operation_id_rules[] = {
    NEEDED(RULE_TEXT, "namespace", 1, IDEM_NAMESPACE_BYTES_MAX),
    TEXT("caller", 0, IDEM_CALLER_BYTES_MAX),
    NEEDED(RULE_TEXT, "key", 1, IDEM_KEY_BYTES_MAX),
};
TABLE(operation_id, operation_id, operation_id_rules, 1 << 0 | 1 << 2, SCAN_OP);

static const struct rule attribute_rules[] = {
    {ROW(RULE_TEXT, "name", 0, RULE_ANY), .note = RULE_ATTRIBUTE_PART},
    {ROW(RULE_BYTES, "value", 0, RULE_ANY), .note = RULE_ATTRIBUTE_PART},
};
TABLE(attribute, attribute, attribute_rules, 0, SCAN_OTHER);

#define OUTCOME_RULES(kind_least, kind_required) { \
    {ROW(RULE_NUMBER, "kind", kind_least, IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED), .required = (kind_required)}, \
    SHORT("code", 0, RULE_ANY), \
    {ROW(RULE_NESTED, "attributes", 0, RULE_ANY), .times_max = RULE_TIMES, .note = RULE_ATTRIBUTE, \
     .message = &attribute}, \
    BYTES("body", 0, RULE_ANY), \
    FLAG("body_dropped"), \
    NUMBER("body_bytes", 0, RULE_ANY), \
    FLAG("attributes_dropped"), \
}
static const struct rule completed_rules[] =
    OUTCOME_RULES(IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED, true);
TABLE(completed, outcome, completed_rules, 1 << 0, SCAN_OUTCOME);
/* Whether it must have its kind depends on the verdict: the scan looks at both at its end. */
static const struct rule resolved_rules[] =
    OUTCOME_RULES(IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_UNSPECIFIED, false);
TABLE(resolved, outcome, resolved_rules, 0, SCAN_OUTCOME);

static const struct rule saved_rules[] = {
    NEEDED(RULE_TEXT, "name", 1, IDEM_CHECKPOINT_NAME_BYTES_MAX),
    BYTES("data", 0, IDEM_CHECKPOINT_BYTES_MAX),
};
TABLE(saved, checkpoint, saved_rules, 1 << 0, SCAN_OTHER);

/* ---- Calls ---- */

static const struct rule hello_rules[] = {
    TEXT("client", 0, IDEM_CLIENT_BYTES_MAX),
    BYTES("token", 0, IDEM_TOKEN_BYTES_MAX),
    FIXED("replaces", 0, RULE_ANY),
    TEXT("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
};
TABLE(hello, hello_request, hello_rules, 0, SCAN_CALL);

static const struct rule begin_rules[] = {
    MESSAGE("op", operation_id),
    TEXT("operation", 0, IDEM_OPERATION_BYTES_MAX),
    BYTES("fingerprint", 0, IDEM_FINGERPRINT_BYTES_MAX),
    ATTEMPT("attempt_id"),
    TEXT("owner", 0, IDEM_OWNER_BYTES_MAX),
    LEASE("lease_ms"),
    WAIT("wait_ms"),
    NUMBER("if_interrupted", 0, IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_TAKE_OVER),
    NUMBER("first_sent_ms", 0, RULE_ANY),
    BYTES("input", 0, IDEM_INPUT_BYTES_MAX),
    FLAG("bind_to_connection"),
    {ROW(RULE_NUMBER, "keep_ms", 0, 0), .note = RULE_KEEP, .or_none = true},
    FIXED("take_over_revision", 0, IDEM_FENCE_MAX),
    {ROW(RULE_BYTES, "other_fingerprints", 0, IDEM_FINGERPRINT_BYTES_MAX),
     .times_max = IDEM_OTHER_FINGERPRINTS_MAX},
};
TABLE(begin, begin_request, begin_rules, 1 << 0, SCAN_CALL);

static const struct rule complete_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("fence"),
    MESSAGE("outcome", completed),
    NUMBER("keep_ms", 0, RULE_ANY),
    NUMBER("keep_body_ms", 0, RULE_ANY),
};
TABLE(complete, complete_request, complete_rules, 1 << 0 | 1 << 1 | 1 << 2, SCAN_CALL);

static const struct rule release_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("fence"),
    NEEDED(RULE_NUMBER, "effect", IDEM__V1__EFFECT__EFFECT_UNKNOWN, IDEM__V1__EFFECT__EFFECT_NONE),
};
TABLE(release, release_request, release_rules, 1 << 0 | 1 << 1 | 1 << 2, SCAN_CALL);

static const struct rule renew_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("fence"),
    LEASE("lease_ms"),
};
TABLE(renew, renew_request, renew_rules, 1 << 0 | 1 << 1, SCAN_CALL);

static const struct rule checkpoint_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("fence"),
    MESSAGE("checkpoint", saved),
    LEASE("lease_ms"),
};
TABLE(checkpoint, checkpoint_request, checkpoint_rules, 1 << 0 | 1 << 1 | 1 << 2, SCAN_CALL);

static const struct rule get_rules[] = {
    MESSAGE("op", operation_id),
    WAIT("wait_ms"),
};
TABLE(get, get_request, get_rules, 1 << 0, SCAN_CALL);

static const struct rule recover_rules[] = {
    NEEDED(RULE_TEXT, "namespace", 1, IDEM_NAMESPACE_BYTES_MAX),
    TEXT("operation", 0, IDEM_OPERATION_BYTES_MAX),
    TEXT("owner", 0, IDEM_OWNER_BYTES_MAX),
    LEASE("lease_ms"),
    SHORT("limit", 0, IDEM_RECOVER_MAX),
    WAIT("wait_ms"),
    ATTEMPT("attempt_id"),
    FLAG("bind_to_connection"),
};
TABLE(recover, recover_request, recover_rules, 1 << 0, SCAN_CALL);

static const struct rule resolve_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("revision"),
    NEEDED(RULE_NUMBER, "verdict", IDEM__V1__VERDICT__VERDICT_HAPPENED, IDEM__V1__VERDICT__VERDICT_DID_NOT_HAPPEN),
    {ROW(RULE_NESTED, "outcome", 0, RULE_ANY), .message = &resolved},
    TEXT("reason", 0, IDEM_REASON_BYTES_MAX),
};
TABLE(resolve, resolve_request, resolve_rules, 1 << 0 | 1 << 1 | 1 << 2, SCAN_CALL);

static const struct rule forget_rules[] = {
    MESSAGE("op", operation_id),
    FENCE("revision"),
    TEXT("reason", 0, IDEM_REASON_BYTES_MAX),
};
TABLE(forget, forget_request, forget_rules, 1 << 0 | 1 << 1, SCAN_CALL);

static const struct rule list_rules[] = {
    TEXT("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
    NUMBER("state", 0, IDEM__V1__STATE__STATE_DONE),
    SHORT("limit", 0, IDEM_LIST_MAX),
    BYTES("cursor", 0, IDEM_CURSOR_BYTES_MAX),
};
TABLE(list, list_request, list_rules, 0, SCAN_CALL);

static const struct rule stats_rules[] = {
    TEXT("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
};
TABLE(stats, stats_request, stats_rules, 0, SCAN_CALL);

static const struct rule cancel_rules[] = {
    NEEDED(RULE_NUMBER, "id", 1, RULE_ANY),
};
TABLE(cancel, cancel_request, cancel_rules, 1 << 0, SCAN_CALL);

/* ---- Request ---- */

static const struct rule request_rules[] = {
    NUMBER("id", 0, RULE_ANY),
    SHORT("timeout_ms", 0, RULE_ANY),
    TEXT("traceparent", 0, IDEM_TRACEPARENT_BYTES_MAX),
    CALL("hello", hello),
    CALL("begin", begin),
    CALL("complete", complete),
    CALL("release", release),
    CALL("renew", renew),
    CALL("checkpoint", checkpoint),
    CALL("get", get),
    CALL("recover", recover),
    CALL("resolve", resolve),
    CALL("forget", forget),
    CALL("list", list),
    CALL("stats", stats),
    CALL("cancel", cancel),
};
/* After its own three fields, the calls. */
const struct rule_message rule_table_request = {
    &idem__v1__request__descriptor, request_rules, 0, COUNT(request_rules), 3, 6, SCAN_REQUEST,
};

_Static_assert(COUNT(request_rules) <= RULE_FIELDS_MAX, "they fit");
_Static_assert(COUNT(begin_rules) <= RULE_FIELDS_MAX, "they fit");
