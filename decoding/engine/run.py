"""Choosing the search for a job and running it, in one thread or in several."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from decoding.engine.beam import BeamSearch
from decoding.engine.distinct import DistinctSearch
from decoding.engine.encoding import alike, encoded_rows
from decoding.engine.job import Finished, Job, Prompt, Source
from decoding.engine.sampling import SamplingSearch
from decoding.model.model import Model
from decoding.strategies import Beam, Sample

Search = SamplingSearch | BeamSearch | DistinctSearch


def run(model: Model, job: Job, prompts: Iterable[Prompt], workers: int) -> Iterator[Finished]:
    """Decode all prompts, yielding sequences as they finish.

    Args:
        workers: threads, each with a batch of its own, which take prompts from one queue and share one session
            of one intra-op thread.
    """
    for group in alike(model.contract, prompts, job.batch_size):
        rows = _rows(group, job, workers)
        source = make_source(model, job, group, rows)
        if workers == 1:
            yield from make_search(model, job, source, rows).run()
        else:
            alone = model.single_threaded()
            yield from _in_threads([make_search(alone, job, source, rows) for _ in range(workers)], source.stopped)


def make_source(model: Model, job: Job, prompts: Iterable[Prompt], rows: int) -> Source:
    """Where the searches of a job take their prompts from: with their latents, and their sources encoded when they are taken."""

    def prepare(given: Iterator[tuple[int, Prompt]]) -> Iterator[tuple[int, Prompt]]:
        if job.latents is not None:
            given = job.latents.rows(given, model.contract.latents)
        return given if model.encoders is None else encoded_rows(model, given, rows)

    return Source(prompts, 1 if searches_whole_prompts(job) else job.outputs, prepare)


def make_search(model: Model, job: Job, source: Source, rows: int) -> Search:
    """The search that a job's strategy asks for."""
    if isinstance(job.strategy, Beam):
        return BeamSearch(model, job, source, rows)
    if searches_whole_prompts(job):
        return DistinctSearch(model, job, source, rows)
    return SamplingSearch(model, job, source, rows)


def searches_whole_prompts(job: Job) -> bool:
    """Are all outputs of a prompt found by one search, rather than each by itself?"""
    return isinstance(job.strategy, Beam) or (isinstance(job.strategy, Sample) and not job.strategy.replacement)


def _rows(prompts: Iterable[Prompt], job: Job, workers: int) -> int:
    """Rows of a worker: its share where the number of prompts is known, and at most the batch size."""
    if not isinstance(prompts, Sequence):
        return job.batch_size
    each = job.strategy.num_beams if isinstance(job.strategy, Beam) else job.outputs
    share = -(-len(prompts) // workers) * each
    return max(1, min(job.batch_size, share))


def _in_threads(searches: Sequence[Search], stopped: threading.Event) -> Iterator[Finished]:
    """Run each search in a thread of its own; what one raises is raised here, after the others have stopped.

    Leaving early (an exception here, Ctrl-C, a closed generator) stops every thread within one step.
    """
    results: queue.SimpleQueue[Finished | BaseException | None] = queue.SimpleQueue()

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
                case Finished() as finished:
                    yield finished
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
