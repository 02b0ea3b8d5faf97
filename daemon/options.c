/* One table: an option's name, variable, kind, where its value goes, its default and its help. Parsing, --help and the
 * manual page walk it. */
#include "daemon/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "daemon/base/memory.h"
#include "proto/limits.h"

#define MIB (1024ull * 1024)
#define GIB (1024ull * MIB)

enum kind {
    KIND_PATH,
    KIND_ADDRESS,    /* may be repeated */
    KIND_BYTES,      /* uint64_t */
    KIND_BYTES32,    /* uint32_t */
    KIND_DURATION,   /* uint64_t, ms */
    KIND_DURATION32, /* uint32_t, ms */
    KIND_COUNT,      /* uint64_t */
    KIND_COUNT32,    /* uint32_t */
    KIND_MODE,       /* int: permissions */
    KIND_GROUP,      /* int64_t: a group's number */
    KIND_WORD,       /* int: the place of its word, plus `least` */
    KIND_FLAG,       /* bool */
    KIND_ACTION,     /* ends everything else */
};

struct option {
    const char *name, *variable, *argument, *standard;
    const char *help;
    enum kind kind;
    size_t offset;        /* of the value in struct options */
    uint64_t least, most; /* of numbers; KIND_ACTION: the action */
    const char *words[5]; /* KIND_WORD */
};

