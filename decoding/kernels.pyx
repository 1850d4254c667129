"""Sampling and search kernels on NumPy arrays: everything that happens between two network steps.

Logits are float32 arrays [B, V], one row per sequence; other real dtypes are converted, and rows may lie any
distance apart. -inf forbids a token. A row with a NaN, with +inf or with nothing but -inf raises DecodeError, which
names it. Log-probabilities are natural logarithms. Among equal values the lowest id wins.

A draw depends only on (seed, row, step) and that row's logits: not on the batch, the order or the threads. The
specification, in plain NumPy float64, is decoding.reference. Calls release the GIL and never abort the process.

The fastest instruction set that the processor has is chosen on import; the environment variable DECODING_ISA
(portable, avx2, avx512, neon) forces one.
"""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

import math
import os

import numpy as np

from decoding.errors import DecodeError, OptionError

cnp.import_array()

# The signatures stand in kernels.pxd; the C compiler checks these calls against decoding.h.
cdef extern from "decoding.h":
    const char *dec_isa_name() noexcept nogil
    const char *dec_isa_supported(int index) noexcept nogil
    int dec_use_isa(const char *name) noexcept nogil
    void dec_philox(...) noexcept nogil
    void dec_uniform(...) noexcept nogil
    void dec_normal(...) noexcept nogil
    size_t dec_scratch_size(...) noexcept nogil
    dec_status dec_softmax(...) noexcept nogil
    dec_status dec_log_softmax(...) noexcept nogil
    dec_status dec_temper(...) noexcept nogil
    dec_status dec_draw(...) noexcept nogil
    dec_status dec_greedy(...) noexcept nogil
    dec_status dec_top_n(...) noexcept nogil
    dec_status dec_multinomial(...) noexcept nogil
    dec_status dec_gumbel_top_k(...) noexcept nogil
    dec_status dec_top_k(...) noexcept nogil
    dec_status dec_top_logprobs(...) noexcept nogil
    dec_status dec_token_logprobs(...) noexcept nogil
    size_t dec_beam_scratch_size(...) noexcept nogil
    dec_status dec_beam_prune(...) noexcept nogil
    dec_status dec_gather_rows(...) noexcept nogil
    dec_status dec_repetition_penalty(...) noexcept nogil
    dec_status dec_presence_frequency_penalty(...) noexcept nogil
    dec_status dec_no_repeat_ngram(...) noexcept nogil
    dec_status dec_logit_bias(...) noexcept nogil
    dec_status dec_suppress_tokens(...) noexcept nogil
    dec_status dec_allow_tokens(...) noexcept nogil


# ---- the instruction set -------------------------------------------------------------------------


def instruction_set():
    """Name of the instruction set in use: "avx512", "avx2", "neon" or "portable"."""
    return dec_isa_name().decode()


def instruction_sets():
    """Names of those that this processor and this build have, fastest first."""
    names, index = [], 0
    while dec_isa_supported(index) != NULL:
        names.append(dec_isa_supported(index).decode())
        index += 1
    return names


def _choose_instruction_set():
    name = os.environ.get("DECODING_ISA") or None
    cdef bytes wanted = name.encode() if name else b""
    if dec_use_isa(<const char *>wanted if name else NULL) != 0:
        raise OptionError(
            f"environment variable DECODING_ISA is {name!r}: this processor and build support "
            f"{', '.join(instruction_sets())}; unset it to take the fastest"
        )


_choose_instruction_set()


# ---- arguments -----------------------------------------------------------------------------------


cdef cnp.ndarray _as_float32(object values, str name):
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise OptionError(f"{name} has dtype {array.dtype}: expected real numbers (float32, or what converts to it)")
    # beyond float32 lies infinity, and infinities mean something here: no warning
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["ALIGNED"])


cdef inline bint _plain(cnp.ndarray a) noexcept:
    return cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 and cnp.PyArray_ISBEHAVED_RO(a)


