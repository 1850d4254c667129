"""Let each allocation of a call fail in turn, and see that the call raises MemoryError and can be made again.

    python scripts/reliability/allocations.py --long --jobs 2

A preloaded library (failing_malloc.c; Linux with glibc and a C compiler) makes the n-th malloc of a call return NULL, whoever asks for
it: the kernels, NumPy or Python. For every n the call either raises MemoryError (or an OptionError that says there is no memory) or gives
what it gives otherwise, and the same call right after gives that too. With --count fewer, that many n are spread over the allocations.
Some ends are not ours to choose: NumPy's reductions raise SystemError, Python's locks RuntimeError, and Thread.start() waits for ever for a
thread that had no memory to begin (python/cpython#140746). Reductions of NumPy before 2 write to the array that they did not get.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.reliability.figure import Figure, main

Operation = Callable[[], Any]
SECONDS = 20  # a call that takes longer hangs
_CRASHES_IN_NUMPY = re.compile(
    r'\(most recent call first\):\n  File "[^"]*/numpy/core/_methods.py"'
)  # numpy._core from 2 on
_HANGS_IN_PYTHON = re.compile(r'threading.py", line \d+ in wait\n.*threading.py", line \d+ in start\n')


def kernel_calls() -> dict[str, Operation]:
    """Every kernel."""
    from decoding import kernels as k

    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 700)).astype(np.float32)
    p, history = k.softmax(x), [[1, 2, 1]] * 6

    def edited(function: Callable[..., None], *arguments: Any) -> Operation:
        def call() -> Any:
            copy = x.copy()
            function(copy, *arguments)
            return copy

        return call

    return {
        "draw": lambda: k.draw(x, temperature=0.8, seed=1),
        "draw filtered": lambda: k.draw(
            x, top_k=np.full(6, 5), top_p=0.9, typical_p=0.8, seed=np.arange(6), rows=np.arange(6), step=2
        ),
        "draw threads": lambda: k.draw(x, seed=1, threads=3),
        "greedy": lambda: k.greedy(x),
        "top_n": lambda: k.top_n(x, 3, seed=1),
        "multinomial": lambda: k.multinomial(p, 3, replacement=False, seed=1),
        "gumbel_top_k": lambda: k.gumbel_top_k(x, 4, seed=1, scores=np.zeros(6)),
        "top_k": lambda: k.top_k(x, 9),
        "top_logprobs": lambda: k.top_logprobs(x, 9),
        "token_logprobs": lambda: k.token_logprobs(x, [1] * 6),
        "softmax": lambda: k.softmax(x[:, ::2]),
        "log_softmax": lambda: k.log_softmax(x.astype(np.float64)),
        "temper": lambda: k.temper(p, 0.5),
        "beam_prune": lambda: k.beam_prune(x.reshape(2, 3, 700), np.zeros((2, 3)), 3),
        "gather_rows": lambda: k.gather_rows(x, [0, 5, 3]),
        "uniform, normal": lambda: (k.uniform(1, [0, 1], 3, 5), k.normal(1, [0, 1], 3, 5)),
        "repetition_penalty": edited(k.repetition_penalty, history, 1.3),
        "no_repeat_ngram": edited(k.no_repeat_ngram, history, 2),
        "logit_bias": edited(k.logit_bias, [1, 2], [0.5, -0.5]),
    }


def network_calls() -> dict[str, Operation]:
    """Packing a network, and binding and running it."""
    from decoding.kernels import NativeNetwork
    from tests.helpers import native_networks as native

    found: dict[str, Operation] = {}
    for cell, int8, context in itertools.product(("LSTM", "GRU"), (False, True), (0, 3)):
        rng = np.random.default_rng(1)
        arrays, _ = native.network(rng, cell, 17, context=context)
        tokens, states = rng.integers(0, 11, (3, 2)), native.states(rng, arrays, 3)
        contexts = [native.weights(rng, 3, context)] if context else []

        def call(arrays: Any = arrays, int8: bool = int8, rest: Any = (tokens, states, 9, contexts)) -> Any:
            return native.run(NativeNetwork(arrays, int8=int8), *rest)[0]

        found[f"NativeNetwork {cell}{' int8' * int8}{' with a context' * bool(context)}"] = call
    return found


def decode_calls() -> dict[str, Operation]:
    """Calls of the public functions, by both executors."""
    import decoding as d
    from tests.helpers.build import recurrent

    text = {"decoding.vocab": [chr(97 + i) for i in range(11)], "decoding.bos": 0, "decoding.eos": 1}
    native = d.load(recurrent(vocab=11, metadata=text), executor="native", threads=1)
    other = d.load(recurrent("GRU", vocab=11), executor="onnxruntime", threads=1)
    prompts, options = [[1, 2], [3], [4, 5, 6]], {"max_new_tokens": 6, "eos_token_id": 1, "batch_size": 2}

    def tokens(results: Any) -> Any:
        return [(h.tokens, h.token_logprobs) for h in results]

    def of(model: Any, *arguments: Any, **more: Any) -> Operation:
        return lambda: tokens(d.decode(model, prompts, *arguments, **{**options, **more}))

    sample, seeded = d.Sample(top_p=0.9), {"seed": 1}
    return {
        "decode greedy": of(native, d.Greedy()),
        "decode sample": of(native, sample, num_return_sequences=3, **seeded),
        "decode top_n": of(native, d.TopN(3), **seeded),
        "decode beam": of(native, d.Beam(3)),
        "decode distinct": of(native, d.Sample(replacement=False), num_return_sequences=3, **seeded),
        "decode stop": of(native, sample, stop=["ab", "c"], **seeded),
        "decode logprobs": of(native, sample, logprobs=3, processors=[d.RepetitionPenalty(1.2)], **seeded),
        "decode states": lambda: [sorted(h.state) for h in d.decode(native, prompts, return_state=True, **options)],
        "decode workers": lambda: sorted(tokens(d.decode(native, prompts * 4, sample, workers=2, **options, **seeded)), key=str),
        "decode onnxruntime": of(other, sample, **seeded),
        "decode beam onnxruntime": of(other, d.Beam(2)),
        "stream": lambda: [event.token for event in d.stream(native, prompts, sample, **options, **seeded)],
        "decode_iter": lambda: sorted(tokens(d.decode_iter(native, iter(prompts), sample, **options, **seeded)), key=str),
        "score": lambda: d.score(native, [[1, 2, 3], [4, 5]]),
        "rollout": lambda: d.rollout(native, [[3, 4, 5]], lambda ids: ids.mean(axis=1), n=2, max_new_tokens=4, pad_token_id=0, **seeded),
    }  # fmt: skip


GROUPS = {"kernels": kernel_calls, "networks": network_calls, "decode": decode_calls}


def equal(a: Any, b: Any) -> bool:
    """Return whether two results are the same."""
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(np.array_equal(a, b))


def child(group: str, most: int, skip: int) -> None:
    """Sweep the calls of a group; print a line before each allocation that fails, and one for how it ended."""
    faulthandler.enable()
    library = ctypes.PyDLL(None)  # with the GIL: nothing else may allocate in between
    library.fail_at.argtypes, library.stop_failing.restype = [ctypes.c_long], ctypes.c_long
    number = 0
    for name, call in GROUPS[group]().items():
        for _ in range(3):
            expected = call()
        library.fail_at(1 << 40)
        call()
        count = library.stop_failing()
        for n in sorted({1 + i * count // min(most, count) for i in range(min(most, count))}):
            number += 1
            if number <= skip:
                continue
            print(json.dumps({"call": name, "n": n, "of": count}), flush=True)
            outcome, said = "equal", ""
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            library.fail_at(n)
            try:
                result = call()
                library.stop_failing()
                if not equal(result, expected):
                    outcome = "other result"
            except BaseException as error:
                library.stop_failing()
                frames = traceback.extract_tb(error.__traceback__)[-3:]
                where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
                outcome, said = type(error).__name__, f"{error} {error.__cause__ or ''} at {where}"
            if not equal(call(), expected):
                outcome = "other result afterwards"
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"outcome": outcome, "said": said[:300]}), flush=True)


def sweep(group: str, most: int, library: Path) -> tuple[Counter[str], list[str]]:
    """Run children over a group, another one after each that dies; return how many ended how, and what is wrong."""
    counts, wrong, skip = Counter[str](), list[str](), 0
    while True:
        command = [sys.executable, __file__, "--child", group, str(most), str(skip)]
        environment = dict(os.environ, LD_PRELOAD=str(library))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        begun, ended = lines[::2], lines[1::2]
        for at, end in zip(begun, ended, strict=False):
            outcome, said = end["outcome"], end["said"]
            counts[outcome] += 1
            if "without exception set" in said or "without setting an exception" in said:
                counts["of these NumPy's own"] += 1  # its reductions forget to set a MemoryError (2.4.6)
            elif "can't allocate lock" in said or "can't start new thread" in said:
                counts["of these Python's own"] += 1
            elif not (outcome in ("MemoryError", "equal") or (outcome == "OptionError" and "memory" in said)):
                wrong.append(f"{group}: {at['call']}, allocation {at['n']} of {at['of']}: {outcome}: {said}")
        if done.returncode == 0:
            return counts, wrong
        skip += len(begun)
        last = begun[-1] if begun else {}
        if _HANGS_IN_PYTHON.search(done.stderr):
            counts["hung"] += 1
            counts["of these Python's own"] += 1
        elif _CRASHES_IN_NUMPY.search(done.stderr):
            counts["crashed"] += 1
            counts["of these NumPy's own"] += 1
        else:
            counts["crashed"] += 1
            wrong.append(f"{group}: exit {done.returncode} at {last}: {done.stderr[-1500:]}")
        if not begun:
            return counts, wrong


def measure(most: int, jobs: int) -> Figure:
    """Sweep all groups."""
    figure = Figure()
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        figure.measured.append("not run: it needs Linux, glibc and a C compiler")
        return figure
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        library = Path(folder) / "failing_malloc.so"
        source = Path(__file__).with_suffix("").with_name("failing_malloc.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", str(source), "-o", str(library)], check=True)
        for group, (counts, wrong) in zip(GROUPS, pool.map(lambda g: sweep(g, most, library), GROUPS), strict=True):
            failed = sum(count for outcome, count in counts.items() if not outcome.startswith("of these"))
            said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
            figure.measured.append(f"{group}: {failed} allocations failed: {said}")
            figure.broken += wrong
    return figure


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main(__doc__, measure, short=5, long=100_000, counted="allocations of each call that fail"))
