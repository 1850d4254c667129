"""Make the fixtures that no exporter writes: `python tests/models/make_handbuilt.py [part of a name ...]`.

Needs onnx, onnxruntime and NumPy. The expected outputs come from numpy_cells.py (float64).
Every model is Embedding -> recurrent layer(s) -> Linear, built with onnx.helper.
"""

import json
import sys

import numpy as np
import numpy_cells as cells
import onnx
from fixture import add, rng
from onnx import TensorProto, helper, numpy_helper

V, E, H = 9, 4, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CELLS = {"RNN": cells.rnn, "GRU": cells.gru, "LSTM": cells.lstm}
F32, F64, I64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
node, info = helper.make_node, helper.make_tensor_value_info


def const(name, value, dtype=None):
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def weights(name, op, peepholes=False, inputs=E, hidden=H, scale=1.0):
    """Return float32 embedding, W, R, B, P, output weight and bias; tokens differ visibly."""
    u, g = rng(name + "/w").uniform, GATES[op]
    shapes = {
        "emb": (V, inputs), "W": (1, g * hidden, inputs), "R": (1, g * hidden, hidden),
        "B": (1, 2 * g * hidden),
        "P": (1, 3 * hidden), "out_w": (hidden, V), "out_b": (V,),
    }  # fmt: skip
    w = {key: (scale * u(-1, 1, shape)).astype(np.float32) for key, shape in shapes.items()}
    w["emb"] *= 2
    w["out_w"] *= 2
    if not peepholes:
        del w["P"]
    return w


def truth(op, w, h0=None, c0=None, **options):
    def run(ids):
        states = {k: np.reshape(v, (1, -1)) for k, v in (("h0", h0), ("c0", c0)) if v is not None}
        if "P" in w:
            states["P"] = w["P"][0]
        x = w["emb"].astype(np.float64)[ids][:, None]
        y = CELLS[op](x, w["W"][0], w["R"][0], w["B"][0], **states, **options)[0]
        return y[:, 0] @ w["out_w"].astype(np.float64) + w["out_b"]

    return run


