/* Lines of the log. An identifier of a connection is written as Hello's answer has it. */
#include "daemon/server/notes.h"

#include "daemon/base/logging.h"
#include "daemon/server/metrics.h"

enum {
    BAD_FRAME_MS = 1000, /* between two lines */
    REFUSED_MS = 1000,   /* likewise */
    FULL_MS = 1000,      /* likewise */
    READER_DROPPED_MS = 10 * 1000,
    IDLE_CLOSED_MS = 1000,
};

/* May there be a line? If not, it is counted, for the next one. */
static bool is_due(struct rate_limit *limit, uint64_t boot_ms, uint64_t every_ms)
{
    if (boot_ms < limit->from_ms) {
        limit->left_out++;
        return false;
    }
    limit->from_ms = boot_ms + every_ms;
    return true;
}

/* How many were left out before this line. */
static const char *take_left_out(struct rate_limit *limit, uint64_t and_these)
{
    const char *text = log_number(limit->left_out + and_these);

    limit->left_out = 0;
    return text;
}

static const char *result_of(const struct reply *reply)
{
    static const char *const names[] = {
        [OWNERSHIP_NONE] = "OK",     [OWNERSHIP_HELD] = "HELD", [OWNERSHIP_LOST] = "LOST",
        [OWNERSHIP_FINAL] = "FINAL", [OWNERSHIP_GONE] = "GONE",
    };

    return reply->code == CODE_OK ? names[reply->ownership] : metrics_code_name(reply->code);
}

static bool changed_something(const struct reply *reply)
{
    return reply->code == CODE_OK && (reply->ownership == OWNERSHIP_NONE || reply->ownership == OWNERSHIP_HELD);
}

void notes_operator(struct notes *notes, uint64_t boot_ms, struct arena *arena, const struct call *call,
                    const struct reply *reply, uint64_t connection, const char *peer)
{
    if (!changed_something(reply) && !is_due(&notes->refused, boot_ms, REFUSED_MS))
        return;
    const size_t mark = arena_mark(arena);
    const bool resolves = call->type == CALL_RESOLVE;
    const char *verdict = call->verdict == VERDICT_HAPPENED ? "HAPPENED" : "DID_NOT_HAPPEN";

    /* `others` are those that were refused and are not logged. Forget has no verdict: the list ends before it. */
    log_event(LOG_INFO, resolves ? "resolve" : "forget", "namespace", arena_string(arena, call->id.namespace), "caller",
              arena_string(arena, call->id.caller), "key", arena_string(arena, call->id.key), "revision",
              log_number(call->revision), "result", result_of(reply), "reason", arena_string(arena, call->reason), "by",
              peer, "connection", log_number(connection), "others", take_left_out(&notes->refused, 0),
              resolves ? "verdict" : NULL, verdict, NULL);
    arena_rewind(arena, mark);
}

void notes_hello(const char *client, uint64_t connection, uint64_t replaces, const char *peer)
{
    log_event(LOG_DEBUG, "hello", "client", client, "connection", log_number(connection), "replaces",
              log_number(replaces), "by", peer, NULL);
}

bool notes_bad_frame_due(struct notes *notes, uint64_t boot_ms)
{
    return is_due(&notes->bad_frames, boot_ms, BAD_FRAME_MS);
}

void notes_bad_frame(struct notes *notes, const char *reason, const char *peer)
{
    log_event(LOG_WARN, "bad_frame", "reason", reason, "by", peer, "others", take_left_out(&notes->bad_frames, 0),
              NULL);
}

void notes_reader_dropped(struct notes *notes, uint64_t unsent_bytes, uint64_t boot_ms)
{
    if (is_due(&notes->readers_dropped, boot_ms, READER_DROPPED_MS))
        log_event(LOG_WARN, "slow_readers_dropped", "connections", take_left_out(&notes->readers_dropped, 1),
                  "unsent_bytes", log_number(unsent_bytes), NULL);
}

void notes_idle_closed(struct notes *notes, uint64_t connections, uint64_t boot_ms)
{
    if (is_due(&notes->idle_closed, boot_ms, IDLE_CLOSED_MS))
        log_event(LOG_WARN, "idle_closed", "closed", take_left_out(&notes->idle_closed, 1), "connections",
                  log_number(connections), "reason", "descriptors ran out", NULL);
}

void notes_space(struct notes *notes, const struct store_space *space, uint64_t boot_ms)
{
    if (space->full == notes->full || boot_ms < notes->full_ms)
        return;
    notes->full = space->full;
    notes->full_ms = boot_ms + FULL_MS;
    log_event(space->full ? LOG_WARN : LOG_INFO, space->full ? "store_full" : "store_free", "used_bytes",
              log_number(space->used_bytes), "quota_bytes", log_number(space->quota_bytes), NULL);
}
