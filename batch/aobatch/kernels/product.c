/* Products of rows of bytes with weights of bytes. */
#define _GNU_SOURCE /* sets of processors */
#include "product.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* A tile is MAX_TILE rows by WIDE registers of PART lanes. Rows are bytes around 128: where
 * FROM_OFFSETS, they count as they are, and sums begin with what takes the 128 back; where WIDENED,
 * they are numbers of 16 bits, the even ones of a row ahead of the odd ones. */
#if defined(__AVX512VNNI__)
#define MAX_TILE 14
#define WIDE 2
#define PART 16
#define FROM_OFFSETS 1
#elif defined(__AVX2__)
#define MAX_TILE 4
#define WIDE 2
#define PART 8
#else
#define MAX_TILE 4
#define WIDE 4
#define PART 4
#endif
#ifdef __AVXVNNI__
#define FROM_OFFSETS 1
#elif !defined(FROM_OFFSETS)
#define FROM_OFFSETS 0
#endif
#if defined(__AVX2__) && !FROM_OFFSETS
#define WIDENED 1
#else
#define WIDENED 0
#endif
/* Below so many rows a product waits for its weight, not for multiplications. */
#define ENOUGH_FOR_TILES 12
typedef int32_t part __attribute__((vector_size(4 * PART)));
typedef float floats __attribute__((vector_size(4 * PART)));

/* Weights lie beside each other in large pages, where the system has them: addresses of small ones
 * would have to be looked up whenever weights are read. */
#define LARGE_PAGE ((size_t)1 << 21)
#define LARGE_PAGES 16
struct Pool {
    size_t size, used, weights;
};
static Pool *last;
static atomic_flag is_busy = ATOMIC_FLAG_INIT;

static Pool *new_pool(size_t least) {
    size_t used = (sizeof(Pool) + 63) / 64 * 64, pages = (used + least + LARGE_PAGE - 1) / LARGE_PAGE;
    size_t size = (pages < LARGE_PAGES ? LARGE_PAGES : pages) * LARGE_PAGE;
    Pool *pool = aligned_alloc(LARGE_PAGE, size);
    if (!pool) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(pool, size, MADV_HUGEPAGE);
#endif
    *pool = (Pool){size, used, 0};
    return pool;
}

/* Memory for a weight, whose pool is noted; null if there is too little. */
static void *take(size_t size, Weight *weight) {
    void *found = NULL;
    while (atomic_flag_test_and_set(&is_busy)) {}
    Pool *pool = last && last->size - last->used >= size ? last : new_pool(size);
    if (pool) {
        found = (char *)pool + pool->used;
        pool->used += size, pool->weights++;
        weight->pool = last = pool;
    }
    atomic_flag_clear(&is_busy);
    return found;
}

void release_weight(Weight *weight) {
    Pool *pool = weight->pool;
    *weight = (Weight){0};
    if (!pool) return;
    while (atomic_flag_test_and_set(&is_busy)) {}
    if (!--pool->weights) {
        if (pool == last) last = NULL;
        free(pool);
    }
    atomic_flag_clear(&is_busy);
}

/* Columns are packed a line of the cache at a time, by several threads where there are many. */
#define STRIPS 4
#define MOST_PACKERS 8
#define ENOUGH_FOR_A_PACKER (1 << 18)

typedef struct {
    const Weight *weight;
    const int8_t *columns;
    int64_t first, stop;
    pthread_t thread;
} Packer;

static void *pack_columns(void *data) {
    const Packer *p = data;
    const Weight *weight = p->weight;
    int64_t inputs = weight->inputs, outputs = weight->outputs, depth = depth_of(inputs);
    for (int64_t from = p->first; from < p->stop; from += STRIPS * LANES) {
        int strips = (int)((p->stop - from < STRIPS * LANES ? p->stop - from : STRIPS * LANES) / LANES);
        i32x16 sums[STRIPS] = {{0}};
        for (int64_t k = 0; k < depth; k += 4)
            for (int n = 0; n < strips; n++) {
                i32x16 quads = {0};
                int64_t left = outputs - from - n * LANES;
                for (int part = 0; part < 4 && k + part < inputs && left > 0; part++) {
                    const int8_t *at = p->columns + (k + part) * outputs + from + n * LANES;
                    s8x16 row = {0};
                    if (left >= LANES)
                        memcpy(&row, at, LANES);
                    else
                        memcpy(&row, at, (size_t)left);
                    i32x16 numbers = __builtin_convertvector(row, i32x16);
                    sums[n] += numbers;
                    quads |= (numbers & 255) << (8 * part);
                }
                memcpy(weight->panels + (from + n * LANES) * depth + k * LANES, &quads, sizeof quads);
            }
        for (int n = 0; n < strips; n++) {
            sums[n] *= -128;
            memcpy(weight->offsets + from + n * LANES, &sums[n], sizeof sums[n]);
        }
    }
    return NULL;
}

