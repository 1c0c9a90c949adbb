/* Messages of belief propagation in vectors of LANES numbers: reading, scaling, Eq. 13 and 15,
   writing. A message is an array of vectors, one per symbol; each lane is a node of its own. */

#include <stdint.h>
#include <string.h>

#ifdef DOUBLE
typedef double real;
typedef int64_t bits;
enum { MANTISSA = 52, BIAS = 1022 };
static const real TINY = 0x1p-1022, ROUNDING = 0x1p-52;
#else
typedef float real;
typedef int32_t bits;
enum { MANTISSA = 23, BIAS = 126 };
static const real TINY = 0x1p-126f, ROUNDING = 0x1p-23f;
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define INSTRUCTION(name) _mm512_##name
enum { BYTES = 64 };
#elif defined(__AVX__)
#include <immintrin.h>
#define INSTRUCTION(name) _mm256_##name
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
enum { LANES = BYTES / sizeof(real) };
typedef real lanes __attribute__((vector_size(BYTES)));
typedef bits lane_bits __attribute__((vector_size(BYTES)));
typedef real loose_lanes __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

/* So that the number of children, where it is told as a constant, unrolls loops. */
#define INLINE static inline __attribute__((always_inline))

struct grammar {
    int64_t v, n, m, s, L;
    const int32_t *rules;   /* (level, parent, m, s): i v + the symbol of the i-th child */
    const int32_t *targets; /* (level, place, v, 2): a symbol and its rules there, most first */
    const int32_t *terms;   /* (level, place, parent m, s): these rules, in the targets' order: the
                               parent, and of every other child what stands in `rules` */
    const double *prior;    /* (n) */
};

INLINE int64_t symbols_at(const struct grammar *g, int64_t level) {
    return level < g->L ? g->v : g->n;
}

/* The rules by which symbols of a level make symbols of the level below. */
INLINE const int32_t *rules_at(const struct grammar *g, int64_t level) {
    return g->rules + (level - 1) * g->v * g->m * g->s;
}

INLINE lanes choose(lane_bits which, lanes a, lanes b) {
    return (lanes)(((lane_bits)a & which) | ((lane_bits)b & ~which));
}

/* a > b ? a : b and a < b ? a : b, which give b where one of them is NaN. */
#if !defined(INSTRUCTION)
INLINE lanes larger(lanes a, lanes b) { return choose(a > b, a, b); }
INLINE lanes smaller(lanes a, lanes b) { return choose(a < b, a, b); }
#elif defined(DOUBLE)
INLINE lanes larger(lanes a, lanes b) { return INSTRUCTION(max_pd)(a, b); }
INLINE lanes smaller(lanes a, lanes b) { return INSTRUCTION(min_pd)(a, b); }
#else
INLINE lanes larger(lanes a, lanes b) { return INSTRUCTION(max_ps)(a, b); }
INLINE lanes smaller(lanes a, lanes b) { return INSTRUCTION(min_ps)(a, b); }
#endif

/* The largest entry and the smallest above zero. */
struct range {
    lanes top, low;
};

INLINE struct range no_range(void) {
    return (struct range){(lanes){0}, (lanes){0} + (real)__builtin_inf()};
}

INLINE void widen(struct range *range, lanes x) {
    range->top = larger(x, range->top);
    range->low = smaller((lanes)((lane_bits)x | (x == 0)), range->low); /* NaN for a zero */
}

/* Divide by the power of two that brings the largest into [1/2, 1); give its exponent. */
INLINE lane_bits scale(lanes *x, int64_t n, struct range *range) {
    const lane_bits exponent = ((lane_bits)range->top >> MANTISSA) - BIAS;
    const lanes factor = (lanes)((BIAS + 1 - exponent) << MANTISSA);
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
    range->low *= factor;
    return exponent;
}

/* Add products of messages, one after the other: `count` terms, each of a row of the first message
   and s - 1 rows of the second. */
INLINE lanes sum_products(const int32_t *term, int64_t count, int64_t s, const lanes *first,
                          const lanes *others) {
    lanes sum = {0};
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; k++, term += s) {
        lanes product = first[term[0]];
        for (int64_t i = 1; i < s; i++) product *= others[term[i]];
        sum += product;
    }
    return sum;
}

/* Eq. 13: up(y) = sum over rules y -> x_1 ... x_s of prod_i up(x_i). */
INLINE struct range send_up(const struct grammar *g, int64_t level, int64_t s, const lanes *child,
                            lanes *up) {
    const int32_t *rule = rules_at(g, level);
    struct range range = no_range();
    for (int64_t y = 0; y < symbols_at(g, level); y++, rule += g->m * s) {
        up[y] = sum_products(rule, g->m, s, child, child);
        widen(&range, up[y]);
    }
    return range;
}

