/* A socket with deadlines: Unix or TCP. Deadlines are in ms of CLOCK_MONOTONIC. */
#ifndef IDEM_CLIENT_TRANSPORT_H
#define IDEM_CLIENT_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

uint64_t transport_now_ms(void);
/* Is it "unix:/path" or "tcp:host:port"? */
bool transport_address_good(const char *address);
/* Connects. Returns a non-blocking descriptor, or -1: errno says why (ETIMEDOUT at the deadline, ENXIO if
 * a host's name is not known). A host name is looked up by getaddrinfo, which knows no deadline: give an address where
 * that matters. Of a name's addresses each is given its share of the time. */
int transport_connect(const char *address, uint64_t deadline_ms);
/* Sends all of it. False: errno says why. */
bool transport_send(int fd, const uint8_t *data, size_t size, uint64_t deadline_ms);
/* Is it as it should be between two calls: open, with nothing to read? */
bool transport_quiet(int fd);
/* Receives some. Returns how many bytes, 0 at the end of input, -1: errno says why. What is there already is received
 * even where the deadline is over: a process that was stopped meanwhile still gets its answer. */
ssize_t transport_receive(int fd, uint8_t *data, size_t size, uint64_t deadline_ms);
/* Waits, whatever happens meanwhile, until then. */
void transport_pause(uint64_t until_ms);

#endif
