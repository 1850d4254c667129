/* The inner loops, written once over a logical vector of DEC_LANES floats. An instruction-set file defines
 * the type `vf` and the operations listed below, then includes this file and fills its table with
 * DEC_TABLE(name).
 *
 *   vload(p) vstore(p, v) vload_tail(p, n, fill) vsplat(f)
 *   vadd vsub vmul vdiv vmax vmin (NaN in the second operand stays) vfma(a, b, c) = a * b + c
 *   vfraction(y) = y - floor(y); vscale2(p, y) = p * 2 ** floor(y), but 0 where y < -126; NaN stays
 *   vpower2(m) = 2 ** n for m = n + 1.5 * 2 ** 23 and a whole number n from -127 to 127, 0 for -127
 *   vsplit_exponent(x, &mantissa): floor(log2(x)) and x / 2 ** that, in [1, 2), of normal x > 0
 *   vchoose_less(a, b, x, y) = a < b ? x : y
 *   mask_ge mask_le mask_gt mask_eq: bit i for lane i; vkeep(mask, v): 0 where the bit is 0
 *   hsum (pairs 8, 4, 2, 1 apart) hmax
 *   vids(first): lanes whose bits are the integers first, first + 1, ...
 *   compress(float *out, v, mask): the lanes of mask, packed; may write DEC_LANES floats
 */

/* 2 ** y for y <= 0: exactly 1 at 0, exactly 0 below -126 and at -inf; relative error at most 1.5e-7. */
static inline vf vexp2(vf y) {
    vf f = vfraction(y);
    /* minimax for (2 ** f - 1) / f in relative error of 2 ** f, on [0, 1] */
    vf p = vsplat(0.001867140334777451f);
    p = vfma(p, f, vsplat(0.009017007156090476f));
    p = vfma(p, f, vsplat(0.05579992974195828f));
    p = vfma(p, f, vsplat(0.2401644465763306f));
    p = vfma(p, f, vsplat(0.693151311675744f));
    p = vfma(p, f, vsplat(1.0f));
    return vscale2(p, y);
}

/* Natural logarithm of x in [sqrt(1/2), sqrt(2)) (coefficients: Moshier's Cephes, logf). */
static inline vf vlog_near_1(vf x) {
    vf t = vsub(x, vsplat(1.0f));
    vf p = vsplat(7.0376836292e-2f);
    p = vfma(p, t, vsplat(-1.1514610310e-1f));
    p = vfma(p, t, vsplat(1.1676998740e-1f));
    p = vfma(p, t, vsplat(-1.2420140846e-1f));
    p = vfma(p, t, vsplat(1.4249322787e-1f));
    p = vfma(p, t, vsplat(-1.6668057665e-1f));
    p = vfma(p, t, vsplat(2.0000714765e-1f));
    p = vfma(p, t, vsplat(-2.4999993993e-1f));
    p = vfma(p, t, vsplat(3.3333331174e-1f));
    vf t2 = vmul(t, t);
    return vadd(vfma(t2, vsplat(-0.5f), vmul(vmul(t2, t), p)), t);
}

/* log2(x / (mantissa * 2 ** exponent)) of x >= 0, -inf at 0; 1 <= mantissa < 2. The quotient itself is never formed:
 * it may underflow where its power does not, and a denormal one has few bits. Denormal x are scaled up first. */
static inline vf vlog2_ratio(vf x, vf mantissa, vf exponent) {
    vf tiny = vsplat(FLT_MIN), zero = vsplat(0.0f);
    vf up = vchoose_less(x, tiny, vmul(x, vsplat(16777216.0f)), x);
    vf own, power = vsub(vsplit_exponent(up, &own), exponent);
    power = vsub(power, vchoose_less(x, tiny, vsplat(24.0f), zero));
    vf ratio = vdiv(own, mantissa); /* in (1/2, 2) */
    /* to [sqrt(1/2), sqrt(2)) */
    vf root2 = vsplat(1.41421356f), half_root2 = vsplat(0.70710678f);
    power = vadd(power, vchoose_less(ratio, root2, zero, vsplat(1.0f)));
    ratio = vchoose_less(ratio, root2, ratio, vmul(ratio, vsplat(0.5f)));
    power = vsub(power, vchoose_less(ratio, half_root2, vsplat(1.0f), zero));
    ratio = vchoose_less(ratio, half_root2, vadd(ratio, ratio), ratio);
    vf log = vlog_near_1(ratio);
    return vchoose_less(zero, x, vfma(log, vsplat((float)DEC_LOG2E), power), vsplat(-INFINITY));
}

