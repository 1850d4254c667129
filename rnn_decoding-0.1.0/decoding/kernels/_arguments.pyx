"""Checks every kernel's arguments, passes them to C, and turns status codes into exceptions."""

from libc.stdlib cimport malloc

from decoding.kernels._library cimport (
    DEC_FORBIDDEN, DEC_INFINITE, DEC_NAN, DEC_NEGATIVE, DEC_TOO_FEW,
)

import math
import operator

import numpy as np

from decoding.errors import DecodeError, OptionError, shown
from decoding.filters import FILTERS

cnp.import_array()


# What NumPy raises where a value is no array: ragged, nested too deep, or with a conversion that fails.
_NO_ARRAY = (TypeError, ValueError, OverflowError, RuntimeError)


cdef object read_array(object values, str name):
    try:
        return np.asarray(values)
    except _NO_ARRAY as error:
        raise OptionError(f"{name} is {shown(values)}: expected an array: {error}") from None


cdef double read_number(object value, str name) except? -1.0:
    cdef double number
    try:
        number = value
    except _NO_ARRAY:
        raise OptionError(f"{name} is {shown(value)}: expected a number") from None
    return number


cdef bint read_flag(object value, str name) except? -1:
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name} is {shown(value)}: expected True or False")
    return bool(value)


cdef cnp.ndarray as_float32(object values, str name):
    array = read_array(values, name)
    if array.dtype.kind not in "fiub":
        raise OptionError(f"{name} has dtype {array.dtype}: expected real numbers (float32, or what converts to it)")
    # beyond float32 lies infinity, and infinities mean something here: no warning
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["ALIGNED"])


cdef bint is_plain(cnp.ndarray a) noexcept:
    return cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 and cnp.PyArray_ISBEHAVED_RO(a)


# The rows of a 2-D array, and the array that keeps them alive: the caller's own where it is float32.
cdef cnp.ndarray read_rows(object values, str name, dec_rows *rows):
    cdef cnp.ndarray a
    if cnp.PyArray_Check(values) and is_plain(values):
        a = values
    else:
        a = as_float32(values, name)
    if cnp.PyArray_NDIM(a) != 2:
        raise OptionError(f"{name} has shape {shape_of(a)}: expected [B, V], one row per sequence")
    if (cnp.PyArray_STRIDE(a, 1) != 4 and cnp.PyArray_DIM(a, 1) > 1) or cnp.PyArray_STRIDE(a, 0) % 4:
        a = np.ascontiguousarray(a)
    rows.data = <const float *>cnp.PyArray_DATA(a)
    rows.rows = cnp.PyArray_DIM(a, 0)
    rows.width = cnp.PyArray_DIM(a, 1)
    rows.stride = cnp.PyArray_STRIDE(a, 0) // 4
    check_width(rows.width, name)
    return a


cdef int check_width(int64_t width, str name) except -1:
    if width == 0:
        raise OptionError(f"{name} has no columns: expected at least one value a row")
    if width > 0x7fffffff - 64:
        raise OptionError(f"{name} has {width} columns: expected fewer than 2 ** 31 - 64")
    return 0


cdef tuple shape_of(cnp.ndarray a):
    return tuple([cnp.PyArray_DIM(a, i) for i in range(cnp.PyArray_NDIM(a))])


cdef cnp.ndarray new_array(int64_t rows, int64_t columns, int dtype):
    cdef cnp.npy_intp shape[2]
    shape[0] = rows
    shape[1] = columns
    try:
        return cnp.PyArray_EMPTY(2 if columns >= 0 else 1, shape, dtype, 0)
    except (MemoryError, ValueError):
        wanted = [rows, columns] if columns >= 0 else [rows]
        raise OptionError(f"the result would have the shape {wanted}: there is no memory for it; ask for less") from None


cdef void *lend(size_t size) except NULL:
    cdef void *memory = malloc(size)
    if memory == NULL:
        raise MemoryError(f"{size} bytes of scratch")
    return memory


cdef int check_temperature(double temperature) except -1:
    if not 0.0 < temperature < math.inf:
        raise OptionError(
            f"temperature is {temperature}: expected a finite number > 0"
            + ("; for the most probable token use greedy (the strategy Greedy())" if temperature == 0 else "")
        )
    return 0


# float32 must not turn a tiny temperature into 0 or a great one into infinity: both ends are as good.
cdef float to_float(double temperature) noexcept:
    return <float>min(max(temperature, 1e-38), 1e38)


cdef cnp.ndarray read_temperatures(object temperature, int64_t rows):
    try:
        values = np.asarray(temperature, dtype=np.float64)
    except _NO_ARRAY:
        raise OptionError(f"temperature is {shown(temperature)}: expected a number, or one per row") from None
    if values.ndim > 1 or (values.ndim == 1 and values.shape[0] != rows):
        raise OptionError(f"temperature has shape {values.shape}: expected one number, or one per row ([{rows}])")
    for value in np.atleast_1d(values):
        check_temperature(value)
    return np.ascontiguousarray(np.broadcast_to(np.clip(values, 1e-38, 1e38), (rows,)), dtype=np.float32)


