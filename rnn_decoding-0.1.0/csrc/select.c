/* Finding the k greatest, or the greatest that weigh so much, without sorting: partition around pivots, as
 * quickselect does, but in passes that compare and pack sixteen values at a time. */
#include "internal.h"

/* Floats as integers in the same order, and back. */
static int32_t to_order(float f) {
    int32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

static float from_order(int32_t order) {
    int32_t bits = order < 0 ? order ^ 0x7fffffff : order;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float sampled_median(const float *key, int64_t n) {
    enum { SAMPLES = 9 };
    float sample[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        float value = key[i * (n - 1) / (SAMPLES - 1)];
        int j = i;
        for (; j > 0 && sample[j - 1] > value; j--)
            sample[j] = sample[j - 1];
        sample[j] = value;
    }
    return sample[SAMPLES / 2];
}

enum { SAMPLED_ROUNDS = 32 };

float dec_select(float *key, float *weight, int64_t n, double target, int64_t *ties) {
    const dec_isa *isa = dec_active;
    void *const columns[] = {key, weight};
    const int count = weight ? 2 : 1;
    int32_t low = to_order(-INFINITY), high = to_order(INFINITY);
    double base = 0.0; /* weight of what was dropped above the values still in question */
    float pivot = -INFINITY;
    *ties = 0;
    for (int round = 0; n > 0; round++) {
        /* a sampled median nearly halves the list; where order and values conspire against it, halving the
         * range of values ends the search in 32 more rounds */
        pivot = round < SAMPLED_ROUNDS ? sampled_median(key, n)
                                       : from_order((int32_t)(((int64_t)low + high) >> 1));
        dec_split split;
        isa->split(key, weight, n, pivot, &split);
        if (base + split.above >= target) {
            low = to_order(pivot);
            n = isa->compact(key, n, nextafterf(pivot, INFINITY), INFINITY, columns, count);
        } else {
            base += split.above;
            if (split.equal_count && base + split.equal >= target) {
                *ties = (int64_t)ceil((target - base) * (double)split.equal_count / split.equal);
                *ties = *ties < 1 ? 1 : *ties > split.equal_count ? split.equal_count : *ties;
                return pivot;
            }
            base += split.equal;
            high = to_order(pivot);
            n = isa->compact(key, n, -INFINITY, nextafterf(pivot, -INFINITY), columns, count);
        }
    }
    return -INFINITY; /* rounding left the whole short of the target: everything belongs */
}

int64_t dec_cut(int64_t n, float t, int64_t ties, void *const *columns, int count) {
    const dec_isa *isa = dec_active;
    const float *key = columns[0];
    n = isa->compact(key, n, t, INFINITY, columns, count);
    dec_split split;
    isa->split(key, NULL, n, t, &split);
    if (split.equal_count <= ties)
        return n;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (key[i] == t && ties-- <= 0)
            continue;
        for (int j = 0; j < count; j++)
            memcpy((char *)columns[j] + 4 * kept, (char *)columns[j] + 4 * i, 4);
        kept++;
    }
    return kept;
}

float dec_lower_bound(const float *block_max, const float *lane_max, int64_t blocks, int64_t k, float *work) {
    /* k groups of values whose maxima reach t hold k values that reach t. With twice as many groups as k the
     * bound lets few others through; finer groups cost more to select from. */
    const float *group = block_max;
    int64_t groups = blocks, ties;
    if (2 * k > groups) {
        group = lane_max;
        groups *= DEC_LANES;
    }
    if (2 * k > groups)
        return -FLT_MAX;
    memcpy(work, group, (size_t)groups * sizeof *work);
    float bound = dec_select(work, NULL, groups, (double)k, &ties);
    return bound < -FLT_MAX ? -FLT_MAX : bound;
}

int64_t dec_collect(const float *x, int64_t width, const float *block_max, float bound, float *values,
                    int32_t *ids) {
    int64_t n = 0;
    for (int64_t b = 0, start = 0; start < width; b++, start += DEC_BLOCK)
        if (block_max[b] >= bound) {
            int64_t length = width - start < DEC_BLOCK ? width - start : DEC_BLOCK;
            n += dec_active->collect(x + start, length, bound, start, values + n, ids + n);
        }
    return n;
}

int64_t dec_best(const float *x, int64_t width, int64_t k, dec_work *work) {
    const dec_scan *scan = &work->scan;
    float bound = dec_lower_bound(scan->block_max, scan->lane_max, dec_blocks(width), k, work->key);
    int64_t n = dec_collect(x, width, scan->block_max, bound, work->values, work->ids), ties;
    if (n <= k)
        return n;
    memcpy(work->key, work->values, (size_t)n * sizeof *work->key);
    float t = dec_select(work->key, NULL, n, (double)k, &ties);
    return dec_cut(n, t, ties, (void *const[]){work->values, work->ids}, 2);
}