#define AT(member) offsetof(struct options, member)
static const struct option table[] = {
    {"data",
     "IDEMD_DATA",
     "DIR",
     "/var/lib/idemd",
     "where the store is; made with mode 0700 where it is not",
     KIND_PATH,
     AT(server.data),
     0,
     0,
     {0}},
    {"listen",
     "IDEMD_LISTEN",
     "ADDRESS",
     "unix:" IDEM_UNIX_SOCKET,
     "unix:/path or tcp:host:port (loopback only: TLS and authentication are not there yet); may be repeated, up to 16",
     KIND_ADDRESS,
     0,
     0,
     0,
     {0}},
    {"socket-mode",
     "IDEMD_SOCKET_MODE",
     "MODE",
     NULL,
     "permissions of Unix sockets, in octal; who may write may connect (0600, or 0660 with --socket-group)",
     KIND_MODE,
     AT(server.socket_mode),
     0,
     0777,
     {0}},
    {"socket-group",
     "IDEMD_SOCKET_GROUP",
     "GROUP",
     NULL,
     "group that owns Unix sockets, by name or number; else it is that of the process",
     KIND_GROUP,
     AT(server.socket_group),
     0,
     0,
     {0}},
    {"quota",
     "IDEMD_QUOTA",
     "BYTES",
     "8GiB",
     "pages that the store may use; over that new operations are refused, all else goes on (64MiB .. 4096GiB)",
     KIND_BYTES,
     AT(server.quota_bytes),
     64 * MIB,
     4096 * GIB,
     {0}},
    {"accept-loss",
     "IDEMD_ACCEPT_LOSS",
     NULL,
     NULL,
     "start without the operations whose stored heads are damaged, and log each",
     KIND_FLAG,
     AT(server.accept_loss),
     0,
     0,
     {0}},
    {"log-level",
     "IDEMD_LOG_LEVEL",
     "LEVEL",
     "info",
     "error, warn, info or debug",
     KIND_WORD,
     AT(log_level),
     0,
     0,
     {"error", "warn", "info", "debug"}},
    {"log-format",
     "IDEMD_LOG_FORMAT",
     "FORMAT",
     "logfmt",
     "logfmt or json",
     KIND_WORD,
     AT(log_format),
     0,
     0,
     {"logfmt", "json"}},
    {"keep",
     "IDEMD_KEEP",
     "D",
     "24h",
     "how long outcomes are replayed, where a call does not say (1s .. 90d)",
     KIND_DURATION,
     AT(server.policy.keep_ms),
     IDEM_KEEP_MS_MIN,
     IDEM_KEEP_MS_MAX,
     {0}},
    {"keep-min",
     "IDEMD_KEEP_MIN",
     "D",
     "1s",
     "the least a call can ask for (1s .. 90d)",
     KIND_DURATION,
     AT(server.policy.keep_min_ms),
     IDEM_KEEP_MS_MIN,
     IDEM_KEEP_MS_MAX,
     {0}},
    {"keep-max",
     "IDEMD_KEEP_MAX",
     "D",
     "90d",
     "the most a call can ask for (1s .. 90d)",
     KIND_DURATION,
     AT(server.policy.keep_max_ms),
     IDEM_KEEP_MS_MIN,
     IDEM_KEEP_MS_MAX,
     {0}},
    {"lease",
     "IDEMD_LEASE",
     "D",
     "30s",
     "how long a grant lasts, where a call does not say (1s .. 24h)",
     KIND_DURATION32,
     AT(server.policy.lease_ms),
     IDEM_LEASE_MS_MIN,
     IDEM_LEASE_MS_MAX,
     {0}},
    {"grace",
     "IDEMD_GRACE",
     "D",
     "5s",
     "what is left of a bound grant when its connection is gone (0s .. 24h)",
     KIND_DURATION32,
     AT(server.policy.grace_ms),
     0,
     IDEM_LEASE_MS_MAX,
     {0}},
    {"if-interrupted",
     "IDEMD_IF_INTERRUPTED",
     "WHAT",
     "report",
     "report or take-over: what a Begin of an interrupted operation does, where it does not say",
     KIND_WORD,
     AT(server.policy.if_interrupted),
     IF_INTERRUPTED_REPORT,
     0,
     {"report", "take-over"}},
    {"max-outcome",
     "IDEMD_MAX_OUTCOME",
     "BYTES",
     "1MiB",
     "the largest body of an outcome that is kept (64KiB .. 16MiB)",
     KIND_BYTES32,
     AT(server.policy.max_outcome_bytes),
     IDEM_BODY_BYTES_LEAST,
     IDEM_BODY_BYTES_MOST,
     {0}},
    {"max-unfinished",
     "IDEMD_MAX_UNFINISHED",
     "N",
     "1000000",
     "operations that may be running or interrupted at a time (1 .. 100000000)",
     KIND_COUNT,
     AT(server.unfinished_max),
     1,
     IDEM_UNFINISHED_MAX,
     {0}},
    {"namespace-share",
     "IDEMD_NAMESPACE_SHARE",
     "PERCENT",
     "50",
     "how much one namespace may take of what the others leave: of --quota, of --max-unfinished and of the places for "
     "calls that wait. At 50 two busy namespaces get a third each, and a third stays free; at 100 one may take all "
     "(1 .. 100)",
     KIND_COUNT32,
     AT(server.namespace_share),
     1,
     100,
     {0}},
    {"max-memory",
     "IDEMD_MAX_MEMORY",
     "BYTES",
     NULL,
     "memory that may be in use; over that new operations and calls that would wait are refused, all else goes on "
     "(64MiB .. 1048576GiB; where it is not given: three quarters of what the machine, the cgroup and ulimit -v allow)",
     KIND_BYTES,
     AT(server.memory_max),
     64 * MIB,
     1048576 * GIB,
     {0}},
    {"check-data",
     NULL,
     "DIR",
     NULL,
     "read every record, say what is damaged where, write nothing; exit status 0, 65 if anything is damaged, 71 or 73 "
     "if it could not be checked, or 75 if a daemon has it open",
     KIND_ACTION,
     AT(check_data),
     OPTIONS_CHECK_DATA,
     0,
     {0}},
    {"version", NULL, NULL, NULL, "print the version", KIND_ACTION, 0, OPTIONS_VERSION, 0, {0}},
    {"help", NULL, NULL, NULL, "print this", KIND_ACTION, 0, OPTIONS_HELP, 0, {0}},
    {"man", NULL, NULL, NULL, NULL, KIND_ACTION, 0, OPTIONS_MAN, 0, {0}},
};
enum { OPTIONS = sizeof table / sizeof table[0] };