static int64_t packers_for(int64_t bytes) {
    cpu_set_t allowed;
    int64_t most = sched_getaffinity(0, sizeof allowed, &allowed) ? 1 : CPU_COUNT(&allowed);
    if (most > MOST_PACKERS) most = MOST_PACKERS;
    return bytes / ENOUGH_FOR_A_PACKER < most ? bytes / ENOUGH_FOR_A_PACKER : most;
}

int pack_weight(Weight *weight, const int8_t *columns, const float *scales, float unit, int64_t inputs,
                int64_t outputs) {
    int64_t depth = depth_of(inputs), padded = (outputs + PANEL - 1) / PANEL * PANEL;
    *weight = (Weight){.inputs = inputs, .outputs = outputs};
    if (depth > MAX_DEPTH || !(weight->panels = take((size_t)(padded * (depth + 8)), weight))) return 0;
    weight->scales = (float *)(weight->panels + padded * depth);
    weight->offsets = (int32_t *)(weight->scales + padded);
    for (int64_t i = 0; i < padded; i++) weight->scales[i] = i < outputs ? scales[i] * unit : 0;
    Packer packers[MOST_PACKERS];
    int64_t count = packers_for(padded * depth), lines = (padded + STRIPS * LANES - 1) / (STRIPS * LANES);
    if (count < 1) count = 1;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = lines * i / count * STRIPS * LANES, stop = lines * (i + 1) / count * STRIPS * LANES;
        packers[i] = (Packer){weight, columns, first, stop < padded ? stop : padded, 0};
        /* The last share is this thread's own, as is what no thread could be had for. */
        if (i + 1 == count || pthread_create(&packers[i].thread, NULL, pack_columns, packers + i))
            pack_columns(packers + i), packers[i].stop = 0;
    }
    for (int64_t i = 0; i < count; i++)
        if (packers[i].stop) pthread_join(packers[i].thread, NULL);
    return 1;
}

static __attribute__((noinline)) void store_part(float *target, floats x, int64_t width) {
    if (width > 0) memcpy(target, &x, width < PART ? (size_t)width * sizeof(float) : sizeof x);
}

#if WIDENED
#define WIDE_ROWS (8 * MAX_DEPTH)
static _Thread_local uint8_t wide_rows[WIDE_ROWS] __attribute__((aligned(32)));

INLINE __m256i evens(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
INLINE __m256i odds(__m256i bytes) { return _mm256_srai_epi16(bytes, 8); }

/* Rows as numbers of 16 bits: products of bytes by pairs fit nothing less. */
static void widen_rows(const ByteRows *rows, int64_t depth) {
    for (int64_t row = 0; row < rows->count; row++)
        for (int64_t k = 0; k < depth; k += 32) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(rows->bytes + row * depth + k));
            uint8_t *target = wide_rows + 2 * row * depth + k;
            x = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
            _mm256_store_si256((__m256i *)target, evens(x));
            _mm256_store_si256((__m256i *)(target + depth), odds(x));
        }
}

/* Add the products of four depths of R rows with the bytes of WIDE registers of columns. */
INLINE void dot_rows(part sums[][WIDE], const int R, const uint8_t *at, int64_t depth, const part *bytes) {
    __m256i even[WIDE], odd[WIDE];
    for (int n = 0; n < WIDE; n++) even[n] = evens((__m256i)bytes[n]), odd[n] = odds((__m256i)bytes[n]);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++, at += 2 * depth) {
        int32_t pairs[2];
        memcpy(pairs, at, 4), memcpy(pairs + 1, at + depth, 4);
        for (int n = 0; n < WIDE; n++) {
            sums[r][n] += (part)_mm256_madd_epi16(even[n], _mm256_set1_epi32(pairs[0]));
            sums[r][n] += (part)_mm256_madd_epi16(odd[n], _mm256_set1_epi32(pairs[1]));
        }
    }
}
#else
/* Add to each lane the product of its four bytes, in [-127, 127], and the four of a row. */
INLINE part dot_row(part sums, int32_t four, part bytes) {
#if defined(__AVX512VNNI__)
    return (part)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), (__m512i)bytes);
#elif defined(__AVXVNNI__)
    return (part)_mm256_dpbusd_avx_epi32((__m256i)sums, _mm256_set1_epi32(four), (__m256i)bytes);
#elif defined(__ARM_FEATURE_DOTPROD)
    int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four ^ (int32_t)0x80808080));
    return (part)vdotq_s32((int32x4_t)sums, x, (int8x16_t)bytes);
#else
    for (int i = 0; i < 32; i += 8)
        sums += ((bytes << (24 - i)) >> 24) * ((int32_t)(((uint32_t)four >> i) & 255) - 128);
    return sums;
#endif
}

