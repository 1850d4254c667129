/* AVX2 + FMA: two registers are one logical vector. */
#include "native_internal.h"

#if defined(DEC_X86_64)
TARGET_BEGIN("avx2,fma,bmi,popcnt")
#include <immintrin.h>

typedef struct vf {
    __m256 a, b;
} vf;

static inline vf vload(const float *p) {
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

static inline void vstore(float *p, vf v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

static inline vf vload_tail(const float *p, int64_t n, float fill) {
    float lane[DEC_LANES];
    return vload(fill_lanes(lane, p, n, fill));
}

static inline vf vsplat(float f) {
    return (vf){_mm256_set1_ps(f), _mm256_set1_ps(f)};
}

static inline vf vadd(vf x, vf y) {
    return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}

static inline vf vsub(vf x, vf y) {
    return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}

static inline vf vmul(vf x, vf y) {
    return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}

static inline vf vdiv(vf x, vf y) {
    return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}

static inline vf vmax(vf x, vf y) {
    return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}

static inline vf vmin(vf x, vf y) {
    return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}

static inline vf vfma(vf x, vf y, vf z) {
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline vf vfraction(vf y) {
    return (vf){_mm256_sub_ps(y.a, _mm256_floor_ps(y.a)), _mm256_sub_ps(y.b, _mm256_floor_ps(y.b))};
}

static inline __m256 scale2_half(__m256 p, __m256 y) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(y)), _mm256_set1_epi32(127));
    /* a product, where adding to p's exponent would do, because it keeps NaN a NaN */
    __m256 scaled = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    return _mm256_and_ps(scaled, _mm256_cmp_ps(y, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ));
}

static inline vf vscale2(vf p, vf y) {
    return (vf){scale2_half(p.a, y.a), scale2_half(p.b, y.b)};
}

static inline __m256 power2_half(__m256 m) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(m), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23)));
}

static inline vf vpower2(vf m) {
    return (vf){power2_half(m.a), power2_half(m.b)};
}

static inline __m256 split_exponent_half(__m256 x, __m256 *mantissa) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff));
    *mantissa = _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)));
}

static inline vf vsplit_exponent(vf x, vf *mantissa) {
    return (vf){split_exponent_half(x.a, &mantissa->a), split_exponent_half(x.b, &mantissa->b)};
}

static inline vf vchoose_less(vf p, vf q, vf x, vf y) {
    return (vf){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)),
                _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}

static inline uint32_t both_masks(__m256 a, __m256 b) {
    return (uint32_t)_mm256_movemask_ps(a) | (uint32_t)_mm256_movemask_ps(b) << 8;
}

static inline uint32_t mask_ge(vf x, vf y) {
    return both_masks(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ));
}

static inline uint32_t mask_le(vf x, vf y) {
    return both_masks(_mm256_cmp_ps(x.a, y.a, _CMP_LE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LE_OQ));
}

static inline uint32_t mask_gt(vf x, vf y) {
    return both_masks(_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ));
}

static inline uint32_t mask_eq(vf x, vf y) {
    return both_masks(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ));
}

static inline __m256 keep_half(uint32_t mask, __m256 v) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)mask), bit);
    return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
}

static inline vf vkeep(uint32_t mask, vf v) {
    return (vf){keep_half(mask, v.a), keep_half(mask >> 8, v.b)};
}

static inline float hsum(vf v) {
    __m256 eight = _mm256_add_ps(v.a, v.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline float hmax(vf v) {
    __m256 eight = _mm256_max_ps(v.a, v.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static inline vf vids(int32_t first) {
    const __m256i low = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return (vf){_mm256_castsi256_ps(low), _mm256_castsi256_ps(_mm256_add_epi32(low, _mm256_set1_epi32(8)))};
}

/* For each mask of eight lanes the numbers of its lanes, one a byte: AVX2 has no packing of its own, and
 * pext, which could make these, is microcode on many processors that stop at AVX2. */
#define HAS(mask, lane) ((mask) >> (lane) & 1)
#define BELOW(mask, lane)                                                                                    \
    (HAS((mask) << 7, lane) + HAS((mask) << 6, lane) + HAS((mask) << 5, lane) + HAS((mask) << 4, lane) +     \
     HAS((mask) << 3, lane) + HAS((mask) << 2, lane) + HAS((mask) << 1, lane))
#define BYTE(mask, lane) (HAS(mask, lane) ? UINT64_C(lane) << 8 * BELOW(mask, lane) : 0)
#define LANES(mask)                                                                                          \
    BYTE(mask, 1) | BYTE(mask, 2) | BYTE(mask, 3) | BYTE(mask, 4) | BYTE(mask, 5) | BYTE(mask, 6) |          \
        BYTE(mask, 7)
#define LANES4(mask) LANES(mask), LANES((mask) + 1), LANES((mask) + 2), LANES((mask) + 3)
#define LANES16(mask) LANES4(mask), LANES4((mask) + 4), LANES4((mask) + 8), LANES4((mask) + 12)
#define LANES64(mask) LANES16(mask), LANES16((mask) + 16), LANES16((mask) + 32), LANES16((mask) + 48)
static const uint64_t lanes_of[256] = {LANES64(0), LANES64(64), LANES64(128), LANES64(192)};

static inline void compress_half(float *out, __m256 v, uint32_t mask) {
    __m256i order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)lanes_of[mask]));
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(v, order));
}