static inline int64_t block_length(int64_t n, int64_t start) {
    return n - start < DEC_BLOCK ? n - start : DEC_BLOCK;
}

/* Lane-wise maximum; two chains, because one waits for its own last result. */
static inline vf lane_maxima(const float *x, int64_t n) {
    vf top = vsplat(-INFINITY), other = top;
    int64_t i = 0;
    for (; i + 2 * DEC_LANES <= n; i += 2 * DEC_LANES) {
        top = vmax(top, vload(x + i));
        other = vmax(other, vload(x + i + DEC_LANES));
    }
    top = vmax(top, other);
    for (; i + DEC_LANES <= n; i += DEC_LANES)
        top = vmax(top, vload(x + i));
    return i < n ? vmax(top, vload_tail(x + i, n - i, -INFINITY)) : top;
}

/* Both sums share the difference x - ref, so the second costs only its own exponential. */
static inline void add_exponentials(vf d, vf c, int both, vf *sum, vf *raw) {
    *sum = vadd(*sum, vexp2(vmul(d, c)));
    if (both)
        *raw = vadd(*raw, vexp2(vmul(d, vsplat((float)DEC_LOG2E))));
}

static inline void sum_exponentials(const float *x, int64_t n, vf ref, vf c, int both, vf *sum, vf *raw) {
    *sum = *raw = vsplat(0.0f);
    int64_t i = 0;
    for (; i + DEC_LANES <= n; i += DEC_LANES)
        add_exponentials(vsub(vload(x + i), ref), c, both, sum, raw);
    if (i < n)
        add_exponentials(vsub(vload_tail(x + i, n - i, -INFINITY), ref), c, both, sum, raw);
}

/* One more block of a row: block b, whose values are x. The scan holds what the blocks before left. */
static inline void scan_block(const float *x, int64_t length, float c, int both, int64_t b, dec_scan *scan) {
    vf lane_max = lane_maxima(x, length);
    float block_max = hmax(lane_max), top = scan->max, ref = top > -INFINITY ? top : 0.0f;
    if (block_max > top) {
        /* while all was -inf the sums are 0 (or NaN), and there is nothing to rescale */
        if (top > -INFINITY) {
            scan->sum *= exp2(((double)top - block_max) * c);
            if (both)
                scan->raw *= exp2(((double)top - block_max) * DEC_LOG2E);
        }
        ref = scan->max = block_max;
    }
    vf lane_sum, lane_raw;
    sum_exponentials(x, length, vsplat(ref), vsplat(c), both, &lane_sum, &lane_raw);
    double block_sum = hsum(lane_sum);
    scan->sum += block_sum;
    if (both)
        scan->raw += hsum(lane_raw);
    vstore(scan->lane_max + b * DEC_LANES, lane_max);
    scan->block_max[b] = block_max;
    scan->block_ref[b] = ref;
    scan->block_sum[b] = block_sum;
}

static void row_scan_block(const float *x, int64_t length, float c, int both, int64_t b, dec_scan *scan) {
    scan_block(x, length, c, both, b, scan);
}

static inline void scan_row(const float *x, int64_t n, float c, int both, dec_scan *scan) {
    scan->max = -INFINITY;
    scan->sum = scan->raw = 0.0;
    for (int64_t start = 0, b = 0; start < n; start += DEC_BLOCK, b++)
        scan_block(x + start, block_length(n, start), c, both, b, scan);
}

