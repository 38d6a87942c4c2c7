/* What a decoder does with each row by itself, in stages that stay in the cache of one core. */
#include "lanes.h"
#include "operators.h"
#include <stdlib.h>

enum { QUANTISE_ATTENDED, MULTIPLY_OUT, NORM_MIDDLE, MULTIPLY_GATED, QUANTISE_GATED, MULTIPLY_DOWN, NORM_LAST, MULTIPLY_NEXT };
/* Rows, and panels of columns, that are not worth being divided. */
#define ROWS_EACH 4
#define PANELS_EACH 3
#define MAX_PARTS 16

static const Weight *weight_of(const Transform *t, int stage) {
    switch (stage) {
    case MULTIPLY_OUT: return &t->out;
    case MULTIPLY_GATED: return &t->gate;
    case MULTIPLY_DOWN: return &t->down;
    case MULTIPLY_NEXT: return &t->next;
    default: return NULL;
    }
}

static int64_t first_stage(const Transform *t) { return t->attended ? QUANTISE_ATTENDED : NORM_LAST; }

static void *room(uint8_t **at, int64_t rows, int64_t width, size_t size) {
    void *found = *at;
    *at += ((size_t)(rows * width) * size + 63) / 64 * 64;
    return found;
}

int prepare_stages(Stages *stages, const Transform *t, int64_t first, int64_t count) {
    int64_t width = t->last.quantiser.width, most = width;
    if (t->attended && t->down.inputs > most) most = t->down.inputs;
    if (t->attended && t->out.inputs > most) most = t->out.inputs;
    int64_t rows = (count + ROWS_STEP - 1) / ROWS_STEP * ROWS_STEP;
    size_t size = (size_t)rows * (size_t)(5 * depth_of(most) + 8 * width + 4) + 5 * 64;
    uint8_t *at = aligned_alloc(64, (size + 63) / 64 * 64);
    *stages = (Stages){.transform = t, .first = first, .count = count, .mixed = (float *)at};
    if (!at) return 0;
    room(&at, rows, most, sizeof(float));
    stages->added = room(&at, rows, width, sizeof(float));
    stages->total = room(&at, rows, width, sizeof(float));
    stages->peaks = room(&at, rows, 1, sizeof(float));
    stages->bytes = room(&at, rows, depth_of(most), 1);
    return 1; /* what stands behind a row's bytes may be anything: it is multiplied by zero */
}

void release_stages(Stages *stages) { free(stages->mixed); }

int64_t parts_of_stage(const Stages *stages, int stage) {
    const Weight *weight = weight_of(stages->transform, stage);
    if (stage < first_stage(stages->transform)) return 0;
    if (!weight) return (stages->count + ROWS_EACH - 1) / ROWS_EACH;
    int64_t parts = (panels_of(weight) + PANELS_EACH - 1) / PANELS_EACH;
    return parts < MAX_PARTS ? parts : MAX_PARTS;
}

/* Gate and up a panel at a time, so that their numbers never leave the nearest cache. */
static void multiply_gated(const Stages *stages, const ByteRows *rows, int64_t first, int64_t stop) {
    const Transform *t = stages->transform;
    float gate[MOST_ROWS_TOGETHER * PANEL] __attribute__((aligned(64)));
    float up[MOST_ROWS_TOGETHER * PANEL] __attribute__((aligned(64)));
    for (int64_t column = first * PANEL; column < stop * PANEL; column += PANEL) {
        int64_t left = t->gate.outputs - column;
        multiply(rows, &t->gate, column / PANEL, column / PANEL + 1, gate, PANEL);
        if (t->up.inputs) multiply(rows, &t->up, column / PANEL, column / PANEL + 1, up, PANEL);
        Gates gates = {t->activation, gate, t->up.inputs ? up : NULL, t->gate_bias ? t->gate_bias + column : NULL,
                       t->up_bias ? t->up_bias + column : NULL, rows->count, left < PANEL ? left : PANEL, PANEL};
        activate(&gates, stages->mixed + column, t->gate.outputs);
    }
}

