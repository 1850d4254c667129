/* The inner loops of the native step in int8, over vectors of 16 sums. A file includes this after
 * native_lanes.h, once for each way of multiplying bytes that it has, with these macros and what they name:
 *   NAMED(name)      the name with a suffix of this way
 *   DOT_ZERO         what a byte of x has added to it: 128 where the product wants it without a sign, else 0
 *   vi               16 int32 sums; vi_load(const int32_t *) vi_zero() vi_float(vi) -> vf
 *   vw               64 weights, vw_load(const int8_t *); output j has bytes 4 j .. 4 j + 3
 *   vx               4 bytes of x for every output, vx_splat(const uint8_t *)
 *   NAMED(dot)(vi sum, vx x, vw w)
 *   bytes_store(uint8_t *out, vf v)   the lowest byte of each lane's bits
 *   NATIVE_NAME      the table's name; the table itself is NAMED(native)
 */
ALWAYS_INLINE void NAMED(tile)(const int8_t *w, int64_t width, int64_t groups, const int32_t *correction,
                               const float *scale, const uint8_t *x, int64_t x_stride, const float *x_scale,
                               const int rows, const int vectors, const float *from, int64_t from_stride,
                               float *y, int64_t y_stride) {
    vi sum[DEC_TILE_ROWS][4];
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int v = 0; v < vectors; v++) sum[r][v] =
        DOT_ZERO ? vi_load(correction + v * DEC_LANES) : vi_zero();
    for (int64_t k = 0; k < groups; k++, w += 4 * width) {
        vw weight[4];
        UNROLLED for (int v = 0; v < vectors; v++) weight[v] = vw_load(w + v * 4 * DEC_LANES);
        UNROLLED for (int r = 0; r < rows; r++) {
            const vx factor = vx_splat(x + r * x_stride + 4 * k);
            UNROLLED for (int v = 0; v < vectors; v++) sum[r][v] = NAMED(dot)(sum[r][v], factor, weight[v]);
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) {
        const vf row_scale = vsplat(x_scale[r]);
        UNROLLED for (int v = 0; v < vectors; v++) {
            const vf both = vmul(row_scale, vload(scale + v * DEC_LANES));
            const vf before = vload(from + r * from_stride + v * DEC_LANES);
            vstore(y + r * y_stride + v * DEC_LANES, vfma(vi_float(sum[r][v]), both, before));
        }
    }
}

ALWAYS_INLINE void NAMED(tiles)(const int8_t *w, int64_t groups, const int32_t *correction,
                                const float *scale, const uint8_t *x, int64_t x_stride, const float *x_scale,
                                const int rows, const dec_tile *tile) {
    const int64_t width = tile->vectors * DEC_LANES;
    const int most = TILE_VECTORS(rows);
    int v = 0;
    for (; v + most <= tile->vectors; v += most)
        NAMED(tile)(w + v * 4 * DEC_LANES, width, groups, correction + v * DEC_LANES, scale + v * DEC_LANES,
                    x, x_stride, x_scale, rows, most, tile->from + v * DEC_LANES, tile->from_stride,
                    tile->y + v * DEC_LANES, tile->y_stride);
    for (; most == 4 && v + 2 <= tile->vectors; v += 2)
        NAMED(tile)(w + v * 4 * DEC_LANES, width, groups, correction + v * DEC_LANES, scale + v * DEC_LANES,
                    x, x_stride, x_scale, rows, 2, tile->from + v * DEC_LANES, tile->from_stride,
                    tile->y + v * DEC_LANES, tile->y_stride);
    for (; most > 1 && v < tile->vectors; v++)
        NAMED(tile)(w + v * 4 * DEC_LANES, width, groups, correction + v * DEC_LANES, scale + v * DEC_LANES,
                    x, x_stride, x_scale, rows, 1, tile->from + v * DEC_LANES, tile->from_stride,
                    tile->y + v * DEC_LANES, tile->y_stride);
}

static void NAMED(row_product)(const int8_t *w, int64_t groups, const int32_t *correction, const float *scale,
                               const uint8_t *x, int64_t x_stride, const float *x_scale,
                               const dec_tile *tile) {
    switch (tile->rows) {
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        NAMED(tiles)(w, groups, correction, scale, x, x_stride, x_scale, n, tile);                           \
        break;
        CASE(1)
#if TILE_ROWS >= 2
        CASE(2)
#endif
#if TILE_ROWS >= 4
        CASE(3)
        CASE(4)
#endif
#if TILE_ROWS >= 6
        CASE(5)
        CASE(6)
#endif
#undef CASE
    }
}

/* A magnitude may come out as 127 and a bit before it is rounded, never as 128. */
static float NAMED(row_quantise)(const float *x, int64_t n, uint8_t *out) {
    const vf zero = vsplat(0.0f);
    vf top = zero, poison = zero; /* 0 unless x has a NaN or an infinity */
    for (int64_t i = 0; i < n; i += DEC_LANES) {
        const vf v = vget(x + i, n - i);
        top = vmax(top, vabs(v));
        poison = vfma(v, zero, poison);
    }
    const float largest = hmax(top) + 1e-30f;
    const vf inverse = vsplat(127.0f / largest);
    const vf magic = vsplat(12582912.0f + DOT_ZERO); /* rounds, and leaves the integer in the lowest bits */
    for (int64_t i = 0; i < n; i += DEC_LANES)
        bytes_store(out + i, vadd(vmul(vget(x + i, n - i), inverse), magic));
    return largest / 127.0f + hsum(poison);
}

static const dec_native NAMED(native) = {
    .name = NATIVE_NAME,
    .isa = &table,
    .max_rows = TILE_ROWS,
    .product = row_product,
    .product_int8 = NAMED(row_product),
    .quantise = NAMED(row_quantise),
    .lstm = row_lstm,
    .gru_open = row_gru_open,
    .gru_close = row_gru_close,
    .rnn = row_rnn,
    .activate = row_activate,
};
#undef NAMED
#undef DOT_ZERO
#undef NATIVE_NAME
