/* Draws that top_k, top_p and min_p narrow: aobatch.sampling.filters, row by row.
 *
 * Masses are multiples of 2^-34 that add exactly in float64, so nothing hangs on which candidates are
 * looked at, and in what order, as long as there are enough. */
#include "blocks.h"
#include <stdlib.h>

#define NUM_BINS 512
#define LONG 1024      /* a row that lacks more tokens is aimed at by a sample */
#define FEWER 80.0     /* for each so many that are lacking a bound goes down once more */
#define GRID 0x1p-34
#define TO_GRID 0x1.8p18 /* added and taken off again, leaves a multiple of GRID */
#define LEAST (-0x1.fffffep127f)
#define SAMPLE 4096    /* logits of a sample, about, in lines */
#define LINE 16
#define DOUBTS 4.0     /* standard errors that a sample may be wrong by */
#define LOOKS 4        /* then a bound is as good as none: it may be too large to be lowered by little */

typedef float halves __attribute__((vector_size(2 * WIDTH)));
typedef double doubles __attribute__((vector_size(4 * WIDTH)));

/* What rows are drawn by; see Rows of aobatch.sampling.filters. */
typedef struct {
    const float *maxima, *peaks, *scales, *bounds, *floors;
    const double *reached, *usual_shares, *top_p, *uniforms;
    const int64_t *top_k;
} Wanted;

typedef struct {
    int64_t *token_ids;
    double *totals;
    float *last_logits;
    int64_t *last_ids;
} Drawn;

typedef struct {
    float logit;
    int32_t id;
} Token;

/* Candidates of a row by id, under the logit `high`; from that on tokens are summed up by blocks. */
typedef struct {
    float low, high, peak, scale;
    int64_t count;
    double mass, above;
    float *logits;
    int32_t *ids;
    double *masses, *blocks;
    Token *edge;
} Look;

/* Without a branch: half of what is asked is. */
INLINE int is_among(float logit, int32_t id, Token last) {
    return (logit > last.logit) | ((logit == last.logit) & (id <= last.id));
}

INLINE doubles widen(halves x) {
#if WIDTH == 16
    return (doubles)_mm512_cvtps_pd((__m256)x);
#elif WIDTH == 8
    return (doubles)_mm256_cvtps_pd((__m128)x);
#else
    return __builtin_convertvector(x, doubles);
#endif
}

/* Masses of some vectors of logits. */
INLINE void weigh(floats *x, const Look *look, double *masses) {
    weights_of(x, look->peak, look->scale);
    EACH {
        halves parts[2];
        doubles wide[2];
        memcpy(parts, x + k, sizeof parts);
        for (int half = 0; half < 2; half++) wide[half] = widen(parts[half]) + TO_GRID - TO_GRID;
        memcpy(masses + k * WIDTH, wide, sizeof wide);
    }
}

/* The mass of a block's logits from a bound on. */
INLINE double mass_above(const float *x, const Look *look) {
    doubles sums[2 * TOGETHER] = {{0}};
    floats none = {0};
    for (int i = 0; i < BLOCK; i += TOGETHER * WIDTH) {
        floats next[TOGETHER];
        double masses[TOGETHER * WIDTH];
        doubles wide[2 * TOGETHER];
        ints above[TOGETHER], any = {0};
        EACH next[k] = take(x + i + k * WIDTH);
        EACH any |= above[k] = next[k] >= none + look->high;
        if (!bits_of(any)) continue;
        EACH next[k] = (floats)(((ints)next[k] & above[k]) | ((ints)(none - INFINITY) & ~above[k]));
        weigh(next, look, masses);
        memcpy(wide, masses, sizeof wide);
        for (int k = 0; k < 2 * TOGETHER; k++) sums[k] += wide[k];
    }
    double mass = 0;
    for (int k = 1; k < 2 * TOGETHER; k++) sums[0] += sums[k];
    for (int i = 0; i < WIDTH / 2; i++) mass += sums[0][i];
    return mass;
}

