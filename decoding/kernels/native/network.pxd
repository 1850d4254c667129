"""The native step for other Cython modules: steps of a bound run, without the GIL."""

from libc.stdint cimport int64_t

from decoding.kernels._library cimport (
    dec_layer, dec_linear, dec_network, dec_state, dec_status, dec_stream,
)


cdef class Scratch:
    cdef char *memory
    cdef size_t size
    cdef double start, last

    cdef int reserve(self, size_t size) except -1
    cdef void begin(self) noexcept nogil
    cdef double lap(self) noexcept nogil
    cdef bint is_over(self) noexcept nogil


cdef class NativeNetwork:
    cdef dec_network network
    cdef dec_layer *layers
    cdef dec_linear *linears
    cdef dec_linear *output
    cdef dec_linear *contexts
    cdef int64_t packed, context_count, width, gates
    cdef list keep, pool
    cdef str name

    cdef int _enter(self, arrays, bint table) except -1
    cdef int _layer(self, dec_layer *to, layer, bint int8, bint reads) except -1
    cdef dec_linear *_pack(self, weights, bias, bint int8) except NULL


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


cdef class NetworkRun(NativeRun):
    cdef NativeNetwork network
    cdef dec_state *states
    cdef const float **contexts
    cdef float *context  # [rows, gates]: the product of the contexts
    cdef float *taken  # the contexts that it was computed from, one after the other
    cdef bint computed
    cdef size_t scratch_at
    cdef tuple keep

    cdef int _check(self, array, dtype, shape, bint contiguous) except -1
    cdef int _state(self, dec_state *to, pair, const dec_layer *layer) except -1
    cdef void _move(self, float *state, int64_t stride, int64_t hidden, const int64_t *rows, float *aside) noexcept nogil
    cdef int64_t _width(self, int64_t layer) noexcept nogil
    cdef bint _takes_context(self, int64_t row) noexcept nogil
    cdef float *_top(self, char *memory) noexcept nogil
    cdef void *_work(self, char *memory) noexcept nogil
