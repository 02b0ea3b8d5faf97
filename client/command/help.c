/* Help is written once, in tables; three walks over them print it. */
#include "client/command/help.h"

#include <string.h>

static const struct option_line common_options[] = {
    {"address", "ADDRESS", "where the daemon is: unix:/path or tcp:host:port", 's'},
    {"namespace", "NAMESPACE", "whose operations these are: a service or a team", 'n'},
    {"caller", "CALLER", "the tenant, account or user that keys belong to", 0},
    {"timeout", "D", "how long a call may take; by default 10s", 0},
    {"json", NULL, "print a reply as JSON, in the protobuf JSON mapping", 0},
    {"help", NULL, "print this", 'h'},
};

static const struct meaning values[] = {
    {"D", "a duration: 500ms, 30s, 5m, 24h, 7d"},
    {"BYTES", "taken as they are; hex:00ff is hex, @FILE the content of a file, @- standard input"},
    {"TIME", "milliseconds since 1970, as replies have them"},
    {NULL, NULL},
};

static const struct meaning variables[] = {
    {"IDEM_ADDRESS", "where the daemon is, without --address; without both it is unix:$XDG_RUNTIME_DIR/idemd.sock if "
                     "that exists, else unix:/run/idemd/idemd.sock"},
    {"IDEM_NAMESPACE", "the namespace, without --namespace; without both it is \"default\""},
    {NULL, NULL},
};

static const struct meaning exits_good[] = {
    {"0", "it went well; other codes, for what a call was answered, are in the help of that command"},
    {NULL, NULL},
};

static const struct meaning exits[] = {
    {"64", "the command line is wrong, or the daemon refused an argument"},
    {"69", "the daemon was not reached, or did not answer in time"},
    {"70", "the daemon answered with another error"},
    {"71", "the system refused something: memory, a process, a descriptor"},
    {"74", "standard output could not be written"},
    {NULL, NULL},
};

static const char about[] = "idem makes operations safe to retry: it asks idemd, under an idempotency key, whether an "
                            "operation may run, and keeps what came of it for everyone who asks with that key.";

bool help_subcommand(unsigned at, struct subcommand *subcommand)
{
    static const struct subcommand *const own[] = {&run_subcommand, &key_subcommand, &ping_subcommand};
    enum { OWN = sizeof own / sizeof own[0] };

    if (at >= OWN)
        return one_call_at(at - OWN, subcommand);
    *subcommand = *own[at];
    return true;
}

struct option_table help_common(const char *(*set)(void *user, const char *name, const char *value), void *user)
{
    return (struct option_table){common_options, sizeof common_options / sizeof common_options[0], set, user};
}

/* ---- --help ------------------------------------------------------------------------- */

static bool has_word(const struct meaning *meaning, const char *word)
{
    for (; meaning && meaning->word; meaning++)
        if (strcmp(meaning->word, word) == 0)
            return true;
    return false;
}

/* Without those that `but` has. */
static void print_list(const struct meaning *meaning, const struct meaning *but)
{
    enum { TEXT_COLUMN = 8 };

    for (; meaning && meaning->word; meaning++) {
        if (has_word(but, meaning->word))
            continue;
        int column = printf("  %s", meaning->word);
        if (column >= TEXT_COLUMN) {
            putchar('\n');
            column = 0;
        }
        print_wrapped(stdout, meaning->text, TEXT_COLUMN, column);
    }
}

static void print_meanings(const char *heading, const struct meaning *meaning)
{
    if (meaning)
        printf("\n%s:\n", heading);
    print_list(meaning, NULL);
}

static void print_common(bool start)
{
    const struct option_table common = help_common(NULL, NULL);

    fputs("\nOptions of all commands:\n", stdout);
    options_print_help(stdout, &common);
    if (start)
        fputs("  --version               print the version\n", stdout);
    print_meanings("Values", values);
}

