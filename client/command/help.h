/* What idem says of itself: --help of idem and of each command, and the manual page, all from the same tables. */
#ifndef IDEM_COMMAND_HELP_H
#define IDEM_COMMAND_HELP_H

#include "client/command/command.h"

/* The commands, in the order in which help shows them; `at` counts from 0. False: there is no more. What it fills in
 * is good until the next call. */
bool help_subcommand(unsigned at, struct subcommand *subcommand);
/* The options that all commands have. */
struct option_table help_common(const char *(*set)(void *user, const char *name, const char *value), void *user);

void help_print(const struct subcommand *subcommand);
void help_print_all(void);
void help_print_man(void);

#endif
