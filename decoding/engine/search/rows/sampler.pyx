"""The native half of the sampling loop: what happens to all rows between two network steps, without the GIL."""

from libc.stdint cimport int64_t, uint8_t

from decoding.engine.search.rows.choices cimport RowChoices, RowRules
from decoding.engine.search.rows.edits cimport RowEdits
from decoding.engine.search.rows.outputs cimport RowOutputs, address
from decoding.engine.search.stopping cimport BY_EOS, IDLE, RUNNING, Stopping, ends
from decoding.kernels._library cimport DEC_FORBIDDEN, DEC_INFINITE, DEC_NAN, DEC_OK, dec_status

import weakref

import numpy as np

from decoding.engine.request import FinishedSequence
from decoding.engine.search.stopping import FINISH_REASONS
from decoding.errors import DecodeError
from decoding.kernels import token_logprobs, uniform


cdef class RowSampler:
    """Chooses and records the next token of every running row, by the rules of the row's request.

    Slots are those of the batch. A slot is idle, running or finished.

    Args:
        logits: float32 [capacity, V], C-contiguous; read at every step.
        tokens: int64 [capacity], C-contiguous; the choices are written here for the next step.
        vocab_size: V, where `logits` are not all: then `ids`, int64 [capacity, k], ascending, says of which tokens they
            are, and `normalizers`, float64 [capacity], has the logarithm of the sum of the exponentials of all.
        tokenizer: reads stop strings; None where there are none.
        max_new_tokens: the length of outputs at first; requests with longer outputs make room for them.
        teacher_ratio: probability of feeding the teacher's token; None without a teacher.
        drawn: the tokens are drawn already, on a device.

    Attributes:
        choices, outputs: how the rows choose, and what they have written.
        failed: the slot for which `advance` raised its last error: whose logits it could not use, or whose processors did.
    """

    def __init__(self, logits, tokens, *, int64_t vocab_size, ids, normalizers, tokenizer, int64_t max_new_tokens,
                 teacher_ratio, bint drawn):
        capacity = len(logits)
        self.status = np.zeros(capacity, np.uint8)
        self.sequences = np.zeros(capacity, np.uint64)
        self.limits = np.zeros(capacity, np.int64)
        self.requests, self.failed = [None] * capacity, None
        self.outputs = RowOutputs(self.status, max_new_tokens, taught=teacher_ratio is not None)
        self.choices = RowChoices(self.status, self.outputs.lengths, logits, tokens, ids, normalizers)
        self.edits = RowEdits(self.status, self.requests, self.outputs, logits)
        self._logits_array, self._rules, self._rules_of = logits, [None] * capacity, weakref.WeakKeyDictionary()
        self._stops_array = np.zeros(capacity, np.uint8)
        self._teacher_ratio, self._tokenizer, self._vocab_size, self._drawn = teacher_ratio, tokenizer, vocab_size, drawn
        self._looks_for_stops = self._keeps_states = False
        self._stops = <uint8_t *> address(self._stops_array)
        self._status = <uint8_t *> address(self.status)
        self._limits = <int64_t *> address(self.limits)

    def admit(self, slots, sequences, requests):
        """Start new sequences, each of one of the requests, at these slots."""
        cdef RowRules rules
        cdef int64_t slot
        for place, sequence, request in zip(slots, sequences, requests):
            slot, rules = place, self._rules_for(request.settings)
            limit = rules.stopping.limit(request.max_new_tokens)
            self.outputs.begin(slot, limit, request.settings.top_logprobs)
            self.choices.begin(slot, rules, request.seed, request.stream + sequence - request.first, request.temperature)
            self.edits.begin(slot, request)
            self._looks_for_stops = self._looks_for_stops or rules.stopping.looks_for_stops
            self._keeps_states = self._keeps_states or request.settings.return_state
            self._status[slot], self._limits[slot], self._stops[slot] = RUNNING, limit, 0
            self.sequences[slot], self.requests[slot], self._rules[slot] = sequence, request, rules

    cdef RowRules _rules_for(self, settings):
        """Return the rules of a request's settings; requests that share settings share them."""
        rules = self._rules_of.get(settings)
        if rules is None:
            stopping = Stopping(settings, self._vocab_size, self._tokenizer)
            rules = self._rules_of[settings] = RowRules(settings, stopping, self._drawn)
        return rules

    @property
    def needs_python(self):
        """Whether a step needs Python code: processors, log-probabilities or states that are wanted, a teacher."""
        return self.edits.has_processors or self.outputs.most_top > 0 or self._keeps_states or self._teacher_ratio is not None

    @property
    def has_constraints(self):
        """Whether rows have had constraints."""
        return self.edits.has_constraints

    def advance(self, int64_t size):
        """Choose a token for each running row of the first `size`, record it, and return how many rows finished by it.

        Raises:
            DecodeError: a row's logits are NaN, infinite or all forbidden.
        """
        cdef int64_t bad = 0, finished = 0
        cdef dec_status status
        cdef float *source = self.choices.logits()
        cdef const uint8_t *edited = NULL
        self.failed = None
        if self.edits.has_processors:
            try:
                if self.edits.edit(size):
                    source, edited = self.edits.edited, self.edits.which
            except Exception:
                self.failed = self.edits.failed
                raise
        with nogil:
            status = self.choices.choose(source, edited, size, &bad)
            if status == DEC_OK:
                self.record(size)
                if not (self._looks_for_stops or self.edits.has_constraints):
                    finished = self.finish(size)
        if status != DEC_OK:
            raise self.error(status, bad)
        if self.outputs.most_top:
            self.outputs.record_top(self._logits_array, size)
        if self.edits.has_constraints:
            self.edits.consume(self.choices.tokens, self.choices.endings)
            finished = self._end(size)
        elif self._looks_for_stops:
            finished = self.finish_or_stop(size)
        if finished:
            self.edits.regroup()
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
        if self._looks_for_stops or self.outputs.most_top or self._keeps_states or self._teacher_ratio is not None:
            return None
        slots = self.edits.only_constrained(size)
        if slots is None:
            return None
        for slot in slots:
            most = min(most, self._limits[slot] - self.outputs.length_of[slot])
        return self.edits.forced(size, most)

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
        self.failed = None
        for row in range(size):
            if self._status[row] == RUNNING:
                status = self.choices.score_run(&logits[row, 0, 0], steps, &ids[row, 0], &values[row, 0], &bad)
                if status != DEC_OK:
                    self.outputs.record_some(row, &ids[row, 0], bad)
                    raise self.error(status, row)
        for t in range(steps):
            for row in range(size):
                self.choices.tokens[row], self.choices.logprobs[row] = ids[row, t], values[row, t]
            self.record(size)
        return self._end(size)

    cdef int64_t _end(self, int64_t size) except -1:
        """After the matchers have taken the newest tokens, end rows, return how many, and begin the masks of the others."""
        cdef int64_t finished
        self.edits.end_where_whole(size, self.choices.endings, self._stops)
        finished = self.finish_or_stop(size) if self._looks_for_stops else self.finish(size)
        self.edits.begin_masks(finished > 0)
        if finished:
            self.edits.regroup()
        return finished

    def chosen(self, int64_t size):
        """Return the fields of a `Choice` for each row that chose in the last step."""
        rows = np.flatnonzero((self.status[:size] != IDLE) & (self.outputs.lengths[:size] > 0))  # not those that just came
        tokens, logprobs, tops = self.outputs.newest(rows)
        reasons = [FINISH_REASONS[status] for status in self.status[rows]]
        return zip([self.requests[row] for row in rows], self.sequences[rows].tolist(), tokens, logprobs, reasons, tops)

    def finished(self, int64_t size):
        """Return the slots of finished rows that were not taken yet."""
        return np.flatnonzero(self.status[:size] > RUNNING)

    def running(self, int64_t size):
        """Return the slots of running rows."""
        return np.flatnonzero(self.status[:size] == RUNNING)

    def ended_by_eos(self, int64_t slot):
        """Return whether EOS ended the row there."""
        return self._status[slot] == BY_EOS

    def drop(self, int64_t slot):
        """Forget the row there."""
        self.status[slot] = IDLE
        self.edits.forget(slot)

    def take(self, int64_t slot, source_length, state):
        """Return the finished row there; the slot becomes idle.

        Args:
            source_length: weights over the source that are the row's own.
            state: after the output; None where it is not wanted.
        """
        status, request, outputs = int(self.status[slot]), self.requests[slot], self.outputs
        self.status[slot] = IDLE
        self.edits.release(slot)
        tokens, top, total = outputs.tokens(slot).copy(), outputs.top(slot), self.outputs.total(slot)
        eos = None
        if status == BY_EOS:
            last = len(tokens) - 1
            tokens, eos = tokens[:last], int(tokens[last])
        teacher, attention = outputs.teacher(slot), None
        if request.settings.return_attention:
            attention = outputs.attention(slot, len(tokens), source_length)
        return FinishedSequence(
            request=request,
            sequence=int(self.sequences[slot]),
            tokens=tokens,
            logprobs=outputs.logprobs(slot).copy(),
            logprob=total,
            finish_reason=FINISH_REASONS[status],
            score=total,
            siblings=request.settings.outputs,
            eos=eos,
            top=None if top is None else (top[0].copy(), top[1].copy()),
            teacher=None if teacher is None else teacher.copy(),
            attention=None if attention is None else attention.copy(),
            state=state,
        )

    def keep(self, slots):
        """Move the rows at `slots` to the front, in that order; the others are forgotten."""
        size = len(slots)
        for array in (self.status, self.sequences, self.limits):
            array[:size] = array[slots]
        for items in (self.requests, self._rules):
            items[:size] = [items[slot] for slot in slots]
            items[size:] = [None] * (len(items) - size)
        self.status[size:] = IDLE
        self.outputs.keep(slots)
        self.choices.keep(slots)
        self.edits.keep(slots)

    cdef int64_t count_running(self, int64_t size) noexcept nogil:
        """Return how many rows run."""
        cdef int64_t row, count = 0
        for row in range(size):
            count += self._status[row] == RUNNING
        return count

    cdef bint may_stop(self, int64_t size) noexcept nogil:
        """Return whether the choices just recorded may complete a stop sequence or a stop string."""
        cdef int64_t row
        if self._looks_for_stops:
            for row in range(size):
                if self._status[row] == RUNNING and self.choices.endings[row].may_stop[self.choices.tokens[row]]:
                    return True
        return False

    cdef void record(self, int64_t size) noexcept nogil:
        """Write the choices into the outputs."""
        self.outputs.record(self.choices.tokens, self.choices.logprobs, size)

    cdef int64_t finish(self, int64_t size) noexcept nogil:
        """Set which rows end with their choices, and return how many do."""
        cdef int64_t row, finished = 0
        for row in range(size):
            if self._status[row] == RUNNING:
                self._status[row] = ends(
                    &self.choices.endings[row], self.choices.tokens[row], self._stops[row], self.outputs.length_of[row], self._limits[row]
                )
                self._stops[row] = 0
                finished += self._status[row] != RUNNING
        return finished

    cdef int64_t finish_or_stop(self, int64_t size) except -1:
        """Do as `finish` does, and look for stop sequences and stop strings too."""
        cdef RowRules rules
        for slot in self.running(size):
            rules = self._rules[slot]
            if rules.stopping.looks_for_stops and rules.stopping.stops(self.outputs.tokens(slot)):
                self._stops[<int64_t> slot] = True
        return self.finish(size)

    cdef _teach(self, int64_t size):
        """Record the teacher's tokens' log-probabilities and feed them, by the coin, instead of the choices."""
        choices, lengths = self.choices, self.outputs.lengths
        rows = np.array([i for i in np.flatnonzero(self.status[:size]) if lengths[i] <= len(self.requests[i].teacher)], np.int64)
        if not len(rows):
            return
        last = lengths[rows] - 1
        taught = np.array([self.requests[i].teacher[t] for i, t in zip(rows, last)], np.int64)
        self.outputs.record_teacher(rows, token_logprobs(self._logits_array[rows], taught))
        coins = uniform(choices.seeds[rows], choices.streams[rows], last, 1, "teacher")[:, 0]
        for i, token, coin in zip(rows, taught, coins):
            if coin < self._teacher_ratio:
                self.choices.tokens[<int64_t> i] = token

    cdef object error(self, dec_status status, int64_t row):
        """Return the error of a row for which no token can be chosen."""
        cdef RowRules rules = self._rules[row]
        request, matchers = self.requests[row], self.edits.matchers(row)
        self.failed = row
        sequence, step = int(self.sequences[row]), int(self.outputs.length_of[row])
        fault = {DEC_NAN: "hold a NaN", DEC_INFINITE: "hold +inf"}.get(status, "are all -inf, so no token is possible")
        edits = ["the processors"] * bool(self.choices.was_edited and request.settings.processors)
        edits += ["min_new_tokens"] * rules.stopping.hides_eos(self.outputs.lengths[row : row + 1])
        whose = f"logits, after {' and '.join(edits)}," if edits else "logits"
        advice = "check the weights, the inputs and the processors"
        if status == DEC_FORBIDDEN and matchers:
            advice = request.why_stuck(matchers, self.outputs.tokens(row))
        return DecodeError(f"sequence {sequence}, step {step}: the model's {whose} {fault}; {advice}", row=sequence, step=step)
