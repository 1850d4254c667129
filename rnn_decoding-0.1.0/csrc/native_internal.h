/* What the files of the native step share: the table of inner loops that each instruction set fills. */
#ifndef DECODING_NATIVE_INTERNAL_H
#define DECODING_NATIVE_INTERNAL_H

#include "internal.h"
#include "native.h"

enum {
    DEC_PANEL = 64,    /* outputs of a panel: four logical vectors, enough to hide an FMA's latency */
    DEC_TILE_ROWS = 6, /* at most that many rows share one read of a panel */
};

/* One panel's product for 1 .. max_rows rows: y [rows, 16 * vectors] = from + product. `from` is the bias
 * (stride 0), or y itself. */
typedef struct dec_tile {
    int vectors, rows;
    int far; /* float32: fetch weights ahead */
    const float *from;
    int64_t from_stride;
    float *y;
    int64_t y_stride;
} dec_tile;

typedef struct dec_native {
    const char *name;
    const dec_isa *isa; /* the set that it belongs to */
    int max_rows;
    /* w [vectors, inputs, 16], `apart` floats from one vector of outputs to the next; x [rows, inputs] */
    void (*product)(const float *w, int64_t apart, int64_t inputs, const float *x, int64_t x_stride,
                    const dec_tile *tile);
    /* w [groups, 16 * vectors, 4]; x [rows, 4 * groups] as quantise wrote it */
    void (*product_int8)(const int8_t *w, int64_t groups, const int32_t *correction, const float *scale,
                         const uint8_t *x, int64_t x_stride, const float *x_scale, const dec_tile *tile);
    /* a row to bytes; writes n bytes rounded up to DEC_LANES, zeros (of whatever form) after the last; gives
     * the scale */
    float (*quantise)(const float *x, int64_t n, uint8_t *out);
    /* one row: gates [gates], used up */
    void (*lstm)(const dec_layer *layer, float *gates, float *c, float *h);
    /* z and r; reset [H] = r h where that is multiplied */
    void (*gru_open)(const dec_layer *layer, float *gates, const float *h, float *reset);
    /* own [H]: h R_n + b_n with linear_before_reset; else NULL, and the gates hold all of it */
    void (*gru_close)(const dec_layer *layer, float *gates, const float *own, float *h);
    void (*rnn)(const dec_layer *layer, float *gates, float *h);
    /* for tests: the activation of n floats */
    void (*activate)(dec_activation activation, float alpha, float beta, const float *x, int64_t n, float *y);
} dec_native;

extern const dec_native *dec_native_active;
/* Each gives NULL where the build or the processor lacks it. */
const dec_native *dec_native_avx512vnni(void);
const dec_native *dec_native_avx512(void);
const dec_native *dec_native_avxvnni(void);
const dec_native *dec_native_avx2(void);
const dec_native *dec_native_neondot(void);
const dec_native *dec_native_neon(void);
const dec_native *dec_native_portable(void);

static inline int64_t dec_round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

static inline void *dec_align(const void *memory) {
    return (void *)(((uintptr_t)memory + 63) / 64 * 64);
}

/* Cuts scratch memory into `count` parts of these sizes in bytes, each 64-byte aligned; NULL parts where memory is NULL.
 * Gives the bytes that all of them need of memory with any alignment. */
static inline size_t dec_carve_parts(void *memory, const size_t *sizes, int count, void **parts) {
    size_t used = 63;
    char *at = memory ? dec_align(memory) : NULL;
    for (int i = 0; i < count; i++) {
        const size_t size = (sizes[i] + 63) / 64 * 64;
        parts[i] = at;
        at = at ? at + size : NULL;
        used += size;
    }
    return used;
}

static inline int64_t dec_panels(int64_t outputs) {
    return (outputs + DEC_PANEL - 1) / DEC_PANEL;
}

/* linear.c: the rows of x made ready once, to be multiplied with any panels */
typedef struct dec_operand {
    const float *x;
    int64_t x_stride, rows;
    uint8_t *bytes; /* int8: [rows, byte_stride] */
    int64_t byte_stride;
    float *scale; /* int8: [rows] */
} dec_operand;

void dec_operand_make(const dec_linear *linear, const float *x, int64_t x_stride, int64_t rows, void *scratch,
                      dec_operand *operand);
/* y [rows, padded width of the panel] = the bias + the product of rows [row, row + rows), rows <= max_rows. */
void dec_panel_product(const dec_linear *linear, const dec_operand *operand, int64_t panel, int64_t row,
                       int rows, float *y, int64_t y_stride);

#endif
