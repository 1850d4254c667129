"""decoding/model/folding.py: embedding and input weights in one table."""

import numpy as np
import pytest

from decoding import load
from decoding.model import folding, proof
from decoding.model.session import Session
from tests import build


def folded(model):
    graph = folding.fold_embedding(model._graph, model.contract)
    return None if graph is None else Session(graph, threads=1)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("exposed", [False, True])
def test_folded_steps_give_what_the_graph_gives(layers, exposed):
    proto = build.recurrent("LSTM", layers=layers, exposed=exposed, seed=layers)
    model = load(proto)
    ids = np.random.default_rng(0).integers(0, 11, (5, 30))
    found = proof.stepped_run(folded(model), model.contract, ids)
    expected = build.whole_run(build.recurrent("LSTM", layers=layers, seed=layers), ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["GRU", "RNN"])
def test_other_layers_are_left_as_they_are(cell):
    assert folded(load(build.recurrent(cell))) is None


def test_a_table_that_would_be_large_is_not_made(monkeypatch):
    monkeypatch.setattr(folding, "LARGEST_TABLE", 11 * 4 * 8 * 4 - 1)
    assert folded(load(build.recurrent("LSTM"))) is None


def test_a_graph_that_gives_something_else_is_not_taken(monkeypatch):
    model = load(build.recurrent("LSTM", seed=1))
    other = load(build.recurrent("LSTM", seed=2))
    monkeypatch.setattr(folding, "_seconds", lambda session, contract, ids: 1.0 if session is model.session else 0.1)
    assert folding.faster_step(model.session, model._graph, model.contract, lambda graph: other.session) is None
    taken = folding.faster_step(model.session, model._graph, model.contract, lambda graph: Session(graph, threads=1))
    assert taken is not None
    assert taken.share == pytest.approx(0.1)


def test_what_is_not_faster_is_not_taken(monkeypatch):
    model = load(build.recurrent("LSTM", seed=1))
    monkeypatch.setattr(folding, "_seconds", lambda session, contract, ids: 1.0)
    assert (
        folding.faster_step(model.session, model._graph, model.contract, lambda graph: Session(graph, threads=1))
        is None
    )


def test_the_shipped_model_says_what_was_measured():
    model = load("shakespeare")
    assert (model.step_session is model.session) is ("one table" not in model.describe())
