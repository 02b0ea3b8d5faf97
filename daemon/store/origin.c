#include "daemon/store/origin.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void origin_read(int fd, struct origin *origin)
{
    struct stat status = {0};
    struct statx more;

    fstat(fd, &status);
    *origin = (struct origin){.device = status.st_dev, .inode = status.st_ino};
    /* A sandbox may refuse this call. */
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &more) == 0 && more.stx_mask & STATX_BTIME)
        origin->born_ns = (uint64_t)more.stx_btime.tv_sec * 1000000000 + more.stx_btime.tv_nsec;
    host_machine_id(origin->machine_id);
    host_boot_id(origin->boot_id);
}

static bool both_known(const uint8_t a[HOST_ID_BYTES], const uint8_t b[HOST_ID_BYTES])
{
    return host_id_known(a) && host_id_known(b);
}

const char *origin_difference(const struct origin *before, const struct origin *here)
{
    if (both_known(before->machine_id, here->machine_id) &&
        memcmp(before->machine_id, here->machine_id, HOST_ID_BYTES) != 0)
        return "it was on another machine when it was started last";
    if (before->inode != here->inode || (before->born_ns && here->born_ns && before->born_ns != here->born_ns))
        return "its data.mdb is another file than when it was started last";
    if (host_id_known(here->boot_id) && memcmp(before->boot_id, here->boot_id, HOST_ID_BYTES) == 0 &&
        before->device != here->device)
        return "it was on another device when it was started last";
    return NULL;
}
