/* What a program may do wrong is an error that it can read, and nothing is sent; options and where they come from when
 * they are not given; a client in a child; keys and fingerprints that cannot be made. */
#include "client/idem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/client/fake_server.h"
#include "tests/unit/folder.h"

static const idem_operation_id op = {.key = "k"};
static const idem_bytes nothing = {NULL, 5};              /* a size without data */
static const idem_bytes endless = {"x", (size_t)1 << 30}; /* a size that no frame can have */

static idem_client *open_client(const char *address)
{
    idem_options options;
    idem_client *client;

    idem_options_init(&options);
    options.address = address;
    assert_int_equal(idem_open(&options, &client), IDEM_OK);
    return client;
}

static void assert_misuse(idem_client *client, idem_error error)
{
    assert_int_equal(error, IDEM_ERR_MISUSE);
    assert_int_equal(idem_error_class(error), IDEM_CLASS_MISUSE);
    assert_true(*idem_message(client));
}

/* ---- Calls ------------------------------------------------------------------------------------ */

static void without_a_client_request_or_reply(void **state)
{
    idem_client *client = open_client("unix:/nonexistent/socket");

    (void)state;
    for (int i = 0; i < 2; i++) {
        idem_client *given = i ? client : NULL;

        assert_int_equal(idem_hello(given, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_begin(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_complete(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_release(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_renew(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_checkpoint_store(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_get(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_recover(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_resolve(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_forget(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_list(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_stats(given, NULL, 0, NULL), IDEM_ERR_MISUSE);
        assert_int_equal(idem_run(given, NULL, 0, NULL, NULL, NULL), IDEM_ERR_MISUSE);
    }
    idem_close(client);
    idem_close(NULL);
    idem_options_init(NULL);
    assert_string_equal(idem_message(NULL), "");
    assert_string_equal(idem_reason(NULL), "");
    assert_string_equal(idem_field(NULL), "");
    assert_string_equal(idem_address(NULL), "");
    assert_int_equal(idem_retry_after_ms(NULL), 0);
}

static void without_a_handle(void **state)
{
    idem_ownership ownership;

    (void)state;
    assert_int_equal(idem_running_fence(NULL), 0);
    assert_int_equal(idem_running_attempt(NULL), 0);
    assert_int_equal(idem_running_lease_left_ms(NULL), 0);
    assert_null(idem_running_input(NULL).data);
    assert_string_equal(idem_running_checkpoint(NULL).name, "");
    assert_int_equal(idem_running_renew(NULL, &ownership), IDEM_ERR_MISUSE);
    assert_int_equal(idem_running_store(NULL, "n", (idem_bytes){NULL, 0}, &ownership), IDEM_ERR_MISUSE);
}

static void bad_begins(idem_client *client)
{
    const idem_bytes others[] = {{"a", 1}, {NULL, 5}};
    const idem_begin_request bad[] = {
        {.op = op, .fingerprint = nothing},
        {.op = op, .fingerprint = endless},
        {.op = op, .input = nothing},
        {.op = op, .input = endless},
        {.op = op, .other_fingerprint_count = 1},
        {.op = op, .other_fingerprints = others, .other_fingerprint_count = 2},
        {.op = op, .other_fingerprints = others, .other_fingerprint_count = 4},
        {.op = op, .other_fingerprints = others, .other_fingerprint_count = SIZE_MAX},
    };
    idem_begin_reply reply;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_misuse(client, idem_begin(client, &bad[i], 0, &reply));
}

static void bad_outcomes(idem_client *client)
{
    const idem_attribute attributes[] = {{"a", {"b", 1}}, {"c", {NULL, 5}}}, large = {"a", endless};
    const idem_outcome bad[] = {
        {.kind = IDEM_SUCCEEDED, .body = nothing},
        {.kind = IDEM_SUCCEEDED, .attribute_count = 1},
        {.kind = IDEM_SUCCEEDED, .attributes = attributes, .attribute_count = 2},
        {.kind = IDEM_SUCCEEDED, .attributes = &large, .attribute_count = 1},
    };
    idem_complete_reply reply;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const idem_complete_request complete = {.op = op, .outcome = bad[i]};
        idem_resolve_request resolve = {.op = op, .verdict = IDEM_HAPPENED, .outcome = bad[i]};

        assert_misuse(client, idem_complete(client, &complete, 0, &reply));
        assert_misuse(client, idem_resolve(client, &resolve, 0, &reply));
        resolve.verdict = IDEM_DID_NOT_HAPPEN; /* takes no outcome: it is not looked at */
        assert_int_equal(idem_resolve(client, &resolve, 0, &reply), IDEM_OK);
    }
}

static void bytes_that_cannot_be_read(void **state)
{
    const idem_checkpoint_request store = {.op = op, .checkpoint = {"n", nothing}};
    const idem_list_request list = {.cursor = nothing};
    struct fake_server server;
    idem_renew_reply renewed;
    idem_list_reply listed;

    (void)state;
    fake_server_start(&server, fake_good_script, NULL);
    idem_client *client = open_client(server.address);
    bad_begins(client);
    assert_misuse(client, idem_checkpoint_store(client, &store, 0, &renewed));
    assert_misuse(client, idem_list(client, &list, 0, &listed));
    assert_int_equal(atomic_load(&server.connections), 0); /* nothing was sent */
    bad_outcomes(client);
    idem_close(client);
    fake_server_stop(&server);
}

/* What only the daemon can judge is sent to it, without a crash on the way. */
static void all_that_can_be_left_out_may_be(void **state)
{
    struct fake_server server;
    idem_begin_reply begun;
    idem_complete_reply completed;
    idem_release_reply released;
    idem_get_reply got;

    (void)state;
    fake_server_start(&server, fake_good_script, NULL);
    idem_client *client = open_client(server.address);
    assert_int_equal(idem_begin(client, &(idem_begin_request){0}, 0, &begun), IDEM_OK);
    assert_int_equal(idem_complete(client, &(idem_complete_request){0}, 0, &completed), IDEM_OK);
    assert_int_equal(idem_release(client, &(idem_release_request){.effect = (idem_effect)-5}, 0, &released), IDEM_OK);
    assert_int_equal(idem_get(client, &(idem_get_request){0}, 0, &got), IDEM_OK);
    idem_close(client);
    fake_server_stop(&server);
}

static void a_client_does_not_work_in_a_child(void **state)
{
    struct fake_server server;
    idem_begin_reply reply;
    int status;

    (void)state;
    fake_server_start(&server, fake_good_script, NULL);
    idem_client *client = open_client(server.address);
    assert_int_equal(idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply), IDEM_OK);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const idem_error error = idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply);
        idem_close(client);
        _exit(error == IDEM_ERR_MISUSE ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    /* The parent's connection is as it was. */
    assert_int_equal(idem_begin(client, &(idem_begin_request){.op = op}, 0, &reply), IDEM_OK);
    idem_close(client);
    fake_server_stop(&server);
    assert_int_equal(atomic_load(&server.connections), 1);
}

/* ---- Options ------------------------------------------------------------------------------------ */

static void options_have_a_size(void **state)
{
    struct {
        idem_options options;
        uint64_t later; /* a member of a later version */
    } larger = {0};
    idem_client *client = (idem_client *)&larger;

    (void)state;
    assert_int_equal(idem_open(NULL, NULL), IDEM_ERR_MISUSE);
    for (size_t size = 0; size < sizeof larger.options; size++) {
        larger.options.size = size;
        assert_int_equal(idem_open(&larger.options, &client), IDEM_ERR_MISUSE);
        assert_null(client);
    }
    larger.options.size = SIZE_MAX;
    assert_int_equal(idem_open(&larger.options, &client), IDEM_ERR_MISUSE);
    larger.options.size = sizeof larger;
    larger.options.address = "unix:/nonexistent";
    assert_int_equal(idem_open(&larger.options, &client), IDEM_OK); /* not set: nothing is missed */
    idem_close(client);
    larger.later = 1;
    assert_int_equal(idem_open(&larger.options, &client), IDEM_ERR_MISUSE);
    idem_options_init(&larger.options);
    assert_int_equal(larger.options.size, sizeof larger.options);
    larger.options.reserved = 1;
    assert_int_equal(idem_open(&larger.options, &client), IDEM_ERR_MISUSE);
}

static void a_bad_address_is_told_from_other_misuse(void **state)
{
    static const char *const bad[] = {"", "unix:relative", "tcp:host", "tcp:host:0", "http://host"};
    idem_options options;
    idem_client *client;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        idem_options_init(&options);
        options.address = bad[i];
        assert_int_equal(idem_open(&options, &client), IDEM_ERR_ADDRESS);
        assert_null(client);
        assert_non_null(strstr(idem_message(NULL), bad[i]));
        assert_int_equal(idem_error_class(IDEM_ERR_ADDRESS), IDEM_CLASS_MISUSE);
    }
}

static void assert_address(const char *want)
{
    idem_client *client;

    assert_int_equal(idem_open(NULL, &client), IDEM_OK);
    assert_string_equal(idem_address(client), want);
    idem_close(client);
}

static void an_address_that_is_not_given_is_looked_for(void **state)
{
    char folder[TEST_FOLDER_BYTES], path[96], address[128], too_long[160], here[512];
    FILE *socket_file;

    (void)state;
    test_folder(folder);
    snprintf(path, sizeof path, "%s/idemd.sock", folder);
    snprintf(address, sizeof address, "unix:%s", path);
    unsetenv("IDEM_ADDRESS");
    unsetenv("XDG_RUNTIME_DIR");
    assert_address("unix:/run/idemd/idemd.sock");
    setenv("XDG_RUNTIME_DIR", folder, 1);
    assert_address("unix:/run/idemd/idemd.sock"); /* nothing is there */
    assert_non_null(socket_file = fopen(path, "w"));
    fclose(socket_file);
    assert_address(address);
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(folder), 0);
    setenv("XDG_RUNTIME_DIR", ".", 1);
    assert_address("unix:/run/idemd/idemd.sock"); /* it is there, but no absolute path */
    assert_int_equal(chdir(here), 0);
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[0] = '/';
    too_long[sizeof too_long - 1] = '\0';
    setenv("XDG_RUNTIME_DIR", too_long, 1);
    assert_address("unix:/run/idemd/idemd.sock"); /* no socket's path is so long */
    setenv("XDG_RUNTIME_DIR", folder, 1);
    setenv("IDEM_ADDRESS", "tcp:127.0.0.1:4336", 1);
    assert_address("tcp:127.0.0.1:4336");
    setenv("IDEM_ADDRESS", "", 1); /* as good as none */
    assert_address(address);
    unsetenv("IDEM_ADDRESS");
    unsetenv("XDG_RUNTIME_DIR");
}

/* Keeps what came in Hello and Begin: server->user is where. */
struct named {
    char namespace_[32], caller[32], client[32], token[32], owner[160], hello_namespace[32];
};

static void named_script(struct fake_server *server, int fd, int number)
{
    struct named *named = server->user;
    Idem__V1__HelloResponse hello = IDEM__V1__HELLO_RESPONSE__INIT;
    Idem__V1__Response response = IDEM__V1__RESPONSE__INIT;
    Idem__V1__Request *request = fake_receive(fd);

    if (!request)
        return;
    snprintf(named->client, sizeof named->client, "%s", request->hello->client);
    snprintf(named->hello_namespace, sizeof named->hello_namespace, "%s", request->hello->namespace_);
    snprintf(named->token, sizeof named->token, "%.*s", (int)request->hello->token.len,
             (const char *)request->hello->token.data);
    hello.connection = 1 + (uint64_t)number;
    hello.max_frame_bytes = 300 * 1024;
    response.result_case = IDEM__V1__RESPONSE__RESULT_HELLO;
    response.hello = &hello;
    fake_answer(fd, request, &response);
    fake_free(request);
    while ((request = fake_receive(fd))) {
        snprintf(named->namespace_, sizeof named->namespace_, "%s", request->begin->op->namespace_);
        snprintf(named->caller, sizeof named->caller, "%s", request->begin->op->caller);
        snprintf(named->owner, sizeof named->owner, "%s", request->begin->owner);
        fake_good(fd, request);
        fake_free(request);
    }
}

static void begin_named(const idem_options *options, const idem_begin_request *request, struct named *named)
{
    struct fake_server server;
    idem_options copy = *options;
    idem_begin_reply reply;
    idem_client *client;

    fake_server_start(&server, named_script, named);
    copy.address = server.address;
    assert_int_equal(idem_open(&copy, &client), IDEM_OK);
    assert_int_equal(idem_begin(client, request, 0, &reply), IDEM_OK);
    idem_close(client);
    fake_server_stop(&server);
}

static void what_a_call_does_not_name_the_client_names(void **state)
{
    idem_begin_request request = {.op = op};
    struct named named;
    idem_options options;
    char own_pid[32];

    (void)state;
    idem_options_init(&options);
    unsetenv("IDEM_NAMESPACE");
    begin_named(&options, &request, &named);
    assert_string_equal(named.namespace_, "default");
    assert_string_equal(named.caller, "");
    assert_string_equal(named.token, "");
    assert_non_null(strstr(named.client, "libidem"));
    snprintf(own_pid, sizeof own_pid, " pid %ld", (long)getpid());
    assert_non_null(strstr(named.owner, own_pid));
    setenv("IDEM_NAMESPACE", "from-outside", 1);
    begin_named(&options, &request, &named);
    assert_string_equal(named.namespace_, "from-outside");
    assert_string_equal(named.hello_namespace, "from-outside"); /* whose policy Hello tells */
    options.namespace_ = "given";
    options.caller = "tenant";
    options.client = "program 2";
    options.token = "secret";
    options.owner = "me";
    begin_named(&options, &request, &named);
    assert_string_equal(named.namespace_, "given");
    assert_string_equal(named.caller, "tenant");
    assert_string_equal(named.client, "program 2");
    assert_string_equal(named.token, "secret");
    assert_string_equal(named.owner, "me");
    request.op.namespace_ = "its";
    request.op.caller = "own";
    request.owner = "other";
    begin_named(&options, &request, &named);
    assert_string_equal(named.namespace_, "its");
    assert_string_equal(named.caller, "own");
    assert_string_equal(named.owner, "other");
    unsetenv("IDEM_NAMESPACE");
}

/* ---- Errors, keys, fingerprints --------------------------------------------------------------------- */

static void each_error_has_its_name_and_class(void **state)
{
    (void)state;
    for (int i = 0; i <= IDEM_ERR_NOT_STORED; i++) {
        const char *name = idem_error_name((idem_error)i);

        assert_int_equal(strncmp(name, "IDEM_", 5), 0);
        assert_int_equal(idem_error_class((idem_error)i) == IDEM_CLASS_OK, i == 0);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(name, idem_error_name((idem_error)k));
    }
    assert_string_equal(idem_error_name((idem_error)(IDEM_ERR_NOT_STORED + 1)), "unknown error");
    assert_int_equal(idem_error_class((idem_error)-1), IDEM_CLASS_UNKNOWN);
}

static void keys_need_a_place(void **state)
{
    char key[IDEM_KEY_CHARS] = "untouched";

    (void)state;
    assert_int_equal(idem_key_v7(NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_key_v4(NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_key_named("n", 1, NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_key_named(NULL, 1, key), IDEM_ERR_MISUSE);
    assert_string_equal(key, "untouched");
}

static void a_fingerprint_of_what_cannot_be_read_is_none(void **state)
{
    uint8_t digest[IDEM_FINGERPRINT_BYTES] = {0xa5}, good[IDEM_FINGERPRINT_BYTES];
    idem_fingerprint fingerprint;

    (void)state;
    assert_int_equal(idem_fingerprint_init(NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_fingerprint_add(NULL, "a", "b", 1), IDEM_ERR_MISUSE);
    assert_int_equal(idem_fingerprint_final(NULL, digest), IDEM_ERR_MISUSE);
    assert_int_equal(idem_fingerprint_init(&fingerprint), IDEM_OK);
    assert_int_equal(idem_fingerprint_add(&fingerprint, "a", NULL, 1), IDEM_ERR_MISUSE);
    assert_int_equal(idem_fingerprint_add(&fingerprint, "a", "b", 1), IDEM_OK);
    assert_int_equal(idem_fingerprint_final(&fingerprint, digest), IDEM_ERR_MISUSE);
    assert_int_equal(digest[0], 0xa5);
    assert_int_equal(idem_fingerprint_init(&fingerprint), IDEM_OK); /* begins anew */
    assert_int_equal(idem_fingerprint_final(&fingerprint, NULL), IDEM_ERR_MISUSE);
    assert_int_equal(idem_fingerprint_add(&fingerprint, NULL, NULL, 0), IDEM_OK);
    assert_int_equal(idem_fingerprint_final(&fingerprint, good), IDEM_OK);
    assert_int_equal(idem_fingerprint_final(&fingerprint, good), IDEM_ERR_MISUSE); /* there is no second end */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_client_request_or_reply),
        cmocka_unit_test(without_a_handle),
        cmocka_unit_test(bytes_that_cannot_be_read),
        cmocka_unit_test(all_that_can_be_left_out_may_be),
        cmocka_unit_test(a_client_does_not_work_in_a_child),
        cmocka_unit_test(options_have_a_size),
        cmocka_unit_test(a_bad_address_is_told_from_other_misuse),
        cmocka_unit_test(an_address_that_is_not_given_is_looked_for),
        cmocka_unit_test(what_a_call_does_not_name_the_client_names),
        cmocka_unit_test(each_error_has_its_name_and_class),
        cmocka_unit_test(keys_need_a_place),
        cmocka_unit_test(a_fingerprint_of_what_cannot_be_read_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
