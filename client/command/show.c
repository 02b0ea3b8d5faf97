/* A table's cells are text of its own memory, escaped, so that their width is known before anything is printed. */
#include "client/command/show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/text.h"

/* ---- Tables ----------------------------------------------------------------------- */

enum { COLUMNS_MAX = 10, CELL_BYTES = 128 };

struct table {
    size_t columns, rows, capacity;
    char *(*cells)[COLUMNS_MAX]; /* of each row */
};

/* Adds a row and returns its cells, all NULL. */
static char **add_row(struct table *table)
{
    if (table->rows == table->capacity) {
        table->capacity = 2 * table->capacity + 16;
        table->cells = command_need(realloc(table->cells, table->capacity * sizeof *table->cells));
    }
    memset(table->cells[table->rows], 0, sizeof *table->cells);
    return table->cells[table->rows++];
}

/* Escaped; "-" for nothing. */
static char *cell(const char *text)
{
    char *made = NULL;
    size_t size;
    FILE *out = command_need(open_memstream(&made, &size));

    if (text && *text)
        text_print(out, text, strlen(text));
    else
        fputc('-', out);
    fclose(out);
    return command_need(made);
}

/* How many characters it has. What is wider than one column on a terminal is not looked after. */
static size_t width(const char *text)
{
    size_t characters = 0;

    for (; *text; text++)
        characters += ((unsigned char)*text & 0xc0) != 0x80;
    return characters;
}

static void print_table(FILE *out, const struct table *table)
{
    size_t widths[COLUMNS_MAX] = {0};

    for (size_t row = 0; row < table->rows; row++)
        for (size_t column = 0; column < table->columns; column++) {
            const size_t columns = width(table->cells[row][column]);
            if (columns > widths[column])
                widths[column] = columns;
        }
    for (size_t row = 0; row < table->rows; row++) {
        for (size_t column = 0; column + 1 < table->columns; column++) {
            const char *text = table->cells[row][column];
            fprintf(out, "%s%*s", text, (int)(widths[column] - width(text)) + 2, "");
        }
        fprintf(out, "%s\n", table->cells[row][table->columns - 1]);
    }
}

static void free_table(struct table *table)
{
    for (size_t row = 0; row < table->rows; row++)
        for (size_t column = 0; column < table->columns; column++)
            free(table->cells[row][column]);
    free(table->cells);
}

/* ---- Operations --------------------------------------------------------------------- */

/* "2026-11-24 22:30:44Z"; "" for 0. */
static void put_time(char text[CELL_BYTES], uint64_t unix_ms)
{
    const time_t seconds = (time_t)(unix_ms / 1000);
    struct tm parts;

    text[0] = '\0';
    if (!unix_ms)
        return;
    if (!gmtime_r(&seconds, &parts) || !strftime(text, CELL_BYTES, "%Y-%m-%d %H:%M:%SZ", &parts))
        snprintf(text, CELL_BYTES, "%" PRIu64, unix_ms);
}

static char *time_cell(uint64_t unix_ms)
{
    char text[CELL_BYTES];

    put_time(text, unix_ms);
    return cell(text);
}

static const char *state_of(const Idem__V1__OperationInfo *info)
{
    switch (info->state) {
    case IDEM__V1__STATE__STATE_RUNNING:
        return "running";
    case IDEM__V1__STATE__STATE_INTERRUPTED:
        return "interrupted";
    case IDEM__V1__STATE__STATE_DONE:
        return info->kind == IDEM__V1__OUTCOME_KIND__OUTCOME_KIND_SUCCEEDED ? "succeeded" : "failed";
    default:
        return "";
    }
}

static void add_operation(struct table *table, const Idem__V1__Listed *listed)
{
    static const Idem__V1__OperationInfo no_info = IDEM__V1__OPERATION_INFO__INIT;
    static const Idem__V1__OperationId no_id = IDEM__V1__OPERATION_ID__INIT;
    const Idem__V1__OperationInfo *info = listed->info ? listed->info : &no_info;
    const Idem__V1__OperationId *id = listed->op ? listed->op : &no_id;
    char **cells = add_row(table);
    char attempt[CELL_BYTES];

    snprintf(attempt, sizeof attempt, "%" PRIu32, info->attempt);
    cells[0] = cell(id->namespace_);
    cells[1] = cell(id->caller);
    cells[2] = cell(id->key);
    cells[3] = cell(state_of(info));
    cells[4] = cell(attempt);
    cells[5] = time_cell(info->begun_ms);
    cells[6] = time_cell(info->done_ms ? info->done_ms : info->interrupted_ms);
    cells[7] = time_cell(info->expires_ms);
    cells[8] = cell(info->operation);
    cells[9] = cell(info->owner);
}

