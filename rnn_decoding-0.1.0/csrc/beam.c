/* One step of beam search: log-softmax, running scores and the best continuations of each prompt, without
 * writing the [beams, width] log-probabilities. One pass gives each beam its log-sum and its block maxima;
 * those bound the worst candidate that can matter, and only blocks that reach the bound are looked at again.
 */
#include "internal.h"

typedef struct candidate {
    double score;
    int64_t flat; /* beam * width + token: what equals in score is ordered by it */
} candidate;

typedef struct beam_work {
    dec_work row;
    double *max;     /* [beams]: greatest logit; 0 where logits are log-probabilities */
    double *offset;  /* [beams]: beam score - log of the sum of exp(logit - max); -inf for a dead beam */
    candidate *best; /* [2 * num_beams] */
    int64_t *chosen; /* [num_beams]: tokens that earlier groups chose, for the diversity penalty */
    float *block_max, *lane_max, *bound_work;
} beam_work;

size_t dec_beam_scratch_size(int64_t beams, int64_t num_beams, int64_t width) {
    const size_t blocks = (size_t)(beams * dec_blocks(width));
    size_t bytes = dec_scratch_size(width) + (size_t)beams * 2 * sizeof(double) +
                   (size_t)num_beams * (sizeof(int64_t) + 2 * sizeof(candidate)) +
                   blocks * (1 + 2 * DEC_LANES) * sizeof(float);
    return (bytes + 63) / 64 * 64;
}

static void carve(void *scratch, const dec_beam *beam, int64_t width, beam_work *w) {
    const int64_t blocks = beam->beams * dec_blocks(width);
    char *at = scratch;
    dec_carve(at, width, &w->row);
    at += dec_scratch_size(width);
    w->max = (double *)at;
    w->offset = w->max + beam->beams;
    w->chosen = (int64_t *)(w->offset + beam->beams);
    w->best = (candidate *)(w->chosen + beam->num_beams);
    w->block_max = (float *)(w->best + 2 * beam->num_beams);
    w->lane_max = w->block_max + blocks;
    w->bound_work = w->lane_max + blocks * DEC_LANES;
}

static double score_of(const beam_work *w, int64_t k, float logit) {
    return (logit - w->max[k]) + w->offset[k];
}

/* Offsets and block maxima of the group's beams; the maxima become scores. */
static dec_status scan_beams(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                             int64_t first, int64_t count, beam_work *w, int64_t *bad) {
    const int64_t blocks = dec_blocks(logits->width);
    for (int64_t k = 0; k < count; k++) {
        float *block_max = w->block_max + k * blocks, *lane_max = w->lane_max + k * blocks * DEC_LANES;
        dec_scan scan = w->row.scan;
        scan.block_max = block_max;
        scan.lane_max = lane_max;
        w->offset[k] = -INFINITY;
        if (beam_scores[first + k] != -INFINITY) {
            dec_active->scan(logits->data + (first + k) * logits->stride, logits->width, (float)DEC_LOG2E,
                             &scan);
            dec_status status = dec_row_status(&scan, scan.sum);
            if (!status && !(beam_scores[first + k] < INFINITY))
                status = isnan(beam_scores[first + k]) ? DEC_NAN : DEC_INFINITE;
            if (status) {
                *bad = first + k;
                return status;
            }
            w->max[k] = beam->logits_are_logprobs ? 0.0 : scan.max;
            w->offset[k] = beam_scores[first + k];
            if (!beam->logits_are_logprobs)
                w->offset[k] += dec_logprob(scan.max, scan.max, scan.sum);
        }
        const int dead = w->offset[k] == -INFINITY;
        for (int64_t b = 0; b < blocks; b++)
            block_max[b] = dead ? -INFINITY : (float)score_of(w, k, block_max[b]);
        for (int64_t i = 0; i < blocks * DEC_LANES; i++)
            lane_max[i] = dead ? -INFINITY : (float)score_of(w, k, lane_max[i]);
    }
    return DEC_OK;
}

