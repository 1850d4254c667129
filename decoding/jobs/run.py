"""`run()`: decodes every row of an input into an output."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from decoding.errors import OptionError, check_flag
from decoding.inputs.models import loaded
from decoding.inputs.options import Options, check_names, make_call
from decoding.inputs.own_requests import check_temperature, own_request
from decoding.inputs.prompts import prompts_by_member
from decoding.inputs.requests import check_takes_prefix
from decoding.inputs.sizes import check_memory
from decoding.inputs.workers import choose_workers
from decoding.jobs.decode import decode_rows, for_rows
from decoding.jobs.files import open_input
from decoding.jobs.job import Finished, Records, Report, Stage, run_job
from decoding.jobs.manifest import describe_job, describe_settings
from decoding.jobs.read import Row
from decoding.model.model import Model
from decoding.results import Hypothesis
from decoding.strategies import Greedy, Strategy

# Rows of a job whose number is not known: enough for any number of workers.
_MANY = 1 << 30


def run(
    model: Model | str | Path,
    requests: str | Path | Iterable[Any] | None,
    output: str | Path,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    num: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    prefix: str | Sequence[int] | Mapping[str, Any] | None = None,
    token_logprobs: bool = False,
    strict: bool = False,
    workers: int | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> Report:
    """Decode every row of an input into a file, in little memory; called again, go on where it was when the process ended.

    The finished output has the same lines, in whatever order, as that of a run that was never disturbed: the draws of a row depend on the
    seed and the row's id alone (see `row_seed`). With a native step they are equal bit for bit, else within onnxruntime's rounding.
    Beside the output are OUTPUT.manifest.json, which says what the job is, and OUTPUT.errors.jsonl with the rows that cannot be
    decoded, where there are some.

    Args:
        model: a model that `load()` returned, or what `load()` takes.
        requests: the path of an input: JSONL (.jsonl, .ndjson: a string, ids, null or an object with the fields of a `Request` and an
            ``id`` a line), CSV (.csv), Parquet (.parquet) or text (any other name: a prompt a line). Or an iterable of prompts,
            `Request` objects and such dicts, which must be the same when the job goes on. None with `num`.
        output: the path of the output, JSONL or Parquet as its name says. Each sequence has id, rank, text, tokens, logprob,
            score and finish_reason, with the meaning of `Hypothesis`; and what is asked for: token_logprobs, top_logprobs, attention.
        strategy, options: of rows that have none of their own, as in `decode()`. Without a `seed` the job draws one, and keeps it.
        num: without `requests`, how many rows start from BOS, or from noise.
        column, id_column: of a CSV or Parquet file, those of the prompts and of the ids. Default: "prompt", or the only one; "id",
            where there is one. Rows without ids have their numbers, from 0.
        prefix: with an encoder, the decoder's first tokens for all rows; of an ensemble also by member, as in `decode()`.
        token_logprobs: write the log-probability of each token too.
        strict: end with an error at the first row that cannot be decoded, and at once where an earlier run found some.
        workers: threads with a batch each; default as in `decode()`.
        progress: show a bar with rows, tokens a second and the time that is left.

    Raises:
        OptionError: an argument is wrong; the output is that of another job, or not of a job; with `strict`, a row is bad.
        ModelError: the model cannot be loaded or run.
        DecodeError: the output cannot be written (the disk is full) or the input read any more; the same call goes on from there.

    Example::

        decoding.jobs.run("char_rnn.onnx", "prompts.txt", "out.jsonl", Sample(top_p=0.9), max_new_tokens=100, seed=7)
    """
    model = loaded(model)
    check_names("run", options)
    for name, value in {"token_logprobs": token_logprobs, "strict": strict, "progress": progress}.items():
        check_flag(name, value)
    source = open_input(requests, num, column, id_column)
    stage = Batch(model, strategy, prefix, token_logprobs, workers, only_text=source.only_text, **options)
    if num is not None:
        stage.check_start()
    return run_job(stage, source, output, options.get("seed"), strict=strict, progress=progress)


class Batch(Stage):
    """Decodes rows in this process."""

    def __init__(
        self,
        model: Model,
        strategy: Strategy,
        prefix: Any,
        token_logprobs: bool,
        workers: int | None,
        *,
        only_text: bool = False,
        **options: Unpack[Options],
    ) -> None:
        self.model, self._prefix, self._token_logprobs, self._only_text = model, prefix, token_logprobs, only_text
        self._call = for_rows(model, make_call(model, strategy, **options))
        self._step_inputs = options.get("step_inputs")
        check_temperature(strategy)
        if self._call.settings.return_state:
            raise OptionError("return_state=True: the output of a job has no states; decode() returns them")
        if self._call.settings.return_member_logprobs:
            raise OptionError("return_member_logprobs=True: the output of a job has none; decode() returns them")
        self._prefix_ids = None if prefix is None else _ids_of_prefix(model, prefix)
        self._workers = choose_workers(
            model, self._call, workers, _MANY, processors=bool(self._call.settings.processors)
        )
        check_memory(model, self._call, self._workers, None)

    @property
    def batch_size(self) -> int:
        """Rows that run together."""
        return self._call.batch_size

    def check_start(self) -> None:
        """Refuse a model that starts from nothing but a prompt, or a source.

        Raises:
            OptionError: it does.
        """
        own_request(self.model, self._call, None, self._prefix, 0)

    def describe(self) -> Mapping[str, Any]:
        """Return what tells this job from another."""
        settings = describe_settings(self._call.settings, self._prefix_ids, self._step_inputs)
        return describe_job("batch", self.model, {**settings, "token_logprobs": self._token_logprobs})

    def columns(self, pyarrow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the columns of a Parquet output after its id."""
        pa = pyarrow
        columns = {
            "rank": pa.int64(),
            "text": pa.string(),
            "tokens": pa.list_(pa.int64()),
            "logprob": pa.float64(),
            "score": pa.float64(),
            "finish_reason": pa.string(),
        }
        optional = {
            "token_logprobs": pa.list_(pa.float32()),
            "top_logprobs": pa.list_(pa.map_(pa.int64(), pa.float32())),
            "attention": pa.list_(pa.list_(pa.float32())),
        }
        return columns, optional

    def run(self, rows: Iterable[Row], seed: int, failed: Callable[[Row, str], None]) -> Generator[Finished]:
        """Yield the rows as they finish."""
        call = replace(self._call, seed=seed)
        decoded = decode_rows(
            self.model, call, rows, self._workers, failed, prefix=self._prefix, only_text=self._only_text
        )
        with closing(decoded):
            for some in decoded:
                yield [(row, self._records(found), sum(len(h.token_logprobs) for h in found)) for row, found in some]

    def _records(self, outputs: Sequence[Hypothesis]) -> Records:
        return [record_of(output, token_logprobs=self._token_logprobs) for output in outputs]