void show_list(FILE *out, const Idem__V1__ListResponse *list)
{
    static const char *const headings[COLUMNS_MAX] = {"NAMESPACE", "CALLER", "KEY",     "STATE",     "ATTEMPT",
                                                      "BEGUN",     "ENDED",  "EXPIRES", "OPERATION", "OWNER"};
    struct table table = {.columns = COLUMNS_MAX};

    if (list->n_operations) {
        char **cells = add_row(&table);
        for (size_t column = 0; column < COLUMNS_MAX; column++)
            cells[column] = cell(headings[column]);
    }
    for (size_t i = 0; i < list->n_operations; i++)
        add_operation(&table, list->operations[i]);
    print_table(out, &table);
    free_table(&table);
    if (list->cursor.len) {
        char *digits = command_need(malloc(2 * list->cursor.len + 1));
        for (size_t i = 0; i < list->cursor.len; i++)
            sprintf(digits + 2 * i, "%02x", list->cursor.data[i]);
        fflush(out);
        command_say("there are more: --cursor hex:%s", digits);
        free(digits);
    }
}

/* ---- Metrics -------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *end)
{
    const size_t size = strlen(text), end_size = strlen(end);

    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

/* The name without what it ends in. */
static size_t stem_size(const char *name, const char *end)
{
    return strlen(name) - strlen(end);
}

static const char *bound_of(const Idem__V1__Metric *metric)
{
    for (size_t i = 0; i < metric->n_labels; i++)
        if (strcmp(metric->labels[i]->name, "le") == 0)
            return metric->labels[i]->value;
    return NULL;
}

static void put_duration(char *text, size_t bytes, double seconds)
{
    if (seconds >= 1)
        snprintf(text, bytes, "%.3gs", seconds);
    else if (seconds >= 1e-3)
        snprintf(text, bytes, "%.3gms", seconds * 1e3);
    else
        snprintf(text, bytes, "%.3gus", seconds * 1e6);
}

static void put_value(char text[CELL_BYTES], const Idem__V1__Metric *metric)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = metric->value;
    int unit = -1;

    if (ends_in(metric->name, "_bytes"))
        for (; value >= 1024 && unit < 3; unit++)
            value /= 1024;
    if (unit >= 0)
        snprintf(text, CELL_BYTES, "%.1f %s", value, units[unit]);
    else if ((ends_in(metric->name, "started_ms") || ends_in(metric->name, "now_ms")) && value >= 1 && value < 1e15)
        put_time(text, (uint64_t)value);
    else
        snprintf(text, CELL_BYTES, "%.15g", value);
}

/* "name call=begin code=OK" */
static char *name_cell(const Idem__V1__Metric *metric)
{
    char *made = NULL, *escaped;
    size_t size;
    FILE *out = command_need(open_memstream(&made, &size));

    fputs(metric->name, out);
    for (size_t i = 0; i < metric->n_labels; i++)
        fprintf(out, " %s=%s", metric->labels[i]->name, metric->labels[i]->value);
    fclose(out);
    escaped = cell(command_need(made));
    free(made);
    return escaped;
}

/* The first bound under which this share of what was counted lies. */
static const char *bound_under(const Idem__V1__StatsResponse *stats, size_t first, size_t end, double share)
{
    for (size_t i = first; i < end; i++)
        if (stats->metrics[i]->value >= share * stats->metrics[end - 1]->value)
            return bound_of(stats->metrics[i]);
    return "+Inf";
}

static void put_bound(char *text, size_t bytes, const char *bound)
{
    char duration[32];

    if (strcmp(bound, "+Inf") == 0) {
        snprintf(text, bytes, "longer");
        return;
    }
    put_duration(duration, sizeof duration, strtod(bound, NULL));
    snprintf(text, bytes, "<= %s", duration);
}

