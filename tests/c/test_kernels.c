/* Every kernel in every instruction set that the processor has, on the same inputs, at widths around every
 * block boundary. Answers are compared with plain float64 loops and between instruction sets. */
#include "check.h"
#include <float.h>

static const int64_t WIDTHS[] = {1,   2,   15,  16,  17,  31,   32,   33,   255,   256,   257,
                                 271, 272, 511, 512, 513, 1000, 4095, 4097, 50257, 128256};
static const dec_filter FILTERS[] = {
    {.top_p = 1.0, .typical_p = 1.0},
    {.top_k = 1, .top_p = 1.0, .typical_p = 1.0},
    {.top_k = 50, .top_p = 0.9, .typical_p = 1.0},
    {.top_p = 0.6, .typical_p = 1.0},
    {.top_p = 1.0, .min_p = 0.05, .typical_p = 1.0},
    {.top_p = 1.0, .typical_p = 0.7},
    {.top_p = 1.0, .typical_p = 1.0, .epsilon_cutoff = 1e-3},
    {.top_p = 1.0, .typical_p = 1.0, .eta_cutoff = 1e-2},
    {.top_k = 300,
     .top_p = 0.99,
     .min_p = 1e-3,
     .typical_p = 0.95,
     .epsilon_cutoff = 1e-4,
     .eta_cutoff = 1e-3},
};
enum { FILTER_COUNT = sizeof FILTERS / sizeof *FILTERS, ROWS = 2 };

/* Tokens of one instruction set, to compare the next ones with. */
typedef struct record {
    int64_t *items, count, room;
} record;

static record first;
static int64_t compared, different;

static void note(record *now, int64_t token) {
    if (now->count == now->room) {
        now->room = now->room ? 2 * now->room : 1024;
        now->items = realloc(now->items, (size_t)now->room * sizeof *now->items);
        if (!now->items)
            abort();
    }
    now->items[now->count++] = token;
}

static void check_whole_rows(const dec_rows *in, double temperature, void *scratch) {
    const int64_t width = in->width;
    const float *x = in->data;
    float *out = take((size_t)width * sizeof *out);
    int64_t bad = -1;
    const double log_sum = naive_log_sum(x, width, temperature);
    double total = 0.0;
    CHECK(dec_log_softmax(in, (float)temperature, out, width, scratch, &bad) == DEC_OK, "log_softmax");
    for (int64_t i = 0; i < width; i++)
        if (!close_to(out[i], x[i] / temperature - log_sum, 1e-6 + 1e-7 * fabs(log_sum)))
            CHECK(0, "log_softmax width %lld at %lld: %g, not %g", (long long)width, (long long)i, out[i],
                  x[i] / temperature - log_sum);
    CHECK(dec_softmax(in, (float)temperature, out, width, &bad) == DEC_OK, "softmax");
    for (int64_t i = 0; i < width; i++) {
        const double p = exp(x[i] / temperature - log_sum);
        const double tolerance = 1e-6 + 2e-7 * fabs(x[i] / temperature - log_sum) + 1e-7 * fabs(log_sum);
        if (fabs(x[i]) < 1e20f && fabs(log_sum) < 1e20 && fabs(out[i] - p) > tolerance * p + 1e-37)
            CHECK(0, "softmax width %lld at %lld: %g, not %g", (long long)width, (long long)i, out[i], p);
        CHECK(x[i] > -INFINITY || out[i] == 0.0f, "softmax: a forbidden token has weight");
        total += out[i];
    }
    CHECK(close_to(total, 1.0, 1e-5), "softmax sums to %g", total);

    const dec_rows probs = {out, 1, width, width};
    float *tempered = take((size_t)width * sizeof *tempered);
    CHECK(dec_temper(&probs, 0.5f, tempered, width, scratch, &bad) == DEC_OK, "temper");
    double squares = 0.0;
    for (int64_t i = 0; i < width; i++)
        squares += (double)out[i] * out[i];
    for (int64_t i = 0; i < width; i++)
        if (fabs(tempered[i] - (double)out[i] * out[i] / squares) > 2e-5 * tempered[i] + 1e-30)
            CHECK(0, "temper width %lld at %lld", (long long)width, (long long)i);
    free(tempered);
    free(out);
}

