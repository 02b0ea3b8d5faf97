/* The operating system's disk against the contract in disk.h, and the one in memory against the same. */
#include "daemon/store/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/memory.h"
#include "tests/model/sim_disk.h"
#include "tests/unit/folder.h"

static void assert_contract(const struct disk *disk, int folder)
{
    enum { ALIGN = DISK_ALIGN_BYTES, BYTES = 3 * 1024 * 1024 + ALIGN };
    const char *const name = "log.0";
    uint8_t *data = mem_pages(BYTES), *read = mem_pages(BYTES);
    uint64_t bytes = 1;
    int file = -7, again = -7;

    assert_int_equal(disk->open(folder, name, &file), ENOENT);
    assert_int_equal(file, -7);
    assert_int_equal(disk->make(folder, name, BYTES, &file), 0);
    assert_true(file >= 0);
    assert_int_equal(disk->size(file, &bytes), 0);
    assert_int_equal(bytes, BYTES);
    memset(read, 1, BYTES);
    memset(data, 0, BYTES);
    assert_int_equal(disk->read(file, 0, read, BYTES), 0);
    assert_memory_equal(read, data, BYTES);

    /* Zeros behind its end. */
    for (uint64_t behind = 0; behind <= 3; behind++) {
        memset(read, 1, 2 * ALIGN);
        assert_int_equal(disk->read(file, BYTES - ALIGN + behind * ALIGN, read, 2 * ALIGN), 0);
        assert_memory_equal(read, data, 2 * ALIGN);
    }

    /* Over its end too. */
    for (uint32_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(i * 7 + (i >> 10));
    assert_int_equal(disk->write(file, BYTES - ALIGN, data, 3 * ALIGN), 0);
    assert_int_equal(disk->size(file, &bytes), 0);
    assert_int_equal(bytes, BYTES + 2 * ALIGN);
    assert_int_equal(disk->read(file, BYTES - ALIGN, read, 3 * ALIGN), 0);
    assert_memory_equal(read, data, 3 * ALIGN);
    disk->close(file);

    /* What was there is replaced. */
    assert_int_equal(disk->make(folder, name, ALIGN, &file), 0);
    assert_int_equal(disk->size(file, &bytes), 0);
    assert_int_equal(bytes, ALIGN);
    memset(read, 1, ALIGN);
    assert_int_equal(disk->read(file, 0, read, ALIGN), 0);
    for (uint32_t i = 0; i < ALIGN; i++)
        assert_int_equal(read[i], 0);
    disk->close(file);

    assert_int_equal(disk->open(folder, name, &file), 0);
    assert_int_equal(disk->write(file, 4096, data, BYTES), 0);
    assert_int_equal(disk->read(file, 4096, read, BYTES), 0);
    assert_memory_equal(read, data, BYTES);
    assert_int_equal(disk->open(folder, name, &again), EWOULDBLOCK);
    assert_int_equal(again, -7);
    disk->close(file);

    mem_free(data);
    mem_free(read);
}

static void both(void **state)
{
    char folder[TEST_FOLDER_BYTES], path[96];
    struct stat status;

    (void)state;
    test_folder(folder);
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_contract(&disk_system, fd);
    snprintf(path, sizeof path, "%s/log.0", folder);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    unlink(path);
    /* Not through a link: what it points to is not ours. */
    int file;
    assert_int_equal(symlink("/tmp/idemd-nowhere", path), 0);
    assert_int_equal(disk_system.open(fd, "log.0", &file), ELOOP);
    assert_int_equal(disk_system.make(fd, "log.0", DISK_ALIGN_BYTES, &file), 0);
    assert_int_equal(access("/tmp/idemd-nowhere", F_OK), -1);
    disk_system.close(file);
    unlink(path);
    close(fd);
    assert_int_equal(rmdir(folder), 0); /* nothing else was left in it */

    sim_disk_reset(1);
    assert_contract(&sim_disk, -1);
    assert_int_equal(sim_disk_end(), 0);
}

/* Of a file that has no room nothing is left, and a write that has none says so. */
static void no_room(void **state)
{
    enum { LIMIT = 1024 * 1024 };
    char folder[TEST_FOLDER_BYTES], path[96];
    uint8_t *data = mem_pages(2 * LIMIT);
    struct rlimit before, low;
    int file, full;

    (void)state;
    memset(data, 0, 2 * LIMIT);
    test_folder(folder);
    snprintf(path, sizeof path, "%s/log.0", folder);
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    low = before;
    low.rlim_cur = LIMIT;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    full = disk_system.make(fd, "log.0", 2 * LIMIT, &file);
    const bool left = access(path, F_OK) == 0;
    const int made = disk_system.make(fd, "log.0", LIMIT, &file);
    const int written = disk_system.write(file, LIMIT / 2, data, LIMIT);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(full, EFBIG);
    assert_false(left);
    assert_int_equal(made, 0);
    assert_int_equal(written, EFBIG);
    disk_system.close(file);
    close(fd);
    unlink(path);
    assert_int_equal(rmdir(folder), 0); /* nothing else was left in it */
    mem_free(data);
}

/* The directory was moved away, and its path is somebody else's by now. */
static void somebody_elses_file(void **state)
{
    char folder[TEST_FOLDER_BYTES], old[96], path[128], other[128];
    int file, fd;

    (void)state;
    test_folder(folder);
    snprintf(path, sizeof path, "%s/store", folder);
    snprintf(old, sizeof old, "%s/old", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(rename(path, old), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/store/log.1", folder);
    FILE *theirs = fopen(path, "wx");
    assert_int_equal(fwrite("theirs", 6, 1, theirs), 1);
    fclose(theirs);
    snprintf(other, sizeof other, "%s/old/log.1", folder);
    for (int links = 0; links < 2; links++) {
        struct stat status;
        if (links) { /* and their file has a name in ours */
            unlink(other);
            assert_int_equal(link(path, other), 0);
        }
        assert_int_equal(disk_system.make(fd, "log.1", 8192, &file), 0);
        assert_int_equal(stat(path, &status), 0);
        assert_int_equal(status.st_size, 6);
        assert_int_equal(stat(other, &status), 0);
        assert_int_equal(status.st_size, 8192);
        disk_system.close(file);
    }
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(both), cmocka_unit_test(no_room),
                                       cmocka_unit_test(somebody_elses_file)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
