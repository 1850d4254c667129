"""Requests of different strategies, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from decoding.engine.request import Call, FinishedSequence, Row, RowSource, Settings
from decoding.engine.search.beam import BeamSearch
from decoding.engine.search.sampling import SamplingSearch
from decoding.engine.search.stochastic_beam import StochasticBeamSearch
from decoding.model.model import Model
from decoding.strategies import Beam

Search = SamplingSearch | BeamSearch | StochasticBeamSearch

_BY_THEMSELVES = "rows that choose by themselves"


class Lane:
    """The rows of one search that wait; it is what the search takes its rows from.

    Attributes:
        steps: takes one step of the search at each turn, and yields what finished by it, then None.
    """

    def __init__(self, searches: MixedSearch) -> None:
        self._searches = searches
        self.stopped = searches.stopped
        self.rows = deque[Row]()
        self.steps: Iterator[FinishedSequence | None] = iter(())

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""
        self._searches.look_ahead(self, count)
        return [self.rows.popleft() for _ in range(min(count, len(self.rows)))]


class MixedSearch:
    """Searches that take steps in turn.

    Rows that choose by themselves (`Greedy`, `Sample`, `TopN`) run in one batch, each by its own rules. A search over several rows
    (`Beam`, `Sample(replacement=False)`) has a batch of its own, which requests with equal settings share.

    Args:
        queue: rows are taken from it in their order, at most `rows` ahead of the searches that they wait for.
        rows: how many run together in each search.
    """

    def __init__(self, model: Model, call: Call, queue: RowSource, rows: int) -> None:
        self._model, self._call, self._queue, self._count = model, call, queue, rows
        self.stopped = queue.stopped
        self._lanes: dict[Hashable, Lane] = {}

    def run(self) -> Iterator[FinishedSequence]:
        """Decode the whole queue, yielding each sequence as it finishes."""
        self.look_ahead(None, 1)
        while self._lanes and not self.stopped.is_set():
            for key, lane in list(self._lanes.items()):
                for finished in lane.steps:
                    if finished is None:
                        break
                    yield finished
                else:  # no row of it runs
                    del self._lanes[key]
                    if lane.rows:
                        self._open(key, lane, lane.rows[0][1].settings)
            if not self._lanes:
                self.look_ahead(None, 1)

    def look_ahead(self, lane: Lane | None, count: int) -> None:
        """Take rows from the queue, each for its lane, until `lane` (None: any) has `count` of them, or too many wait."""
        waiting = sum(len(each.rows) for each in self._lanes.values())
        while waiting < self._count and (
            (lane is None and not waiting) or (lane is not None and len(lane.rows) < count)
        ):
            rows = self._queue.take(1)
            if not rows:
                return
            self._lane_of(rows[0]).rows.append(rows[0])
            waiting += 1

    def _lane_of(self, row: Row) -> Lane:
        settings = row[1].settings
        key = _key(settings) if settings.strategy.searches_together else _BY_THEMSELVES
        if key not in self._lanes:
            self._open(key, Lane(self), settings)
        return self._lanes[key]

    def _open(self, key: Hashable, lane: Lane, settings: Settings) -> None:
        self._lanes[key] = lane
        lane.steps = make_search(self._model, self._call, settings, lane, self._count).run(every=True)


def make_search(model: Model, call: Call, settings: Settings, queue: RowSource, rows: int) -> Search:
    """Return the search that the strategy of `settings` asks for, over `rows` rows."""
    if not settings.strategy.searches_together:
        return SamplingSearch(model, call, queue, rows)
    search = BeamSearch if isinstance(settings.strategy, Beam) else StochasticBeamSearch
    return search(model, call, settings, queue, rows)


def _key(settings: Settings) -> Hashable:
    """Return what is equal for settings that one search can serve."""
    return (
        settings.strategy,
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