static void check_draws(const dec_rows *in, void *scratch, record *now) {
    int64_t bad = -1, token[ROWS];
    float logprob[ROWS];
    const float temperature[ROWS] = {0.7f, 1.0f};
    const double log_sum = naive_log_sum(in->data, in->width, 1.0);
    for (int f = 0; f < FILTER_COUNT; f++)
        for (int64_t step = 0; step < 3; step++) {
            const dec_stream stream = {.seed = 5, .step = step};
            CHECK(dec_draw(in, &stream, temperature, &FILTERS[f], 0, 2, token, logprob, scratch, &bad) ==
                      DEC_OK,
                  "draw with filter %d", f);
            for (int r = 0; r < ROWS; r++) {
                note(now, token[r]);
                CHECK(token[r] >= 0 && token[r] < in->width && in->data[token[r]] > -INFINITY,
                      "draw with filter %d: token %lld", f, (long long)token[r]);
                CHECK(close_to(logprob[r], in->data[token[r]] - log_sum, 1e-6 + 1e-7 * fabs(log_sum)),
                      "logprob %g, not %g", logprob[r], in->data[token[r]] - log_sum);
            }
        }
    CHECK(dec_greedy(in, token, logprob, scratch, &bad) == DEC_OK, "greedy");
    int64_t best = 0;
    for (int64_t i = 0; i < in->width; i++)
        best = in->data[i] > in->data[best] ? i : best;
    CHECK(token[0] == best && token[1] == best, "greedy %lld, not %lld", (long long)token[0],
          (long long)best);
    const dec_stream stream = {.seed = 5};
    CHECK(dec_top_n(in, &stream, 3, token, logprob, scratch, &bad) == DEC_OK, "top_n");
    note(now, token[0]);
}

static void check_top_k(const dec_rows *in, int64_t k, void *scratch) {
    float *best = take((size_t)(k * in->rows) * sizeof *best);
    int64_t *ids = take((size_t)(k * in->rows) * sizeof *ids), bad = -1, above = 0;
    CHECK(dec_top_k(in, k, best, ids, scratch, &bad) == DEC_OK, "top_k");
    for (int64_t i = 0; i < k; i++) {
        CHECK(best[i] == in->data[ids[i]], "top_k: value and id differ");
        if (i)
            CHECK(best[i - 1] > best[i] || (best[i - 1] == best[i] && ids[i - 1] < ids[i]),
                  "top_k: order at %lld", (long long)i);
    }
    for (int64_t i = 0; i < in->width; i++)
        above += in->data[i] > best[k - 1] || (in->data[i] == best[k - 1] && i < ids[k - 1]);
    CHECK(above == k - 1, "top_k: %lld values stand before the last", (long long)above);
    CHECK(dec_top_logprobs(in, k, best, ids, scratch, &bad) == DEC_OK, "top_logprobs");
    const double log_sum = naive_log_sum(in->data, in->width, 1.0);
    CHECK(close_to(best[0], in->data[ids[0]] - log_sum, 1e-6 + 1e-7 * fabs(log_sum)), "top_logprobs");
    free(best);
    free(ids);
}

/* Few distinct values, so that every cut falls among ties. */
static void check_ties(void) {
    for (int64_t width = 1; width < 700; width += 23) {
        void *scratch = take(dec_scratch_size(width));
        float *x = make_row(NORMAL, width, 77);
        for (int64_t i = 0; i < width; i++)
            x[i] = rintf(x[i] / 2.0f);
        const dec_rows in = {x, 1, width, width};
        for (int64_t k = 1; k <= width; k += 7)
            check_top_k(&in, k, scratch);
        free(x);
        free(scratch);
    }
}

static void check_samples(const dec_rows *in, void *scratch, record *now) {
    enum { N = 4 };
    const int64_t width = in->width;
    int64_t bad = -1, tokens[N * ROWS];
    float *probs = take((size_t)width * sizeof *probs), logprobs[N * ROWS];
    double perturbed[N * ROWS], scores[N * ROWS];
    const dec_stream stream = {.seed = 11, .step = 2};
    CHECK(dec_softmax(&(dec_rows){in->data, 1, width, width}, 1.0f, probs, width, &bad) == DEC_OK, "softmax");
    const dec_rows weights = {probs, 1, width, width};
    int64_t positive = 0;
    for (int64_t i = 0; i < width; i++)
        positive += probs[i] > 0.0f;
    for (int replacement = 0; replacement < 2; replacement++) {
        dec_status status = dec_multinomial(&weights, &stream, N, replacement, tokens, scratch, &bad);
        CHECK(status == (replacement || positive >= N ? DEC_OK : DEC_TOO_FEW), "multinomial: %d", status);
        for (int i = 0; status == DEC_OK && i < N; i++) {
            note(now, tokens[i]);
            CHECK(probs[tokens[i]] > 0.0f, "multinomial: weight 0");
            for (int j = 0; j < i && !replacement; j++)
                CHECK(tokens[i] != tokens[j], "multinomial: the same token twice");
        }
    }
    const float temperature[ROWS] = {1.0f, 1.3f};
    for (int f = 0; f < 3; f++) {
        CHECK(dec_gumbel_top_k(in, &stream, temperature, &FILTERS[f], N, NULL, NULL, tokens, perturbed,
                               scores, logprobs, scratch, &bad) == DEC_OK,
              "gumbel_top_k");
        for (int i = 0; i < N * ROWS; i++) {
            CHECK(tokens[i] == -1 || in->data[tokens[i]] > -INFINITY, "gumbel_top_k: forbidden");
            CHECK(i % N == 0 || perturbed[i] <= perturbed[i - 1], "gumbel_top_k: order");
        }
        note(now, tokens[0]);
    }
    free(probs);
}

