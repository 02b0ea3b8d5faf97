/* Both ids are files with 32 hexadecimal digits, one of them with dashes in between. */
#include "daemon/base/host.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* "3f2504e0-4f89-11d3-9a0c-0305e82c3301" as sixteen bytes. */
static void read_id(const char *path, uint8_t id[HOST_ID_BYTES])
{
    char text[64];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    int count = 0;

    memset(id, 0, HOST_ID_BYTES);
    if (fd >= 0)
        close(fd);
    if (size <= 0)
        return;
    text[size] = '\0';
    for (const char *at = text; *at && count < HOST_ID_BYTES; at++) {
        unsigned byte;
        if (*at == '-')
            continue;
        if (sscanf(at, "%2x", &byte) != 1)
            break;
        id[count++] = (uint8_t)byte;
        at++;
    }
}

void host_boot_id(uint8_t id[HOST_ID_BYTES])
{
    read_id("/proc/sys/kernel/random/boot_id", id);
}

void host_machine_id(uint8_t id[HOST_ID_BYTES])
{
    read_id("/etc/machine-id", id);
}

bool host_id_known(const uint8_t id[HOST_ID_BYTES])
{
    static const uint8_t unknown[HOST_ID_BYTES];

    return memcmp(id, unknown, sizeof unknown) != 0;
}
