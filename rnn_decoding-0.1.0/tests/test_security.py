"""The example of SECURITY.md: an untrusted file is loaded in a child process with limits."""

import re
import sys
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.helpers import build

PAGE = Path(__file__).parent.parent / "SECURITY.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file() or sys.platform == "win32", reason="no page, or no limits")


@pytest.fixture
def describe():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict = {}
    exec(code, names)
    return names["describe"]


def test_a_good_file_is_described(describe, tmp_path):
    (tmp_path / "m.onnx").write_bytes(build.recurrent("GRU").SerializeToString())
    assert "verified: stepping equals the whole-sequence run" in describe(str(tmp_path / "m.onnx"))


def test_a_hostile_file_is_refused(describe, tmp_path):
    model = build.recurrent("GRU")
    tensor = model.graph.initializer.add(name="secret", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "secret").write_bytes(b"pass")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"(?s)exit 1: .*outside the model's folder"):
        describe(str(folder / "m.onnx"))
