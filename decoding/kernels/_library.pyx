"""The C library (csrc/), linked into this module alone, and the choice of its instruction set.

Other modules cimport the functions c_* from here, so that one instruction set is chosen for all of them.
"""

import os

from decoding.errors import OptionError

# The signatures stand in kernels.pxd; the C compiler checks these calls against decoding.h.
cdef extern from "decoding.h":
    const char *dec_isa_name() noexcept nogil
    const char *dec_isa_supported(int index) noexcept nogil
    int dec_use_isa(const char *name) noexcept nogil
    void dec_philox(...) noexcept nogil
    void dec_uniform(...) noexcept nogil
    void dec_normal(...) noexcept nogil
    size_t dec_scratch_size(...) noexcept nogil
    dec_status dec_softmax(...) noexcept nogil
    dec_status dec_log_softmax(...) noexcept nogil
    dec_status dec_temper(...) noexcept nogil
    dec_status dec_draw(...) noexcept nogil
    dec_status dec_greedy(...) noexcept nogil
    dec_status dec_top_n(...) noexcept nogil
    dec_status dec_multinomial(...) noexcept nogil
    dec_status dec_gumbel_top_k(...) noexcept nogil
    dec_status dec_top_k(...) noexcept nogil
    dec_status dec_top_logprobs(...) noexcept nogil
    dec_status dec_token_logprobs(...) noexcept nogil
    size_t dec_beam_scratch_size(...) noexcept nogil
    dec_status dec_beam_prune(...) noexcept nogil
    void dec_combine(...) noexcept nogil
    void dec_split_rows(...) noexcept nogil
    dec_status dec_gather_rows(...) noexcept nogil
    dec_status dec_repetition_penalty(...) noexcept nogil
    dec_status dec_presence_frequency_penalty(...) noexcept nogil
    dec_status dec_no_repeat_ngram(...) noexcept nogil
    dec_status dec_logit_bias(...) noexcept nogil
    dec_status dec_suppress_tokens(...) noexcept nogil
    dec_status dec_allow_tokens(...) noexcept nogil
    void dec_allow_bits(...) noexcept nogil


cdef void c_philox(const uint64_t *key, const uint64_t *counter, int64_t n, uint64_t *words) noexcept nogil:
    dec_philox(key, counter, n, words)


cdef void c_uniform(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                    double *out) noexcept nogil:
    dec_uniform(stream, purpose, rows, n, out)


cdef void c_normal(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                   double *out) noexcept nogil:
    dec_normal(stream, purpose, rows, n, out)


cdef size_t scratch_size(int64_t width) noexcept nogil:
    return dec_scratch_size(width)


cdef dec_status c_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                          int64_t *bad) noexcept nogil:
    return dec_softmax(logits, temperature, out, out_stride, bad)


cdef dec_status c_log_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                              void *scratch, int64_t *bad) noexcept nogil:
    return dec_log_softmax(logits, temperature, out, out_stride, scratch, bad)


cdef dec_status c_temper(const dec_rows *probs, float temperature, float *out, int64_t out_stride,
                         void *scratch, int64_t *bad) noexcept nogil:
    return dec_temper(probs, temperature, out, out_stride, scratch, bad)


cdef dec_status c_draw(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                       const dec_filter *filters, int64_t filter_stride, int threads, int64_t *tokens, float *logprobs, void *scratch,
                       int64_t *bad) noexcept nogil:
    return dec_draw(logits, stream, temperature, filters, filter_stride, threads, tokens, logprobs, scratch, bad)


cdef dec_status c_greedy(const dec_rows *logits, int64_t *tokens, float *logprobs, void *scratch,
                         int64_t *bad) noexcept nogil:
    return dec_greedy(logits, tokens, logprobs, scratch, bad)


