"""What happens to the rows between two network steps, in one native call without the GIL."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.kernels cimport (
    DEC_INFINITE, DEC_NAN, DEC_OK, c_draw, c_greedy, dec_filter, dec_rows, dec_status, dec_stream, scratch_size,
)

import numpy as np

from decoding.errors import DecodeError

cdef enum:
    IDLE = 0
    RUNNING = 1
    BY_EOS = 2
    BY_LENGTH = 3

REASONS = {BY_EOS: "eos", BY_LENGTH: "length"}


cdef class RowSampler:
    """Chooses and records the next token of every running row.

    Positions are those of the running batch. A position is idle, running or finished; each has a line of the
    history, which stays where it is when the batch shrinks.

    Args:
        logits: float32 [capacity, V], C-contiguous; read at every step.
        tokens: int64 [capacity], C-contiguous; the choices are written here for the next step.
        seed: key of the draws.
        greedy: take the most probable token instead of drawing.
        eos: ids that end a sequence.
        max_new_tokens: longest sequence, EOS included.
    """

    cdef readonly object status, sequences, lengths, temperature
    cdef object _buffers
    cdef dec_rows _logits
    cdef dec_stream _stream
    cdef dec_filter _filter
    cdef bint _greedy
    cdef int64_t _max_new
    cdef const uint8_t *_is_eos
    cdef uint8_t *_status
    cdef uint64_t *_sequences
    cdef int64_t *_lengths
    cdef int64_t *_lines
    cdef float *_temperature
    cdef int64_t *_tokens
    cdef float *_logprobs
    cdef int64_t *_history
    cdef float *_history_logprobs
    cdef void *_scratch
    cdef object _lines_array, _logprobs_array, _history_array, _history_logprobs_array

    def __init__(self, logits, tokens, *, seed, bint greedy, eos, int64_t max_new_tokens):
        capacity, width = logits.shape
        self.status = np.zeros(capacity, np.uint8)
        self.sequences = np.zeros(capacity, np.uint64)
        self.lengths = np.zeros(capacity, np.int64)
        self.temperature = np.ones(capacity, np.float32)
        self._lines_array = np.arange(capacity)
        self._logprobs_array = np.zeros(capacity, np.float32)
        self._history_array = np.empty((capacity, max_new_tokens), np.int64)
        self._history_logprobs_array = np.empty((capacity, max_new_tokens), np.float32)
        is_eos = np.zeros(width, np.uint8)
        is_eos[list(eos)] = 1
        scratch = np.empty(scratch_size(width) + 64, np.uint8)
        self._buffers = (logits, tokens, is_eos, scratch)

        self._logits = dec_rows(<const float *> address(logits), 0, width, width)
        self._stream = dec_stream(<uint64_t> seed, NULL, NULL, 0)
        self._filter = dec_filter(0, 1.0, 0.0, 1.0, 0.0, 0.0)
        self._greedy, self._max_new = greedy, max_new_tokens
        self._is_eos = <const uint8_t *> address(is_eos)
        self._status = <uint8_t *> address(self.status)
        self._sequences = <uint64_t *> address(self.sequences)
        self._lengths = <int64_t *> address(self.lengths)
        self._temperature = <float *> address(self.temperature)
        self._lines = <int64_t *> address(self._lines_array)
        self._logprobs = <float *> address(self._logprobs_array)
        self._tokens = <int64_t *> address(tokens)
        self._history = <int64_t *> address(self._history_array)
        self._history_logprobs = <float *> address(self._history_logprobs_array)
        self._scratch = <void *> ((<size_t> address(scratch) + 63) & ~<size_t> 63)

    def admit(self, positions, sequences, temperature):
        """Start new sequences at these positions; `temperature` is one for each, or None when greedy."""
        self.status[positions] = RUNNING
        self.sequences[positions] = sequences
        self.lengths[positions] = 0
        if temperature is not None:
            self.temperature[positions] = temperature

    def advance(self, int64_t size):
        """Choose a token for each running row of the first `size` and record it; how many rows finished by it.

        Raises:
            DecodeError: a row's logits are NaN, infinite or all forbidden.
        """
        cdef int64_t bad = 0, finished = 0
        cdef dec_status status
        with nogil:
            status = self._choose(size, &bad)
            if status == DEC_OK:
                finished = self._record(size)
        if status != DEC_OK:
            raise self._error(status, bad)
        return finished

    def chosen(self, int64_t size):
        """(sequence, token, log-probability, reason or None) of each row that chose in the last step."""
        rows = np.flatnonzero(self.status[:size])
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        return zip(self.sequences[rows].tolist(), self._history_array[lines, last].tolist(),
                   self._history_logprobs_array[lines, last].tolist(), map(REASONS.get, self.status[rows].tolist()))

    def finished(self, int64_t size):
        """Positions of finished rows that were not taken yet."""
        return np.flatnonzero(self.status[:size] > RUNNING)

    def running(self, int64_t size):
        """Positions of running rows."""
        return np.flatnonzero(self.status[:size] == RUNNING)

    def take(self, int64_t position):
        """The finished row there as (sequence, tokens without EOS, log-probabilities, reason); the position becomes idle."""
        line, length, status = self._lines_array[position], self.lengths[position], int(self.status[position])
        self.status[position] = IDLE
        tokens = self._history_array[line, : length - (status == BY_EOS)].copy()
        return int(self.sequences[position]), tokens, self._history_logprobs_array[line, :length].copy(), REASONS[status]

    def keep(self, positions):
        """Move the rows at `positions` to the front, in that order; the others are forgotten."""
        size = len(positions)
        for array in (self.status, self.sequences, self.lengths, self.temperature):
            array[:size] = array[positions]
        dropped = np.setdiff1d(np.arange(len(self._lines_array)), positions)
        self._lines_array[:] = self._lines_array[np.concatenate([positions, dropped])]
        self.status[size:] = IDLE

    cdef dec_status _choose(self, int64_t size, int64_t *bad) noexcept nogil:
        """Fill tokens and log-probabilities of the running rows, one kernel call for each unbroken run of them."""
        cdef int64_t start = 0, end
        cdef dec_status status = DEC_OK
        cdef dec_rows logits = self._logits
        cdef dec_stream stream = self._stream
        while start < size and status == DEC_OK:
            if self._status[start] != RUNNING:
                start += 1
                continue
            end = start + 1
            while end < size and self._status[end] == RUNNING:
                end += 1
            logits.data, logits.rows = self._logits.data + start * logits.stride, end - start
            if self._greedy:
                status = c_greedy(&logits, self._tokens + start, self._logprobs + start, self._scratch, bad)
            else:
                stream.rows, stream.steps = self._sequences + start, self._lengths + start
                status = c_draw(&logits, &stream, self._temperature + start, &self._filter, 1,
                                   self._tokens + start, self._logprobs + start, self._scratch, bad)
            bad[0] += start
            start = end
        return status

    cdef int64_t _record(self, int64_t size) noexcept nogil:
        """Write the choices into the history and see which rows end with them."""
        cdef int64_t row, place, finished = 0
        for row in range(size):
            if self._status[row] != RUNNING:
                continue
            place = self._lines[row] * self._max_new + self._lengths[row]
            self._history[place] = self._tokens[row]
            self._history_logprobs[place] = self._logprobs[row]
            self._lengths[row] += 1
            if self._is_eos[self._tokens[row]]:
                self._status[row] = BY_EOS
                finished += 1
            elif self._lengths[row] == self._max_new:
                self._status[row] = BY_LENGTH
                finished += 1
        return finished

    def _error(self, dec_status status, int64_t row):
        sequence, step = int(self.sequences[row]), int(self.lengths[row])
        what = {DEC_NAN: "hold a NaN", DEC_INFINITE: "hold +inf"}.get(status, "are all -inf, so no token is possible")
        return DecodeError(f"sequence {sequence}, step {step}: the model's logits {what}; check the weights, the inputs and the processors",
                           row=sequence, step=step)


cdef void *address(array) except NULL:
    assert array.flags.c_contiguous
    return <void *> <size_t> array.ctypes.data
