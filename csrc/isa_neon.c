/* NEON on arm64, where every processor has it: four registers are one logical vector. */
#include "native_internal.h"

#if defined(DEC_ARM64)
#include <arm_neon.h>

typedef struct vf {
    float32x4_t val[4];
} vf;

#define FOR_PARTS for (int i = 0; i < 4; i++)

static inline vf vload(const float *p) {
    vf v;
    FOR_PARTS v.val[i] = vld1q_f32(p + 4 * i);
    return v;
}

static inline vf vload_tail(const float *p, int64_t n, float fill) {
    float lane[DEC_LANES];
    return vload(fill_lanes(lane, p, n, fill));
}

static inline void vstore(float *p, vf v) {
    FOR_PARTS vst1q_f32(p + 4 * i, v.val[i]);
}

static inline vf vsplat(float f) {
    float32x4_t part = vdupq_n_f32(f);
    return (vf){{part, part, part, part}};
}

#define EACH(name, operation)                                                                                \
    static inline vf name(vf x, vf y) {                                                                      \
        FOR_PARTS x.val[i] = operation(x.val[i], y.val[i]);                                                  \
        return x;                                                                                            \
    }
EACH(vadd, vaddq_f32)
EACH(vsub, vsubq_f32)
EACH(vmul, vmulq_f32)
EACH(vdiv, vdivq_f32)
EACH(vmax, vmaxq_f32)
EACH(vmin, vminq_f32)

static inline vf vfma(vf x, vf y, vf z) {
    FOR_PARTS x.val[i] = vfmaq_f32(z.val[i], x.val[i], y.val[i]);
    return x;
}

static inline vf vfraction(vf y) {
    FOR_PARTS y.val[i] = vsubq_f32(y.val[i], vrndmq_f32(y.val[i]));
    return y;
}

/* As unsigned numbers, which wrap around: gcc's vaddq_s32 is a signed sum, in which overflow is undefined. */
static inline int32x4_t add(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_u32(vaddq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}

static inline vf vscale2(vf p, vf y) {
    FOR_PARTS {
        int32x4_t exponent = add(vcvtmq_s32_f32(y.val[i]), vdupq_n_s32(127));
        float32x4_t scaled = vmulq_f32(p.val[i], vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
        uint32x4_t below = vcltq_f32(y.val[i], vdupq_n_f32(-126.0f));
        p.val[i] = vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(scaled), below));
    }
    return p;
}

static inline vf vpower2(vf m) {
    FOR_PARTS {
        const int32x4_t n = vshlq_n_s32(vreinterpretq_s32_f32(m.val[i]), 23);
        m.val[i] = vreinterpretq_f32_s32(add(n, vdupq_n_s32(127 << 23)));
    }
    return m;
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    FOR_PARTS {
        uint32x4_t bits = vreinterpretq_u32_f32(x.val[i]);
        uint32x4_t fraction = vandq_u32(bits, vdupq_n_u32(0x007fffff));
        mantissa->val[i] = vreinterpretq_f32_u32(vorrq_u32(fraction, vdupq_n_u32(0x3f800000)));
        int32x4_t exponent = vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(bits, 23)), vdupq_n_s32(127));
        x.val[i] = vcvtq_f32_s32(exponent);
    }
    return x;
}

static inline vf vchoose_less(vf p, vf q, vf x, vf y) {
    FOR_PARTS x.val[i] = vbslq_f32(vcltq_f32(p.val[i], q.val[i]), x.val[i], y.val[i]);
    return x;
}

#define MASK(name, compare)                                                                                  \
    static inline uint32_t name(vf x, vf y) {                                                                \
        static const uint32_t bit[4] = {1, 2, 4, 8};                                                         \
        uint32_t mask = 0;                                                                                   \
        FOR_PARTS mask |= vaddvq_u32(vandq_u32(compare(x.val[i], y.val[i]), vld1q_u32(bit))) << 4 * i;       \
        return mask;                                                                                         \
    }
MASK(mask_ge, vcgeq_f32)
MASK(mask_le, vcleq_f32)
MASK(mask_gt, vcgtq_f32)
MASK(mask_eq, vceqq_f32)

