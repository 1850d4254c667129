"""Files that protobuf reads and that are wrong all the same: an ONNX model with its parts changed, one to four times."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from scripts.fuzz.odd import NUMBERS, TEXTS, json_value

Rng = np.random.Generator
MODELS = Path(__file__).resolve().parents[2] / "tests" / "models"
OPS = ("Gather", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "MatMul", "Gemm", "Add", "Mul", "Concat", "Slice", "Split", "Shape", "Size", "If",
       "Loop", "Scan", "LSTM", "GRU", "RNN", "Softmax", "LogSoftmax", "Expand", "ConstantOfShape", "Constant", "Cast", "Identity", "Where", "OneHot",
       "Range", "Tile", "ScatterND", "Dropout", "SequenceAt", "NonZero", "Mod", "Clip", "ArgMax", "NoSuchOperator", "")  # fmt: skip
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
        places = [place for tensor in every_tensor(whole) for place in _places(tensor)]
        if self.form != "path":
            return places
        here = folder / "here"
        return [place for place in places if here.resolve() not in Path(os.path.realpath(here / place)).parents]


def _places(tensor: TensorProto) -> list[str]:
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


@cache
def seeds() -> list[bytes]:
    """The files to start from."""
    return [path.read_bytes() for path in sorted(MODELS.glob("*.onnx"))]


def mutant(seed: int, number: int) -> Case:
    """The model of one case."""
    rng = np.random.default_rng((seed, number, 1))
    case = Case(onnx.load_model_from_string(_one(rng, seeds())), str(rng.choice(["bytes", "proto", "path"])))
    for _ in range(min(4, int(rng.geometric(0.6)))):
        change = _one(rng, _CHANGES)
        try:
            change(rng, case)
        except (IndexError, ValueError, TypeError, StopIteration):
            continue  # nothing there to change, or protobuf does not take the value
        case.notes.append(change.__name__)
    return case


def _one(rng: Rng, items: Sequence[Any]) -> Any:
    if not len(items):
        raise IndexError("nothing there")
    return items[int(rng.integers(len(items)))]


def _name(rng: Rng, graph: GraphProto) -> str:
    names = [t.name for t in graph.initializer] + [v.name for v in graph.input]
    names += [name for node in graph.node for name in (*node.output, *node.input)]
    return str(_one(rng, names)) if rng.random() < 0.9 else str(_one(rng, ["", "no such tensor", "é"]))


def _graphs(proto: ModelProto) -> list[GraphProto]:
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


# -- nodes -----------------------------------------------------------------------------------------------


def _node(rng: Rng, case: Case) -> tuple[GraphProto, NodeProto]:
    graph = _one(rng, _graphs(case.proto))
    return graph, _one(rng, graph.node)


def inputs_of_a_node(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(8):
        case 0:
            del node.input[:]
        case 1:
            del node.input[int(rng.integers(len(node.input))) :]
        case 2:
            node.input[int(rng.integers(len(node.input)))] = ""
        case 3:
            node.input.extend([_name(rng, graph)] * int(rng.integers(1, 20)))
        case 4:
            node.input[int(rng.integers(len(node.input)))] = node.output[0]  # a cycle
        case 5:
            order = rng.permutation(len(node.input))
            given = list(node.input)
            node.input[:] = [given[i] for i in order]
        case _:
            node.input[int(rng.integers(len(node.input)))] = _name(rng, graph)


def outputs_of_a_node(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(6):
        case 0:
            del node.output[:]
        case 1:
            node.output[int(rng.integers(len(node.output)))] = ""
        case 2:
            node.output.extend([f"more{i}" for i in range(int(rng.integers(1, 9)))])
        case 3:
            node.output.append(node.output[0])
        case _:
            node.output[int(rng.integers(len(node.output)))] = _name(rng, graph)  # of another node, or a weight


def kind_of_a_node(rng: Rng, case: Case) -> None:
    _, node = _node(rng, case)
    match rng.integers(5):
        case 0:
            node.domain = _one(rng, ["com.microsoft", "ai.onnx", "ai.onnx.ml", "local", "x" * 300])
        case 1:
            node.name = _one(rng, TEXTS[:9])
        case _:
            node.op_type = _one(rng, OPS)


def order_of_nodes(rng: Rng, case: Case) -> None:
    graph, node = _node(rng, case)
    match rng.integers(4):
        case 0:
            graph.node.add().CopyFrom(node)  # the same results twice
        case 1:
            graph.node.remove(node)
        case 2:
            copies = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
            del graph.node[:]
            graph.node.extend(copies[i] for i in rng.permutation(len(copies)))
        case _:
            del graph.node[:]


def attribute(rng: Rng, case: Case) -> None:
    _, node = _node(rng, case)
    if rng.random() < 0.3:
        names = ["hidden_size", "axis", "axes", "perm", "direction", "layout", "to", "value", "then_branch", "body", "activations", "clip",
                 "linear_before_reset", "num_scan_inputs", "scan_output_axes", "batch_dims", "allowzero", "split", "start", "end"]  # fmt: skip
        found = node.attribute.add(name=str(_one(rng, names)), type=AttributeProto.INT, i=int(_one(rng, NUMBERS)))
    else:
        found = _one(rng, node.attribute)
    match rng.integers(11):
        case 0:
            node.attribute.remove(found)
        case 1:
            node.attribute.append(found)
        case 2:
            found.type = int(rng.integers(0, 14))  # says another kind than it holds
        case 3:
            found.i = int(_one(rng, NUMBERS))
            found.type = AttributeProto.INT
        case 4:
            del found.ints[:]
            found.ints.extend(int(_one(rng, NUMBERS)) for _ in range(rng.integers(5)))
            found.type = AttributeProto.INTS
        case 5:
            found.s = _one(rng, [b"", b"\xff\xfe", b"reverse", b"bidirectional", b"x" * 9000])
            found.type = AttributeProto.STRING
        case 6:
            found.t.CopyFrom(_odd_tensor(rng))
            found.type = AttributeProto.TENSOR
        case 7:
            found.f = float(_one(rng, [0.0, -1.0, float("nan"), float("inf"), 1e38]))
            found.type = AttributeProto.FLOAT
        case 8:
            found.ref_attr_name = "elsewhere"
        case 9:
            found.g.CopyFrom(GraphProto())
            found.type = AttributeProto.GRAPH
        case _:
            del found.strings[:]
            found.strings.extend([b"Tanh", b"\xff", b""][: int(rng.integers(4))])
            found.type = AttributeProto.STRINGS


def control_flow(rng: Rng, case: Case) -> None:
    """An If, Loop or Scan put in, or one in another; conditions that are empty, lists or of another type."""
    graph = _one(rng, _graphs(case.proto))
    flow = [n for n in graph.node if n.op_type in ("If", "Loop", "Scan")]
    if flow and rng.random() < 0.5:
        node = _one(rng, flow)
        bodies = [a for a in node.attribute if a.HasField("g")]
        body = _one(rng, bodies).g
        match rng.integers(6):
            case 0:
                del body.output[:]
            case 1:
                del body.input[:]
            case 2:
                body.output.add().CopyFrom(_one(rng, body.output))
            case 3:
                body.input.add(name=_name(rng, graph))
            case 4:
                del body.node[:]
            case _:
                body.node.append(NodeProto.FromString(node.SerializeToString()))  # itself in itself
        return
    body = helper.make_graph(
        [helper.make_node("Identity", [_name(rng, graph)], ["inner"])],
        "body",
        [],
        [onnx.ValueInfoProto(name=str(_one(rng, ["inner", "outer", ""])))],
    )
    for level in range(int(_one(rng, [0, 0, 1, 3, 30]))):
        inner = helper.make_node("If", ["odd condition"], [f"inner{level}"], then_branch=body, else_branch=body) if level < 4 else helper.make_node("If", ["odd condition"], [f"inner{level}"], then_branch=body)  # fmt: skip
        body = helper.make_graph([inner], "body", [], [onnx.ValueInfoProto(name=f"inner{level}")])
    condition = _one(rng, [np.zeros(0, bool), np.array([True, False]), np.array(True), np.array([[True]]), np.array(1), np.array([]), np.array("x")])  # fmt: skip
    place = int(rng.integers(len(graph.node)))
    target = graph.node[place]
    index = int(rng.integers(len(target.input)))
    graph.initializer.append(numpy_helper.from_array(np.asarray(condition, object) if condition.dtype.kind == "U" else condition, "odd condition"))  # fmt: skip
    match rng.integers(3):
        case 0:
            node = helper.make_node("If", ["odd condition"], ["of the if"], then_branch=body, else_branch=body)
        case 1:
            graph.initializer.append(numpy_helper.from_array(np.array(int(_one(rng, [0, 1, 5, -1, 2**40]))), "turns"))
            node = helper.make_node("Loop", ["turns", "odd condition", target.input[index]], ["of the if"], body=body)
        case _:
            node = helper.make_node("Scan", [target.input[index]], ["of the if"], body=body, num_scan_inputs=int(_one(rng, NUMBERS)))  # fmt: skip
    target.input[index] = "of the if"
    graph.node.insert(place, node)


# -- tensors ---------------------------------------------------------------------------------------------


def _odd_tensor(rng: Rng) -> TensorProto:
    tensor = TensorProto(name="odd", data_type=int(_one(rng, [0, 1, 7, 8, 9, 10, 16, 20, 22, 99, 6])))
    tensor.dims.extend(int(_one(rng, NUMBERS)) for _ in range(rng.integers(4)))
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


def _tensor(rng: Rng, case: Case) -> TensorProto:
    found: TensorProto = _one(rng, list(every_tensor(case.proto)))
    return found


def dims_of_a_tensor(rng: Rng, case: Case) -> None:
    tensor = _tensor(rng, case)
    match rng.integers(5):
        case 0:
            del tensor.dims[:]
        case 1:
            tensor.dims.append(int(_one(rng, [1, 0, -1, 2])))
        case 2:
            del tensor.dims[0]
        case 3:
            tensor.dims[:] = [-size for size in tensor.dims]
        case _:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = int(_one(rng, NUMBERS))


def data_of_a_tensor(rng: Rng, case: Case) -> None:
    tensor = _tensor(rng, case)
    match rng.integers(9):
        case 0:
            tensor.raw_data += b"\0"
        case 1:
            tensor.raw_data = tensor.raw_data[:-1]
        case 2:
            tensor.raw_data = b""
        case 3:
            tensor.float_data.extend([0.5] * int(rng.integers(1, 9)))
        case 4:
            tensor.data_type = int(rng.integers(0, 30))
        case 5:
            tensor.data_type = int(_one(rng, [1, 6, 7, 9, 10, 11, 8]))
        case 6:
            tensor.segment.begin, tensor.segment.end = int(_one(rng, NUMBERS)), int(_one(rng, NUMBERS))
        case 7:
            tensor.raw_data = rng.bytes(len(tensor.raw_data))
        case _:
            tensor.CopyFrom(_odd_tensor(rng))


def names_of_tensors(rng: Rng, case: Case) -> None:
    graph = _one(rng, _graphs(case.proto))
    match rng.integers(5):
        case 0:
            graph.initializer.add().CopyFrom(_one(rng, graph.initializer))
        case 1:
            copy = graph.initializer.add()
            copy.CopyFrom(_odd_tensor(rng))
            copy.name = graph.initializer[0].name
        case 2:
            _one(rng, graph.initializer).name = _name(rng, graph)
        case 3:
            graph.initializer.remove(_one(rng, graph.initializer))
        case _:
            graph.initializer.add().CopyFrom(_odd_tensor(rng))
            graph.initializer[-1].name = _name(rng, graph)


def numbers_in_tensors(rng: Rng, case: Case) -> None:
    """Axes, shapes and ids that point elsewhere."""
    tensors = [t for t in every_tensor(case.proto) if t.data_type in (6, 7) and not _places(t)]
    tensor = _one(rng, tensors)
    array = np.array(numpy_helper.to_array(tensor))
    if rng.random() < 0.3:
        array = np.resize(array, int(rng.integers(0, 6))).astype(array.dtype)
    for _ in range(int(rng.integers(1, 3))):
        if array.size:
            limits = np.iinfo(array.dtype)
            array.flat[int(rng.integers(array.size))] = np.clip(int(_one(rng, NUMBERS)), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def fields_given_twice(rng: Rng, case: Case) -> None:
    """What no library writes: a tensor with a field twice, in a graph that protobuf merges with the first one."""
    tensor = _one(rng, case.proto.graph.initializer)
    extra = _one(rng, [b"\x10\x01", b"\x10\x07", b"\x10\x00", b"\x08\x05", b"\x0a\x02\x02\x03", b"\x4a\x04abcd", b"\x4a\x00", b"\x42\x01x", b"\x70\x01",
                       b"\x70\x07", b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x93\x01\x94\x01", b"\x22\x04\0\0\0\0"])  # fmt: skip
    body = tensor.SerializeToString() + extra
    graph = b"\x2a" + _varint(len(body)) + body
    if rng.random() < 0.7:  # one graph, so that its weights are cut out
        rest = ModelProto.FromString(case.proto.SerializeToString())
        whole = GraphProto.FromString(rest.graph.SerializeToString())
        rest.ClearField("graph")
        case.proto = rest
        place = [t.name for t in whole.initializer].index(tensor.name)
        del whole.initializer[place]
        graph = whole.SerializeToString() + graph
    case.tail += b"\x3a" + _varint(len(graph)) + graph


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def data_in_files(rng: Rng, case: Case) -> None:
    """A tensor anywhere in the model has its data in a file."""
    place = str(_one(rng, [OWN, f"../{SECRET}", f"./{OWN}", f"x/../{OWN}", "/etc/hostname", "/dev/zero", "link", "hop", "loop", "", ".", "..", "missing",
                           "model.onnx", "in memory", "*/_ORT_MEM_ADDR_/*", "\\etc", "C:\\x", "x" * 5000, f"../here/{OWN}"]))  # fmt: skip
    case.links = {"link": f"../{SECRET}", "hop": OWN, "loop": "loop"}
    proto = case.proto
    match rng.integers(8):
        case 0:
            tensor = proto.graph.sparse_initializer.add(dims=[4]).values
            tensor.name, tensor.data_type = "sparse", TensorProto.FLOAT
            tensor.dims.append(2)
        case 1:
            tensor = _one(rng, proto.graph.node).attribute.add(name="value", type=AttributeProto.TENSOR).t
            tensor.data_type = TensorProto.FLOAT
        case 2:
            found = _one(rng, proto.graph.node).attribute.add(name="values", type=AttributeProto.TENSORS)
            tensor = found.tensors.add(data_type=TensorProto.FLOAT, dims=[2])
        case 3:
            function = proto.functions.add(name="f", domain="local")
            node = function.node.add(op_type="Constant", output=["c"])
            tensor = node.attribute.add(name="value", type=AttributeProto.TENSOR).t
            tensor.data_type = TensorProto.FLOAT
        case 4:
            tensor = proto.training_info.add().initialization.initializer.add(name="t", data_type=1, dims=[2])
        case 5:
            first = _one(rng, proto.graph.initializer)
            tensor = proto.graph.initializer.add()
            tensor.CopyFrom(first)  # a second of the same name
        case _:
            tensor = _one(rng, list(every_tensor(proto)))
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.95:
        tensor.external_data.add(key="location", value=place)
    for key in ("offset", "length", "checksum", "basepath"):
        if rng.random() < 0.25:
            value = str(_one(rng, [*NUMBERS, "x", "", "4", "8", "0x10", "1e9", " 4", "4" * 5000]))
            tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.1:
        tensor.external_data.add(key="location", value=OWN)


# -- ports, metadata, the model itself -------------------------------------------------------------------


def port(rng: Rng, case: Case) -> None:
    graph = _one(rng, _graphs(case.proto))
    ports = graph.input if rng.random() < 0.5 else graph.output
    match rng.integers(5):
        case 0:
            del ports[int(rng.integers(len(ports)))]
            return
        case 1:
            ports.add().CopyFrom(_one(rng, ports))
            return
        case 2:
            ports.add().CopyFrom(_one(rng, [*graph.input, *graph.output]))
            ports[-1].name = _name(rng, graph)
            return
        case 3:
            _one(rng, ports).name = _name(rng, graph)
            return
    if rng.random() < 0.1:
        del ports[:]
        return
    found = _one(rng, ports)
    tensor = found.type.tensor_type
    dims = tensor.shape.dim
    match rng.integers(11):
        case 0:
            found.ClearField("type")
        case 1:
            tensor.ClearField("shape")
        case 2:
            tensor.elem_type = int(rng.integers(0, 26))
        case 3:
            found.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 4:
            found.type.map_type.key_type = 7
        case 5:
            found.type.sparse_tensor_type.elem_type = 1
        case 6:
            del dims[int(rng.integers(len(dims))) :]
        case 7:
            dims.add(dim_value=int(_one(rng, NUMBERS)))
        case 8:
            dims.add(dim_param=str(_one(rng, ["batch", "", "é"])))
        case _:
            dim = _one(rng, dims)
            dim.dim_value = int(_one(rng, [*NUMBERS, 1, 0, 4]))


def metadata(rng: Rng, case: Case) -> None:
    proto = case.proto
    names = [v.name for v in (*proto.graph.input, *proto.graph.output)]
    key = f"decoding.{_one(rng, ['roles', 'roles', 'roles', 'initial', 'initial', 'vocab', 'bos', 'eos', 'pad', 'max_new_tokens', 'no such key'])}"
    match rng.integers(14):
        case 0:
            value = _one(
                rng, ["", "{", "nope", "\0", "NaN", "Infinity", "1" * 5000, '{"a": 1, "a": 2}', "\ufeff{}", '"\\ud800"']
            )
        case 1:
            value = "[" * int(_one(rng, [10, 990, 200_000]))
        case 2:
            depth = int(_one(rng, [10, 900, 5000, 200_000]))
            value = str(_one(rng, ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]))
        case 3:
            value = json.dumps([str(_one(rng, TEXTS)) for _ in range(rng.integers(30))])
        case 4 | 5 | 6 | 7 if key.endswith(("roles", "initial")):
            value = json.dumps(odd_roles(rng, names) if key.endswith("roles") else _odd_initial(rng, names))
        case _:
            value = json.dumps(json_value(rng, names))
    if rng.random() < 0.9:
        kept = [e for e in proto.metadata_props if e.key != key]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=key, value=value)


def odd_roles(rng: Rng, names: list[str]) -> dict[str, Any]:
    """Some of the roles, with values that are right, nearly right, or of any kind."""
    roles: dict[str, Any] = {}
    for _ in range(int(rng.integers(1, 4))):
        key = str(_one(rng, ["token", "logits", "state", "output", "batch_axis", "constant", "context", "attention", "window", "pad", "encoder",
                             "latent", "source_mask", "source_length", "no such role"]))  # fmt: skip
        value: Any = json_value(rng, names)
        if rng.random() < 0.6:
            name = _one(rng, names)
            match key:
                case "state" | "source_mask" | "source_length":
                    value = {name: json_value(rng, names, 1)}
                case "batch_axis" | "constant":
                    value = {name: _one(rng, [json_value(rng, names, 2), int(_one(rng, NUMBERS))])}
                case "context":
                    value = [name, json_value(rng, names, 1)]
                case "latent":
                    value = {name: {"distribution": json_value(rng, names, 1), "every": json_value(rng, ["step"], 1)}}
                case "window":
                    value = int(_one(rng, NUMBERS))
                case "output":
                    value = _one(rng, ["logits", "probs", "logprobs"])
                case "pad":
                    value = _one(rng, ["left", "right", "middle"])
        roles[key] = value
    return roles


def _odd_initial(rng: Rng, names: list[str]) -> Any:
    numbers = _one(rng, [0.0, [0.0] * 8, [[[0.0] * 8]], [[]], [[1], [1, 2]], "x", [None], [["a"]], [2**70], {"a": 1}, [[float("nan")]]])  # fmt: skip
    return {_one(rng, names): numbers}


def model_fields(rng: Rng, case: Case) -> None:
    proto = case.proto
    match rng.integers(9):
        case 0:
            proto.ir_version = int(_one(rng, NUMBERS))
        case 1:
            _one(rng, proto.opset_import).version = int(_one(rng, [*NUMBERS, 6, 11, 13, 22]))
        case 2:
            del proto.opset_import[:]
        case 3:
            proto.opset_import.add(domain=str(_one(rng, ["", "local", "ai.onnx", "com.microsoft"])), version=int(_one(rng, NUMBERS)))  # fmt: skip
        case 4:
            proto.ClearField("graph")
        case 5:
            node = _one(rng, proto.graph.node)
            inner = NodeProto(op_type=str(_one(rng, ["f", "Identity"])), domain="local", input=["a"], output=["b"])
            proto.functions.add(name="f", domain="local", input=["a"], output=["b"], node=[inner])  # calls itself
            node.op_type, node.domain = "f", "local"
        case 6:
            proto.graph.name = str(_one(rng, TEXTS[:7]))
        case 7:
            proto.graph.value_info.add(name=_name(rng, proto.graph)).type.tensor_type.elem_type = int(rng.integers(25))
        case _:
            proto.graph.quantization_annotation.add(tensor_name=_name(rng, proto.graph))


def vocabulary_of_nothing(rng: Rng, case: Case) -> None:
    """Every size that is the vocabulary's becomes another one, in the ports and the weights."""
    output = _one(rng, case.proto.graph.output)
    size, other = output.type.tensor_type.shape.dim[-1].dim_value, int(_one(rng, [0, 1]))
    if size < 2:
        raise ValueError(size)
    for found in (*case.proto.graph.input, *case.proto.graph.output):
        for dim in found.type.tensor_type.shape.dim:
            if dim.dim_value == size:
                dim.dim_value = other
    for tensor in every_tensor(case.proto):
        if size in tensor.dims and tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            for axis in np.flatnonzero(np.array(array.shape) == size):
                array = np.take(array, range(other), axis=int(axis))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        elif tensor.data_type == TensorProto.INT64 and not _places(tensor):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(array == size, other, array), tensor.name))


_CHANGES: list[Callable[[Rng, Case], None]] = [
    inputs_of_a_node, inputs_of_a_node, outputs_of_a_node, kind_of_a_node, order_of_nodes, attribute, attribute, attribute, control_flow,
    dims_of_a_tensor, dims_of_a_tensor, data_of_a_tensor, data_of_a_tensor, names_of_tensors, numbers_in_tensors, numbers_in_tensors,
    fields_given_twice, data_in_files, data_in_files, port, port, port, metadata, metadata, metadata, model_fields, vocabulary_of_nothing,
]  # fmt: skip
