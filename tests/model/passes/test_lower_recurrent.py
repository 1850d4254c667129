"""decoding/model/passes/lower_recurrent.py: recurrent layers as plain operators, beside onnxruntime's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from onnx import helper

from decoding import load
from decoding.model import network
from decoding.model.network import DeviceSteps
from decoding.model.passes import lower_recurrent
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence
from tests.helpers import build
from tests.helpers.cells import VOCAB, built, cells
from tests.helpers.exports import MANIFEST, fixture, fixtures, outcome


def lowered(model):
    steps = lower_recurrent.plain_steps(model._graph, model._network.contract)
    return steps.graph, steps.left, Session(steps.graph, threads=1)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("cell", build.CELLS)
def test_stacked_cells_step_as_the_layers_do(cell, layers, exposed):
    model = load(build.recurrent(cell, layers=layers, exposed=exposed, seed=layers))
    graph, left, session = lowered(model)
    assert not left
    assert not {node.op for node in graph.nodes} & {"LSTM", "GRU", "RNN"}
    ids = np.random.default_rng(0).integers(0, 11, (5, 30))
    np.testing.assert_allclose(
        equivalence.stepped_run(session, model._network.contract, ids),
        equivalence.stepped_run(model._network.session, model._network.contract, ids),
        atol=1e-5,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cells())
def test_a_cell_with_any_options_is_what_its_formulas_say(cell):
    """Any activations, clips, coupled gates, peepholes, missing biases: tests/models/numpy_cells.py is the truth."""
    proto, truth = built(*cell)
    model = load(proto)
    graph, left, session = lowered(model)
    assert not left
    assert not {node.op for node in graph.nodes} & {"LSTM", "GRU", "RNN"}
    ids = np.random.default_rng(0).integers(0, VOCAB, (3, 4))
    expected = truth(ids)
    found = equivalence.stepped_run(session, model._network.contract, ids)
    np.testing.assert_allclose(found, expected, atol=2e-5 * (1 + np.abs(expected).max()))


RECURRENT = [p for p in fixtures("step") if not any(word in p.values[0] for word in ("loop", "scan", "stacked_cells"))]


@pytest.mark.parametrize("name", RECURRENT)
def test_every_export_steps_the_same(name):
    """Of torch, Keras, tf2onnx and TensorFlow 1; those of plain operators or Loops have nothing to write out."""
    _, pairs, roles = fixture(name)
    model, _ = outcome(name, roles)
    if model is None or model._network.contract.window is not None:
        pytest.skip("refused, or run by windows, as test_fixtures.py accepts")
    graph, left, session = lowered(model)
    assert not left, left
    assert not {node.op for node in graph.nodes} & {"LSTM", "GRU", "RNN"}
    half = any(s.dtype == np.float16 for s in model._network.contract.states)
    for ids, _ in pairs:
        found = equivalence.stepped_run(session, model._network.contract, ids[None])
        expected = equivalence.stepped_run(model._network.session, model._network.contract, ids[None])
        np.testing.assert_allclose(found, expected, atol=max(1e-5, MANIFEST[name]["tolerance"]) if not half else 2e-2)


def test_what_differs_stays_as_it_was(monkeypatch):
    one, other = load(build.recurrent("LSTM", seed=1)), load(build.recurrent("LSTM", seed=2))
    assert DeviceSteps(one._network.program)._lower() is not one._graph
    wrong = lower_recurrent.plain_steps(other._graph, other._network.contract)
    monkeypatch.setattr(network, "plain_steps", lambda graph, contract: wrong)
    assert DeviceSteps(one._network.program)._lower() is one._graph


@pytest.mark.parametrize(("spoil", "reason"), [
    ({"direction": "reverse"}, "reverse"), ({"layout": 1}, "layout"), ({"activations": ["Swish", "Tanh", "Tanh"]}, "other activations"),
])  # fmt: skip
def test_a_layer_that_stays_says_why(spoil, reason):
    model = load(build.recurrent("LSTM"))
    graph = model._graph.copy()
    (node,) = [n for n in graph.nodes if n.op == "LSTM"]
    for name, value in spoil.items():
        node.drop_attribute(name)
        node._proto.attribute.append(helper.make_attribute(name, value))
    steps = lower_recurrent.plain_steps(graph, model._network.contract)
    assert steps.left == (f"LSTM layer0 ({reason})",)
    assert not steps.done
