"""decoding/model/passes/fold_embedding.py: embedding and input weights in one table."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from decoding import load
from decoding.model.passes import fold_embedding
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence
from tests.helpers import build


@pytest.fixture(autouse=True)
def _narrow_layers_too(monkeypatch):
    monkeypatch.setattr(fold_embedding, "SMALLEST_HIDDEN", 1)


def folded(model):
    graph = fold_embedding.fold_embedding(model._graph, model._network.contract)
    return None if graph is None else Session(graph, threads=1)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_folded_steps_give_what_the_graph_gives(cell, layers, exposed):
    proto = build.recurrent(cell, layers=layers, exposed=exposed, seed=layers)
    model = load(proto)
    ids = np.random.default_rng(0).integers(0, 11, (5, 30))
    found = equivalence.stepped_run(folded(model), model._network.contract, ids)
    expected = build.whole_run(build.recurrent(cell, layers=layers, seed=layers), ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("linear_before_reset", [0, 1])
def test_both_kinds_of_gru(linear_before_reset):
    proto = build.recurrent("GRU", seed=4)
    node = next(n for n in proto.graph.node if n.op_type == "GRU")
    node.attribute.append(helper.make_attribute("linear_before_reset", linear_before_reset))
    model = load(proto)
    ids = np.random.default_rng(0).integers(0, 11, (5, 30))
    np.testing.assert_allclose(
        equivalence.stepped_run(folded(model), model._network.contract, ids), build.whole_run(proto, ids), atol=1e-5
    )


def test_other_layers_are_left_as_they_are():
    assert folded(load(build.recurrent("RNN"))) is None


def test_a_table_that_would_be_large_is_not_made(monkeypatch):
    monkeypatch.setattr(fold_embedding, "LARGEST_TABLE", 11 * 4 * 8 * 4 - 1)
    assert folded(load(build.recurrent("LSTM"))) is None


def test_a_narrow_layer_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(fold_embedding, "SMALLEST_HIDDEN", 9)
    assert folded(load(build.recurrent("LSTM"))) is None


def test_a_graph_that_gives_something_else_is_not_taken():
    model, other = load(build.recurrent("LSTM", seed=1)), load(build.recurrent("LSTM", seed=2))
    plain = replace(model._network.program, folded=None)
    assert fold_embedding.with_folded_step(plain, lambda graph: other._network.session) is plain
    assert fold_embedding.with_folded_step(plain, lambda graph: Session(graph, threads=1)).folded is not None


def test_the_shipped_model_is_folded_and_says_so():
    model = load("shakespeare", executor="onnxruntime")
    assert model._network.step_session is not model._network.session
    assert "from one table" in model.describe()
