"""`score()`: the log-probabilities of every row of an input."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from decoding.engine.encode import with_latents_of
from decoding.engine.forks import using
from decoding.engine.request import Call, EngineRequest
from decoding.engine.score import score_sequences
from decoding.errors import DecodingError, OptionError, check_flag
from decoding.inputs.latents import with_latents
from decoding.inputs.models import loaded
from decoding.inputs.options import make_call
from decoding.inputs.requests import make_requests, read_sequences
from decoding.jobs.files import open_input
from decoding.jobs.job import Finished, Records, Report, Stage, run_job
from decoding.jobs.keys import row_seed
from decoding.jobs.manifest import describe_job
from decoding.jobs.read import Row
from decoding.jobs.rows import arrays_of, prompt_of
from decoding.jobs.run import finite
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.strategies import Greedy

# Batches that are read ahead and sorted by length, so that rows that run together are about as long.
_AHEAD = 8
_FIELDS = ("sequence", "prompt", "prefix", "context", "latents")


def score(
    model: Model | str | Path,
    sequences: str | Path | Iterable[Any],
    output: str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    seed: int | None = None,
    token_logprobs: bool = False,
    strict: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Report:
    """Score every row of an input into a file, in little memory; called again, go on where it was when the process ended.

    Args:
        model: as in `run()`.
        sequences: an input as in `run()`, whose rows are sequences: texts or ids. With an encoder, JSONL or an iterable of
            ``{"sequence": ..., "prompt": the source}``, which may have ``context`` and ``latents`` too; of an ensemble, ``prompt`` and
            ``prefix`` are as in `score()`.
        output: as in `run()`. Each row has its id; scored_tokens, how many have a score; logprob, the sum of their log-probabilities (natural
            logarithm); perplexity, exp(-logprob / scored_tokens), null without tokens; and where asked for token_logprobs, one for each
            token, null for the first without a BOS.
        column, id_column, strict, progress: as in `run()`; the column of the sequences is "prompt" unless given, or the only one.
        seed: key of latents that are not given.
        token_logprobs: write the log-probability of each token too.
        batch_size: sequences that run together; default at most 128.

    Raises:
        As `run()`.
    """
    model = loaded(model)
    for name, value in {"token_logprobs": token_logprobs, "strict": strict, "progress": progress}.items():
        check_flag(name, value)
    source = open_input(sequences, None, column, id_column)
    stage = Scoring(model, token_logprobs, batch_size, only_text=source.only_text)
    return run_job(stage, source, output, seed, strict=strict, progress=progress)


class Scoring(Stage):
    """Scores rows."""

    def __init__(self, model: Model, token_logprobs: bool, batch_size: int | None, *, only_text: bool) -> None:
        self._model, self._token_logprobs, self._only_text = model, token_logprobs, only_text
        self._call = make_call(model, Greedy(), batch_size=batch_size)
        self.draws = bool(model.latents)

    def describe(self) -> Mapping[str, Any]:
        """Return what tells this job from another."""
        return describe_job("score", self._model, {"token_logprobs": self._token_logprobs})

    def columns(self, pyarrow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the columns of a Parquet output after its id."""
        columns = {"scored_tokens": pyarrow.int64(), "logprob": pyarrow.float64(), "perplexity": pyarrow.float64()}
        return columns, {"token_logprobs": pyarrow.list_(pyarrow.float32())}

    def run(self, rows: Iterable[Row], seed: int, failed: Callable[[Row, str], None]) -> Generator[Finished]:
        """Yield the rows that were scored together."""
        read = self._read(rows, seed, failed)
        while chunk := list(itertools.islice(read, _AHEAD * self._call.batch_size)):
            yield [self._finished(*scored) for scored in self._chunk(chunk, failed)]

    def _finished(self, row: Row, request: EngineRequest, values: Array) -> tuple[Row, Records, int]:
        """Return a row with its record, from the log-probabilities of its tokens."""
        record = _record(values)
        if self._token_logprobs:
            first = [] if request.start else [None]  # nothing comes before a first token without BOS
            record["token_logprobs"] = [*first, *finite(values)]
        return row, [record], record["scored_tokens"]

    def _chunk(
        self, chunk: Sequence[tuple[Row, EngineRequest]], failed: Callable[[Row, str], None]
    ) -> Iterator[tuple[Row, EngineRequest, Array]]:
        """Yield rows with their scores; where one of them fails, each half by itself."""
        requests = [replace(request, index=index) for index, (_, request) in enumerate(chunk)]
        try:
            scores = self._score(requests)
        except DecodingError as error:
            if len(chunk) == 1:
                failed(chunk[0][0], str(error).replace("prompts[0]", "prompt"))
                return
            half = len(chunk) // 2
            yield from self._chunk(chunk[:half], failed)
            yield from self._chunk(chunk[half:], failed)
            return
        for index, (row, request) in enumerate(chunk):
            yield row, request, scores[index]

    def _score(self, requests: list[EngineRequest]) -> dict[int, Array]:
        call, own = with_latents(self._model, self._call, requests, None)
        drawn = [r for _, r in with_latents_of(call.latents, enumerate(own), self._model._network.contract)]
        with using(self._model._network):
            return score_sequences(self._model._network, call, drawn, lambda _: None)

    def _read(
        self, rows: Iterable[Row], seed: int, failed: Callable[[Row, str], None]
    ) -> Iterator[tuple[Row, EngineRequest]]:
        """Yield the rows that can be read, each with its request."""
        for row in rows:
            if row.reason is not None or row.id is None:
                failed(row, str(row.reason))
                continue
            try:
                yield row, _request(self._model, self._call, row, seed, only_text=self._only_text)
            except DecodingError as error:
                failed(row, str(error))


