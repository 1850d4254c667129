/* The native step with every table of inner loops that the processor has: products, activations, cells,
 * networks and fused choices, at sizes around every block boundary. Answers are compared with plain float64
 * loops; what is promised to have equal bits is compared as bytes. */
#include "native_internal.h"

#include "networks.h"

/* ---- products ----------------------------------------------------------------------------------- */

/* y[o] by the definition of native.h, in float64 (int8: of the whole numbers that it names). */
static double expected(const made *m, const float *x, int64_t o) {
    const int64_t inputs = m->linear.inputs;
    const float *w = m->weights + o * inputs;
    double sum = 0.0;
    if (m->linear.number == DEC_FLOAT32) {
        for (int64_t k = 0; k < inputs; k++)
            sum += (double)x[k] * w[k];
        return sum;
    }
    float largest = 0.0f, top = 0.0f;
    for (int64_t k = 0; k < inputs; k++) {
        largest = fmaxf(largest, fabsf(x[k]));
        top = fmaxf(top, fabsf(w[k]));
    }
    largest += 1e-30f;
    const float scale = top == 0.0f ? 1.0f : top / 127.0f, inverse = 127.0f / largest;
    for (int64_t k = 0; k < inputs; k++)
        sum += (double)rintf(x[k] * inverse) * rintf(w[k] / scale);
    return sum * scale * (largest / 127.0f);
}

/* A hash of all products' bits: equal in every instruction set that has fused products. */
static uint64_t products;

static void check_product(int64_t inputs, int64_t outputs, int64_t rows, dec_number number) {
    made m = make_linear(inputs, outputs, number);
    float *x = random_floats(rows * inputs, 1.0f), *one = take((size_t)outputs * sizeof *one);
    float *y = take((size_t)(rows * outputs) * sizeof *y);
    void *scratch = take(dec_linear_scratch_size(&m.linear, rows));
    dec_linear_product(&m.linear, x, inputs, rows, y, outputs, 0, scratch);
    for (int64_t i = 0; i < rows * outputs; i++) {
        uint32_t bits;
        memcpy(&bits, y + i, sizeof bits);
        products = (products ^ bits) * 1099511628211u;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < outputs; o++) {
            const double want = expected(&m, x + r * inputs, o) + m.bias[o];
            if (fabs(y[r * outputs + o] - want) > 2e-7 * (double)inputs + 1e-6)
                CHECK(0, "product %lld x %lld, number %d, row %lld, output %lld: %g, not %g",
                      (long long)inputs, (long long)outputs, number, (long long)r, (long long)o,
                      y[r * outputs + o], want);
        }
    for (int64_t r = 0; r < rows; r++) {
        dec_linear_product(&m.linear, x + r * inputs, inputs, 1, one, outputs, 0, scratch);
        CHECK(memcmp(one, y + r * outputs, (size_t)outputs * sizeof *one) == 0,
              "product %lld x %lld, number %d: row %lld of %lld has other bits alone", (long long)inputs,
              (long long)outputs, number, (long long)r, (long long)rows);
    }
    for (int64_t o = 0; o < outputs; o++)
        one[o] = m.bias[o];
    dec_linear_product(&m.linear, x, inputs, 1, one, outputs, 1, scratch);
    CHECK(memcmp(one, y, (size_t)outputs * sizeof *one) == 0, "adding to the bias is not the product");
    free(x), free(one), free(y), free(scratch);
    free_linear(&m);
}

