/* The passes over the trees of a tile: upward, downward, and drawing trees from the root down.

   Two numbers per message bound the error due to underflow: products can underflow only if the
   product of the smallest positive entries, `min`, does; `loss` is an upper bound on the error so
   far, relative to the maximum. */

#include "messages.h"

enum { MAX_LEVELS = 64 };

/* Results that underflow may affect; then the bit of invalid leaf messages. */
enum { UPWARD, DOWNWARD, PRODUCTS, DRAWN, KINDS, INVALID = KINDS };

/* Consecutive levels of a tile's trees, in which every lane is a different subtree. */
struct segment {
    const struct grammar *g;
    const struct results *results;
    const real *leaves;
    struct segment *below; /* the segment that ends where this one begins */
    int64_t lowest, highest, subtrees, used;
    int streaming; /* whether answers exceed the caches and are written past them */
    int64_t row[MAX_LEVELS][LANES];  /* of the lane's first node in a table */
    int64_t draw[MAX_LEVELS][LANES]; /* of the lane's first node in a sample's draws */
    lanes *up[MAX_LEVELS], *up_loss[MAX_LEVELS], *up_min[MAX_LEVELS], *down[MAX_LEVELS];
    lanes *scratch;
    lanes *from_above, from_above_loss, from_above_min; /* downward message to the highest level */
    lanes loss[KINDS];                                  /* the largest bounds */
    lane_bits exponents, invalid;
};

static int64_t power(int64_t base, int64_t exponent) {
    int64_t product = 1;
    while (exponent-- > 0) product *= base;
    return product;
}

/* The largest number of rules that share a symbol at one position: that of a first target. */
INLINE int32_t most_rules(const struct grammar *g, int64_t level) {
    int32_t most = 0;
    for (int64_t position = 0; position < g->s; position++) {
        const int32_t rules = g->targets[((level - 1) * g->s + position) * g->v * 2 + 1];
        if (rules > most) most = rules;
    }
    return most;
}

/* Add the underflow error if `min` is below the smallest normal number. */
INLINE lanes add_underflow(lanes min, lanes loss) { return blend(min < TINY, loss + TINY, loss); }

INLINE void record_loss(struct segment *p, int kind, lanes loss) {
    p->loss[kind] = blend(loss <= p->loss[kind], p->loss[kind], loss);
}

/* Sum of the error bounds of a node's children, and product of their minima. */
struct bounds {
    lanes loss, min;
};

INLINE struct bounds children_bounds(const struct segment *p, int64_t level, int64_t node) {
    const lanes *loss = p->up_loss[level - 1] + node * p->g->s;
    const lanes *min = p->up_min[level - 1] + node * p->g->s;
    struct bounds bounds = {loss[0], min[0]};
    for (int64_t i = 1; i < p->g->s; i++) bounds.loss += loss[i], bounds.min *= min[i];
    return bounds;
}

/* The uniform numbers that choose a node's rule; node -1 of the root chooses the class. */
INLINE lanes uniform_numbers(const struct segment *p, int64_t level, int64_t node) {
    lanes uniform = {0};
    for (int t = 0; t < LANES; t++)
        uniform[t] = truncate_uniform(p->results->draws[p->draw[level][t] + node]);
    return uniform;
}

static void write_level(const struct segment *p, int64_t level, int64_t node, const lanes *x,
                        real **tables) {
    write_rows(x, symbols_at(p->g, level), p->scratch, tables[level], p->row[level], node, p->used,
               p->streaming);
}

/* Compute the upward messages of a node's subtree. */
static void pass_up(struct segment *p, int64_t level, int64_t node) {
    const struct grammar *g = p->g;
    const int64_t n = symbols_at(g, level);
    lanes *up = p->up[level] + node * n, loss = {0};
    struct range range;
    if (level == p->lowest && p->below) return; /* copied from the segment below */
    if (level == p->lowest) {
        const lanes zero = {0};
        lane_bits valid;
        range = read_rows(p->leaves, p->row[0], node, n, up, &valid);
        p->invalid |= ~(valid & (range.max < __builtin_inf()));
        /* Maxima that a power of two may not scale exactly need a larger range. */
        const lane_bits exact = (range.max >= TINY) & (range.max < 1 / (4 * TINY));
        record_loss(p, UPWARD, blend(exact, zero, zero + 2));
    } else {
        const lanes *child = p->up[level - 1] + node * g->s * g->v;
        for (int64_t i = node * g->s; i < (node + 1) * g->s; i++) pass_up(p, level - 1, i);
        const struct bounds below = children_bounds(p, level, node);
        range = g->s == 2 ? send_up(g, level, 2, child, up) : send_up(g, level, g->s, child, up);
        loss = add_underflow(below.min, (real)g->m * below.loss) / range.max;
    }
    p->exponents += rescale(up, n, &range);
    p->up_min[level][node] = range.min;
    p->up_loss[level][node] = loss = add_underflow(range.min, loss);
    record_loss(p, UPWARD, loss);
    if (p->results->upward) write_level(p, level, node, up, p->results->upward);
}

