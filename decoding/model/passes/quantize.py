"""Quantizes the weights of a model to int8: `load(..., quantize="int8")`.

A product's weights become int8 with a scale for each output; its input becomes uint8 at every run, with a scale for
each row. The product itself is onnxruntime's (MatMulIntegerToFloat): sums of whole numbers, so a row gets the same bits in
every batch. onnxruntime's own dynamic quantization has one scale for the whole batch. It has one operator for a whole
LSTM (DynamicQuantizeLSTM) but none for GRU and RNN. Here layers are written as plain operators for one token
(lower_recurrent.py), which run in about the same time as that operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding.errors import ModelError, OptionError, shown
from decoding.model.contract.contract import Contract
from decoding.model.contract.program import OpenSession, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.graph.node import Node
from decoding.model.graph.types import Array
from decoding.model.passes.lower_recurrent import Steps, plain_steps, what
from decoding.model.passes.recurrent_cells import Writer
from decoding.model.runtime.cuda import device_of
from decoding.model.runtime.session import constant_values
from decoding.model.verify import equivalence

# Weights of products keep to 7 bits. Two products of 8 bits overflow the 16 that x86 processors without VNNI sum them in,
# so that one file would give other logits there (onnxruntime's documentation on quantization, "reduce range").
PRODUCT_RANGE, TABLE_RANGE = 63, 127
# What is multiplied: from -127 to 127 about uint8's middle.
_ZERO, _STEP = np.array(128, np.uint8), np.array(1 / 127, np.float32)

_ORT = "com.microsoft"
_BODIES = frozenset({"Loop", "Scan", "If"})


class _Left(Exception):
    """Why an operator stays in floating point."""


def check_quantize(quantize: str | None, providers: Sequence[Any]) -> None:
    """Raise OptionError for an unknown value of `quantize`, and for providers without int8 products."""
    if quantize is not None and (not isinstance(quantize, str) or quantize != "int8"):
        raise OptionError(
            f"quantize={shown(quantize)}: expected 'int8', or None for the weights as they are in the file"
        )
    if quantize and device_of(providers)[0] != "cpu":
        raise OptionError("quantize='int8': onnxruntime has its int8 products on the CPU alone; load it without quantize=, or with providers='cpu'")  # fmt: skip


def quantized(program: StepProgram, open_session: OpenSession, verify: bool) -> StepProgram:
    """The program with int8 weights; its notes say how far that moves the logits.

    Raises:
        ModelError: its layers give other scores as plain operators.
        OptionError: it has no weights that can be int8.
    """
    graph, contract = program.graph, program.contract
    steps = plain_steps(graph, contract, np.dtype(np.float32))
    if verify and steps.done and not equivalence.same_step(program.session, open_session(steps.graph), contract):
        raise ModelError(
            f"{graph.name}: its layers give different scores when written as plain operators, which int8 needs; load it without quantize="
        )
    int8_graph, int8_contract = to_int8(graph, steps, contract)
    int8 = StepProgram(int8_graph, open_session(int8_graph), int8_contract)
    if not verify:
        return int8
    moved = equivalence.change(int8.session, program.session, contract)
    return int8.with_note(f"int8 moves the logits after random prefixes by at most {moved:.1%} of the largest")


def to_int8(graph: Graph, steps: Steps, contract: Contract) -> tuple[Graph, Contract]:
    """`steps` with its weights in int8, and the contract with a note on which are and which could not be.

    Raises:
        OptionError: no weights can be; the message lists them with the reasons.
    """
    int8, done, left = steps.graph.copy(), list(steps.done), list(steps.left)
    listed = {what(node) for node in graph.nodes}
    with int8.recorded("quantize the weights"):
        int8.use_operators(_ORT, 1)
        for node in int8.nodes:
            name = what(node)
            try:
                if node.op in _REWRITES and _is_computed(int8, node):
                    _REWRITES[node.op](int8, node)
                    done += [name] if name in listed else []
            except _Left as reason:
                left.append(f"{name} ({reason})")
            if node.op in _BODIES:
                left.append(f"{name} (what is inside it)")
    if not done:
        raise OptionError(f"quantize='int8': {graph.name} has no weights that can be: {', '.join(left) or 'no recurrent layer, product or embedding'}; "
                          "load it without quantize=")  # fmt: skip
    int8.forget_shapes()
    int8.keep_outputs([port.name for port in int8.outputs])
    kept = f"; in floating point: {', '.join(left)}" if left else ""
    note = f"weights in int8: {', '.join(done)}{kept}"
    return int8, replace(contract, sequence=contract.sequence and not steps.done).with_notes(note)


def int8_rows(weights: Array, largest: int) -> tuple[Array, Array]:
    """Weights [..., N, K] as int8 from -largest to largest, and a float32 scale [..., N] for each row.

    The scale is the row's largest magnitude divided by `largest`, so ``int8 * scale`` is off by half a scale at most.
    """
    scale = np.abs(weights).max(axis=-1, initial=0) / largest
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(weights / scale[..., None]).clip(-largest, largest).astype(np.int8), scale


def _matmul(graph: Graph, node: Node) -> None:
    if _varies(graph, node.input(1)):
        raise _Left("no side is a weight" if _varies(graph, node.input(0)) else "its weights are on the left")
    _write_product(graph, node, _weights(graph, node.input(1)).T, "")


def _gemm(graph: Graph, node: Node) -> None:
    if node.attribute("transA", 0) or node.attribute("beta", 1.0) != 1:
        raise _Left("transA or beta")
    weights = _weights(graph, node.input(1))
    rows = weights if node.attribute("transB", 0) else weights.T
    _write_product(graph, node, rows * np.float32(node.attribute("alpha", 1.0)), node.input(2))


def _write_product(graph: Graph, node: Node, rows: Array, added: str) -> None:
    """Put the int8 product of the node's first input with weights [N, K] in its place, and add a tensor if there is one."""
    write, x, output = Writer(graph, node), node.input(0), node.outputs[0]
    node.rename_output(0, f"{output}/unused")
    numbers, scale = int8_rows(rows, PRODUCT_RANGE)
    zero, step = write.constant(_ZERO), write.constant(_STEP)
    # A row of zeros is divided by something, too.
    largest = write("Add", _largest(graph, write, write("Abs", x)), write.constant(np.array(1e-30, np.float32)))
    left = write("QuantizeLinear", write("Div", x, largest), step, zero, domain=_ORT)
    weights = [write.constant(np.ascontiguousarray(numbers.T)), step, write.constant(scale), zero]
    product = write("MatMulIntegerToFloat", left, *weights, domain=_ORT)
    scaled = write("Mul", product, largest, output=None if added else output)
    if added:
        write("Add", scaled, added, output=output)
    graph.edited()


