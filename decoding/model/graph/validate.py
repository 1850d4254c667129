"""Checks of a model that protobuf could read: a damaged one is refused, one with nodes out of order is sorted."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from decoding.errors import ModelError


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
