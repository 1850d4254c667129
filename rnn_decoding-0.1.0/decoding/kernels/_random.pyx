"""Random numbers of the keyed generator."""

cimport numpy as cnp
from libc.stdint cimport uint64_t

from decoding.kernels._arguments cimport new_array, read_array, read_count, read_stream
from decoding.kernels._library cimport (
    DEC_DRAW, DEC_GUMBEL, DEC_LATENT, DEC_MULTINOMIAL, DEC_TEACHER, c_normal, c_philox, c_uniform, dec_purpose,
    dec_stream,
)

import operator

import numpy as np

from decoding.errors import OptionError, shown

cnp.import_array()


_PURPOSES = {"draw": DEC_DRAW, "multinomial": DEC_MULTINOMIAL, "gumbel": DEC_GUMBEL, "latent": DEC_LATENT,
             "teacher": DEC_TEACHER}


def philox(key, counter, n):
    """Raw words of the Philox4x64-10 generator (Salmon et al. 2011).

    Args:
        key: two integers, 0 <= k < 2 ** 64.
        counter: four integers, lowest first.
        n: how many words.

    Returns:
        uint64 [n], equal to numpy.random.Philox(key=key, counter=counter).random_raw(n).
    """
    cdef cnp.ndarray k = _words(key, "key", 2), c = _words(counter, "counter", 4)
    cdef cnp.ndarray out = new_array(read_count(n, "n", 0), -1, cnp.NPY_UINT64)
    c_philox(<const uint64_t *>cnp.PyArray_DATA(k), <const uint64_t *>cnp.PyArray_DATA(c), len(out),
             <uint64_t *>cnp.PyArray_DATA(out))
    return out


cdef cnp.ndarray _words(object values, str name, int count):
    try:
        words = np.array([operator.index(value) for value in values], dtype=np.uint64)
    except (OverflowError, TypeError, ValueError):
        words = None
    if words is None or len(words) != count:
        raise OptionError(f"{name} is {shown(values)}: expected {count} integers, 0 <= k < 2 ** 64")
    return words


cdef cnp.ndarray _random(bint gaussian, object seed, object rows, object step, object n, object purpose):
    cdef dec_stream stream
    cdef cnp.ndarray out
    cdef list keep = []
    cdef dec_purpose which
    if not isinstance(purpose, str) or purpose not in _PURPOSES:
        raise OptionError(f"purpose is {shown(purpose)}: expected one of {', '.join(_PURPOSES)}")
    which = _PURPOSES[purpose]
    ids = np.atleast_1d(read_array(rows, "rows"))
    read_stream(&stream, seed, ids, step, len(ids), keep)
    out = new_array(len(ids), read_count(n, "n", 0), cnp.NPY_FLOAT64)
    if gaussian:
        c_normal(&stream, which, out.shape[0], out.shape[1], <double *>cnp.PyArray_DATA(out))
    else:
        c_uniform(&stream, which, out.shape[0], out.shape[1], <double *>cnp.PyArray_DATA(out))
    return out


def uniform(seed, rows, step, n, purpose="draw"):
    """Uniform numbers in [0, 1), the same for a (seed, row, step, purpose) wherever they are asked for.

    Args:
        seed: 0 <= seed < 2 ** 64; one number, or an array of one per row.
        rows: integers >= 0 that name the streams.
        step: >= 0; one, or one per row.
        n: numbers a row.
        purpose: "draw", "multinomial", "gumbel", "latent" or "teacher"; each has numbers of its own.

    Returns:
        float64 [rows, n]. With counter = [0, step, purpose's place in that list, 0] a row equals
        numpy.random.Generator(numpy.random.Philox(key=[seed, row], counter=counter)).random(n).
    """
    return _random(False, seed, rows, step, n, purpose)


def normal(seed, rows, step, n, purpose="latent"):
    """Standard normal numbers, float64 [rows, n], by Box and Muller's method from those of uniform()."""
    return _random(True, seed, rows, step, n, purpose)
