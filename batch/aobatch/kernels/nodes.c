/* The operators as nodes: their attributes, the sizes of what they are given, and who computes what. */
#include "runtime.h"
#include "operators.h"
#include <stdlib.h>

/* Inputs of TransformRows; weights come as [inputs, outputs] with their scales and biases. */
enum {
    RESIDUAL, ATTENDED, OUT, OUT_SCALES, OUT_BIAS, GATE, GATE_SCALES, GATE_BIAS, UP, UP_SCALES, UP_BIAS,
    DOWN, DOWN_SCALES, DOWN_BIAS, NEXT, NEXT_SCALES, OUT_GAIN, MIDDLE_GAIN, DOWN_GAIN, LAST_GAIN, NEXT_BIAS
};

/* Pack the weight at a place and the scales behind it; 0 if sizes do not fit or memory is short. */
static int pack(const void *info, size_t index, float unit, Weight *weight) {
    Tensor columns = constant(info, index), scales = constant(info, index + 1);
    if (!columns.given) return 1;
    int64_t inputs = columns.sizes[0], outputs = columns.sizes[1];
    if (columns.rank != 2 || inputs < 16 || inputs % 16 || inputs > MAX_WIDTH || outputs < 1 || !scales.given ||
        !holds(&scales, outputs))
        return 0;
    return pack_weight(weight, columns.data, scales.data, unit, inputs, outputs);
}

static int fits(const Transform *t) {
    int64_t width = t->next.inputs;
    if (!t->out.inputs) return width > 0;
    if (t->up.inputs && (t->up.inputs != width || t->up.outputs != t->gate.outputs)) return 0;
    return t->out.outputs == width && t->gate.inputs == width && t->down.inputs == t->gate.outputs &&
           t->down.outputs == width;
}

static void destroy_transform(void *state) {
    Transform *t = state;
    Weight *weights[] = {&t->out, &t->gate, &t->up, &t->down, &t->next};
    for (size_t i = 0; i < 5; i++) release_weight(weights[i]);
    free(t);
}

static Status *create_transform(const Operator *self, const void *table, const void *info, void **kernel) {
    (void)self, (void)table;
    Transform *t = calloc(1, sizeof *t);
    if (!t) return failure("cannot allocate memory");
    float clip = number(info, "clip"), unit = clip > 0 ? clip / 127.0f : 1 / 127.0f;
    int is_packed = pack(info, OUT, 1 / 127.0f, &t->out) && pack(info, GATE, unit, &t->gate) &&
                    pack(info, UP, unit, &t->up) && pack(info, DOWN, 1 / 127.0f, &t->down) &&
                    pack(info, NEXT, unit, &t->next);
    int64_t width = t->next.inputs;
    int64_t normed_block = integer(info, "normed_block"), gated_block = integer(info, "gated_block");
    if (!is_packed || !fits(t) || normed_block < 1 || width % normed_block || gated_block < 1 ||
        t->down.inputs % gated_block) {
        destroy_transform(t);
        return failure("TransformRows: weights of these sizes are not supported");
    }
    t->middle = t->last = (Norm){.quantiser = {width, normed_block, clip}, .epsilon = number(info, "epsilon")};
    t->attended_quantiser = (Quantiser){t->out.inputs, 1, 0};
    t->gated_quantiser = (Quantiser){t->down.inputs, gated_block, 0};
    t->activation = (int)integer(info, "activation");
    t->is_parallel = (int)integer(info, "is_parallel"), t->cap = number(info, "cap");
    t->middle.is_plain = (int)integer(info, "middle_is_plain");
    t->last.is_plain = (int)integer(info, "last_is_plain");
    *kernel = t;
    return NULL;
}

typedef struct {
    const Transform *transform;
    int64_t rows, blocks;
    Stages stages;
    int stage, out_of_memory;
    int64_t parts;
} TransformWork;

static void transform_block(void *data, size_t block) {
    TransformWork *work = data;
    int64_t first = work->rows * (int64_t)block / work->blocks;
    int64_t stop = work->rows * ((int64_t)block + 1) / work->blocks;
    if (!transform_rows(work->transform, first, stop - first)) work->out_of_memory = 1;
}

static void transform_part(void *data, size_t part) {
    const TransformWork *work = data;
    run_part(&work->stages, work->stage, (int64_t)part, work->parts);
}

