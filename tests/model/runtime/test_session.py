"""Sessions of onnxruntime."""

import pytest

from decoding import load
from tests.helpers import build


@pytest.mark.parametrize("executor", ["native", "onnxruntime"])
def test_the_name_of_the_cpu_opens_no_session(executor, monkeypatch):
    """A native step needs none: opening one takes as much memory as the weights, and as long as loading them."""
    model = load(build.recurrent(), executor=executor)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    assert model.providers == ["CPUExecutionProvider"]