# The rows of a 2-D array, and the array that keeps them alive: the caller's own where it is float32.
cdef cnp.ndarray _rows(object values, str name, dec_rows *rows):
    cdef cnp.ndarray a
    if cnp.PyArray_Check(values) and _plain(values):
        a = values
    else:
        a = _as_float32(values, name)
    if cnp.PyArray_NDIM(a) != 2:
        raise OptionError(f"{name} has shape {_shape(a)}: expected [B, V], one row per sequence")
    if (cnp.PyArray_STRIDE(a, 1) != 4 and cnp.PyArray_DIM(a, 1) > 1) or cnp.PyArray_STRIDE(a, 0) % 4:
        a = np.ascontiguousarray(a)
    rows.data = <const float *>cnp.PyArray_DATA(a)
    rows.rows = cnp.PyArray_DIM(a, 0)
    rows.width = cnp.PyArray_DIM(a, 1)
    rows.stride = cnp.PyArray_STRIDE(a, 0) // 4
    _check_width(rows.width, name)
    return a


cdef int _check_width(int64_t width, str name) except -1:
    if width == 0:
        raise OptionError(f"{name} has no columns: expected at least one value a row")
    if width > 0x7fffffff - 64:
        raise OptionError(f"{name} has {width} columns: expected fewer than 2 ** 31 - 64")
    return 0


cdef tuple _shape(cnp.ndarray a):
    return tuple([cnp.PyArray_DIM(a, i) for i in range(cnp.PyArray_NDIM(a))])


cdef cnp.ndarray _empty(int64_t rows, int64_t columns, int dtype):
    cdef cnp.npy_intp shape[2]
    shape[0] = rows
    shape[1] = columns
    return cnp.PyArray_EMPTY(2 if columns >= 0 else 1, shape, dtype, 0)


cdef void *_lend(size_t size) except NULL:
    cdef void *memory = malloc(size)
    if memory == NULL:
        raise MemoryError(f"{size} bytes of scratch")
    return memory


cdef int _check_temperature(double temperature) except -1:
    if not 0.0 < temperature < math.inf:
        raise OptionError(
            f"temperature is {temperature}: expected a finite number > 0"
            + ("; for the most probable token use greedy (the strategy Greedy())" if temperature == 0 else "")
        )
    return 0


# float32 must not turn a tiny temperature into 0 or a great one into infinity: both ends are as good.
cdef inline float _to_float(double temperature) noexcept:
    return <float>min(max(temperature, 1e-38), 1e38)


cdef cnp.ndarray _temperatures(object temperature, int64_t rows):
    values = np.asarray(temperature, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and values.shape[0] != rows):
        raise OptionError(f"temperature has shape {values.shape}: expected one number, or one per row ([{rows}])")
    for value in np.atleast_1d(values):
        _check_temperature(value)
    return np.ascontiguousarray(np.broadcast_to(np.clip(values, 1e-38, 1e38), (rows,)), dtype=np.float32)


cdef int64_t _count(object value, str name, int64_t least) except? -1:
    try:
        number = value.__index__()
    except AttributeError:
        raise OptionError(f"{name} is {value!r}: expected an integer") from None
    if not least <= number < 2**62:
        raise OptionError(f"{name} is {number}: expected an integer >= {least}")
    return number


# Ids of rows and steps as C arrays; `keep` holds what must stay alive.
cdef int _stream(dec_stream *stream, object seed, object rows, object step, int64_t count, list keep) except -1:
    cdef cnp.ndarray a
    try:
        stream.seed = seed
    except (OverflowError, TypeError):
        raise OptionError(f"seed is {seed!r}: expected an integer, 0 <= seed < 2 ** 64") from None
    stream.rows = NULL
    stream.steps = NULL
    stream.step = 0
    if rows is not None:
        a = _integers(rows, "rows", np.uint64, count)
        keep.append(a)
        stream.rows = <const uint64_t *>cnp.PyArray_DATA(a)
    if type(step) is int:
        stream.step = step if 0 <= step < 2**63 else _bad_step(step)
    else:
        a = _integers(step, "step", np.int64, count)
        keep.append(a)
        stream.steps = <const int64_t *>cnp.PyArray_DATA(a)
    return 0


cdef int64_t _bad_step(object step) except -1:
    raise OptionError(f"step is {step}: expected an integer, 0 <= step < 2 ** 63")