/* The masses of so many logits; there is room for a whole block. */
static void weigh_all(const float *logits, int64_t count, const Look *look, double *masses) {
    for (int64_t i = 0; i < count; i += TOGETHER * WIDTH) {
        floats next[TOGETHER];
        EACH next[k] = take(logits + i + k * WIDTH);
        weigh(next, look, masses + i);
    }
}

/* Take the candidates of a row, and sum up what is above them. */
static void look_at(const Rows *in, int64_t n, const float *maxima, Look *look) {
    int64_t num_blocks = num_blocks_of(in), count = 0;
    float copy[BLOCK] __attribute__((aligned(64)));
    const float *row = in->logits + in->rows[n] * in->stride;
    Ahead ahead = {0};
    look->above = look->mass = 0;
    for (int64_t block = 0; block < num_blocks; block++) {
        look->blocks[block] = 0;
        if (!(maxima[block] >= look->low)) continue;
        fetch_ahead(&ahead, row, maxima, num_blocks, look->low);
        const float *x = block_of(in, n, block, copy);
        count += find_in_block(x, (int32_t)(block * BLOCK), look->low, look->high, look->ids + count,
                               look->logits + count);
        if (maxima[block] >= look->high) look->above += look->blocks[block] = mass_above(x, look);
    }
    look->count = count;
    weigh_all(look->logits, count, look, look->masses);
    for (int64_t i = 0; i < count; i++) look->mass += look->masses[i];
}

/* The bin of a logit, which lies so far under the largest one; the last where that is no number. */
INLINE int32_t bin_of(float depth, float rate) {
    float bin = depth * rate;
    return bin < NUM_BINS - 1 ? (int32_t)bin : NUM_BINS - 1;
}

static int compare(const void *a, const void *b) {
    const Token *x = a, *y = b;
    return x->logit == y->logit ? (x->id > y->id) - (x->id < y->id) : x->logit < y->logit ? 1 : -1;
}

/* The last of the best candidates whose masses, or `keys`, reach a goal; of all if they never do. */
static Token end_of(const Look *look, const double *keys, double goal) {
    float most = -INFINITY, least = INFINITY;
    for (int64_t i = 0; i < look->count; i++) {
        float logit = look->logits[i];
        most = logit > most ? logit : most, least = logit < least ? logit : least;
    }
    float span = most - least, rate = (float)(NUM_BINS - 1) / (span > 1e-30f ? span : 1e-30f);
    double sums[NUM_BINS] = {0}, reached = 0;
    for (int64_t i = 0; i < look->count; i++)
        sums[bin_of(most - look->logits[i], rate)] += keys ? keys[i] : 1;
    int32_t bin = 0;
    int64_t count = 0;
    while (bin < NUM_BINS && reached + sums[bin] < goal) reached += sums[bin++];
    for (int64_t i = 0; i < look->count; i++) {
        look->edge[count] = (Token){look->logits[i], (int32_t)i};
        count += bin_of(most - look->logits[i], rate) == bin;
    }
    qsort(look->edge, (size_t)count, sizeof(Token), compare);
    for (int64_t i = 0; i < count; i++) {
        Token *token = look->edge + i;
        reached += keys ? keys[token->id] : 1;
        if (reached >= goal) return (Token){token->logit, look->ids[token->id]};
    }
    return (Token){-INFINITY, INT32_MAX};
}

/* Keep the candidates down to the last. */
static void keep_until(Look *look, Token last) {
    int64_t count = 0;
    double mass = 0;
    for (int64_t i = 0; i < look->count; i++) {
        float logit = look->logits[i];
        int32_t id = look->ids[i];
        double own = look->masses[i];
        look->logits[count] = logit, look->ids[count] = id, look->masses[count] = own;
        int is_kept = is_among(logit, id, last);
        mass += is_kept ? own : 0, count += is_kept;
    }
    look->mass = mass, look->count = count;
}

