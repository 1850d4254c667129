"""A case of the structural fuzzer: a model, how it is loaded, and what helps to change it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from scripts.fuzz.odd import NUMBERS

Rng = np.random.Generator
SECRET = "secret.bin"  # beside the case's own folder
OWN = "own.bin"  # in it


@dataclass
class Case:
    """A model to load.

    Attributes:
        proto: the model.
        tail: bytes behind it, which protobuf merges into it.
        form: "bytes", "proto" or "path", which it is loaded as.
        links: symbolic links in the case's folder, by name.
        notes: what was changed.
    """

    proto: ModelProto
    form: str
    tail: bytes = b""
    links: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def written(self, folder: Path) -> Any:
        """The source that load() is given; the files that it needs are written."""
        if self.form == "proto" and not self.tail:
            return self.proto
        data = self.proto.SerializeToString() + self.tail
        if self.form != "path":
            return data
        here = folder / "here"
        here.mkdir()
        (folder / SECRET).write_bytes(bytes(range(256)) * 256)
        (here / OWN).write_bytes(bytes(1 << 16))
        for name, target in self.links.items():
            (here / name).symlink_to(target)
        (here / "model.onnx").write_bytes(data)
        return str(here / "model.onnx")

    def reads_elsewhere(self, folder: Path) -> list[str]:
        """The places of data in files that the model may not have it in."""
        whole = ModelProto.FromString(self.proto.SerializeToString() + self.tail)
        places = [place for tensor in every_tensor(whole) for place in places_of(tensor)]
        if self.form != "path":
            return places
        here = folder / "here"
        return [place for place in places if here.resolve() not in Path(os.path.realpath(here / place)).parents]


def places_of(tensor: TensorProto) -> list[str]:
    if tensor.data_location != TensorProto.EXTERNAL:
        return []
    return [entry.value for entry in tensor.external_data if entry.key == "location"] or [""]


def every_tensor(message: Any) -> Iterator[TensorProto]:
    """The tensors in a message, wherever they are."""
    if isinstance(message, TensorProto):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for one in [value] if hasattr(value, "ListFields") else value:
            yield from every_tensor(one)


def one_of(rng: Rng, items: Sequence[Any]) -> Any:
    if not len(items):
        raise IndexError("nothing there")
    return items[int(rng.integers(len(items)))]


def a_name(rng: Rng, graph: GraphProto) -> str:
    names = [t.name for t in graph.initializer] + [v.name for v in graph.input]
    names += [name for node in graph.node for name in (*node.output, *node.input)]
    return str(one_of(rng, names)) if rng.random() < 0.9 else str(one_of(rng, ["", "no such tensor", "é"]))


def graphs_of(proto: ModelProto) -> list[GraphProto]:
    """The main graph, thrice as likely as any body in it."""
    found = [proto.graph] * 3
    todo = [proto.graph]
    while todo:
        bodies = [
            body
            for node in todo.pop().node
            for a in node.attribute
            for body in (*a.graphs, *([a.g] if a.HasField("g") else []))
        ]
        found += bodies
        todo += bodies
    return found


def odd_tensor(rng: Rng) -> TensorProto:
    tensor = TensorProto(name="odd", data_type=int(one_of(rng, [0, 1, 7, 8, 9, 10, 16, 20, 22, 99, 6])))
    tensor.dims.extend(int(one_of(rng, NUMBERS)) for _ in range(rng.integers(4)))
    match rng.integers(4):
        case 0:
            tensor.raw_data = bytes(int(rng.integers(40)))
        case 1:
            tensor.float_data.extend([1.0] * int(rng.integers(5)))
        case 2:
            tensor.int64_data.extend([1] * int(rng.integers(5)))
        case _:
            tensor.string_data.extend([b"\xff"] * int(rng.integers(3)))
    return tensor
