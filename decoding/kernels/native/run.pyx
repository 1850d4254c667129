"""What every native run is: steps over arrays that stay in place, without the GIL, in memory that is lent."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from decoding.kernels._library cimport DEC_OK, dec_status, dec_stream

# Seconds after which a call that takes many steps returns: Ctrl-C, and a caller who leaves, are noticed between calls.
# Returning and entering again costs 2 us, which nobody sees in 10 ms.
cdef double LONGEST = 0.01

cdef extern from "<time.h>" nogil:
    struct timespec:
        long long tv_sec
        long tv_nsec
    int timespec_get(timespec *now, int base)
    int TIME_UTC


cdef double seconds() noexcept nogil:
    """Return the time of the clock; it may be set while a call runs, so a difference may be negative."""
    cdef timespec now
    timespec_get(&now, TIME_UTC)
    return <double> now.tv_sec + 1e-9 * <double> now.tv_nsec


cdef class Scratch:
    """Memory of one run at a time."""

    def __dealloc__(self):
        free(self.memory)

    cdef int reserve(self, size_t size) except -1:
        if size > self.size:
            free(self.memory)
            self.size = 0
            self.memory = <char *>malloc(size)
            if self.memory == NULL:
                raise MemoryError(f"{size} bytes of scratch")
            self.size = size
        return 0

    cdef void begin(self) noexcept nogil:
        """Start the clock of a call that takes many steps."""
        self.start = self.last = seconds()

    cdef double lap(self) noexcept nogil:
        """Return the seconds since the last lap, or since the call began."""
        cdef double before = self.last
        self.last = seconds()
        return self.last - before

    cdef bint is_over(self) noexcept nogil:
        """Return whether, at the last lap, the call had run so long that it is to return to Python."""
        return not 0 <= self.last - self.start < LONGEST


cdef class NativeRun:
    """A step, or a chunk of tokens, over arrays that stay where they are; one thread at a time.

    Its steps are those of one network (`NetworkRun`), or of several whose logits are combined (`EnsembleRun`).
    """

    def run(self):
        """Read the tokens: the states are updated in place, and the logits written.

        Raises:
            ModelError: a token lies outside the vocabulary.
        """
        cdef Scratch scratch = self.borrow()
        cdef dec_status status = DEC_OK
        cdef int64_t start = 0, time, bad = 0
        with nogil:
            self.add_contexts(scratch.memory)
            while start < self.time and status == DEC_OK:
                time = min(self.part, self.time - start)
                status = self.read(scratch.memory, start, time, &bad)
                if status == DEC_OK and self.logits != NULL:
                    self.project(scratch.memory, start, time)
                start += time
        self.give_back(scratch)
        if status != DEC_OK:
            raise self.refused(bad)

    cdef Scratch borrow(self):
        """Return memory for a run. Threads share a pool, which keeps no more of it than they need."""
        cdef Scratch scratch
        try:
            scratch = self.pool.pop()
        except IndexError:  # not asked before: without the GIL another thread may take the last one in between
            scratch = Scratch()
        scratch.reserve(self.size)
        scratch.begin()
        return scratch

    cdef void give_back(self, Scratch scratch):
        self.pool.append(scratch)

    # Without the GIL, all in the memory of one `borrow`. A kind of run defines each of these for itself.

    cdef void add_contexts(self, char *memory) noexcept nogil:
        """Compute what the contexts add to the first layer's gates, for the rows whose contexts changed since the last run."""

    cdef dec_status read(self, char *memory, int64_t start, int64_t time, int64_t *bad) noexcept nogil:
        """Run the layers over the tokens [start, start + time)."""
        return DEC_OK

    cdef void project(self, char *memory, int64_t start, int64_t time) noexcept nogil:
        """Write the logits of the tokens that were read last."""

    cdef bint fuses(self) noexcept nogil:
        """Return whether `choose` is as fast as `project` and a choice after it."""
        return False

    cdef dec_status choose(self, char *memory, const dec_stream *stream, const float *temperature, int64_t *tokens,
                           float *logprobs, int64_t *bad) noexcept nogil:
        """Choose a token of each row after the one that was read last, without writing the logits; only where it `fuses`.

        Args:
            stream: of the draws; NULL takes the most probable token.
        """
        return DEC_OK

    cdef void move_rows(self, char *memory, const int64_t *rows) noexcept nogil:
        """Give each row the states of `rows[row]`."""

    cdef void copy_row(self, NativeRun to, int64_t row) noexcept nogil:
        """Copy the states of a row to those that another run, of the same networks and number of rows, is over."""

    cdef object refused(self, int64_t row):
        """Return the error of a row whose token a network cannot read."""
