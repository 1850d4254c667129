"""Asking kernels and specification the same question, and comparing what float32 lets one compare."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from decoding import kernels
from decoding.kernels import reference

ROOT = Path(__file__).parent.parent.parent

# Each option one at a time, and together.
FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 9},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"typical_p": 0.6},
    {"epsilon_cutoff": 0.01},
    {"eta_cutoff": 0.05},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 60, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9, "epsilon_cutoff": 1e-3, "eta_cutoff": 2e-3},
]


def logits(rows, width, seed=0, scale=3.0):
    """Normal float32 rows."""
    return (np.random.default_rng(seed).normal(size=(rows, width)) * scale).astype(np.float32)


def kept(row, **options):
    """Probabilities [V] that a row is drawn from: drawing all of them without replacement gives each one's."""
    out = np.zeros(len(row))
    tokens, _, scores, _ = kernels.gumbel_top_k(row[None], len(row), seed=0, **options)
    possible = tokens[0] >= 0
    out[tokens[0][possible]] = np.exp(scores[0][possible])
    return out


def assert_kept(row, **options):
    """The kernels keep what the specification keeps, with some value of the options within float32 error."""
    found = kept(row, **options)
    possible = []
    for nudge in (0.0, -1e-5, 1e-5):
        near = {name: value * (1 + nudge) if isinstance(value, float) else value for name, value in options.items()}
        possible.append(reference.filtered(row.astype(np.float64), **near))
        if np.array_equal(found > 1e-37, possible[-1] > 1e-37):  # both sides of float32's smallest normal numbers
            np.testing.assert_allclose(found, possible[-1], rtol=1e-4, atol=1e-9)
            return
    raise AssertionError(f"kept {np.flatnonzero(found)}, not {[np.flatnonzero(p) for p in possible]}")


def assert_drawn(row, token, u, **options):
    """The token is the one that u chooses among the probabilities kept, within float32 error."""
    running = np.cumsum(kept(row, **options))
    before = running[token - 1] if token else 0.0
    assert before - 1e-5 <= u * running[-1] <= running[token] + 1e-5


def in_every_instruction_set(code):
    """What a snippet prints under each instruction set, by name."""
    out = {}
    for name in kernels.instruction_sets():
        environment = dict(os.environ, DECODING_ISA=name, PYTHONPATH=str(ROOT))
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        out[name] = result.stdout
    return out
