/* Linear layers: weights packed in panels, and the product of many rows with them. */
#include "native_internal.h"

enum {
    /* Inputs of a panel that stay near while all rows pass: 128 KiB of floats, which the second-level cache
     * has. The loops keep up with that cache: blocks for the first level (64 inputs) lost 3 to 8 %. */
    K_BLOCK = 512,
    /* Floats of weights that do not stay in the caches from step to step. Fetched ahead, those of 2x650 over
     * 10,000 words come in 1.6 instead of 2.0 ms where other work fills the memory; the weights of 2x128, which
     * stay, would come 20 % slower. Bytes come slower too (3x512: 77 instead of 65 us). */
    FAR = 1 << 20,
};

/* ---- packing ------------------------------------------------------------------------------------ */

/* A panel of floats lies vector after vector, a panel of bytes input after input. Floats beyond the caches are
 * read 15 % faster so, and at five rows AVX2, which takes a vector at a time, is twice as fast; bytes, whose
 * vectors are short, are read 15 % faster the other way. */

static int64_t padded_inputs(int64_t inputs, dec_number number) {
    return number == DEC_INT8 ? dec_round_up(inputs, 4) : inputs;
}

static int64_t padded_outputs(int64_t outputs) {
    return dec_round_up(outputs, DEC_LANES);
}

size_t dec_linear_size(int64_t inputs, int64_t outputs, dec_number number) {
    const size_t wide = (size_t)padded_outputs(outputs);
    const size_t cells = wide * (size_t)padded_inputs(inputs, number);
    return 63 + (number == DEC_INT8 ? (cells + 63) / 64 * 64 + 3 * 4 * wide : 4 * cells + 4 * wide);
}

/* Outputs of a panel, in whole vectors. */
static int64_t panel_width(int64_t outputs, int64_t panel) {
    const int64_t left = padded_outputs(outputs) - panel * DEC_PANEL;
    return left < DEC_PANEL ? left : DEC_PANEL;
}

/* One vector of outputs, [inputs, 16]; fewer than 16 outputs are followed by zeros. */
static void pack_vector(const float *weights, int64_t outputs, int64_t inputs, int64_t output_stride,
                        int64_t input_stride, float *packed) {
    const int64_t count = outputs < DEC_LANES ? outputs : DEC_LANES;
    if (count < DEC_LANES)
        memset(packed, 0, (size_t)(inputs * DEC_LANES) * sizeof *packed);
    if (output_stride == 1) {
        for (int64_t k = 0; k < inputs; k++)
            memcpy(packed + k * DEC_LANES, weights + k * input_stride, (size_t)count * sizeof *packed);
        return;
    }
    /* 16 inputs at a time: what is read and what is written both stay in the first-level cache */
    for (int64_t k = 0; k < inputs; k += DEC_LANES) {
        const int64_t end = k + DEC_LANES < inputs ? k + DEC_LANES : inputs;
        for (int64_t j = 0; j < count; j++)
            for (int64_t i = k; i < end; i++)
                packed[i * DEC_LANES + j] = weights[j * output_stride + i * input_stride];
    }
}

static void pack_float(const dec_linear *linear, const float *weights, int64_t output_stride,
                       int64_t input_stride) {
    const int64_t inputs = linear->inputs, outputs = linear->outputs;
    for (int64_t first = 0; first < outputs; first += DEC_LANES)
        pack_vector(weights + first * output_stride, outputs - first, inputs, output_stride, input_stride,
                    (float *)linear->weights + first * inputs);
}

