/* Views, blobs and slices; and the door to memory that they come through. */
#include "daemon/base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/memory.h"

/* What cannot be had is to be NULL under the sanitizer too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static struct bytes text(const char *string)
{
    return bytes_of(string, (uint32_t)strlen(string));
}

static void views_are_compared_by_their_bytes(void **state)
{
    (void)state;
    assert_true(bytes_equal(text("abc"), text("abc")));
    assert_false(bytes_equal(text("abc"), text("abd")));
    assert_false(bytes_equal(text("abc"), text("ab")));
    assert_false(bytes_equal(text("ab"), text("abc")));
    assert_true(bytes_equal(bytes_of("a\0b", 3), bytes_of("a\0b", 3)));
    assert_false(bytes_equal(bytes_of("a\0b", 3), bytes_of("a\0c", 3)));
    assert_true(bytes_equal((struct bytes){NULL, 0}, text("")));
    assert_false(bytes_equal((struct bytes){NULL, 0}, text("a")));
}

static void a_blob_grows_and_keeps_what_is_in_it(void **state)
{
    struct blob *blob = blob_new(0);

    (void)state;
    assert_int_equal(blob->size, 0);
    assert_int_equal(blob->references, 1);
    for (uint32_t i = 0; i < 1000; i++) {
        const uint32_t offset = blob_extend(blob, i % 7);
        assert_int_equal(offset + i % 7, blob->size);
        assert_true(blob->size <= blob->capacity);
        memset(blob->data + offset, (int)(i & 0xff), i % 7);
    }
    for (uint32_t i = 0, at = 0; i < 1000; i++)
        for (uint32_t k = 0; k < i % 7; k++, at++)
            assert_int_equal(blob->data[at], i & 0xff);
    blob_release(blob);
}

static void room_that_is_there_is_used(void **state)
{
    struct blob *blob = blob_new(10);
    const uint8_t *data = blob->data;

    (void)state;
    assert_int_equal(blob_extend(blob, 4), 0);
    assert_int_equal(blob_extend(blob, 6), 4);
    assert_ptr_equal(blob->data, data);
    assert_int_equal(blob->capacity, 10);
    assert_int_equal(blob_extend(blob, 100), 10);
    assert_int_equal(blob->size, 110);
    memset(blob->data, 1, blob->size);
    blob_release(blob);
}

/* The sanitizers see a blob that goes too early, twice or never. */
static void a_blob_goes_with_its_last_reference(void **state)
{
    struct blob *blob = blob_new(8);

    (void)state;
    assert_ptr_equal(blob_hold(blob), blob);
    blob_hold(blob);
    assert_int_equal(blob->references, 3);
    blob_release(blob);
    blob_release(blob);
    memset(blob->data, 1, 8);
    assert_int_equal(blob->references, 1);
    blob_release(blob);
    blob_release(NULL);
}

static void a_slice_follows_its_blob(void **state)
{
    struct blob *blob = blob_new(0);
    struct slice slice = {.blob = blob, .offset = blob_extend(blob, 3), .size = 3};

    (void)state;
    memcpy(blob->data, "abc", 3);
    blob_extend(blob, 100000);
    assert_true(bytes_equal(slice_bytes(slice), text("abc")));
    slice.offset = 1;
    slice.size = 2;
    assert_true(bytes_equal(slice_bytes(slice), text("bc")));
    assert_true(bytes_equal(slice_bytes((struct slice){0}), (struct bytes){NULL, 0}));
    blob_release(blob);
}

static void memory_of_any_size_is_never_null(void **state)
{
    uint8_t *zeros = mem_zero(3, 5);
    char *copy = mem_string("copied");
    void *nothing = mem_alloc(0), *none = mem_zero(0, 8);

    (void)state;
    assert_non_null(nothing);
    assert_non_null(none);
    for (int i = 0; i < 15; i++)
        assert_int_equal(zeros[i], 0);
    zeros = mem_resize(zeros, 100);
    assert_int_equal(zeros[14], 0);
    zeros = mem_resize(zeros, 0);
    assert_non_null(zeros);
    assert_string_equal(copy, "copied");
    mem_free(zeros);
    mem_free(copy);
    mem_free(nothing);
    mem_free(none);
    mem_free(NULL);
}

enum how { ALLOC, ZERO, ZERO_OVERFLOW, RESIZE };

static void ask_too_much(enum how how)
{
    volatile size_t much = SIZE_MAX / 2; /* unknown to the compiler, which would warn */

    if (how == ALLOC)
        mem_alloc(much);
    else if (how == ZERO)
        mem_zero(1, much);
    else if (how == ZERO_OVERFLOW)
        mem_zero(much, 4);
    else
        mem_resize(mem_alloc(1), much);
}

/* What it says on standard error before it stops with 71; that is the only line. */
static void no_memory_stops_the_program(void **state)
{
    (void)state;
    for (enum how how = ALLOC; how <= RESIZE; how++) {
        char said[4096] = "";
        size_t size = 0;
        ssize_t more;
        int ends[2], status;
        pid_t child;

        assert_int_equal(pipe(ends), 0);
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            dup2(ends[1], STDERR_FILENO);
            ask_too_much(how);
            _exit(0);
        }
        close(ends[1]);
        while ((more = read(ends[0], said + size, sizeof said - 1 - size)) > 0)
            size += (size_t)more;
        close(ends[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 71);
        assert_non_null(strstr(said, "idemd: out of memory: "));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_compared_by_their_bytes), cmocka_unit_test(a_blob_grows_and_keeps_what_is_in_it),
        cmocka_unit_test(room_that_is_there_is_used),        cmocka_unit_test(a_blob_goes_with_its_last_reference),
        cmocka_unit_test(a_slice_follows_its_blob),          cmocka_unit_test(memory_of_any_size_is_never_null),
        cmocka_unit_test(no_memory_stops_the_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
