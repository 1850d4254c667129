"""Jobs on several machines: `Decoder` for Ray Data, and `run()`, which is `decoding.jobs.run()` with the actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

from decoding.arguments import seed_of
from decoding.errors import DecodeError, OptionError, check_flag, shown, whole_number
from decoding.inputs.models import loaded
from decoding.inputs.options import Options, check_names
from decoding.jobs.files import open_input
from decoding.jobs.job import Finished, Records, Report, Stage, run_job
from decoding.jobs.read import Row, pyarrow_module
from decoding.jobs.run import Batch
from decoding.model.load import load
from decoding.model.model import Model
from decoding.strategies import Greedy, Sample, Strategy, TopN

# Rows that an actor is handed together, in batches: the last rows of a batch leave slots empty, which so costs little.
_BATCHES = 8
# How often rows are tried again whose actor is lost, and how often an actor that does not start.
_LOSSES = 5


class Decoder:
    """Decodes the rows of a dataset, in each actor of ``dataset.map_batches(Decoder, ...)``.

    The weights are loaded once an actor. The draws of a row depend on the seed and on the row's id alone, as those of
    `decoding.jobs.run()` do: so retries, repartitioning and the number of actors change nothing. With a native step results are equal bit
    for bit, else within onnxruntime's rounding.

    Called with a batch (numpy, pandas or pyarrow), it returns a pyarrow table with a row for each sequence: id, rank, text, tokens,
    logprob, score, finish_reason, what was asked for (token_logprobs, top_logprobs, attention), and ``error``: why the row cannot be
    decoded, in which case the others are null.

    Args:
        model: what `load()` takes: a path that every node has, the name of a shipped model, or a file's bytes; or a function
            that returns a model, such as ``lambda: Ensemble([load("/shared/a.onnx"), load("/shared/b.onnx")])``, without `load_options`.
        strategy, options: as in `decode()`; a `seed` is needed where something is drawn.
        column: the dataset's column of prompts: texts or ids.
        id_column: its column of ids, which no two rows share.
        prefix, token_logprobs: as in `decoding.jobs.run()`.
        load_options: arguments of `load()`, such as ``{"quantize": "int8"}``.
        workers: threads with a batch each, in each actor.

    Raises:
        OptionError: an argument is wrong; when called, the batch has no such column.
        ModelError: the model cannot be loaded.

    Example::

        options = {"model": "m.onnx", "strategy": Sample(top_p=0.9), "max_new_tokens": 100, "seed": 7}
        ray.data.read_parquet("prompts/").map_batches(Decoder, fn_constructor_kwargs=options, concurrency=8, batch_size=1024)
    """

    def __init__(
        self,
        model: Any,
        strategy: Strategy = Greedy(),  # noqa: B008 - frozen
        *,
        column: str = "prompt",
        id_column: str = "id",
        prefix: str | Sequence[int] | Mapping[str, Any] | None = None,
        token_logprobs: bool = False,
        load_options: Mapping[str, Any] | None = None,
        workers: int = 1,
        **options: Unpack[Options],
    ) -> None:
        check_names("Decoder", options)
        check_flag("token_logprobs", token_logprobs)
        self._column, self._id_column = column, id_column
        own = loaded(model() if callable(model) else load(model, **{"threads": 1, **(load_options or {})}))
        self._pyarrow = pyarrow_module("pyarrow", "Decoder")
        self._stage = Batch(own, strategy, prefix, token_logprobs, workers, **options)
        if options.get("seed") is None and (isinstance(strategy, Sample | TopN) or own.latents):
            raise OptionError("seed=None: every actor would draw another; pass a number")
        self._seed = seed_of(options.get("seed"))
        asked = {
            "token_logprobs": token_logprobs,
            "top_logprobs": options.get("logprobs", 0) > 0,
            "attention": options.get("return_attention", False),
        }
        columns, optional = self._stage.columns(self._pyarrow)
        self._columns = columns | {name: kind for name, kind in optional.items() if asked[name]}

    def __call__(self, batch: Any) -> Any:
        """Return the outputs of a batch of rows."""
        prompts, ids = (_values(batch, name) for name in (self._column, self._id_column))
        rows = [_row(number, prompt, id) for number, (prompt, id) in enumerate(zip(prompts, ids, strict=True))]
        errors: dict[int, str] = {}
        found = {
            row.number: records
            for some in self._stage.run(rows, self._seed, lambda row, reason: errors.update({row.number: reason}))
            for row, records, _ in some
        }
        lines = [
            {"id": row.id, **record, "error": errors.get(row.number)}
            for row in rows
            for record in found.get(row.number, [{}])
        ]
        return self._table(lines, numbers=not any(isinstance(row.id, str) for row in rows))

    def _table(self, lines: list[dict[str, Any]], *, numbers: bool) -> Any:
        pa = self._pyarrow
        for line in lines:
            if not numbers and line["id"] is not None:
                line["id"] = str(line["id"])
            if "top_logprobs" in line:
                line["top_logprobs"] = [[(int(i), v) for i, v in step.items()] for step in line["top_logprobs"]]
        id_type = pa.int64() if numbers else pa.string()
        schema = pa.schema([("id", id_type), *self._columns.items(), ("error", pa.string())])
        return pa.Table.from_pylist(lines, schema).rename_columns([self._id_column, *self._columns, "error"])


def run(
    model: str | Path,
    requests: str | Path | Iterable[Any] | None,
    output: str | Path,
    strategy: Strategy = Greedy(),  # noqa: B008 - frozen
    *,
    address: str | None = None,
    actors: int | None = None,
    load_options: Mapping[str, Any] | None = None,
    num: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    prefix: str | Sequence[int] | Mapping[str, Any] | None = None,
    token_logprobs: bool = False,
    strict: bool = False,
    progress: bool = False,
    **options: Unpack[Options],
) -> Report:
    """Decode every row of an input as `decoding.jobs.run()` does, with actors on the nodes of a Ray cluster.

    This process reads the input and writes the output; the rows of an actor whose process or node is lost go to another. Output,
    manifest and errors are those of `decoding.jobs.run()`: each of the two goes on with a job of the other.

    Args:
        model: the path of a file that every node has, or the name of a shipped model.
        address: of the cluster, as `ray.init()` takes it. Default: the cluster that this process is connected to, or that
            RAY_ADDRESS names, else one on this machine, for as long as this call runs.
        actors: how many; default one for each CPU of the cluster.
        load_options: arguments of `load()`.
        requests, output, strategy, num, column, id_column, prefix, token_logprobs, strict, progress, options: as in `decoding.jobs.run()`.

    Raises:
        As `decoding.jobs.run()`; and DecodeError: the cluster cannot be reached.
    """
    ray = _ray()
    check_names("run", options)
    for name, value in {"token_logprobs": token_logprobs, "strict": strict, "progress": progress}.items():
        check_flag(name, value)
    if isinstance(model, Model):
        raise OptionError(f"model={model.name}: an actor loads its own; pass the path of the file, and load_options=")
    if actors is not None:
        whole_number("actors", actors, 1)
    path = str(Path(model).resolve()) if Path(model).exists() else str(model)
    source = open_input(requests, num, column, id_column)
    own = loaded(load(path, **dict(load_options or {})))
    local = Batch(own, strategy, prefix, token_logprobs, 1, only_text=source.only_text, **options)
    if num is not None:
        local.check_start()
    arguments = {
        "model": path,
        "load_options": dict(load_options or {}),
        "strategy": strategy,
        "prefix": prefix,
        "token_logprobs": token_logprobs,
        "only_text": source.only_text,
        "options": options,
    }
    with _cluster(ray, address):
        stage = OnActors(local, ray, actors or max(1, int(ray.cluster_resources().get("CPU", 1))), arguments)
        return run_job(stage, source, output, options.get("seed"), strict=strict, progress=progress)


class OnActors(Stage):
    """Decodes rows on actors: the rows of a few batches each at a time."""

    def __init__(self, local: Batch, ray: Any, actors: int, arguments: Mapping[str, Any]) -> None:
        self._local, self._ray, self._count, self._arguments = local, ray, actors, arguments

    def describe(self) -> Mapping[str, Any]:
        """Return what tells this job from another: not where it runs."""
        return self._local.describe()

    def columns(self, pyarrow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the columns of a Parquet output after its id."""
        return self._local.columns(pyarrow)

    def run(self, rows: Iterable[Row], seed: int, failed: Callable[[Row, str], None]) -> Generator[Finished]:
        """Yield the rows that an actor was handed together.

        Raises:
            DecodeError: actors are lost again and again, where they start or with the same rows.
        """
        actors = _Actors(
            self._ray, self._count, iter(rows), _BATCHES * self._local.batch_size, dict(self._arguments, seed=seed)
        )
        try:
            for handed, (finished, errors) in actors.results():
                for place, reason in errors:
                    failed(handed[place], reason)
                yield [(handed[place], records, tokens) for place, records, tokens in finished]
        finally:
            actors.stop()


