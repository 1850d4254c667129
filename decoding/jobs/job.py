"""The recipe of a job: find what is finished, make the rest, append it, and close the output."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from decoding.arguments import seed_of
from decoding.errors import DecodeError, OptionError, shown
from decoding.jobs.keys import KeySet, row_key
from decoding.jobs.manifest import check_same_job, read_manifest, replace_file, write_manifest
from decoding.jobs.read import Input, Row, cannot_read, pyarrow_module
from decoding.jobs.write import LineFile, cannot_write, to_line, write_parquet
from decoding.requests import Request

_LINES, _PARQUET = (".jsonl", ".ndjson"), ".parquet"

Records = Sequence[Mapping[str, Any]]
# Rows that finished together, each with its records, which have no id yet, and the number of their tokens.
Finished = Sequence[tuple[Row, Records, int]]


@dataclass(frozen=True)
class Report:
    """What a job did.

    Attributes:
        rows: rows of the output, of this run and of earlier ones.
        failed: rows that are in the file of errors instead.
        sequences: sequences that this run wrote; `tokens`: their new tokens, or those that were scored.
        seconds: that this run took, after the model was loaded.
        seed: the key of the draws; None where a job draws nothing.
    """

    rows: int
    failed: int
    sequences: int
    tokens: int
    seconds: float
    seed: int | None


class Stage:
    """What a job does with its rows: `batch` decodes them, `score` scores them.

    Attributes:
        draws: whether results may depend on a seed.
    """

    draws = True

    def describe(self) -> Mapping[str, Any]:
        """Return what tells this job from another, beside its input and its seed."""
        raise NotImplementedError

    def columns(self, pyarrow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the columns of a Parquet output after its id, with their types: those of all rows, and those of some."""
        raise NotImplementedError

    def run(self, rows: Iterable[Row], seed: int, failed: Callable[[Row, str], None]) -> Generator[Finished]:
        """Yield the rows as they finish, some at a time."""
        raise NotImplementedError


