/* Logits processors: edit rows in place, touching only the tokens they are about. */
#include "internal.h"

static int64_t find_outside(const int64_t *ids, int64_t n, int64_t width) {
    int64_t i = 0;
    while (i < n && ids[i] >= 0 && ids[i] < width)
        i++;
    return i;
}

static const int64_t *history_of(const dec_history *history, int64_t r) {
    return history->ids + history->start[r];
}

/* Checked before anything is edited, so that an error leaves the logits as they were. */
static dec_status check_histories(const dec_edit *logits, const dec_history *history, int64_t *bad) {
    for (int64_t r = 0; r < logits->rows; r++)
        if (find_outside(history_of(history, r), history->length[r], logits->width) < history->length[r]) {
            *bad = r;
            return DEC_OUT_OF_RANGE;
        }
    return DEC_OK;
}

static void count_history(const dec_history *history, int64_t r, int32_t *counts) {
    for (int64_t i = 0; i < history->length[r]; i++)
        counts[history_of(history, r)[i]]++;
}

dec_status dec_repetition_penalty(const dec_edit *logits, const dec_history *history, float penalty,
                                  int32_t *counts, int64_t *bad) {
    dec_status status = check_histories(logits, history, bad);
    for (int64_t r = 0; status == DEC_OK && r < logits->rows; r++) {
        float *x = logits->data + r * logits->stride;
        const int64_t *ids = history_of(history, r);
        count_history(history, r, counts);
        for (int64_t i = 0; i < history->length[r]; i++) {
            if (counts[ids[i]])
                x[ids[i]] = x[ids[i]] < 0.0f ? x[ids[i]] * penalty : x[ids[i]] / penalty;
            counts[ids[i]] = 0;
        }
    }
    return status;
}

dec_status dec_presence_frequency_penalty(const dec_edit *logits, const dec_history *history, float presence,
                                          float frequency, int32_t *counts, int64_t *bad) {
    dec_status status = check_histories(logits, history, bad);
    for (int64_t r = 0; status == DEC_OK && r < logits->rows; r++) {
        float *x = logits->data + r * logits->stride;
        const int64_t *ids = history_of(history, r);
        count_history(history, r, counts);
        for (int64_t i = 0; i < history->length[r]; i++) {
            if (counts[ids[i]])
                x[ids[i]] -= presence + frequency * (float)counts[ids[i]];
            counts[ids[i]] = 0;
        }
    }
    return status;
}

dec_status dec_no_repeat_ngram(const dec_edit *logits, const dec_history *history, int64_t n, int64_t *bad) {
    dec_status status = check_histories(logits, history, bad);
    for (int64_t r = 0; status == DEC_OK && r < logits->rows; r++) {
        float *x = logits->data + r * logits->stride;
        const int64_t *ids = history_of(history, r), length = history->length[r];
        if (length < n)
            continue;
        const int64_t *suffix = ids + length - (n - 1);
        for (int64_t i = 0; i + n <= length; i++)
            if (memcmp(ids + i, suffix, (size_t)(n - 1) * sizeof *ids) == 0)
                x[ids[i + n - 1]] = -INFINITY;
    }
    return status;
}

dec_status dec_logit_bias(const dec_edit *logits, const int64_t *ids, const float *bias, int64_t n,
                          int64_t *bad) {
    if ((*bad = find_outside(ids, n, logits->width)) < n)
        return DEC_OUT_OF_RANGE;
    for (int64_t r = 0; r < logits->rows; r++)
        for (int64_t i = 0; i < n; i++)
            logits->data[r * logits->stride + ids[i]] += bias[i];
    return DEC_OK;
}

dec_status dec_suppress_tokens(const dec_edit *logits, const int64_t *ids, int64_t n, int64_t *bad) {
    if ((*bad = find_outside(ids, n, logits->width)) < n)
        return DEC_OUT_OF_RANGE;
    for (int64_t r = 0; r < logits->rows; r++)
        for (int64_t i = 0; i < n; i++)
            logits->data[r * logits->stride + ids[i]] = -INFINITY;
    return DEC_OK;
}

dec_status dec_allow_tokens(const dec_edit *logits, const int64_t *ids, int64_t n, int64_t *bad) {
    if ((*bad = find_outside(ids, n, logits->width)) < n)
        return DEC_OUT_OF_RANGE;
    for (int64_t r = 0; r < logits->rows; r++) {
        float *x = logits->data + r * logits->stride;
        int64_t next = 0;
        for (int64_t i = 0; i <= n; i++) {
            const int64_t end = i < n ? ids[i] : logits->width;
            for (; next < end; next++)
                x[next] = -INFINITY;
            next = end + 1;
        }
    }
    return DEC_OK;
}

void dec_allow_bits(const dec_edit *logits, const uint32_t *bits, int64_t stride) {
    for (int64_t r = 0; r < logits->rows; r++)
        for (int64_t start = 0; start < logits->width; start += 32) {
            float *x = logits->data + r * logits->stride + start;
            const int64_t left = logits->width - start, n = left < 32 ? left : 32;
            const uint32_t word = bits[r * stride + start / 32];
            if (word == UINT32_MAX)
                continue;
            for (int64_t i = 0; i < n; i++)
                x[i] = word >> i & 1 ? x[i] : -INFINITY;
        }
}