def _largest(graph: Graph, write: Writer, tensor: str) -> str:
    """The largest number of each row."""
    if graph.opset < 18:
        return write("ReduceMax", tensor, axes=[-1], keepdims=1)
    return write("ReduceMax", tensor, write.constant(np.array([-1])), keepdims=1)


def _gather(graph: Graph, node: Node) -> None:
    if node.attribute("axis", 0) != 0:
        raise _Left("it takes columns")
    write, ids, output = Writer(graph, node), node.input(1), node.outputs[0]
    numbers, scale = int8_rows(_weights(graph, node.input(0)), TABLE_RANGE)
    node.rename_output(0, f"{output}/unused")
    rows = write("Gather", write.constant(numbers), ids)
    scales = write("Gather", write.constant(scale[:, None]), ids)
    write("Mul", write("Cast", rows, to=np.dtype(np.float32)), scales, output=output)
    graph.edited()


_REWRITES: dict[str, Callable[[Graph, Node], None]] = {"MatMul": _matmul, "Gemm": _gemm, "Gather": _gather}  # fmt: skip


def _is_computed(graph: Graph, node: Node) -> bool:
    """Return whether a run computes this operator on floats: exporters also arrange weights and shapes with such nodes."""
    if node.op == "Gather":
        return _varies(graph, node.input(1)) and not _varies(graph, node.input(0)) and _is_table(graph, node.input(0))
    return _varies(graph, node.outputs[0])


def _is_table(graph: Graph, name: str) -> bool:
    values = constant_values(graph, [name])
    return values is not None and values[0].ndim == 2 and values[0].dtype.kind == "f"


def _varies(graph: Graph, name: str) -> bool:
    return bool(graph.ancestors(name) & {port.name for port in graph.inputs})


def _weights(graph: Graph, name: str) -> Array:
    values = constant_values(graph, [name])
    if values is None:
        raise _Left("its weights are computed from an input")
    if values[0].ndim != 2 or values[0].dtype != np.float32:
        raise _Left(f"its weights are {values[0].dtype} of rank {values[0].ndim}")
    return values[0]
