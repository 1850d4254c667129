"""The C face for other Cython modules: cimport these; csrc is linked into decoding.kernels alone.

Every c_* function (and every *_size) is the dec_* function of the same name in csrc/decoding.h or csrc/native.h, which give
shapes and units.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "decoding.h":
    ctypedef enum dec_status:
        DEC_OK
        DEC_NAN
        DEC_INFINITE
        DEC_FORBIDDEN
        DEC_NEGATIVE
        DEC_TOO_FEW
        DEC_OUT_OF_RANGE

    ctypedef enum dec_purpose:
        DEC_DRAW
        DEC_MULTINOMIAL
        DEC_GUMBEL
        DEC_LATENT
        DEC_TEACHER

    ctypedef struct dec_rows:
        const float *data
        int64_t rows
        int64_t width
        int64_t stride

    ctypedef struct dec_stream:
        uint64_t seed
        const uint64_t *rows
        const int64_t *steps
        int64_t step
        const uint64_t *seeds

    ctypedef struct dec_filter:
        int64_t top_k
        double top_p
        double min_p
        double typical_p
        double epsilon_cutoff
        double eta_cutoff

    ctypedef struct dec_beam:
        int64_t prompts
        int64_t beams
        int64_t num_beams
        int64_t groups
        double diversity_penalty
        const int64_t *eos
        int64_t eos_count
        int logits_are_logprobs

    ctypedef enum dec_combination:
        DEC_SUM_LOGITS
        DEC_SUM_LOGPROBS
        DEC_MEAN_PROBS

    ctypedef struct dec_history:
        const int64_t *ids
        const int64_t *start
        const int64_t *length

    ctypedef struct dec_edit:
        float *data
        int64_t rows
        int64_t width
        int64_t stride

cdef void c_philox(const uint64_t *key, const uint64_t *counter, int64_t n, uint64_t *words) noexcept nogil
cdef void c_uniform(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                    double *out) noexcept nogil
cdef void c_normal(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                   double *out) noexcept nogil
cdef size_t scratch_size(int64_t width) noexcept nogil
cdef dec_status c_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                          int64_t *bad) noexcept nogil
cdef dec_status c_log_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                              void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_temper(const dec_rows *probs, float temperature, float *out, int64_t out_stride,
                         void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_draw(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                       const dec_filter *filters, int64_t filter_stride, int threads, int64_t *tokens, float *logprobs, void *scratch,
                       int64_t *bad) noexcept nogil
cdef dec_status c_greedy(const dec_rows *logits, int64_t *tokens, float *logprobs, void *scratch,
                         int64_t *bad) noexcept nogil
cdef dec_status c_top_n(const dec_rows *logits, const dec_stream *stream, int64_t n, int64_t *tokens,
                        float *logprobs, void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_multinomial(const dec_rows *weights, const dec_stream *stream, int64_t n, int replacement,
                              int64_t *tokens, void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_gumbel_top_k(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                               const dec_filter *filter, int64_t k, const double *scores,
                               const double *maxima, int64_t *tokens, double *perturbed, double *out_scores,
                               float *logprobs, void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_top_k(const dec_rows *values, int64_t k, float *best, int64_t *ids, void *scratch,
                        int64_t *bad) noexcept nogil
cdef dec_status c_top_logprobs(const dec_rows *logits, int64_t k, float *best, int64_t *ids, void *scratch,
                               int64_t *bad) noexcept nogil
cdef dec_status c_token_logprobs(const dec_rows *logits, const int64_t *ids, float *logprobs, void *scratch,
                                 int64_t *bad) noexcept nogil
cdef size_t beam_scratch_size(int64_t beams, int64_t num_beams, int64_t width) noexcept nogil
cdef dec_status c_beam_prune(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                             float *scores, int64_t *parents, int64_t *tokens, void *scratch,
                             int64_t *bad) noexcept nogil
cdef void c_combine(dec_combination how, const dec_rows *members, const double *weights, int64_t count, float *out,
                    int64_t out_stride, void *scratch) noexcept nogil
cdef void c_split_rows(void (*job)(void *, int, int64_t, int64_t) noexcept nogil, void *context, int64_t rows,
                       int threads) noexcept nogil
cdef dec_status c_gather_rows(const void *source, void *out, const int64_t *index, int64_t outer,
                              int64_t in_rows, int64_t out_rows, size_t row_bytes,
                              int64_t *bad) noexcept nogil
cdef dec_status c_repetition_penalty(const dec_edit *logits, const dec_history *history, float penalty,
                                     int32_t *counts, int64_t *bad) noexcept nogil
cdef dec_status c_presence_frequency_penalty(const dec_edit *logits, const dec_history *history,
                                             float presence, float frequency, int32_t *counts,
                                             int64_t *bad) noexcept nogil
cdef dec_status c_no_repeat_ngram(const dec_edit *logits, const dec_history *history, int64_t n,
                                  int64_t *bad) noexcept nogil
cdef dec_status c_logit_bias(const dec_edit *logits, const int64_t *ids, const float *bias, int64_t n,
                             int64_t *bad) noexcept nogil
cdef dec_status c_suppress_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                                  int64_t *bad) noexcept nogil
cdef dec_status c_allow_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                               int64_t *bad) noexcept nogil
cdef void c_allow_bits(const dec_edit *logits, const uint32_t *bits, int64_t stride) noexcept nogil

cdef extern from "native.h":
    ctypedef enum dec_number:
        DEC_FLOAT32
        DEC_INT8

    ctypedef struct dec_linear:
        int64_t inputs
        int64_t outputs

    ctypedef enum dec_cell:
        DEC_LSTM
        DEC_GRU
        DEC_RNN
        DEC_DENSE

    ctypedef enum dec_activation:
        DEC_SIGMOID
        DEC_TANH
        DEC_RELU
        DEC_AFFINE
        DEC_HARD_SIGMOID
        DEC_LEAKY_RELU
        DEC_SCALED_TANH
        DEC_SOFTSIGN

    ctypedef struct dec_layer:
        dec_cell cell
        int64_t hidden
        const dec_linear *input
        const dec_linear *state
        const dec_linear *candidate
        const dec_linear *projection
        const float *peepholes
        float clip
        int coupled
        int linear_before_reset
        int residual
        dec_activation activation[3]
        float alpha[3]
        float beta[3]

    ctypedef struct dec_state:
        float *h
        float *c
        int64_t h_stride
        int64_t c_stride

    ctypedef struct dec_network:
        int64_t vocabulary
        const float *table
        const float *embedding
        int64_t embedding_width
        const dec_layer *layers
        int64_t layer_count

    ctypedef struct dec_feed:
        int64_t rows
        int64_t time
        const int64_t *tokens
        int64_t token_stride
        const float *vectors
        const int64_t *lengths
        const float *context
        int64_t context_stride

cdef size_t linear_size(int64_t inputs, int64_t outputs, dec_number number) noexcept nogil
cdef void c_linear_pack(dec_linear *linear, int64_t inputs, int64_t outputs, dec_number number,
                        const float *weights, int64_t output_stride, int64_t input_stride, const float *bias,
                        int largest, void *memory) noexcept nogil
cdef size_t linear_scratch_size(const dec_linear *linear, int64_t rows) noexcept nogil
cdef void c_linear_product(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, float *y,
                           int64_t y_stride, int add, void *scratch) noexcept nogil
cdef size_t network_scratch_size(const dec_network *network, int64_t rows, int64_t time) noexcept nogil
cdef dec_status c_network_read(const dec_network *network, const dec_feed *feed, const dec_state *states,
                               float *top, void *scratch, int64_t *bad) noexcept nogil
cdef size_t choose_scratch_size(const dec_linear *output, int64_t rows) noexcept nogil
cdef dec_status c_linear_greedy(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                                int64_t *tokens, float *logprobs, void *scratch, int64_t *bad) noexcept nogil
cdef dec_status c_linear_draw(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                              const dec_stream *stream, const float *temperature, int64_t *tokens,
                              float *logprobs, void *scratch, int64_t *bad) noexcept nogil