/* ---- Values ----------------------------------------------------------------------- */

struct unit {
    const char *name;
    uint64_t size;
};

static bool read_units(const char *text, const struct unit *units, uint64_t *value)
{
    char *end;
    uint64_t count;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    count = strtoull(text, &end, 10);
    if (errno)
        return false;
    for (; units->name; units++)
        if (strcmp(end, units->name) == 0 && count <= UINT64_MAX / units->size) {
            *value = count * units->size;
            return true;
        }
    return false;
}

bool options_duration(const char *text, uint64_t *ms)
{
    static const struct unit units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {"d", 24 * 3600 * 1000}, {NULL, 0}};

    return read_units(text, units, ms);
}

bool options_bytes(const char *text, uint64_t *bytes)
{
    static const struct unit units[] = {{"", 1}, {"KiB", 1024}, {"MiB", MIB}, {"GiB", GIB}, {NULL, 0}};

    return read_units(text, units, bytes);
}

static bool refuse(struct options_error *error, int exit_code, const char *where, const char *value, const char *what)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%.100s: %.200s%s%s", where, value ? value : "", value ? ": " : "",
             what);
    return false;
}

/* Is text[0 .. size) an address of this machine alone, or the name of one? No name is looked up here. */
static bool is_loopback(const char *text, size_t size)
{
    char host[64];
    struct in_addr address;

    if (size >= sizeof host)
        return false;
    memcpy(host, text, size);
    host[size] = '\0';
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (strncmp(host, "127.", 4) == 0 && inet_pton(AF_INET, host, &address) == 1);
}

static bool is_port(const char *text)
{
    const size_t size = strlen(text);

    return size >= 1 && size <= 5 && strspn(text, "0123456789") == size && atoi(text) <= 65535;
}

static const char *address_fault(const char *address)
{
    const struct sockaddr_un *name = NULL;

    if (strncmp(address, "unix:/", 6) == 0)
        return strlen(address + 5) < sizeof name->sun_path ? NULL : "the path of a Unix socket has at most 107 bytes";
    if (strncmp(address, "tcp:", 4) != 0)
        return "an address is written unix:/path or tcp:host:port";
    const char *host = address + 4, *port = strrchr(host, ':');
    if (!port || port == host || !is_port(port + 1))
        return "an address is written unix:/path or tcp:host:port, with a port of at most 65535";
    if (!is_loopback(host, (size_t)(port - host)))
        return "only loopback addresses (127.x.x.x, localhost, [::1]): TLS and authentication are not there yet";
    return NULL;
}

static const char *add_address(struct options *options, const char *address)
{
    const char *fault = address_fault(address);

    if (!fault && options->server.listen_count == SERVER_LISTENERS_MAX)
        fault = "at most 16 addresses";
    if (!fault)
        options->server.listen[options->server.listen_count++] = address;
    return fault;
}

static const char *set_word(const struct option *option, int *expiry_key, const char *value)
{
    for (int i = 0; option->words[i]; i++)
        if (strcmp(option->words[i], value) == 0) {
            *expiry_key = i + (int)option->least;
            return NULL;
        }
    return option->help;
}

