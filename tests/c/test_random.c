/* Random calls of every function of decoding.h and native.h in every instruction set: test_random [CALLS] [SEED].
 *
 * Sizes, strides, options and contents are random, bad values among them; memory is exactly as large as a call
 * may use, so that a sanitizer sees one step beyond. Results are checked for what holds for any input. Networks
 * are shared by threads, whose rows must have the bits that they have alone. */
#include "networks.h"

#include <float.h>
#include <pthread.h>

static int64_t calls;

static int64_t below(int64_t n) {
    return (int64_t)((random_float() * 0.5 + 0.5) * (double)n) % n;
}

static int one_in(int64_t n) {
    return below(n) == 0;
}

static int64_t a_width(void) {
    return one_in(40) ? 1 + below(6000) : one_in(4) ? 200 + below(400) : 1 + below(140);
}

/* Rows with anything in them, [rows, stride], the last one only as long as its width. */
typedef struct rows {
    dec_rows in;
    float *data;
    dec_status status; /* that every kernel must find */
    int64_t bad;
} rows;

static dec_status status_of(const float *x, int64_t width) {
    int nan = 0, infinite = 0, possible = 0;
    for (int64_t i = 0; i < width; i++) {
        nan |= isnan(x[i]);
        infinite |= x[i] == INFINITY;
        possible |= x[i] > -INFINITY;
    }
    return nan ? DEC_NAN : infinite ? DEC_INFINITE : possible ? DEC_OK : DEC_FORBIDDEN;
}

static rows make_rows(int64_t count, int64_t width) {
    const int64_t stride = width + (one_in(3) ? below(20) : 0);
    const size_t size = (size_t)((count - 1) * stride + width);
    rows r = {.data = take(size * sizeof(float)), .status = DEC_OK, .bad = -1};
    r.in = (dec_rows){r.data, count, width, stride};
    const int64_t kind = below(5), bad = one_in(8) ? below(count) : -1;
    for (size_t i = 0; i < size; i++) {
        const float value = random_float();
        r.data[i] = kind == 0   ? rintf(4 * value)
                    : kind == 1 ? 1e30f * value
                    : kind == 2 ? 1e-39f * value
                    : kind == 3 ? (value > 0 ? 5 * value : -INFINITY)
                                : 8 * value;
    }
    if (bad >= 0) {
        const float values[] = {NAN, INFINITY, -INFINITY};
        const int64_t which = below(3);
        for (int64_t i = 0; i < width; i++)
            if (which == 2 || i == width / 2)
                r.data[bad * stride + i] = values[which];
    }
    for (int64_t i = 0; i < count && r.status == DEC_OK; i++) {
        r.status = status_of(r.data + i * stride, width);
        r.bad = r.status == DEC_OK ? -1 : i;
    }
    return r;
}

static void expect(const rows *r, dec_status status, const int64_t *bad, const char *name) {
    calls++;
    CHECK(status == r->status && (status == DEC_OK || *bad == r->bad),
          "%s: status %d at %lld, not %d at %lld", name, status, (long long)*bad, r->status,
          (long long)r->bad);
}

static void check_tokens(const rows *r, const int64_t *tokens, int64_t n, const char *name) {
    for (int64_t i = 0; i < r->in.rows * n && r->status == DEC_OK; i++) {
        const int64_t token = tokens[i];
        CHECK(token >= -1 && token < r->in.width, "%s: token %lld", name, (long long)token);
        CHECK(token < 0 || r->in.data[i / n * r->in.stride + token] > -INFINITY, "%s: a forbidden token",
              name);
    }
}

static dec_filter a_filter(void) {
    dec_filter f = {.top_p = 1.0, .typical_p = 1.0};
    if (one_in(3))
        f.top_k = 1 + below(100);
    if (one_in(3))
        f.top_p = 0.01 + 0.98 * (0.5 + 0.5 * random_float());
    if (one_in(4))
        f.min_p = 0.3 * (0.5 + 0.5 * random_float());
    if (one_in(4))
        f.typical_p = 0.01 + 0.98 * (0.5 + 0.5 * random_float());
    if (one_in(5))
        f.epsilon_cutoff = 0.1 * (0.5 + 0.5 * random_float());
    if (one_in(5))
        f.eta_cutoff = 0.1 * (0.5 + 0.5 * random_float());
    return f;
}

enum { MOST_ROWS = 9, MOST_THREADS = 4, MOST_K = 8 };

