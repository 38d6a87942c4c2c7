/* The operators as plain functions; runtime.c makes them nodes of ONNX Runtime. */
#pragma once
#include <stdint.h>

/* What a row may hold at most: widths are multiples of 16. */
#define MAX_WIDTH (1 << 17)

/* How rows become unsigned bytes around 128. */
typedef struct {
    int64_t width;
    int64_t block; /* turned by Hadamard matrices of this size first; 1: not at all */
    float clip;    /* one scale for all rows, clip / 127; 0: each row by its largest number */
} Quantiser;

/* A residual stream that takes in a product, is normed and becomes bytes (RMSNorm, Zhang and
 * Sennrich 2019). Pointers may be null where that step is left out. */
typedef struct {
    Quantiser quantiser;
    float epsilon;
    const float *residual;  /* [N, width] */
    const float *product;   /* [N, width] */
    const float *scale;     /* [N], what rows of the product are multiplied by */
    const float *bias;      /* [width], added to the scaled product */
    const float *post_gain; /* [width]: the scaled product is normed first */
    const float *gain;      /* [width] */
    float *sum;             /* [N, width]: residual + product; may be the memory of residual */
    uint8_t *bytes;         /* [N, width] */
    float *peaks;           /* [N], unless the quantiser clips */
} Norm;
void norm_rows(const Norm *norm, int64_t first, int64_t stop);

/* A gate's activation times another row, as bytes. */
typedef struct {
    Quantiser quantiser;
    int kind;              /* SILU, GELU_TANH, or NONE: rows of `gate` as they are */
    int64_t stride;        /* from one row of gate or up to the next */
    const float *gate, *up, *gate_bias, *up_bias;
    const float *scale; /* [N], what rows of gate and up are multiplied by */
    uint8_t *bytes;
    float *peaks;
} Activation;
enum { NONE, SILU, GELU_TANH };
void activate_rows(const Activation *activation, int64_t first, int64_t stop);

/* Causal attention of packed tokens over slots (GQA, Ainslie et al. 2023; RoPE, Su et al. 2021).
 *
 * A slot holds, for every head of keys and values, blocks of 16 tokens:
 *   INT8:     keys + 128 [d/4][16][4], values [4][d][4] (bytes), key scales [16], value scales [16]
 *   FLOAT32:  keys [d][16], values [16][d];  BFLOAT16: the same in half the bytes. */
typedef struct {
    int dtype, num_heads, num_kv_heads, head_dim, rotary_half;
    int64_t window; /* how many of the last tokens a token sees; 0: all */
    float epsilon;
    int64_t num_tokens, num_blocks;
    const float *qkv; /* [N, (heads + 2 kv_heads) * d] */
    uint8_t *cache;   /* [slots, kv_heads, num_blocks, block bytes] */
    const int32_t *slots, *positions; /* [N]; those of one slot ascend by one */
    const float *cosines, *sines;     /* [positions, rotary_half] */
    const float *scale;               /* [N], what rows of qkv are multiplied by */
    const float *bias;                /* [(heads + 2 kv_heads) * d] */
    const float *q_gain, *k_gain;     /* [d]: heads are normed first */
    uint8_t *queries;                 /* [N, heads, query_bytes]: room for prepared queries */
    float *out;                       /* [N, heads * d] */
} Attention;
enum { INT8, BFLOAT16, FLOAT32 };

/* Tokens of one slot that are attended from together. */
typedef struct {
    int64_t first;
    int count;
} Tile;

int64_t block_bytes(const Attention *attention);
int64_t query_bytes(const Attention *attention);
/* Write a token's keys and values into its slot, and its queries aside. */
void take_in_token(const Attention *attention, int64_t token);
int64_t make_tiles(const Attention *attention, Tile *tiles);
void attend(const Attention *attention, Tile tile, int kv_head);
