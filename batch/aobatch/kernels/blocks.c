/* Maxima, and sums of exponentials, of rows of logits by blocks of 256: what the sampler looks at
 * instead of the vocabulary.
 *
 * aobatch.sampling.blocks computes the same bits with numpy, which fuses nothing: so every product
 * is rounded here before it is added. Vectors are as wide as the processor's; nothing hangs on it. */
#include "lanes.h"
#include <stdlib.h>

#define BLOCK 256
#define NUM_BINS 512
#define UNIT 0x1p-44 /* what running sums count in */
#define AHEAD 4
#define EXPORTED __attribute__((visibility("default")))
#if defined(__AVX512F__)
#define WIDTH 16
#define ROUND(x) __asm__("" : "+v"(x))
#elif defined(__AVX2__)
#define WIDTH 8
#define ROUND(x) __asm__("" : "+x"(x))
#elif defined(__ARM_NEON)
#define WIDTH 4
#define ROUND(x) __asm__("" : "+w"(x))
#else
#define WIDTH 4
#define ROUND(x) __asm__("" : "+m"(x))
#endif
#define VECTORS (BLOCK / WIDTH)

typedef float floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH)));

INLINE floats take(const float *p) {
    floats x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* The larger one, whichever where they are equal; b where one is NaN. */
INLINE floats larger_of(floats a, floats b) {
#if WIDTH == 16
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif WIDTH == 8
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    ints mask = a > b;
    return (floats)(((ints)a & mask) | ((ints)b & ~mask));
#endif
}

/* A product that is rounded whatever follows. */
INLINE floats product(floats a, floats b) {
    floats x = a * b;
    ROUND(x);
    return x;
}

/* 2^x for x <= 0, within 2e-7 of itself and 0 from -127 on. */
INLINE floats power_of_two(floats x) {
    x = larger_of(x, (floats){0} - 127.0f);
    floats shifted = x + 12582912.0f, none = {0};
    floats part = x - (shifted - 12582912.0f);
    floats power = product(part, none + 1.326472731307149e-3f) + 9.671512991189957e-3f;
    power = product(power, part) + 5.550733581185341e-2f;
    power = product(power, part) + 2.402224242687225e-1f;
    power = product(power, part) + 6.931470036506653e-1f;
    power = product(power, part) + 1.0f;
    return (floats)((ints)power + ((ints)shifted << 23));
}

/* A bit for each lane that is not 0. */
INLINE uint32_t bits_of(ints mask) {
#if WIDTH == 16
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif WIDTH == 8
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
#else
    uint32_t bits = 0;
    for (int i = 0; i < WIDTH; i++) bits |= (uint32_t)(mask[i] & 1) << i;
    return bits;
#endif
}

/* The largest of a block, NaN if one is. */
INLINE float maximum_of(const float *x) {
    floats most[4], all_of;
    ints unordered = {0};
    for (int i = 0; i < 4; i++) most[i] = take(x + i * WIDTH);
    for (int i = 0; i < VECTORS; i++) {
        floats next = take(x + i * WIDTH);
        unordered |= next != next;
        most[i % 4] = larger_of(next, most[i % 4]);
    }
    all_of = larger_of(larger_of(most[0], most[1]), larger_of(most[2], most[3]));
#if WIDTH == LANES
    return bits_of(unordered) ? NAN : largest(all_of);
#else
    float found = all_of[0];
    for (int i = 1; i < WIDTH; i++) found = all_of[i] > found ? all_of[i] : found;
    return bits_of(unordered) ? NAN : found;
#endif
}

/* The halves of a block are added to each other, then the halves of that, to a single number. */
INLINE float sum_of(const float *x, float peak, float scale) {
    floats sums[VECTORS / 2], none = {0};
    for (int i = 0; i < VECTORS / 2; i++) {
        floats low = power_of_two(product(take(x + i * WIDTH) - peak, none + scale));
        floats high = power_of_two(product(take(x + i * WIDTH + BLOCK / 2) - peak, none + scale));
        sums[i] = low + high;
    }
    for (int half = VECTORS / 4; half; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
#if WIDTH == LANES
    return sum(sums[0]);
#else
    float parts[WIDTH];
    memcpy(parts, sums, sizeof parts);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
#endif
}

/* Rows of logits, `stride` floats apart. Masks, one for each row that is looked at, may be null,
 * each and all; a bit a token. */
typedef struct {
    const float *logits;
    int64_t stride, vocab_size, num_rows;
    const int64_t *rows;
    const uint32_t *const *masks;
} Rows;

/* A block's logits, copied where it has -inf behind the vocabulary's end or where a mask has no bit. */
INLINE const float *block_of(const Rows *in, int64_t n, int64_t block, float *copy) {
    const float *x = in->logits + in->rows[n] * in->stride + block * BLOCK;
    const uint32_t *mask = in->masks ? in->masks[n] : NULL;
    int64_t count = in->vocab_size - block * BLOCK;
    if (!mask && count >= BLOCK) return x;
    for (int i = 0; i < BLOCK; i++) copy[i] = i < count ? x[i] : -INFINITY;
    if (mask) mask += block * BLOCK / 32;
    for (int i = 0; mask && i < BLOCK && i < count; i++)
        if (!(mask[i / 32] >> i % 32 & 1)) copy[i] = -INFINITY;
    return copy;
}

/* Scales are what differences of logits are multiplied by to be exponents of two; where one is 0
 * sums are left as they are. Floors may be null; what lies under them counts as -inf. */
EXPORTED void measure_blocks(const Rows *in, const float *scales, const float *floors,
                             float *maxima, float *sums) {
    int64_t num_blocks = (in->vocab_size + BLOCK - 1) / BLOCK;
    float copy[BLOCK] __attribute__((aligned(64))), above[BLOCK] __attribute__((aligned(64)));
    for (int64_t n = 0; n < in->num_rows; n++) {
        for (int64_t block = 0; block < num_blocks; block++) {
            const float *x = block_of(in, n, block, copy);
            int64_t place = n * num_blocks + block;
            if (floors) {
                for (int i = 0; i < BLOCK; i += WIDTH) {
                    floats next = take(x + i);
                    ints under = next < (floats){0} + floors[n];
                    ints none = (ints)((floats){0} - INFINITY);
                    next = (floats)((none & under) | ((ints)next & ~under));
                    memcpy(above + i, &next, sizeof next);
                }
                x = above;
            }
            float most = maximum_of(x);
            maxima[place] = most;
            if (scales[n] > 0) sums[place] = sum_of(x, most > -INFINITY ? most : 0, scales[n]);
        }
    }
}

/* Write the lanes that have a bit, as far as there is room, and their ids from `id` on; how many have one. */
INLINE int64_t write_lanes(floats x, uint32_t bits, int64_t id, int64_t room, int64_t *ids, float *found) {
#if WIDTH == LANES
    if (room >= LANES) { /* without a branch for each */
        __m512i own = _mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)(LANE + (int32_t)id));
        _mm512_storeu_ps(found, _mm512_maskz_compress_ps((__mmask16)bits, (__m512)x));
        _mm512_storeu_si512(ids, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(own)));
        _mm512_storeu_si512(ids + 8, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(own, 1)));
        return __builtin_popcount(bits);
    }
