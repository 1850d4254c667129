/* What the kernels share: the table of inner loops that each instruction set fills, and the memory of a row.
 */
#ifndef DECODING_INTERNAL_H
#define DECODING_INTERNAL_H

#include "compiler.h"
#include "decoding.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum {
    DEC_LANES = 16,  /* logical vector width of every instruction set, so that all add in the same order */
    DEC_BLOCK = 256, /* logits whose exponentials are summed in float32 before they join a float64 sum */
    DEC_MAX_THREADS = 64,
};

#define DEC_LOG2E 1.4426950408889634
#define DEC_LN2 0.6931471805599453

/* What one pass over a row leaves. Exponentials are 2 ** ((x - reference) * c), where c = log2(e) /
 * temperature and a block's reference is the greatest value up to its end; the totals refer to `max`. */
typedef struct dec_scan {
    float max;
    double sum;        /* with the c asked for */
    double raw;        /* with c = log2(e); only scan_both fills it */
    float *lane_max;   /* [blocks, DEC_LANES]: greatest of every 16th value of a block */
    float *block_max;  /* [blocks] */
    float *block_ref;  /* [blocks] */
    double *block_sum; /* [blocks] */
} dec_scan;

/* How a value splits a list: what lies above it and what equals it. Weights count 1 where there are none. */
typedef struct dec_split {
    double above, equal;
    int64_t above_count, equal_count;
} dec_split;

/* The inner loops. Output arrays that loops compress into need DEC_LANES floats of slack behind their end. */
typedef struct dec_isa {
    const char *name;
    void (*scan)(const float *x, int64_t n, float c, dec_scan *scan);
    void (*scan_both)(const float *x, int64_t n, float c, dec_scan *scan);
    /* block b of a row, x its values; scan and scan_both are this on every block from max -inf, sums 0 */
    void (*scan_block)(const float *x, int64_t length, float c, int both, int64_t b, dec_scan *scan);
    void (*scan_max)(const float *x, int64_t n, dec_scan *scan); /* only the maxima; sum is 0, or NaN */
    float (*max)(const float *x, int64_t n);
    int64_t (*find)(const float *x, int64_t n, float value); /* first index of value, n if absent */
    /* out = 2 ** ((x - ref) * c); gives the sum */
    double (*exponentials)(const float *x, int64_t n, float ref, float c, float *out);
    /* out = (p / max) ** exponent; gives the sum */
    double (*powers)(const float *p, int64_t n, float max, float exponent, float *out);
    void (*affine)(const float *x, int64_t n, float shift, float scale, float offset, float *out);
    /* out = v, or out += v, of v = weight * ((x - shift) + offset), each operation rounded. An infinite v under a negative
     * weight is -inf where it is positive, else NaN. */
    void (*weigh)(const float *x, int64_t n, float shift, float offset, float weight, int add, float *out);
    /* out = a x + b y >= 0, or the natural logarithm of it where it is at least FLT_MIN, else something from -89 to -87;
     * gives the least. x and y may be out. */
    float (*mix)(const float *x, float a, const float *y, float b, int64_t n, int logarithms, float *out);
    /* block sums [ceil(n / DEC_BLOCK)]; *least is the smallest value */
    double (*sum_blocks)(const float *w, int64_t n, double *sums, float *least);
    /* the first index whose running sum passes target; the last positive one if none does */
    int64_t (*pick)(const float *w, int64_t n, double target);
    /* appends x >= bound with their ids to lists; gives how many */
    int64_t (*collect)(const float *x, int64_t n, float bound, int64_t first_id, float *values, int32_t *ids);
    void (*split)(const float *key, const float *weight, int64_t n, float pivot, dec_split *split);
    /* keeps lo <= key <= hi in all `count` columns of 32-bit items, in order, in place; gives how many */
    int64_t (*compact)(const float *key, int64_t n, float lo, float hi, void *const *columns, int count);
} dec_isa;

/* cpu.c: whether the processor has the instructions and the system keeps their registers. */
typedef enum dec_feature {
    DEC_AVX2, /* with fma, bmi and popcnt */
    DEC_AVXVNNI,
    DEC_AVX512, /* f, dq, bw and vl */
    DEC_AVX512VNNI,
    DEC_DOTPROD
} dec_feature;