static void check_beam(const float *x, int64_t width, record *now) {
    enum { BEAMS = 4, ROOM = 2 * BEAMS };
    const dec_rows in = {x, BEAMS, width, 0}; /* four beams with equal logits: ties go to the lowest parent */
    const float before[BEAMS] = {-1.0f, -1.0f, -INFINITY, -3.0f};
    float scores[ROOM];
    int64_t parents[ROOM], tokens[ROOM], bad = -1;
    void *scratch = take(dec_beam_scratch_size(BEAMS, BEAMS, width));
    for (int64_t groups = 1; groups <= 2; groups++) {
        const dec_beam beam = {
            .prompts = 1, .beams = BEAMS, .num_beams = BEAMS, .groups = groups, .diversity_penalty = 0.5};
        CHECK(dec_beam_prune(&in, &beam, before, scores, parents, tokens, scratch, &bad) == DEC_OK,
              "beam_prune");
        for (int i = 0; i < ROOM; i++) {
            note(now, tokens[i]);
            CHECK(parents[i] != 2, "beam_prune: a dead beam");
            CHECK((tokens[i] == -1) == (scores[i] == -INFINITY), "beam_prune: %lld", (long long)tokens[i]);
            CHECK(i % (ROOM / groups) == 0 || scores[i] <= scores[i - 1], "beam_prune: order");
        }
        int64_t best = 0;
        for (int64_t i = 0; i < width; i++)
            best = x[i] > x[best] ? i : best;
        /* denormals vanish beside a score: then the lowest id wins */
        CHECK(parents[0] == 0 && (tokens[0] == best || x[tokens[0]] - 1.0f == x[best] - 1.0f),
              "beam_prune: best %lld", (long long)tokens[0]);
    }
    free(scratch);
}

/* One bad value at every kind of place is found by every kernel that reads rows. */
static void check_bad_rows(int64_t width, void *scratch) {
    const float values[] = {NAN, INFINITY, -INFINITY};
    const dec_status expected[] = {DEC_NAN, DEC_INFINITE, DEC_FORBIDDEN};
    const float temperature[ROWS] = {0.7f, 0.7f};
    float *x = take((size_t)(ROWS * width) * sizeof *x), *out = take((size_t)(ROWS * width) * sizeof *out);
    float logprobs[ROWS];
    int64_t ids[ROWS], bad;
    const dec_rows in = {x, ROWS, width, width};
    const dec_stream stream = {.seed = 5};
    for (int v = 0; v < 3; v++)
        for (int64_t place = 0; place < width; place = place * 2 + 1)
            for (int surrounded = 0; surrounded < 2; surrounded++) {
                for (int64_t i = 0; i < ROWS * width; i++)
                    x[i] = i < width || (v < 2 && surrounded) ? (float)(i % 7) : -INFINITY;
                x[width + place] = values[v];
                dec_status status[8];
                status[0] = dec_softmax(&in, 1.0f, out, width, &bad);
                status[1] = dec_log_softmax(&in, 1.0f, out, width, scratch, &bad);
                for (int f = 0; f < 4; f++)
                    status[2 + f] =
                        dec_draw(&in, &stream, temperature, &FILTERS[f], 0, 1, ids, logprobs, scratch, &bad);
                status[6] = dec_greedy(&in, ids, logprobs, scratch, &bad);
                status[7] = dec_top_k(&in, 1, logprobs, ids, scratch, &bad);
                for (int i = 0; i < 8; i++)
                    CHECK(status[i] == expected[v] && bad == 1,
                          "width %lld place %lld value %g: call %d gives %d", (long long)width,
                          (long long)place, values[v], i, status[i]);
            }
    free(x);
    free(out);
}

