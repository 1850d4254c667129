"""The files that a job reads, row by row: text, JSONL, CSV and Parquet; `open_input()` chooses by the name."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from decoding.errors import DecodeError, OptionError, shown, whole_number
from decoding.jobs.read import Input, IterableInput, NumberedInput, Row, is_unicode, pyarrow_module, row_of, with_id

# Rows of a Parquet file that are in memory together.
_PARQUET_ROWS = 1024


def open_input(
    requests: str | Path | Iterable[Any] | None, num: int | None, column: str | None, id_column: str | None
) -> Input:
    """Return the input of a job.

    Args:
        requests: a file, whose kind is that of its name (.jsonl or .ndjson, .csv, .parquet, anything else is text); or an iterable.
        num: without `requests`, how many rows start from nothing.
        column: of a CSV or Parquet file, that of the prompts. Default: "prompt", or the only one.
        id_column: that of the ids. Default: "id" where there is one, else rows are numbered.

    Raises:
        OptionError: there is no such file, or arguments do not go together.
    """
    if (requests is None) == (num is None):
        raise OptionError(
            f"requests={shown(requests)} and num={shown(num)}: pass one of them: an input, or how many sequences to make without one"
        )
    if num is not None:
        return NumberedInput(whole_number("num", num, 1))
    if not isinstance(requests, str | Path):
        if not isinstance(requests, Iterable):
            raise OptionError(f"requests={shown(requests)}: expected the path of a file, or an iterable of prompts")
        return IterableInput(requests)
    path = Path(requests)
    kind: Callable[..., Input] = _KINDS.get(path.suffix.lower(), TextInput)
    if not path.is_file():
        raise OptionError(
            f"input {path}: there is no such file; an input is read several times, so it cannot be a pipe"
        )
    if advice := _NO_INPUTS.get(path.suffix.lower()):
        raise OptionError(f"input {path}: {path.suffix} is no kind of input; {advice}")
    if kind is not ParquetInput:
        _check_not_utf_16(path)
    if kind in (CSVInput, ParquetInput):
        return kind(path, column, id_column)
    if column is not None or id_column is not None:
        raise OptionError(f"column: {path} has no columns, as .csv and .parquet files have")
    return kind(path)


class _FileInput:
    """A file, with the hash of its contents."""

    kind: str
    only_text = numbered = True

    def __init__(self, path: Path) -> None:
        self.path, self._hash = path, ""
        self._state: tuple[int, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return its kind and the hash of its contents: it may be moved while a job waits, not changed."""
        return {"kind": self.kind, "sha256": self._hash}

    def scan(self) -> int | None:
        """Read it once."""
        self._state = self._state_now()
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        self._hash = digest.hexdigest()
        return None

    def has_changed(self) -> bool:
        """Return whether the file was written to, or another was put in its place, since `scan()` began."""
        return self._state_now() != self._state

    def _state_now(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino


class TextInput(_FileInput):
    r"""A prompt a line. Lines end with "\n" or "\r\n", and with no other of Unicode's separators."""

    kind = "text"

    def scan(self) -> int:
        """Hash it, and count its lines."""
        super().scan()
        return sum(1 for _ in _lines(self.path))

    def rows(self) -> Iterator[Row]:
        """Yield every line; an empty one is an empty prompt."""
        for number, line in enumerate(_lines(self.path)):
            try:
                yield Row(number, number, line.decode())
            except UnicodeDecodeError as error:
                yield Row(number, number, _as_text(line), f"not UTF-8: {error}")


class JSONLInput(_FileInput):
    """A JSON value a line: a string, ids, null, or an object with the fields of a request and an id. Empty lines are skipped."""

    kind = "jsonl"
    only_text = numbered = False

    def scan(self) -> int:
        """Hash it, and count its lines that are not empty."""
        super().scan()
        return sum(1 for line in _lines(self.path) if line.strip())

    def rows(self) -> Iterator[Row]:
        """Yield every line that is not empty."""
        for number, line in enumerate(_lines(self.path)):
            if not line.strip():
                continue
            try:
                value = _decoded(line.decode())
            except (ValueError, RecursionError) as error:
                yield Row(number, None, _as_text(line), f"not JSON: {error}")
                continue
            yield row_of(number, value)


class _TableInput(_FileInput):
    """A file with columns."""

    def __init__(self, path: Path, column: str | None, id_column: str | None) -> None:
        super().__init__(path)
        names = self._columns()
        self._column = _named("column", path, names, column, "prompt", only=True)
        assert self._column is not None
        self._id_column = _named("id_column", path, names, id_column, "id", only=False)
        self.numbered = self._id_column is None

    def describe(self) -> dict[str, Any]:
        """Return its kind, its hash and the columns that are read."""
        return {**super().describe(), "column": self._column, "id_column": self._id_column}

    def _columns(self) -> list[str]:
        raise NotImplementedError

    def _row(self, number: int, value: Any, id: Any) -> Row:
        if value is None:
            return Row(number, None if self._id_column else number, None, f"column {self._column!r} has no value")
        return Row(number, number, value) if self._id_column is None else with_id(number, id, value)


class CSVInput(_TableInput):
    """Comma-separated values with a header, as RFC 4180 has them: fields in quotes may span lines."""

    kind = "csv"

    def scan(self) -> int:
        """Hash it, and count its rows."""
        super().scan()
        return sum(1 for _ in self.rows())

    def rows(self) -> Iterator[Row]:
        """Yield every row; a blank line is none."""
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            table = csv.DictReader(file, strict=True)
            number = 0
            while True:
                try:
                    fields = next(table)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield Row(number, None, None, f"not CSV, at line {table.line_num}: {error}")
                else:
                    row = self._row(number, fields[self._column], fields.get(self._id_column))
                    if None in fields:  # where DictReader puts what has no name
                        row = Row(number, row.id, row.value, "it has more fields than the header has names")
                    elif row.reason is None and not is_unicode(row.value):
                        row = Row(number, row.id, row.value, "not UTF-8")
                    yield row
                number += 1

    def _columns(self) -> list[str]:
        csv.field_size_limit(sys.maxsize)  # of the process; 128 KiB by default, which a document exceeds
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            try:
                return next(csv.reader(file, strict=True), [])
            except csv.Error as error:
                raise OptionError(f"input {self.path}: its header is not CSV: {error}") from error


class ParquetInput(_TableInput):
    """A Parquet file; the column of prompts holds strings or lists of ids."""

    kind = "parquet"
    only_text = False

    def scan(self) -> int:
        """Hash it; its metadata has the number of rows."""
        super().scan()
        count: int = self._file().metadata.num_rows
        return count

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        number, wanted = 0, [name for name in (self._column, self._id_column) if name is not None]
        for batch in self._batches(wanted):
            ids = batch.column(self._id_column).to_pylist() if self._id_column else [None] * len(batch)
            for value, id in zip(batch.column(self._column).to_pylist(), ids, strict=True):
                yield self._row(number, value, id)
                number += 1

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        error_of_arrow = pyarrow_module("pyarrow", f"input {self.path}").ArrowException
        try:
            yield from self._file().iter_batches(_PARQUET_ROWS, columns=columns)
        except (OSError, error_of_arrow) as error:  # a page is damaged, say
            raise DecodeError(f"input {self.path}: cannot be read as Parquet: {error}") from error

    def _columns(self) -> list[str]:
        names: list[str] = self._file().schema_arrow.names
        return names

    def _file(self) -> Any:
        parquet = pyarrow_module("pyarrow.parquet", f"input {self.path}")
        try:
            return parquet.ParquetFile(self.path)
        except (OSError, ValueError) as error:  # pyarrow's errors are these
            raise OptionError(f"input {self.path}: cannot be read as Parquet: {error}") from error


# Whose lines are no prompts; files of any other name are text.
_NO_INPUTS = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "decompress it first"),
    ".json": "write a JSON value a line, and name it .jsonl",
    ".tsv": "write it with commas, and name it .csv",
}
_KINDS: Mapping[str, Any] = {".jsonl": JSONLInput, ".ndjson": JSONLInput, ".csv": CSVInput, ".parquet": ParquetInput}


