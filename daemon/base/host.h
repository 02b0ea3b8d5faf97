/* What the system says of itself. */
#ifndef IDEMD_HOST_H
#define IDEMD_HOST_H

#include <stdbool.h>
#include <stdint.h>

enum { HOST_ID_BYTES = 16 };

/* The id of this boot, and that of this installation of the system (machine-id(5)); zeros where it is not to be had. */
void host_boot_id(uint8_t id[HOST_ID_BYTES]);
void host_machine_id(uint8_t id[HOST_ID_BYTES]);
/* It is not all zeros. */
bool host_id_known(const uint8_t id[HOST_ID_BYTES]);

#endif
