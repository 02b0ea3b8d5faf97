/* One folder for the process, and in it one for each call: its end is the only time at which it is known whether all is
 * well. */
#include "tests/unit/folder.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[TEST_FOLDER_BYTES];
static pid_t owner; /* a child that forked from it removes nothing */
static unsigned made;

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *expiry_key)
{
    (void)status, (void)type, (void)expiry_key;
    return remove(path);
}

void test_folder_remove(const char *path)
{
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        perror(path);
}

static void finish(int exit_code, void *context)
{
    (void)context;
    if (getpid() != owner)
        return;
    if (exit_code != 0)
        fprintf(stderr, "The test failed; its folder is kept: %s\n", top);
    else
        test_folder_remove(top);
}

static void make_top(void)
{
    const char *parent = getenv("TMPDIR");

    if (!parent || parent[0] != '/' || strlen(parent) > 32)
        parent = "/tmp";
    snprintf(top, sizeof top, "%s/idemd-test-XXXXXX", parent);
    if (!mkdtemp(top) || on_exit(finish, NULL) != 0) {
        perror(top);
        abort();
    }
    owner = getpid();
}

void test_folder(char path[TEST_FOLDER_BYTES])
{
    if (!owner)
        make_top();
    if (snprintf(path, TEST_FOLDER_BYTES, "%s/%u", top, made++) >= TEST_FOLDER_BYTES || mkdir(path, 0700) != 0) {
        perror(top);
        abort();
    }
}
