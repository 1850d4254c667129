/* AVX-512 (F, DQ, BW, VL): one register is one logical vector. */
#include "bits.h"
#include "internal.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi,popcnt"))),   \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi,popcnt")
#endif
#include <immintrin.h>

typedef __m512 vf;

static inline vf vload(const float *p) {
    return _mm512_loadu_ps(p);
}

static inline vf vload_tail(const float *p, int64_t n, float fill) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), p);
}

static inline void vstore(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}

static inline vf vsplat(float f) {
    return _mm512_set1_ps(f);
}

static inline vf vadd(vf a, vf b) {
    return _mm512_add_ps(a, b);
}

static inline vf vsub(vf a, vf b) {
    return _mm512_sub_ps(a, b);
}

static inline vf vmul(vf a, vf b) {
    return _mm512_mul_ps(a, b);
}

static inline vf vdiv(vf a, vf b) {
    return _mm512_div_ps(a, b);
}

static inline vf vmax(vf a, vf b) {
    return _mm512_max_ps(a, b);
}

static inline vf vfma(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf vfraction(vf y) {
    return _mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

static inline vf vscale2(vf p, vf y) {
    __mmask16 normal = _mm512_cmp_ps_mask(y, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(normal, p, y);
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    *mantissa = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
    return _mm512_getexp_ps(x);
}

static inline vf vchoose_less(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

static inline uint32_t mask_ge(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}

static inline uint32_t mask_le(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}

static inline uint32_t mask_gt(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}

static inline uint32_t mask_eq(vf a, vf b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

static inline vf vkeep(uint32_t mask, vf v) {
    return _mm512_maskz_mov_ps((__mmask16)mask, v);
}

static inline float hsum(vf v) {
    return _mm512_reduce_add_ps(v);
}

static inline float hmax(vf v) {
    return _mm512_reduce_max_ps(v);
}

static inline vf vids(int32_t first) {
    const __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_set1_epi32(first), step));
}

static inline void compress(float *out, vf v, uint32_t mask) {
    /* packing in the register and storing it whole is many times faster than a compressing store */
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps((__mmask16)mask, v));
}

#include "lanes.h"

static const dec_isa table = DEC_TABLE("avx512");

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC reset_options
#endif

const dec_isa *dec_isa_avx512(void) {
    int has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    return has ? &table : NULL;
}

#else
const dec_isa *dec_isa_avx512(void) {
    return NULL;
}
#endif
