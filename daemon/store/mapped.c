/* The handler is called in the middle of whatever reads the map, which is never a part of the log of events: so it may
 * write a line there. A fault elsewhere is not the store's, and ends the process as it always did. */
#include "daemon/store/mapped.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/logging.h"

static struct {
    uintptr_t first, end; /* addresses of the map; 0: not known */
    char path[4096 + 16];
} mapped;

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    const uintptr_t at = (uintptr_t)info->si_addr;

    (void)context;
    if (at < mapped.first || at >= mapped.end) {
        signal(signal_number, SIG_DFL);
        return;
    }
    log_event(LOG_ERROR, "storage_failed", "file", mapped.path, "page",
              log_number((at - mapped.first) / TABLES_PAGE_BYTES), "reason",
              "a page cannot be read: the file was cut short, or its disk has a bad sector; idemd --check-data tells "
              "what still reads",
              NULL);
    _exit(74);
}

/* Where the file is mapped; proc(5). */
static void find_map(const struct tables *tables)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    uintptr_t first, end;
    struct stat status;
    unsigned long inode;
    char line[4096 + 256];
    mdb_filehandle_t fd;

    mapped.first = mapped.end = 0;
    if (!maps)
        return;
    if (mdb_env_get_fd(tables->env, &fd) == 0 && fstat(fd, &status) == 0)
        while (mapped.end == 0 && fgets(line, sizeof line, maps))
            if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %lu", &first, &end, &inode) == 3 &&
                inode == status.st_ino && strstr(line, "/data.mdb")) {
                mapped.first = first;
                mapped.end = end;
            }
    fclose(maps);
}

void mapped_guard(const struct tables *tables, const char *path)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    snprintf(mapped.path, sizeof mapped.path, "%s/data.mdb", path);
    find_map(tables);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

void mapped_release(void)
{
    if (mapped.path[0])
        signal(SIGBUS, SIG_DFL);
    mapped.path[0] = '\0';
    mapped.first = mapped.end = 0;
}
