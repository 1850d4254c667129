/* Counting the bits of masks, and what instruction sets without a native form of an operation share. */
#ifndef DECODING_BITS_H
#define DECODING_BITS_H

#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) && !defined(__clang__)
#error "the kernels are written for GCC and Clang (on Windows: clang-cl or MinGW)"
#endif

#define lowest_bit(mask) __builtin_ctz(mask)
#define count_bits(mask) __builtin_popcount(mask)

/* The first n lanes from p, the rest `fill`. */
static inline float *fill_lanes(float *lane, const float *p, int64_t n, float fill) {
    for (int i = 0; i < 16; i++)
        lane[i] = i < n ? p[i] : fill;
    return lane;
}

/* Lanes may carry ids as well as floats: copy bits, never values. */
static inline void compress_lanes(float *out, const float *lane, uint32_t mask) {
    for (; mask; mask &= mask - 1)
        memcpy(out++, lane + lowest_bit(mask), sizeof *lane);
}

#endif
