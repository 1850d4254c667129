"""A view of one operator of a graph: its inputs, outputs, attributes and bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.graph.protobuf import attribute_value, read_port, rename, retain

# Operators that write into a copy of their first input.
_WRITES = ("ScatterND", "ScatterElements")


class Node:
    """A view of one operator. Edits change the graph; call `Graph.edited` after those of inputs or outputs."""

    def __init__(self, proto: Any) -> None:
        self._proto = proto

    @property
    def op(self) -> str:
        """Operator name, with its domain in front unless it is ONNX's own."""
        domain = self._proto.domain
        return str(self._proto.op_type) if domain in ("", "ai.onnx") else f"{domain}.{self._proto.op_type}"

    @property
    def label(self) -> str:
        """The name that messages give the node: its own, else its first output's."""
        return str(self._proto.name or next(filter(None, self._proto.output), self._proto.op_type))

    @property
    def inputs(self) -> list[str]:
        """Input names; an omitted optional input is an empty string."""
        return list(self._proto.input)

    @property
    def outputs(self) -> list[str]:
        """Output names; an omitted optional output is an empty string."""
        return list(self._proto.output)

    def input(self, index: int) -> str:
        """Name of input `index`, empty where it is omitted."""
        return self._proto.input[index] if index < len(self._proto.input) else ""

    def set_input(self, index: int, name: str) -> None:
        """Feed input `index` from the tensor `name`."""
        self._proto.input.extend([""] * (index + 1 - len(self._proto.input)))
        self._proto.input[index] = name

    def replace_input(self, old: str, new: str) -> None:
        """Read the tensor `new` wherever the node reads `old`, its bodies included."""
        for index, name in enumerate(self._proto.input):
            if name == old:
                self._proto.input[index] = new
        for attribute in self._proto.attribute:
            for body in (attribute.g, *attribute.graphs):
                rename(body, {old: new})

    def output(self, index: int, default: str) -> str:
        """Name of output `index`; an omitted output first gets the name `default`."""
        self._proto.output.extend([""] * (index + 1 - len(self._proto.output)))
        if not self._proto.output[index]:
            self._proto.output[index] = default
        return str(self._proto.output[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute (bytes as str), or `default`."""
        for attribute in self._proto.attribute:
            if attribute.name == name:
                value = attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return default

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one whole number.

        Raises:
            ModelError: it is something else.
        """
        return int(self._typed(name, int, "a whole number", default))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a text.

        Raises:
            ModelError: it is something else.
        """
        return str(self._typed(name, str, "a text", default))

    def body(self, name: str) -> Any:
        """An attribute that is a graph.

        Raises:
            ModelError: there is none, or it is something else.
        """
        value = self.attribute(name)
        if not hasattr(value, "node"):
            raise ModelError(
                f"the {self.op} {self.label!r} has no graph as its {name!r}; export or copy the file again"
            )
        return value

    def _typed(self, name: str, kind: type, expected: str, default: Any) -> Any:
        value = self.attribute(name, default)
        if not isinstance(value, kind):
            raise ModelError(
                f"the {self.op} {self.label!r} has the attribute {name!r} of type {type(value).__name__}; expected {expected}: export or copy the file again"
            )
        return value

    def drop_attribute(self, name: str) -> None:
        """Remove an attribute."""
        retain(self._proto.attribute, lambda attribute: attribute.name != name)

    def rename_output(self, index: int, name: str) -> None:
        """Rename output `index`."""
        self._proto.output[index] = name

    def carried(self) -> list[tuple[int, int, np.dtype[Any]]]:
        """(index of the input, index of the output, dtype) of each value that a Loop or Scan changes from turn to turn.

        Left out are values that the body returns unchanged (TensorFlow's loops carry their weights), and lists of the
        outputs so far, to which the body adds without reading them.
        """
        if self.op not in ("Loop", "Scan"):
            return []
        body = self.body("body")
        skip = 2 if self.op == "Loop" else 0  # Loop: trip count and condition come first
        count = len(self._proto.input) - (skip or self.integer("num_scan_inputs", 0))
        sources = {
            proto.output[0]: proto.input[0] for proto in body.node if proto.op_type == "Identity" and proto.input
        }
        changed = []
        for k in range(count):
            taken, result = body.input[skip + k], body.output[k + (self.op == "Loop")].name
            for _ in sources:  # as many steps as a chain can have: one in a damaged file may have no end
                result = sources.get(result, result)
            if result != taken.name and not _only_adds(body, taken.name, result):
                changed.append((skip + k, k, read_port(taken).dtype))
        return changed

    def become_identity(self) -> None:
        """Turn the node into an Identity of its first input."""
        del self._proto.attribute[:]
        del self._proto.input[1:]
        self._proto.op_type, self._proto.domain = "Identity", ""

    def captures(self) -> Iterator[str]:
        """Names that the bodies of If, Loop and Scan read, those from outside among them."""
        for attribute in self._proto.attribute:
            for body in (attribute.g, *attribute.graphs):
                for proto in body.node:
                    yield from proto.input
                    yield from Node(proto).captures()
                yield from (output.name for output in body.output)


def _only_adds(body: Any, taken: str, result: str) -> bool:
    """Return whether a body makes `result` of the value `taken` by appending or writing to it, and reads it nowhere else."""
    reads = [
        proto for proto in body.node if taken in (*proto.input, *Node(proto).captures()) and proto.op_type != "Shape"
    ]
    if len(reads) != 1 or result not in reads[0].output or taken in (output.name for output in body.output):
        return False
    (node,) = reads
    adds = node.op_type == "Concat" or (node.op_type in _WRITES and node.input[0] == taken)
    return adds and list(node.input).count(taken) == 1