static Status *compute_transform(void *state, Context *context) {
    Transform t = *(const Transform *)state;
    Tensor in[MAX_INPUTS];
    for (size_t i = 0; i < MAX_INPUTS; i++) in[i] = input(context, i);
    int64_t rows = in[RESIDUAL].sizes[0], width = t.next.inputs;
    if (in[RESIDUAL].rank != 2 || in[RESIDUAL].sizes[1] != width || in[ATTENDED].given != (t.out.inputs > 0) ||
        !holds(in + ATTENDED, rows * t.out.inputs) || !holds(in + OUT_BIAS, width) ||
        !holds(in + GATE_BIAS, t.gate.outputs) || !holds(in + UP_BIAS, t.gate.outputs) ||
        !holds(in + DOWN_BIAS, width) || !holds(in + OUT_GAIN, width) || !holds(in + MIDDLE_GAIN, width) ||
        !holds(in + DOWN_GAIN, width) || !holds(in + LAST_GAIN, width) || !holds(in + NEXT_BIAS, t.next.outputs))
        return failure("TransformRows: sizes of inputs do not fit");
    t.residual = in[RESIDUAL].data, t.attended = in[ATTENDED].data;
    t.gate_bias = in[GATE_BIAS].data, t.up_bias = in[UP_BIAS].data, t.next_bias = in[NEXT_BIAS].data;
    t.middle.bias = in[OUT_BIAS].data, t.middle.post_gain = in[OUT_GAIN].data, t.middle.gain = in[MIDDLE_GAIN].data;
    t.last.bias = in[DOWN_BIAS].data, t.last.post_gain = in[DOWN_GAIN].data, t.last.gain = in[LAST_GAIN].data;
    t.product = output(context, 0, rows, t.next.outputs);
    t.sum = t.attended ? output(context, 1, rows, width) : NULL;
    TransformWork work = {.transform = &t, .rows = rows, .blocks = blocks_of(rows)};
    if (work.blocks > 1) {
        in_parallel(context, transform_block, (size_t)work.blocks, &work);
    } else if (rows) { /* threads share each stage */
        if (!prepare_stages(&work.stages, &t, 0, rows)) return failure("TransformRows: cannot allocate memory");
        for (; work.stage < NUM_STAGES; work.stage++) {
            work.parts = parts_of_stage(&work.stages, work.stage);
            if (work.parts) in_parallel(context, transform_part, (size_t)work.parts, &work);
        }
        release_stages(&work.stages);
    }
    return work.out_of_memory ? failure("TransformRows: cannot allocate memory") : NULL;
}

/* Inputs of MixExperts; weights of experts come as [experts, inputs, outputs]. */
enum {
    MIX_RESIDUAL, MIX_ATTENDED, MIX_OUT, MIX_OUT_SCALES, MIX_OUT_BIAS, MIX_GAIN, ROUTER, ROUTER_BIAS, MIX_GATE,
    MIX_UP = MIX_GATE + 3, MIX_DOWN = MIX_UP + 3, NUM_MIX_INPUTS = MIX_DOWN + 3
};
/* Rows whose experts' outputs are kept at a time. */
#define MAX_ROWS_MIXED 512

static void destroy_mixture(void *state) {
    Mixture *m = state;
    for (int64_t i = 0; m->packed && i < m->experts; i++) release_expert(m->packed[i]);
    release_weight(&m->out);
    free(m->packed), free(m->router), free(m);
}

/* Keep the router as panels of sixteen experts. */
static int pack_router(Mixture *m, const Tensor *router) {
    int64_t padded = (m->experts + LANES - 1) / LANES * LANES;
    m->router = aligned_alloc(64, (size_t)(padded * m->width) * sizeof(float));
    m->packed = calloc((size_t)m->experts, sizeof *m->packed);
    if (!m->router || !m->packed) return 0;
    for (int64_t i = 0; i < padded; i++)
        for (int64_t k = 0; k < m->width; k++)
            m->router[(i / LANES * m->width + k) * LANES + i % LANES] =
                i < m->experts ? ((const float *)router->data)[k * m->experts + i] : 0;
    return 1;
}