/* The maximum is subtracted from x, not added to the logarithm, so that great logits lose nothing. */
static double naive_logprob(const float *x, int64_t width, int64_t i) {
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j < width; j++)
        max = x[j] > max ? x[j] : max;
    for (int64_t j = 0; j < width; j++)
        sum += exp(x[j] - max);
    return x[i] - max - log(sum);
}

/* The score of token i, by plain loops. */
static double naive_score(dec_combination how, const dec_rows *members, const double *weights, int64_t count,
                          int64_t row, int64_t i) {
    double score = 0.0, total = 0.0;
    int forbidden = 0;
    for (int64_t m = 0; m < count; m++)
        total += weights[m];
    for (int64_t m = 0; m < count; m++) {
        const float *x = members[m].data + row * members[m].stride;
        if (weights[m] == 0.0)
            continue;
        const double logprob = naive_logprob(x, members[m].width, i);
        forbidden |= x[i] == -INFINITY;
        if (how == DEC_MEAN_PROBS)
            score += x[i] == -INFINITY ? 0.0 : weights[m] / total * exp(logprob);
        else if (x[i] > -INFINITY)
            score += weights[m] * (how == DEC_SUM_LOGITS ? x[i] : logprob);
    }
    return how == DEC_MEAN_PROBS ? log(score) : forbidden ? -INFINITY : score;
}

static void check_combine(const float *x, int64_t width, void *scratch) {
    enum { MEMBERS = 4, LEFT_OUT = 2 };
    const double weights[][MEMBERS] = {{1.0, 0.3, 0.0, 0.5}, {0.0, 0.0, 0.0, 2.0}, {2.0, -0.7, 0.0, -0.3}};
    float *logits[MEMBERS];
    dec_rows members[MEMBERS];
    for (int m = 0; m < MEMBERS; m++) {
        logits[m] = take((size_t)(ROWS * width) * sizeof **logits);
        for (int64_t i = 0; i < ROWS * width; i++)
            logits[m][i] = m == LEFT_OUT ? NAN : m == 0 ? x[i % width] : 3.0f * gaussian(i, (uint64_t)m);
        members[m] = (dec_rows){logits[m], ROWS, width, width};
    }
    float *out = take((size_t)(ROWS * width) * sizeof *out);
    for (int w = 0; w < 3; w++)
        for (int how = DEC_SUM_LOGITS; how <= (w < 2 ? DEC_MEAN_PROBS : DEC_SUM_LOGPROBS); how++) {
            dec_combine((dec_combination)how, members, weights[w], MEMBERS, out, width, scratch);
            for (int64_t i = 0; i < ROWS * width; i += 1 + i / 40) {
                const double score =
                    naive_score((dec_combination)how, members, weights[w], MEMBERS, i / width, i % width);
                const int same = score < -1e30 || score > 1e30 || score < -600.0
                                     ? out[i] < -500.0f || score > 1e30
                                     : close_to(out[i], score, 2e-5);
                CHECK(same, "combine %d, weights %d, width %lld at %lld: %g, not %g", how, w,
                      (long long)width, (long long)i, out[i], score);
            }
        }
    /* the second row is wrong: the first is as it was */
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++)
        for (int how = DEC_SUM_LOGITS; how <= DEC_MEAN_PROBS; how++) {
            for (int64_t i = width; i < 2 * width; i++)
                logits[1][i] = k < 2 && i > width ? 0.0f : wrong[k];
            dec_combine((dec_combination)how, members, weights[0], MEMBERS, out, width, scratch);
            CHECK(k == 2 || !(out[width] <= FLT_MAX), "combine %d hides a wrong logit: %g", how, out[width]);
            CHECK(k < 2 || how == DEC_MEAN_PROBS || out[width] == -INFINITY, "combine %d: all is forbidden",
                  how);
            CHECK(!isnan(out[0]), "combine %d: a wrong row changes another", how);
        }
    for (int m = 0; m < MEMBERS; m++)
        free(logits[m]);
    free(out);
}

