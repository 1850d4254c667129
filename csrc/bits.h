/* Bit counting for masks of lanes, and what vector files without a native form of an operation share. */
#ifndef DECODING_BITS_H
#define DECODING_BITS_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define lowest_bit(mask) __builtin_ctz(mask)
#define count_bits(mask) __builtin_popcount(mask)
#else
static inline int count_bits(uint32_t mask) {
    int n = 0;
    for (; mask; mask &= mask - 1)
        n++;
    return n;
}

static inline int lowest_bit(uint32_t mask) {
    return count_bits((mask & (0u - mask)) - 1);
}
#endif

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
