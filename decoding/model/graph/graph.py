"""An ONNX graph to search and to rewrite.

The rest of the package sees names, NumPy arrays and `Node` views, never a protobuf message.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from decoding.model.graph import external_weights, opsets
from decoding.model.graph.history import PassRecord, Snapshot
from decoding.model.graph.node import Node
from decoding.model.graph.protobuf import DTYPES, read_port, rename, retain
from decoding.model.graph.read import ModelFile as ModelFile
from decoding.model.graph.read import read_model
from decoding.model.graph.types import Array, Port
from decoding.model.graph.write import skeleton, whole


class Graph:
    """An ONNX model to search and rewrite. `Graph.load` reads one.

    Attributes:
        name: what messages call the model: its path, where it has one.
        history: what the passes did to the graph, since it was read.
    """

    def __init__(self, proto: onnx.ModelProto, name: str, weights: Mapping[str, Array]) -> None:
        self._model = proto
        self._weights = weights
        self._graph = proto.graph
        self.name = name
        self.history: tuple[PassRecord, ...] = ()
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
        return cls(*read_model(source))

    @classmethod
    def empty(cls, name: str, opset: int, ir_version: int = 8) -> Graph:
        """A graph without any node, to add to."""
        proto = onnx.ModelProto(ir_version=ir_version, opset_import=[helper.make_opsetid("", opset)])
        proto.graph.name = name
        return cls(proto, name, {})

    # -- searching ---------------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Port]:
        """The inputs that a caller must feed: initializers are left out."""
        return [read_port(v) for v in self._graph.input if v.name not in self._constants]

    def rank(self, name: str) -> int:
        """Number of dimensions that the file declares for an input; 0 where it declares none."""
        return len(next(p.shape for p in self.inputs if p.name == name) or ())

    @property
    def outputs(self) -> list[Port]:
        """The graph's outputs in order."""
        return [read_port(v) for v in self._graph.output]

    @property
    def bfloat16_ports(self) -> list[str]:
        """Names of the inputs and outputs whose numbers are bfloat16, which NumPy does not have."""
        ports = (*self._graph.input, *self._graph.output)
        return [v.name for v in ports if v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16]

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

    @property
    def ir_version(self) -> int:
        """Version of the file format."""
        return int(self._model.ir_version)

    def constant(self, name: str) -> Array | None:
        """Value of an initializer or of a Constant node; None for any other tensor."""
        if name in self._weights:
            return self._weights[name]
        if name in self._constants:
            return external_weights.to_array(self._constants[name], self.name)
        node = self.producer(name)
        if node is not None and node.op == "Constant":
            value = node.attribute("value")
            if isinstance(value, onnx.TensorProto):
                return external_weights.to_array(value, self.name)
            for kind in ("value_int", "value_ints", "value_float", "value_floats"):
                if (value := node.attribute(kind)) is not None:
                    return np.asarray(value)
        return None

    def number_type(self, name: str) -> np.dtype[Any]:
        """Dtype of floating-point weights that the graph may re-arrange or scale: that of the constant or input they come from.

        float32 where that is not known, or holds whole numbers from which the graph makes others.
        """
        seen, found = set[str](), np.dtype(np.float32)
        while name not in seen:
            seen.add(name)
            node, value = self.producer(name), self.constant(name)
            if value is not None:
                found = value.dtype
            elif node is None:
                found = next((port.dtype for port in self.inputs if port.name == name), found)
            elif node.op == "Cast":
                found = np.dtype(DTYPES.get(node.integer("to", 1), found))
            else:
                name = node.input(0)
        return found if found.kind == "f" else np.dtype(np.float32)

    def sizes(self, name: str) -> list[int] | None:
        """The value of a constant that is a list of whole numbers, such as a shape; None for any other tensor."""
        value = self.constant(name)
        return value.tolist() if value is not None and value.ndim == 1 and value.dtype.kind == "i" else None

    def producer(self, name: str) -> Node | None:
        """The node that computes the tensor `name`; None for an input or an initializer."""
        return self._edges()[0].get(name)

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read the tensor `name`, in their bodies too."""
        return self._edges()[1].get(name, [])

    def ancestors(self, *names: str, stop_ops: Iterable[str] = ()) -> set[str]:
        """All tensors that these are computed from, themselves included; the search ends at operators in `stop_ops`."""
        stop, seen, todo = set(stop_ops), set[str](), list(names)
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
        """Declare the tensor `name` to be a graph output."""
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
        """Add an operator and return its first output.

        Args:
            output: name of its first output; `more`: of its others.
            at: its index in the order of execution; None adds it at the end.
            attributes: may hold NumPy dtypes, for operators such as Cast.
        """
        values: dict[str, Any] = {
            k: helper.np_dtype_to_tensor_dtype(v) if isinstance(v, np.dtype) else v for k, v in attributes.items()
        }
        proto = helper.make_node(op, list(inputs), [output, *more], name=f"decoding/{output}", **values)
        self._graph.node.insert(len(self._graph.node) if at is None else at, proto)
        self._producers = None
        return output

    def add_initializer(self, name: str, value: Array) -> str:
        """Add a constant tensor; a large one is kept outside the message, without a copy."""
        data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        if external_weights.is_large(data_type, value.shape):
            self._weights = {**self._weights, name: value}
            self._graph.initializer.append(external_weights.stub(name, data_type, value.shape))
        else:
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._constants[name] = self._graph.initializer[-1]
        return name

    def lower_opset(self, opset: int, ir_version: int) -> None:
        """Declare this operator set and IR version where they are older and every operator means the same in them."""
        opsets.lower_opset(self._model, opset, ir_version)

    def use_operators(self, domain: str, version: int) -> None:
        """Declare an operator set for nodes to add, if the file does not declare it."""
        if all(o.domain != domain for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(domain, version))

    def redirect_output(self, old: str, new: str) -> None:
        """Make the tensor `new` the graph output that the tensor `old` was."""
        for value in self._graph.output:
            if value.name == old:
                value.name = new

    def place(self, node: Node) -> int:
        """The node's index in the order of execution."""
        return next(i for i, proto in enumerate(self._graph.node) if proto is node._proto or proto == node._proto)

    def remove(self, node: Node) -> None:
        """Remove an operator."""
        del self._graph.node[self.place(node)]
        self._producers = None

    def inline(self, node: Node, branch: str, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
        """Replace a node by those of one of its bodies: of an If, or one turn of a Loop or Scan.

        Args:
            branch: the attribute with the body.
            inputs: the tensors that the body's inputs read.
            outputs: names for the body's outputs; by default those of the node.
        """
        body, place = node.body(branch), self.place(node)
        prefix = f"{node.label}/"
        names = {taken.name: given for taken, given in zip(body.input, inputs, strict=True)}
        for proto in (*body.node, *body.initializer):
            for name in [proto.name] if isinstance(proto, onnx.TensorProto) else proto.output:
                names[name] = prefix + name
        inner = onnx.GraphProto.FromString(body.SerializeToString())
        rename(inner, names)
        results = [
            helper.make_node("Identity", [names.get(o.name, o.name)], [out])
            for o, out in zip(body.output, outputs or node.outputs, strict=True)
        ]
        del self._graph.node[place]
        for offset, proto in enumerate((*inner.node, *results)):
            self._graph.node.insert(place + offset, proto)
        self._graph.initializer.extend(inner.initializer)
        self._find_constants()

    def fix_input(self, name: str, value: Array) -> None:
        """Turn a graph input into a constant."""
        retain(self._graph.input, lambda port: port.name != name)
        self.add_initializer(name, value)

    def feed_weights(self) -> dict[str, Array]:
        """Turn the large weights into inputs, which a session neither copies nor packs, and return their values."""
        fed = {name: value for name, value in self._weights.items() if name in self._constants}
        for name, value in fed.items():
            self.add_input(name, value.dtype, value.shape)
        retain(self._graph.initializer, lambda tensor: tensor.name not in fed)
        self._find_constants()
        self._weights = {}
        return fed

    def edited(self) -> None:
        """Find the edges anew: call it after a change of inputs or outputs through `Node`."""
        self._producers = None

    def set_shape(
        self, name: str, shape: Sequence[int | str | None] | None, dtype: npt.DTypeLike | None = None
    ) -> None:
        """Declare another shape (None: unknown) for a graph input or output, and another dtype where `dtype` is given."""
        for value in (*self._graph.input, *self._graph.output):
            if value.name == name:
                port = read_port(value)
                value.CopyFrom(_value_info(name, port.dtype if dtype is None else dtype, shape))

    def forget_shapes(self) -> None:
        """Drop the declared shapes of inner tensors, which a rewrite may have made wrong."""
        del self._graph.value_info[:]

    def keep_outputs(self, names: Sequence[str]) -> None:
        """Keep only these outputs, in this order, and the nodes, weights and inputs that they need."""
        kept = {value.name: value for value in self._graph.output}
        values = [onnx.ValueInfoProto.FromString(kept[name].SerializeToString()) for name in names]
        del self._graph.output[:]
        self._graph.output.extend(values)
        needed = self.ancestors(*names)
        retain(self._graph.node, lambda node: any(output in needed for output in node.output))
        retain(self._graph.initializer, lambda tensor: tensor.name in needed)
        retain(self._graph.input, lambda port: port.name in needed)
        self._find_constants()
        self._weights = {name: value for name, value in self._weights.items() if name in self._constants}

    def set_metadata(self, entries: Mapping[str, str | None]) -> None:
        """Set entries of metadata_props, keeping the others; None removes one."""
        merged = {key: value for key, value in {**self.metadata, **entries}.items() if value is not None}
        del self._model.metadata_props[:]
        helper.set_model_props(self._model, merged)

    def part(self, outputs: Iterable[str]) -> Graph:
        """A graph that computes these tensors of this one as its outputs, without anything that they do not need."""
        outputs = list(dict.fromkeys(outputs))
        needed = self.ancestors(*outputs)
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
        copy = Graph(proto, self.name, self._weights)
        copy.history = self.history
        return copy

    @contextmanager
    def recorded(self, name: str) -> Iterator[None]:
        """Add a record of what is done inside to the history, under the name of a pass."""
        before = self._snapshot()
        yield
        self.history = (*self.history, PassRecord.between(name, before, self._snapshot()))

    def _snapshot(self) -> Snapshot:
        nodes = {next(filter(None, n.output), n.name): (n.op_type, tuple(n.input)) for n in self._graph.node}
        inputs, outputs = ({p.name: p.described for p in ports} for ports in (self.inputs, self.outputs))
        return Snapshot(nodes, inputs, outputs)

    @property
    def initializers(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and shape of every initializer; of dtype object where the element type is none of NumPy's."""
        return {
            name: (np.dtype(DTYPES.get(tensor.data_type, object)), tuple(tensor.dims))
            for name, tensor in self._constants.items()
        }

    @property
    def weight_bytes(self) -> int:
        """Size of the initializers in bytes."""
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.initializers.values())

    def with_values(self, values: Mapping[str, Array]) -> Graph:
        """A copy with other values of the same shape for the initializers named; names that it does not have are ignored."""
        copy = self.copy()
        own = {name: value for name, value in values.items() if name in self._constants}
        for name in own.keys() - self._weights.keys():
            copy._constants[name].CopyFrom(numpy_helper.from_array(own[name], name))
        copy._weights = {name: own.get(name, value) for name, value in self._weights.items()}
        return copy

    def skeleton(self) -> tuple[bytes, dict[str, Array]]:
        """The model's bytes without its large weights, and those weights by name."""
        weights = {name: value for name, value in self._weights.items() if name in self._constants}
        return skeleton(self._model), weights

    def fingerprint(self) -> str:
        """A number of the graph and its weights, as text."""
        skeleton, weights = self.skeleton()
        found = hashlib.sha256(skeleton)
        for name, value in sorted(weights.items()):
            found.update(name.encode())
            found.update(np.ascontiguousarray(value).data)
        return found.hexdigest()

    def serialize(self) -> bytes:
        """The whole model as bytes.

        Raises:
            ModelError: the model is over protobuf's limit of 2 GiB.
        """
        return whole(self._model, self._weights, self.name)

    def _find_constants(self) -> None:
        """Find the initializers anew, after a change of them; and the edges."""
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._producers = None

    def _edges(self) -> tuple[dict[str, Node], dict[str, list[Node]]]:
        if self._producers is None:
            self._producers, self._consumers = {}, {}
            for node in self.nodes:
                for name in node.outputs:
                    self._producers[name] = node
                for name in {*node.inputs, *node.captures()}:
                    self._consumers.setdefault(name, []).append(node)
        return self._producers, self._consumers


def _value_info(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
