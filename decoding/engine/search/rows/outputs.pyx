"""What the rows of a sampling search have written: tokens and log-probabilities, and what is asked for beside them."""

from libc.stdint cimport int64_t, uint8_t

import numpy as np

from decoding.engine.search.stopping cimport RUNNING
from decoding.errors import OptionError
from decoding.kernels import top_logprobs


cdef class RowOutputs:
    """The outputs of rows so far. Each slot has a line of the buffers; when rows change slots, no line is copied.

    Args:
        status: uint8 [capacity], of each slot; read whenever something is recorded.
        longest: outputs for which there is room at first; longer ones widen the buffers.
        taught: whether the log-probabilities of a teacher's tokens are kept.

    Attributes:
        lengths: int64 [capacity], new tokens of each slot; keeps its address.
        most_top: the greatest number of best tokens a step that a row has asked for.
    """

    def __init__(self, status, int64_t longest, *, bint taught):
        capacity = len(status)
        self._status_array, self._status = status, <const uint8_t *> address(status)
        self.lengths = np.zeros(capacity, np.int64)
        self.length_of = <int64_t *> address(self.lengths)
        self._tops = np.zeros(capacity, np.int64)
        self._lines_array = np.arange(capacity)
        self._lines = <int64_t *> address(self._lines_array)
        self._tokens_array, self._logprobs_array = np.empty((capacity, 0), np.int64), None
        self._top_ids = self._top_values = self._attention = None
        self._teacher = np.empty((capacity, 0), np.float32) if taught else None
        self._width = self.most_top = 0
        self._reserve(longest, 0)

    cdef begin(self, int64_t slot, int64_t longest, int64_t top):
        """Begin an output of at most that many tokens, with that many best log-probabilities a token."""
        self._reserve(longest, top)
        self.length_of[slot], self._tops[slot] = 0, top

    cdef _reserve(self, int64_t longest, int64_t top):
        """Make room for outputs of that length, with that many best log-probabilities a token."""
        before, capacity = self._width, len(self._lines_array)
        if longest <= before and top <= self.most_top:
            return
        # Twice as wide as before, so that outputs of growing length cost few copies.
        width = before if longest <= before else max(longest, min(2 * before, 4096))
        most = max(top, self.most_top)
        try:
            self._tokens_array = _wider(self._tokens_array, (capacity, width), np.int64)
            self._logprobs_array = _wider(self._logprobs_array, (capacity, width), np.float32)
            if most:
                self._top_ids = _wider(self._top_ids, (capacity, width, most), np.int64)
                self._top_values = _wider(self._top_values, (capacity, width, most), np.float32)
            if self._teacher is not None:
                self._teacher = _wider(self._teacher, (capacity, width), np.float32, np.nan)
            if self._attention is not None:
                self._attention = _wider(self._attention, (capacity, width, self._attention.shape[2]), np.float32)
        except MemoryError:
            raise OptionError(f"max_new_tokens={longest}: no memory for {capacity} rows of them; "
                              "pass a smaller one, or a smaller batch_size") from None
        self._width, self.most_top = width, most
        self._tokens = <int64_t *> address(self._tokens_array)
        self._logprobs = <float *> address(self._logprobs_array)

    # -- recording: the running rows of the first `size` ---------------------------------------------------

    cdef void record(self, const int64_t *tokens, const float *logprobs, int64_t size) noexcept nogil:
        """Write the choices of a step."""
        cdef int64_t row, at
        for row in range(size):
            if self._status[row] == RUNNING:
                at = self._lines[row] * self._width + self.length_of[row]
                self._tokens[at] = tokens[row]
                self._logprobs[at] = logprobs[row]
                self.length_of[row] += 1

    cdef record_some(self, int64_t slot, const int64_t *tokens, int64_t count):
        """Write tokens of one row that an error follows: only messages read them."""
        cdef int64_t i, at = self._lines[slot] * self._width + self.length_of[slot]
        for i in range(count):
            self._tokens[at + i] = tokens[i]
        self.length_of[slot] += count

    cdef record_top(self, object logits, int64_t size):
        """Write the best log-probabilities of the rows that just chose and want them."""
        rows = np.flatnonzero((self._status_array[:size] != 0) & (self._tops[:size] > 0))
        if not len(rows):
            return
        values, ids = top_logprobs(logits[rows], self.most_top)
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        self._top_ids[lines, last], self._top_values[lines, last] = ids, values

    cdef record_teacher(self, object rows, object logprobs):
        """Write the log-probabilities of the teacher's tokens at the step for which these rows just chose."""
        self._teacher[self._lines_array[rows], self.lengths[rows] - 1] = logprobs

    def record_attention(self, weights):
        """Write the weights [size, source] of the step whose tokens were just chosen; the source may grow from step to step."""
        width = weights.shape[1]
        if self._attention is None or self._attention.shape[2] < width:
            self._attention = _wider(self._attention, (*self._tokens_array.shape, width), np.float32)
        rows = np.flatnonzero(self._status_array[: len(weights)])
        self._attention[self._lines_array[rows], self.lengths[rows] - 1, :width] = weights[rows]

    # -- reading ------------------------------------------------------------------------------------------------

    def tokens(self, int64_t slot):
        """Return the new tokens of the row there so far, a view that cannot be written to."""
        tokens = self._tokens_array[self._lines_array[slot], : self.lengths[slot]]
        tokens.flags.writeable = False
        return tokens

    def logprobs(self, int64_t slot):
        """Return the log-probabilities of `tokens(slot)`, a view."""
        return self._logprobs_array[self._lines_array[slot], : self.lengths[slot]]

    def top(self, int64_t slot):
        """Return ids and log-probabilities [length, k] of the best tokens at each step of the row there, views; None where not asked for."""
        top = self._tops[slot]
        if not top:
            return None
        line, length = self._lines_array[slot], self.lengths[slot]
        return self._top_ids[line, :length, :top], self._top_values[line, :length, :top]

    def teacher(self, int64_t slot):
        """Return the log-probabilities of the teacher's tokens at each step of the row there, a view; None without a teacher."""
        return None if self._teacher is None else self._teacher[self._lines_array[slot], : self.lengths[slot]]

    def attention(self, int64_t slot, int64_t length, source_length):
        """Return the weights [length, source] of the first tokens of the row there, a view; None where there are none."""
        return None if self._attention is None else self._attention[self._lines_array[slot], :length, :source_length]

    def newest(self, rows):
        """Return the newest tokens of these rows, their log-probabilities, and what `top` says of their steps."""
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        tops = [None] * len(rows)
        if self.most_top:
            for i, top in enumerate(map(self.top, rows)):
                if top is not None:
                    step = len(top[0]) - 1
                    tops[i] = top[0][step], top[1][step]
        return self._tokens_array[lines, last].tolist(), self._logprobs_array[lines, last].tolist(), tops

    cdef double total(self, int64_t slot):
        """Return the sum of the log-probabilities of the row there."""
        cdef int64_t i, first = self._lines[slot] * self._width
        cdef double total = 0.0
        for i in range(first, first + self.length_of[slot]):
            total += self._logprobs[i]
        return total

    cdef keep(self, object slots):
        """Move the rows at `slots` to the front, in that order; the lines of the others are free."""
        size = len(slots)
        self.lengths[:size], self._tops[:size] = self.lengths[slots], self._tops[slots]
        dropped = np.setdiff1d(np.arange(len(self._lines_array)), slots)
        self._lines_array[:] = self._lines_array[np.concatenate([slots, dropped])]


def _wider(array, shape, dtype, fill=None):
    """Return an array of this shape with the content of `array`, which is smaller or None; the rest is zero, or `fill`."""
    wider = np.zeros(shape, dtype) if fill is None else np.full(shape, fill, dtype)  # zeros cost nothing until they are read
    if array is not None:
        wider[tuple(map(slice, array.shape))] = array
    return wider