/* Keeps best[0 .. n) sorted; gives the new n, at most `room`. */
static int64_t insert(candidate *best, int64_t n, int64_t room, candidate c) {
    if (n == room &&
        (c.score < best[n - 1].score || (c.score == best[n - 1].score && c.flat > best[n - 1].flat)))
        return n;
    int64_t i = n < room ? n++ : n - 1;
    for (; i > 0 &&
           (best[i - 1].score < c.score || (best[i - 1].score == c.score && best[i - 1].flat > c.flat));
         i--)
        best[i] = best[i - 1];
    best[i] = c;
    return n;
}

static int64_t count_token(const int64_t *tokens, int64_t n, int64_t token) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += tokens[i] == token;
    return count;
}

/* The best `room` continuations of one group of beams. */
static int64_t best_of_group(const dec_rows *logits, const dec_beam *beam, int64_t first, int64_t count,
                             int64_t chosen, int64_t room, beam_work *w) {
    const int64_t blocks = dec_blocks(logits->width), width = logits->width;
    /* a penalty can only lower the candidates of the tokens that it meets: make room for all of them */
    const int64_t wanted = room + chosen * count;
    const float bound = dec_lower_bound(w->block_max, w->lane_max, count * blocks, wanted, w->bound_work);
    int64_t n = 0;
    for (int64_t k = 0; k < count; k++) {
        if (w->offset[k] == -INFINITY)
            continue;
        const float *x = logits->data + (first + k) * logits->stride;
        /* back to the beam's own logits, lower by what rounding can add */
        double slack = 1e-6 * (fabs((double)bound) + fabs(w->offset[k]) + fabs(w->max[k]));
        float own = nextafterf((float)(bound - w->offset[k] + w->max[k] - slack), -INFINITY);
        own = own < -FLT_MAX ? -FLT_MAX : own;
        for (int64_t b = 0; b < blocks; b++) {
            if (w->block_max[k * blocks + b] < bound)
                continue;
            const int64_t start = b * DEC_BLOCK,
                          length = width - start < DEC_BLOCK ? width - start : DEC_BLOCK;
            int64_t found = dec_active->collect(x + start, length, own, start, w->row.values, w->row.ids);
            for (int64_t i = 0; i < found; i++) {
                const int64_t token = w->row.ids[i];
                double score = score_of(w, k, w->row.values[i]);
                if (chosen)
                    score -= beam->diversity_penalty * (double)count_token(w->chosen, chosen, token);
                n = insert(w->best, n, room, (candidate){score, k * width + token});
            }
        }
    }
    return n;
}

/* The beams that a group goes on with: its first candidates that do not end. Notes their tokens after
 * `chosen`. */
static int64_t note_chosen(const dec_beam *beam, int64_t width, int64_t n, int64_t count, int64_t chosen,
                           beam_work *w) {
    for (int64_t i = 0, taken = 0; i < n && taken < count; i++) {
        int64_t token = w->best[i].flat % width;
        if (count_token(beam->eos, beam->eos_count, token))
            continue;
        w->chosen[chosen++] = token;
        taken++;
    }
    return chosen;
}

dec_status dec_beam_prune(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                          float *scores, int64_t *parents, int64_t *tokens, void *scratch, int64_t *bad) {
    const int64_t width = logits->width, count = beam->beams / beam->groups;
    const int64_t going_on = beam->num_beams / beam->groups, room = 2 * going_on;
    beam_work w;
    carve(scratch, beam, width, &w);
    for (int64_t p = 0; p < beam->prompts; p++) {
        int64_t chosen = 0;
        for (int64_t g = 0; g < beam->groups; g++) {
            const int64_t first = p * beam->beams + g * count, out = p * 2 * beam->num_beams + g * room;
            dec_status status = scan_beams(logits, beam, beam_scores, first, count, &w, bad);
            if (status)
                return status;
            int64_t n = best_of_group(logits, beam, first, count, chosen, room, &w);
            for (int64_t i = 0; i < room; i++) {
                scores[out + i] = i < n ? (float)w.best[i].score : -INFINITY;
                parents[out + i] = i < n ? g * count + w.best[i].flat / width : -1;
                tokens[out + i] = i < n ? w.best[i].flat % width : -1;
            }
            if (beam->diversity_penalty > 0.0)
                chosen = note_chosen(beam, width, n, going_on, chosen, &w);
        }
    }
    return DEC_OK;
}
