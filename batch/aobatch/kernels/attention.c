/* Attention over slots: what a token writes, and what a tile of queries reads. */
#include "attention.h"
#include <stdlib.h>

int64_t block_bytes(const Attention *a) {
    int64_t numbers = 2 * LANES * a->head_dim;
    switch (a->dtype) {
    case INT8: return numbers + 2 * LANES * (int64_t)sizeof(float);
    case BFLOAT16: return numbers * 2;
    default: return numbers * 4;
    }
}

/* Turn pairs (i, half + i) of a head by the angles of its position; one product of each sum is
 * rounded, the other fused. */
static void turn_head(float *x, const float *cosines, const float *sines, int half) {
    int i = 0;
    for (; i + LANES <= half; i += LANES) {
        f32x16 first = load(x + i), second = load(x + half + i), cosine = load(cosines + i);
        f32x16 sine = load(sines + i);
        store(x + i, first * cosine - settled(second * sine));
        store(x + half + i, second * cosine + settled(first * sine));
    }
    for (; i < half; i++) {
        float first = x[i], second = x[half + i], turned[2] = {second * sines[i], first * sines[i]};
        __asm__ volatile("" : "+m"(turned));
        x[i] = first * cosines[i] - turned[0];
        x[half + i] = second * cosines[i] + turned[1];
    }
}

/* Sixteen numbers of a packed row, biased. */
INLINE f32x16 biased(const Attention *a, int64_t token, int64_t at) {
    f32x16 x = load(a->qkv + token * (a->num_heads + 2 * a->num_kv_heads) * a->head_dim + at);
    return a->bias ? x + load(a->bias + at) : x;
}

/* One over the root of the mean square of some heads' numbers. */
static float norm_factor(const Attention *a, int64_t token, int head, int count) {
    int64_t from = (int64_t)head * a->head_dim, size = (int64_t)count * a->head_dim;
    f32x16 squares = {0};
    for (int64_t i = from; i < from + size; i += LANES) {
        f32x16 x = biased(a, token, i);
        squares += x * x;
    }
    return 1.0f / sqrtf(sum(squares) / (float)size + a->epsilon);
}

/* How some heads of a token are normed: by a gain of each head, or of all with one factor. */
typedef struct {
    const float *gain; /* null: not at all */
    int first, is_whole;
    float factor;
} HeadNorm;

static HeadNorm head_norm(const Attention *a, int64_t token, int first, int count, const float *gain, int is_whole) {
    return (HeadNorm){gain, first, is_whole, is_whole ? norm_factor(a, token, first, count) : 0};
}

/* Give a head of the packed rows: biased, normed, turned to its position. */
static void prepare_head(const Attention *a, int64_t token, int head, HeadNorm norm, float *x) {
    int d = a->head_dim, half = a->rotary_half;
    for (int i = 0; i < d; i += LANES) store(x + i, biased(a, token, (int64_t)head * d + i));
    if (norm.gain) {
        float factor = norm.is_whole ? norm.factor : norm_factor(a, token, head, 1);
        const float *gain = norm.gain + (norm.is_whole ? (head - norm.first) * d : 0);
        for (int i = 0; i < d; i += LANES) store(x + i, load(x + i) * factor * load(gain + i));
    }
    if (head >= a->num_heads + a->num_kv_heads) return;
    const float *cosines = a->cosines + (int64_t)a->positions[token] * half;
    const float *sines = a->sines + (int64_t)a->positions[token] * half;
    turn_head(x, cosines, sines, half);
}

/* Write a head as signed bytes of its largest number; the scale that gives it back. */
static float to_bytes(const float *x, int d, int8_t *bytes) {
    f32x16 most = {0};
    for (int i = 0; i < d; i += LANES) most = larger(absolute(load(x + i)), most);
    float peak = largest(most), scale = peak > 0 ? 127.0f / peak : 0.0f;
    for (int i = 0; i < d; i += LANES)
        store_bytes((uint8_t *)bytes + i, rounded(load(x + i) * scale));
    return peak / 127.0f;
}

