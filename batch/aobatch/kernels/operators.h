/* The operators as plain functions; nodes.c makes them nodes of ONNX Runtime. */
#pragma once
#include "product.h"

/* What a row may hold at most: widths are multiples of 16. */
#define MAX_WIDTH (1 << 17)
#define MAX_EXPERTS 1024

/* How rows become unsigned bytes around 128. */
typedef struct {
    int64_t width;
    int64_t block; /* turned by Hadamard matrices of this size first; 1: not at all */
    float clip;    /* one scale for all rows, clip / 127; 0: each row by its largest number */
} Quantiser;
/* Write a row as bytes; it is turned in place. Its largest number goes to peak, unless it clips. */
EXPORTED void quantise_row(const Quantiser *quantiser, float *row, uint8_t *bytes, float *peak);

/* A residual stream that takes in a product, is normed and becomes bytes (RMSNorm, Zhang and
 * Sennrich 2019). Gains and bias may be null. */
typedef struct {
    Quantiser quantiser;
    float epsilon;
    int is_plain;           /* rows become bytes as they are */
    const float *bias;      /* [width], added to the product */
    const float *post_gain; /* [width]: the product is normed first */
    const float *gain;      /* [width] */
} Norm;
/* Write residual + product to `sum`, which may be the memory of residual; the product is overwritten. */
EXPORTED void add_row(const Norm *norm, const float *residual, float *product, float *sum);
/* Norm a row and write it as bytes; `work` has a row's width. */
EXPORTED void norm_row(const Norm *norm, const float *row, float *work, uint8_t *bytes, float *peak);

enum { SILU = 1, GELU_TANH, GELU, RELU_SQUARED };
/* Write to out the activation of gates, times what stands beside them unless that is null, [rows, columns]. */
typedef struct {
    int kind;
    const float *gate, *up, *gate_bias, *up_bias;
    int64_t rows, columns, stride;
} Gates;
EXPORTED void activate(const Gates *gates, float *out, int64_t stride);

/* What a decoder does with each row by itself: from what one layer attended to, to what the next
 * attends with, or to logits. Without attended rows there is only the last norm and product. */
typedef struct {
    Norm middle, last;
    Quantiser attended_quantiser, gated_quantiser;
    int activation, is_parallel; /* the gated block reads the residual as the attention before it did */
    float cap;                   /* the last product's numbers are cap * tanh(number); 0: as they are */
    Weight out, gate, up, down, next; /* without up nothing is gated */
    const float *gate_bias, *up_bias, *next_bias;
    const float *residual, *attended; /* [N, width], [N, inputs of out] */
    float *sum, *product;             /* [N, width], or null; [N, outputs of next] */
} Transform;

/* Rows that go through all of its stages together, in a memory of their own. */
typedef struct {
    const Transform *transform;
    int64_t first, count;
    float *mixed, *added, *total, *peaks;
    uint8_t *bytes;
} Stages;
enum { NUM_STAGES = 8 };
int prepare_stages(Stages *stages, const Transform *transform, int64_t first, int64_t count);
void release_stages(Stages *stages);
/* Into how many parts a stage may be divided, which may run at once; and one of them. */
int64_t parts_of_stage(const Stages *stages, int stage);
void run_part(const Stages *stages, int stage, int64_t part, int64_t parts);
/* All stages of some rows; 0 if there is too little memory. */
EXPORTED int transform_rows(const Transform *transform, int64_t first, int64_t count);

/* The same with experts in place of gate, up and down, up to the residual; see experts.c. */
typedef struct {
    Weight gate, up, down;
} Expert;
typedef struct {
    Norm middle;
    Quantiser gated_quantiser;
    Weight out;
    int64_t width, inner, experts, used;
    int shares_whole; /* whether the shares of a row's experts add up to one */
    float sharpness, limit, offset;
    float *router;                   /* [experts / 16, width, 16], rounded up */
    Expert **packed;                 /* [experts], null where none was in use yet */
    const int8_t *columns[3];        /* gate and up [experts, width, inner], down [experts, inner, width] */
    const float *scales[3], *biases[3]; /* [experts, inner or width]; biases may be null */
    const float *router_bias;        /* [experts], or null */
    const float *residual, *attended;
    float *sum;                      /* [N, width] */
    uint8_t *bytes;                  /* from here on room for N rows: normed, [N, depth] */
    float *peaks, *shares, *parts;   /* [N], [N, used], [N, used, width] */
    int32_t *chosen;                 /* [N, used] */
} Mixture;
/* Rows that one expert computes together: where they are among all [N, used]. */
typedef struct {
    int64_t expert, count;
    const int32_t *places;
} Share;
/* Up to the choice of experts; 0 if there is too little memory. */
EXPORTED int route_rows(const Mixture *mixture, int64_t first, int64_t count);
/* Write the shares, at most experts + blocks_of(N * used), and their places, N * used; how many. */
EXPORTED int64_t share_out(const Mixture *mixture, int64_t rows, Share *shares, int32_t *places);
EXPORTED int compute_share(const Mixture *mixture, const Share *share);
EXPORTED void add_parts(const Mixture *mixture, int64_t row);
void release_expert(Expert *expert);

/* Causal attention of packed tokens over slots (GQA, Ainslie et al. 2023; RoPE, Su et al. 2021).
 *
 * A slot holds, for every head of keys and values, blocks of 16 tokens:
 *   INT8:     keys + 128 [d/4][16][4], values [4][d][4] (bytes), key scales [16], value scales [16]
 *   FLOAT32:  keys [d][16], values [16][d];  BFLOAT16: the same in half the bytes. */
typedef struct {
    int dtype, num_heads, num_kv_heads, head_dim, rotary_half;
    int64_t window; /* how many of the last tokens a token sees; 0: all */
    float epsilon, cap; /* scores are cap * tanh(score / cap); 0: as they are */
    int64_t num_tokens, num_blocks;
    const float *qkv; /* [N, (heads + 2 kv_heads) * d] */
    uint8_t *cache;   /* [slots, kv_heads, num_blocks, block bytes] */
    const int32_t *slots, *positions; /* [N]; those of one slot ascend by one */
    const float *cosines, *sines;     /* [positions, rotary_half] */
    const float *bias;                /* [(heads + 2 kv_heads) * d], or null */
    const float *q_gain, *k_gain;     /* [d]: heads are normed first; */
    int q_is_whole, k_is_whole;       /* [heads * d]: all of a token's together */
    const float *sinks;               /* [heads]: one more score each, without a value; or null */
    uint8_t *queries;                 /* [N, heads, query_bytes]: room for prepared queries */
    float *out;                       /* [N, heads * d] */
} Attention;
enum { INT8, BFLOAT16, FLOAT32 };

/* Tokens of one slot that are attended from together. */
typedef struct {
    int64_t first;
    int count;
} Tile;

EXPORTED int64_t block_bytes(const Attention *attention);
EXPORTED int64_t query_bytes(const Attention *attention);
/* Write a token's keys and values into its slot, and its queries aside. */
EXPORTED void take_in_token(const Attention *attention, int64_t token);
EXPORTED int64_t make_tiles(const Attention *attention, Tile *tiles);
EXPORTED void attend(const Attention *attention, Tile tile, int kv_head);
