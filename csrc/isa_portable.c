/* Plain C: sixteen floats in an array, which compilers turn into whatever vectors the target surely has. */
#include "bits.h"
#include "internal.h"

typedef struct vf {
    float lane[DEC_LANES];
} vf;

#define FOR_LANES for (int i = 0; i < DEC_LANES; i++)

static inline vf vload(const float *p) {
    vf v;
    memcpy(v.lane, p, sizeof v.lane);
    return v;
}

static inline vf vload_tail(const float *p, int64_t n, float fill) {
    vf v;
    fill_lanes(v.lane, p, n, fill);
    return v;
}

static inline void vstore(float *p, vf v) {
    memcpy(p, v.lane, sizeof v.lane);
}

static inline vf vsplat(float f) {
    vf v;
    FOR_LANES v.lane[i] = f;
    return v;
}

static inline vf vadd(vf x, vf y) {
    FOR_LANES x.lane[i] += y.lane[i];
    return x;
}

static inline vf vsub(vf x, vf y) {
    FOR_LANES x.lane[i] -= y.lane[i];
    return x;
}

static inline vf vmul(vf x, vf y) {
    FOR_LANES x.lane[i] *= y.lane[i];
    return x;
}

static inline vf vdiv(vf x, vf y) {
    FOR_LANES x.lane[i] /= y.lane[i];
    return x;
}

static inline vf vmax(vf x, vf y) {
    FOR_LANES x.lane[i] = x.lane[i] > y.lane[i] ? x.lane[i] : y.lane[i];
    return x;
}

/* Two roundings: a fused product is a library call where the target has none. */
static inline vf vfma(vf x, vf y, vf z) {
    FOR_LANES x.lane[i] = x.lane[i] * y.lane[i] + z.lane[i];
    return x;
}

/* Floor for exponents in [-126, 0], the only ones that count. Elsewhere, NaN included, 0: no cast may
 * overflow. */
static inline int32_t floor_exponent(float y) {
    float inside = y >= -126.0f && y <= 0.0f ? y : 0.0f;
    int32_t whole = (int32_t)inside;
    return whole - ((float)whole > inside);
}

static inline vf vfraction(vf y) {
    FOR_LANES y.lane[i] -= (float)floor_exponent(y.lane[i]);
    return y;
}

static inline vf vscale2(vf p, vf y) {
    FOR_LANES {
        uint32_t bits = (uint32_t)(floor_exponent(y.lane[i]) + 127) << 23;
        float power;
        memcpy(&power, &bits, sizeof power);
        p.lane[i] = y.lane[i] < -126.0f ? 0.0f : p.lane[i] * power;
    }
    return p;
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    FOR_LANES {
        uint32_t bits;
        memcpy(&bits, &x.lane[i], sizeof bits);
        x.lane[i] = (float)((int32_t)(bits >> 23) - 127);
        bits = (bits & 0x007fffffu) | 0x3f800000u;
        memcpy(&mantissa->lane[i], &bits, sizeof bits);
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

static inline float hsum(vf v) {
    for (int half = DEC_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] += v.lane[i + half];
    return v.lane[0];
}

static inline float hmax(vf v) {
    for (int half = DEC_LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] = v.lane[i] > v.lane[i + half] ? v.lane[i] : v.lane[i + half];
    return v.lane[0];
}

static inline vf vids(int32_t first) {
    vf v;
    FOR_LANES {
        int32_t id = first + i;
        memcpy(&v.lane[i], &id, sizeof id);
    }
    return v;
}

static inline void compress(float *out, vf v, uint32_t mask) {
    compress_lanes(out, v.lane, mask);
}

#include "lanes.h"

static const dec_isa table = DEC_TABLE("portable");

const dec_isa *dec_isa_portable(void) {
    return &table;
}