cdef cnp.ndarray _integers(object values, str name, object dtype, int64_t count):
    array = np.asarray(values)
    if array.ndim == 0:
        array = np.broadcast_to(array, (count,))
    if array.shape != (count,) or (array.dtype.kind not in "iu" and array.size):
        raise OptionError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: expected integers, one for each of {count} rows"
        )
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        raise OptionError(f"{name} has {array.min()}: expected no negative numbers")
    return np.ascontiguousarray(array, dtype=dtype)


cdef int _filter(dec_filter *f, object top_k, double top_p, double min_p, double typical_p, double epsilon_cutoff,
                 double eta_cutoff) except -1:
    f.top_k = top_k if type(top_k) is int and 0 <= top_k < 2**31 else _count(top_k, "top_k", 0)
    f.top_p = top_p
    f.min_p = min_p
    f.typical_p = typical_p
    f.epsilon_cutoff = epsilon_cutoff
    f.eta_cutoff = eta_cutoff
    if not 0.0 < top_p <= 1.0:
        raise OptionError(f"top_p is {top_p}: expected 0 < top_p <= 1 (1 is off)")
    if not 0.0 <= min_p <= 1.0:
        raise OptionError(f"min_p is {min_p}: expected 0 <= min_p <= 1 (0 is off)")
    if not 0.0 < typical_p <= 1.0:
        raise OptionError(f"typical_p is {typical_p}: expected 0 < typical_p <= 1 (1 is off)")
    if not 0.0 <= epsilon_cutoff < 1.0:
        raise OptionError(f"epsilon_cutoff is {epsilon_cutoff}: expected 0 <= epsilon_cutoff < 1 (0 is off)")
    if not 0.0 <= eta_cutoff < 1.0:
        raise OptionError(f"eta_cutoff is {eta_cutoff}: expected 0 <= eta_cutoff < 1 (0 is off)")
    return 0


cdef _raise(dec_status status, int64_t bad, str name):
    if status == DEC_NAN:
        what = "has a NaN"
    elif status == DEC_INFINITE:
        what = "has +inf, or weights whose sum is no finite number"
    elif status == DEC_FORBIDDEN:
        what = "has nothing to choose: every token is forbidden (-inf, or weight 0)"
    elif status == DEC_NEGATIVE:
        what = "has a negative weight"
    elif status == DEC_TOO_FEW:
        what = "has fewer positive weights than num_samples; draw fewer, or with replacement=True"
    else:
        what = "names an id or index outside the array"
    raise DecodeError(f"{name}: row {bad} {what}", row=bad)


# ---- rows in, rows out ---------------------------------------------------------------------------

ctypedef enum whole_row:
    SOFTMAX
    LOG_SOFTMAX
    TEMPER


cdef _whole_rows(whole_row kind, object values, str name, double temperature, object out):
    cdef cnp.ndarray a, result
    cdef dec_rows rows
    cdef dec_status status = DEC_OK
    cdef int64_t bad = 0, out_stride, width
    cdef float *to
    cdef void *scratch
    cdef float t = _to_float(temperature)
    _check_temperature(temperature)
    a = values if cnp.PyArray_Check(values) and _plain(values) else _as_float32(values, name)
    shape = _shape(a)
    if not shape:
        raise OptionError(f"{name} is a single number: expected an array whose last axis is the vocabulary")
    if out is None:
        result = np.empty(shape, np.float32)
    elif not (isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == shape
              and out.flags.c_contiguous and out.flags.behaved):
        raise OptionError(f"out does not fit: expected a C-contiguous float32 array of shape {shape}")
    else:
        result = out
    width = cnp.PyArray_DIM(a, cnp.PyArray_NDIM(a) - 1)
    _check_width(width, name)
    if cnp.PyArray_NDIM(a) != 2:
        a = np.ascontiguousarray(a).reshape((-1, width))
    a = _rows(a, name, &rows)
    if out is not None and a is not result and np.may_share_memory(a, result) and (
        cnp.PyArray_DATA(a) != cnp.PyArray_DATA(result) or rows.stride != rows.width
    ):
        raise OptionError(f"out overlaps {name}: expected the same array or another one")
    to = <float *>cnp.PyArray_DATA(result)
    out_stride = rows.width
    scratch = _lend(scratch_size(rows.width))
    with nogil:
        if kind == SOFTMAX:
            status = c_softmax(&rows, t, to, out_stride, &bad)
        elif kind == LOG_SOFTMAX:
            status = c_log_softmax(&rows, t, to, out_stride, scratch, &bad)
        else:
            status = c_temper(&rows, t, to, out_stride, scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, name)
    return result


