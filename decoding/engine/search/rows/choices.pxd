from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.engine.search.stopping cimport Ending, Stopping
from decoding.kernels._library cimport dec_filter, dec_rows, dec_status, dec_stream


cdef enum how:
    GREEDY = 0
    SAMPLE = 1
    TOP_N = 2


cdef class RowRules:
    cdef readonly Stopping stopping
    cdef uint8_t how, is_plain
    cdef int64_t top_n
    cdef dec_filter filter


cdef class RowChoices:
    cdef readonly object temperature, seeds, streams, lengths
    cdef readonly bint was_edited
    cdef object _how_array, _plain_array, _top_ns_array, _filters_array, _endings_array, _eos_logits_array
    cdef tuple _buffers
    cdef dec_rows _logits
    cdef dec_stream _stream
    cdef int64_t _eos_count
    cdef float *_eos_logits
    cdef const uint8_t *_status
    cdef uint8_t *_how
    cdef uint8_t *_plain
    cdef int64_t *_top_ns
    cdef dec_filter *_filters
    cdef uint64_t *_streams
    cdef uint64_t *_seeds
    cdef const int64_t *_lengths
    cdef void *_scratch
    cdef const int64_t *_ids
    cdef const double *_normalizers
    cdef float *temperatures
    cdef Ending *endings
    cdef int64_t *tokens  # the newest choices, and their log-probabilities
    cdef float *logprobs

    cdef begin(self, int64_t slot, RowRules rules, uint64_t seed, uint64_t stream, float temperature)
    cdef keep(self, object slots)
    cdef dec_status score_run(self, const float *logits, int64_t steps, const int64_t *tokens, float *logprobs, int64_t *bad) noexcept nogil

    # What a step is made of. The rows are the first `size`; of these, those that run count.
    cdef float *logits(self) noexcept nogil
    cdef bint is_plain(self, int64_t size) noexcept nogil
    cdef const dec_stream *stream(self) noexcept nogil
    cdef dec_status choose(self, float *source, const uint8_t *edited, int64_t size, int64_t *bad) noexcept nogil

    cdef bint _hide_eos(self, float *source, int64_t size) noexcept nogil
    cdef void _restore_eos(self, float *source, int64_t size) noexcept nogil
    cdef int64_t _run_end(self, int64_t start, int64_t size) noexcept nogil
    cdef dec_status _choose(self, const float *source, int64_t size, int64_t *bad) noexcept nogil
    cdef bint _was_changed(self, const uint8_t *edited, int64_t row) noexcept nogil
    cdef dec_status _own_logprobs(self, const uint8_t *edited, int64_t size, int64_t *bad) noexcept nogil
    cdef dec_status _check_normalizers(self, int64_t size, int64_t *bad) noexcept nogil
    cdef void _name_choices(self, int64_t size) noexcept nogil
