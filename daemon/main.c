/* idemd: what it was told, then the server. */
#include <stdio.h>
#include <unistd.h>

#include "daemon/store/check.h"
#include "daemon/base/memory.h"
#include "daemon/options.h"
#include "daemon/server/server.h"
#include "proto/standard.h"

static int act(const struct options *options)
{
    switch (options->action) {
    case OPTIONS_HELP:
        options_print_help(stdout);
        return 0;
    case OPTIONS_MAN:
        options_print_man(stdout);
        return 0;
    case OPTIONS_VERSION:
        puts("idemd " IDEMD_VERSION);
        return 0;
    case OPTIONS_CHECK_DATA:
        return check_data(options->check_data, stdout);
    case OPTIONS_RUN:
        break;
    }
    log_setup(options->log_level, options->log_format);
    return server_run(&options->server);
}

int main(int argc, char **argv)
{
    struct options_error error;
    struct options options;
    int exit_code;

    if (!standard_fill(true))
        return 71;
    mem_set_up();
    if (options_read(&options, argc, argv, environ, &error)) {
        exit_code = act(&options);
    } else {
        fprintf(stderr, "idemd: %s\n", error.message);
        exit_code = error.exit_code;
    }
    options_release(&options);
    return exit_code;
}
