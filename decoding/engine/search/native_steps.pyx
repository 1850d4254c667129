"""Whole steps without Python: network, choice and bookkeeping of a batch with a native network, in one call without the GIL."""

from libc.stdint cimport int64_t, uint8_t

from decoding.engine.flags cimport Flag
from decoding.engine.search.rows.sampler cimport RowSampler
from decoding.engine.search.stopping cimport RUNNING
from decoding.kernels._library cimport DEC_OK, dec_status
from decoding.kernels.native.run cimport NativeRun, Scratch

import numpy as np

# Seconds of steps that finished rows may waste until the call returns for them. Retiring a row and admitting another takes
# about as long, so waiting for more that finish costs at most twice the best: 64 rows of 40 tokens take 0.8 of the time.
cdef double WASTE = 5e-5


cdef class NativeSteps:
    """Takes steps for a sampling search whose batch has a native network.

    A step gives the tokens, log-probabilities and errors of `batch.step()` and `sampler.advance()`, bit for bit. Where
    every row takes the most probable token, or draws one without filters, from up to 8192, the logits are not written.

    Args:
        batch: a HostBatch or EnsembleBatch whose states are updated in place.
        sampler: of its rows; it needs no Python code at a step.
        stopped: set when the caller has left; `step_by_step`: while it is set, a call takes one step.
        keeps_states: whether the states of rows that finish are wanted: they are those *before* the last step, as other rows
            may go on (`HostBatch.states_before(slots, 1)`).

    Attributes:
        error: of the last step; the rows that finished before it count. A DecodeError (a row's logits are NaN, infinite or all
            forbidden) leaves the logits for another choice; after a ModelError the network cannot go on. The next call raises it.
    """

    cdef public object error
    cdef object _batch
    cdef RowSampler _sampler
    cdef Flag _stopped, _step_by_step
    cdef bint _keeps_states
    cdef uint8_t[::1] _kept  # of the rows that finished in this call: whether their states are copied

    def __init__(self, batch, RowSampler sampler, Flag stopped, Flag step_by_step, *, bint keeps_states):
        self._batch, self._sampler, self.error = batch, sampler, None
        self._stopped, self._step_by_step, self._keeps_states = stopped, step_by_step, keeps_states
        self._kept = np.zeros(batch.capacity, np.uint8)

    def take(self, int64_t most):
        """Take up to `most` steps, until finished rows have wasted enough, 10 ms are over or a flag is set.

        Returns:
            How many rows finished.

        Raises:
            ModelError, DecodeError: the `error` of the last call, if nobody has taken it.
        """
        if self.error is not None:
            raise self.error
        cdef NativeRun run = self._batch.bound()
        cdef NativeRun aside = self._batch.bound_aside() if self._keeps_states else run
        cdef RowSampler sampler = self._sampler
        cdef Scratch scratch = run.borrow()
        cdef int64_t size = self._batch.size, done = 0, running = sampler.count_running(size), finished = 0, more, bad = 0
        cdef bint is_read = False, may_stop = False
        cdef dec_status status
        cdef double wasted = 0  # seconds: the share of the steps that went to finished rows
        self._kept[:] = 0
        with nogil:
            run.add_contexts(scratch.memory)
            while True:
                status = run.read(scratch.memory, 0, 1, &bad)
                is_read = status == DEC_OK
                if is_read:
                    status = choose(run, scratch.memory, sampler, size, &bad)
                if status != DEC_OK:
                    if is_read and run.fuses():
                        run.project(scratch.memory, 0, 1)
                    break
                sampler.record(size)
                done += 1
                may_stop = sampler.may_stop(size)
                if may_stop:
                    break
                wasted += finished * scratch.lap() / size
                more = sampler.finish(size)
                if more and self._keeps_states:
                    self._keep_states(run, aside, size)
                finished += more
                if done == most or finished == running or wasted > WASTE or scratch.is_over():
                    break
                if self._step_by_step.value or self._stopped.value:
                    break
        run.give_back(scratch)
        self._batch.moved(done + (is_read and status != DEC_OK))
        if status != DEC_OK:
            self.error = sampler.error(status, bad) if is_read else run.refused(bad)
        if may_stop:
            finished += sampler.finish_or_stop(size)
            if self._keeps_states:
                self._keep_states(run, aside, size)
        return finished

    def take_error(self):
        """Return the error, which the next call does not raise then."""
        error, self.error = self.error, None
        return error

    def choose_again(self, int64_t size):
        """Choose for the rows that are left after a DecodeError, and return how many finished."""
        finished = self._sampler.advance(size)
        if self._keeps_states:
            self._keep_states(self._batch.bound(), self._batch.bound_aside(), size)
        return finished

    cdef void _keep_states(self, NativeRun run, NativeRun aside, int64_t size) noexcept nogil:
        """Copy the states of the rows that have just finished, before another step moves them on."""
        cdef int64_t row
        for row in range(size):
            if self._sampler._status[row] > RUNNING and not self._kept[row]:
                self._kept[row] = True
                run.copy_row(aside, row)


cdef dec_status choose(NativeRun run, char *memory, RowSampler sampler, int64_t size, int64_t *bad) noexcept nogil:
    """Fill tokens and log-probabilities of the running rows after the step that was read."""
    if run.fuses() and sampler.choices.is_plain(size):
        return run.choose(memory, sampler.choices.stream(), sampler.choices.temperatures, sampler.choices.tokens,
                          sampler.choices.logprobs, bad)
    run.project(memory, 0, 1)
    return sampler.choices.choose(sampler.choices.logits(), NULL, size, bad)
