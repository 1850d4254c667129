"""Compare the kernels of every instruction set with their specification in NumPy, on random rows.

    python scripts/reliability/specification.py --long --jobs 2

Each row is drawn from, with a set of filters, and is asked for its most probable token. Of one block in ten, 200 rows also go
through the other kernels, and each block's number names a random network whose native step reads 200 rows. The kernels compute in
float32 and the specification in float64, so a few tokens differ. Each is explained by the specification, or it breaks the promise:

    boundary    the uniform number lies within 2e-6 of the boundary between two tokens
    edge        the specification draws that token with filters that differ by 2e-5: a token at the edge of what is kept
    tie         two continuations of a beam search differ by less than 1e-5
    half        int8: an input of the product lies within 1e-3 of the middle between two integers, and is rounded to the other
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from decoding.kernels import reference
from scripts.reliability.figure import Figure, main, pools
from tests.helpers import kernels
from tests.helpers import native_networks as native

ROWS = 2000  # of a block
FEW = 200  # of these, for slow kernels and native steps
BLOCKS = 100  # at a time, which bounds the memory
WIDTHS = [2, 5, 8, 16, 17, 31, 33, 64, 65, 100, 130, 257]
FILTERS = [filters for filters in kernels.FILTERS if filters != {"top_k": 1}]  # that is the most probable token
Answers = dict[str, NDArray[Any]]


class Block:
    """The rows and options that a number names."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng((20, number))
        width = int(rng.choice(WIDTHS))
        x = rng.normal(size=(ROWS, width)) * rng.choice([0.5, 2.0, 6.0])
        match rng.integers(6):
            case 0:  # equal values
                x = np.rint(x)
            case 1:  # forbidden tokens
                x = np.where(rng.random(x.shape) < 0.5, -np.inf, x)
                x[:, rng.integers(width)] = 0.0
            case 2:  # one token has nearly everything
                x[:, rng.integers(width)] += 12
        self.number, self.x = number, x.astype(np.float32)
        self.filters = FILTERS[rng.integers(len(FILTERS))]
        self.temperature = float(np.float32(rng.choice([0.5, 0.8, 1.0, 1.3])))
        self.stream = {"seed": int(rng.integers(2**63)), "step": int(rng.integers(1000))}

    @property
    def weights(self) -> NDArray[Any]:
        """Weights of the first rows."""
        few = self.x[:FEW]
        return np.exp(few - few.max(axis=1, keepdims=True))

    def answers(self, module: Any) -> Answers:
        """What the kernels, or their specification, give."""
        found: Answers = {}
        found["draw"], found["draw logprob"] = module.draw(
            self.x, temperature=self.temperature, **self.filters, **self.stream
        )
        found["greedy"], found["greedy logprob"] = module.greedy(self.x)
        if self.number % 10 == 0:
            found |= self._more(module)
        return {name: np.asarray(values) for name, values in found.items()}

    def _more(self, module: Any) -> Answers:
        found: Answers = {}
        few, k = self.x[:FEW], min(4, self.x.shape[1])
        found["top_n"], found["top_n logprob"] = module.top_n(few, 3, **self.stream)
        found["top_k value"], found["top_k"] = module.top_k(few, k)
        found["log_softmax"] = module.log_softmax(few, self.temperature)
        found["softmax"] = module.softmax(few, self.temperature)
        found["temper"] = module.temper(self.weights, 0.7)
        found["gumbel_top_k"], found["gumbel_top_k perturbed"], found["gumbel_top_k score"], _ = module.gumbel_top_k(
            few, k, **self.filters, **self.stream
        )
        found["multinomial"] = module.multinomial(self.weights, 3, **self.stream)
        beams, scores = few.reshape(FEW // 4, 4, -1), np.linspace(-3, 0, FEW, dtype=np.float32).reshape(-1, 4)
        found["beam_prune score"], parents, tokens = module.beam_prune(beams, scores, 4)
        found["beam_prune"] = parents * self.x.shape[1] + tokens
        return found


class Step:
    """A native step of a random network: what its twin gives, and how near int8 inputs are to being rounded otherwise."""

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng((21, number))
        cell, hidden = str(rng.choice(["LSTM", "GRU", "RNN"])), int(rng.integers(1, 66))
        self.int8 = bool(rng.integers(2))
        layers = 1 if self.int8 else int(rng.integers(1, 4))  # one: all inputs but the last product's are exact
        self.arrays, self.twin = native.network(
            rng, cell, hidden, layers=layers, outputs=33, whole=True, int8=self.int8
        )
        self.tokens, self.states = rng.integers(0, 11, (FEW, 1)), native.states(rng, self.arrays, FEW)

    def found(self) -> NDArray[Any]:
        """Logits [rows, outputs] of the kernels."""
        from decoding.kernels import NativeNetwork

        network = NativeNetwork(self.arrays, int8=self.int8)
        return native.run(network, self.tokens, self.states, 33)[0][0]

    def expected(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Logits of the twin, and for each row whether an int8 input is near the middle between two integers."""
        top, _, _ = self.twin.read(self.tokens, [h for h, _ in self.states], [c for _, c in self.states])
        x = top[:, 0]
        scaled = x * 127 / np.abs(x).max(axis=1, keepdims=True)
        near = (np.abs(np.abs(scaled - np.rint(scaled)) - 0.5) < 1e-3).any(axis=1)
        return self.twin.output(x), near & self.int8


def kernel_answers(number: int) -> tuple[Answers, NDArray[Any]]:
    """What the kernels of this process's instruction set give for a block and a step."""
    import decoding.kernels

    return Block(number).answers(decoding.kernels), Step(number).found()


def expected(number: int) -> tuple[Answers, tuple[NDArray[Any], NDArray[Any]]]:
    """What the specification gives for them."""
    with np.errstate(all="ignore"):
        return Block(number).answers(reference), Step(number).expected()


def is_drawn(weights: NDArray[Any], token: int, u: float) -> bool:
    """Return whether a uniform number within 2e-6 of u draws the token."""
    after = np.cumsum(weights)[token] / weights.sum()
    return bool(weights[token] > 0 and after - weights[token] / weights.sum() - 2e-6 <= u <= after + 2e-6)


def why_drawn(block: Block, row: int, token: int) -> str | None:
    """Return why the kernel drew this token and not the specification's, or None."""
    u = reference.uniform(block.stream["seed"], row, block.stream["step"], 1)[0, 0]
    for why, nudge in (("boundary", 0.0), ("edge", 2e-5), ("edge", -2e-5)):
        near = {
            name: value * (1 + nudge) if isinstance(value, float) else value for name, value in block.filters.items()
        }
        if is_drawn(reference.filtered(block.x[row].astype(np.float64), block.temperature, **near), token, u):
            return why
    return None


def why_several(block: Block, row: int, found: NDArray[Any], want: NDArray[Any], name: str) -> str | None:
    """The same of the first of several draws that differs: those before it are equal."""
    at = int(np.flatnonzero(found != want)[0])
    purpose, each = ("gumbel", 2) if name == "gumbel_top_k" else ("multinomial", 1)
    u = reference.uniform(block.stream["seed"], row, block.stream["step"], each * len(found), purpose)[0, each * at]
    for why, nudge in (("boundary", 0.0), ("edge", 2e-5), ("edge", -2e-5)):
        weights = block.weights[row].astype(np.float64)
        if name == "gumbel_top_k":
            near = {
                key: value * (1 + nudge) if isinstance(value, float) else value for key, value in block.filters.items()
            }
            weights = reference.filtered(block.x[row].astype(np.float64), **near)
            weights[want[:at]] = 0
        if found[at] < 0 or want[at] < 0:  # one token more is kept
            if np.count_nonzero(weights) == (found[at] >= 0):
                return "edge"
        elif is_drawn(weights, int(found[at]), u):
            return why
    return None


def why_of_beams(want: Answers, found: Answers, row: int) -> str | None:
    """The same continuations in another order, where their scores nearly tie."""
    near = np.abs(want["beam_prune score"][row] - found["beam_prune score"][row]) < 1e-5
    return "tie" if near.all() else None


def compare(block: Block, want: Answers, found: Answers) -> tuple[Counter[str], dict[str, float], list[str]]:
    """Count rows and differences by kernel and reason; the largest errors; and what nothing explains."""
    counts, worst, broken = Counter[str](), dict[str, float](), list[str]()
    reasons = {
        "draw": lambda row: why_drawn(block, row, int(found["draw"][row])),
        "gumbel_top_k": lambda row: why_several(block, row, found["gumbel_top_k"][row], want["gumbel_top_k"][row], "gumbel_top_k"),
        "multinomial": lambda row: why_several(block, row, found["multinomial"][row], want["multinomial"][row], "multinomial"),
        "beam_prune": partial(why_of_beams, want, found),
    }  # fmt: skip
    alike: dict[str, NDArray[Any]] = {}
    for name, values in found.items():
        if values.dtype.kind == "f":
            continue
        other = (values != want[name]).reshape(len(values), -1).any(axis=1)
        alike[name] = ~other
        counts[f"{name} rows"] += len(values)
        for row in np.flatnonzero(other).tolist():
            why = reasons[name](row) if name in reasons else None
            counts[f"{name} {why}"] += 1
            if why is None:
                broken.append(f"{name}: block {block.number}, row {row}: {values[row]}, not {want[name][row]}")
    for name, values in found.items():
        if values.dtype.kind != "f":
            continue
        rows = alike.get(name.partition(" ")[0], slice(None))
        got, exact = values[rows], want[name][rows]
        both = np.isfinite(exact) & np.isfinite(got)
        if (got[~both] != exact[~both]).any():
            broken.append(f"{name}: block {block.number}: infinite at other places")
        error = np.abs(got[both] - exact[both]) / (1 + np.abs(exact[both]))
        worst[name] = float(error.max(initial=0))
    return counts, worst, broken


def measure(rows: int, jobs: int) -> Figure:
    """Compare that many rows for each instruction set."""
    figure, blocks = Figure(), range(-(-rows // ROWS))
    counts: dict[str, Counter[str]] = {}
    worst: dict[str, dict[str, float]] = {}
    with pools(jobs) as processes, ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as specification:
        for start in range(0, len(blocks), BLOCKS):
            part = blocks[start : start + BLOCKS]
            wanted = specification.map(expected, part)
            answers = {name: pool.map(kernel_answers, part) for name, pool in processes.items()}
            for number, (want, (logits, near)), *found in zip(part, wanted, *answers.values(), strict=True):
                block = Block(number)
                for name, (got, own) in zip(answers, found, strict=True):
                    counted, errors, broken = compare(block, want, got)
                    error = np.abs(own - logits).max(axis=1)
                    counted |= {"step rows": len(error), "step half": int((near & (error > 1e-5)).sum())}
                    errors["step"] = float(error[~near].max(initial=0))
                    if (error[~near] > 1e-5).any():
                        broken.append(f"step {number}: error {errors['step']:g}")
                    counts.setdefault(name, Counter()).update(counted)
                    known = worst.setdefault(name, {})
                    known.update({key: max(value, known.get(key, 0.0)) for key, value in errors.items()})
                    figure.broken += [f"{name}: {line}" for line in broken]
    for name in counts:
        figure.measured += list(_lines(name, counts[name], worst[name]))
        over = {key: value for key, value in worst[name].items() if value > 1e-5}
        figure.expect(not over, f"{name}: errors above 1e-5: {over}")
    return figure


def _lines(isa: str, counts: Counter[str], worst: dict[str, float]) -> Iterator[str]:
    for key in counts:
        kernel, _, what = key.partition(" ")
        if what == "rows":
            other = {
                k.partition(" ")[2]: n
                for k, n in sorted(counts.items())
                if k.startswith(f"{kernel} ") and k != key and n
            }
            yield f"{isa}: {kernel}: {sum(other.values())} of {counts[key]:,} rows differ {other or ''}".rstrip()
    yield f"{isa}: largest errors: " + ", ".join(f"{key} {value:.1e}" for key, value in sorted(worst.items()))


if __name__ == "__main__":
    sys.exit(main(__doc__, measure, short=100_000, long=10_000_000, counted="rows"))
