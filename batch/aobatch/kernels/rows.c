/* Rows of floats into rows of bytes: residual norms, activations, Hadamard blocks. */
#include "lanes.h"
#include "operators.h"

/* Turn blocks of a row by the orthonormal Hadamard matrix (Sylvester), in place. */
static void turn(float *row, int64_t width, int64_t block) {
    float unit = 1.0f / sqrtf((float)block);
    for (int64_t i = 0; i < width; i += LANES) {
        f32x16 x = load(row + i);
        if (block > 1) x = SWAP_1(x) + x * (f32x16){1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
        if (block > 2) x = SWAP_2(x) + x * (f32x16){1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
        if (block > 4) x = SWAP_4(x) + x * (f32x16){1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
        if (block > 8) x = SWAP_8(x) + x * (f32x16){1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
        store(row + i, x);
    }
    for (int64_t half = LANES; half < block; half *= 2)
        for (int64_t start = 0; start < width; start += 2 * half)
            for (int64_t i = start; i < start + half; i += LANES) {
                f32x16 a = load(row + i), b = load(row + i + half);
                store(row + i, a + b);
                store(row + i + half, a - b);
            }
    for (int64_t i = 0; i < width; i += LANES) store(row + i, load(row + i) * unit);
}

void quantise_row(const Quantiser *quantiser, float *row, uint8_t *bytes, float *peak) {
    int64_t width = quantiser->width;
    if (quantiser->block > 1) turn(row, width, quantiser->block);
    float scale = 127.0f / quantiser->clip;
    if (!(quantiser->clip > 0)) {
        f32x16 most = {0};
        for (int64_t i = 0; i < width; i += LANES) most = larger(absolute(load(row + i)), most);
        *peak = largest(most);
        scale = *peak > 0 ? 127.0f / *peak : 0.0f;
    }
    for (int64_t i = 0; i < width; i += LANES)
        store_bytes(bytes + i, rounded(clamped(load(row + i) * scale, -128, 127)) + 128);
}

/* One over the root of the mean square. */
static float norm_factor(const float *row, int64_t width, float epsilon) {
    f32x16 squares = {0};
    for (int64_t i = 0; i < width; i += LANES) squares += load(row + i) * load(row + i);
    return 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
}

void add_row(const Norm *norm, const float *residual, float *product, float *total) {
    int64_t width = norm->quantiser.width;
    if (norm->bias)
        for (int64_t i = 0; i < width; i += LANES) store(product + i, load(product + i) + load(norm->bias + i));
    if (norm->post_gain) {
        float factor = norm_factor(product, width, norm->epsilon);
        for (int64_t i = 0; i < width; i += LANES)
            store(product + i, load(product + i) * factor * load(norm->post_gain + i));
        SETTLE();
    }
    for (int64_t i = 0; i < width; i += LANES) store(total + i, load(residual + i) + load(product + i));
}

void norm_row(const Norm *norm, const float *row, float *work, uint8_t *bytes, float *peak) {
    int64_t width = norm->quantiser.width;
    float factor = norm->is_plain ? 1.0f : norm_factor(row, width, norm->epsilon);
    for (int64_t i = 0; i < width; i += LANES) {
        f32x16 x = load(row + i) * factor;
        store(work + i, norm->gain ? x * load(norm->gain + i) : x);
    }
    quantise_row(&norm->quantiser, work, bytes, peak);
}

/* The part of a normal distribution beyond |x|, within 1e-7 (Abramowitz and Stegun 1964, 7.1.26). */
INLINE f32x16 normal_tail(f32x16 x) {
    f32x16 size = absolute(x) * 0.70710678f, t = 1.0f / (size * 0.3275911f + 1.0f);
    f32x16 tail = t * 0.530702715f - 0.726576013f;
    tail = tail * t + 0.710706871f;
    tail = tail * t - 0.142248368f;
    tail = tail * t + 0.127414796f;
    return tail * t * exponential(-size * size);
}

/* x times a sigmoid: SiLU, or the GELU whose tanh is written as one (Hendrycks and Gimpel 2016); times
 * a normal distribution: GELU; or times itself where it is positive. */
INLINE f32x16 activated(const int kind, f32x16 x) {
    if (kind == RELU_SQUARED) return larger(x, all(0)) * larger(x, all(0));
    if (kind == GELU) return larger(x, all(0)) - absolute(x) * normal_tail(x);
    f32x16 inner = kind == GELU_TANH ? x * 1.5957691216057308f * (x * x * 0.044715f + 1.0f) : x;
    return x / (exponential(smaller(-inner, all(88.0f))) + 1.0f);
}

INLINE f32x16 biased(const float *x, const float *bias, int64_t i) {
    return bias ? load(x + i) + load(bias + i) : load(x + i);
}

INLINE void activate_kind(const int kind, const Gates *gates, float *out, int64_t stride) {
    for (int64_t row = 0; row < gates->rows; row++) {
        const float *gate = gates->gate + row * gates->stride;
        const float *up = gates->up ? gates->up + row * gates->stride : NULL;
        for (int64_t i = 0; i < gates->columns; i += LANES) {
            f32x16 x = activated(kind, biased(gate, gates->gate_bias, i));
            store(out + row * stride + i, up ? x * biased(up, gates->up_bias, i) : x);
        }
    }
}

void activate(const Gates *gates, float *out, int64_t stride) {
#define KIND(kind) case kind: activate_kind(kind, gates, out, stride); break;
    switch (gates->kind) { KIND(SILU) KIND(GELU_TANH) KIND(GELU) KIND(RELU_SQUARED) }
}
