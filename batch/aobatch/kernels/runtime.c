/* The operators as nodes of ONNX Runtime, by the callbacks and functions of its C interface.
 *
 * What is declared here is the part of that interface that is used: a custom operator's callbacks
 * in their order, and functions by their places in the table, which releases only add to. A test
 * run at load (aobatch.kernels) finds a runtime that disagrees. */
#include "operators.h"
#include <stddef.h>
#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))
#define API_VERSION 18

typedef const void *const *Table; /* of functions */
typedef struct {
    Table (*table)(uint32_t version);
} Base;
typedef void Status;
typedef void Context;
typedef void Value;

enum {
    CREATE_STATUS = 0, CREATE_DOMAIN = 26, ADD_OPERATOR = 27, ADD_DOMAIN = 28, DATA = 51,
    DIMENSIONS_COUNT = 61, DIMENSIONS = 62, TYPE_AND_SHAPE = 65, ATTRIBUTE_FLOAT = 85,
    ATTRIBUTE_INT = 86, INPUT_COUNT = 88, INPUT = 90, OUTPUT = 91, RELEASE_STATUS = 93, RELEASE_SHAPE = 99,
    PARALLEL_FOR = 274
};
enum { FLOAT = 1, BYTES = 2, INTS = 6 };
enum { REQUIRED, OPTIONAL };

static Table api;
#define CALL(place, type, ...) (((type)api[place])(__VA_ARGS__))

static Status *failure(const char *text) {
    return CALL(CREATE_STATUS, Status * (*)(int, const char *), 2, text);
}

/* Attributes are 0 where a node has none. */
static int64_t integer(const void *info, const char *name) {
    int64_t value = 0;
    Status *none = CALL(ATTRIBUTE_INT, Status * (*)(const void *, const char *, int64_t *), info, name, &value);
    if (none) CALL(RELEASE_STATUS, void (*)(Status *), none);
    return none ? 0 : value;
}

static float number(const void *info, const char *name) {
    float value = 0;
    Status *none = CALL(ATTRIBUTE_FLOAT, Status * (*)(const void *, const char *, float *), info, name, &value);
    if (none) CALL(RELEASE_STATUS, void (*)(Status *), none);
    return none ? 0 : value;
}

typedef struct {
    void *data; /* may be null where there are no numbers */
    int given;
    int64_t sizes[4];
    size_t rank;
} Tensor;

static void *data_of(const Value *value) {
    void *data = NULL;
    CALL(DATA, Status * (*)(const Value *, void **), value, &data);
    return data;
}

/* An input; not given where it is left out. */
static Tensor input(Context *context, size_t index) {
    Tensor tensor = {0};
    size_t count = 0;
    const Value *value = NULL;
    CALL(INPUT_COUNT, Status * (*)(Context *, size_t *), context, &count);
    if (index < count)
        CALL(INPUT, Status * (*)(Context *, size_t, const Value **), context, index, &value);
    if (!value) return tensor;
    tensor.given = 1;
    void *shape = NULL;
    CALL(TYPE_AND_SHAPE, Status * (*)(const Value *, void **), value, &shape);
    CALL(DIMENSIONS_COUNT, Status * (*)(void *, size_t *), shape, &tensor.rank);
    if (tensor.rank > 4) tensor.rank = 4;
    CALL(DIMENSIONS, Status * (*)(void *, int64_t *, size_t), shape, tensor.sizes, tensor.rank);
    CALL(RELEASE_SHAPE, void (*)(void *), shape);
    tensor.data = data_of(value);
    return tensor;
}

static void *output(Context *context, size_t index, int64_t rows, int64_t width) {
    int64_t sizes[2] = {rows, width};
    Value *value = NULL;
    CALL(OUTPUT, Status * (*)(Context *, size_t, const int64_t *, size_t, Value **), context, index,
         sizes, (size_t)2, &value);
    return value ? data_of(value) : NULL;
}

static void in_parallel(Context *context, void (*work)(void *, size_t), size_t total, void *data) {
    if (total == 1) {
        work(data, 0);
        return;
    }
    CALL(PARALLEL_FOR, Status * (*)(const Context *, void (*)(void *, size_t), size_t, size_t, void *),
         context, work, total, (size_t)0, data);
}

