/* A line is built on the stack and leaves in one write, so that lines of several threads do not mix. Whatever is in a
 * value, what comes out is one line of valid UTF-8 (and of valid JSON) that a terminal may be shown: controls and the
 * like are escaped, what is no UTF-8 becomes U+FFFD, and a pair that finds no more room is left out whole. No line is
 * waited for: if nobody reads, lines are lost, and the first that finds room again comes after one that says how many.
 */
#include "daemon/base/logging.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "proto/text.h"

enum {
    LINE_BYTES_MAX = PIPE_BUF, /* so much a pipe takes whole or not at all */
    VALUE_BYTES_MAX = 1024,
};

static enum log_level level_max = LOG_INFO;
static enum log_format line_format = LOG_LOGFMT;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

struct line {
    char text[LINE_BYTES_MAX];
    size_t size;
    bool overflown;
};

void log_setup(enum log_level level, enum log_format format)
{
    level_max = level;
    line_format = format;
}

bool log_enabled(enum log_level level)
{
    return level <= level_max;
}

static void put(struct line *line, const char *text, size_t size)
{
    enum { END_BYTES = 2 }; /* room for the end of the line stays */

    if (size > LINE_BYTES_MAX - END_BYTES - line->size) {
        line->overflown = true;
        return;
    }
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

static void put_string(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

/* Only what is plain may stand without quotes. */
static bool needs_quotes(const char *value)
{
    if (*value == '\0' || strnlen(value, VALUE_BYTES_MAX + 1) > VALUE_BYTES_MAX)
        return true;
    for (; *value; value++)
        if (*value <= ' ' || *value >= 0x7f || *value == '"' || *value == '=' || *value == '\\')
            return true;
    return false;
}

/* A string as JSON has it; logfmt's quoted strings are the same. */
static void put_quoted(struct line *line, const char *value)
{
    const unsigned char *at = (const unsigned char *)value, *end = at + strlen(value);
    const unsigned char *last = end - at > VALUE_BYTES_MAX ? at + VALUE_BYTES_MAX : end;

    put(line, "\"", 1);
    while (at < last) {
        char escaped[TEXT_CHARACTER_BYTES_MAX];
        size_t taken;
        const size_t written = text_escape(escaped, at, (size_t)(end - at), TEXT_JSON, &taken);
        if (taken > (size_t)(last - at))
            break; /* not half a character */
        put(line, escaped, written);
        at += taken;
    }
    put(line, "\"", 1);
}

static void put_value(struct line *line, const char *value)
{
    if (line_format == LOG_JSON || needs_quotes(value))
        put_quoted(line, value);
    else
        put_string(line, value);
}

static void put_pair(struct line *line, const char *key, const char *value)
{
    const size_t before = line->size;

    if (line_format == LOG_JSON) {
        put_string(line, before ? ", " : "{");
        put_quoted(line, key);
        put_string(line, ": ");
    } else {
        put_string(line, before ? " " : "");
        put_string(line, key);
        put_string(line, "=");
    }
    put_value(line, value);
    if (line->overflown)
        line->size = before;
    line->overflown = false;
}

static void put_time(struct line *line)
{
    struct timespec time;
    struct tm parts;
    char date[40], text[64];

    clock_gettime(CLOCK_REALTIME, &time);
    gmtime_r(&time.tv_sec, &parts);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text, sizeof text, "%s.%03ldZ", date, time.tv_nsec / 1000000);
    put_pair(line, "time", text);
}

static void begin_line(struct line *line, enum log_level level, const char *event)
{
    line->size = 0;
    line->overflown = false;
    put_time(line);
    put_pair(line, "level", level_names[level]);
    put_pair(line, "event", event);
}

static void end_line(struct line *line)
{
    if (line_format == LOG_JSON)
        line->text[line->size++] = '}';
    line->text[line->size++] = '\n';
}

/* ---- Writing ---------------------------------------------------------------------- */

/* What could not be written, so far; and whether the last that was written is only the beginning of a line. */
static struct {
    pthread_mutex_t mutex;
    uint64_t lost;
    bool torn;
} output = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* A pipe that has room takes PIPE_BUF bytes at once. Another process that writes to it too may take the room after we
 * saw it: kernels from 6.4 on say so then, older ones wait. */
static ssize_t write_pipe(const char *text, size_t size)
{
    const struct iovec part = {(void *)(uintptr_t)text, size};
    const ssize_t written = pwritev2(STDERR_FILENO, &part, 1, -1, RWF_NOWAIT);

    if (written >= 0 || errno == EAGAIN || errno == EPIPE)
        return written;
    return write(STDERR_FILENO, text, size);
}

/* Writes without waiting for a reader: a full pipe, or a terminal that is held, would stop the daemon. Whether the
 * descriptor blocks is left as it is, since other processes share that. */
static ssize_t write_now(const char *text, size_t size)
{
    struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
    struct stat status;

    if (fstat(STDERR_FILENO, &status) != 0)
        return -1;
    if (S_ISSOCK(status.st_mode))
        return send(STDERR_FILENO, text, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (S_ISREG(status.st_mode))
        return write(STDERR_FILENO, text, size);
    if (poll(&room, 1, 0) <= 0)
        return -1;
    return S_ISFIFO(status.st_mode) ? write_pipe(text, size) : write(STDERR_FILENO, text, size);
}

/* False: it is lost, or the end of it is. */
static bool write_whole(const char *text, size_t size)
{
    if (output.torn && write_now("\n", 1) != 1)
        return false;
    output.torn = false;
    const ssize_t written = write_now(text, size);
    output.torn = written > 0 && (size_t)written < size;
    return written == (ssize_t)size;
}

static bool say_lost(void)
{
    struct line line;

    begin_line(&line, LOG_WARN, "log_lost");
    put_pair(&line, "lines", log_number(output.lost));
    end_line(&line);
    return write_whole(line.text, line.size);
}

void log_text(const char *text, size_t size)
{
    pthread_mutex_lock(&output.mutex);
    if (output.lost && say_lost())
        output.lost = 0;
    if (output.lost || !write_whole(text, size))
        output.lost++;
    pthread_mutex_unlock(&output.mutex);
}

void log_event(enum log_level level, const char *event, ...)
{
    struct line line;
    const char *key;
    va_list pairs;

    if (!log_enabled(level))
        return;
    begin_line(&line, level, event);
    va_start(pairs, event);
    while ((key = va_arg(pairs, const char *)))
        put_pair(&line, key, va_arg(pairs, const char *));
    va_end(pairs);
    end_line(&line);
    log_text(line.text, line.size);
}

const char *log_number(uint64_t number)
{
    enum { RING = 8 };
    static _Thread_local char ring[RING][24];
    static _Thread_local unsigned next;
    char *text = ring[next++ % RING];

    snprintf(text, sizeof ring[0], "%llu", (unsigned long long)number);
    return text;
}
