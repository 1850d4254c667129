/* Random packed layers and networks, and states that are as random as their rows' numbers. */
#ifndef NETWORKS_H
#define NETWORKS_H

#include "check.h"
#include "native.h"

static _Thread_local uint32_t random_state = 1;

static float random_float(void) { /* uniform in [-1, 1) */
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) / 8388608.0f - 1.0f;
}

static float *random_floats(int64_t n, float scale) {
    float *x = take((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * random_float();
    return x;
}

static int64_t longest(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* A linear layer and what it was made of. */
typedef struct made {
    dec_linear linear;
    float *weights, *bias; /* [outputs, inputs], [outputs] */
    void *memory;
} made;

static made make_linear(int64_t inputs, int64_t outputs, dec_number number) {
    made m = {.weights = random_floats(inputs * outputs, 0.5f), .bias = random_floats(outputs, 0.5f)};
    m.memory = take(dec_linear_size(inputs, outputs, number));
    dec_linear_pack(&m.linear, inputs, outputs, number, m.weights, inputs, 1, m.bias, 127, m.memory);
    return m;
}

static void free_linear(made *m) {
    free(m->weights);
    free(m->bias);
    free(m->memory);
}

enum { MAX_LAYERS = 3, VOCABULARY = 11, EMBEDDING = 7 };

/* What a test network has. */
typedef struct plan {
    const char *name;
    dec_cell cell;
    int64_t hidden;
    int layers, before_reset, peepholes, coupled, projection, residual, context, table;
    float clip;
    dec_activation first;
} plan;

typedef struct net {
    plan plan;
    dec_network network;
    dec_layer layer[MAX_LAYERS];
    made input[MAX_LAYERS], state[MAX_LAYERS], candidate[MAX_LAYERS], projection[MAX_LAYERS];
    float *peepholes[MAX_LAYERS], *table, *embedding;
} net;

static void make_net(net *n, const plan *p, dec_number number) {
    memset(n, 0, sizeof *n);
    n->plan = *p;
    const int64_t width = p->projection ? p->projection : p->hidden;
    int64_t inputs = p->residual ? width : EMBEDDING;
    n->embedding = random_floats(VOCABULARY * inputs, 1.0f);
    n->network = (dec_network){.vocabulary = VOCABULARY, .layers = n->layer, .layer_count = p->layers};
    n->network.embedding = n->embedding;
    n->network.embedding_width = inputs;
    for (int i = 0; i < p->layers; i++, inputs = width) {
        dec_layer *layer = n->layer + i;
        layer->cell = p->cell;
        layer->hidden = p->hidden;
        layer->clip = p->clip;
        layer->coupled = p->coupled;
        layer->linear_before_reset = p->before_reset;
        layer->residual = p->residual;
        layer->activation[0] = p->first;
        layer->activation[1] = layer->activation[2] = DEC_TANH;
        layer->alpha[0] = 0.2f;
        layer->beta[0] = 0.5f;
        const int64_t gates = dec_layer_gates(layer), cut = p->cell == DEC_GRU ? 2 * p->hidden : gates;
        n->input[i] = make_linear(inputs, gates, i == 0 && p->table ? DEC_FLOAT32 : number);
        n->state[i] = make_linear(width, cut, number);
        layer->input = &n->input[i].linear;
        layer->state = &n->state[i].linear;
        if (p->cell == DEC_GRU) {
            n->candidate[i] = make_linear(p->hidden, p->hidden, number);
            layer->candidate = &n->candidate[i].linear;
        }
        if (p->projection) {
            n->projection[i] = make_linear(p->hidden, p->projection, number);
            layer->projection = &n->projection[i].linear;
        }
        if (p->peepholes)
            layer->peepholes = n->peepholes[i] = random_floats(3 * p->hidden, 0.5f);
    }
    if (p->table) {
        const int64_t gates = dec_layer_gates(n->layer);
        n->table = take((size_t)(VOCABULARY * gates) * sizeof *n->table);
        dec_linear_product(n->layer[0].input, n->embedding, n->network.embedding_width, VOCABULARY, n->table,
                           gates, 0, NULL);
        n->network.table = n->table;
        n->layer[0].input = NULL;
        if (!p->residual)
            n->network.embedding = NULL;
    }
}

static void free_net(net *n) {
    for (int i = 0; i < n->plan.layers; i++) {
        free_linear(&n->input[i]), free_linear(&n->state[i]);
        free_linear(&n->candidate[i]), free_linear(&n->projection[i]);
        free(n->peepholes[i]);
    }
    free(n->table), free(n->embedding);
}

/* States of `rows` rows, as random as their numbers: row r has the same in every batch. */
typedef struct memory {
    float *h[MAX_LAYERS], *c[MAX_LAYERS];
    dec_state state[MAX_LAYERS];
} memory;

static void make_memory(memory *m, const net *n, int64_t rows, int64_t first) {
    const int64_t hidden = n->plan.hidden, width = dec_network_width(&n->network);
    for (int i = 0; i < n->plan.layers; i++) {
        m->h[i] = take((size_t)(rows * width) * sizeof(float));
        m->c[i] = take((size_t)(rows * hidden) * sizeof(float));
        for (int64_t r = 0; r < rows; r++) {
            random_state = (uint32_t)(1000 * (first + r) + i);
            for (int64_t j = 0; j < width; j++)
                m->h[i][r * width + j] = random_float();
            for (int64_t j = 0; j < hidden; j++)
                m->c[i][r * hidden + j] = random_float();
        }
        m->state[i] = (dec_state){m->h[i], n->plan.cell == DEC_LSTM ? m->c[i] : NULL, width, hidden};
    }
}

static void free_memory(memory *m, const net *n) {
    for (int i = 0; i < n->plan.layers; i++)
        free(m->h[i]), free(m->c[i]);
}

static int same_row(const net *n, const memory *a, int64_t i, const memory *b, int64_t j) {
    const int64_t width = dec_network_width(&n->network), hidden = n->plan.hidden;
    int same = 1;
    for (int l = 0; l < n->plan.layers; l++) {
        same &= memcmp(a->h[l] + i * width, b->h[l] + j * width, (size_t)width * 4) == 0;
        same &= memcmp(a->c[l] + i * hidden, b->c[l] + j * hidden, (size_t)hidden * 4) == 0;
    }
    return same;
}

#endif
