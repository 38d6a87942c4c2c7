/* Products of rows of bytes with weights of bytes, whose integers are exact. */
#pragma once
#include "lanes.h"

/* Rows of bytes are as long as a multiple of this; what a weight has behind its inputs is zero. */
#define DEPTH_STEP 64
#define MAX_DEPTH (1 << 17)
INLINE int64_t depth_of(int64_t inputs) { return (inputs + DEPTH_STEP - 1) / DEPTH_STEP * DEPTH_STEP; }

/* A weight as products read it, which lies in a pool of memory with others. */
typedef struct Pool Pool;
typedef struct {
    int64_t inputs, outputs;
    Pool *pool;
    int8_t *panels;   /* [outputs / 32, 2, depth / 4, 16, 4], outputs rounded up */
    float *scales;    /* [outputs, or more]: what a column's integers are multiplied by */
    int32_t *offsets; /* [outputs, or more]: take back that rows are 128 too large */
} Weight;

/* Columns that are multiplied together. */
#define PANEL 32
INLINE int64_t panels_of(const Weight *weight) { return (weight->outputs + PANEL - 1) / PANEL; }

/* Pack [inputs, outputs] signed bytes and the scales of columns, times a unit; 0 if there is too
 * little memory, or more inputs than MAX_DEPTH. What was packed is to be released. */
EXPORTED int pack_weight(Weight *weight, const int8_t *columns, const float *scales, float unit,
                         int64_t inputs, int64_t outputs);
EXPORTED void release_weight(Weight *weight);

/* Rows of bytes around 128; there is room for a multiple of ROWS_STEP, which may be read. */
#define ROWS_STEP 16
typedef struct {
    int64_t count;
    const uint8_t *bytes; /* [count, depth of the weight's inputs] */
    const float *scales;  /* [count], or null: what rows of the product are multiplied by */
} ByteRows;

/* Multiply rows by the columns of panels first to stop; out is that of the first one's columns. */
EXPORTED void multiply(const ByteRows *rows, const Weight *weight, int64_t first, int64_t stop, float *out,
                       int64_t stride);

/* How many rows go through weights together: more of them where products are so fast that what they
 * wait for is the weight. */
#define MOST_ROWS_TOGETHER 128
HIDDEN int64_t rows_together(void);
INLINE int64_t blocks_of(int64_t rows) { return (rows + rows_together() - 1) / rows_together(); }

/* The same by the tiles of the processor, where it has them and the system allows them. */
#if (defined(__AMX_INT8__) && defined(__linux__)) || defined(EMULATED_TILES)
#define HAS_TILES 1
HIDDEN int tiles_are_allowed(void);
HIDDEN void multiply_tiles(const ByteRows *rows, const Weight *weight, int64_t first, int64_t stop, float *out,
                           int64_t stride);
#else
#define HAS_TILES 0
#endif
