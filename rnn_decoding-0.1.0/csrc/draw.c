/* Drawing: one token a row, many from given weights, uniformly among the best, and Gumbel-top-k. All walk
 * running sums of blocks and then look into one block, in the order of the ids. */
#include "internal.h"

/* Running sums of block sums; gives the total. */
double dec_cumulate(const double *sums, int64_t blocks, double *cumulative) {
    double total = 0.0;
    for (int64_t b = 0; b < blocks; b++)
        cumulative[b] = total += sums[b];
    return total;
}

/* The first block whose running sum passes target; if rounding lets none, the last that adds anything. */
int64_t dec_locate(const double *cumulative, int64_t blocks, double target) {
    int64_t low = 0, high = blocks - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (cumulative[middle] > target)
            high = middle;
        else
            low = middle + 1;
    }
    while (low > 0 && cumulative[low] == cumulative[low - 1])
        low--;
    return low;
}

static int64_t block_length(int64_t n, int64_t block) {
    int64_t left = n - block * DEC_BLOCK;
    return left < DEC_BLOCK ? left : DEC_BLOCK;
}

/* The index that u in [0, 1) chooses among n weights with these running block sums. */
static int64_t choose(const float *weights, int64_t n, const double *cumulative, double u) {
    const int64_t blocks = dec_blocks(n);
    double target = u * cumulative[blocks - 1];
    int64_t b = dec_locate(cumulative, blocks, target);
    double before = b ? cumulative[b - 1] : 0.0;
    return b * DEC_BLOCK + dec_active->pick(weights + b * DEC_BLOCK, block_length(n, b), target - before);
}

/* What a block's sum is to be multiplied with to refer to the row's maximum. */
static double block_factor(const dec_scan *scan, int64_t b, float c) {
    return exp2(((double)scan->block_ref[b] - scan->max) * c);
}

/* Running block sums of a scanned row. Few blocks have a new maximum, so few factors are computed. */
static void cumulate_scan(const dec_scan *scan, int64_t blocks, float c, double *cumulative) {
    double total = 0.0, factor = 1.0;
    float ref = scan->max;
    for (int64_t b = 0; b < blocks; b++) {
        if (scan->block_sum[b] > 0.0 && scan->block_ref[b] != ref) {
            ref = scan->block_ref[b];
            factor = block_factor(scan, b, c);
        }
        cumulative[b] = total += scan->block_sum[b] * factor;
    }
}

int64_t dec_draw_block(const dec_scan *scan, int64_t blocks, float c, double u, double *cumulative,
                       double *within) {
    cumulate_scan(scan, blocks, c, cumulative);
    double target = u * cumulative[blocks - 1];
    int64_t b = dec_locate(cumulative, blocks, target);
    *within = (target - (b ? cumulative[b - 1] : 0.0)) / block_factor(scan, b, c);
    return b;
}

int64_t dec_draw_within(const float *x, int64_t length, float ref, float c, double within) {
    float weights[DEC_BLOCK];
    dec_active->exponentials(x, length, ref, c, weights);
    return dec_active->pick(weights, length, within);
}

/* The plain draw: one pass over the row, then the exponentials of a single block again. */
static dec_status draw_plain(const float *x, int64_t width, float c, double u, dec_work *work, int64_t *token,
                             float *logprob) {
    const dec_isa *isa = dec_active;
    const float log2e = (float)DEC_LOG2E;
    dec_scan *scan = &work->scan;
    if (c == log2e) {
        isa->scan(x, width, c, scan);
        scan->raw = scan->sum;
    } else {
        isa->scan_both(x, width, c, scan);
    }
    dec_status status = dec_row_status(scan, scan->raw);
    if (status)
        return status;
    double within;
    int64_t b = dec_draw_block(scan, dec_blocks(width), c, u, work->cumulative, &within);
    *token = b * DEC_BLOCK +
             dec_draw_within(x + b * DEC_BLOCK, block_length(width, b), scan->block_ref[b], c, within);
    *logprob = (float)dec_logprob(x[*token], scan->max, scan->raw);
    return DEC_OK;
}

