"""An ONNX graph to read and to rewrite. The only file that imports onnx.

The rest of the package sees names, NumPy arrays and `Node` views, never a protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError as ProtobufError
from onnx import helper, numpy_helper

from decoding.errors import ModelError, OptionError
from decoding.model.graph.external_weights import cut_weights
from decoding.model.graph.node import Node
from decoding.model.graph.protobuf import DTYPES, read_port, rename, retain
from decoding.model.graph.types import Array as Array  # the type of the arrays that a graph gives and takes
from decoding.model.graph.types import Port
from decoding.model.graph.validate import check_text, sort_nodes

ModelFile = str | Path | bytes | onnx.ModelProto

# Weights of at least this many numbers stand apart from the model: copies share them, and sessions take them as they are.
_LARGE = 1024
_PLAIN = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.INT8})  # fmt: skip


class Graph:
    """An ONNX model that can be searched and rewritten. `Graph.load` makes one."""

    def __init__(self, proto: onnx.ModelProto, name: str, weights: Mapping[str, Array]) -> None:
        self._model = proto
        self._weights = weights
        self._graph = proto.graph
        self.name = name
        self._producers: dict[str, Node] | None = None
        self._consumers: dict[str, list[Node]] = {}
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}

    @classmethod
    def load(cls, source: ModelFile) -> Graph:
        """Read a file, serialized bytes or a ModelProto (which is copied, never edited).

        Raises:
            ModelError: there is no such file, or it does not hold an ONNX model.
            OptionError: the source is none of these.
        """
        weights: dict[str, Array] = {}
        if isinstance(source, onnx.ModelProto):
            proto, name = onnx.ModelProto(), "the ModelProto"
            proto.CopyFrom(source)
        elif isinstance(source, bytes):
            name = "the bytes given"
            proto, weights = _parse(source, name)
        elif isinstance(source, str | Path):
            name = str(source)
            proto, weights = _read(Path(source))
        else:
            raise OptionError(
                f"model or encoder: found {type(source).__name__}; expected the path of an .onnx file, its bytes, an onnx.ModelProto or the name of a "
                "shipped model (what load() has given goes into decode() as it is)"
            )
        check_text(proto, name)
        sort_nodes(proto.graph, name)
        if not proto.graph.node:
            raise ModelError(
                f"{name}: not an ONNX model, or one without any node; pass a file that an ONNX exporter wrote"
            )
        return cls(proto, name, {**weights, **_set_apart(proto.graph, name, weights)})

    @classmethod
    def empty(cls, name: str, opset: int) -> Graph:
        """A graph without any node, to be written."""
        proto = onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", opset)])
        proto.graph.name = name
        return cls(proto, name, {})

    # -- what the graph says of itself -------------------------------------------------------------------

    @property
    def inputs(self) -> list[Port]:
        """The inputs that a caller must feed: initializers are left out."""
        return [read_port(v) for v in self._graph.input if v.name not in self._constants]

    def rank(self, name: str) -> int:
        """Number of dimensions that the file declares for an input, 0 where it does not say."""
        return len(next(p.shape for p in self.inputs if p.name == name) or ())

    @property
    def outputs(self) -> list[Port]:
        """The graph's outputs in order."""
        return [read_port(v) for v in self._graph.output]

    @property
    def nodes(self) -> list[Node]:
        """All operators of the main graph, in the order of execution."""
        return [Node(proto) for proto in self._graph.node]

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata_props."""
        return {entry.key: entry.value for entry in self._model.metadata_props}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return next((o.version for o in self._model.opset_import if o.domain in ("", "ai.onnx")), 1)

    def constant(self, name: str) -> Array | None:
        """Value of an initializer or of a Constant node, else None."""
        if name in self._constants:
            return self._weights[name] if name in self._weights else _array(self._constants[name], self.name)
        node = self.producer(name)
        if node is not None and node.op == "Constant":
            value = node.attribute("value")
            if isinstance(value, onnx.TensorProto):
                return _array(value, self.name)
            for kind in ("value_int", "value_ints", "value_float", "value_floats"):
                if (value := node.attribute(kind)) is not None:
                    return np.asarray(value)
        return None

    def producer(self, name: str) -> Node | None:
        """The node that makes the tensor `name`, or None for an input or an initializer."""
        return self._edges()[0].get(name)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read the tensor `name`, bodies of control flow included."""
        return self._edges()[1].get(name, [])

    def ancestors(self, name: str, *, stop_ops: Iterable[str] = ()) -> set[str]:
        """All tensors that `name` is computed from, itself included; nodes in `stop_ops` are not passed."""
        stop, seen, todo = set(stop_ops), set[str](), [name]
        while todo:
            if (tensor := todo.pop()) in seen:
                continue
            seen.add(tensor)
            node = self.producer(tensor)
            if node is not None and node.op not in stop:
                todo += [t for t in (*node.inputs, *node.captures()) if t]
        return seen

    def descendants(self, name: str) -> set[str]:
        """All tensors computed from `name`, itself included."""
        seen, todo = set[str](), [name]
        while todo:
            if (tensor := todo.pop()) not in seen:
                seen.add(tensor)
                todo += [t for node in self.consumers(tensor) for t in node.outputs if t]
        return seen

    # -- rewriting ---------------------------------------------------------------------------------------

    def add_input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None] | None) -> str:
        """Declare a new graph input."""
        self._graph.input.append(_value_info(name, dtype, shape))
        return name

    def add_output(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None] | None) -> str:
        """Declare the tensor `name` a graph output."""
        self._graph.output.append(_value_info(name, dtype, shape))
        return name

    def add_node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        more: Sequence[str] = (),
        at: int | None = None,
        **attributes: Any,
    ) -> str:
        """Add an operator, at the end or at place `at`; a NumPy dtype may stand as an attribute.

        Args:
            output: its first output, which is returned; `more`: its others.
        """
        values: dict[str, Any] = {
            k: helper.np_dtype_to_tensor_dtype(v) if isinstance(v, np.dtype) else v for k, v in attributes.items()
        }
        proto = helper.make_node(op, list(inputs), [output, *more], name=f"decoding/{output}", **values)
        self._graph.node.insert(len(self._graph.node) if at is None else at, proto)
        self._producers = None
        return output

    def add_initializer(self, name: str, value: Array) -> str:
        """Add a constant tensor; a large one stands apart, without a copy."""
        data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        if value.size >= _LARGE and data_type in _PLAIN:
            self._weights = {**self._weights, name: value}
            self._graph.initializer.append(_stub(name, data_type, value.shape))
        else:
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._constants[name] = self._graph.initializer[-1]
        return name

    def use_operators(self, domain: str, version: int) -> None:
        """Declare an operator set that added nodes are from, where the file does not."""
        if all(o.domain != domain for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(domain, version))

    def redirect_output(self, old: str, new: str) -> None:
        """Let the graph output `old` be the tensor `new` instead."""
        for value in self._graph.output:
            if value.name == old:
                value.name = new

    def place(self, node: Node) -> int:
        """Where the node stands in the order of execution."""
        return next(i for i, proto in enumerate(self._graph.node) if proto is node._proto or proto == node._proto)

    def inline(self, node: Node, branch: str) -> None:
        """Put the nodes of an If's "then_branch" or "else_branch" in its place."""
        body, place = node.attribute(branch), self.place(node)
        prefix, names = f"{node.label}/", {}
        for proto in (*body.node, *body.initializer):
            for name in [proto.name] if isinstance(proto, onnx.TensorProto) else proto.output:
                names[name] = prefix + name
        inner = onnx.GraphProto.FromString(body.SerializeToString())
        rename(inner, names)
        results = [
            helper.make_node("Identity", [names.get(o.name, o.name)], [out])
            for o, out in zip(body.output, node.outputs, strict=True)
        ]
        del self._graph.node[place]
        for offset, proto in enumerate((*inner.node, *results)):
            self._graph.node.insert(place + offset, proto)
        self._graph.initializer.extend(inner.initializer)
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._producers = None

    def fix_input(self, name: str, value: Array) -> None:
        """Turn a graph input into a constant."""
        retain(self._graph.input, lambda port: port.name != name)
        self.add_initializer(name, value)

    def edited(self) -> None:
        """Say that node inputs or outputs were changed through `Node`, so that edges are found anew."""
        self._producers = None

    def set_shape(
        self, name: str, shape: Sequence[int | str | None] | None, dtype: npt.DTypeLike | None = None
    ) -> None:
        """Declare another shape (None: unknown) for a graph input or output, and another dtype if one is given."""
        for value in (*self._graph.input, *self._graph.output):
            if value.name == name:
                port = read_port(value)
                value.CopyFrom(_value_info(name, port.dtype if dtype is None else dtype, shape))

    def forget_shapes(self) -> None:
        """Drop what the file says of inner shapes: after a rewrite they may lie."""
        del self._graph.value_info[:]

    def keep_outputs(self, names: Sequence[str]) -> None:
        """Keep only these outputs, in this order, and drop every node, weight and input that none of them needs."""
        kept = {value.name: value for value in self._graph.output}
        values = [onnx.ValueInfoProto.FromString(kept[name].SerializeToString()) for name in names]
        del self._graph.output[:]
        self._graph.output.extend(values)
        needed = set().union(*(self.ancestors(name) for name in names))
        retain(self._graph.node, lambda node: any(output in needed for output in node.output))
        retain(self._graph.initializer, lambda tensor: tensor.name in needed)
        retain(self._graph.input, lambda port: port.name in needed)
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._weights = {name: value for name, value in self._weights.items() if name in self._constants}
        self._producers = None

    def set_metadata(self, entries: Mapping[str, str]) -> None:
        """Set entries of metadata_props, keeping the others."""
        merged = {**self.metadata, **entries}
        del self._model.metadata_props[:]
        helper.set_model_props(self._model, merged)

    def part(self, outputs: Iterable[str]) -> Graph:
        """A copy that computes just these inner tensors and holds nothing that they do not need."""
        outputs = list(dict.fromkeys(outputs))
        needed = set().union(*(self.ancestors(name) for name in outputs))
        copy = onnx.ModelProto(
            ir_version=self._model.ir_version, opset_import=self._model.opset_import, functions=self._model.functions
        )
        copy.graph.name = self._graph.name or "part"
        copy.graph.node.extend(n for n in self._graph.node if any(o in needed for o in n.output))
        copy.graph.initializer.extend(t for t in self._graph.initializer if t.name in needed)
        copy.graph.input.extend(v for v in self._graph.input if v.name in needed)
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)  # onnxruntime infers the types
        return Graph(copy, self.name, self._weights)

    def copy(self) -> Graph:
        """An independent copy."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._model)
        return Graph(proto, self.name, self._weights)

    @property
    def initializers(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and shape of every initializer; of dtype object where the element type is none of NumPy's."""
        return {
            name: (np.dtype(DTYPES.get(tensor.data_type, object)), tuple(tensor.dims))
            for name, tensor in self._constants.items()
        }

    def with_values(self, values: Mapping[str, Array]) -> Graph:
        """A copy in which these initializers, those of them that it has, hold other values of the same shape."""
        copy = self.copy()
        own = {name: value for name, value in values.items() if name in self._constants}
        for name in own.keys() - self._weights.keys():
            copy._constants[name].CopyFrom(numpy_helper.from_array(own[name], name))
        copy._weights = {name: own.get(name, value) for name, value in self._weights.items()}
        return copy

    def skeleton(self) -> tuple[bytes, dict[str, Array]]:
        """The model as bytes without its large weights, and those."""
        weights = {name: value for name, value in self._weights.items() if name in self._constants}
        return bytes(self._model.SerializeToString()), weights

    def serialize(self) -> bytes:
        """The whole model as bytes.

        Raises:
            ModelError: the model is over protobuf's limit of 2 GiB.
        """
        whole = onnx.ModelProto()
        whole.CopyFrom(self._model)
        for tensor in whole.graph.initializer:
            if tensor.name in self._weights:
                tensor.CopyFrom(numpy_helper.from_array(self._weights[tensor.name], tensor.name))
        try:
            return bytes(whole.SerializeToString())
        except (ValueError, ProtobufError) as error:
            raise ModelError(f"{self.name}: cannot be serialized: {error}") from error

    def _edges(self) -> tuple[dict[str, Node], dict[str, list[Node]]]:
        if self._producers is None:
            self._producers, self._consumers = {}, {}
            for node in self.nodes:
                for name in node.outputs:
                    self._producers[name] = node
                for name in {*node.inputs, *node.captures()}:
                    self._consumers.setdefault(name, []).append(node)
        return self._producers, self._consumers