/* Eq. 15: down(x_j) = sum over rules y -> x_1 ... x_s of down(y) prod_{i != j} up(x_i). */
INLINE struct range send_down(const struct grammar *g, int64_t level, int64_t s, int64_t place,
                              const lanes *from, const lanes *child, lanes *down) {
    const int64_t rules = symbols_at(g, level) * g->m;
    const int32_t *target = g->targets + ((level - 1) * s + place) * g->v * 2;
    const int32_t *term = g->terms + ((level - 1) * g->v * g->m * s + place * rules) * s;
    struct range range = no_range();
    for (int64_t x = 0; x < g->v; x++, term += target[1] * s, target += 2) {
        const lanes sum = sum_products(term, target[1], s, from, child);
        widen(&range, sum);
        down[target[0]] = sum;
    }
    return range;
}

/* Take from two vectors in turn, from an entry on. */
INLINE lanes riffle(lanes a, lanes b, int first) {
#ifdef __clang__
    lanes out;
    for (int i = 0; i < LANES / 2; i++) {
        out[2 * i] = a[first + i];
        out[2 * i + 1] = b[first + i];
    }
    return out;
#else
    lane_bits order;
    for (int i = 0; i < LANES / 2; i++) {
        order[2 * i] = first + i;
        order[2 * i + 1] = LANES + first + i;
    }
    return __builtin_shuffle(a, b, order);
#endif
}

/* Turn rows into columns: each round riffles the first half of the rows with the second. */
INLINE void transpose(lanes *x) {
    for (int left = LANES; left > 1; left /= 2) {
        lanes y[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = riffle(x[i], x[i + LANES / 2], 0);
            y[2 * i + 1] = riffle(x[i], x[i + LANES / 2], LANES / 2);
        }
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

/* Read a row of v numbers into each lane; in `sound`, which lanes have neither NaN nor a negative
   number. */
INLINE struct range read_rows(const real *table, const int64_t *row, int64_t skip, int64_t v,
                              lanes *x, lane_bits *sound) {
    struct range range = no_range();
    lanes y[LANES] = {{0}};
    *sound = ~(lane_bits){0};
    for (int64_t first = 0; first < v; first += LANES) {
        const int64_t some = v - first < LANES ? v - first : LANES;
        for (int t = 0; t < LANES; t++) {
            const real *from = table + (row[t] + skip) * v + first;
            if (some == LANES)
                y[t] = *(const loose_lanes *)from;
            else
                memcpy(&y[t], from, some * sizeof(real));
        }
        transpose(y);
        for (int64_t i = 0; i < some; i++) {
            x[first + i] = y[i];
            *sound &= y[i] >= 0;
            widen(&range, y[i]);
        }
    }
    return range;
}

/* Write a part of a row; around the caches if wished and if that is a whole line of them. */
INLINE void put(real *to, lanes x, int around) {
#if defined(__AVX512F__)
    if (around && !((uintptr_t)to % BYTES)) {
        _mm512_stream_si512((void *)to, (__m512i)x);
        return;
    }
#endif
    (void)around;
    *(loose_lanes *)to = x;
}

/* Wait until others see what went around the caches. */
INLINE void settle(void) {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

/* Normalise by the sum, taken pairwise (what is all of it gets 1 exactly), and write the first
   `used` lanes to rows of n numbers. */
static void write_rows(const lanes *x, int64_t n, lanes *room, real *table, const int64_t *row,
                       int64_t skip, int64_t used, int around) {
    const lanes *sums = x;
    for (int64_t left = n; left > 1; left = left / 2 + left % 2) {
        for (int64_t i = 0; i < left / 2; i++) room[i] = sums[i] + sums[left / 2 + i];
        if (left % 2) room[left / 2] = sums[left - 1];
        sums = room;
    }
    const lanes one = (lanes){0} + 1, share = one / sums[0];
    for (int64_t first = 0; first < n; first += LANES) {
        const int64_t some = n - first < LANES ? n - first : LANES;
        lanes y[LANES] = {{0}};
        for (int64_t i = 0; i < some; i++) {
            const lanes part = x[first + i];
            y[i] = choose(part == sums[0], one, part * share);
        }
        transpose(y);
        for (int64_t t = 0; t < used; t++) {
            real *to = table + (row[t] + skip) * n + first;
            if (some == LANES)
                put(to, y[t], around);
            else
                memcpy(to, &y[t], some * sizeof(real));
        }
    }
}

/* A uniform number in [0, 1), as the first bits of it: so it stays below 1. */
INLINE real first_bits(double uniform) {
#ifdef DOUBLE
    return uniform;
#else
    return (real)(int32_t)(uniform * 0x1p24) * 0x1p-24f;
#endif
}

/* Draw one of `count` with probability proportional to its weight; weights become their sums. */
INLINE lane_bits draw(lanes *weights, int64_t count, lanes uniform) {
    for (int64_t k = 1; k < count; k++) weights[k] += weights[k - 1];
    const lanes threshold = weights[count - 1] * uniform;
    lane_bits chosen = {0};
    for (int64_t k = 0; k < count - 1; k++) chosen -= weights[k] <= threshold;
    return chosen;
}

/* Take of each lane's message what stands in `rules`, from the lane's place there on. */
INLINE lanes gather(const lanes *messages, const int32_t *rules, lane_bits place) {
    lanes x = {0};
    for (int t = 0; t < LANES; t++) x[t] = messages[rules[place[t]]][t];
    return x;
}