/* Take lines of a row, evenly spread, as a sample; gives what part of the row it is. */
static double sample(const Rows *in, int64_t n, Look *look) {
    int64_t num_blocks = num_blocks_of(in), size = 0, step = num_blocks * LINE / SAMPLE;
    float copy[BLOCK] __attribute__((aligned(64)));
    const float *row = in->logits + in->rows[n] * in->stride;
    step = step ? step : 1;
    for (int64_t block = 0; block < num_blocks; block += step) {
        int64_t line = block * 7 % (BLOCK / LINE) * LINE, next = block + 8 * step;
        if (next < num_blocks) __builtin_prefetch(row + next * BLOCK + next * 7 % (BLOCK / LINE) * LINE);
        const float *x = block_of(in, n, block, copy) + line;
        int64_t inside = in->vocab_size - block * BLOCK - line;
        for (int i = 0; i < LINE && i < inside; i++) look->logits[size] = x[i], size += x[i] >= LEAST;
    }
    look->count = size;
    return (double)((num_blocks + step - 1) / step * LINE) / (double)(num_blocks * BLOCK);
}

/* Guess by a sample between which logits a nucleus ends, under which so much mass is allowed. */
static void aim(const Rows *in, int64_t n, double allowed, Look *look) {
    double share = 1 / sample(in, n, look), sums[NUM_BINS] = {0}, squares[NUM_BINS] = {0};
    double below = 0, square = 0;
    float least = look->peak;
    for (int64_t i = 0; i < look->count; i++) least = look->logits[i] < least ? look->logits[i] : least;
    float span = look->peak - least, rate = (float)(NUM_BINS - 1) / (span > 1e-30f ? span : 1e-30f);
    weigh_all(look->logits, look->count, look, look->masses);
    for (int64_t i = 0; i < look->count; i++) {
        double mass = look->masses[i] * share;
        int32_t bin = bin_of(look->peak - look->logits[i], rate);
        sums[bin] += mass, squares[bin] += mass * mass;
    }
    look->low = LEAST, look->high = INFINITY;
    for (int32_t bin = NUM_BINS - 1; bin >= 0; bin--) { /* its logits lie under peak - bin / rate */
        if (below - DOUBTS * sqrt(square) >= allowed) {
            look->high = look->peak - (float)bin / rate;
            return;
        }
        below += sums[bin], square += squares[bin];
        if (below + DOUBTS * sqrt(square) <= allowed) look->low = look->peak - (float)bin / rate;
    }
}

/* Lower the bound of candidates whose mass does not do; 0 if it would have to be guessed again. */
static int lower(Look *look, float floor, double missing, double usual) {
    double at_least = missing / usual, nats = 1.4426950408889634 / look->scale;
    if (at_least >= LONG) return 0;
    look->low -= (float)(nats * log(1.5 + at_least / FEWER));
    look->low = look->low > floor ? look->low : floor;
    return 1;
}

/* The weight of blocks that hold candidates, which is more than that of these. */
static double weight_at_most(const float *maxima, const double *reached, int64_t num_blocks, float low) {
    double weight = maxima[0] >= low ? reached[0] : 0;
    for (int64_t block = 1; block < num_blocks; block++)
        weight += maxima[block] >= low ? reached[block] - reached[block - 1] : 0;
    return weight;
}