static Status *create_mixture(const Operator *self, const void *table, const void *info, void **kernel) {
    (void)self, (void)table;
    Mixture *m = calloc(1, sizeof *m);
    if (!m) return failure("cannot allocate memory");
    Tensor router = constant(info, ROUTER), gate = constant(info, MIX_GATE);
    int is_packed = pack(info, MIX_OUT, 1 / 127.0f, &m->out);
    m->width = m->out.outputs, m->experts = router.sizes[1], m->inner = gate.sizes[2], m->used = integer(info, "used");
    int64_t normed_block = integer(info, "normed_block"), gated_block = integer(info, "gated_block");
    if (!is_packed || router.rank != 2 || router.sizes[0] != m->width || gate.rank != 3 || m->width < 16 ||
        m->width % 16 || m->width > MAX_WIDTH || m->inner < 16 || m->inner % 16 || m->inner > MAX_WIDTH ||
        m->experts < 1 || m->experts > MAX_EXPERTS || m->used < 1 || m->used > m->experts || normed_block < 1 ||
        m->width % normed_block || gated_block < 1 || m->inner % gated_block || !pack_router(m, &router)) {
        destroy_mixture(m);
        return failure("MixExperts: weights of these sizes are not supported");
    }
    m->middle = (Norm){.quantiser = {m->width, normed_block, number(info, "clip")}, .epsilon = number(info, "epsilon")};
    m->gated_quantiser = (Quantiser){m->inner, gated_block, 0};
    m->shares_whole = (int)integer(info, "shares_whole"), m->sharpness = number(info, "sharpness");
    m->limit = number(info, "limit"), m->offset = number(info, "offset");
    if (!(m->limit > 0)) m->limit = 3e38f;
    *kernel = m;
    return NULL;
}

typedef struct {
    Mixture mixture;
    int64_t rows, blocks;
    Share *shares;
    int out_of_memory;
} MixWork;

static void route_block(void *data, size_t block) {
    MixWork *work = data;
    int64_t first = work->rows * (int64_t)block / work->blocks, stop = work->rows * ((int64_t)block + 1) / work->blocks;
    if (!route_rows(&work->mixture, first, stop - first)) work->out_of_memory = 1;
}

static void share_part(void *data, size_t part) {
    MixWork *work = data;
    if (!compute_share(&work->mixture, work->shares + part)) work->out_of_memory = 1;
}

static void add_block(void *data, size_t block) {
    MixWork *work = data;
    int64_t first = work->rows * (int64_t)block / work->blocks, stop = work->rows * ((int64_t)block + 1) / work->blocks;
    for (int64_t row = first; row < stop; row++) add_parts(&work->mixture, row);
}

/* Some rows through all that there is to do. */
static void mix_rows(Context *context, MixWork *work) {
    Mixture *m = &work->mixture;
    int64_t rows = work->rows, pairs = rows * m->used;
    work->blocks = blocks_of(rows);
    in_parallel(context, route_block, (size_t)work->blocks, work);
    size_t most = (size_t)(m->experts + blocks_of(pairs));
    work->shares = malloc(most * sizeof(Share) + (size_t)pairs * sizeof(int32_t));
    if (!work->shares || work->out_of_memory) {
        work->out_of_memory = 1;
    } else {
        int64_t count = share_out(m, rows, work->shares, (int32_t *)(work->shares + most));
        in_parallel(context, share_part, (size_t)count, work);
        in_parallel(context, add_block, (size_t)work->blocks, work);
    }
    free(work->shares);
}

static int fits_mixture(const Mixture *m, const Tensor *in, int64_t rows) {
    int64_t outputs[] = {m->inner, m->inner, m->width};
    for (int i = 0; i < 3; i++) {
        const Tensor *own = in + MIX_GATE + 3 * i;
        if (!own[0].given || !own[1].given || !holds(own, m->experts * m->inner * m->width) ||
            !holds(own + 1, m->experts * outputs[i]) || !holds(own + 2, m->experts * outputs[i]))
            return 0;
    }
    return in[MIX_RESIDUAL].rank == 2 && in[MIX_RESIDUAL].sizes[1] == m->width && in[MIX_ATTENDED].given &&
           holds(in + MIX_ATTENDED, rows * m->out.inputs) && holds(in + MIX_OUT_BIAS, m->width) &&
           holds(in + MIX_GAIN, m->width) && holds(in + ROUTER_BIAS, m->experts);
}

