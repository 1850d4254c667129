"""A graph remembers what each pass did to it."""

import numpy as np

from decoding import load
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import graph_pass
from tests.helpers import build
from tests.helpers.exports import MODELS


@graph_pass("rename")
def rename(graph, *, add):
    node = next(n for n in graph.nodes if n.op == "Transpose")
    node.set_input(0, "elsewhere")
    graph.edited()
    if add:
        graph.add_input("extra", np.int64, ["batch", 3])
        graph.add_node("Identity", ["extra"], "copy")
    return len(graph.nodes)


def test_a_pass_is_recorded_with_what_it_added_and_changed():
    graph = Graph.load(build.recurrent("GRU"))
    before = len(graph.nodes)
    assert graph.history == ()
    assert rename(graph, add=True) == before + 1
    (one,) = graph.history
    assert (one.name, dict(one.added), dict(one.removed), dict(one.changed)) == (
        "rename", {"Identity": 1}, {}, {"Transpose": 1}
    )  # fmt: skip
    assert str(one) == "added Identity 1; changed Transpose 1; input extra int64[batch, 3] added"


def test_what_is_removed_is_recorded_and_a_copy_has_its_own_history():
    graph = Graph.load(build.recurrent("GRU"))
    copy = graph.copy()
    with copy.recorded("prune"):
        copy.remove(copy.nodes[-1])
        copy.set_shape(copy.inputs[0].name, [None, None], np.int32)
    assert graph.history == ()
    (one,) = copy.history
    assert dict(one.removed) == {graph.nodes[-1].op: 1}
    assert one.ports == ("input tokens int64[batch, time] -> int32[?, ?]",)
    with copy.recorded("rest"):
        pass
    assert [str(record) for record in copy.copy().history][1] == "nothing to do"


def test_a_loaded_model_tells_the_passes_of_the_graph_that_it_steps():
    passes = {one.name: one for one in load(MODELS / "tf2onnx_gru.onnx").passes}
    assert dict(passes["expose states"].changed) == {"GRU": 1}
    assert dict(passes["cut the softmax"].changed) == {"Identity": 1}
    int8 = [one.name for one in load("shakespeare", quantize="int8", executor="onnxruntime").passes]
    assert int8[-2:] == ["lower recurrent layers", "quantize the weights"]
    folded = [one.name for one in load("shakespeare", executor="onnxruntime").passes]
    assert folded[-1] == "fold the embedding"