static inline void compress(float *out, vf v, uint32_t mask) {
    compress_half(out, v.a, mask & 0xff);
    compress_half(out + count_bits(mask & 0xff), v.b, mask >> 8);
}

#include "lanes.h"

static const dec_isa table = DEC_TABLE("avx2");

/* Of 16 registers at most 12 hold sums: two for each row and vector. */
#define TILE_ROWS 6
#define TILE_VECTORS(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)
#include "native_lanes.h"

typedef struct vi {
    __m256i a, b;
} vi;
typedef vi vw;

static inline vi vi_load(const int32_t *p) {
    return (vi){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}

static inline vi vi_zero(void) {
    return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static inline vf vi_float(vi v) {
    return (vf){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}

static inline vw vw_load(const int8_t *p) {
    return vi_load((const int32_t *)p);
}

static inline void bytes_store(uint8_t *out, vf v) {
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i words = _mm256_packus_epi32(_mm256_and_si256(_mm256_castps_si256(v.a), low),
                                        _mm256_and_si256(_mm256_castps_si256(v.b), low));
    words = _mm256_permute4x64_epi64(words, 0xd8); /* packing works within halves */
    _mm_storeu_si128((__m128i *)out,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

static inline __m256i four_bytes(const uint8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* |x| times (w with x's sign), whose pairs fit 16 bits, as 2 * 127 * 127 does. */
static inline __m256i madd_half(__m256i sum, __m256i x, __m256i w) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline vi madd_dot(vi sum, __m256i x, vw w) {
    return (vi){madd_half(sum.a, x, w.a), madd_half(sum.b, x, w.b)};
}

#define vx __m256i
#define vx_splat four_bytes
#define NAMED(name) madd_##name
#define DOT_ZERO 0
#define NATIVE_NAME "avx2"
#include "native_dots.h"
TARGET_END

/* AVX-VNNI came with GCC 11, Clang 12 and Visual Studio 2022. */
#if defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) ? __GNUC__ >= 11 : _MSC_VER >= 1930
#define HAS_AVXVNNI
TARGET_BEGIN("avx2,fma,bmi,popcnt,avxvnni")

static inline vi vnni_dot(vi sum, __m256i x, vw w) {
#if defined(DEC_GNU) /* in assembly for the reason given in isa_avx512.c */
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.a) : "x"(x), "x"(w.a));
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.b) : "x"(x), "x"(w.b));
    return sum;
#else
    return (vi){_mm256_dpbusd_avx_epi32(sum.a, x, w.a), _mm256_dpbusd_avx_epi32(sum.b, x, w.b)};
#endif
}

#define NAMED(name) vnni_##name
#define DOT_ZERO 128
#define NATIVE_NAME "avxvnni"
#include "native_dots.h"
TARGET_END
#endif

const dec_isa *dec_isa_avx2(void) {
    return dec_cpu_has(DEC_AVX2) ? &table : NULL;
}

const dec_native *dec_native_avx2(void) {
    return dec_cpu_has(DEC_AVX2) ? &madd_native : NULL;
}

const dec_native *dec_native_avxvnni(void) {
#if defined(HAS_AVXVNNI)
    return dec_cpu_has(DEC_AVXVNNI) ? &vnni_native : NULL;
#else
    return NULL;
#endif
}

#else
const dec_isa *dec_isa_avx2(void) {
    return NULL;
}

const dec_native *dec_native_avx2(void) {
    return NULL;
}

const dec_native *dec_native_avxvnni(void) {
    return NULL;
}
#endif
