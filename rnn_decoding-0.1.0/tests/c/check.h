/* Small helpers of the C tests: counting failures, inputs, and plain float64 answers. */
#ifndef CHECK_H
#define CHECK_H

#include "decoding.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures, checks;

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        checks++;                                                                                            \
        if (!(condition)) {                                                                                  \
            failures++;                                                                                      \
            printf("%s:%d: [%s] ", __FILE__, __LINE__, dec_isa_name());                                      \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

/* Exactly as large as asked for, so that the sanitizer sees a read or write beyond. */
static void *take(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory)
        abort();
    return memory;
}

enum { NORMAL, EQUAL, EXTREME, FORBIDDING, DENORMAL, KINDS };

static float gaussian(int64_t i, uint64_t seed) {
    const uint64_t row = seed;
    const dec_stream stream = {.seed = 99, .rows = &row, .step = i};
    double value;
    dec_normal(&stream, DEC_LATENT, 1, 1, &value);
    return (float)value;
}

static float *make_row(int kind, int64_t width, uint64_t seed) {
    float *x = take((size_t)width * sizeof *x);
    for (int64_t i = 0; i < width; i++) {
        float value = gaussian(i, seed);
        switch (kind) {
        case NORMAL:
            x[i] = 3.0f * value;
            break;
        case EQUAL:
            x[i] = -2.5f;
            break;
        case EXTREME:
            x[i] = value > 1.0f ? 1e30f : value < -1.0f ? -1e30f : 100.0f * value;
            break;
        case FORBIDDING:
            x[i] = value > 0.5f || i == width - 1 ? value : -INFINITY;
            break;
        default:
            x[i] = value * 1e-40f;
        }
    }
    return x;
}

static double naive_log_sum(const float *x, int64_t width, double temperature) {
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < width; i++)
        max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < width; i++)
        sum += exp((x[i] - max) / temperature);
    return max / temperature + log(sum);
}

static int close_to(double a, double b, double tolerance) {
    return a == b || fabs(a - b) <= tolerance * (1.0 + fabs(b));
}

#endif
