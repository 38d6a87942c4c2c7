/* The instructions of AMX in C, after their description in the processor's manual, where a test is to
 * go their way on a processor without them. What a processor would refuse ends the process here. */
#include <stdlib.h>

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Configuration;

/* Each thread has its own; palette 0 is that of a thread which configured none. */
static _Thread_local Configuration in_use;
static _Thread_local uint8_t tiles[8][16][64];
static int is_permitted;
/* How many products were computed: whether a test went this way. */
EXPORTED int64_t num_tile_products;

/* The system's answer to a process that asks. */
static int ask_for_tiles(void) { return is_permitted = !getenv("REFUSE_TILES"); }

static void configure(const void *from) {
    Configuration next;
    memcpy(&next, from, sizeof next);
    MUST(is_permitted && !in_use.palette); /* nobody leaves them configured */
    MUST(next.palette == 1 && next.start == 0);
    for (int i = 0; i < 14; i++) MUST(!next.reserved[i]);
    for (int i = 0; i < 16; i++)
        MUST(i < 8 ? next.bytes[i] <= 64 && next.rows[i] <= 16 && !next.bytes[i] == !next.rows[i]
                   : !next.bytes[i] && !next.rows[i]);
    in_use = next;
    memset(tiles, 0, sizeof tiles);
}

static void release(void) { memset(&in_use, 0, sizeof in_use); }

static void clear(int tile) {
    MUST(in_use.palette && in_use.rows[tile]);
    memset(tiles[tile], 0, sizeof tiles[tile]);
}

static void load_tile(int tile, const void *base, int64_t stride) {
    clear(tile);
    for (int r = 0; r < in_use.rows[tile]; r++)
        memcpy(tiles[tile][r], (const uint8_t *)base + r * stride, in_use.bytes[tile]);
}

static void store_tile_to(int tile, void *base, int64_t stride) {
    MUST(in_use.palette && in_use.rows[tile]);
    for (int r = 0; r < in_use.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles[tile][r], in_use.bytes[tile]);
}

static void add_products(int sums, int a, int b) {
    int count = in_use.bytes[a] / 4, width = in_use.bytes[sums] / 4;
    MUST(in_use.palette && sums != a && a != b && b != sums);
    MUST(in_use.rows[sums] == in_use.rows[a] && in_use.bytes[sums] == in_use.bytes[b] && count == in_use.rows[b]);
    MUST(in_use.bytes[a] % 4 == 0 && in_use.bytes[b] % 4 == 0);
    for (int m = 0; m < in_use.rows[sums]; m++)
        for (int k = 0; k < count; k++)
            for (int n = 0; n < width; n++) {
                int32_t sum;
                memcpy(&sum, &tiles[sums][m][4 * n], 4);
                for (int i = 4 * k; i < 4 * k + 4; i++) sum += tiles[a][m][i] * (int8_t)tiles[b][k][4 * n + i % 4];
                memcpy(&tiles[sums][m][4 * n], &sum, 4);
            }
    __atomic_fetch_add(&num_tile_products, 1, __ATOMIC_RELAXED);
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig configure
#define _tile_release release
#define _tile_zero clear
#define _tile_loadd load_tile
#define _tile_stored store_tile_to
#define _tile_dpbusd add_products
