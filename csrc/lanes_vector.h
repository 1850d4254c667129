/* Operations of lanes.h in the vector extension of GCC and Clang: four vectors of four floats, which every target
 * has or imitates. */
typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16))); /* a comparison gives -1 for true */

typedef struct vf {
    float4 part[4];
} vf;

#define FOR_PARTS for (int i = 0; i < 4; i++)

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
    const float4 part = {f, f, f, f};
    return (vf){{part, part, part, part}};
}

static inline float4 choose(int4 mask, float4 x, float4 y) {
    return (float4)((mask & (int4)x) | (~mask & (int4)y));
}

#define EACH(name, expression)                                                                               \
    static inline vf name(vf x, vf y) {                                                                      \
        FOR_PARTS x.part[i] = expression;                                                                    \
        return x;                                                                                            \
    }
EACH(vadd, x.part[i] + y.part[i])
EACH(vsub, x.part[i] - y.part[i])
EACH(vmul, x.part[i] * y.part[i])
EACH(vdiv, x.part[i] / y.part[i])
EACH(vmax, choose(x.part[i] > y.part[i], x.part[i], y.part[i]))
EACH(vmin, choose(x.part[i] < y.part[i], x.part[i], y.part[i]))

/* Two roundings: a fused product is a library call where the target has none. */
static inline vf vfma(vf x, vf y, vf z) {
    FOR_PARTS x.part[i] = x.part[i] * y.part[i] + z.part[i];
    return x;
}

/* Floor for exponents in [-126, 0], the only ones that count. Elsewhere, NaN included, 0: no cast may overflow. */
static inline int4 floor_exponent(float4 y) {
    float4 inside = (float4)((y >= -126.0f) & (y <= 0.0f) & (int4)y);
    int4 whole = __builtin_convertvector(inside, int4);
    return whole + (__builtin_convertvector(whole, float4) > inside);
}

static inline vf vfraction(vf y) {
    FOR_PARTS y.part[i] -= __builtin_convertvector(floor_exponent(y.part[i]), float4);
    return y;
}

static inline vf vscale2(vf p, vf y) {
    FOR_PARTS {
        float4 power = (float4)((floor_exponent(y.part[i]) + 127) << 23);
        p.part[i] = (float4)(~(y.part[i] < -126.0f) & (int4)(p.part[i] * power));
    }
    return p;
}

static inline vf vpower2(vf m) {
    typedef uint32_t uint4 __attribute__((vector_size(16)));
    FOR_PARTS m.part[i] = (float4)(((uint4)m.part[i] << 23) + (127u << 23));
    return m;
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    FOR_PARTS {
        int4 bits = (int4)x.part[i];
        mantissa->part[i] = (float4)((bits & 0x007fffff) | 0x3f800000);
        x.part[i] = __builtin_convertvector((bits >> 23) - 127, float4);
    }
    return x;
}

static inline vf vchoose_less(vf p, vf q, vf x, vf y) {
    FOR_PARTS x.part[i] = choose(p.part[i] < q.part[i], x.part[i], y.part[i]);
    return x;
}

#define MASK(name, relation)                                                                                 \
    static inline uint32_t name(vf x, vf y) {                                                                \
        const int4 bit = {1, 2, 4, 8};                                                                       \
        uint32_t mask = 0;                                                                                   \
        FOR_PARTS {                                                                                          \
            int4 set = (x.part[i] relation y.part[i]) & bit;                                                 \
            mask |= (uint32_t)(set[0] | set[1] | set[2] | set[3]) << 4 * i;                                  \
        }                                                                                                    \
        return mask;                                                                                         \
    }
MASK(mask_ge, >=)
MASK(mask_le, <=)
MASK(mask_gt, >)
MASK(mask_eq, ==)

static inline vf vkeep(uint32_t mask, vf v) {
    const int4 bit = {1, 2, 4, 8};
    FOR_PARTS v.part[i] = (float4)(((bit & (int32_t)(mask >> 4 * i)) != 0) & (int4)v.part[i]);
    return v;
}

static inline float hsum(vf v) {
    float4 four = (v.part[0] + v.part[2]) + (v.part[1] + v.part[3]);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static inline float hmax(vf v) {
    float lane[DEC_LANES];
    vstore(lane, v);
    for (int i = 1; i < DEC_LANES; i++)
        lane[0] = lane[i] > lane[0] ? lane[i] : lane[0];
    return lane[0];
}

static inline vf vids(int32_t first) {
    const int4 step = {0, 1, 2, 3};
    vf v;
    FOR_PARTS v.part[i] = (float4)(step + (first + 4 * i));
    return v;
}

static inline vf vi_float(vi v) {
    vf f;
    FOR_PARTS {
        int4 part;
        memcpy(&part, v.lane + 4 * i, sizeof part);
        f.part[i] = __builtin_convertvector(part, float4);
    }
    return f;
}
