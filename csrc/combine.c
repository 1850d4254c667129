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
    dec_active->scan(x, n, dec_scale_of(1.0f), &work->scan);
    const dec_status status = dec_row_status(&work->scan, work->scan.sum);
    if (!status) {
        dec_active->weigh(x, n, work->scan.max, (float)-log(work->scan.sum), weight, add, out);
        return;
    }
    fill(work->values, n, no_distribution(status, -INFINITY));
    dec_active->weigh(work->values, n, 0.0f, 0.0f, weight, add, out);
}

/* Writes exponentials; gives their sum, by which they are to be divided. */
static double exponentials(const float *x, int64_t n, float *out) {
    dec_scan scan = {.max = dec_active->max(x, n)};
    const double sum =
        dec_active->exponentials(x, n, scan.max == -INFINITY ? 0.0f : scan.max, dec_scale_of(1.0f), out);
    const dec_status status = dec_row_status(&scan, sum);
    if (!status)
        return sum;
    fill(out, n, no_distribution(status, 0.0f));
    return 1.0;
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

static void sum_row(dec_combination how, const dec_rows *members, const double *weights, int64_t count,
                    int64_t row, dec_work *work, float *out) {
    const int64_t n = members->width;
    int add = 0;
    for (int64_t m = 0; m < count; m++) {
        const float *x = members[m].data + row * members[m].stride;
        if (weights[m] == 0.0)
            continue;
        if (how == DEC_SUM_LOGITS)
            dec_active->weigh(x, n, 0.0f, 0.0f, (float)weights[m], add, out);
        else
            add_logprobs(x, n, (float)weights[m], add, work, out);
        add = 1;
    }
}

/* The exponentials of the first member stay as they are until the second's join them. */
static void mean_row(const dec_rows *members, const double *weights, double total, int64_t count, int64_t row,
                     dec_work *work, float *out) {
    const int64_t n = members->width;
    int64_t last = count - 1;
    while (last > 0 && weights[last] == 0.0)
        last--;
    float factor = 0.0f, least = 0.0f;
    for (int64_t m = 0, first = 1; m <= last; m++) {
        if (weights[m] == 0.0)
            continue;
        float *own = first ? out : work->values;
        const double sum = exponentials(members[m].data + row * members[m].stride, n, own);
        const float scale = (float)(weights[m] / total / sum);
        if (!first || m == last)
            least = dec_active->mix(own, scale, out, first ? 0.0f : factor, n, m == last, out);
        factor = first && m < last ? scale : 1.0f;
        first = 0;
    }
    if (least < SMALL)
        mend_small(members, weights, total, count, row, work, out);
}

void dec_combine(dec_combination how, const dec_rows *members, const double *weights, int64_t count,
                 float *out, int64_t out_stride, void *scratch) {
    dec_work work;
    dec_carve(scratch, members->width, &work);
    double total = 0.0;
    for (int64_t m = 0; m < count; m++)
        total += weights[m];
    for (int64_t row = 0; row < members->rows; row++) {
        float *to = out + row * out_stride;
        if (how == DEC_MEAN_PROBS)
            mean_row(members, weights, total, count, row, &work, to);
        else
            sum_row(how, members, weights, count, row, &work, to);
    }
}
