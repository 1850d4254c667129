"""Writes the rows of an output, one line each: appended, synced, and read again after a crash."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from decoding.errors import DecodeError, OptionError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds after which what was written is forced to the disk: a power failure loses no more. A process that is killed loses no line.
_SYNC = 2.0
# Bytes of the lines that are a row group of Parquet: as Python objects they take about ten times that.
_CHUNK = 2 << 20
# A line of an output or of its errors begins with the id or the number of its row.
_FIRST = re.compile(rb'\{"(?:id|row)": ("(?:[^"\\]|\\.)*"|-?\d+), ')
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
# Separators at which some readers cut a line, and halves of surrogate pairs, which UTF-8 cannot have.
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


def to_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of JSON in UTF-8, which has no other separator of lines than its end.

    Raises:
        TypeError, ValueError: a value cannot be written as JSON; infinities and what is not a number cannot.
    """
    text = _encoded(record)
    if not text.isascii() and _ESCAPED.search(text):
        text = json.dumps(record, allow_nan=False)
    return text.encode() + b"\n"


class LineFile:
    """A file of lines that only grows. Only one process may have it open.

    What is appended is handed to the operating system at once, so that a killed process leaves whole lines and at most
    one half; and it is synced to the disk every two seconds.

    Args:
        drop_empty: remove it when it is closed without a line.

    Raises:
        OptionError: it cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, *, drop_empty: bool = False) -> None:
        self.path, self._drop_empty = path, drop_empty
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise OptionError(f"output {path}: cannot be opened: {error}") from error
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            os.close(self._file)
            raise OptionError(f"output {path}: it is no file, but a pipe or a device, which cannot be read again")
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file).st_nlink:  # removed by the process that had it
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            os.close(self._file)
            raise OptionError(f"output {path}: another process writes it; wait for it, or stop it") from error
        self._synced = time.monotonic()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._file).st_size

    def recover(self, add: Callable[[str | int], None], *, redo_last: bool) -> int:
        """Read the file again, cut off what is half written, and return how many lines are left.

        Args:
            add: is told what each line begins with: the id or number of its row. It is told again for each line of a row.
            redo_last: cut off the last row too, as some of its lines may be missing.

        Raises:
            OptionError: a whole line is not of a job.
        """
        end, last, last_start, last_count, count = 0, None, 0, 0, 0
        for line in _whole_lines(self.path):
            match = _FIRST.match(line)
            if match is None or not line.endswith(b"}\n"):
                raise OptionError(
                    f"output {self.path}: line {count + 1} is not one that this job wrote; "
                    "undo the change, or remove the output with its manifest"
                )
            if match[1] != last:
                if last is not None:
                    add(json.loads(last))
                last, last_start, last_count = match[1], end, 0
            end, count, last_count = end + len(line), count + 1, last_count + 1
        if redo_last:
            end, count = last_start, count - last_count
        elif last is not None:
            add(json.loads(last))
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        return count

    def append(self, lines: bytes) -> None:
        """Add whole lines.

        Raises:
            DecodeError: the disk is full, or the file cannot be written; what was written before is kept.
        """
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
            if time.monotonic() - self._synced > _SYNC:
                self.sync()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Force what was written to the disk.

        Raises:
            DecodeError: as `append()`.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._synced = time.monotonic()

    def clear(self) -> None:
        """Cut off all lines."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Close it; another process may open it then."""
        drop, is_windows = self._drop_empty and not self.size, os.name == "nt"
        if drop and not is_windows:  # first, or another process might open it in between
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        if drop and is_windows:  # which removes no file that is open
            self.path.unlink(missing_ok=True)


def write_parquet(lines: Path, path: Path, columns: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    """Write the rows of a file of lines as Parquet, a few MiB of lines at a time, and sync it.

    Args:
        columns: the types of those that all rows have, the id first.
        optional: of those that are only written where some row has them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([*columns.items(), *((name, optional[name]) for name in _occurring(lines, optional))])
    ids_are_texts = pa.types.is_string(schema.field("id").type)
    with pq.ParquetWriter(path, schema) as writer:
        for chunk in _chunks(_whole_lines(lines), _CHUNK):
            records = [json.loads(line) for line in chunk]
            for record in records:
                if ids_are_texts:
                    record["id"] = str(record["id"])
                if "top_logprobs" in record:
                    record["top_logprobs"] = [[(int(i), v) for i, v in step.items()] for step in record["top_logprobs"]]
            writer.write_table(pa.Table.from_pylist(records, schema))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _occurring(lines: Path, names: Iterable[str]) -> list[str]:
    """Return those of the names that some line has: within a text of JSON, their quotes would be escaped."""
    marks = {name: f', "{name}": '.encode() for name in names}
    found = set[str]()
    for line in _whole_lines(lines):
        found |= {name for name, mark in marks.items() if name not in found and mark in line}
        if len(found) == len(marks):
            break
    return [name for name in marks if name in found]


def cannot_write(path: Path, error: OSError) -> DecodeError:
    """Return the error of an output that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return DecodeError(
        f"output {path}: cannot be written: {error.strerror or error}; {'make room' if full else 'mend that'}, "
        "and the same call goes on after the rows that are there"
    )


def _chunks(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield lines together that have at least this many bytes; the last may have fewer."""
    chunk, found = [], 0
    for line in lines:
        chunk.append(line)
        found += len(line)
        if found >= size:
            yield chunk
            chunk, found = [], 0
    if chunk:
        yield chunk


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that have an end."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line
