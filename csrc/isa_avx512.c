/* AVX-512 (F, DQ, BW, VL): one register is one logical vector. */
#include "native_internal.h"

#if defined(DEC_X86_64)
TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi,popcnt")
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

static inline vf vmin(vf a, vf b) {
    return _mm512_min_ps(a, b);
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

static inline vf vpower2(vf m) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(m), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23)));
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

/* Not _mm512_reduce_add_ps: its order is each compiler's own. */
static inline float hsum(vf v) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
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

#define TILE_ROWS 6 /* 24 sums, 4 weights and a factor: 29 of 32 registers */
#define TILE_VECTORS(rows) 4
#include "native_lanes.h"

typedef __m512i vi, vw;

static inline vi vi_load(const int32_t *p) {
    return _mm512_loadu_si512(p);
}

static inline vi vi_zero(void) {
    return _mm512_setzero_si512();
}

static inline vf vi_float(vi v) {
    return _mm512_cvtepi32_ps(v);
}

static inline vw vw_load(const int8_t *p) {
    return _mm512_loadu_si512(p);
}

static inline void bytes_store(uint8_t *out, vf v) {
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(_mm512_castps_si512(v)));
}

static inline __m512i four_bytes(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm512_set1_epi32(bytes);
}

/* Without VNNI: |x| times (w with x's sign), whose pairs fit 16 bits, as 2 * 127 * 127 does. */
typedef struct signed_bytes {
    __m512i magnitude;
    __mmask64 negative;
} signed_bytes;

static inline signed_bytes signed_splat(const uint8_t *p) {
    const __m512i x = four_bytes(p);
    return (signed_bytes){_mm512_abs_epi8(x), _mm512_movepi8_mask(x)};
}

static inline vi madd_dot(vi sum, signed_bytes x, vw w) {
    w = _mm512_mask_sub_epi8(w, x.negative, _mm512_setzero_si512(), w);
    const __m512i pairs = _mm512_maddubs_epi16(x.magnitude, w);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#define vx signed_bytes
#define vx_splat signed_splat
#define NAMED(name) madd_##name
#define DOT_ZERO 0
#define NATIVE_NAME "avx512"
#include "native_dots.h"
#undef vx
#undef vx_splat
TARGET_END

TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,fma,bmi,popcnt,avx512vnni")

/* Around the intrinsic, GCC 12 copies every sum twice: 177 Gop/s, where assembly gives 400. */
static inline vi vnni_dot(vi sum, __m512i x, vw w) {
#if defined(DEC_GNU)
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
#else
    return _mm512_dpbusd_epi32(sum, x, w);
#endif
}

#define vx __m512i
#define vx_splat four_bytes
#define NAMED(name) vnni_##name
#define DOT_ZERO 128
#define NATIVE_NAME "avx512vnni"
#include "native_dots.h"

TARGET_END

const dec_isa *dec_isa_avx512(void) {
    return dec_cpu_has(DEC_AVX512) ? &table : NULL;
}

const dec_native *dec_native_avx512(void) {
    return dec_cpu_has(DEC_AVX512) ? &madd_native : NULL;
}

const dec_native *dec_native_avx512vnni(void) {
    return dec_cpu_has(DEC_AVX512VNNI) ? &vnni_native : NULL;
}

#else
const dec_isa *dec_isa_avx512(void) {
    return NULL;
}

const dec_native *dec_native_avx512(void) {
    return NULL;
}

const dec_native *dec_native_avx512vnni(void) {
    return NULL;
}
#endif
