"""Softmax over whole rows, and the scores of several models together."""

cimport numpy as cnp
from libc.stdlib cimport free
from libc.stdint cimport int64_t

from decoding.kernels._arguments cimport (
    as_float32, check_temperature, check_width, is_plain, lend, raise_status, read_number, read_rows, shape_of, to_float,
)
from decoding.kernels._library cimport (
    DEC_MEAN_PROBS, DEC_OK, DEC_SUM_LOGITS, DEC_SUM_LOGPROBS, c_combine, c_log_softmax, c_softmax, c_temper, dec_combination,
    dec_rows, dec_status, scratch_size,
)

import numpy as np

from decoding.errors import OptionError

cnp.import_array()


ctypedef enum whole_row:
    SOFTMAX
    LOG_SOFTMAX
    TEMPER


cdef _whole_rows(whole_row kind, object values, str name, object given, object out):
    cdef cnp.ndarray a, result
    cdef dec_rows rows
    cdef dec_status status = DEC_OK
    cdef int64_t bad = 0, out_stride, width
    cdef float *to
    cdef void *scratch
    cdef double temperature = read_number(given, "temperature")
    cdef float t = to_float(temperature)
    check_temperature(temperature)
    a = values if cnp.PyArray_Check(values) and is_plain(values) else as_float32(values, name)
    shape = shape_of(a)
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
    check_width(width, name)
    if cnp.PyArray_NDIM(a) != 2:
        a = np.ascontiguousarray(a).reshape((-1, width))
    a = read_rows(a, name, &rows)
    if out is not None and a is not result and np.may_share_memory(a, result) and (
        cnp.PyArray_DATA(a) != cnp.PyArray_DATA(result) or rows.stride != rows.width
    ):
        raise OptionError(f"out overlaps {name}: expected the same array or another one")
    to = <float *>cnp.PyArray_DATA(result)
    out_stride = rows.width
    scratch = lend(scratch_size(rows.width))
    with nogil:
        if kind == SOFTMAX:
            status = c_softmax(&rows, t, to, out_stride, &bad)
        elif kind == LOG_SOFTMAX:
            status = c_log_softmax(&rows, t, to, out_stride, scratch, &bad)
        else:
            status = c_temper(&rows, t, to, out_stride, scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, name)
    return result


def softmax(logits, temperature=1.0, out=None):
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


def log_softmax(logits, temperature=1.0, out=None):
    """Logarithm of softmax(logits, temperature); arguments, result and errors are the same."""
    return _whole_rows(LOG_SOFTMAX, logits, "logits", temperature, out)


def temper(probs, temperature, out=None):
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


# As `combine` names them.
COMBINATIONS = {"logits": DEC_SUM_LOGITS, "logprobs": DEC_SUM_LOGPROBS, "probs": DEC_MEAN_PROBS}


def combine(logits, weights, how, out):
    """Write the scores of an ensemble, row by row.

    A token that a model of any weight but 0 forbids (-inf) is forbidden in a sum of logarithms, also under a negative weight: no
    ratio to a probability of 0 is a preference. Wrong rows raise nothing, as rows that no request has any more may be among them:
    where a model's logits have a NaN or +inf, the scores have one too.

    Args:
        logits: of each model, C-contiguous float32 [rows, V].
        weights: of each model, not all 0; for "probs" none below 0.
        how: "logprobs": the weighted sum of log-probabilities; "logits": that up to a number for each row, in less time; "probs": the
            logarithm of the weighted mean of probabilities.
        out: C-contiguous float32 [rows, V], none of `logits`.
    """
    cdef dec_combination combination = COMBINATIONS[how]
    cdef int64_t count = len(logits), m
    cdef cnp.ndarray own = np.array(weights, np.float64), rows = np.empty((count, sizeof(dec_rows)), np.uint8)
    cdef dec_rows *members = <dec_rows *>cnp.PyArray_DATA(rows)
    cdef const double *each = <const double *>cnp.PyArray_DATA(own)
    if not count or len(own) != count or not all(is_like(values, out) for values in (*logits, out)):
        raise OptionError(f"combine: {count} logits and {len(weights)} weights: expected as many, and arrays like out, float32 [rows, V]")
    for m in range(count):
        members[m] = dec_rows(<const float *>cnp.PyArray_DATA(logits[m]), out.shape[0], out.shape[1], out.shape[1])
    cdef float *to = <float *>cnp.PyArray_DATA(out)
    cdef void *scratch = lend(scratch_size(members.width))
    with nogil:
        c_combine(combination, members, each, count, to, members.width, scratch)
        free(scratch)


cdef bint is_like(object array, object out):
    """Return whether an array has the shape of the other, and is C-contiguous float32 [rows, V]."""
    return (isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 2 and array.shape == out.shape
            and array.flags.c_contiguous and array.flags.behaved)
