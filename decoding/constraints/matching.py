"""Where the hypotheses of a search are in their grammars, and which tokens may follow, computed while the network runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.constraints.bound import BoundConstraint, shortened
from decoding.constraints.spelling import Bits, Spelling, llguidance
from decoding.errors import OptionError
from decoding.kernels.cores import usable_cores

# Bits of masks up to which they are computed at once: handing them to a thread takes as long. Nor do runs of forced
# tokens gain anything above (bench/test_constraints.py).
_AT_ONCE = 1 << 11


class Matcher:
    """Where one hypothesis is in the grammar of one constraint.

    Attributes:
        bound: the constraint.
        state: llguidance's matcher.
        begins: whether the text has not begun, so that the next token has its form at the beginning.
        place: the row of the newest masks that it has.
    """

    __slots__ = ("begins", "bound", "place", "state")

    def __init__(self, bound: BoundConstraint, state: Any = None, begins: bool = True) -> None:
        self.bound, self.begins, self.place = bound, begins, -1
        self.state = bound.start() if state is None else state

    def consume(self, token: int) -> bool:
        """Go on by a token, and return whether it is allowed; after one that is not, this cannot be used any more."""
        if self.begins:
            spelling = self.bound.spelling
            token = spelling.first_ids[token]
            if token < 0:
                self.begins = spelling.trims_all
                return True
            self.begins = False
        consumed: bool = self.state.consume_token(token)
        return consumed

    def after(self, token: int) -> Matcher:
        """Return where the hypothesis is after one more token, which is allowed."""
        copy = Matcher(self.bound, self.state.deep_copy(), self.begins)
        copy.consume(token)
        return copy

    def allowed(self) -> int:
        """Return the tokens that may follow, token t as bit t; 0 where EOS may, too.

        For one hypothesis at a time: an int is looked at in a tenth of the time of a small array.
        """
        bound = self.bound
        if self.begins:
            bits = int.from_bytes(bound.first_bits.tobytes(), "little")
            return bits if bits & bound.own == bits else 0
        bits = int.from_bytes(self.state.compute_bitmask(), "little")
        may_end = bits >> bound.spelling.end & 1 and len(bound.eos)
        return 0 if may_end else bits & bound.own

    @property
    def may_end(self) -> bool:
        """Whether the text is whole."""
        accepts: bool = self.state.is_accepting() and not self.state.is_error()
        return accepts

    @property
    def failure(self) -> str:
        """The message of llguidance where it could not go on: a grammar that is too complex; else ""."""
        error = self.state.get_error() if self.state.is_error() else ""
        return "" if error.startswith("NoExtension") else shortened(error)

    def release(self) -> None:
        """Let another hypothesis use what this one found out about the grammar; it is not used any more."""
        self.bound.release(self.state)


# One for each constraint of a hypothesis, in their order.
Matchers = tuple[Matcher, ...]


def begun(constraints: Iterable[BoundConstraint], ids: Iterable[int] = ()) -> Matchers:
    """Return the matchers of a new hypothesis, whose text begins with these ids.

    Raises:
        OptionError: no text of a constraint begins so.
    """
    found, ids = tuple(Matcher(constraint) for constraint in constraints), list(ids)
    for matcher in found:
        if not all(matcher.consume(token) for token in ids):
            text = matcher.bound.spelling.text(ids).decode("utf-8", "replace")
            raise OptionError(f"{matcher.bound.name}: no text of it begins with {text!r}")
    return found


def consume(matchers: Iterable[Matcher], tokens: Iterable[int]) -> None:
    """Let each of these go on by its token, which is allowed.

    In one thread: llguidance's `consume_token_par` takes longer (64 tokens: 35 µs, and 45 to 70 with it).
    """
    for matcher, token in zip(matchers, tokens, strict=True):
        if matcher.begins:
            matcher.consume(token)
        else:
            matcher.state.consume_token(token)


def must_end(matchers: Matchers) -> bool:
    """Return whether a hypothesis is whole and nothing may follow."""
    if len(matchers) == 1:  # asked at each step of each row
        return matchers[0].state.is_stopped() and matchers[0].may_end
    stopped = any(m.state.is_stopped() for m in matchers)
    return all(m.may_end for m in matchers) and (stopped or not _share_a_token(matchers))


def _share_a_token(matchers: Matchers) -> bool:
    """Return whether a token suits all constraints; each alone may go on where none does."""
    if any(m.begins for m in matchers):
        return True
    masks = [np.frombuffer(m.state.compute_bitmask(), np.uint32) for m in matchers]
    return bool(_own_bits(np.bitwise_and.reduce(masks), matchers[0].bound.spelling).any())


def _own_bits(bits: Bits, spelling: Spelling) -> Bits:
    """Return the words of llguidance's masks [..., words] that the model's ids have, in place: without the bit of the end."""
    own, end = bits[..., : spelling.own_words], spelling.end
    if end & 31:
        own[..., -1] &= np.uint32((1 << (end & 31)) - 1)
    return own


def must_end_with(matchers: Matchers, token: int) -> bool:
    """Return whether a hypothesis would be whole after one more token, which is allowed, and nothing might follow."""
    return must_end(tuple(m.after(token) for m in matchers))


def why_stuck(matchers: Matchers, ids: list[int]) -> str:
    """Return why no token can follow these, after which the matchers are."""
    return "; ".join(f"{m.bound.name}: {m.failure}" if m.failure else m.bound.why_stuck(ids) for m in matchers)


class Masks:
    """The masks of the hypotheses of a search: which tokens each may take next.

    They are computed in threads without the interpreter lock, from when the tokens of a step are chosen until the network
    has run with them.
    """

    def __init__(self) -> None:
        self._buffer: Bits = np.zeros((0, 0), np.uint32)
        self._address = 0  # of the buffer: asking NumPy for it takes as long as a small mask
        self._matchers: list[Matcher] = []
        self._pairs: list[tuple[Any, int]] = []
        self._running: Future[None] | None = None

    def begin(self, matchers: Iterable[Matcher]) -> None:
        """Begin to compute the masks of these hypotheses, which do not change until `of` was called."""
        self.wait()
        own = [m for m in matchers if not m.begins]
        if not own:
            return
        spelling = own[0].bound.spelling
        if own != self._matchers:
            self._matchers, self._pairs = own, [(m.state, place) for place, m in enumerate(own)]
            for place, matcher in enumerate(own):
                matcher.place = place
            if len(self._buffer) < len(own):
                self._buffer = np.zeros((len(own), spelling.words), np.uint32)
                self._address = self._buffer.ctypes.data
        if len(own) * spelling.vocab_size <= _AT_ONCE:
            size = 4 * self._buffer.shape[1]
            for state, place in self._pairs:
                state.unsafe_compute_mask_ptr(self._address + place * size, size)
            self._finish()
            return
        threads, executor = _threads(os.getpid())
        self._running = threads.submit(self._fill, executor)

    def wait(self) -> None:
        """Wait until the masks are computed."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    @property
    def is_running(self) -> bool:
        """Whether masks are being computed."""
        return self._running is not None

    def forced(self, rows: Sequence[Matchers], most: int) -> list[list[int]]:
        """Go on by the tokens of the next steps in which each of these hypotheses may take only one, and return them.

        Args:
            most: steps, at most.

        Returns:
            A token of each hypothesis, for each step. EOS is in none, and nothing follows a step after which one must end.
        """
        steps = list[list[int]]()
        while len(steps) < most:
            tokens = []
            for row in rows:
                allowed = row[0].allowed()
                for matcher in row[1:]:
                    allowed &= matcher.allowed()
                if not allowed or allowed & (allowed - 1):
                    return steps
                tokens.append(allowed.bit_length() - 1)
            steps.append(tokens)
            for row, token in zip(rows, tokens, strict=True):
                consume(row, [token] * len(row))
            if any(must_end(row) for row in rows):
                break
        return steps

    def of(self, matchers: Sequence[Matcher]) -> Bits:
        """Return the masks of these hypotheses, uint32 [hypotheses, words]: bit t & 31 of word t >> 5 is set where token t is allowed."""
        self.wait()
        words = matchers[0].bound.spelling.own_words
        if matchers == self._matchers:
            return self._buffer[: len(matchers), :words]
        if new := [m for m in matchers if not (m.begins or self._has(m))]:  # their texts began before they came here
            self.begin([*self._matchers, *new])
            self.wait()
        found = np.empty((len(matchers), words), np.uint32)
        for row, matcher in enumerate(matchers):
            found[row] = matcher.bound.first_bits if matcher.begins else self._buffer[matcher.place, :words]
        return found

    def _has(self, matcher: Matcher) -> bool:
        """Return whether the newest masks have that of a hypothesis."""
        return 0 <= matcher.place < len(self._matchers) and self._matchers[matcher.place] is matcher

    def _fill(self, executor: Any) -> None:
        """Compute the masks, each in its row of the buffer."""
        executor.unsafe_compute_mask_ptr(self._pairs, self._address, 4 * self._buffer.shape[1], len(self._buffer))
        self._finish()

    def _finish(self) -> None:
        """Make masks over the model's ids of llguidance's: with EOS where the text may end, and nothing where there is no way on."""
        spelling = self._matchers[0].bound.spelling
        bits, end = self._buffer[: len(self._matchers)], spelling.end
        may_end: npt.NDArray[np.bool_] = bits[:, end >> 5] >> np.uint32(end & 31) & 1 != 0
        own = _own_bits(bits, spelling)
        for row in np.flatnonzero(~own.any(axis=1)).tolist():
            may_end[row] &= not self._matchers[row].state.is_error()  # llguidance also ends what it has no way on for
        rows_of: dict[int, tuple[BoundConstraint, list[int]]] = {}
        for row, matcher in enumerate(self._matchers):
            if len(matcher.bound.eos):
                rows_of.setdefault(id(matcher.bound), (matcher.bound, []))[1].append(row)
        for bound, rows in rows_of.values():
            if len(rows) == len(own):
                bound.with_ends(own, may_end)
            else:
                some = own[rows]
                bound.with_ends(some, may_end[rows])
                own[rows] = some


@cache
def _threads(process: int) -> tuple[ThreadPoolExecutor, Any]:
    """Return the thread that waits for llguidance, and its own threads; of each process, as a fork has none of them."""
    threads = max(1, usable_cores() // 2)
    executor = llguidance().LLExecutor(threads)
    return ThreadPoolExecutor(threads, thread_name_prefix="constraints"), executor