/* Whether a tensor is left out, or has so many numbers. */
static int holds(const Tensor *tensor, int64_t count) {
    int64_t size = 1;
    for (size_t i = 0; i < tensor->rank; i++) size *= tensor->sizes[i];
    return !tensor->given || size == count;
}

#define ROWS_EACH 8
static size_t parts_of(int64_t rows) { return (size_t)((rows + ROWS_EACH - 1) / ROWS_EACH); }

static int64_t end_of(size_t part, int64_t rows) {
    int64_t end = ((int64_t)part + 1) * ROWS_EACH;
    return end < rows ? end : rows;
}

typedef struct {
    Quantiser quantiser;
    float epsilon;
    int64_t kind;
    Attention attention;
} Kernel;

typedef struct {
    Norm norm;
    int64_t rows;
} NormWork;

static void norm_part(void *data, size_t part) {
    NormWork *work = data;
    norm_rows(&work->norm, (int64_t)part * ROWS_EACH, end_of(part, work->rows));
}

static Status *compute_norm(void *state, Context *context) {
    const Kernel *kernel = state;
    Tensor in[6];
    for (size_t i = 0; i < 6; i++) in[i] = input(context, i);
    int64_t rows = in[0].sizes[0], width = in[0].sizes[1];
    if (in[0].rank != 2 || width % 16 || width < 16 || width > MAX_WIDTH || !holds(in + 1, rows * width) ||
        !holds(in + 2, rows) || !holds(in + 3, width) || !holds(in + 4, width) || !holds(in + 5, width))
        return failure("NormQuantise: sizes of inputs do not fit");
    NormWork work = {{.quantiser = kernel->quantiser, .epsilon = kernel->epsilon,
                      .residual = in[0].data, .product = in[1].data, .scale = in[2].data,
                      .bias = in[3].data, .post_gain = in[4].data, .gain = in[5].data}, rows};
    work.norm.quantiser.width = width;
    work.norm.bytes = output(context, 0, rows, width);
    work.norm.sum = in[1].given ? output(context, 1, rows, width) : NULL;
    work.norm.peaks = kernel->quantiser.clip > 0 ? NULL : output(context, 2, rows, 1);
    if (rows) in_parallel(context, norm_part, parts_of(rows), &work);
    return NULL;
}

typedef struct {
    Activation activation;
    int64_t rows;
} ActivationWork;

static void activation_part(void *data, size_t part) {
    ActivationWork *work = data;
    activate_rows(&work->activation, (int64_t)part * ROWS_EACH, end_of(part, work->rows));
}

static Status *compute_activation(void *state, Context *context) {
    const Kernel *kernel = state;
    Tensor in[5];
    for (size_t i = 0; i < 5; i++) in[i] = input(context, i);
    int64_t rows = in[0].sizes[0], width = in[0].sizes[1];
    if (in[0].rank != 2 || width % 16 || width < 16 || width > MAX_WIDTH || !holds(in + 1, rows * width) ||
        !holds(in + 2, rows) || !holds(in + 3, width) || !holds(in + 4, width))
        return failure("ActivateQuantise: sizes of inputs do not fit");
    ActivationWork work = {{.quantiser = kernel->quantiser, .kind = (int)kernel->kind,
                            .stride = width, .gate = in[0].data, .up = in[1].data,
                            .scale = in[2].data, .gate_bias = in[3].data, .up_bias = in[4].data}, rows};
    work.activation.quantiser.width = width;
    work.activation.bytes = output(context, 0, rows, width);
    work.activation.peaks = output(context, 1, rows, 1);
    if (rows) in_parallel(context, activation_part, parts_of(rows), &work);
    return NULL;
}

typedef struct {
    Attention attention;
    Tile *tiles;
} AttentionWork;

static void take_in_part(void *data, size_t part) {
    const Attention *attention = &((AttentionWork *)data)->attention;
    for (int64_t i = (int64_t)part * ROWS_EACH; i < end_of(part, attention->num_tokens); i++)
        take_in_token(attention, i);
}

