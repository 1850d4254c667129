"""Chooses the search for a call and runs it, in one thread or in several."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import cast

from decoding.engine.encode import alike, completed_rows, encoded, limited_rows, with_latents_of
from decoding.engine.forks import is_shared, using
from decoding.engine.request import Call, EngineRequest, FinishedSequence, RequestQueue, Row, RowSource
from decoding.engine.search.mixed import MixedSearch, Search, make_search
from decoding.engine.search.prefixes import with_prefixes_read
from decoding.engine.workers import Workers
from decoding.model.ensembles.network import EnsembleNetwork
from decoding.model.network import Network

# Bytes of weights from which the weights are read from memory at every step, whoever runs it: measured in docs/benchmarks/decode.md.
LARGE_NETWORK = 40 << 20


def decode_requests(
    network: Network, call: Call, requests: Iterable[EngineRequest], workers: int
) -> Generator[FinishedSequence]:
    """Decode all requests, yielding sequences as they finish.

    Args:
        workers: threads, each with a batch of its own, which take requests from one queue and share one session
            of one intra-op thread.
    """
    for group in alike(network.contract, requests, call.batch_size):
        rows = _rows(group, call, workers)
        queue = queue_requests(network, call, group, rows)
        if workers == 1:
            with using(network):
                yield from run_search(_in_its_share(network), call, queue, rows)
        else:
            yield from _in_threads(network, call, queue, rows, workers)
        yield from queue.ended


def queue_requests(network: Network, call: Call, requests: Iterable[EngineRequest], rows: int) -> RequestQueue:
    """Return the queue of these requests; as a request is taken, its latents are drawn, its source is encoded, prompts of members' own are read, and its length is limited."""

    def prepare(given: Iterator[Row]) -> Iterator[Row]:
        given = with_latents_of(call.latents, given, network.contract)
        if network.encoders is not None or isinstance(network, EnsembleNetwork):
            given = completed_rows(complete, given, rows)
        return limited_rows(network.contract, given)

    def complete(given: Sequence[EngineRequest]) -> list[EngineRequest]:
        return with_prefixes_read(network, call, encoded(network, given))

    return RequestQueue(requests, prepare)


def run_search(network: Network, call: Call, queue: RowSource, rows: int) -> Iterator[FinishedSequence]:
    """Decode the whole queue, yielding each sequence as it finishes; `rows` of them run together."""
    search: MixedSearch | Search
    if call.mixed:
        search = MixedSearch(network, call, queue, rows)
    else:
        search = make_search(network, call, call.settings, queue, rows)
    # None comes with `every` alone, and failed requests come from live calls.
    return cast(Iterator[FinishedSequence], search.run())


def _in_its_share(network: Network) -> Network:
    """Return the network as a call runs it: over sessions of one thread, if it is small and another call runs it too.

    A step of a small network is shorter than handing it to onnxruntime's threads, which several calls would share.
    """
    chosen = network.threads is not None or network.on_device
    if chosen or not is_shared(network) or network.weight_bytes > LARGE_NETWORK:
        return network
    return network.single_threaded()


def _rows(requests: Iterable[EngineRequest], call: Call, workers: int) -> int:
    """Return the rows of a worker: its share where the number of requests is known, and at most the batch size."""
    if not isinstance(requests, Sequence):
        return call.batch_size
    share: int = -(-sum(r.settings.rows_per_request for r in requests) // workers)
    return max(1, min(call.batch_size, share))


def _in_threads(
    network: Network, call: Call, queue: RequestQueue, rows: int, workers: int
) -> Iterator[FinishedSequence]:
    """Run a search in each of several threads. Leaving early (an error, Ctrl-C, a closed iterator) stops them all."""
    alone, group = network.single_threaded(), Workers(network, queue, bound=workers * rows)
    try:
        group.start(run_search(alone, call, queue, rows) for _ in range(workers))
        yield from group.results()
    finally:
        try:
            group.stop()
        finally:
            group.stop()  # Ctrl-C may have cut the first one short; a second time costs nothing