INLINE void dot_rows(part sums[][WIDE], const int R, const uint8_t *at, int64_t depth, const part *bytes) {
#pragma GCC unroll 14
    for (int r = 0; r < R; r++, at += depth) {
        int32_t four;
        memcpy(&four, at, 4);
#pragma GCC unroll 4
        for (int n = 0; n < WIDE; n++) sums[r][n] = dot_row(sums[r][n], four, bytes[n]);
    }
}
#endif

/* R rows, of which `count` are wanted, by WIDE registers from a column on; the first tile of some
 * columns has the next ones fetched. */
INLINE void tile(const ByteRows *rows, const Weight *weight, const int R, int count, int64_t row, int64_t column,
                 float *out, int64_t stride) {
    int64_t depth = depth_of(weight->inputs), apart[WIDE];
#if WIDENED
    const uint8_t *bytes = wide_rows + 2 * row * depth;
#else
    const uint8_t *bytes = rows->bytes + row * depth;
#endif
    const int8_t *columns = weight->panels + column / LANES * LANES * depth + column % LANES * 4;
    part sums[MAX_TILE][WIDE];
#pragma GCC unroll 4
    for (int n = 0; n < WIDE; n++) {
        apart[n] = n * PART / LANES * LANES * depth + n * PART % LANES * 4;
#pragma GCC unroll 14
        for (int r = 0; r < R; r++) {
            sums[r][n] = (part){0};
            if (FROM_OFFSETS) memcpy(&sums[r][n], weight->offsets + column + n * PART, sizeof(part));
        }
    }
    for (int64_t k = 0; k < depth; k += 4) {
        part bytes_of_columns[WIDE];
#pragma GCC unroll 4
        for (int n = 0; n < WIDE; n++) {
            const int8_t *at = columns + apart[n] + k * LANES;
            memcpy(&bytes_of_columns[n], at, sizeof(part));
            if (!row) __builtin_prefetch(at + WIDE * PART * depth);
        }
        dot_rows(sums, R, bytes + k, depth, bytes_of_columns);
    }
    float *target = out + row * stride;
    int64_t width = weight->outputs - column;
#pragma GCC unroll 4
    for (int n = 0; n < WIDE; n++) {
        floats scales;
        memcpy(&scales, weight->scales + column + n * PART, sizeof scales);
#pragma GCC unroll 14
        for (int r = 0; r < R; r++) {
            floats x = __builtin_convertvector(sums[r][n], floats) * scales;
            if (r + 1 == R && count < R) continue;
            if (rows->scales) x *= rows->scales[row + r];
            if (width >= WIDE * PART)
                memcpy(target + r * stride + n * PART, &x, sizeof x);
            else
                store_part(target + r * stride + n * PART, x, width - n * PART);
        }
    }
}

int64_t rows_together(void) {
#if HAS_TILES
    if (tiles_are_allowed()) return MOST_ROWS_TOGETHER;
#endif
    return 70;
}

static void multiply_rows(const ByteRows *rows, const Weight *weight, int64_t first, int64_t stop, float *out,
                          int64_t stride) {
#if WIDENED
    widen_rows(rows, depth_of(weight->inputs));
#endif
    int64_t pairs = (rows->count + 1) / 2, tiles = (2 * pairs + MAX_TILE - 1) / MAX_TILE;
    for (int64_t column = first * PANEL; column < stop * PANEL; column += WIDE * PART, out += WIDE * PART)
        for (int64_t i = 0; i < tiles; i++) { /* as equal as can be, of even heights but for a lone row */
            int64_t row = pairs * i / tiles * 2, end = pairs * (i + 1) / tiles * 2;
            int count = (int)((end < rows->count ? end : rows->count) - row);
#define TILE(R) case R: tile(rows, weight, R, count, row, column, out, stride); break;
            switch (rows->count == 1 ? 1 : end - row) {
                TILE(1) TILE(2) TILE(4)
#if MAX_TILE > 4
                TILE(6) TILE(8) TILE(10) TILE(12) TILE(14)
#endif
            }
        }
}

void multiply(const ByteRows *rows, const Weight *weight, int64_t first, int64_t stop, float *out,
              int64_t stride) {
#if HAS_TILES
    if (rows->count >= ENOUGH_FOR_TILES && tiles_are_allowed()) {
        multiply_tiles(rows, weight, first, stop, out, stride);
        return;
    }
#endif
    int64_t depth = depth_of(weight->inputs), most = rows->count;
#if WIDENED
    most = (int64_t)(WIDE_ROWS / 2) / depth / MAX_TILE * MAX_TILE;
#endif
    for (int64_t row = 0; row < rows->count; row += most) {
        int64_t count = rows->count - row < most ? rows->count - row : most;
        ByteRows some = {count, rows->bytes + row * depth, rows->scales ? rows->scales + row : NULL};
        multiply_rows(&some, weight, first, stop, out + row * stride, stride);
    }
}