static void check_products(void) {
    static const int64_t INPUTS[] = {1, 3, 4, 5, 16, 63, 64, 65, 129};
    static const int64_t OUTPUTS[] = {1, 15, 16, 17, 33, 48, 63, 64, 65, 130};
    static const int64_t ROWS[] = {1, 2, 3, 4, 5, 6, 7, 13};
    static uint64_t first;
    random_state = 1;
    products = 14695981039346656037u;
    for (size_t i = 0; i < sizeof INPUTS / sizeof *INPUTS; i++)
        for (size_t o = 0; o < sizeof OUTPUTS / sizeof *OUTPUTS; o++)
            for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
                for (int number = 0; number < 2; number++)
                    check_product(INPUTS[i], OUTPUTS[o], ROWS[r], (dec_number)number);
    /* weights that are fetched ahead for one row and not for seven, with more and with fewer inputs than ahead */
    check_product(1030, 1025, 7, DEC_FLOAT32);
    check_product(100, 10500, 7, DEC_FLOAT32);
    first = first ? first : products;
    CHECK(products == first || !strcmp(dec_native_name(), "portable"), "products have other bits than %s's",
          dec_native_supported(0));
}

/* The greatest magnitudes that bytes have, of every sign: no sum may saturate. */
static void check_extremes(void) {
    enum { INPUTS = 1024, OUTPUTS = 16 };
    float *weights = take(INPUTS * OUTPUTS * sizeof *weights), x[INPUTS], y[OUTPUTS];
    for (int kind = 0; kind < 4; kind++) {
        for (int i = 0; i < INPUTS * OUTPUTS; i++)
            weights[i] = kind & 1 ? -127.0f : 127.0f;
        for (int i = 0; i < INPUTS; i++)
            x[i] = kind & 2 ? -127.0f : 127.0f;
        void *memory = take(dec_linear_size(INPUTS, OUTPUTS, DEC_INT8));
        dec_linear linear;
        dec_linear_pack(&linear, INPUTS, OUTPUTS, DEC_INT8, weights, 1, OUTPUTS, NULL, 127, memory);
        void *scratch = take(dec_linear_scratch_size(&linear, 1));
        dec_linear_product(&linear, x, INPUTS, 1, y, OUTPUTS, 0, scratch);
        const float want = 1024.0f * 127.0f * 127.0f * (kind == 0 || kind == 3 ? 1.0f : -1.0f);
        for (int o = 0; o < OUTPUTS; o++)
            CHECK(y[o] == want, "extreme bytes: %g, not %g", y[o], want);
        const float bad[] = {NAN, INFINITY, -INFINITY};
        for (int i = 0; i < 3; i++) {
            x[i] = bad[i];
            dec_linear_product(&linear, x, INPUTS, 1, y, OUTPUTS, 0, scratch);
            CHECK(isnan(y[0]) && isnan(y[15]), "a row with %g gives %g", bad[i], y[0]);
            x[i] = 1.0f;
        }
        for (int i = 0; i < INPUTS; i++)
            x[i] = 0.0f;
        dec_linear_product(&linear, x, INPUTS, 1, y, OUTPUTS, 0, scratch);
        CHECK(y[0] == 0.0f, "a row of zeros gives %g", y[0]);
        free(memory), free(scratch);
    }
    free(weights);
}

/* ---- activations -------------------------------------------------------------------------------- */

/* Floats of every exponent and sign; the stride is prime, so that all kinds of low bits occur. */
static void check_activations(void) {
    enum { N = 4096 };
    float x[N], y[N];
    double worst[2] = {0};
    int n = 0;
    for (uint64_t bits = 0; bits < 0x100000000ull; bits += 4099) {
        const uint32_t now = (uint32_t)bits;
        memcpy(x + n, &now, sizeof now);
        if (++n < N && bits + 4099 < 0x100000000ull)
            continue;
        for (int f = 0; f < 2; f++) {
            dec_native_active->activate(f ? DEC_TANH : DEC_SIGMOID, 0, 0, x, n, y);
            for (int i = 0; i < n; i++) {
                const double want = f ? tanh(x[i]) : 1.0 / (1.0 + exp(-(double)x[i]));
                if (isnan(x[i])) {
                    if (!isnan(y[i]))
                        CHECK(0, "activation %d of NaN is %g", f, y[i]);
                } else if (fabs(want) >= FLT_MIN) {
                    worst[f] = fmax(worst[f], fabs(y[i] - want) / fabs(want));
                } else if (!(fabs(y[i] - want) <= FLT_MIN)) {
                    CHECK(0, "activation %d of %g is %g", f, x[i], y[i]);
                }
            }
        }
        n = 0;
    }
    printf("%s: relative error of sigmoid %.3g, of tanh %.3g\n", dec_native_name(), worst[0], worst[1]);
    CHECK(worst[0] <= 2e-7 && worst[1] <= 2e-7, "sigmoid %g, tanh %g", worst[0], worst[1]);
}

