/* A line is built on the stack and leaves in one write, so that lines of several threads do not mix. Whatever is in a
 * value, what comes out is one line of valid UTF-8 (and of valid JSON) that a terminal may be shown: controls and the
 * like are escaped, what is no UTF-8 becomes U+FFFD, and a pair that finds no more room is left out whole. */
#include "daemon/logging.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/text.h"

enum { LINE_BYTES_MAX = 8192, VALUE_BYTES_MAX = 1024 };

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

void log_event(enum log_level level, const char *event, ...)
{
    struct line line;
    const char *key;
    va_list pairs;

    if (!log_enabled(level))
        return;
    line.size = 0;
    line.overflown = false;
    put_time(&line);
    put_pair(&line, "level", level_names[level]);
    put_pair(&line, "event", event);
    va_start(pairs, event);
    while ((key = va_arg(pairs, const char *)))
        put_pair(&line, key, va_arg(pairs, const char *));
    va_end(pairs);
    if (line_format == LOG_JSON)
        line.text[line.size++] = '}';
    line.text[line.size++] = '\n';
    const ssize_t written = write(STDERR_FILENO, line.text, line.size);
    (void)written; /* a log that cannot be written has nobody to be told */
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
