/* What some replies are shown as, for people: a list of operations and the daemon's counts as tables. */
#ifndef IDEM_COMMAND_SHOW_H
#define IDEM_COMMAND_SHOW_H

#include "client/command/command.h"
#include "idem/v1/idem.pb-c.h"

/* One line an operation, under a line of headings. An empty list is nothing at all. Says on standard error if there is
 * more, and how to get it. */
void show_list(FILE *out, const Idem__V1__ListResponse *list);
/* One line a metric, with its meaning; a histogram is one line. */
void show_stats(FILE *out, const Idem__V1__StatsResponse *stats);
/* The same for Prometheus, in its text format, version 0.0.4. */
void show_prometheus(FILE *out, const Idem__V1__StatsResponse *stats);

#endif
