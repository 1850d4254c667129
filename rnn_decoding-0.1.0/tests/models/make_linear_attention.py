"""Make the fixtures of ONNX's own recurrences: `python tests/models/make_linear_attention.py`.

Needs onnx 1.22 and onnxruntime. The network is an embedding, CausalConvWithState, LinearAttention (both of opset 27)
and a linear output; the truth is the formulas of the specification in float64 NumPy.
"""

import numpy as np
import onnx
from fixture import add, rng
from onnx import TensorProto, helper, numpy_helper

V, H, HEADS, D, TAPS = 11, 8, 2, 4, 4
NAMES = ("embedding", "kernel", "query", "key", "value", "decay", "beta", "out")
SHAPES = ((V, H), (H, 1, TAPS), (H, H), (H, H), (H, H), (H, HEADS), (H, HEADS), (H, V))


def weights(name):
    draw = rng(name)
    return {k: draw.normal(size=s).astype(np.float32) * 0.6 for k, s in zip(NAMES, SHAPES, strict=True)}


def network(w, opset, domain, states):
    """The model; `states`: its states are inputs and outputs."""
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"]),
        helper.make_node("Transpose", ["x"], ["x_t"], perm=[0, 2, 1]),
        helper.make_node("CausalConvWithState", ["x_t", "kernel", "", "past_conv" if states else ""],
                         ["c_t", "present_conv"], domain=domain, activation="silu"),
        helper.make_node("Transpose", ["c_t"], ["c"], perm=[0, 2, 1]),
        *(helper.make_node("MatMul", ["c", k], [k[0]]) for k in ("query", "key", "value")),
        helper.make_node("MatMul", ["c", "decay"], ["d0"]),
        helper.make_node("Softplus", ["d0"], ["d1"]),
        helper.make_node("Neg", ["d1"], ["d"]),
        helper.make_node("MatMul", ["c", "beta"], ["b0"]),
        helper.make_node("Sigmoid", ["b0"], ["b"]),
        helper.make_node("LinearAttention", ["q", "k", "v", "past_state" if states else "", "d", "b"],
                         ["y", "present_state"], domain=domain, q_num_heads=HEADS, kv_num_heads=HEADS,
                         update_rule="gated_delta"),
        helper.make_node("MatMul", ["y", "out"], ["logits"]),
    ]  # fmt: skip
    real, ids, batch, time = TensorProto.FLOAT, TensorProto.INT64, "batch", "time"
    sizes = {"conv": [batch, H, TAPS - 1], "state": [batch, HEADS, D, D]} if states else {}
    graph = helper.make_graph(
        nodes,
        "linear attention",
        [helper.make_tensor_value_info("input_ids", ids, [batch, time]),
         *(helper.make_tensor_value_info(f"past_{k}", real, s) for k, s in sizes.items())],
        [helper.make_tensor_value_info("logits", real, [batch, time, V]),
         *(helper.make_tensor_value_info(f"present_{k}", real, s) for k, s in sizes.items())],
        [numpy_helper.from_array(value, k) for k, value in w.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=13)


def truth(w):
    w = {k: v.astype(np.float64) for k, v in w.items()}

    def run(ids):
        x = w["embedding"][ids]
        padded = np.concatenate([np.zeros((TAPS - 1, H)), x])
        c = sum(padded[i : i + len(ids)] * w["kernel"][:, 0, i] for i in range(TAPS))
        c = c / (1 + np.exp(-c))
        q, k, v = ((c @ w[n]).reshape(-1, HEADS, D) for n in ("query", "key", "value"))
        decay, beta = 1 / (1 + np.exp(c @ w["decay"])), 1 / (1 + np.exp(-c @ w["beta"]))  # exp(-softplus(x))
        memory, rows = np.zeros((HEADS, D, D)), []
        for t in range(len(ids)):
            memory = decay[t][:, None, None] * memory
            wrong = v[t] - np.einsum("hkv,hk->hv", memory, k[t])
            memory = memory + (beta[t][:, None] * k[t])[:, :, None] * wrong[:, None]
            rows.append(np.einsum("hkv,hk->hv", memory, q[t]).reshape(-1) * D**-0.5)
        return np.array(rows) @ w["out"]

    return run


def main():
    for name, opset, domain, states, more in (
        ("hand_linear_attention_opset27", 27, "", True,
         {"run": "never", "notes": "onnxruntime 1.31 takes opset 26, and has these operators as its own"}),
        ("hand_linear_attention_states", 21, "com.microsoft", True, {}),
        ("hand_linear_attention_hidden", 21, "com.microsoft", False, {"expect": "window"}),
    ):  # fmt: skip
        w = weights(name)
        pairs = {1: (1, 0), 2: (2, 0)} if states else {}
        add(name, network(w, opset, domain, states), truth(w), script="make_linear_attention.py", vocab=V,
            exporter=f"onnx {onnx.__version__} helper, opset {opset}", cell="LinearAttention, CausalConvWithState",
            row="modern recurrent language models", token=(0, "BT"), out=(0, "BTV"), states=pairs, **more)  # fmt: skip


if __name__ == "__main__":
    main()