static void row_scan(const float *x, int64_t n, float c, dec_scan *scan) {
    scan_row(x, n, c, 0, scan);
}

static void row_scan_both(const float *x, int64_t n, float c, dec_scan *scan) {
    scan_row(x, n, c, 1, scan);
}

/* Only the maxima; sum is 0, or NaN where the row has one. */
static void row_scan_max(const float *x, int64_t n, dec_scan *scan) {
    scan->max = -INFINITY;
    scan->sum = 0.0;
    for (int64_t start = 0, b = 0; start < n; start += DEC_BLOCK, b++) {
        int64_t length = block_length(n, start);
        vf top = lane_maxima(x + start, length);
        uint32_t number = 0xffff; /* bit i falls when lane i meets a NaN */
        int64_t i = start;
        for (; i + DEC_LANES <= start + length; i += DEC_LANES) {
            vf v = vload(x + i);
            number &= mask_eq(v, v);
        }
        for (; i < start + length; i++)
            number &= 0u - (uint32_t)(x[i] == x[i]);
        if (number != 0xffff)
            scan->sum = NAN;
        vstore(scan->lane_max + b * DEC_LANES, top);
        scan->block_max[b] = hmax(top);
        scan->max = scan->block_max[b] > scan->max ? scan->block_max[b] : scan->max;
    }
}

static float row_max(const float *x, int64_t n) {
    return hmax(lane_maxima(x, n));
}

static int64_t row_find(const float *x, int64_t n, float value) {
    const vf wanted = vsplat(value);
    int64_t i = 0;
    for (; i + DEC_LANES <= n && !mask_eq(vload(x + i), wanted); i += DEC_LANES)
        ;
    while (i < n && x[i] != value)
        i++;
    return i;
}

static inline void vstore_tail(float *out, vf v, int64_t n) {
    float lane[DEC_LANES];
    vstore(lane, v);
    memcpy(out, lane, (size_t)n * sizeof *lane);
}

static double row_exponentials(const float *x, int64_t n, float ref, float c, float *out) {
    const vf vref = vsplat(ref), vc = vsplat(c);
    double sum = 0.0;
    for (int64_t start = 0; start < n; start += DEC_BLOCK) {
        int64_t i = start, end = start + block_length(n, start);
        vf total = vsplat(0.0f);
        for (; i + DEC_LANES <= end; i += DEC_LANES) {
            vf e = vexp2(vmul(vsub(vload(x + i), vref), vc));
            total = vadd(total, e);
            vstore(out + i, e);
        }
        if (i < end) {
            vf e = vexp2(vmul(vsub(vload_tail(x + i, end - i, -INFINITY), vref), vc));
            total = vadd(total, e);
            vstore_tail(out + i, e, end - i);
        }
        sum += hsum(total);
    }
    return sum;
}

static double row_powers(const float *p, int64_t n, float greatest, float exponent, float *out) {
    int power;
    const float fraction = frexpf(greatest, &power); /* in [1/2, 1) */
    const vf vmantissa = vsplat(2.0f * fraction), vpower = vsplat((float)(power - 1)),
             vexponent = vsplat(exponent);
    double sum = 0.0;
    for (int64_t start = 0; start < n; start += DEC_BLOCK) {
        int64_t i = start, end = start + block_length(n, start);
        vf total = vsplat(0.0f);
        for (; i < end; i += DEC_LANES) {
            int whole = i + DEC_LANES <= end;
            vf x = whole ? vload(p + i) : vload_tail(p + i, end - i, 0.0f);
            vf e = vexp2(vmul(vlog2_ratio(x, vmantissa, vpower), vexponent));
            total = vadd(total, e);
            if (whole)
                vstore(out + i, e);
            else
                vstore_tail(out + i, e, end - i);
        }
        sum += hsum(total);
    }
    return sum;
}

