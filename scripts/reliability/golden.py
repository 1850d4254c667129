"""Decode 10,000 tokens by each strategy with each shipped model, in every instruction set, and compare them with the golden ones.

    python scripts/reliability/golden.py --long
    python scripts/reliability/golden.py --write

tests/golden/tokens.json has them as 100 hashes of 100 tokens each, with the first text to look at. A new minor version may write others:
--write makes the file again, and the changelog says why. The native step gives these tokens with AVX-512 and AVX2. Elsewhere logits are
rounded otherwise in the last bits: by other instruction sets, by other versions of onnxruntime, which runs `dates`, and by other processors
there. A token may differ then where a draw falls on the boundary between two, and with it those after it in its sequence: at most one
hash in twenty may.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.reliability.figure import ROOT, Figure, main, pools

FILE = ROOT / "tests" / "golden" / "tokens.json"
TOKENS, BLOCKS = 10_000, 100  # of each case, and hashes of them
MODELS = ("shakespeare", "tang", "dates", "shakespeare int8", "tang int8")
LENGTHS = {"shakespeare": 100, "tang": 50, "dates": 10}  # tokens of an output; no output ends before
EXACT = ("avx512", "avx2")  # the native step's bits are the same in these


def strategies() -> dict[str, Any]:
    """A strategy of each kind, with the outputs that it gives for a prompt."""
    from decoding import Beam, Greedy, Sample, TopN

    return {
        "greedy": (Greedy(), 1),
        "sample": (Sample(), 1),
        "nucleus": (Sample(temperature=0.8, top_k=40, top_p=0.95), 1),
        "typical": (Sample(min_p=0.02, typical_p=0.9), 1),
        "top_n": (TopN(5), 1),
        "beam": (Beam(4), 1),
        "distinct": (Sample(replacement=False), 4),
    }


def prompts(name: str, count: int) -> list[Any]:
    """Return that many prompts, no two alike."""
    if name == "dates":
        forms = ("{d:02}.{m:02}.{y}", "{y}/{m}/{d}", "{d}-{m}-{y}", "{d:02} {m:02} {y}")
        days = itertools.product(range(1, 29), range(1, 13), (1999, 2026))
        return [forms[i % 4].format(d=d, m=m, y=y) for i, (d, m, y) in zip(range(count), itertools.cycle(days))]
    size = {"shakespeare": 65, "tang": 3244}[name]
    return [[1 + (7 * i) % (size - 1), 1 + i // (size - 1) % (size - 1)] for i in range(count)]


def decoded(model: Any, name: str, strategy: str, blocks: int) -> tuple[list[str], str]:
    """Return the hashes of the first blocks of a case, and the text of its first output."""
    from decoding import Beam, Greedy, decode

    choice, outputs = strategies()[strategy]
    length = LENGTHS[name]
    wanted = blocks * (TOKENS // BLOCKS)
    count = -(-wanted // (length * outputs))
    seed = {} if isinstance(choice, Greedy | Beam) else {"seed": 2026}
    found = decode(
        model,
        prompts(name, count),
        choice,
        max_new_tokens=length,
        min_new_tokens=length,
        num_return_sequences=outputs,
        **seed,
    )
    ids = np.concatenate([h.ids for h in found])[:wanted].astype("<i4")
    return [hashlib.sha256(block.tobytes()).hexdigest()[:6] for block in np.split(ids, blocks)], str(found[0].text)


def cases(model: str, blocks: int) -> dict[str, tuple[list[str], str]]:
    """Return what `decoded` does for every strategy of a model, in this process."""
    from decoding import load

    name, _, quantize = model.partition(" ")
    loaded = load(name, quantize=quantize or None, threads=1)
    return {strategy: decoded(loaded, name, strategy, blocks) for strategy in strategies()}


def write() -> None:
    """Write the golden file."""
    found = {
        model: {key: {"first": text, "hashes": "".join(hashes)} for key, (hashes, text) in cases(model, BLOCKS).items()}
        for model in MODELS
    }
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(blocks: int, jobs: int) -> Figure:
    """Compare the first blocks of every case, in every instruction set."""
    figure, golden = Figure(), json.loads(FILE.read_text(encoding="utf-8"))
    with pools(jobs) as processes:
        found = {isa: {m: pool.submit(cases, m, blocks) for m in MODELS} for isa, pool in processes.items()}
        for isa, of_isa in found.items():
            other: dict[str, int] = {}
            for model, future in of_isa.items():
                for strategy, (hashes, text) in future.result().items():
                    want = golden[model][strategy]
                    differ = sum(a != want["hashes"][6 * i : 6 * i + 6] for i, a in enumerate(hashes))
                    other |= {f"{model}, {strategy}": differ} if differ else {}
                    said = f"{isa}: {model}, {strategy}: {differ} of {blocks} hashes differ; {text!r}, not {want['first']!r}"
                    exact = isa in EXACT and not model.startswith("dates")
                    figure.expect(differ <= (0 if exact else max(1, blocks // 20)), said)
            count = len(MODELS) * len(strategies())
            figure.measured.append(
                f"{isa}: {count} cases of {blocks * TOKENS // BLOCKS:,} tokens: hashes that differ: {other or 'none'}"
            )
    return figure


if __name__ == "__main__":
    if "--write" in sys.argv:
        write()
    else:
        sys.exit(main(__doc__, measure, short=20, long=BLOCKS, counted="blocks of 100 tokens"))
