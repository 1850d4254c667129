/* Moving rows of state: after a beam step or when the batch closes its gaps. */
#include "internal.h"

dec_status dec_gather_rows(const void *in, void *out, const int64_t *index, int64_t outer, int64_t in_rows,
                           int64_t out_rows, size_t row_bytes, int64_t *bad) {
    for (int64_t i = 0; i < out_rows; i++)
        if (index[i] < 0 || index[i] >= in_rows) {
            *bad = i;
            return DEC_OUT_OF_RANGE;
        }
    for (int64_t o = 0; o < outer; o++) {
        const char *from = (const char *)in + (size_t)(o * in_rows) * row_bytes;
        char *to = (char *)out + (size_t)(o * out_rows) * row_bytes;
        for (int64_t i = 0; i < out_rows;) {
            /* neighbours that stay neighbours move in one copy */
            int64_t run = 1;
            while (i + run < out_rows && index[i + run] == index[i] + run)
                run++;
            memcpy(to + (size_t)i * row_bytes, from + (size_t)index[i] * row_bytes, (size_t)run * row_bytes);
            i += run;
        }
    }
    return DEC_OK;
}