static dec_status draw_filtered(const float *x, int64_t width, float temperature, const dec_filter *filter,
                                double u, dec_work *work, int64_t *token, float *logprob) {
    dec_kept kept;
    dec_status status = dec_keep(x, width, temperature, filter, work, &kept);
    if (status)
        return status;
    float least;
    dec_active->sum_blocks(kept.weights, kept.n, work->cumulative, &least);
    dec_cumulate(work->cumulative, dec_blocks(kept.n), work->cumulative);
    int64_t i = choose(kept.weights, kept.n, work->cumulative, u);
    *token = kept.ids[i];
    *logprob = (float)dec_logprob(kept.values[i], kept.max, kept.raw);
    return DEC_OK;
}

typedef struct draw_job {
    const dec_rows *logits;
    const dec_stream *stream;
    const float *temperature;
    const dec_filter *filters;
    int64_t filter_stride;
    int64_t *tokens;
    float *logprobs;
    char *scratch;
    dec_status status[DEC_MAX_THREADS];
    int64_t bad[DEC_MAX_THREADS];
} draw_job;

static void draw_part(void *context, int worker, int64_t begin, int64_t end) {
    draw_job *job = context;
    const dec_rows *in = job->logits;
    dec_work work;
    dec_carve(job->scratch + (size_t)worker * dec_scratch_size(in->width), in->width, &work);
    for (int64_t r = begin; r < end; r++) {
        const float *x = in->data + r * in->stride;
        double u = dec_uniform_at(job->stream, DEC_DRAW, r, 0);
        const dec_filter *filter = job->filters + r * job->filter_stride;
        dec_status status = dec_filter_active(filter)
                                ? draw_filtered(x, in->width, job->temperature[r], filter, u, &work,
                                                job->tokens + r, job->logprobs + r)
                                : draw_plain(x, in->width, dec_scale_of(job->temperature[r]), u, &work,
                                             job->tokens + r, job->logprobs + r);
        if (status) {
            job->status[worker] = status;
            job->bad[worker] = r;
            return;
        }
    }
}

dec_status dec_draw(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                    const dec_filter *filters, int64_t filter_stride, int threads, int64_t *tokens,
                    float *logprobs, void *scratch, int64_t *bad) {
    threads = threads < 1 ? 1 : threads > DEC_MAX_THREADS ? DEC_MAX_THREADS : threads;
    draw_job job = {.logits = logits,
                    .stream = stream,
                    .temperature = temperature,
                    .filters = filters,
                    .filter_stride = filter_stride,
                    .tokens = tokens,
                    .logprobs = logprobs,
                    .scratch = scratch};
    for (int i = 0; i < threads; i++)
        job.status[i] = DEC_OK;
    dec_split_rows(draw_part, &job, logits->rows, threads);
    for (int i = 0; i < threads; i++) /* parts ascend: the first that failed has the lowest row */
        if (job.status[i]) {
            *bad = job.bad[i];
            return job.status[i];
        }
    return DEC_OK;
}

dec_status dec_top_n(const dec_rows *logits, const dec_stream *stream, int64_t n, int64_t *tokens,
                     float *logprobs, void *scratch, int64_t *bad) {
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = logits->data + r * logits->stride;
        dec_active->scan(x, logits->width, (float)DEC_LOG2E, &work.scan);
        dec_status status = dec_row_status(&work.scan, work.scan.sum);
        if (status) {
            *bad = r;
            return status;
        }
        int64_t possible = dec_best(x, logits->width, n, &work);
        int64_t i = (int64_t)(dec_uniform_at(stream, DEC_DRAW, r, 0) * (double)possible);
        tokens[r] = work.ids[i];
        logprobs[r] = (float)dec_logprob(work.values[i], work.scan.max, work.scan.sum);
    }
    return DEC_OK;
}

/* Drawing without replacement: what was drawn weighs nothing from then on. */
static void remove_weight(float *weights, int64_t n, int64_t i, double *sums, double *cumulative) {
    const int64_t b = i / DEC_BLOCK;
    float least;
    weights[i] = 0.0f;
    dec_active->sum_blocks(weights + b * DEC_BLOCK, block_length(n, b), sums + b, &least);
    dec_cumulate(sums, dec_blocks(n), cumulative);
}

