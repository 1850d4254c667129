"""Recurrent cells with random options: ONNX models, and the same cells in float64 NumPy."""

import numpy as np
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import build
from tests.models import numpy_cells

VOCAB, WIDTH = 7, 3
# Activation: its own alpha and beta where it takes any.
ACTIVATIONS = {"Tanh": (), "Sigmoid": (), "Relu": (), "Softsign": (), "Softplus": (), "HardSigmoid": (0.3, 0.4),
               "LeakyRelu": (0.1,), "Elu": (0.7,), "ScaledTanh": (0.8, 0.9), "Affine": (0.5, 0.1), "ThresholdedRelu": (0.2,)}  # fmt: skip
GATES = ["Sigmoid", "HardSigmoid", "Tanh", "Softsign"]  # with gates beyond one a state explodes within a few steps
COUNT = {"LSTM": 3, "GRU": 2, "RNN": 1}


@st.composite
def cells(draw):
    """A cell's name, attributes, and which of its optional inputs it has."""
    op = draw(st.sampled_from(["LSTM", "GRU", "RNN"]))
    attributes = {"hidden_size": draw(st.integers(1, 5))}
    if draw(st.booleans()):
        names = [
            draw(st.sampled_from(GATES if gate else list(ACTIVATIONS)))
            for gate in (op != "RNN", *[False] * (COUNT[op] - 1))
        ]
        numbers = [ACTIVATIONS[name] for name in names]
        attributes |= {"activations": names, "activation_alpha": [n[0] for n in numbers if n], "activation_beta": [n[1] for n in numbers if n[1:]]}  # fmt: skip
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from([0.25, 0.5, 2.0]))
    if op == "LSTM":
        attributes["input_forget"] = draw(st.integers(0, 1))
    if op == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    options = {name: draw(st.booleans()) for name in ("bias", "start", "exposed", "layout")}
    options["peepholes"] = op == "LSTM" and draw(st.booleans())
    return op, {k: v for k, v in attributes.items() if v != []}, options, draw(st.integers(0, 2**32 - 1))


def built(op, attributes, options, seed):
    """The model over ids [batch, time] and the NumPy cell's logits for such ids."""
    rng = np.random.default_rng(seed)
    hidden, gates = attributes["hidden_size"], build.GATES[op]

    def weight(*shape):
        return rng.uniform(-0.6, 0.6, shape).astype(np.float32)

    values = {"table": weight(VOCAB, WIDTH), "W": weight(1, gates * hidden, WIDTH), "R": weight(1, gates * hidden, hidden),
              "head": weight(hidden, VOCAB)}  # fmt: skip
    if options["bias"]:
        values["B"] = weight(1, 2 * gates * hidden)
    if options["peepholes"]:
        values["P"] = weight(1, 3 * hidden)
    states = ["h0", "c0"][: 1 + (op == "LSTM")]
    starts = {
        name: weight(1, 1, hidden) if options["start"] else np.zeros((1, 1, hidden), np.float32) for name in states
    }
    batch_first, exposed = options["layout"], options["exposed"]
    shape = ["batch", 1, hidden] if batch_first else [1, "batch", hidden]
    inputs, outputs, names = [], [], []
    if exposed:
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in states]
        outputs = [helper.make_tensor_value_info(f"{name}_next", TensorProto.FLOAT, shape) for name in states]
        names = states
    elif options["start"]:
        values |= starts
        names = states
    nodes = [helper.make_node("Gather", ["table", "tokens"], ["x"])]
    if not batch_first:
        nodes.append(helper.make_node("Transpose", ["x"], ["x_time"], perm=[1, 0, 2]))
    elif names and not exposed:  # one start for any batch, which layout=1 counts first
        names = []
        starts = {name: np.zeros_like(value) for name, value in starts.items()}
    slots = ["x" if batch_first else "x_time", "W", "R", "B" if options["bias"] else "", "", *names]
    if options["peepholes"]:
        slots += [""] * (7 - len(slots)) + ["P"]
    ends = [f"{name}_next" for name in states] if exposed else []
    nodes += [
        helper.make_node(op, slots, ["y", *ends], name="layer", **attributes, **({"layout": 1} if batch_first else {})),
        helper.make_node("Squeeze", ["y", "directions"], ["h"]),
        helper.make_node("MatMul", ["h", "head"], ["logits"]),
    ]
    values["directions"] = np.array([2 if batch_first else 1])
    order = ["batch", "time", VOCAB] if batch_first else ["time", "batch", VOCAB]
    graph = helper.make_graph(
        nodes,
        "cell",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"]), *inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, order), *outputs],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    if exposed:
        starts = {name: np.zeros_like(value) for name, value in starts.items()}

    def truth(ids):
        x = values["table"][ids].swapaxes(0, 1)
        options = {
            k: v for k, v in attributes.items() if k in ("activations", "clip", "input_forget", "linear_before_reset")
        }
        options |= {"alpha": attributes.get("activation_alpha", ()), "beta": attributes.get("activation_beta", ())}
        begin = [np.repeat(starts[name][0], len(ids), axis=0) for name in states]
        more = [values["P"][0]] if "P" in values else []
        bias = values["B"][0] if "B" in values else None
        cell = getattr(numpy_cells, op.lower())
        return (
            cell(x, values["W"][0], values["R"][0], bias, *begin, *more, **options)[0].swapaxes(0, 1) @ values["head"]
        )

    return build.model(graph), truth
