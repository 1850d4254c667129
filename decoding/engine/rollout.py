"""Monte-Carlo action values: completes every prefix of given sequences many times, and averages the rewards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from decoding.engine.batch.contexts import initial_states, step_contexts
from decoding.engine.encode import alike, encoded
from decoding.engine.loop import decode_requests
from decoding.engine.request import Call, EngineRequest, FinishedSequence
from decoding.errors import DecodeError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.pad import pad_together
from decoding.model.graph.types import Array
from decoding.model.network import Network

Reward = Callable[[Array], object]
Watch = Callable[[Iterable[FinishedSequence], int | None], Iterable[FinishedSequence]]

# Sequences whose states are held at once, and rows of one call of the reward. A constant and not the batch size, so
# that a reward that rounds by the size of its batch returns the same values for every batch size.
_TOGETHER = 128


@dataclass(frozen=True)
class Episodes:
    """Given sequences, as whole episodes of a policy.

    Attributes:
        requests: each has the ids of a sequence up to its end, after what comes before it.
        starts: how many ids of each request come before the sequence: its BOS, or its prompt.
        length: T, of the values.
        longest: new tokens of a completion; None lets it go on to `length`.
        pad: fills rows after their ends.
    """

    requests: Sequence[EngineRequest]
    starts: Sequence[int]
    length: int
    longest: int | None
    pad: int

    @property
    def width(self) -> int:
        """The number of ids in a row that the reward sees."""
        return self.length if self.longest is None else max(self.length, self.length - 1 + self.longest)

    def own(self, row: int) -> Array:
        """Return the sequence itself."""
        return self.requests[row].ids[self.starts[row] :]

    def waves(self, contract: Contract) -> Iterator[Wave]:
        """Yield every prefix that can be completed."""
        for group in alike(contract, self.requests, len(self.requests)):
            numbers = [request.index for request in group]
            for start in range(0, len(numbers), _TOGETHER):
                rows = numbers[start : start + _TOGETHER]
                lengths = np.array([len(self.own(row)) for row in rows])
                for end in range(lengths.max() - 1):
                    yield Wave(rows, end, np.flatnonzero(end < lengths - 1).tolist())


class Wave(NamedTuple):
    """Prefixes that end at one position.

    Attributes:
        rows: sequences that are read side by side.
        end: the last position of the prefixes.
        slots: of the rows that go on after it.
    """

    rows: list[int]
    end: int
    slots: list[int]


def action_values(
    network: Network, call: Call, episodes: Episodes, reward: Reward, workers: int, watch: Watch | None = None
) -> Array:
    """Return float64 [sequences, T]: the mean reward of `call.settings.outputs` completions after each token.

    From the end of a sequence on, the value is the reward of the sequence itself.

    Args:
        watch: yields the completions that it is given, of which there are so many, and shows their progress.
    """
    outputs = call.settings.outputs
    own = _Rewards(reward, episodes, len(episodes.requests))
    for row in range(len(episodes.requests)):
        own.add(row, episodes.own(row))
    values = np.repeat(own.values[:, None], episodes.length, 1)
    waves = list(episodes.waves(network.contract))
    positions = [(wave.rows[slot], wave.end) for wave in waves for slot in wave.slots]
    if positions:
        completed = _Rewards(reward, episodes, len(positions) * outputs)
        with closing(
            _completions(network, call, prefixes(network, episodes, waves, outputs), positions, workers)
        ) as completions:
            watched = completions if watch is None else watch(completions, len(positions) * outputs)
            for finished in watched:  # a reward that fails stops the workers
                row, end = positions[finished.request.index]
                new = finished.tokens if finished.eos is None else np.append(finished.tokens, finished.eos)
                completed.add(finished.sequence, episodes.own(row)[: end + 1], new)
        values[tuple(zip(*positions, strict=True))] = completed.values.reshape(len(positions), outputs).mean(1)
    return values


def _completions(
    network: Network, call: Call, requests: Iterator[EngineRequest], positions: Sequence[tuple[int, int]], workers: int
) -> Generator[FinishedSequence]:
    try:
        yield from decode_requests(network, call, requests, workers)
    except DecodeError as error:
        if error.row is None:
            raise
        row, end = positions[error.row // call.settings.outputs]
        message = f"sequences[{row}], a completion after token {end}: {error}"
        raise DecodeError(message, row=row, step=error.step) from error


def prefixes(network: Network, episodes: Episodes, waves: Iterable[Wave], outputs: int) -> Iterator[EngineRequest]:
    """Yield the prefixes of all waves, each with the states before its last token: a token is read once for all rows of a wave.

    Args:
        outputs: completions of each.
    """
    settings = {r.settings: replace(r.settings, outputs=outputs) for r in episodes.requests}
    seeds = {r.seed: _seed_of_completions(r.seed) for r in episodes.requests}
    c, numbers, rows = network.contract, itertools.count(), None
    keeps_states = bool(c.states) and network.reads_chunks_on_device  # else each prefix is read by itself
    for wave in waves:
        if wave.rows is not rows:
            rows, read = wave.rows, 0
            own = encoded(network, [episodes.requests[row] for row in rows])
            states = initial_states(c, own)
        while keeps_states and read < episodes.starts[rows[0]] + wave.end:  # the same for all rows of one model
            states, read = _read(network, own, read, states), read + 1
        for slot in wave.slots:
            before = {s.input: value.take(slot, s.batch_axis) for s, value in zip(c.states, states, strict=True)}
            number, at = next(numbers), episodes.starts[rows[slot]] + wave.end
            yield replace(
                own[slot],
                index=number,
                settings=settings[own[slot].settings],
                seed=seeds[own[slot].seed],
                ids=own[slot].ids[: at + 1],
                states=before if keeps_states else own[slot].states,
                read=read,
                written=wave.end + 1,
                max_new_tokens=None if episodes.longest else episodes.length - 1 - wave.end,
                first=number * outputs,
                own_stream=None if own[slot].own_stream is None else wave.end * outputs,
                encoded=True,
                sequence=None,
            )


def _seed_of_completions(seed: int) -> int:
    """Return the seed of the draws, which is another: else the first completion would repeat those of decode()."""
    return int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1, np.uint64)[0])


def _read(network: Network, requests: Sequence[EngineRequest], at: int, states: Sequence[Array]) -> list[Array]:
    """Return the states after the ids at position `at`; sequences that have ended stay at their last."""
    c = network.contract
    ids = np.array([[r.ids[min(at, len(r.ids) - 1)]] for r in requests])
    context = pad_together(c.row_inputs, [r.context for r in requests])
    context |= step_contexts(c.auxiliary_inputs, requests, np.full(len(requests), at), 1)
    feeds = c.feeds(ids, at, context)
    feeds |= {s.input: value for s, value in zip(c.states, states, strict=True)}
    return network.read_session.run(feeds, [s.output for s in c.states], only_fetched=True)


class _Rewards:
    """Collects rows in any order and calls the reward as soon as a block of them is full."""

    def __init__(self, reward: Reward, episodes: Episodes, count: int) -> None:
        self.values = np.empty(count, np.float64)
        self._reward, self._episodes = reward, episodes
        self._blocks: dict[int, tuple[Array, list[int]]] = {}  # rows, and how many of them are still missing

    def add(self, number: int, *parts: Array) -> None:
        """Take the ids of row `number`."""
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
    """Return the reward of each row, float64.

    Raises:
        OptionError: the reward returns something else than one number for each row.
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
