from libc.stdint cimport int64_t, uint8_t

from decoding.engine.search.rows.choices cimport RowChoices, RowRules
from decoding.engine.search.rows.edits cimport RowEdits
from decoding.engine.search.rows.outputs cimport RowOutputs
from decoding.kernels._library cimport dec_status


cdef class RowSampler:
    cdef readonly object status, sequences, limits, requests, failed
    cdef readonly RowChoices choices
    cdef readonly RowOutputs outputs
    cdef RowEdits edits
    cdef object _logits_array, _rules, _rules_of, _tokenizer, _stops_array, _teacher_ratio
    cdef bint _drawn, _looks_for_stops, _keeps_states
    cdef int64_t _vocab_size
    cdef uint8_t *_stops
    cdef uint8_t *_status
    cdef int64_t *_limits

    # What a step is made of. The rows are the first `size`; of these, those that run count.
    cdef int64_t count_running(self, int64_t size) noexcept nogil
    cdef bint may_stop(self, int64_t size) noexcept nogil
    cdef void record(self, int64_t size) noexcept nogil
    cdef int64_t finish(self, int64_t size) noexcept nogil
    cdef int64_t finish_or_stop(self, int64_t size) except -1
    cdef object error(self, dec_status status, int64_t row)

    cdef RowRules _rules_for(self, settings)
    cdef int64_t _end(self, int64_t size) except -1
    cdef _teach(self, int64_t size)