#endif
    int64_t count = 0;
    for (; bits; bits &= bits - 1, count++) {
        if (count >= room) continue;
        int lane = __builtin_ctz(bits);
        ids[count] = id + lane, found[count] = x[lane];
    }
    return count;
}

/* Logits from the row's bound on and under its ceiling, in the order of rows and ids, out of blocks
 * whose maxima reach the bound. Gives how many there are; no more are written than there is room for. */
EXPORTED int64_t find_logits(const Rows *in, const float *maxima, const float *bounds,
                             const float *ceilings, int64_t room, int64_t *places, int64_t *ids,
                             float *found) {
    int64_t num_blocks = (in->vocab_size + BLOCK - 1) / BLOCK, count = 0;
    float copy[BLOCK] __attribute__((aligned(64)));
    for (int64_t n = 0; n < in->num_rows; n++) {
        float bound = bounds[n];
        floats low = (floats){0} + bound, high = (floats){0} + ceilings[n];
        const float *most = maxima + n * num_blocks, *row = in->logits + in->rows[n] * in->stride;
        int64_t ahead = 0, first = count;
        int num_ahead = 0;
        for (int64_t block = 0; block < num_blocks; block++) {
            if (!(most[block] >= bound)) continue;
            /* Blocks lie apart, so the processor does not foresee them. */
            for (num_ahead--; ahead < num_blocks && num_ahead < AHEAD; ahead++) {
                if (!(most[ahead] >= bound)) continue;
                num_ahead++;
                const float *next = row + ahead * BLOCK;
                for (int i = 0; i < BLOCK; i += 16) __builtin_prefetch(next + i);
            }
            const float *x = block_of(in, n, block, copy);
            for (int i = 0; i < BLOCK; i += WIDTH) {
                floats next = take(x + i);
                uint32_t bits = bits_of((next >= low) & (next < high));
                count += write_lanes(next, bits, block * BLOCK + i, room - count, ids + count, found + count);
            }
        }
        for (int64_t i = first; i < count && i < room; i++) places[i] = n;
    }
    return count;
}

