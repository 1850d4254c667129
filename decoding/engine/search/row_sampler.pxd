from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.engine.search.stopping cimport Ending, Stopping
from decoding.kernels._library cimport dec_filter, dec_rows, dec_status, dec_stream


cdef enum how:
    GREEDY = 0
    SAMPLE = 1
    TOP_N = 2


cdef class RowRules:
    cdef readonly Stopping stopping
    cdef readonly tuple processors
    cdef readonly int64_t top
    cdef uint8_t how, is_plain
    cdef int64_t top_n
    cdef dec_filter filter


cdef class RowSampler:
    cdef readonly object status, sequences, streams, seeds, lengths, limits, temperature, requests, failed
    cdef object _how_array, _plain_array, _edits_array, _top_ns_array, _filters_array, _endings_array, _rules, _rules_of, _tokenizer
    cdef object _buffers, _lines_array, _history_array, _history_logprobs_array, _logits_array, _edited
    cdef object _attention, _top_ids, _top_values, _teacher_logprobs, _eos_logits_array
    cdef dec_rows _logits
    cdef dec_stream _stream
    cdef bint _drawn, _looks_for_stops, _has_processors, _keeps_states, _was_edited
    cdef int64_t _vocab_size, _max_new, _eos_count, _top
    cdef object _teacher_ratio
    cdef list _matchers  # of each row, one for each of its constraints
    cdef object _masks
    cdef list _groups, _constrained, _followed  # of the running rows: by processors; with constraints; their matchers
    cdef readonly bint has_constraints
    cdef float *_eos_logits
    cdef uint8_t *_stops
    cdef uint8_t *_status
    cdef uint8_t *_how
    cdef uint8_t *_plain
    cdef uint8_t *_edits
    cdef uint64_t *_sequences
    cdef uint64_t *_streams
    cdef uint64_t *_seeds
    cdef int64_t *_lengths
    cdef int64_t *_limits
    cdef int64_t *_lines
    cdef int64_t *_top_ns
    cdef float *_temperature
    cdef dec_filter *_filters
    cdef Ending *_endings
    cdef int64_t *_tokens
    cdef float *_logprobs
    cdef int64_t *_history
    cdef float *_history_logprobs
    cdef void *_scratch
    cdef const int64_t *_ids
    cdef const double *_normalizers

    # What a step is made of. The rows are the first `size`; of these, those that run count.
    cdef float *logits(self) noexcept nogil
    cdef int64_t count_running(self, int64_t size) noexcept nogil
    cdef bint is_plain(self, int64_t size) noexcept nogil
    cdef const dec_stream *stream(self) noexcept nogil
    cdef bint may_stop(self, int64_t size) noexcept nogil
    cdef dec_status choose(self, float *source, int64_t size, int64_t *bad) noexcept nogil
    cdef void record(self, int64_t size) noexcept nogil
    cdef int64_t finish(self, int64_t size) noexcept nogil
    cdef int64_t finish_or_stop(self, int64_t size) except -1
    cdef object error(self, dec_status status, int64_t row)

    cdef _reserve(self, int64_t max_new_tokens, int64_t top, int64_t eos_count)
    cdef RowRules _rules_for(self, settings)
    cdef bint _edit(self, int64_t size) except -1
    cdef _apply(self, tuple processors, list slots, object edited)
    cdef _consume(self)
    cdef int64_t _ended(self, int64_t size) except -1
    cdef _group(self, int64_t size)
    cdef bint _hide_eos(self, float *source, int64_t size) noexcept nogil
    cdef void _restore_eos(self, float *source, int64_t size) noexcept nogil
    cdef int64_t _run_end(self, int64_t start, int64_t size) noexcept nogil
    cdef dec_status _choose(self, const float *source, int64_t size, int64_t *bad) noexcept nogil
    cdef bint _was_changed(self, int64_t row) noexcept nogil
    cdef dec_status _own_logprobs(self, int64_t size, int64_t *bad) noexcept nogil
    cdef dec_status _check_normalizers(self, int64_t size, int64_t *bad) noexcept nogil
    cdef void _name_choices(self, int64_t size) noexcept nogil
    cdef _record_top(self, int64_t size)
    cdef _teach(self, int64_t size)
