/* Sizes and digest that `native_library.py` compares with its own when it loads the library. */

#include "interface.h"

#define QUOTE(x) #x
#define QUOTE_VALUE(x) QUOTE(x)

const uint32_t struct_sizes[] = {sizeof(struct grammar), sizeof(struct results)};

/* SHA-256 of the sources that the library was built from, in hexadecimal. */
const char source_digest[] = QUOTE_VALUE(SOURCE_DIGEST);
