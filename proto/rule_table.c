/* The limits of idem.v1's calls, field by field, as idem.proto and PROTOCOL.md state them.
 *
 * Rows stand in the order of their field numbers. What nothing bounds says RULE_ANY; so does what is
 * brought within its bounds later and never refused (a Complete's keep times, an outcome's body). */
#include "proto/rule_table.h"

#include "idem/v1/idem.pb-c.h"
#include "proto/limits.h"

/* One row a line. */
/* clang-format off */
#define BYTES(field, from, to)  {.name = (field), .least = (from), .most = (to)}
#define NUMBER(field, from, to) BYTES(field, from, to)
#define FLAG(field)             {.name = (field), .most = RULE_ANY}
#define NEEDED(field, from, to) {.name = (field), .least = (from), .most = (to), .required = true}
#define MESSAGE(field, table)   {.name = (field), .required = true, .message = &(table)}
#define CALL(field, table)      {.name = (field), .note = RULE_CALL, .message = &(table)}
#define LEASE(field) \
    {.name = (field), .least = IDEM_LEASE_MS_MIN, .most = IDEM_LEASE_MS_MAX, .or_none = true}
#define WAIT(field)             NUMBER(field, 0, IDEM_WAIT_MS_MAX)
#define ATTEMPT(field) \
    {.name = (field), .least = IDEM_ATTEMPT_ID_BYTES, .most = IDEM_ATTEMPT_ID_BYTES, \
     .or_none = true}

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
#define TABLE(table, message, rows, required) \
    static const struct rule_message table = { \
        &idem__v1__##message##__descriptor, rows, COUNT(rows), required, COUNT(rows), 0}

/* ---- What calls share ---- */

static const struct rule operation_id_rules[] = {
    NEEDED("namespace", 1, IDEM_NAMESPACE_BYTES_MAX),
    BYTES("caller", 0, IDEM_CALLER_BYTES_MAX),
    NEEDED("key", 1, IDEM_KEY_BYTES_MAX),
};
TABLE(operation_id, operation_id, operation_id_rules, 2);

static const struct rule attribute_rules[] = {
    {.name = "name", .most = RULE_ANY, .note = RULE_ATTRIBUTE_PART},
    {.name = "value", .most = RULE_ANY, .note = RULE_ATTRIBUTE_PART},
};
TABLE(attribute, attribute, attribute_rules, 0);

#define OUTCOME_RULES(kind_least, kind_required) { \
    {.name = "kind", .least = (kind_least), .most = IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_FAILED, \
     .required = (kind_required), .note = RULE_KIND}, \
    NUMBER("code", 0, RULE_ANY), \
    {.name = "attributes", .times_max = RULE_TIMES, .note = RULE_ATTRIBUTE, .message = &attribute}, \
    BYTES("body", 0, RULE_ANY), \
    FLAG("body_dropped"), \
    NUMBER("body_bytes", 0, RULE_ANY), \
    FLAG("attributes_dropped"), \
}
static const struct rule completed_rules[] =
    OUTCOME_RULES(IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED, true);
TABLE(completed, outcome, completed_rules, 1);
/* Whether it must have its kind depends on the verdict: the scan looks at both at its end. */
static const struct rule resolved_rules[] =
    OUTCOME_RULES(IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_UNSPECIFIED, false);
TABLE(resolved, outcome, resolved_rules, 0);

static const struct rule saved_rules[] = {
    NEEDED("name", 1, IDEM_CHECKPOINT_NAME_BYTES_MAX),
    BYTES("data", 0, IDEM_CHECKPOINT_BYTES_MAX),
};
TABLE(saved, checkpoint, saved_rules, 1);

/* ---- Calls ---- */

