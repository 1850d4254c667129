"""The greatest values of each row, and the log-probabilities of tokens."""

cimport numpy as cnp
from libc.stdlib cimport free
from libc.stdint cimport int64_t

from decoding.kernels._arguments cimport lend, new_array, raise_status, read_count, read_integers, read_rows
from decoding.kernels._library cimport (
    DEC_OK, DEC_OUT_OF_RANGE, c_token_logprobs, c_top_k, c_top_logprobs, dec_rows, dec_status, scratch_size,
)

import numpy as np

from decoding.errors import OptionError

cnp.import_array()


cdef _best(object values, str name, object k, bint logprobs):
    cdef dec_rows r
    cdef cnp.ndarray a, best, ids
    cdef dec_status status
    cdef int64_t bad = 0, count = read_count(k, "k", 1)
    a = read_rows(values, name, &r)
    if count > r.width:
        raise OptionError(f"k is {count}: expected 1 <= k <= {r.width}, the number of columns")
    best = new_array(r.rows, count, cnp.NPY_FLOAT32)
    ids = new_array(r.rows, count, cnp.NPY_INT64)
    scratch = lend(scratch_size(r.width))
    with nogil:
        if logprobs:
            status = c_top_logprobs(&r, count, <float *>cnp.PyArray_DATA(best), <int64_t *>cnp.PyArray_DATA(ids),
                                    scratch, &bad)
        else:
            status = c_top_k(&r, count, <float *>cnp.PyArray_DATA(best), <int64_t *>cnp.PyArray_DATA(ids), scratch,
                             &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, name)
    return best, ids


def top_k(logits, k):
    """The k greatest values of each row, sorted; ties to the lowest index.

    Args:
        logits: real numbers [B, V].
        k: 1 <= k <= V.

    Returns:
        values float32 [B, k], greatest first; indices int64 [B, k].

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    return _best(logits, "logits", k, False)


def top_logprobs(logits, k):
    """The k greatest log-probabilities of each row; arguments, results and errors are those of top_k()."""
    return _best(logits, "logits", k, True)


def token_logprobs(logits, tokens):
    """Log-probabilities of one given token a row.

    Args:
        logits: real numbers [B, V].
        tokens: integers [B], 0 <= token < V.

    Returns:
        float32 [B].

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef cnp.ndarray a, ids, out
    cdef dec_status status
    cdef int64_t bad = 0
    a = read_rows(logits, "logits", &r)
    ids = read_integers(tokens, "tokens", np.int64, r.rows)
    out = new_array(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = lend(scratch_size(r.width))
    with nogil:
        status = c_token_logprobs(&r, <const int64_t *>cnp.PyArray_DATA(ids), <float *>cnp.PyArray_DATA(out), scratch,
                                  &bad)
        free(scratch)
    if status == DEC_OUT_OF_RANGE:
        raise OptionError(f"tokens has {ids[bad]} at row {bad}: expected 0 <= token < {r.width}")
    if status != DEC_OK:
        raise_status(status, bad, "logits")
    return out
