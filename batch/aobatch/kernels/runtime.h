/* The part of ONNX Runtime's C interface that is used: functions by their places in its table,
 * which releases only add to, and a custom operator's callbacks in their order. A trial of every
 * operator in a process of its own (aobatch.runners.operators) finds a runtime that disagrees. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define API_VERSION 18
#define MAX_INPUTS 21

typedef const void *const *Table; /* of functions */
typedef void Status;
typedef void Context;
typedef void Value;

enum {
    CREATE_STATUS = 0, CREATE_DOMAIN = 26, ADD_OPERATOR = 27, ADD_DOMAIN = 28, DATA = 51,
    DIMENSIONS_COUNT = 61, DIMENSIONS = 62, TYPE_AND_SHAPE = 65, ATTRIBUTE_FLOAT = 85,
    ATTRIBUTE_INT = 86, INPUT_COUNT = 88, INPUT = 90, OUTPUT = 91, RELEASE_STATUS = 93, RELEASE_SHAPE = 99,
    NODE_INPUT_COUNT = 230, CONSTANT_INPUT = 249, PARALLEL_FOR = 274
};
enum { FLOAT = 1, BYTES = 2, SIGNED_BYTES = 3, INTS = 6 };
enum { REQUIRED, OPTIONAL };

extern Table api;
#define CALL(place, type, ...) (((type)api[place])(__VA_ARGS__))

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
    int inputs[MAX_INPUTS], outputs[2];
} Operator;

extern Operator operators[];
extern const size_t num_operators;

typedef struct {
    void *data; /* may be null where there are no numbers */
    int given;
    int64_t sizes[4];
    size_t rank;
} Tensor;

Status *failure(const char *text);
/* Attributes are 0 where a node has none. */
int64_t integer(const void *info, const char *name);
float number(const void *info, const char *name);
/* An input that is a constant of the graph; not given where it is none or left out. */
Tensor constant(const void *info, size_t index);
Tensor input(Context *context, size_t index);
void *output(Context *context, size_t index, int64_t rows, int64_t width);
void in_parallel(Context *context, void (*work)(void *, size_t), size_t total, void *data);
/* Whether a tensor is left out, or has so many numbers. */
int holds(const Tensor *tensor, int64_t count);
