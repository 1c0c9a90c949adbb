/* The kernel in single precision. */

#define ANSWER_QUERIES answer_queries_float32
#include "answer_queries.h"
