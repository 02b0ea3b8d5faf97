/* Makes each call of libidem with the n-th allocation failing, once and from then on, for every n until none is
 * reached: as the first call of a client, and as a later one. Beside it a client without faults looks what came of it.
 *
 *     torture_library ADDRESS
 *
 * The allocations are those that tests/torture/memory.c makes fail: the library's, and those of what it calls. What has
 * to hold of a call:
 *     - it works, or its error is one that idem.h gives for want of memory;
 *     - an error of the class "not done" means that it had no effect;
 *     - the same call again, with memory, works, and comes to what one call would have come to. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/idem.h"
#include "tests/torture/interpose.h"

enum { N_MOST = 2000, TIMEOUT_MS = 20 * 1000, KEY_BYTES = 32, OPERATIONS = 3 };

static struct faults *faults;
static const char *address;
static idem_client *witness;
static unsigned long cases, serial;

/* What a case works on: operations of a namespace of its own. */
struct scene {
    char namespace_[KEY_BYTES], keys[OPERATIONS][KEY_BYTES];
    uint64_t fences[OPERATIONS], revision;
};

/* A call: what it needs before, how it is made, and what the witness sees when it has had its effect. */
struct step {
    const char *name;
    void (*prepare)(struct scene *scene);
    idem_error (*call)(idem_client *client, struct scene *scene, bool again);
    bool (*is_done)(const struct scene *scene); /* NULL: it has none */
};

static struct {
    const struct step *step;
    bool fresh, on;
    uint32_t n;
} now;

static void violation(const char *what, const char *more)
{
    printf("VIOLATION: %s, %s, allocation %u%s: %s%s%s\n  where: %s\n", now.step ? now.step->name : "start",
           now.fresh ? "first call" : "later call", now.n, now.on ? " and all later ones" : "", what, *more ? ": " : "",
           more, faults->where);
    fflush(stdout);
    _exit(1);
}

static void check(bool good, const char *what)
{
    if (!good)
        violation(what, "");
}

/* Of a call that has all the memory it wants. */
static void check_ok(idem_error error, const char *what, const idem_client *client)
{
    char more[600];

    if (error == IDEM_OK)
        return;
    snprintf(more, sizeof more, "%s: %s", idem_error_name(error), idem_message(client));
    violation(what, more);
}

/* ---- Faults ------------------------------------------------------------------------ */