@dataclass
class _Work:
    """Rows that an actor has; none while it starts.

    Attributes:
        losses: how often an actor was lost with them.
    """

    rows: list[Row]
    losses: int = 0
    actor: Any = None


class _Actors:
    """Actors, of which each gets the next rows when it is done with its last; those of a lost one go to another.

    (Ray would start a lost actor again and give it the same task, but it waits for room where a node is gone.)
    """

    def __init__(self, ray: Any, count: int, rows: Iterator[Row], size: int, arguments: Mapping[str, Any]) -> None:
        self._ray, self._arguments = ray, arguments
        self._kind = ray.remote(num_cpus=1)(_Actor)
        self._waiting = iter(lambda: list(islice(rows, size)), [])
        self._lost: list[_Work] = []
        self._idle: list[Any] = []
        self._at_work: dict[Any, _Work] = {}
        for _ in range(count):
            self._start(0)

    def results(self) -> Iterator[tuple[list[Row], Any]]:
        """Yield rows with what an actor made of them, until all are done."""
        self._hand_out()
        while not self._idle or any(work.rows for work in self._at_work.values()):
            (done,), _ = self._ray.wait(list(self._at_work))
            work = self._at_work.pop(done)
            try:
                result = self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self._ray.exceptions.RayError as error:  # its process or its node is lost
                self._again(work, error)
                continue
            self._idle.append(work.actor)
            self._hand_out()
            yield work.rows, result

    def stop(self) -> None:
        """End all actors."""
        for actor in (*self._idle, *(work.actor for work in self._at_work.values())):
            self._ray.kill(actor)

    def _hand_out(self) -> None:
        """Give rows to the actors that have none, as long as there are some."""
        while self._idle:
            work = self._lost.pop() if self._lost else _Work(next(self._waiting, []))
            if not work.rows:
                return
            work.actor = self._idle.pop()
            self._at_work[work.actor.decode.remote(work.rows)] = work

    def _start(self, losses: int) -> None:
        """Start an actor, which is at work without rows until it has loaded the model."""
        actor = self._kind.remote(**self._arguments)
        self._at_work[actor.decode.remote([])] = _Work([], losses, actor)

    def _again(self, work: _Work, error: Exception) -> None:
        """Start an actor in the place of a lost one, whose rows another gets."""
        if work.losses == _LOSSES:
            raise DecodeError(
                f"ray: {work.losses + 1} actors were lost, {'with the same rows' if work.rows else 'where they start'}: {error}; "
                "the same call goes on after the rows that are there"
            ) from error
        self._start(0 if work.rows else work.losses + 1)
        if work.rows:
            self._lost.append(_Work(work.rows, work.losses + 1))
            self._hand_out()


