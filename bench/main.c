/* idem-bench: options, one load, its figures as text and JSON. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/load.h"
#include "bench/pool.h"

static const struct target *const targets[] = {&target_idem,          &target_redis,     &target_floor_echo,
                                               &target_floor_durable, &target_floor_log, &target_floor_lmdb};

static const char usage[] =
    "usage: idem-bench --target TARGET --scenario claim|cycle|replay|mixed|hot-key\n"
    "                  [--connections N] [--pipeline N] [--rate R] [--seconds S] [--body-bytes N]\n"
    "                  [--keys N] [--first-key N] [--stored] [--json FILE]\n"
    "\n"
    "  --target       what is measured, each by the same load; ADDRESS is unix:/path or tcp:host:port\n"
    "                 idem:ADDRESS       idemd\n"
    "                 redis:ADDRESS      SET NX EX, SET XX EX, GET\n"
    "                 floor:echo         a server with such a loop, which sends every request back\n"
    "                 floor:durable:DIR  the same after one write and flush a turn, to a file in DIR\n"
    "                 floor:log:DIR      no server: the requests' bytes, one write and flush a batch\n"
    "                 floor:lmdb:DIR     no server: the daemon's store, one commit a batch\n"
    "                 a batch is connections x pipeline requests, or with --rate what is due; DIR needs 200 MB\n"
    "  --scenario     claim: new keys; cycle: claim, then complete; replay: ask for what is stored;\n"
    "                 mixed: nine in ten ask for what is stored; hot-key: all wait for the same key\n"
    "  --connections  1 .. 10000 (50)\n"
    "  --pipeline     requests in flight on each, 1 .. 1000 (1)\n"
    "  --rate         operations a second, sent at fixed times (open loop); without it as fast as answers come\n"
    "  --seconds      how long, 0.1 .. 3600 (5)\n"
    "  --body-bytes   of an outcome, 0 .. 1048576 (0)\n"
    "  --keys         replay, mixed: how many are stored first (10000); claim, cycle: end after so many\n"
    "  --first-key    number of the first key; by default one that no earlier run had\n"
    "  --stored       replay, mixed: the keys are there already, from --first-key on\n"
    "  --json         write the figures to FILE (-: standard output)\n";

static _Noreturn void misuse(const char *what, const char *value)
{
    fprintf(stderr, "idem-bench: %s: %s\n%s", what, value, usage);
    exit(64);
}

static double number(const char *option, const char *text, double least, double most)
{
    char *end;
    const double value = strtod(text, &end);

    if (*text == '\0' || *end != '\0' || !(value >= least && value <= most)) {
        fprintf(stderr, "idem-bench: --%s: %s is not a number from %g to %g\n", option, text, least, most);
        exit(64);
    }
    return value;
}

static void set_target(struct load_options *options, const char *text)
{
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        const size_t size = strlen(targets[i]->name);
        const bool takes_where = targets[i]->name[size - 1] == ':';

        if (strncmp(targets[i]->name, text, size) != 0 || takes_where == (text[size] == '\0'))
            continue;
        options->target = targets[i];
        options->address = text + size;
        return;
    }
    misuse("--target", text);
}

static const char *const scenarios[] = {"claim", "cycle", "replay", "mixed", "hot-key"};

static enum load_scenario scenario_of(const char *text)
{
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (strcmp(text, scenarios[i]) == 0)
            return (enum load_scenario)i;
    misuse("--scenario", text);
}

static double us(const struct load_result *result, double part)
{
    return (double)histogram_quantile(&result->latency_ns, part) / 1000;
}

static double per_second(const struct load_result *result)
{
    return (double)result->operations / result->seconds;
}

static void print_json(FILE *out, const struct load_options *options, const struct load_result *result)
{
    fprintf(out,
            "{\"target\": \"%s\", \"scenario\": \"%s\", \"connections\": %u, \"pipeline\": %u, \"rate\": %.1f, "
            "\"body_bytes\": %u, \"operations\": %llu, \"errors\": %llu, \"seconds\": %.3f, \"per_second\": %.1f, ",
            options->target->name, scenarios[options->scenario], options->connections, options->pipeline, options->rate,
            options->body_bytes, (unsigned long long)result->operations, (unsigned long long)result->errors,
            result->seconds, per_second(result));
    fprintf(out,
            "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"p9999_us\": %.1f, "
            "\"max_us\": %.1f, \"generator_busy\": %.2f}\n",
            us(result, .5), us(result, .9), us(result, .99), us(result, .999), us(result, .9999), us(result, 1),
            result->busy);
}

static void print_text(const struct load_result *result)
{
    printf("%.0f operations/s  (%llu in %.2f s, %llu errors; generator busy %.0f %%)\n", per_second(result),
           (unsigned long long)result->operations, result->seconds, (unsigned long long)result->errors,
           100 * result->busy);
    printf("latency in us:  p50 %.0f  p90 %.0f  p99 %.0f  p99.9 %.0f  p99.99 %.0f  max %.0f\n", us(result, .5),
           us(result, .9), us(result, .99), us(result, .999), us(result, .9999), us(result, 1));
}

static bool write_json(const char *path, const struct load_options *options, const struct load_result *result)
{
    FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");

    if (!out) {
        fprintf(stderr, "idem-bench: %s: cannot be written\n", path);
        return false;
    }
    print_json(out, options, result);
    return out == stdout || fclose(out) == 0;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"target", 1, 0, 't'},
                                          {"scenario", 1, 0, 's'},
                                          {"connections", 1, 0, 'c'},
                                          {"pipeline", 1, 0, 'p'},
                                          {"rate", 1, 0, 'r'},
                                          {"seconds", 1, 0, 'S'},
                                          {"body-bytes", 1, 0, 'b'},
                                          {"keys", 1, 0, 'k'},
                                          {"first-key", 1, 0, 'f'},
                                          {"stored", 0, 0, 'd'},
                                          {"json", 1, 0, 'j'},
                                          {"help", 0, 0, 'h'},
                                          {0, 0, 0, 0}};
    struct load_options options = {.connections = 50, .pipeline = 1, .seconds = 5, .progress = isatty(2)};
    const char *json = NULL, *scenario = NULL;
    static struct load_result result;
    int option;

    while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (option) {
        case 't':
            set_target(&options, optarg);
            break;
        case 's':
            scenario = optarg;
            options.scenario = scenario_of(optarg);
            break;
        case 'c':
            options.connections = (uint32_t)number("connections", optarg, 1, LOAD_CONNECTIONS_MAX);
            break;
        case 'p':
            options.pipeline = (uint32_t)number("pipeline", optarg, 1, LOAD_PIPELINE_MAX);
            break;
        case 'r':
            options.rate = number("rate", optarg, 0.001, 1e7);
            break;
        case 'S':
            options.seconds = number("seconds", optarg, 0.1, 3600);
            break;
        case 'b':
            options.body_bytes = (uint32_t)number("body-bytes", optarg, 0, POOL_VALUE_BYTES_MAX);
            break;
        case 'k':
            options.keys = (uint64_t)number("keys", optarg, 1, 1e9);
            break;
        case 'f':
            options.first_key = (uint64_t)number("first-key", optarg, 0, 1e18);
            break;
        case 'd':
            options.stored = true;
            break;
        case 'j':
            json = optarg;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 64;
        }
    }
    if (optind < argc)
        misuse("not an option", argv[optind]);
    if (!options.target || !scenario)
        misuse("missing", options.target ? "--scenario" : "--target");
    if (!options.first_key) /* seconds and the process: a run's keys are its own */
        options.first_key = ((uint64_t)getpid() << 40) + 1;
    if (!options.keys && (options.scenario == LOAD_REPLAY || options.scenario == LOAD_MIXED))
        options.keys = 10000;
    if (!load_run(&options, &result))
        return 69;
    if (!json || strcmp(json, "-") != 0)
        print_text(&result);
    if (json && !write_json(json, &options, &result))
        return 73;
    return result.errors ? 70 : 0;
}