static void row_affine(const float *x, int64_t n, float shift, float scale, float offset, float *out) {
    const vf vshift = vsplat(shift), vscale = vsplat(scale), voffset = vsplat(offset);
    int64_t i = 0;
    for (; i + DEC_LANES <= n; i += DEC_LANES)
        vstore(out + i, vfma(vsub(vload(x + i), vshift), vscale, voffset));
    if (i < n)
        vstore_tail(out + i, vfma(vsub(vload_tail(x + i, n - i, 0.0f), vshift), vscale, voffset), n - i);
}

static inline float least_lane(vf v) {
    float lane[DEC_LANES];
    vstore(lane, v);
    for (int i = 1; i < DEC_LANES; i++)
        lane[0] = lane[i] < lane[0] ? lane[i] : lane[0];
    return lane[0];
}

/* weight * ((x - shift) + offset); an infinite product under a negative weight is -inf where it is positive, else NaN. */
static inline vf weighed(vf x, vf shift, vf offset, vf weight, int below_zero) {
    vf product = vmul(vadd(vsub(x, shift), offset), weight);
    if (!below_zero)
        return product;
    product = vchoose_less(product, vsplat(-FLT_MAX), vsplat(NAN), product);
    return vchoose_less(vsplat(FLT_MAX), product, vsplat(-INFINITY), product);
}

static void row_weigh(const float *x, int64_t n, float shift, float offset, float weight, int add,
                      float *out) {
    const vf vshift = vsplat(shift), voffset = vsplat(offset), vweight = vsplat(weight);
    const int below_zero = weight < 0.0f;
    int64_t i = 0;
    for (; i + DEC_LANES <= n; i += DEC_LANES) {
        vf v = weighed(vload(x + i), vshift, voffset, vweight, below_zero);
        vstore(out + i, add ? vadd(vload(out + i), v) : v);
    }
    if (i < n) {
        vf v = weighed(vload_tail(x + i, n - i, 0.0f), vshift, voffset, vweight, below_zero);
        vstore_tail(out + i, add ? vadd(vload_tail(out + i, n - i, 0.0f), v) : v, n - i);
    }
}

/* Natural logarithm of x >= FLT_MIN, of smaller ones something from -89 to -87; NaN and +inf stay. */
static inline vf vlog(vf x) {
    vf own, power = vsplit_exponent(x, &own), root2 = vsplat(1.41421356f);
    power = vadd(power, vchoose_less(own, root2, vsplat(0.0f), vsplat(1.0f)));
    own = vchoose_less(own, root2, own, vmul(own, vsplat(0.5f)));
    return vchoose_less(x, vsplat(INFINITY), vfma(power, vsplat((float)DEC_LN2), vlog_near_1(own)), x);
}

static float row_mix(const float *x, float a, const float *y, float b, int64_t n, int logarithms,
                     float *out) {
    const vf va = vsplat(a), vb = vsplat(b);
    vf low = vsplat(INFINITY);
    int64_t i = 0;
    for (; i + DEC_LANES <= n; i += DEC_LANES) {
        vf v = vfma(vload(x + i), va, vmul(vload(y + i), vb));
        v = logarithms ? vlog(v) : v;
        low = vchoose_less(v, low, v, low);
        vstore(out + i, v);
    }
    if (i < n) {
        vf v = vfma(vload_tail(x + i, n - i, INFINITY), va, vmul(vload_tail(y + i, n - i, INFINITY), vb));
        v = logarithms ? vlog(v) : v;
        low = vchoose_less(v, low, v, low);
        vstore_tail(out + i, v, n - i);
    }
    return least_lane(low);
}

static double row_sum_blocks(const float *w, int64_t n, double *sums, float *least) {
    double total = 0.0;
    vf low = vsplat(INFINITY);
    for (int64_t start = 0, b = 0; start < n; start += DEC_BLOCK, b++) {
        int64_t end = start + block_length(n, start);
        vf sum = vsplat(0.0f);
        for (int64_t i = start; i < end; i += DEC_LANES) {
            vf x = i + DEC_LANES <= end ? vload(w + i) : vload_tail(w + i, end - i, 0.0f);
            sum = vadd(sum, x);
            low = vchoose_less(x, low, x, low);
        }
        total += sums[b] = hsum(sum);
    }
    *least = least_lane(low);
    return total;
}

