/* The daemon's log: one line an event on standard error, as logfmt or JSON, never from a library. Nobody waits for it:
 * lines that a full pipe does not take are lost, and counted in a line wal_lost when it takes some again. Thread-safe.
 */
#ifndef IDEMD_LOGGING_H
#define IDEMD_LOGGING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

void log_setup(enum log_level level, enum log_format format);
/* Is a line of this level written? For what is found out only to be logged. */
bool log_enabled(enum log_level level);

/* One line: time, level, event, then pairs of (const char *key, const char *value), ended by NULL. Values are quoted
 * and escaped where they need it, at most 1 KiB each. `event` is a short stable word ("ready"). */
void log_event(enum log_level level, const char *event, ...) __attribute__((sentinel));

/* Writes a whole line as it is, likewise. */
void log_text(const char *text, size_t size);

/* Decimal digits of `number` in a small ring of buffers of this thread: good for the arguments of one log_event. */
const char *log_number(uint64_t number);

#endif