/* ---- networks ----------------------------------------------------------------------------------- */

static double bounded(double x, double bound) {
    return bound > 0 ? fmin(fmax(x, -bound), bound) : x;
}

static double opened(const plan *p, double x) {
    x = bounded(x, p->clip);
    switch (p->first) {
    case DEC_TANH:
        return tanh(x);
    case DEC_RELU:
        return x > 0 ? x : 0;
    case DEC_HARD_SIGMOID:
        return fmin(fmax((double)0.2f * x + 0.5, 0), 1);
    default:
        return 1 / (1 + exp(-x));
    }
}

/* out[o] = w x (+ bias) */
static void multiply(const made *m, const double *x, int with_bias, double *out) {
    for (int64_t o = 0; o < m->linear.outputs; o++) {
        out[o] = with_bias ? m->bias[o] : 0;
        for (int64_t k = 0; k < m->linear.inputs; k++)
            out[o] += x[k] * m->weights[o * m->linear.inputs + k];
    }
}

/* One layer for one row, in float64; x [inputs] becomes what the next layer gets. */
static void naive_layer(const net *n, int i, double *x, const float *context, double *h, double *c) {
    const plan *p = &n->plan;
    const int64_t H = p->hidden, gates = dec_layer_gates(n->layer + i),
                  width = dec_network_width(&n->network);
    double g[4 * 80], s[4 * 80], own[80], out[80], reset[80];
    multiply(&n->input[i], x, 1, g);
    for (int64_t j = 0; i == 0 && context && j < gates; j++)
        g[j] += context[j];
    multiply(&n->state[i], h, 0, s);
    const float *peep = n->peepholes[i];
    for (int64_t j = 0; j < H; j++) {
        if (p->cell == DEC_LSTM) {
            double in = g[j] + s[j], o = g[H + j] + s[H + j], f = g[2 * H + j] + s[2 * H + j];
            in = opened(p, in + (peep ? peep[j] * c[j] : 0));
            f = p->coupled ? 1 - in : opened(p, f + (peep ? peep[2 * H + j] * c[j] : 0));
            c[j] = f * c[j] + in * tanh(bounded(g[3 * H + j] + s[3 * H + j], p->clip));
            out[j] = opened(p, o + (peep ? peep[H + j] * c[j] : 0)) * tanh(c[j]);
        } else if (p->cell == DEC_RNN) {
            out[j] = opened(p, g[j] + s[j]);
        } else {
            reset[j] = opened(p, g[H + j] + s[H + j]);
            out[j] = reset[j] * h[j];
        }
    }
    if (p->cell == DEC_GRU) {
        multiply(&n->candidate[i], p->before_reset ? h : out, p->before_reset, own);
        for (int64_t j = 0; j < H; j++) {
            const double z = opened(p, g[j] + s[j]);
            const double m = tanh(bounded(g[2 * H + j] + (p->before_reset ? reset[j] : 1) * own[j], p->clip));
            out[j] = m + z * (h[j] - m);
        }
    }
    if (p->projection)
        multiply(&n->projection[i], out, 1, h);
    else
        memcpy(h, out, (size_t)H * sizeof *h);
    for (int64_t j = 0; j < width; j++)
        x[j] = h[j] + (p->residual ? x[j] : 0);
}

static int64_t token_of(int64_t row, int64_t time) {
    return (7 * row + 3 * time * time + row * time) % VOCABULARY;
}

