/* See memory.h: a second try out of the reserve, then one line and the end. */
#include "daemon/base/memory.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/base/logging.h"

enum {
    RESERVE_BYTES = 64 * 1024 * 1024, /* address space that no page stands behind; more than any one piece takes */
    BALANCE_BYTES = 64 * 1024,        /* what a thread counts for itself before it tells the others */
};

static struct {
    _Atomic int64_t used;
    _Atomic(void *) reserve;
    atomic_bool given; /* the reserve was given back, and is not there again */
    uint64_t limit;
} memory;
/* What this thread took, less what it freed, since it last told. */
static _Thread_local int64_t balance;

/* ---- Counting ------------------------------------------------------------------- */

static void count(int64_t bytes)
{
    balance += bytes;
    if (balance > BALANCE_BYTES || balance < -BALANCE_BYTES) {
        atomic_fetch_add_explicit(&memory.used, balance, memory_order_relaxed);
        balance = 0;
    }
}

uint64_t mem_used(void)
{
    const int64_t used = atomic_load_explicit(&memory.used, memory_order_relaxed) + balance;

    return used > 0 ? (uint64_t)used : 0;
}

void mem_limit(uint64_t bytes)
{
    memory.limit = bytes;
}

uint64_t mem_limited(void)
{
    return memory.limit;
}

bool mem_is_short(void)
{
    return (memory.limit && mem_used() >= memory.limit) || atomic_load_explicit(&memory.given, memory_order_relaxed);
}

/* ---- The reserve ------------------------------------------------------------------ */

static bool make_reserve(void)
{
    void *reserve = mmap(NULL, RESERVE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (reserve == MAP_FAILED)
        return false;
    atomic_store(&memory.reserve, reserve);
    return true;
}

void mem_refill(void)
{
    if (atomic_load_explicit(&memory.given, memory_order_relaxed) && make_reserve())
        atomic_store(&memory.given, false);
}

/* Afterwards a second try may succeed, also if another thread gave the reserve back just before. */
void mem_give_reserve(void)
{
    void *reserve = atomic_exchange(&memory.reserve, NULL);

    if (reserve) {
        atomic_store(&memory.given, true);
        munmap(reserve, RESERVE_BYTES);
    }
}

static void *need(void *piece)
{
    static const char line[] =
        "idemd: out of memory: the machine has no more, or a limit (ulimit -v, a cgroup's) is too "
        "low\n";

    if (!piece) {
        log_text(line, sizeof line - 1);
        _exit(71);
    }
    return piece;
}

/* ---- Pieces ----------------------------------------------------------------------- */

/* malloc(0) may be NULL; ours never is. */
static size_t at_least_one(size_t size)
{
    return size ? size : 1;
}

static void *counted(void *piece)
{
    count((int64_t)malloc_usable_size(piece));
    return piece;
}

void *mem_alloc(size_t size)
{
    void *piece = malloc(at_least_one(size));

    if (!piece) {
        mem_give_reserve();
        piece = malloc(at_least_one(size));
    }
    return counted(need(piece));
}

void *mem_zero(size_t number, size_t size)
{
    void *piece = calloc(at_least_one(number), at_least_one(size));

    if (!piece) {
        mem_give_reserve();
        piece = calloc(at_least_one(number), at_least_one(size));
    }
    return counted(need(piece));
}

void *mem_resize(void *old, size_t size)
{
    const int64_t before = (int64_t)malloc_usable_size(old);
    void *piece = realloc(old, at_least_one(size));

    if (!piece) {
        mem_give_reserve();
        piece = realloc(old, at_least_one(size));
    }
    count(-before);
    return counted(need(piece));
}

void *mem_pages(size_t size)
{
    enum { PAGE_BYTES = 4096 };
    const size_t rounded = (at_least_one(size) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    void *piece = aligned_alloc(PAGE_BYTES, rounded);

    if (!piece) {
        mem_give_reserve();
        piece = aligned_alloc(PAGE_BYTES, rounded);
    }
    return counted(need(piece));
}

char *mem_string(const char *string)
{
    const size_t size = strlen(string) + 1;

    return memcpy(mem_alloc(size), string, size);
}

void mem_free(void *piece)
{
    count(-(int64_t)malloc_usable_size(piece));
    free(piece);
}

void mem_set_up(void)
{
    enum { LARGE_BYTES = 64 * 1024 };

    mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    if (!make_reserve())
        atomic_store(&memory.given, true);
}

void mem_give_back(void)
{
    malloc_trim(0);
}

/* ---- Address space ------------------------------------------------------------------ */

void *mem_reserve(size_t size)
{
    void *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (start == MAP_FAILED) {
        static const char line[] = "idemd: no address space is left: raise or remove the limit (ulimit -v)\n";
        log_text(line, sizeof line - 1);
        _exit(71);
    }
    return start;
}

void mem_use_reserved(void *start, size_t size)
{
    bool usable = mprotect(start, size, PROT_READ | PROT_WRITE) == 0;

    if (!usable) {
        mem_give_reserve();
        usable = mprotect(start, size, PROT_READ | PROT_WRITE) == 0;
    }
    need(usable ? start : NULL);
    count((int64_t)size);
}

void mem_unreserve(void *reserved, size_t size, size_t used)
{
    if (!reserved)
        return;
    count(-(int64_t)used);
    munmap(reserved, size);
}

/* ---- What suits the machine ------------------------------------------------------------ */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t limit_in(const char *folder)
{
    char path[4200], word[32] = "";
    uint64_t bytes = UINT64_MAX;

    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", folder);
    FILE *file = fopen(path, "re");
    if (file && fgets(word, sizeof word, file) && word[0] >= '0' && word[0] <= '9')
        bytes = strtoull(word, NULL, 10);
    if (file)
        fclose(file);
    return bytes;
}

/* The file has one line "0::/path" for cgroup v2. Source: cgroups(7). */
static uint64_t cgroup_limit(void)
{
    char line[4096] = "";
    uint64_t bytes = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");

    while (file && fgets(line, sizeof line, file) && strncmp(line, "0::/", 4) != 0)
        line[0] = '\0';
    if (file)
        fclose(file);
    if (!line[0])
        return bytes;
    line[strcspn(line, "\n")] = '\0';
    for (char *end = line + strlen(line); end > line + 3; end = strrchr(line + 3, '/')) {
        *end = '\0';
        bytes = least(bytes, limit_in(line + 3));
    }
    return bytes;
}

/* What a limit on address space or data leaves, with what counts against it now. /proc/self/statm has pages: of the
 * address space first, of data and stack sixth. Source: proc(5). */
static uint64_t resource_left(int resource, int field)
{
    struct rlimit limit;
    unsigned long long pages[6] = {0};
    FILE *file;

    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    file = fopen("/proc/self/statm", "re");
    if (file) {
        const int read = fscanf(file, "%llu %llu %llu %llu %llu %llu", &pages[0], &pages[1], &pages[2], &pages[3],
                                &pages[4], &pages[5]);
        (void)read;
        fclose(file);
    }
    const uint64_t taken = pages[field] * (uint64_t)sysconf(_SC_PAGESIZE);
    return mem_used() + (limit.rlim_cur > taken ? limit.rlim_cur - taken : 0);
}

uint64_t mem_suitable_limit(void)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t resources = least(resource_left(RLIMIT_AS, 0), resource_left(RLIMIT_DATA, 5));

    return least(least(machine, cgroup_limit()), resources) / 4 * 3;
}
