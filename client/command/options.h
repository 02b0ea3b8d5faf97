/* Options: tables of them, read with getopt_long, and printed for --help and the manual page. */
#ifndef IDEM_COMMAND_OPTIONS_H
#define IDEM_COMMAND_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct option_line {
    const char *name;     /* without the dashes */
    const char *argument; /* "KEY", "D", "succeeded|failed"; NULL: it takes no value */
    const char *help;     /* one sentence without a full stop */
    char letter;          /* "-s" as well; 0: none */
};

/* A table, and what takes the values from it. */
struct option_table {
    const struct option_line *lines;
    size_t count;
    /* value is NULL for an option that takes none, and never empty. Returns NULL, or what is wrong with it. */
    const char *(*set)(void *user, const char *name, const char *value);
    void *user;
};

/* Reads the options at the start of words 1, 2, ... up to the first word that is none, or to "--". A missing or empty
 * value is wrong for every option that takes one, and so is a value in a word of its own that looks like an option: it
 * mostly is one, and the value before it is missing. Returns where the first word is that is left, or -1: something is
 * wrong, and it said so. */
int options_read(const struct option_table *tables, size_t count, int argc, char **argv);

/* Both print one line an option, or more. */
void options_print_help(FILE *out, const struct option_table *table);
void options_print_man(FILE *out, const struct option_table *table);

/* Prints a paragraph in lines of at most 80 columns, each after `indent` spaces; the first starts at `column`. */
void print_wrapped(FILE *out, const char *text, int indent, int column);
/* The same for roff, in which dashes, backslashes, and dots at the start of a line have a meaning. */
void print_roff(FILE *out, const char *text);

#endif
