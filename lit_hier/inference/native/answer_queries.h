/* Belief propagation on the tree of a Random Hierarchy Model, for a CPU.

   A tile is a few samples. Below some level each sample's tree splits into equal subtrees, and a
   lane is a (sample, subtree) pair; above it, subtrees merge level by level until a lane is a
   sample. Consecutive levels with the same lanes form a segment. A tile stays in the cache from
   its leaf messages to its answers; only the answers go to memory. Lanes never interact, so
   neither the batch nor the number of threads changes a bit.

   The arithmetic is that of passes.py and semirings.py, operation for operation: messages are
   scaled by powers of two, sums run in the order of the rules, totals are pairwise sums. Fused
   multiply-adds are off (-ffp-contract=off), so the bits are the same too, whatever the
   instruction set. */

#include <stdlib.h>

#include <sys/mman.h>

#include "passes.h"

enum { TILE_BYTES = 1 << 20, CACHE_BYTES = 1 << 21 };

/* Place a segment's arrays in memory; return how many vectors they take. With NULL, only count. */
static int64_t lay_out(struct segment *p, lanes *memory) {
    const int64_t v = p->g->v, n = p->g->n, m = p->g->m, s = p->g->s;
    const int64_t widest = v > n ? v : n;
    int64_t used = 0;
#define PLACE(array, count) (p->array = memory ? memory + used : NULL, used += (count))
    for (int64_t level = p->lowest; level <= p->highest; level++) {
        const int64_t nodes = power(s, p->highest - level);
        PLACE(up[level], nodes * widest);
        PLACE(up_loss[level], nodes);
        PLACE(up_min[level], nodes);
        PLACE(down[level], v);
    }
    PLACE(from_above, widest);
    PLACE(scratch, 2 * (widest > m ? widest : m));
#undef PLACE
    return used;
}

/* Assign samples to lanes; spare lanes repeat the first. */
static void assign_lanes(struct segment *p, int64_t first, int64_t samples) {
    const int64_t s = p->g->s, L = p->g->L, draws = (power(s, L) - 1) / (s - 1) + 1;
    p->used = samples * p->subtrees;
    p->exponents = p->invalid = (lane_bits){0};
    memset(p->loss, 0, sizeof p->loss);
    for (int64_t t = 0; t < LANES; t++) {
        const int64_t lane = t < p->used ? t : 0, sample = first + lane / p->subtrees;
        const int64_t subtree = lane % p->subtrees;
        int64_t width = 1, above = (p->subtrees - 1) / (s - 1); /* nodes of a subtree; above it */
        for (int64_t level = p->highest; level >= p->lowest; level--, width *= s) {
            p->row[level][t] = (sample * p->subtrees + subtree) * width;
            p->draw[level][t] = sample * draws + 1 + above + subtree * width;
            above += p->subtrees * width;
        }
    }
}

/* Copy the roots of the lower segment's subtrees to the lowest level of the upper segment. */
static void copy_roots(const struct segment *lower, struct segment *upper) {
    const int64_t level = upper->lowest, n = symbols_at(upper->g, level);
    const int64_t nodes = lower->subtrees / upper->subtrees;
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t t = 0; t < LANES; t++) {
            const int64_t lane = t < upper->used ? t * nodes + node : 0;
            for (int64_t x = 0; x < n; x++)
                upper->up[level][node * n + x][t] = lower->up[level][x][lane];
            upper->up_loss[level][node][t] = lower->up_loss[level][0][lane];
            upper->up_min[level][node][t] = lower->up_min[level][0][lane];
        }
}

/* Answer the queries about one tile; return the union of its samples' flags. */
static int answer_tile(struct segment *lowest, struct segment *top, int64_t first,
                       int64_t samples) {
    const struct grammar *g = top->g;
    const struct results *results = top->results;
    for (struct segment *p = lowest; p <= top; p++) {
        assign_lanes(p, first, samples);
        if (p->below) copy_roots(p->below, p);
        pass_up(p, p->highest, 0);
    }
    const lanes *up = top->up[g->L];
    lanes *root = top->scratch;
    struct range range = empty_range(), prior = empty_range();
    for (int64_t y = 0; y < g->n; y++) {
        for (int64_t t = 0; t < LANES; t++)
            top->from_above[y][t] =
                (real)g->prior[(first + (t < samples ? t : 0)) * g->prior_stride + y];
        root[y] = up[y] * top->from_above[y];
        extend_range(&prior, top->from_above[y]);
        extend_range(&range, root[y]);
    }
    top->from_above_loss = (lanes){0}, top->from_above_min = prior.min;
    const lanes min = top->up_min[g->L][0] * prior.min, loss = top->up_loss[g->L][0];
    record_loss(top, UPWARD, add_underflow(min, loss) / range.max);
    for (int64_t t = 0; results->root && t < samples; t++)
        for (int64_t y = 0; y < g->n; y++) results->root[(first + t) * g->n + y] = up[y][t];
    if (results->trees) {
        const lane_bits class = draw_index(root, g->n, uniform_numbers(top, g->L, -1));
        for (int64_t t = 0; t < samples; t++) results->trees[g->L][first + t] = class[t];
    }
    for (struct segment *p = top; p >= lowest; p--) {
        if (results->trees) draw_trees(p);
        if (results->downward || results->marginals)
            pass_down(p, p->highest, 0, p->from_above, p->from_above_loss, p->from_above_min);
    }
    int all = 0;
    for (int64_t t = 0; t < samples; t++) {
        int64_t exponent = 0;
        int flags = 0;
        for (const struct segment *p = lowest; p <= top; p++)
            for (int64_t lane = t * p->subtrees; lane < (t + 1) * p->subtrees; lane++) {
                exponent += p->exponents[lane];
                flags |= (p->invalid[lane] != 0) << INVALID;
                for (int kind = 0; kind < KINDS; kind++)
                    flags |= !(p->loss[kind][lane] <= ROUNDING) << kind;
            }
        if (results->exponents) results->exponents[first + t] = exponent;
        results->flags[first + t] = flags;
        all |= flags;
    }
    return all;
}

