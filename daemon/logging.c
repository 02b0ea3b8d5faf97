/* A line is built on the stack and leaves in one write, so that lines of several threads do not mix. */
#include "daemon/logging.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 8192, VALUE_BYTES_MAX = 1024 };

static enum log_level level_max = LOG_INFO;
static enum log_format line_format = LOG_LOGFMT;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

struct line {
    char text[LINE_BYTES_MAX];
    size_t size;
};

void log_setup(enum log_level level, enum log_format format)
{
    level_max = level;
    line_format = format;
}

static void put(struct line *line, const char *text, size_t size)
{
    /* Room for the end of the line stays. */
    if (size > LINE_BYTES_MAX - 4 - line->size)
        size = LINE_BYTES_MAX - 4 - line->size;
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

static void put_string(struct line *line, const char *text)
{
    put(line, text, strlen(text));
}

static bool needs_quotes(const char *value)
{
    if (*value == '\0')
        return true;
    for (; *value; value++)
        if ((unsigned char)*value <= ' ' || *value == '"' || *value == '=' || *value == '\\' || *value == 0x7f)
            return true;
    return false;
}

/* A string as JSON has it; logfmt's quoted strings are the same. */
static void put_quoted(struct line *line, const char *value)
{
    const char *end = value + strnlen(value, VALUE_BYTES_MAX);

    put(line, "\"", 1);
    for (; value < end; value++) {
        char escape[8];
        if (*value == '"' || *value == '\\') {
            escape[0] = '\\', escape[1] = *value;
            put(line, escape, 2);
        } else if ((unsigned char)*value < ' ' || *value == 0x7f) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)*value);
            put(line, escape, 6);
        } else {
            put(line, value, 1);
        }
    }
    put(line, "\"", 1);
}

static void put_pair(struct line *line, const char *key, const char *value)
{
    if (line_format == LOG_JSON) {
        put(line, line->size ? ", " : "{", line->size ? 2 : 1);
        put_quoted(line, key);
        put(line, ": ", 2);
        put_quoted(line, value);
        return;
    }
    if (line->size)
        put(line, " ", 1);
    put_string(line, key);
    put(line, "=", 1);
    if (needs_quotes(value))
        put_quoted(line, value);
    else
        put(line, value, strnlen(value, VALUE_BYTES_MAX));
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

    if (level > level_max)
        return;
    line.size = 0;
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
