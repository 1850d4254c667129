"""Damage that protobuf does not notice is refused; nodes out of order are sorted."""

import pytest

from decoding import ModelError
from decoding.model.graph.validate import check_text, sort_nodes
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