static void map_faults(void)
{
    const char *path = getenv("TORTURE_FAULTS");
    const int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *found = mmap(NULL, sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

    if (file < 0 || found == MAP_FAILED) {
        fprintf(stderr, "torture_library: TORTURE_FAULTS names no control block\n");
        exit(2);
    }
    close(file);
    faults = found;
}

static void arm(void)
{
    faults->kinds = 1u << KIND_MEMORY;
    faults->nth = now.n;
    faults->from_then_on = now.on;
    faults->error = 12; /* ENOMEM */
    memset(faults->where, 0, sizeof faults->where);
    atomic_store(&faults->seen, 0);
    atomic_store(&faults->hits, 0);
    atomic_store(&faults->armed, 1);
}

static bool disarm(void)
{
    atomic_store(&faults->armed, 0);
    return atomic_load(&faults->hits) > 0;
}

/* ---- What is there before, and after ------------------------------------------------- */

static idem_operation_id id_of(const struct scene *scene, int i)
{
    return (idem_operation_id){.namespace_ = scene->namespace_, .key = scene->keys[i]};
}

static void begin_as_witness(struct scene *scene, int i)
{
    const idem_begin_request request = {
        .op = id_of(scene, i), .operation = "charge", .lease_ms = 3600 * 1000, .input = {"input", 5}};
    idem_begin_reply reply;

    check_ok(idem_begin(witness, &request, TIMEOUT_MS, &reply), "the witness cannot begin", witness);
    check(reply.answer == IDEM_EXECUTE, "the witness is not granted what is new");
    scene->fences[i] = reply.grant.fence;
    scene->revision = reply.info.revision;
}

static idem_get_reply look(const struct scene *scene, int i)
{
    const idem_get_request request = {.op = id_of(scene, i)};
    idem_get_reply reply = {0};
    const idem_error error = idem_get(witness, &request, TIMEOUT_MS, &reply);

    if (error == IDEM_ERR_NOT_FOUND)
        return (idem_get_reply){.info = {.state = IDEM_ABSENT}};
    check_ok(error, "the witness cannot get", witness);
    return reply;
}

static const idem_attribute attributes[] = {{"a", {"1", 1}}, {"b", {"22", 2}}};
static const idem_outcome outcome = {
    .kind = IDEM_SUCCEEDED, .code = 201, .attributes = attributes, .attribute_count = 2, .body = {"receipt", 7}};

static void check_outcome(const idem_outcome *found)
{
    check(found->kind == IDEM_SUCCEEDED && found->code == 201 && found->attribute_count == 2 && found->body.size == 7 &&
              memcmp(found->body.data, "receipt", 7) == 0 && strcmp(found->attributes[1].name, "b") == 0,
          "the outcome is not what was stored");
}

static void nothing(struct scene *scene)
{
    (void)scene;
}

static void running(struct scene *scene)
{
    begin_as_witness(scene, 0);
}

static void interrupted(struct scene *scene)
{
    for (int i = 0; i < OPERATIONS; i++) {
        begin_as_witness(scene, i);
        const idem_release_request request = {
            .op = id_of(scene, i), .fence = scene->fences[i], .effect = IDEM_EFFECT_UNKNOWN};
        idem_release_reply reply;
        check_ok(idem_release(witness, &request, TIMEOUT_MS, &reply), "the witness cannot release", witness);
    }
    scene->revision = look(scene, 0).info.revision;
}

static void done(struct scene *scene)
{
    begin_as_witness(scene, 0);
    const idem_complete_request request = {.op = id_of(scene, 0), .fence = scene->fences[0], .outcome = outcome};
    idem_complete_reply reply;
    check_ok(idem_complete(witness, &request, TIMEOUT_MS, &reply), "the witness cannot complete", witness);
    scene->revision = look(scene, 0).info.revision;
}

static bool is_running(const struct scene *scene)
{
    return look(scene, 0).info.state == IDEM_RUNNING;
}

static bool is_absent(const struct scene *scene)
{
    return look(scene, 0).info.state == IDEM_ABSENT;
}

static bool is_finished(const struct scene *scene)
{
    const idem_get_reply reply = look(scene, 0);

    if (reply.info.state != IDEM_DONE)
        return false;
    check_outcome(&reply.outcome);
    return true;
}

static bool has_checkpoint(const struct scene *scene)
{
    const idem_get_reply reply = look(scene, 0);

    return reply.checkpoint.name && strcmp(reply.checkpoint.name, "half") == 0;
}

static bool is_taken_over(const struct scene *scene)
{
    bool all = true;

    for (int i = 0; i < OPERATIONS; i++)
        all &= look(scene, i).info.state == IDEM_RUNNING;
    return all;
}

/* ---- The calls -------------------------------------------------------------------------- */

static idem_error hello(idem_client *client, struct scene *scene, bool again)
{
    idem_hello_reply reply;
    const idem_error error = idem_hello(client, TIMEOUT_MS, &reply);

    (void)scene, (void)again;
    if (error == IDEM_OK)
        check(reply.connection != 0 && reply.durable, "Hello is not answered in full");
    return error;
}

/* Again it is the same attempt if the answer to the first was lost, and else the first: permission to run, either way.
 */
static idem_error begin(idem_client *client, struct scene *scene, bool again)
{
    const idem_begin_request request = {.op = id_of(scene, 0), .operation = "charge", .lease_ms = 3600 * 1000};
    idem_begin_reply reply;
    const idem_error error = idem_begin(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.answer == IDEM_EXECUTE && reply.grant.attempt == 1 && reply.grant.fence, "it is not granted");
    return error;
}

static idem_error replay(idem_client *client, struct scene *scene, bool again)
{
    const idem_begin_request request = {.op = id_of(scene, 0), .operation = "charge"};
    idem_begin_reply reply;
    const idem_error error = idem_begin(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error != IDEM_OK)
        return error;
    check(reply.answer == IDEM_REPLAY, "it is not replayed");
    check_outcome(&reply.outcome);
    return error;
}

static idem_error complete(idem_client *client, struct scene *scene, bool again)
{
    const idem_complete_request request = {.op = id_of(scene, 0), .fence = scene->fences[0], .outcome = outcome};
    idem_complete_reply reply;
    const idem_error error = idem_complete(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.ownership == IDEM_HELD, "the owner cannot complete");
    return error;
}

static idem_error let_go(idem_client *client, struct scene *scene, bool again)
{
    const idem_release_request request = {.op = id_of(scene, 0), .fence = scene->fences[0], .effect = IDEM_EFFECT_NONE};
    idem_release_reply reply;
    const idem_error error = idem_release(client, &request, TIMEOUT_MS, &reply);

    if (error == IDEM_OK)
        check(reply.ownership == IDEM_HELD || (again && reply.ownership == IDEM_GONE), "the owner cannot release");
    return error;
}

static idem_error renew(idem_client *client, struct scene *scene, bool again)
{
    const idem_renew_request request = {.op = id_of(scene, 0), .fence = scene->fences[0]};
    idem_renew_reply reply;
    const idem_error error = idem_renew(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.ownership == IDEM_HELD, "the owner cannot renew");
    return error;
}

static idem_error store(idem_client *client, struct scene *scene, bool again)
{
    const idem_checkpoint_request request = {
        .op = id_of(scene, 0), .fence = scene->fences[0], .checkpoint = {"half", {"data", 4}}};
    idem_renew_reply reply;
    const idem_error error = idem_checkpoint_store(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.ownership == IDEM_HELD, "the owner cannot store a checkpoint");
    return error;
}

static idem_error get(idem_client *client, struct scene *scene, bool again)
{
    const idem_get_request request = {.op = id_of(scene, 0)};
    idem_get_reply reply;
    const idem_error error = idem_get(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error != IDEM_OK)
        return error;
    check(reply.info.state == IDEM_DONE, "it is not done");
    check_outcome(&reply.outcome);
    return error;
}

static idem_error recover(idem_client *client, struct scene *scene, bool again)
{
    const idem_recover_request request = {.namespace_ = scene->namespace_, .limit = 100, .lease_ms = 3600 * 1000};
    idem_recover_reply reply;
    const idem_error error = idem_recover(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.count == OPERATIONS && reply.operations[2].grant.attempt == 2 &&
                  strcmp(reply.operations[2].op.key, scene->keys[2]) == 0 && reply.operations[0].grant.input.size == 5,
              "what is interrupted is not all recovered");
    return error;
}

static idem_error resolve(idem_client *client, struct scene *scene, bool again)
{
    const idem_resolve_request request = {.op = id_of(scene, 0),
                                          .revision = scene->revision,
                                          .verdict = IDEM_HAPPENED,
                                          .outcome = outcome,
                                          .reason = "looked"};
    idem_complete_reply reply;
    const idem_error error = idem_resolve(client, &request, TIMEOUT_MS, &reply);

    if (error == IDEM_OK)
        check(reply.ownership == IDEM_HELD || (again && reply.ownership == IDEM_FINAL), "it cannot be resolved");
    return error;
}

static idem_error forget(idem_client *client, struct scene *scene, bool again)
{
    const idem_forget_request request = {.op = id_of(scene, 0), .revision = scene->revision, .reason = "looked"};
    idem_ownership ownership;
    const idem_error error = idem_forget(client, &request, TIMEOUT_MS, &ownership);

    if (error == IDEM_OK)
        check(ownership == IDEM_HELD || (again && ownership == IDEM_GONE), "it cannot be forgotten");
    return error;
}

static idem_error list(idem_client *client, struct scene *scene, bool again)
{
    const idem_list_request request = {.namespace_ = scene->namespace_, .limit = 1000};
    idem_list_reply reply;
    const idem_error error = idem_list(client, &request, TIMEOUT_MS, &reply);

    (void)again;
    if (error == IDEM_OK)
        check(reply.count == OPERATIONS || reply.cursor.size > 0, "the list is not whole");
    return error;
}

static idem_error stats(idem_client *client, struct scene *scene, bool again)
{
    idem_stats_reply reply;
    const idem_error error = idem_stats(client, NULL, TIMEOUT_MS, &reply);

    (void)scene, (void)again;
    if (error == IDEM_OK)
        check(reply.count > 20 && reply.metrics[reply.count - 1].name, "there are no statistics");
    return error;
}

static bool called_back;

static idem_done charge(idem_running *run, idem_outcome *mine, void *user)
{
    idem_ownership ownership;
    const idem_error error = idem_running_store(run, "half", (idem_bytes){"data", 4}, &ownership);

    (void)user;
    check(error == IDEM_OK || error == IDEM_ERR_NO_MEMORY || error == IDEM_ERR_LOST,
          "a checkpoint fails otherwise than for want of memory");
    called_back = true;
    *mine = outcome;
    return IDEM_DONE_SUCCEEDED;
}

/* If the callback was called and its outcome could not be stored, whoever comes again finds out: the grant is not the
 * next attempt's. */
static idem_error run(idem_client *client, struct scene *scene, bool again)
{
    const idem_begin_request request = {.op = id_of(scene, 0), .operation = "charge", .lease_ms = 3600 * 1000};
    const bool ran_before = again && called_back;
    idem_run_reply reply;

    called_back = false;
    const idem_error error = idem_run(client, &request, TIMEOUT_MS, charge, NULL, &reply);
    check(reply.ran == called_back, "idem_run says that it called back, and did not, or the other way");
    check(!reply.ran || error == IDEM_OK || error == IDEM_ERR_NOT_STORED,
          "idem_run has called back, and its error says that it has not");
    check(error != IDEM_ERR_NOT_STORED || reply.ran, "idem_run says NOT_STORED, and has not called back");
    if (error != IDEM_OK)
        return error;
    if (ran_before)
        check(reply.begin.answer == IDEM_REPLAY || reply.begin.answer == IDEM_ANSWER_RUNNING,
              "what was called back, and may have had its effect, is called back again");
    else
        check(reply.ran && reply.ownership == IDEM_HELD, "it is not run");
    return error;
}

static const struct step steps[] = {
    {"Hello", nothing, hello, NULL},
    {"Begin", nothing, begin, is_running},
    {"Begin that replays", done, replay, NULL},
    {"Complete", running, complete, is_finished},
    {"Release", running, let_go, is_absent},
    {"Renew", running, renew, NULL},
    {"Checkpoint", running, store, has_checkpoint},
    {"Get", done, get, NULL},
    {"Recover", interrupted, recover, is_taken_over},
    {"Resolve", interrupted, resolve, is_finished},
    {"Forget", done, forget, is_absent},
    {"List", interrupted, list, NULL},
    {"Stats", nothing, stats, NULL},
    {"idem_run", nothing, run, is_finished},
};

/* ---- The cases ------------------------------------------------------------------------------ */

static void new_scene(struct scene *scene)
{
    *scene = (struct scene){0};
    snprintf(scene->namespace_, sizeof scene->namespace_, "n%lu", ++serial);
    for (int i = 0; i < OPERATIONS; i++)
        snprintf(scene->keys[i], sizeof scene->keys[i], "k%d", i);
}

static idem_error open_client(idem_client **client)
{
    idem_options options;

    idem_options_init(&options);
    options.address = address;
    options.owner = "worker";
    options.token = "token";
    return idem_open(&options, client);
}

/* Is this what a call may come to that has not all the memory it wants? */
static bool is_for_memory(const struct step *step, idem_error error)
{
    return error == IDEM_ERR_NO_MEMORY || error == IDEM_ERR_LOST || (error == IDEM_ERR_NOT_STORED && step->call == run);
}

/* The call that fails, and then the same one with memory. Returns whether an allocation failed. */
static bool call_twice(const struct step *step, idem_client *client, struct scene *scene)
{
    idem_error error;
    bool met;

    called_back = false;
    arm();
    error = step->call(client, scene, false);
    met = disarm();
    if (error == IDEM_OK) {
        check(!step->is_done || step->is_done(scene), "it says that it is done, and is not");
        return met;
    }
    check(met, "it fails, and nothing made it fail");
    if (!is_for_memory(step, error))
        violation("its error is none for want of memory", idem_error_name(error));
    check(*idem_message(client), "its error has no message");
    if (idem_error_class(error) == IDEM_CLASS_NOT_DONE)
        check(!step->is_done || !step->is_done(scene), "\"not done\", and it had its effect");
    const bool lost_run = called_back;
    check_ok(step->call(client, scene, true), "the same call again, with memory", client);
    check(!step->is_done || lost_run || step->is_done(scene),
          "the same call again says that it is done, and it is not");
    return met;
}

static bool one_case(const struct step *step)
{
    idem_client *client = NULL;
    idem_hello_reply reply;
    struct scene scene;
    bool met;

    cases++;
    new_scene(&scene);
    step->prepare(&scene);
    check_ok(open_client(&client), "a client cannot be opened", client);
    if (!now.fresh)
        check_ok(idem_hello(client, TIMEOUT_MS, &reply), "Hello", client);
    met = call_twice(step, client, &scene);
    check_ok(idem_hello(client, TIMEOUT_MS, &reply), "Hello after it", client);
    idem_close(client);
    return met;
}

/* idem_open itself. */
static bool one_open(void)
{
    idem_client *client = (idem_client *)(uintptr_t)1;
    bool met;

    cases++;
    arm();
    const idem_error error = open_client(&client);
    met = disarm();
    check(error == IDEM_OK || error == IDEM_ERR_NO_MEMORY, "idem_open fails otherwise than for want of memory");
    check((error == IDEM_OK) == (client != NULL), "idem_open gives a client, and an error");
    idem_close(client);
    return met;
}

static void every_n(const struct step *step)
{
    now.step = step;
    for (int way = 0; way < 4; way++) {
        now.fresh = way & 1;
        now.on = way & 2;
        now.n = 1;
        while (step ? one_case(step) : one_open())
            check(++now.n < N_MOST, "there is no end of allocations");
    }
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: torture_library ADDRESS\n");
        return 2;
    }
    address = arguments[1];
    map_faults();
    check_ok(open_client(&witness), "the witness cannot be opened", witness);
    every_n(NULL);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        every_n(&steps[i]);
    idem_close(witness);
    printf("%lu cases\n", cases);
    return 0;
}
