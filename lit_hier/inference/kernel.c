/* Belief propagation on the tree of a Random Hierarchy Model, for a CPU.

   A tile is a few samples. Below some level each sample's tree is a number of equal subtrees, and
   there a lane is a (sample, subtree); from level to level above it subtrees unite, until a lane is
   a sample. Levels of equal lanes are a part. A tile stays in the cache from its leaf messages to
   its answers, which are all that memory sees. Lanes never meet, so neither the batch nor the
   number of threads changes a bit.

   The arithmetic is that of passes.py and sum_product.py, operation for operation: messages are
   scaled by powers of two, sums run in the order of the rules, totals are taken pairwise. Without
   fused multiply-adds (-ffp-contract=off) the bits are theirs too. */

#include <stdlib.h>

#include <sys/mman.h>

#include "passes.h"

enum { TILE_BYTES = 1 << 20, CACHE_BYTES = 1 << 21 };

/* Lay a part out in memory or, with none given, count how many vectors it takes. */
static int64_t lay_out(struct part *p, lanes *memory) {
    const int64_t v = p->g->v, n = p->g->n, m = p->g->m, s = p->g->s;
    const int64_t wide = v > n ? v : n;
    int64_t taken = 0;
#define TAKE(place, count) (p->place = memory + taken, taken += (count))
    for (int64_t level = p->lowest; level <= p->highest; level++) {
        const int64_t nodes = power(s, p->highest - level);
        TAKE(up[level], nodes * wide);
        TAKE(up_lost[level], nodes);
        TAKE(up_low[level], nodes);
        TAKE(down[level], v);
    }
    TAKE(from, wide);
    TAKE(room, 2 * (wide > m ? wide : m));
#undef TAKE
    return taken;
}

/* Point lanes at samples; those that are left over repeat the first. */
static void begin(struct part *p, int64_t first, int64_t samples) {
    const int64_t s = p->g->s, L = p->g->L, draws = (power(s, L) - 1) / (s - 1) + 1;
    p->used = samples * p->subtrees;
    p->exponents = p->unsound = (lane_bits){0};
    memset(p->lost, 0, sizeof p->lost);
    for (int64_t t = 0; t < LANES; t++) {
        const int64_t lane = t < p->used ? t : 0, sample = first + lane / p->subtrees;
        const int64_t subtree = lane % p->subtrees;
        int64_t width = 1, above = (p->subtrees - 1) / (s - 1); /* nodes of a subtree; on top */
        for (int64_t level = p->highest; level >= p->lowest; level--, width *= s) {
            p->row[level][t] = (sample * p->subtrees + subtree) * width;
            p->draw[level][t] = sample * draws + 1 + above + subtree * width;
            above += p->subtrees * width;
        }
    }
}

/* Turn the roots of the lower part's subtrees into the lowest level of the upper part. */
static void join(const struct part *lower, struct part *upper) {
    const int64_t level = upper->lowest, n = symbols_at(upper->g, level);
    const int64_t nodes = lower->subtrees / upper->subtrees;
    for (int64_t node = 0; node < nodes; node++)
        for (int64_t t = 0; t < LANES; t++) {
            const int64_t lane = t < upper->used ? t * nodes + node : 0;
            for (int64_t x = 0; x < n; x++)
                upper->up[level][node * n + x][t] = lower->up[level][x][lane];
            upper->up_lost[level][node][t] = lower->up_lost[level][0][lane];
            upper->up_low[level][node][t] = lower->up_low[level][0][lane];
        }
}

/* Give what holds of any of its samples' verdicts. */
static int answer_tile(struct part *lowest, struct part *top, int64_t first, int64_t samples) {
    const struct grammar *g = top->g;
    const struct answers *a = top->a;
    for (struct part *p = lowest; p <= top; p++) {
        begin(p, first, samples);
        if (p->below) join(p->below, p);
        ascend(p, p->highest, 0);
    }
    const lanes *up = top->up[g->L];
    lanes *root = top->room;
    struct range range = no_range(), prior = no_range();
    for (int64_t y = 0; y < g->n; y++) {
        top->from[y] = (lanes){0} + (real)g->prior[y];
        root[y] = up[y] * top->from[y];
        widen(&prior, top->from[y]);
        widen(&range, root[y]);
    }
    top->from_lost = (lanes){0}, top->from_low = prior.low;
    const lanes low = top->up_low[g->L][0] * prior.low, lost = top->up_lost[g->L][0];
    note(top, UPWARD, underflow(low, lost) / range.top);
    for (int64_t t = 0; a->root && t < samples; t++)
        for (int64_t y = 0; y < g->n; y++) a->root[(first + t) * g->n + y] = up[y][t];
    if (a->trees) {
        const lane_bits class = draw(root, g->n, uniform_numbers(top, g->L, -1));
        for (int64_t t = 0; t < samples; t++) a->trees[g->L][first + t] = class[t];
    }
    for (struct part *p = top; p >= lowest; p--) {
        if (a->trees) draw_trees(p);
        if (a->downward || a->marginals)
            descend(p, p->highest, 0, p->from, p->from_lost, p->from_low);
    }
    int worst = 0;
    for (int64_t t = 0; t < samples; t++) {
        int64_t exponent = 0;
        int verdict = 0;
        for (const struct part *p = lowest; p <= top; p++)
            for (int64_t lane = t * p->subtrees; lane < (t + 1) * p->subtrees; lane++) {
                exponent += p->exponents[lane];
                verdict |= (p->unsound[lane] != 0) << NO_MESSAGE;
                for (int kind = 0; kind < KINDS; kind++)
                    verdict |= !(p->lost[kind][lane] <= ROUNDING) << kind;
            }
        if (a->exponents) a->exponents[first + t] = exponent;
        a->verdict[first + t] = verdict;
        worst |= verdict;
    }
    return worst;
}