/* The greatest magnitude divided by largest. Bits without the sign order magnitudes, NaN above all. */
static float scale_of(const float *weights, int64_t inputs, int64_t input_stride, int largest) {
    int32_t top = 0;
    for (int64_t k = 0; k < inputs; k++) {
        int32_t bits;
        memcpy(&bits, weights + k * input_stride, sizeof bits);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float greatest;
    memcpy(&greatest, &top, sizeof greatest);
    const float scale = greatest / (float)largest;
    return scale == 0.0f ? 1.0f : scale; /* a NaN stays: it shows in every product */
}

/* n <= 64 weights to whole numbers. Adding and subtracting 1.5 * 2 ** 23 rounds, and loops of it become vector
 * code, which calls of rintf do not. */
static void round_weights(const float *weights, int64_t n, int64_t input_stride, float scale, float largest,
                          int32_t *numbers) {
    float x[64];
    for (int64_t i = 0; i < n; i++)
        x[i] = weights[i * input_stride];
    for (int64_t i = 0; i < n; i++) {
        float number = (x[i] / scale + 12582912.0f) - 12582912.0f;
        number = number >= -largest ? number : -largest; /* NaN, too */
        numbers[i] = (int32_t)(number <= largest ? number : largest);
    }
}

static void pack_int8(const dec_linear *linear, const float *weights, int64_t output_stride,
                      int64_t input_stride, int largest) {
    const int64_t inputs = linear->inputs, outputs = linear->outputs, padded = dec_round_up(inputs, 4);
    for (int64_t p = 0; p < dec_panels(outputs); p++) {
        const int64_t width = panel_width(outputs, p), first = p * DEC_PANEL;
        int8_t *panel = (int8_t *)linear->weights + first * padded;
        memset(panel, 0, (size_t)(width * padded));
        for (int64_t j = 0; j < width && first + j < outputs; j++) {
            const float *from = weights + (first + j) * output_stride;
            const float scale = scale_of(from, inputs, input_stride, largest);
            int32_t sum = 0, numbers[64];
            for (int64_t start = 0; start < inputs; start += 64) {
                const int64_t n = inputs - start < 64 ? inputs - start : 64;
                round_weights(from + start * input_stride, n, input_stride, scale, (float)largest, numbers);
                for (int64_t i = 0; i < n; i++) {
                    const int64_t k = start + i;
                    panel[(k / 4 * width + j) * 4 + k % 4] = (int8_t)numbers[i];
                    sum += numbers[i];
                }
            }
            ((float *)linear->scale)[first + j] = scale;
            ((int32_t *)linear->correction)[first + j] = -128 * sum;
        }
    }
}

void dec_linear_pack(dec_linear *linear, int64_t inputs, int64_t outputs, dec_number number,
                     const float *weights, int64_t output_stride, int64_t input_stride, const float *bias,
                     int largest, void *memory) {
    const int64_t wide = padded_outputs(outputs);
    char *panels = dec_align(memory);
    size_t bytes = (size_t)(wide * padded_inputs(inputs, number)) * (number == DEC_INT8 ? 1 : 4);
    float *after = (float *)(panels + (bytes + 63) / 64 * 64);
    *linear = (dec_linear){.inputs = inputs, .outputs = outputs, .number = number, .weights = panels};
    linear->bias = after;
    memset(after, 0, (size_t)wide * (number == DEC_INT8 ? 3 : 1) * 4);
    if (bias)
        memcpy(after, bias, (size_t)outputs * sizeof *bias);
    if (number == DEC_INT8) {
        linear->scale = after + wide;
        linear->correction = (const int32_t *)(after + 2 * wide);
        pack_int8(linear, weights, output_stride, input_stride, largest);
    } else {
        pack_float(linear, weights, output_stride, input_stride);
    }
}

/* ---- products ----------------------------------------------------------------------------------- */

static int64_t byte_stride(int64_t inputs) {
    return dec_round_up(inputs, DEC_LANES);
}

size_t dec_linear_scratch_size(const dec_linear *linear, int64_t rows) {
    if (linear->number != DEC_INT8)
        return 0;
    return 63 + (size_t)dec_round_up(rows * byte_stride(linear->inputs), 64) + (size_t)rows * sizeof(float);
}

void dec_operand_make(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, void *scratch,
                      dec_operand *operand) {
    *operand = (dec_operand){.x = x, .x_stride = x_stride, .rows = rows};
    if (linear->number != DEC_INT8)
        return;
    operand->bytes = dec_align(scratch);
    operand->byte_stride = byte_stride(linear->inputs);
    operand->scale = (float *)(operand->bytes + dec_round_up(rows * operand->byte_stride, 64));
    for (int64_t r = 0; r < rows; r++)
        operand->scale[r] = dec_native_active->quantise(x + r * x_stride, linear->inputs,
                                                        operand->bytes + r * operand->byte_stride);
}

/* Inputs [begin, end) of a panel; in int8 always all, because the sums are integers until the end. */
static void add_panel(const dec_linear *linear, const dec_operand *operand, int64_t panel, int64_t begin,
                      int64_t end, int64_t row, const dec_tile *tile) {
    const dec_native *native = dec_native_active;
    const int64_t first = panel * DEC_PANEL;
    if (linear->number == DEC_INT8) {
        const int64_t padded = dec_round_up(linear->inputs, 4);
        native->product_int8((const int8_t *)linear->weights + first * padded, padded / 4,
                             linear->correction + first, linear->scale + first,
                             operand->bytes + row * operand->byte_stride, operand->byte_stride,
                             operand->scale + row, tile);
    } else {
        native->product((const float *)linear->weights + first * linear->inputs + begin * DEC_LANES,
                        linear->inputs * DEC_LANES, end - begin, operand->x + row * operand->x_stride + begin,
                        operand->x_stride, tile);
    }
}

static dec_tile tile_of(const dec_linear *linear, const dec_operand *operand, int64_t panel, int rows,
                        int add, float *y, int64_t y_stride) {
    dec_tile tile = {.vectors = (int)(panel_width(linear->outputs, panel) / DEC_LANES), .rows = rows};
    tile.far = linear->inputs * linear->outputs >= FAR && operand->rows <= dec_native_active->max_rows;
    tile.y = y;
    tile.y_stride = y_stride;
    tile.from = add ? y : linear->bias + panel * DEC_PANEL;
    tile.from_stride = add ? y_stride : 0;
    return tile;
}

void dec_panel_product(const dec_linear *linear, const dec_operand *operand, int64_t panel, int64_t row,
                       int rows, float *y, int64_t y_stride) {
    const dec_tile tile = tile_of(linear, operand, panel, rows, 0, y, y_stride);
    add_panel(linear, operand, panel, 0, linear->inputs, row, &tile);
}

/* The last panel may be wider than y: it is computed aside. */
static void add_narrow(const dec_linear *linear, const dec_operand *operand, int64_t panel, int64_t row,
                       int rows, int add, float *y, int64_t y_stride) {
    float aside[DEC_TILE_ROWS * DEC_PANEL] = {0};
    const size_t bytes = (size_t)(linear->outputs - panel * DEC_PANEL) * sizeof *y;
    const dec_tile tile = tile_of(linear, operand, panel, rows, add, aside, DEC_PANEL);
    for (int r = 0; add && r < rows; r++)
        memcpy(aside + r * DEC_PANEL, y + r * y_stride, bytes);
    add_panel(linear, operand, panel, 0, linear->inputs, row, &tile);
    for (int r = 0; r < rows; r++)
        memcpy(y + r * y_stride, aside + r * DEC_PANEL, bytes);
}

void dec_linear_product(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, float *y,
                        int64_t y_stride, int add, void *scratch) {
    const int64_t outputs = linear->outputs, inputs = linear->inputs;
    const int most = dec_native_active->max_rows;
    /* a chain of sums may stop and go on anywhere: blocks of inputs change no bits */
    const int64_t step = linear->number == DEC_INT8 || rows <= most ? inputs : K_BLOCK;
    dec_operand operand;
    dec_operand_make(linear, x, x_stride, rows, scratch, &operand);
    for (int64_t p = 0; p < dec_panels(outputs); p++) {
        float *panel = y + p * DEC_PANEL;
        const int narrow = outputs - p * DEC_PANEL < panel_width(outputs, p);
        for (int64_t k = 0; k < inputs; k += narrow ? inputs : step)
            for (int64_t r = 0; r < rows; r += most) {
                const int count = rows - r < most ? (int)(rows - r) : most;
                if (narrow) {
                    add_narrow(linear, &operand, p, r, count, add, panel + r * y_stride, y_stride);
                } else {
                    const dec_tile tile =
                        tile_of(linear, &operand, p, count, add || k > 0, panel + r * y_stride, y_stride);
                    add_panel(linear, &operand, p, k, k + step < inputs ? k + step : inputs, r, &tile);
                }
            }
    }
}