dec_status dec_multinomial(const dec_rows *weights, const dec_stream *stream, int64_t n, int replacement,
                           int64_t *tokens, void *scratch, int64_t *bad) {
    const int64_t width = weights->width;
    dec_work work;
    dec_carve(scratch, width, &work);
    for (int64_t r = 0; r < weights->rows; r++) {
        const float *w = weights->data + r * weights->stride;
        float least;
        double sum = dec_active->sum_blocks(w, width, work.scan.block_sum, &least);
        dec_status status = dec_weights_status(sum, least);
        if (!status && !replacement) {
            dec_split split;
            dec_active->split(w, NULL, width, 0.0f, &split);
            status = split.above_count < n ? DEC_TOO_FEW : DEC_OK;
            w = memcpy(work.weights, w, (size_t)width * sizeof *w);
        }
        if (status) {
            *bad = r;
            return status;
        }
        dec_cumulate(work.scan.block_sum, dec_blocks(width), work.cumulative);
        for (int64_t i = 0; i < n; i++) {
            double u = dec_uniform_at(stream, DEC_MULTINOMIAL, r, (uint64_t)i);
            int64_t token = tokens[r * n + i] = choose(w, width, work.cumulative, u);
            if (!replacement)
                remove_weight(work.weights, width, token, work.scan.block_sum, work.cumulative);
        }
    }
    return DEC_OK;
}

/* Gumbel noise on every log-probability, then the k greatest, has the law of: the greatest perturbed value is
 * one Gumbel at the log of the whole mass, its token a plain draw; what remains, likewise, but no greater
 * than the one before (Maddison et al. 2014, "A* sampling"). That takes 2 k random numbers instead of one a
 * token. */
static int64_t gumbel_row(const dec_kept *kept, const dec_stream *stream, int64_t r, int64_t k, double score,
                          double ceiling, dec_work *work, int64_t *tokens, double *perturbed,
                          double *out_scores, float *logprobs) {
    float least;
    const double sum = dec_active->sum_blocks(kept->weights, kept->n, work->scan.block_sum, &least);
    const double base = score - log(sum);
    double total = dec_cumulate(work->scan.block_sum, dec_blocks(kept->n), work->cumulative), value = ceiling;
    int64_t j = 0;
    for (; j < k && total > 0.0; j++) {
        int64_t i = choose(kept->weights, kept->n, work->cumulative,
                           dec_uniform_at(stream, DEC_GUMBEL, r, 2 * (uint64_t)j));
        double exponential = -log1p(-dec_uniform_at(stream, DEC_GUMBEL, r, 2 * (uint64_t)j + 1));
        double location = base + log(total);
        if (j > 0 || !isfinite(ceiling)) /* a given maximum is the first value itself */
            value = location - log((j > 0 ? exp(location - value) : 0.0) + exponential);
        tokens[j] = kept->ids ? kept->ids[i] : i;
        perturbed[j] = value;
        out_scores[j] = base + log(kept->weights[i]);
        logprobs[j] = (float)dec_logprob(kept->values[i], kept->max, kept->raw);
        remove_weight(work->weights, kept->n, i, work->scan.block_sum, work->cumulative);
        total = work->cumulative[dec_blocks(kept->n) - 1];
    }
    return j;
}

dec_status dec_gumbel_top_k(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                            const dec_filter *filter, int64_t k, const double *scores, const double *maxima,
                            int64_t *tokens, double *perturbed, double *out_scores, float *logprobs,
                            void *scratch, int64_t *bad) {
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        dec_kept kept;
        dec_status status =
            dec_keep(logits->data + r * logits->stride, logits->width, temperature[r], filter, &work, &kept);
        if (status) {
            *bad = r;
            return status;
        }
        int64_t j =
            gumbel_row(&kept, stream, r, k, scores ? scores[r] : 0.0, maxima ? maxima[r] : INFINITY, &work,
                       tokens + r * k, perturbed + r * k, out_scores + r * k, logprobs + r * k);
        for (; j < k; j++) {
            tokens[r * k + j] = -1;
            perturbed[r * k + j] = out_scores[r * k + j] = -INFINITY;
            logprobs[r * k + j] = -INFINITY;
        }
    }
    return DEC_OK;
}