/* Add the bias to the last product's columns from first to stop, and cap them. */
static void finish(const Stages *stages, int64_t first, int64_t stop) {
    const Transform *t = stages->transform;
    if (stop > t->next.outputs) stop = t->next.outputs;
    for (int64_t row = stages->first; row < stages->first + stages->count; row++)
        for (int64_t i = first; i < stop; i += LANES) {
            float *at = t->product + row * t->next.outputs + i;
            size_t size = (size_t)(stop - i < LANES ? stop - i : LANES) * sizeof(float);
            f32x16 x = {0}, bias = {0};
            memcpy(&x, at, size);
            if (t->next_bias) memcpy(&bias, t->next_bias + i, size);
            x += bias;
            if (t->cap > 0) x = bent(x) * t->cap;
            memcpy(at, &x, size);
        }
}

static void multiply_panels(const Stages *stages, int stage, int64_t part, int64_t parts) {
    const Transform *t = stages->transform;
    const Weight *weight = weight_of(t, stage);
    int64_t first = panels_of(weight) * part / parts, stop = panels_of(weight) * (part + 1) / parts;
    int is_clipped = (stage == MULTIPLY_GATED || stage == MULTIPLY_NEXT) && t->last.quantiser.clip > 0;
    ByteRows rows = {stages->count, stages->bytes, is_clipped ? NULL : stages->peaks};
    if (stage == MULTIPLY_GATED) {
        multiply_gated(stages, &rows, first, stop);
        return;
    }
    float *out = stage == MULTIPLY_NEXT ? t->product + stages->first * weight->outputs : stages->added;
    multiply(&rows, weight, first, stop, out + first * PANEL, weight->outputs);
    if (stage == MULTIPLY_NEXT && (t->next_bias || t->cap > 0)) finish(stages, first * PANEL, stop * PANEL);
}

static void run_row(const Stages *stages, int stage, int64_t row, float *work) {
    const Transform *t = stages->transform;
    int64_t width = t->last.quantiser.width, at = (stages->first + row) * width;
    float *peak = stages->peaks + row, *total = stages->total + row * width, *added = stages->added + row * width;
    if (stage == QUANTISE_ATTENDED) {
        int64_t inputs = t->out.inputs; /* its rows are not turned, so what is attended stays */
        quantise_row(&t->attended_quantiser, (float *)t->attended + (stages->first + row) * inputs,
                     stages->bytes + row * depth_of(inputs), peak);
    } else if (stage == NORM_MIDDLE) {
        add_row(&t->middle, t->residual + at, added, total);
        norm_row(&t->middle, t->is_parallel ? t->residual + at : total, work, stages->bytes + row * depth_of(width),
                 peak);
    } else if (stage == QUANTISE_GATED) {
        int64_t inputs = t->down.inputs;
        quantise_row(&t->gated_quantiser, stages->mixed + row * inputs, stages->bytes + row * depth_of(inputs), peak);
    } else {
        float *sum = t->sum ? t->sum + at : total;
        if (t->attended) add_row(&t->last, total, added, sum);
        norm_row(&t->last, t->attended ? sum : t->residual + at, work, stages->bytes + row * depth_of(width), peak);
    }
}

void run_part(const Stages *stages, int stage, int64_t part, int64_t parts) {
    if (weight_of(stages->transform, stage)) {
        multiply_panels(stages, stage, part, parts);
        return;
    }
    float work[stages->transform->last.quantiser.width] __attribute__((aligned(64)));
    for (int64_t row = stages->count * part / parts; row < stages->count * (part + 1) / parts; row++)
        run_row(stages, stage, row, work);
}

int transform_rows(const Transform *transform, int64_t first, int64_t count) {
    Stages stages;
    if (!prepare_stages(&stages, transform, first, count)) return 0;
    for (int stage = (int)first_stage(transform); stage < NUM_STAGES; stage++) run_part(&stages, stage, 0, 1);
    release_stages(&stages);
    return 1;
}