/* Look until the candidates are those among which the nucleus ends, or all down to the floor. */
static void look_for_end(const Rows *in, const Wanted *wanted, int64_t n, double target, Look *look) {
    int64_t num_blocks = num_blocks_of(in);
    const float *maxima = wanted->maxima + n * num_blocks;
    const double *reached = wanted->reached + n * num_blocks;
    float floor = wanted->floors[n];
    int is_aimed = 0, looks = 0;
    look->low = fmaxf(wanted->bounds[n], LEAST), look->high = INFINITY;
    while (target < INFINITY && look->low > floor) {
        double missing = target - weight_at_most(maxima, reached, num_blocks, look->low);
        if (missing <= 0) {
            look_at(in, n, maxima, look);
            missing = target - look->mass;
            if (missing <= 0) return;
        }
        is_aimed = ++looks == LOOKS || !lower(look, floor, missing, wanted->usual_shares[n]);
        if (is_aimed) break;
    }
    if (is_aimed && floor == LEAST) { /* a floor ends a nucleus that a sample would not know of */
        aim(in, n, reached[num_blocks - 1] - target, look);
        look_at(in, n, maxima, look);
        if (look->above < target && look->above + look->mass >= target) return;
    }
    if (is_aimed) look->low = floor, look->high = INFINITY;
    look_at(in, n, maxima, look);
}

/* Find the token whose part of the running sum of a block passes a target. */
static int64_t find_in_sum(const Rows *in, int64_t n, int64_t block, double reached, double target, Token last,
                           const Look *look) {
    float copy[BLOCK] __attribute__((aligned(64)));
    double masses[BLOCK];
    const float *x = block_of(in, n, block, copy);
    weigh_all(x, BLOCK, look, masses);
    for (int32_t i = 0; i < BLOCK; i++) {
        int32_t id = (int32_t)(block * BLOCK) + i;
        if (is_among(x[i], id, last)) reached += masses[i];
        if (reached > target) return id;
    }
    return 0;
}

static void draw_row(const Rows *in, const Wanted *wanted, int64_t n, Look *look, Drawn *out) {
    int is_limited = wanted->top_k[n] < in->vocab_size;
    double top_p = wanted->top_p[n], target = INFINITY;
    look->peak = wanted->peaks[n], look->scale = wanted->scales[n];
    if (top_p < 1 && !is_limited) target = fmax(top_p * wanted->reached[(n + 1) * num_blocks_of(in) - 1], GRID);
    look_for_end(in, wanted, n, target, look);
    if (look->count > wanted->top_k[n]) keep_until(look, end_of(look, NULL, (double)wanted->top_k[n]));
    if (top_p < 1 && is_limited) target = fmax(top_p * look->mass, GRID);
    if (target < INFINITY) keep_until(look, end_of(look, look->masses, target - look->above));
    if (wanted->floors[n] > LEAST) keep_until(look, (Token){wanted->floors[n], INT32_MAX});

    Token last = {INFINITY, 0};
    for (int64_t i = 0; i < look->count; i++)
        if (!is_among(look->logits[i], look->ids[i], last) || i == 0) last = (Token){look->logits[i], look->ids[i]};
    double total = look->above + look->mass;
    double end = fmin(wanted->uniforms[n] * total, nextafter(total, 0)), reached = 0;
    for (int64_t i = 0; i < look->count; i++) look->blocks[look->ids[i] / BLOCK] += look->masses[i];
    int64_t block = 0;
    while (reached + look->blocks[block] <= end) reached += look->blocks[block++];
    out->token_ids[n] = find_in_sum(in, n, block, reached, end, last, look);
    out->totals[n] = total, out->last_logits[n] = last.logit, out->last_ids[n] = last.id;
}

/* Draw a token of each row; 0 if there is too little memory. */
EXPORTED int draw_rows(const Rows *in, const Wanted *wanted, Drawn *out) {
    int64_t num_blocks = num_blocks_of(in);
    size_t room = (size_t)(num_blocks + 1) * BLOCK;
    char *memory = malloc(room * (sizeof(double) + sizeof(float) + sizeof(int32_t) + sizeof(Token)) +
                          (size_t)num_blocks * sizeof(double));
    if (!memory) return 0;
    Look look = {.masses = (double *)memory};
    look.blocks = look.masses + room;
    look.edge = (Token *)(look.blocks + num_blocks);
    look.logits = (float *)(look.edge + room);
    look.ids = (int32_t *)(look.logits + room);
    for (int64_t n = 0; n < in->num_rows; n++) draw_row(in, wanted, n, &look, out);
    free(memory);
    return 1;
}
