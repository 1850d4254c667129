"""Chooses the search for a call and runs it, in one thread or in several."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from decoding.engine.encode import alike, encoded_rows, limited_rows, with_latents_of
from decoding.engine.forks import using
from decoding.engine.request import FinishedSequence, Request, RequestQueue, Row, RowSource, Settings
from decoding.engine.search.beam import BeamSearch
from decoding.engine.search.sampling import SamplingSearch
from decoding.engine.search.stochastic_beam import StochasticBeamSearch
from decoding.engine.workers import Workers
from decoding.model.model import Model
from decoding.strategies import Beam

Search = SamplingSearch | BeamSearch | StochasticBeamSearch


def decode_requests(
    model: Model, settings: Settings, requests: Iterable[Request], workers: int, *, callers: bool = False
) -> Generator[FinishedSequence]:
    """Decode all requests, yielding sequences as they finish.

    Args:
        workers: threads, each with a batch of its own, which take requests from one queue and share one session
            of one intra-op thread.
        callers: whether `requests` runs code of the caller, who may block, raise or take results in it. Then it is read in
            the caller's thread alone; see `decoding.engine.workers`.
    """
    for group in alike(model.contract, requests, settings.batch_size):
        rows = _rows(group, settings, workers)
        queue = queue_requests(model, settings, group, rows)
        if workers == 1:
            with using(model):
                yield from choose_search(model, settings, queue, rows).run()
        else:
            yield from _in_threads(model, settings, queue, rows, workers, callers)


def queue_requests(model: Model, settings: Settings, requests: Iterable[Request], rows: int) -> RequestQueue:
    """Return the queue of these requests; as a request is taken, its latents are drawn, its source is encoded and its length limited."""

    def prepare(given: Iterator[Row]) -> Iterator[Row]:
        given = with_latents_of(settings.latents, given, model.contract)
        if model.encoders is not None:
            given = encoded_rows(model, given, rows)
        return limited_rows(model.contract, given)

    return RequestQueue(requests, settings.searches_per_request, prepare)


def choose_search(model: Model, settings: Settings, queue: RowSource, rows: int) -> Search:
    """Return the search that the strategy asks for, over `rows` rows."""
    if not settings.strategy.searches_together:
        return SamplingSearch(model, settings, queue, rows)
    if isinstance(settings.strategy, Beam):
        return BeamSearch(model, settings, queue, rows)
    return StochasticBeamSearch(model, settings, queue, rows)


def _rows(requests: Iterable[Request], settings: Settings, workers: int) -> int:
    """Return the rows of a worker: its share where the number of requests is known, and at most the batch size."""
    if not isinstance(requests, Sequence):
        return settings.batch_size
    share = -(-len(requests) // workers) * settings.rows_per_request
    return max(1, min(settings.batch_size, share))


def _in_threads(
    model: Model, settings: Settings, queue: RequestQueue, rows: int, workers: int, callers: bool
) -> Iterator[FinishedSequence]:
    """Run a search in each of several threads. Leaving early (an error, Ctrl-C, a closed iterator) stops them all."""
    alone, group = model.single_threaded(), Workers(model, queue, bound=workers * rows, callers=callers)
    try:
        group.start(choose_search(alone, settings, source, rows).run() for source in group.sources(workers))
        yield from group.results()
    finally:
        try:
            group.stop()
        finally:
            group.stop()  # Ctrl-C may have cut the first one short; a second time costs nothing
