"""Logits processors: they edit a float32 array [B, V] in place.

A history is one sequence of ids for each row: a list of sequences, or a 2-D integer array.
"""

cimport numpy as cnp
from libc.stdlib cimport calloc, free
from libc.stdint cimport int32_t, int64_t, uint32_t

from decoding.kernels._arguments cimport as_float32, check_width, is_plain, read_count, read_ids, read_number
from decoding.kernels._library cimport (
    DEC_OK, c_allow_bits, c_allow_tokens, c_logit_bias, c_no_repeat_ngram, c_presence_frequency_penalty, c_repetition_penalty,
    c_suppress_tokens, dec_edit, dec_history, dec_status,
)

import math

import numpy as np

from decoding.errors import OptionError, shown

cnp.import_array()


cdef int _editable(object logits, dec_edit *edit) except -1:
    cdef cnp.ndarray a
    if not (cnp.PyArray_Check(logits) and is_plain(logits) and cnp.PyArray_ISWRITEABLE(logits)
            and cnp.PyArray_NDIM(logits) == 2):
        raise OptionError("logits are edited in place: expected a writeable float32 array [B, V]")
    a = logits
    if (cnp.PyArray_STRIDE(a, 1) != 4 and cnp.PyArray_DIM(a, 1) > 1) or cnp.PyArray_STRIDE(a, 0) % 4:
        raise OptionError("logits are edited in place: expected the values of a row side by side")
    check_width(cnp.PyArray_DIM(a, 1), "logits")
    edit.data = <float *>cnp.PyArray_DATA(a)
    edit.rows = cnp.PyArray_DIM(a, 0)
    edit.width = cnp.PyArray_DIM(a, 1)
    edit.stride = cnp.PyArray_STRIDE(a, 0) // 4
    return 0


cdef int _ragged(object sequences, int64_t rows, dec_history *history, list keep) except -1:
    cdef cnp.ndarray flat, start, length
    try:
        given = list(sequences)
    except TypeError:
        raise OptionError(f"history is {shown(sequences)}: expected a sequence of ids for each of {rows} rows") from None
    if len(given) != rows:
        raise OptionError(f"history has {len(given)} sequences: expected one for each of {rows} rows")
    parts = [read_ids(sequence, "history") for sequence in given]
    length = np.array([len(part) for part in parts], np.int64)
    start = np.cumsum(length) - length
    flat = np.concatenate([np.empty(0, np.int64), *parts])
    keep += [flat, start, length]
    history.ids = <const int64_t *>cnp.PyArray_DATA(flat)
    history.start = <const int64_t *>cnp.PyArray_DATA(start)
    history.length = <const int64_t *>cnp.PyArray_DATA(length)
    return 0


cdef _raise_id(dec_status status, int64_t bad, str where, int64_t width):
    if status != DEC_OK:
        raise OptionError(f"{where} {bad} has an id outside the vocabulary: expected 0 <= id < {width}")


cdef _penalize(object logits, object history, float repetition, float presence, float frequency):
    cdef dec_edit edit
    cdef dec_history past
    cdef dec_status status
    cdef int64_t bad = 0
    cdef int32_t *counts
    cdef list keep = []
    _editable(logits, &edit)
    _ragged(history, edit.rows, &past, keep)
    counts = <int32_t *>calloc(edit.width, sizeof(int32_t))
    if counts == NULL:
        raise MemoryError()
    with nogil:
        if repetition != 1.0:
            status = c_repetition_penalty(&edit, &past, repetition, counts, &bad)
        else:
            status = c_presence_frequency_penalty(&edit, &past, presence, frequency, counts, &bad)
        free(counts)
    _raise_id(status, bad, "history of row", edit.width)


def repetition_penalty(logits, history, penalty):
    """Divides the positive logits of tokens in the history by `penalty` and multiplies negative ones, in place.

    Once a distinct token (Keskar et al. 2019, "CTRL", as in Hugging Face).

    Args:
        logits: float32 [B, V], edited.
        history: B sequences of ids: prompt and output.
        penalty: > 0; above 1 discourages.

    Raises:
        OptionError: a wrong argument.
    """
    cdef double factor = read_number(penalty, "penalty")
    if not 0.0 < factor < math.inf:
        raise OptionError(f"penalty is {factor}: expected a finite number > 0 (1 is off)")
    _penalize(logits, history, factor, 0.0, 0.0)


def presence_penalty(logits, history, penalty):
    """Subtracts `penalty` from the logit of every token that occurs in the history, in place.

    Args:
        logits: float32 [B, V], edited.
        history: B sequences of ids: the output alone.
        penalty: finite; above 0 discourages.

    Raises:
        OptionError: a wrong argument.
    """
    _penalize(logits, history, 1.0, _finite(penalty), 0.0)


