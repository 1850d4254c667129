"""When a sequence ends and why, and when it must not end yet: the rules of all searches.

The searches over beams call the methods for arrays. The step loop of sampling calls those for one row, which run
without the GIL.
"""

from libc.stdint cimport int64_t, uint8_t

import numpy as np

# Finish reasons by status; a sequence whose status is GOES_ON has none.
FINISH_REASONS = (None, None, "eos", "stop", "length")
GOES_ON = RUNNING
STOPPED = FINISH_REASONS.index("stop")


cdef class Stopping:
    """The rules by which the outputs of a request end.

    Args:
        settings: of the request.
        vocab_size: number of token ids.
        tokenizer: reads the stop strings; None where there are none.
    """

    def __init__(self, settings, int64_t vocab_size, tokenizer):
        self.min_new_tokens, self.max_new_tokens = settings.min_new_tokens, settings.max_new_tokens
        self._stop, self._stop_strings, self._tokenizer = settings.stop, settings.stop_strings, tokenizer
        self._joins_next = getattr(tokenizer, "joins_next", lambda token: False)
        self.looks_for_stops = bool(self._stop or self._stop_strings)
        # Every token but an empty or a partial one (a byte of a character) adds at least one character.
        self._tail = 4 * max(map(len, self._stop_strings), default=0) + 4
        ids = np.array(sorted(set(settings.eos)), np.int64)
        is_eos = np.zeros(vocab_size, np.uint8)
        is_eos[ids] = 1
        # Any token may complete a stop string, but only its last id a stop sequence.
        may_stop = np.full(vocab_size, bool(self._stop_strings), np.uint8)
        may_stop[[sequence[len(sequence) - 1] for sequence in self._stop]] = 1
        self._buffers = ids, is_eos, may_stop
        self.ending = Ending(
            self.min_new_tokens, <const int64_t *> <size_t> ids.ctypes.data, len(ids), <const uint8_t *> <size_t> is_eos.ctypes.data,
            <const uint8_t *> <size_t> may_stop.ctypes.data,
        )

    @property
    def eos_count(self):
        """The number of ids that end a sequence."""
        return self.ending.eos_count

    def limit(self, own):
        """Return the longest length of a sequence whose request asks for `own` tokens, or for nothing (None)."""
        return self.max_new_tokens if own is None else min(own, self.max_new_tokens)

    def stops(self, output):
        """Return whether this output, which did not stop before its last token, ends with a stop sequence or a stop string."""
        cdef int64_t last = output[len(output) - 1]
        if self.ending.is_eos[last]:  # ends the sequence by itself, and may be no token of the tokenizer
            return False
        if any(len(output) >= len(s) and np.array_equal(output[len(output) - len(s):], s) for s in self._stop):
            return True
        if not self._stop_strings:
            return False
        start = max(0, len(output) - self._tail)
        while start and self._joins_next(int(output[start - 1])):
            start -= 1  # the text of a run of bytes is known of the whole run only
        text = self._tokenizer.decode(output[start:].tolist())
        return any(stop in text for stop in self._stop_strings)

    def hides_eos(self, const int64_t[:] lengths):
        """Return whether EOS is hidden from a sequence of one of these lengths."""
        cdef int64_t row
        for row in range(len(lengths)):
            if hide(&self.ending, lengths[row], NULL, NULL):
                return True
        return False

    def hide_eos(self, float[:, ::1] logits, const int64_t[:] lengths):
        """Forbid the EOS ids, in place, to the rows that are too short to end; row i has `lengths[i]` new tokens."""
        cdef int64_t row
        for row in range(len(lengths)):
            hide(&self.ending, lengths[row], &logits[row, 0], NULL)

    def finish_reasons(self, const int64_t[:] tokens, const int64_t[:] lengths, const int64_t[:] limits, output):
        """Return why each sequence ends with its newest token.

        Args:
            tokens: the newest ids; -1 where there is none.
            lengths: of the sequences with these tokens; `limits`: their longest lengths.
            output: returns the whole output of entry i; called only where stops are looked for.

        Returns:
            uint8: `GOES_ON`, or the index of a finish reason in `FINISH_REASONS`.
        """
        cdef int64_t i
        cdef bint stops = False
        cdef uint8_t[:] reasons = np.full(len(tokens), RUNNING, np.uint8)
        for i in range(len(tokens)):
            if tokens[i] >= 0:
                if self.looks_for_stops:
                    stops = self.stops(output(i))
                reasons[i] = ends(&self.ending, tokens[i], stops, lengths[i], limits[i])
        return np.asarray(reasons)
