"""decoding/model/verify/window.py: graphs that run over whole prefixes, and those that do not look at them."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from decoding import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import Logits, Token, Window
from decoding.model.graph.graph import Graph
from decoding.model.roles.infer import Roles
from decoding.model.runtime.session import Session
from decoding.model.verify.window import (
    advice_on_steps,
    check_any_length,
    exported_steps,
    given_window,
    window_contract,
)
from tests.helpers.exports import context_names, with_contexts

TABLE = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
MEAN = helper.make_node("ReduceMean", ["all"], ["logits"], axes=[1], keepdims=0)


def graph_of(*nodes, tokens=("b", "t")):
    """Ids, a score of each token, and these nodes after that."""
    proto = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["all"]), *nodes],
        "window",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, tokens)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value, name)
            for name, value in {"table": TABLE, "last": np.array(-1), "four": np.array([0, 4, 6])}.items()
        ],
    )
    return Graph.load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def contract_of(graph, window=None):
    return window_contract(Session(graph, threads=1), graph, Roles("ids", "logits", {}, {}), [], window or Window())


def test_a_pooled_network_takes_prefixes_of_any_length():
    contract = contract_of(graph_of(MEAN))
    assert (contract.logits.layout, contract.window, contract.states) == ("BV", Window(), ())


def test_one_that_scores_every_position():
    assert contract_of(graph_of(helper.make_node("CumSum", ["all", "axis"], ["logits"]), helper.make_node("Constant", [], ["axis"], value_int=1))).logits.layout == "BTV"  # fmt: skip


def test_one_that_scores_a_fixed_number_of_rows_is_refused():
    """A slice of five rows, as a size that Python read while a network was traced."""
    nodes = [
        helper.make_node("Slice", ["all", "zero", "five", "zero"], ["logits"]),
        helper.make_node("Constant", [], ["zero"], value_ints=[0]),
        helper.make_node("Constant", [], ["five"], value_ints=[5]),
    ]
    with pytest.raises(ModelError, match="for 6 rows it returns scores of 5; the number of rows seems fixed"):
        contract_of(graph_of(*nodes))


@pytest.mark.parametrize("index", ["last", "first"])
def test_one_that_looks_at_one_token_is_refused(index):
    nodes = [helper.make_node("Gather", ["all", index], ["logits"], axis=1)]
    nodes += [helper.make_node("Constant", [], ["first"], value_int=0)] if index == "first" else []
    other = {"last": "first", "first": "last"}[index]
    with pytest.raises(
        ModelError, match=f"of 2 tokens it reads only one: the {other} token does not change the scores"
    ):
        contract_of(graph_of(*nodes))


def test_rows_that_mix_are_refused():
    nodes = [helper.make_node("ReduceMean", ["all"], ["mean"], axes=[0, 1]), helper.make_node("Sub", ["all", "mean"], ["centred"])]  # fmt: skip
    pool = helper.make_node("ReduceMean", ["centred"], ["logits"], axes=[1], keepdims=0)
    with pytest.raises(ModelError, match="the scores of a row depend on the other rows of its batch"):
        contract_of(graph_of(*nodes, pool))


def test_a_network_of_one_length_takes_a_window_of_that_length():
    nodes = [
        helper.make_node("Reshape", ["all", "four"], ["steps"]),
        helper.make_node("ReduceMean", ["steps"], ["logits"], axes=[1], keepdims=0),
    ]
    assert contract_of(graph_of(*nodes), Window(4)).window == Window(4)
    with pytest.raises(ModelError, match=r"pass roles=\{'window': W, 'pad': 'left'\}"):
        contract_of(graph_of(*nodes))


def test_one_id_a_row_is_no_window():
    with pytest.raises(ModelError, match="the token input ids takes one id a row, so it cannot take a window of them"):
        contract_of(graph_of(helper.make_node("Identity", ["all"], ["logits"]), tokens=["b"]))


@pytest.mark.parametrize(
    ("declared", "layout", "refused"), [(("b", 6), "BV", True), (("b", "t"), "BV", False), (("b", 1), "BV", False), (("b", 6), "BTV", False)]
)  # fmt: skip
def test_how_shorter_prefixes_go_in_is_not_guessed(declared, layout, refused):
    contract = Contract(Token("ids", "BT"), Logits("logits", layout, 6), (), (), True)
    if not refused:
        check_any_length("m", contract, declared)
        return
    with pytest.raises(ModelError, match=r"it declares windows of 6 tokens; pass roles=\{'window': 6, 'pad': 'left'\}"):
        check_any_length("m", contract, declared)


def test_the_window_that_roles_ask_for():
    assert given_window({}, 3) is None
    assert given_window({"window": None}, None) == Window(None, "left", 0)
    assert given_window({"window": 5, "pad": "right"}, 3) == Window(5, "right", 3)


@pytest.mark.parametrize("size", [0, -1, True, "6", 2.0])
def test_a_window_is_a_number_of_tokens(size):
    with pytest.raises(OptionError, match=r"roles\['window'\]=.*expected a number of tokens of at least 1, or None"):
        given_window({"window": size}, None)


def test_a_side_to_pad():
    with pytest.raises(OptionError, match=r"roles\['pad'\]='middle': expected 'left' or 'right'"):
        given_window({"window": 3, "pad": "middle"}, None)


def baked(*nodes, logits="logits", declared=("b", 5)):
    graph = graph_of(*nodes)
    return exported_steps(Session(graph, threads=1), graph, Roles("ids", logits, {}, {}), declared, [], [])


FIVE = helper.make_node("Constant", [], ["five"], value_ints=[-1, 5, 6])
FIRST = helper.make_node("Constant", [], ["places"], value_ints=[0, 1, 2, 3, 4])


def test_the_number_of_steps_that_an_export_fixed():
    assert baked(FIVE, helper.make_node("Expand", ["all", "five"], ["logits"])) is None  # a batch of any size fits that
    reshaped = [FIVE, helper.make_node("Reshape", ["all", "five"], ["logits"])]
    assert baked(*reshaped) == 5
    assert baked(*reshaped, declared=("b", "t")) is None
    assert baked(*reshaped, declared=("b", 1)) is None


def test_an_unrolled_loop_takes_longer_sequences_and_leaves_out_their_end():
    unrolled = [FIRST, helper.make_node("Gather", ["all", "places"], ["logits"], axis=1)]
    assert baked(*unrolled) == 5
    last = [FIRST, helper.make_node("Gather", ["all", "places"], ["five"], axis=1), helper.make_node("ReduceMean", ["five"], ["logits"], axes=[1], keepdims=0)]  # fmt: skip
    assert baked(*last) == 5


def test_a_graph_of_any_length_has_no_number_of_steps():
    assert baked(MEAN) is None
    assert baked(helper.make_node("Identity", ["all"], ["logits"])) is None
    assert "dynamic_shapes=({0: torch.export.Dim('batch'), 1: torch.export.Dim('time')},)" in advice_on_steps(5)


def test_logits_that_do_not_read_the_token_take_no_window():
    graph = graph_of(MEAN)
    with pytest.raises(ModelError, match=r"the logits logits do not depend on the token other; pass other roles="):
        window_contract(Session(graph, threads=1), graph, Roles("other", "logits", {}, {}), [], Window())


@pytest.mark.parametrize("name", context_names("window_vector", "window_source", "window_frames"))
def test_each_row_is_run_alone_with_its_own_context(name):
    """Rows that were run alone with the first row's context seemed to depend on each other (issue 14)."""
    model, _, contexts, _ = with_contexts(name)
    assert model._network.contract.window == Window()
    assert list(contexts) == [aux.name for aux in model._network.contract.row_inputs]
