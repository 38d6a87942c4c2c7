/* How the operators reach ONNX Runtime: its functions under names of ours, and their registration. */
#include "runtime.h"

typedef struct {
    Table (*table)(uint32_t version);
} Base;

Table api;

Status *failure(const char *text) {
    return CALL(CREATE_STATUS, Status * (*)(int, const char *), 2, text);
}

static void forget(Status *status) { CALL(RELEASE_STATUS, void (*)(Status *), status); }

int64_t integer(const void *info, const char *name) {
    int64_t value = 0;
    Status *none = CALL(ATTRIBUTE_INT, Status * (*)(const void *, const char *, int64_t *), info, name, &value);
    if (none) forget(none);
    return none ? 0 : value;
}

float number(const void *info, const char *name) {
    float value = 0;
    Status *none = CALL(ATTRIBUTE_FLOAT, Status * (*)(const void *, const char *, float *), info, name, &value);
    if (none) forget(none);
    return none ? 0 : value;
}

static void *data_of(const Value *value) {
    void *data = NULL;
    CALL(DATA, Status * (*)(const Value *, void **), value, &data);
    return data;
}

static Tensor tensor_of(const Value *value) {
    Tensor tensor = {0};
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

Tensor constant(const void *info, size_t index) {
    size_t count = 0;
    int is_constant = 0;
    const Value *value = NULL;
    CALL(NODE_INPUT_COUNT, Status * (*)(const void *, size_t *), info, &count);
    if (index >= count) return (Tensor){0};
    Status *none = CALL(CONSTANT_INPUT, Status * (*)(const void *, size_t, int *, const Value **), info, index,
                        &is_constant, &value);
    if (none) forget(none);
    return tensor_of(none || !is_constant ? NULL : value);
}

Tensor input(Context *context, size_t index) {
    size_t count = 0;
    const Value *value = NULL;
    CALL(INPUT_COUNT, Status * (*)(Context *, size_t *), context, &count);
    if (index < count)
        CALL(INPUT, Status * (*)(Context *, size_t, const Value **), context, index, &value);
    return tensor_of(value);
}

void *output(Context *context, size_t index, int64_t rows, int64_t width) {
    int64_t sizes[2] = {rows, width};
    Value *value = NULL;
    CALL(OUTPUT, Status * (*)(Context *, size_t, const int64_t *, size_t, Value **), context, index,
         sizes, (size_t)2, &value);
    return value ? data_of(value) : NULL;
}

void in_parallel(Context *context, void (*work)(void *, size_t), size_t total, void *data) {
    if (total == 1) {
        work(data, 0);
        return;
    }
    CALL(PARALLEL_FOR, Status * (*)(const Context *, void (*)(void *, size_t), size_t, size_t, void *),
         context, work, total, (size_t)0, data);
}

int holds(const Tensor *tensor, int64_t count) {
    int64_t size = 1;
    for (size_t i = 0; i < tensor->rank; i++) size *= tensor->sizes[i];
    return !tensor->given || size == count;
}

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

__attribute__((visibility("default"))) Status *RegisterCustomOps(void *options, const Base *base) {
    api = base->table(API_VERSION);
    if (!api) return NULL; /* an older runtime: it will not know the operators */
    void *domain = NULL;
    Status *status = CALL(CREATE_DOMAIN, Status * (*)(const char *, void **), "aobatch", &domain);
    for (size_t i = 0; !status && i < num_operators; i++) {
        Operator *o = operators + i;
        o->version = API_VERSION;
        o->name = own_name, o->provider = no_provider, o->input_type = input_type;
        o->input_count = input_count, o->output_type = output_type, o->output_count = output_count;
        o->input_kind = input_kind, o->output_kind = output_kind, o->memory = default_memory;
        o->first_version = one, o->last_version = any;
        status = CALL(ADD_OPERATOR, Status * (*)(void *, const Operator *), domain, o);
    }
    return status ? status : CALL(ADD_DOMAIN, Status * (*)(void *, void *), options, domain);
}
