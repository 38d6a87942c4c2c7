/* Attention over bytes: integer products of queries and keys, of probabilities and values.
 *
 * Keys and values have a scale a token; a query has one of its own; the probabilities of 64
 * neighbouring tokens, times the values' scales, become bytes of the largest of them. Integers are
 * exact, so that how many queries share a pass changes no bit. */
#include "attention.h"

#define GROUP 4 /* blocks whose probabilities have one scale */
#define GROUPS (SEGMENT / LANES / GROUP)
#ifdef __AVX512F__
#define MAX_SUMS 6
#else
#define MAX_SUMS 2
#endif

typedef struct {
    QueryEnd ends[MAX_ROWS];
    float scores[MAX_ROWS][SEGMENT] __attribute__((aligned(64)));
    uint8_t shares[MAX_ROWS][SEGMENT] __attribute__((aligned(64)));
    float share_scales[MAX_ROWS][GROUPS];
    float sums[MAX_ROWS][MAX_HEAD] __attribute__((aligned(64)));
    Seen seen[MAX_ROWS];
} Work;

static void set_up(const Rows *rows, Work *work) {
    for (int r = 0; r < rows->count; r++) {
        memcpy(&work->ends[r], rows->queries[r] + rows->head_dim, sizeof(QueryEnd));
        work->seen[r] = unseen(rows->sinks[r]);
        memset(work->sums[r], 0, (size_t)rows->head_dim * sizeof(float));
    }
}

/* Scores of `num` neighbouring blocks for rows r0 to r0 + R - 1. */
INLINE void score(const Rows *rows, Work *work, const int R, const int num, int r0, int64_t block,
                  int64_t start) {
    int d = rows->head_dim;
    const uint8_t *keys = rows->blocks + block * rows->block_bytes;
    quads sums[MAX_ROWS][4];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < num; n++) sums[r][n] = all_quads(work->ends[r0 + r].offset);
    for (int i = 0; i < d; i += 4) {
        quads key[4];
#pragma GCC unroll 4
        for (int n = 0; n < num; n++) {
            const uint8_t *at = keys + n * rows->block_bytes + i * LANES;
            key[n] = load_quads(at);
            if (rows->ahead) {
                __builtin_prefetch(at + rows->ahead, 0, 2);
                __builtin_prefetch(at + rows->ahead + LANES * d, 0, 2);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t query;
            memcpy(&query, rows->queries[r0 + r] + i, 4);
#pragma GCC unroll 4
            for (int n = 0; n < num; n++) sums[r][n] = dot(sums[r][n], key[n], all_quads(query));
        }
    }
    for (int n = 0; n < num; n++) {
        f32x16 scales = load((const float *)(keys + n * rows->block_bytes + 2 * LANES * d));
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            f32x16 x = sums_of(sums[r][n]) * (scales * work->ends[r0 + r].scale);
            store(work->scores[r0 + r] + (block + n - start) * LANES, x);
        }
    }
}

INLINE void score_rows(const Rows *rows, Work *work, const int R, const int num, int r0,
                       int64_t from, int64_t start, int64_t stop) {
    int64_t block = from;
    for (; block + num <= stop; block += num) score(rows, work, R, num, r0, block, start);
    for (; block < stop; block++) score(rows, work, R, 1, r0, block, start);
}

/* Turn a segment's scores into bytes that are shares of the values. */
static void share(const Rows *rows, Work *work, int r, int64_t from, int64_t start, int64_t stop) {
    int d = rows->head_dim;
    Seen *seen = &work->seen[r];
    for (int64_t group = (from - start) / GROUP; group * GROUP + start < stop; group++) {
        f32x16 weights[GROUP], most = {0};
        for (int n = 0; n < GROUP; n++) {
            int64_t block = start + group * GROUP + n;
            weights[n] = (f32x16){0};
            if (block < from || block >= stop) continue;
            f32x16 x = exponential(load(work->scores[r] + (block - start) * LANES) - seen->peak);
            const uint8_t *p = rows->blocks + block * rows->block_bytes + 2 * LANES * d;
            f32x16 scales = load((const float *)p + LANES);
            if (is_at_end(rows, r, block)) {
                mask16 seen_here = visible(rows, r, block);
                x = blend(seen_here, x, all(0));
                scales = blend(seen_here, scales, all(0)); /* may hold anything */
            }
            seen->sums += settled(x);
            weights[n] = x * scales;
            most = larger(weights[n], most);
        }
        float peak = largest(most), scale = peak > 0 ? 255.0f / peak : 0.0f;
        work->share_scales[r][group] = peak / 255.0f;
        for (int n = 0; n < GROUP; n++)
            store_bytes(work->shares[r] + (group * GROUP + n) * LANES,
                           rounded(weights[n] * scale));
    }
}

