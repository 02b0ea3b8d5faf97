/* Standard input, output and error of a program of ours. */
#ifndef IDEM_STANDARD_H
#define IDEM_STANDARD_H

#include <stdbool.h>

/* Opens /dev/null in the place of each standard descriptor that is closed; called before anything else is opened. Else
 * the next file or socket would get its number: what is printed, or logged, would be written into a database or sent
 * to a peer. `usable`: what is written there is thrown away, and there is nothing to read. Else both fail, so that the
 * program finds out. False: errno says why one could not be opened. */
bool standard_fill(bool usable);

#endif
