/* Messages of belief propagation in vectors of LANES numbers: reading, scaling, Eq. 13 and 15,
   writing. A message is an array of vectors, one per symbol; each lane is a different node. */

#include <string.h>

#include "interface.h"

#ifdef DOUBLE
typedef int64_t bits;
enum { MANTISSA = 52, BIAS = 1022 };
static const real TINY = 0x1p-1022, ROUNDING = 0x1p-52;
#else
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
typedef real unaligned_lanes __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

/* Inlined always, so that a constant number of children unrolls the loops over them. */
#define INLINE static inline __attribute__((always_inline))

INLINE int64_t symbols_at(const struct grammar *g, int64_t level) {
    return level < g->L ? g->v : g->n;
}

/* The rules that rewrite the symbols of a level. */
INLINE const int32_t *rules_at(const struct grammar *g, int64_t level) {
    return g->rules + (level - 1) * g->v * g->m * g->s;
}

INLINE lanes blend(lane_bits mask, lanes a, lanes b) {
    return (lanes)(((lane_bits)a & mask) | ((lane_bits)b & ~mask));
}

/* a > b ? a : b and a < b ? a : b, which are b if either is NaN. */
#if !defined(INSTRUCTION)
INLINE lanes maximum(lanes a, lanes b) { return blend(a > b, a, b); }
INLINE lanes minimum(lanes a, lanes b) { return blend(a < b, a, b); }
#elif defined(DOUBLE)
INLINE lanes maximum(lanes a, lanes b) { return INSTRUCTION(max_pd)(a, b); }
INLINE lanes minimum(lanes a, lanes b) { return INSTRUCTION(min_pd)(a, b); }
#else
INLINE lanes maximum(lanes a, lanes b) { return INSTRUCTION(max_ps)(a, b); }
INLINE lanes minimum(lanes a, lanes b) { return INSTRUCTION(min_ps)(a, b); }
#endif

/* The largest entry and the smallest positive one. */
struct range {
    lanes max, min;
};

INLINE struct range empty_range(void) {
    return (struct range){(lanes){0}, (lanes){0} + (real)__builtin_inf()};
}

INLINE void extend_range(struct range *range, lanes x) {
    range->max = maximum(x, range->max);
    range->min = minimum((lanes)((lane_bits)x | (x == 0)), range->min); /* a zero becomes NaN */
}

/* Divide by the power of two that brings the maximum into [1/2, 1); return its exponent. */
INLINE lane_bits rescale(lanes *x, int64_t n, struct range *range) {
    const lane_bits exponent = ((lane_bits)range->max >> MANTISSA) - BIAS;
    const lanes factor = (lanes)((BIAS + 1 - exponent) << MANTISSA);
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
    range->min *= factor;
    return exponent;
}

/* Sum products of messages in order: `count` terms, each of one row of the first message and s - 1
   rows of the others. */
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
    struct range range = empty_range();
    for (int64_t y = 0; y < symbols_at(g, level); y++, rule += g->m * s) {
        up[y] = sum_products(rule, g->m, s, child, child);
        extend_range(&range, up[y]);
    }
    return range;
}

/* Eq. 15: down(x_j) = sum over rules y -> x_1 ... x_s of down(y) prod_{i != j} up(x_i). */
INLINE struct range send_down(const struct grammar *g, int64_t level, int64_t s, int64_t position,
                              const lanes *parent, const lanes *child, lanes *down) {
    const int64_t rules = symbols_at(g, level) * g->m;
    const int32_t *target = g->targets + ((level - 1) * s + position) * g->v * 2;
    const int32_t *term = g->terms + ((level - 1) * g->v * g->m * s + position * rules) * s;
    struct range range = empty_range();
    for (int64_t x = 0; x < g->v; x++, term += target[1] * s, target += 2) {
        const lanes sum = sum_products(term, target[1], s, parent, child);
        extend_range(&range, sum);
        down[target[0]] = sum;
    }
    return range;
}

