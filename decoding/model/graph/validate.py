"""What a damaged file may hold that protobuf reads without a word: refused, or put right, before anything works with it."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any

from decoding.errors import ModelError


def check_text(model: Any, name: str) -> None:
    """Names must be text: protobuf hands on bytes where they are no UTF-8.

    Raises:
        ModelError: shows the first one that is not.
    """
    entries = (text for entry in model.metadata_props for text in (entry.key, entry.value))
    for text in (model.graph.name, *_texts(model.graph), *entries, *(opset.domain for opset in model.opset_import)):
        if isinstance(text, bytes):
            raise ModelError(
                f"{name}: the file is damaged: the name {text!r} in it is no UTF-8; export or copy it again"
            )


def sort_nodes(graph: Any, name: str) -> None:
    """Put the nodes in an order in which they can be run, as ONNX demands of a file, if they are not.

    Raises:
        ModelError: there is none, as a node needs its own result.
    """
    makers = {output: place for place, node in enumerate(graph.node) for output in node.output if output}
    needs = [{makers[text] for text in _reads(node) if text in makers} for node in graph.node]
    if all(max(needed, default=-1) < place for place, needed in enumerate(needs)):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    except CycleError as error:
        label = graph.node[error.args[1][0]].name
        raise ModelError(f"{name}: the node {label!r} needs its own result; export or copy the file again") from error
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes[place] for place in order)


def _reads(node: Any) -> Iterator[str]:
    """What a node reads, the bodies in it included."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            inner = {output for proto in body.node for output in proto.output} | {port.name for port in body.input}
            reads = (*(text for proto in body.node for text in _reads(proto)), *(port.name for port in body.output))
            yield from (text for text in reads if text not in inner)


def _texts(graph: Any) -> Iterator[str | bytes]:
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