/* One step of one row against float64. */
static void check_values(const net *n, const float *context, double tolerance) {
    memory m;
    make_memory(&m, n, 1, 5);
    const int64_t width = dec_network_width(&n->network), token = token_of(5, 0);
    double x[80], h[MAX_LAYERS][80], c[MAX_LAYERS][80];
    for (int64_t j = 0; j < n->network.embedding_width; j++)
        x[j] = n->embedding[token * n->network.embedding_width + j];
    for (int i = 0; i < n->plan.layers; i++) {
        for (int64_t j = 0; j < width; j++)
            h[i][j] = m.h[i][j];
        for (int64_t j = 0; j < n->plan.hidden; j++)
            c[i][j] = m.c[i][j];
        naive_layer(n, i, x, context, h[i], c[i]);
    }
    const dec_feed feed = {.rows = 1, .time = 1, .tokens = &token, .token_stride = 1, .context = context};
    float *top = take((size_t)width * sizeof *top);
    void *scratch = take(dec_network_scratch_size(&n->network, 1, 1));
    int64_t bad = -1;
    CHECK(dec_network_read(&n->network, &feed, m.state, top, scratch, &bad) == DEC_OK, "read");
    for (int64_t j = 0; j < width; j++)
        CHECK(fabs(top[j] - x[j]) <= tolerance * (1 + fabs(x[j])),
              "%s, hidden %lld: top %lld is %.9g, not %.9g", n->plan.name, (long long)n->plan.hidden,
              (long long)j, top[j], x[j]);
    for (int i = 0; i < n->plan.layers; i++)
        for (int64_t j = 0; j < n->plan.hidden && n->plan.cell == DEC_LSTM; j++)
            CHECK(fabs(m.c[i][j] - c[i][j]) <= tolerance * (1 + fabs(c[i][j])), "%s: c %g, not %g",
                  n->plan.name, m.c[i][j], c[i][j]);
    free(top), free(scratch);
    free_memory(&m, n);
}

/* Reads `time` tokens of rows first .. first + rows - 1, chunk by chunk; the memory and the top of all. */
static float *run(const net *n, memory *m, int64_t first, int64_t rows, int64_t time, int64_t chunk,
                  const float *context) {
    const int64_t width = dec_network_width(&n->network), gates = dec_layer_gates(n->layer);
    int64_t *tokens = take((size_t)(rows * time) * sizeof *tokens), bad = -1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < time; t++)
            tokens[r * time + t] = token_of(first + r, t);
    make_memory(m, n, rows, first);
    float *top = take((size_t)(rows * time * width) * sizeof *top);
    void *scratch = take(dec_network_scratch_size(&n->network, rows, chunk));
    for (int64_t t = 0; t < time; t += chunk) {
        const dec_feed feed = {.rows = rows,
                               .time = time - t < chunk ? time - t : chunk,
                               .tokens = tokens + t,
                               .token_stride = time,
                               .context = context ? context + first * gates : NULL,
                               .context_stride = gates};
        CHECK(dec_network_read(&n->network, &feed, m->state, top + t * rows * width, scratch, &bad) == DEC_OK,
              "read");
    }
    free(tokens), free(scratch);
    return top;
}

enum { ROWS = 130, TIME = 3 };

/* Every row has the same bits alone, in every batch up to 130, and read as a chunk. */
static void check_bits(const net *n, const float *context, int64_t batch_step) {
    memory whole, part;
    float *top = run(n, &whole, 0, ROWS, TIME, 1, context), *other;
    for (int64_t rows = 1; rows <= ROWS; rows += batch_step) {
        const int64_t first = rows * 37 % (ROWS - rows + 1);
        other = run(n, &part, first, rows, TIME, rows % 2 ? 1 : TIME, context);
        for (int64_t r = 0; r < rows; r++)
            CHECK(same_row(n, &whole, first + r, &part, r), "%s: row %lld of %lld has other bits",
                  n->plan.name, (long long)r, (long long)rows);
        free(other);
        free_memory(&part, n);
    }
    free(top);
    free_memory(&whole, n);
}