class _Actor:
    """What runs on a node: a model, and the recipe of rows."""

    def __init__(
        self,
        *,
        model: str,
        load_options: Mapping[str, Any],
        strategy: Strategy,
        prefix: Any,
        token_logprobs: bool,
        only_text: bool,
        options: Options,
        seed: int,
    ) -> None:
        own = load(model, **{"threads": 1, **load_options})
        self._stage = Batch(own, strategy, prefix, token_logprobs, 1, only_text=only_text, **options)
        self._seed = seed

    def decode(self, rows: list[Row]) -> tuple[list[tuple[int, Records, int]], list[tuple[int, str]]]:
        """Return records and the number of tokens of each row, and why others cannot be decoded; rows go by their places here."""
        places = {row.number: place for place, row in enumerate(rows)}
        errors: list[tuple[int, str]] = []
        made = self._stage.run(rows, self._seed, lambda row, reason: errors.append((places[row.number], reason)))
        return [(places[row.number], records, tokens) for some in made for row, records, tokens in some], errors


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, and leave it where this call has connected."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DecodeError(f"ray: no cluster at {shown(address)}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise OptionError("decoding.jobs.ray: Ray is not installed; pip install 'rnn-decoding[ray]'") from error


def _values(batch: Any, name: str) -> list[Any]:
    """Return a column of a batch of any format, as Python values.

    Raises:
        OptionError: there is no such column.
    """
    names = list(getattr(batch, "column_names", batch))
    if name not in names:
        raise OptionError(
            f"column {name!r}: the dataset has {', '.join(map(repr, names))}; pass column= and id_column="
        )
    if hasattr(batch, "column_names"):
        return list(batch.column(name).to_pylist())
    column = batch[name]
    if hasattr(column, "notna"):  # pandas, which has several values for none
        column = column.astype(object).where(column.notna(), None)
    return list(column.tolist())


def _row(number: int, prompt: Any, id: Any) -> Row:
    """Return the row of a prompt: a bad one without a prompt, or with an id that no column of int64 or texts has."""
    if isinstance(id, bool) or not isinstance(id, str | int):
        return Row(number, None, prompt, f"id {shown(id)}: expected a string or a whole number")
    if isinstance(id, int) and not -(2**63) <= id < 2**63:
        return Row(number, None, prompt, f"id {id}: expected a whole number of 64 bits with a sign, or a string")
    if prompt is None:
        return Row(number, id, None, "the prompt has no value")
    return Row(number, id, prompt)
