"""Choosing the search for a job and running it, in one thread or in several."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from decoding.engine.encode import alike, encoded_rows
from decoding.engine.request import FinishedSequence, Request, RequestQueue, Settings
from decoding.engine.search.beam import BeamSearch
from decoding.engine.search.sampling import SamplingSearch
from decoding.engine.search.stochastic_beam import StochasticBeamSearch
from decoding.model.model import Model
from decoding.strategies import Beam, Sample

Search = SamplingSearch | BeamSearch | StochasticBeamSearch


def run(model: Model, settings: Settings, prompts: Iterable[Request], workers: int) -> Iterator[FinishedSequence]:
    """Decode all prompts, yielding sequences as they finish.

    Args:
        workers: threads, each with a batch of its own, which take prompts from one queue and share one session
            of one intra-op thread.
    """
    for group in alike(model.contract, prompts, settings.batch_size):
        rows = _rows(group, settings, workers)
        source = make_queue(model, settings, group, rows)
        if workers == 1:
            yield from make_search(model, settings, source, rows).run()
        else:
            alone = model.single_threaded()
            yield from _in_threads([make_search(alone, settings, source, rows) for _ in range(workers)], source.stopped)


def make_queue(model: Model, settings: Settings, prompts: Iterable[Request], rows: int) -> RequestQueue:
    """Where the searches of a job take their prompts from: with their latents, and their sources encoded when they are taken."""

    def prepare(given: Iterator[tuple[int, Request]]) -> Iterator[tuple[int, Request]]:
        if settings.latents is not None:
            given = settings.latents.rows(given, model.contract.latents)
        return given if model.encoders is None else encoded_rows(model, given, rows)

    return RequestQueue(prompts, 1 if searches_whole_prompts(settings) else settings.outputs, prepare)


def make_search(model: Model, settings: Settings, source: RequestQueue, rows: int) -> Search:
    """The search that a job's strategy asks for."""
    if isinstance(settings.strategy, Beam):
        return BeamSearch(model, settings, source, rows)
    if searches_whole_prompts(settings):
        return StochasticBeamSearch(model, settings, source, rows)
    return SamplingSearch(model, settings, source, rows)


def searches_whole_prompts(settings: Settings) -> bool:
    """Are all outputs of a prompt found by one search, rather than each by itself?"""
    return isinstance(settings.strategy, Beam) or (
        isinstance(settings.strategy, Sample) and not settings.strategy.replacement
    )


def _rows(prompts: Iterable[Request], settings: Settings, workers: int) -> int:
    """Rows of a worker: its share where the number of prompts is known, and at most the batch size."""
    if not isinstance(prompts, Sequence):
        return settings.batch_size
    each = settings.strategy.num_beams if isinstance(settings.strategy, Beam) else settings.outputs
    share = -(-len(prompts) // workers) * each
    return max(1, min(settings.batch_size, share))


def _in_threads(searches: Sequence[Search], stopped: threading.Event) -> Iterator[FinishedSequence]:
    """Run each search in a thread of its own; what one raises is raised here, after the others have stopped.

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
