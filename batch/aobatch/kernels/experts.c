/* Feed-forward blocks of experts (Shazeer et al. 2017): what attention gave, multiplied and added, is
 * normed and routed; each expert that a row chose multiplies its rows, and a row adds up what its own
 * gave, in the order of its choice. So no row feels another, and experts that nobody chose are neither
 * packed nor read. */
#include "lanes.h"
#include "operators.h"
#include <stdlib.h>

#define MOST 3e38f /* beyond any score */

/* The weights of an expert, packed when it is first in use; null if there is too little memory. */
static const Expert *expert_of(const Mixture *m, int64_t number) {
    Expert *found = __atomic_load_n(m->packed + number, __ATOMIC_ACQUIRE), *own;
    if (found || !(own = calloc(1, sizeof *own))) return found;
    float unit = (m->middle.quantiser.clip > 0 ? m->middle.quantiser.clip : 1) / 127.0f;
    Weight *weights[] = {&own->gate, &own->up, &own->down};
    for (int i = 0; i < 3; i++) {
        int64_t inputs = i < 2 ? m->width : m->inner, outputs = i < 2 ? m->inner : m->width;
        if (!pack_weight(weights[i], m->columns[i] + number * inputs * outputs, m->scales[i] + number * outputs,
                         i < 2 ? unit : 1 / 127.0f, inputs, outputs)) {
            release_expert(own);
            return NULL;
        }
    }
    /* Another thread may have packed the same meanwhile. */
    if (__atomic_compare_exchange_n(m->packed + number, &found, own, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return own;
    release_expert(own);
    return found;
}

void release_expert(Expert *expert) {
    if (!expert) return;
    release_weight(&expert->gate), release_weight(&expert->up), release_weight(&expert->down);
    free(expert);
}

/* The scores of all experts for a normed row, sixteen at a time. */
static void score(const Mixture *m, const float *row, float *scores) {
    for (int64_t first = 0; first < m->experts; first += LANES) {
        const float *panel = m->router + first * m->width;
        f32x16 sums[4] = {{0}};
        for (int64_t k = 0; k < m->width; k += 4)
            for (int i = 0; i < 4; i++) sums[i] += load(panel + (k + i) * LANES) * row[k + i];
        f32x16 bias = all(0);
        if (m->router_bias)
            for (int64_t i = 0; i < LANES && first + i < m->experts; i++) bias[i] = m->router_bias[first + i];
        store(scores + first, (sums[0] + sums[1]) + (sums[2] + sums[3]) + bias);
    }
}

/* The experts of a row, the best first, and their shares: a softmax over them, or over all. */
static void choose(const Mixture *m, float *scores, int32_t *chosen, float *shares) {
    int64_t padded = (m->experts + LANES - 1) / LANES * LANES;
    float powers[padded] __attribute__((aligned(64))), whole = 0;
    for (int64_t i = m->experts; i < padded; i++) scores[i] = -MOST;
    f32x16 most = all(-MOST), sums = {0};
    for (int64_t i = 0; i < padded; i += LANES) most = larger(load(scores + i), most);
    float peak = largest(most);
    for (int64_t i = 0; i < padded; i += LANES) {
        f32x16 power = exponential(larger(load(scores + i) - peak, all(-1e6f)));
        store(powers + i, power);
        sums += power;
    }
    for (int64_t n = 0; n < m->used; n++) {
        int64_t best = 0;
        for (int64_t i = 1; i < m->experts; i++)
            if (scores[i] > scores[best]) best = i;
        chosen[n] = (int32_t)best;
        shares[n] = powers[best];
        whole += powers[best];
        scores[best] = -MOST;
    }
    if (!m->shares_whole) whole = sum(sums);
    for (int64_t n = 0; n < m->used; n++) shares[n] /= whole;
}

static void *room(uint8_t **at, int64_t numbers, size_t size) {
    void *found = *at;
    *at += ((size_t)numbers * size + 63) / 64 * 64;
    return found;
}

static int64_t up_to_step(int64_t rows) { return (rows + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP; }

int route_rows(const Mixture *m, int64_t first, int64_t count) {
    int64_t width = m->width, inputs = m->out.inputs, rows = up_to_step(count);
    int64_t padded = (m->experts + LANES - 1) / LANES * LANES;
    size_t size = (size_t)(rows * depth_of(inputs) + 4 * (rows + rows * width + width + padded)) + 5 * 64;
    uint8_t *memory = aligned_alloc(64, (size + 63) / 64 * 64), *at = memory;
    if (!memory) return 0;
    uint8_t *bytes = room(&at, rows * depth_of(inputs), 1);
    float *peaks = room(&at, rows, sizeof(float)), *added = room(&at, rows * width, sizeof(float));
    float *work = room(&at, width, sizeof(float)), *scores = room(&at, padded, sizeof(float));
    Quantiser attended = {inputs, 1, 0}; /* its rows are not turned, so what is attended stays */
    for (int64_t i = 0; i < count; i++)
        quantise_row(&attended, (float *)m->attended + (first + i) * inputs, bytes + i * depth_of(inputs), peaks + i);
    ByteRows all_rows = {count, bytes, peaks};
    multiply(&all_rows, &m->out, 0, panels_of(&m->out), added, width);
    Norm plain = m->middle;
    plain.quantiser.block = 1; /* the router reads rows before they are turned */
    for (int64_t i = 0; i < count; i++) {
        int64_t row = first + i;
        uint8_t *own = m->bytes + row * depth_of(width);
        add_row(&plain, m->residual + row * width, added + i * width, m->sum + row * width);
        norm_row(&plain, m->sum + row * width, work, own, m->peaks + row);
        score(m, work, scores);
        choose(m, scores, m->chosen + row * m->used, m->shares + row * m->used);
        if (m->middle.quantiser.block > 1) quantise_row(&m->middle.quantiser, work, own, m->peaks + row);
    }
    free(memory);
    return 1;
}

/* Gates times what stands beside them, a panel of columns at a time. */
static void multiply_gated(const Mixture *m, const Expert *expert, int64_t number, const ByteRows *rows, float *out) {
    float gate[MOST_ROWS_TOGETHER * PANEL] __attribute__((aligned(64)));
    float up[MOST_ROWS_TOGETHER * PANEL] __attribute__((aligned(64)));
    const float *gate_bias = m->biases[0], *up_bias = m->biases[1];
    for (int64_t column = 0; column < m->inner; column += PANEL) {
        int64_t left = m->inner - column < PANEL ? m->inner - column : PANEL;
        multiply(rows, &expert->gate, column / PANEL, column / PANEL + 1, gate, PANEL);
        multiply(rows, &expert->up, column / PANEL, column / PANEL + 1, up, PANEL);
        for (int64_t row = 0; row < rows->count; row++)
            for (int64_t i = 0; i < left; i += LANES) {
                int64_t at = number * m->inner + column + i;
                f32x16 x = load(gate + row * PANEL + i), y = load(up + row * PANEL + i);
                x = smaller(gate_bias ? x + load(gate_bias + at) : x, all(m->limit));
                y = clamped(up_bias ? y + load(up_bias + at) : y, -m->limit, m->limit) + m->offset;
                f32x16 active = x / (exponential(smaller(x * -m->sharpness, all(88.0f))) + 1.0f);
                store(out + row * m->inner + column + i, active * y);
            }
    }
}

int compute_share(const Mixture *m, const Share *share) {
    const Expert *expert = expert_of(m, share->expert);
    int64_t width = m->width, rows = up_to_step(share->count), depth = depth_of(width), inner = depth_of(m->inner);
    size_t size = (size_t)(rows * (depth + inner) + 4 * rows * (1 + m->inner + width)) + 5 * 64;
    uint8_t *memory = expert ? aligned_alloc(64, (size + 63) / 64 * 64) : NULL, *at = memory;
    if (!memory) return 0;
    uint8_t *bytes = room(&at, rows * depth, 1), *gated = room(&at, rows * inner, 1);
    float *peaks = room(&at, rows, sizeof(float)), *mixed = room(&at, rows * m->inner, sizeof(float));
    float *product = room(&at, rows * width, sizeof(float));
    for (int64_t i = 0; i < share->count; i++) {
        int64_t row = share->places[i] / m->used;
        memcpy(bytes + i * depth, m->bytes + row * depth, (size_t)depth);
        peaks[i] = m->peaks[row];
    }
    ByteRows own = {share->count, bytes, m->middle.quantiser.clip > 0 ? NULL : peaks};
    multiply_gated(m, expert, share->expert, &own, mixed);
    for (int64_t i = 0; i < share->count; i++)
        quantise_row(&m->gated_quantiser, mixed + i * m->inner, gated + i * inner, peaks + i);
    own = (ByteRows){share->count, gated, peaks};
    multiply(&own, &expert->down, 0, panels_of(&expert->down), product, width);
    for (int64_t i = 0; i < share->count; i++)
        for (int64_t j = 0; j < width; j += LANES) {
            f32x16 x = load(product + i * width + j);
            const float *bias = m->biases[2] ? m->biases[2] + share->expert * width + j : NULL;
            store(m->parts + share->places[i] * width + j, bias ? x + load(bias) : x);
        }
    free(memory);
    return 1;
}

void add_parts(const Mixture *m, int64_t row) {
    float *sum = m->sum + row * m->width;
    for (int64_t n = row * m->used; n < (row + 1) * m->used; n++)
        for (int64_t i = 0; i < m->width; i += LANES)
            store(sum + i, load(sum + i) + load(m->parts + n * m->width + i) * m->shares[n]);
}

int64_t share_out(const Mixture *m, int64_t rows, Share *shares, int32_t *places) {
    int64_t pairs = rows * m->used, count = 0, starts[m->experts + 1];
    memset(starts, 0, sizeof starts);
    for (int64_t n = 0; n < pairs; n++) starts[m->chosen[n] + 1]++;
    for (int64_t i = 0; i < m->experts; i++) {
        int64_t own = starts[i + 1], parts = blocks_of(own);
        starts[i + 1] += starts[i];
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = own * part / parts, stop = own * (part + 1) / parts;
            shares[count++] = (Share){i, stop - first, places + starts[i] + first};
        }
    }
    for (int64_t n = 0; n < pairs; n++) places[starts[m->chosen[n]]++] = (int32_t)n;
    return count;
}
