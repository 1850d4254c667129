/* The inner loops of the native step in float32: products, activations and cells, over the logical vector of
 * lanes.h. An instruction-set file includes this after lanes.h and defines
 *   TILE_ROWS                 rows that share a read of the weights, at most DEC_TILE_ROWS
 *   TILE_VECTORS(rows)        vectors of a panel held in registers at once with that many rows: 4, 2 or 1
 */
/* ---- product ------------------------------------------------------------------------------------ */

enum { AHEAD = 256 }; /* inputs: 16 KiB of each vector of outputs */

/* One chain for each output and row, k ascending: rows and vectors only say how many chains run side by side.
 * far: the weights are fetched ahead, at a panel's end those of the next. */
ALWAYS_INLINE void float_tile(const float *w, int64_t apart, int64_t inputs, const float *x, int64_t x_stride,
                              const int rows, const int vectors, const int far, const float *from,
                              int64_t from_stride, float *y, int64_t y_stride) {
    vf sum[DEC_TILE_ROWS][4];
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int v = 0; v < vectors; v++) sum[r][v] =
        vload(from + r * from_stride + v * DEC_LANES);
    for (int64_t k = 0; k < inputs; k++, w += DEC_LANES) {
        vf weight[4];
        UNROLLED for (int v = 0; v < vectors; v++) weight[v] = vload(w + v * apart);
        if (far) {
            const float *ahead = w + AHEAD * DEC_LANES + (k + AHEAD < inputs ? 0 : (vectors - 1) * apart);
            UNROLLED for (int v = 0; v < vectors; v++) prefetch(ahead + v * apart);
        }
        UNROLLED for (int r = 0; r < rows; r++) {
            const vf factor = vsplat(x[r * x_stride + k]);
            UNROLLED for (int v = 0; v < vectors; v++) sum[r][v] = vfma(factor, weight[v], sum[r][v]);
        }
    }
    UNROLLED for (int r = 0; r < rows; r++) UNROLLED for (int v = 0; v < vectors; v++)
        vstore(y + r * y_stride + v * DEC_LANES, sum[r][v]);
}

ALWAYS_INLINE void float_tiles(const float *w, int64_t apart, int64_t inputs, const float *x,
                               int64_t x_stride, const int rows, const dec_tile *tile) {
    const int most = TILE_VECTORS(rows);
    int v = 0;
    for (; tile->far && v + most <= tile->vectors; v += most)
        float_tile(w + v * apart, apart, inputs, x, x_stride, rows, most, 1, tile->from + v * DEC_LANES,
                   tile->from_stride, tile->y + v * DEC_LANES, tile->y_stride);
    for (; v + most <= tile->vectors; v += most)
        float_tile(w + v * apart, apart, inputs, x, x_stride, rows, most, 0, tile->from + v * DEC_LANES,
                   tile->from_stride, tile->y + v * DEC_LANES, tile->y_stride);
    for (; most == 4 && v + 2 <= tile->vectors; v += 2)
        float_tile(w + v * apart, apart, inputs, x, x_stride, rows, 2, 0, tile->from + v * DEC_LANES,
                   tile->from_stride, tile->y + v * DEC_LANES, tile->y_stride);
    for (; most > 1 && v < tile->vectors; v++)
        float_tile(w + v * apart, apart, inputs, x, x_stride, rows, 1, 0, tile->from + v * DEC_LANES,
                   tile->from_stride, tile->y + v * DEC_LANES, tile->y_stride);
}

