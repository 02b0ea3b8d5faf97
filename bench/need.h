/* Memory or the end: a load generator that cannot have memory has nothing to measure. */
#ifndef IDEM_BENCH_NEED_H
#define IDEM_BENCH_NEED_H

/* Returns `memory`. If it is NULL, says so on standard error and exits with 71. */
void *need(void *memory);

#endif
