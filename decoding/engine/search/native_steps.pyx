"""Whole steps without Python: network, choice and bookkeeping of a batch with a native network, in one call without the GIL."""

from libc.stdint cimport int64_t

from decoding.engine.search.row_sampler cimport RowSampler
from decoding.kernels._library cimport DEC_OK, dec_status
from decoding.kernels._native cimport NativeRun, Scratch

# Seconds of steps that finished rows may waste until the call returns for them. Retiring a row and admitting another takes
# about as long, so waiting for more that finish costs at most twice the best: 64 rows of 40 tokens take 0.8 of the time.
cdef double WASTE = 5e-5


cdef class NativeSteps:
    """Takes steps for a sampling search whose batch has a native network.

    A step gives the tokens, log-probabilities and errors of `batch.step()` and `sampler.advance()`, bit for bit. Where
    every row takes the most probable token, or draws one without filters, from up to 8192, the logits are not written.

    Args:
        batch: a HostBatch whose states are updated in place.
        sampler: of its rows; it needs no Python code at a step.
    """

    cdef object _batch, _error
    cdef RowSampler _sampler

    def __init__(self, batch, RowSampler sampler):
        self._batch, self._sampler, self._error = batch, sampler, None

    def take(self, int64_t most):
        """Take up to `most` steps, until finished rows have wasted enough or 10 ms are over; return how many rows finished.

        An error waits for the next call if rows finished before it.

        Raises:
            ModelError: the network cannot read a row's token.
            DecodeError: a row's logits are NaN, infinite or all forbidden.
        """
        if self._error is not None:
            raise self._error
        cdef NativeRun run = self._batch.bound()
        cdef RowSampler sampler = self._sampler
        cdef Scratch scratch = run.borrow()
        cdef int64_t size = self._batch.size, done = 0, running = sampler.count_running(size), finished = 0, bad = 0
        cdef bint is_read = False, may_stop = False
        cdef dec_status status
        cdef double wasted = 0  # seconds: the share of the steps that went to finished rows
        with nogil:
            run.add_contexts(scratch)
            while True:
                status = run.read(scratch, 0, 1, &bad)
                is_read = status == DEC_OK
                if is_read:
                    status = choose(run, scratch, sampler, size, &bad)
                if status != DEC_OK:
                    break
                sampler.record(size)
                done += 1
                may_stop = sampler.may_stop(size)
                if may_stop:
                    break
                wasted += finished * scratch.lap() / size
                finished += sampler.finish(size)
                if done == most or finished == running or wasted > WASTE or scratch.is_over():
                    break
        run.give_back(scratch)
        self._batch.moved(done)
        if status != DEC_OK:
            self._error = sampler.error(status, bad) if is_read else run.refused(bad)
            if not finished:
                raise self._error
        return finished + sampler.finish_or_stop(size) if may_stop else finished


cdef dec_status choose(NativeRun run, Scratch scratch, RowSampler sampler, int64_t size, int64_t *bad) noexcept nogil:
    """Fill tokens and log-probabilities of the running rows after the step that was read."""
    if run.fuses() and sampler.is_plain(size):
        return run.choose(scratch, sampler.stream(), sampler._temperature, sampler._tokens, sampler._logprobs, bad)
    run.project(scratch, 0, 1)
    return sampler.choose(sampler.logits(), size, bad)
