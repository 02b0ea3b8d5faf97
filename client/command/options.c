/* getopt_long does the reading; what it would accept in silence is refused here. */
#include "client/command/options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "client/command/command.h"

enum {
    LONG_FIRST = 256, /* what getopt_long returns for the first option; below that it is a letter */
    HELP_COLUMN = 26,
    LINE_COLUMNS = 80,
};

/* All tables as one, as getopt_long wants them. */
struct reading {
    struct option *options;
    const struct option_line **lines;
    const struct option_table **tables;
    char letters[64];
    size_t count;
};

static void take_in(struct reading *reading, const struct option_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct option_line *line = &table->lines[i];
        reading->lines[reading->count] = line;
        reading->tables[reading->count] = table;
        reading->options[reading->count] = (struct option){line->name, line->argument ? required_argument : no_argument,
                                                           NULL, LONG_FIRST + (int)reading->count};
        reading->count++;
        if (line->letter) {
            const size_t size = strlen(reading->letters);
            snprintf(reading->letters + size, sizeof reading->letters - size, "%c%s", line->letter,
                     line->argument ? ":" : "");
        }
    }
}

static void make_reading(struct reading *reading, const struct option_table *tables, size_t count)
{
    size_t lines = 0;

    for (size_t i = 0; i < count; i++)
        lines += tables[i].count;
    /* "+": stop at the first word that is no option. ":": tell a missing value from an unknown option. */
    *reading = (struct reading){command_need(calloc(lines + 1, sizeof *reading->options)),
                                command_need(calloc(lines + 1, sizeof(void *))),
                                command_need(calloc(lines + 1, sizeof(void *))), "+:", 0};
    for (size_t i = 0; i < count; i++)
        take_in(reading, &tables[i]);
}

static void free_reading(struct reading *reading)
{
    free(reading->options);
    free(reading->lines);
    free(reading->tables);
}

/* Which option getopt_long means: by its place, or by its letter. */
static size_t find(const struct reading *reading, int found)
{
    if (found >= LONG_FIRST)
        return (size_t)(found - LONG_FIRST);
    for (size_t i = 0; i < reading->count; i++)
        if (found && reading->lines[i]->letter == found)
            return i;
    return reading->count;
}

static bool looks_like_an_option(const struct reading *reading, const char *word)
{
    return strncmp(word, "--", 2) == 0 ||
           (word[0] == '-' && word[1] && !word[2] && find(reading, (unsigned char)word[1]) < reading->count);
}

static int refuse(const struct reading *reading, int found, const char *word)
{
    const size_t at = find(reading, optopt);

    if (at == reading->count && optopt)
        command_misuse("-%c: no such option", optopt);
    else if (at == reading->count)
        command_misuse("%s: no such option, or short for several", word);
    else if (found == ':')
        command_misuse("--%s needs a value", reading->lines[at]->name);
    else
        command_misuse("--%s takes no value", reading->lines[at]->name);
    return -1;
}

static bool take(const struct reading *reading, size_t at, const char *value, bool own_word)
{
    const struct option_line *line = reading->lines[at];
    const struct option_table *table = reading->tables[at];

    if (value && !*value) {
        command_misuse("--%s: its value is empty", line->name);
        return false;
    }
    if (value && own_word && looks_like_an_option(reading, value)) {
        command_misuse("--%s needs a value, and %s looks like an option; if it is the value, write --%s=%s", line->name,
                       value, line->name, value);
        return false;
    }
    const char *wrong = table->set(table->user, line->name, value);
    if (!wrong)
        return true;
    if (value)
        command_misuse("--%s %s: %s", line->name, value, wrong);
    else
        command_misuse("--%s: %s", line->name, wrong);
    return false;
}

int options_read(const struct option_table *tables, size_t count, int argc, char **argv)
{
    struct reading reading;
    int found, end = 0;

    make_reading(&reading, tables, count);
    optind = 0; /* glibc: from the start */
    opterr = 0;
    while (end == 0 && (found = getopt_long(argc, argv, reading.letters, reading.options, NULL)) != -1) {
        if (found == '?' || found == ':')
            end = refuse(&reading, found, argv[optind - 1]);
        else if (!take(&reading, find(&reading, found), optarg, optarg == argv[optind - 1]))
            end = -1;
    }
    free_reading(&reading);
    return end == 0 ? optind : end;
}

/* ---- Printing ------------------------------------------------------------------- */

void print_wrapped(FILE *out, const char *text, int indent, int column)
{
    bool first = true; /* of its line */

    fprintf(out, "%*s", indent > column ? indent - column : 0, "");
    column = indent;
    while (*text) {
        const int size = (int)strcspn(text, " ");
        if (!first && column + 1 + size > LINE_COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
            first = true;
        }
        column += fprintf(out, "%s%.*s", first ? "" : " ", size, text);
        first = false;
        text += size + (text[size] == ' ');
    }
    fputc('\n', out);
}

void options_print_help(FILE *out, const struct option_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct option_line *line = &table->lines[i];
        int column = fprintf(out, "  ");

        if (line->letter)
            column += fprintf(out, "-%c, ", line->letter);
        column += fprintf(out, "--%s%s%s", line->name, line->argument ? " " : "", line->argument ? line->argument : "");
        if (column > HELP_COLUMN - 2) {
            fputc('\n', out);
            column = 0;
        }
        print_wrapped(out, line->help, HELP_COLUMN, column);
    }
}

void print_roff(FILE *out, const char *text)
{
    bool first = true; /* of its line */

    for (; *text; text++) {
        if (first && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\\')
            fputs("\\e", out);
        else
            fputc(*text, out);
        first = *text == '\n';
    }
}

void options_print_man(FILE *out, const struct option_table *table)
{
    for (size_t i = 0; i < table->count; i++) {
        const struct option_line *line = &table->lines[i];

        fputs(".TP\n\\fB", out);
        if (line->letter)
            fprintf(out, "\\-%c\\fR, \\fB", line->letter);
        fputs("\\-\\-", out);
        print_roff(out, line->name);
        fputs("\\fR", out);
        if (line->argument) {
            fputs(" \\fI", out);
            print_roff(out, line->argument);
            fputs("\\fR", out);
        }
        fputc('\n', out);
        print_roff(out, line->help);
        fputs("\n", out);
    }
}