static void attend_part(void *data, size_t part) {
    AttentionWork *work = data;
    int heads = work->attention.num_kv_heads;
    attend(&work->attention, work->tiles[(int)part / heads], (int)part % heads);
}

static const char *unfit(const Attention *a, const Tensor *in) {
    int64_t d = a->head_dim, width = (a->num_heads + 2 * a->num_kv_heads) * d, tokens = a->num_tokens;
    if (in[0].rank != 2 || in[0].sizes[1] != width || in[1].rank != 4 ||
        in[1].sizes[1] != a->num_kv_heads || in[1].sizes[3] != block_bytes(a) ||
        in[2].sizes[0] != tokens || in[3].sizes[0] != tokens || in[4].rank != 2 || in[5].rank != 2 ||
        2 * in[4].sizes[1] > d || in[5].sizes[0] != in[4].sizes[0] || in[5].sizes[1] != in[4].sizes[1] ||
        !holds(in + 6, tokens) || !holds(in + 7, width) || !holds(in + 8, d) || !holds(in + 9, d))
        return "AttendSlots: sizes of inputs do not fit";
    for (int64_t i = 0; i < tokens; i++)
        if (a->slots[i] < 0 || a->slots[i] >= in[1].sizes[0] || a->positions[i] < 0 ||
            a->positions[i] >= 16 * a->num_blocks || a->positions[i] >= in[4].sizes[0])
            return "AttendSlots: a token is outside of the cache";
    return NULL;
}

static Status *compute_attention(void *state, Context *context) {
    AttentionWork work = {.attention = ((const Kernel *)state)->attention};
    Attention *a = &work.attention;
    Tensor in[10];
    for (size_t i = 0; i < 10; i++) in[i] = input(context, i);
    a->num_tokens = in[0].sizes[0];
    a->num_blocks = in[1].sizes[2];
    a->rotary_half = (int)in[4].sizes[1];
    a->qkv = in[0].data, a->cache = in[1].data, a->slots = in[2].data, a->positions = in[3].data;
    a->cosines = in[4].data, a->sines = in[5].data, a->scale = in[6].data, a->bias = in[7].data;
    a->q_gain = in[8].data, a->k_gain = in[9].data;
    /* What the numbers of a cache are is told by the size of its blocks. */
    for (a->dtype = INT8; a->dtype < FLOAT32 && block_bytes(a) != in[1].sizes[3];) a->dtype++;
    const char *reason = unfit(a, in);
    if (reason) return failure(reason);
    a->out = output(context, 0, a->num_tokens, a->num_heads * (int64_t)a->head_dim);
    a->queries = output(context, 1, a->num_tokens, a->num_heads * query_bytes(a));
    if (!a->num_tokens) return NULL;
    work.tiles = malloc((size_t)a->num_tokens * sizeof(Tile));
    if (!work.tiles) return failure("AttendSlots: cannot allocate memory");
    in_parallel(context, take_in_part, parts_of(a->num_tokens), &work);
    size_t tasks = (size_t)(make_tiles(a, work.tiles) * a->num_kv_heads);
    in_parallel(context, attend_part, tasks, &work);
    free(work.tiles);
    return NULL;
}

/* A custom operator: the runtime's callbacks in their order, then what ours need. */
typedef struct Operator {
    uint32_t version;
    void *create_old;
    const char *(*name)(const struct Operator *);
    const char *(*provider)(const struct Operator *);
    int (*input_type)(const struct Operator *, size_t);
    size_t (*input_count)(const struct Operator *);
    int (*output_type)(const struct Operator *, size_t);
    size_t (*output_count)(const struct Operator *);
    void *compute_old;
    void (*destroy)(void *);
    int (*input_kind)(const struct Operator *, size_t);
    int (*output_kind)(const struct Operator *, size_t);
    int (*memory)(const struct Operator *, size_t);
    void *variadic[4];
    Status *(*create)(const struct Operator *, const void *, const void *, void **);
    Status *(*compute)(void *, Context *);
    void *infer_shapes;
    int (*first_version)(const struct Operator *);
    int (*last_version)(const struct Operator *);
    size_t (*in_place)(int **, int **);
    void (*release_in_place)(int *, int *);
    void *alias_map, *release_alias_map;
    const char *own_name;
    size_t num_inputs, num_required, num_outputs;
    int inputs[10], outputs[3];
} Operator;