static uint16_t to_bfloat(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static void append(const Attention *a, int64_t token) {
    int d = a->head_dim, lane = a->positions[token] % LANES;
    int64_t size = block_bytes(a), block = a->positions[token] / LANES;
    float key[MAX_HEAD], value[MAX_HEAD];
    HeadNorm norm = head_norm(a, token, a->num_heads, a->num_kv_heads, a->k_gain, a->k_is_whole);
    for (int head = 0; head < a->num_kv_heads; head++) {
        prepare_head(a, token, a->num_heads + head, norm, key);
        prepare_head(a, token, a->num_heads + a->num_kv_heads + head, (HeadNorm){0}, value);
        int64_t row = (int64_t)a->slots[token] * a->num_kv_heads + head;
        uint8_t *p = a->cache + (row * a->num_blocks + block) * size;
        if (a->dtype == INT8) {
            int8_t k[MAX_HEAD], v[MAX_HEAD];
            float *scales = (float *)(p + 2 * LANES * d);
            scales[lane] = to_bytes(key, d, k);
            scales[LANES + lane] = to_bytes(value, d, v);
            uint8_t *values = p + LANES * d + lane / 4 * 4 * d + lane % 4;
            for (int i = 0; i < d; i += 4) {
                uint32_t four;
                memcpy(&four, k + i, 4);
                four ^= 0x80808080;
                memcpy(p + i * LANES + lane * 4, &four, 4);
            }
            for (int i = 0; i < d; i++) values[i * 4] = (uint8_t)v[i];
        } else if (a->dtype == BFLOAT16) {
            uint16_t *halves = (uint16_t *)p;
            for (int i = 0; i < d; i++) {
                halves[i * LANES + lane] = to_bfloat(key[i]);
                halves[LANES * d + lane * d + i] = to_bfloat(value[i]);
            }
        } else {
            float *floats = (float *)p;
            for (int i = 0; i < d; i++) {
                floats[i * LANES + lane] = key[i];
                floats[LANES * d + lane * d + i] = value[i];
            }
        }
    }
}

int64_t query_bytes(const Attention *a) {
    return a->dtype == INT8 ? a->head_dim + 16 : a->head_dim * (int64_t)sizeof(float);
}

void take_in_token(const Attention *a, int64_t token) {
    int d = a->head_dim;
    int64_t size = query_bytes(a);
    HeadNorm norm = head_norm(a, token, 0, a->num_heads, a->q_gain, a->q_is_whole);
    append(a, token);
    for (int head = 0; head < a->num_heads; head++) {
        uint8_t *query = a->queries + (token * a->num_heads + head) * size;
        if (a->dtype != INT8) {
            prepare_head(a, token, head, norm, (float *)query);
            continue;
        }
        float x[MAX_HEAD];
        prepare_head(a, token, head, norm, x);
        QueryEnd end = {to_bytes(x, d, (int8_t *)query), 0};
        for (int i = 0; i < d; i++) end.offset -= 128 * (int8_t)query[i];
        memcpy(query + d, &end, sizeof end);
    }
}

/* A lone token reads its slot but once, from far away: meanwhile the same part of the next head, or of
 * the next slot's first one, is fetched, or what follows soon if a head is too large for that. */
#define BLOCKS_AHEAD 8
#define MOST_BLOCKS 128
static int64_t ahead_of(const Attention *a, Tile tile) {
    if (tile.count > 1) return 0;
    int64_t near = a->positions[tile.first] / LANES < MOST_BLOCKS ? a->num_blocks : BLOCKS_AHEAD;
    return near * block_bytes(a);
}

/* How many tokens share a pass over keys and values. */
static int tile_tokens(const Attention *a) {
    int group = a->num_heads / a->num_kv_heads;
    return group < MAX_ROWS ? MAX_ROWS / group : 1;
}

int64_t make_tiles(const Attention *a, Tile *tiles) {
    int most = tile_tokens(a);
    int64_t count = 0;
    for (int64_t i = 0; i < a->num_tokens; i++) {
        Tile *last = count ? tiles + count - 1 : NULL;
        if (last && last->count < most && a->slots[i] == a->slots[last->first] &&
            a->positions[i] == a->positions[last->first] + last->count)
            last->count++;
        else
            tiles[count++] = (Tile){i, 1};
    }
    return count;
}

void attend(const Attention *a, Tile tile, int kv_head) {
    int d = a->head_dim, group = a->num_heads / a->num_kv_heads;
    int64_t slot = a->slots[tile.first], heads = slot * a->num_kv_heads + kv_head;
    Rows rows = {.blocks = a->cache + heads * a->num_blocks * block_bytes(a),
                 .block_bytes = block_bytes(a), .head_dim = d, .cap = a->cap,
                 .ahead = ahead_of(a, tile)};
    for (int i = 0; i < tile.count * group;) {
        rows.count = 0;
        for (; rows.count < MAX_ROWS && i < tile.count * group; i++, rows.count++) {
            int64_t token = tile.first + i / group, position = a->positions[token];
            int64_t head = token * a->num_heads + kv_head * group + i % group;
            rows.queries[rows.count] = a->queries + head * query_bytes(a);
            rows.last[rows.count] = (int32_t)position;
            rows.first[rows.count] =
                (int32_t)(a->window && position >= a->window ? position - a->window + 1 : 0);
            rows.sinks[rows.count] = a->sinks ? a->sinks + kv_head * group + i % group : NULL;
            rows.out[rows.count] = a->out + head * d;
        }
        if (a->dtype == INT8)
            attend_bytes(&rows);
        else
            attend_floats(&rows, a->dtype == BFLOAT16);
    }
}
