from libc.stdint cimport int64_t

from decoding.kernels._library cimport dec_layer, dec_linear, dec_network, dec_state
from decoding.kernels.native.run cimport NativeRun


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