/* Arrays with a number for each row, or NULL. */
static dec_stream a_stream(uint64_t *seeds, uint64_t *numbers, int64_t *steps, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        seeds[i] = (uint64_t)below(1 << 20), numbers[i] = (uint64_t)below(1 << 20), steps[i] = below(1 << 20);
    return (dec_stream){.seed = 3,
                        .step = below(9),
                        .rows = one_in(2) ? numbers : NULL,
                        .steps = one_in(2) ? steps : NULL,
                        .seeds = one_in(2) ? seeds : NULL};
}

static void row_calls(void) {
    const int64_t count = 1 + below(MOST_ROWS), width = a_width();
    const int threads = 1 + (int)below(MOST_THREADS);
    rows r = make_rows(count, width);
    const size_t each = (size_t)count;
    int64_t bad = -1, *tokens = take(each * MOST_K * sizeof *tokens), *steps = take(each * sizeof *steps);
    uint64_t *seeds = take(each * sizeof *seeds), *numbers = take(each * sizeof *numbers);
    float *temperature = take(each * sizeof *temperature), *logprobs = take(each * MOST_K * sizeof *logprobs);
    double *perturbed = take(each * MOST_K * sizeof *perturbed),
           *scores = take(each * MOST_K * sizeof *scores);
    dec_filter *filters = take(each * sizeof *filters);
    float *out = take(((each - 1) * (size_t)r.in.stride + (size_t)width) * sizeof *out);
    void *scratch = take((size_t)threads * dec_scratch_size(width));
    const dec_stream stream = a_stream(seeds, numbers, steps, count);
    const int64_t k = 1 + below(width < MOST_K ? width : MOST_K);
    for (int64_t i = 0; i < count; i++)
        temperature[i] = 0.05f + 2.0f * (1.0f + random_float()), filters[i] = a_filter();
    switch (below(12)) {
    case 0:
        expect(&r, dec_softmax(&r.in, temperature[0], out, r.in.stride, &bad), &bad, "softmax");
        break;
    case 1:
        expect(&r, dec_log_softmax(&r.in, temperature[0], out, r.in.stride, scratch, &bad), &bad,
               "log_softmax");
        break;
    case 2:
        expect(&r, dec_greedy(&r.in, tokens, logprobs, scratch, &bad), &bad, "greedy");
        check_tokens(&r, tokens, 1, "greedy");
        break;
    case 3:
        expect(&r, dec_top_n(&r.in, &stream, k, tokens, logprobs, scratch, &bad), &bad, "top_n");
        check_tokens(&r, tokens, 1, "top_n");
        break;
    case 4:
        expect(&r, dec_top_k(&r.in, k, logprobs, tokens, scratch, &bad), &bad, "top_k");
        break;
    case 5:
        expect(&r, dec_top_logprobs(&r.in, k, logprobs, tokens, scratch, &bad), &bad, "top_logprobs");
        break;
    case 6: {
        for (int64_t i = 0; i < count; i++)
            tokens[i] = below(width);
        expect(&r, dec_token_logprobs(&r.in, tokens, logprobs, scratch, &bad), &bad, "token_logprobs");
        break;
    }
    case 7:
        if (dec_softmax(&r.in, 1.0f, out, r.in.stride, &bad) == DEC_OK) {
            const dec_rows weights = {out, count, width, r.in.stride};
            const dec_status status = dec_multinomial(&weights, &stream, k, one_in(2), tokens, scratch, &bad);
            CHECK(status == DEC_OK || status == DEC_TOO_FEW, "multinomial: %d", status);
            if (status == DEC_OK)
                check_tokens(&r, tokens, k, "multinomial");
            CHECK(dec_temper(&weights, temperature[0], out, r.in.stride, scratch, &bad) == DEC_OK, "temper");
            calls += 2;
        }
        calls++;
        break;
    case 8: {
        double *before = one_in(2) ? scores : NULL, *maxima = one_in(2) ? perturbed : NULL;
        double own[MOST_ROWS], greatest[MOST_ROWS];
        for (int64_t i = 0; i < count; i++)
            own[i] = random_float(), greatest[i] = one_in(3) ? INFINITY : random_float();
        expect(&r,
               dec_gumbel_top_k(&r.in, &stream, temperature, filters, k, before ? own : NULL,
                                maxima ? greatest : NULL, tokens, perturbed, scores, logprobs, scratch, &bad),
               &bad, "gumbel_top_k");
        check_tokens(&r, tokens, k, "gumbel_top_k");
        break;
    }
    case 9:
        dec_uniform(&stream, DEC_DRAW, count, k, perturbed);
        dec_normal(&stream, DEC_LATENT, count, k, scores);
        for (int64_t i = 0; i < count * k; i++)
            CHECK(perturbed[i] >= 0 && perturbed[i] < 1 && isfinite(scores[i]), "random numbers");
        calls += 2;
        break;
    default:
        expect(&r,
               dec_draw(&r.in, &stream, temperature, filters, one_in(2), threads, tokens, logprobs, scratch,
                        &bad),
               &bad, "draw");
        check_tokens(&r, tokens, 1, "draw");
    }
    free(r.data), free(tokens), free(steps), free(seeds), free(numbers), free(temperature), free(logprobs);
    free(perturbed), free(scores), free(filters), free(out), free(scratch);
}

