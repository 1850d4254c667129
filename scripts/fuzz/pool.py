"""Cases run in child processes, many in each, with a limit of time for a case and of memory for a child.

A case is made again by (kind, seed, number). It ends as one of

    loaded, done       the call gave something
    refused            it raised a DecodingError: ours, on purpose
    bug                any other exception, a MemoryError too, or something that must be refused and was not
    hung               nothing happened for 10 s, and the innermost frame of Python is ours
    hung-native        the same, but inside onnxruntime or onnx
    crashed            the process died, and the innermost frame of Python is ours: the kernels may have done it
    crashed-native     the same, but inside onnxruntime or onnx
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(ROOT / "decoding")
SECONDS = 10
STARTING = 120  # a child imports first
MEMORY = 3 << 30  # a damaged shape may ask for all there is
_WATCHES = re.compile(r'limits.py", line \d+ in call\n')
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


class WronglyAccepted(Exception):
    """What must be refused was not."""


@dataclass
class Result:
    """How many cases ended how, and what to look at."""

    counts: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    crashed_native: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    hung_native: list[str] = field(default_factory=list)
    slow: list[tuple[float, int]] = field(default_factory=list)

    def places(self) -> list[tuple[str, int, int]]:
        """Each kind of bug by exception and place: that, how often, and the first case of it."""
        found: dict[str, list[int]] = {}
        for line in self.bugs:
            number, place, error, *_ = line.split(" ", 3)
            found.setdefault(f"{place} {error.rstrip(':')}", []).append(int(number))
        return sorted(((key, len(cases), min(cases)) for key, cases in found.items()), key=lambda entry: -entry[1])


def run(script: Path, kind: str, seed: int, numbers: range, workers: int = 1) -> Result:
    """Run these cases in child processes of `script`, which calls `be_child` where it is given --child."""
    result = Result()
    shares = [numbers[start::workers] for start in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda share: _watch(script, kind, seed, share, result), shares))
    return result


def _watch(script: Path, kind: str, seed: int, numbers: range, result: Result) -> None:
    """Start a child on the cases, and another one behind each case that ends the first."""
    while numbers:
        span = map(str, (numbers.start, numbers.stop, numbers.step))
        command = [sys.executable, str(script), "--kind", kind, "--seed", str(seed), "--child", *span]
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile() as said,
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=said) as child,
        ):
            done = _listen(child, result)
            if done == len(numbers):
                return
            number, hung = numbers[done], child.poll() is None
            child.kill()
            child.wait()
            said.seek(0)
            stack = said.read().decode(errors="replace")
        if hung:
            _count_hung(result, number, stack)
        else:
            _count_crashed(result, number, child.returncode, stack)
        numbers = numbers[done + 1 :]


def _count_hung(result: Result, number: int, stack: str) -> None:
    # The main thread's is the last; while load() works in another one, it only watches.
    stacks = stack.rpartition("Timeout (")[2].split("Thread 0x")
    stack = next((one for one in reversed(stacks) if _FRAME.search(one) and not _WATCHES.search(one)), stacks[-1])
    native = _is_native(stack)
    (result.hung_native if native else result.hung).append(f"{number} {_innermost(stack)}")
    result.counts["hung-native" if native else "hung"] += 1


def _count_crashed(result: Result, number: int, code: int | None, stack: str) -> None:
    stack = stack.rpartition("Current thread")[2].partition("Thread 0x")[0]
    native = _is_native(stack)
    (result.crashed_native if native else result.crashed).append(f"{number} {_signal(code)} {_innermost(stack)}")
    result.counts["crashed-native" if native else "crashed"] += 1


def _is_native(stack: str) -> bool:
    """Return whether the innermost frame that faulthandler wrote is onnxruntime's or onnx's."""
    frames = _FRAME.findall(stack)
    return bool(frames) and ("onnxruntime" in frames[0][0] or "/onnx/" in frames[0][0])


def _innermost(stack: str) -> str:
    """The innermost frame of ours in what faulthandler wrote."""
    frames = _FRAME.findall(stack)
    return next((f"{Path(file).name}:{line} {name}" for file, line, name in frames if file.startswith(PACKAGE)), "?")


def _signal(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"


def _listen(child: subprocess.Popen[bytes], result: Result) -> int:
    """Count what the child reports, one line a case, until it ends or is silent for too long."""
    assert child.stdout is not None
    done, patience, rest = 0, STARTING, b""
    while select.select([child.stdout], [], [], patience)[0]:
        if not (read := os.read(child.stdout.fileno(), 65536)):
            child.wait()
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            mark, outcome, *detail = [*line.decode(errors="replace").split(" ", 2), ""][:3]
            if mark != "case":  # onnxruntime and onnx may have something to say too
                continue
            patience = SECONDS + 2
            if outcome == "ready":
                continue
            seconds, _, text = detail[0].partition(" ")
            result.counts[outcome] += 1
            result.bugs += [text] if text else []
            result.slow = sorted([*result.slow, (float(seconds), _number_of(child, done))], reverse=True)[:5]
            done += 1
    return done


def _number_of(child: subprocess.Popen[bytes], done: int) -> int:
    start, _, step = map(int, child.args[-3:])  # type: ignore[index, arg-type]
    return start + done * step


def be_child(numbers: range, case: Callable[[int], str]) -> None:
    """Run the cases in this process and print a line for each; `case` gives how one ended, where it does not raise."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    faulthandler.enable()
    print("case ready", flush=True)
    for number in numbers:
        faulthandler.dump_traceback_later(SECONDS, file=sys.stderr)
        start = time.perf_counter()
        outcome, detail = outcome_of(number, case)
        faulthandler.cancel_dump_traceback_later()
        print(f"case {outcome} {time.perf_counter() - start:.2f} {detail}".rstrip(), flush=True)
        if outcome == "bug":
            gc.collect()


def outcome_of(number: int, case: Callable[[int], str]) -> tuple[str, str]:
    """How a case ended, and what to look at."""
    from decoding.errors import DecodingError

    try:
        return case(number), ""
    except DecodingError:
        return "refused", ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((f for f in reversed(frames) if f.filename.startswith((PACKAGE, "decoding/"))), frames[-1])
        place = f"{ours.filename.removeprefix(f'{ROOT}/')}:{ours.name}:{ours.lineno}"
        name = type(error).__name__
        with contextlib.suppress(Exception):
            return "bug", f"{number} {place} {name}: {' '.join(str(error).split())[:200]}"
        return "bug", f"{number} {place} {name}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of a case's own, which is the working directory meanwhile."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield Path(folder)


def report(result: Result) -> int:
    """Print the result; 1 where anything of ours is in it."""
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(result.counts.items())))
    for key, count, first in result.places():
        text = next(line for line in result.bugs if line.startswith(f"{first} "))
        print(f"{count:6} {key}\n       {text}")
    _list("hung, of ours", result.hung)
    _list("hung inside onnxruntime or onnx", result.hung_native)
    _list("the process died in a call of ours", sorted(result.crashed))
    _list("the process died inside onnxruntime or onnx", sorted(result.crashed_native))
    print("slowest:", ", ".join(f"{number} ({seconds:.1f} s)" for seconds, number in result.slow))
    return 1 if result.bugs or result.hung or result.crashed else 0


def _list(title: str, cases: Sequence[object]) -> None:
    if cases:
        print(f"{title}: {', '.join(map(str, cases))}")
