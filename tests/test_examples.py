"""Every example trains, exports, decodes and reaches the figure that it asserts: `pytest -m examples`, a minute each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = [
    "caption_attention",
    "caption_guidance",
    "caption_vector",
    "chat_history",
    "constrained_json",
    "constrained_tang",
    "dates_fusion",
    "encoder_decoder",
    "latent_generator",
    "pixel_digits",
    "plain_generator",
    "ray_serve",
    "recurrent_lm",
]


def test_no_example_is_forgotten():
    found = {path.stem for path in EXAMPLES.glob("*.py") if "\nimport decoding\n" in path.read_text(encoding="utf-8")}
    assert {name for name in found if not name.startswith("held_out")} == set(NAMES)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in listed for path in EXAMPLES.glob("*.py"))


@pytest.mark.examples
@pytest.mark.parametrize("name", NAMES)
def test_an_example_reaches_its_figure(name, tmp_path):
    for package in ("torch", "onnxscript", "sklearn", "PIL", "transformers", "llguidance", "babel"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install '.[examples]')")
    if name == "ray_serve":
        pytest.importorskip("ray.serve", reason="ray is not installed (pip install '.[ray]' 'ray[serve]')")
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in tmp_path.iterdir():
        assert picture.suffix == ".png"
        assert picture.stat().st_size > 5000
    assert bool(list(tmp_path.iterdir())) == (name in ("pixel_digits", "plain_generator"))


def test_seqgan(tmp_path):
    """The whole experiment, on a small oracle and a schedule that shows nothing but that all parts run."""
    for needed in ("torch", "onnxscript", "matplotlib"):
        pytest.importorskip(needed, reason=f"{needed} is not installed (pip install '.[export,plot]')")
    rng, (vocab, embedding, hidden) = np.random.default_rng(0), (50, 8, 6)
    shapes = {"embedding": (vocab, embedding), "W_out": (hidden, vocab), "b_out": (vocab,)}
    for gate in "ifoc":
        shapes |= {f"W_{gate}": (embedding, hidden), f"U_{gate}": (hidden, hidden), f"b_{gate}": (hidden,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "oracle.npz", **arrays)
    script, root = EXAMPLES / "seqgan/train.py", EXAMPLES.parent
    command = [
        sys.executable,
        script,
        tmp_path / "oracle.npz",
        "--output",
        tmp_path / "run",
        "--smoke",
        "--seeds",
        "1",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/run.json").read_text())
    assert list(found["seeds"]) == ["1", "2"]
    for run in found["seeds"].values():
        assert [turn for turn, _ in run["epochs"]] == [1, 2]
        assert [turn for turn, *_ in run["constant reward"]] == [turn for turn, *_ in run["SeqGAN"]] == [1, 2]
        assert run["nll"]["oracle"] == pytest.approx(own_nll(arrays), abs=0.25)
        assert run["nll"]["oracle"] < run["nll"]["random, by frequency"] < run["nll"]["random, uniform"]
    one, two = (run["nll"]["SeqGAN"] for run in found["seeds"].values())
    assert found["nll"]["SeqGAN"]["mean"] == pytest.approx((one + two) / 2, abs=1e-4)
    assert found["nll"]["SeqGAN"]["standard error"] == pytest.approx(abs(one - two) / 2, abs=1e-4)
    assert (tmp_path / "run/learning_curve.png").read_bytes().startswith(b"\x89PNG")


def own_nll(arrays, sequences=2000, length=20):
    """Mean negative log-likelihood of a token that the oracle draws, by NumPy."""
    rng = np.random.default_rng(1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h = c = np.zeros((sequences, len(arrays["U_i"])))
    token, total = np.zeros(sequences, np.int64), 0.0
    for _ in range(length):
        x = arrays["embedding"][token]
        i, f, o, g = (x @ arrays[f"W_{k}"] + h @ arrays[f"U_{k}"] + arrays[f"b_{k}"] for k in "ifoc")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = h @ arrays["W_out"] + arrays["b_out"]
        token = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        total -= logprobs[np.arange(sequences), token].mean()
    return total / length
