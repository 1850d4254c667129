"""Use one Model from eight threads at once, and see that every result has the bits that it has alone.

    python scripts/reliability/threads.py --long

Each round loads fresh models, so that all threads come together where something is made once, and gives every thread the same calls in
an order of its own: `decode()` with every strategy and with a constraint, `stream()`, `decode_iter()`, `score()`, and an `Engine` that
all threads share.
A batch has the same rows in every round, as the last bits of onnxruntime's logits depend on their number. A free-threaded CPython
shows most.
"""

from __future__ import annotations

import random
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import decoding as d
from scripts.reliability.figure import Figure, main
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel

THREADS, TOKENS = 8, 12
Calls = dict[str, Callable[[], Any]]


def bits(outputs: Any) -> list[Any]:
    """Ids and the bytes of the log-probabilities of every output."""
    return [(tuple(h.ids), np.asarray(h.token_logprobs).tobytes()) for h in outputs]


def calls_of(model: Any, prompts: list[Any], extra: dict[str, Any]) -> Calls:
    """Return calls of every kind of a model, by their names."""
    options = {"max_new_tokens": TOKENS, "eos_token_id": 3, **extra}
    strategies = {
        "greedy": (d.Greedy(), {}),
        "sample": (d.Sample(top_k=9, top_p=0.95), {"seed": 7}),
        "top_n": (d.TopN(4), {"seed": 7, "processors": [d.RepetitionPenalty(1.3)], "stop": [[5], [1, 9]]}),
        "beam": (d.Beam(num_beams=3), {"num_return_sequences": 2}),
        "distinct": (d.Sample(replacement=False), {"seed": 7, "num_return_sequences": 2}),
    }
    calls: Calls = {
        name: lambda strategy=strategy, own=own: bits(d.decode(model, prompts, strategy, **options, **own))
        for name, (strategy, own) in strategies.items()
    }
    calls["workers"] = lambda: bits(d.decode(model, prompts, d.Sample(), seed=7, batch_size=2, workers=2, **options))
    calls["stream"] = lambda: [
        (event.prompt_index, event.token, event.logprob)
        for event in d.stream(model, prompts, d.Sample(), seed=7, **options)
    ]
    calls["decode_iter"] = lambda: sorted(
        (h.prompt_index, tuple(h.ids)) for h in d.decode_iter(model, iter(prompts), d.Sample(), seed=7, **options)
    )
    sequences = [[*prompt[1:], 5, 9, 1] for prompt in prompts]
    calls["score"] = lambda: [np.asarray(row).tobytes() for row in d.score(model, sequences, **extra)]
    return calls


def engine_calls(engine: Any, count: int) -> Calls:
    """Return requests to an engine with the native step, whose rows do not depend on the batch."""

    def call(number: int) -> Any:
        strategy = (d.Greedy(), d.Sample(top_k=9), d.Beam(num_beams=3))[number % 3]
        ticket = engine.submit(
            d.Request([number % 7, 1], strategy, seed=number, num_return_sequences=1 + number % 3 % 2)
        )
        events = [event.token for event in ticket] if number % 2 else None
        found = bits(ticket.result(120))
        assert events is None or len(events) >= len(found)
        return found

    return {f"engine {number}": lambda number=number: call(number) for number in range(count)}


@contextmanager
def every_call() -> Iterator[tuple[Calls, Any]]:
    """Load fresh models, and yield the calls of all of them and the engine."""
    prompts = [[1 + row % 7, row % 5, 2][: 2 + row % 2] for row in range(6)]
    proto = build.recurrent("LSTM", hidden=24, layers=2, vocab=40, scale=0.3)
    calls: Calls = {}
    with ExitStack() as stack:
        for executor, quantize in (("onnxruntime", None), ("native", None), ("native", "int8")):
            model = d.load(proto, executor=executor, quantize=quantize, threads=1)
            kind = f"{executor}{' int8' * bool(quantize)}"
            calls |= {f"{kind}, {name}": call for name, call in calls_of(model, prompts, {}).items()}
        engine = stack.enter_context(d.Engine(model, batch_size=5, workers=2, max_new_tokens=TOKENS, eos_token_id=3))
        calls |= engine_calls(engine, 12)
        translation = AdditiveModel()
        encoded = d.load(translation.decoder(), encoder=translation.encoder(), threads=1)
        sources = [[3, 4, 5, 1], [2, 3], [6, 1, 4]]
        calls["encoder, beam"] = lambda: bits(
            d.decode(encoded, sources, d.Beam(num_beams=2), prefix=[1], max_new_tokens=5)
        )
        letters = {"decoding.vocab": [chr(97 + i) for i in range(26)], "decoding.eos": 1}
        spelled = d.load(build.recurrent(vocab=26, metadata=letters), threads=1)
        words = d.Regex("[c-k]{2,6}")
        calls["constraint"] = lambda: bits(
            d.decode(spelled, ["ab", "c"], d.Sample(), seed=3, processors=[words], max_new_tokens=8)
        )
        yield calls, engine


def differing(calls: Calls, expected: dict[str, Any], seed: int) -> Iterator[str]:
    """Make all calls in a random order; yield a line for each that differs."""
    names = list(calls)
    random.Random(seed).shuffle(names)
    for name in names:
        try:
            if calls[name]() != expected[name]:
                yield f"{name}: differs"
        except Exception:
            yield f"{name}: {traceback.format_exc(limit=-3)}"


def measure(rounds: int, jobs: int) -> Figure:
    """Compare that many rounds of eight threads with one; `jobs` has no part in it."""
    del jobs
    figure = Figure()
    with every_call() as (calls, _):
        expected = {name: call() for name, call in calls.items()}
    for number in range(rounds):
        with every_call() as (calls, engine):
            barrier = threading.Barrier(THREADS)

            def work(seed: int, calls: Calls = calls, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                for line in differing(calls, expected, seed):
                    figure.expect(False, line)

            threads = [threading.Thread(target=work, args=(number * THREADS + n,)) for n in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            counted, asked = engine.statistics().finished, THREADS * sum(name.startswith("engine") for name in calls)
            figure.expect(counted == asked, f"the engine counted {counted} of {asked} requests")
    free = sysconfig.get_config_var("Py_GIL_DISABLED") and not sys._is_gil_enabled()
    figure.measured.append(
        f"{rounds} rounds of {THREADS} threads on the same models, {'without' if free else 'with'} the GIL: "
        f"{len(figure.broken)} of {rounds * THREADS * len(expected):,} calls differ"
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=1, long=100, counted="rounds"))
