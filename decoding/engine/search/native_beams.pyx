"""Whole steps of beam search without Python: network, candidates and bookkeeping, in one call without the GIL."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from decoding.engine.flags cimport Flag
from decoding.engine.search.stopping cimport RUNNING, Stopping, ends, hide
from decoding.kernels._library cimport (
    DEC_OK, beam_scratch_size, c_beam_prune, c_greedy, dec_beam, dec_rows, dec_status, scratch_size,
)
from decoding.kernels.native.run cimport NativeRun, Scratch

import numpy as np


cdef class NativeBeams:
    """Takes the plain steps of a beam search whose batch has a native network: those in which no candidate ends.

    In a plain step the best candidates of each group go on, so there are no rules to apply. Any other step is left to
    `BeamSearch`, as is one that has nothing to go on with, or logits that are NaN, infinite or all forbidden.

    Args:
        batch: a HostBatch or EnsembleBatch whose states are updated in place.
        queue: of the search; while its `step_by_step` is set, a call takes one step.
        stopping: says which candidates end.
        strategy: a Beam; `candidates`: half of the continuations that it looks at in a step.
        eos: ids that end a sequence.
        scores, lengths, limits, ids, logprobs: of the search's beams; they stay where they are.
    """

    cdef object _batch
    cdef Stopping _stopping
    cdef Flag _stopped, _step_by_step
    cdef dec_beam _beam
    cdef int64_t _beams, _longest
    cdef tuple _keep
    cdef dec_rows _logits
    cdef float *_scores
    cdef int64_t *_lengths
    cdef int64_t *_limits
    cdef int64_t *_ids
    cdef float *_logprobs
    cdef int64_t *_tokens
    # The candidates of a step, and for each beam the row of its parent.
    cdef float *_best
    cdef int64_t *_parents
    cdef int64_t *_next
    cdef int64_t *_rows
    cdef float *_normalizers
    cdef int64_t *_moved_ids
    cdef float *_moved_logprobs
    cdef void *_scratch

    def __init__(self, batch, queue, Stopping stopping, strategy, int64_t candidates, eos, *, scores, lengths, limits, ids, logprobs):
        requests, beams, longest = ids.shape
        width, ends = batch.logits.shape[1], np.array(eos, np.int64)
        best = np.empty((requests, 2 * candidates), np.float32)
        parents, following = np.empty(best.shape, np.int64), np.empty(best.shape, np.int64)
        rows, normalizers = np.empty((requests, beams), np.int64), np.empty(beams, np.float32)
        moved_ids, moved_logprobs = np.empty_like(ids[0]), np.empty_like(logprobs[0])
        scratch = np.empty(max(beam_scratch_size(beams, candidates, width), scratch_size(width)) + 64, np.uint8)
        self._keep = (scores, lengths, limits, ids, logprobs, batch.logits, batch.tokens, ends, best, parents, following, rows,
                      normalizers, moved_ids, moved_logprobs, scratch)

        self._stopped, self._step_by_step = queue.stopped, queue.step_by_step
        self._batch, self._stopping, self._beams, self._longest = batch, stopping, beams, longest
        self._beam = dec_beam(0, beams, candidates, strategy.num_beam_groups, strategy.diversity_penalty,
                              <const int64_t *> address(ends), len(ends), batch.adds_up)
        self._logits = dec_rows(<const float *> address(batch.logits), 0, width, width)
        self._tokens = <int64_t *> address(batch.tokens)
        self._scores = <float *> address(scores)
        self._lengths = <int64_t *> address(lengths)
        self._limits = <int64_t *> address(limits)
        self._ids = <int64_t *> address(ids)
        self._logprobs = <float *> address(logprobs)
        self._best = <float *> address(best)
        self._parents = <int64_t *> address(parents)
        self._next = <int64_t *> address(following)
        self._rows = <int64_t *> address(rows)
        self._normalizers = <float *> address(normalizers)
        self._moved_ids = <int64_t *> address(moved_ids)
        self._moved_logprobs = <float *> address(moved_logprobs)
        self._scratch = <void *> ((<size_t> address(scratch) + 63) & ~<size_t> 63)

    def take(self, int64_t requests):
        """Take steps of this number of requests, which are all rows of the batch, until one is not plain, 10 ms are over or a flag is set.

        Returns:
            Whether the network has run for a step that is not plain, and is not taken.

        Raises:
            ModelError: the network cannot read a row's token.
        """
        cdef NativeRun run = self._batch.bound()
        cdef Scratch scratch = run.borrow()
        cdef int64_t done = 0, bad = 0
        cdef dec_status status
        cdef bint plain = True
        with nogil:
            run.add_contexts(scratch.memory)
            while True:
                status = run.read(scratch.memory, 0, 1, &bad)
                if status != DEC_OK:
                    break
                done += 1
                run.project(scratch.memory, 0, 1)
                plain = self._is_plain(requests)
                if not plain:
                    break
                self._go_on(requests)
                run.move_rows(scratch.memory, self._rows)
                scratch.lap()
                if scratch.is_over() or self._step_by_step.value or self._stopped.value:
                    break
        run.give_back(scratch)
        self._batch.moved(done)
        if status != DEC_OK:
            raise run.refused(bad)
        return not plain

    cdef bint _is_plain(self, int64_t requests) noexcept nogil:
        """Find the candidates of the step, and return whether none ends and every group has one."""
        cdef int64_t p, i, token, each = 2 * self._beam.num_beams, bad = 0
        for p in range(requests):
            if hide(&self._stopping.ending, self._lengths[p], NULL, NULL):
                return False
        self._beam.prompts, self._logits.rows = requests, requests * self._beams
        if c_beam_prune(&self._logits, &self._beam, self._scores, self._best, self._parents, self._next, self._scratch,
                        &bad) != DEC_OK:  # BeamSearch finds the same fault, and says so
            return False
        for p in range(requests):
            for i in range(p * each, (p + 1) * each):
                token = self._next[i]
                if token < 0:
                    if i % (each // self._beam.groups) == 0:
                        return False
                elif self._stopping.ending.may_stop[token] or ends(
                    &self._stopping.ending, 
                    token, False, self._lengths[p] + 1, self._limits[p]
                ) != RUNNING:
                    return False
        return True

    cdef void _go_on(self, int64_t requests) noexcept nogil:
        """Make the best candidates of each group its beams."""
        cdef int64_t p, b, i
        for p in range(requests):
            self._normalize(p)
            for b in range(self._beams):
                i = self._candidate(p, b)
                self._rows[p * self._beams + b] = p * self._beams + (b if self._next[i] < 0 else self._parents[i])
            self._move_histories(p)
            for b in range(self._beams):
                self._append(p, b, self._candidate(p, b))
            self._lengths[p] += 1

    cdef int64_t _candidate(self, int64_t p, int64_t b) noexcept nogil:
        """Return which candidate of the step becomes a beam of a request: each group's are sorted, the best first."""
        cdef int64_t groups = self._beam.groups, width = self._beams // self._beam.groups
        return (p * groups + b // width) * (2 * self._beam.num_beams // groups) + b % width

    cdef void _normalize(self, int64_t p) noexcept nogil:
        """Find for each live beam of a request what is subtracted from its logits to make them log-probabilities."""
        cdef int64_t b, row, best = 0, bad = 0
        cdef float logprob = 0
        cdef dec_rows one = self._logits
        one.rows = 1
        for b in range(self._beams):
            row = p * self._beams + b
            if self._scores[row] > -INFINITY:
                one.data = self._logits.data + row * self._logits.stride
                c_greedy(&one, &best, &logprob, self._scratch, &bad)
                self._normalizers[b] = one.data[best] - logprob

    cdef void _move_histories(self, int64_t p) noexcept nogil:
        """Give each beam of a request the ids and log-probabilities of its parent."""
        cdef int64_t b, row, parent, length = self._lengths[p]
        for b in range(self._beams):
            row, parent = p * self._beams + b, self._rows[p * self._beams + b]
            if parent != row:
                memcpy(self._moved_ids + b * self._longest, self._ids + parent * self._longest, length * sizeof(int64_t))
                memcpy(self._moved_logprobs + b * self._longest, self._logprobs + parent * self._longest, length * sizeof(float))
        for b in range(self._beams):
            row = p * self._beams + b
            if self._rows[row] != row:
                memcpy(self._ids + row * self._longest, self._moved_ids + b * self._longest, length * sizeof(int64_t))
                memcpy(self._logprobs + row * self._longest, self._moved_logprobs + b * self._longest, length * sizeof(float))

    cdef void _append(self, int64_t p, int64_t b, int64_t i) noexcept nogil:
        """Add the token of a candidate to a beam; where there is none, the beam is dead."""
        cdef int64_t row = p * self._beams + b, parent = self._rows[p * self._beams + b], token = self._next[i]
        cdef int64_t at = row * self._longest + self._lengths[p]
        cdef bint alive = token >= 0
        self._scores[row] = self._best[i] if alive else -INFINITY
        self._tokens[row] = self._ids[at] = token if alive else 0
        self._logprobs[at] = (
            self._logits.data[parent * self._logits.stride + token] - self._normalizers[parent - p * self._beams] if alive else -INFINITY
        )


cdef void *address(array) except NULL:
    assert array.flags.c_contiguous
    return <void *> <size_t> array.ctypes.data
