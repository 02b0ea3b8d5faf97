/* What is counted, when memory is short, and that the reserve carries a piece that the system refuses. The system is
 * made to refuse by a limit on address space, in a child; a sanitizer needs more of it than there is, so those tests
 * are for the build without. */
#include "daemon/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1024 * 1024, SLACK = 128 * 1024 };

#if defined(__SANITIZE_ADDRESS__)
enum { HAVE_SANITIZER = 1 };
#else
enum { HAVE_SANITIZER = 0 };
#endif

static void assert_used_near(uint64_t before, int64_t more)
{
    const int64_t difference = (int64_t)(mem_used() - before);

    assert_in_range(difference + SLACK, more, more + 2 * SLACK);
}

static void what_is_in_use_is_counted(void **state)
{
    const uint64_t before = mem_used();
    void *pieces[5];

    (void)state;
    pieces[0] = mem_alloc(3 * MIB);
    pieces[1] = mem_zero(1024, 1024);
    pieces[2] = mem_pages(2 * MIB);
    pieces[3] = mem_resize(NULL, MIB);
    pieces[4] = mem_string("short");
    assert_used_near(before, 7 * MIB);
    pieces[3] = mem_resize(pieces[3], 5 * MIB);
    assert_used_near(before, 11 * MIB);
    for (int i = 0; i < 5; i++)
        mem_free(pieces[i]);
    mem_free(NULL);
    assert_used_near(before, 0);
}

static void address_space_counts_when_it_is_usable(void **state)
{
    const uint64_t before = mem_used();
    void *start = mem_reserve(64 * MIB);

    (void)state;
    assert_used_near(before, 0);
    mem_use_reserved(start, 4 * MIB);
    assert_used_near(before, 4 * MIB);
    mem_unreserve(start, 64 * MIB, 4 * MIB);
    mem_unreserve(NULL, 64 * MIB, 0);
    assert_used_near(before, 0);
}

static void it_is_short_from_its_limit_on(void **state)
{
    void *piece;

    (void)state;
    assert_false(mem_is_short());
    mem_limit(mem_used() + 2 * MIB);
    assert_false(mem_is_short());
    piece = mem_alloc(3 * MIB);
    assert_true(mem_is_short());
    mem_free(piece);
    assert_false(mem_is_short());
    mem_limit(0);
    assert_int_equal(mem_limited(), 0);
}

static void the_suitable_limit_is_below_what_the_machine_has(void **state)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

    (void)state;
    assert_true(mem_suitable_limit() > 0 && mem_suitable_limit() <= machine / 4 * 3);
}

static uint64_t address_space(void)
{
    char line[64] = "";
    FILE *file = fopen("/proc/self/statm", "re");

    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    fclose(file);
    return strtoull(line, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void limit_address_space(uint64_t more)
{
    const struct rlimit limit = {address_space() + more, RLIM_INFINITY};

    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
}

/* Runs it in a process of its own, which may end itself; returns its exit status. */
static int in_a_child(void (*run)(void))
{
    int status = 0;
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void need(bool holds, int code)
{
    if (!holds)
        _exit(code);
}

/* One that the compiler does not leave out. */
static void take(uint32_t bytes)
{
    *(volatile char *)mem_alloc(bytes) = 1;
}

static void use_up(void)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
    int count = 0;

    mem_set_up();
    limit_address_space(32 * MIB);
    for (; !mem_is_short() && count < 64; count++)
        take(MIB);
    need(count >= 16 && count < 64, 2); /* one was refused, and was had all the same */
    for (int i = 0; i < 16; i++)
        take(MIB); /* and there is room to go on */
    mem_refill();
    need(mem_is_short(), 3);
    need(setrlimit(RLIMIT_AS, &none) == 0, 4);
    mem_refill();
    need(!mem_is_short(), 5);
}

static void the_reserve_carries_what_the_system_refuses(void **state)
{
    (void)state;
    if (HAVE_SANITIZER)
        skip();
    assert_int_equal(in_a_child(use_up), 0);
}

static void use_up_all(void)
{
    mem_set_up();
    limit_address_space(32 * MIB);
    for (int i = 0; i < 4096; i++)
        take(MIB);
}

static void without_a_reserve_it_ends(void **state)
{
    (void)state;
    if (HAVE_SANITIZER)
        skip();
    assert_int_equal(in_a_child(use_up_all), 71);
}

static void limit_before_suiting(void)
{
    limit_address_space(256 * MIB);
    const uint64_t limit = mem_suitable_limit();
    need(limit >= 128u * MIB && limit <= 256u * MIB + mem_used(), 2);
}

static void the_suitable_limit_knows_of_ulimit(void **state)
{
    (void)state;
    if (HAVE_SANITIZER)
        skip();
    assert_int_equal(in_a_child(limit_before_suiting), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_in_use_is_counted),
        cmocka_unit_test(address_space_counts_when_it_is_usable),
        cmocka_unit_test(it_is_short_from_its_limit_on),
        cmocka_unit_test(the_suitable_limit_is_below_what_the_machine_has),
        cmocka_unit_test(the_reserve_carries_what_the_system_refuses),
        cmocka_unit_test(without_a_reserve_it_ends),
        cmocka_unit_test(the_suitable_limit_knows_of_ulimit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
