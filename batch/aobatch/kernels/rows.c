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

static void quantise(const Quantiser *quantiser, float *row, uint8_t *bytes, float *peak) {
    int64_t width = quantiser->width;
    if (quantiser->block > 1) turn(row, width, quantiser->block);
    float scale = 127.0f / quantiser->clip;
    if (peak) {
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

/* What the product adds to the residual stream. */
static void take_in(const Norm *norm, int64_t row, float *added) {
    int64_t width = norm->quantiser.width;
    const float *product = norm->product + row * width;
    float scale = norm->scale ? norm->scale[row] : 1.0f;
    for (int64_t i = 0; i < width; i += LANES) {
        f32x16 x = norm->bias ? load(product + i) * scale + load(norm->bias + i)
                              : load(product + i) * scale;
        store(added + i, x);
    }
    if (!norm->post_gain) return;
    float factor = norm_factor(added, width, norm->epsilon);
    for (int64_t i = 0; i < width; i += LANES)
        store(added + i, load(added + i) * factor * load(norm->post_gain + i));
    SETTLE();
}

void norm_rows(const Norm *norm, int64_t first, int64_t stop) {
    int64_t width = norm->quantiser.width;
    float work[width] __attribute__((aligned(64)));
    for (int64_t row = first; row < stop; row++) {
        const float *residual = norm->residual + row * width;
        float *total = norm->sum ? norm->sum + row * width : work;
        if (norm->product && !norm->bias && !norm->post_gain) {
            float scale = norm->scale ? norm->scale[row] : 1.0f;
            const float *product = norm->product + row * width;
            for (int64_t i = 0; i < width; i += LANES)
                store(total + i, load(product + i) * scale + load(residual + i));
        } else if (norm->product) {
            take_in(norm, row, work);
            for (int64_t i = 0; i < width; i += LANES)
                store(total + i, load(residual + i) + load(work + i));
        } else {
            memmove(total, residual, (size_t)width * sizeof(float));
        }
        float factor = norm_factor(total, width, norm->epsilon);
        for (int64_t i = 0; i < width; i += LANES) {
            f32x16 x = load(total + i) * factor;
            store(work + i, norm->gain ? x * load(norm->gain + i) : x);
        }
        quantise(&norm->quantiser, work, norm->bytes + row * width,
                 norm->peaks ? norm->peaks + row : NULL);
    }
}

/* x times a sigmoid: SiLU, or the GELU whose tanh is written as one (Hendrycks and Gimpel 2016). */
INLINE f32x16 activated(int kind, f32x16 x) {
    if (kind == NONE) return x;
    f32x16 inner = x;
    if (kind == GELU_TANH) {
        inner = x * 1.5957691216057308f * (x * x * 0.044715f + 1.0f);
    }
    return x / (exponential(smaller(-inner, all(88.0f))) + 1.0f);
}

INLINE f32x16 biased(f32x16 x, float scale, const float *bias, int64_t i) {
    return bias ? x * scale + load(bias + i) : settled(x * scale);
}

INLINE void activate(const Activation *a, int kind, int64_t first, int64_t stop) {
    int64_t width = a->quantiser.width;
    float work[width] __attribute__((aligned(64)));
    for (int64_t row = first; row < stop; row++) {
        const float *gate = a->gate + row * a->stride;
        const float *up = a->up ? a->up + row * a->stride : NULL;
        float scale = a->scale ? a->scale[row] : 1.0f;
        for (int64_t i = 0; i < width; i += LANES) {
            f32x16 x = activated(kind, biased(load(gate + i), scale, a->gate_bias, i));
            if (up) x *= biased(load(up + i), scale, a->up_bias, i);
            store(work + i, x);
        }
        quantise(&a->quantiser, work, a->bytes + row * width, a->peaks ? a->peaks + row : NULL);
    }
}

void activate_rows(const Activation *activation, int64_t first, int64_t stop) {
    switch (activation->kind) {
    case SILU: activate(activation, SILU, first, stop); break;
    case GELU_TANH: activate(activation, GELU_TANH, first, stop); break;
    default: activate(activation, NONE, first, stop);
    }
}