static void beam_calls(void) {
    const int64_t groups = 1 + below(2), prompts = 1 + below(3);
    const int64_t num_beams = groups * (1 + below(3)), beams = one_in(3) ? groups : num_beams,
                  width = a_width();
    rows r = make_rows(prompts * beams, width);
    const size_t found = (size_t)(prompts * 2 * num_beams);
    float *before = take((size_t)(prompts * beams) * sizeof *before), *scores = take(found * sizeof *scores);
    int64_t *parents = take(found * sizeof *parents), *tokens = take(found * sizeof *tokens), bad = -1;
    void *scratch = take(dec_beam_scratch_size(beams, num_beams, width));
    const int64_t eos[] = {0, width - 1};
    for (int64_t i = 0; i < prompts * beams; i++) {
        before[i] = one_in(5) ? -INFINITY : random_float();
        if (before[i] == -INFINITY && r.bad == i) /* a dead beam's row is not looked at */
            before[i] = 0.0f;
    }
    const dec_beam beam = {.prompts = prompts,
                           .beams = beams,
                           .num_beams = num_beams,
                           .groups = groups,
                           .diversity_penalty = one_in(2) ? 0.5 : 0.0,
                           .eos = eos,
                           .eos_count = below(3),
                           .logits_are_logprobs = 0};
    const dec_status status = dec_beam_prune(&r.in, &beam, before, scores, parents, tokens, scratch, &bad);
    CHECK(status == r.status || (status == DEC_OK) == (r.status == DEC_OK), "beam_prune: %d, not %d", status,
          r.status);
    for (size_t i = 0; i < found && status == DEC_OK; i++)
        CHECK(tokens[i] >= -1 && tokens[i] < width && parents[i] >= -1 && parents[i] < beams, "beam_prune");
    calls++;
    free(r.data), free(before), free(scores), free(parents), free(tokens), free(scratch);
}

static void combine_calls(void) {
    enum { MOST_MEMBERS = 3 };
    const int64_t members = 1 + below(MOST_MEMBERS), count = 1 + below(MOST_ROWS), width = a_width(),
                  stride = width + below(5);
    const dec_combination how = (dec_combination)below(3);
    rows each[MOST_MEMBERS];
    dec_rows in[MOST_MEMBERS];
    double weights[MOST_MEMBERS];
    for (int64_t m = 0; m < members; m++) {
        each[m] = make_rows(count, width);
        in[m] = each[m].in;
        weights[m] = m && one_in(4) ? 0.0 : 1.1 + random_float();
    }
    float *out = take((size_t)((count - 1) * stride + width) * sizeof *out);
    void *scratch = take(dec_scratch_size(width));
    dec_combine(how, in, weights, members, out, stride, scratch);
    calls++;
    for (int64_t i = 0; i < count; i++) {
        int wrong = 0, told = 0;
        for (int64_t m = 0; m < members; m++) {
            const dec_status status = status_of(in[m].data + i * in[m].stride, width);
            wrong |= weights[m] != 0.0 && (status == DEC_NAN || status == DEC_INFINITE);
        }
        for (int64_t token = 0; token < width; token++) {
            int64_t looked_at = 0, forbidding = 0;
            for (int64_t m = 0; m < members; m++) {
                looked_at += weights[m] != 0.0;
                forbidding += weights[m] != 0.0 && in[m].data[i * in[m].stride + token] == -INFINITY;
            }
            const float score = out[i * stride + token];
            told |= !(score <= FLT_MAX);
            CHECK(wrong || score <= FLT_MAX, "combine %d: %g", how, score);
            if (!wrong && (how == DEC_MEAN_PROBS ? forbidding == looked_at : forbidding > 0))
                CHECK(score == -INFINITY, "combine %d: a forbidden token has %g", how, score);
        }
        CHECK(!wrong || told, "combine %d hides a wrong logit", how);
    }
    for (int64_t m = 0; m < members; m++)
        free(each[m].data);
    free(out), free(scratch);
}

