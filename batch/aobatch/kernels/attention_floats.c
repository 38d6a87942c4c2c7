/* Attention over float32 or bfloat16 keys and values: products and sums in one order. */
#include "attention.h"

typedef struct {
    float scores[MAX_ROWS][SEGMENT] __attribute__((aligned(64)));
    float sums[MAX_ROWS][MAX_HEAD] __attribute__((aligned(64)));
    Seen seen[MAX_ROWS];
} Work;

INLINE f32x16 load_number(const uint8_t *p, const int is_half, int64_t index) {
    if (!is_half) return load((const float *)p + index);
    u16x16 bits;
    memcpy(&bits, p + index * 2, sizeof bits);
    return (f32x16)(__builtin_convertvector(bits, u32x16) << 16);
}

INLINE void score_block(const Rows *rows, Work *work, const int is_half, const int R, int r0,
                        int64_t block, int64_t start) {
    const uint8_t *keys = rows->blocks + block * rows->block_bytes;
    f32x16 sums[4];
    for (int r = 0; r < R; r++) sums[r] = (f32x16){0};
    for (int i = 0; i < rows->head_dim; i++) {
        f32x16 key = load_number(keys, is_half, (int64_t)i * LANES);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sums[r] += key * ((const float *)rows->queries[r0 + r])[i];
    }
    for (int r = 0; r < R; r++) store(work->scores[r0 + r] + (block - start) * LANES, sums[r]);
}

/* Turn a segment's scores into weights. */
static __attribute__((noinline)) void weigh_row(const Rows *rows, Work *work, int r, int64_t from, int64_t start,
                                                int64_t stop) {
    Seen *seen = &work->seen[r];
    float factor = rescale(seen, finish_row(rows, r, work->scores[r], from, start, stop));
    for (int i = 0; i < rows->head_dim; i += LANES) store(work->sums[r] + i, load(work->sums[r] + i) * factor);
    for (int64_t block = from; block < stop; block++) {
        float *scores = work->scores[r] + (block - start) * LANES;
        f32x16 x = exponential(load(scores) - seen->peak);
        x = blend(visible(rows, r, block), x, all(0));
        seen->sums += x;
        store(scores, x);
    }
}

INLINE void add_value(const Rows *rows, Work *work, const int is_half, const int R, int r0,
                      int64_t from, int64_t start, int64_t stop, int column) {
    f32x16 sums[4];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) sums[r] = load(work->sums[r0 + r] + column);
    for (int64_t block = from; block < stop; block++) {
        const uint8_t *values = rows->blocks + block * rows->block_bytes;
        for (int t = 0; t < LANES; t++) {
            f32x16 value = load_number(values, is_half, (LANES + t) * (int64_t)rows->head_dim + column);
            /* What no row sees may hold anything, NaN as well. */
            if (block * LANES + t > rows->last[rows->count - 1]) break;
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                sums[r] += value * work->scores[r0 + r][(block - start) * LANES + t];
        }
    }
    for (int r = 0; r < R; r++) store(work->sums[r0 + r] + column, sums[r]);
}

INLINE void attend_part(const Rows *rows, Work *work, const int is_half, const int R, int r0,
                        int64_t from, int64_t start, int64_t stop) {
    for (int64_t block = from; block < stop; block++) score_block(rows, work, is_half, R, r0, block, start);
    for (int r = 0; r < R; r++) weigh_row(rows, work, r0 + r, from, start, stop);
    for (int column = 0; column < rows->head_dim; column += LANES)
        add_value(rows, work, is_half, R, r0, from, start, stop, column);
}

INLINE void attend_kind(Rows *rows, Work *work, const int is_half) {
    int64_t block, end, step = SEGMENT / LANES;
    range_of(rows, &block, &end);
    while (block < end) {
        int64_t start = block / step * step, stop = start + step < end ? start + step : end;
        int r = 0;
        for (; r + 3 <= rows->count; r += 3) attend_part(rows, work, is_half, 3, r, block, start, stop);
        for (; r + 2 <= rows->count; r += 2) attend_part(rows, work, is_half, 2, r, block, start, stop);
        for (; r < rows->count; r++) attend_part(rows, work, is_half, 1, r, block, start, stop);
        block = stop;
    }
}

HIDDEN void attend_floats(Rows *rows, int is_half) {
    static _Thread_local Work work;
    for (int r = 0; r < rows->count; r++) {
        work.seen[r] = unseen(rows->sinks[r]);
        memset(work.sums[r], 0, (size_t)rows->head_dim * sizeof(float));
    }
    if (is_half)
        attend_kind(rows, &work, 1);
    else
        attend_kind(rows, &work, 0);
    for (int r = 0; r < rows->count; r++) {
        float part = 1.0f / sum(work.seen[r].sums);
        for (int i = 0; i < rows->head_dim; i += LANES)
            store(rows->out[r] + i, load(work.sums[r] + i) * part);
    }
}
