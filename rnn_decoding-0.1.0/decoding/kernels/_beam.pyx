"""Beam search: the best continuations of each prompt, and the moving of rows."""

cimport numpy as cnp
from libc.stdlib cimport free
from libc.stdint cimport int64_t

from decoding.kernels._arguments cimport (
    as_float32, is_plain, lend, new_array, raise_status, read_array, read_count, read_flag, read_ids, read_number, read_rows,
    shape_of,
)
from decoding.kernels._library cimport (
    DEC_OK, beam_scratch_size, c_beam_prune, c_gather_rows, dec_beam, dec_rows, dec_status,
)

import math
import operator

import numpy as np

from decoding.errors import OptionError, shown

cnp.import_array()


def beam_prune(logits, scores, num_beams, *, groups=1, diversity_penalty=0.0, eos_token_id=(), normalize=True):
    """One step of beam search: the 2 * num_beams best continuations of every prompt.

    Log-softmax, running scores and selection are one pass; the [K, V] log-probabilities are never written.

    Args:
        logits: real numbers [P, K, V], of P prompts with K live beams each.
        scores: [P, K], the beams' log-probabilities so far; -inf marks a dead beam, whose logits are not read.
        num_beams: >= 1; the candidates are twice as many, so that those which end leave enough to go on with.
        groups: diverse beam search (Vijayakumar et al. 2016): beams are split in order into this many groups, which
            choose one after the other; it divides K and num_beams.
        diversity_penalty: >= 0; subtracted from a token for each time that an earlier group chose it in this step
            (its first num_beams / groups candidates that do not end).
        eos_token_id: ids of the tokens that end a sequence; only the diversity penalty looks at them.
        normalize: False takes `logits` as log-probabilities that were edited and are not to be normalised again.

    Returns:
        scores float32, parents int64 (0 .. K-1), tokens int64, each [P, 2 * num_beams]: best first (within each
        group; groups in order); ties to the lowest parent, then token. Where there are fewer: -inf, -1, -1.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row of a live beam with NaN, +inf, or nothing but -inf; rows count from 0 to P * K - 1.
    """
    cdef dec_rows r
    cdef dec_beam beam
    cdef cnp.ndarray a, flat, before, eos, best, parents, tokens
    cdef dec_status status
    cdef int64_t bad = 0
    a = logits if cnp.PyArray_Check(logits) and is_plain(logits) else as_float32(logits, "logits")
    if cnp.PyArray_NDIM(a) != 3:
        raise OptionError(f"logits has shape {shape_of(a)}: expected [P, K, V], prompts, beams, vocabulary")
    beam.prompts = cnp.PyArray_DIM(a, 0)
    beam.beams = cnp.PyArray_DIM(a, 1)
    before = np.ascontiguousarray(as_float32(scores, "scores"))
    if shape_of(before) != (beam.prompts, beam.beams):
        raise OptionError(f"scores has shape {shape_of(before)}: expected {(beam.prompts, beam.beams)}, one per beam")
    beam.num_beams = read_count(num_beams, "num_beams", 1)
    beam.groups = read_count(groups, "groups", 1)
    if beam.num_beams % beam.groups or beam.beams % beam.groups:
        raise OptionError(
            f"groups is {beam.groups}: expected a divisor of num_beams ({beam.num_beams}) and of the beams in logits "
            f"({beam.beams})"
        )
    beam.diversity_penalty = read_number(diversity_penalty, "diversity_penalty")
    if not 0.0 <= beam.diversity_penalty < math.inf:
        raise OptionError(f"diversity_penalty is {beam.diversity_penalty}: expected a finite number >= 0")
    eos = read_ids(eos_token_id, "eos_token_id")
    beam.eos = <const int64_t *>cnp.PyArray_DATA(eos)
    beam.eos_count = len(eos)
    beam.logits_are_logprobs = not read_flag(normalize, "normalize")
    flat = read_rows(a.reshape((beam.prompts * beam.beams, cnp.PyArray_DIM(a, 2))), "logits", &r)
    best = new_array(beam.prompts, 2 * beam.num_beams, cnp.NPY_FLOAT32)
    parents = new_array(beam.prompts, 2 * beam.num_beams, cnp.NPY_INT64)
    tokens = new_array(beam.prompts, 2 * beam.num_beams, cnp.NPY_INT64)
    scratch = lend(beam_scratch_size(beam.beams, beam.num_beams, r.width))
    with nogil:
        status = c_beam_prune(&r, &beam, <const float *>cnp.PyArray_DATA(before), <float *>cnp.PyArray_DATA(best),
                              <int64_t *>cnp.PyArray_DATA(parents), <int64_t *>cnp.PyArray_DATA(tokens), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        raise_status(status, bad, "logits and scores")
    return best, parents, tokens


def gather_rows(array, index, axis=0, out=None):
    """array.take(index, axis): the rows of any batch axis in a new order, any dtype.

    Args:
        array: an array of at least one axis.
        index: integers [N], 0 <= i < array.shape[axis].
        axis: which axis holds the rows.
        out: C-contiguous array of the result's shape and dtype that does not overlap `array`.

    Returns:
        The result, or `out`.

    Raises:
        OptionError: a wrong argument.
    """
    source = read_array(array, "array")
    cdef cnp.ndarray a = np.ascontiguousarray(source), result
    cdef cnp.ndarray ids = read_ids(index, "index")
    cdef int64_t outer = 1, bad = 0, where
    cdef size_t row_bytes = cnp.PyArray_ITEMSIZE(a)
    cdef dec_status status
    shape = source.shape
    try:
        axis = operator.index(axis)
    except TypeError:
        raise OptionError(f"axis is {shown(axis)}: expected an integer") from None
    if not shape or not -len(shape) <= axis < len(shape):
        raise OptionError(f"axis is {shown(axis)}: expected an axis of an array of shape {shape}")
    if a.dtype.hasobject:
        raise OptionError(f"array has dtype {a.dtype}: expected one without Python objects")
    where = axis + len(shape) if axis < 0 else axis
    for i, length in enumerate(shape):
        if i < where:
            outer *= length
        elif i > where:
            row_bytes *= length
    wanted = shape[:where] + (len(ids),) + shape[where + 1:]
    if out is None:
        result = np.empty(wanted, a.dtype)
    elif not (isinstance(out, np.ndarray) and out.shape == wanted and out.dtype == a.dtype
              and out.flags.c_contiguous and out.flags.writeable):
        raise OptionError(f"out does not fit: expected a writeable C-contiguous array of {a.dtype} of shape {wanted}")
    elif np.may_share_memory(out, source):
        raise OptionError("out overlaps array: expected another array")
    else:
        result = out
    with nogil:
        status = c_gather_rows(cnp.PyArray_DATA(a), cnp.PyArray_DATA(result), <const int64_t *>cnp.PyArray_DATA(ids),
                               outer, cnp.PyArray_DIM(a, where), cnp.PyArray_DIM(ids, 0), row_bytes, &bad)
    if status != DEC_OK:
        raise OptionError(f"index has {ids[bad]} at {bad}: expected 0 <= i < {shape[where]}")
    return result