/* Answer queries about a node from the downward message to it, then pass messages to its
   children. */
static void pass_down(struct segment *p, int64_t level, int64_t node, const lanes *from_above,
                      lanes from_above_loss, lanes from_above_min) {
    const struct grammar *g = p->g;
    const int64_t n = symbols_at(g, level);
    if (level == p->lowest && p->below) {
        const int64_t nodes = p->below->subtrees / p->subtrees;
        for (int64_t t = 0; t < p->used; t++) {
            const int64_t lane = t * nodes + node;
            for (int64_t x = 0; x < n; x++) p->below->from_above[x][lane] = from_above[x][t];
            p->below->from_above_loss[lane] = from_above_loss[t];
            p->below->from_above_min[lane] = from_above_min[t];
        }
        return;
    }
    if (p->results->downward) write_level(p, level, node, from_above, p->results->downward);
    if (p->results->marginals) {
        const lanes *up = p->up[level] + node * n;
        lanes *product = p->scratch + n, loss = p->up_loss[level][node] + from_above_loss;
        struct range range = empty_range();
        for (int64_t x = 0; x < n; x++) {
            product[x] = up[x] * from_above[x];
            extend_range(&range, product[x]);
        }
        const lanes min = p->up_min[level][node] * from_above_min;
        record_loss(p, PRODUCTS, add_underflow(min, loss) / range.max);
        write_level(p, level, node, product, p->results->marginals);
    }
    if (level == p->lowest) return;
    const lanes *child = p->up[level - 1] + node * g->s * g->v;
    const lanes *child_loss = p->up_loss[level - 1] + node * g->s;
    const lanes *child_min = p->up_min[level - 1] + node * g->s;
    lanes *down = p->down[level - 1], total_loss = {0};
    for (int64_t j = 0; j < g->s; j++) total_loss += child_loss[j];
    for (int64_t j = 0; j < g->s; j++) {
        lanes min = from_above_min, loss = total_loss - child_loss[j] + from_above_loss;
        for (int64_t i = 0; i < g->s; i++)
            if (i != j) min *= child_min[i];
        struct range range = g->s == 2 ? send_down(g, level, 2, j, from_above, child, down)
                                       : send_down(g, level, g->s, j, from_above, child, down);
        loss = add_underflow(min, (real)most_rules(g, level) * loss) / range.max;
        rescale(down, g->v, &range);
        loss = add_underflow(range.min, loss);
        record_loss(p, DOWNWARD, loss);
        pass_down(p, level - 1, node * g->s + j, down, loss, range.min);
    }
}

/* Draw the symbols of a node's children, given the node's symbol. */
static void draw_children(struct segment *p, int64_t level, int64_t node) {
    const struct grammar *g = p->g;
    const int64_t s = g->s;
    const int32_t *rules = rules_at(g, level);
    const lanes *child = p->up[level - 1] + node * s * g->v;
    const struct bounds below = children_bounds(p, level, node);
    int64_t **trees = p->results->trees;
    lanes *weights = p->scratch, max = {0};
    lane_bits offset = {0};
    for (int t = 0; t < LANES; t++) offset[t] = trees[level][p->row[level][t] + node] * g->m * s;
    for (int64_t k = 0; k < g->m; k++) {
        weights[k] = gather(child, rules + k * s, offset);
        for (int64_t i = 1; i < s; i++) weights[k] *= gather(child, rules + k * s + i, offset);
        max = maximum(weights[k], max);
    }
    offset += draw_index(weights, g->m, uniform_numbers(p, level, node)) * (bits)s;
    for (int64_t t = 0; t < p->used; t++)
        for (int64_t i = 0; i < s; i++)
            trees[level - 1][(p->row[level][t] + node) * s + i] = rules[offset[t] + i] - i * g->v;
    record_loss(p, DRAWN, add_underflow(below.min, below.loss) / max);
}

/* Draw the symbols below a segment's highest level, given those of that level. */
static void draw_trees(struct segment *p) {
    for (int64_t level = p->highest; level > p->lowest; level--)
        for (int64_t node = 0; node < power(p->g->s, p->highest - level); node++)
            draw_children(p, level, node);
}
