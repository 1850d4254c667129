/* Operations of lanes.h for any C compiler, with the bits of lanes_vector.h. GCC makes code of it that takes up to
 * five times as long. */
typedef struct vf {
    float lane[DEC_LANES];
} vf;

#define FOR_LANES for (int i = 0; i < DEC_LANES; i++)

static inline int32_t bits_of(float f) {
    int32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float float_of(int32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline vf vload(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline vf vload_tail(const float *p, int64_t n, float fill) {
    float lane[DEC_LANES];
    return vload(fill_lanes(lane, p, n, fill));
}

static inline void vstore(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}

static inline vf vsplat(float f) {
    vf v;
    FOR_LANES v.lane[i] = f;
    return v;
}

#define EACH(name, expression)                                                                               \
    static inline vf name(vf x, vf y) {                                                                      \
        FOR_LANES x.lane[i] = expression;                                                                    \
        return x;                                                                                            \
    }
EACH(vadd, x.lane[i] + y.lane[i])
EACH(vsub, x.lane[i] - y.lane[i])
EACH(vmul, x.lane[i] * y.lane[i])
EACH(vdiv, x.lane[i] / y.lane[i])
EACH(vmax, x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i])
EACH(vmin, x.lane[i] < y.lane[i] ? x.lane[i] : y.lane[i])

/* Two roundings: a fused product is a library call where the target has none. */
static inline vf vfma(vf x, vf y, vf z) {
    FOR_LANES x.lane[i] = x.lane[i] * y.lane[i] + z.lane[i];
    return x;
}

/* Floor for exponents in [-126, 0], the only ones that count. Elsewhere, NaN included, 0: no cast may overflow. */
static inline int32_t floor_exponent(float y) {
    const float inside = (y >= -126.0f && y <= 0.0f) ? y : 0.0f;
    const int32_t whole = (int32_t)inside;
    return whole - ((float)whole > inside);
}

static inline vf vfraction(vf y) {
    FOR_LANES y.lane[i] -= (float)floor_exponent(y.lane[i]);
    return y;
}

static inline vf vscale2(vf p, vf y) {
    FOR_LANES {
        const float scaled = p.lane[i] * float_of((floor_exponent(y.lane[i]) + 127) * (1 << 23));
        p.lane[i] = y.lane[i] < -126.0f ? 0.0f : scaled;
    }
    return p;
}

static inline vf vpower2(vf m) {
    FOR_LANES m.lane[i] = float_of((int32_t)(((uint32_t)bits_of(m.lane[i]) << 23) + (127u << 23)));
    return m;
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    FOR_LANES {
        const int32_t bits = bits_of(x.lane[i]);
        mantissa->lane[i] = float_of((bits & 0x007fffff) | 0x3f800000);
        x.lane[i] = (float)((bits >> 23) - 127);
    }
    return x;
}

static inline vf vchoose_less(vf p, vf q, vf x, vf y) {
    FOR_LANES x.lane[i] = p.lane[i] < q.lane[i] ? x.lane[i] : y.lane[i];
    return x;
}

#define MASK(name, relation)                                                                                 \
    static inline uint32_t name(vf x, vf y) {                                                                \
        uint32_t mask = 0;                                                                                   \
        FOR_LANES mask |= (uint32_t)(x.lane[i] relation y.lane[i]) << i;                                     \
        return mask;                                                                                         \
    }
MASK(mask_ge, >=)
MASK(mask_le, <=)
MASK(mask_gt, >)
MASK(mask_eq, ==)

static inline vf vkeep(uint32_t mask, vf v) {
    FOR_LANES v.lane[i] = mask >> i & 1 ? v.lane[i] : 0.0f;
    return v;
}

/* Pairs 8, 4, 2 and 1 lanes apart. */
static inline float hsum(vf v) {
    float four[4];
    for (int i = 0; i < 4; i++)
        four[i] = (v.lane[i] + v.lane[i + 8]) + (v.lane[i + 4] + v.lane[i + 12]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static inline float hmax(vf v) {
    float top = v.lane[0];
    for (int i = 1; i < DEC_LANES; i++)
        top = v.lane[i] > top ? v.lane[i] : top;
    return top;
}

static inline vf vids(int32_t first) {
    vf v;
    FOR_LANES v.lane[i] = float_of(first + i);
    return v;
}

static inline vf vi_float(vi v) {
    vf f;
    FOR_LANES f.lane[i] = (float)v.lane[i];
    return f;
}
