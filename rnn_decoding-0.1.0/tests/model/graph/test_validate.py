"""Damage that protobuf does not notice is refused; nodes out of order are sorted."""

import numpy as np
import pytest

from decoding import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.graph.validate import check_structure, check_text, sort_nodes
from tests.helpers import build
from tests.helpers.text import proto


def order(text):
    model = proto(text)
    sort_nodes(model.graph, "the file")
    return [node.output[0] for node in model.graph.node]


def test_nodes_in_order_stay_where_they_are():
    assert order("(float[2] x) => (float[2] c) { b = Relu(x) a = Neg(x) c = Add(a, b) }") == ["b", "a", "c"]


def test_nodes_are_sorted_by_what_they_read():
    assert order("(float[2] x) => (float[2] c) { c = Add(a, b) b = Relu(a) a = Neg(x) }") == ["a", "b", "c"]


def test_a_body_reads_what_it_does_not_make():
    text = """(float[2] x, bool t) => (float[2] c) {
      c = If(t) <then_branch = yes () => (float[2] p) { q = Neg(a) p = Neg(q) }, else_branch = no () => (float[2] r) { r = Neg(x) }>
      q = Relu(c)
      a = Neg(x)
    }"""
    assert order(text) == ["a", "c", "q"]


def test_a_node_that_needs_its_own_result():
    with pytest.raises(
        ModelError, match=r"^the file: the node '.*' needs its own result; export or copy the file again$"
    ):
        order("(float[2] x) => (float[2] c) { a = Add(x, b) b = Neg(a) c = Neg(b) }")


DAMAGED = ("nodename", "optype", "edge", "attribute", "innername", "weight", "inputname", "outputname", "dimension", "key", "val", "graphname")  # fmt: skip


@pytest.mark.parametrize("word", DAMAGED)
def test_every_name_must_be_text(word):
    model = proto("""(float[dimension] inputname) => (float[2] outputname) <float[1] weight = {1}> {
      edge = optype<attribute = 3>(inputname)
      outputname = If(edge) <then_branch = yes () => (float[2] p) { p = Neg(innername) }>
    }""")
    model.graph.name, model.graph.node[0].name = "graphname", "nodename"
    model.metadata_props.add(key="key", value="val")
    data = model.SerializeToString()
    whole, damaged = type(model).FromString(data), type(model).FromString(data.replace(word.encode(), word[:-1].encode() + b"\xff"))  # fmt: skip
    check_text(whole, "the file")
    with pytest.raises(ModelError, match=r"^the file: the file is damaged: the name b'.*\\xff' in it is no UTF-8"):
        check_text(damaged, "the file")


IF = """(float[2] x, bool t) => (float[2] c) {
  a = Relu(x)
  c = If(t) <then_branch = yes () => (float[2] p) { p = Neg(a) }, else_branch = no () => (float[2] r) { r = Neg(x) }>
}"""
LOOP = """(float[2] x, int64 n, bool go) => (float[2] c) {
  c = Loop(n, go, x) <body = step (int64 i, bool on, float[2] p) => (bool more, float[2] q) { more = Identity(on) q = Neg(p) }>
}"""
SCAN = """(float[2] h, float[3,2] x) => (float[2] c, float[3,2] ys) {
  c, ys = Scan(h, x) <num_scan_inputs = 1, body = step (float[2] p, float[2] y) => (float[2] q, float[2] z) { q = Add(p, y) z = Neg(q) }>
}"""
PLAIN = "(float[2] x) => (float[2] c) <float[2] w = {1, 2}> { a = Add(x, w) c = Gather<axis = 0>(a, a) }"


def last(model):
    return model.graph.node[-1]


def attribute(model, name):
    return next(a for a in last(model).attribute if a.name == name)


def dims(port):
    return port.type.tensor_type.shape.dim


