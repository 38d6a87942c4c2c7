/* The operators over made-up numbers: a line with a hash for each case, the same on every processor. */
#include "operators.h"
#include <stdio.h>
#include <stdlib.h>

static uint64_t state;

/* Numbers in [-1, 1), by integers alone (splitmix64, Steele et al. 2014). */
static float next_number(void) {
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return (float)(int32_t)((x ^ (x >> 31)) >> 32) / 2147483648.0f;
}

static void *made(size_t size) {
    void *memory = calloc(size + 64, 1);
    if (!memory) exit(1);
    return memory;
}

static float *numbers(int64_t count, float size) {
    float *made_up = made((size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) made_up[i] = size * next_number() * (1 + 3 * (i % 37 == 5));
    return made_up;
}

static Weight weight(int64_t inputs, int64_t outputs) {
    Weight packed;
    int8_t *columns = made((size_t)(inputs * outputs));
    for (int64_t i = 0; i < inputs * outputs; i++) columns[i] = (int8_t)(127 * next_number());
    if (!pack_weight(&packed, columns, numbers(outputs, 0.02f), 1 / 127.0f, inputs, outputs)) exit(1);
    return packed;
}

static uint64_t hash(const void *memory, size_t size) { /* FNV-1a */
    uint64_t found = 0xCBF29CE484222325;
    for (size_t i = 0; i < size; i++) found = (found ^ ((const uint8_t *)memory)[i]) * 0x100000001B3;
    return found;
}

static void try_rows(int64_t width, int64_t heads, int64_t inner, int has_all, int activation) {
    int64_t rows = 23, outputs = 2 * width + 5;
    Norm norm = {.quantiser = {width, has_all ? 16 : 1, has_all ? 0 : 4}, .epsilon = 1e-5f};
    Transform t = {.middle = norm, .last = norm, .attended_quantiser = {heads, 1, 0}, .gated_quantiser = {inner, 32, 0},
                   .activation = activation, .out = weight(heads, width), .gate = weight(width, inner),
                   .up = weight(width, inner), .down = weight(inner, width), .next = weight(width, outputs),
                   .residual = numbers(rows * width, 2), .attended = numbers(rows * heads, 1)};
    if (has_all) {
        t.is_parallel = activation % 2, t.middle.is_plain = activation > GELU, t.cap = 3;
        t.next_bias = numbers(outputs, 1), t.gate_bias = numbers(inner, 1), t.up_bias = numbers(inner, 1);
        t.middle.bias = numbers(width, 1), t.middle.post_gain = numbers(width, 1), t.middle.gain = numbers(width, 2);
        t.last.bias = numbers(width, 1), t.last.post_gain = numbers(width, 1), t.last.gain = numbers(width, 2);
    }
    t.sum = made((size_t)(rows * width) * sizeof(float)), t.product = made((size_t)(rows * outputs) * sizeof(float));
    if (!transform_rows(&t, 0, rows)) exit(1);
    printf("rows %d %d %d %d %d %016llx %016llx\n", (int)width, (int)heads, (int)inner, has_all, activation,
           (unsigned long long)hash(t.sum, (size_t)(rows * width) * sizeof(float)),
           (unsigned long long)hash(t.product, (size_t)(rows * outputs) * sizeof(float)));
}

static int8_t *bytes_of(int64_t count) {
    int8_t *made_up = made((size_t)count);
    for (int64_t i = 0; i < count; i++) made_up[i] = (int8_t)(127 * next_number());
    return made_up;
}

static void try_experts(int64_t width, int64_t inner, int64_t experts, int64_t used, int has_all) {
    int64_t rows = 29, padded = (experts + LANES - 1) / LANES * LANES, whole = experts * width * inner;
    Mixture m = {.middle = {.quantiser = {width, has_all ? 16 : 1, has_all ? 0 : 4}, .epsilon = 1e-5f},
                 .gated_quantiser = {inner, 16, 0}, .out = weight(width, width), .width = width, .inner = inner,
                 .experts = experts, .used = used, .shares_whole = has_all, .sharpness = 1.702f, .limit = has_all ? 1 : 3e38f,
                 .offset = (float)has_all, .router = numbers(padded * width, 0.3f), .packed = made((size_t)experts * 8),
                 .columns = {bytes_of(whole), bytes_of(whole), bytes_of(whole)},
                 .scales = {numbers(experts * inner, 0.02f), numbers(experts * inner, 0.02f), numbers(experts * width, 0.02f)},
                 .residual = numbers(rows * width, 2), .attended = numbers(rows * width, 1)};
    if (has_all) {
        m.biases[0] = numbers(experts * inner, 1), m.biases[1] = numbers(experts * inner, 1);
        m.biases[2] = numbers(experts * width, 1), m.router_bias = numbers(experts, 1), m.middle.gain = numbers(width, 2);
    }
    m.sum = made((size_t)(rows * width) * 4), m.bytes = made((size_t)(rows * depth_of(width)));
    m.peaks = made((size_t)rows * 4), m.shares = made((size_t)(rows * used) * 4), m.chosen = made((size_t)(rows * used) * 4);
    m.parts = made((size_t)(rows * used * width) * 4);
    Share *shares = made((size_t)(experts + rows * used) * sizeof(Share));
    if (!route_rows(&m, 0, rows)) exit(1);
    int64_t count = share_out(&m, rows, shares, made((size_t)(rows * used) * 4));
    for (int64_t i = 0; i < count; i++)
        if (!compute_share(&m, shares + i)) exit(1);
    for (int64_t i = 0; i < rows; i++) add_parts(&m, i);
    printf("experts %d %d %d %d %d %016llx\n", (int)width, (int)inner, (int)experts, (int)used, has_all,
           (unsigned long long)hash(m.sum, (size_t)(rows * width) * sizeof(float)));
}

static void try_attention(int dtype, int num_heads, int num_kv_heads, int head_dim, int64_t window, int64_t length) {
    int64_t num_tokens = 2 * length, width = (num_heads + 2 * num_kv_heads) * head_dim;
    int half = dtype == BFLOAT16 ? head_dim / 4 : head_dim / 2;
    Attention a = {.dtype = dtype, .num_heads = num_heads, .num_kv_heads = num_kv_heads, .head_dim = head_dim,
                   .rotary_half = half, .window = window, .epsilon = 1e-5f, .num_tokens = num_tokens,
                   .num_blocks = length / 16 + 1, .qkv = numbers(num_tokens * width, 1)};
    int32_t *slots = made((size_t)num_tokens * 4), *positions = made((size_t)num_tokens * 4);
    for (int64_t i = 0; i < num_tokens; i++) slots[i] = (int32_t)(i / length), positions[i] = (int32_t)(i % length);
    a.slots = slots, a.positions = positions;
    if (window == 9) a.sinks = numbers(num_heads, 2);
    a.cosines = numbers(length * half, 1), a.sines = numbers(length * half, 1);
    if (window) {
        a.cap = 2, a.bias = numbers(width, 0.3f), a.q_gain = numbers(num_heads * head_dim, 1), a.k_gain = numbers(head_dim, 1);
        a.q_is_whole = 1;
    }
    size_t cache = (size_t)(2 * num_kv_heads * a.num_blocks * block_bytes(&a)), out = (size_t)(num_tokens * num_heads * head_dim) * 4;
    a.cache = made(cache), a.queries = made((size_t)(num_tokens * num_heads * query_bytes(&a))), a.out = made(out);
    Tile *tiles = made((size_t)num_tokens * sizeof(Tile));
    for (int64_t i = 0; i < num_tokens; i++) take_in_token(&a, i);
    int64_t num_tiles = make_tiles(&a, tiles);
    for (int64_t i = 0; i < num_tiles; i++)
        for (int head = 0; head < num_kv_heads; head++) attend(&a, tiles[i], head);
    printf("attention %d %d %d %d %d %d %016llx %016llx\n", dtype, num_heads, num_kv_heads, head_dim, (int)window,
           (int)length, (unsigned long long)hash(a.cache, cache), (unsigned long long)hash(a.out, out));
}

int main(void) {
    for (int has_all = 0; has_all < 2; has_all++)
        for (int activation = SILU; activation <= RELU_SQUARED; activation++) {
            try_rows(64, 48, 96, has_all, activation);
            try_rows(176, 128, 320, has_all, activation);
        }
    for (int has_all = 0; has_all < 2; has_all++) {
        try_experts(64, 48, 5, 2, has_all);
        try_experts(112, 160, 35, 8, has_all);
    }
    for (int dtype = INT8; dtype <= FLOAT32; dtype++) {
        try_attention(dtype, 9, 3, 64, 0, 70);
        try_attention(dtype, 4, 4, 16, 20, 40);
        try_attention(dtype, 8, 1, 128, 0, 21);
        try_attention(dtype, 2, 1, 256, 9, 21);
        try_attention(dtype, 14, 2, 80, 0, 37);
        try_attention(dtype, 3, 1, 32, 0, 1100);
    }
    return 0;
}