/* Add to rows r0 to r0 + R - 1 their shares of one group's values, V columns of 16. */
INLINE void add_values(const Rows *rows, Work *work, const int R, const int V, int r0,
                       int64_t group, int64_t start, int64_t stop, int column) {
    int d = rows->head_dim;
    quads sums[MAX_SUMS][4];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sums[r][v] = all_quads(0);
    for (int64_t n = 0; n < GROUP && start + group * GROUP + n < stop; n++) {
        const uint8_t *values = rows->blocks + (start + group * GROUP + n) * rows->block_bytes +
                                LANES * d + column * 4;
        for (int quad = 0; quad < 4; quad++, values += 4 * d) {
            quads value[4];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) value[v] = load_quads(values + v * 64);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                int32_t part;
                memcpy(&part, work->shares[r0 + r] + (group * GROUP + n) * LANES + quad * 4, 4);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sums[r][v] = dot(sums[r][v], all_quads(part), value[v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) {
            float *total = work->sums[r0 + r] + column + v * LANES;
            store(total, sums_of(sums[r][v]) * work->share_scales[r0 + r][group] + load(total));
        }
}

INLINE void add_rows(const Rows *rows, Work *work, const int R, int r0, int64_t from,
                     int64_t start, int64_t stop) {
    for (int64_t group = (from - start) / GROUP; group * GROUP + start < stop; group++) {
        int column = 0;
        for (; column + 64 <= rows->head_dim; column += 64)
            add_values(rows, work, R, 4, r0, group, start, stop, column);
        for (; column < rows->head_dim; column += 16)
            add_values(rows, work, R, 1, r0, group, start, stop, column);
    }
}

static void score_segment(const Rows *rows, Work *work, int64_t from, int64_t start, int64_t stop) {
    switch (rows->count) {
    case 1: score_rows(rows, work, 1, 4, 0, from, start, stop); break;
    case 2: score_rows(rows, work, 2, 4, 0, from, start, stop); break;
    case 3: score_rows(rows, work, 3, 4, 0, from, start, stop); break;
    case 4: score_rows(rows, work, 4, 2, 0, from, start, stop); break;
#ifdef __AVX512F__
    case 6: score_rows(rows, work, 6, 2, 0, from, start, stop); break;
    case 8: score_rows(rows, work, 8, 2, 0, from, start, stop); break;
    case 9: score_rows(rows, work, 9, 1, 0, from, start, stop); break;
    case 12: score_rows(rows, work, 12, 1, 0, from, start, stop); break;
#endif
    default: {
        int r = 0;
        for (; r + 4 <= rows->count; r += 4) score_rows(rows, work, 4, 2, r, from, start, stop);
        for (; r < rows->count; r++) score_rows(rows, work, 1, 4, r, from, start, stop);
    }
    }
}

static void add_segment(const Rows *rows, Work *work, int64_t from, int64_t start, int64_t stop) {
    int r = 0;
#ifdef __AVX512F__
    for (; r + 6 <= rows->count; r += 6) add_rows(rows, work, 6, r, from, start, stop);
    for (; r + 3 <= rows->count; r += 3) add_rows(rows, work, 3, r, from, start, stop);
#endif
    for (; r + 2 <= rows->count; r += 2) add_rows(rows, work, 2, r, from, start, stop);
    for (; r < rows->count; r++) add_rows(rows, work, 1, r, from, start, stop);
}

HIDDEN void attend_bytes(Rows *rows) {
    static _Thread_local Work work;
    set_up(rows, &work);
    int64_t block, end, step = SEGMENT / LANES;
    range_of(rows, &block, &end);
    while (block < end) {
        int64_t start = block / step * step, stop = start + step < end ? start + step : end;
        score_segment(rows, &work, block, start, stop);
        for (int r = 0; r < rows->count; r++) {
            float factor = rescale(&work.seen[r], finish_row(rows, r, work.scores[r], block, start, stop));
            for (int i = 0; i < rows->head_dim; i += LANES)
                store(work.sums[r] + i, load(work.sums[r] + i) * factor);
            share(rows, &work, r, block, start, stop);
        }
        add_segment(rows, &work, block, start, stop);
        block = stop;
    }
    for (int r = 0; r < rows->count; r++) {
        float part = 1.0f / sum(work.seen[r].sums);
        for (int i = 0; i < rows->head_dim; i += LANES)
            store(rows->out[r] + i, load(work.sums[r] + i) * part);
    }
}
