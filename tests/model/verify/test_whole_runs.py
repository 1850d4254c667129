"""decoding/model/verify/whole_runs.py: scores of some positions are those of the whole run, and verification needs little memory."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from decoding import load
from decoding.model.contract.contract import Contract
from decoding.model.graph.graph import Graph
from decoding.model.runtime.session import Session
from decoding.model.verify import equivalence, whole_runs
from decoding.model.verify.layouts import probe
from decoding.model.verify.whole_runs import WholeRuns, some_positions, whole_run
from tests.helpers import build


def time_major():
    """Scores [time, batch, V], whose last product has weights and reads the layer's own output."""
    proto = build.recurrent("GRU")
    nodes = {node.output[0]: node for node in proto.graph.node}
    nodes["product"].input[0] = nodes["back"].input[0]
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.node.remove(nodes["back"])
    return proto


def transposed():
    """The same, transposed to [batch, time, V] after the product."""
    proto = time_major()
    proto.graph.node[-1].output[0] = "late"
    proto.graph.node.append(helper.make_node("Transpose", ["late"], ["logits"], perm=[1, 0, 2]))
    return proto


def tied():
    """Scores by the transposed embedding."""
    proto = build.recurrent("GRU")
    nodes = {node.output[0]: node for node in proto.graph.node}
    nodes["product"].input[1] = "table_transposed"
    proto.graph.node.insert(0, helper.make_node("Transpose", ["table"], ["table_transposed"], perm=[1, 0]))
    return proto


def flat(order=(1, 0, 2)):
    """Rows of all sequences under one another, as torch's view(-1, hidden) has them, before a Gemm."""
    proto = build.recurrent("GRU")
    nodes = {node.output[0]: node for node in proto.graph.node}
    back, end = nodes["back"], nodes["logits"]
    back.attribute[0].ints[:] = order
    proto.graph.node.remove(nodes["product"])
    proto.graph.node.remove(end)
    proto.graph.initializer.extend(
        [numpy_helper.from_array(np.array([-1, 8]), "rows"), numpy_helper.from_array(np.array([0, 1]), "two"),
         numpy_helper.from_array(np.array([11]), "v")])  # fmt: skip
    proto.graph.node.extend(
        [helper.make_node("Reshape", ["back", "rows"], ["under"]),
         helper.make_node("Gemm", ["under", "out", "bias"], ["scores"]),
         helper.make_node("Shape", ["back"], ["sizes"]),
         helper.make_node("Gather", ["sizes", "two"], ["two_sizes"]),
         helper.make_node("Concat", ["two_sizes", "v"], ["three_sizes"], axis=0),
         helper.make_node("Reshape", ["scores", "three_sizes"], ["logits"])])  # fmt: skip
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


KINDS = {
    "batch major": lambda: build.recurrent("GRU"),
    "softmax": lambda: build.recurrent("LSTM", final="Softmax"),
    "both directions": lambda: build.recurrent("LSTM", direction="bidirectional"),
    "time major": time_major,
    "tied": tied,
    "transposed": transposed,
    "flat": flat,
    "flat, time major": lambda: flat((0, 1, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_some_positions_score_as_in_the_whole_run(monkeypatch, kind):
    graph = Graph.load(KINDS[kind]())
    session = Session(graph, threads=1)
    layout = probe(session, "tokens", 2, "logits", [], [])
    contract = Contract(layout.token, layout.logits, (), (), sequence=True)
    assert some_positions(graph, contract, Session) is not None
    monkeypatch.setattr(whole_runs, "_PIECE", 90)
    runs = WholeRuns(graph, contract, None, Session)
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    runs.check(ids)
    pieces = list(runs.pieces(ids))
    assert [piece.first for piece in pieces] == [0, 4, 8]
    found = np.concatenate([piece.scores for piece in pieces], axis=1)
    np.testing.assert_allclose(found, whole_run(session, contract, ids), atol=1e-6)


@pytest.mark.parametrize("final", [None, "Softmax", "LogSoftmax"])
def test_pieces_are_judged_as_the_whole(monkeypatch, final):
    proto = build.recurrent("LSTM", final=final)
    notes = load(proto, threads=1)._network.contract.notes
    monkeypatch.setattr(whole_runs, "_PIECE", 20)
    assert load(proto, threads=1)._network.contract.notes == notes
    assert any(note.startswith("verified: stepping equals") for note in notes)


def test_pieces_find_a_layer_that_reads_both_ways(monkeypatch):
    proto = build.recurrent("LSTM")
    backward = helper.make_node("ReverseSequence", ["x0", "lengths"], ["flipped"], time_axis=0, batch_axis=1)
    nodes = list(proto.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.output[0] == "back")
    shape = [helper.make_node("Shape", ["tokens"], ["sizes"]), helper.make_node("Gather", ["sizes", "zero"], ["rows"], axis=0),
             helper.make_node("Gather", ["sizes", "one"], ["steps"], axis=0), helper.make_node("Expand", ["steps", "rows"], ["lengths"])]  # fmt: skip
    nodes[at].input[0] = "both"
    nodes[at:at] = [*shape, backward, helper.make_node("Add", ["x0", "flipped"], ["both"])]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(
        [numpy_helper.from_array(np.array([i]), name) for i, name in enumerate(("zero", "one"))]
    )
    plain = load(proto, threads=1)._network.contract.notes
    monkeypatch.setattr(whole_runs, "_PIECE", 20)
    assert load(proto, threads=1)._network.contract.notes == plain
    assert any(note.startswith("not stepped: stepping differs from the whole-sequence run") for note in plain)


def test_positions_that_cannot_be_told_apart():
    proto = build.recurrent("GRU")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 11), np.float32), "scale"))
    proto.graph.node[-1].output[0] = "late"
    proto.graph.node.append(helper.make_node("Mul", ["late", "scale"], ["logits"]))
    graph = Graph.load(proto)
    layout = probe(Session(graph, threads=1), "tokens", 2, "logits", [], [])
    assert some_positions(graph, Contract(layout.token, layout.logits, (), (), sequence=True), Session) is None


def test_a_whole_run_that_scores_nothing_differs():
    assert equivalence.difference(np.full((1, 2), np.nan), np.ones((1, 2))) == np.inf


MEASURE = """
import json, resource, sys
import decoding
path, small = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
decoding.load(small, threads=1)
before = peak()
decoding.load(path, threads=1)
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_of_a_large_vocabulary(tmp_path):
    """It was 4.3 GiB for this one: float64 scores [7, 48, V] several times."""
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    onnx.save(build.recurrent("GRU"), small)
    onnx.save(build.recurrent("GRU", vocab=256_000, hidden=8), large)
    done = subprocess.run([sys.executable, "-c", MEASURE, large, small], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) - large.stat().st_size < 300e6
