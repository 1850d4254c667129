/* Networks: the layers of a step or of a chunk. A step is a chunk of one token, so both give the same bits. */
#include "native_internal.h"

int64_t dec_layer_gates(const dec_layer *layer) {
    return layer->hidden * (layer->cell == DEC_LSTM ? 4 : layer->cell == DEC_GRU ? 3 : 1);
}

/* Floats of h. */
static int64_t layer_width(const dec_layer *layer) {
    return layer->projection ? layer->projection->outputs : layer->hidden;
}

int64_t dec_network_width(const dec_network *network) {
    return layer_width(network->layers + network->layer_count - 1);
}

/* The scratch of a chunk. */
typedef struct work {
    float *gates; /* [time, rows, gates] */
    float *even;  /* [time, rows, width]: what layers give each other, in turns */
    float *odd;
    float *aside; /* [rows, hidden]: r h, h R_n + b_n, or o s(c') before the projection */
    void *product;
} work;

static int64_t greater(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static size_t product_size(const dec_linear *linear, int64_t rows) {
    return linear ? dec_linear_scratch_size(linear, rows) : 0;
}

/* Carves `memory`, or only counts the bytes where that is NULL. */
static size_t carve(const dec_network *network, int64_t rows, int64_t time, char *memory, work *w) {
    int64_t gates = 1, width = greater(network->embedding_width, 1), hidden = 1;
    size_t product = 0;
    for (int64_t i = 0; i < network->layer_count; i++) {
        const dec_layer *layer = network->layers + i;
        const dec_linear *const linears[] = {layer->state, layer->candidate, layer->projection};
        gates = greater(gates, dec_layer_gates(layer));
        width = greater(width, layer_width(layer));
        hidden = greater(hidden, layer->hidden);
        size_t size = product_size(layer->input, rows * time);
        for (int j = 0; j < 3; j++)
            size = product_size(linears[j], rows) > size ? product_size(linears[j], rows) : size;
        product = size > product ? size : product;
    }
    const size_t sizes[] = {(size_t)(rows * time * gates) * 4, (size_t)(rows * time * width) * 4,
                            (size_t)(rows * time * width) * 4, (size_t)(rows * hidden) * 4, product};
    void *parts[5];
    const size_t used = dec_carve_parts(memory, sizes, 5, parts);
    if (w)
        *w = (work){parts[0], parts[1], parts[2], parts[3], parts[4]};
    return used;
}

size_t dec_network_scratch_size(const dec_network *network, int64_t rows, int64_t time) {
    return carve(network, rows, time, NULL, NULL);
}

/* ---- one layer, one time step ------------------------------------------------------------------- */

static void run_lstm(const dec_layer *layer, int64_t rows, float *gates, const dec_state *state, work *w) {
    const int64_t width = dec_layer_gates(layer), hidden = layer->hidden;
    for (int64_t r = 0; r < rows; r++)
        dec_native_active->lstm(layer, gates + r * width, state->c + r * state->c_stride,
                                layer->projection ? w->aside + r * hidden : state->h + r * state->h_stride);
    if (layer->projection)
        dec_linear_product(layer->projection, w->aside, hidden, rows, state->h, state->h_stride, 0,
                           w->product);
}

static void run_gru(const dec_layer *layer, int64_t rows, float *gates, const dec_state *state, work *w) {
    const int64_t width = dec_layer_gates(layer), hidden = layer->hidden;
    const int whole = layer->linear_before_reset;
    for (int64_t r = 0; r < rows; r++)
        dec_native_active->gru_open(layer, gates + r * width, state->h + r * state->h_stride,
                                    w->aside + r * hidden);
    if (whole)
        dec_linear_product(layer->candidate, state->h, state->h_stride, rows, w->aside, hidden, 0,
                           w->product);
    else
        dec_linear_product(layer->candidate, w->aside, hidden, rows, gates + 2 * hidden, width, 1,
                           w->product);
    for (int64_t r = 0; r < rows; r++)
        dec_native_active->gru_close(layer, gates + r * width, whole ? w->aside + r * hidden : NULL,
                                     state->h + r * state->h_stride);
}

/* gates [rows, gates] hold the input's part. */
static void run_cells(const dec_layer *layer, int64_t rows, float *gates, const dec_state *state, work *w) {
    const int64_t width = dec_layer_gates(layer);
    dec_linear_product(layer->state, state->h, state->h_stride, rows, gates, width, 1, w->product);
    if (layer->cell == DEC_LSTM)
        run_lstm(layer, rows, gates, state, w);
    else if (layer->cell == DEC_GRU)
        run_gru(layer, rows, gates, state, w);
    else
        for (int64_t r = 0; r < rows; r++)
            dec_native_active->rnn(layer, gates + r * width, state->h + r * state->h_stride);
}

/* ---- a chunk ------------------------------------------------------------------------------------ */

static int64_t active_rows(const dec_feed *feed, int64_t t) {
    int64_t rows = feed->rows;
    while (feed->lengths && rows > 0 && feed->lengths[rows - 1] <= t)
        rows--;
    return rows;
}

static dec_status check_tokens(const dec_network *network, const dec_feed *feed, int64_t *bad) {
    for (int64_t r = 0; r < feed->rows; r++) {
        const int64_t length = feed->lengths ? feed->lengths[r] : feed->time;
        for (int64_t t = 0; t < length; t++) {
            const int64_t token = feed->tokens[r * feed->token_stride + t];
            if (token < 0 || token >= network->vocabulary) {
                *bad = r;
                return DEC_OUT_OF_RANGE;
            }
        }
    }
    return DEC_OK;
}

/* out [time, rows, width] = the rows of `table` that the tokens name; zeros after a row's end. */
static void look_up(const dec_feed *feed, const float *table, int64_t width, float *out) {
    for (int64_t t = 0; t < feed->time; t++) {
        const int64_t active = active_rows(feed, t);
        for (int64_t r = 0; r < feed->rows; r++, out += width) {
            if (r < active)
                memcpy(out, table + feed->tokens[r * feed->token_stride + t] * width,
                       (size_t)width * sizeof *out);
            else
                memset(out, 0, (size_t)width * sizeof *out);
        }
    }
}

static void add_context(const dec_feed *feed, int64_t width, float *gates) {
    for (int64_t t = 0; t < feed->time; t++)
        for (int64_t r = 0; r < feed->rows; r++, gates += width)
            for (int64_t j = 0; j < width; j++)
                gates[j] += feed->context[r * feed->context_stride + j];
}

/* y [rows, width] = h, or h + x */
static void give_on(const dec_layer *layer, int64_t rows, const dec_state *state, const float *x, float *y) {
    const int64_t width = layer_width(layer);
    for (int64_t r = 0; r < rows; r++) {
        const float *h = state->h + r * state->h_stride;
        if (!layer->residual)
            memcpy(y + r * width, h, (size_t)width * sizeof *y);
        else
            for (int64_t j = 0; j < width; j++)
                y[r * width + j] = h[j] + x[r * width + j];
    }
}

/* A dense layer is an RNN without a state: y [rows, hidden] = f(gates), plus x where it is residual. */
static void run_dense(const dec_layer *layer, int64_t rows, float *gates, const float *x, float *y) {
    const int64_t hidden = layer->hidden;
    for (int64_t r = 0; r < rows; r++) {
        dec_native_active->rnn(layer, gates + r * hidden, y + r * hidden);
        for (int64_t j = 0; layer->residual && j < hidden; j++)
            y[r * hidden + j] += x[r * hidden + j];
    }
}

dec_status dec_network_read(const dec_network *network, const dec_feed *feed, const dec_state *states,
                            float *top, void *scratch, int64_t *bad) {
    const int64_t rows = feed->rows, all = rows * feed->time;
    const int from_ids = network->table || network->embedding;
    if (from_ids) {
        dec_status status = check_tokens(network, feed, bad);
        if (status)
            return status;
    }
    work w;
    carve(network, rows, feed->time, scratch, &w);
    const float *x = feed->vectors;
    if (network->embedding && (!network->table || network->layers[0].residual)) {
        look_up(feed, network->embedding, network->embedding_width, w.odd);
        x = w.odd;
    }
    for (int64_t i = 0; i < network->layer_count; i++) {
        const dec_layer *layer = network->layers + i;
        const int64_t gates = dec_layer_gates(layer), width = layer_width(layer);
        float *y = i + 1 == network->layer_count ? top : i % 2 ? w.odd : w.even;
        if (i == 0 && network->table)
            look_up(feed, network->table, gates, w.gates);
        else
            dec_linear_product(layer->input, x, layer->input->inputs, all, w.gates, gates, 0, w.product);
        if (i == 0 && feed->context)
            add_context(feed, gates, w.gates);
        for (int64_t t = 0; t < feed->time; t++) {
            const int64_t active = active_rows(feed, t);
            /* the next layer's product is of all rows, and does not read memory that nobody wrote */
            memset(y + (t * rows + active) * width, 0, (size_t)((rows - active) * width) * sizeof *y);
            if (layer->cell == DEC_DENSE) {
                run_dense(layer, active, w.gates + t * rows * gates,
                          layer->residual ? x + t * rows * width : NULL, y + t * rows * width);
                continue;
            }
            run_cells(layer, active, w.gates + t * rows * gates, states + i, &w);
            give_on(layer, active, states + i, layer->residual ? x + t * rows * width : NULL,
                    y + t * rows * width);
        }
        x = y;
    }
    return DEC_OK;
}