cdef dec_status c_top_n(const dec_rows *logits, const dec_stream *stream, int64_t n, int64_t *tokens,
                        float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_top_n(logits, stream, n, tokens, logprobs, scratch, bad)


cdef dec_status c_multinomial(const dec_rows *weights, const dec_stream *stream, int64_t n, int replacement,
                              int64_t *tokens, void *scratch, int64_t *bad) noexcept nogil:
    return dec_multinomial(weights, stream, n, replacement, tokens, scratch, bad)


cdef dec_status c_gumbel_top_k(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                               const dec_filter *filter, int64_t k, const double *scores,
                               const double *maxima, int64_t *tokens, double *perturbed, double *out_scores,
                               float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_gumbel_top_k(logits, stream, temperature, filter, k, scores, maxima, tokens, perturbed,
                            out_scores, logprobs, scratch, bad)


cdef dec_status c_top_k(const dec_rows *values, int64_t k, float *best, int64_t *ids, void *scratch,
                        int64_t *bad) noexcept nogil:
    return dec_top_k(values, k, best, ids, scratch, bad)


cdef dec_status c_top_logprobs(const dec_rows *logits, int64_t k, float *best, int64_t *ids, void *scratch,
                               int64_t *bad) noexcept nogil:
    return dec_top_logprobs(logits, k, best, ids, scratch, bad)


cdef dec_status c_token_logprobs(const dec_rows *logits, const int64_t *ids, float *logprobs, void *scratch,
                                 int64_t *bad) noexcept nogil:
    return dec_token_logprobs(logits, ids, logprobs, scratch, bad)


cdef size_t beam_scratch_size(int64_t beams, int64_t num_beams, int64_t width) noexcept nogil:
    return dec_beam_scratch_size(beams, num_beams, width)


cdef dec_status c_beam_prune(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                             float *scores, int64_t *parents, int64_t *tokens, void *scratch,
                             int64_t *bad) noexcept nogil:
    return dec_beam_prune(logits, beam, beam_scores, scores, parents, tokens, scratch, bad)


cdef void c_combine(dec_combination how, const dec_rows *members, const double *weights, int64_t count, float *out,
                    int64_t out_stride, void *scratch) noexcept nogil:
    dec_combine(how, members, weights, count, out, out_stride, scratch)


cdef void c_split_rows(void (*job)(void *, int, int64_t, int64_t) noexcept nogil, void *context, int64_t rows,
                       int threads) noexcept nogil:
    dec_split_rows(job, context, rows, threads)


cdef dec_status c_gather_rows(const void *source, void *out, const int64_t *index, int64_t outer,
                              int64_t in_rows, int64_t out_rows, size_t row_bytes,
                              int64_t *bad) noexcept nogil:
    return dec_gather_rows(source, out, index, outer, in_rows, out_rows, row_bytes, bad)


cdef dec_status c_repetition_penalty(const dec_edit *logits, const dec_history *history, float penalty,
                                     int32_t *counts, int64_t *bad) noexcept nogil:
    return dec_repetition_penalty(logits, history, penalty, counts, bad)


cdef dec_status c_presence_frequency_penalty(const dec_edit *logits, const dec_history *history,
                                             float presence, float frequency, int32_t *counts,
                                             int64_t *bad) noexcept nogil:
    return dec_presence_frequency_penalty(logits, history, presence, frequency, counts, bad)


cdef dec_status c_no_repeat_ngram(const dec_edit *logits, const dec_history *history, int64_t n,
                                  int64_t *bad) noexcept nogil:
    return dec_no_repeat_ngram(logits, history, n, bad)


cdef dec_status c_logit_bias(const dec_edit *logits, const int64_t *ids, const float *bias, int64_t n,
                             int64_t *bad) noexcept nogil:
    return dec_logit_bias(logits, ids, bias, n, bad)


cdef dec_status c_suppress_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                                  int64_t *bad) noexcept nogil:
    return dec_suppress_tokens(logits, ids, n, bad)


cdef dec_status c_allow_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                               int64_t *bad) noexcept nogil:
    return dec_allow_tokens(logits, ids, n, bad)


cdef void c_allow_bits(const dec_edit *logits, const uint32_t *bits, int64_t stride) noexcept nogil:
    dec_allow_bits(logits, bits, stride)


cdef extern from "native.h":
    size_t dec_linear_size(...) noexcept nogil
    void dec_linear_pack(...) noexcept nogil
    size_t dec_linear_scratch_size(...) noexcept nogil
    void dec_linear_product(...) noexcept nogil
    size_t dec_network_scratch_size(...) noexcept nogil
    dec_status dec_network_read(...) noexcept nogil
    size_t dec_choose_scratch_size(...) noexcept nogil
    dec_status dec_linear_greedy(...) noexcept nogil
    dec_status dec_linear_draw(...) noexcept nogil


cdef size_t linear_size(int64_t inputs, int64_t outputs, dec_number number) noexcept nogil:
    return dec_linear_size(inputs, outputs, number)


cdef void c_linear_pack(dec_linear *linear, int64_t inputs, int64_t outputs, dec_number number,
                        const float *weights, int64_t output_stride, int64_t input_stride, const float *bias,
                        int largest, void *memory) noexcept nogil:
    dec_linear_pack(linear, inputs, outputs, number, weights, output_stride, input_stride, bias, largest, memory)


cdef size_t linear_scratch_size(const dec_linear *linear, int64_t rows) noexcept nogil:
    return dec_linear_scratch_size(linear, rows)


cdef void c_linear_product(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, float *y,
                           int64_t y_stride, int add, void *scratch) noexcept nogil:
    dec_linear_product(linear, x, x_stride, rows, y, y_stride, add, scratch)


cdef size_t network_scratch_size(const dec_network *network, int64_t rows, int64_t time) noexcept nogil:
    return dec_network_scratch_size(network, rows, time)


cdef dec_status c_network_read(const dec_network *network, const dec_feed *feed, const dec_state *states,
                               float *top, void *scratch, int64_t *bad) noexcept nogil:
    return dec_network_read(network, feed, states, top, scratch, bad)


cdef size_t choose_scratch_size(const dec_linear *output, int64_t rows) noexcept nogil:
    return dec_choose_scratch_size(output, rows)


cdef dec_status c_linear_greedy(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                                int64_t *tokens, float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_linear_greedy(output, x, x_stride, rows, tokens, logprobs, scratch, bad)


cdef dec_status c_linear_draw(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                              const dec_stream *stream, const float *temperature, int64_t *tokens,
                              float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_linear_draw(output, x, x_stride, rows, stream, temperature, tokens, logprobs, scratch, bad)


def instruction_set():
    """Name of the instruction set in use: "avx512", "avx2", "neon" or "portable"."""
    return dec_isa_name().decode()


def instruction_sets():
    """Names of those that this processor and this build have, fastest first."""
    names, index = [], 0
    while dec_isa_supported(index) != NULL:
        names.append(dec_isa_supported(index).decode())
        index += 1
    return names


def _choose_instruction_set():
    name = os.environ.get("DECODING_ISA") or None
    cdef bytes wanted = name.encode() if name else b""
    if dec_use_isa(<const char *>wanted if name else NULL) != 0:
        raise OptionError(
            f"environment variable DECODING_ISA is {name!r}: this processor and build support "
            f"{', '.join(instruction_sets())}; unset it to take the fastest"
        )


_choose_instruction_set()
