"""Monte-Carlo action values: many completions of every prefix of given sequences, rewarded and averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from decoding.engine.batch.contexts import initial_states
from decoding.engine.encode import alike, encoded
from decoding.engine.loop import run
from decoding.engine.request import FinishedSequence, Request, Settings
from decoding.errors import DecodeError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.pad import pad_together
from decoding.model.graph.types import Array
from decoding.model.model import Model

Reward = Callable[[Array], object]

# Sequences whose states are held at once, and rows of one call of the reward. A constant and not the batch size, so
# that a reward that rounds by the size of its batch gives the same values whatever the batch size is.
_TOGETHER = 128


@dataclass(frozen=True)
class Episodes:
    """Given sequences, as whole episodes of a policy.

    Attributes:
        prompts: each sequence's ids up to its end, behind the `bos` tokens that come before it.
        bos: how many ids of each prompt come before the sequence.
        length: T, of the values.
        longest: new tokens of a completion; None lets it go on to `length`.
        pad: fills rows behind their ends.
    """

    prompts: Sequence[Request]
    bos: int
    length: int
    longest: int | None
    pad: int

    @property
    def width(self) -> int:
        """Ids in a row that the reward sees."""
        return self.length if self.longest is None else max(self.length, self.length - 1 + self.longest)

    def own(self, row: int) -> Array:
        """The sequence itself."""
        return self.prompts[row].ids[self.bos :]

    def waves(self, contract: Contract) -> Iterator[Wave]:
        """Every prefix that can be completed."""
        for group in alike(contract, self.prompts, len(self.prompts)):
            numbers = [prompt.index for prompt in group]
            for start in range(0, len(numbers), _TOGETHER):
                rows = numbers[start : start + _TOGETHER]
                lengths = np.array([len(self.own(row)) for row in rows])
                for end in range(lengths.max() - 1):
                    yield Wave(rows, end, np.flatnonzero(end < lengths - 1).tolist())


class Wave(NamedTuple):
    """Prefixes that are given out together.

    Attributes:
        rows: sequences that are read side by side.
        end: the last position of the prefixes.
        places: of the rows that go on behind it.
    """

    rows: list[int]
    end: int
    slots: list[int]


def action_values(model: Model, settings: Settings, episodes: Episodes, reward: Reward, workers: int) -> Array:
    """float64 [sequences, T]: the mean reward of `job.outputs` completions after each token.

    From the end of a sequence on, the value is the reward of the sequence itself.
    """
    # Draws of its own: else the first completion would repeat the numbers by which decode() drew the sequence.
    settings = replace(
        settings, seed=int(np.random.SeedSequence(settings.seed, spawn_key=(1,)).generate_state(1, np.uint64)[0])
    )
    own = _Rewards(reward, episodes, len(episodes.prompts))
    for row in range(len(episodes.prompts)):
        own.add(row, episodes.own(row))
    values = np.repeat(own.values[:, None], episodes.length, 1)
    waves = list(episodes.waves(model.contract))
    opened = [(wave.rows[slot], wave.end) for wave in waves for slot in wave.slots]
    if opened:
        completed = _Rewards(reward, episodes, len(opened) * settings.outputs)
        with closing(_completions(model, settings, prefixes(model, episodes, waves), opened, workers)) as completions:
            for finished in completions:  # a reward that fails stops the workers
                row, end = opened[finished.sequence // settings.outputs]
                new = finished.tokens if finished.eos is None else np.append(finished.tokens, finished.eos)
                completed.add(finished.sequence, episodes.own(row)[: end + 1], new)
        values[tuple(zip(*opened, strict=True))] = completed.values.reshape(len(opened), settings.outputs).mean(1)
    return values


def _completions(
    model: Model, settings: Settings, prompts: Iterator[Request], opened: Sequence[tuple[int, int]], workers: int
) -> Generator[FinishedSequence]:
    try:
        yield from run(model, settings, prompts, workers)
    except DecodeError as error:
        if error.row is None:
            raise
        row, end = opened[error.row // settings.outputs]
        message = f"sequences[{row}], a completion after token {end}: {error}"
        raise DecodeError(message, row=row, step=error.step) from error


def prefixes(model: Model, episodes: Episodes, waves: Iterable[Wave]) -> Iterator[Request]:
    """The prefixes of all waves, each with the states before its last token: a token is read once for all rows of a wave."""
    c, numbers, rows = model.contract, itertools.count(), None
    gives_states = bool(c.states) and model.reads_chunks_on_device  # else each prefix is read by itself
    for wave in waves:
        if wave.rows is not rows:
            rows, read = wave.rows, 0
            own = encoded(model, [episodes.prompts[row] for row in rows])
            states = initial_states(c, own)
        at = episodes.bos + wave.end
        while gives_states and read < at:
            states, read = _read(model, own, read, states), read + 1
        for slot in wave.slots:
            before = {s.input: value.take(slot, s.batch_axis) for s, value in zip(c.states, states, strict=True)}
            yield replace(
                own[slot],
                index=next(numbers),
                ids=own[slot].ids[: at + 1],
                states=before if gives_states else own[slot].states,
                read=read,
                max_new_tokens=None if episodes.longest else episodes.length - 1 - wave.end,
                source={},
                latents={},
            )


def _read(model: Model, prompts: Sequence[Request], at: int, states: Sequence[Array]) -> list[Array]:
    """The states after the ids at place `at`; sequences that have ended stay at their last."""
    c = model.contract
    ids = np.array([[p.ids[min(at, len(p.ids) - 1)]] for p in prompts])
    feeds = c.feeds(ids, at, pad_together(c.row_inputs, [p.context for p in prompts]))
    feeds |= {s.input: value for s, value in zip(c.states, states, strict=True)}
    return model.session.run(feeds, [s.output for s in c.states], only_fetched=True)


class _Rewards:
    """Rewards of `count` rows that come in any order, asked for as soon as a block of them is full."""

    def __init__(self, reward: Reward, episodes: Episodes, count: int) -> None:
        self.values = np.empty(count, np.float64)
        self._reward, self._episodes = reward, episodes
        self._blocks: dict[int, tuple[Array, list[int]]] = {}  # rows, and how many of them are still missing

    def add(self, number: int, *parts: Array) -> None:
        """The ids of row `number`."""
        block, slot = divmod(number, _TOGETHER)
        if block not in self._blocks:
            size = min(_TOGETHER, len(self.values) - block * _TOGETHER)
            self._blocks[block] = np.full((size, self._episodes.width), self._episodes.pad, np.int64), [size]
        rows, missing = self._blocks[block]
        end = 0
        for part in parts:
            rows[slot, end : end + len(part)] = part
            end += len(part)
        missing[0] -= 1
        if not missing[0]:
            del self._blocks[block]
            start = block * _TOGETHER
            self.values[start : start + len(rows)] = _rewarded(self._reward, rows)


def _rewarded(reward: Reward, ids: Array) -> Array:
    """The reward of each row, float64.

    Raises:
        OptionError: the reward gives something else than one number for each row.
    """
    given = reward(ids)
    try:
        values = np.asarray(given, np.float64)
    except (RuntimeError, TypeError, ValueError) as error:
        raise OptionError(f"reward gave {type(given).__name__}: expected {len(ids)} numbers: {error}") from error
    if values.shape not in ((len(ids),), (len(ids), 1)):
        raise OptionError(
            f"reward gave an array of shape {list(values.shape)}: expected [{len(ids)}], a number for each row"
        )
    if np.isnan(values).any():
        raise OptionError(f"reward gave NaN for the row {ids[int(np.isnan(values).argmax())].tolist()}")
    return values.ravel()