/* Interleave two vectors, from lane `first` on. */
INLINE lanes interleave(lanes a, lanes b, int first) {
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

/* Transpose LANES vectors: each round interleaves the first half of them with the second. */
INLINE void transpose(lanes *x) {
    for (int left = LANES; left > 1; left /= 2) {
        lanes y[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = interleave(x[i], x[i + LANES / 2], 0);
            y[2 * i + 1] = interleave(x[i], x[i + LANES / 2], LANES / 2);
        }
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

/* Read a row of v numbers into each lane. `valid` masks the lanes that hold neither NaN nor
   negative numbers. */
INLINE struct range read_rows(const real *table, const int64_t *row, int64_t node, int64_t v,
                              lanes *x, lane_bits *valid) {
    struct range range = empty_range();
    lanes y[LANES] = {{0}};
    *valid = ~(lane_bits){0};
    for (int64_t first = 0; first < v; first += LANES) {
        const int64_t count = v - first < LANES ? v - first : LANES;
        for (int t = 0; t < LANES; t++) {
            const real *source = table + (row[t] + node) * v + first;
            if (count == LANES)
                y[t] = *(const unaligned_lanes *)source;
            else
                memcpy(&y[t], source, count * sizeof(real));
        }
        transpose(y);
        for (int64_t i = 0; i < count; i++) {
            x[first + i] = y[i];
            *valid &= y[i] >= 0;
            extend_range(&range, y[i]);
        }
    }
    return range;
}

/* Write a vector: past the caches if `streaming` and if the vector is a whole, aligned line. */
INLINE void store(real *target, lanes x, int streaming) {
#if defined(__AVX512F__)
    if (streaming && !((uintptr_t)target % BYTES)) {
        _mm512_stream_si512((void *)target, (__m512i)x);
        return;
    }
#endif
    (void)streaming;
    *(unaligned_lanes *)target = x;
}

/* Make what was written past the caches visible to other threads. */
INLINE void fence_stores(void) {
#if defined(__AVX512F__)
    _mm_sfence();
#endif
}

/* Normalize by the pairwise sum (an entry that equals the sum becomes exactly 1) and write the
   first `used` lanes to rows of n numbers. */
static void write_rows(const lanes *x, int64_t n, lanes *scratch, real *table, const int64_t *row,
                       int64_t node, int64_t used, int streaming) {
    const lanes *sums = x;
    for (int64_t left = n; left > 1; left = left / 2 + left % 2) {
        for (int64_t i = 0; i < left / 2; i++) scratch[i] = sums[i] + sums[left / 2 + i];
        if (left % 2) scratch[left / 2] = sums[left - 1];
        sums = scratch;
    }
    const lanes one = (lanes){0} + 1, reciprocal = one / sums[0];
    for (int64_t first = 0; first < n; first += LANES) {
        const int64_t count = n - first < LANES ? n - first : LANES;
        lanes y[LANES] = {{0}};
        for (int64_t i = 0; i < count; i++) {
            const lanes entry = x[first + i];
            y[i] = blend(entry == sums[0], one, entry * reciprocal);
        }
        transpose(y);
        for (int64_t t = 0; t < used; t++) {
            real *target = table + (row[t] + node) * n + first;
            if (count == LANES)
                store(target, y[t], streaming);
            else
                memcpy(target, &y[t], count * sizeof(real));
        }
    }
}

/* Round a uniform number in [0, 1) down to the precision in use, so that it stays below 1. */
INLINE real truncate_uniform(double uniform) {
#ifdef DOUBLE
    return uniform;
#else
    return (real)(int32_t)(uniform * 0x1p24) * 0x1p-24f;
#endif
}

/* Draw one of `count` indices with probability proportional to its weight. The weights become
   their cumulative sums. */
INLINE lane_bits draw_index(lanes *weights, int64_t count, lanes uniform) {
    for (int64_t k = 1; k < count; k++) weights[k] += weights[k - 1];
    const lanes threshold = weights[count - 1] * uniform;
    lane_bits index = {0};
    for (int64_t k = 0; k < count - 1; k++) index -= weights[k] <= threshold;
    return index;
}

/* Gather from each lane's message the row that `rules` names at the lane's offset. */
INLINE lanes gather(const lanes *messages, const int32_t *rules, lane_bits offset) {
    lanes x = {0};
    for (int t = 0; t < LANES; t++) x[t] = messages[rules[offset[t]]][t];
    return x;
}
