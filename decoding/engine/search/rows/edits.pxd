from libc.stdint cimport int64_t, uint8_t

from decoding.engine.search.rows.outputs cimport RowOutputs
from decoding.engine.search.stopping cimport Ending


cdef class RowEdits:
    cdef readonly bint has_processors, has_constraints
    cdef readonly object failed
    cdef object _status, _masks, _logits, _edited, _which_array
    cdef list _requests
    cdef RowOutputs _outputs
    cdef list _matchers  # of each slot, one for each of its constraints
    cdef list _groups, _constrained, _followed  # of the running rows: by processors; with constraints; their matchers
    cdef float *edited
    cdef uint8_t *which

    cdef begin(self, int64_t slot, object request)
    cdef forget(self, int64_t slot)
    cdef release(self, int64_t slot)
    cdef keep(self, object slots)
    cdef regroup(self)
    cdef bint edit(self, int64_t size) except -1
    cdef list only_constrained(self, int64_t size)
    cdef object forced(self, int64_t size, int64_t most)
    cdef consume(self, const int64_t *tokens, const Ending *endings)
    cdef end_where_whole(self, int64_t size, const Ending *endings, uint8_t *stops)
    cdef begin_masks(self, bint finished)
    cdef tuple matchers(self, int64_t slot)
    cdef _group(self, int64_t size)
    cdef _apply(self, tuple processors, list slots, object edited)
    cdef _culprit(self, tuple processors, list slots)