static const struct rule hello_rules[] = {
    BYTES("client", 0, IDEM_CLIENT_BYTES_MAX),
    BYTES("token", 0, IDEM_TOKEN_BYTES_MAX),
    NUMBER("replaces", 0, RULE_ANY),
    BYTES("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
};
TABLE(hello, hello_request, hello_rules, 0);

static const struct rule begin_rules[] = {
    MESSAGE("op", operation_id),
    BYTES("operation", 0, IDEM_OPERATION_BYTES_MAX),
    BYTES("fingerprint", 0, IDEM_FINGERPRINT_BYTES_MAX),
    ATTEMPT("attempt_id"),
    BYTES("owner", 0, IDEM_OWNER_BYTES_MAX),
    LEASE("lease_ms"),
    WAIT("wait_ms"),
    NUMBER("if_interrupted", 0, IDEM__V1__IF_INTERRUPTED__IF_INTERRUPTED_TAKE_OVER),
    NUMBER("first_sent_ms", 0, RULE_ANY),
    BYTES("input", 0, IDEM_INPUT_BYTES_MAX),
    FLAG("bind_to_connection"),
    {.name = "keep_ms", .note = RULE_KEEP, .or_none = true},
    NUMBER("take_over_revision", 0, IDEM_FENCE_MAX),
    {.name = "other_fingerprints", .most = IDEM_FINGERPRINT_BYTES_MAX,
     .times_max = IDEM_OTHER_FINGERPRINTS_MAX},
};
TABLE(begin, begin_request, begin_rules, 1);

static const struct rule complete_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("fence", 1, IDEM_FENCE_MAX),
    {.name = "outcome", .required = true, .note = RULE_OUTCOME, .message = &completed},
    NUMBER("keep_ms", 0, RULE_ANY),
    NUMBER("keep_body_ms", 0, RULE_ANY),
};
TABLE(complete, complete_request, complete_rules, 3);

static const struct rule release_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("fence", 1, IDEM_FENCE_MAX),
    NEEDED("effect", IDEM__V1__EFFECT__EFFECT_UNKNOWN, IDEM__V1__EFFECT__EFFECT_NONE),
};
TABLE(release, release_request, release_rules, 3);

static const struct rule renew_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("fence", 1, IDEM_FENCE_MAX),
    LEASE("lease_ms"),
};
TABLE(renew, renew_request, renew_rules, 2);

static const struct rule checkpoint_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("fence", 1, IDEM_FENCE_MAX),
    MESSAGE("checkpoint", saved),
    LEASE("lease_ms"),
};
TABLE(checkpoint, checkpoint_request, checkpoint_rules, 3);

static const struct rule get_rules[] = {
    MESSAGE("op", operation_id),
    WAIT("wait_ms"),
};
TABLE(get, get_request, get_rules, 1);

static const struct rule recover_rules[] = {
    NEEDED("namespace", 1, IDEM_NAMESPACE_BYTES_MAX),
    BYTES("operation", 0, IDEM_OPERATION_BYTES_MAX),
    BYTES("owner", 0, IDEM_OWNER_BYTES_MAX),
    LEASE("lease_ms"),
    NUMBER("limit", 0, IDEM_RECOVER_MAX),
    WAIT("wait_ms"),
    ATTEMPT("attempt_id"),
    FLAG("bind_to_connection"),
};
TABLE(recover, recover_request, recover_rules, 1);

static const struct rule resolve_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("revision", 1, IDEM_FENCE_MAX),
    {.name = "verdict", .least = IDEM__V1__VERDICT__VERDICT_HAPPENED,
     .most = IDEM__V1__VERDICT__VERDICT_DID_NOT_HAPPEN, .required = true, .note = RULE_VERDICT},
    {.name = "outcome", .note = RULE_OUTCOME, .message = &resolved},
    BYTES("reason", 0, IDEM_REASON_BYTES_MAX),
};
TABLE(resolve, resolve_request, resolve_rules, 3);

static const struct rule forget_rules[] = {
    MESSAGE("op", operation_id),
    NEEDED("revision", 1, IDEM_FENCE_MAX),
    BYTES("reason", 0, IDEM_REASON_BYTES_MAX),
};
TABLE(forget, forget_request, forget_rules, 2);

static const struct rule list_rules[] = {
    BYTES("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
    NUMBER("state", 0, IDEM__V1__STATE__STATE_DONE),
    NUMBER("limit", 0, IDEM_LIST_MAX),
    BYTES("cursor", 0, IDEM_CURSOR_BYTES_MAX),
};
TABLE(list, list_request, list_rules, 0);

static const struct rule stats_rules[] = {
    BYTES("namespace", 0, IDEM_NAMESPACE_BYTES_MAX),
};
TABLE(stats, stats_request, stats_rules, 0);

static const struct rule cancel_rules[] = {
    NEEDED("id", 1, RULE_ANY),
};
TABLE(cancel, cancel_request, cancel_rules, 1);

/* ---- Request ---- */

static const struct rule request_rules[] = {
    {.name = "id", .most = RULE_ANY, .note = RULE_ID},
    NUMBER("timeout_ms", 0, RULE_ANY),
    BYTES("traceparent", 0, IDEM_TRACEPARENT_BYTES_MAX),
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
    &idem__v1__request__descriptor, request_rules, COUNT(request_rules), 0, 3, 6,
};

_Static_assert(COUNT(request_rules) <= RULE_FIELDS_MAX, "they fit");
_Static_assert(COUNT(begin_rules) <= RULE_FIELDS_MAX, "they fit");