cdef int64_t read_count(object value, str name, int64_t least) except? -1:
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} is {shown(value)}: expected an integer") from None
    if not least <= number < 2**62:
        raise OptionError(f"{name} is {shown(number)}: expected an integer >= {least}, below 2 ** 62")
    return number


# Ids of rows and steps as C arrays; `keep` holds what must stay alive.
cdef int read_stream(dec_stream *stream, object seed, object rows, object step, int64_t count, list keep) except -1:
    cdef cnp.ndarray a
    stream.seed, stream.seeds = 0, NULL
    if type(seed) is not int and isinstance(seed, np.ndarray) and seed.ndim:
        a = read_integers(seed, "seed", np.uint64, count)
        keep.append(a)
        stream.seeds = <const uint64_t *>cnp.PyArray_DATA(a)
    else:
        try:
            stream.seed = operator.index(seed)
        except (OverflowError, TypeError):
            raise OptionError(f"seed is {shown(seed)}: expected an integer, 0 <= seed < 2 ** 64") from None
    stream.rows = NULL
    stream.steps = NULL
    stream.step = 0
    if rows is not None:
        a = read_integers(rows, "rows", np.uint64, count)
        keep.append(a)
        stream.rows = <const uint64_t *>cnp.PyArray_DATA(a)
    if type(step) is int:
        stream.step = step if 0 <= step < 2**63 else _bad_step(step)
    else:
        a = read_integers(step, "step", np.int64, count)
        keep.append(a)
        stream.steps = <const int64_t *>cnp.PyArray_DATA(a)
    return 0


cdef int64_t _bad_step(object step) except -1:
    raise OptionError(f"step is {shown(step)}: expected an integer, 0 <= step < 2 ** 63")


cdef cnp.ndarray read_integers(object values, str name, object dtype, int64_t count):
    array = read_array(values, name)
    if array.ndim == 0:
        array = np.broadcast_to(array, (count,))
    if array.shape != (count,) or (array.dtype.kind not in "iu" and array.size):
        raise OptionError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: expected integers, one for each of {count} rows"
        )
    if array.size and array.dtype.kind == "i" and array.min() < 0:
        raise OptionError(f"{name} has {array.min()}: expected no negative numbers")
    if dtype is np.int64:
        check_signed(array, name)
    return np.ascontiguousarray(array, dtype=dtype)


# Conversion would make negative numbers of these, without a word.
cdef int check_signed(object array, str name) except -1:
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise OptionError(f"{name} has {array.max()}: expected integers below 2 ** 63")
    return 0


# The values that switch the filters off: a filter that is off, the usual case, is not looked up in Python.
cdef double _TOP_P = FILTERS["top_p"].off, _MIN_P = FILTERS["min_p"].off, _TYPICAL_P = FILTERS["typical_p"].off
cdef double _EPSILON = FILTERS["epsilon_cutoff"].off, _ETA = FILTERS["eta_cutoff"].off


cdef int read_filter(dec_filter *f, object top_k, object p, object least, object typical, object epsilon,
                     object eta) except -1:
    f.top_k = top_k if type(top_k) is int and 0 <= top_k < 2**31 else read_count(top_k, "top_k", 0)
    f.top_p = _in_range(p, "top_p", _TOP_P)
    f.min_p = _in_range(least, "min_p", _MIN_P)
    f.typical_p = _in_range(typical, "typical_p", _TYPICAL_P)
    f.epsilon_cutoff = _in_range(epsilon, "epsilon_cutoff", _EPSILON)
    f.eta_cutoff = _in_range(eta, "eta_cutoff", _ETA)
    return 0


cdef const dec_filter *read_filters(dec_filter *one, tuple values, int64_t count, list keep) except NULL:
    """Return the filters of `count` rows: `one`, or an array, kept in `keep`, where one of the values is an array."""
    cdef dec_filter *many
    cdef int64_t i
    cdef bint arrays = False
    for value in values:
        arrays = arrays or isinstance(value, np.ndarray)
    if not arrays:
        read_filter(one, values[0], values[1], values[2], values[3], values[4], values[5])
        return one
    for name, value in zip(FILTERS, values):
        if np.ndim(value) and np.shape(value) != (count,):
            raise OptionError(f"{name} has shape {list(np.shape(value))}: expected one number, or one for each of {count} rows")
    columns = [np.broadcast_to(value, (count,)).tolist() for value in values]
    memory = np.empty(max(1, count) * sizeof(dec_filter), np.uint8)
    keep.append(memory)
    many = <dec_filter *>cnp.PyArray_DATA(memory)
    for i in range(count):
        read_filter(&many[i], columns[0][i], columns[1][i], columns[2][i], columns[3][i], columns[4][i], columns[5][i])
    return many


cdef double _in_range(object value, str name, double off) except? -1.0:
    cdef double number = read_number(value, name)
    if number != off and not FILTERS[name].allows(number):
        raise OptionError(f"{name} is {number}: expected a number {FILTERS[name].expected} ({off:g} is off)")
    return number


cdef raise_status(dec_status status, int64_t bad, str name):
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


cdef cnp.ndarray read_ids(object ids, str name):
    array = np.atleast_1d(read_array(ids, name))
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise OptionError(f"{name} has shape {array.shape} and dtype {array.dtype}: expected integers [N]")
    check_signed(array, name)
    return np.ascontiguousarray(array, dtype=np.int64)
