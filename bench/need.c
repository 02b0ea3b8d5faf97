#include "bench/need.h"

#include <stdio.h>
#include <stdlib.h>

void *need(void *memory)
{
    if (!memory) {
        fprintf(stderr, "idem-bench: out of memory\n");
        exit(71);
    }
    return memory;
}
