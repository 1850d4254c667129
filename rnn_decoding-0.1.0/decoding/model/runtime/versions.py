"""Reads a model for the installed onnxruntime: one of a newer operator set is written for the newest that runs."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort

from decoding.model.graph.graph import Graph, ModelFile

# Every onnxruntime that this package takes runs these.
_KNOWN_OPSET, _KNOWN_IR = 21, 10
# No onnxruntime is near these; a damaged file may declare any number.
_LARGEST_OPSET, _LARGEST_IR = 64, 64


def read_graph(source: ModelFile) -> Graph:
    """Read a model, in an operator set and IR version that onnxruntime takes where that changes no operator's meaning.

    Raises:
        ModelError: there is no such file, or it does not hold an ONNX model.
        OptionError: the source is none of a path, bytes and a ModelProto.
    """
    graph = Graph.load(source)
    if graph.opset > _KNOWN_OPSET or graph.ir_version > _KNOWN_IR:
        graph.lower_opset(*_newest(min(graph.opset, _LARGEST_OPSET), min(graph.ir_version, _LARGEST_IR)))
    return graph


@cache
def _newest(opset: int, ir_version: int) -> tuple[int, int]:
    """The newest operator set and IR version up to these that the installed onnxruntime takes, found by trying."""
    while ir_version > _KNOWN_IR and not _takes(_KNOWN_OPSET, ir_version):
        ir_version -= 1
    while opset > _KNOWN_OPSET and not _takes(opset, ir_version):
        opset -= 1
    return opset, ir_version


def _takes(opset: int, ir_version: int) -> bool:
    graph = Graph.empty("one copy", opset, ir_version)
    graph.add_input("x", np.float32, [1])
    graph.add_node("Identity", ["x"], "y")
    graph.add_output("y", np.float32, [1])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(graph.skeleton()[0], options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime has no class of its own for it
        return False
    return True
