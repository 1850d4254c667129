"""Seeds of rows, and sets of keys."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from decoding.jobs.keys import KeySet, row_key, row_seed


def test_the_seed_of_a_row_is_what_the_docs_say():
    expected = hashlib.blake2b(b"7/molecule 12", digest_size=8).digest()
    assert row_seed(7, "molecule 12") == int.from_bytes(expected, "little") == 8125440974408698514
    assert row_seed(7, 12) == row_seed(7, "12") != row_seed(8, 12)
    assert row_key(12) == row_key("12") != row_key("13")


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_a_set_of_keys_is_a_set(inside, others):
    keys, expected = KeySet(), set(inside)
    for number in inside:
        keys.add(number)
    assert len(keys) == len(expected)
    assert all((number in keys) == (number in expected) for number in [*inside, *others])


def test_a_large_set_of_keys_takes_8_bytes_for_each():
    keys, numbers = KeySet(), [row_key(i) for i in range(100_000)]
    for number in numbers:
        keys.add(number)
    assert all(number in keys for number in numbers)
    assert not any(row_key(i) in keys for i in range(100_000, 101_000))
    assert len(keys) == 100_000
    assert sum(part.itemsize * len(part) for part in keys._sorted) == 800_000
