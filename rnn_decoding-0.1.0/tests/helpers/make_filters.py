"""Writes tests/data/filters.npz: what Hugging Face transformers' logits processors make of some logits.

python -m tests.helpers.make_filters   (needs torch and transformers; the tests do not)
"""

import sys
from pathlib import Path

import numpy as np

ROWS, WIDTH = 12, 300
CASES = [
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"typical_p": 0.3},
    {"typical_p": 0.9},
    {"epsilon_cutoff": 0.01},
    {"eta_cutoff": 0.03},
    {"eta_cutoff": 0.3},
    {"top_k": 40, "top_p": 0.9},
    {"temperature": 0.7, "top_p": 0.9, "typical_p": 0.8},
    {"temperature": 1.4, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9, "epsilon_cutoff": 3e-3},
    {"temperature": 1.4, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9, "eta_cutoff": 2e-2},
]


def logits():
    """Rows from flat to peaked, some tokens forbidden."""
    rng = np.random.default_rng(2024)
    x = rng.normal(size=(ROWS, WIDTH)) * np.linspace(0.3, 6, ROWS)[:, None]
    x = x.astype(np.float32)
    x[rng.random(x.shape) < 0.1] = -np.inf
    return x


def main():
    """Run every case in float64, and the penalties on a few histories."""
    import torch
    from transformers.generation import logits_process as hf

    warpers = [
        ("temperature", hf.TemperatureLogitsWarper),
        ("top_k", hf.TopKLogitsWarper),
        ("top_p", hf.TopPLogitsWarper),
        ("min_p", hf.MinPLogitsWarper),
        ("typical_p", hf.TypicalLogitsWarper),
        ("epsilon_cutoff", hf.EpsilonLogitsWarper),
        ("eta_cutoff", hf.EtaLogitsWarper),
    ]
    x = torch.tensor(logits(), dtype=torch.float64)
    out = {}
    for number, case in enumerate(CASES):
        scores = x.clone()
        for name, warper in warpers:
            if name in case:
                scores = warper(case[name])(None, scores)
        out[f"case{number}"] = torch.softmax(scores, dim=-1).numpy()

    rng = np.random.default_rng(7)
    history = rng.integers(0, 12, size=(ROWS, 20))
    ids = torch.tensor(history)
    out["history"] = history
    out["repetition"] = hf.RepetitionPenaltyLogitsProcessor(1.3)(ids, x.float().clone()).numpy()
    out["ngram"] = hf.NoRepeatNGramLogitsProcessor(2)(ids, x.float().clone()).numpy()
    np.savez_compressed(Path(__file__).parent.parent / "data" / "filters.npz", **out)
    print("transformers", sys.modules["transformers"].__version__)


if __name__ == "__main__":
    main()