def _read(path: Path) -> tuple[onnx.ModelProto, dict[str, Array]]:
    if path.is_dir():
        raise ModelError(f"{path}: a folder; pass the path of an .onnx file, or the name of a shipped model")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; pass the path of an .onnx file, or the name of a shipped model")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ModelError(f"{path}: not an ONNX file, it is empty; export or copy it again")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            proto, weights = _parse(data, str(path))
    try:
        apart = [tensor for tensor in proto.graph.initializer if tensor.name in weights]
        for tensor in apart:  # they are no files
            tensor.data_location = onnx.TensorProto.DEFAULT
        onnx.load_external_data_for_model(proto, str(path.parent))
        for tensor in apart:
            tensor.data_location = onnx.TensorProto.EXTERNAL
    except Exception as error:
        raise ModelError(f"{path}: its external data cannot be read: {error}") from error
    return proto, weights


def _parse(data: bytes | mmap, name: str) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model and, apart, its large weights: they are copied once, and not at all by protobuf."""
    with memoryview(data) as view:
        skeleton, places = cut_weights(view, _LARGE * 4, _PLAIN)
        try:
            proto = onnx.load_model_from_string(skeleton)
        except Exception as error:
            raise ModelError(
                f"{name}: not an ONNX file, or a truncated one ({len(data)} bytes, {error}); export or copy it again"
            ) from error
        weights = {}
        for index, place in places.items():
            tensor = proto.graph.initializer[index]
            with view[place] as raw:
                flat = np.frombuffer(raw, helper.tensor_dtype_to_np_dtype(tensor.data_type)).copy()
            if flat.size != prod(tensor.dims):
                raise ModelError(
                    f"{name}: the tensor {tensor.name!r} cannot be read: {flat.size} numbers for the shape {list(tensor.dims)}; export or copy it again"
                )
            weights[tensor.name] = flat.reshape(tensor.dims)
    return proto, weights


def _set_apart(graph: onnx.GraphProto, name: str, done: Mapping[str, Array]) -> dict[str, Array]:
    """Take the data of the large weights out of a graph where that is not done yet."""
    weights = {}
    for tensor in graph.initializer:
        if tensor.name not in done and tensor.data_type in _PLAIN and prod(tensor.dims) >= _LARGE:
            weights[tensor.name] = _array(tensor, name)
            tensor.CopyFrom(_stub(tensor.name, tensor.data_type, tensor.dims))
    return weights


def _stub(name: str, data_type: int, dims: Sequence[int]) -> onnx.TensorProto:
    """A tensor whose data stands apart."""
    stub = onnx.TensorProto(name=name, data_type=data_type, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    stub.external_data.add(key="location", value="in memory")
    return stub


def _array(tensor: onnx.TensorProto, name: str) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{name}: the tensor {tensor.name!r} cannot be read: {error}; pass the path of the file if its weights lie beside it, "
            "or export or copy it again"
        ) from error


def _value_info(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
