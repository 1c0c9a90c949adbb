/* The passes over a tile's trees: upward, downward, and drawing trees from the root down.

   Of every message its smallest entry above zero is known, `low`, which says whether products can
   underflow; and `lost`, a bound on what underflow has taken, as a share of the largest entry. */

#include "messages.h"

enum { MOST_LEVELS = 64 };

/* Where underflow may take something; and the bit after, of leaf messages that are none. */
enum { UPWARD, DOWNWARD, PRODUCTS, DRAWN, KINDS, NO_MESSAGE = KINDS };

/* What is asked for, NULL where it is not. Tables have a row per sample and node. */
struct answers {
    real **upward, **downward, **marginals; /* (level): (rows, symbols), normalised */
    int64_t **trees;                        /* (level): (rows) */
    real *root;                             /* (samples, n): the root's upward messages, */
    int64_t *exponents;                     /* (samples): times two to this */
    const double *draws;                    /* (samples, 1 + nodes above the leaves), for trees */
    uint8_t *verdict;                       /* (samples): a bit for each kind of loss; always */
};

/* The levels lowest to highest of a tile's trees. */
struct part {
    const struct grammar *g;
    const struct answers *a;
    const real *leaves;
    struct part *below; /* the part that ends where this one begins */
    int64_t lowest, highest, subtrees, used;
    int around; /* the caches, which are too small for the answers */
    int64_t row[MOST_LEVELS][LANES];  /* of the lane's first node in a table */
    int64_t draw[MOST_LEVELS][LANES]; /* of the lane's first node */
    lanes *up[MOST_LEVELS], *up_lost[MOST_LEVELS], *up_low[MOST_LEVELS], *down[MOST_LEVELS];
    lanes *room, *from, from_lost, from_low; /* a downward message to the highest level */
    lanes lost[KINDS];                       /* the worst bounds */
    lane_bits exponents, unsound;
};

static int64_t power(int64_t s, int64_t exponent) {
    int64_t product = 1;
    while (exponent-- > 0) product *= s;
    return product;
}

/* Most rules that have one symbol at one place: those of a place's first target. */
INLINE int32_t busiest(const struct grammar *g, int64_t level) {
    int32_t most = 0;
    for (int64_t place = 0; place < g->s; place++) {
        const int32_t rules = g->targets[((level - 1) * g->s + place) * g->v * 2 + 1];
        if (rules > most) most = rules;
    }
    return most;
}

/* Add what may be lost where numbers as small as these are made. */
INLINE lanes underflow(lanes low, lanes lost) { return choose(low < TINY, lost + TINY, lost); }

INLINE void note(struct part *p, int kind, lanes lost) {
    p->lost[kind] = choose(lost <= p->lost[kind], p->lost[kind], lost);
}

/* Of the messages of a node's children: all that they have lost, the product of what is lowest. */
struct bounds {
    lanes lost, low;
};

INLINE struct bounds children_bounds(const struct part *p, int64_t level, int64_t node) {
    const lanes *lost = p->up_lost[level - 1] + node * p->g->s;
    const lanes *low = p->up_low[level - 1] + node * p->g->s;
    struct bounds both = {lost[0], low[0]};
    for (int64_t i = 1; i < p->g->s; i++) both.lost += lost[i], both.low *= low[i];
    return both;
}

/* The uniform numbers that choose a node's rule; before the root's is the class's. */
INLINE lanes uniform_numbers(const struct part *p, int64_t level, int64_t node) {
    lanes uniform = {0};
    for (int t = 0; t < LANES; t++)
        uniform[t] = first_bits(p->a->draws[p->draw[level][t] + node]);
    return uniform;
}

static void write_level(const struct part *p, int64_t level, int64_t node, const lanes *x,
                        real **tables) {
    write_rows(x, symbols_at(p->g, level), p->room, tables[level], p->row[level], node, p->used,
               p->around);
}

