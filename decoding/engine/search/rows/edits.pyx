"""What processors and constraints do to the rows of a sampling search."""

from libc.stdint cimport int64_t, uint8_t

import numpy as np

from decoding.constraints import Masks, consume, must_end
from decoding.engine.search.rows.outputs cimport RowOutputs, address
from decoding.engine.search.stopping cimport RUNNING, Ending
from decoding.processors import History, apply_processors


cdef class RowEdits:
    """Edits copies of the rows' logits by the processors of their requests, and follows their constraints' grammars.

    Args:
        status: uint8 [capacity], of each slot; `requests`: of each slot; `outputs`: of each slot. They are read at every step.
        logits: float32 [capacity, V], of the network; read at every step.

    Attributes:
        has_processors, has_constraints: whether rows have had some.
        failed: the slot whose processors raised the last error; None where it was no processor's.
        edited: the edited logits; `which`: of which slots. Both count after `edit` returned True.
    """

    def __init__(self, status, list requests, RowOutputs outputs, logits):
        capacity = len(requests)
        self.has_processors = self.has_constraints = False
        self.failed = self._edited = self._groups = None
        self._status, self._requests, self._outputs, self._logits = status, requests, outputs, logits
        self._which_array = np.zeros(capacity, np.uint8)
        self.which = <uint8_t *> address(self._which_array)
        self._matchers, self._masks, self._constrained, self._followed = [()] * capacity, Masks(), [], []

    cdef begin(self, int64_t slot, object request):
        """Follow a new row."""
        self._matchers[slot] = request.matchers()
        self.has_processors = self.has_processors or bool(request.settings.processors)
        self.has_constraints = self.has_constraints or bool(self._matchers[slot])
        self.regroup()

    cdef forget(self, int64_t slot):
        """Follow the row there no more."""
        self._matchers[slot] = ()
        self.regroup()

    cdef release(self, int64_t slot):
        """Do as `forget` does of a row that finished; others may use what its matchers found out."""
        for matcher in self._matchers[slot]:
            matcher.release()
        self._matchers[slot] = ()

    cdef keep(self, object slots):
        """Move the rows at `slots` to the front, in that order."""
        size = len(slots)
        self._matchers[:size] = [self._matchers[slot] for slot in slots]
        self._matchers[size:] = [()] * (len(self._matchers) - size)
        self.regroup()

    cdef regroup(self):
        """Group the rows anew at the next step: call it when rows came, went or moved."""
        self._groups = None

    cdef tuple matchers(self, int64_t slot):
        """Return where the row there is in the grammars of its constraints."""
        return self._matchers[slot]

    cdef bint edit(self, int64_t size) except -1:
        """Copy the logits of the running rows, let each row's processors edit them, and return whether there are any."""
        if self._groups is None:
            self._group(size)
        if not any(processors for processors, _ in self._groups):
            return False
        if self._edited is None:
            self._edited = np.empty_like(self._logits)
            self.edited = <float *> address(self._edited)
        self.failed = None
        for processors, slots in self._groups:
            is_run = slots[len(slots) - 1] - slots[0] == len(slots) - 1  # side by side: they are copied once, not twice
            rows = slice(slots[0], slots[0] + len(slots)) if is_run else slots
            self._edited[rows] = self._logits[rows]
            if processors:
                edited = self._edited[rows]
                try:
                    self._apply(processors, slots, edited)
                except Exception:
                    self.failed = self._culprit(processors, slots)
                    raise
                if not is_run:
                    self._edited[rows] = edited
            self._which_array[rows] = bool(processors)
        return True

    cdef _group(self, int64_t size):
        """Keep which running rows have the same processors, and which have constraints, until rows come, go or move."""
        groups, running = {}, np.flatnonzero(self._status[:size] == RUNNING).tolist()
        for slot in running:
            processors = self._requests[slot].settings.processors
            groups.setdefault(id(processors), (processors, []))[1].append(slot)
        self._groups = list(groups.values())
        self._constrained = [slot for slot in running if self._matchers[slot]]
        self._followed = [matcher for slot in self._constrained for matcher in self._matchers[slot]]

    cdef _apply(self, tuple processors, list slots, object edited):
        """Let processors edit the logits of rows."""
        def history():
            requests = [self._requests[slot] for slot in slots]
            return History([r.ids for r in requests], [self._outputs.tokens(slot) for slot in slots], [r.index for r in requests])
        masks = [self._masks.of([self._matchers[slot][i] for slot in slots]) for i in range(len(self._matchers[slots[0]]))]
        apply_processors(processors, history, edited, masks)

    cdef _culprit(self, tuple processors, list slots):
        """Return the first of these rows for which processors that raised an error raise one by themselves."""
        for slot in slots:
            try:
                self._apply(processors, [slot], self._logits[[slot]])
            except Exception:
                return slot
        return slots[0]

    # -- constraints ------------------------------------------------------------------------------------------

    cdef list only_constrained(self, int64_t size):
        """Return the running rows if each has constraints and no other processor, and their masks are there; else None."""
        if self._masks.is_running:
            return None
        if self._groups is None:
            self._group(size)
        for processors, slots in self._groups:
            if not processors or len(processors) != len(self._matchers[slots[0]]):
                return None
        return self._constrained or None  # nothing where all rows were cancelled

    cdef object forced(self, int64_t size, int64_t most):
        """Go on by the tokens [steps, size] of at most that many steps that leave the constrained rows no choice; None if there are none."""
        steps = self._masks.forced([self._matchers[slot] for slot in self._constrained], most)
        if not steps:
            return None
        run = np.zeros((len(steps), size), np.int64)
        run[:, self._constrained] = steps
        return run

    cdef consume(self, const int64_t *tokens, const Ending *endings):
        """Go on in the grammars of the rows by the tokens just chosen."""
        cdef int64_t slot, token
        cdef list matchers = [], taken = []
        for slot in self._constrained:
            token = tokens[slot]
            if not endings[slot].is_eos[token]:
                for matcher in self._matchers[slot]:
                    matchers.append(matcher)
                    taken.append(token)
        consume(matchers, taken)

    cdef end_where_whole(self, int64_t size, const Ending *endings, uint8_t *stops):
        """Stop the rows without EOS whose outputs are whole, and may not go on."""
        cdef int64_t slot
        if self._groups is None:
            self._group(size)
        for slot in self._constrained:
            if not endings[slot].eos_count:
                stops[slot] = must_end(self._matchers[slot])

    cdef begin_masks(self, bint finished):
        """Begin to compute the masks of the rows that still run; some may have `finished` since the last step."""
        if finished:
            running = [slot for slot in self._constrained if self._status[slot] == RUNNING]
            self._masks.begin([matcher for slot in running for matcher in self._matchers[slot]])
        else:
            self._masks.begin(self._followed)