def _request(model: Model, call: Call, row: Row, seed: int, *, only_text: bool) -> EngineRequest:
    """Return what `score()` makes of one sequence.

    Raises:
        OptionError: a field is unknown or wrong.
    """
    fields = dict(row.value) if isinstance(row.value, Mapping) else {"sequence": row.value}
    if unknown := [name for name in fields if name not in _FIELDS]:
        raise OptionError(f"{unknown[0]}: no such field; a row has id, {', '.join(_FIELDS)}")
    sequence = prompt_of(model, fields.get("sequence")) if only_text else fields.get("sequence")
    if isinstance(sequence, Sequence | np.ndarray) and not len(sequence):
        raise OptionError("sequence: it is empty: there is nothing to score")
    prompt, prefix = _one_of(fields.get("prompt")), _one_of(fields.get("prefix"))
    ids, starts, sources = read_sequences(model, sequence, prompt, prefix, "score")
    if len(ids) != 1:
        raise OptionError(f"sequence: found {len(ids)} sequences; a row has one")
    context = _alone(fields, "context")
    (request,) = make_requests(model, call, starts, sources, context, ids)
    _, (request,) = with_latents(model, call, [request], _alone(fields, "latents"))
    assert row.id is not None
    return replace(request, seed=row_seed(seed, row.id), own_stream=0)


def _alone(fields: Mapping[str, Any], name: str) -> Any:
    """Return the arrays of a field as what is given for a list of one."""
    return _one_of(None if fields.get(name) is None else arrays_of(name, fields[name]))


def _one_of(value: Any) -> Any:
    """Return what one sequence has as what is given for a list of one."""
    if value is None:
        return None
    return {name: [own] for name, own in value.items()} if isinstance(value, Mapping) else [value]


def _record(values: Array) -> dict[str, Any]:
    total, count = float(np.sum(values, dtype=np.float64)), len(values)
    perplexity = float(np.exp(-total / count)) if count else None
    return {
        "scored_tokens": count,
        "logprob": finite(total),
        "perplexity": None if perplexity is None else finite(perplexity),
    }
