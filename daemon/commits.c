/* LMDB has two meta pages, which it writes by turns, each with the number of its commit and the roots as of it; the
 * larger number counts. They have no checksum: one bit changed in such a number, and the commit before the last counts
 * for the last. What was acknowledged in between would be absent, and nothing else would be wrong. But each commit of
 * ours writes its number into "state" in the table "meta" as well, checksummed; and the pages that either meta page
 * leads to are never written again before that meta page is. So both are followed here, and the numbers compared.
 *
 * Offsets are those of mdb.c, LMDB 0.9, 64 bits, whose file format is version 1. The table of tables and "meta" have a
 * few short entries: one leaf each. */
#include "daemon/commits.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/tables.h"

enum {
    PAGE_FLAGS_AT = 10,
    PAGE_LOWER_AT = 12, /* the end of the nodes' offsets */
    PAGE_HEADER_BYTES = 16,
    PAGE_LEAF = 2,
    NODE_KEY_BYTES_AT = 6,
    NODE_HEADER_BYTES = 8,
    META_MAIN_ROOT_AT = 128,
    META_COMMIT_AT = 144,
    TABLE_BYTES = 48, /* MDB_db */
    TABLE_ROOT_AT = 40,
};
#define NO_ROOT UINT64_MAX

struct page {
    uint8_t bytes[TABLES_PAGE_BYTES];
};

static unsigned load16(const struct page *page, size_t at)
{
    return page->bytes[at] | (unsigned)page->bytes[at + 1] << 8;
}

static uint64_t load64(const uint8_t *data)
{
    uint64_t value;

    memcpy(&value, data, sizeof value);
    return value;
}

static bool read_page(int fd, uint64_t number, struct page *page)
{
    if (number > INT64_MAX / TABLES_PAGE_BYTES)
        return false;
    return pread(fd, page->bytes, sizeof page->bytes, (off_t)(number * TABLES_PAGE_BYTES)) == sizeof page->bytes;
}

/* The value of a key on a leaf; empty where it is not there. */
static struct bytes find(const struct page *page, const char *key)
{
    const size_t key_bytes = strlen(key), lower = load16(page, PAGE_LOWER_AT);

    if (load16(page, PAGE_FLAGS_AT) != PAGE_LEAF || lower > sizeof page->bytes)
        return (struct bytes){0};
    for (size_t at = PAGE_HEADER_BYTES; at + 2 <= lower; at += 2) {
        const size_t node = load16(page, at), start = node + NODE_HEADER_BYTES + key_bytes;
        if (start > sizeof page->bytes || load16(page, node + NODE_KEY_BYTES_AT) != key_bytes ||
            memcmp(page->bytes + start - key_bytes, key, key_bytes) != 0)
            continue;
        const size_t size = load16(page, node) | (size_t)load16(page, node + 2) << 16;
        if (size <= sizeof page->bytes - start)
            return bytes_of(page->bytes + start, (uint32_t)size);
    }
    return (struct bytes){0};
}

/* The number that the state behind a root of the table of tables has. */
static bool follow(int fd, uint64_t root, uint64_t *commit)
{
    struct page page;
    struct bytes value;

    if (!read_page(fd, root, &page) || (value = find(&page, "meta")).size != TABLE_BYTES)
        return false;
    if (!read_page(fd, load64(value.data + TABLE_ROOT_AT), &page))
        return false;
    value = find(&page, "state");
    return tables_state_commit(value.data, value.size, commit);
}

static bool is_true(int fd, unsigned number, uint64_t *commit)
{
    struct page meta;
    uint64_t found;

    if (!read_page(fd, number, &meta))
        return false;
    *commit = load64(meta.bytes + META_COMMIT_AT);
    const uint64_t root = load64(meta.bytes + META_MAIN_ROOT_AT);
    if (*commit == 0)
        return number == 0 && root == NO_ROOT; /* before the first */
    return *commit % 2 == number && follow(fd, root, &found) && found == *commit;
}

bool commits_check(const char *path, struct store_error *error)
{
    uint64_t commits[2];
    char name[4096 + 16];

    snprintf(name, sizeof name, "%s/data.mdb", path);
    const int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true; /* LMDB says why */
    const bool good = is_true(fd, 0, &commits[0]) && is_true(fd, 1, &commits[1]) &&
                      (commits[0] == commits[1] + 1 || commits[1] == commits[0] + 1);
    close(fd);
    if (good)
        return true;
    error->exit_code = 65;
    snprintf(
        error->message, sizeof error->message,
        "%.300s: is no store of idemd, or damaged in a meta page or what it leads to, the entry \"state\" of its table "
        "meta: which commit was the last is not known",
        name);
    return false;
}
