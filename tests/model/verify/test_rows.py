"""decoding/model/verify/rows.py: whether a row gives the same alone, among others and in another place of the batch."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, load
from decoding.model.verify.rows import DependentRows, check_rows
from scripts.fuzz_models import fuzz
from tests.helpers import build

VOCAB, SIZE = 6, 3


def cell(*nodes, after="next", state=("batch", SIZE), token=("batch",), more=(), dtype=TensorProto.FLOAT):
    """A step from the state `h` and the embedding `x` [batch, 3]; the nodes make `mixed` of `h`, the state that is scored."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.uniform(-1, 1, (VOCAB, SIZE)).astype(np.float32),
        "out": rng.uniform(-1, 1, (SIZE, VOCAB)).astype(np.float32),
        "rows": np.array([0]),
        "first": np.array(0),
        "clock": np.ones((1, SIZE), np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        *nodes,
        helper.make_node("Add", ["mixed", "x"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("MatMul", ["next", "out"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cell",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, token), helper.make_tensor_value_info("h", dtype, state), *more],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, VOCAB]), helper.make_tensor_value_info(after, dtype, [None] * len(state))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return build.model(graph)


MIXED = {
    "batch normalization in training mode": [
        helper.make_node("ReduceMean", ["h"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["h", "mean"], ["mixed"]),
    ],
    "the first row's state": [helper.make_node("Gather", ["h", "rows"], ["mixed"], axis=0)],
    "a running sum of rows": [helper.make_node("CumSum", ["h", "first"], ["mixed"])],
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("how", MIXED)
def test_rows_that_depend_on_each_other_are_refused_whatever_verify_says(how, verify):
    with pytest.raises(ModelError, match=r"rows are not independent: .* changes by .*model\.eval\(\)"):
        load(cell(*MIXED[how]), verify=verify)


def test_a_cell_of_independent_rows_is_taken():
    model = load(cell(helper.make_node("Identity", ["h"], ["mixed"])))
    assert not check_rows(model._network.session, model._network.contract, 1e-4)  # it reads one token a run


def test_rows_that_mix_contexts_are_refused():
    context = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIZE])
    nodes = [
        helper.make_node("ReduceMax", ["image"], ["greatest"], axes=[0], keepdims=1),
        helper.make_node("Add", ["h", "greatest"], ["mixed"]),
    ]
    with pytest.raises(ModelError, match="rows are not independent"):
        load(cell(*nodes, more=[context]), roles={"context": ["image"]})
    good = helper.make_node("Add", ["h", "image"], ["mixed"])
    assert load(cell(good, more=[context]), roles={"context": ["image"]})._network.contract.contexts


def test_initial_states_that_mix_contexts_are_refused():
    """A hidden layer that starts from an image less the mean over the batch."""

    def starting(*nodes):
        proto = build.recurrent("GRU", hidden=SIZE)
        node = next(n for n in proto.graph.node if n.op_type == "GRU")
        node.input[5] = "start"
        proto.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIZE]))
        proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
        proto.graph.initializer.append(numpy_helper.from_array(np.eye(SIZE, dtype=np.float32), "bridge"))
        bridge = helper.make_node("MatMul", ["centred", "bridge"], ["first"])
        for n in (helper.make_node("Unsqueeze", ["first", "axis"], ["start"]), bridge, *nodes):
            proto.graph.node.insert(0, n)
        return proto

    mixed = starting(
        helper.make_node("Sub", ["image", "mean"], ["centred"]),
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0], keepdims=1),
    )
    with pytest.raises(ModelError, match="rows are not independent: the initial state state_0_h of a row changes"):
        load(mixed, roles={"context": ["image"]}, verify=False)
    assert load(starting(helper.make_node("Tanh", ["image"], ["centred"])), roles={"context": ["image"]})


@pytest.mark.parametrize("direction", ["hidden", "exposed"])
def test_a_layer_whose_output_is_mixed_is_refused(direction):
    """The mean over the batch of what a recurrent layer gives."""
    proto = build.recurrent("GRU", exposed=direction == "exposed")
    place = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "MatMul")
    product = proto.graph.node[place]
    proto.graph.node.insert(place, helper.make_node("Sub", [product.input[0], "mean"], ["centred"]))
    proto.graph.node.insert(place, helper.make_node("ReduceMean", [product.input[0]], ["mean"], axes=[0], keepdims=1))
    proto.graph.node[place + 2].input[0] = "centred"
    with pytest.raises(ModelError, match="rows"):
        load(proto)


def test_states_that_are_indices_are_tried_with_their_initial_values():
    """A counter that looks up a row of a table with one entry takes no random number."""
    nodes = [
        helper.make_node("Gather", ["clock", "h"], ["ticks"]),
        helper.make_node("Identity", ["ticks"], ["mixed"]),
        helper.make_node("Mul", ["h", "h"], ["h_out"]),
    ]
    proto = cell(*nodes, after="h_out", state=("batch",), dtype=TensorProto.INT64)
    assert load(proto)._network.contract.states[0].dtype == np.int64


def test_several_tokens_are_compared_with_steps():
    model = load(build.recurrent("LSTM", layers=2, exposed=True))
    assert check_rows(model._network.session, model._network.contract, 1e-4)


def test_dependent_rows_are_told_from_files_that_do_not_run():
    model = load(cell(helper.make_node("Identity", ["h"], ["mixed"])))

    class Mixing:
        name = "mixing"

        def run(self, feeds, names):
            found = model._network.session.run(feeds, names)
            return [found[0] + np.arange(len(found[0]), dtype=np.float32)[:, None], *found[1:]]

    with pytest.raises(DependentRows, match=r"mixing: rows are not independent: the scores logits of a row changes"):
        check_rows(Mixing(), model._network.contract, 1e-4)


def test_cells_in_random_layouts_are_exact_or_refused():
    """`python scripts/fuzz_models.py --kind layouts` runs as many as you like."""
    result = fuzz(seed=2026, numbers=range(150), kind="layouts")
    assert not result.bugs
    assert not result.hung
    assert not result.crashed
    assert not result.crashed_native
    assert result.counts["loaded"] > 75
    assert result.counts["refused"] > 10
