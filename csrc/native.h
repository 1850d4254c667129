/* The native step: packed weights, recurrent cells, whole networks for one token or a chunk of tokens, and a
 * choice of tokens that never writes the logits. What decoding.h says about memory, threads and results holds
 * here too; decoding/kernels/native/reference.py is the specification in NumPy.
 *
 * Order of sums
 *   Each output is one chain: it starts from the bias (or from what it is added to) and takes k = 0, 1, 2, ...
 *   in turn. The chain is the same for one row and for many, at every place in the batch, on every thread:
 *   a row has the same bits in every batch. Reading a chunk gives the bits of stepping through it.
 *   float32: a product and a sum are fused (one rounding), but in "portable" they are not. int8: the sums are
 *   of whole numbers, exact and equal everywhere; what they are scaled to has the fused product again.
 *   So dec_linear_product gives equal bits in all instruction sets but "portable". Activations, and with them
 *   states and logits, may differ between instruction sets by a rounding or two.
 *
 * Memory
 *   Nothing here allocates or keeps a pointer beyond a call, but for the structs that the caller fills: weights
 *   that a struct points to are only read, so that any number of threads share one network. Scratch and states
 *   belong to one call at a time. Threads split rows: give each its own rows, states and scratch.
 */
#ifndef DECODING_NATIVE_H
#define DECODING_NATIVE_H

#include "decoding.h"

/* The kernels of the native step; some instruction sets have two (with and without a dot product of bytes).
 * dec_use_isa takes the fastest that belongs to its choice; dec_use_native chooses another, and gives 0, or -1
 * when this processor or build lacks `name`. All read the same packed weights. */
const char *dec_native_name(void);
const char *dec_native_supported(int index); /* fastest first; NULL after the last one */
int dec_use_native(const char *name);

/* ---- linear: y = x W' + bias ------------------------------------------------------------------- */

typedef enum dec_number {
    DEC_FLOAT32 = 0,
    DEC_INT8 /* weights int8 with a scale for each output; each row of x int8 with a scale of its own */
} dec_number;

/* Packed weights: panels of 64 outputs, float32 [4, inputs, 16], int8 [inputs / 4, 64, 4], the last one with as
 * many 16 outputs as it needs. dec_linear_pack fills this; nobody else writes it. */
typedef struct dec_linear {
    int64_t inputs, outputs;
    dec_number number;
    const void *weights; /* the panels, 64-byte aligned */
    const float *bias;   /* [outputs], zeros where there is none */
    const float *scale;  /* int8: [outputs] */
    const int32_t
        *correction; /* int8: -128 * sum of an output's weights, for kernels that multiply x + 128 */
} dec_linear;

/* Bytes of the memory that dec_linear_pack fills. 1 <= inputs <= 65536 for int8. */
size_t dec_linear_size(int64_t inputs, int64_t outputs, dec_number number);
/* Weight (output o, input i) is weights[o * output_stride + i * input_stride], so any layout is one call.
 * bias [outputs] or NULL. largest: int8 weights keep to -largest .. largest (63 as onnxruntime needs, 127 for
 * the finest); weight = int8 * scale, scale = greatest magnitude of the output's weights / largest (1 where all
 * are 0). `memory` must outlive the linear; the weights need not. */
void dec_linear_pack(dec_linear *linear, int64_t inputs, int64_t outputs, dec_number number,
                     const float *weights, int64_t output_stride, int64_t input_stride, const float *bias,
                     int largest, void *memory);

size_t dec_linear_scratch_size(const dec_linear *linear, int64_t rows);
/* y [rows, outputs] = x [rows, inputs] W' + bias, or with `add`: y += x W' without the bias. Strides in floats.
 * int8: a row of x is rint(x * (127 / m)), m = its greatest magnitude + 1e-30; y += sum * (scale * (m / 127)).
 * A row with a NaN or an infinity gives NaN in all its outputs with int8. */
void dec_linear_product(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, float *y,
                        int64_t y_stride, int add, void *scratch);

/* ---- one token a row, logits not written ------------------------------------------------------- */

/* Tokens and log-probabilities are, bit for bit, those of dec_greedy and of dec_draw (without filters) on the
 * logits that dec_linear_product gives, and so is the status. */
size_t dec_choose_scratch_size(const dec_linear *output, int64_t rows);
dec_status dec_linear_greedy(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                             int64_t *tokens, float *logprobs, void *scratch, int64_t *bad);
dec_status dec_linear_draw(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                           const dec_stream *stream, const float *temperature, int64_t *tokens,
                           float *logprobs, void *scratch, int64_t *bad);

/* ---- layers ------------------------------------------------------------------------------------ */

typedef enum dec_cell { DEC_LSTM, DEC_GRU, DEC_RNN, DEC_DENSE } dec_cell;