/* The data that threads share. */
struct job {
    const struct grammar *g;
    const struct results *results;
    const real *leaves;
    int64_t batch, cut, samples; /* `cut`: levels above the subtrees; `samples`: per tile */
    int streaming;               /* see `struct segment` */
    int64_t next;                /* first sample that no thread has begun */
    int flags;                   /* union of all samples' flags */
};

/* Answer tiles until none is left. A thread that cannot allocate memory answers none. */
static void answer_tiles(void *argument) {
    struct job *job = argument;
    const int64_t cut = job->cut, step = job->samples;
    struct segment *segments = aligned_alloc(BYTES, (cut + 1) * sizeof *segments);
    if (!segments) return;
    int64_t size = 0;
    for (int64_t k = 0; k <= cut; k++) {
        struct segment *p = segments + k;
        p->g = job->g, p->results = job->results, p->leaves = job->leaves;
        p->streaming = job->streaming;
        p->below = k ? p - 1 : NULL;
        p->highest = job->g->L - cut + k, p->lowest = k ? p->highest - 1 : 0;
        p->subtrees = power(job->g->s, cut - k);
        size += lay_out(p, NULL);
    }
    lanes *memory = aligned_alloc(BYTES, size * sizeof(lanes));
    if (memory) {
        for (int64_t k = 0, start = 0; k <= cut; k++)
            start += lay_out(segments + k, memory + start);
        for (;;) {
            const int64_t first = __atomic_fetch_add(&job->next, step, __ATOMIC_RELAXED);
            const int64_t left = job->batch - first;
            if (left <= 0) break;
            const int flags =
                answer_tile(segments, segments + cut, first, left < step ? left : step);
            __atomic_fetch_or(&job->flags, flags, __ATOMIC_RELAXED);
        }
    }
    fence_stores();
    free(memory);
    free(segments);
}

/* Request huge pages: a large table is new memory, which then takes fewer page faults. */
static void request_huge_pages(void *table, int64_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, start = ((uintptr_t)table + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)table + size) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)table, (void)size;
#endif
}

/* Answer queries about `batch` samples. Returns -1 if memory ran out, else the union of all
   samples' flags. `parallel` is GOMP_parallel of the OpenMP library that torch has loaded: its
   threads still spin after torch's operations, and would compete with any others. Without it there
   is one thread. */
int ANSWER_QUERIES(const struct grammar *g, const real *leaves, int64_t batch,
                   const struct results *results, int64_t threads,
                   void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    struct job job = {
        .g = g, .results = results, .leaves = leaves, .batch = batch, .samples = LANES};
    const int64_t tree = power(g->s, g->L) * g->v; /* numbers in a sample's leaf messages */
    real **const tables[] = {results->upward, results->downward, results->marginals};
    int64_t answers = 0;
    for (int i = 0; i < 3; i++)
        for (int64_t level = 0; tables[i] && level <= g->L; level++) {
            const int64_t rows = batch * power(g->s, g->L - level);
            const int64_t size = rows * symbols_at(g, level) * sizeof(real);
            request_huge_pages(tables[i][level], size);
            answers += size;
        }
    job.streaming = answers > CACHE_BYTES;
    /* Cut trees until a tile fits the cache and every thread has several tiles. */
    for (; job.cut < g->L && job.samples >= g->s; job.cut++) {
        const int64_t size = job.samples * 2 * tree * sizeof(real);
        if (size <= TILE_BYTES && job.samples * 2 * threads <= batch) break;
        job.samples /= g->s;
    }
    /* Waking a thread takes about as long as this many multiplications. */
    const int64_t useful = 1 + batch * tree * g->m / 50000;
    const int64_t tiles = (batch + job.samples - 1) / job.samples;
    if (threads > tiles) threads = tiles;
    if (threads > useful) threads = useful;
    if (threads > 1 && parallel)
        parallel(answer_tiles, &job, threads, 0);
    else
        answer_tiles(&job);
    return job.next < batch ? -1 : job.flags;
}
