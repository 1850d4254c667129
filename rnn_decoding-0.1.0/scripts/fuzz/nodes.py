"""Changes of nodes: what they read and give, their attributes, the bodies in them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

from scripts.fuzz.case import Case, Rng, a_name, graphs_of, odd_tensor, one_of
from scripts.fuzz.odd import NUMBERS, TEXTS

OPS = ("Gather", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "MatMul", "Gemm", "Add", "Mul", "Concat", "Slice", "Split", "Shape", "Size", "If",
       "Loop", "Scan", "LSTM", "GRU", "RNN", "Softmax", "LogSoftmax", "Expand", "ConstantOfShape", "Constant", "Cast", "Identity", "Where", "OneHot",
       "Range", "Tile", "ScatterND", "Dropout", "SequenceAt", "NonZero", "Mod", "Clip", "ArgMax", "NoSuchOperator", "")  # fmt: skip


def _node(rng: Rng, case: Case) -> tuple[GraphProto, NodeProto]:
    graph = one_of(rng, graphs_of(case.proto))
    return graph, one_of(rng, graph.node)


def inputs_of_a_node(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(8):
        case 0:
            del node.input[:]
        case 1:
            del node.input[int(rng.integers(len(node.input))) :]
        case 2:
            node.input[int(rng.integers(len(node.input)))] = ""
        case 3:
            node.input.extend([a_name(rng, graph)] * int(rng.integers(1, 20)))
        case 4:
            node.input[int(rng.integers(len(node.input)))] = node.output[0]  # a cycle
        case 5:
            order = rng.permutation(len(node.input))
            given = list(node.input)
            node.input[:] = [given[i] for i in order]
        case _:
            node.input[int(rng.integers(len(node.input)))] = a_name(rng, graph)


def outputs_of_a_node(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(6):
        case 0:
            del node.output[:]
        case 1:
            node.output[int(rng.integers(len(node.output)))] = ""
        case 2:
            node.output.extend([f"more{i}" for i in range(int(rng.integers(1, 9)))])
        case 3:
            node.output.append(node.output[0])
        case _:
            node.output[int(rng.integers(len(node.output)))] = a_name(rng, graph)  # of another node, or a weight


def kind_of_a_node(rng: Rng, case: Case) -> None:
    _, node = _node(rng, case)
    match rng.integers(5):
        case 0:
            node.domain = one_of(rng, ["com.microsoft", "ai.onnx", "ai.onnx.ml", "local", "x" * 300])
        case 1:
            node.name = one_of(rng, TEXTS[:9])
        case _:
            node.op_type = one_of(rng, OPS)


def order_of_nodes(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(4):
        case 0:
            graph.node.add().CopyFrom(node)  # the same results twice
        case 1:
            graph.node.remove(node)
        case 2:
            copies = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
            del graph.node[:]
            graph.node.extend(copies[i] for i in rng.permutation(len(copies)))
        case _:
            del graph.node[:]


def attribute(rng: Rng, case: Case) -> None:
    _, node = _node(rng, case)
    if rng.random() < 0.3:
        names = ["hidden_size", "axis", "axes", "perm", "direction", "layout", "to", "value", "then_branch", "body", "activations", "clip",
                 "linear_before_reset", "num_scan_inputs", "scan_output_axes", "batch_dims", "allowzero", "split", "start", "end"]  # fmt: skip
        found = node.attribute.add(name=str(one_of(rng, names)), type=AttributeProto.INT, i=int(one_of(rng, NUMBERS)))
    else:
        found = one_of(rng, node.attribute)
    match rng.integers(11):
        case 0:
            node.attribute.remove(found)
        case 1:
            node.attribute.append(found)
        case 2:
            found.type = int(rng.integers(0, 14))  # says another kind than it holds
        case 3:
            found.i = int(one_of(rng, NUMBERS))
            found.type = AttributeProto.INT
        case 4:
            del found.ints[:]
            found.ints.extend(int(one_of(rng, NUMBERS)) for _ in range(rng.integers(5)))
            found.type = AttributeProto.INTS
        case 5:
            found.s = one_of(rng, [b"", b"\xff\xfe", b"reverse", b"bidirectional", b"x" * 9000])
            found.type = AttributeProto.STRING
        case 6:
            found.t.CopyFrom(odd_tensor(rng))
            found.type = AttributeProto.TENSOR
        case 7:
            found.f = float(one_of(rng, [0.0, -1.0, float("nan"), float("inf"), 1e38]))
            found.type = AttributeProto.FLOAT
        case 8:
            found.ref_attr_name = "elsewhere"
        case 9:
            found.g.CopyFrom(GraphProto())
            found.type = AttributeProto.GRAPH
        case _:
            del found.strings[:]
            found.strings.extend([b"Tanh", b"\xff", b""][: int(rng.integers(4))])
            found.type = AttributeProto.STRINGS


def control_flow(rng: Rng, case: Case) -> None:
    """An If, Loop or Scan put in, or one in another; conditions that are empty, lists or of another type."""
    graph = one_of(rng, graphs_of(case.proto))
    flow = [n for n in graph.node if n.op_type in ("If", "Loop", "Scan")]
    if flow and rng.random() < 0.5:
        node = one_of(rng, flow)
        bodies = [a for a in node.attribute if a.HasField("g")]
        body = one_of(rng, bodies).g
        match rng.integers(6):
            case 0:
                del body.output[:]
            case 1:
                del body.input[:]
            case 2:
                body.output.add().CopyFrom(one_of(rng, body.output))
            case 3:
                body.input.add(name=a_name(rng, graph))
            case 4:
                del body.node[:]
            case _:
                body.node.append(NodeProto.FromString(node.SerializeToString()))  # itself in itself
        return
    body = helper.make_graph(
        [helper.make_node("Identity", [a_name(rng, graph)], ["inner"])],
        "body",
        [],
        [onnx.ValueInfoProto(name=str(one_of(rng, ["inner", "outer", ""])))],
    )
    for level in range(int(one_of(rng, [0, 0, 1, 3, 30]))):
        inner = helper.make_node("If", ["odd condition"], [f"inner{level}"], then_branch=body, else_branch=body) if level < 4 else helper.make_node("If", ["odd condition"], [f"inner{level}"], then_branch=body)  # fmt: skip
        body = helper.make_graph([inner], "body", [], [onnx.ValueInfoProto(name=f"inner{level}")])
    condition = one_of(rng, [np.zeros(0, bool), np.array([True, False]), np.array(True), np.array([[True]]), np.array(1), np.array([]), np.array("x")])  # fmt: skip
    place = int(rng.integers(len(graph.node)))
    target = graph.node[place]
    index = int(rng.integers(len(target.input)))
    graph.initializer.append(numpy_helper.from_array(np.asarray(condition, object) if condition.dtype.kind == "U" else condition, "odd condition"))  # fmt: skip
    match rng.integers(3):
        case 0:
            node = helper.make_node("If", ["odd condition"], ["of the if"], then_branch=body, else_branch=body)
        case 1:
            graph.initializer.append(numpy_helper.from_array(np.array(int(one_of(rng, [0, 1, 5, -1, 2**40]))), "turns"))
            node = helper.make_node("Loop", ["turns", "odd condition", target.input[index]], ["of the if"], body=body)
        case _:
            node = helper.make_node("Scan", [target.input[index]], ["of the if"], body=body, num_scan_inputs=int(one_of(rng, NUMBERS)))  # fmt: skip
    target.input[index] = "of the if"
    graph.node.insert(place, node)


CHANGES = [
    inputs_of_a_node,
    inputs_of_a_node,
    outputs_of_a_node,
    kind_of_a_node,
    order_of_nodes,
    attribute,
    attribute,
    attribute,
    control_flow,
]
