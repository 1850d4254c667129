from libc.stdint cimport int64_t, uint8_t


cdef class RowOutputs:
    cdef readonly object lengths
    cdef readonly int64_t most_top
    cdef object _status_array, _tops, _lines_array, _tokens_array, _logprobs_array, _top_ids, _top_values, _teacher, _attention
    cdef int64_t _width
    cdef const uint8_t *_status
    cdef int64_t *length_of
    cdef int64_t *_lines
    cdef int64_t *_tokens
    cdef float *_logprobs

    cdef begin(self, int64_t slot, int64_t longest, int64_t top)
    cdef _reserve(self, int64_t longest, int64_t top)
    cdef void record(self, const int64_t *tokens, const float *logprobs, int64_t size) noexcept nogil
    cdef record_some(self, int64_t slot, const int64_t *tokens, int64_t count)
    cdef record_top(self, object logits, int64_t size)
    cdef record_teacher(self, object rows, object logprobs)
    cdef double total(self, int64_t slot)
    cdef keep(self, object slots)


cdef inline void *address(array) except NULL:
    """Return where a C-contiguous array begins."""
    assert array.flags.c_contiguous
    return <void *> <size_t> array.ctypes.data
