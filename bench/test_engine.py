"""The engine beside decode(), streams beside steps, and requests of their own beside uniform ones.

    python -m bench.test_engine          # prints the table of docs/benchmarks/engine.md
    pytest bench/test_engine.py          # the same, with the aims as assertions

Whatever is compared runs in turn, and medians are taken, so that what else the machine does meets both sides.
"""

from __future__ import annotations

import statistics
import threading
import time

import numpy as np
import pytest

from decoding import Engine, Request, Sample, decode, load
from tests.helpers import build


def network(hidden, layers, vocab, **options):
    """An LSTM with one thread."""
    proto = build.recurrent("LSTM", exposed=True, hidden=hidden, layers=layers, vocab=vocab, scale=1 / np.sqrt(hidden))
    return load(proto, threads=1, **options)


def alternate(rounds, **functions):
    """Return the median time of each function, run in turn."""
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def throughput(count=10_000, rounds=3, executor="native"):
    """Seconds of decode() and of an engine for the same requests."""
    model = network(128, 2, 256, executor=executor)
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 40, count).tolist()
    requests = [
        Request([i % 256], Sample(), seed=i, max_new_tokens=n, eos_token_id=None) for i, n in enumerate(lengths)
    ]

    def by_engine():
        with Engine(model, batch_size=128, max_queue=count) as engine:
            for ticket in [engine.submit(request) for request in requests]:
                ticket.result()

    return alternate(rounds, decode=lambda: decode(model, requests, batch_size=128, workers=1), engine=by_engine)


def streams(count=64, tokens=60):
    """The step in seconds of a batch of `count` rows, and the gaps between the tokens of as many concurrent streams."""
    model = network(512, 3, 64)
    prompts = [[i % 64] for i in range(count)]
    options = {"max_new_tokens": tokens, "eos_token_id": None}
    step = (
        alternate(3, step=lambda: decode(model, prompts, Sample(), batch_size=count, workers=1, **options))["step"]
        / tokens
    )
    gaps, lock = [], threading.Lock()
    with Engine(model, Sample(), batch_size=count, **options) as engine:
        tickets = [engine.submit(prompt) for prompt in prompts]

        def read(ticket):
            times = [time.perf_counter() for _ in ticket]
            with lock:
                gaps.extend(np.diff(times).tolist())

        threads = [threading.Thread(target=read, args=(ticket,)) for ticket in tickets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return step, np.array(gaps)


def first_tokens(count=32):
    """The step in seconds of a full engine, and the times from a slot that gets free to the first token of the next request."""
    model = network(512, 3, 64)
    found = []
    with Engine(model, Sample(), batch_size=count, max_new_tokens=10**6, eos_token_id=None) as engine:
        running = [engine.submit([i % 64]) for i in range(count)]
        events = iter(running[-1])
        next(events)
        start = time.perf_counter()
        for _ in range(30):
            next(events)
        step = (time.perf_counter() - start) / 30
        for ticket in running[:20]:
            waits = engine.submit(Request([1], max_new_tokens=5))
            own = iter(waits)
            time.sleep(3 * step)
            start = time.perf_counter()
            ticket.cancel()
            next(own)
            found.append(time.perf_counter() - start)
            waits.cancel()
            engine.submit([2])
        engine.close(drain=False)
    return step, np.array(found)


def own_filters(count=128, tokens=60, rounds=7):
    """Seconds of a batch in which all rows share one filter, and in which each has its own."""
    model = network(128, 2, 5000)
    options = {"max_new_tokens": tokens, "eos_token_id": None, "batch_size": count, "workers": 1, "seed": 1}
    prompts = [[i] for i in range(count)]
    own = [
        Request(p, Sample(temperature=0.7 + i / 500, top_k=35 + i % 30, top_p=0.85 + i / 2000))
        for i, p in enumerate(prompts)
    ]
    shared = Sample(temperature=0.8, top_k=50, top_p=0.9)
    return alternate(
        rounds, shared=lambda: decode(model, prompts, shared, **options), own=lambda: decode(model, own, **options)
    )


def conversation(turns=20, words=200):
    """Seconds to the first token of each turn of a conversation, with states that are known and without."""
    model = network(512, 3, 64)
    found = {}
    for known in (0, 64):
        rng = np.random.default_rng(0)
        times, text = [], []
        with Engine(model, Sample(), known_states=known, max_new_tokens=50, eos_token_id=None) as engine:
            for turn in range(turns):
                text += rng.integers(0, 64, words).tolist()
                start = time.perf_counter()
                ticket = engine.submit(Request(text, seed=turn))
                next(iter(ticket))
                times.append(time.perf_counter() - start)
                text += ticket.result()[0].tokens
        found[known] = times
    return found


@pytest.mark.parametrize("executor", ["native", "onnxruntime"])
def test_the_engine_has_the_throughput_of_decode(executor):
    times = throughput(count=2000, executor=executor)
    assert times["decode"] / times["engine"] > 0.95


def test_streams_have_even_gaps():
    step, gaps = streams()
    assert np.percentile(gaps, 99) < 2.5 * step


def test_a_request_starts_within_three_steps_of_a_free_slot():
    step, times = first_tokens()
    assert np.median(times) < 3 * step


def test_filters_of_each_row_cost_little():
    times = own_filters()
    assert times["own"] / times["shared"] < 1.15


def test_a_known_beginning_is_not_read_again():
    found = conversation(turns=10)
    assert found[64][-1] < 0.5 * found[0][-1]


def main():
    """Print the figures."""
    for executor in ("native", "onnxruntime"):
        times = throughput(executor=executor)
        print(
            f"10,000 requests, {executor}: decode() {times['decode']:.2f} s, engine {times['engine']:.2f} s: {times['decode'] / times['engine']:.2f}x"
        )
    step, gaps = streams()
    print(
        f"64 streams: step {step * 1e3:.2f} ms, gaps p50 {np.median(gaps) / step:.2f}, p99 {np.percentile(gaps, 99) / step:.2f} steps"
    )
    step, firsts = first_tokens()
    print(
        f"first token after a free slot: step {step * 1e3:.2f} ms, p50 {np.median(firsts) / step:.2f}, worst {firsts.max() / step:.2f} steps"
    )
    times = own_filters()
    print(f"own filters over a shared one: {times['own'] / times['shared']:.3f}x")
    found = conversation()
    print(
        f"first token of turn 20: {found[0][-1] * 1e3:.1f} ms without known states, {found[64][-1] * 1e3:.1f} ms with"
    )


if __name__ == "__main__":
    main()