static void row_product(const float *w, int64_t apart, int64_t inputs, const float *x, int64_t x_stride,
                        const dec_tile *tile) {
    switch (tile->rows) {
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        float_tiles(w, apart, inputs, x, x_stride, n, tile);                                                 \
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

/* ---- activations -------------------------------------------------------------------------------- */

static inline vf vabs(vf x) {
    return vmax(vsub(vsplat(0.0f), x), x); /* both operands are NaN where x is */
}

static inline vf vclamp(vf x, float low, float high) { /* NaN stays */
    return vmin(vsplat(high), vmax(vsplat(low), x));
}

/* e ** y - 1 as 2 ** n * p + (2 ** n - 1), p = e ** r - 1, for y in [-88, 88]; n and p serve e ** y, too. The
 * argument is reduced in two steps (Cody and Waite), so that y's rounding is all that is lost. */
static inline vf vexpm1_parts(vf y, vf *power) {
    const vf magic =
        vsplat(12582912.0f); /* 1.5 * 2 ** 23: adding it rounds, and leaves n in the lowest bits */
    vf m = vfma(y, vsplat(1.44269504f), magic);
    vf n = vsub(m, magic);
    vf r = vfma(n, vsplat(-0.693359375f), y);
    r = vfma(n, vsplat(2.12194440e-4f), r);
    /* (e ** r - 1 - r) / r ** 2 on [-ln 2 / 2, ln 2 / 2] (coefficients: Moshier's Cephes, expf) */
    vf p = vsplat(1.9875691500e-4f);
    p = vfma(p, r, vsplat(1.3981999507e-3f));
    p = vfma(p, r, vsplat(8.3334519073e-3f));
    p = vfma(p, r, vsplat(4.1665795894e-2f));
    p = vfma(p, r, vsplat(1.6666665459e-1f));
    p = vfma(p, r, vsplat(5.0000001201e-1f));
    *power = vpower2(m);
    return vfma(vmul(p, r), r, r);
}

/* What 1 is divided by: 1 + e ** -x. Nothing cancels, whatever x's sign. */
static inline vf vsigmoid_divisor(vf x) {
    vf power, one = vsplat(1.0f);
    vf p = vexpm1_parts(vclamp(vsub(vsplat(0.0f), x), -88.0f, 88.0f), &power);
    return vfma(p, power, vadd(power, one));
}

static inline vf vsigmoid(vf x) {
    return vdiv(vsplat(1.0f), vsigmoid_divisor(x));
}

/* t and 2 + t with t = e ** 2 x - 1, which keeps all its digits near 0. From 9.02 on their quotient is 1. */
static inline vf vtanh_parts(vf x, vf *divisor) {
    vf power, one = vsplat(1.0f);
    vf y = vclamp(x, -10.0f, 10.0f);
    vf p = vexpm1_parts(vadd(y, y), &power);
    *divisor = vfma(p, power, vadd(power, one));
    return vfma(p, power, vsub(power, one));
}

static inline vf vtanh(vf x) {
    vf divisor, t = vtanh_parts(x, &divisor);
    return vdiv(t, divisor);
}

/* sigmoid(x) tanh(y) with one division */
static inline vf vsigmoid_tanh(vf x, vf y) {
    vf divisor, t = vtanh_parts(y, &divisor);
    return vdiv(t, vmul(vsigmoid_divisor(x), divisor));
}

static inline vf vactivate(dec_activation activation, float alpha, float beta, vf x) {
    switch (activation) {
    case DEC_SIGMOID:
        return vsigmoid(x);
    case DEC_TANH:
        return vtanh(x);
    case DEC_RELU:
        return vmax(vsplat(0.0f), x);
    case DEC_AFFINE:
        return vadd(vmul(vsplat(alpha), x), vsplat(beta));
    case DEC_HARD_SIGMOID:
        return vclamp(vadd(vmul(vsplat(alpha), x), vsplat(beta)), 0.0f, 1.0f);
    case DEC_LEAKY_RELU:
        return vchoose_less(x, vsplat(0.0f), vmul(vsplat(alpha), x), x);
    case DEC_SCALED_TANH:
        return vmul(vsplat(alpha), vtanh(vmul(vsplat(beta), x)));
    case DEC_SOFTSIGN:
        return vdiv(x, vadd(vsplat(1.0f), vabs(x)));
    }
    return x;
}

/* ---- cells -------------------------------------------------------------------------------------- */

/* n lanes of a row, n <= DEC_LANES */
static inline vf vget(const float *p, int64_t n) {
    return n >= DEC_LANES ? vload(p) : vload_tail(p, n, 0.0f);
}

static inline void vput(float *p, vf v, int64_t n) {
    if (n >= DEC_LANES)
        vstore(p, v);
    else
        vstore_tail(p, v, n);
}

/* A layer's f-th function after its clip. The usual functions are known when this is compiled. */
ALWAYS_INLINE vf vapply(const dec_layer *layer, const int f, const int usual, vf x) {
    if (usual)
        return f == 0 ? vsigmoid(x) : vtanh(x);
    if (layer->clip > 0.0f && f < 2)
        x = vclamp(x, -layer->clip, layer->clip);
    return vactivate(layer->activation[f], layer->alpha[f], layer->beta[f], x);
}

static int is_usual(const dec_layer *layer) {
    return layer->clip == 0.0f && !layer->coupled && !layer->peepholes &&
           layer->activation[0] == DEC_SIGMOID && layer->activation[1] == DEC_TANH &&
           (layer->cell != DEC_LSTM || layer->activation[2] == DEC_TANH);
}

ALWAYS_INLINE void lstm_cells(const dec_layer *layer, const int usual, const float *gates, float *c,
                              float *h) {
    const int64_t width = layer->hidden;
    const float *peepholes = usual ? NULL : layer->peepholes;
    for (int64_t j = 0; j < width; j += DEC_LANES) {
        const int64_t n = width - j;
        vf cell = vget(c + j, n), gate[4]; /* i, o, f, c */
        for (int g = 0; g < 4; g++)
            gate[g] = vget(gates + g * width + j, n);
        if (peepholes) {
            gate[0] = vfma(vget(peepholes + j, n), cell, gate[0]);
            gate[2] = vfma(vget(peepholes + 2 * width + j, n), cell, gate[2]);
        }
        if (usual) {
            cell = vadd(vdiv(cell, vsigmoid_divisor(gate[2])), vsigmoid_tanh(gate[0], gate[3]));
            vput(c + j, cell, n);
            vput(h + j, vsigmoid_tanh(gate[1], cell), n);
            continue;
        }
        vf in = vapply(layer, 0, usual, gate[0]);
        vf forget = !usual && layer->coupled ? vsub(vsplat(1.0f), in) : vapply(layer, 0, usual, gate[2]);
        cell = vfma(forget, cell, vmul(in, vapply(layer, 1, usual, gate[3])));
        if (peepholes)
            gate[1] = vfma(vget(peepholes + width + j, n), cell, gate[1]);
        vput(c + j, cell, n);
        vput(h + j, vmul(vapply(layer, 0, usual, gate[1]), vapply(layer, 2, usual, cell)), n);
    }
}

static void row_lstm(const dec_layer *layer, float *gates, float *c, float *h) {
    if (is_usual(layer))
        lstm_cells(layer, 1, gates, c, h);
    else
        lstm_cells(layer, 0, gates, c, h);
}

ALWAYS_INLINE void gru_gates(const dec_layer *layer, const int usual, float *gates, const float *h,
                             float *reset) {
    const int64_t width = layer->hidden;
    for (int64_t j = 0; j < width; j += DEC_LANES) {
        const int64_t n = width - j;
        vput(gates + j, vapply(layer, 0, usual, vget(gates + j, n)), n);
        vf r = vapply(layer, 0, usual, vget(gates + width + j, n));
        if (layer->linear_before_reset)
            vput(gates + width + j, r, n);
        else
            vput(reset + j, vmul(r, vget(h + j, n)), n);
    }
}

static void row_gru_open(const dec_layer *layer, float *gates, const float *h, float *reset) {
    if (is_usual(layer))
        gru_gates(layer, 1, gates, h, reset);
    else
        gru_gates(layer, 0, gates, h, reset);
}

ALWAYS_INLINE void gru_cells(const dec_layer *layer, const int usual, const float *gates, const float *own,
                             float *h) {
    const int64_t width = layer->hidden;
    for (int64_t j = 0; j < width; j += DEC_LANES) {
        const int64_t n = width - j;
        vf candidate = vget(gates + 2 * width + j, n), old = vget(h + j, n);
        if (own)
            candidate = vfma(vget(gates + width + j, n), vget(own + j, n), candidate);
        candidate = vapply(layer, 1, usual, candidate);
        vput(h + j, vfma(vget(gates + j, n), vsub(old, candidate), candidate), n);
    }
}

static void row_gru_close(const dec_layer *layer, float *gates, const float *own, float *h) {
    if (is_usual(layer))
        gru_cells(layer, 1, gates, own, h);
    else
        gru_cells(layer, 0, gates, own, h);
}

static void row_rnn(const dec_layer *layer, float *gates, float *h) {
    for (int64_t j = 0; j < layer->hidden; j += DEC_LANES) {
        const int64_t n = layer->hidden - j;
        vput(h + j, vapply(layer, 0, 0, vget(gates + j, n)), n);
    }
}

static void row_activate(dec_activation activation, float alpha, float beta, const float *x, int64_t n,
                         float *y) {
    for (int64_t i = 0; i < n; i += DEC_LANES)
        vput(y + i, vactivate(activation, alpha, beta, vget(x + i, n - i)), n - i);
}
