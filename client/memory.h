/* The library's one door to memory, so that a test can fail its n-th call. Everything that comes from here may be NULL.
 */
#ifndef IDEM_CLIENT_MEMORY_H
#define IDEM_CLIENT_MEMORY_H

#include <stddef.h>

void *idem__alloc(size_t size); /* not cleared */
void *idem__zero(size_t size);
void *idem__resize(void *old, size_t size); /* NULL: old is as it was */
char *idem__string(const char *string);     /* of NULL: of "" */
void idem__free(void *memory);

/* For tests: the n-th allocation from now fails, and all after it where `on`; 0: none does. Not thread-safe. */
void idem__fail_allocation(unsigned long n, int on);

#endif
