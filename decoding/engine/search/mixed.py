"""Requests of different strategies, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Iterator

from decoding.engine.encode import context_shapes, shares_a_batch
from decoding.engine.flags import Flag
from decoding.engine.request import (
    Call,
    EngineRequest,
    FailedRequest,
    FinishedSequence,
    Row,
    RowSource,
    RunningOutput,
    Settings,
    strategy_key,
)
from decoding.engine.search.beam import BeamSearch
from decoding.engine.search.sampling import SamplingSearch
from decoding.engine.search.stochastic_beam import StochasticBeamSearch
from decoding.model.network import Network
from decoding.strategies import Beam

Search = SamplingSearch | BeamSearch | StochasticBeamSearch

# What requests of one search have in common: the settings that matter, and the shapes of contexts that cannot be padded.
Key = tuple[Hashable, Hashable]
_BY_THEMSELVES = "rows that choose by themselves"


class Lane:
    """One search, and its rows that wait; it is what the search takes its rows from.

    Attributes:
        steps: takes one step of the search at each turn, and yields what finished by it, then None.
    """

    def __init__(self, searches: MixedSearch, key: Key, rows: Iterable[Row] = ()) -> None:
        self._searches, self.key = searches, key
        self.stopped, self.step_by_step = searches.stopped, searches.step_by_step
        self.rows = deque(rows)
        self.search: Search | None = None
        self.steps: Iterator[FinishedSequence | FailedRequest | None] = iter(())

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""
        self._searches.look_ahead(self, count)
        return [self.rows.popleft() for _ in range(min(count, len(self.rows)))]

    def requests(self) -> list[EngineRequest]:
        """Return the requests that run."""
        return [] if self.search is None else self.search.requests()


class MixedSearch:
    """Searches that take steps in turn.

    Rows that choose by themselves (`Greedy`, `Sample`, `TopN`) run in one batch, each by its own rules. A search over several rows
    (`Beam`, `Sample(replacement=False)`) has a batch of its own, which requests with equal settings share.

    Args:
        queue: rows are taken from it in their order, at most `rows` ahead of the searches that they wait for.
        rows: how many run together in each search.
    """

    def __init__(self, network: Network, call: Call, queue: RowSource, rows: int) -> None:
        self._network, self._call, self._queue, self._count = network, call, queue, rows
        self.stopped, self.step_by_step = queue.stopped, Flag()
        self._lanes: dict[Key, Lane] = {}
        # A search whose rows have ended, by the key of its lane: its buffers serve when rows like them come again. Rows with
        # contexts of another shape need others, as shorter contexts would be padded.
        self._kept: dict[Key, SamplingSearch] = {}

    def run(self, *, every: bool = False) -> Iterator[FinishedSequence | FailedRequest | None]:
        """Decode the whole queue, yielding each sequence as it finishes; with `every`, also None after steps.

        After each step while `step_by_step` is set, which the caller must clear then by `pace()`.
        """
        self.look_ahead(None, 1)
        while self._lanes and not self.stopped.is_set():
            for lane in list(self._lanes.values()):
                yield from self._step(lane)
            if every:
                yield None
            else:
                self.pace()
            if not self._lanes:
                self.look_ahead(None, 1)

    def pace(self, *, step_by_step: bool = False) -> None:
        """Take one step at a time if that is wanted, or while there are searches that take turns; else many."""
        if step_by_step or len(self._lanes) > 1:
            self.step_by_step.set()
        else:
            self.step_by_step.clear()

    def requests(self) -> list[EngineRequest]:
        """Return the requests that run or wait here."""
        return [r for lane in self._lanes.values() for r in (*lane.requests(), *(request for _, request in lane.rows))]

    def rows(self) -> int:
        """Return how many rows run."""
        return sum(lane.search.rows() for lane in self._lanes.values() if lane.search is not None)

    def cancel(self, index: int) -> None:
        """Forget a request; its rows are free at the next step."""
        for lane in self._lanes.values():
            lane.rows = deque(row for row in lane.rows if row[1].index != index)
            if lane.search is not None:
                lane.search.cancel(index)

    def outputs(self, indices: Collection[int]) -> Iterator[RunningOutput]:
        """Yield the new tokens so far of each row of these requests that chooses by itself."""
        for lane in self._lanes.values():
            if isinstance(lane.search, SamplingSearch):
                yield from lane.search.outputs(indices)

    def look_ahead(self, lane: Lane | None, count: int) -> None:
        """Take rows from the queue, each for its lane, until `lane` (None: any) has `count` of them, or too many wait."""
        while True:
            waiting = sum(len(each.rows) for each in self._lanes.values())
            missing = count - (waiting if lane is None else len(lane.rows))
            rows = self._queue.take(max(0, min(missing, self._count - waiting)))
            if not rows:
                return
            for row in rows:
                self._lane_of(row).rows.append(row)

    def _step(self, lane: Lane) -> Iterator[FinishedSequence | FailedRequest]:
        """Take a step of a lane; close it where no row of it runs."""
        try:
            for finished in lane.steps:
                if finished is None:
                    return
                yield finished
        except Exception as error:
            if not (self._call.live and lane.requests()):
                raise
            yield from self._isolated(lane, error)
            return
        del self._lanes[lane.key]
        if isinstance(lane.search, SamplingSearch):
            self._kept = {lane.key: lane.search}
        if lane.rows:
            self._open(lane, lane.rows[0][1].settings)

    def _isolated(self, lane: Lane, error: Exception) -> Iterator[FailedRequest]:
        """Go on after a step that raised an error, which ends the request that it came from, and no other.

        Requests that one search serves start again, each in a search of its own, where only the one at fault fails again.
        """
        del self._lanes[lane.key]
        requests = lane.requests()
        if lane.key[0] == _BY_THEMSELVES or len(requests) == 1:
            # Rows that choose by themselves have failed as a whole: the network did.
            yield from (FailedRequest(request, error) for request in requests)
        else:
            for request in requests:
                key = (lane.key[0], request.index), lane.key[1]
                self._open(Lane(self, key, [(request.first, request)]), request.settings)
        if lane.rows:
            self._open(lane, lane.rows[0][1].settings)

    def _lane_of(self, row: Row) -> Lane:
        settings = row[1].settings
        kind = _key(settings) if settings.strategy.searches_together else _BY_THEMSELVES
        shapes = () if shares_a_batch(self._network.contract) else context_shapes(self._network.contract, row[1])
        key = kind, shapes
        if key not in self._lanes:
            self._open(Lane(self, key), settings)
        return self._lanes[key]

    def _open(self, lane: Lane, settings: Settings) -> None:
        """Start the search of a lane, whose rows have such settings."""
        self._lanes[lane.key] = lane
        if len(self._lanes) > 1:
            self.step_by_step.set()
        kept = self._kept.pop(lane.key, None)
        if kept is not None:
            kept.take_from(lane)
        lane.search = kept or make_search(self._network, self._call, settings, lane, self._count)
        lane.steps = lane.search.run(every=True)


def make_search(network: Network, call: Call, settings: Settings, queue: RowSource, rows: int) -> Search:
    """Return the search that the strategy of `settings` asks for, over `rows` rows."""
    if not settings.strategy.searches_together:
        return SamplingSearch(network, call, queue, rows)
    search = BeamSearch if isinstance(settings.strategy, Beam) else StochasticBeamSearch
    return search(network, call, settings, queue, rows)


def _key(settings: Settings) -> Hashable:
    """Return what is equal for settings that one search can serve."""
    return (
        strategy_key(settings.strategy),
        settings.outputs,
        settings.eos,
        tuple(ids.tobytes() for ids in settings.stop),
        settings.stop_strings,
        settings.min_new_tokens,
        settings.max_new_tokens,
        tuple(map(id, settings.processors)),
        settings.return_attention,
        settings.return_state,
    )
