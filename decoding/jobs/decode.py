"""Decodes rows: a result or an error for each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from decoding.engine.collect import hypotheses
from decoding.engine.latents import Latents
from decoding.engine.live.iterable import decode_each
from decoding.engine.request import Call, EngineRequest, FailedRequest, FinishedSequence
from decoding.errors import DecodingError
from decoding.inputs.own_requests import own_request
from decoding.jobs.read import Row
from decoding.jobs.rows import request_of
from decoding.model.model import Model
from decoding.results import Hypothesis

# Rows that are read, and results that are written, at a time. Each time a thread that decodes may wait for Python's lock; and the
# weights of a large network have pushed the code and data of this work out of the caches since the last time.
_TOGETHER = 32

# Is told of a row that is bad, and why; also from the thread that reads.
Failed = Callable[[Row, str], None]


def for_rows(model: Model, call: Call) -> Call:
    """Return the call with what requests of any kind need."""
    latents = Latents(model._network.latent_families) if model.latents else None
    return replace(
        call, mixed=True, live=True, attention=model._network.contract.attention is not None, latents=latents
    )


def decode_rows(
    model: Model,
    call: Call,
    rows: Iterable[Row],
    workers: int,
    failed: Failed,
    *,
    prefix: Any = None,
    only_text: bool = False,
) -> Generator[list[tuple[Row, list[Hypothesis]]]]:
    """Yield the rows with their outputs, the best first, as they finish: some rows at a time.

    The draws of a row depend on the seed of the call and on the row's id, or on the row's own seed: see `row_seed`.

    Args:
        failed: is told of the rows that cannot be decoded, whose errors end no other row.
        only_text: the input has texts alone: where the model reads ids, they are words.

    Raises:
        Exception: one that is no `DecodingError`: the process has no memory left, say.
    """
    running: dict[int, Row] = {}

    def requests() -> Iterator[EngineRequest]:
        first = 0
        for index, row in enumerate(rows):
            if row.reason is not None:
                failed(row, row.reason)
                continue
            try:
                given = request_of(model, row, call.seed, only_text=only_text)
                made = own_request(model, call, given, prefix, index, first)
            except DecodingError as error:
                failed(row, _reason(error, index))
                continue
            first += made.settings.outputs
            running[index] = row
            yield made

    finished: dict[int, list[FinishedSequence]] = {}
    with closing(decode_each(model._network, call, requests(), workers, together=_TOGETHER)) as found:
        for some in found:
            done: list[tuple[Row, list[Hypothesis]]] = []
            for one in some:
                index = one.request.index
                if isinstance(one, FailedRequest):
                    if not isinstance(one.error, DecodingError):
                        yield done  # which are finished all the same
                        raise one.error
                    finished.pop(index, None)
                    failed(running.pop(index), _reason(one.error, index))
                    continue
                group = finished.setdefault(index, [])
                group.append(one)
                if len(group) == one.siblings:
                    del finished[index]
                    done.append((running.pop(index), hypotheses(model._network, call, group, index)))
            yield done


def _reason(error: DecodingError, index: int) -> str:
    """Return the message of an error without the number of the request, which counts only the rows of this run."""
    return str(error).removeprefix(f"request {index}: ").replace(f"prompts[{index}]", "prompt")
