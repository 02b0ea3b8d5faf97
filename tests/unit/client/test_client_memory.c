/* The n-th allocation fails, for every n, once and from then on: in each call of the library, and in a run. Nothing
 * leaks (the build with sanitizers says), no failure is taken for an answer, and the client goes on working afterwards.
 */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/memory.h"
#include "tests/unit/client/fake_server.h"

enum { N_MOST = 300 };

static const idem_operation_id op = {.key = "k"};
static const idem_attribute attribute = {"n", {"v", 1}};
static const idem_outcome outcome = {
    .kind = IDEM_SUCCEEDED, .attributes = &attribute, .attribute_count = 1, .body = {"body", 4}};

static idem_error open_client(const struct fake_server *server, idem_client **client)
{
    idem_options options;

    idem_options_init(&options);
    options.address = server->address;
    return idem_open(&options, client);
}

static idem_done callback(idem_running *running, idem_outcome *mine, void *user)
{
    (void)running;
    *mine = outcome;
    ++*(int *)user;
    return IDEM_DONE_SUCCEEDED;
}

/* ---- One step for each call -------------------------------------------------------------- */

static idem_error hello(idem_client *client)
{
    idem_hello_reply reply;

    return idem_hello(client, 0, &reply);
}

static idem_error begin(idem_client *client)
{
    idem_begin_reply reply;

    return idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply);
}

static idem_error complete(idem_client *client)
{
    idem_complete_reply reply;

    return idem_complete(client, &(idem_complete_request){.op = op, .outcome = outcome}, 0, &reply);
}

static idem_error release(idem_client *client)
{
    idem_release_reply reply;

    return idem_release(client, &(idem_release_request){.op = op}, 0, &reply);
}

static idem_error renew(idem_client *client)
{
    idem_renew_reply reply;

    return idem_renew(client, &(idem_renew_request){.op = op}, 0, &reply);
}

static idem_error store(idem_client *client)
{
    idem_renew_reply reply;

    return idem_checkpoint_store(client, &(idem_checkpoint_request){.op = op}, 0, &reply);
}

static idem_error get(idem_client *client)
{
    idem_get_reply reply;

    return idem_get(client, &(idem_get_request){.op = op}, 0, &reply);
}

static idem_error recover(idem_client *client)
{
    idem_recover_reply reply;

    return idem_recover(client, &(idem_recover_request){0}, 0, &reply);
}

static idem_error resolve(idem_client *client)
{
    const idem_resolve_request request = {.op = op, .verdict = IDEM_HAPPENED, .outcome = outcome};
    idem_complete_reply reply;

    return idem_resolve(client, &request, 0, &reply);
}

static idem_error forget(idem_client *client)
{
    idem_ownership ownership;

    return idem_forget(client, &(idem_forget_request){.op = op}, 0, &ownership);
}

static idem_error list(idem_client *client)
{
    idem_list_reply reply;

    return idem_list(client, &(idem_list_request){0}, 0, &reply);
}

static idem_error stats(idem_client *client)
{
    idem_stats_reply reply;

    return idem_stats(client, NULL, 0, &reply);
}

static idem_error run(idem_client *client)
{
    const idem_begin_request request = {.op = op};
    idem_run_reply reply;
    int calls = 0;
    const idem_error error = idem_run(client, &request, 0, callback, &calls, &reply);

    assert_int_equal(calls, reply.ran);
    /* Once it has run, it is done or unknown, and never "not done"; before, nothing says that it was. */
    assert_int_equal(error == IDEM_ERR_NOT_STORED, reply.ran && error != IDEM_OK);
    return error;
}

static idem_error (*const steps[])(idem_client *client) = {hello,   begin,   complete, release, renew, store, get,
                                                           recover, resolve, forget,   list,    stats, run};

/* A new client, and one step of it, of which the n-th allocation fails. */
static idem_error step_failing(const struct fake_server *server, size_t step, unsigned long n, int on)
{
    idem_client *client;
    idem_error error;

    idem__fail_allocation(n, on);
    error = open_client(server, &client);
    if (error != IDEM_OK) {
        idem__fail_allocation(0, 0);
        assert_int_equal(error, IDEM_ERR_NO_MEMORY);
        assert_null(client);
        return error;
    }
    error = steps[step](client);
    idem__fail_allocation(0, 0);
    if (error != IDEM_OK) {
        assert_true(error == IDEM_ERR_NO_MEMORY || error == IDEM_ERR_LOST || error == IDEM_ERR_NOT_STORED);
        assert_true(*idem_message(client));
        assert_int_equal(steps[step](client), IDEM_OK); /* with memory it works again */
    }
    idem_close(client);
    return error;
}

static void fail_every_one(int on)
{
    struct fake_server server;

    fake_server_start(&server, fake_good_script, NULL);
    for (size_t step = 0; step < sizeof steps / sizeof steps[0]; step++) {
        unsigned long n = 1;

        while (n < N_MOST && step_failing(&server, step, n, on) != IDEM_OK)
            n++;
        /* The first n that met no failure is behind the last allocation; opening alone has seven. */
        assert_in_range(n, 8, N_MOST - 1);
    }
    fake_server_stop(&server);
}

static void once(void **state)
{
    (void)state;
    fail_every_one(0);
}

static void from_then_on(void **state)
{
    (void)state;
    fail_every_one(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(once),
        cmocka_unit_test(from_then_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