static void ascend(struct part *p, int64_t level, int64_t node) {
    const struct grammar *g = p->g;
    const int64_t n = symbols_at(g, level);
    lanes *up = p->up[level] + node * n, lost = {0};
    struct range range;
    if (level == p->lowest && p->below) return; /* the part below has done this */
    if (level == p->lowest) {
        const lanes none = {0};
        lane_bits sound;
        range = read_rows(p->leaves, p->row[0], node, n, up, &sound);
        p->unsound |= ~(sound & (range.top < __builtin_inf()));
        /* What a power of two may not scale exactly is left to a larger range. */
        const lane_bits exact = (range.top >= TINY) & (range.top < 1 / (4 * TINY));
        note(p, UPWARD, choose(exact, none, none + 2));
    } else {
        const lanes *child = p->up[level - 1] + node * g->s * g->v;
        for (int64_t i = node * g->s; i < (node + 1) * g->s; i++) ascend(p, level - 1, i);
        const struct bounds below = children_bounds(p, level, node);
        range = g->s == 2 ? send_up(g, level, 2, child, up) : send_up(g, level, g->s, child, up);
        lost = underflow(below.low, (real)g->m * below.lost) / range.top;
    }
    p->exponents += scale(up, n, &range);
    p->up_low[level][node] = range.low;
    p->up_lost[level][node] = lost = underflow(range.low, lost);
    note(p, UPWARD, lost);
    if (p->a->upward) write_level(p, level, node, up, p->a->upward);
}

/* Go on with a downward message. */
static void descend(struct part *p, int64_t level, int64_t node, const lanes *from,
                    lanes from_lost, lanes from_low) {
    const struct grammar *g = p->g;
    const int64_t n = symbols_at(g, level);
    if (level == p->lowest && p->below) {
        const int64_t nodes = p->below->subtrees / p->subtrees;
        for (int64_t t = 0; t < p->used; t++) {
            const int64_t lane = t * nodes + node;
            for (int64_t x = 0; x < n; x++) p->below->from[x][lane] = from[x][t];
            p->below->from_lost[lane] = from_lost[t];
            p->below->from_low[lane] = from_low[t];
        }
        return;
    }
    if (p->a->downward) write_level(p, level, node, from, p->a->downward);
    if (p->a->marginals) {
        const lanes *up = p->up[level] + node * n;
        lanes *product = p->room + n, lost = p->up_lost[level][node] + from_lost;
        struct range range = no_range();
        for (int64_t x = 0; x < n; x++) {
            product[x] = up[x] * from[x];
            widen(&range, product[x]);
        }
        note(p, PRODUCTS, underflow(p->up_low[level][node] * from_low, lost) / range.top);
        write_level(p, level, node, product, p->a->marginals);
    }
    if (level == p->lowest) return;
    const lanes *child = p->up[level - 1] + node * g->s * g->v;
    const lanes *child_lost = p->up_lost[level - 1] + node * g->s;
    const lanes *child_low = p->up_low[level - 1] + node * g->s;
    lanes *down = p->down[level - 1], sum_lost = {0};
    for (int64_t j = 0; j < g->s; j++) sum_lost += child_lost[j];
    for (int64_t j = 0; j < g->s; j++) {
        lanes low = from_low, lost = sum_lost - child_lost[j] + from_lost;
        for (int64_t i = 0; i < g->s; i++)
            if (i != j) low *= child_low[i];
        struct range range = g->s == 2 ? send_down(g, level, 2, j, from, child, down)
                                       : send_down(g, level, g->s, j, from, child, down);
        lost = underflow(low, (real)busiest(g, level) * lost) / range.top;
        scale(down, g->v, &range);
        lost = underflow(range.low, lost);
        note(p, DOWNWARD, lost);
        descend(p, level - 1, node * g->s + j, down, lost, range.low);
    }
}

/* Draw the symbols below a node of which the symbols are drawn. */
static void draw_children(struct part *p, int64_t level, int64_t node) {
    const struct grammar *g = p->g;
    const int64_t s = g->s;
    const int32_t *rules = rules_at(g, level);
    const lanes *child = p->up[level - 1] + node * s * g->v;
    const struct bounds below = children_bounds(p, level, node);
    lanes *weights = p->room, top = {0};
    lane_bits place = {0};
    for (int t = 0; t < LANES; t++)
        place[t] = p->a->trees[level][p->row[level][t] + node] * g->m * s;
    for (int64_t k = 0; k < g->m; k++) {
        weights[k] = gather(child, rules + k * s, place);
        for (int64_t i = 1; i < s; i++) weights[k] *= gather(child, rules + k * s + i, place);
        top = larger(weights[k], top);
    }
    place += draw(weights, g->m, uniform_numbers(p, level, node)) * (bits)s;
    for (int64_t t = 0; t < p->used; t++)
        for (int64_t i = 0; i < s; i++)
            p->a->trees[level - 1][(p->row[level][t] + node) * s + i] =
                rules[place[t] + i] - i * g->v;
    note(p, DRAWN, underflow(below.low, below.lost) / top);
}

/* Given the symbols of a part's highest level, draw those below. */
static void draw_trees(struct part *p) {
    for (int64_t level = p->highest; level > p->lowest; level--)
        for (int64_t node = 0; node < power(p->g->s, p->highest - level); node++)
            draw_children(p, level, node);
}
