"""Every example trains, exports, decodes and reaches the figure that it asserts: `pytest -m examples`, a minute each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = [
    "caption_attention",
    "caption_vector",
    "chat_history",
    "encoder_decoder",
    "latent_generator",
    "pixel_digits",
    "plain_generator",
]


def test_no_example_is_forgotten():
    found = {path.stem for path in EXAMPLES.glob("*.py") if "\nimport decoding\n" in path.read_text(encoding="utf-8")}
    assert {name for name in found if not name.startswith("held_out")} == set(NAMES)
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in listed for path in EXAMPLES.glob("*.py"))


@pytest.mark.examples
@pytest.mark.parametrize("name", NAMES)
def test_an_example_reaches_its_figure(name, tmp_path):
    for package in ("torch", "onnxscript", "sklearn", "PIL"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install '.[examples]')")
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in tmp_path.iterdir():
        assert picture.suffix == ".png"
        assert picture.stat().st_size > 5000
    assert bool(list(tmp_path.iterdir())) == (name in ("pixel_digits", "plain_generator"))
