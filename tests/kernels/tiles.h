/* The instructions of AMX in C, where a test is to go their way on a processor without them. */
static _Thread_local uint8_t tiles[8][16][64];

static void load_tile(int tile, const void *base, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy(tiles[tile][r], (const uint8_t *)base + r * stride, 64);
}

static void store_tile_to(int tile, void *base, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy((uint8_t *)base + r * stride, tiles[tile][r], 64);
}

static void add_products(int sums, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            int32_t sum;
            memcpy(&sum, &tiles[sums][m][4 * n], 4);
            for (int k = 0; k < 64; k++) sum += tiles[a][m][k] * (int8_t)tiles[b][k / 4][4 * n + k % 4];
            memcpy(&tiles[sums][m][4 * n], &sum, 4);
        }
}

/* The configuration must be that of eight full tiles: palette, bytes a row from byte 16, rows from 48. */
static void check_config(const void *config) {
    const uint8_t *bytes = config;
    for (int i = 0; i < 8; i++)
        if (bytes[0] != 1 || bytes[16 + 2 * i] != 64 || bytes[17 + 2 * i] || bytes[48 + i] != 16) __builtin_trap();
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig check_config
#define _tile_release() ((void)0)
#define _tile_zero(tile) memset(tiles[tile], 0, sizeof tiles[tile])
#define _tile_loadd load_tile
#define _tile_stored store_tile_to
#define _tile_dpbusd add_products