int dec_cpu_has(dec_feature feature);

extern const dec_isa *dec_active;
/* Each gives NULL where the build or the processor lacks it. */
const dec_isa *dec_isa_avx512(void);
const dec_isa *dec_isa_avx2(void);
const dec_isa *dec_isa_neon(void);
const dec_isa *dec_isa_portable(void);

/* For sets without a native form of an operation: the first n lanes from p, the rest `fill`. */
static inline float *fill_lanes(float *lane, const float *p, int64_t n, float fill) {
    for (int i = 0; i < DEC_LANES; i++)
        lane[i] = i < n ? p[i] : fill;
    return lane;
}

/* Lanes may carry ids as well as floats: copy bits, never values. */
static inline void compress_lanes(float *out, const float *lane, uint32_t mask) {
    for (; mask; mask &= mask - 1)
        memcpy(out++, lane + lowest_bit(mask), sizeof *lane);
}

static inline int64_t dec_blocks(int64_t width) {
    return (width + DEC_BLOCK - 1) / DEC_BLOCK;
}

/* The scratch of one row, carved into its arrays. Lists have slack for compressing loops. */
typedef struct dec_work {
    dec_scan scan;
    double *cumulative;    /* [blocks] */
    float *values;         /* candidates: logits, */
    float *weights;        /* exponentials, */
    int32_t *ids;          /* ids, ascending */
    float *key, *key_mass; /* what select_threshold shrinks */
    float *distance;       /* typical's key */
} dec_work;

void dec_carve(void *scratch, int64_t width, dec_work *work);

/* softmax.c */
float dec_scale_of(float temperature);
dec_status dec_row_status(const dec_scan *scan, double raw);
dec_status dec_weights_status(double sum, float least);
double dec_logprob(float x, float max, double sum); /* sum of 2 ** ((x - max) * log2(e)) over the row */

/* philox.c: the index-th uniform in [0, 1) of row r */
double dec_uniform_at(const dec_stream *stream, dec_purpose purpose, int64_t r, uint64_t index);

/* select.c: the value t such that what is greater than t weighs less than target, and with what equals t at
 * least target; *ties is how many values equal to t reach it. weight NULL counts. Uses up key and weight. */
float dec_select(float *key, float *weight, int64_t n, double target, int64_t *ties);
/* Keeps what is above t, and of what equals t the first `ties`, in all columns; the key is columns[0]. */
int64_t dec_cut(int64_t n, float t, int64_t ties, void *const *columns, int count);
/* A finite value that at least k values of the scanned blocks reach if any k do; uses up `work`. */
float dec_lower_bound(const float *block_max, const float *lane_max, int64_t blocks, int64_t k, float *work);
/* Candidates of a scanned row that reach bound, ids ascending. */
int64_t dec_collect(const float *x, int64_t width, const float *block_max, float bound, float *values,
                    int32_t *ids);
/* Exactly the min(k, possible) greatest of a scanned row, in work's values and ids, ids ascending. */
int64_t dec_best(const float *x, int64_t width, int64_t k, dec_work *work);

/* filter.c: what a row may draw from */
typedef struct dec_kept {
    int64_t n;
    const float *values, *weights; /* logits; exponentials relative to the row's maximum */
    const int32_t *ids;            /* NULL: all, in order */
    float max;                     /* the row's greatest logit */
    double raw;                    /* sum of exp(logit - max) over the whole row */
} dec_kept;

int dec_filter_active(const dec_filter *filter);
dec_status dec_keep(const float *x, int64_t width, float temperature, const dec_filter *filter,
                    dec_work *work, dec_kept *kept);

/* draw.c */
double dec_cumulate(const double *sums, int64_t blocks, double *cumulative);
int64_t dec_locate(const double *cumulative, int64_t blocks, double target);

/* The plain draw in two steps: the block of a scanned row that u in [0, 1) falls into, and where in its sum;
 * then the index within the block whose logits are x. Uses up `cumulative` [blocks]. */
int64_t dec_draw_block(const dec_scan *scan, int64_t blocks, float c, double u, double *cumulative,
                       double *within);
int64_t dec_draw_within(const float *x, int64_t length, float ref, float c, double within);

#endif