def softmax(logits, double temperature=1.0, out=None):
    """exp(logits / temperature), normalised over the last axis.

    Args:
        logits: real numbers [..., V]; -inf gives 0.
        temperature: > 0.
        out: C-contiguous float32 array of the same shape; it may be `logits` itself.

    Returns:
        float32 [..., V], or `out`.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row (of the flattened leading axes) with NaN, +inf, or nothing but -inf.
    """
    return _whole_rows(SOFTMAX, logits, "logits", temperature, out)


def log_softmax(logits, double temperature=1.0, out=None):
    """Logarithm of softmax(logits, temperature); arguments, result and errors are the same."""
    return _whole_rows(LOG_SOFTMAX, logits, "logits", temperature, out)


def temper(probs, double temperature, out=None):
    """probs ** (1 / temperature), normalised over the last axis: zeros stay zero, without a warning.

    Args:
        probs: numbers >= 0, [..., V]; rows need not sum to 1.
        temperature: > 0; below 1 sharpens, above 1 flattens.
        out: C-contiguous float32 array of the same shape; it may be `probs` itself.

    Returns:
        float32 [..., V], or `out`.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, infinity, a negative number, or nothing but zeros.
    """
    return _whole_rows(TEMPER, probs, "probs", temperature, out)


# ---- drawing -------------------------------------------------------------------------------------