void help_print(const struct subcommand *subcommand)
{
    printf("usage: idem %s %s\n\n", subcommand->name, subcommand->usage);
    print_wrapped(stdout, subcommand->about, 0, 0);
    if (subcommand->table.count) {
        fputs("\nOptions:\n", stdout);
        options_print_help(stdout, &subcommand->table);
    }
    print_common(false);
    print_meanings("Variables that the command gets", subcommand->variables);
    fputs("\nExit status:\n", stdout);
    print_list(subcommand->exits, NULL);
    print_list(exits, subcommand->exits);
    if (subcommand->example)
        printf("\nExample:\n%s", subcommand->example);
}

void help_print_all(void)
{
    enum { TEXT_COLUMN = 14 };
    struct subcommand subcommand;

    fputs("usage: idem [OPTION]... COMMAND [OPTION]...\n\n", stdout);
    print_wrapped(stdout, about, 0, 0);
    fputs("\nCommands (idem COMMAND --help tells more):\n", stdout);
    for (unsigned at = 0; help_subcommand(at, &subcommand); at++) {
        /* The first sentence of what it does. */
        const char *stop = strstr(subcommand.about, ". ");
        char first[256];
        snprintf(first, sizeof first, "%.*s", stop ? (int)(stop - subcommand.about) + 1 : 255, subcommand.about);
        print_wrapped(stdout, first, TEXT_COLUMN, printf("  %s", subcommand.name));
    }
    print_common(true);
    print_meanings("Variables", variables);
    print_meanings("Exit status", exits_good);
    print_list(exits, NULL);
}

/* ---- The manual page ------------------------------------------------------------------- */

static void print_man_meanings(const char *heading, const struct meaning *meaning)
{
    if (!meaning)
        return;
    printf("%s\n", heading);
    for (; meaning->word; meaning++) {
        fputs(".TP\n.B ", stdout);
        print_roff(stdout, meaning->word);
        fputc('\n', stdout);
        print_roff(stdout, meaning->text);
        fputc('\n', stdout);
    }
}

static void print_man_example(const char *example)
{
    if (!example)
        return;
    fputs(".PP\nExample:\n.PP\n.nf\n", stdout);
    print_roff(stdout, example);
    fputs(".fi\n", stdout);
}

static void print_man_subcommand(const struct subcommand *subcommand)
{
    printf(".SS %s\n.B idem %s\n", subcommand->name, subcommand->name);
    print_roff(stdout, subcommand->usage);
    fputs("\n.PP\n", stdout);
    print_roff(stdout, subcommand->about);
    fputc('\n', stdout);
    options_print_man(stdout, &subcommand->table);
    print_man_meanings(".PP\nVariables that the command gets:", subcommand->variables);
    print_man_meanings(".PP\nExit status:", subcommand->exits);
    print_man_example(subcommand->example);
}

void help_print_man(void)
{
    const struct option_table common = help_common(NULL, NULL);
    struct subcommand subcommand;

    fputs(".TH IDEM 1 \"\" \"idemd " IDEMD_VERSION "\" \"User commands\"\n"
          ".SH NAME\nidem \\- run operations once, and talk to idemd\n"
          ".SH SYNOPSIS\n.B idem\n[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIOPTION\\fR]...\n"
          ".SH DESCRIPTION\n",
          stdout);
    print_roff(stdout, about);
    fputs("\n.SH OPTIONS\nAll commands have these, and they may stand before the command as well.\n", stdout);
    options_print_man(stdout, &common);
    fputs(".TP\n\\fB\\-\\-version\\fR\nprint the version\n", stdout);
    print_man_meanings(".SH VALUES", values);
    fputs(".SH COMMANDS\n", stdout);
    for (unsigned at = 0; help_subcommand(at, &subcommand); at++)
        print_man_subcommand(&subcommand);
    print_man_meanings(".SH ENVIRONMENT", variables);
    print_man_meanings(".SH EXIT STATUS", exits_good);
    print_man_meanings(".PP", exits);
    fputs(".SH SEE ALSO\n.BR idemd (8)\n", stdout);
}