static Status *compute_mixture(void *state, Context *context) {
    MixWork work = {.mixture = *(const Mixture *)state};
    Mixture *m = &work.mixture;
    Tensor in[NUM_MIX_INPUTS];
    for (size_t i = 0; i < NUM_MIX_INPUTS; i++) in[i] = input(context, i);
    int64_t rows = in[MIX_RESIDUAL].sizes[0], width = m->width, depth = depth_of(width);
    if (!fits_mixture(m, in, rows)) return failure("MixExperts: sizes of inputs do not fit");
    for (int i = 0; i < 3; i++) {
        const Tensor *own = in + MIX_GATE + 3 * i;
        m->columns[i] = own[0].data, m->scales[i] = own[1].data, m->biases[i] = own[2].data;
    }
    m->residual = in[MIX_RESIDUAL].data, m->attended = in[MIX_ATTENDED].data, m->router_bias = in[ROUTER_BIAS].data;
    m->middle.bias = in[MIX_OUT_BIAS].data, m->middle.gain = in[MIX_GAIN].data;
    m->sum = output(context, 0, rows, width);
    if (!rows) return NULL;
    int64_t most = rows < MAX_ROWS_MIXED ? rows : MAX_ROWS_MIXED;
    size_t floats = (size_t)(most * (1 + m->used * (1 + width)));
    uint8_t *memory = malloc(floats * sizeof(float) + (size_t)(most * m->used) * sizeof(int32_t) + (size_t)(most * depth));
    if (!memory) return failure("MixExperts: cannot allocate memory");
    m->parts = (float *)memory, m->shares = m->parts + most * m->used * width, m->peaks = m->shares + most * m->used;
    m->chosen = (int32_t *)(m->peaks + most), m->bytes = (uint8_t *)(m->chosen + most * m->used);
    for (int64_t first = 0; first < rows && !work.out_of_memory; first += most) {
        work.rows = rows - first < most ? rows - first : most;
        mix_rows(context, &work);
        m->residual += most * width, m->attended += most * m->out.inputs, m->sum += most * width;
    }
    free(memory);
    return work.out_of_memory ? failure("MixExperts: cannot allocate memory") : NULL;
}

/* Inputs of AttendSlots. */
enum { QKV, CACHE, SLOTS, POSITIONS, COSINES, SINES, QKV_BIAS, Q_GAIN, K_GAIN, SINKS, NUM_ATTENTION_INPUTS };

static Status *create_attention(const Operator *self, const void *table, const void *info, void **kernel) {
    (void)self, (void)table;
    Attention *a = calloc(1, sizeof *a);
    if (!a) return failure("cannot allocate memory");
    a->num_heads = (int)integer(info, "num_heads"), a->num_kv_heads = (int)integer(info, "num_kv_heads");
    a->head_dim = (int)integer(info, "head_dim"), a->window = integer(info, "window");
    a->epsilon = number(info, "epsilon"), a->cap = number(info, "cap");
    int d = a->head_dim, heads = a->num_kv_heads;
    if (d < 16 || d > 256 || d % 16 || heads < 1 || a->num_heads % heads) {
        free(a);
        return failure("AttendSlots: heads of these sizes are not supported");
    }
    *kernel = a;
    return NULL;
}

typedef struct {
    Attention attention;
    Tile *tiles;
} AttentionWork;

#define TOKENS_EACH 8

static void take_in_part(void *data, size_t part) {
    const Attention *attention = &((AttentionWork *)data)->attention;
    int64_t first = (int64_t)part * TOKENS_EACH, stop = first + TOKENS_EACH;
    if (stop > attention->num_tokens) stop = attention->num_tokens;
    for (int64_t i = first; i < stop; i++) take_in_token(attention, i);
}

static void attend_part(void *data, size_t part) {
    AttentionWork *work = data;
    int heads = work->attention.num_kv_heads;
    attend(&work->attention, work->tiles[(int)part / heads], (int)part % heads);
}