def model(nodes, inputs, outputs, initializers, opset=17, ir=8, **more):
    """Make a model; initializers: {name: array}."""
    graph = helper.make_graph(nodes, "main", inputs, outputs, [const(k, v) for k, v in initializers.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)


def layer_model(op, w, *, opset=17, ir=8, layout=0, exposed=None, init=None, lens=None, batch="batch",
                time="time",
                logits="logits", double=False, attributes=None):  # fmt: skip
    """Ids [batch, time] -> Gather -> RNN, GRU or LSTM -> MatMul -> logits [batch, time, V].

    exposed: [(state input, state output)], init: constant initial states,
    lens: constant sequence_lens or "shape".
    """
    real, cast = (F64, np.float64) if double else (F32, np.float32)
    consts = {k: v.astype(cast) for k, v in w.items()}
    states = ["h0", "c0"] if op == "LSTM" else ["h0"]
    nodes = [node("Gather", ["emb", "ids"], ["embedded"])]
    x = "embedded"
    if not layout:
        nodes.append(node("Transpose", [x], ["x"], perm=[1, 0, 2]))
        x = "x"
    names = [""] * 2
    if exposed:
        names[: len(states)] = [i for i, _ in exposed]
    for key, value in zip(states, init or [], strict=False):
        consts[key] = np.asarray(value, cast).reshape(1, 1, -1)
        names[states.index(key)] = key
    if init and batch == "batch":  # the batch is free: expand the constants to it
        consts |= {"zero": np.array([0]), "one": np.array([1])}
        nodes += [
            node("Shape", ["ids"], ["ids_shape"]),
            node("Slice", ["ids_shape", "zero", "one"], ["batch_size"]),
            node("Concat", ["one", "batch_size", "one"], ["state_shape"], axis=0),
            *(node("Expand", [n, "state_shape"], [n + "_b"]) for n in names if n),
        ]
        names = [n and n + "_b" for n in names]
    length = ""
    if isinstance(lens, str):
        consts |= {"one1": np.array([1]), "two1": np.array([2]), "zero1": np.array([0])}
        nodes += [
            node("Shape", ["ids"], ["shape"]),
            node("Slice", ["shape", "zero1", "one1"], ["batch_only"]),
            node("Slice", ["shape", "one1", "two1"], ["time_only"]),
            node("Cast", ["time_only"], ["time32"], to=TensorProto.INT32),
            node("Expand", ["time32", "batch_only"], ["lens"]),
        ]
        length = "lens"
    elif lens is not None:
        consts["lens"], length = np.asarray(lens, np.int32), "lens"
    inputs = [x, "W", "R", "B", length, *names[: len(states)], *(["P"] if "P" in w else [])]
    results = [o for _, o in exposed] if exposed else []
    extra = {"layout": 1} if layout else {}
    nodes.append(node(op, inputs, ["y", *results], op.lower(), hidden_size=H, **extra, **(attributes or {})))
    y_axis = 2 if layout else 1
    if opset < 13:
        nodes.append(node("Squeeze", ["y"], ["y3"], axes=[y_axis]))
    else:
        consts["y_axis"] = np.array([y_axis])
        nodes.append(node("Squeeze", ["y", "y_axis"], ["y3"]))
    y = "y3"
    if not layout:
        nodes.append(node("Transpose", [y], ["y_bt"], perm=[1, 0, 2]))
        y = "y_bt"
    nodes += [node("MatMul", [y, "out_w"], ["product"]), node("Add", ["product", "out_b"], [logits])]
    shape = [batch, 1, H] if layout else [1, batch, H]
    return model(
        nodes,
        [info("ids", I64, [batch, time]), *(info(i, real, shape) for i, _ in exposed or [])],
        [info(logits, real, [batch, time, V]), *(info(o, real, shape) for _, o in exposed or [])],
        consts, opset, ir,
    )  # fmt: skip


def put(name, proto, expected, cell, **more):
    exporter = f"onnx {onnx.__version__} helper, opset {proto.opset_import[0].version}"
    settings = {
        "script": "make_handbuilt.py", "exporter": exporter, "row": "hand-written", "vocab": V,
        "token": ("ids", "BT"), "out": ("logits", "BTV"),
    }  # fmt: skip
    add(name, proto, expected, cell=cell, **{**settings, **more})


def layers():
    """Yield (name, op, options of layer_model, options of the NumPy cell, options of put)."""
    u = rng("initial states").uniform
    h0, c0 = u(-1, 1, H), u(-1, 1, H)
    act = {"activations": ["HardSigmoid", "ScaledTanh", "Affine"], "activation_alpha": [0.3, 1.7, 0.8],
           "activation_beta": [0.4, 0.6, 0.1]}  # fmt: skip
    act_np = {"activations": act["activations"], "alpha": [0.3, 1.7, 0.8], "beta": [0.4, 0.6, 0.1]}
    hc = [("h_in", "h_out"), ("c_in", "c_out")]
    one, two = {"h_in": ("h_out", 1)}, {"h_in": ("h_out", 1), "c_in": ("c_out", 1)}
    never = {"run": "never", "accept": ["step", "refuse"], "reason": "layout"}
    lay = {**never, "accept": ["step"], "notes": "onnxruntime refuses layout=1: transpose it"}
    yield "lstm_hidden", "LSTM", {}, {}, {}
    yield "gru_lbr0", "GRU", {}, {}, {}
    yield "gru_lbr1", "GRU", {"attributes": {"linear_before_reset": 1}}, {"linear_before_reset": 1}, {}
    yield "rnn_tanh", "RNN", {}, {}, {}
    yield "rnn_relu", "RNN", {"attributes": {"activations": ["Relu"]}}, {"activations": ["Relu"]}, {}
    yield "lstm_peephole", "LSTM", {}, {}, {"cell": "LSTM with peepholes"}
    yield "lstm_peephole_states", "LSTM", {"exposed": hc}, {}, {"states": two, "cell": "LSTM with peepholes"}
    yield "lstm_peephole_layout1", "LSTM", {"layout": 1}, {}, {**lay, "cell": "LSTM with peepholes"}
    yield "lstm_layout1", "LSTM", {"layout": 1}, {}, lay
    states0 = {"h_in": ("h_out", 0), "c_in": ("c_out", 0)}
    yield "lstm_layout1_states", "LSTM", {"layout": 1, "exposed": hc}, {}, {**lay, "states": states0}
    yield "gru_layout1", "GRU", {"layout": 1}, {}, lay
    yield "rnn_layout1_init", "RNN", {"layout": 1, "init": [h0], "batch": 1}, {"h0": h0}, lay
    yield "lstm_clip", "LSTM", {"attributes": {"clip": 0.5}}, {"clip": 0.5}, {"cell": "LSTM with clip"}
    yield "gru_clip", "GRU", {"attributes": {"clip": 0.5}}, {"clip": 0.5}, {"cell": "GRU with clip"}
    yield "rnn_clip", "RNN", {"attributes": {"clip": 0.5}}, {"clip": 0.5}, {"cell": "RNN with clip"}
    forget = {"attributes": {"input_forget": 1}}
    yield "lstm_input_forget", "LSTM", forget, {"input_forget": 1}, {"cell": "LSTM with input_forget"}
    yield "lstm_activations", "LSTM", {"attributes": act}, act_np, {"cell": "LSTM, other activations"}
    soft = {"activations": ["Sigmoid", "Softsign"]}
    yield "gru_activations", "GRU", {"attributes": soft}, soft, {"cell": "GRU, other activations"}
    leaky = {"activations": ["LeakyRelu"]}
    leaky_attributes = {**leaky, "activation_alpha": [0.3]}
    yield "rnn_leaky_relu", "RNN", {"attributes": leaky_attributes}, {**leaky, "alpha": [0.3]}, {}
    yield "lstm_states", "LSTM", {"exposed": hc}, {}, {"states": two}
    yield (
        "gru_states_fixed_batch",
        "GRU",
        {"exposed": hc[:1], "batch": 1, "time": 1},
        {},
        {"states": one, "run": "steps", "notes": "batch and time declared 1; no node depends on them"},
    )
    yield (
        "lstm_states_batch3",
        "LSTM",
        {"exposed": hc, "batch": 3, "time": 1},
        {},
        {"states": two, "run": "steps", "batch": 3, "notes": "batch declared 3"},
    )
    yield (
        "lstm_states_swapped",
        "LSTM",
        {"exposed": hc},
        {},
        {"states": two, "notes": "c_out stands before h_out, both have one shape: only the names tell"},
    )
    yield (
        "lstm_initial_state",
        "LSTM",
        {"init": [h0, c0]},
        {"h0": h0, "c0": c0},
        {"notes": "constant initial state, not zero, expanded to the batch"},
    )
    yield (
        "gru_initial_state_fixed",
        "GRU",
        {"init": [h0], "batch": 1},
        {"h0": h0},
        {"notes": "constant initial state, not zero; batch fixed at 1"},
    )
    yield "lstm_lens_shape", "LSTM", {"lens": "shape"}, {}, {"notes": "sequence_lens computed from the shape"}
    yield (
        "gru_lens_constant",
        "GRU",
        {"lens": [9], "batch": 1},
        {},
        {
            "lengths": (9,) * 3,
            "accept": ["step", "refuse"],
            "reason": "sequence_lens|length",
            "notes": "sequence_lens is the constant 9: the file itself runs only nine steps at once",
        },
    )
    yield (
        "lstm_lens_short",
        "LSTM",
        {"lens": [5], "batch": 1},
        {"lens": [5]},
        {
            "lengths": (5, 9),
            "accept": ["step", "refuse"],
            "reason": "sequence_lens|length",
            "tolerance": 2e-5,
            "notes": "sequence_lens is the constant 5: past it the output is that of a zero h",
        },
    )
    yield "lstm_opset7", "LSTM", {"opset": 7, "ir": 3}, {}, {}
    yield "gru_opset7", "GRU", {"opset": 7, "ir": 3}, {}, {}
    yield "lstm_opset26", "LSTM", {"opset": 26, "ir": 13}, {}, {"notes": "the newest onnxruntime 1.31 takes"}
    yield (
        "lstm_opset28",
        "LSTM",
        {"opset": 28, "ir": 14},
        {},
        {"run": "never", "notes": "onnxruntime 1.31 takes opset 26; its operators mean the same there"},
    )
    yield (
        "lstm_float64",
        "LSTM",
        {"double": True},
        {},
        {
            "run": "never",
            "expect": "refuse",
            "accept": ["refuse", "step"],
            "reason": "float64|double",
            "notes": "onnxruntime makes the session and fails at the first run",
        },
    )
    half = {"tolerance": 2e-2, "crashes": True}
    half["notes"] = "float16 weights and logits; all optimizations on crash onnxruntime 1.31"
    yield "gru_float16", "GRU", {}, {}, half
    yield "rnn_float16", "RNN", {}, {}, half
    yield "lstm_external", "LSTM", {}, {}, {"external": True, "notes": "weights in hand_lstm_external.data"}


def to_float16(proto):
    for tensor in proto.graph.initializer:
        if tensor.data_type == F32:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def make_layers(wanted):
    for short, op, build, numpy_options, more in layers():
        name = "hand_" + short
        if not wanted(name):
            continue
        w = weights(name, op, "peephole" in name)
        proto = layer_model(op, w, **build)
        if "float16" in name:
            to_float16(proto)
        if "swapped" in name:
            outputs = list(proto.graph.output)
            del proto.graph.output[:]
            proto.graph.output.extend([outputs[0], outputs[2], outputs[1]])
        put(name, proto, truth(op, w, **numpy_options), **{"cell": op, **more})


def stacked(name):
    """Two LSTM layers whose states are stacked, batch axis last: [layers, H, batch]."""
    first, second = weights(name, "LSTM"), weights(name + "2", "LSTM", inputs=H)
    c = {"emb": first["emb"], "out_w": second["out_w"], "out_b": second["out_b"], "axis1": np.array([1])}
    c |= {f"{k}{i}": w[k] for i, w in enumerate((first, second)) for k in "WRB"}
    nodes = [node("Gather", ["emb", "ids"], ["e"]), node("Transpose", ["e"], ["x0"], perm=[1, 0, 2])]
    for s in "hc":
        nodes += [node("Transpose", [s], [s + "_t"], perm=[0, 2, 1]),
                  node("Split", [s + "_t"], [s + "0", s + "1"], axis=0)]  # fmt: skip
    for i in range(2):
        outs = [f"y{i}", f"h{i}n", f"c{i}n"]
        nodes += [node("LSTM", [f"x{i}", f"W{i}", f"R{i}", f"B{i}", "", f"h{i}", f"c{i}"], outs,
                       hidden_size=H),
                  node("Squeeze", [f"y{i}", "axis1"], [f"x{i + 1}"])]  # fmt: skip
    for s in "hc":
        nodes += [node("Concat", [s + "0n", s + "1n"], [s + "_c"], axis=0),
                  node("Transpose", [s + "_c"], [s + "_next"], perm=[0, 2, 1])]  # fmt: skip
    nodes += [node("Transpose", ["x2"], ["y"], perm=[1, 0, 2]), node("MatMul", ["y", "out_w"], ["p"]),
              node("Add", ["p", "out_b"], ["logits"])]  # fmt: skip
    state = [2, H, "batch"]
    proto = model(nodes, [info("ids", I64, ["batch", "time"]), *(info(s, F32, state) for s in "hc")],
                  [info("logits", F32, ["batch", "time", V]),
                   *(info(s + "_next", F32, state) for s in "hc")], c,
                  13, 8)  # fmt: skip

    def expected(ids):
        x = first["emb"].astype(np.float64)[ids][:, None]
        for w in (first, second):
            x = cells.lstm(x, w["W"][0], w["R"][0], w["B"][0])[0]
        return x[:, 0] @ second["out_w"].astype(np.float64) + second["out_b"]

    put(name, proto, expected, "LSTM, 2 layers", states={"h": ("h_next", 2), "c": ("c_next", 2)},
        notes="states stacked [layers, H, batch]: the batch axis is the last")  # fmt: skip


def directions(name, op, direction):
    """A bidirectional or reverse layer: never a decoder."""
    n = 2 if direction == "bidirectional" else 1
    w = weights(name, op)
    w |= {k: np.concatenate([w[k]] * n) for k in "WRB"}
    w["out_w"] = np.concatenate([w["out_w"]] * n)
    c = {**w, "shape": np.array([0, 0, -1])}
    nodes = [
        node("Gather", ["emb", "ids"], ["e"]), node("Transpose", ["e"], ["x"], perm=[1, 0, 2]),
        node(op, ["x", "W", "R", "B"], ["y"], f"{op.lower()}_layer", hidden_size=H, direction=direction),
        node("Transpose", ["y"], ["y_bt"], perm=[2, 0, 1, 3]), node("Reshape", ["y_bt", "shape"], ["y_flat"]),
        node("MatMul", ["y_flat", "out_w"], ["p"]), node("Add", ["p", "out_b"], ["logits"]),
    ]  # fmt: skip
    proto = model(nodes, [info("ids", I64, ["batch", "time"])], [info("logits", F32, ["batch", "time", V])], c)

    def expected(ids):
        x = w["emb"].astype(np.float64)[ids][:, None]
        y = [CELLS[op](x, w["W"][0], w["R"][0], w["B"][0])[0]] if n == 2 else []
        y.append(CELLS[op](x[::-1], w["W"][0], w["R"][0], w["B"][0])[0][::-1])
        return np.concatenate(y, -1)[:, 0] @ w["out_w"].astype(np.float64) + w["out_b"]

    put(name, proto, expected, op, row="bidirectional or reverse", expect="refuse",
        reason=f"({direction}).*{op.lower()}_layer|{op.lower()}_layer.*({direction})")  # fmt: skip


def in_if(name, exposed):
    """Two nested Ifs, an LSTM in each branch (as in silero-vad).

    exposed: the input `sr` picks the branch, states in and out; else constants pick it and states are hidden.
    """
    ws = [weights(f"{name}{i}", "LSTM") for i in range(3)]

    def branch(i, sub=None, **captured):
        c = {f"{k}_{i}": v for k, v in ws[i].items()} | {f"axis_{i}": np.array([1]), f"zero_{i}": np.array(0)}
        c[f"one_{i}"] = np.array(1)
        nodes = [node("Gather", [f"emb_{i}", "ids"], [f"e_{i}"]),
                 node("Transpose", [f"e_{i}"], [f"x_{i}"], perm=[1, 0, 2])]  # fmt: skip
        states = []
        for s, at in (("h", f"zero_{i}"), ("c", f"one_{i}")) if exposed else ():
            nodes += [node("Gather", ["state", at], [f"{s}_{i}"], axis=0)]
            states.append(f"{s}_{i}")
        nodes += [
            node("LSTM", [f"x_{i}", f"W_{i}", f"R_{i}", f"B_{i}", "", *states], [f"y_{i}", f"hn_{i}",
                f"cn_{i}"],
                 f"lstm_{i}", hidden_size=H),
            node("Squeeze", [f"y_{i}", f"axis_{i}"], [f"y3_{i}"]),
            node("Transpose", [f"y3_{i}"], [f"yb_{i}"], perm=[1, 0, 2]),
            node("MatMul", [f"yb_{i}", f"out_w_{i}"], [f"p_{i}"]),
            node("Add", [f"p_{i}", f"out_b_{i}"], [f"logits_{i}"]),
        ]  # fmt: skip
        outs = [info(f"logits_{i}", F32, None)]
        if exposed:
            nodes.append(node("Concat", [f"hn_{i}", f"cn_{i}"], [f"state3_{i}"], axis=0))
            shape = [2, 1, "batch", H]
            c[f"to4_{i}"] = np.array([2, 1, -1, H])
            nodes.append(node("Reshape", [f"state3_{i}", f"to4_{i}"], [f"state_{i}"]))
            outs.append(info(f"state_{i}", F32, shape))
        return helper.make_graph(nodes, f"branch{i}", [], outs, [const(k, v) for k, v in c.items()])

    def condition(i, then, other, outputs):
        test = [node("Equal", ["sr", f"rate{i}"], [f"cond{i}"])] if exposed else []
        return [*test, node("If", [f"cond{i}"], outputs, f"if_{i}", then_branch=then, else_branch=other)]

    inner_outputs = ["inner_logits", "inner_state"][: 1 + exposed]
    inner = helper.make_graph(condition(1, branch(1), branch(2), inner_outputs), "inner", [],
                              [info(o, F32, None) for o in inner_outputs])  # fmt: skip
    outputs = ["logits", "stateN"][: 1 + exposed]
    nodes = condition(0, branch(0), inner, outputs)
    state = [2, 1, "batch", H]
    inputs, outs = [info("ids", I64, ["batch", "time"])], [info("logits", F32, ["batch", "time", V])]
    if exposed:
        inputs += [info("state", F32, state), info("sr", I64, [])]
        outs.append(info("stateN", F32, state))
        c = {"rate0": np.array(8000), "rate1": np.array(16000)}
    else:
        c = {"cond0": np.array(False), "cond1": np.array(True)}
    more = {"states": {"state": ("stateN", 2)}, "arrays": {"sr": np.array(16000)}} if exposed else {}
    note = "h and c stacked in one state; `sr` picks the branch" if exposed else "constant conditions"
    put(name, model(nodes, inputs, outs, c, 16), truth("LSTM", ws[1]), "LSTM", row="LSTM inside nested If",
        notes=note, **more)  # fmt: skip


def loop_or_scan(name, op, exposed=False):
    """A plain tanh cell inside Loop or Scan; its carried state is hidden, or a graph input and output."""
    w = weights(name, "RNN")
    c = {"emb": w["emb"], "Wt": w["W"][0].T, "Rt": w["R"][0].T, "b": w["B"][0, :H] + w["B"][0, H:],
         "out_w": w["out_w"], "out_b": w["out_b"], "width": np.array([H]), "i0": np.array([0]),
         "i1": np.array([1]),
         "i2": np.array([2]), "yes": np.array(True), "scalar": np.zeros(0, np.int64)}  # fmt: skip
    cell = [
        node("MatMul", ["x_t", "Wt"], ["from_x"]), node("MatMul", ["h", "Rt"], ["from_h"]),
        node("Add", ["from_x", "from_h"], ["sum"]), node("Add", ["sum", "b"], ["sum_b"]),
        node("Tanh", ["sum_b"], ["h_new"]), node("Identity", ["h_new"], ["y_t"]),
    ]  # fmt: skip
    state, x_t = info("h", F32, ["batch", H]), info("x_t", F32, ["batch", E])
    news = [info("h_new", F32, ["batch", H]), info("y_t", F32, ["batch", H])]
    start = [
        node("Gather", ["emb", "ids"], ["e"]), node("Transpose", ["e"], ["x"], perm=[1, 0, 2]),
        node("Shape", ["ids"], ["shape"]),
    ]  # fmt: skip
    if not exposed:
        zero = helper.make_tensor("z", F32, [1], [0.0])
        start += [node("Slice", ["shape", "i0", "i1"], ["n"]), node("Concat", ["n", "width"], ["hs"], axis=0),
                  node("ConstantOfShape", ["hs"], ["h_first"], value=zero)]  # fmt: skip
    if op == "Scan":
        body = helper.make_graph(cell, "body", [state, x_t], news)
        run = [node("Scan", ["h_first", "x"], ["h_last", "y"], "scan", body=body, num_scan_inputs=1)]
    else:
        body = helper.make_graph(
            [node("Gather", ["x", "i"], ["x_t"], axis=0), *cell, node("Identity", ["go"], ["go_on"])], "body",
            [info("i", I64, []), info("go", TensorProto.BOOL, []), state],
            [info("go_on", TensorProto.BOOL, []), *news],
        )  # fmt: skip
        run = [node("Slice", ["shape", "i1", "i2"], ["t1"]), node("Reshape", ["t1", "scalar"], ["steps"]),
               node("Loop", ["steps", "yes", "h_first"], ["h_last", "y"], "loop", body=body)]  # fmt: skip
    nodes = [*start, *run, node("Transpose", ["y"], ["y_bt"], perm=[1, 0, 2]),
             node("MatMul", ["y_bt", "out_w"], ["p"]), node("Add", ["p", "out_b"], ["logits"])]  # fmt: skip
    inputs, outs = [info("ids", I64, ["batch", "time"])], [info("logits", F32, ["batch", "time", V])]
    if exposed:
        inputs.append(info("h_first", F32, ["batch", H]))
        outs.append(info("h_last", F32, ["batch", H]))
    put(name, model(nodes, inputs, outs, c), truth("RNN", w), f"RNN in {op}", row="hidden Loop or Scan",
        states={"h_first": ("h_last", 0)} if exposed else None)  # fmt: skip


def gru_step(name, kind):
    """One plain GRU step over vectors: what is what is hidden from the loader.

    kind "outputs": V == H and nameless, so logits and state look alike, but one leaves the layer; "inputs": two int inputs alike.
    "outputs_roles" and "inputs_roles" carry the answer in the file's metadata.
    """
    w = weights(name, "GRU", hidden=V)
    inputs, outs = (
        [info("a", I64, ["n"]), info("b", F32, ["n", V])],
        [info("y", F32, ["n", V]), info("z", F32, ["n", V])],
    )
    c = {**w, "axis": np.array([0]), "emb2": np.zeros((V, E), np.float32)}
    nodes = [node("Gather", ["emb", "a"], ["e"])]
    if kind.startswith("inputs"):
        inputs.insert(1, info("b", I64, ["n"]))
        inputs[2] = info("h", F32, ["n", V])
        outs[0], outs[1] = info("logits", F32, ["n", V]), info("h_next", F32, ["n", V])
        nodes += [node("Gather", ["emb2", "b"], ["e2"]), node("Add", ["e", "e2"], ["both"])]
    state = inputs[-1].name
    nodes += [
        node("Unsqueeze", [nodes[-1].output[0], "axis"], ["x"]), node("Unsqueeze", [state, "axis"], ["h3"]),
        node("GRU", ["x", "W", "R", "B", "", "h3"], ["", "h4"], hidden_size=V),
        node("Squeeze", ["h4", "axis"], [outs[1].name]), node("MatMul", [outs[1].name, "out_w"], ["p"]),
        node("Add", ["p", "out_b"], [outs[0].name]),
    ]  # fmt: skip
    roles = {"token": "a", "logits": outs[0].name, "state": {state: outs[1].name}}
    proto = model(nodes, inputs, outs, c)
    told = kind.endswith("roles")
    if told:
        helper.set_model_props(proto, {"decoding.roles": json.dumps(roles), "decoding.bos": "0", "decoding.eos": "1"})
    put(name, proto, truth("GRU", w), "GRU", token=("a", "B"), out=(outs[0].name, "BV"), run="steps",
        states={state: (outs[1].name, 0)}, arrays={"b": np.array([3])} if kind.startswith("inputs") else None,
        expect="step" if told or kind == "outputs" else "refuse", reason=None if told else "roles",
        roles={} if told else roles,
        row="roles in metadata" if told else "ambiguous")  # fmt: skip


def main(*parts):
    def wanted(name):
        return not parts or any(part in name for part in parts)

    make_layers(wanted)
    table = {
        "hand_lstm2_batch_last": (stacked,),
        "hand_lstm_bidirectional": (directions, "LSTM", "bidirectional"),
        "hand_gru_bidirectional": (directions, "GRU", "bidirectional"),
        "hand_lstm_reverse": (directions, "LSTM", "reverse"),
        "hand_rnn_reverse": (directions, "RNN", "reverse"),
        "hand_if_states": (in_if, True),
        "hand_if_hidden": (in_if, False),
        "hand_scan": (loop_or_scan, "Scan"),
        "hand_loop": (loop_or_scan, "Loop"),
        "hand_scan_states": (loop_or_scan, "Scan", True),
        "hand_loop_states": (loop_or_scan, "Loop", True),
        "hand_ambiguous_outputs": (gru_step, "outputs"),
        "hand_ambiguous_inputs": (gru_step, "inputs"),
        "hand_metadata_outputs": (gru_step, "outputs_roles"),
        "hand_metadata_inputs": (gru_step, "inputs_roles"),
    }
    for name, (make, *options) in table.items():
        if wanted(name):
            make(name, *options)


if __name__ == "__main__":
    main(*sys.argv[1:])