def _ids_of_prefix(model: Model, prefix: Any) -> dict[str, list[int]]:
    """Return the ids of the prefix of all rows, "" and those of members that have another, before every row is found wrong.

    Raises:
        OptionError: it is not one prefix for all rows.
    """
    check_takes_prefix(model)
    found = prompts_by_member(model, prefix, name="prefix")
    if len(found) != 1:
        raise OptionError("prefix: found several; expected one for all rows: a row with another has it as a field")
    ((ids, others),) = found
    return {"": ids.tolist(), **{name: own.tolist() for name, own in others.items()}}


def record_of(hypothesis: Hypothesis, *, token_logprobs: bool) -> dict[str, Any]:
    """Return a hypothesis as an output has it, without an id; numbers that are not finite are null."""
    record: dict[str, Any] = {
        "rank": hypothesis.rank,
        "text": hypothesis.text,
        "tokens": hypothesis.tokens,
        "logprob": finite(float(hypothesis.logprob)),
        "score": finite(float(hypothesis.score)),
        "finish_reason": hypothesis.finish_reason,
    }
    if token_logprobs:
        record["token_logprobs"] = finite(hypothesis.token_logprobs)
    if hypothesis.top_logprobs is not None:
        ids, values = hypothesis.top_logprobs
        record["top_logprobs"] = [
            dict(zip(map(str, step), finite(own), strict=True)) for step, own in zip(ids.tolist(), values, strict=True)
        ]
    if hypothesis.attention is not None:
        record["attention"] = finite(hypothesis.attention)
    return record


def finite(value: Any) -> Any:
    """Return a number, or an array as a list, with None for what is not finite: JSON has no such numbers."""
    if not isinstance(value, np.ndarray):
        return value if math.isfinite(value) else None
    known = np.isfinite(value)
    if known.all():
        return value.tolist()
    values = value.astype(object)
    values[~known] = None
    return values.tolist()