static void history_calls(void) {
    const int64_t count = 1 + below(4), width = 1 + below(80);
    float *x = take((size_t)(count * width) * sizeof *x);
    int64_t start[4], length[4], total = 0, bad = -1;
    for (int64_t i = 0; i < count; i++)
        start[i] = total, length[i] = below(20), total += length[i];
    int64_t *ids = take((size_t)total * sizeof *ids);
    const int64_t outside = total && one_in(10) ? below(total) : -1;
    for (int64_t i = 0; i < total; i++)
        ids[i] = i == outside ? (one_in(2) ? -1 : width) : below(width);
    for (int64_t i = 0; i < count * width; i++)
        x[i] = 4 * random_float();
    int32_t *counts = calloc((size_t)width, sizeof *counts);
    if (!counts)
        abort();
    const dec_edit edit = {x, count, width, width};
    const dec_history history = {ids, start, length};
    dec_status status = DEC_OK;
    switch (below(6)) {
    case 0:
        status = dec_repetition_penalty(&edit, &history, 1.3f, counts, &bad);
        break;
    case 1:
        status = dec_presence_frequency_penalty(&edit, &history, 0.5f, 0.2f, counts, &bad);
        break;
    case 2:
        status = dec_no_repeat_ngram(&edit, &history, 1 + below(4), &bad);
        break;
    case 3:
        status = dec_suppress_tokens(&edit, ids, total, &bad);
        break;
    case 4: {
        const float bias = 0.5f;
        status = dec_logit_bias(&edit, ids, &bias, total > 0, &bad);
        break;
    }
    default: {
        const int64_t allowed = below(width);
        status = dec_allow_tokens(&edit, &allowed, 1, &bad);
    }
    }
    CHECK(status == DEC_OK || (status == DEC_OUT_OF_RANGE && outside >= 0), "a processor: %d", status);
    for (int64_t i = 0; i < width; i++)
        CHECK(counts[i] == 0, "counts are left");
    calls++;
    free(x), free(ids), free(counts);
}

static void gather_calls(void) {
    const int64_t outer = 1 + below(3), in_rows = 1 + below(9), out_rows = 1 + below(9);
    const size_t bytes = 1 + (size_t)below(70);
    char *in = take((size_t)(outer * in_rows) * bytes), *out = take((size_t)(outer * out_rows) * bytes);
    int64_t *index = take((size_t)out_rows * sizeof *index), bad = -1;
    memset(in, 7, (size_t)(outer * in_rows) * bytes);
    const int64_t outside = one_in(10) ? below(out_rows) : -1;
    for (int64_t i = 0; i < out_rows; i++)
        index[i] = i == outside ? in_rows : below(in_rows);
    const dec_status status = dec_gather_rows(in, out, index, outer, in_rows, out_rows, bytes, &bad);
    CHECK(status == (outside < 0 ? DEC_OK : DEC_OUT_OF_RANGE), "gather_rows: %d", status);
    calls++;
    free(in), free(out), free(index);
}

/* ---- networks that threads share ---------------------------------------------------------------- */

enum { STEPS = 6 };

static int64_t token_at(int64_t row, int64_t time) {
    return (5 * row + 3 * time) % VOCABULARY;
}

/* The rows of one thread: they are stepped, and at each step choose a token from the last layer's numbers. */
typedef struct share {
    const net *n;
    const dec_linear *output;
    int64_t first, rows, chosen[MOST_ROWS * STEPS], calls;
    memory states;
    int failed;
} share;

static void *run_share(void *argument) {
    share *s = argument;
    const int64_t width = dec_network_width(&s->n->network);
    float *top = take((size_t)(s->rows * width) * sizeof *top), logprobs[MOST_ROWS], temperature[MOST_ROWS];
    void *scratch = take(dec_network_scratch_size(&s->n->network, s->rows, 1));
    void *choice = take(dec_choose_scratch_size(s->output, s->rows));
    uint64_t numbers[MOST_ROWS];
    int64_t tokens[MOST_ROWS], bad = -1;
    for (int64_t r = 0; r < s->rows; r++)
        numbers[r] = (uint64_t)(s->first + r), temperature[r] = 0.9f;
    make_memory(&s->states, s->n, s->rows, s->first);
    for (int64_t t = 0; t < STEPS; t++) {
        for (int64_t r = 0; r < s->rows; r++)
            tokens[r] = token_at(s->first + r, t);
        const dec_feed feed = {.rows = s->rows, .time = 1, .tokens = tokens, .token_stride = 1};
        const dec_stream stream = {.seed = 2, .rows = numbers, .step = t};
        s->failed |= dec_network_read(&s->n->network, &feed, s->states.state, top, scratch, &bad);
        int64_t *chosen = s->chosen + t * s->rows;
        s->failed |= t % 2 ? dec_linear_greedy(s->output, top, width, s->rows, chosen, logprobs, choice, &bad)
                           : dec_linear_draw(s->output, top, width, s->rows, &stream, temperature, chosen,
                                             logprobs, choice, &bad);
        s->calls += 2;
    }
    free(top), free(scratch), free(choice);
    return NULL;
}

