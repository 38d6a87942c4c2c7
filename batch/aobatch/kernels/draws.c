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
#define LINE 16        /* logits of a block that are taken for a sample */
#define DOUBTS 4.0     /* standard errors that a sample may be wrong by */

typedef float halves __attribute__((vector_size(2 * WIDTH)));
typedef double doubles __attribute__((vector_size(4 * WIDTH)));
typedef int64_t longs __attribute__((vector_size(4 * WIDTH)));

/* What rows are drawn by; see Rows of aobatch.sampling.filters. */
typedef struct {
    const float *maxima, *peaks, *scales, *bounds, *floors;
    const double *totals, *usual_shares, *top_p, *uniforms;
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

INLINE int is_among(float logit, int32_t id, Token last) {
    return logit > last.logit || (logit == last.logit && id <= last.id);
}

/* Masses of a vector of logits, as two of float64. */
INLINE void weigh(floats x, const Look *look, doubles *low, doubles *high) {
    floats weights = power_of_two(product(x - look->peak, (floats){0} + look->scale));
    halves parts[2];
    memcpy(parts, &weights, sizeof parts);
    *low = __builtin_convertvector(parts[0], doubles) + TO_GRID - TO_GRID;
    *high = __builtin_convertvector(parts[1], doubles) + TO_GRID - TO_GRID;
}

INLINE double total_of(doubles x) {
    double total = 0;
    for (int i = 0; i < WIDTH / 2; i++) total += x[i];
    return total;
}

/* The mass of a block's logits from a bound on. */
INLINE double mass_above(const float *x, const Look *look) {
    doubles sums[2] = {{0}, {0}}, low, high;
    for (int i = 0; i < BLOCK; i += WIDTH) {
        floats next = take(x + i);
        ints is_above = next >= (floats){0} + look->high;
        if (!bits_of(is_above)) continue;
        floats none = {0};
        next = (floats)(((ints)next & is_above) | ((ints)(none - INFINITY) & ~is_above));
        weigh(next, look, &low, &high);
        sums[0] += low, sums[1] += high;
    }
    return total_of(sums[0] + sums[1]);
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
    for (int64_t i = 0; i < count; i += WIDTH) {
        doubles parts[2];
        weigh(take(look->logits + i), look, parts, parts + 1);
        memcpy(look->masses + i, parts, sizeof parts);
    }
    for (int64_t i = 0; i < count; i++) look->mass += look->masses[i];
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
        sums[(int32_t)((most - look->logits[i]) * rate)] += keys ? keys[i] : 1;
    int32_t bin = 0;
    int64_t count = 0;
    while (bin < NUM_BINS && reached + sums[bin] < goal) reached += sums[bin++];
    for (int64_t i = 0; i < look->count; i++)
        if ((int32_t)((most - look->logits[i]) * rate) == bin) look->edge[count++] = (Token){look->logits[i], (int32_t)i};
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
    look->mass = 0;
    for (int64_t i = 0; i < look->count; i++) {
        look->logits[count] = look->logits[i], look->ids[count] = look->ids[i], look->masses[count] = look->masses[i];
        if (!is_among(look->logits[count], look->ids[count], last)) continue;
        look->mass += look->masses[count++];
    }
    look->count = count;
}

/* Guess by a sixteenth of a row, evenly spread, between which logits its nucleus ends. */
static void aim(const Rows *in, int64_t n, const float *maxima, double allowed, Look *look) {
    int64_t num_blocks = num_blocks_of(in), size = 0;
    double sums[NUM_BINS] = {0}, squares[NUM_BINS] = {0}, below = 0, square = 0;
    float copy[BLOCK] __attribute__((aligned(64))), least = look->peak;
    for (int64_t block = 0; block < num_blocks; block++) {
        if (!(maxima[block] >= LEAST)) continue;
        const float *x = block_of(in, n, block, copy) + block * 7 % (BLOCK / LINE) * LINE;
        for (int i = 0; i < LINE; i++) {
            int32_t id = (int32_t)(block * BLOCK + block * 7 % (BLOCK / LINE) * LINE + i);
            if (id >= in->vocab_size || !(x[i] >= LEAST)) continue;
            look->logits[size++] = x[i], least = x[i] < least ? x[i] : least;
        }
    }
    float span = look->peak - least, rate = (float)(NUM_BINS - 1) / (span > 1e-30f ? span : 1e-30f);
    double share = (double)in->vocab_size / (double)(size ? size : 1);
    for (int64_t i = 0; i < size; i += WIDTH) {
        doubles parts[2];
        double masses[WIDTH];
        weigh(take(look->logits + i), look, parts, parts + 1);
        memcpy(masses, parts, sizeof masses);
        for (int64_t lane = 0; lane < WIDTH && i + lane < size; lane++) {
            int32_t bin = (int32_t)((look->peak - look->logits[i + lane]) * rate);
            sums[bin] += masses[lane] * share, squares[bin] += masses[lane] * masses[lane] * share * share;
        }
    }
    look->low = LEAST, look->high = INFINITY;
    for (int32_t bin = NUM_BINS - 1; bin >= 0; bin--) { /* its logits lie under peak - bin / rate */
        double before = below - DOUBTS * sqrt(square);
        if (before >= allowed) {
            look->high = look->peak - (float)bin / rate;
            return;
        }
        below += sums[bin], square += squares[bin];
        if (below + DOUBTS * sqrt(square) <= allowed) look->low = look->peak - (float)bin / rate;
    }
}

/* Look until the candidates are those among which the nucleus ends, or all down to the floor. */
static void look_for_end(const Rows *in, const Wanted *wanted, int64_t n, double target, Look *look) {
    const float *maxima = wanted->maxima + n * num_blocks_of(in);
    float floor = wanted->floors[n];
    double nats = 1.4426950408889634 / look->scale, usual = wanted->usual_shares[n];
    look->low = fmaxf(wanted->bounds[n], LEAST), look->high = INFINITY;
    look_at(in, n, maxima, look);
    if (target == INFINITY) return;
    while (look->low > floor && look->mass < target) {
        double at_least = (target - look->mass) / usual;
        if (at_least >= LONG) break;
        look->low -= (float)(nats * log(1.5 + at_least / FEWER));
        look->low = look->low > floor ? look->low : floor;
        look_at(in, n, maxima, look);
    }
    if (look->low <= floor || look->mass >= target) return;
    if (floor == LEAST) { /* a floor ends a nucleus that a sample would not know of */
        aim(in, n, maxima, wanted->totals[n] - target, look);
        look_at(in, n, maxima, look);
        if (look->above < target && look->above + look->mass >= target) return;
    }
    look->low = floor, look->high = INFINITY;
    look_at(in, n, maxima, look);
}

/* Find the token whose part of the running sum of a block passes a target. */
static int64_t find_in_sum(const Rows *in, int64_t n, int64_t block, double reached, double target, Token last,
                           const Look *look) {
    float copy[BLOCK] __attribute__((aligned(64)));
    double masses[BLOCK];
    const float *x = block_of(in, n, block, copy);
    for (int i = 0; i < BLOCK; i += WIDTH) {
        doubles parts[2];
        weigh(take(x + i), look, parts, parts + 1);
        memcpy(masses + i, parts, sizeof parts);
    }
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
    if (top_p < 1 && !is_limited) target = fmax(top_p * wanted->totals[n], GRID);
    look_for_end(in, wanted, n, target, look);
    if (look->count > wanted->top_k[n]) keep_until(look, end_of(look, NULL, (double)wanted->top_k[n]));
    if (top_p < 1 && is_limited) target = fmax(top_p * look->mass, GRID);
    if (target < INFINITY) keep_until(look, end_of(look, look->masses, target - look->above));
    keep_until(look, (Token){wanted->floors[n], INT32_MAX});

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
