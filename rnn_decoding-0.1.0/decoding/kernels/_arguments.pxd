"""What the kernels' modules share: arguments that are checked, arrays, scratch memory, errors."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint64_t

from decoding.kernels._library cimport dec_filter, dec_rows, dec_status, dec_stream

cdef object read_array(object values, str name)
cdef double read_number(object value, str name) except? -1.0
cdef bint read_flag(object value, str name) except? -1
cdef int check_signed(object array, str name) except -1
cdef cnp.ndarray as_float32(object values, str name)
cdef bint is_plain(cnp.ndarray a) noexcept
cdef cnp.ndarray read_rows(object values, str name, dec_rows *rows)
cdef int check_width(int64_t width, str name) except -1
cdef tuple shape_of(cnp.ndarray a)
cdef cnp.ndarray new_array(int64_t rows, int64_t columns, int dtype)
cdef void *lend(size_t size) except NULL
cdef int check_temperature(double temperature) except -1
cdef float to_float(double temperature) noexcept
cdef cnp.ndarray read_temperatures(object temperature, int64_t rows)
cdef int64_t read_count(object value, str name, int64_t least) except? -1
cdef int read_stream(dec_stream *stream, object seed, object rows, object step, int64_t count, list keep) except -1
cdef cnp.ndarray read_integers(object values, str name, object dtype, int64_t count)
cdef int read_filter(dec_filter *f, object top_k, object p, object least, object typical, object epsilon,
                     object eta) except -1
cdef const dec_filter *read_filters(dec_filter *one, tuple values, int64_t count, list keep) except NULL
cdef raise_status(dec_status status, int64_t bad, str name)
cdef cnp.ndarray read_ids(object ids, str name)
