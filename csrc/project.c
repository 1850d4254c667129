/* The output product and a choice in one: DEC_BLOCK logits of a few rows at a time are computed, scanned while
 * they are in the first-level cache, and forgotten. Only a draw looks at logits again, in one block of each
 * row. Rows of up to KEPT logits it keeps; of longer ones it computes that block again, which adds at most
 * DEC_BLOCK / KEPT to the product. (64 rows of 256 logits: 136 us with computing again, 57 without.) */
#include "native_internal.h"

enum { PANELS = DEC_BLOCK / DEC_PANEL, KEPT = 8192 };

typedef struct row_scan {
    dec_scan scan;
    int64_t token; /* of the greatest logit so far */
} row_scan;

typedef struct work {
    row_scan *rows;
    double *cumulative; /* [blocks] */
    float *lane_max;    /* [blocks, DEC_LANES]: nobody reads it */
    float *logits;      /* [rows, kept_stride]; kept_stride 0: none */
    int64_t kept_stride;
    void *operand;
} work;

static int64_t kept_stride(const dec_linear *output) {
    return output->outputs <= KEPT ? dec_round_up(output->outputs, DEC_LANES) : 0;
}

static size_t row_bytes(int64_t blocks) {
    return (size_t)blocks * (sizeof(double) + 2 * sizeof(float));
}

size_t dec_choose_scratch_size(const dec_linear *output, int64_t rows) {
    const int64_t blocks = dec_blocks(output->outputs);
    return 63 + (size_t)rows * (sizeof(row_scan) + row_bytes(blocks)) +
           (size_t)blocks * (sizeof(double) + DEC_LANES * sizeof(float)) +
           (size_t)(rows * kept_stride(output)) * sizeof(float) + dec_linear_scratch_size(output, rows);
}

static void carve(const dec_linear *output, int64_t rows, void *scratch, work *w) {
    const int64_t blocks = dec_blocks(output->outputs);
    w->rows = dec_align(scratch);
    w->cumulative = (double *)(w->rows + rows);
    double *sums = w->cumulative + blocks;
    float *floats = (float *)(sums + rows * blocks);
    w->lane_max = floats + 2 * rows * blocks;
    w->logits = w->lane_max + blocks * DEC_LANES;
    w->kept_stride = kept_stride(output);
    w->operand = w->logits + rows * w->kept_stride;
    for (int64_t r = 0; r < rows; r++)
        w->rows[r] = (row_scan){.scan = {.max = -INFINITY,
                                         .block_sum = sums + r * blocks,
                                         .block_max = floats + 2 * r * blocks,
                                         .block_ref = floats + (2 * r + 1) * blocks,
                                         .lane_max = w->lane_max}};
}

static int64_t block_length(const dec_linear *output, int64_t block) {
    const int64_t left = output->outputs - block * DEC_BLOCK;
    return left < DEC_BLOCK ? left : DEC_BLOCK;
}

/* Logits of a block, [rows, stride], the chain of dec_linear_product. */
static void compute_block(const dec_linear *output, const dec_operand *operand, int64_t block, int64_t row,
                          int rows, float *logits, int64_t stride) {
    const int64_t panels = dec_panels(block_length(output, block));
    for (int64_t p = 0; p < panels; p++)
        dec_panel_product(output, operand, block * PANELS + p, row, rows, logits + p * DEC_PANEL, stride);
}

/* Every row, block by block: the weights of a block are read once from far away. */
static void scan_rows(const dec_linear *output, const dec_operand *operand, const float *temperature,
                      work *w) {
    const int most = dec_native_active->max_rows;
    const float log2e = (float)DEC_LOG2E;
    const int64_t stride = temperature && w->kept_stride ? w->kept_stride : DEC_BLOCK;
    _Alignas(64) float forgotten[DEC_TILE_ROWS * DEC_BLOCK];
    for (int64_t b = 0; b < dec_blocks(output->outputs); b++) {
        const int64_t length = block_length(output, b);
        for (int64_t row = 0; row < operand->rows; row += most) {
            const int rows = operand->rows - row < most ? (int)(operand->rows - row) : most;
            float *logits =
                temperature && w->kept_stride ? w->logits + row * stride + b * DEC_BLOCK : forgotten;
            compute_block(output, operand, b, row, rows, logits, stride);
            for (int r = 0; r < rows; r++) {
                row_scan *at = w->rows + row + r;
                const float before = at->scan.max, *x = logits + r * stride;
                const float c = temperature ? dec_scale_of(temperature[row + r]) : log2e;
                dec_active->scan_block(x, length, c, c != log2e, b, &at->scan);
                if (!temperature && at->scan.max > before)
                    at->token = b * DEC_BLOCK + dec_active->find(x, length, at->scan.max);
            }
        }
    }
}

dec_status dec_linear_greedy(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                             int64_t *tokens, float *logprobs, void *scratch, int64_t *bad) {
    work w;
    dec_operand operand;
    carve(output, rows, scratch, &w);
    dec_operand_make(output, x, x_stride, rows, w.operand, &operand);
    scan_rows(output, &operand, NULL, &w);
    for (int64_t r = 0; r < rows; r++) {
        const dec_scan *scan = &w.rows[r].scan;
        const dec_status status = dec_row_status(scan, scan->sum);
        if (status) {
            *bad = r;
            return status;
        }
        tokens[r] = w.rows[r].token;
        logprobs[r] = (float)dec_logprob(scan->max, scan->max, scan->sum);
    }
    return DEC_OK;
}

/* The draw looks into a single block of each row: its logits are computed again, the same bits. */
dec_status dec_linear_draw(const dec_linear *output, const float *x, int64_t x_stride, int64_t rows,
                           const dec_stream *stream, const float *temperature, int64_t *tokens,
                           float *logprobs, void *scratch, int64_t *bad) {
    work w;
    dec_operand operand;
    _Alignas(64) float again[DEC_BLOCK];
    carve(output, rows, scratch, &w);
    dec_operand_make(output, x, x_stride, rows, w.operand, &operand);
    scan_rows(output, &operand, temperature, &w);
    for (int64_t r = 0; r < rows; r++) {
        dec_scan *scan = &w.rows[r].scan;
        const float c = dec_scale_of(temperature[r]);
        if (c == (float)DEC_LOG2E)
            scan->raw = scan->sum;
        const dec_status status = dec_row_status(scan, scan->raw);
        if (status) {
            *bad = r;
            return status;
        }
        double within;
        const double u = dec_uniform_at(stream, DEC_DRAW, r, 0);
        const int64_t b = dec_draw_block(scan, dec_blocks(output->outputs), c, u, w.cumulative, &within);
        const float *logits = w.logits + r * w.kept_stride + b * DEC_BLOCK;
        if (!w.kept_stride) {
            compute_block(output, &operand, b, r, 1, again, DEC_BLOCK);
            logits = again;
        }
        const int64_t i = dec_draw_within(logits, block_length(output, b), scan->block_ref[b], c, within);
        tokens[r] = b * DEC_BLOCK + i;
        logprobs[r] = (float)dec_logprob(logits[i], scan->max, scan->raw);
    }
    return DEC_OK;
}