def draw(logits, *, temperature=1.0, top_k=0, double top_p=1.0, double min_p=0.0, double typical_p=1.0,
         double epsilon_cutoff=0.0, double eta_cutoff=0.0, seed, rows=None, step=0, int threads=1):
    """Draws one token a row from softmax(logits / temperature), filtered.

    The filters apply in the order of the arguments, each on what the one before left, renormalised; at least one
    token always survives.

    Args:
        logits: real numbers [B, V]; -inf forbids.
        temperature: > 0; one number, or one per row.
        top_k: keep exactly the k most probable, ties to the lowest id (0 = off).
        top_p: keep the most probable until their sum reaches p, with the token that crosses it (1 = off;
            Holtzman et al. 2020, "nucleus").
        min_p: keep p >= min_p * (greatest p) (0 = off; Nguyen et al. 2024).
        typical_p: keep those whose -log p is nearest to the entropy until their sum reaches p (1 = off; Meister
            et al. 2023).
        epsilon_cutoff: keep p >= epsilon (0 = off; Hewitt et al. 2022).
        eta_cutoff: keep p >= min(eta, sqrt(eta) * exp(-entropy)) (0 = off; Hewitt et al. 2022).
        seed: 0 <= seed < 2 ** 64.
        rows: one number >= 0 per row that names its random stream; 0 .. B-1 by default.
        step: number of the decoding step, >= 0; one, or one per row.
        threads: the rows are split over so many threads; the result is the same.

    Returns:
        tokens int64 [B]; logprobs float32 [B], of the tokens under the logits as given, before temperature and
        filters.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef dec_filter f
    cdef cnp.ndarray a, tokens, logprobs, temperatures = None
    cdef dec_status status
    cdef int64_t bad = 0, i
    cdef float t = 1.0
    cdef float *per_row
    cdef size_t lent
    cdef list keep = []
    a = _rows(logits, "logits", &r)
    _stream(&stream, seed, rows, step, r.rows, keep)
    _filter(&f, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff)
    if type(temperature) is float:
        _check_temperature(temperature)
        t = _to_float(temperature)
    else:
        temperatures = _temperatures(temperature, r.rows)
    if threads < 1:
        raise OptionError(f"threads is {threads}: expected an integer >= 1")
    threads = min(threads, 64)
    tokens = _empty(r.rows, -1, cnp.NPY_INT64)
    logprobs = _empty(r.rows, -1, cnp.NPY_FLOAT32)
    lent = threads * scratch_size(r.width)
    scratch = _lend(lent + r.rows * sizeof(float))
    if temperatures is None:
        per_row = <float *>(<char *>scratch + lent)
        for i in range(r.rows):
            per_row[i] = t
    else:
        per_row = <float *>cnp.PyArray_DATA(temperatures)
    with nogil:
        status = c_draw(&r, &stream, per_row, &f, threads, <int64_t *>cnp.PyArray_DATA(tokens),
                        <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "logits")
    return tokens, logprobs


def greedy(logits):
    """The most probable token of each row; among equals the lowest id.

    Args:
        logits: real numbers [B, V]; -inf forbids.

    Returns:
        tokens int64 [B]; logprobs float32 [B].

    Raises:
        OptionError: logits are no [B, V] array.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef cnp.ndarray a, tokens, logprobs
    cdef dec_status status
    cdef int64_t bad = 0
    a = _rows(logits, "logits", &r)
    tokens = _empty(r.rows, -1, cnp.NPY_INT64)
    logprobs = _empty(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        status = c_greedy(&r, <int64_t *>cnp.PyArray_DATA(tokens), <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "logits")
    return tokens, logprobs


def multinomial(probs, num_samples=1, *, bint replacement=True, seed, rows=None, step=0):
    """Draws tokens with given weights.

    Args:
        probs: weights >= 0, [B, V]; rows need not sum to 1. A zero is never drawn.
        num_samples: draws a row, >= 1.
        replacement: whether a token may be drawn again.
        seed: 0 <= seed < 2 ** 64.
        rows: one number >= 0 per row that names its random stream; 0 .. B-1 by default.
        step: number of the decoding step, >= 0; one, or one per row.

    Returns:
        int64 [B, num_samples], in the order drawn.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, infinity, a negative weight, nothing but zeros, or without replacement fewer
            positive weights than num_samples.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef cnp.ndarray a, tokens
    cdef dec_status status
    cdef int64_t bad = 0, n = _count(num_samples, "num_samples", 1)
    cdef list keep = []
    a = _rows(probs, "probs", &r)
    _stream(&stream, seed, rows, step, r.rows, keep)
    tokens = _empty(r.rows, n, cnp.NPY_INT64)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        status = c_multinomial(&r, &stream, n, replacement, <int64_t *>cnp.PyArray_DATA(tokens), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "probs")
    return tokens


# What other Cython modules cimport: csrc is linked into this module alone.

cdef void c_philox(const uint64_t *key, const uint64_t *counter, int64_t n, uint64_t *words) noexcept nogil:
    dec_philox(key, counter, n, words)


cdef void c_uniform(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                    double *out) noexcept nogil:
    dec_uniform(stream, purpose, rows, n, out)


cdef void c_normal(const dec_stream *stream, dec_purpose purpose, int64_t rows, int64_t n,
                   double *out) noexcept nogil:
    dec_normal(stream, purpose, rows, n, out)


cdef size_t scratch_size(int64_t width) noexcept nogil:
    return dec_scratch_size(width)


cdef dec_status c_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                          int64_t *bad) noexcept nogil:
    return dec_softmax(logits, temperature, out, out_stride, bad)


cdef dec_status c_log_softmax(const dec_rows *logits, float temperature, float *out, int64_t out_stride,
                              void *scratch, int64_t *bad) noexcept nogil:
    return dec_log_softmax(logits, temperature, out, out_stride, scratch, bad)


cdef dec_status c_temper(const dec_rows *probs, float temperature, float *out, int64_t out_stride,
                         void *scratch, int64_t *bad) noexcept nogil:
    return dec_temper(probs, temperature, out, out_stride, scratch, bad)


cdef dec_status c_draw(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                       const dec_filter *filter, int threads, int64_t *tokens, float *logprobs, void *scratch,
                       int64_t *bad) noexcept nogil:
    return dec_draw(logits, stream, temperature, filter, threads, tokens, logprobs, scratch, bad)


cdef dec_status c_greedy(const dec_rows *logits, int64_t *tokens, float *logprobs, void *scratch,
                         int64_t *bad) noexcept nogil:
    return dec_greedy(logits, tokens, logprobs, scratch, bad)


cdef dec_status c_top_n(const dec_rows *logits, const dec_stream *stream, int64_t n, int64_t *tokens,
                        float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_top_n(logits, stream, n, tokens, logprobs, scratch, bad)


cdef dec_status c_multinomial(const dec_rows *weights, const dec_stream *stream, int64_t n, int replacement,
                              int64_t *tokens, void *scratch, int64_t *bad) noexcept nogil:
    return dec_multinomial(weights, stream, n, replacement, tokens, scratch, bad)


cdef dec_status c_gumbel_top_k(const dec_rows *logits, const dec_stream *stream, const float *temperature,
                               const dec_filter *filter, int64_t k, const double *scores,
                               const double *maxima, int64_t *tokens, double *perturbed, double *out_scores,
                               float *logprobs, void *scratch, int64_t *bad) noexcept nogil:
    return dec_gumbel_top_k(logits, stream, temperature, filter, k, scores, maxima, tokens, perturbed,
                            out_scores, logprobs, scratch, bad)


cdef dec_status c_top_k(const dec_rows *values, int64_t k, float *best, int64_t *ids, void *scratch,
                        int64_t *bad) noexcept nogil:
    return dec_top_k(values, k, best, ids, scratch, bad)


cdef dec_status c_top_logprobs(const dec_rows *logits, int64_t k, float *best, int64_t *ids, void *scratch,
                               int64_t *bad) noexcept nogil:
    return dec_top_logprobs(logits, k, best, ids, scratch, bad)


cdef dec_status c_token_logprobs(const dec_rows *logits, const int64_t *ids, float *logprobs, void *scratch,
                                 int64_t *bad) noexcept nogil:
    return dec_token_logprobs(logits, ids, logprobs, scratch, bad)


cdef size_t beam_scratch_size(int64_t beams, int64_t width) noexcept nogil:
    return dec_beam_scratch_size(beams, width)


cdef dec_status c_beam_prune(const dec_rows *logits, const dec_beam *beam, const float *beam_scores,
                             float *scores, int64_t *parents, int64_t *tokens, void *scratch,
                             int64_t *bad) noexcept nogil:
    return dec_beam_prune(logits, beam, beam_scores, scores, parents, tokens, scratch, bad)


cdef dec_status c_gather_rows(const void *source, void *out, const int64_t *index, int64_t outer,
                              int64_t in_rows, int64_t out_rows, size_t row_bytes,
                              int64_t *bad) noexcept nogil:
    return dec_gather_rows(source, out, index, outer, in_rows, out_rows, row_bytes, bad)


cdef dec_status c_repetition_penalty(const dec_edit *logits, const dec_history *history, float penalty,
                                     int32_t *counts, int64_t *bad) noexcept nogil:
    return dec_repetition_penalty(logits, history, penalty, counts, bad)


cdef dec_status c_presence_frequency_penalty(const dec_edit *logits, const dec_history *history,
                                             float presence, float frequency, int32_t *counts,
                                             int64_t *bad) noexcept nogil:
    return dec_presence_frequency_penalty(logits, history, presence, frequency, counts, bad)


cdef dec_status c_no_repeat_ngram(const dec_edit *logits, const dec_history *history, int64_t n,
                                  int64_t *bad) noexcept nogil:
    return dec_no_repeat_ngram(logits, history, n, bad)


cdef dec_status c_logit_bias(const dec_edit *logits, const int64_t *ids, const float *bias, int64_t n,
                             int64_t *bad) noexcept nogil:
    return dec_logit_bias(logits, ids, bias, n, bad)


cdef dec_status c_suppress_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                                  int64_t *bad) noexcept nogil:
    return dec_suppress_tokens(logits, ids, n, bad)


cdef dec_status c_allow_tokens(const dec_edit *logits, const int64_t *ids, int64_t n,
                               int64_t *bad) noexcept nogil:
    return dec_allow_tokens(logits, ids, n, bad)
