"""Memory is rows x (state + history), however many sequences there are: docs/architecture.md."""

import itertools
import tracemalloc

from decoding import Sample, decode_iter, load
from tests.helpers import build


def peak(model, prompts):
    tracemalloc.start()
    count = 0
    for _ in decode_iter(
        model, itertools.repeat([1, 2, 3], prompts), Sample(), max_new_tokens=20, seed=1, batch_size=8
    ):
        count += 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == prompts
    return most


def test_ten_times_the_prompts_take_no_more_memory():
    model = load(build.recurrent("LSTM", hidden=16))
    peak(model, 50)
    few, many = peak(model, 200), peak(model, 2000)
    assert many < 1.2 * few + 50_000
