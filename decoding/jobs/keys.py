"""Keys of rows: the seed that a row's draws depend on, and sets of rows in little memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b

# Of a key, by which a set divides them: a million keys are in 4096 parts of 244.
_BITS = 12


def row_seed(seed: int, id: str | int) -> int:
    """Return the seed of a row, from the seed of its job and its id: what `Request(seed=...)` takes to make the row's output again.

    It is the first eight bytes, little-endian, of BLAKE2b over the text ``"{seed}/{id}"`` in UTF-8.

    Args:
        seed: of the job.
        id: of the row: its number in the input, from 0, where it has no other.

    Example:
        >>> from decoding import jobs
        >>> jobs.row_seed(7, "molecule 12")
        8125440974408698514
    """
    return _hash(f"{seed}/{id}")


def row_key(id: str | int) -> int:
    """Return a number of 64 bits that stands for an id; ids that are the same text have the same."""
    return _hash(str(id))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class KeySet:
    """A set of keys in 8 bytes for each: a Python set takes about 70."""

    def __init__(self) -> None:
        # Sorted, one for each beginning of a key: so short that putting a key into its place costs little.
        self._sorted = [array("Q") for _ in range(1 << _BITS)]
        self._count = 0

    def add(self, key: int) -> None:
        """Add a key, which may be there already."""
        keys = self._sorted[key >> (64 - _BITS)]
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            keys.insert(at, key)
            self._count += 1

    def __contains__(self, key: int) -> bool:
        keys = self._sorted[key >> (64 - _BITS)]
        at = bisect_left(keys, key)
        return at < len(keys) and keys[at] == key

    def __len__(self) -> int:
        return self._count
