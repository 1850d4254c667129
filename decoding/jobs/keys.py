"""Keys of rows: the seed that a row's draws depend on, and sets of rows in little memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

import numpy as np

# Keys that wait in a Python set before they are merged into the sorted array.
_PENDING = 1 << 14


def row_seed(seed: int, id: str | int) -> int:
    """Return the seed of a row, from the seed of its job and its id: what `Request(seed=...)` takes to make the row's output again.

    It is the first eight bytes, little-endian, of BLAKE2b over the text ``"{seed}/{id}"`` in UTF-8.

    Args:
        seed: of the job.
        id: of the row: its number in the input, from 0, where it has no other.

    Example:
        >>> decoding.jobs.row_seed(7, "molecule 12")
        8125440974408698514
    """
    return _hash(f"{seed}/{id}")


def row_key(id: str | int) -> int:
    """Return a number of 64 bits that stands for an id; ids that are the same text have the same."""
    return _hash(str(id))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class KeySet:
    """A set of numbers of 64 bits that takes 8 bytes for each: a Python set takes about 70."""

    def __init__(self) -> None:
        self._sorted = array("Q")
        self._pending = set[int]()

    def add(self, key: int) -> None:
        """Add a number, which may be there already."""
        self._pending.add(key)
        if len(self._pending) >= max(_PENDING, len(self._sorted) >> 4):
            self._merge()

    def __contains__(self, key: int) -> bool:
        if key in self._pending:
            return True
        at = bisect_left(self._sorted, key)
        return at < len(self._sorted) and self._sorted[at] == key

    def __len__(self) -> int:
        self._merge()
        return len(self._sorted)

    def _merge(self) -> None:
        merged = np.union1d(np.frombuffer(self._sorted, np.uint64), np.fromiter(self._pending, np.uint64))
        self._sorted = array("Q", merged.tobytes())
        self._pending.clear()
