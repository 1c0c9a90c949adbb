/* The kernel in double precision. */

#define DOUBLE
#define ANSWER_QUERIES answer_queries_float64
#include "answer_queries.h"