static plan a_plan(void) {
    plan p = {
        .name = "random", .cell = (dec_cell)below(3), .hidden = 1 + below(70), .layers = 1 + (int)below(3)};
    p.table = (int)below(2);
    p.clip = one_in(4) ? 0.5f : 0.0f;
    p.residual = one_in(3);
    p.first = p.cell == DEC_RNN ? DEC_TANH : one_in(4) ? DEC_HARD_SIGMOID : DEC_SIGMOID;
    if (p.cell == DEC_GRU)
        p.before_reset = (int)below(2);
    if (p.cell == DEC_LSTM) {
        p.peepholes = (int)below(2), p.coupled = (int)below(2);
        p.projection = one_in(3) ? 1 + (int)below(40) : 0;
    }
    return p;
}

static void network_calls(void) {
    const plan p = a_plan();
    const dec_number number = (dec_number)below(2);
    net n;
    make_net(&n, &p, number);
    made output = make_linear(dec_network_width(&n.network), 1 + below(300), number);
    const int threads = 1 + (int)below(MOST_THREADS);
    share shares[MOST_THREADS], alone;
    pthread_t handles[MOST_THREADS];
    const uint32_t state = random_state;
    int64_t first = 0;
    for (int i = 0; i < threads; i++) {
        shares[i] = (share){
            .n = &n, .output = &output.linear, .first = first, .rows = 1 + (first + i + threads) % MOST_ROWS};
        first += shares[i].rows;
        if (pthread_create(&handles[i], NULL, run_share, &shares[i]))
            abort();
    }
    for (int i = 0; i < threads; i++)
        pthread_join(handles[i], NULL);
    for (int i = 0; i < threads; i++) {
        share *s = &shares[i];
        const int64_t row = s->rows / 2;
        alone = (share){.n = &n, .output = &output.linear, .first = s->first + row, .rows = 1};
        run_share(&alone);
        CHECK(!s->failed && !alone.failed && same_row(&n, &s->states, row, &alone.states, 0),
              "%d: a row of a thread has other bits", p.cell);
        for (int64_t t = 0; t < STEPS; t++)
            CHECK(s->chosen[t * s->rows + row] == alone.chosen[t], "a row of a thread has other tokens");
        calls += s->calls + alone.calls;
        free_memory(&s->states, &n), free_memory(&alone.states, &n);
    }
    random_state = state;
    random_float();
    free_linear(&output), free_net(&n);
}

int main(int argc, char **argv) {
    const int64_t wanted = argc > 1 ? atoll(argv[1]) : 20000;
    const uint32_t seed = argc > 2 ? (uint32_t)atoll(argv[2]) : 1;
    const char *name;
    int kinds = 0;
    while (dec_native_supported(kinds))
        kinds++;
    for (int i = 0; (name = dec_native_supported(i)); i++) {
        /* the other kernels of a step are those of the same instruction set */
        const char *isa = NULL;
        for (int j = 0; (isa = dec_isa_supported(j)) && strncmp(name, isa, strlen(isa)) != 0; j++)
            ;
        CHECK(dec_use_isa(isa) == 0 && dec_use_native(name) == 0, "%s", name);
        random_state = seed * 7919u + 1u;
        const int64_t until = wanted * (i + 1) / kinds, before = calls;
        while (calls < until) {
            const int64_t kind = below(20);
            if (kind == 0)
                network_calls();
            else if (kind < 4)
                history_calls();
            else if (kind < 5)
                gather_calls();
            else if (kind < 7)
                beam_calls();
            else if (kind < 8)
                combine_calls();
            else
                row_calls();
        }
        printf("%s: %lld calls\n", name, (long long)(calls - before));
    }
    printf("%lld calls, %d checks, %d failures\n", (long long)calls, checks, failures);
    return failures != 0;
}