static const char *set_number(const struct option *option, char *at, const char *value)
{
    static const struct unit plain[] = {{"", 1}, {NULL, 0}};
    static char fault[400];
    const bool duration = option->kind == KIND_DURATION || option->kind == KIND_DURATION32;
    const bool count = option->kind == KIND_COUNT || option->kind == KIND_COUNT32;
    uint64_t number;

    if (!(duration ? options_duration(value, &number)
          : count  ? read_units(value, plain, &number)
                   : options_bytes(value, &number)))
        return duration ? "write a duration as 500ms, 30s, 5m, 24h, 7d"
               : count  ? "write a number"
                        : "write a number of bytes as 1048576, 64KiB, 16MiB, 8GiB";
    if (number < option->least || number > option->most) {
        snprintf(fault, sizeof fault, "out of its range: %s", option->help);
        return fault;
    }
    if (option->kind == KIND_BYTES32 || option->kind == KIND_DURATION32 || option->kind == KIND_COUNT32)
        *(uint32_t *)(void *)at = (uint32_t)number;
    else
        *(uint64_t *)(void *)at = number;
    return NULL;
}

static const char *set_mode(const struct option *option, int *mode, const char *value)
{
    const size_t size = strlen(value);

    if (size < 3 || size > 4 || strspn(value, "01234567") != size || strtoul(value, NULL, 8) > option->most)
        return "write permissions in octal as 600, 0660 or 0666";
    *mode = (int)strtoul(value, NULL, 8);
    return NULL;
}

static const char *set_group(int64_t *group, const char *value)
{
    static const struct unit plain[] = {{"", 1}, {NULL, 0}};
    const struct group *found;
    uint64_t number;

    if (!read_units(value, plain, &number)) {
        found = getgrnam(value);
        if (!found)
            return "there is no such group";
        number = found->gr_gid;
    }
    if (number >= (gid_t)-1) /* which stands for none */
        return "no group has such a number";
    *group = (int64_t)number;
    return NULL;
}

/* Returns what is wrong with the value, or NULL. */
static const char *set(struct options *options, const struct option *option, const char *value)
{
    char *at = (char *)options + option->offset;

    switch (option->kind) {
    case KIND_PATH:
        *(const char **)(void *)at = value;
        return *value ? NULL : "a path is not empty";
    case KIND_ADDRESS:
        return add_address(options, value);
    case KIND_MODE:
        return set_mode(option, (int *)(void *)at, value);
    case KIND_GROUP:
        return set_group((int64_t *)(void *)at, value);
    case KIND_WORD:
        return set_word(option, (int *)(void *)at, value);
    case KIND_FLAG:
        *(bool *)(void *)at = strcmp(value, "true") == 0 || strcmp(value, "1") == 0;
        return *(bool *)(void *)at || strcmp(value, "false") == 0 || strcmp(value, "0") == 0 ? NULL : "true or false";
    case KIND_ACTION:
        if (options->action < OPTIONS_HELP) /* help and version win */
            options->action = (enum options_action)option->least;
        if (option->argument)
            *(const char **)(void *)at = value;
        return *value ? NULL : "a path is not empty";
    default:
        return set_number(option, at, value);
    }
}

/* ---- Where values come from ----------------------------------------------------------- */

_Static_assert(sizeof(enum log_level) == sizeof(int) && sizeof(enum log_format) == sizeof(int) &&
                   sizeof(enum if_interrupted) == sizeof(int),
               "words are stored as int");

static void set_defaults(struct options *options)
{
    options->server.socket_mode = -1;
    options->server.socket_group = -1;
    for (int i = 0; i < OPTIONS; i++)
        if (table[i].standard)
            set(options, &table[i], table[i].standard);
}

static bool set_listen_variable(struct options *options, const char *value, struct options_error *error)
{
    char *rest;

    options->server.listen_count = 0;
    options->listen_text = mem_string(value);
    for (char *address = strtok_r(options->listen_text, " ", &rest); address; address = strtok_r(NULL, " ", &rest)) {
        const char *fault = add_address(options, address);
        if (fault)
            return refuse(error, 78, "IDEMD_LISTEN", address, fault);
    }
    return options->server.listen_count > 0 || refuse(error, 78, "IDEMD_LISTEN", value, "holds no address");
}

