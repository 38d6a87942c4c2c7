/* A tile of queries over one head of one slot, as the two kinds of cache compute it. */
#pragma once
#include "lanes.h"
#include "operators.h"

#define MAX_HEAD 256
#define MAX_ROWS 12
/* Tokens whose scores are kept at a time; sums are rescaled from one segment to the next. */
#define SEGMENT 1024
#define NEVER -1e30f

typedef struct {
    const uint8_t *blocks;
    int64_t block_bytes;
    int head_dim, count;
    float cap; /* of scores; 0: none */
    int64_t ahead; /* bytes to what is fetched ahead while a block is read; 0: nothing */
    int32_t first[MAX_ROWS], last[MAX_ROWS]; /* tokens that a row sees */
    const uint8_t *queries[MAX_ROWS];
    const float *sinks[MAX_ROWS]; /* one more score that has no value, or null */
    float *out[MAX_ROWS];
} Rows;

/* What stands behind a query of bytes. */
typedef struct {
    float scale;
    int32_t offset; /* takes back that keys are stored 128 too large */
} QueryEnd;

/* What a row has seen so far of its scores. */
typedef struct {
    float peak;
    f32x16 sums;
} Seen;

HIDDEN void attend_bytes(Rows *rows);
HIDDEN void attend_floats(Rows *rows, int is_half);

/* Tokens of a block of 16 that a row sees. */
INLINE mask16 visible(const Rows *rows, int row, int64_t block) {
    return within(LANE + (int32_t)(block * LANES), rows->first[row], rows->last[row]);
}

/* Whether there is a token in a block that a row does not see. */
INLINE int is_at_end(const Rows *rows, int row, int64_t block) {
    return block * LANES < rows->first[row] || block * LANES + LANES > rows->last[row] + 1;
}

/* The range of blocks that any row sees. */
INLINE void range_of(const Rows *rows, int64_t *start, int64_t *stop) {
    int32_t first = rows->first[0], last = rows->last[0];
    for (int r = 1; r < rows->count; r++) {
        if (rows->first[r] < first) first = rows->first[r];
        if (rows->last[r] > last) last = rows->last[r];
    }
    *start = first / LANES;
    *stop = last / LANES + 1;
}

/* What a row has seen ahead of all tokens: nothing, or its sink. */
INLINE Seen unseen(const float *sink) { return sink ? (Seen){*sink, {1}} : (Seen){NEVER, {0}}; }

/* Cap a row's scores of the blocks of a segment, and give the largest one of a token that it sees; the
 * others get one that no sum feels. */
static __attribute__((noinline)) float finish_row(const Rows *rows, int row, float *scores, int64_t from,
                                                  int64_t start, int64_t stop) {
    f32x16 peaks = all(NEVER);
    for (int64_t block = from; block < stop; block++) {
        float *at = scores + (block - start) * LANES;
        f32x16 x = load(at);
        if (rows->cap > 0) x = bent(x * (1.0f / rows->cap)) * rows->cap;
        if (is_at_end(rows, row, block)) x = blend(visible(rows, row, block), x, all(NEVER));
        peaks = larger(x, peaks);
        store(at, x);
    }
    return largest(peaks);
}

/* Note a segment's largest score; the factor by which what was summed before is rescaled. */
INLINE float rescale(Seen *seen, float peak) {
    float most = peak > seen->peak ? peak : seen->peak;
    float factor = exponential(all(seen->peak - most))[0];
    seen->peak = most;
    seen->sums *= factor;
    SETTLE();
    return factor;
}
