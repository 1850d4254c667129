"""Views of nodes: what they read and write, and edits of them."""

import numpy as np
import onnx.parser
import pytest

from decoding import ModelError
from decoding.model.graph.node import Node
from tests.helpers.text import graph


def node(text):
    """The last node of some lines of a body."""
    found = onnx.parser.parse_graph(f"g (float[2] x, float[2] y, bool c) => (float[2] z) {{ {text} }}")
    return Node(found.node[-1])


IF = """z = If (c) <
  then_branch = yes () => (float[2] a) { a = Add(x, y) },
  else_branch = no () => (float[2] b) { b = If (c) < then_branch = deep () => (float[2] d) { d = Neg(y) }, else_branch = other () => (float[2] e) { e = Neg(x) } > }
>"""


def test_operators_of_other_domains_have_their_domain_in_front():
    assert node("z = Relu(x)").op == "Relu"
    assert node("z = com.microsoft.FusedMatMul(x, y)").op == "com.microsoft.FusedMatMul"


def test_inputs_and_outputs_that_are_omitted():
    clip = node("z = Clip(x, , y)")
    assert clip.inputs == ["x", "", "y"]
    assert [clip.input(k) for k in range(4)] == ["x", "", "y", ""]
    clip.set_input(3, "w")
    assert clip.inputs == ["x", "", "y", "w"]
    assert clip.output(0, "default") == "z"
    assert clip.output(2, "default") == "default"
    assert clip.outputs == ["z", "", "default"]


def test_attributes():
    found = node('z = Op<count = 3, rate = 0.5, mode = "linear", axes = [1, 2]>(x)')
    assert [found.attribute(name) for name in ("count", "rate", "mode", "axes")] == [3, 0.5, "linear", [1, 2]]
    assert found.attribute("missing", 7) == 7
    found.drop_attribute("count")
    assert found.attribute("count") is None
    assert found.attribute("axes") == [1, 2]


def test_captures_are_the_names_in_all_bodies():
    assert {"x", "y", "c"} <= set(node(IF).captures())
    assert not set(node("z = Add(x, y)").captures())


def test_an_input_is_replaced_in_the_bodies_too():
    found = node(IF)
    found.replace_input("y", "new")
    names = set(found.captures())
    assert "new" in names
    assert "y" not in names


def test_identity():
    found = node("z = com.microsoft.Gelu<rate = 0.5>(x, y)")
    found.become_identity()
    assert (found.op, found.inputs, found.outputs, found.attribute("rate")) == ("Identity", ["x"], ["z"], None)


def test_labels_in_messages():
    assert node("z = Relu(x)").label == "z"
    found = graph("(float[2] x) => (float[2] y) { y = Relu(x) }")
    found.add_node("Relu", ["x"], "w")
    assert found.nodes[-1].label == "decoding/w"


LOOP = """h, W, s = Loop(n, c, h0, W0, s0) <body = step (int64 i, bool go, float[2] hi, float[2] Wi, double[3] si) => (bool on, float[2] ho, float[2] Wo, double[3] so) {{
  on = Identity(go)
  ho = Add(hi, Wi)
  {weights}
  so = Neg(si)
}}>"""


@pytest.mark.parametrize("weights", ["Wo = Identity(Wi)", "inner = Identity(Wi) Wo = Identity(inner)"])
def test_a_loop_carries_what_its_body_changes(weights):
    assert node(LOOP.format(weights=weights)).carried() == [(2, 0, np.dtype(np.float32)), (4, 2, np.dtype(np.float64))]


def test_a_scan_carries_its_first_inputs():
    scan = node("""h, ys = Scan<num_scan_inputs = 1, body = step (float[2] hi, float[2] xi) => (float[2] ho, float[2] yo) {
      ho = Add(hi, xi)
      yo = Identity(ho)
    }>(h0, x)""")
    assert scan.carried() == [(0, 0, np.dtype(np.float32))]


APPENDING = """ys, hs = Loop(c, c, x, h) <body = step (int64 t, bool go, float[2] yi, float[2] hi) => (bool on, float[2] yo, float[2] ho) {{
  on = Identity(go)
  ho = Tanh(hi)
  size = Shape(yi)
  {append}
}}>"""


@pytest.mark.parametrize(
    ("append", "carried"),
    [
        ("yo = Concat<axis = 0>(yi, ho)", [3]),
        ("yo = ScatterND(yi, t, ho)", [3]),
        ("y = Concat<axis = 0>(yi, ho)  yo = Identity(y)", [3]),
        ("yo = ScatterND(ho, t, yi)", [2, 3]),  # yi is what is written
        ("mean = ReduceMean(yi)  yo = Concat<axis = 0>(yi, mean)", [2, 3]),  # yi is read too
        ("yo = Concat<axis = 0>(yi, yi)", [2, 3]),
        ("yo = Add(yi, ho)", [2, 3]),
    ],
)
def test_a_list_that_a_loop_only_adds_to_is_not_carried(append, carried):
    assert [slot for slot, _, _ in node(APPENDING.format(append=append)).carried()] == carried


def test_other_nodes_carry_nothing():
    assert node("z = Add(x, y)").carried() == []


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda found: found.body("body"), r"the Loop 'z' has no graph as its 'body'; export or copy"),
        (lambda found: found.carried(), r"the Loop 'z' has no graph as its 'body'"),
        (lambda found: found.integer("axis", 0), r"the attribute 'axis' of type list; expected a whole number"),
        (lambda found: found.text("body", ""), r"the attribute 'body' of type int; expected a text"),
    ],
)
def test_attributes_of_other_kinds(read, message):
    with pytest.raises(ModelError, match=message):
        read(node("z = Loop<body = 3, axis = [1, 2]>(x, y)"))


def test_attributes_that_are_left_out():
    found = node("z = Loop(x, y)")
    assert (found.integer("axis", 7), found.text("mode", "up")) == (7, "up")
