from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t

# What a slot of a search is. The last three are finish reasons.
cdef enum slot_status:
    IDLE = 0
    RUNNING = 1
    BY_EOS = 2
    BY_STOP = 3
    BY_LENGTH = 4

# The rules of one request that need no Python. The arrays belong to a `Stopping`.
ctypedef struct Ending:
    int64_t min_new_tokens
    const int64_t *eos  # ids that end a sequence
    int64_t eos_count
    const uint8_t *is_eos  # [V]
    const uint8_t *may_stop  # [V]: whether `Stopping.stops` is to be asked after this token; where not, it would say no

cdef class Stopping:
    cdef readonly int64_t min_new_tokens, max_new_tokens
    cdef readonly bint looks_for_stops
    cdef Ending ending
    cdef tuple _stop, _stop_strings, _buffers
    cdef object _tokenizer, _joins_next
    cdef int64_t _tail


cdef inline bint hide(const Ending *ending, int64_t length, float *logits, float *hidden) noexcept nogil:
    """Forbid the EOS ids to a row that is too short to end, and return whether it is.

    Args:
        logits: of the row; NULL only asks.
        hidden: keeps what was hidden, for `restore`; may be NULL.
    """
    cdef int64_t i
    if length >= ending.min_new_tokens or not ending.eos_count:
        return False
    if logits != NULL:
        for i in range(ending.eos_count):
            if hidden != NULL:
                hidden[i] = logits[ending.eos[i]]
            logits[ending.eos[i]] = -INFINITY
    return True


cdef inline void restore(const Ending *ending, int64_t length, float *logits, const float *hidden) noexcept nogil:
    """Undo `hide`."""
    cdef int64_t i
    if hide(ending, length, NULL, NULL):
        for i in range(ending.eos_count):
            logits[ending.eos[i]] = hidden[i]


cdef inline slot_status ends(const Ending *ending, int64_t token, bint stops, int64_t length, int64_t limit) noexcept nogil:
    """Return whether a sequence of this length ends with its newest token, and why: by EOS, else a stop, else its length.

    Args:
        stops: whether a stop sequence or a stop string ends with this token.
        limit: its longest length.
    """
    return BY_EOS if ending.is_eos[token] else BY_STOP if stops else BY_LENGTH if length >= limit else RUNNING