static const char *unfit(const Attention *a, const Tensor *in) {
    int64_t d = a->head_dim, width = (a->num_heads + 2 * a->num_kv_heads) * d, tokens = a->num_tokens;
    if (in[QKV].rank != 2 || in[QKV].sizes[1] != width || in[CACHE].rank != 4 ||
        in[CACHE].sizes[1] != a->num_kv_heads || in[CACHE].sizes[3] != block_bytes(a) ||
        !holds(in + SLOTS, tokens) || !holds(in + POSITIONS, tokens) || in[COSINES].rank != 2 ||
        in[SINES].rank != 2 || 2 * in[COSINES].sizes[1] > d || in[SINES].sizes[0] != in[COSINES].sizes[0] ||
        in[SINES].sizes[1] != in[COSINES].sizes[1] || !holds(in + QKV_BIAS, width) ||
        !holds(in + Q_GAIN, a->q_is_whole ? a->num_heads * d : d) ||
        !holds(in + K_GAIN, a->k_is_whole ? a->num_kv_heads * d : d) || !holds(in + SINKS, a->num_heads))
        return "AttendSlots: sizes of inputs do not fit";
    for (int64_t i = 0; i < tokens; i++)
        if (a->slots[i] < 0 || a->slots[i] >= in[CACHE].sizes[0] || a->positions[i] < 0 ||
            a->positions[i] >= 16 * a->num_blocks || a->positions[i] >= in[COSINES].sizes[0])
            return "AttendSlots: a token is outside of the cache";
    return NULL;
}

static Status *compute_attention(void *state, Context *context) {
    AttentionWork work = {.attention = *(const Attention *)state};
    Attention *a = &work.attention;
    Tensor in[NUM_ATTENTION_INPUTS];
    for (size_t i = 0; i < NUM_ATTENTION_INPUTS; i++) in[i] = input(context, i);
    a->num_tokens = in[QKV].sizes[0];
    a->num_blocks = in[CACHE].sizes[2];
    a->rotary_half = (int)in[COSINES].sizes[1];
    a->qkv = in[QKV].data, a->cache = in[CACHE].data, a->slots = in[SLOTS].data, a->positions = in[POSITIONS].data;
    a->cosines = in[COSINES].data, a->sines = in[SINES].data, a->bias = in[QKV_BIAS].data;
    a->q_gain = in[Q_GAIN].data, a->k_gain = in[K_GAIN].data, a->sinks = in[SINKS].data;
    /* A gain longer than a head is that of all heads together. */
    a->q_is_whole = !holds(in + Q_GAIN, a->head_dim), a->k_is_whole = !holds(in + K_GAIN, a->head_dim);
    /* What the numbers of a cache are is told by the size of its blocks. */
    for (a->dtype = INT8; a->dtype < FLOAT32 && block_bytes(a) != in[CACHE].sizes[3];) a->dtype++;
    const char *reason = unfit(a, in);
    if (reason) return failure(reason);
    a->out = output(context, 0, a->num_tokens, a->num_heads * (int64_t)a->head_dim);
    a->queries = output(context, 1, a->num_tokens, a->num_heads * query_bytes(a));
    if (!a->num_tokens) return NULL;
    work.tiles = malloc((size_t)a->num_tokens * sizeof(Tile));
    if (!work.tiles) return failure("AttendSlots: cannot allocate memory");
    in_parallel(context, take_in_part, (size_t)((a->num_tokens + TOKENS_EACH - 1) / TOKENS_EACH), &work);
    size_t tasks = (size_t)(make_tiles(a, work.tiles) * a->num_kv_heads);
    in_parallel(context, attend_part, tasks, &work);
    free(work.tiles);
    return NULL;
}

Operator operators[] = {
    {.own_name = "TransformRows", .create = create_transform, .compute = compute_transform, .destroy = destroy_transform,
     .num_inputs = 21, .num_required = 1, .num_outputs = 2,
     .inputs = {FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT,
                SIGNED_BYTES, FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT},
     .outputs = {FLOAT, FLOAT}},
    {.own_name = "AttendSlots", .create = create_attention, .compute = compute_attention, .destroy = free,
     .num_inputs = NUM_ATTENTION_INPUTS, .num_required = 6, .num_outputs = 2,
     .inputs = {FLOAT, BYTES, INTS, INTS, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, .outputs = {FLOAT, BYTES}},
    {.own_name = "MixExperts", .create = create_mixture, .compute = compute_mixture, .destroy = destroy_mixture,
     .num_inputs = NUM_MIX_INPUTS, .num_required = 1, .num_outputs = 1,
     .inputs = {FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT,
                SIGNED_BYTES, FLOAT, FLOAT, SIGNED_BYTES, FLOAT, FLOAT},
     .outputs = {FLOAT}},
};
const size_t num_operators = sizeof operators / sizeof *operators;
