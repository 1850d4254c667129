"""Lexically constrained beam search with dynamic beam allocation (Post and Vilar 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decoding.model.graph.types import Array


class Progress(NamedTuple):
    """How much of the phrases an output has.

    Attributes:
        met: whether it has each phrase.
        begun: of each phrase that it has not, how many of the first tokens are the output's last ones.
    """

    met: tuple[bool, ...]
    begun: tuple[int, ...]


class Phrases:
    """The phrases that every output of a request contains, each a run of its tokens; they may overlap.

    Each phrase is followed by its own automaton (Knuth, Morris and Pratt 1977), so that none is missed, whatever comes
    between its first tokens and itself.

    Args:
        phrases: ids, at least one each.
        ordered: whether each phrase is looked for only after the end of the one before it.
    """

    def __init__(self, phrases: Sequence[tuple[int, ...]], *, ordered: bool) -> None:
        self._phrases, self._ordered = list(phrases), ordered
        self._falls_back = [_falls_back(phrase) for phrase in phrases]

    def start(self) -> Progress:
        """Return that of an empty output."""
        nothing = len(self._phrases)
        return Progress((False,) * nothing, (0,) * nothing)

    def after(self, progress: Progress, token: int) -> Progress:
        """Return the progress after one more token."""
        met, begun = list(progress.met), list(progress.begun)
        for i in self._open(progress):
            begun[i] = self._next(i, begun[i], token)
            met[i] = begun[i] == len(self._phrases[i])
        return Progress(tuple(met), tuple(begun))

    def bank(self, progress: Progress) -> int:
        """Return the number of tokens of phrases that the output has: those of phrases met, and of the longest one begun."""
        have = sum(len(phrase) for phrase, met in zip(self._phrases, progress.met, strict=True) if met)
        return have + max((progress.begun[i] for i in self._open(progress)), default=0)

    def tokens(self, progress: Progress) -> set[int]:
        """Return the tokens that go on with a phrase, or begin one."""
        return {self._phrases[i][at] for i in self._open(progress) for at in (0, progress.begun[i])}

    def candidates(self, scores: Array, progress: Sequence[Progress], allows: Array, count: int) -> Array:
        """Return the continuations that beam search looks at, in the order in which it takes them.

        They are the best of all, the best of each hypothesis, and those that go on with a phrase. Banks are served in turn:
        the best of each bank, from the fullest down, then the second of each, ...

        Args:
            scores: float32 [beams, V], of every continuation; -inf where it is impossible.
            progress: of each beam.
            allows: ids that only an output with all phrases may take (EOS).
            count: how many are returned at most.

        Returns:
            int64 [candidates, 2]: beams and tokens.
        """
        scores = scores.copy()
        for beam, own in enumerate(progress):
            if not all(own.met):
                scores[beam, allows] = -np.inf
        flat = scores.ravel()
        best = np.argpartition(-flat, min(count, flat.size) - 1)[:count]
        chosen = {tuple(divmod(i, scores.shape[1])) for i in best.tolist()}
        chosen |= set(enumerate(scores.argmax(axis=1).tolist()))
        chosen |= {(beam, token) for beam, own in enumerate(progress) for token in self.tokens(own)}
        banks: dict[int, list[tuple[int, int]]] = {}
        for beam, token in sorted(chosen, key=lambda at: (-scores[at], at)):
            if scores[beam, token] > -np.inf:
                own = progress[beam] if token in allows else self.after(progress[beam], token)
                banks.setdefault(self.bank(own), []).append((beam, token))
        turns = [(turn, -bank, at) for bank, own in banks.items() for turn, at in enumerate(own)]
        return np.array([at for _, _, at in sorted(turns)][:count], np.int64).reshape(-1, 2)

    def _open(self, progress: Progress) -> list[int]:
        """Return the phrases that are looked for."""
        missing = [i for i, met in enumerate(progress.met) if not met]
        return missing[:1] if self._ordered else missing

    def _next(self, phrase: int, begun: int, token: int) -> int:
        own = self._phrases[phrase]
        while begun and own[begun] != token:
            begun = self._falls_back[phrase][begun]
        return begun + (own[begun] == token)


def _falls_back(phrase: Sequence[int]) -> list[int]:
    """Return, for each number of first tokens, how many of the last ones among them are first tokens, too."""
    found, longest = [0, 0], 0
    for at in range(1, len(phrase)):
        while longest and phrase[at] != phrase[longest]:
            longest = found[longest]
        longest += phrase[at] == phrase[longest]
        found.append(longest)
    return found