/* sigmoid and tanh have a relative error of at most 2e-7 (where the result is a normal float). */
typedef enum dec_activation {
    DEC_SIGMOID,
    DEC_TANH,
    DEC_RELU,
    DEC_AFFINE,       /* alpha x + beta */
    DEC_HARD_SIGMOID, /* alpha x + beta, held between 0 and 1 */
    DEC_LEAKY_RELU,   /* x, or alpha x below 0 */
    DEC_SCALED_TANH,  /* alpha tanh(beta x) */
    DEC_SOFTSIGN      /* x / (1 + |x|) */
} dec_activation;

/* ONNX's operators, one direction, for one token. Gates lie in ONNX's order: LSTM i, o, f, c; GRU z, r, h.
 *
 *   LSTM  input [4H], state [4H]. c' = f c + i g, h' = o s(c').
 *   GRU   input [3H], state [2H] for z and r, candidate [H] for h. h' = n + z (h - n);
 *         linear_before_reset: n = t(x_n + r (h R_n + b_n)), b_n the candidate's bias;
 *         otherwise n = t(x_n + (r h) R_n), b_n added to the input's bias.
 *   RNN   input [H], state [H]. h' = f(x + h R).
 *   DENSE input [H], no state: it gives f(x) to the next layer. Its dec_state is not looked at.
 * Biases are added once: put the sum of ONNX's Wb and Rb in the input's bias (or table), and leave state's 0:
 * it is not read. Only linear_before_reset reads the candidate's bias. */
typedef struct dec_layer {
    dec_cell cell;
    int64_t hidden;               /* H */
    const dec_linear *input;      /* NULL in the first layer of a network with a table */
    const dec_linear *state;      /* from what h has: H, or the projection's outputs; DENSE: NULL */
    const dec_linear *candidate;  /* GRU; else NULL */
    const dec_linear *projection; /* LSTM: h' = (o s(c')) P' + bias; NULL: none */
    const float *peepholes;       /* LSTM [3, H] for i, o, f; NULL: none */
    float clip;                   /* 0: none; bounds what enters gates and candidate, after the peepholes */
    int coupled;                  /* LSTM: f = 1 - i; the f gate is not looked at */
    int linear_before_reset;      /* GRU */
    int residual;                 /* the next layer gets h' + this layer's input; needs equal widths */
    dec_activation activation
        [3]; /* as ONNX lists them: gates, candidate, (LSTM) what shows c; RNN and DENSE: the first */
    float alpha[3], beta[3];
} dec_layer;

/* h [rows, H or the projection's outputs], and for LSTM c [rows, H]; strides in floats from row to row. Read
 * and written in place. */
typedef struct dec_state {
    float *h, *c;
    int64_t h_stride, c_stride;
} dec_state;

/* ---- networks ---------------------------------------------------------------------------------- */

/* ids -> (table | embedding) -> layers -> output. The table is the first layer's input product of every token
 * with its bias, [vocabulary, gates]: fill it with dec_linear_product from the embeddings, so that it has the
 * bits of computing the product at every step. With neither table nor embedding the feed brings vectors. */
typedef struct dec_network {
    int64_t vocabulary;
    const float *table; /* [vocabulary, gates of layer 0], or NULL */
    const float
        *embedding; /* [vocabulary, embedding_width], or NULL; with a table only a residual reads it */
    int64_t embedding_width;
    const dec_layer *layers;
    int64_t layer_count;
} dec_network;

/* What goes in. Chunks are time-major inside; a step is a chunk with time 1. */
typedef struct dec_feed {
    int64_t rows, time;
    const int64_t *tokens; /* token (row r, time t) is tokens[r * token_stride + t] */
    int64_t token_stride;
    const float *vectors;   /* [time, rows, inputs of layer 0], where the network takes no tokens */
    const int64_t *lengths; /* [rows], DESCENDING, 0 .. time: how many tokens a row has; NULL: all `time` */
    const float *context;   /* [rows, gates of layer 0], added to the first layer's gates at every time: the
                             * product of what is concatenated to the input, computed once; NULL: none */
    int64_t context_stride;
} dec_feed;

/* Floats of a row of the table and of the context: layer 0's gates. */
int64_t dec_layer_gates(const dec_layer *layer);
/* Floats that the last layer gives for a row. */
int64_t dec_network_width(const dec_network *network);
size_t dec_network_scratch_size(const dec_network *network, int64_t rows, int64_t time);
/* Runs the layers. states [layer_count] are updated in place, each row by its own length; top [time, rows,
 * dec_network_width], contiguous, gets what the output product takes; beyond a row's length it is 0.
 * DEC_OUT_OF_RANGE: a token of row *bad lies outside the vocabulary; nothing was changed. */
dec_status dec_network_read(const dec_network *network, const dec_feed *feed, const dec_state *states,
                            float *top, void *scratch, int64_t *bad);

#endif
