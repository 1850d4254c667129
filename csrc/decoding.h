/* The C face of the decoding kernels: everything between two network steps.
 *
 * Conventions
 *   logits      float32 [rows, width]; `stride` floats lie between the starts of two rows; -inf: "forbidden".
 *   log-probs   natural logarithms.
 *   ids         int64, 0 <= id < width. Among equal values the lowest id wins, everywhere.
 *   scratch     memory the caller lends: no kernel allocates. Sizes come from the *_scratch_size functions, in
 *               bytes, aligned as malloc does. Contents do not matter before or after, unless a function says so.
 *   result      a dec_status. Unless it is DEC_OK, *bad is the index of the first offending row, and the outputs
 *               from that row on are unspecified.
 *   bad rows    a row with a NaN, with +inf, or with nothing but -inf is reported and never drawn from.
 * Every function may be called from any thread; none keeps state, but for the instruction set chosen at start.
 */
#ifndef DECODING_H
#define DECODING_H

#include <stddef.h>
#include <stdint.h>

typedef enum dec_status {
    DEC_OK = 0,
    DEC_NAN,         /* the row has a NaN */
    DEC_INFINITE,    /* the row has a +inf */
    DEC_FORBIDDEN,   /* nothing in the row is possible: all -inf, or all weights 0 */
    DEC_NEGATIVE,    /* a weight is negative */
    DEC_TOO_FEW,     /* fewer positive weights than samples without replacement */
    DEC_OUT_OF_RANGE /* a token id or a row index lies outside the array */
} dec_status;

typedef struct dec_rows {
    const float *data;
    int64_t rows, width, stride;
} dec_rows;

/* Instruction sets: fastest first. Choose once, before any other call; NULL takes the fastest that the
 * processor has. dec_use_isa gives 0, or -1 when this processor or build lacks `name`. */
const char *dec_isa_name(void);
const char *dec_isa_supported(int index); /* NULL behind the last one */
int dec_use_isa(const char *name);

/* Random numbers: Philox4x64-10 (Salmon et al. 2011), with numpy.random.Philox's conventions. The words that
 * (seed, row, step, purpose) names are those of Philox(key=[seed, row], counter=[0, step, purpose, 0]): they
 * depend on nothing else, so not on the batch, the slot or the order. Each purpose has words of its own. */
typedef enum dec_purpose {
    DEC_DRAW = 0,
    DEC_MULTINOMIAL,
    DEC_GUMBEL,
    DEC_LATENT,
    DEC_TEACHER /* the coin of scheduled sampling */
} dec_purpose;

typedef struct dec_stream {
    uint64_t seed;
    const uint64_t *rows; /* [rows]; NULL means 0, 1, 2, ... */
    const int64_t *steps; /* [rows]; NULL means `step` for all */
    int64_t step;
    const uint64_t *seeds; /* [rows]; NULL means `seed` for all */
} dec_stream;

void dec_philox(const uint64_t key[2], const uint64_t counter[4], int64_t n, uint64_t *words);
/* out [rows, n] float64: uniform in [0, 1) as numpy's Generator.random gives it; standard normal
 * (Box-Muller). */
void dec_uniform(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n, double *out);
void dec_normal(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n, double *out);

/* Scratch for any kernel below (but the beam's) on rows of this width. */
size_t dec_scratch_size(int64_t width);

/* Over whole rows; out has `out_stride` floats from row to row and may be the input. temperature > 0.
 * dec_temper: p ** (1 / temperature), normalised; zeros stay zero. */
dec_status dec_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                       int64_t *bad);
dec_status dec_log_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                           void *scratch, int64_t *bad);
dec_status dec_temper(const dec_rows *probs, float temperature, float *out, int64_t out_stride, void *scratch,
                      int64_t *bad);

/* The filters of a draw, applied in this order, each on what the one before left, renormalised. */
typedef struct dec_filter {
    int64_t top_k;         /* 0 = off: exactly the k most probable */
    double top_p;          /* 1 = off: the most probable until their sum reaches p */
    double min_p;          /* 0 = off: p >= min_p * the greatest p */
    double typical_p;      /* 1 = off: nearest to the entropy, until their sum reaches p */
    double epsilon_cutoff; /* 0 = off: p >= epsilon */
    double eta_cutoff;     /* 0 = off: p >= min(eta, sqrt(eta) * exp(-entropy)) */
} dec_filter;

/* One token a row. tokens int64 [rows]; logprobs float32 [rows]: of the token under the logits as given,
 * before temperature and filters. temperature [rows], > 0. filters: one for all rows, or [rows] with
 * filter_stride 1. threads > 1 splits the rows; scratch is then `threads` times as large. */
dec_status dec_draw(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                    const dec_filter *filters, int64_t filter_stride, int threads, int64_t *tokens,
                    float *logprobs, void *scratch, int64_t *bad);
dec_status dec_greedy(const dec_rows *logits, int64_t *tokens, float *logprobs, void *scratch, int64_t *bad);
/* Uniformly one of the n most probable possible tokens. n >= 1. */
dec_status dec_top_n(const dec_rows *logits, const dec_stream *stream, int64_t n, int64_t *tokens,
                     float *logprobs, void *scratch, int64_t *bad);

/* Weights >= 0 that need not sum to 1 -> tokens int64 [rows, n]. */
dec_status dec_multinomial(const dec_rows *weights, const dec_stream *stream, int64_t n, int replacement,
                           int64_t *tokens, void *scratch, int64_t *bad);

