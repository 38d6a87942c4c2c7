/* Maxima, and sums of exponentials, of blocks, and the logits above a bound: aobatch.sampling.blocks. */
#include "blocks.h"

/* Whether one of two is NaN, a bit a lane. */
INLINE uint32_t unordered_of(floats a, floats b) {
#if WIDTH == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
#elif WIDTH == 8
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q));
#else
    return bits_of((a != a) | (b != b));
#endif
}

INLINE float largest_of(floats x) {
#if WIDTH == LANES
    return largest(x);
#else
    for (int half = WIDTH / 2; half; half /= 2) {
        floats other = x;
        memcpy(&other, (float *)&x + half, (size_t)half * sizeof(float));
        x = larger_of(x, other);
    }
    return x[0];
#endif
}

/* The largest of a block, NaN if one is. */
INLINE float maximum_of(const float *x) {
    floats most[TOGETHER];
    uint32_t unordered = 0;
    EACH most[k] = take(x + k * WIDTH);
    for (int i = 0; i < VECTORS; i += TOGETHER) {
        floats next[TOGETHER];
        EACH next[k] = take(x + (i + k) * WIDTH);
        for (int k = 0; k < TOGETHER; k += 2) unordered |= unordered_of(next[k], next[k + 1]);
        EACH most[k] = larger_of(next[k], most[k]);
    }
    float found = largest_of(larger_of(larger_of(most[0], most[1]), larger_of(most[2], most[3])));
    return unordered ? NAN : found;
}

/* The halves of a block are added to each other, then the halves of that, to a single number. */
INLINE float sum_of(const float *x, float peak, float scale) {
    floats sums[VECTORS / 2];
    for (int i = 0; i < VECTORS / 2; i += TOGETHER / 2) {
        floats parts[TOGETHER];
        EACH parts[k] = take(x + (i + k / 2) * WIDTH + k % 2 * (BLOCK / 2));
        weights_of(parts, peak, scale);
        for (int k = 0; k < TOGETHER / 2; k++) sums[i + k] = parts[2 * k] + parts[2 * k + 1];
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

/* Scales are what differences of logits are multiplied by to be exponents of two; where one is 0
 * sums are left as they are. */
EXPORTED void measure_blocks(const Rows *in, const float *scales, float *maxima, float *sums) {
    int64_t num_blocks = num_blocks_of(in);
    float copy[BLOCK] __attribute__((aligned(64)));
    for (int64_t n = 0; n < in->num_rows; n++) {
        for (int64_t block = 0; block < num_blocks; block++) {
            const float *x = block_of(in, n, block, copy);
            int64_t place = n * num_blocks + block;
            for (int i = 0; i < BLOCK; i += 16) __builtin_prefetch(x + AHEAD * BLOCK + i);
            float most = maxima[place] = maximum_of(x);
            if (scales[n] > 0) sums[place] = sum_of(x, most > -INFINITY ? most : 0, scales[n]);
        }
    }
}

/* Logits from the row's bound on, in the order of rows and ids, out of blocks whose maxima reach it.
 * Gives how many there are; only those for which there is room, and that of another block, are written. */
EXPORTED int64_t find_logits(const Rows *in, const float *maxima, const float *bounds, int64_t room,
                             int64_t *sizes, int32_t *ids, float *found) {
    int64_t num_blocks = num_blocks_of(in), count = 0;
    float copy[BLOCK] __attribute__((aligned(64))), rest[BLOCK];
    int32_t rest_ids[BLOCK];
    for (int64_t n = 0; n < in->num_rows; n++) {
        const float *most = maxima + n * num_blocks, *row = in->logits + in->rows[n] * in->stride;
        Ahead ahead = {0};
        int64_t before = count;
        for (int64_t block = 0; block < num_blocks; block++) {
            if (!(most[block] >= bounds[n])) continue;
            fetch_ahead(&ahead, row, most, num_blocks, bounds[n]);
            int has_room = room - count >= BLOCK;
            count += find_in_block(block_of(in, n, block, copy), (int32_t)(block * BLOCK), bounds[n], INFINITY,
                                   has_room ? ids + count : rest_ids, has_room ? found + count : rest);
        }
        sizes[n] = count - before;
    }
    return count;
}