/* What threads share. */
struct job {
    const struct grammar *g;
    const struct answers *a;
    const real *leaves;
    int64_t batch, cut, samples; /* levels above the subtrees; samples of a tile */
    int around;                  /* the caches, which are too small for the answers */
    int64_t next;                /* sample that no thread has taken */
    int worst;                   /* what holds of any sample's verdict */
};

/* Answer tiles until none is left. A thread without memory of its own leaves them to the others. */
static void work(void *given) {
    struct job *job = given;
    const int64_t cut = job->cut, step = job->samples;
    struct part *parts = aligned_alloc(BYTES, (cut + 1) * sizeof *parts);
    if (!parts) return;
    int64_t taken = 0;
    for (int64_t k = 0; k <= cut; k++) {
        struct part *p = parts + k;
        p->g = job->g, p->a = job->a, p->around = job->around, p->leaves = job->leaves;
        p->below = k ? p - 1 : NULL;
        p->highest = job->g->L - cut + k, p->lowest = k ? p->highest - 1 : 0;
        p->subtrees = power(job->g->s, cut - k);
        taken += lay_out(p, NULL);
    }
    lanes *memory = aligned_alloc(BYTES, taken * sizeof(lanes));
    if (memory) {
        for (int64_t k = 0, start = 0; k <= cut; k++) start += lay_out(parts + k, memory + start);
        for (;;) {
            const int64_t first = __atomic_fetch_add(&job->next, step, __ATOMIC_RELAXED);
            const int64_t left = job->batch - first;
            if (left <= 0) break;
            const int worst = answer_tile(parts, parts + cut, first, left < step ? left : step);
            __atomic_fetch_or(&job->worst, worst, __ATOMIC_RELAXED);
        }
    }
    settle();
    free(memory);
    free(parts);
}

/* A large table comes as new memory: large pages of it are handed out in less time. */
static void expect(void *table, int64_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, start = ((uintptr_t)table + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)table + size) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_HUGEPAGE);
#endif
}

/* Answer what is asked about `batch` samples. Gives -1 where memory ran out, else what holds of any
   sample's verdict. `parallel` is GOMP_parallel of the OpenMP that torch has loaded: its threads
   are awake after torch's operations, and in the way of any others. Without it there is one. */
int answer(const struct grammar *g, const real *leaves, int64_t batch, const struct answers *a,
           int64_t threads, void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    struct job job = {.g = g, .a = a, .leaves = leaves, .batch = batch, .samples = LANES};
    const int64_t tree = power(g->s, g->L) * g->v; /* numbers in a sample's leaf messages */
    real **const tables[] = {a->upward, a->downward, a->marginals};
    int64_t taken = 0;
    for (int i = 0; i < 3; i++)
        for (int64_t level = 0; tables[i] && level <= g->L; level++) {
            const int64_t rows = batch * power(g->s, g->L - level);
            const int64_t size = rows * symbols_at(g, level) * sizeof(real);
            expect(tables[i][level], size);
            taken += size;
        }
    job.around = taken > CACHE_BYTES;
    /* Cut trees until a tile fits the cache, and every thread has several tiles. */
    for (; job.cut < g->L && job.samples >= g->s; job.cut++) {
        const int64_t size = job.samples * 2 * tree * sizeof(real);
        if (size <= TILE_BYTES && job.samples * 2 * threads <= batch) break;
        job.samples /= g->s;
    }
    /* A thread takes about as long to join in as this many numbers times rules to be done with. */
    const int64_t useful = 1 + batch * tree * g->m / 50000;
    const int64_t tiles = (batch + job.samples - 1) / job.samples;
    if (threads > tiles) threads = tiles;
    if (threads > useful) threads = useful;
    if (threads > 1 && parallel)
        parallel(work, &job, threads, 0);
    else
        work(&job);
    return job.next < batch ? -1 : job.worst;
}
