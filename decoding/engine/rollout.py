"""Monte-Carlo action values: many completions of every prefix of given sequences, rewarded and averaged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from decoding.engine.job import Finished, Job, Prompt
from decoding.engine.run import run
from decoding.errors import DecodeError, OptionError
from decoding.model.graph import Array
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

    prompts: Sequence[Prompt]
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

    def open_prefixes(self) -> tuple[Array, Array]:
        """(sequence, last position) of every prefix that can be completed: position by position, so that all are read side by side."""
        rows, ends = [], []
        for start in range(0, len(self.prompts), _TOGETHER):
            lengths = np.array([len(p.ids) - self.bos for p in self.prompts[start : start + _TOGETHER]])
            for end in range(lengths.max() - 1):
                going_on = np.flatnonzero(lengths - 1 > end)
                rows.append(going_on + start)
                ends.append(np.full(len(going_on), end))
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *rows]), np.concatenate([none, *ends])


def action_values(model: Model, job: Job, episodes: Episodes, reward: Reward, workers: int) -> Array:
    """float64 [sequences, T]: the mean reward of `job.outputs` completions after each token.

    From the end of a sequence on, the value is the reward of the sequence itself.
    """
    # Draws of its own: else the first completion would repeat the numbers by which decode() drew the sequence.
    job = replace(job, seed=int(np.random.SeedSequence(job.seed, spawn_key=(1,)).generate_state(1, np.uint64)[0]))
    rows, ends = episodes.open_prefixes()
    own = _Rewards(reward, episodes, len(episodes.prompts))
    for row in range(len(episodes.prompts)):
        own.add(row, episodes.own(row))
    values = np.repeat(own.values[:, None], episodes.length, 1)
    if len(rows):
        completed = _Rewards(reward, episodes, len(rows) * job.outputs)
        with closing(_completions(model, job, episodes, rows, ends, workers)) as completions:
            for finished in completions:  # a reward that fails stops the workers
                prefix = finished.sequence // job.outputs
                new = finished.tokens if finished.eos is None else np.append(finished.tokens, finished.eos)
                completed.add(finished.sequence, episodes.own(int(rows[prefix]))[: ends[prefix] + 1], new)
        values[rows, ends] = completed.values.reshape(len(rows), job.outputs).mean(1)
    return values


def _completions(
    model: Model, job: Job, episodes: Episodes, rows: Array, ends: Array, workers: int
) -> Generator[Finished]:
    try:
        yield from run(model, job, prefixes(model, episodes, rows, ends), workers)
    except DecodeError as error:
        if error.row is None:
            raise
        prefix = error.row // job.outputs
        raise DecodeError(
            f"sequences[{rows[prefix]}], a completion after token {ends[prefix]}: {error}",
            row=int(rows[prefix]),
            step=error.step,
        ) from error


def prefixes(model: Model, episodes: Episodes, rows: Array, ends: Array) -> Iterator[Prompt]:
    """These prefixes, with the states before their last tokens: each token is read once, for up to _TOGETHER rows."""
    axes = [s.batch_axis for s in model.contract.states]
    block = -1
    for index, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
        if row // _TOGETHER != block:
            block, read = row // _TOGETHER, 0
            own = episodes.prompts[block * _TOGETHER : (block + 1) * _TOGETHER]
            states = [s.start(len(own)) for s in model.contract.states]
        while read < episodes.bos + end:
            states, read = _read(model, own, read, states), read + 1
        prompt = episodes.prompts[row]
        yield replace(
            prompt,
            index=index,
            ids=prompt.ids[: read + 1],
            states=[value.take([row % _TOGETHER], axis) for value, axis in zip(states, axes, strict=True)],
            max_new_tokens=None if episodes.longest else episodes.length - 1 - end,
        )


def _read(model: Model, prompts: Sequence[Prompt], at: int, states: Sequence[Array]) -> list[Array]:
    """The states after the ids at place `at`; sequences that have ended stay at their last."""
    c = model.contract
    if not c.states:
        return []
    ids = np.array([[p.ids[min(at, len(p.ids) - 1)]] for p in prompts])
    context = {name: np.stack([p.context[name] for p in prompts]) for name in prompts[0].context}
    feeds = c.feeds(ids, at, context) | {s.input: value for s, value in zip(c.states, states, strict=True)}
    return model.session.run(feeds, [s.output for s in c.states], only_fetched=True)


class _Rewards:
    """Rewards of `count` rows that come in any order, asked for as soon as a block of them is full."""

    def __init__(self, reward: Reward, episodes: Episodes, count: int) -> None:
        self.values = np.empty(count, np.float64)
        self._reward, self._episodes = reward, episodes
        self._blocks: dict[int, tuple[Array, list[int]]] = {}  # rows, and how many of them are still missing

    def add(self, number: int, *parts: Array) -> None:
        """The ids of row `number`."""
        block, place = divmod(number, _TOGETHER)
        if block not in self._blocks:
            size = min(_TOGETHER, len(self.values) - block * _TOGETHER)
            self._blocks[block] = np.full((size, self._episodes.width), self._episodes.pad, np.int64), [size]
        rows, missing = self._blocks[block]
        end = 0
        for part in parts:
            rows[place, end : end + len(part)] = part
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
