"""A file of a newer operator set than onnxruntime takes, written for an older one where that means the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper

# onnxruntime 1.31 runs the operators of opset 27 as its own. Its formulas are ONNX's: tests/model/runtime/test_versions.py.
_ORT = "com.microsoft"
_CONTRIBUTED = {"LinearAttention", "CausalConvWithState"}
_OWN = ("", "ai.onnx")


def lower_opset(model: onnx.ModelProto, opset: int, ir_version: int) -> None:
    """Declare an older operator set and IR version, in place, if every operator of the model means the same there.

    An operator does if its definition is as old, or differs from the older one only by the types that it takes.
    Otherwise the model stays as it is, and onnxruntime refuses it by the number of its operator set.
    """
    declared = next((entry for entry in model.opset_import if entry.domain in _OWN), None)
    if declared is None or (declared.version <= opset and model.ir_version <= ir_version):
        return
    if declared.version > onnx.defs.onnx_opset_version():
        return  # the installed onnx does not know what its operators mean
    nodes = [node for node in _nodes(model) if node.domain in _OWN]
    contributed = [node for node in nodes if node.op_type in _CONTRIBUTED]
    if not all(
        node.op_type in _CONTRIBUTED or _means_the_same(node.op_type, declared.version, opset) for node in nodes
    ):
        return
    for node in contributed:
        node.domain = _ORT
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain in _OWN:
                entry.version = min(entry.version, opset)
    declared.version = min(declared.version, opset)
    model.ir_version = min(model.ir_version, ir_version)
    if contributed:
        for part in (model, *model.functions):
            if all(entry.domain != _ORT for entry in part.opset_import):
                part.opset_import.append(helper.make_opsetid(_ORT, 1))


def _nodes(part: Any) -> Iterator[Any]:
    """The nodes of a model, a function or a graph, those of bodies and functions included."""
    if isinstance(part, onnx.ModelProto):
        yield from _nodes(part.graph)
        for function in part.functions:
            yield from _nodes(function)
        return
    for node in part.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _means_the_same(op: str, newer: int, older: int) -> bool:
    try:
        new, old = onnx.defs.get_schema(op, newer), onnx.defs.get_schema(op, older)
    except onnx.defs.SchemaError:
        return False  # new since the older set
    return new.since_version == old.since_version or _without_types(new) == _without_types(old)


def _without_types(schema: Any) -> tuple[Any, ...]:
    """An operator's definition but for the types of its inputs and outputs."""
    attributes = {name: (str(a.type), a.required, str(a.default_value)) for name, a in schema.attributes.items()}
    ports = [(port.name, str(port.option)) for port in (*schema.inputs, *schema.outputs)]
    return schema.doc, attributes, ports