/* exp((logit - peak) / temperature) of logits of rows of some sizes, one after the other. */
EXPORTED void weigh_logits(int64_t num_rows, const int64_t *sizes, const float *logits, const float *peaks,
                           const float *scales, double *weights) {
    for (int64_t row = 0; row < num_rows; logits += sizes[row], weights += sizes[row], row++)
        for (int64_t i = 0; i < sizes[row]; i += WIDTH) {
            int64_t width = sizes[row] - i < WIDTH ? sizes[row] - i : WIDTH;
            floats x = {0};
            memcpy(&x, logits + i, (size_t)width * sizeof(float));
            x = power_of_two(product(x - peaks[row], (floats){0} + scales[row]));
            for (int64_t lane = 0; lane < width; lane++) weights[i + lane] = x[lane];
        }
}

typedef struct {
    float logit;
    int32_t place;
} Token;

static int compare(const void *a, const void *b) {
    const Token *x = a, *y = b;
    return x->logit == y->logit ? (x->place > y->place) - (x->place < y->place) : x->logit < y->logit ? 1 : -1;
}

/* Mark the fewest of a row's logits, best first, whose weights reach the target; `edge` has room for all. */
static void mark_row(int64_t size, const float *logits, const double *weights, double target, uint8_t *mask,
                     Token *edge) {
    float most = logits[0], least = logits[0];
    for (int64_t i = 1; i < size; i++) {
        most = logits[i] > most ? logits[i] : most;
        least = logits[i] < least ? logits[i] : least;
    }
    float span = most - least, rate = (float)(NUM_BINS - 1) / (span > 1e-30f ? span : 1e-30f);
    double sums[NUM_BINS] = {0}, before = 0, reached = 0, ahead = 0;
    for (int64_t i = 0; i < size; i++) sums[(int64_t)((most - logits[i]) * rate)] += weights[i];
    int64_t bin = 0, count = 0;
    for (; bin < NUM_BINS && (reached = before + sums[bin]) < target; bin++) before = reached;
    for (int64_t i = 0; i < size; i++) {
        int64_t own = (int64_t)((most - logits[i]) * rate);
        mask[i] = own < bin;
        if (own == bin) edge[count++] = (Token){logits[i], (int32_t)i};
    }
    qsort(edge, (size_t)count, sizeof(Token), compare);
    for (int64_t i = 0, units = 0; i < count; i++) {
        double weight = weights[edge[i].place];
        units += (int64_t)__builtin_rint(weight / UNIT);
        ahead = (double)units * UNIT;
        ahead -= weight;
        mask[edge[i].place] = before + ahead < target;
    }
}

/* The same for rows of some sizes, one after the other; 0 if there is too little memory. */
EXPORTED int mark_best(int64_t num_rows, const int64_t *sizes, const float *logits, const double *weights,
                       const double *targets, uint8_t *mask) {
    int64_t most = 0;
    for (int64_t row = 0; row < num_rows; row++) most = sizes[row] > most ? sizes[row] : most;
    Token *edge = malloc((size_t)most * sizeof(Token));
    if (!edge) return 0;
    for (int64_t row = 0; row < num_rows; row++) {
        mark_row(sizes[row], logits, weights, targets[row] > UNIT ? targets[row] : UNIT, mask, edge);
        logits += sizes[row], weights += sizes[row], mask += sizes[row];
    }
    free(edge);
    return 1;
}
