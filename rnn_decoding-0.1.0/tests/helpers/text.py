"""Graphs written as ONNX text, so that a test shows the whole graph that it is about."""

import onnx.parser

from decoding.model.graph.graph import Graph


def graph(text: str) -> Graph:
    """The graph of a text such as ``(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }``."""
    return Graph.load(proto(text))


def proto(text: str) -> onnx.ModelProto:
    """The same as a ModelProto, of opset 17."""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\ntest {text}')
