/* What the daemon was told: its defaults, then IDEMD_* variables, then the command line; the later wins. One table has
 * every option's name, variable, kind, default and help, and parsing, --help and the manual page all come from it. */
#ifndef IDEMD_OPTIONS_H
#define IDEMD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/logging.h"
#include "daemon/server/server.h"

enum options_action {
    OPTIONS_RUN,        /* be the daemon */
    OPTIONS_CHECK_DATA, /* --check-data: read everything in check_data, change nothing */
    OPTIONS_HELP,       /* options_print_help, exit 0 */
    OPTIONS_VERSION,    /* print the version, exit 0 */
    OPTIONS_MAN,        /* options_print_man, exit 0: how the build makes idemd.8 */
};

struct options {
    enum options_action action;
    struct server_options server; /* its strings point into the arguments, the variables, or listen_text */
    enum log_level log_level;
    enum log_format log_format;
    const char *check_data; /* the directory; NULL unless OPTIONS_CHECK_DATA */
    char *listen_text;      /* the variable's addresses, cut at its spaces */
};

/* Why options were refused: 64 for the command line, 78 for a variable or for what can only be set together, and a
 * sentence that names the option and its limit. */
struct options_error {
    int exit_code;
    char message[512];
};

/* Reads the variables of `environment` ("NAME=value", ended by NULL), then argv[1 ..]. True: *options is whole, and
 * what it points to lives as long as argv, the environment and *options. False: *error says why; a variable that begins
 * with IDEMD_ and is none of ours is refused too. In both cases options_release lets go of it. --help, --version and
 * --man win over whatever else is there or wrong. */
bool options_read(struct options *options, int argc, char *const argv[], char *const environment[],
                  struct options_error *error);
void options_release(struct options *options);

/* Written whole for a terminal of 80 columns or more. */
void options_print_help(FILE *out);
/* The manual page idemd(8), in roff. */
void options_print_man(FILE *out);

/* How values are written, for whoever reads more of them: "500ms", "30s", "5m", "24h", "7d"; "1048576", "64KiB",
 * "8GiB". False: it is not written so, or does not fit 64 bits. */
bool options_duration(const char *text, uint64_t *ms);
bool options_bytes(const char *text, uint64_t *bytes);

#endif