/* Rows that end early keep the states of their ends; a bad token changes nothing. */
static void check_lengths(const net *n) {
    enum { SEVEN = 7 };
    const int64_t lengths[SEVEN] = {3, 3, 2, 1, 1, 0, 0}, width = dec_network_width(&n->network);
    int64_t tokens[SEVEN * TIME], bad = -1;
    for (int64_t r = 0; r < SEVEN; r++)
        for (int64_t t = 0; t < TIME; t++)
            tokens[r * TIME + t] = t < lengths[r] ? token_of(r, t) : -1;
    memory all, one;
    make_memory(&all, n, SEVEN, 0);
    float *top = take((size_t)(SEVEN * TIME * width) * sizeof *top);
    void *scratch = take(dec_network_scratch_size(&n->network, SEVEN, TIME));
    dec_feed feed = {.rows = SEVEN, .time = TIME, .tokens = tokens, .token_stride = TIME, .lengths = lengths};
    CHECK(dec_network_read(&n->network, &feed, all.state, top, scratch, &bad) == DEC_OK, "read");
    for (int64_t r = 0; r < SEVEN; r++) {
        if (lengths[r]) {
            float *alone = run(n, &one, r, 1, lengths[r], lengths[r], NULL);
            for (int64_t t = 0; t < lengths[r]; t++)
                CHECK(memcmp(alone + t * width, top + (t * SEVEN + r) * width, (size_t)width * 4) == 0,
                      "%s: the top of row %lld at %lld", n->plan.name, (long long)r, (long long)t);
            free(alone);
        } else {
            make_memory(&one, n, 1, r);
        }
        for (int64_t t = lengths[r]; t < TIME; t++)
            for (int64_t j = 0; j < width; j++)
                CHECK(top[(t * SEVEN + r) * width + j] == 0.0f, "%s: the top after a row's end",
                      n->plan.name);
        CHECK(same_row(n, &all, r, &one, 0), "%s: row %lld by its length", n->plan.name, (long long)r);
        free_memory(&one, n);
    }
    tokens[TIME] = VOCABULARY;
    CHECK(dec_network_read(&n->network, &feed, all.state, top, scratch, &bad) == DEC_OUT_OF_RANGE && bad == 1,
          "a token outside");
    free(top), free(scratch);
    free_memory(&all, n);
}

/* Vectors in place of ids: the same as their embedding. */
static void check_vectors(net *n) {
    const int64_t tokens[2 * TIME] = {1, 2, 3, 4, 5, 6}, width = n->network.embedding_width;
    const size_t bytes = (size_t)(2 * TIME * dec_network_width(&n->network)) * sizeof(float);
    memory from_ids, from_vectors;
    make_memory(&from_ids, n, 2, 0);
    make_memory(&from_vectors, n, 2, 0);
    float *vectors = take((size_t)(2 * TIME * width) * sizeof *vectors), *top = take(bytes),
          *other = take(bytes);
    for (int t = 0; t < TIME; t++)
        for (int r = 0; r < 2; r++)
            memcpy(vectors + (t * 2 + r) * width, n->embedding + tokens[r * TIME + t] * width,
                   (size_t)width * sizeof *vectors);
    void *scratch = take(dec_network_scratch_size(&n->network, 2, TIME));
    dec_feed feed = {.rows = 2, .time = TIME, .tokens = tokens, .token_stride = TIME};
    int64_t bad = -1;
    CHECK(dec_network_read(&n->network, &feed, from_ids.state, top, scratch, &bad) == DEC_OK, "read");
    feed = (dec_feed){.rows = 2, .time = TIME, .vectors = vectors};
    n->network.embedding = NULL;
    CHECK(dec_network_read(&n->network, &feed, from_vectors.state, other, scratch, &bad) == DEC_OK, "read");
    n->network.embedding = n->embedding;
    CHECK(memcmp(top, other, bytes) == 0 && same_row(n, &from_ids, 1, &from_vectors, 1),
          "%s: vectors are not their ids", n->plan.name);
    free(vectors), free(top), free(other), free(scratch);
    free_memory(&from_ids, n), free_memory(&from_vectors, n);
}