static const char *own_name(const Operator *self) { return self->own_name; }
static const char *no_provider(const Operator *self) { return (void)self, (const char *)NULL; }
static int input_type(const Operator *self, size_t i) { return self->inputs[i]; }
static size_t input_count(const Operator *self) { return self->num_inputs; }
static int output_type(const Operator *self, size_t i) { return self->outputs[i]; }
static size_t output_count(const Operator *self) { return self->num_outputs; }
static int input_kind(const Operator *self, size_t i) { return i < self->num_required ? REQUIRED : OPTIONAL; }
static int output_kind(const Operator *self, size_t i) { return (void)self, i ? OPTIONAL : REQUIRED; }
static int default_memory(const Operator *self, size_t i) { return (void)self, (void)i, 0; }
static int one(const Operator *self) { return (void)self, 1; }
static int any(const Operator *self) { return (void)self, 0x7FFFFFFF; }

static Status *create(const Operator *self, const void *table, const void *info, void **kernel) {
    (void)self, (void)table;
    Kernel *k = calloc(1, sizeof *k);
    if (!k) return failure("cannot allocate memory");
    k->quantiser = (Quantiser){0, integer(info, "block"), number(info, "clip")};
    k->epsilon = number(info, "epsilon");
    k->kind = integer(info, "activation");
    k->attention = (Attention){
        .num_heads = (int)integer(info, "num_heads"), .num_kv_heads = (int)integer(info, "num_kv_heads"), .head_dim = (int)integer(info, "head_dim"),
        .window = integer(info, "window"), .epsilon = k->epsilon};
    int d = k->attention.head_dim, heads = k->attention.num_kv_heads;
    if (self->compute == compute_attention &&
        (d < 16 || d > 256 || d % 16 || heads < 1 || k->attention.num_heads % heads)) {
        free(k);
        return failure("AttendSlots: heads of these sizes are not supported");
    }
    *kernel = k;
    return NULL;
}

static Operator operators[] = {
    {.own_name = "NormQuantise", .compute = compute_norm, .num_inputs = 6, .num_required = 1,
     .num_outputs = 3, .inputs = {FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, .outputs = {BYTES, FLOAT, FLOAT}},
    {.own_name = "ActivateQuantise", .compute = compute_activation, .num_inputs = 5, .num_required = 1,
     .num_outputs = 2, .inputs = {FLOAT, FLOAT, FLOAT, FLOAT, FLOAT}, .outputs = {BYTES, FLOAT}},
    {.own_name = "AttendSlots", .compute = compute_attention, .num_inputs = 10, .num_required = 6,
     .num_outputs = 2, .inputs = {FLOAT, BYTES, INTS, INTS, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT},
     .outputs = {FLOAT, BYTES}},
};

EXPORTED Status *RegisterCustomOps(void *options, const Base *base) {
    api = base->table(API_VERSION);
    if (!api) return NULL; /* an older runtime: it will not know the operators */
    void *domain = NULL;
    Status *status = CALL(CREATE_DOMAIN, Status * (*)(const char *, void **), "aobatch", &domain);
    for (size_t i = 0; !status && i < sizeof operators / sizeof *operators; i++) {
        Operator *o = operators + i;
        o->version = API_VERSION;
        o->name = own_name, o->provider = no_provider, o->input_type = input_type;
        o->input_count = input_count, o->output_type = output_type, o->output_count = output_count;
        o->destroy = free, o->input_kind = input_kind, o->output_kind = output_kind;
        o->memory = default_memory, o->create = create, o->first_version = one, o->last_version = any;
        status = CALL(ADD_OPERATOR, Status * (*)(void *, const Operator *), domain, o);
    }
    return status ? status : CALL(ADD_DOMAIN, Status * (*)(void *, void *), options, domain);
}
