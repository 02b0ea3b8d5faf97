/* SHA-256 by libmd, over parts that carry their lengths. */
#include "client/idem.h"

#include <sha2.h>
#include <string.h>

_Static_assert(sizeof(SHA2_CTX) <= sizeof((idem_fingerprint *)0)->state, "the state has room");
_Static_assert(SHA256_DIGEST_LENGTH == IDEM_FINGERPRINT_BYTES, "a digest is a digest");

static SHA2_CTX *context_of(idem_fingerprint *fingerprint)
{
    return (SHA2_CTX *)(void *)fingerprint->state;
}

idem_error idem_fingerprint_init(idem_fingerprint *fingerprint)
{
    if (!fingerprint)
        return IDEM_ERR_MISUSE;
    SHA256Init(context_of(fingerprint));
    fingerprint->bad = 0;
    return IDEM_OK;
}

static void add(idem_fingerprint *fingerprint, const void *data, size_t size)
{
    uint8_t length[8];

    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)size >> (56 - 8 * i));
    SHA256Update(context_of(fingerprint), length, sizeof length);
    if (size)
        SHA256Update(context_of(fingerprint), data, size);
}

idem_error idem_fingerprint_add(idem_fingerprint *fingerprint, const char *label, const void *value, size_t size)
{
    if (!fingerprint)
        return IDEM_ERR_MISUSE;
    if (!value && size) {
        fingerprint->bad = 1;
        return IDEM_ERR_MISUSE;
    }
    add(fingerprint, label, label ? strlen(label) : 0);
    add(fingerprint, value, size);
    return IDEM_OK;
}

idem_error idem_fingerprint_final(idem_fingerprint *fingerprint, uint8_t digest[IDEM_FINGERPRINT_BYTES])
{
    if (!fingerprint || !digest || fingerprint->bad)
        return IDEM_ERR_MISUSE;
    SHA256Final(digest, context_of(fingerprint));
    fingerprint->bad = 1;
    return IDEM_OK;
}