static void check_networks(void) {
    const plan plans[] = {
        {"lstm", DEC_LSTM, 17, .layers = 2, .table = 1},
        {"lstm, embedding and context", DEC_LSTM, 16, .layers = 1, .context = 1},
        {"lstm, peepholes and clip", DEC_LSTM, 33, .layers = 2, .peepholes = 1, .clip = 0.4f},
        {"lstm, coupled, projection", DEC_LSTM, 40, .layers = 3, .coupled = 1, .projection = 9},
        {"lstm, residual", DEC_LSTM, 15, .layers = 3, .residual = 1, .table = 1, .context = 1},
        {"lstm, hard sigmoid", DEC_LSTM, 5, .layers = 1, .first = DEC_HARD_SIGMOID},
        {"gru", DEC_GRU, 31, .layers = 2},
        {"gru, reset first", DEC_GRU, 17, .layers = 2, .before_reset = 1, .table = 1, .residual = 1},
        {"gru, clip", DEC_GRU, 1, .layers = 1, .before_reset = 1, .clip = 0.3f, .context = 1},
        {"rnn", DEC_RNN, 65, .layers = 2, .first = DEC_TANH, .table = 1},
        {"rnn, relu", DEC_RNN, 16, .layers = 3, .first = DEC_RELU, .residual = 1, .clip = 2.0f},
    };
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        for (int number = 0; number < 2; number++) {
            net n;
            random_state = (uint32_t)i + 1;
            make_net(&n, &plans[i], (dec_number)number);
            float *context = plans[i].context ? random_floats(ROWS * dec_layer_gates(n.layer), 0.5f) : NULL;
            check_values(&n, context, number ? 0.1 : 3e-6);
            check_bits(&n, context, i == 0 ? 1 : 17);
            check_lengths(&n);
            if (!plans[i].table)
                check_vectors(&n);
            free(context);
            free_net(&n);
        }
}

/* ---- choices ------------------------------------------------------------------------------------ */