def frequency_penalty(logits, history, penalty):
    """Subtracts `penalty` times the number of occurrences from the logit of every token in the history, in place.

    Args:
        logits: float32 [B, V], edited.
        history: B sequences of ids: the output alone.
        penalty: finite; above 0 discourages.

    Raises:
        OptionError: a wrong argument.
    """
    _penalize(logits, history, 1.0, 0.0, _finite(penalty))


cdef double _finite(object value) except? -1.0:
    cdef double penalty = read_number(value, "penalty")
    if not -math.inf < penalty < math.inf:
        raise OptionError(f"penalty is {penalty}: expected a finite number (0 is off)")
    return penalty


def no_repeat_ngram(logits, history, n):
    """Forbids every token that would complete an n-gram which the history already has, in place.

    Args:
        logits: float32 [B, V], edited.
        history: B sequences of ids: prompt and output.
        n: >= 1.

    Raises:
        OptionError: a wrong argument.
    """
    cdef dec_edit edit
    cdef dec_history past
    cdef dec_status status
    cdef int64_t bad = 0, size = read_count(n, "n", 1)
    cdef list keep = []
    _editable(logits, &edit)
    _ragged(history, edit.rows, &past, keep)
    with nogil:
        status = c_no_repeat_ngram(&edit, &past, size, &bad)
    _raise_id(status, bad, "history of row", edit.width)


def logit_bias(logits, ids, bias):
    """Adds a bias to the logits of given tokens, in place.

    Args:
        logits: float32 [B, V], edited.
        ids: integers [N].
        bias: [N], or one for all; -inf forbids. An id that stands twice gets both.

    Raises:
        OptionError: a wrong argument.
    """
    cdef dec_edit edit
    cdef cnp.ndarray tokens = read_ids(ids, "ids"), values
    cdef int64_t bad = 0
    cdef dec_status status
    _editable(logits, &edit)
    biases = np.asarray(as_float32(bias, "bias"))
    if biases.shape not in ((), (len(tokens),)) or np.isnan(biases).any() or np.isposinf(biases).any():
        raise OptionError(f"bias has shape {biases.shape}, a NaN or +inf: expected numbers [{len(tokens)}]")
    values = np.ascontiguousarray(np.broadcast_to(biases, (len(tokens),)))
    with nogil:
        status = c_logit_bias(&edit, <const int64_t *>cnp.PyArray_DATA(tokens),
                              <const float *>cnp.PyArray_DATA(values), cnp.PyArray_DIM(tokens, 0), &bad)
    _raise_id(status, bad, "ids at", edit.width)


def suppress_tokens(logits, ids):
    """Forbids the given tokens, in place.

    Args:
        logits: float32 [B, V], edited.
        ids: integers [N].

    Raises:
        OptionError: a wrong argument.
    """
    cdef dec_edit edit
    cdef cnp.ndarray tokens = read_ids(ids, "ids")
    cdef int64_t bad = 0
    cdef dec_status status
    _editable(logits, &edit)
    with nogil:
        status = c_suppress_tokens(&edit, <const int64_t *>cnp.PyArray_DATA(tokens), cnp.PyArray_DIM(tokens, 0), &bad)
    _raise_id(status, bad, "ids at", edit.width)


def allow_tokens(logits, ids):
    """Forbids all but the given tokens, in place.

    Args:
        logits: float32 [B, V], edited.
        ids: integers [N].

    Raises:
        OptionError: a wrong argument.
    """
    cdef dec_edit edit
    cdef cnp.ndarray tokens = np.unique(read_ids(ids, "ids"))
    cdef int64_t bad = 0
    cdef dec_status status
    _editable(logits, &edit)
    with nogil:
        status = c_allow_tokens(&edit, <const int64_t *>cnp.PyArray_DATA(tokens), cnp.PyArray_DIM(tokens, 0), &bad)
    _raise_id(status, bad, "ids at", edit.width)


def allow_bits(logits, bits):
    """Forbids the tokens whose bits are 0, in place.

    Args:
        logits: float32 [B, V], edited.
        bits: uint32 [B, at least V / 32], the values of a row side by side: bit i & 31 of word i >> 5 is token i's.

    Raises:
        OptionError: a wrong argument.
    """
    cdef dec_edit edit
    cdef cnp.ndarray words
    cdef int64_t stride
    _editable(logits, &edit)
    if not (cnp.PyArray_Check(bits) and bits.dtype == np.uint32 and bits.ndim == 2 and bits.shape[0] == edit.rows
            and 32 * bits.shape[1] >= edit.width and bits.strides[1] == 4 and bits.strides[0] % 4 == 0):
        found = f"{bits.dtype} {list(bits.shape)}" if cnp.PyArray_Check(bits) else shown(bits)
        raise OptionError(f"bits is {found}: expected uint32 [{edit.rows}, at least {(edit.width + 31) // 32}], the values of a row side by side")
    words = bits
    stride = cnp.PyArray_STRIDE(words, 0) // 4
    with nogil:
        c_allow_bits(&edit, <const uint32_t *>cnp.PyArray_DATA(words), stride)
