"""Draws: one token a row, or several."""

cimport numpy as cnp
from libc.stdlib cimport free
from libc.stdint cimport int64_t

from decoding.kernels._arguments cimport (
    check_temperature, lend, new_array, raise_status, read_count, read_filter, read_filters, read_flag, read_rows, read_stream,
    read_temperatures, to_float,
)
from decoding.kernels._library cimport (
    DEC_OK, c_draw, c_greedy, c_gumbel_top_k, c_multinomial, c_top_n, dec_filter, dec_rows, dec_status, dec_stream,
    scratch_size,
)

import math

import numpy as np

from decoding.errors import OptionError, shown

cnp.import_array()


def draw(logits, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, epsilon_cutoff=0.0,
         eta_cutoff=0.0, seed, rows=None, step=0, threads=1):
    """Draws one token a row from softmax(logits / temperature), filtered.

    The filters apply in the order of the arguments, each on what the one before left, renormalised; at least one
    token always survives. Each is one number, or an array of one per row.

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
        seed: 0 <= seed < 2 ** 64; one number, or an array of one per row.
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
    cdef dec_filter one
    cdef const dec_filter *filters
    cdef cnp.ndarray a, tokens, logprobs, temperatures = None
    cdef dec_status status
    cdef int64_t bad = 0, i
    cdef int used
    cdef float t = 1.0
    cdef float *per_row
    cdef size_t lent
    cdef list keep = []
    a = read_rows(logits, "logits", &r)
    read_stream(&stream, seed, rows, step, r.rows, keep)
    filters = read_filters(&one, (top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff), r.rows, keep)
    if type(temperature) is float:
        check_temperature(temperature)
        t = to_float(temperature)
    else:
        temperatures = read_temperatures(temperature, r.rows)
    used = min(read_count(threads, "threads", 1), 64)
    tokens = new_array(r.rows, -1, cnp.NPY_INT64)
    logprobs = new_array(r.rows, -1, cnp.NPY_FLOAT32)
    lent = used * scratch_size(r.width)
    scratch = lend(lent + r.rows * sizeof(float))
    if temperatures is None:
        per_row = <float *>(<char *>scratch + lent)
        for i in range(r.rows):
            per_row[i] = t
    else:
        per_row = <float *>cnp.PyArray_DATA(temperatures)
    with nogil:
        status = c_draw(&r, &stream, per_row, filters, filters != &one, used, <int64_t *>cnp.PyArray_DATA(tokens),
                        <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "logits")
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
    a = read_rows(logits, "logits", &r)
    tokens = new_array(r.rows, -1, cnp.NPY_INT64)
    logprobs = new_array(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = lend(scratch_size(r.width))
    with nogil:
        status = c_greedy(&r, <int64_t *>cnp.PyArray_DATA(tokens), <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "logits")
    return tokens, logprobs


def multinomial(probs, num_samples=1, *, replacement=True, seed, rows=None, step=0):
    """Draws tokens with given weights.

    Args:
        probs: weights >= 0, [B, V]; rows need not sum to 1. A zero is never drawn.
        num_samples: draws a row, >= 1.
        replacement: whether a token may be drawn again.
        seed: 0 <= seed < 2 ** 64; one number, or an array of one per row.
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
    cdef int64_t bad = 0, n = read_count(num_samples, "num_samples", 1)
    cdef bint again = read_flag(replacement, "replacement")
    cdef list keep = []
    a = read_rows(probs, "probs", &r)
    read_stream(&stream, seed, rows, step, r.rows, keep)
    tokens = new_array(r.rows, n, cnp.NPY_INT64)
    scratch = lend(scratch_size(r.width))
    with nogil:
        status = c_multinomial(&r, &stream, n, again, <int64_t *>cnp.PyArray_DATA(tokens), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "probs")
    return tokens