static void check_choice(int64_t width, int64_t rows, dec_number number) {
    enum { INPUTS = 9 };
    made m = make_linear(INPUTS, width, number);
    float *x = random_floats(rows * INPUTS, 6.0f), *temperature = random_floats(rows, 0.4f);
    float *logits = take((size_t)(rows * width) * sizeof *logits);
    const size_t bytes = (size_t)rows * sizeof(float);
    float *logprobs = take(bytes), *other_logprobs = take(bytes);
    int64_t *tokens = take(2 * bytes), *other = take(2 * bytes), bad = -1, other_bad = -1;
    void *scratch = take(dec_choose_scratch_size(&m.linear, rows)), *plain = take(dec_scratch_size(width));
    void *product = take(dec_linear_scratch_size(&m.linear, rows));
    const dec_rows in = {logits, rows, width, width};
    const dec_filter none = {.top_p = 1.0, .typical_p = 1.0};
    for (int64_t r = 0; r < rows; r++)
        temperature[r] = r % 3 ? 1.0f + temperature[r] : 1.0f;
    /* from the third round on, a row makes NaN, +inf or nothing but -inf */
    const float spoil[] = {0.0f, 0.0f, NAN, INFINITY, -INFINITY};
    for (int round = 0; round < 5; round++) {
        if (round > 1) {
            for (int64_t o = round == 4 ? 0 : width - 1; o < width; o++)
                ((float *)m.linear.bias)[o] = spoil[round];
        } else if (round == 1) { /* ties */
            for (int64_t i = 0; i < rows * INPUTS; i++)
                x[i] = 0.0f;
            for (int64_t o = 0; o < width; o++)
                ((float *)m.linear.bias)[o] = (float)(o * 7 % 3);
        }
        dec_linear_product(&m.linear, x, INPUTS, rows, logits, width, 0, product);
        dec_status status = dec_linear_greedy(&m.linear, x, INPUTS, rows, tokens, logprobs, scratch, &bad);
        dec_status want = dec_greedy(&in, other, other_logprobs, plain, &other_bad);
        CHECK(status == want && (!want || bad == other_bad), "greedy: status %d, not %d", status, want);
        if (!want)
            CHECK(!memcmp(tokens, other, 2 * bytes) && !memcmp(logprobs, other_logprobs, bytes),
                  "greedy, width %lld, rows %lld: token %lld, not %lld", (long long)width, (long long)rows,
                  (long long)tokens[0], (long long)other[0]);
        for (int64_t step = 0; step < 4; step++) {
            const dec_stream stream = {.seed = 3, .step = step};
            status = dec_linear_draw(&m.linear, x, INPUTS, rows, &stream, temperature, tokens, logprobs,
                                     scratch, &bad);
            want = dec_draw(&in, &stream, temperature, &none, 0, 1, other, other_logprobs, plain, &other_bad);
            CHECK(status == want && (!want || bad == other_bad), "draw: status %d, not %d", status, want);
            if (!want)
                CHECK(!memcmp(tokens, other, 2 * bytes) && !memcmp(logprobs, other_logprobs, bytes),
                      "draw, width %lld, rows %lld: token %lld, not %lld", (long long)width, (long long)rows,
                      (long long)tokens[0], (long long)other[0]);
        }
    }
    free(x), free(temperature), free(logits), free(logprobs), free(other_logprobs), free(tokens), free(other);
    free(scratch), free(plain), free(product);
    free_linear(&m);
}

static void check_choices(void) {
    static const int64_t WIDTHS[] = {1,   15,  16,  17,  63,   64,   65,   255, 256,
                                     257, 320, 511, 513, 1000, 5000, 8192, 8193};
    static const int64_t ROW_COUNTS[] = {1, 5, 6, 7, 13};
    for (size_t w = 0; w < sizeof WIDTHS / sizeof *WIDTHS; w++)
        for (size_t r = 0; r < sizeof ROW_COUNTS / sizeof *ROW_COUNTS; r++)
            for (int number = 0; number < 2; number++)
                check_choice(WIDTHS[w], longest(ROW_COUNTS[r], 1), (dec_number)number);
}

/* The compiler's own answers, where it knows the names. */
static void check_cpu(void) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    CHECK(dec_cpu_has(DEC_AVX2) == avx2, "avx2 is %d", avx2);
    CHECK(dec_cpu_has(DEC_AVX512) == avx512, "avx512 is %d", avx512);
    CHECK(dec_cpu_has(DEC_AVX512VNNI) == (avx512 && __builtin_cpu_supports("avx512vnni")), "avx512vnni");
#endif
}

int main(void) {
    const char *name;
    check_cpu();
    for (int i = 0; (name = dec_native_supported(i)); i++) {
        /* the other kernels of a step are those of the same instruction set */
        const char *isa = NULL;
        for (int j = 0; (isa = dec_isa_supported(j)) && strncmp(name, isa, strlen(isa)) != 0; j++)
            ;
        CHECK(dec_use_isa(isa) == 0, "dec_use_isa");
        CHECK(dec_use_native(name) == 0 && strcmp(dec_native_name(), name) == 0, "dec_use_native");
        check_products();
        check_extremes();
        check_activations();
        check_networks();
        check_choices();
    }
    CHECK(dec_use_native("no such thing") == -1, "unknown kernels");
    dec_use_isa(NULL);
    CHECK(strcmp(dec_native_name(), dec_native_supported(0)) == 0, "the fastest is the default");
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
