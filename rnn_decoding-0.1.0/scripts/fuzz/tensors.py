"""Changes of tensors: dims, data, names, and data in other files."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, numpy_helper

from scripts.fuzz.case import OWN, SECRET, Case, Rng, a_name, every_tensor, graphs_of, odd_tensor, one_of, places_of
from scripts.fuzz.odd import NUMBERS


def _tensor(rng: Rng, case: Case) -> TensorProto:
    found: TensorProto = one_of(rng, list(every_tensor(case.proto)))
    return found


def dims_of_a_tensor(rng: Rng, case: Case) -> None:
    tensor = _tensor(rng, case)
    match rng.integers(5):
        case 0:
            del tensor.dims[:]
        case 1:
            tensor.dims.append(int(one_of(rng, [1, 0, -1, 2])))
        case 2:
            del tensor.dims[0]
        case 3:
            tensor.dims[:] = [-size for size in tensor.dims]
        case _:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = int(one_of(rng, NUMBERS))


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
            tensor.data_type = int(one_of(rng, [1, 6, 7, 9, 10, 11, 8]))
        case 6:
            tensor.segment.begin, tensor.segment.end = int(one_of(rng, NUMBERS)), int(one_of(rng, NUMBERS))
        case 7:
            tensor.raw_data = rng.bytes(len(tensor.raw_data))
        case _:
            tensor.CopyFrom(odd_tensor(rng))


def names_of_tensors(rng: Rng, case: Case) -> None:
    graph = one_of(rng, graphs_of(case.proto))
    match rng.integers(5):
        case 0:
            graph.initializer.add().CopyFrom(one_of(rng, graph.initializer))
        case 1:
            copy = graph.initializer.add()
            copy.CopyFrom(odd_tensor(rng))
            copy.name = graph.initializer[0].name
        case 2:
            one_of(rng, graph.initializer).name = a_name(rng, graph)
        case 3:
            graph.initializer.remove(one_of(rng, graph.initializer))
        case _:
            graph.initializer.add().CopyFrom(odd_tensor(rng))
            graph.initializer[-1].name = a_name(rng, graph)


def numbers_in_tensors(rng: Rng, case: Case) -> None:
    """Axes, shapes and ids that point elsewhere."""
    tensors = [t for t in every_tensor(case.proto) if t.data_type in (6, 7) and not places_of(t)]
    tensor = one_of(rng, tensors)
    array = np.array(numpy_helper.to_array(tensor))
    if rng.random() < 0.3:
        array = np.resize(array, int(rng.integers(0, 6))).astype(array.dtype)
    for _ in range(int(rng.integers(1, 3))):
        if array.size:
            limits = np.iinfo(array.dtype)
            array.flat[int(rng.integers(array.size))] = np.clip(int(one_of(rng, NUMBERS)), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def fields_given_twice(rng: Rng, case: Case) -> None:
    """What no library writes: a tensor with a field twice, in a graph that protobuf merges with the first one."""
    tensor = one_of(rng, case.proto.graph.initializer)
    extra = one_of(rng, [b"\x10\x01", b"\x10\x07", b"\x10\x00", b"\x08\x05", b"\x0a\x02\x02\x03", b"\x4a\x04abcd", b"\x4a\x00", b"\x42\x01x", b"\x70\x01",
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
    place = str(one_of(rng, [OWN, f"../{SECRET}", f"./{OWN}", f"x/../{OWN}", "/etc/hostname", "/dev/zero", "link", "hop", "loop", "", ".", "..", "missing",
                           "model.onnx", "in memory", "*/_ORT_MEM_ADDR_/*", "\\etc", "C:\\x", "x" * 5000, f"../here/{OWN}"]))  # fmt: skip
    case.links = {"link": f"../{SECRET}", "hop": OWN, "loop": "loop"}
    proto = case.proto
    match rng.integers(8):
        case 0:
            tensor = proto.graph.sparse_initializer.add(dims=[4]).values
            tensor.name, tensor.data_type = "sparse", TensorProto.FLOAT
            tensor.dims.append(2)
        case 1:
            tensor = one_of(rng, proto.graph.node).attribute.add(name="value", type=AttributeProto.TENSOR).t
            tensor.data_type = TensorProto.FLOAT
        case 2:
            found = one_of(rng, proto.graph.node).attribute.add(name="values", type=AttributeProto.TENSORS)
            tensor = found.tensors.add(data_type=TensorProto.FLOAT, dims=[2])
        case 3:
            function = proto.functions.add(name="f", domain="local")
            node = function.node.add(op_type="Constant", output=["c"])
            tensor = node.attribute.add(name="value", type=AttributeProto.TENSOR).t
            tensor.data_type = TensorProto.FLOAT
        case 4:
            tensor = proto.training_info.add().initialization.initializer.add(name="t", data_type=1, dims=[2])
        case 5:
            first = one_of(rng, proto.graph.initializer)
            tensor = proto.graph.initializer.add()
            tensor.CopyFrom(first)  # a second of the same name
        case _:
            tensor = one_of(rng, list(every_tensor(proto)))
    if rng.random() < 0.8:
        tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.95:
        tensor.external_data.add(key="location", value=place)
    for key in ("offset", "length", "checksum", "basepath"):
        if rng.random() < 0.25:
            value = str(one_of(rng, [*NUMBERS, "x", "", "4", "8", "0x10", "1e9", " 4", "4" * 5000]))
            tensor.external_data.add(key=key, value=value)
    if rng.random() < 0.1:
        tensor.external_data.add(key="location", value=OWN)


CHANGES = [
    dims_of_a_tensor, dims_of_a_tensor, data_of_a_tensor, data_of_a_tensor, names_of_tensors, numbers_in_tensors, numbers_in_tensors,
    fields_given_twice, data_in_files, data_in_files,
]  # fmt: skip
