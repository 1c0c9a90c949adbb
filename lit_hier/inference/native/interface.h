/* The structures shared with Python. `native_library.py` declares the same ones; `library.c` exports their
   sizes, which `native_library.py` compares with its own when it loads the library. */

#include <stdint.h>

#ifdef DOUBLE
typedef double real;
#else
typedef float real;
#endif

struct grammar {
    int64_t v, n, m, s, L;
    const int32_t *rules;   /* (level, parent, m, s): i v + the symbol of the i-th child */
    const int32_t *targets; /* (level, position, v, 2): a symbol and its number of rules at this
                               position, in descending order of that number */
    const int32_t *terms;   /* (level, position, parent m, s): these rules, in the order of the
                               targets: the parent, and the entries of `rules` of the other
                               children */
    const double *prior;    /* (n), or (samples, n) */
    int64_t prior_stride;   /* numbers from a sample's prior to the next one's: 0, or n */
};

/* Where to write the answers, NULL if not queried. Tables have a row per sample and node. */
struct results {
    real **upward, **downward, **marginals; /* (level): (rows, symbols), normalized */
    int64_t **trees;                        /* (level): (rows) */
    real *root;                             /* (samples, n): the root's upward messages, */
    int64_t *exponents;                     /* (samples): powers of 2 by which to multiply `root` */
    const double *draws;                    /* (samples, 1 + nodes above the leaves), for trees */
    uint8_t *flags;                         /* (samples): a bit per kind of error; never NULL */
};
