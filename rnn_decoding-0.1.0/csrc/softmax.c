/* Whole rows in, whole rows out: softmax, log-softmax, temper; and what every row pass shares. */
#include "internal.h"

/* log2(e) / temperature as the kernels use it: kept within float32's normal range, so that 0 * scale is 0. */
float dec_scale_of(float temperature) {
    double scale = DEC_LOG2E / temperature;
    return scale > FLT_MAX ? FLT_MAX : scale < FLT_MIN ? FLT_MIN : (float)scale;
}

/* A NaN anywhere makes the sum a NaN; so does +inf - +inf, which the maximum tells apart. */
dec_status dec_row_status(const dec_scan *scan, double sum) {
    if (scan->max == INFINITY)
        return DEC_INFINITE;
    if (isnan(sum))
        return DEC_NAN;
    return scan->max == -INFINITY ? DEC_FORBIDDEN : DEC_OK;
}

/* The maximum is subtracted from x, not added to the log, so that great logits lose nothing. Dividing by the
 * c that the kernels used undoes its rounding. */
double dec_logprob(float x, float max, double sum) {
    return ((double)x - max) - log2(sum) / (float)DEC_LOG2E;
}

void dec_carve(void *scratch, int64_t width, dec_work *work) {
    const int64_t blocks = dec_blocks(width), list = width + DEC_LANES;
    double *doubles = scratch;
    work->scan.block_sum = doubles;
    work->cumulative = doubles + blocks;
    float *floats = (float *)(doubles + 2 * blocks);
    work->scan.block_max = floats;
    work->scan.block_ref = floats + blocks;
    work->scan.lane_max = floats + 2 * blocks;
    floats += (2 + DEC_LANES) * blocks;
    work->values = floats;
    work->weights = floats + list;
    work->key = floats + 2 * list;
    work->key_mass = floats + 3 * list;
    work->distance = floats + 4 * list;
    work->ids = (int32_t *)(floats + 5 * list);
}

size_t dec_scratch_size(int64_t width) {
    const int64_t blocks = dec_blocks(width), list = width + DEC_LANES;
    size_t bytes = (size_t)(blocks * (2 * 8 + (2 + DEC_LANES) * 4) + list * 6 * 4);
    return (bytes + 63) / 64 * 64;
}

dec_status dec_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                       int64_t *bad) {
    const dec_isa *isa = dec_active;
    const float c = dec_scale_of(temperature);
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = logits->data + r * logits->stride;
        float *y = out + r * out_stride;
        dec_scan scan = {.max = isa->max(x, logits->width)};
        double sum = scan.max == -INFINITY ? isa->exponentials(x, logits->width, 0.0f, c, y)
                                           : isa->exponentials(x, logits->width, scan.max, c, y);
        dec_status status = dec_row_status(&scan, sum);
        if (status) {
            *bad = r;
            return status;
        }
        isa->affine(y, logits->width, 0.0f, (float)(1.0 / sum), 0.0f, y);
    }
    return DEC_OK;
}

dec_status dec_log_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                           void *scratch, int64_t *bad) {
    const dec_isa *isa = dec_active;
    const float c = dec_scale_of(temperature);
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = logits->data + r * logits->stride;
        isa->scan(x, logits->width, c, &work.scan);
        dec_status status = dec_row_status(&work.scan, work.scan.sum);
        if (status) {
            *bad = r;
            return status;
        }
        isa->affine(x, logits->width, work.scan.max, (float)(c * DEC_LN2), (float)-log(work.scan.sum),
                    out + r * out_stride);
    }
    return DEC_OK;
}

/* Weights must be finite, >= 0 and not all 0. */
dec_status dec_weights_status(double sum, float least) {
    if (isnan(sum))
        return DEC_NAN;
    if (least < 0.0f)
        return DEC_NEGATIVE;
    if (isinf(sum))
        return DEC_INFINITE;
    return sum > 0.0 ? DEC_OK : DEC_FORBIDDEN;
}

dec_status dec_temper(const dec_rows *probs, float temperature, float *out, int64_t out_stride, void *scratch,
                      int64_t *bad) {
    const dec_isa *isa = dec_active;
    const float exponent = (float)(dec_scale_of(temperature) * DEC_LN2);
    dec_work work;
    dec_carve(scratch, probs->width, &work);
    for (int64_t r = 0; r < probs->rows; r++) {
        const float *p = probs->data + r * probs->stride;
        float *y = out + r * out_stride, least;
        double sum = isa->sum_blocks(p, probs->width, work.cumulative, &least);
        dec_status status = dec_weights_status(sum, least);
        if (status) {
            *bad = r;
            return status;
        }
        sum = isa->powers(p, probs->width, isa->max(p, probs->width), exponent, y);
        isa->affine(y, probs->width, 0.0f, (float)(1.0 / sum), 0.0f, y);
    }
    return DEC_OK;
}
