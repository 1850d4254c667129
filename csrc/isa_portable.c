/* For every processor: four-lane vectors where the compiler has them, plain loops elsewhere. */
#include "native_internal.h"

typedef struct vi {
    int32_t lane[DEC_LANES];
} vi;

#if defined(DEC_GNU) && !defined(DECODING_PLAIN)
#include "lanes_vector.h"
#else
#include "lanes_plain.h"
#endif

static inline void compress(float *out, vf v, uint32_t mask) {
    float lane[DEC_LANES];
    vstore(lane, v);
    compress_lanes(out, lane, mask);
}

#include "lanes.h"

static const dec_isa table = DEC_TABLE("portable");

#define TILE_ROWS 2
#define TILE_VECTORS(rows) ((rows) == 1 ? 2 : 1)
#include "native_lanes.h"

typedef struct vw {
    int8_t byte[4 * DEC_LANES];
} vw;

typedef struct vx {
    int8_t byte[4];
} vx;

static inline vi vi_load(const int32_t *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline vi vi_zero(void) {
    return (vi){{0}};
}

static inline vw vw_load(const int8_t *p) {
    vw w;
    memcpy(&w, p, sizeof w);
    return w;
}

static inline vx vx_splat(const uint8_t *p) {
    vx x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline vi plain_dot(vi sum, vx x, vw w) {
    for (int j = 0; j < DEC_LANES; j++)
        for (int i = 0; i < 4; i++)
            sum.lane[j] += x.byte[i] * w.byte[4 * j + i];
    return sum;
}

static inline void bytes_store(uint8_t *out, vf v) {
    uint32_t lane[DEC_LANES];
    memcpy(lane, &v, sizeof lane);
    for (int i = 0; i < DEC_LANES; i++)
        out[i] = (uint8_t)lane[i];
}

#define NAMED(name) plain_##name
#define DOT_ZERO 0
#define NATIVE_NAME "portable"
#include "native_dots.h"

const dec_isa *dec_isa_portable(void) {
    return &table;
}

const dec_native *dec_native_portable(void) {
    return &plain_native;
}