static void check_processors(void) {
    float x[] = {1, -1, 2, 3, -2, 5};
    int32_t counts[6] = {0};
    const int64_t ids[] = {1, 2, 2, 1, 2}, start = 0, length = 5, wrong[] = {6}, allowed[] = {0, 2};
    const dec_edit edit = {x, 1, 6, 6};
    const dec_history history = {ids, &start, &length};
    const float bias[] = {0.5f};
    int64_t bad = -1;
    dec_repetition_penalty(&edit, &history, 2.0f, counts, &bad);
    CHECK(x[1] == -2.0f && x[2] == 1.0f && x[0] == 1.0f, "repetition_penalty: %g %g", x[1], x[2]);
    dec_presence_frequency_penalty(&edit, &history, 0.5f, 1.0f, counts, &bad);
    CHECK(x[1] == -4.5f && x[2] == -2.5f && x[3] == 3.0f, "penalties: %g %g", x[1], x[2]);
    for (int i = 0; i < 6; i++)
        CHECK(counts[i] == 0, "counts are left");
    dec_no_repeat_ngram(&edit, &history, 3, &bad); /* 1 2 was followed by 2 */
    CHECK(x[2] == -INFINITY && x[1] == -4.5f, "no_repeat_ngram");
    dec_logit_bias(&edit, allowed, bias, 1, &bad);
    CHECK(x[0] == 1.5f, "logit_bias");
    dec_suppress_tokens(&edit, ids, 1, &bad);
    CHECK(x[1] == -INFINITY, "suppress_tokens");
    dec_allow_tokens(&edit, allowed, 2, &bad);
    CHECK(x[0] == 1.5f && x[3] == -INFINITY && x[5] == -INFINITY, "allow_tokens");
    CHECK(dec_suppress_tokens(&edit, wrong, 1, &bad) == DEC_OUT_OF_RANGE && bad == 0, "an id outside");

    const int16_t state[] = {1, 2, 3, 4, 5, 6, 7, 8};
    const int64_t index[] = {1, 0, 1}, outside[] = {0, 2};
    int16_t moved[12];
    CHECK(dec_gather_rows(state, moved, index, 2, 2, 3, 4, &bad) == DEC_OK, "gather_rows");
    CHECK(moved[0] == 3 && moved[1] == 4 && moved[2] == 1 && moved[4] == 3 && moved[6] == 7 && moved[8] == 5,
          "gather_rows: wrong rows");
    CHECK(dec_gather_rows(state, moved, outside, 1, 2, 2, 4, &bad) == DEC_OUT_OF_RANGE && bad == 1,
          "gather_rows");
}

static void run_isa(record *now) {
    for (size_t w = 0; w < sizeof WIDTHS / sizeof *WIDTHS; w++) {
        const int64_t width = WIDTHS[w];
        void *scratch = take(2 * dec_scratch_size(width));
        for (int kind = 0; kind < KINDS; kind++) {
            float *x = make_row(kind, width, (uint64_t)(w * KINDS) + (uint64_t)kind);
            const dec_rows one = {x, 1, width, width}, same_twice = {x, ROWS, width, 0};
            check_whole_rows(&one, kind == EXTREME ? 1.0 : 0.8, scratch);
            check_draws(&same_twice, scratch, now);
            check_samples(&same_twice, scratch, now);
            check_beam(x, width, now);
            if (width < 5000)
                check_combine(x, width, scratch);
            const int64_t ks[] = {1, width < 5 ? width : 5, (width + 1) / 2, width};
            for (int i = 0; i < 4; i++)
                if (ks[i] < 1000)
                    check_top_k(&one, ks[i], scratch);
            free(x);
        }
        if (width < 5000)
            check_bad_rows(width, scratch);
        free(scratch);
    }
    check_ties();
    check_processors();
}

int main(void) {
    const char *name;
    for (int i = 0; (name = dec_isa_supported(i)); i++) {
        record now = {0};
        CHECK(dec_use_isa(name) == 0, "dec_use_isa");
        run_isa(&now);
        if (i == 0)
            first = now;
        CHECK(now.count == first.count, "%lld tokens, not %lld", (long long)now.count,
              (long long)first.count);
        int64_t unlike = 0;
        for (int64_t j = 0; j < now.count && j < first.count; j++)
            unlike += now.items[j] != first.items[j];
        printf("%s: %lld of %lld tokens differ from the first\n", name, (long long)unlike,
               (long long)now.count);
        compared += now.count;
        different += unlike;
        if (i)
            free(now.items);
    }
    free(first.items);
    dec_use_isa(dec_isa_supported(0));
    CHECK(dec_use_isa("no such thing") == -1, "an unknown instruction set");
    /* a token may differ only where the uniform number falls within float error of a boundary */
    CHECK(different * 1000 <= compared, "%lld of %lld tokens differ", (long long)different,
          (long long)compared);
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
