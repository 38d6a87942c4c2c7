/* Products of rows of bytes by the tiles of processors with AMX: the same integers, the fastest. */
#include "product.h"

#if HAS_TILES
#ifdef EMULATED_TILES /* a header that computes the instructions in C, for tests elsewhere */
#include EMULATED_TILES
#else
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Registers: the sums of two times two tiles, the bytes of two times 16 rows and of a panel. */
#define ROWS_0 4
#define ROWS_1 5
#define PANEL_0 6
#define PANEL_1 7
#define SIDE 16 /* rows of a tile, each of 64 bytes */

static int are_allowed;

#ifndef EMULATED_TILES
/* Whether the processor has tiles and their products of bytes, and the system keeps them for a thread. */
static int are_there(void) {
    unsigned a, b, c, d, kept, none;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(none) : "c"(0));
    return (kept >> 17 & 3) == 3;
}

/* The system lets a process use tiles once it asks, and so the threads that it has then and later. */
static int ask_for_tiles(void) {
    const long request_permission = 0x1023, tile_data = 18;
    return are_there() && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

__attribute__((constructor)) static void find_tiles(void) { are_allowed = ask_for_tiles(); }

int tiles_are_allowed(void) { return are_allowed; }

/* The sums of two tiles beside each other, scaled, into the rows of out that there are. */
INLINE void store_rows(const int32_t *sums, const ByteRows *rows, const Weight *weight, const int is_scaled,
                       const int is_whole, int64_t row, int64_t column, float *out, int64_t stride) {
    int64_t width = weight->outputs - column, count = rows->count - row;
    f32x16 scales[2] = {load(weight->scales + column), load(weight->scales + column + LANES)};
    i32x16 offsets[2] = {load_bytes(weight->offsets + column), load_bytes(weight->offsets + column + LANES)};
    for (int r = 0; r < SIDE && r < count; r++, out += stride)
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            f32x16 x = to_float(load_bytes(sums + (n * SIDE + r) * LANES) + offsets[n]) * scales[n];
            int64_t left = width - n * LANES;
            if (is_scaled) x *= rows->scales[row + r];
            if (is_whole)
                store(out + n * LANES, x);
            else if (left > 0)
                memcpy(out + n * LANES, &x, left < LANES ? (size_t)left * sizeof(float) : sizeof x);
        }
}

static void store_tiles(const int32_t *sums, const ByteRows *rows, const Weight *weight, int64_t row, int64_t column,
                        float *out, int64_t stride) {
    if (weight->outputs - column < PANEL)
        store_rows(sums, rows, weight, rows->scales != NULL, 0, row, column, out, stride);
    else if (rows->scales)
        store_rows(sums, rows, weight, 1, 1, row, column, out, stride);
    else
        store_rows(sums, rows, weight, 0, 1, row, column, out, stride);
}

/* Up to 32 rows by one panel, while their share of the next panel's 32 lines a step is fetched. */
INLINE void multiply_square(const ByteRows *rows, const Weight *weight, const int has_second, int64_t row,
                            int64_t panel, float *out, int64_t stride) {
    int64_t depth = depth_of(weight->inputs), side = LANES * depth;
    int64_t first = 2 * SIDE * row / rows->count, stop = 2 * SIDE * (row + 2 * SIDE) / rows->count;
    const uint8_t *bytes = rows->bytes + row * depth;
    const int8_t *columns = weight->panels + panel * 2 * side, *ahead = columns + 2 * side + first * depth;
    if (stop > 2 * SIDE) stop = 2 * SIDE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += DEPTH_STEP) {
        const int8_t *at = columns + k * LANES;
        _tile_loadd(ROWS_0, bytes + k, depth);
        _tile_loadd(PANEL_0, at, 64);
        _tile_loadd(PANEL_1, at + side, 64);
        for (int64_t i = first; i < stop; i++, ahead += 64) __builtin_prefetch(ahead, 0, 2);
        _tile_dpbusd(0, ROWS_0, PANEL_0);
        _tile_dpbusd(1, ROWS_0, PANEL_1);
        if (has_second) {
            _tile_loadd(ROWS_1, bytes + SIDE * depth + k, depth);
            _tile_dpbusd(2, ROWS_1, PANEL_0);
            _tile_dpbusd(3, ROWS_1, PANEL_1);
        }
    }
    int32_t sums[4][SIDE * LANES] __attribute__((aligned(64)));
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int i = 0; i < 1 + has_second; i++, row += SIDE)
        store_tiles(sums[2 * i], rows, weight, row, panel * PANEL, out + row * stride, stride);
}

void multiply_tiles(const ByteRows *rows, const Weight *weight, int64_t first, int64_t stop, float *out,
                    int64_t stride) {
    static const struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    _tile_loadconfig(&config);
    for (int64_t panel = first; panel < stop; panel++, out += PANEL)
        for (int64_t row = 0; row < rows->count; row += 2 * SIDE) {
            if (rows->count > row + SIDE)
                multiply_square(rows, weight, 1, row, panel, out, stride);
            else
                multiply_square(rows, weight, 0, row, panel, out, stride);
        }
    _tile_release();
}
#endif
