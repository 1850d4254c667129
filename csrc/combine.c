/* The scores of an ensemble: one row of each member in, one row out. */
#include "internal.h"

/* Below this logarithm a sum of probabilities may have lost digits to the smallest float32. */
#define SMALL -60.0f

static void fill(float *out, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++)
        out[i] = value;
}

/* What a row of which no distribution can be made counts as: `nothing` where every token is forbidden. The search whose
 * row it is reports it; other rows may run along that no request has any more. */
static float no_distribution(dec_status status, float nothing) {
    return status == DEC_FORBIDDEN ? nothing : NAN;
}

static void add_logprobs(const float *x, int64_t n, float weight, int add, dec_work *work, float *out) {
    const float c = dec_scale_of(1.0f);
    dec_active->scan(x, n, c, &work->scan);
    const dec_status status = dec_row_status(&work->scan, work->scan.sum);
    if (status)
        fill(work->values, n, no_distribution(status, -INFINITY));
    else
        dec_active->affine(x, n, work->scan.max, (float)(c * DEC_LN2), (float)-log(work->scan.sum),
                           work->values);
    dec_active->weigh(work->values, n, weight, add, out);
}

static void add_probs(const float *x, int64_t n, double weight, int add, dec_work *work, float *out) {
    const float max = dec_active->max(x, n);
    const double sum =
        dec_active->exponentials(x, n, max == -INFINITY ? 0.0f : max, dec_scale_of(1.0f), work->values);
    work->scan.max = max;
    const dec_status status = dec_row_status(&work->scan, sum);
    if (status)
        fill(work->values, n, no_distribution(status, 0.0f));
    dec_active->weigh(work->values, n, (float)(status ? weight : weight / sum), add, out);
}

static float log_add(float a, float b) {
    const float high = a > b ? a : b, low = a > b ? b : a;
    return low == -INFINITY ? high : (float)(high + log1p(exp((double)low - high)));
}

/* The logarithms of a row's small sums once more, added up as logarithms. */
static void mend_small(const dec_rows *members, const double *weights, double total, int64_t count,
                       int64_t row, dec_work *work, float *out) {
    const int64_t n = members->width;
    int64_t small = 0;
    for (int64_t i = 0; i < n; i++)
        if (out[i] < SMALL) {
            work->ids[small++] = (int32_t)i;
            out[i] = -INFINITY;
        }
    for (int64_t m = 0; m < count; m++) {
        const float *x = members[m].data + row * members[m].stride;
        if (weights[m] == 0.0)
            continue;
        dec_active->scan(x, n, dec_scale_of(1.0f), &work->scan);
        if (dec_row_status(&work->scan, work->scan.sum))
            continue; /* it forbids every token */
        const double shift = work->scan.max + log(work->scan.sum) - log(weights[m] / total);
        for (int64_t k = 0; k < small; k++) {
            const int64_t i = work->ids[k];
            if (x[i] > -INFINITY)
                out[i] = log_add(out[i], (float)(x[i] - shift));
        }
    }
}

static void combine_row(dec_combination how, const dec_rows *members, const double *weights, double total,
                        int64_t count, int64_t row, dec_work *work, float *out) {
    const int64_t n = members->width;
    int add = 0;
    for (int64_t m = 0; m < count; m++) {
        const float *x = members[m].data + row * members[m].stride;
        if (weights[m] == 0.0)
            continue;
        if (how == DEC_SUM_LOGITS)
            dec_active->weigh(x, n, (float)weights[m], add, out);
        else if (how == DEC_SUM_LOGPROBS)
            add_logprobs(x, n, (float)weights[m], add, work, out);
        else
            add_probs(x, n, weights[m] / total, add, work, out);
        add = 1;
    }
    if (how == DEC_MEAN_PROBS && dec_active->logarithms(out, n, out) < SMALL)
        mend_small(members, weights, total, count, row, work, out);
}

void dec_combine(dec_combination how, const dec_rows *members, const double *weights, int64_t count,
                 float *out, int64_t out_stride, void *scratch) {
    dec_work work;
    dec_carve(scratch, members->width, &work);
    double total = 0.0;
    for (int64_t m = 0; m < count; m++)
        total += weights[m];
    for (int64_t row = 0; row < members->rows; row++)
        combine_row(how, members, weights, total, count, row, &work, out + row * out_stride);
}
