"""The native half of the sampling loop: chooses the tokens of all rows between two network steps, without the GIL."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint64_t

from decoding.kernels._library cimport (
    DEC_FORBIDDEN, DEC_INFINITE, DEC_NAN, DEC_OK, c_draw, c_greedy, c_token_logprobs, c_top_n, dec_filter, dec_rows, dec_status,
    dec_stream, scratch_size,
)
from decoding.engine.search.stopping cimport BY_EOS, IDLE, RUNNING, Ending, Stopping, ends, hide, restore

import weakref

import numpy as np

from decoding.constraints import Masks, consume, must_end
from decoding.engine.request import FinishedSequence
from decoding.engine.search.stopping import FINISH_REASONS
from decoding.errors import DecodeError, OptionError
from decoding.filters import ALL_OFF
from decoding.kernels import token_logprobs, top_logprobs, uniform
from decoding.processors import History, apply_processors
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
        self.stopping, self.processors, self.top = stopping, settings.processors, settings.top_logprobs
        self.top_n = strategy.n if isinstance(strategy, TopN) else 0
        self.how = TOP_N if self.top_n else SAMPLE if samples else GREEDY
        f = strategy.filters if samples else ALL_OFF
        self.is_plain = self.how != TOP_N and dict(f) == dict(ALL_OFF)
        self.filter = dec_filter(f["top_k"], f["top_p"], f["min_p"], f["typical_p"], f["epsilon_cutoff"], f["eta_cutoff"])


cdef class RowSampler:
    """Chooses and records the next token of every running row; each row by the rules of its own request.

    Slots are those of the batch. A slot is idle, running or finished; each has a line of the
    history, which keeps its address when the batch shrinks.

    Args:
        logits: float32 [capacity, V], C-contiguous; read at every step.
        tokens: int64 [capacity], C-contiguous; the choices are written here for the next step.
        vocab_size: V, where `logits` are not all: then `ids`, int64 [capacity, k], ascending, says of which tokens they
            are, and `normalizers`, float64 [capacity], has the logarithm of the sum of the exponentials of all.
        tokenizer: reads stop strings; None where there are none.
        max_new_tokens: the width of the history at first; requests with longer outputs widen it.
        teacher_ratio: probability of feeding the teacher's token; None without a teacher.
        drawn: the tokens are drawn already, on a device.

    Attributes:
        has_constraints: whether rows have had constraints.
        failed: the slot for which `advance` raised its last error: whose logits it could not use, or whose processors did.
    """

    def __init__(self, logits, tokens, *, int64_t vocab_size, ids, normalizers, tokenizer, int64_t max_new_tokens,
                 teacher_ratio, bint drawn):
        capacity, width = logits.shape
        self.status = np.zeros(capacity, np.uint8)
        self.sequences = np.zeros(capacity, np.uint64)
        self.streams = np.zeros(capacity, np.uint64)
        self.seeds = np.zeros(capacity, np.uint64)
        self.lengths = np.zeros(capacity, np.int64)
        self.limits = np.zeros(capacity, np.int64)
        self.temperature = np.ones(capacity, np.float32)
        self.requests = [None] * capacity
        self.failed = None
        self._how_array = np.zeros(capacity, np.uint8)
        self._plain_array = np.zeros(capacity, np.uint8)
        self._edits_array = np.zeros(capacity, np.uint8)  # rows whose processors edited their logits in this step
        self._top_ns_array = np.zeros(capacity, np.int64)
        self._filters_array = np.zeros((capacity, sizeof(dec_filter)), np.uint8)
        self._endings_array = np.zeros((capacity, sizeof(Ending)), np.uint8)
        self._rules, self._rules_of = [None] * capacity, weakref.WeakKeyDictionary()
        self._lines_array = np.arange(capacity)
        self._history_array, self._history_logprobs_array = np.empty((capacity, 0), np.int64), None
        self._max_new = self._top = self._eos_count = 0
        self._logits_array = logits
        self._top_ids, self._top_values = None, None
        self._teacher_ratio, self._teacher_logprobs = teacher_ratio, None
        self._attention = self._edited = None
        self._tokenizer, self._vocab_size, self._drawn = tokenizer, vocab_size, drawn
        self._looks_for_stops = self._has_processors = self._keeps_states = self._was_edited = self.has_constraints = False
        self._matchers, self._masks, self._groups, self._constrained, self._followed = [()] * capacity, Masks(), None, [], []

        logprobs = np.zeros(capacity, np.float32)
        scratch = np.empty(scratch_size(width) + 64, np.uint8)
        stops = np.zeros(capacity, np.uint8)
        self._buffers = (tokens, logprobs, scratch, stops, ids, normalizers)
        self._ids = NULL if ids is None else <const int64_t *> address(ids)
        self._normalizers = NULL if ids is None else <const double *> address(normalizers)

        self._logits = dec_rows(<const float *> address(logits), 0, width, width)
        self._stops = <uint8_t *> address(stops)
        self._status = <uint8_t *> address(self.status)
        self._how = <uint8_t *> address(self._how_array)
        self._plain = <uint8_t *> address(self._plain_array)
        self._edits = <uint8_t *> address(self._edits_array)
        self._sequences = <uint64_t *> address(self.sequences)
        self._streams = <uint64_t *> address(self.streams)
        self._seeds = <uint64_t *> address(self.seeds)
        self._lengths = <int64_t *> address(self.lengths)
        self._stream = dec_stream(0, self._streams, self._lengths, 0, self._seeds)
        self._limits = <int64_t *> address(self.limits)
        self._temperature = <float *> address(self.temperature)
        self._top_ns = <int64_t *> address(self._top_ns_array)
        self._filters = <dec_filter *> address(self._filters_array)
        self._endings = <Ending *> address(self._endings_array)
        self._lines = <int64_t *> address(self._lines_array)
        self._logprobs = <float *> address(logprobs)
        self._tokens = <int64_t *> address(tokens)
        self._scratch = <void *> ((<size_t> address(scratch) + 63) & ~<size_t> 63)
        self._reserve(max_new_tokens, 0, 1)

    cdef _reserve(self, int64_t max_new_tokens, int64_t top, int64_t eos_count):
        """Make room for outputs of that length, with that many log-probabilities a token, and for that many EOS ids."""
        capacity, before = len(self.status), self._max_new
        if eos_count > self._eos_count:
            self._eos_count = eos_count
            self._eos_logits_array = np.zeros((capacity, eos_count), np.float32)
            self._eos_logits = <float *> address(self._eos_logits_array)
        if max_new_tokens <= before and top <= self._top:
            return
        # Twice as wide as before, so that outputs of growing length cost few copies.
        width = before if max_new_tokens <= before else max(max_new_tokens, min(2 * before, 4096))
        most = max(top, self._top)
        try:
            self._history_array = _wider(self._history_array, (capacity, width), np.int64)
            self._history_logprobs_array = _wider(self._history_logprobs_array, (capacity, width), np.float32)
            if most:
                self._top_ids = _wider(self._top_ids, (capacity, width, most), np.int64)
                self._top_values = _wider(self._top_values, (capacity, width, most), np.float32)
            if self._teacher_ratio is not None:
                self._teacher_logprobs = _wider(self._teacher_logprobs, (capacity, width), np.float32, np.nan)
            if self._attention is not None:
                self._attention = _wider(self._attention, (capacity, width, self._attention.shape[2]), np.float32)
        except MemoryError:
            raise OptionError(f"max_new_tokens={max_new_tokens}: no memory for {capacity} rows of them; "
                              "pass a smaller one, or a smaller batch_size") from None
        self._max_new, self._top = width, most
        self._history = <int64_t *> address(self._history_array)
        self._history_logprobs = <float *> address(self._history_logprobs_array)

    cdef RowRules _rules_for(self, settings):
        """Return the rules of a request's settings; requests that share settings share them."""
        rules = self._rules_of.get(settings)
        if rules is None:
            stopping = Stopping(settings, self._vocab_size, self._tokenizer)
            rules = self._rules_of[settings] = RowRules(settings, stopping, self._drawn)
        return rules

    def admit(self, slots, sequences, requests):
        """Start new sequences, each of one of the requests, at these slots."""
        cdef RowRules rules
        cdef int64_t slot, limit
        for place, sequence, request in zip(slots, sequences, requests):
            slot, rules = place, self._rules_for(request.settings)
            limit = rules.stopping.limit(request.max_new_tokens)
            self._reserve(limit, rules.top, rules.stopping.eos_count)
            self._looks_for_stops = self._looks_for_stops or rules.stopping.looks_for_stops
            self._has_processors = self._has_processors or bool(rules.processors)
            self._keeps_states = self._keeps_states or request.settings.return_state
            self._status[slot], self._lengths[slot], self._limits[slot] = RUNNING, 0, limit
            self._sequences[slot] = sequence
            self._streams[slot], self._seeds[slot] = request.stream + sequence - request.first, request.seed
            self._temperature[slot], self._stops[slot] = request.temperature, 0
            self._how[slot], self._top_ns[slot], self._filters[slot] = rules.how, rules.top_n, rules.filter
            self._plain[slot] = rules.is_plain
            self._endings[slot] = rules.stopping.ending
            self.requests[slot], self._rules[slot], self._matchers[slot] = request, rules, request.matchers()
            self.has_constraints = self.has_constraints or bool(self._matchers[slot])
        self._groups = None

    @property
    def needs_python(self):
        """Whether a step needs Python code: processors, log-probabilities or states that are wanted, a teacher."""
        return self._has_processors or self._top > 0 or self._keeps_states or self._teacher_ratio is not None

    def advance(self, int64_t size):
        """Choose a token for each running row of the first `size`, record it, and return how many rows finished by it.

        Raises:
            DecodeError: a row's logits are NaN, infinite or all forbidden.
        """
        cdef int64_t bad = 0, finished = 0
        cdef dec_status status
        cdef float *source = self.logits()
        self.failed = None
        if self._has_processors and self._edit(size):
            source = <float *> address(self._edited)
        with nogil:
            status = self.choose(source, size, &bad)
            if status == DEC_OK:
                self.record(size)
                if not (self._looks_for_stops or self.has_constraints):
                    finished = self.finish(size)
        if status != DEC_OK:
            raise self.error(status, bad)
        if self._top:
            self._record_top(size)
        if self.has_constraints:
            self._consume()
            finished = self._ended(size)
        elif self._looks_for_stops:
            finished = self.finish_or_stop(size)
        if finished:
            self._groups = None
        if self._teacher_ratio is not None:
            self._teach(size)
        return finished

    def forced(self, int64_t size, int64_t most):
        """Return the tokens [steps, size] that constraints leave the running rows no choice about; None if there are none.

        The matchers have taken them: `take_run` must follow. There are none where a step has more to do than to choose tokens,
        and where the masks are still being computed, for many rows or large vocabularies.
        """
        cdef int64_t slot
        # Those flags are of all rows so far, as in `needs_python`.
        if self._masks.is_running or self._looks_for_stops or self._top \
                or self._keeps_states or self._teacher_ratio is not None:
            return None
        if self._groups is None:
            self._group(size)
        for processors, slots in self._groups:
            if not processors or len(processors) != len(self._matchers[slots[0]]):
                return None
        if not self._constrained:  # all rows were cancelled
            return None
        for slot in self._constrained:
            most = min(most, self._limits[slot] - self._lengths[slot])
        steps = self._masks.forced([self._matchers[slot] for slot in self._constrained], most)
        if not steps:
            return None
        run = np.zeros((len(steps), size), np.int64)
        run[:, self._constrained] = steps
        return run

    def take_run(self, int64_t size, const int64_t[:, ::1] run, const float[:, :, ::1] logits):
        """Record forced tokens [steps, size] of the running rows, and return how many rows finished by the last.

        Args:
            logits: [size, steps, V], the model's before each.

        Raises:
            DecodeError: a row's logits are NaN or infinite, or forbid its token.
        """
        cdef int64_t row, t, bad = 0, steps = run.shape[0]
        cdef float[:, ::1] values = np.empty((size, steps), np.float32)
        cdef int64_t[:, ::1] ids = np.ascontiguousarray(np.asarray(run).T)
        cdef dec_status status
        cdef dec_rows own = self._logits
        self.failed, self._was_edited = None, True
        for row in range(size):
            if self._status[row] != RUNNING:
                continue
            own.data, own.rows = &logits[row, 0, 0], steps
            status = c_token_logprobs(&own, &ids[row, 0], &values[row, 0], self._scratch, &bad)
            for t in range(steps if status == DEC_OK else 0):
                if values[row, t] == -INFINITY:
                    status, bad = DEC_FORBIDDEN, t
                    break
            if status != DEC_OK:
                for t in range(bad):
                    self._history[self._lines[row] * self._max_new + self._lengths[row] + t] = ids[row, t]
                self._lengths[row] += bad
                raise self.error(status, row)
        for t in range(steps):
            for row in range(size):
                self._tokens[row], self._logprobs[row] = ids[row, t], values[row, t]
            self.record(size)
        if self._groups is None:
            self._group(size)
        return self._ended(size)

    cdef int64_t _ended(self, int64_t size) except -1:
        """After the matchers have taken the newest tokens, end rows, return how many, and begin the masks of the others."""
        cdef int64_t slot, finished
        for slot in self._constrained:
            if not self._endings[slot].eos_count:
                self._stops[slot] = must_end(self._matchers[slot])
        finished = self.finish_or_stop(size) if self._looks_for_stops else self.finish(size)
        if finished:
            self._groups = None
        self._masks.begin([m for slot in self.running(size).tolist() for m in self._matchers[slot]] if finished else self._followed)
        return finished

    def draws(self):
        """Return float64 [2, capacity]: the uniform number of each row's next draw, and its temperature."""
        return np.stack([uniform(self.seeds, self.streams, self.lengths, 1, "draw")[:, 0], self.temperature])

    def record_attention(self, weights):
        """Write the weights [size, source] of the step whose tokens were just chosen; the source may grow from step to step."""
        width = weights.shape[1]
        if self._attention is None or self._attention.shape[2] < width:
            self._attention = _wider(self._attention, (*self._history_array.shape, width), np.float32)
        rows = np.flatnonzero(self.status[: len(weights)])
        self._attention[self._lines_array[rows], self.lengths[rows] - 1, :width] = weights[rows]

    def chosen(self, int64_t size):
        """Return the fields of a `Choice` for each row that chose in the last step."""
        rows = np.flatnonzero((self.status[:size] != IDLE) & (self.lengths[:size] > 0))  # not those that just came
        lines, last = self._lines_array[rows], self.lengths[rows] - 1
        reasons = [FINISH_REASONS[status] for status in self.status[rows]]
        requests = [self.requests[row] for row in rows]
        tops = [self._newest_top(row) for row in rows] if self._top else [None] * len(rows)
        return zip(requests, self.sequences[rows].tolist(), self._history_array[lines, last].tolist(),
                   self._history_logprobs_array[lines, last].tolist(), reasons, tops)

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

    def logprobs(self, int64_t slot):
        """Return the log-probabilities of `output(slot)`, a view."""
        return self._history_logprobs_array[self._lines_array[slot], : self.lengths[slot]]

    def top(self, int64_t slot):
        """Return ids and log-probabilities [length, k] of the best tokens at each step of the row there, views; None where not asked for."""
        cdef RowRules rules = self._rules[slot]
        if not rules.top:
            return None
        line, length = self._lines_array[slot], self.lengths[slot]
        return self._top_ids[line, :length, : rules.top], self._top_values[line, :length, : rules.top]

    def _newest_top(self, int64_t slot):
        """Return ids and log-probabilities [k] of the best tokens at the last step of the row there; None where not asked for."""
        top = self.top(slot)
        if top is None:
            return None
        last = len(top[0]) - 1
        return top[0][last], top[1][last]

    def ended_by_eos(self, int64_t slot):
        """Return whether EOS ended the row there."""
        return self._status[slot] == BY_EOS

    def drop(self, int64_t slot):
        """Forget the row there."""
        self.status[slot], self._matchers[slot], self._groups = IDLE, (), None

    def take(self, int64_t slot, source_length, state):
        """Return the finished row there; the slot becomes idle.

        Args:
            source_length: weights over the source that are the row's own.
            state: after the output; None where it is not wanted.
        """
        cdef RowRules rules = self._rules[slot]
        cdef int64_t i, first
        cdef double total = 0.0
        line, length, status = self._lines_array[slot], self.lengths[slot], int(self.status[slot])
        self.status[slot] = IDLE
        for matcher in self._matchers[slot]:
            matcher.release()
        self._matchers[slot] = ()
        tokens = self._history_array[line, :length].copy()
        eos = int(tokens[length - 1]) if status == BY_EOS else None
        tokens = tokens if eos is None else tokens[: length - 1]
        first = self._lines[slot] * self._max_new
        for i in range(first, first + self._lengths[slot]):
            total += self._history_logprobs[i]
        request, top, attention = self.requests[slot], self.top(slot), None
        if top is not None:
            top = top[0].copy(), top[1].copy()
        if self._attention is not None and request.settings.return_attention:
            attention = self._attention[line, : len(tokens), :source_length].copy()
        return FinishedSequence(
            request=request,
            sequence=int(self.sequences[slot]),
            tokens=tokens,
            logprobs=self._history_logprobs_array[line, :length].copy(),
            logprob=total,
            finish_reason=FINISH_REASONS[status],
            score=total,
            siblings=request.settings.outputs,
            eos=eos,
            top=top,
            teacher=None if self._teacher_logprobs is None else self._teacher_logprobs[line, :length].copy(),
            attention=attention,
            state=state,
        )

    def keep(self, slots):
        """Move the rows at `slots` to the front, in that order; the others are forgotten."""
        size = len(slots)
        for array in (self.status, self.sequences, self.streams, self.seeds, self.lengths, self.limits, self.temperature,
                      self._how_array, self._plain_array, self._top_ns_array, self._filters_array, self._endings_array):
            array[:size] = array[slots]
        for items, nothing in ((self.requests, None), (self._rules, None), (self._matchers, ())):
            items[:size] = [items[slot] for slot in slots]
            items[size:] = [nothing] * (len(items) - size)
        dropped = np.setdiff1d(np.arange(len(self._lines_array)), slots)
        self._lines_array[:] = self._lines_array[np.concatenate([slots, dropped])]
        self._groups = None
        self.status[size:] = IDLE

    cdef bint _edit(self, int64_t size) except -1:
        """Copy the logits of the running rows, let each row's processors edit them, and return whether there are any."""
        if self._groups is None:
            self._group(size)
        if not any(processors for processors, _ in self._groups):
            return False
        if self._edited is None:
            self._edited = np.empty_like(self._logits_array)
        for processors, slots in self._groups:
            is_run = slots[len(slots) - 1] - slots[0] == len(slots) - 1  # side by side: they are copied once, not twice
            rows = slice(slots[0], slots[0] + len(slots)) if is_run else slots
            self._edited[rows] = self._logits_array[rows]
            if processors:
                edited = self._edited[rows]
                try:
                    self._apply(processors, slots, edited)
                except Exception:
                    self.failed = self._culprit(processors, slots)
                    raise
                if not is_run:
                    self._edited[rows] = edited
            self._edits_array[rows] = bool(processors)
        return True

    cdef _group(self, int64_t size):
        """Keep which running rows have the same processors, and which have constraints, until rows come, go or move."""
        groups, running = {}, self.running(size).tolist()
        for slot in running:
            processors = (<RowRules> self._rules[slot]).processors
            groups.setdefault(id(processors), (processors, []))[1].append(slot)
        self._groups = list(groups.values())
        self._constrained = [slot for slot in running if self._matchers[slot]]
        self._followed = [matcher for slot in self._constrained for matcher in self._matchers[slot]]

    cdef _apply(self, tuple processors, list slots, object edited):
        """Let processors edit the logits of rows."""
        def history():
            requests = [self.requests[slot] for slot in slots]
            return History([r.ids for r in requests], [self.output(slot) for slot in slots], [r.index for r in requests])
        masks = [self._masks.of([self._matchers[slot][i] for slot in slots]) for i in range(len(self._matchers[slots[0]]))]
        apply_processors(processors, history, edited, masks)

    cdef _consume(self):
        """Go on in the grammars of the rows by the tokens just chosen."""
        cdef int64_t slot, token
        cdef list matchers = [], tokens = []
        for slot in self._constrained:
            token = self._tokens[slot]
            if not self._endings[slot].is_eos[token]:
                for matcher in self._matchers[slot]:
                    matchers.append(matcher)
                    tokens.append(token)
        consume(matchers, tokens)

    def _culprit(self, processors, slots):
        """Return the first of these rows for which processors that raised an error raise one by themselves."""
        for slot in slots:
            try:
                self._apply(processors, [slot], self._logits_array[[slot]])
            except Exception:
                return slot
        return slots[0]

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
        """Return whether every row runs, and all take the most probable token, or all draw one without filters."""
        cdef int64_t row
        for row in range(size):
            if self._status[row] != RUNNING or not self._plain[row] or self._how[row] != self._how[0]:
                return False
            if hide(&self._endings[row], self._lengths[row], NULL, NULL):
                return False
        return True

    cdef const dec_stream *stream(self) noexcept nogil:
        """Return the stream of the next draws of plain rows; NULL where nothing is drawn."""
        return NULL if self._how[0] == GREEDY else &self._stream

    cdef bint may_stop(self, int64_t size) noexcept nogil:
        """Return whether the choices just recorded may complete a stop sequence or a stop string."""
        cdef int64_t row
        if self._looks_for_stops:
            for row in range(size):
                if self._status[row] == RUNNING and self._endings[row].may_stop[self._tokens[row]]:
                    return True
        return False

    cdef dec_status choose(self, float *source, int64_t size, int64_t *bad) noexcept nogil:
        """Fill tokens and log-probabilities of the running rows.

        Args:
            source: the logits to choose by: the network's, or an edited copy.
        """
        cdef bint hidden = self._hide_eos(source, size)
        cdef dec_status status = self._check_normalizers(size, bad)
        self._was_edited = source != self._logits.data
        if status == DEC_OK:
            status = self._choose(source, size, bad)
        if status == DEC_OK and self._ids != NULL:
            self._name_choices(size)
        if hidden and not self._was_edited:
            self._restore_eos(source, size)
        if status == DEC_OK and (hidden or self._was_edited):
            status = self._own_logprobs(size, bad)
        return status

    cdef bint _hide_eos(self, float *source, int64_t size) noexcept nogil:
        """Hide EOS from the running rows that are too short to end, and return whether there are any."""
        cdef int64_t row
        cdef bint any_short = False
        for row in range(size):
            if self._status[row] == RUNNING and hide(
                &self._endings[row], self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
            ):
                any_short = True
        return any_short

    cdef void _restore_eos(self, float *source, int64_t size) noexcept nogil:
        """Undo `_hide_eos`."""
        cdef int64_t row
        for row in range(size):
            if self._status[row] == RUNNING:
                restore(
                    &self._endings[row], self._lengths[row], source + row * self._logits.stride, self._eos_logits + row * self._eos_count
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
                status = c_greedy(&logits, self._tokens + start, self._logprobs + start, self._scratch, bad)
            elif self._how[start] == TOP_N:
                status = c_top_n(&logits, &stream, self._top_ns[start], self._tokens + start, self._logprobs + start,
                                 self._scratch, bad)
            else:
                status = c_draw(&logits, &stream, self._temperature + start, self._filters + start, 1, 1,
                                self._tokens + start, self._logprobs + start, self._scratch, bad)
            bad[0] += start
            start = end
        return status

    cdef bint _was_changed(self, int64_t row) noexcept nogil:
        """Return whether processors or `min_new_tokens` changed the logits of a row before its choice."""
        if self._status[row] != RUNNING:
            return False
        return (self._was_edited and self._edits[row]) or hide(&self._endings[row], self._lengths[row], NULL, NULL)

    cdef dec_status _own_logprobs(self, int64_t size, int64_t *bad) noexcept nogil:
        """Write the model's own log-probabilities where logits were changed: those of the logits before any edit.

        Other rows keep theirs, which may be rounded otherwise: so their bits do not depend on the rows beside them.
        """
        cdef int64_t start = 0, end
        cdef dec_status status = DEC_OK
        cdef dec_rows logits = self._logits
        while start < size and status == DEC_OK:
            end = start
            while end < size and self._was_changed(end):
                end += 1
            if end == start:
                start += 1
                continue
            logits.data, logits.rows = self._logits.data + start * logits.stride, end - start
            status = c_token_logprobs(&logits, self._tokens + start, self._logprobs + start, self._scratch, bad)
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
                self._status[row] = ends(
                    &self._endings[row], self._tokens[row], self._stops[row], self._lengths[row], self._limits[row]
                )
                self._stops[row] = 0
                finished += self._status[row] != RUNNING
        return finished

    cdef int64_t finish_or_stop(self, int64_t size) except -1:
        """Do as `finish` does, and look for stop sequences and stop strings too."""
        cdef RowRules rules
        for slot in self.running(size):
            rules = self._rules[slot]
            if rules.stopping.looks_for_stops and rules.stopping.stops(self.output(slot)):
                self._stops[<int64_t> slot] = True
        return self.finish(size)

    cdef _record_top(self, int64_t size):
        """Write the best log-probabilities of the rows that chose."""
        rows = [row for row in np.flatnonzero(self.status[:size]) if (<RowRules> self._rules[row]).top]
        if not rows:
            return
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
        coins = uniform(self.seeds[rows], self.streams[rows], last, 1, "teacher")[:, 0]
        for i, token, coin in zip(rows, taught, coins):
            if coin < self._teacher_ratio:
                tokens[i] = token

    cdef object error(self, dec_status status, int64_t row):
        cdef RowRules rules = self._rules[row]
        self.failed = row
        sequence, step = int(self.sequences[row]), int(self.lengths[row])
        fault = {DEC_NAN: "hold a NaN", DEC_INFINITE: "hold +inf"}.get(status, "are all -inf, so no token is possible")
        edits = ["the processors"] * bool(self._was_edited and rules.processors)
        edits += ["min_new_tokens"] * rules.stopping.hides_eos(self.lengths[row : row + 1])
        whose = f"logits, after {' and '.join(edits)}," if edits else "logits"
        advice = "check the weights, the inputs and the processors"
        if status == DEC_FORBIDDEN and self._matchers[row]:
            advice = self.requests[row].why_stuck(self._matchers[row], self.output(row))
        return DecodeError(f"sequence {sequence}, step {step}: the model's {whose} {fault}; {advice}",
                           row=sequence, step=step)


def _wider(array, shape, dtype, fill=None):
    """Return an array of this shape with the content of `array`, which is smaller or None; the rest is zero, or `fill`."""
    wider = np.zeros(shape, dtype) if fill is None else np.full(shape, fill, dtype)  # zeros cost nothing until they are read
    if array is not None:
        wider[tuple(map(slice, array.shape))] = array
    return wider


cdef void *address(array) except NULL:
    assert array.flags.c_contiguous
    return <void *> <size_t> array.ctypes.data