def top_n(logits, n, *, seed, rows=None, step=0):
    """Draws uniformly one of the n most probable tokens of each row.

    Args:
        logits: real numbers [B, V]; -inf forbids.
        n: >= 1; ties go to the lowest id; forbidden tokens never count.
        seed, rows, step: as in draw().

    Returns:
        tokens int64 [B]; logprobs float32 [B], of the tokens under the logits.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef cnp.ndarray a, tokens, logprobs
    cdef dec_status status
    cdef int64_t bad = 0, most = read_count(n, "n", 1)
    cdef list keep = []
    a = read_rows(logits, "logits", &r)
    read_stream(&stream, seed, rows, step, r.rows, keep)
    tokens = new_array(r.rows, -1, cnp.NPY_INT64)
    logprobs = new_array(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = lend(scratch_size(r.width))
    with nogil:
        status = c_top_n(&r, &stream, most, <int64_t *>cnp.PyArray_DATA(tokens),
                         <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "logits")
    return tokens, logprobs


def gumbel_top_k(logits, k, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0,
                 epsilon_cutoff=0.0, eta_cutoff=0.0, seed, rows=None, step=0, scores=None, maxima=None):
    """Draws k distinct tokens a row by Gumbel-top-k (Kool et al. 2019), for stochastic beam search.

    Every log-probability gets Gumbel noise and the k greatest win; for temperature and filters see draw().

    Args:
        logits: real numbers [B, V]; -inf forbids.
        k: >= 1.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: as in draw().
        seed, rows, step: as in draw().
        scores: [B], log-probability of what came before each row (0 by default); it is added.
        maxima: [B], a perturbed value that the greatest of each row is made to equal: its parent's. None or an
            infinite entry leaves it free.

    Returns:
        tokens int64 [B, k]; perturbed float64 [B, k], descending; scores float64 [B, k], each row's score plus the
        token's tempered, filtered log-probability; logprobs float32 [B, k], under the logits as given. Where fewer
        than k tokens are possible: -1, and -inf.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef dec_filter f
    cdef cnp.ndarray a, temperatures, before, ceilings, tokens, perturbed, out_scores, logprobs
    cdef dec_status status
    cdef int64_t bad = 0, count = read_count(k, "k", 1)
    cdef list keep = []
    a = read_rows(logits, "logits", &r)
    read_stream(&stream, seed, rows, step, r.rows, keep)
    read_filter(&f, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff)
    temperatures = read_temperatures(temperature, r.rows)
    before = _doubles(0.0 if scores is None else scores, "scores", r.rows)
    ceilings = _doubles(math.inf if maxima is None else maxima, "maxima", r.rows)
    tokens = new_array(r.rows, count, cnp.NPY_INT64)
    perturbed = new_array(r.rows, count, cnp.NPY_FLOAT64)
    out_scores = new_array(r.rows, count, cnp.NPY_FLOAT64)
    logprobs = new_array(r.rows, count, cnp.NPY_FLOAT32)
    scratch = lend(scratch_size(r.width))
    with nogil:
        status = c_gumbel_top_k(
            &r, &stream, <const float *>cnp.PyArray_DATA(temperatures), &f, count,
            <const double *>cnp.PyArray_DATA(before), <const double *>cnp.PyArray_DATA(ceilings),
            <int64_t *>cnp.PyArray_DATA(tokens), <double *>cnp.PyArray_DATA(perturbed),
            <double *>cnp.PyArray_DATA(out_scores), <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "logits")
    return tokens, perturbed, out_scores, logprobs


cdef cnp.ndarray _doubles(object values, str name, int64_t count):
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise OptionError(f"{name} is {shown(values)}: expected numbers, one for each of {count} rows") from None
    if array.shape not in ((), (count,)) or np.isnan(array).any():
        raise OptionError(f"{name} has shape {array.shape} or a NaN: expected one number for each of {count} rows")
    return np.ascontiguousarray(np.broadcast_to(array, (count,)))
