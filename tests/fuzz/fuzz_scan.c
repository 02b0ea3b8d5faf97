/* libFuzzer: any bytes as a Request. wire_check() holds the scan's word against protobuf-c's. */
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/proto/wire_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scan_result result;

    wire_check(data, size, &result);
    return 0;
}
