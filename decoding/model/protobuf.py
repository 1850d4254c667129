"""Small edits of protobuf messages, for which onnx need not be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def retain(field: Any, keep: Any) -> None:
    """Keep only those entries of a repeated field for which `keep` is true."""
    kept = [item for item in field if keep(item)]
    if len(kept) < len(field):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename tensors in a body and in the bodies inside it."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for proto in graph.node:
        for field in (proto.input, proto.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
        for attribute in proto.attribute:
            for body in (attribute.g, *attribute.graphs):
                rename(body, names)
                for value in body.output:
                    value.name = names.get(value.name, value.name)
