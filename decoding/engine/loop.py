"""Chooses the search for a call and runs it, in one thread or in several."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from decoding.engine.encode import alike, encoded_rows, with_latents_of
from decoding.engine.request import FinishedSequence, Request, RequestQueue, Row, Settings
from decoding.engine.search.beam import BeamSearch
from decoding.engine.search.sampling import SamplingSearch
from decoding.engine.search.stochastic_beam import StochasticBeamSearch
from decoding.model.model import Model
from decoding.strategies import Beam

Search = SamplingSearch | BeamSearch | StochasticBeamSearch


def decode_requests(
    model: Model, settings: Settings, requests: Iterable[Request], workers: int
) -> Iterator[FinishedSequence]:
    """Decode all requests, yielding sequences as they finish.

    Args:
        workers: threads, each with a batch of its own, which take requests from one queue and share one session
            of one intra-op thread.
    """
    for group in alike(model.contract, requests, settings.batch_size):
        rows = _rows(group, settings, workers)
        queue = queue_requests(model, settings, group, rows)
        if workers == 1:
            yield from choose_search(model, settings, queue, rows).run()
        else:
            alone = model.single_threaded()
            yield from _in_threads([choose_search(alone, settings, queue, rows) for _ in range(workers)], queue.stopped)


def queue_requests(model: Model, settings: Settings, requests: Iterable[Request], rows: int) -> RequestQueue:
    """Return the queue of these requests; as a request is taken, its latents are drawn and its source is encoded."""

    def prepare(given: Iterator[Row]) -> Iterator[Row]:
        given = with_latents_of(settings.latents, given, model.contract)
        return given if model.encoders is None else encoded_rows(model, given, rows)

    return RequestQueue(requests, settings.searches_per_request, prepare)


def choose_search(model: Model, settings: Settings, queue: RequestQueue, rows: int) -> Search:
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


def _in_threads(searches: Sequence[Search], stopped: threading.Event) -> Iterator[FinishedSequence]:
    """Run each search in a thread of its own. An error in one of them is raised here, after the others have stopped.

    Leaving early (an exception here, Ctrl-C, a closed generator) stops every thread within one step.
    """
    results: queue.SimpleQueue[FinishedSequence | BaseException | None] = queue.SimpleQueue()

    def work(search: Search) -> None:
        try:
            for finished in search.run():
                results.put(finished)
        except BaseException as error:  # handed to the caller's thread
            results.put(error)
        finally:
            results.put(None)

    threads = [threading.Thread(target=work, args=(search,), daemon=True) for search in searches]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            match results.get():
                case None:
                    running -= 1
                case BaseException() as error:
                    raise error
                case FinishedSequence() as finished:
                    yield finished
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