class Output:
    """The files of a job: its output, the rows that are not in their place yet, its errors and its manifest.

    A link is followed: its target gets the rows, and the other files are beside the link.

    Raises:
        OptionError: the name has no known ending or is that of no file, its folder is missing, or pyarrow is.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path):
            raise OptionError(f"output={shown(path)}: expected the path of a file")
        self.path = Path(path)
        self.is_parquet = self.path.suffix.lower() == _PARQUET
        if self.path.suffix.lower() not in (*_LINES, _PARQUET):
            raise OptionError(f"output {path}: expected a name that ends in .jsonl or .parquet")
        self._target = Path(os.path.realpath(self.path))
        for folder in (self.path.parent, self._target.parent):
            if not folder.is_dir():
                raise OptionError(f"output {path}: there is no folder {folder}")
        if self._target.exists() and not self._target.is_file():
            raise OptionError(f"output {path}: it is no file, but a folder, a pipe or a device; choose another name")
        if self.is_parquet:
            self.pyarrow = pyarrow_module("pyarrow", f"output {path}")
        self.lines = self._beside(".partial.jsonl") if self.is_parquet else self.path
        self.errors = self._beside(".errors.jsonl")
        self.manifest = self._beside(".manifest.json")

    def is_finished(self, manifest: Mapping[str, Any] | None) -> bool:
        """Return whether the output is the whole one that the manifest tells of."""
        finished = (manifest or {}).get("finished")
        return finished is not None and self.path.is_file() and self.path.stat().st_size == finished["bytes"]

    def without_manifest(self) -> Path | None:
        """Return a file of rows or errors that no job of this name can go on with; None where all are missing or empty."""
        for path in (self.path, self.lines, self.errors):
            if path.exists() and path.stat().st_size:
                return path
        return None

    def close(self, stage: Stage, *, numbered: bool) -> int:
        """Put the rows in their place, and return the size of the output.

        Args:
            numbered: ids are the numbers of rows; else they are texts.
        """
        if self.is_parquet:
            made = self._target.with_name(f"{self._target.name}.partial")
            always = {"id": self.pyarrow.int64() if numbered else self.pyarrow.string()}
            base, optional = stage.columns(self.pyarrow)
            try:
                write_parquet(self.lines, made, {**always, **base}, optional)
                replace_file(made, self._target)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            finally:
                made.unlink(missing_ok=True)
        return self.path.stat().st_size

    def refuse_bad_rows(self, count: int) -> None:
        """Refuse to go on with bad rows of earlier runs.

        Raises:
            OptionError: there are some.
        """
        if count:
            rows = "1 bad row" if count == 1 else f"{count} bad rows"
            raise OptionError(
                f"output {self.path}: an earlier run found {rows}, which {self.errors} has with their reasons; "
                "leave strict out to go on with the others"
            )

    def release(self, lines: LineFile) -> None:
        """Let go of the rows that are in their place."""
        if self.is_parquet:
            lines.clear()

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


def run_job(
    stage: Stage, source: Input, output: str | Path, seed: int | None, *, strict: bool, progress: bool
) -> Report:
    """Make the rows of an output that are not there yet.

    Raises:
        OptionError: the output is another job's, or not one of a job; another process writes it; with `strict`, a row is bad,
            or one of an earlier run was.
        DecodeError: the input cannot be read or the output written any more. The same call goes on from there.
    """
    files = Output(output)
    try:
        total = source.scan()
    except OSError as error:
        raise OptionError(f"input: cannot be read: {error}") from error
    with ExitStack() as opened:
        lines = LineFile(files.lines, drop_empty=files.is_parquet)
        opened.callback(lines.close)
        manifest = read_manifest(files.manifest)
        if manifest is None and (found := files.without_manifest()):
            raise OptionError(
                f"output {found}: it is there, and has no manifest ({files.manifest.name}) of a job; choose another name, or remove it"
            )
        key = _key_of_draws(stage, seed, manifest)
        job = {**stage.describe(), "input": source.describe(), "seed": key}
        if manifest is not None:
            check_same_job(files.manifest, manifest["job"], job)
        if manifest is not None and files.is_finished(manifest):
            if strict:
                files.refuse_bad_rows(manifest["finished"]["failed"])
            files.release(lines)
            return _finished_report(manifest, key)
        try:
            write_manifest(files.manifest, {"job": job})
        except OSError as error:
            raise cannot_write(files.manifest, error) from error
        run = _Run(files, lines, opened, strict=strict)
        report = run.make(stage, source, key, total, progress)
        try:
            size = files.close(stage, numbered=run.numbered)
            finished = {"bytes": size, "rows": report.rows, "failed": report.failed}
            write_manifest(files.manifest, {"job": job, "finished": finished})
        except OSError as error:
            raise cannot_write(files.manifest, error) from error
        files.release(lines)
    return report


class _Run:
    """One run of a job, from the rows that earlier runs left to the last one."""

    def __init__(self, files: Output, lines: LineFile, opened: ExitStack, *, strict: bool) -> None:
        self.numbered = True  # whether every id is the number of its row
        self._lines, self._strict = lines, strict
        self._errors = LineFile(files.errors, drop_empty=True)
        opened.callback(self._errors.close)
        self._lock = threading.Lock()  # of the errors, which two threads may tell
        self._finished, self._seen, self._bad = KeySet(), KeySet(), KeySet()
        lines.recover(lambda id: self._finished.add(row_key(id)), redo_last=True)
        self._errors.recover(lambda number: self._bad.add(row_key(number)), redo_last=False)
        self._rows, self._failed = len(self._finished), len(self._bad)
        if strict:
            files.refuse_bad_rows(self._failed)

    def make(self, stage: Stage, source: Input, seed: int | None, total: int | None, progress: bool) -> Report:
        """Make the rows that are missing, and append them."""
        sequences, tokens, start = 0, 0, time.monotonic()
        with (
            tqdm(total=total, initial=self._rows + self._failed, unit="row", disable=not progress) as bar,
            closing(stage.run(self._todo(source), seed or 0, self._fail)) as made,
        ):
            for some in made:
                self._lines.append(
                    b"".join(to_line({"id": row.id, **record}) for row, records, _ in some for record in records)
                )
                self._rows += len(some)
                sequences += sum(len(records) for _, records, _ in some)
                tokens += sum(count for *_, count in some)
                speed = tokens / max(time.monotonic() - start, 1e-9)
                bar.set_postfix_str(f"{sequences} sequences, {speed:.0f} tokens/s", refresh=False)
                bar.update(self._rows + self._failed - bar.n)
            bar.update(self._rows + self._failed - bar.n)  # bad rows after the last good one
        self._lines.sync()
        self._errors.sync()
        return Report(self._rows, self._failed, sequences, tokens, time.monotonic() - start, seed)

    def _todo(self, source: Input) -> Iterator[Row]:
        """Yield the rows that are not finished, and those that are bad and not among the errors yet."""
        for row in _readable(source):
            if row.reason is None and row.id != row.number:
                self.numbered = False
            if not source.numbered:
                row = self._checked(row)
            if self._bad and row_key(row.number) in self._bad:
                continue
            if row.reason is None and row.id is not None and self._finished and row_key(row.id) in self._finished:
                continue
            yield row

    def _checked(self, row: Row) -> Row:
        """Return the row, a bad one where an earlier row has its id."""
        if row.reason is not None or row.id is None:
            return row
        key = row_key(row.id)
        if key in self._seen:
            return Row(row.number, row.id, row.value, f"id {shown(row.id)}: an earlier row has the same")
        self._seen.add(key)
        return row

    def _fail(self, row: Row, reason: str) -> None:
        """Write a bad row among the errors.

        Raises:
            OptionError: with `strict`.
        """
        if self._strict:
            raise OptionError(f"row {row.number} (id {shown(row.id)}): {reason}")
        found = repr(row.value) if isinstance(row.value, Request) else row.value
        record = {"row": row.number, "id": row.id, "reason": reason, "input": found}
        with self._lock:
            self._errors.append(_error_line(record))
            self._failed += 1


def _readable(source: Input) -> Iterator[Row]:
    try:
        yield from source.rows()
        changed = source.has_changed()
    except OSError as error:
        raise cannot_read("of the job", error) from error
    if changed:
        raise DecodeError(
            "input: it has changed while the job read it, so that rows of the output may be of either; remove the output with its manifest"
        )


def _error_line(record: dict[str, Any]) -> bytes:
    try:
        return to_line(record)
    # What a caller gave from Python, or a number beyond those of floats, such as 1e999.
    except (TypeError, ValueError, RecursionError):
        return to_line({**record, "input": shown(record["input"])})


def _key_of_draws(stage: Stage, seed: int | None, manifest: Mapping[str, Any] | None) -> int | None:
    """Return the seed of a job: the caller's, else that of its earlier runs, else a new one; None where nothing is drawn."""
    if not stage.draws:
        return None
    return seed_of(seed if seed is not None or manifest is None else manifest["job"]["seed"])


def _finished_report(manifest: Mapping[str, Any], seed: int | None) -> Report:
    finished = manifest["finished"]
    return Report(finished["rows"], finished["failed"], 0, 0, 0.0, seed)
