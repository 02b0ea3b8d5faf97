/* Lines of the log. An identifier of a connection is written as Hello's answer has it. */
#include "daemon/server/notes.h"

#include "daemon/base/logging.h"
#include "daemon/server/metrics.h"

enum {
    BAD_FRAME_MS = 1000, /* between two lines */
    REFUSED_MS = 1000,   /* likewise */
    FULL_MS = 1000,      /* likewise */
};

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

/* What was refused can be sent again as often as a peer likes. Is it left out here? */
static bool leaves_out(struct notes *notes, const struct reply *reply, uint64_t boot_ms)
{
    if (changed_something(reply))
        return false;
    if (boot_ms < notes->refused_ms) {
        notes->refused++;
        return true;
    }
    notes->refused_ms = boot_ms + REFUSED_MS;
    return false;
}

void notes_operator(struct notes *notes, uint64_t boot_ms, struct arena *arena, const struct call *call,
                    const struct reply *reply, uint64_t connection, const char *peer)
{
    if (leaves_out(notes, reply, boot_ms))
        return;
    const size_t mark = arena_mark(arena);
    const bool resolves = call->type == CALL_RESOLVE;
    const char *verdict = call->verdict == VERDICT_HAPPENED ? "HAPPENED" : "DID_NOT_HAPPEN";

    /* `others` are those that were refused and are not logged. Forget has no verdict: the list ends before it. */
    log_event(LOG_INFO, resolves ? "resolve" : "forget", "namespace", arena_string(arena, call->id.namespace), "caller",
              arena_string(arena, call->id.caller), "key", arena_string(arena, call->id.key), "revision",
              log_number(call->revision), "result", result_of(reply), "reason", arena_string(arena, call->reason), "by",
              peer, "connection", log_number(connection), "others", log_number(notes->refused),
              resolves ? "verdict" : NULL, verdict, NULL);
    notes->refused = 0;
    arena_rewind(arena, mark);
}

void notes_hello(const char *client, uint64_t connection, uint64_t replaces, const char *peer)
{
    log_event(LOG_DEBUG, "hello", "client", client, "connection", log_number(connection), "replaces",
              log_number(replaces), "by", peer, NULL);
}

bool notes_bad_frame_due(struct notes *notes, uint64_t boot_ms)
{
    if (boot_ms < notes->bad_frame_ms) {
        notes->bad_frames++;
        return false;
    }
    notes->bad_frame_ms = boot_ms + BAD_FRAME_MS;
    return true;
}

void notes_bad_frame(struct notes *notes, const char *reason, const char *peer)
{
    log_event(LOG_WARN, "bad_frame", "reason", reason, "by", peer, "others", log_number(notes->bad_frames), NULL);
    notes->bad_frames = 0;
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
