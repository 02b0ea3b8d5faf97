/* idemd --check-data DIR: reads everything, says what is wrong where, changes nothing. */
#ifndef IDEMD_CHECK_H
#define IDEMD_CHECK_H

#include <stdio.h>

/* Prints one line for each damage, then what was read. Returns 0; 65 where anything is damaged, or DIR holds no store;
 * 71 where memory, descriptors or a process are missing to check it; 75 where a daemon holds it; 77. Needs no right to
 * write. The reading happens in a child process: a damaged file can make its reader crash, and that is damage too. */
int check_data(const char *directory, FILE *out);

#endif
