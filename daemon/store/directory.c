/* A store is built beside its place and renamed into it, so that a power cut leaves either none or a whole one.
 *
 * A lock on a file ends nothing but that file: who removes it lets the next one in. So what is locked is the directory
 * itself and the tables' file, which stay. */
#include "daemon/store/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fail(struct failure *error, int exit_code, const char *path, const char *what)
{
    error->exit_code = exit_code;
    snprintf(error->message, sizeof error->message, "%.300s: %s", path, what);
    return false;
}

static int exit_code_of(int code)
{
    switch (code) {
    case EACCES:
    case EPERM:
        return 77;
    case EDQUOT:
    case EIO:
    case ENOSPC:
        return 74;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return 71;
    default:
        return 73;
    }
}

static bool fail_errno(struct failure *error, const char *path, const char *what)
{
    const int code = errno;
    char text[160];

    snprintf(text, sizeof text, "%s: %s", what, strerror(code));
    return fail(error, exit_code_of(code), path, text);
}

/* ---- What is in it ---------------------------------------------------------------------- */

/* A file system that is mounted at DIR may have a folder lost+found of its own. */
static bool is_ours(const char *name)
{
    static const char *const names[] = {".", "..", "lock", "store", "store.new", "lost+found"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Refuses a directory that holds other things and no store. */
static bool check_contents(const struct directory *directory, struct failure *error)
{
    DIR *folder = opendir(directory->path);
    const struct dirent *entry;
    char foreign[256] = "";

    if (!folder)
        return fail_errno(error, directory->path, "cannot be read");
    while (errno = 0, (entry = readdir(folder)))
        if (!is_ours(entry->d_name))
            snprintf(foreign, sizeof foreign, "holds %.100s and no store of idemd: not taken for ours", entry->d_name);
    const int code = errno;
    closedir(folder);
    errno = code;
    if (code != 0)
        return fail_errno(error, directory->path, "cannot be read");
    return !foreign[0] || directory_has_store(directory) || fail(error, 65, directory->path, foreign);
}

bool directory_has_store(const struct directory *directory)
{
    struct stat status;

    /* One that cannot be looked at is there: no other is built in its place. */
    return fstatat(directory->fd, "store", &status, 0) == 0 || errno != ENOENT;
}

void directory_store_path(const struct directory *directory, bool building, char path[4096])
{
    snprintf(path, 4096, "%s/store%s", directory->path, building ? ".new" : "");
}

/* ---- Who holds it ------------------------------------------------------------------------ */

/* LMDB has a lock on its own lock file that belongs to the process, and of such a one the system tells whose it is.
 * 0: it does not. */
static pid_t holder(const struct directory *directory)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    const int fd = openat(directory->fd, "store/lock.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const bool held = fd >= 0 && fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0;

    if (fd >= 0)
        close(fd);
    return held ? lock.l_pid : 0;
}

/* errno is that of a lock that was not given. */
static bool fail_lock(const struct directory *directory, const char *path, struct failure *error)
{
    char text[120];

    if (errno != EWOULDBLOCK && errno != EACCES)
        return fail_errno(error, path, "cannot be locked");
    const pid_t pid = holder(directory);
    if (pid)
        snprintf(text, sizeof text, "another daemon holds this directory: process %ld", (long)pid);
    else
        snprintf(text, sizeof text, "another daemon holds this directory, or its data are being checked");
    return fail(error, 75, path, text);
}

static bool lock_whole(const struct directory *directory, int fd, enum directory_use use, const char *path,
                       struct failure *error)
{
    return flock(fd, (use == DIRECTORY_HOLD ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0 || fail_lock(directory, path, error);
}

static bool take_lock_file(struct directory *directory, enum directory_use use, struct failure *error)
{
    struct flock lock = {.l_type = use == DIRECTORY_HOLD ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    const int flags = use == DIRECTORY_HOLD ? O_RDWR | O_CREAT : O_RDONLY;
    char path[4096];

    snprintf(path, sizeof path, "%s/lock", directory->path);
    directory->lock_fd = openat(directory->fd, "lock", flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (directory->lock_fd < 0 && use == DIRECTORY_READ && errno == ENOENT)
        return true;
    if (directory->lock_fd < 0)
        return fail_errno(error, path, "cannot be opened");
    return fcntl(directory->lock_fd, F_OFD_SETLK, &lock) == 0 || fail_lock(directory, path, error);
}

/* ---- Taking it ---------------------------------------------------------------------------- */

static bool open_folder(struct directory *directory, const char *path, enum directory_use use, struct failure *error)
{
    if (strlen(path) >= sizeof directory->path)
        return fail(error, 64, path, "the path is too long");
    strcpy(directory->path, path);
    if (use == DIRECTORY_HOLD && mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail_errno(error, path, "cannot be made");
    directory->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory->fd >= 0 || fail_errno(error, path, "cannot be opened");
}

bool directory_open_data(struct directory *directory, enum directory_use use, struct failure *error)
{
    struct stat status;
    char path[4096 + 16];

    snprintf(path, sizeof path, "%s/store/data.mdb", directory->path);
    directory->store_fd = openat(directory->fd, "store", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory->store_fd < 0)
        return fail_errno(error, path, "cannot be opened");
    directory->data_fd =
        openat(directory->store_fd, "data.mdb", (use == DIRECTORY_HOLD ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    /* LMDB would make a new file where there is none or an empty one, and every key would be absent. */
    if (directory->data_fd < 0 && errno == ENOENT)
        return fail(error, 65, path, "is missing, and with it all that was stored: put a copy back");
    if (directory->data_fd < 0 || fstat(directory->data_fd, &status) != 0)
        return fail_errno(error, path, "cannot be opened");
    if (status.st_size == 0)
        return fail(error, 65, path, "is empty, and lost is all that was stored: put a copy back");
    return lock_whole(directory, directory->data_fd, use, path, error);
}

static bool take(struct directory *directory, const char *path, enum directory_use use, struct failure *error)
{
    if (!open_folder(directory, path, use, error) || !lock_whole(directory, directory->fd, use, path, error) ||
        !check_contents(directory, error))
        return false;
    const bool has_store = directory_has_store(directory);
    if (!has_store && use == DIRECTORY_READ)
        return fail(error, 65, path, "holds no store of idemd");
    return (!has_store || directory_open_data(directory, use, error)) && take_lock_file(directory, use, error);
}

bool directory_open(struct directory *directory, const char *path, enum directory_use use, struct failure *error)
{
    *directory = directory_none();
    if (take(directory, path, use, error))
        return true;
    directory_close(directory);
    return false;
}

void directory_close(struct directory *directory)
{
    const int files[] = {directory->data_fd, directory->store_fd, directory->lock_fd, directory->fd};

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i] >= 0)
            close(files[i]);
    *directory = directory_none();
}

/* ---- Building ------------------------------------------------------------------------------ */

static void remove_file(const char *folder, const char *name)
{
    char path[4096 + 16];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

bool directory_begin_build(const struct directory *directory, struct failure *error)
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

static bool flush(const char *path, struct failure *error)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const bool good = fd >= 0 && fsync(fd) == 0;

    if (!good)
        fail_errno(error, path, "cannot be flushed");
    if (fd >= 0)
        close(fd);
    return good;
}

bool directory_end_build(const struct directory *directory, struct failure *error)
{
    char from[4096], to[4096], data[4096 + 16];

    directory_store_path(directory, true, from);
    directory_store_path(directory, false, to);
    snprintf(data, sizeof data, "%s/data.mdb", from);
    if (!flush(data, error) || !flush(from, error))
        return false;
    return rename(from, to) == 0 || fail_errno(error, to, "cannot be put in place");
}

/* The folder that DIR is in, of which we may have no right to open it: then all of DIR's file system is flushed. One
 * that cannot be written to, or is of a kind that is not flushed, has nothing to flush. */
static bool flush_parent(const struct directory *directory, struct failure *error)
{
    const int fd = openat(directory->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool good =
        fd >= 0 ? fsync(fd) == 0 || errno == EROFS || errno == EINVAL : errno == EACCES && syncfs(directory->fd) == 0;

    if (!good)
        fail_errno(error, directory->path, "the directory that it is in cannot be flushed");
    if (fd >= 0)
        close(fd);
    return good;
}

bool directory_flush(const struct directory *directory, struct failure *error)
{
    char path[4096];

    directory_store_path(directory, false, path);
    if (fsync(directory->data_fd) != 0 || fsync(directory->fd) != 0)
        return fail_errno(error, directory->path, "cannot be flushed");
    return flush(path, error) && flush_parent(directory, error);
}
