"""Checks of a model that protobuf could read: a damaged one is refused, one with nodes out of order is sorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import Any

from decoding.errors import ModelError

# The kinds of the attributes that loading reads: values of AttributeProto.AttributeType.
_KINDS = {"axis": "INT", "axes": "INTS", "perm": "INTS", "to": "INT", "layout": "INT", "hidden_size": "INT", "direction": "STRING",
          "input_forget": "INT", "linear_before_reset": "INT", "activations": "STRINGS", "activation_alpha": "FLOATS",
          "activation_beta": "FLOATS", "clip": "FLOAT", "num_scan_inputs": "INT", "body": "GRAPH", "then_branch": "GRAPH",
          "else_branch": "GRAPH", "transA": "INT", "transB": "INT", "pads": "INTS", "strides": "INTS"}  # fmt: skip
_NUMBERS = {"FLOAT": 1, "INT": 2, "STRING": 3, "GRAPH": 5, "FLOATS": 6, "INTS": 7, "STRINGS": 8}
# The largest size that an input or output may declare, and the most numbers that the fixed sizes of an input may come to:
# `load()` runs the graph for five rows of it.
_LARGEST, _MOST = 2**31 - 1, 2**25


def check_text(model: Any, name: str) -> None:
    """Check that every name is text: protobuf returns bytes for one that is no UTF-8.

    Raises:
        ModelError: a name is no text.
    """
    entries = (text for entry in model.metadata_props for text in (entry.key, entry.value))
    for text in (model.graph.name, *_texts(model.graph), *entries, *(opset.domain for opset in model.opset_import)):
        if isinstance(text, bytes):
            raise ModelError(
                f"{name}: the file is damaged: the name {text!r} in it is no UTF-8; export or copy it again"
            )


def check_structure(model: Any, name: str) -> None:
    """Check what every search in a graph relies on: names that mean one thing, sizes, kinds of attributes, whole bodies.

    Raises:
        ModelError: something of this is wrong; the message names the node or tensor.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = [tensor.name for tensor in graph.initializer] + [
        sparse.values.name for sparse in graph.sparse_initializer
    ]
    makes = [output for node in graph.node for output in node.output if output]
    ports = [port.name for port in graph.input if port.name not in weights]
    for what, names in (
        ("weights", tensors),
        ("inputs", [port.name for port in graph.input]),
        ("outputs", [port.name for port in graph.output]),
        ("tensors", makes + ports),
    ):
        if twice := [text for text, count in Counter(names).items() if count > 1]:
            raise ModelError(f"{name}: two {what} have the name {twice[0]!r}; export or copy the file again")
    for port in graph.input:
        if port.name not in weights:
            _check_sizes(port, f"{name}: the input {port.name!r}", _MOST)
    for port in graph.output:
        _check_sizes(port, f"{name}: the output {port.name!r}", None)
    for node in _every_node(graph):
        _check_node(node, name)


def _check_sizes(port: Any, what: str, most: int | None) -> None:
    dims = port.type.tensor_type.shape.dim
    sizes = [dim.dim_value for dim in dims if dim.HasField("dim_value") and dim.dim_value >= 0]  # -1: it is not known
    if any(not 0 < size <= _LARGEST for size in sizes) or len(dims) > 32:
        raise ModelError(
            f"{what} declares the sizes {sizes[:32]}; expected sizes from 1 to {_LARGEST:,}: export it again"
        )
    if most is not None and prod(sizes) > most:
        raise ModelError(
            f"{what} declares the sizes {sizes}, {prod(sizes):,} numbers; loading runs it for several rows, so at most {most:,} are taken: export it with dynamic sizes"
        )


def _check_node(node: Any, name: str) -> None:
    """Check the kinds of a node's attributes and the counts of its inputs, its outputs and its bodies'."""
    what = f"{name}: the {node.op_type} {node.name or next(filter(None, node.output), '')!r}"
    if not any(node.output):
        raise ModelError(f"{what} has no output; export or copy the file again")
    if node.domain not in ("", "ai.onnx", "com.microsoft"):
        return
    given = {attribute.name: attribute for attribute in node.attribute}
    if len(given) < len(node.attribute):
        raise ModelError(f"{what} has an attribute twice; export or copy the file again")
    for key, attribute in given.items():
        # One of a function's attributes is given by the node that calls it.
        if key in _KINDS and attribute.type != _NUMBERS[_KINDS[key]] and not attribute.ref_attr_name:
            raise ModelError(
                f"{what} has the attribute {key!r} of type {attribute.type}; expected {_KINDS[key]}: export or copy the file again"
            )
    bodies = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}.get(node.op_type, ())
    for key in bodies:
        if key not in given:
            raise ModelError(f"{what} has no attribute {key!r}; export or copy the file again")
        if not _fits(node, given[key].g, given["num_scan_inputs"].i if "num_scan_inputs" in given else 0):
            raise ModelError(
                f"{what} has {len(node.input)} inputs and {len(node.output)} outputs, which do not fit the {len(given[key].g.input)} and {len(given[key].g.output)} of its {key}; export or copy the file again"
            )


def _fits(node: Any, body: Any, scanned: int) -> bool:
    """Return whether a node has the inputs and outputs that its body says."""
    if node.op_type == "If":
        return len(node.input) == 1 and not body.input and len(body.output) == len(node.output)
    if node.op_type == "Loop":
        carried = len(node.input) - 2
        return len(body.input) == len(node.input) and 0 <= carried < len(body.output) and len(node.output) < len(body.output)  # fmt: skip
    # Before opset 9 a Scan has the lengths of its sequences as its first input.
    carried = len(body.input) - scanned
    return len(body.input) in (len(node.input), len(node.input) - 1) and scanned > 0 and 0 <= carried <= len(body.output) >= len(node.output)  # fmt: skip


def _every_node(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the bodies in it."""
    todo = list(graph.node)
    while todo:
        node = todo.pop()
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                todo += body.node


def sort_nodes(graph: Any, name: str) -> None:
    """Sort the nodes so that each comes after those whose results it reads, as ONNX demands, if a file does not.

    Raises:
        ModelError: there is no such order, since a node needs its own result.
    """
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    needs = [{makers[text] for text in _reads(node) if text in makers} for node in graph.node]
    if all(max(needed, default=-1) < index for index, needed in enumerate(needs)):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    except CycleError as error:
        label = graph.node[error.args[1][0]].name
        raise ModelError(f"{name}: the node {label!r} needs its own result; export or copy the file again") from error
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _reads(node: Any) -> Iterator[str]:
    """The names that a node reads, in its bodies too."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            inner = {output for proto in body.node for output in proto.output} | {port.name for port in body.input}
            reads = (*(text for proto in body.node for text in _reads(proto)), *(port.name for port in body.output))
            yield from (text for text in reads if text not in inner)


def _texts(graph: Any) -> Iterator[str | bytes]:
    """Every name in a graph and in the bodies of its nodes."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for body in (attribute.g, *attribute.graphs):
                yield from _texts(body)
    yield from (tensor.name for tensor in graph.initializer)
    for port in (*graph.input, *graph.output):
        yield port.name
        yield from (dim.dim_param for dim in port.type.tensor_type.shape.dim)
