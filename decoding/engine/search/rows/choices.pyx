"""How rows choose their tokens: each by its request's rules, all without the GIL."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.engine.search.rows.outputs cimport address
from decoding.engine.search.stopping cimport RUNNING, Ending, Stopping, hide, restore
from decoding.kernels._library cimport (
    DEC_FORBIDDEN, DEC_INFINITE, DEC_NAN, DEC_OK, c_draw, c_greedy, c_token_logprobs, c_top_n, dec_filter, dec_rows, dec_status,
    dec_stream, scratch_size,
)

import numpy as np

from decoding.filters import ALL_OFF
from decoding.kernels import uniform
from decoding.strategies import Sample, TopN


cdef class RowRules:
    """How the rows of a request choose their tokens, and when they end.

    Args:
        settings: of the request.
        stopping: its rules.
        drawn: the tokens are drawn already, on a device: there is nothing left to choose.
    """

    def __init__(self, settings, Stopping stopping, bint drawn):
        strategy = settings.strategy
        samples = isinstance(strategy, Sample) and not drawn
        self.stopping, self.top_n = stopping, strategy.n if isinstance(strategy, TopN) else 0
        self.how = TOP_N if self.top_n else SAMPLE if samples else GREEDY
        f = strategy.filters if samples else ALL_OFF
        self.is_plain = self.how != TOP_N and dict(f) == dict(ALL_OFF)
        self.filter = dec_filter(f["top_k"], f["top_p"], f["min_p"], f["typical_p"], f["epsilon_cutoff"], f["eta_cutoff"])


cdef class RowChoices:
    """Chooses the tokens of all rows after a step, and writes them where the network reads them next.

    Args:
        status: uint8 [capacity], of each slot; `lengths`: int64 [capacity], its new tokens. Both are read at every step.
        logits: float32 [capacity, V], C-contiguous; read at every step.
        tokens: int64 [capacity], C-contiguous; the choices are written here.
        ids: where `logits` are not all: int64 [capacity, k], ascending, says of which tokens they are, and `normalizers`,
            float64 [capacity], has the logarithm of the sum of the exponentials of all; else both are None.

    Attributes:
        temperature, seeds, streams: of each slot; `lengths`: as given.
        was_edited: whether the last step chose by edited logits.
    """

    def __init__(self, status, lengths, logits, tokens, ids, normalizers):
        capacity, width = logits.shape
        self.temperature, self.lengths, self.was_edited = np.ones(capacity, np.float32), lengths, False
        self.seeds, self.streams = np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint64)
        self._how_array, self._plain_array = np.zeros(capacity, np.uint8), np.zeros(capacity, np.uint8)
        self._top_ns_array = np.zeros(capacity, np.int64)
        self._filters_array = np.zeros((capacity, sizeof(dec_filter)), np.uint8)
        self._endings_array = np.zeros((capacity, sizeof(Ending)), np.uint8)
        self._eos_count, self._eos_logits = 0, NULL

        logprobs = np.zeros(capacity, np.float32)
        scratch = np.empty(scratch_size(width) + 64, np.uint8)
        self._buffers = (status, logits, tokens, ids, normalizers, logprobs, scratch)
        self._logits = dec_rows(<const float *> address(logits), 0, width, width)
        self._ids = NULL if ids is None else <const int64_t *> address(ids)
        self._normalizers = NULL if ids is None else <const double *> address(normalizers)
        self._status, self._lengths = <const uint8_t *> address(status), <const int64_t *> address(lengths)
        self._how, self._plain = <uint8_t *> address(self._how_array), <uint8_t *> address(self._plain_array)
        self._top_ns = <int64_t *> address(self._top_ns_array)
        self._filters = <dec_filter *> address(self._filters_array)
        self._streams, self._seeds = <uint64_t *> address(self.streams), <uint64_t *> address(self.seeds)
        self._stream = dec_stream(0, self._streams, self._lengths, 0, self._seeds)
        self._scratch = <void *> ((<size_t> address(scratch) + 63) & ~<size_t> 63)
        self.temperatures = <float *> address(self.temperature)
        self.endings = <Ending *> address(self._endings_array)
        self.tokens, self.logprobs = <int64_t *> address(tokens), <float *> address(logprobs)

    cdef begin(self, int64_t slot, RowRules rules, uint64_t seed, uint64_t stream, float temperature):
        """Let a new row choose by these rules, with draws of this key."""
        capacity, eos_count = len(self.seeds), rules.stopping.ending.eos_count
        if eos_count > self._eos_count:
            self._eos_count = eos_count
            self._eos_logits_array = np.zeros((capacity, eos_count), np.float32)
            self._eos_logits = <float *> address(self._eos_logits_array)
        self._seeds[slot], self._streams[slot], self.temperatures[slot] = seed, stream, temperature
        self._how[slot], self._plain[slot] = rules.how, rules.is_plain
        self._top_ns[slot], self._filters[slot], self.endings[slot] = rules.top_n, rules.filter, rules.stopping.ending

    cdef keep(self, object slots):
        """Move the rows at `slots` to the front, in that order."""
        for array in (self.temperature, self.seeds, self.streams, self._how_array, self._plain_array, self._top_ns_array,
                      self._filters_array, self._endings_array):
            array[:len(slots)] = array[slots]

    def draws(self):
        """Return float64 [2, capacity]: the uniform number of each row's next draw, and its temperature."""
        return np.stack([uniform(self.seeds, self.streams, self.lengths, 1, "draw")[:, 0], self.temperature])

    cdef float *logits(self) noexcept nogil:
        """Return the network's logits."""
        return <float *> self._logits.data

    cdef bint is_plain(self, int64_t size) noexcept nogil:
        """Return whether every row runs, and all take the most probable token, or all draw one without filters."""
        cdef int64_t row
        for row in range(size):
            if self._status[row] != RUNNING or not self._plain[row] or self._how[row] != self._how[0]:
                return False
            if hide(&self.endings[row], self._lengths[row], NULL, NULL):
                return False
        return True

    cdef const dec_stream *stream(self) noexcept nogil:
        """Return the stream of the next draws of plain rows; NULL where nothing is drawn."""
        return NULL if self._how[0] == GREEDY else &self._stream

    cdef dec_status choose(self, float *source, const uint8_t *edited, int64_t size, int64_t *bad) noexcept nogil:
        """Fill tokens and log-probabilities of the running rows.

        Args:
            source: the logits to choose by: the network's, or an edited copy.
            edited: of which rows the copy was edited; NULL where `source` are the network's.
        """
        cdef bint hidden = self._hide_eos(source, size)
        cdef dec_status status = self._check_normalizers(size, bad)
        self.was_edited = edited != NULL
        if status == DEC_OK:
            status = self._choose(source, size, bad)
        if status == DEC_OK and self._ids != NULL:
            self._name_choices(size)
        if hidden and edited == NULL:
            self._restore_eos(source, size)
        if status == DEC_OK and (hidden or edited != NULL):
            status = self._own_logprobs(edited, size, bad)
        return status

    cdef bint _hide_eos(self, float *source, int64_t size) noexcept nogil:
        """Hide EOS from the running rows that are too short to end, and return whether there are any."""
        cdef int64_t row
        cdef bint any_short = False
        for row in range(size):
            if self._status[row] == RUNNING and hide(
                &self.endings[row], self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
            ):
                any_short = True
        return any_short

    cdef void _restore_eos(self, float *source, int64_t size) noexcept nogil:
        """Undo `_hide_eos`."""
        cdef int64_t row
        for row in range(size):
            if self._status[row] == RUNNING:
                restore(
                    &self.endings[row], self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
                )

    cdef int64_t _run_end(self, int64_t start, int64_t size) noexcept nogil:
        """Return the end of the unbroken run of running rows, all of one kind of choice, that begins at `start`."""
        cdef int64_t end = start
        while end < size and self._status[end] == RUNNING and self._how[end] == self._how[start] \
                and self._top_ns[end] == self._top_ns[start]:
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
            if end == start:  # an idle row
                start += 1
                continue
            logits.data, logits.rows = source + start * logits.stride, end - start
            stream.seeds, stream.rows, stream.steps = self._seeds + start, self._streams + start, self._lengths + start
            if self._how[start] == GREEDY:
                status = c_greedy(&logits, self.tokens + start, self.logprobs + start, self._scratch, bad)
            elif self._how[start] == TOP_N:
                status = c_top_n(&logits, &stream, self._top_ns[start], self.tokens + start, self.logprobs + start,
                                 self._scratch, bad)
            else:
                status = c_draw(&logits, &stream, self.temperatures + start, self._filters + start, 1, 1,
                                self.tokens + start, self.logprobs + start, self._scratch, bad)
            bad[0] += start
            start = end
        return status

    cdef bint _was_changed(self, const uint8_t *edited, int64_t row) noexcept nogil:
        """Return whether processors or `min_new_tokens` changed the logits of a row before its choice."""
        if self._status[row] != RUNNING:
            return False
        return (edited != NULL and edited[row]) or hide(&self.endings[row], self._lengths[row], NULL, NULL)

    cdef dec_status _own_logprobs(self, const uint8_t *edited, int64_t size, int64_t *bad) noexcept nogil:
        """Write the model's own log-probabilities where logits were changed: those of the logits before any edit.

        Other rows keep theirs, which may be rounded otherwise: so their bits do not depend on the rows beside them.
        """
        cdef int64_t start = 0, end
        cdef dec_status status = DEC_OK
        cdef dec_rows logits = self._logits
        while start < size and status == DEC_OK:
            end = start
            while end < size and self._was_changed(edited, end):
                end += 1
            if end == start:
                start += 1
                continue
            logits.data, logits.rows = self._logits.data + start * logits.stride, end - start
            status = c_token_logprobs(&logits, self.tokens + start, self.logprobs + start, self._scratch, bad)
            bad[0] += start
            start = end
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
                at = row * self._logits.width + self.tokens[row]
                self.logprobs[row] = self._logits.data[at] - self._normalizers[row]
                self.tokens[row] = self._ids[at]

    cdef dec_status score_run(self, const float *logits, int64_t steps, const int64_t *tokens, float *logprobs, int64_t *bad) noexcept nogil:
        """Fill the log-probabilities of tokens that a row is forced to take, from its logits [steps, V] before each."""
        cdef int64_t t
        cdef dec_status status
        cdef dec_rows own = self._logits
        self.was_edited = True
        own.data, own.rows = logits, steps
        status = c_token_logprobs(&own, tokens, logprobs, self._scratch, bad)
        for t in range(steps if status == DEC_OK else 0):
            if logprobs[t] == -INFINITY:
                bad[0] = t
                return DEC_FORBIDDEN
        return status
