#include "proto/standard.h"

#include <fcntl.h>
#include <unistd.h>

bool standard_fill(bool usable)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        const int unusable = fd == STDIN_FILENO ? O_WRONLY : O_RDONLY;
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", usable ? O_RDWR : unusable) < 0)
            return false;
    }
    return true;
}
