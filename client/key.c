/* Keys are UUIDs in text. libuuid of Debian 12 has no version 7, so that one is put together here, from RFC 9562, 5.7:
 * 48 bits of Unix time in ms, the version, 12 bits of the ms' part (6.2, method 3: keys made in one ms are in order
 * too, down to a quarter of a microsecond), the variant, 62 random bits. */
#include "client/idem.h"

#include <time.h>
#include <uuid/uuid.h>

_Static_assert(IDEM_KEY_CHARS == UUID_STR_LEN, "a key is a UUID in text");

/* The namespace of named keys: a random UUID, made once for idemd. */
static const uuid_t names = {0xb7, 0x0a, 0x9d, 0x5e, 0x2c, 0x41, 0x4e, 0x0f,
                             0x9a, 0x63, 0x1d, 0x8e, 0x57, 0xf2, 0xc0, 0x36};

idem_error idem_key_v7(char key[IDEM_KEY_CHARS])
{
    struct timespec time;
    uint64_t ms, part;
    uuid_t uuid;

    if (!key)
        return IDEM_ERR_MISUSE;
    uuid_generate_random(uuid);
    clock_gettime(CLOCK_REALTIME, &time);
    ms = (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
    part = (uint64_t)time.tv_nsec % 1000000 * 4096 / 1000000;
    for (int i = 0; i < 6; i++)
        uuid[i] = (uint8_t)(ms >> (40 - 8 * i));
    uuid[6] = (uint8_t)(0x70 | part >> 8);
    uuid[7] = (uint8_t)part;
    uuid[8] = (uint8_t)(0x80 | (uuid[8] & 0x3f));
    uuid_unparse_lower(uuid, key);
    return IDEM_OK;
}

idem_error idem_key_v4(char key[IDEM_KEY_CHARS])
{
    uuid_t uuid;

    if (!key)
        return IDEM_ERR_MISUSE;
    uuid_generate_random(uuid);
    uuid_unparse_lower(uuid, key);
    return IDEM_OK;
}

idem_error idem_key_named(const void *name, size_t size, char key[IDEM_KEY_CHARS])
{
    uuid_t uuid;

    if (!key || (!name && size))
        return IDEM_ERR_MISUSE;
    uuid_generate_sha1(uuid, names, name ? name : "", size);
    uuid_unparse_lower(uuid, key);
    return IDEM_OK;
}
