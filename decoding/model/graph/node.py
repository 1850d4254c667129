"""One operator of a graph: a view of its protobuf message, for which onnx need not be imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decoding.model.graph.protobuf import attribute_value, read_port, rename, retain


class Node:
    """A view of one operator; edits go straight to the graph."""

    def __init__(self, proto: Any) -> None:
        self._proto = proto

    @property
    def op(self) -> str:
        """Operator name, with its domain in front unless it is ONNX's own."""
        domain = self._proto.domain
        return str(self._proto.op_type) if domain in ("", "ai.onnx") else f"{domain}.{self._proto.op_type}"

    @property
    def label(self) -> str:
        """What to call the node in a message."""
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
        """Name of output `index`; one that was omitted is given the name `default` first."""
        self._proto.output.extend([""] * (index + 1 - len(self._proto.output)))
        if not self._proto.output[index]:
            self._proto.output[index] = default
        return str(self._proto.output[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute (bytes come as str), or `default`."""
        for attribute in self._proto.attribute:
            if attribute.name == name:
                value = attribute_value(attribute)
                return value.decode(errors="replace") if isinstance(value, bytes) else value
        return default

    def drop_attribute(self, name: str) -> None:
        """Take an attribute away."""
        retain(self._proto.attribute, lambda attribute: attribute.name != name)

    def rename_output(self, index: int, name: str) -> None:
        """Call output `index` something else."""
        self._proto.output[index] = name

    def carried(self) -> list[tuple[int, int, np.dtype[Any]]]:
        """(input slot, output slot, dtype) of each value that a Loop or Scan changes from turn to turn.

        TensorFlow's loops also carry their weights: what the body hands on as it came is left out.
        """
        body = self.attribute("body")
        if self.op not in ("Loop", "Scan") or not hasattr(body, "node"):  # a damaged file may have a number there
            return []
        skip = 2 if self.op == "Loop" else 0  # Loop: trip count and condition come first
        count = len(self._proto.input) - (skip or int(self.attribute("num_scan_inputs") or 0))
        count = min(count, len(body.input) - skip, len(body.output))  # a damaged file may lack some
        sources = {
            proto.output[0]: proto.input[0] for proto in body.node if proto.op_type == "Identity" and proto.output
        }
        changed = []
        for k in range(count):
            taken, given = body.input[skip + k], body.output[k + (self.op == "Loop")].name
            for _ in sources:  # a chain is no longer than that, even where a damaged one has no end
                given = sources.get(given, given)
            if given != taken.name:
                changed.append((skip + k, k, read_port(taken).dtype))
        return changed

    def become_identity(self) -> None:
        """Turn the node into Identity: what came in goes out."""
        del self._proto.attribute[:]
        del self._proto.input[1:]
        self._proto.op_type, self._proto.domain = "Identity", ""

    def captures(self) -> Iterator[str]:
        """Names that the bodies of If, Loop and Scan may take from outside."""
        for attribute in self._proto.attribute:
            for body in (attribute.g, *attribute.graphs):
                for proto in body.node:
                    yield from proto.input
                    yield from Node(proto).captures()
                yield from (output.name for output in body.output)
