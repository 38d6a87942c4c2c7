/* Sixteen lanes of numbers, and the few functions of them that every operator is made of.
 *
 * All operators compute over exactly sixteen lanes, in one order of additions, with fused
 * multiply-add wherever a product is added (-ffp-contract=fast) and with the exponential below. So
 * they give the same bits on every processor and from every compiler. A product that must be
 * rounded before it is added goes through memory (SETTLE) or a choice of bits first,
 * which compilers keep. */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
#define HIDDEN __attribute__((visibility("hidden")))
#define EXPORTED __attribute__((visibility("default")))
/* Everything computed so far is rounded and stored. */
#define SETTLE() __asm__ volatile("" : : : "memory")

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t s8x16 __attribute__((vector_size(16)));

static const i32x16 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE f32x16 load(const float *p) {
    f32x16 x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void store(float *p, f32x16 x) { memcpy(p, &x, sizeof x); }

INLINE i32x16 load_bytes(const void *p) {
    i32x16 x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE f32x16 all(float x) { return (f32x16){0} + x; }

INLINE i32x16 all_int(int32_t x) { return (i32x16){0} + x; }

#ifdef __clang__
#define SHUFFLE(x, kind, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLE(x, kind, ...) __builtin_shuffle(x, (kind){__VA_ARGS__})
#endif

/* Compilers divide a vector that is wider than the processor's, but for plain arithmetic, into single
 * numbers: what follows does it by hand. On AVX-512 they do not find masks by themselves. */
#ifdef __AVX512F__
typedef __mmask16 mask16;
INLINE mask16 within(i32x16 x, int32_t low, int32_t high) {
    return _mm512_cmp_epi32_mask((__m512i)x, _mm512_set1_epi32(low), _MM_CMPINT_NLT) &
           _mm512_cmp_epi32_mask((__m512i)x, _mm512_set1_epi32(high), _MM_CMPINT_LE);
}
INLINE f32x16 blend(mask16 mask, f32x16 a, f32x16 b) {
    return (f32x16)_mm512_mask_blend_ps(mask, (__m512)b, (__m512)a);
}
INLINE f32x16 larger(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE f32x16 smaller(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE f32x16 absolute(f32x16 x) { return (f32x16)((i32x16)x & 0x7FFFFFFF); }
#define SWAP_1(x) SHUFFLE(x, i32x16, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#define SWAP_2(x) SHUFFLE(x, i32x16, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define SWAP_4(x) SHUFFLE(x, i32x16, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define SWAP_8(x) SHUFFLE(x, i32x16, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#else
#ifdef __AVX2__
#define NATIVE 8
#define SHUFFLE_NATIVE(x, n) SHUFFLE(x, i32native, n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n)
#else
#define NATIVE 4
#define SHUFFLE_NATIVE(x, n) SHUFFLE(x, i32native, n, 1 ^ n, 2 ^ n, 3 ^ n)
#endif
#define NATIVES (LANES / NATIVE)
#define EACH_NATIVE for (int part = 0; part < NATIVES; part++)
typedef float f32native __attribute__((vector_size(4 * NATIVE)));
typedef int32_t i32native __attribute__((vector_size(4 * NATIVE)));
typedef i32x16 mask16;
INLINE mask16 within(i32x16 x, int32_t low, int32_t high) {
    i32native parts[NATIVES], none = {0};
    memcpy(parts, &x, sizeof x);
    EACH_NATIVE parts[part] = ~((none + low > parts[part]) | (parts[part] > none + high));
    memcpy(&x, parts, sizeof x);
    return x;
}
INLINE f32x16 blend(mask16 mask, f32x16 a, f32x16 b) {
    i32native x[NATIVES], y[NATIVES], chosen[NATIVES];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(chosen, &mask, sizeof mask);
    EACH_NATIVE x[part] = (x[part] & chosen[part]) | (y[part] & ~chosen[part]);
    memcpy(&a, x, sizeof a);
    return a;
}
INLINE f32x16 larger(f32x16 a, f32x16 b) {
    f32native x[NATIVES], y[NATIVES];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b);
#ifdef __AVX2__
    EACH_NATIVE x[part] = (f32native)_mm256_max_ps((__m256)x[part], (__m256)y[part]);
#else
    EACH_NATIVE {
        i32native mask = x[part] > y[part];
        x[part] = (f32native)(((i32native)x[part] & mask) | ((i32native)y[part] & ~mask));
    }
#endif
    memcpy(&a, x, sizeof a);
    return a;
}
INLINE f32x16 smaller(f32x16 a, f32x16 b) { return -larger(-a, -b); }
INLINE f32x16 absolute(f32x16 x) {
    i32native parts[NATIVES];
    memcpy(parts, &x, sizeof x);
    EACH_NATIVE parts[part] &= 0x7FFFFFFF;
    memcpy(&x, parts, sizeof x);
    return x;
}
#define SWAP(by)                                                                                          \
    INLINE f32x16 SWAP_##by(f32x16 x) {                                                                   \
        f32native parts[NATIVES], swapped[NATIVES];                                                             \
        memcpy(parts, &x, sizeof x);                                                                      \
        EACH_NATIVE swapped[part] = by < NATIVE ? SHUFFLE_NATIVE(parts[part], by % NATIVE) : parts[part ^ by / NATIVE]; \
        memcpy(&x, swapped, sizeof x);                                                                    \
        return x;                                                                                         \
    }
SWAP(1)
SWAP(2)
SWAP(4)
SWAP(8)
#endif

INLINE f32x16 to_float(i32x16 x) { return __builtin_convertvector(x, f32x16); }

/* x itself, rounded: a product that no addition may be fused with. */
INLINE f32x16 settled(f32x16 x) {
#ifdef __AVX512F__
    __asm__("" : "+v"(x));
#else
    f32native parts[NATIVES];
    memcpy(parts, &x, sizeof x);
#if defined(__AVX2__)
    EACH_NATIVE __asm__("" : "+x"(parts[part]));
#elif defined(__ARM_NEON)
    EACH_NATIVE __asm__("" : "+w"(parts[part]));
#else
    EACH_NATIVE __asm__("" : "+m"(parts[part]));
#endif
    memcpy(&x, parts, sizeof x);
#endif
    return x;
}

/* Round to the nearest integer, ties to even; |x| < 2^22. */
INLINE i32x16 rounded(f32x16 x) {
#ifdef __AVX512F__
    return (i32x16)_mm512_cvtps_epi32((__m512)x);
#else
    return (i32x16)(settled(x) + 12582912.0f) - 0x4B400000;
#endif
}

INLINE f32x16 clamped(f32x16 x, float low, float high) {
    return smaller(larger(x, all(low)), all(high));
}

/* Store the lowest byte of each lane. */
INLINE void store_bytes(uint8_t *p, i32x16 x) {
#ifdef __AVX512F__
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
#else
    for (int i = 0; i < LANES; i++) p[i] = (uint8_t)x[i];
#endif
}

INLINE float sum(f32x16 x) {
    x += SWAP_8(x);
    x += SWAP_4(x);
    x += SWAP_2(x);
    x += SWAP_1(x);
    return x[0];
}

INLINE float largest(f32x16 x) {
    x = larger(x, SWAP_8(x));
    x = larger(x, SWAP_4(x));
    x = larger(x, SWAP_2(x));
    x = larger(x, SWAP_1(x));
    return x[0];
}

/* e^x for x <= 88, within 2e-7 of itself; 2^-126 where it would be smaller. */
INLINE f32x16 exponential(f32x16 x) {
    f32x16 scaled = larger(x * 1.44269504f, all(-126.0f));
    f32x16 shifted = scaled + 12582912.0f;
    i32x16 whole = (i32x16)shifted - 0x4B400000;
    f32x16 part = scaled - (shifted - 12582912.0f);
    f32x16 power = part * 1.535336188319500e-4f + 1.339887440266574e-3f;
    power = power * part + 9.618437357674640e-3f;
    power = power * part + 5.550332471162809e-2f;
    power = power * part + 2.402264791363012e-1f;
    power = power * part + 6.931472028550421e-1f;
    power = power * part + 1.0f;
    return power * (f32x16)((whole + 127) << 23);
}

/* tanh(x), within 1e-7. */
INLINE f32x16 bent(f32x16 x) { return 1.0f - 2.0f / (exponential(clamped(x * 2.0f, -88, 88)) + 1.0f); }

/* Sixteen lanes of four bytes each, or of sums of their products: as two registers where the processor's
 * have eight, since compilers keep vectors that are wider in memory. */
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
typedef struct {
    __m256i half[2];
} quads;
INLINE quads load_quads(const void *p) {
    const __m256i *from = p;
    return (quads){{_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)}};
}
INLINE quads all_quads(int32_t x) { return (quads){{_mm256_set1_epi32(x), _mm256_set1_epi32(x)}}; }
INLINE f32x16 sums_of(quads x) {
    i32x16 sums;
    memcpy(&sums, x.half, sizeof sums);
    return to_float(sums);
}
#else
typedef i32x16 quads;
INLINE quads load_quads(const void *p) { return load_bytes(p); }
INLINE quads all_quads(int32_t x) { return all_int(x); }
INLINE f32x16 sums_of(quads x) { return to_float(x); }
#endif

/* Add to each lane the product of its four unsigned and four signed bytes. */
INLINE quads dot(quads sums, quads bytes_unsigned, quads bytes_signed) {
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)bytes_unsigned,
                                       (__m512i)bytes_signed);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; i++) {
        __m256i a = bytes_unsigned.half[i], b = bytes_signed.half[i];
#if defined(__AVXVNNI__)
        sums.half[i] = _mm256_dpbusd_avx_epi32(sums.half[i], a, b);
#else
        /* Bytes are widened first: pairs of products do not fit into 16 bits. */
        __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
        __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
        sums.half[i] = _mm256_add_epi32(sums.half[i], _mm256_add_epi32(even, odd));
#endif
    }
    return sums;
#elif defined(__ARM_FEATURE_DOTPROD)
    uint8x16_t a[4];
    int8x16_t b[4];
    int32x4_t c[4];
    memcpy(a, &bytes_unsigned, 64);
    memcpy(b, &bytes_signed, 64);
    memcpy(c, &sums, 64);
    for (int i = 0; i < 4; i++) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        c[i] = vusdotq_s32(c[i], a[i], b[i]);
#else
        /* 128 is taken from unsigned bytes, and what that takes from the sum is added. */
        int8x16_t less = vreinterpretq_s8_u8(veorq_u8(a[i], vdupq_n_u8(128)));
        int32x4_t more = vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), b[i]), 7);
        c[i] = vaddq_s32(vdotq_s32(c[i], less, b[i]), more);
#endif
    }
    memcpy(&sums, c, 64);
    return sums;
#else
    for (int i = 0; i < 32; i += 8) {
        sums += ((bytes_unsigned >> i) & 255) * ((bytes_signed << (24 - i)) >> 24);
    }
    return sums;
#endif
}
