"""The native half of the sampling loop: chooses the tokens of all rows between two network steps, without the GIL."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.kernels._library cimport (
    DEC_FORBIDDEN, DEC_INFINITE, DEC_NAN, DEC_OK, c_draw, c_greedy, c_token_logprobs, c_top_n, dec_filter, dec_rows, dec_status,
    dec_stream, scratch_size,
)
from decoding.engine.search.stopping cimport BY_EOS, IDLE, RUNNING, Stopping

import numpy as np

from decoding.engine.request import FinishedSequence
from decoding.engine.search.stopping import FINISH_REASONS
from decoding.errors import DecodeError, OptionError
from decoding.filters import ALL_OFF
from decoding.kernels import token_logprobs, top_logprobs, uniform
from decoding.processors import History, apply_processors

cdef class RowSampler:
    """Chooses and records the next token of every running row.

    Slots are those of the batch. A slot is idle, running or finished; each has a line of the
    history, which keeps its address when the batch shrinks.

    Args:
        logits: float32 [capacity, V], C-contiguous; read at every step.
        tokens: int64 [capacity], C-contiguous; the choices are written here for the next step.
        vocab_size: V, where `logits` are not all: then `ids`, int64 [capacity, k], ascending, says of which tokens they
            are, and `normalizers`, float64 [capacity], has the logarithm of the sum of the exponentials of all.
        seed: key of the draws.
        filters: of `Sample`; None takes the most probable token.
        top_n: of `TopN`, else 0.
        stopping: why sequences end, and when they must not.
        processors: callables that edit a copy of the logits before the choice.
        top_logprobs: how many of the best log-probabilities to record at each step.
        teacher_ratio: probability of feeding the teacher's token; None without a teacher.
    """

    def __init__(self, logits, tokens, *, int64_t vocab_size, ids, normalizers, seed, filters, int64_t top_n,
                 Stopping stopping, processors, int64_t top_logprobs, teacher_ratio):
        capacity, width = logits.shape
        max_new_tokens = stopping.max_new_tokens
        self.status = np.zeros(capacity, np.uint8)
        self.sequences = np.zeros(capacity, np.uint64)
        self.lengths = np.zeros(capacity, np.int64)
        self.limits = np.full(capacity, max_new_tokens, np.int64)
        self.temperature = np.ones(capacity, np.float32)
        self.requests = [None] * capacity
        self._lines_array = np.arange(capacity)
        try:
            self._history_array = np.empty((capacity, max_new_tokens), np.int64)
            self._history_logprobs_array = np.empty((capacity, max_new_tokens), np.float32)
        except MemoryError:
            raise OptionError(f"max_new_tokens={max_new_tokens}: no memory for {capacity} rows of them; "
                              "pass a smaller one, or a smaller batch_size") from None
        self._logits_array = logits
        self._processors = tuple(processors)
        self._top, self._top_ids, self._top_values = top_logprobs, None, None
        if top_logprobs:
            self._top_ids = np.empty((capacity, max_new_tokens, top_logprobs), np.int64)
            self._top_values = np.empty((capacity, max_new_tokens, top_logprobs), np.float32)
        self._teacher_ratio, self._teacher_logprobs = teacher_ratio, None
        if teacher_ratio is not None:
            self._teacher_logprobs = np.full((capacity, max_new_tokens), np.nan, np.float32)
        self._attention = None
        self._edited = np.empty_like(logits) if self._processors else None

        logprobs = np.zeros(capacity, np.float32)
        scratch = np.empty(scratch_size(width) + 64, np.uint8)
        eos_logits = np.zeros((capacity, max(1, stopping.eos_count)), np.float32)
        stops = np.zeros(capacity, np.uint8)
        self._buffers = (tokens, logprobs, scratch, eos_logits, stops, ids, normalizers)
        self._ids = NULL if ids is None else <const int64_t *> address(ids)
        self._normalizers = NULL if ids is None else <const double *> address(normalizers)

        self._logits = dec_rows(<const float *> address(logits), 0, width, width)
        self._how, self._top_n = TOP_N if top_n else GREEDY if filters is None else SAMPLE, top_n
        f = filters or ALL_OFF
        self._has_filters = dict(f) != dict(ALL_OFF)
        self._filter = dec_filter(f["top_k"], f["top_p"], f["min_p"], f["typical_p"], f["epsilon_cutoff"], f["eta_cutoff"])
        self._stopping, self._max_new, self._eos_count = stopping, max_new_tokens, stopping.eos_count
        self._eos_logits = <float *> address(eos_logits)
        self._stops = <uint8_t *> address(stops)
        self._status = <uint8_t *> address(self.status)
        self._sequences = <uint64_t *> address(self.sequences)
        self._lengths = <int64_t *> address(self.lengths)
        self._stream = dec_stream(<uint64_t> seed, self._sequences, self._lengths, 0)
        self._limits = <int64_t *> address(self.limits)
        self._temperature = <float *> address(self.temperature)
        self._lines = <int64_t *> address(self._lines_array)
        self._logprobs = <float *> address(logprobs)
        self._tokens = <int64_t *> address(tokens)
        self._history = <int64_t *> address(self._history_array)
        self._history_logprobs = <float *> address(self._history_logprobs_array)
        self._scratch = <void *> ((<size_t> address(scratch) + 63) & ~<size_t> 63)

    def admit(self, slots, sequences, requests):
        """Start new sequences, each of one of the requests, at these slots."""
        self.status[slots] = RUNNING
        self.sequences[slots] = sequences
        self.lengths[slots] = 0
        self.temperature[slots] = [request.temperature for request in requests]
        self.limits[slots] = [self._stopping.limit(request.max_new_tokens) for request in requests]
        for slot, request in zip(slots, requests):
            self.requests[slot] = request

    def advance(self, int64_t size):
        """Choose a token for each running row of the first `size`, record it, and return how many rows finished by it.

        Raises:
            DecodeError: a row's logits are NaN, infinite or all forbidden.
        """
        cdef int64_t bad = 0, finished = 0
        cdef dec_status status
        cdef float *source = self.logits()
        if self._edited is not None:
            self._edit(size)
            source = <float *> address(self._edited)
        with nogil:
            status = self.choose(source, size, &bad)
            if status == DEC_OK:
                self.record(size)
                if not self._stopping.looks_for_stops:
                    finished = self.finish(size)
        if status != DEC_OK:
            raise self.error(status, bad)
        if self._top:
            self._record_top(size)
        if self._stopping.looks_for_stops:
            finished = self.finish_or_stop(size)
        if self._teacher_ratio is not None:
            self._teach(size)
        return finished

    def draws(self):
        """Return float64 [2, capacity]: the uniform number of each row's next draw, and its temperature."""
        return np.stack([uniform(int(self._stream.seed), self.sequences, self.lengths, 1, "draw")[:, 0], self.temperature])

    def record_attention(self, weights):
        """Write the weights [size, source] of the step whose tokens were just chosen; the source may grow from step to step."""
        width = weights.shape[1]
        if self._attention is None or self._attention.shape[2] < width:
            wider = np.zeros((*self._history_array.shape, width), np.float32)
            if self._attention is not None:
                wider[..., : self._attention.shape[2]] = self._attention
            self._attention = wider
        rows = np.flatnonzero(self.status[: len(weights)])
        self._attention[self._lines_array[rows], self.lengths[rows] - 1, :width] = weights[rows]

    def chosen(self, int64_t size):
        """Return (sequence, token, log-probability, finish reason or None) of each row that chose in the last step."""
        rows = np.flatnonzero((self.status[:size] != IDLE) & (self.lengths[:size] > 0))  # not those that just came
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        reasons = [FINISH_REASONS[status] for status in self.status[rows]]
        return zip(self.sequences[rows].tolist(), self._history_array[lines, last].tolist(),
                   self._history_logprobs_array[lines, last].tolist(), reasons)

    def finished(self, int64_t size):
        """Return the slots of finished rows that were not taken yet."""
        return np.flatnonzero(self.status[:size] > RUNNING)

    def running(self, int64_t size):
        """Return the slots of running rows."""
        return np.flatnonzero(self.status[:size] == RUNNING)

    def output(self, int64_t slot):
        """Return the new tokens of the row there so far, a view that cannot be written to."""
        tokens = self._history_array[self._lines_array[slot], : self.lengths[slot]]
        tokens.flags.writeable = False
        return tokens

    def take(self, int64_t slot, siblings, source_length):
        """Return the finished row there; the slot becomes idle.

        Args:
            siblings: outputs that its request has.
            source_length: weights over the source that are the row's own.
        """
        cdef int64_t i, first
        cdef double total = 0.0
        line, length, status = self._lines_array[slot], self.lengths[slot], int(self.status[slot])
        self.status[slot] = IDLE
        tokens = self._history_array[line, :length].copy()
        eos = int(tokens[length - 1]) if status == BY_EOS else None
        tokens = tokens if eos is None else tokens[: length - 1]
        first = self._lines[slot] * self._max_new
        for i in range(first, first + self._lengths[slot]):
            total += self._history_logprobs[i]
        return FinishedSequence(
            sequence=int(self.sequences[slot]),
            tokens=tokens,
            logprobs=self._history_logprobs_array[line, :length].copy(),
            logprob=total,
            finish_reason=FINISH_REASONS[status],
            score=total,
            siblings=siblings,
            eos=eos,
            top=(self._top_ids[line, :length].copy(), self._top_values[line, :length].copy()) if self._top else None,
            teacher=None if self._teacher_logprobs is None else self._teacher_logprobs[line, :length].copy(),
            attention=None if self._attention is None else self._attention[line, : len(tokens), :source_length].copy(),
        )

    def keep(self, slots):
        """Move the rows at `slots` to the front, in that order; the others are forgotten."""
        size = len(slots)
        for array in (self.status, self.sequences, self.lengths, self.limits, self.temperature):
            array[:size] = array[slots]
        self.requests[:size] = [self.requests[slot] for slot in slots]
        dropped = np.setdiff1d(np.arange(len(self._lines_array)), slots)
        self._lines_array[:] = self._lines_array[np.concatenate([slots, dropped])]
        self.status[size:] = IDLE

    cdef _edit(self, int64_t size):
        """Copy the logits of the running rows and let the processors edit them."""
        running = self.running(size)
        edited = self._edited[: len(running)]
        np.take(self._logits_array, running, axis=0, out=edited, mode="clip")
        history = History([self.requests[i].ids for i in running], [self.output(i) for i in running])
        apply_processors(self._processors, history, edited)
        if len(running) < size:  # back to their slots; idle rows are not looked at
            self._edited[running] = edited.copy()

    cdef float *logits(self) noexcept nogil:
        """Return the network's logits."""
        return <float *> self._logits.data

    cdef int64_t count_running(self, int64_t size) noexcept nogil:
        """Return how many rows run."""
        cdef int64_t row, count = 0
        for row in range(size):
            count += self._status[row] == RUNNING
        return count

    cdef bint is_plain(self, int64_t size) noexcept nogil:
        """Return whether every row runs, and takes the most probable token or draws one without filters."""
        cdef int64_t row
        if self._how == TOP_N or self._has_filters:
            return False
        for row in range(size):
            if self._status[row] != RUNNING or self._stopping.hide(self._lengths[row], NULL, NULL):
                return False
        return True

    cdef const dec_stream *stream(self) noexcept nogil:
        """Return the stream of the rows' next draws; NULL where nothing is drawn."""
        return NULL if self._how == GREEDY else &self._stream

    cdef bint may_stop(self, int64_t size) noexcept nogil:
        """Return whether the choices just recorded may complete a stop sequence or a stop string."""
        cdef int64_t row
        if self._stopping.looks_for_stops:
            for row in range(size):
                if self._status[row] == RUNNING and self._stopping.may_stop(self._tokens[row]):
                    return True
        return False

    cdef dec_status choose(self, float *source, int64_t size, int64_t *bad) noexcept nogil:
        """Fill tokens and log-probabilities of the running rows.

        Args:
            source: the logits to choose by: the network's, or an edited copy.
        """
        cdef bint edited = source != self._logits.data, hidden = self._hide_eos(source, size)
        cdef dec_status status = self._check_normalizers(size, bad)
        if status == DEC_OK:
            status = self._choose(source, size, bad)
        if status == DEC_OK and self._ids != NULL:
            self._name_choices(size)
        if hidden and not edited:
            self._restore_eos(source, size)
        if status == DEC_OK and (hidden or edited):
            status = self._own_logprobs(size, bad)
        return status

    cdef bint _hide_eos(self, float *source, int64_t size) noexcept nogil:
        """Hide EOS from the running rows that are too short to end, and return whether there are any."""
        cdef int64_t row
        cdef bint any_short = False
        for row in range(size):
            if self._status[row] == RUNNING and self._stopping.hide(
                self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
            ):
                any_short = True
        return any_short

    cdef void _restore_eos(self, float *source, int64_t size) noexcept nogil:
        """Undo `_hide_eos`."""
        cdef int64_t row
        for row in range(size):
            if self._status[row] == RUNNING:
                self._stopping.restore(
                    self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
                )

    cdef int64_t _run_end(self, int64_t start, int64_t size) noexcept nogil:
        """Return the end of the unbroken run of running rows that begins at `start`."""
        cdef int64_t end = start
        while end < size and self._status[end] == RUNNING:
            end += 1
        return end

    cdef dec_status _choose(self, const float *source, int64_t size, int64_t *bad) noexcept nogil:
        """Fill tokens and log-probabilities of the running rows, one kernel call for each unbroken run of them."""
        cdef int64_t start = 0, end
        cdef dec_status status = DEC_OK
        cdef dec_rows logits = self._logits
        cdef dec_stream stream = self._stream
        while start < size and status == DEC_OK:
            end = self._run_end(start, size)
            if end > start:
                logits.data, logits.rows = source + start * logits.stride, end - start
                stream.rows, stream.steps = self._sequences + start, self._lengths + start
                if self._how == GREEDY:
                    status = c_greedy(&logits, self._tokens + start, self._logprobs + start, self._scratch, bad)
                elif self._how == TOP_N:
                    status = c_top_n(&logits, &stream, self._top_n, self._tokens + start, self._logprobs + start,
                                     self._scratch, bad)
                else:
                    status = c_draw(&logits, &stream, self._temperature + start, &self._filter, 1,
                                    self._tokens + start, self._logprobs + start, self._scratch, bad)
                bad[0] += start
            start = end + 1
        return status

    cdef dec_status _own_logprobs(self, int64_t size, int64_t *bad) noexcept nogil:
        """Write the model's own log-probabilities of the choices: those of the logits before any edit."""
        cdef int64_t start = 0, end
        cdef dec_status status = DEC_OK
        cdef dec_rows logits = self._logits
        while start < size and status == DEC_OK:
            end = self._run_end(start, size)
            if end > start:
                logits.data, logits.rows = self._logits.data + start * logits.stride, end - start
                status = c_token_logprobs(&logits, self._tokens + start, self._logprobs + start, self._scratch, bad)
                bad[0] += start
            start = end + 1
        return status

    cdef dec_status _check_normalizers(self, int64_t size, int64_t *bad) noexcept nogil:
        """Check the logits that did not come down: the sum of all shows a NaN, a +inf, nothing but -inf."""
        cdef int64_t row
        cdef double normalizer
        if self._ids == NULL:
            return DEC_OK
        for row in range(size):
            normalizer = self._normalizers[row]
            if self._status[row] == RUNNING and not -INFINITY < normalizer < INFINITY:
                bad[0] = row
                return DEC_NAN if normalizer != normalizer else DEC_INFINITE if normalizer > 0 else DEC_FORBIDDEN
        return DEC_OK

    cdef void _name_choices(self, int64_t size) noexcept nogil:
        """Turn columns of the logits that came down into tokens, and their logits into log-probabilities among all."""
        cdef int64_t row, at
        for row in range(size):
            if self._status[row] == RUNNING:
                at = row * self._logits.width + self._tokens[row]
                self._logprobs[row] = self._logits.data[at] - self._normalizers[row]
                self._tokens[row] = self._ids[at]

    cdef void record(self, int64_t size) noexcept nogil:
        """Write the choices into the history."""
        cdef int64_t row, at
        for row in range(size):
            if self._status[row] == RUNNING:
                at = self._lines[row] * self._max_new + self._lengths[row]
                self._history[at] = self._tokens[row]
                self._history_logprobs[at] = self._logprobs[row]
                self._lengths[row] += 1

    cdef int64_t finish(self, int64_t size) noexcept nogil:
        """Set which rows end with their choices, and return how many do."""
        cdef int64_t row, finished = 0
        for row in range(size):
            if self._status[row] == RUNNING:
                self._status[row] = self._stopping.finish(
                    self._tokens[row], self._stops[row], self._lengths[row], self._limits[row]
                )
                self._stops[row] = 0
                finished += self._status[row] != RUNNING
        return finished

    cdef int64_t finish_or_stop(self, int64_t size) except -1:
        """Do as `finish` does, and look for stop sequences and stop strings too."""
        for slot in self.running(size):
            self._stops[<int64_t> slot] = self._stopping.stops(self.output(slot))
        return self.finish(size)

    cdef _record_top(self, int64_t size):
        """Write the best log-probabilities of the rows that chose."""
        rows = np.flatnonzero(self.status[:size])
        values, ids = top_logprobs(self._logits_array[rows], self._top)
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        self._top_ids[lines, last], self._top_values[lines, last] = ids, values

    cdef _teach(self, int64_t size):
        """Record the teacher's tokens' log-probabilities and feed them, by the coin, instead of the choices."""
        cdef int64_t[:] tokens = self._buffers[0]
        rows = np.array([i for i in np.flatnonzero(self.status[:size]) if self.lengths[i] <= len(self.requests[i].teacher)], np.int64)
        if not len(rows):
            return
        last = self.lengths[rows] - 1
        taught = np.array([self.requests[i].teacher[t] for i, t in zip(rows, last)], np.int64)
        self._teacher_logprobs[self._lines_array[rows], last] = token_logprobs(self._logits_array[rows], taught)
        coins = uniform(int(self._stream.seed), self.sequences[rows], last, 1, "teacher")[:, 0]
        for i, token, coin in zip(rows, taught, coins):
            if coin < self._teacher_ratio:
                tokens[i] = token

    cdef object error(self, dec_status status, int64_t row):
        sequence, step = int(self.sequences[row]), int(self.lengths[row])
        fault = {DEC_NAN: "hold a NaN", DEC_INFINITE: "hold +inf"}.get(status, "are all -inf, so no token is possible")
        edits = ["the processors"] * (self._edited is not None) + ["min_new_tokens"] * self._stopping.hides_eos(self.lengths[row : row + 1])
        whose = f"logits, after {' and '.join(edits)}," if edits else "logits"
        return DecodeError(f"sequence {sequence}, step {step}: the model's {whose} {fault}; check the weights, the inputs and the processors",
                           row=sequence, step=step)


cdef void *address(array) except NULL:
    assert array.flags.c_contiguous
    return <void *> <size_t> array.ctypes.data
