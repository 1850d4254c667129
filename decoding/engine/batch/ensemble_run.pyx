"""A native step of several networks whose logits are combined."""

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from decoding.kernels._library cimport (
    DEC_OK, c_combine, c_split_rows, dec_combination, dec_rows, dec_status, scratch_size,
)
from decoding.kernels.native.run cimport NativeRun

import numpy as np

from decoding.kernels._softmax import COMBINATIONS

cnp.import_array()


ctypedef struct member_run:
    void *run  # a NativeRun
    size_t memory  # where its part of the memory begins
    dec_status status  # of its last step
    int64_t bad


cdef class EnsembleRun(NativeRun):
    """The steps of an ensemble: each member's, over the same tokens, then one combination.

    Args:
        members: of each the run of its step, over the same number of rows.
        weights, how: as `kernels.combine` takes them.
        tokens: int64 [rows], contiguous; logits: float32 [rows, V], contiguous. They stay where they are.
        feeds_own: bool [rows], contiguous: rows whose members read in the next step the tokens of their own runs; that step clears it.
        threads: that take the members' steps, if there are as many members.
    """

    cdef member_run *members
    cdef char *memory  # that the running step works in
    cdef int64_t count, width, failed
    cdef uint8_t *feeds_own
    cdef dec_rows *member_logits
    cdef const double *weights
    cdef dec_combination how
    cdef int threads
    cdef tuple keep

    def __cinit__(self, members, weights, how, cnp.ndarray tokens, cnp.ndarray feeds_own, cnp.ndarray logits, *, int threads):
        cdef cnp.ndarray each = np.array(weights, np.float64)
        cdef NativeRun member
        cdef int64_t i = 0
        self.keep = (tuple(members), each, tokens, feeds_own, logits)
        self.count, self.rows, self.width, self.time, self.part = len(members), logits.shape[0], logits.shape[1], 1, 1
        self.members = <member_run *>calloc(self.count, sizeof(member_run))
        self.member_logits = <dec_rows *>calloc(self.count, sizeof(dec_rows))
        if self.members == NULL or self.member_logits == NULL:
            raise MemoryError("the runs of an ensemble")
        self.tokens, self.logits = <int64_t *>cnp.PyArray_DATA(tokens), <float *>cnp.PyArray_DATA(logits)
        self.feeds_own = <uint8_t *>cnp.PyArray_DATA(feeds_own)
        self.weights, self.how, self.threads = <const double *>cnp.PyArray_DATA(each), COMBINATIONS[how], threads
        for i, member in enumerate(members):
            if member.rows != self.rows or member.time != 1 or member.logits == NULL:
                raise ValueError(f"member {i}: {member.rows} rows of {member.time} tokens: expected {self.rows} rows of 1 token, and their logits")
            self.members[i] = member_run(<void *>member, self.size, DEC_OK, 0)
            self.member_logits[i] = dec_rows(member.logits, self.rows, self.width, self.width)
            self.size += (member.size + 63) // 64 * 64
            self.pool = member.pool
        self.size += scratch_size(self.width)

    def __dealloc__(self):
        free(self.members)
        free(self.member_logits)

    cdef void add_contexts(self, char *memory) noexcept nogil:
        cdef int64_t i
        for i in range(self.count):
            (<NativeRun> self.members[i].run).add_contexts(memory + self.members[i].memory)

    cdef dec_status read(self, char *memory, int64_t start, int64_t time, int64_t *bad) noexcept nogil:
        cdef int64_t i
        self.memory = memory
        c_split_rows(step_members, <void *>self, self.count, self.threads)
        memset(self.feeds_own, 0, self.rows)
        for i in range(self.count):
            if self.members[i].status != DEC_OK:
                self.failed, bad[0] = i, self.members[i].bad
                return self.members[i].status
        return DEC_OK

    cdef void project(self, char *memory, int64_t start, int64_t time) noexcept nogil:
        c_combine(self.how, self.member_logits, self.weights, self.count, self.logits, self.width,
                  memory + self.size - scratch_size(self.width))

    cdef void move_rows(self, char *memory, const int64_t *rows) noexcept nogil:
        cdef int64_t i
        for i in range(self.count):
            (<NativeRun> self.members[i].run).move_rows(memory + self.members[i].memory, rows)

    cdef void copy_row(self, NativeRun to, int64_t row) noexcept nogil:
        cdef int64_t i
        for i in range(self.count):
            (<NativeRun> self.members[i].run).copy_row(<NativeRun> (<EnsembleRun> to).members[i].run, row)

    cdef object refused(self, int64_t row):
        return (<NativeRun> self.members[self.failed].run).refused(row)


cdef void step_members(void *ensemble, int worker, int64_t begin, int64_t end) noexcept nogil:
    """Take the steps of some members, in one thread."""
    cdef int64_t i
    cdef member_run *member
    for i in range(begin, end):
        member = &(<EnsembleRun> ensemble).members[i]
        feed(<NativeRun> member.run, <EnsembleRun> ensemble)
        member.status = step(<NativeRun> member.run, (<EnsembleRun> ensemble).memory + member.memory, &member.bad)


cdef void feed(NativeRun run, EnsembleRun ensemble) noexcept nogil:
    """Give a member the tokens of the ensemble, but in the rows where it has its own."""
    cdef int64_t row
    for row in range(run.rows):
        if not ensemble.feeds_own[row]:
            run.tokens[row] = ensemble.tokens[row]


cdef dec_status step(NativeRun run, char *memory, int64_t *bad) noexcept nogil:
    """Take a step of one member, and write its logits."""
    cdef dec_status status = run.read(memory, 0, 1, bad)
    if status == DEC_OK:
        run.project(memory, 0, 1)
    return status