static int64_t row_pick(const float *w, int64_t n, double target) {
    double sum = 0.0;
    int64_t i = 0;
    for (; i + DEC_LANES <= n; i += DEC_LANES) {
        double next = sum + hsum(vload(w + i));
        if (next > target)
            break;
        sum = next;
    }
    for (; i < n; i++) {
        sum += w[i];
        if (sum > target)
            return i;
    }
    for (i = n - 1; i > 0 && !(w[i] > 0.0f);)
        i--;
    return i;
}

static int64_t row_collect(const float *x, int64_t n, float bound, int64_t first_id, float *values,
                           int32_t *ids) {
    const vf low = vsplat(bound);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i += DEC_LANES) {
        vf v = i + DEC_LANES <= n ? vload(x + i) : vload_tail(x + i, n - i, NAN);
        uint32_t mask = mask_ge(v, low);
        if (!mask)
            continue;
        compress(values + kept, v, mask);
        compress((float *)ids + kept, vids((int32_t)(first_id + i)), mask);
        kept += count_bits(mask);
    }
    return kept;
}

static void row_split(const float *key, const float *weight, int64_t n, float pivot, dec_split *split) {
    const vf vpivot = vsplat(pivot);
    dec_split s = {0};
    for (int64_t start = 0; start < n; start += DEC_BLOCK) {
        int64_t end = start + block_length(n, start);
        vf above = vsplat(0.0f), equal = vsplat(0.0f);
        for (int64_t i = start; i < end; i += DEC_LANES) {
            int whole = i + DEC_LANES <= end;
            vf k = whole ? vload(key + i) : vload_tail(key + i, end - i, NAN);
            uint32_t gt = mask_gt(k, vpivot), eq = mask_eq(k, vpivot);
            s.above_count += count_bits(gt);
            s.equal_count += count_bits(eq);
            if (weight) {
                vf w = whole ? vload(weight + i) : vload_tail(weight + i, end - i, 0.0f);
                above = vadd(above, vkeep(gt, w));
                equal = vadd(equal, vkeep(eq, w));
            }
        }
        s.above += hsum(above);
        s.equal += hsum(equal);
    }
    if (!weight) {
        s.above = (double)s.above_count;
        s.equal = (double)s.equal_count;
    }
    *split = s;
}

static int64_t row_compact(const float *key, int64_t n, float lo, float hi, void *const *columns, int count) {
    const vf vlo = vsplat(lo), vhi = vsplat(hi);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i += DEC_LANES) {
        /* the key may itself be a column: read it before anything is written, and write behind what was read
         */
        int64_t left = n - i;
        vf k = left >= DEC_LANES ? vload(key + i) : vload_tail(key + i, left, NAN);
        uint32_t mask = mask_ge(k, vlo) & mask_le(k, vhi);
        if (!mask)
            continue;
        for (int j = 0; j < count; j++) {
            float *column = columns[j];
            compress(column + kept,
                     left >= DEC_LANES ? vload(column + i) : vload_tail(column + i, left, 0.0f), mask);
        }
        kept += count_bits(mask);
    }
    return kept;
}

/* clang-format off */
#define DEC_TABLE(isa_name) {                                                                               \
    .name = isa_name, .scan = row_scan, .scan_block = row_scan_block, .scan_both = row_scan_both, .scan_max = row_scan_max, .max = row_max, \
    .find = row_find, .exponentials = row_exponentials, .powers = row_powers, .affine = row_affine,          \
    .weigh = row_weigh, .mix = row_mix,                                                       \
    .sum_blocks = row_sum_blocks, .pick = row_pick, .collect = row_collect, .split = row_split,              \
    .compact = row_compact}
/* clang-format on */
