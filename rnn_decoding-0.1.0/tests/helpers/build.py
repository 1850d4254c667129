"""Small recurrent models built with onnx.helper, for tests that need a shape of their own.

Real exports, with the outputs of the framework that made them, are in tests/models/.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "peephole": 4, "GRU": 3, "RNN": 1}
CELLS = list(GATES)


def recurrent(
    cell="LSTM",
    *,
    vocab=11,
    hidden=8,
    layers=1,
    exposed=False,
    final=None,
    direction="forward",
    seed=0,
    bias=None,
    metadata=None,
    scale=1.0,
):
    """Embedding, `layers` recurrent layers, linear: ids [batch, time] in, scores [batch, time, vocab] out.

    Args:
        cell: "LSTM", "peephole" (an LSTM with input P), "GRU" or "RNN".
        exposed: the states are inputs and outputs (h0, c0, ...), else hidden and started at zero.
        final: "Softmax" or "LogSoftmax" at the end.
        bias: float32 [vocab] of the linear layer; default random.
        metadata: entries of metadata_props, written as JSON.
    """
    rng = np.random.default_rng(seed)
    ways = 2 if direction == "bidirectional" else 1
    weights, nodes, inputs, outputs = {}, [], [], []

    def weight(name, *shape):
        weights[name] = (rng.uniform(-1, 1, shape) * scale).astype(np.float32)
        return name

    nodes += [
        helper.make_node("Gather", [weight("table", vocab, hidden), "tokens"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
    ]
    x, width = "x", hidden
    for layer in range(layers):
        rows = GATES[cell] * hidden
        state_names = ["h", "c"] if GATES[cell] == 4 else ["h"]
        ins = [f"{s}{layer}" if exposed else "" for s in state_names]
        outs = [f"{s}{layer}_out" if exposed else "" for s in state_names]
        if exposed:
            inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, [ways, "batch", hidden]) for n in ins]
            outputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, [ways, "batch", hidden]) for n in outs]
        parts = [
            weight(f"W{layer}", ways, rows, width),
            weight(f"R{layer}", ways, rows, hidden),
            weight(f"B{layer}", ways, 2 * rows),
        ]
        peepholes = [weight(f"P{layer}", ways, 3 * hidden)] if cell == "peephole" else []
        nodes += [
            helper.make_node(
                "LSTM" if cell == "peephole" else cell,
                [x, *parts, "", *ins, *peepholes],
                [f"y{layer}", *outs],
                name=f"layer{layer}",
                hidden_size=hidden,
                direction=direction,
            ),
            helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"t{layer}", "merge"], [f"x{layer}"]),
        ]
        x, width = f"x{layer}", ways * hidden
    weights["merge"] = np.array([0, 0, width], np.int64)
    weights["bias"] = rng.uniform(-1, 1, vocab).astype(np.float32) if bias is None else np.asarray(bias, np.float32)
    nodes += [
        helper.make_node("Transpose", [x], ["back"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["back", weight("out", width, vocab)], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits" if final is None else "scores"]),
    ]
    if final is not None:
        nodes.append(helper.make_node(final, ["scores"], ["logits"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"]), *inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", vocab]), *outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return model(graph, metadata)


def unigram(logits, *, metadata=None):
    """A recurrent model (so that it loads) whose logits are `logits` at every step, whatever came before."""
    proto = recurrent("GRU", vocab=len(logits), hidden=2, exposed=True, bias=logits, metadata=metadata)
    out = next(t for t in proto.graph.initializer if t.name == "out")
    out.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(out)), "out"))
    return proto


def model(graph, metadata=None):
    """A ModelProto around a graph, at an opset and IR version that onnxruntime has long known."""
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, {key: json.dumps(value) for key, value in (metadata or {}).items()})
    onnx.checker.check_model(proto)
    return proto


def whole_run(proto, ids):
    """Onnxruntime's own run of an unchanged model whose states are hidden, on ids [B, T]."""
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"tokens": np.asarray(ids, np.int64)})[0]