static const struct option *find_variable(const char *name, size_t size)
{
    for (int i = 0; i < OPTIONS; i++)
        if (table[i].variable && strlen(table[i].variable) == size && strncmp(table[i].variable, name, size) == 0)
            return &table[i];
    return NULL;
}

static bool set_variable(struct options *options, const char *name, size_t size, struct options_error *error)
{
    const struct option *option = find_variable(name, size);
    const char *value = name + size + 1, *fault;

    if (!option) {
        char text[100];
        snprintf(text, sizeof text, "%.*s", (int)size, name);
        return refuse(error, 78, text, NULL,
                      "no such variable: unset it, or correct its name; idemd --help lists them");
    }
    if (option->kind == KIND_ADDRESS)
        return set_listen_variable(options, value, error);
    fault = set(options, option, value);
    return !fault || refuse(error, 78, option->variable, value, fault);
}

/* A name with a mistake in it would leave a default in force, and nobody would know. */
static bool set_variables(struct options *options, char *const environment[], struct options_error *error)
{
    for (; *environment; environment++) {
        const char *equals = strchr(*environment, '=');
        if (equals && strncmp(*environment, "IDEMD_", 6) == 0 &&
            !set_variable(options, *environment, (size_t)(equals - *environment), error))
            return false;
    }
    return true;
}

static const struct option *find(const char *name, size_t size)
{
    for (int i = 0; i < OPTIONS; i++)
        if (strlen(table[i].name) == size && strncmp(table[i].name, name, size) == 0)
            return &table[i];
    return NULL;
}

static bool set_arguments(struct options *options, int argc, char *const argv[], struct options_error *error)
{
    bool listens = false;

    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *equals = strchr(word, '=');
        const struct option *option = NULL;

        if (strncmp(word, "--", 2) == 0)
            option = find(word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2));
        if (!option)
            return refuse(error, 64, word, NULL, "no such option; idemd --help lists them");
        const char *value = equals ? equals + 1 : "true";
        if (option->argument && !equals) {
            /* What looks like an option mostly is one, and the value before it is missing. */
            if (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0)
                return refuse(error, 64, word, NULL, "needs a value; write --name=VALUE if it begins with --");
            value = argv[++i];
        } else if (!option->argument && equals && option->kind != KIND_FLAG) {
            return refuse(error, 64, word, NULL, "takes no value");
        }
        if (option->kind == KIND_ADDRESS && !listens) {
            options->server.listen_count = 0;
            listens = true;
        }
        const char *fault = set(options, option, value);
        if (fault) {
            char name[64];
            snprintf(name, sizeof name, "--%s", option->name);
            return refuse(error, 64, name, value, fault);
        }
    }
    return true;
}

static bool check_together(const struct options *options, struct options_error *error)
{
    const struct policy *policy = &options->server.policy;

    if (policy->keep_min_ms <= policy->keep_ms && policy->keep_ms <= policy->keep_max_ms)
        return true;
    return refuse(error, 78, "--keep", NULL, "--keep-min is at most --keep, and --keep at most --keep-max");
}

/* Help wins over whatever else is wrong. */
static bool asks_for_help(struct options *options, int argc, char *const argv[])
{
    static const struct {
        const char *word;
        enum options_action action;
    } asked[] = {{"--help", OPTIONS_HELP}, {"--version", OPTIONS_VERSION}, {"--man", OPTIONS_MAN}};

    for (int i = 1; i < argc; i++)
        for (size_t k = 0; k < sizeof asked / sizeof asked[0]; k++)
            if (strcmp(argv[i], asked[k].word) == 0) {
                options->action = asked[k].action;
                return true;
            }
    return false;
}

static void set_dependent(struct options *options)
{
    if (options->server.socket_mode < 0)
        options->server.socket_mode = options->server.socket_group < 0 ? 0600 : 0660;
}

