/* The best tokens of a row: greedy, the k greatest sorted, and log-probabilities of chosen ids. */
#include "internal.h"

static dec_status scan_raw(const dec_rows *logits, int64_t r, dec_work *work, int64_t *bad) {
    dec_active->scan(logits->data + r * logits->stride, logits->width, (float)DEC_LOG2E, &work->scan);
    dec_status status = dec_row_status(&work->scan, work->scan.sum);
    if (status)
        *bad = r;
    return status;
}

dec_status dec_greedy(const dec_rows *logits, int64_t *tokens, float *logprobs, void *scratch, int64_t *bad) {
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        const float *x = logits->data + r * logits->stride;
        dec_status status = scan_raw(logits, r, &work, bad);
        if (status)
            return status;
        int64_t b = 0;
        while (work.scan.block_max[b] != work.scan.max)
            b++;
        const int64_t start = b * DEC_BLOCK;
        tokens[r] = start + dec_active->find(x + start, logits->width - start, work.scan.max);
        logprobs[r] = (float)dec_logprob(work.scan.max, work.scan.max, work.scan.sum);
    }
    return DEC_OK;
}

/* Stable merge sort, greatest first; from and to swap roles each round, and the sorted lists are returned in
 * *values and *ids. Runs of RUN are sorted by insertion. */
static void sort_descending(float **values, int32_t **ids, int64_t n, float *spare_values,
                            int32_t *spare_ids) {
    enum { RUN = 16 };
    float *v = *values, *to_v = spare_values;
    int32_t *id = *ids, *to_id = spare_ids;
    for (int64_t start = 0; start < n; start += RUN)
        for (int64_t i = start + 1; i < n && i < start + RUN; i++) {
            const float value = v[i];
            const int32_t value_id = id[i];
            int64_t j = i;
            for (; j > start && v[j - 1] < value; j--) {
                v[j] = v[j - 1];
                id[j] = id[j - 1];
            }
            v[j] = value;
            id[j] = value_id;
        }
    for (int64_t run = RUN; run < n; run *= 2) {
        for (int64_t start = 0; start < n; start += 2 * run) {
            int64_t a = start, middle = start + run < n ? start + run : n, b = middle;
            const int64_t end = start + 2 * run < n ? start + 2 * run : n;
            for (int64_t out = start; out < end; out++) {
                const int64_t from = a < middle && (b == end || v[a] >= v[b]) ? a++ : b++;
                to_v[out] = v[from];
                to_id[out] = id[from];
            }
        }
        float *swap_v = v;
        int32_t *swap_id = id;
        v = to_v, to_v = swap_v;
        id = to_id, to_id = swap_id;
    }
    *values = v;
    *ids = id;
}

/* The k best of a scanned row; behind the possible ones come forbidden tokens, lowest ids first, as a sort of
 * the whole row would have them. */
static void write_best(const float *x, int64_t width, int64_t k, dec_work *work, float *best, int64_t *ids) {
    int64_t n = dec_best(x, width, k, work);
    float *sorted = work->values;
    int32_t *sorted_ids = work->ids;
    sort_descending(&sorted, &sorted_ids, n, work->key, (int32_t *)work->key_mass);
    for (int64_t i = 0; i < n; i++) {
        best[i] = sorted[i];
        ids[i] = sorted_ids[i];
    }
    for (int64_t id = 0; id < width && n < k; id++)
        if (x[id] == -INFINITY) {
            best[n] = -INFINITY;
            ids[n++] = id;
        }
}

dec_status dec_top_k(const dec_rows *values, int64_t k, float *best, int64_t *ids, void *scratch,
                     int64_t *bad) {
    dec_work work;
    dec_carve(scratch, values->width, &work);
    for (int64_t r = 0; r < values->rows; r++) {
        dec_active->scan_max(values->data + r * values->stride, values->width, &work.scan);
        dec_status status = dec_row_status(&work.scan, work.scan.sum);
        if (status) {
            *bad = r;
            return status;
        }
        write_best(values->data + r * values->stride, values->width, k, &work, best + r * k, ids + r * k);
    }
    return DEC_OK;
}

dec_status dec_top_logprobs(const dec_rows *logits, int64_t k, float *best, int64_t *ids, void *scratch,
                            int64_t *bad) {
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        dec_status status = scan_raw(logits, r, &work, bad);
        if (status)
            return status;
        write_best(logits->data + r * logits->stride, logits->width, k, &work, best + r * k, ids + r * k);
        for (int64_t i = r * k; i < (r + 1) * k; i++)
            best[i] = (float)dec_logprob(best[i], work.scan.max, work.scan.sum);
    }
    return DEC_OK;
}

dec_status dec_token_logprobs(const dec_rows *logits, const int64_t *ids, float *logprobs, void *scratch,
                              int64_t *bad) {
    dec_work work;
    dec_carve(scratch, logits->width, &work);
    for (int64_t r = 0; r < logits->rows; r++) {
        if (ids[r] < 0 || ids[r] >= logits->width) {
            *bad = r;
            return DEC_OUT_OF_RANGE;
        }
        dec_status status = scan_raw(logits, r, &work, bad);
        if (status)
            return status;
        logprobs[r] =
            (float)dec_logprob(logits->data[r * logits->stride + ids[r]], work.scan.max, work.scan.sum);
    }
    return DEC_OK;
}
