/* What a row may draw from: top-k, top-p, min-p, typical, epsilon and eta, in that order, each on what the
 * one before left. The first pass over the row gives the maximum, the sums and the block maxima; from these
 * the first active filter has a bound that most logits fail, and only those that reach it are copied to a
 * list and looked at again.
 */
#include "internal.h"

typedef struct list {
    const dec_filter *filter;
    dec_work *work;
    int64_t n;
    float max;  /* the row's greatest logit: the weights are exp((value - max) / temperature) */
    double inv; /* 1 / temperature */
    double sum; /* of the weights listed */
} list;

int dec_filter_active(const dec_filter *f) {
    return f && (f->top_k > 0 || f->top_p < 1.0 || f->min_p > 0.0 || f->typical_p < 1.0 ||
                 f->epsilon_cutoff > 0.0 || f->eta_cutoff > 0.0);
}

/* A value below which the first active filter keeps nothing, whatever the row. */
static float candidate_bound(const dec_filter *f, int64_t width, const dec_scan *scan, double inv) {
    double weight = 0.0; /* relative to the greatest; typical and eta need all, for the entropy */
    if (f->top_p < 1.0)
        weight = scan->sum * (1.0 - f->top_p) / (double)width; /* all below weigh less than the tail */
    else if (f->min_p > 0.0)
        weight = f->min_p;
    else if (f->epsilon_cutoff > 0.0 && f->typical_p == 1.0)
        weight = f->epsilon_cutoff * scan->sum;
    /* a little lower than it need be: the filter itself decides the close cases */
    float bound = (float)(scan->max + (log(fmin(weight, 1.0)) - 1e-3) / inv);
    bound = nextafterf(bound, -INFINITY);
    return bound < -FLT_MAX ? -FLT_MAX : bound;
}

static void sum_weights(list *l) {
    float least;
    l->sum = dec_active->sum_blocks(l->work->weights, l->n, l->work->cumulative, &least);
}

/* Keeps lo <= key in values, weights and ids. */
static void keep_from(list *l, const float *key, float lo) {
    dec_work *w = l->work;
    l->n = dec_active->compact(key, l->n, lo, INFINITY, (void *const[]){w->values, w->weights, w->ids}, 3);
    sum_weights(l);
}

static float select_mass(list *l, const float *key, double target, int64_t *ties) {
    dec_work *w = l->work;
    memmove(w->key, key, (size_t)l->n * sizeof *key);
    memcpy(w->key_mass, w->weights, (size_t)l->n * sizeof *w->key_mass);
    return dec_select(w->key, w->key_mass, l->n, target, ties);
}

static void keep_top_p(list *l) {
    dec_work *w = l->work;
    int64_t ties;
    float t = select_mass(l, w->values, l->filter->top_p * l->sum, &ties);
    if (t > -INFINITY)
        l->n = dec_cut(l->n, t, ties, (void *const[]){w->values, w->weights, w->ids}, 3);
    sum_weights(l);
}

/* Mean of log weight, under the weights: entropy = log(sum) - mean. */
static double mean_log_weight(const list *l) {
    double mean = 0.0;
    for (int64_t i = 0; i < l->n; i++)
        if (l->work->weights[i] > 0.0f)
            mean += l->work->weights[i] * (((double)l->work->values[i] - l->max) * l->inv);
    return mean / l->sum;
}

/* Meister et al. 2023. |-log p - entropy| is |log weight - its mean|; nearest first, all that tie with the
 * last. */
static void keep_typical(list *l) {
    dec_work *w = l->work;
    double mean = mean_log_weight(l);
    for (int64_t i = 0; i < l->n; i++) {
        double distance = fabs(((double)w->values[i] - l->max) * l->inv - mean);
        w->distance[i] = distance > FLT_MAX ? -FLT_MAX : (float)-distance;
    }
    int64_t ties;
    keep_from(l, w->distance, select_mass(l, w->distance, l->filter->typical_p * l->sum, &ties));
}

/* Hewitt et al. 2022. The most probable always stays. */
static void keep_probability(list *l, double least) {
    float greatest = dec_active->max(l->work->weights, l->n), lo = (float)(least * l->sum);
    keep_from(l, l->work->weights, lo < greatest ? lo : greatest);
}

static void keep_eta(list *l) {
    double eta = l->filter->eta_cutoff, entropy = log(l->sum) - mean_log_weight(l);
    keep_probability(l, fmin(eta, sqrt(eta) * exp(-entropy)));
}

static dec_status list_candidates(list *l, const float *x, int64_t width, float c, double *raw) {
    const dec_isa *isa = dec_active;
    dec_scan *scan = &l->work->scan;
    const int counted = l->filter->top_k > 0 && l->filter->top_k < width;
    if (counted || c == (float)DEC_LOG2E) {
        isa->scan(x, width, (float)DEC_LOG2E, scan);
        *raw = scan->sum;
    } else {
        isa->scan_both(x, width, c, scan);
        *raw = scan->raw;
    }
    dec_status status = dec_row_status(scan, *raw);
    if (status)
        return status;
    l->max = scan->max;
    l->n = counted ? dec_best(x, width, l->filter->top_k, l->work)
                   : dec_collect(x, width, scan->block_max, candidate_bound(l->filter, width, scan, l->inv),
                                 l->work->values, l->work->ids);
    l->sum = isa->exponentials(l->work->values, l->n, l->max, c, l->work->weights);
    if (!counted)
        l->sum = scan->sum; /* the list may lack the tail, which counts until a filter drops it */
    return DEC_OK;
}

static dec_status keep_all(const float *x, int64_t width, float c, dec_work *work, dec_kept *kept) {
    const dec_isa *isa = dec_active;
    isa->scan(x, width, (float)DEC_LOG2E, &work->scan);
    dec_status status = dec_row_status(&work->scan, work->scan.sum);
    if (status)
        return status;
    isa->exponentials(x, width, work->scan.max, c, work->weights);
    *kept = (dec_kept){.n = width, .values = x, .weights = work->weights};
    kept->max = work->scan.max;
    kept->raw = work->scan.sum;
    return DEC_OK;
}

dec_status dec_keep(const float *x, int64_t width, float temperature, const dec_filter *filter,
                    dec_work *work, dec_kept *kept) {
    const float c = dec_scale_of(temperature);
    if (!dec_filter_active(filter))
        return keep_all(x, width, c, work, kept);
    list l = {.filter = filter, .work = work, .inv = c * DEC_LN2};
    double raw;
    dec_status status = list_candidates(&l, x, width, c, &raw);
    if (status)
        return status;
    if (filter->top_p < 1.0)
        keep_top_p(&l);
    if (filter->min_p > 0.0)
        keep_from(&l, work->weights, (float)filter->min_p);
    if (filter->typical_p < 1.0)
        keep_typical(&l);
    if (filter->epsilon_cutoff > 0.0)
        keep_probability(&l, filter->epsilon_cutoff);
    if (filter->eta_cutoff > 0.0)
        keep_eta(&l);
    *kept = (dec_kept){.n = l.n, .values = work->values, .weights = work->weights, .ids = work->ids};
    kept->max = l.max;
    kept->raw = raw;
    return DEC_OK;
}
