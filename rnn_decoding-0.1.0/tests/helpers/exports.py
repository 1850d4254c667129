"""The real exports of tests/models/: single models with their manifest, and encoder-decoder systems."""

import json
from pathlib import Path

import numpy as np
import pytest

from decoding import ModelError, load

MODELS = Path(__file__).parents[1] / "models"
MANIFEST = json.loads((MODELS / "manifest.json").read_text())


def fixtures(*expected):
    """Names of the fixtures of which one of these outcomes is expected."""
    return [
        pytest.param(name, marks=[pytest.mark.skip(reason=entry["later"])] if "later" in entry else [])
        for name, entry in MANIFEST.items()
        if entry["expect"] in expected
    ]


def fixture(name):
    """The manifest's entry, the pairs of ids [T] and expected output [T, V], and the roles to pass."""
    entry = MANIFEST[name]
    data = np.load(MODELS / f"{name}.npz")
    pairs = [(data[f"ids_{i}"], data[f"out_{i}"]) for i in range(sum(key.startswith("ids_") for key in data))]
    constant = {key: data[f"feed_{key}"] for key, kind in entry["feeds"].items() if kind == "constant"}
    given = {key: value for key, value in entry["roles"].items() if key in ("window", "pad")}
    if entry["run"].startswith("window:"):
        given = {"window": int(entry["run"][7:]), "pad": "left"}
    return entry, pairs, {**given, **({"constant": constant} if constant else {})}


def outcome(name, roles=None):
    """The loaded model and "", or None and the message with which it is refused."""
    try:
        return load(MODELS / f"{name}.onnx", roles=roles), ""
    except ModelError as error:
        return None, str(error)


# -- models with contexts, or with states of no fixed size -----------------------------------------------------

CONTEXTS = MODELS / "contexts"
# What the caller must say of these.
CONTEXT_ROLES = {
    "factors": {"step_context": ["pos"]},
    "frames_tb": {"batch_axis": {"mel": 1}},
    "frame_step": {"step_context": ["mel"]},
    "offset": {"position": "offset"},
}


def context_names(*parts):
    """Names of the fixtures in contexts/, of both exporters; with `parts` of those alone."""
    names = sorted(p.stem for p in CONTEXTS.glob("*.onnx"))
    return [name for name in names if not parts or name.split("_", 1)[1] in parts]


def with_contexts(name):
    """The loaded model, the tokens of three rows, their contexts by input, and what torch gives: log-probabilities [T, V]."""
    data = np.load(CONTEXTS / f"{name}.npz")
    rows = range(sum(key.startswith("tokens_") for key in data))
    inputs = [key.removeprefix("context_0_") for key in data if key.startswith("context_0_")]
    contexts = {key: [data[f"context_{row}_{key}"] for row in rows] for key in inputs if key != "mask"}
    logits = [data[f"logits_{row}"].astype(float) for row in rows]
    logprobs = [x - x.max(-1, keepdims=True) for x in logits]
    logprobs = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logprobs]
    model = load(CONTEXTS / f"{name}.onnx", roles=CONTEXT_ROLES.get(name.split("_", 1)[1]))
    return model, [data[f"tokens_{row}"] for row in rows], contexts, logprobs


# -- encoder-decoder systems ---------------------------------------------------------------------------------

SYSTEMS = MODELS / "seq2seq"
# What the caller must say where names and shapes leave a choice.
ROLES = {
    "bridge_h": {"encoder": {"last": "h0"}},
    "bridge_c": {"encoder": {"last": "c0"}},
    "bridge_vector": {"encoder": {"summary": "h0"}},
}


def system_names():
    """Names of the encoder-decoder systems."""
    return sorted(p.stem for p in SYSTEMS.glob("*.onnx") if ".encoder" not in p.name)


def system(name):
    """The loaded model, its sources, the tokens that were fed, and what the modules gave: log-probabilities, attention."""
    data = np.load(SYSTEMS / f"{name}.npz")
    count = sum(key.startswith("tokens_") for key in data)
    sources = [
        data[f"source_{i}"] if f"source_{i}" in data else [data[f"source_{i}_{j}"] for j in range(sum(k.startswith(f"source_{i}_") for k in data))]
        for i in range(count)
    ]  # fmt: skip
    logits = [data[f"logits_{i}"].astype(float) for i in range(count)]
    logprobs = [
        x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
        for x in logits
    ]
    attention = [data[f"attention_{i}"] for i in range(count)] if "attention_0" in data else None
    return (
        load(SYSTEMS / f"{name}.onnx", roles=ROLES.get(name)),
        sources,
        [data[f"tokens_{i}"] for i in range(count)],
        logprobs,
        attention,
    )
