"""decoding/model/lowering.py: recurrent layers as plain operators, beside onnxruntime's own."""

import numpy as np
import pytest
from hypothesis import given, settings

from decoding import load
from decoding.model import lowering, proof
from decoding.model.session import Session
from tests import build
from tests.model.test_cells import VOCAB, built, cells
from tests.model.test_fixtures import MANIFEST, fixture, fixtures, outcome


def lowered(model):
    graph, left = lowering.lower_layers(model._graph, model.contract)
    return graph, left, Session(graph, threads=1)


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
        proof.stepped_run(session, model.contract, ids),
        proof.stepped_run(model.session, model.contract, ids),
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
    found = proof.stepped_run(session, model.contract, ids)
    np.testing.assert_allclose(found, expected, atol=2e-5 * (1 + np.abs(expected).max()))


RECURRENT = [p for p in fixtures("step") if not any(word in p.values[0] for word in ("loop", "scan", "stacked_cells"))]


@pytest.mark.parametrize("name", RECURRENT)
def test_every_export_steps_the_same(name):
    """Of torch, Keras, tf2onnx and TensorFlow 1; those of plain operators or Loops have nothing to write out."""
    _, pairs, roles = fixture(name)
    model, _ = outcome(name, roles)
    if model is None or model.contract.window is not None:
        pytest.skip("refused, or run by windows, as test_fixtures.py accepts")
    graph, left, session = lowered(model)
    assert not left, left
    if graph is model._graph:
        assert not {node.op for node in graph.nodes} & {"LSTM", "GRU", "RNN"}
        return
    half = any(s.dtype == np.float16 for s in model.contract.states)
    for ids, _ in pairs:
        found = proof.stepped_run(session, model.contract, ids[None])
        expected = proof.stepped_run(model.session, model.contract, ids[None])
        np.testing.assert_allclose(found, expected, atol=max(1e-5, MANIFEST[name]["tolerance"]) if not half else 2e-2)


def test_what_differs_stays_as_it_was():
    model, other = load(build.recurrent("LSTM", seed=1)), load(build.recurrent("LSTM", seed=2))
    sessions = iter([model.session, other.session])
    graph, left = lowering.lowered_step(model._graph, model.contract, lambda graph: next(sessions))
    assert graph is model._graph
    assert left == ["layer0"]
    graph, left = lowering.lowered_step(model._graph, model.contract, lambda graph: Session(graph, threads=1))
    assert graph is not model._graph
    assert not left