bool options_read(struct options *options, int argc, char *const argv[], char *const environment[],
                  struct options_error *error)
{
    *options = (struct options){.action = OPTIONS_RUN};
    set_defaults(options);
    if (asks_for_help(options, argc, argv))
        return true;
    if (!set_variables(options, environment, error) || !set_arguments(options, argc, argv, error) ||
        !check_together(options, error))
        return false;
    set_dependent(options);
    return true;
}

void options_release(struct options *options)
{
    mem_free(options->listen_text);
    options->listen_text = NULL;
}

/* ---- Help ------------------------------------------------------------------------------- */

static const char signals[] =
    "SIGTERM and SIGINT drain: no new connections, open calls are answered, those that wait get UNAVAILABLE. SIGHUP is "
    "logged and changes nothing, because there is nothing to reload.";
static const char statuses[] =
    "0 drained; 64 usage; 65 data not readable as ours; 69 address in use; 70 a bug; 71 the system; 73 cannot create; "
    "74 storage failed; 75 another daemon holds the directory; 77 not permitted; 78 configuration.";

static const char about[] =
    "idemd makes operations safe to retry: it keeps, for each idempotency key, who may run the operation and what "
    "came of it.";

/* Prints text in lines of at most 76 characters, each after `indent` spaces. */
static void print_wrapped(FILE *out, const char *text, int indent)
{
    int column = indent;

    fprintf(out, "%*s", indent, "");
    while (*text) {
        const int size = (int)strcspn(text, " ");
        if (column > indent && column + 1 + size > 76) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        }
        if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", size, text);
        column += size;
        text += size + (text[size] == ' ');
    }
    fputc('\n', out);
}

void options_print_help(FILE *out)
{
    fputs("usage: idemd [OPTION]...\n\n", out);
    print_wrapped(out, about, 0);
    fputs("\nA variable sets what its option sets; the option wins.\n\n", out);
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *option = &table[i];
        if (!option->help)
            continue;
        fprintf(out, "  --%s%s%s", option->name, option->argument ? " " : "", option->argument ? option->argument : "");
        if (option->standard)
            fprintf(out, "  (%s)", option->standard);
        if (option->variable)
            fprintf(out, "  $%s", option->variable);
        fputc('\n', out);
        print_wrapped(out, option->help, 6);
    }
    fputs("\nSignals:\n", out);
    print_wrapped(out, signals, 6);
    fputs("\nExit status:\n", out);
    print_wrapped(out, statuses, 6);
}

/* A hyphen in roff is a minus only where it is escaped. */
static void print_roff(FILE *out, const char *text)
{
    for (; *text; text++)
        fprintf(out, *text == '-' ? "\\-" : *text == '\\' ? "\\e" : "%c", *text);
}

void options_print_man(FILE *out)
{
    fputs(".TH IDEMD 8 \"\" \"idemd " IDEMD_VERSION
          "\" \"System administration\"\n.SH NAME\nidemd \\- make operations safe to "
          "retry\n.SH SYNOPSIS\n.B idemd\n[\\fIOPTION\\fR]...\n.SH DESCRIPTION\n",
          out);
    print_roff(out, about);
    fputs("\n.SH OPTIONS\nA variable sets what its option sets; the option wins.\n", out);
    for (int i = 0; i < OPTIONS; i++) {
        const struct option *option = &table[i];
        if (!option->help)
            continue;
        fputs(".TP\n\\fB\\-\\-", out);
        print_roff(out, option->name);
        fprintf(out, "\\fR \\fI%s\\fR\n", option->argument ? option->argument : "");
        print_roff(out, option->help);
        fputc('\n', out);
        if (option->standard)
            fprintf(out, "(default: %s)\n", option->standard);
        if (option->variable)
            fprintf(out, "(variable: %s)\n", option->variable);
    }
    fputs(".SH SIGNALS\n", out);
    print_roff(out, signals);
    fputs("\n.SH EXIT STATUS\n", out);
    print_roff(out, statuses);
    fputs("\n.SH SEE ALSO\n.BR idem (1)\n", out);
}