/* Buckets from `first`, then sum and count, as one row. Returns where the next metric is. */
static size_t add_histogram(struct table *table, const Idem__V1__StatsResponse *stats, size_t first)
{
    const char *name = stats->metrics[first]->name;
    size_t end = first;
    char text[2 * CELL_BYTES] = "0", mean[32], half[40], most[40];

    while (end < stats->n_metrics && strcmp(stats->metrics[end]->name, name) == 0)
        end++;
    const double count = stats->metrics[end - 1]->value;
    if (end + 1 < stats->n_metrics && ends_in(stats->metrics[end]->name, "_sum") &&
        ends_in(stats->metrics[end + 1]->name, "_count")) {
        if (count > 0) {
            put_duration(mean, sizeof mean, stats->metrics[end]->value / count);
            put_bound(half, sizeof half, bound_under(stats, first, end, 0.5));
            put_bound(most, sizeof most, bound_under(stats, first, end, 0.99));
            snprintf(text, sizeof text, "%.15g, mean %s, half %s, 99%% %s", count, mean, half, most);
        }
        end += 2;
    }
    char **cells = add_row(table);
    char *stem = command_need(strndup(name, stem_size(name, "_bucket")));
    cells[0] = cell(stem);
    cells[1] = cell(text);
    cells[2] = cell(stats->metrics[first]->help);
    free(stem);
    return end;
}

void show_stats(FILE *out, const Idem__V1__StatsResponse *stats)
{
    struct table table = {.columns = 3};

    for (size_t i = 0; i < stats->n_metrics;) {
        const Idem__V1__Metric *metric = stats->metrics[i];
        char text[CELL_BYTES];

        if (ends_in(metric->name, "_bucket") && bound_of(metric)) {
            i = add_histogram(&table, stats, i);
            continue;
        }
        char **cells = add_row(&table);
        put_value(text, metric);
        cells[0] = name_cell(metric);
        cells[1] = cell(text);
        cells[2] = cell(metric->help);
        i++;
    }
    print_table(out, &table);
    free_table(&table);
}

/* ---- Prometheus -------------------------------------------------------------------------- */

/* The format knows only \\, \" and \n; what else may not be printed is shown as text_print does, so that a backslash
 * of such an escape is one of the value. */
static void print_escaped(FILE *out, const char *text, bool quoted)
{
    size_t left = strlen(text);

    while (left > 0) {
        char escaped[TEXT_CHARACTER_BYTES_MAX];
        size_t taken;
        const size_t written = text_escape(escaped, text, left, TEXT_PLAIN, &taken);

        if (*text == '\n')
            fputs("\\n", out);
        else if (*text == '"' && quoted)
            fputs("\\\"", out);
        else
            fprintf(out, "%s%.*s", escaped[0] == '\\' && *text != '\\' ? "\\" : "", (int)written, escaped);
        text += taken;
        left -= taken;
    }
}

/* The metric that a series belongs to, and its type. Those of a histogram share one: its buckets come first, and
 * `buckets` is the last name that had any. */
static size_t family_of(const char *name, const char *buckets, const char **type)
{
    static const char *const ends[] = {"_bucket", "_sum", "_count"};

    for (size_t i = 0; i < 3; i++) {
        const size_t size = ends_in(name, ends[i]) ? stem_size(name, ends[i]) : 0;
        if (size && *buckets && stem_size(buckets, "_bucket") == size && memcmp(buckets, name, size) == 0) {
            *type = "histogram";
            return size;
        }
    }
    *type = ends_in(name, "_total") ? "counter" : "gauge";
    return strlen(name);
}

void show_prometheus(FILE *out, const Idem__V1__StatsResponse *stats)
{
    const char *last = "", *buckets = "";
    size_t last_size = 0;

    for (size_t i = 0; i < stats->n_metrics; i++) {
        const Idem__V1__Metric *metric = stats->metrics[i];
        const char *type;
        if (ends_in(metric->name, "_bucket"))
            buckets = metric->name;
        const size_t size = family_of(metric->name, buckets, &type);

        if (size != last_size || memcmp(metric->name, last, size) != 0) {
            fprintf(out, "# HELP %.*s ", (int)size, metric->name);
            print_escaped(out, metric->help, false);
            fprintf(out, "\n# TYPE %.*s %s\n", (int)size, metric->name, type);
        }
        last = metric->name;
        last_size = size;
        fputs(metric->name, out);
        for (size_t k = 0; k < metric->n_labels; k++) {
            fprintf(out, "%s%s=\"", k ? "," : "{", metric->labels[k]->name);
            print_escaped(out, metric->labels[k]->value, true);
            fputc('"', out);
        }
        fprintf(out, "%s %.17g\n", metric->n_labels ? "}" : "", metric->value);
    }
}
