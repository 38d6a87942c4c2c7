/* Logits of rows by blocks of 256, as aobatch.sampling reads and weighs them.
 *
 * Numpy, which fuses nothing, computes the same bits: so every product is rounded here before it is
 * added. Vectors are as wide as the processor's; nothing hangs on it. */
#pragma once
#include "lanes.h"

#define BLOCK 256
#define AHEAD 4
#define TOGETHER 4 /* vectors */
#define EACH for (int k = 0; k < TOGETHER; k++)
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

/* exp((x - peak) / temperature) of some vectors, within 2e-7 of itself; they are worked on in turn, so
 * that what a processor looks ahead at is not all of one chain. */
INLINE void weights_of(floats *x, float peak, float scale) {
    floats shifted[TOGETHER], power[TOGETHER], none = {0};
    EACH x[k] = larger_of(product(x[k] - peak, none + scale), none - 127.0f);
    EACH shifted[k] = x[k] + 12582912.0f;
    EACH x[k] -= shifted[k] - 12582912.0f;
    EACH power[k] = product(x[k], none + 1.326472731307149e-3f) + 9.671512991189957e-3f;
    EACH power[k] = product(power[k], x[k]) + 5.550733581185341e-2f;
    EACH power[k] = product(power[k], x[k]) + 2.402224242687225e-1f;
    EACH power[k] = product(power[k], x[k]) + 6.931470036506653e-1f;
    EACH power[k] = product(power[k], x[k]) + 1.0f;
    EACH x[k] = (floats)((ints)power[k] + ((ints)shifted[k] << 23));
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

INLINE int64_t num_blocks_of(const Rows *in) { return (in->vocab_size + BLOCK - 1) / BLOCK; }

/* Write the lanes that have a bit, and their ids from `id` on, in places for a whole vector; how many. */
INLINE int64_t write_lanes(floats x, uint32_t bits, int32_t id, int32_t *ids, float *found) {
#if WIDTH == LANES
    _mm512_storeu_ps(found, _mm512_maskz_compress_ps((__mmask16)bits, (__m512)x));
    _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)(LANE + id)));
#else
    uint32_t left = bits;
    for (int64_t count = 0; left; left &= left - 1, count++) {
        int lane = __builtin_ctz(left);
        ids[count] = id + lane, found[count] = x[lane];
    }
#endif
    return __builtin_popcount(bits);
}

/* Write the logits of a block from a bound on and under a ceiling, and their ids; how many there are. */
INLINE int64_t find_in_block(const float *x, int32_t id, float low, float high, int32_t *ids, float *found) {
    floats bound = (floats){0} + low, ceiling = (floats){0} + high;
    int64_t count = 0;
    for (int i = 0; i < BLOCK; i += TOGETHER * WIDTH) {
        ints any = {0};
        EACH any |= take(x + i + k * WIDTH) >= bound;
        if (!bits_of(any)) continue;
        EACH {
            floats next = take(x + i + k * WIDTH);
            uint32_t bits = bits_of((next >= bound) & (next < ceiling));
            if (bits) count += write_lanes(next, bits, id + i + k * WIDTH, ids + count, found + count);
        }
    }
    return count;
}

/* Blocks that lie apart are not foreseen by the processor: the next ones whose maxima reach a bound. */
typedef struct {
    int64_t next;
    int number;
} Ahead;

INLINE void fetch_ahead(Ahead *ahead, const float *row, const float *maxima, int64_t num_blocks, float low) {
    for (ahead->number--; ahead->next < num_blocks && ahead->number < AHEAD; ahead->next++) {
        if (!(maxima[ahead->next] >= low)) continue;
        ahead->number++;
        for (int i = 0; i < BLOCK; i += 16) __builtin_prefetch(row + ahead->next * BLOCK + i);
    }
}
