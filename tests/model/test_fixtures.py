"""Every real export of tests/models/, stepped and compared with what the original framework gave.

The manifest says of each file how it must load: "step", "window", "refuse" or, for an encoder, "encoder".
"""

import re

import numpy as np
import onnx
import pytest

from decoding import load
from decoding.model.verify import equivalence, whole_runs
from tests.helpers.exports import MODELS, fixture, fixtures, outcome


def check(model, entry, ids, expected):
    run = windowed if model._network.contract.window else stepped
    found = equivalence.as_kind(run(model, ids).astype(np.float64), entry["output"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=max(entry["tolerance"], 1e-5))


def stepped(model, ids):
    return equivalence.stepped_run(model._network.session, model._network.contract, ids[None])[0]


def windowed(model, ids):
    """The last position's scores after each prefix."""
    contract = model._network.contract
    rows = []
    for end in range(1, len(ids) + 1):
        shown = contract.window.shown(end)
        cut = np.array([contract.window.cut(ids[:end].tolist(), shown)])
        scores = whole_runs.whole_run(model._network.session, contract, cut)
        rows.append(scores[0, contract.window.end(end, scores.shape[1])])
    return np.stack(rows)


def newer_than_onnx(name):
    """Return whether the installed onnx does not know the file's operator set."""
    proto = onnx.load(MODELS / f"{name}.onnx", load_external_data=False)
    return max(entry.version for entry in proto.opset_import if not entry.domain) > onnx.defs.onnx_opset_version()


@pytest.mark.parametrize("name", fixtures("step"))
def test_steps_give_what_the_original_framework_gives(name):
    entry, pairs, roles = fixture(name)
    model, refused = outcome(name, roles)
    if model is None and newer_than_onnx(name):
        pytest.skip(f"onnx {onnx.__version__} does not know the file's operator set, so that it cannot be lowered")
    if model is None:
        assert "refuse" in entry["accept"], refused
        assert re.search(entry["reason"], refused), refused
        return
    assert model._network.contract.window is None or "window" in entry["accept"], model.describe()
    for ids, expected in pairs:
        check(model, entry, ids, expected)


@pytest.mark.parametrize("name", fixtures("step"))
def test_a_saved_step_graph_loads_again_as_it_is(name, tmp_path):
    _, pairs, roles = fixture(name)
    first, _ = outcome(name, roles)
    if first is None:
        pytest.skip("refused, as the test above accepts")
    if first._network.contract.window is not None:
        pytest.skip("a window of prefixes, as the test above accepts")
    first.save(tmp_path / "steps.onnx")
    second = load(tmp_path / "steps.onnx")
    for rewritten in ("hidden in", "was cut", "baked", "one-hot"):
        assert rewritten not in second.describe()
    ids = pairs[-1][0]
    np.testing.assert_array_equal(stepped(second, ids), stepped(first, ids))


@pytest.mark.parametrize("name", fixtures("window"))
def test_windows_give_what_the_original_framework_gives(name):
    entry, pairs, roles = fixture(name)
    model = load(MODELS / f"{name}.onnx", roles=roles)
    assert model._network.contract.window is not None
    assert "window mode" in model.describe()
    for ids, expected in pairs:
        check(model, entry, ids, expected)


@pytest.mark.parametrize("name", fixtures("refuse", "encoder"))
def test_refused_with_the_true_reason(name):
    entry, pairs, _ = fixture(name)
    model, refused = outcome(name)
    if model is None:
        assert re.search(entry["reason"] or entry["expect"], refused), refused
        assert "/onnxruntime_src/" not in refused
        return
    assert {"step", "window"} & set(entry["accept"]), f"it was not refused: {model.describe()}"
    for ids, expected in pairs:
        check(model, entry, ids, expected)


@pytest.mark.parametrize(
    "name", ["torch_legacy_pooled_w6", "torch_dynamo_pooled_w6", "tf2onnx_pooled", "keras_tf_pooled"]
)
def test_a_fixed_window_is_not_padded_by_a_guess(name):
    model, refused = outcome(name)
    assert model is None
    assert "pass roles={'window': 6, 'pad': 'left'}" in refused
