/* What compilers, processors and systems spell differently: here, in cpu.c and in threads.c alone. */
#ifndef DECODING_COMPILER_H
#define DECODING_COMPILER_H

#include <stdint.h>

#if UINTPTR_MAX < UINT64_MAX
#error "rnn-decoding needs a 64-bit system: its arrays and sizes are 64-bit throughout"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rnn-decoding needs a little-endian processor: ONNX files and packed weights are little-endian"
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define DEC_X86_64
#elif defined(__aarch64__) || defined(_M_ARM64)
#define DEC_ARM64
#endif

/* The dialect that GCC and Clang (clang-cl, too) share: vector extension, builtins, assembly. DECODING_PLAIN is for
 * tests: clang-cl then takes all that MSVC takes, other compilers its portable kernels. */
#if defined(__GNUC__) || (defined(__clang__) && !defined(DECODING_PLAIN))
#define DEC_GNU
#endif

#define DEC_PRAGMA(text) _Pragma(#text)

/* Functions between the two may use these instructions. MSVC takes any intrinsic anywhere; setup.py gives the
 * files with instruction sets their /arch. */
#if defined(__clang__)
#define TARGET_BEGIN(features)                                                                               \
    DEC_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END DEC_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define TARGET_BEGIN(features) DEC_PRAGMA(GCC push_options) DEC_PRAGMA(GCC target(features))
#define TARGET_END DEC_PRAGMA(GCC pop_options)
#else
#define TARGET_BEGIN(features)
#define TARGET_END
#endif

#if defined(__clang__)
#define UNROLLED DEC_PRAGMA(clang loop unroll(full))
#elif defined(__GNUC__)
#define UNROLLED DEC_PRAGMA(GCC unroll 8)
#else
#define UNROLLED
#endif

#if defined(DEC_GNU)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define prefetch(address) __builtin_prefetch(address, 0, 2)
#define lowest_bit(mask) __builtin_ctz(mask)
#define count_bits(mask) __builtin_popcount(mask)

static inline uint64_t multiply_high(uint64_t a, uint64_t b) {
    return (uint64_t)((__uint128_t)a * b >> 64);
}

#else
#include <intrin.h>

#define ALWAYS_INLINE static __forceinline
#define multiply_high(a, b) __umulh(a, b)
#if defined(DEC_X86_64)
#define prefetch(address) _mm_prefetch((const char *)(address), _MM_HINT_T1)
#else
#define prefetch(address) __prefetch(address)
#endif

static inline int lowest_bit(uint32_t mask) {
    unsigned long index;
    _BitScanForward(&index, mask);
    return (int)index;
}

/* At most 16 bits. (MSVC's __popcnt is an instruction that the oldest x86-64 processors lack.) */
static inline int count_bits(uint32_t mask) {
    mask -= mask >> 1 & 0x5555;
    mask = (mask & 0x3333) + (mask >> 2 & 0x3333);
    mask = mask + (mask >> 4) & 0x0f0f;
    return (int)((mask + (mask >> 8)) & 0x1f);
}
#endif

#endif
