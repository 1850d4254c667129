"""For other Cython modules: steps of a bound run, without the GIL."""

from libc.stdint cimport int64_t

from decoding.kernels._library cimport dec_status, dec_stream


cdef class Scratch:
    cdef char *memory
    cdef size_t size
    cdef double start, last

    cdef int reserve(self, size_t size) except -1
    cdef void begin(self) noexcept nogil
    cdef double lap(self) noexcept nogil
    cdef bint is_over(self) noexcept nogil


cdef class NativeRun:
    cdef int64_t rows, time, part  # part: tokens of a row that are read at once
    cdef int64_t *tokens  # [rows, time]
    cdef float *logits  # [time, rows, V]; NULL where they are not wanted
    cdef size_t size  # of the memory, in bytes
    cdef list pool  # of Scratch

    # The memory of one run at a time, from `borrow` to `give_back`. The methods without the GIL work in it.
    cdef Scratch borrow(self)
    cdef void give_back(self, Scratch scratch)
    cdef void add_contexts(self, char *memory) noexcept nogil
    cdef dec_status read(self, char *memory, int64_t start, int64_t time, int64_t *bad) noexcept nogil
    cdef void project(self, char *memory, int64_t start, int64_t time) noexcept nogil
    cdef bint fuses(self) noexcept nogil
    cdef dec_status choose(self, char *memory, const dec_stream *stream, const float *temperature, int64_t *tokens,
                           float *logprobs, int64_t *bad) noexcept nogil
    cdef void move_rows(self, char *memory, const int64_t *rows) noexcept nogil
    cdef void copy_row(self, NativeRun to, int64_t row) noexcept nogil
    cdef object refused(self, int64_t row)
