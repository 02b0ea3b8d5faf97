/* A store is built beside its place and renamed into it, so that a power cut leaves either none or a whole one. */
#include "daemon/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail(struct store_error *error, int exit_code, const char *path, const char *what)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%.300s: %s", path, what);
    return false;
}

static bool fail_errno(struct store_error *error, const char *path, const char *what)
{
    const int code = errno;
    char text[160];

    snprintf(text, sizeof text, "%s: %s", what, strerror(code));
    return fail(error, code == EACCES || code == EPERM ? 77 : code == ENOSPC || code == EIO ? 74 : 73, path, text);
}

static bool is_ours(const char *name)
{
    static const char *const names[] = {".", "..", "lock", "store", "store.new"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Refuses a directory that holds other things and no store. */
static bool check_contents(struct directory *directory, struct store_error *error)
{
    DIR *folder = opendir(directory->path);
    const struct dirent *entry;
    char foreign[256] = "";

    if (!folder)
        return fail_errno(error, directory->path, "cannot be read");
    while ((entry = readdir(folder)))
        if (!is_ours(entry->d_name))
            snprintf(foreign, sizeof foreign, "holds %.100s and no store of idemd: not taken for ours", entry->d_name);
    closedir(folder);
    if (foreign[0] && !directory_has_store(directory))
        return fail(error, 65, directory->path, foreign);
    return true;
}

/* LMDB would make a new file where there is none or an empty one, and every key would be absent. */
static bool check_store(const struct directory *directory, struct store_error *error)
{
    struct stat status;
    char path[4096 + 16];

    snprintf(path, sizeof path, "%s/store/data.mdb", directory->path);
    if (stat(path, &status) != 0)
        return errno == ENOENT ? fail(error, 65, path, "is missing, and with it all that was stored: put a copy back")
                               : fail_errno(error, path, "cannot be opened");
    if (status.st_size == 0)
        return fail(error, 65, path, "is empty, and lost is all that was stored: put a copy back");
    return true;
}

static bool take_lock(struct directory *directory, struct store_error *error)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[4096];

    snprintf(path, sizeof path, "%s/lock", directory->path);
    directory->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (directory->lock_fd < 0)
        return fail_errno(error, path, "cannot be opened");
    if (fcntl(directory->lock_fd, F_OFD_SETLK, &lock) == 0)
        return true;
    if (errno == EAGAIN || errno == EACCES)
        fail(error, 75, path, "another daemon holds this directory");
    else
        fail_errno(error, path, "cannot be locked");
    directory_close(directory);
    return false;
}

bool directory_open(struct directory *directory, const char *path, bool make, struct store_error *error)
{
    struct stat status;

    *directory = (struct directory){.lock_fd = -1};
    if (strlen(path) >= sizeof directory->path)
        return fail(error, 64, path, "the path is too long");
    strcpy(directory->path, path);
    if (make && mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail_errno(error, path, "cannot be made");
    if (stat(path, &status) != 0)
        return fail_errno(error, path, "cannot be opened");
    if (!S_ISDIR(status.st_mode))
        return fail(error, 73, path, "is not a directory");
    if (!check_contents(directory, error))
        return false;
    if (directory_has_store(directory)) {
        if (!check_store(directory, error))
            return false;
    } else if (!make) {
        return fail(error, 65, path, "holds no store of idemd");
    }
    return take_lock(directory, error);
}

void directory_close(struct directory *directory)
{
    if (directory->lock_fd >= 0)
        close(directory->lock_fd);
    directory->lock_fd = -1;
}

void directory_store_path(const struct directory *directory, bool building, char path[4096])
{
    snprintf(path, 4096, "%s/store%s", directory->path, building ? ".new" : "");
}

bool directory_has_store(const struct directory *directory)
{
    struct stat status;
    char path[4096];

    directory_store_path(directory, false, path);
    return stat(path, &status) == 0;
}

static void remove_file(const char *folder, const char *name)
{
    char path[4096 + 16];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

bool directory_begin_build(const struct directory *directory, struct store_error *error)
{
    char path[4096];

    directory_store_path(directory, true, path);
    remove_file(path, "data.mdb");
    remove_file(path, "lock.mdb");
    remove_file(path, "log.0");
    if (rmdir(path) != 0 && errno != ENOENT)
        return fail_errno(error, path, "was left over and cannot be removed");
    return mkdir(path, 0700) == 0 || fail_errno(error, path, "cannot be made");
}

static bool flush(const char *path, struct store_error *error)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const bool good = fd >= 0 && fsync(fd) == 0;

    if (!good)
        fail_errno(error, path, "cannot be flushed");
    if (fd >= 0)
        close(fd);
    return good;
}

bool directory_end_build(const struct directory *directory, struct store_error *error)
{
    char from[4096], to[4096], data[4096 + 16];

    directory_store_path(directory, true, from);
    directory_store_path(directory, false, to);
    snprintf(data, sizeof data, "%s/data.mdb", from);
    if (!flush(data, error) || !flush(from, error))
        return false;
    if (rename(from, to) != 0)
        return fail_errno(error, to, "cannot be put in place");
    return flush(directory->path, error);
}
