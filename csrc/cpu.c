/* What the processor has and the system keeps: asked of both directly, because compilers' own answers differ in the
 * names that they know and need libraries of their own. */
#include "internal.h"

#if defined(DEC_X86_64)

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

typedef struct registers {
    uint32_t a, b, c, d;
} registers;

static registers cpuid(uint32_t leaf, uint32_t subleaf) {
    registers r = {0};
#if defined(_MSC_VER)
    int out[4];
    __cpuidex(out, 0, 0);
    if (leaf <= (uint32_t)out[0]) {
        __cpuidex(out, (int)leaf, (int)subleaf);
        r = (registers){(uint32_t)out[0], (uint32_t)out[1], (uint32_t)out[2], (uint32_t)out[3]};
    }
#else
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
#endif
    return r;
}

/* Which registers the system saves when it switches threads (XCR0). */
static uint64_t saved_registers(void) {
#if defined(DEC_GNU)
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
#else
    return _xgetbv(0);
#endif
}

static int all_bits(uint64_t word, uint64_t wanted) {
    return (word & wanted) == wanted;
}

#define BIT(n) (UINT64_C(1) << (n))

int dec_cpu_has(dec_feature feature) {
    const registers one = cpuid(1, 0), seven = cpuid(7, 0);
    const uint64_t ymm = BIT(1) | BIT(2);
    /* fma, popcnt, xgetbv, avx; bmi, avx2 */
    const int avx2 = all_bits(one.c, BIT(12) | BIT(23) | BIT(27) | BIT(28)) &&
                     all_bits(seven.b, BIT(3) | BIT(5)) && all_bits(saved_registers(), ymm);
    if (!avx2)
        return 0;
#if defined(__APPLE__)
    const uint64_t zmm = 0; /* macOS saves them from a thread's first use on, and XCR0 says so only then */
#else
    const uint64_t zmm = BIT(5) | BIT(6) | BIT(7);
#endif
    /* f, dq, bw, vl */
    const int avx512 =
        all_bits(saved_registers(), zmm) && all_bits(seven.b, BIT(16) | BIT(17) | BIT(30) | BIT(31));
    switch (feature) {
    case DEC_AVX2:
        return 1;
    case DEC_AVXVNNI:
        return seven.a >= 1 && all_bits(cpuid(7, 1).a, BIT(4));
    case DEC_AVX512:
        return avx512;
    case DEC_AVX512VNNI:
        return avx512 && all_bits(seven.c, BIT(11));
    default:
        return 0;
    }
}

#elif defined(DEC_ARM64)

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static int has_dotprod(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
#elif defined(_WIN32)
#include <windows.h>

static int has_dotprod(void) {
    return IsProcessorFeaturePresent(43) !=
           0; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE, which older headers lack */
}
#elif defined(__APPLE__)
static int has_dotprod(void) {
    return 1; /* every arm64 Mac has it */
}
#else
static int has_dotprod(void) {
    return 0;
}
#endif

int dec_cpu_has(dec_feature feature) {
    return feature == DEC_DOTPROD && has_dotprod();
}

#else

int dec_cpu_has(dec_feature feature) {
    (void)feature;
    return 0;
}

#endif