static inline vf vkeep(uint32_t mask, vf v) {
    static const uint32_t bit[4] = {1, 2, 4, 8};
    FOR_PARTS {
        uint32x4_t set = vtstq_u32(vdupq_n_u32(mask >> 4 * i), vld1q_u32(bit));
        v.val[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v.val[i]), set));
    }
    return v;
}

static inline float hsum(vf v) {
    float32x4_t four = vaddq_f32(vaddq_f32(v.val[0], v.val[2]), vaddq_f32(v.val[1], v.val[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float hmax(vf v) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(v.val[0], v.val[2]), vmaxq_f32(v.val[1], v.val[3])));
}

static inline vf vids(int32_t first) {
    static const int32_t step[4] = {0, 1, 2, 3};
    vf v;
    FOR_PARTS v.val[i] = vreinterpretq_f32_s32(vaddq_s32(vdupq_n_s32(first + 4 * i), vld1q_s32(step)));
    return v;
}

static inline void compress(float *out, vf v, uint32_t mask) {
    float lane[DEC_LANES];
    vstore(lane, v);
    compress_lanes(out, lane, mask);
}

#include "lanes.h"

static const dec_isa table = DEC_TABLE("neon");

/* Of 32 registers at most 24 hold sums: four for each row and vector. */
#define TILE_ROWS 6
#define TILE_VECTORS(rows) ((rows) == 1 ? 4 : (rows) <= 3 ? 2 : 1)
#include "native_lanes.h"

typedef struct vi {
    int32x4_t val[4];
} vi;

typedef struct vw {
    int8x16_t val[4];
} vw;

static inline vi vi_load(const int32_t *p) {
    vi v;
    FOR_PARTS v.val[i] = vld1q_s32(p + 4 * i);
    return v;
}

static inline vi vi_zero(void) {
    int32x4_t part = vdupq_n_s32(0);
    return (vi){{part, part, part, part}};
}

static inline vf vi_float(vi v) {
    vf f;
    FOR_PARTS f.val[i] = vcvtq_f32_s32(v.val[i]);
    return f;
}

static inline vw vw_load(const int8_t *p) {
    vw w;
    FOR_PARTS w.val[i] = vld1q_s8(p + 16 * i);
    return w;
}

static inline int8x16_t four_bytes(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
}

static inline void bytes_store(uint8_t *out, vf v) {
    uint16x4_t word[4];
    FOR_PARTS word[i] = vmovn_u32(vreinterpretq_u32_f32(v.val[i]));
    vst1_u8(out, vmovn_u16(vcombine_u16(word[0], word[1])));
    vst1_u8(out + 8, vmovn_u16(vcombine_u16(word[2], word[3])));
}

/* Products of 16 bits, added in pairs to 32 bits, and these in pairs again. */
static inline vi pairs_dot(vi sum, int8x16_t x, vw w) {
    FOR_PARTS {
        int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w.val[i])));
        int32x4_t high = vpaddlq_s16(vmull_high_s8(x, w.val[i]));
        sum.val[i] = vaddq_s32(sum.val[i], vpaddq_s32(low, high));
    }
    return sum;
}

#define vx int8x16_t
#define vx_splat four_bytes
#define NAMED(name) pairs_##name
#define DOT_ZERO 0
#define NATIVE_NAME "neon"
#include "native_dots.h"

#if defined(__clang__)
TARGET_BEGIN("dotprod")
#else
TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif

static inline vi sdot_dot(vi sum, int8x16_t x, vw w) {
    FOR_PARTS sum.val[i] = vdotq_s32(sum.val[i], x, w.val[i]);
    return sum;
}

#define NAMED(name) sdot_##name
#define DOT_ZERO 0
#define NATIVE_NAME "neondot"
#include "native_dots.h"

TARGET_END

const dec_isa *dec_isa_neon(void) {
    return &table;
}

const dec_native *dec_native_neon(void) {
    return &pairs_native;
}

const dec_native *dec_native_neondot(void) {
    return dec_cpu_has(DEC_DOTPROD) ? &sdot_native : NULL;
}

#else
const dec_isa *dec_isa_neon(void) {
    return NULL;
}

const dec_native *dec_native_neon(void) {
    return NULL;
}

const dec_native *dec_native_neondot(void) {
    return NULL;
}
#endif
