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

include "kernels_exports.pxi"
include "kernels_arguments.pxi"


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


include "kernels_search.pxi"
include "kernels_processors.pxi"
