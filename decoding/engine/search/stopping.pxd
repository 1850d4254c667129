from libc.stdint cimport int64_t, uint8_t

# What a slot of a search is. The last three are finish reasons.
cdef enum slot_status:
    IDLE = 0
    RUNNING = 1
    BY_EOS = 2
    BY_STOP = 3
    BY_LENGTH = 4

cdef class Stopping:
    cdef readonly int64_t min_new_tokens, max_new_tokens
    cdef readonly bint looks_for_stops
    cdef const uint8_t *_is_eos
    cdef const uint8_t *_may_stop
    cdef const int64_t *_eos
    cdef int64_t _eos_count
    cdef tuple _stop, _stop_strings, _buffers
    cdef object _tokenizer, _joins_next
    cdef int64_t _tail

    cdef bint hide(self, int64_t length, float *logits, float *hidden) noexcept nogil
    cdef void restore(self, int64_t length, float *logits, const float *hidden) noexcept nogil
    cdef bint may_stop(self, int64_t token) noexcept nogil
    cdef slot_status finish(self, int64_t token, bint stops, int64_t length, int64_t limit) noexcept nogil
