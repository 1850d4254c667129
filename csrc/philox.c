/* Philox4x64-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#include "internal.h"

static void philox_block(const uint64_t key[2], const uint64_t counter[4], uint64_t out[4]) {
    uint64_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t m0 = 0xD2E7470EE14C6C93u, m1 = 0xCA5A826395121157u;
        const uint64_t high0 = multiply_high(m0, c0), low0 = m0 * c0;
        const uint64_t high1 = multiply_high(m1, c2), low1 = m1 * c2;
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15u; /* golden ratio */
        k1 += 0xBB67AE8584CAA73Bu; /* sqrt(3) - 1 */
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* NumPy counts up before it generates; so do we, carrying through all four words. */
static void count_up(uint64_t counter[4]) {
    for (int i = 0; i < 4 && ++counter[i] == 0; i++)
        ;
}

void dec_philox(const uint64_t key[2], const uint64_t counter[4], int64_t n, uint64_t *words) {
    uint64_t at[4], block[4];
    memcpy(at, counter, sizeof at);
    for (int64_t i = 0; i < n; i += 4) {
        count_up(at);
        philox_block(key, at, block);
        memcpy(words + i, block, (size_t)(n - i < 4 ? n - i : 4) * sizeof *words);
    }
}

static double to_unit(uint64_t word) {
    return (double)(word >> 11) * 0x1p-53;
}

static void stream_key(const dec_stream *stream, dec_purpose purpose, int64_t r, uint64_t key[2],
                       uint64_t counter[4]) {
    key[0] = stream->seeds ? stream->seeds[r] : stream->seed;
    key[1] = stream->rows ? stream->rows[r] : (uint64_t)r;
    counter[0] = 0;
    counter[1] = (uint64_t)(stream->steps ? stream->steps[r] : stream->step);
    counter[2] = (uint64_t)purpose;
    counter[3] = 0;
}

double dec_uniform_at(const dec_stream *stream, dec_purpose purpose, int64_t r, uint64_t index) {
    uint64_t key[2], counter[4], block[4];
    stream_key(stream, purpose, r, key, counter);
    counter[0] = index / 4 + 1;
    philox_block(key, counter, block);
    return to_unit(block[index % 4]);
}

void dec_uniform(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n, double *out) {
    for (int64_t r = 0; r < rows; r++) {
        uint64_t key[2], counter[4], block[4];
        stream_key(stream, purpose, r, key, counter);
        for (int64_t i = 0; i < n; i++) {
            if (i % 4 == 0) {
                counter[0]++;
                philox_block(key, counter, block);
            }
            out[r * n + i] = to_unit(block[i % 4]);
        }
    }
}

void dec_normal(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n, double *out) {
    const double two_pi = 6.283185307179586;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i += 2) {
            double radius = sqrt(-2.0 * log1p(-dec_uniform_at(stream, purpose, r, (uint64_t)i)));
            double angle = two_pi * dec_uniform_at(stream, purpose, r, (uint64_t)i + 1);
            out[r * n + i] = radius * cos(angle);
            if (i + 1 < n)
                out[r * n + i + 1] = radius * sin(angle);
        }
}