/* k draws without replacement with their Gumbel-perturbed log-probabilities (Kool et al. 2019), best first;
 * all outputs [rows, k]. scores [rows] or NULL (0): log-probability of what came before; maxima [rows] or
 * NULL: the greatest perturbed value of each row is made to equal this (a parent's value). out_scores: scores
 * + the tempered, filtered log-probability. Where fewer than k tokens are possible: token -1, the rest -inf.
 */
dec_status dec_gumbel_top_k(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                            const dec_filter *filter, int64_t k, const double *scores, const double *maxima,
                            int64_t *tokens, double *perturbed, double *out_scores, float *logprobs,
                            void *scratch, int64_t *bad);

/* The k greatest of each row, sorted, [rows, k], 1 <= k <= width. dec_top_logprobs gives log-probabilities.
 */
dec_status dec_top_k(const dec_rows *values, int64_t k, float *best, int64_t *ids, void *scratch,
                     int64_t *bad);
dec_status dec_top_logprobs(const dec_rows *logits, int64_t k, float *best, int64_t *ids, void *scratch,
                            int64_t *bad);
/* logprobs [rows]: of the ids given, one a row. */
dec_status dec_token_logprobs(const dec_rows *logits, const int64_t *ids, float *logprobs, void *scratch,
                              int64_t *bad);

/* One step of beam search. logits [prompts * beams, width]; beam_scores [prompts * beams], -inf = a dead
 * beam, whose row is not looked at. Each prompt gets its 2 * num_beams best continuations, best first within
 * each group of beams: scores, parents (0 .. beams - 1 within the prompt) and tokens, each [prompts, 2 *
 * num_beams]. Score = beam score + log-probability; where fewer continuations are possible: -inf, -1, -1.
 * Group g pays diversity_penalty for each time that earlier groups chose a token (Vijayakumar et al. 2016):
 * their first num_beams / groups candidates that are not in eos. With logits_are_logprobs nothing is
 * normalised (they were edited). */
typedef struct dec_beam {
    int64_t prompts, beams, num_beams, groups; /* groups divides beams and num_beams */
    double diversity_penalty;                  /* >= 0 */
    const int64_t *eos;
    int64_t eos_count;
    int logits_are_logprobs;
} dec_beam;

size_t dec_beam_scratch_size(int64_t beams, int64_t num_beams, int64_t width);
dec_status dec_beam_prune(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                          float *scores, int64_t *parents, int64_t *tokens, void *scratch, int64_t *bad);

/* How several models choose a token together; a token that a model of any weight but 0 forbids (-inf) is forbidden in a
 * sum of logarithms, also under a negative weight: no ratio to a probability of 0 is a preference. */
typedef enum dec_combination {
    DEC_SUM_LOGITS,   /* sum of weight * logit: up to a number for each row, what DEC_SUM_LOGPROBS gives */
    DEC_SUM_LOGPROBS, /* sum of weight * log-probability */
    DEC_MEAN_PROBS    /* logarithm of the weighted mean of probabilities; no weight is negative */
} dec_combination;

/* out [rows, width] from the logits of `count` models, all [rows, width], each with its weight; not all weights are 0, and a
 * model of weight 0 is not looked at. A row in which a model has a NaN or a +inf gets a NaN (or a +inf) for that token at
 * least: whoever chooses from it reports it. */
void dec_combine(dec_combination how, const dec_rows *members, const double *weights, int64_t count,
                 float *out, int64_t out_stride, void *scratch);

/* Runs job on [0, rows) in `threads` parts, which end before it returns; part i gets worker number i. */
void dec_split_rows(void (*job)(void *context, int worker, int64_t begin, int64_t end), void *context,
                    int64_t rows, int threads);

/* out[o, i, :] = in[o, index[i], :] over [outer, in_rows, row_bytes] of any type; no overlap of in and out.
 */
dec_status dec_gather_rows(const void *in, void *out, const int64_t *index, int64_t outer, int64_t in_rows,
                           int64_t out_rows, size_t row_bytes, int64_t *bad);

/* Logits processors: edit [rows, width] in place. A history is ragged: row r's ids are
 * ids[start[r]] .. ids[start[r] + length[r] - 1]. counts: int32 [width], all zero on entry and again on
 * return. */
typedef struct dec_history {
    const int64_t *ids;
    const int64_t *start, *length; /* [rows] */
} dec_history;

typedef struct dec_edit {
    float *data;
    int64_t rows, width, stride;
} dec_edit;

/* Each distinct token of the history once: negative logits times penalty, others divided (Keskar et al.
 * 2019). */
dec_status dec_repetition_penalty(const dec_edit *logits, const dec_history *history, float penalty,
                                  int32_t *counts, int64_t *bad);
/* logit -= presence * [token occurs] + frequency * occurrences. */
dec_status dec_presence_frequency_penalty(const dec_edit *logits, const dec_history *history, float presence,
                                          float frequency, int32_t *counts, int64_t *bad);
/* Forbids every token that would complete an n-gram that the history already has. n >= 1. */
dec_status dec_no_repeat_ngram(const dec_edit *logits, const dec_history *history, int64_t n, int64_t *bad);
dec_status dec_logit_bias(const dec_edit *logits, const int64_t *ids, const float *bias, int64_t n,
                          int64_t *bad);
dec_status dec_suppress_tokens(const dec_edit *logits, const int64_t *ids, int64_t n, int64_t *bad);
/* Forbids all but these ids, which ascend. */
dec_status dec_allow_tokens(const dec_edit *logits, const int64_t *ids, int64_t n, int64_t *bad);
/* Forbids the tokens whose bits are 0: of row r, bit i & 31 of bits[r * stride + (i >> 5)] is token i's. */
void dec_allow_bits(const dec_edit *logits, const uint32_t *bits, int64_t stride);

#endif