# (text, what is done to it, what the message says)
WRONG = {
    "two weights": (PLAIN, lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two weights have the name 'w'"),
    "a sparse one too": (PLAIN, lambda m: setattr(m.graph.sparse_initializer.add().values, "name", "w"), "two weights have the name 'w'"),
    "two inputs": (PLAIN, lambda m: m.graph.input.append(m.graph.input[0]), "two inputs have the name 'x'"),
    "two outputs": (PLAIN, lambda m: m.graph.output.append(m.graph.output[0]), "two outputs have the name 'c'"),
    "two makers": (PLAIN, lambda m: m.graph.node.append(last(m)), "two tensors have the name 'c'"),
    "an input that is made": (PLAIN, lambda m: last(m).output.append("x"), "two tensors have the name 'x'"),
    "an input of size 0": (PLAIN, lambda m: setattr(dims(m.graph.input[0])[0], "dim_value", 0), r"the input 'x' declares the sizes \[0\]; expected sizes from 1"),
    "an output of size 0": (PLAIN, lambda m: setattr(dims(m.graph.output[0])[0], "dim_value", 0), r"the output 'c' declares the sizes \[0\]"),
    "a huge input": (PLAIN, lambda m: setattr(dims(m.graph.input[0])[0], "dim_value", 2**31), r"the input 'x' declares the sizes \[2147483648\]"),
    "a large input": (PLAIN, lambda m: [dims(m.graph.input[0]).add(dim_value=n) for n in (5000, 5000)], r"\[2, 5000, 5000\], 50,000,000 numbers"),
    "a list as axis": (PLAIN, lambda m: [setattr(attribute(m, "axis"), "type", 7), attribute(m, "axis").ints.append(1)], "the Gather 'c' has the attribute 'axis' of type 7; expected INT"),
    "an attribute twice": (PLAIN, lambda m: last(m).attribute.append(attribute(m, "axis")), "has an attribute twice"),
    "no output": (PLAIN, lambda m: last(m).ClearField("output"), "the Gather '' has no output"),
    "If without a branch": (IF, lambda m: last(m).attribute.pop(), "the If 'c' has no attribute 'else_branch'"),
    "If with a text as branch": (IF, lambda m: setattr(attribute(m, "then_branch"), "type", 3), "'then_branch' of type 3; expected GRAPH"),
    "If without a condition": (IF, lambda m: last(m).ClearField("input"), "the If 'c' has 0 inputs and 1 outputs, which do not fit the 0 and 1 of its then_branch"),
    "a branch of two outputs": (IF, lambda m: attribute(m, "else_branch").g.output.add(name="a"), "do not fit the 0 and 2 of its else_branch"),
    "a Loop without a body": (LOOP, lambda m: last(m).ClearField("attribute"), "the Loop 'c' has no attribute 'body'"),
    "a body that takes less": (LOOP, lambda m: attribute(m, "body").g.input.pop(), "has 3 inputs and 1 outputs, which do not fit the 2 and 2 of its body"),
    "a body that returns less": (LOOP, lambda m: attribute(m, "body").g.output.pop(), "do not fit the 3 and 1 of its body"),
    "a Loop of one input": (LOOP, lambda m: last(m).input.__delitem__(slice(1, None)), "has 1 inputs"),
    "a Scan without its count": (SCAN, lambda m: last(m).attribute.remove(attribute(m, "num_scan_inputs")), "the Scan 'c' has 2 inputs"),
    "a Scan of a negative count": (SCAN, lambda m: setattr(attribute(m, "num_scan_inputs"), "i", -(2**63)), "the Scan 'c' has 2 inputs"),
    "a Scan that scans more": (SCAN, lambda m: setattr(attribute(m, "num_scan_inputs"), "i", 3), "the Scan 'c' has 2 inputs"),
    "a Scan's body that returns less": (SCAN, lambda m: attribute(m, "body").g.output.pop(), "do not fit the 2 and 1 of its body"),
}  # fmt: skip


@pytest.mark.parametrize("text", [PLAIN, IF, LOOP, SCAN])
def test_a_sound_structure(text):
    check_structure(proto(text), "the file")


@pytest.mark.parametrize("case", WRONG)
def test_structure_that_is_wrong(case):
    text, change, message = WRONG[case]
    model = proto(text)
    change(model)
    with pytest.raises(ModelError, match=f"^the file: .*{message}"):
        check_structure(model, "the file")


def test_bodies_are_checked_too():
    model = proto(IF)
    inner = attribute(model, "then_branch").g.node[0].attribute.add(name="axis", type=7)
    inner.ints.append(1)
    with pytest.raises(ModelError, match=r"the Neg 'p' has the attribute 'axis' of type 7"):
        check_structure(model, "the file")


def test_a_size_below_0_is_one_that_is_not_known():
    model = proto(PLAIN)
    dims(model.graph.input[0])[0].dim_value = -1
    assert Graph.load(model).inputs[0].shape == (None,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: setattr(t, "raw_data", t.raw_data + b"\0"), r"bytes for .*the shape \[.*\]"),
        (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), r"bytes for .*the shape \[.*\]"),
        (lambda t: t.dims.__setitem__(0, -t.dims[0]), r"which no tensor has|bytes for .*the shape \[-"),
        (lambda t: t.dims.__setitem__(slice(None), [-d for d in t.dims]), r"which no tensor has|bytes for .*the shape \[-"),
        (lambda t: t.dims.__setitem__(0, 2**62), r"which no tensor has|bytes for .*the shape \[4611"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("vocab", [11, 500], ids=["small", "large"])
@pytest.mark.parametrize("form", [lambda m: m, lambda m: m.SerializeToString()], ids=["message", "bytes"])
def test_a_weight_that_does_not_fit_its_shape(change, message, vocab, form):
    model = build.recurrent("GRU", vocab=vocab)
    change(next(t for t in model.graph.initializer if t.name == "table"))
    with pytest.raises(ModelError, match=rf"the tensor 'table' .*(?:{message})"):
        Graph.load(form(model))


@pytest.mark.parametrize("extra", [b"\x10\x01", b"\x10\x07", b"\x10\x00"])
def test_a_data_type_that_is_given_twice(extra):
    """Protobuf takes the last one; cutting out the weights took the first."""
    model = build.recurrent("GRU", vocab=500)
    table = next(t for t in model.graph.initializer if t.name == "table")
    whole, twice = table.SerializeToString(), table.SerializeToString() + extra
    graph = model.graph.SerializeToString()
    field = lambda tag, data: tag + _varint(len(data)) + data  # noqa: E731
    new_graph = graph.replace(field(b"\x2a", whole), field(b"\x2a", twice))
    data = model.SerializeToString().replace(field(b"\x3a", graph), field(b"\x3a", new_graph))
    assert len(data) > len(model.SerializeToString())
    try:
        assert Graph.load(data).constant("table").dtype == np.float32
    except ModelError as error:
        assert "the tensor 'table'" in str(error)  # noqa: PT017
        assert extra != b"\x10\x01"


def _varint(value):
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def test_a_message_nested_deeper_than_a_file_can_be():
    model = proto(IF)
    body = attribute(model, "then_branch").g
    for _ in range(120):
        node = body.node.add(op_type="If", output=["z"])
        body = node.attribute.add(name="then_branch", type=5).g
    with pytest.raises(ModelError, match=r"^the ModelProto: "):
        Graph.load(model)


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (np.array([2, -1]), [2, -1]),
        (np.zeros(0, np.int64), []),
        (np.array(3), None),
        (np.ones((1, 2), np.int64), None),
        (np.ones(2, np.float32), None),
        (np.array([2**63], np.uint64), None),
    ],
)
def test_a_constant_that_is_a_list_of_sizes(value, sizes):
    graph = Graph.load(proto(PLAIN))
    graph.add_initializer("target", value)
    assert graph.sizes("target") == sizes
    assert graph.sizes("no such tensor") is None
