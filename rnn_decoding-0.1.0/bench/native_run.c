/* Many steps in one call, for native_prototype.py: network, choice and feeding back. (decode() does this in
 * decoding/engine/search/native_steps.pyx, with the bookkeeping of its rows.) */
#include "native_internal.h"

/* Step, choose, and feed what was chosen, until a row ends. */
typedef struct dec_run {
    const dec_linear *output;
    int64_t steps;            /* at most that many, >= 1 */
    const dec_stream *stream; /* NULL: greedy. Otherwise the step of each row counts up from what it says */
    const float *temperature; /* [rows], > 0; with a stream */
    const int64_t *ends;      /* [end_count] tokens: the run stops after the step in which a row chose one */
    int64_t end_count;
    const volatile int *stop; /* not NULL: the run also stops after the step in which this is not 0 */
    int64_t *tokens;          /* [rows, steps]: what was chosen */
    float *logprobs;          /* [rows, steps] */
} dec_run;

typedef struct work {
    float *top;      /* [rows, width] */
    int64_t *tokens; /* [rows]: what goes in next, and what was chosen */
    int64_t *steps;  /* [rows]: of the stream */
    float *logprobs; /* [rows] */
    void *network, *choose;
} work;

static size_t carve(const dec_network *network, const dec_linear *output, int64_t rows, char *memory,
                    work *w) {
    const size_t sizes[] = {(size_t)(rows * dec_network_width(network)) * 4,
                            (size_t)rows * 8,
                            (size_t)rows * 8,
                            (size_t)rows * 4,
                            dec_network_scratch_size(network, rows, 1),
                            dec_choose_scratch_size(output, rows)};
    void *parts[6];
    const size_t used = dec_carve_parts(memory, sizes, 6, parts);
    if (w)
        *w = (work){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]};
    return used;
}

size_t dec_network_run_scratch_size(const dec_network *network, const dec_linear *output, int64_t rows) {
    return carve(network, output, rows, NULL, NULL);
}

static int is_end(const dec_run *run, int64_t token) {
    for (int64_t i = 0; i < run->end_count; i++)
        if (run->ends[i] == token)
            return 1;
    return 0;
}

/* feed: time 1 and no lengths; its tokens are the last ones of the rows, and are not changed. *done: how many
 * steps have their tokens. Results are those of dec_network_read and dec_linear_greedy or dec_linear_draw, bit
 * for bit. On an error the states are those after the step that failed. */
dec_status dec_network_run(const dec_network *network, const dec_feed *feed, const dec_state *states,
                           const dec_run *run, void *scratch, int64_t *done, int64_t *bad) {
    const int64_t rows = feed->rows, width = dec_network_width(network);
    work w;
    carve(network, run->output, rows, scratch, &w);
    for (int64_t r = 0; r < rows; r++) {
        w.tokens[r] = feed->tokens[r * feed->token_stride];
        w.steps[r] = !run->stream ? 0 : run->stream->steps ? run->stream->steps[r] : run->stream->step;
    }
    dec_feed next = *feed;
    next.tokens = w.tokens;
    next.token_stride = 1;
    dec_stream stream = {0};
    if (run->stream)
        stream = (dec_stream){.seed = run->stream->seed, .rows = run->stream->rows, .steps = w.steps};
    int ended = 0;
    for (*done = 0; *done < run->steps && !ended;) {
        dec_status status = dec_network_read(network, &next, states, w.top, w.network, bad);
        if (!status && run->stream)
            status = dec_linear_draw(run->output, w.top, width, rows, &stream, run->temperature, w.tokens,
                                     w.logprobs, w.choose, bad);
        else if (!status)
            status = dec_linear_greedy(run->output, w.top, width, rows, w.tokens, w.logprobs, w.choose, bad);
        if (status)
            return status;
        for (int64_t r = 0; r < rows; r++) {
            run->tokens[r * run->steps + *done] = w.tokens[r];
            run->logprobs[r * run->steps + *done] = w.logprobs[r];
            ended |= is_end(run, w.tokens[r]);
            w.steps[r]++;
        }
        ++*done;
        ended |= run->stop && *run->stop;
    }
    return DEC_OK;
}
