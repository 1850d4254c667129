"""Changes of what a model says of itself: its ports, its metadata, its versions and functions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from scripts.fuzz.case import Case, Rng, a_name, every_tensor, graphs_of, one_of, places_of
from scripts.fuzz.odd import NUMBERS, TEXTS, json_value


def port(rng: Rng, case: Case) -> None:
    graph = one_of(rng, graphs_of(case.proto))
    ports = graph.input if rng.random() < 0.5 else graph.output
    match rng.integers(5):
        case 0:
            del ports[int(rng.integers(len(ports)))]
            return
        case 1:
            ports.add().CopyFrom(one_of(rng, ports))
            return
        case 2:
            ports.add().CopyFrom(one_of(rng, [*graph.input, *graph.output]))
            ports[-1].name = a_name(rng, graph)
            return
        case 3:
            one_of(rng, ports).name = a_name(rng, graph)
            return
    if rng.random() < 0.1:
        del ports[:]
        return
    found = one_of(rng, ports)
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
            dims.add(dim_value=int(one_of(rng, NUMBERS)))
        case 8:
            dims.add(dim_param=str(one_of(rng, ["batch", "", "é"])))
        case _:
            dim = one_of(rng, dims)
            dim.dim_value = int(one_of(rng, [*NUMBERS, 1, 0, 4]))


def reshaped(rng: Rng, case: Case) -> None:
    """An input or output of the graph declares another rank, element type or size."""
    graph = case.proto.graph
    tensor = one_of(rng, [*graph.input, *graph.input, *graph.output]).type.tensor_type
    dims = tensor.shape.dim
    match rng.integers(8):
        case 0:
            tensor.elem_type = int(one_of(rng, [1, 1, 2, 6, 7, 9, 10, 11, 16]))
        case 1:
            del dims[int(rng.integers(len(dims))) :]
        case 2:
            dims.add(dim_value=int(one_of(rng, [*NUMBERS, 9, 6])))
        case 3:
            dims.add(dim_param=str(one_of(rng, ["batch", "time", ""])))
        case 4:
            tensor.ClearField("shape")
        case 5:
            dims.insert(int(rng.integers(len(dims))), type(dims[0])())
        case 6:
            one_of(rng, dims).dim_param = str(one_of(rng, ["batch", "time", "source"]))
        case _:
            one_of(rng, dims).dim_value = int(one_of(rng, [*NUMBERS, 1, 1, 1, 4, 9]))


def metadata(rng: Rng, case: Case) -> None:
    proto = case.proto
    names = [v.name for v in (*proto.graph.input, *proto.graph.output)]
    key = f"decoding.{one_of(rng, ['roles', 'roles', 'roles', 'initial', 'initial', 'vocab', 'bos', 'eos', 'pad', 'max_new_tokens', 'no such key'])}"
    match rng.integers(14):
        case 0:
            value = one_of(
                rng, ["", "{", "nope", "\0", "NaN", "Infinity", "1" * 5000, '{"a": 1, "a": 2}', "\ufeff{}", '"\\ud800"']
            )
        case 1:
            value = "[" * int(one_of(rng, [10, 990, 200_000]))
        case 2:
            depth = int(one_of(rng, [10, 900, 5000, 200_000]))
            value = str(one_of(rng, ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth]))
        case 3:
            value = json.dumps([str(one_of(rng, TEXTS)) for _ in range(rng.integers(30))])
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
        key = str(one_of(rng, ["token", "logits", "state", "output", "batch_axis", "constant", "context", "attention", "window", "pad", "encoder",
                             "latent", "source_mask", "source_length", "no such role"]))  # fmt: skip
        value: Any = json_value(rng, names)
        if rng.random() < 0.6:
            name = one_of(rng, names)
            match key:
                case "state" | "source_mask" | "source_length":
                    value = {name: json_value(rng, names, 1)}
                case "batch_axis" | "constant":
                    value = {name: one_of(rng, [json_value(rng, names, 2), int(one_of(rng, NUMBERS))])}
                case "context":
                    value = [name, json_value(rng, names, 1)]
                case "latent":
                    value = {name: {"distribution": json_value(rng, names, 1), "every": json_value(rng, ["step"], 1)}}
                case "window":
                    value = int(one_of(rng, NUMBERS))
                case "output":
                    value = one_of(rng, ["logits", "probs", "logprobs"])
                case "pad":
                    value = one_of(rng, ["left", "right", "middle"])
        roles[key] = value
    return roles


def _odd_initial(rng: Rng, names: list[str]) -> Any:
    numbers = one_of(rng, [0.0, [0.0] * 8, [[[0.0] * 8]], [[]], [[1], [1, 2]], "x", [None], [["a"]], [2**70], {"a": 1}, [[float("nan")]]])  # fmt: skip
    return {one_of(rng, names): numbers}


def model_fields(rng: Rng, case: Case) -> None:
    proto = case.proto
    match rng.integers(9):
        case 0:
            proto.ir_version = int(one_of(rng, NUMBERS))
        case 1:
            one_of(rng, proto.opset_import).version = int(one_of(rng, [*NUMBERS, 6, 11, 13, 22]))
        case 2:
            del proto.opset_import[:]
        case 3:
            proto.opset_import.add(domain=str(one_of(rng, ["", "local", "ai.onnx", "com.microsoft"])), version=int(one_of(rng, NUMBERS)))  # fmt: skip
        case 4:
            proto.ClearField("graph")
        case 5:
            node = one_of(rng, proto.graph.node)
            inner = NodeProto(op_type=str(one_of(rng, ["f", "Identity"])), domain="local", input=["a"], output=["b"])
            proto.functions.add(name="f", domain="local", input=["a"], output=["b"], node=[inner])  # calls itself
            node.op_type, node.domain = "f", "local"
        case 6:
            proto.graph.name = str(one_of(rng, TEXTS[:7]))
        case 7:
            proto.graph.value_info.add(name=a_name(rng, proto.graph)).type.tensor_type.elem_type = int(rng.integers(25))
        case _:
            proto.graph.quantization_annotation.add(tensor_name=a_name(rng, proto.graph))


def vocabulary_of_nothing(rng: Rng, case: Case) -> None:
    """Every size that is the vocabulary's becomes another one, in the ports and the weights."""
    output = one_of(rng, case.proto.graph.output)
    size, other = output.type.tensor_type.shape.dim[-1].dim_value, int(one_of(rng, [0, 1]))
    if size < 2:
        raise ValueError(size)
    for found in (*case.proto.graph.input, *case.proto.graph.output):
        for dim in found.type.tensor_type.shape.dim:
            if dim.dim_value == size:
                dim.dim_value = other
    for tensor in every_tensor(case.proto):
        if places_of(tensor):
            continue
        if size in tensor.dims and tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            for axis in np.flatnonzero(np.array(array.shape) == size):
                array = np.take(array, range(other), axis=int(axis))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        elif tensor.data_type == TensorProto.INT64:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.where(array == size, other, array), tensor.name))


CHANGES = [port, port, port, metadata, metadata, metadata, model_fields, vocabulary_of_nothing]