def _check_not_utf_16(path: Path) -> None:
    """Refuse a file that Windows wrote so: most of its lines would be UTF-8, with a NUL at every other place.

    Raises:
        OptionError: it is UTF-16, or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise OptionError(f"input {path}: cannot be read: {error}") from error
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise OptionError(f"input {path}: it is UTF-16; write it in UTF-8")


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends and without a byte-order mark."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            yield (line.removeprefix(codecs.BOM_UTF8) if number == 0 else line).removesuffix(b"\n").removesuffix(b"\r")


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser takes, and writes."""
    raise ValueError(f"it has {name}; write null where there is no number")


_decoded = json.JSONDecoder(parse_constant=_no_constant).decode


def _as_text(line: bytes) -> str:
    return line.decode(errors="backslashreplace")


def _named(option: str, path: Path, names: list[str], wanted: str | None, usual: str, *, only: bool) -> str | None:
    """Return the name of a column: the caller's, else the usual one, else (with `only`) the only one."""
    if wanted is None:
        if usual not in names and not only:
            return None
        wanted = names[0] if usual not in names and len(names) == 1 else usual
    if names.count(wanted) != 1:
        raise OptionError(
            f"{option}={shown(wanted)}: input {path} has the columns {', '.join(map(repr, names)) or '(none)'}; pass the name of one, "
            "which no other has"
        )
    return wanted
