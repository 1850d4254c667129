"""decoding/inputs/sizes.py: a call that does not fit the machine is refused with its sizes, before anything is made (issue 13)."""

import sys
import time

import pytest

from decoding import Beam, OptionError, Sample, decode, decode_iter, load, rollout, stream
from decoding.inputs import sizes
from tests.helpers.build import recurrent


@pytest.fixture(scope="module")
def model():
    return load(recurrent(), threads=1)


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setattr(sizes, "_memory", lambda: 1 << 30)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: decode(m, [[1]], Beam(10**7)),
        lambda m: decode(m, [[1]], Sample(), num_return_sequences=10**9),
        lambda m: decode(m, [[1]], Sample(replacement=False), num_return_sequences=10**7),
        lambda m: decode(m, [[1]] * 128, logprobs=8, max_new_tokens=10**6),
        lambda m: decode(m, [[1]] * 128, max_new_tokens=2**31 - 1),
        lambda m: decode_iter(m, [[1]], batch_size=10**9),
        lambda m: decode_iter(m, [[1]], Sample(), num_return_sequences=10**9),
        lambda m: decode_iter(m, [[1]], workers=1000, batch_size=10**5),
        lambda m: stream(m, [[1]], Sample(), num_return_sequences=10**9),
        lambda m: rollout(m, [[1, 2]], lambda ids: ids.mean(1), n=10**9),
        lambda m: rollout(m, [[1, 2]], lambda ids: ids.mean(1), n=1, max_new_tokens=2**31 - 1),
    ],
)
def test_too_much_is_refused_at_once(model, call):
    start = time.monotonic()
    with pytest.raises(
        OptionError, match=r"this call would take .*iB, and there are 1.0 GiB: .* rows of .* outputs; pass"
    ):
        call(model)
    assert time.monotonic() - start < 2


def test_a_large_batch_size_counts_as_far_as_there_are_requests(model):
    assert len(decode(model, [[1], [2]], batch_size=10**9, max_new_tokens=3)) == 2


def test_the_machine_says_how_much_memory_it_has():
    assert 1 << 28 < sizes._of_machine() < 1 << 50


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of address space")
def test_the_limit_of_address_space_counts(monkeypatch):
    import resource

    monkeypatch.undo()
    machine = sizes._of_machine()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 20, 1 << 20))
    assert sizes._memory() == 1 << 20
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert sizes._memory() == machine > 1 << 20
