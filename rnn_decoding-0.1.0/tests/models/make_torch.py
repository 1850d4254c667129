"""Make the fixtures that PyTorch exports: `python tests/models/make_torch.py [part of a name ...]`.

Needs torch, onnxscript, onnx and onnxruntime. Each case is exported by one or both of torch's exporters
("legacy" is TorchScript, dynamo=False); the expected outputs are the module's own, computed in float64.
The modules are in torch_modules.py.
"""

import contextlib
import copy
import io
import logging
import os
import sys
import warnings
import zlib

import numpy as np
import torch
import torch_modules as zoo
from fixture import add
from torch import nn

V, H = zoo.V, zoo.H
B, T = "batch", "time"
TOKENS = torch.randint(1, V, (2, 5), generator=torch.Generator().manual_seed(0))
BT, TB = {0: B, 1: T}, {0: T, 1: B}
BAKED = {"run": "whole:5", "notes": "time first; time 5 baked in Reshape although declared dynamic"}
HC = {1: (1, 1), 2: (2, 1)}


def export(module, exporter, args, axes, names, opset, optimize=True):
    """Return the exported model; axes: one {axis: name} an argument, or None for no dynamic axis."""
    buffer, options = io.BytesIO(), {"opset_version": opset}
    args = tuple(a.clone() for a in args)  # torch.export leaves marks on the tensors it has seen
    if names:
        options |= {"input_names": names[0], "output_names": names[1]}
    if exporter == "legacy":
        if axes and names:
            options["dynamic_axes"] = dict(zip(names[0], axes, strict=False))
            options["dynamic_axes"] |= {k: v for k, v in zip(names[1], axes[len(names[0]) :], strict=False) if v}
    elif axes:
        dynamic = [dict.fromkeys(a, torch.export.Dim.DYNAMIC) for a in axes[: len(args)]]
        if any(p.kind == p.VAR_POSITIONAL for p in zoo.parameters(module)):
            dynamic = [dynamic[0], tuple(dynamic[1:])]
        options["dynamic_shapes"] = tuple(dynamic)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            torch.onnx.export(module, args, buffer, dynamo=False, **options)
        else:
            return torch.onnx.export(module, args, dynamo=True, verbose=False, optimize=optimize, **options).model_proto
    return buffer.getvalue()


def original(module, double=True):
    """Return a callable over NumPy arrays that runs the module, in float64 unless told otherwise."""
    module = copy.deepcopy(module)
    module = module.double() if double else module

    def call(*arrays):
        tensors = [torch.from_numpy(np.array(a)) for a in arrays]
        tensors = [t.double() if double and t.dtype == torch.float32 else t for t in tensors]
        with torch.no_grad():
            result = module(*tensors)
        result = result if isinstance(result, tuple) else (result,)
        return [r.detach().numpy() for r in result]

    return call


def case(
    name,
    module,
    args,
    axes,
    cell,
    row,
    *,
    by="ld",
    names=None,
    opset=18,
    double=True,
    prepare=None,
    dynamo=None,
    optimize=True,
    **more,
):
    """Export a module by the exporters in `by` (l: legacy, d: dynamo) and write a fixture for each."""
    for letter in by:
        exporter = {"l": "legacy", "d": "dynamo"}[letter]
        full = f"torch_{exporter}_{name}"
        if not WANTED(full) or not in_child():
            continue
        settings = {
            "script": "make_torch.py",
            "vocab": V,
            "token": (0, "BT"),
            "out": (0, "BTV"),
            "cell": cell,
            "row": row,
        }
        settings |= more | ((dynamo or {}) if letter == "d" else {})
        settings |= {"exporter": f"torch {torch.__version__.split('+')[0]} {exporter}, opset {opset}"}
        try:
            torch.manual_seed(zlib.crc32(name.encode()))
            made = module().eval()
            for p in made.parameters():
                nn.init.uniform_(p, -1, 1)
            if hasattr(made, "out"):
                made.out.weight.data *= 3
            made = prepare(made) if prepare else made
            settings |= {} if "truth" in more else {"original": original(made, double)}
            try:
                proto = export(made, exporter, args, axes, names, opset, optimize)
            except Exception as error:
                print(f"{full:36} REFUSED by the exporter: ...{str(error)[-300:]!r}", flush=True)
                os._exit(0)
            add(full, proto, settings.pop("truth", None), **settings)
        except BaseException as error:
            print(f"{full:36} FAILED: {str(error)[:400]}", flush=True)
        os._exit(0)


def in_child():
    """Fork, and return True in the child alone.

    An export leaves traces in the process (torch.export refuses a second module that it takes alone), and a
    broken file can crash onnxruntime.
    """
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        if status:
            print(f"CRASHED with status {status}", flush=True)
    return not pid


def sequences():
    """Whole sequences in, states hidden."""
    row = "torch, states hidden"
    ids, tb = (TOKENS,), (TOKENS.T.contiguous(),)
    named, ax = (["tokens"], ["logits"]), [BT, BT]
    for kind, layers in (("LSTM", 1), ("LSTM", 2), ("GRU", 1), ("GRU", 2)):
        case(
            f"{kind.lower()}{layers}",
            lambda k=kind, n=layers: zoo.Sequence(k, n),
            ids,
            ax,
            kind,
            row,
            names=named,
        )
    for kind in ("LSTM", "GRU"):
        case(f"{kind.lower()}2_tb", lambda k=kind: zoo.Sequence(k, 2, tb=True), tb, [TB, TB], kind, row,
             names=named,
             token=(0, "TB"), out=(0, "TBV"), notes="time first",
             dynamo=BAKED, by="ld" if kind == "LSTM" else "l")  # fmt: skip
    fixed = (TOKENS[:1],)
    case("lstm2_fixed", lambda: zoo.Sequence("LSTM", 2), fixed, None, "LSTM", row, run="whole:5",
         notes="no dynamic axes: batch 1 and time 5 baked")  # fmt: skip
    case("gru_fixed_t1", lambda: zoo.Sequence("GRU"), (TOKENS[:1, :1],), None, "GRU", row, run="whole:1",
         notes="no dynamic axes: batch 1 and time 1 baked, state hidden")  # fmt: skip
    case("rnn_tanh", lambda: zoo.Sequence("RNN", 2), ids, ax, "RNN", row, names=named, by="l")
    case("rnn_relu", lambda: zoo.Sequence("RNN", nonlinearity="relu"), ids, ax, "RNN relu", row, names=named,
         tolerance=1e-3, by="l")  # fmt: skip
    case("rnn_fixed", lambda: zoo.Sequence("RNN"), fixed, None, "RNN, plain operators", "torch, unrolled",
         by="d",
         run="whole:5", expect="refuse", accept=["refuse", "window"], reason="fixed|unroll|length|time",
         notes="time 5 baked: the cell unrolled five times")  # fmt: skip
    case(
        "lstm_unnamed",
        lambda: zoo.Sequence("LSTM"),
        ids,
        ax,
        "LSTM",
        row,
        by="d",
        notes="names chosen by torch",
    )
    case("lstm_unnamed", lambda: zoo.Sequence("LSTM"), fixed, None, "LSTM", row, by="l", run="whole:5",
         notes="names chosen by torch; baked")  # fmt: skip
    case("lstm_opset", lambda: zoo.Sequence("LSTM"), ids, ax, "LSTM", row, by="l", names=named, opset=9)
    case("lstm_opset", lambda: zoo.Sequence("LSTM"), ids, ax, "LSTM", row, by="d", names=named, opset=23)
    case("lstm_last", lambda: zoo.Sequence("LSTM", last=True), ids, [BT, {0: B}], "LSTM", row, names=named,
         out=(0, "BV"), run="prefixes", notes="logits of the last position only")  # fmt: skip
    case("gru_last_softmax", lambda: zoo.Sequence("GRU", last=True, head="softmax"), ids, [BT, {0: B}],
         "GRU", row,
         names=(["tokens"], ["probs"]), out=(0, "BV"), run="prefixes", output="probs", by="d")  # fmt: skip
    heads = {"softmax": "probs", "manual_softmax": "probs", "log_softmax": "logprobs",
             "log_of_softmax": "logprobs",
             "logsumexp": "logprobs", "manual_log_softmax": "logprobs"}  # fmt: skip
    for head, output in heads.items():
        case(f"lstm_{head}", lambda h=head: zoo.Sequence("LSTM", head=h), ids, ax, "LSTM",
             "final Softmax or LogSoftmax",
             names=(["tokens"], ["output"]), output=output, by={"softmax": "ld", "log_softmax": "ld",
                 "manual_softmax": "d", "logsumexp": "d"}.get(head, "l"))  # fmt: skip
    case("gru_bvt_log_softmax", lambda: zoo.Sequence("GRU", head="bvt"), ids, [BT, {0: B, 2: T}], "GRU",
         "final Softmax or LogSoftmax", names=(["tokens"], ["logprobs"]), output="logprobs", out=(0, "BVT"),
         accept=["step", "refuse"], reason="logits|logprobs|axis",
         notes="vocabulary on axis 1, as NLLLoss takes it", by="l")  # fmt: skip
    case("lstm_learned_init", lambda: zoo.Sequence("LSTM", 2, learned=True), ids, ax, "LSTM", row,
         names=named,
         notes="initial states are parameters expanded to the batch")  # fmt: skip
    case(
        "gru_learned_init",
        lambda: zoo.Sequence("GRU", learned=True),
        ids,
        ax,
        "GRU",
        row,
        names=named,
        by="d",
    )
    case("lstm_proj", lambda: zoo.Sequence("LSTM", proj=3), ids, ax, "LSTM with projection", row, by="d",
         names=named, run="never", truth_run="whole",
         expect="refuse", reason="proj|initial_c|shape|onnxruntime",
         notes="broken: the exporter drops the projection; the legacy one refuses the module")  # fmt: skip
    case(
        "lstm_int32",
        lambda: zoo.Sequence("LSTM"),
        (TOKENS.int(),),
        ax,
        "LSTM",
        row,
        names=named,
        notes="int32 ids",
        by="l",
    )
    case("gru_onehot", lambda: zoo.Sequence("GRU", onehot=True), (torch.eye(V)[TOKENS],), ax, "GRU", row,
         names=(["x"], ["logits"]), token=(0, "BTV"), notes="one-hot float input", by="d")  # fmt: skip
    case(
        "gru_tied",
        lambda: zoo.Sequence("GRU", tied=True),
        ids,
        ax,
        "GRU",
        row,
        names=named,
        notes="tied embedding",
        by="l",
    )
    case("lstm_float16", lambda: zoo.Sequence("LSTM"), ids, ax, "LSTM", row, names=named, tolerance=2e-2,
         prepare=zoo.Sequence.half, crashes=True,
         notes="float16 weights and logits; all optimizations on crash onnxruntime 1.31")  # fmt: skip
    case("lstm_cast16", lambda: zoo.Sequence("LSTM", cast16=True), ids, ax, "LSTM", row, names=named,
         tolerance=2e-2,
         notes="float16 embedding and output layer around a float32 LSTM", by="l")  # fmt: skip
    for kind in ("LSTM", "GRU"):
        case(f"{kind.lower()}_bidirectional", lambda k=kind: zoo.Sequence(k, bidirectional=True), ids, ax,
             kind,
             "bidirectional or reverse", names=named, expect="refuse", reason="bidirectional",
             by="ld" if kind == "LSTM" else "l")  # fmt: skip
    case("scripted_loop", lambda: zoo.LoopOverCell("LSTM"), ids, ax, "LSTMCell in Loop",
         "torch legacy, scripted loop",
         by="l", names=named, prepare=torch.jit.script)  # fmt: skip
    case("scripted_loop_concat", lambda: zoo.LoopConcat(), ids, ax, "plain cell in Loop",
         "torch legacy, scripted loop",
         by="l", names=named, prepare=torch.jit.script, accept=["step", "window", "refuse"], reason="[Ll]oop",
         notes="the outputs so far are themselves a carried value that grows")  # fmt: skip
    case("scan", lambda: zoo.ScanOverCell(), ids, ax, "plain cell in Scan",
         "torch dynamo, higher-order scan", by="d",
         names=named)  # fmt: skip
    case("traced_loop", lambda: zoo.LoopOverCell("LSTM"), ids, ax, "LSTMCell", "torch, unrolled", by="l",
         names=named,
         run="whole:5", expect="refuse", accept=["refuse", "window"],
         reason="fixed|unroll|length|time|step",
         notes="a Python loop, traced: five steps whatever the length, without an error")  # fmt: skip
    case("unrolled", lambda: zoo.LoopOverCell("GRU"), fixed, None, "GRUCell", "torch, unrolled",
         run="whole:5",
         expect="refuse", accept=["refuse", "window"], reason="fixed|unroll|length|time", by="l")  # fmt: skip


def windows():
    """Graphs that mix time steps, and graphs that are no decoder at all."""
    pooled, ax = "attention or pooling over past positions", [BT, {0: B}]
    six, names = (TOKENS[:1].repeat(2, 2)[:, :6],), (["tokens"], ["probs"])
    window = {"output": "probs", "out": (0, "BV"), "names": names, "expect": "window", "low": 1}
    case("pooled_w6", lambda: zoo.Pooled(), six, [{0: B}, {0: B}], "LSTM, pooled", pooled, run="window:6",
         **window,
         notes="window of 6 fixed in the file, left-padded with 0 (like textgenrnn)")  # fmt: skip
    case("pooled", lambda: zoo.Pooled(), six, ax, "LSTM, pooled", pooled, run="prefixes", **window,
         notes="any length; expected: the whole prefix at every step", by="l")  # fmt: skip
    case("pooled_padded", lambda: zoo.Pooled(), six, ax, "LSTM, pooled", pooled, run="window:6", **window,
         roles={"window": 6, "pad": "left"}, notes="any length, but used with a left-padded window of 6",
         by="d")  # fmt: skip
    case(
        "pooled_mean",
        lambda: zoo.Pooled("mean"),
        six,
        ax,
        "GRU, mean over time",
        pooled,
        run="prefixes",
        **window,
        by="l",
    )
    case("self_attention", lambda: zoo.SelfAttention(), (TOKENS,), [BT, BT], "LSTM, causal self-attention",
         pooled,
         names=(["tokens"], ["logits"]), expect="window",
         notes="causal, but every step needs all of the past", by="d")  # fmt: skip
    case("transformer", lambda: zoo.SelfAttention(recurrent=False), (TOKENS,), [BT, BT],
         "causal transformer layer",
         pooled, names=(["tokens"], ["logits"]), expect="window", accept=["window", "refuse"],
         reason="recurrent|state", by="d")  # fmt: skip
    case("causal_conv", lambda: zoo.CausalConv(), (TOKENS,), [BT, BT], "causal convolution", pooled,
         names=(["tokens"], ["logits"]), by="l")  # fmt: skip
    case("cnn", lambda: zoo.Cnn(), (torch.zeros(2, 1, 8, 8),), [{0: B}, {0: B}], "convolution",
         "no recurrence", run="none",
         names=(["image"], ["scores"]), token=(0, "B"), out=(0, "BV"), expect="refuse", truth=zoo.nothing,
         reason="recurrent|state|token|sequence", notes="an image classifier; expected outputs are zeros",
         by="l")  # fmt: skip


def states():
    """States as graph inputs and outputs."""
    row, cells = "torch, states as inputs and outputs", "torch cells"
    h = torch.zeros(2, 2, H)
    hc, d = (TOKENS, h, h), {1: B}
    lstm, gru = (["tokens", "h0", "c0"], ["logits", "hn", "cn"]), (["tokens", "h0"], ["logits", "hn"])
    case("lstm_states", lambda: zoo.LstmStates(2), hc, [BT, d, d, BT, d, d], "LSTM", row, names=lstm, states=HC)
    case(
        "gru_states",
        lambda: zoo.GruStates(2),
        hc[:2],
        [BT, d, BT, d],
        "GRU",
        row,
        names=gru,
        states={1: (1, 1)},
    )
    case("rnn_states", lambda: zoo.GruStates(2, "RNN"), hc[:2], [BT, d, BT, d], "RNN", row, by="l", names=gru,
         states={1: (1, 1)})  # fmt: skip
    case("lstm_states_unnamed", lambda: zoo.LstmStates(2), hc, [BT, d, d], "LSTM", row, by="d", states=HC,
         notes="names chosen by torch")  # fmt: skip
    one = (TOKENS[:1, :1], h[:, :1], h[:, :1])
    case("lstm_states_unnamed", lambda: zoo.LstmStates(2), one, None, "LSTM", row, by="l", states=HC,
         run="steps",
         notes="names chosen by torch; batch 1 and time 1 baked")  # fmt: skip
    case("gru_states_unnamed", lambda: zoo.GruStates(2), one[:2], None, "GRU", row, states={1: (1, 1)},
         run="steps",
         notes="names chosen by torch; batch 1 and time 1 baked")  # fmt: skip
    step = (TOKENS[:, :1], h, h)
    case("lstm_states_t1", lambda: zoo.LstmStates(2), step, [{0: B}, d, d, {0: B}, d, d], "LSTM", row,
         names=lstm,
         states=HC, run="steps", notes="time 1 baked, batch free", by="l")  # fmt: skip
    for how, note in (("first", "y[:, 0]"), ("squeeze", "y.squeeze(1)")):
        case(f"lstm_step_{how}", lambda how=how: zoo.LstmStep(how), step, [{0: B}, d, d, {0: B}, d, d], "LSTM",
             row, names=lstm, states=HC, out=(0, "BV"), run="steps",
             notes=f"time 1 baked, batch free: {note}")  # fmt: skip
        case(f"lstm_step_{how}_fixed", lambda how=how: zoo.LstmStep(how), one, None, "LSTM", row, names=lstm,
             states=HC, out=(0, "BV"), run="steps", notes=f"batch 1 and time 1 baked: {note}")  # fmt: skip
    case("transducer", lambda: zoo.Transducer(), (TOKENS[:, :1], torch.zeros(2, 1, 3), h, h),
         [{0: B}, {0: B}, d, d, {0: B}, d, d], "LSTM, RNN-T", row,
         names=(["label", "frame", "h0", "c0"], ["logits", "hn", "cn"]), states={2: (1, 1), 3: (2, 1)},
         arrays={1: np.linspace(-1, 1, 3, dtype=np.float32)[None, None]}, roles={"context": ["frame"]},
         out=(0, "BV"), output="logprobs", run="steps",
         notes="prediction and joint network; frame [B, 1, 3] of the encoder")  # fmt: skip
    case("gru_states_tb", lambda: zoo.GruStates(2, tb=True), (TOKENS.T.contiguous(), h), [TB, d, TB, d],
         "GRU", row, names=gru,
         states={1: (1, 1)}, token=(0, "TB"), out=(0, "TBV"), notes="time first", dynamo=BAKED,
         by="d")  # fmt: skip
    case("word_language_model", lambda: zoo.WordLanguageModel(), (TOKENS.T.contiguous(), h, h),
         [TB, d, d, {0: "rows"}, d, d], "LSTM", row, names=lstm, states=HC, token=(0, "TB"), out=(0, "TV"),
         output="logprobs",
         notes="the PyTorch example: time first, log-probabilities [time * batch, V]",
         dynamo=BAKED)  # fmt: skip
    case("char_rnn", lambda: zoo.CharRnn(), (TOKENS[:, 0], h), [{0: B}, d, {0: B}, d], "GRU", row,
         token=(0, "B"),
         names=(["input", "hidden"], ["output", "hidden_out"]), out=(0, "BV"), states={1: (1, 1)},
         run="steps", by="d")  # fmt: skip
    s, b = torch.zeros(2, H), {0: B}
    step = {"token": (0, "B"), "out": (0, "BV"), "run": "steps"}
    for kind, count in (("LSTM", 4), ("GRU", 2), ("peephole", 4), ("RNN", 2), ("LSTMP", 4)):
        args = (TOKENS[:, 0], *([s[:, :3], s] * 2 if kind == "LSTMP" else [s] * count))
        dims = [b] * (2 * len(args))
        pairs = {i: (i, 0) for i in range(1, count + 1)}
        label = f"{kind}, plain operators"
        stem = ["h0", "c0", "h1", "c1"] if count == 4 else ["h0", "h1"]
        named = (["token", *stem], ["logits", *(x + "_next" for x in stem)])
        case(f"{kind.lower()}_cells", lambda k=kind: zoo.Cells(k), args, dims, label, cells, names=named,
             states=pairs,
             by={"LSTM": "ld", "peephole": "l", "RNN": "l"}.get(kind, "d"), **step)  # fmt: skip
        if kind in ("LSTM", "peephole"):
            case(f"{kind.lower()}_cells_unnamed", lambda k=kind: zoo.Cells(k), args, dims, label, cells,
                 states=pairs,
                 by="d", accept=["step", "refuse"], reason="roles", notes="names chosen by torch",
                 **step)  # fmt: skip
        if kind == "LSTM":
            fixed = (TOKENS[:1, 0], *[s[:1]] * count)
            case(f"{kind.lower()}_cells_unnamed", lambda k=kind: zoo.Cells(k), fixed, None, label, cells,
                 states=pairs,
                 by="l", accept=["step", "refuse"], reason="roles",
                 notes="names chosen by torch; batch 1 baked",
                 **step)  # fmt: skip
    case("rwkv", lambda: zoo.Rwkv(), (TOKENS[:, 0], *zoo.Rwkv.start(2)), [{0: B}, d, d, d, d, b, {0: B}, d,
        d, d, d, b],
         "RWKV-like", "other plain-operator cells", names=(["token", *zoo.Rwkv.names],
                                                           ["logits", *(n + "_out" for n in zoo.Rwkv.names)]),
         states={1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (4, 1), 5: (5, 0)},
         notes="shift [L, B, D], num, den, top [L, B, D], an int64 counter [B]", **step, by="d")  # fmt: skip
    fixed = (TOKENS[:1, :1], *zoo.Rwkv4.start(1))
    case("rwkv4_fixed", lambda: zoo.Rwkv4(), fixed, None, "RWKV-4", "other plain-operator cells",
         names=(["token", *zoo.Rwkv4.names], ["logits", *(n + "_out" for n in zoo.Rwkv4.names)]),
         states={i: (i, 0) for i in range(1, 6)}, run="steps",
         notes="five states [B, D, L], batch 1 and time 1 baked")  # fmt: skip
    names = ["shift", "memory", "seen"]
    case("rwkv_matrix", lambda: zoo.RwkvMatrix(), (TOKENS[:, 0], *zoo.RwkvMatrix.start(2)), [b] * 8,
         "RWKV-like, matrix state",
         "other plain-operator cells", names=(["token", *names], ["logits", *("new_" + n for n in names)]),
         states={i: (i, 0) for i in (1, 2, 3)}, tolerance=2e-2,
         notes="shift [B, D] float16, memory [B, heads, S, S], seen [B, 1] bool", **step, by="l")  # fmt: skip
    case("mamba", lambda: zoo.Mamba(), (TOKENS[:, 0], *zoo.Mamba.start(2)), [b, d, d, b, d, d], "Mamba-like",
         "other plain-operator cells", names=(["token", "conv_state", "ssm_state"],
                                              ["logits", "conv_state_out", "ssm_state_out"]),
         states=HC, tolerance=1e-4,
         notes="conv_state [L, B, D, K], ssm_state [L, B, D, N]", **step, by="d")  # fmt: skip


def inputs():
    """Inputs beside token and state."""
    row, named = "other inputs", ["logits"]
    vec = np.linspace(-1, 1, 3, dtype=np.float32)[None]
    ids, h, d, b = TOKENS, torch.zeros(1, 2, H), {1: B}, {0: B}
    case("gru_lengths", lambda: zoo.Packed("GRU"), (ids, torch.tensor([5, 5])), [BT, {0: B}, BT], "GRU", row,
         names=(["tokens", "lengths"], named), feeds={1: "length"},
         notes="pack_padded_sequence: sequence_lens of the ONNX node", by="l")  # fmt: skip
    case("lstm_lengths", lambda: zoo.Packed("LSTM"), (ids, torch.tensor([5, 5])), [BT, {0: B}, BT], "LSTM",
         row,
         names=(["tokens", "lengths"], named), feeds={1: "length"}, by="l")  # fmt: skip
    case("lstm_mask", lambda: zoo.WithMask(), (ids, torch.ones(2, 5)), [BT, BT, BT], "LSTM", row,
         names=(["input_ids", "attention_mask"], named), feeds={1: "mask"}, notes="a float mask of ones",
         by="l")  # fmt: skip
    case("gru_cell_mask", lambda: zoo.MaskedCell(), (ids[:, 0], torch.ones(2, 1), h[0]), [b] * 5,
         "GRU, plain operators",
         row, names=(["token", "mask", "h"], ["logits", "h_next"]), feeds={1: "mask"}, states={2: (1, 0)},
         token=(0, "B"), out=(0, "BV"), run="steps", by="d")  # fmt: skip
    case("lstm_position", lambda: zoo.WithPosition(), (ids, torch.arange(5).repeat(2, 1)), [BT, BT, BT],
         "LSTM", row,
         names=(["tokens", "position_ids"], named), feeds={1: "position"}, notes="int64 positions [B, T]",
         by="d")  # fmt: skip
    case("gru_step_position", lambda: zoo.StepPosition(), (ids[:, :1], h, torch.tensor([0])),
         [b, d, {}, b, d], "GRU", row,
         names=(["tokens", "h", "step"], ["logits", "h_next"]), feeds={2: "step"}, states={1: (1, 1)},
         run="steps",
         notes="step: one int64 counter for the whole batch", by="l")  # fmt: skip
    case("gru_scale", lambda: zoo.GruExtra("scale"), (ids, torch.tensor(2.0)), [BT, {}, BT], "GRU", row,
         names=(["tokens", "scale"], named), arrays={1: np.float32(1.5)}, notes="a scalar constant",
         by="d")  # fmt: skip
    for kind in ("context", "latent"):
        case(f"gru_{kind}", lambda k=kind: zoo.GruExtra(k), (ids, torch.zeros(2, 3)), [BT, b, BT], "GRU", row,
             by="d" if kind == "latent" else "l", names=(["tokens", "z" if kind == "latent" else kind],
                                                         named), arrays={1: vec},
             roles={"latent": {"z": "normal"}} if kind == "latent" else {"context": [kind]},
             notes=f"one {kind} vector [B, 3] seen at every step")  # fmt: skip
    source = zoo.source()
    case("attention", lambda: zoo.AttentionStep(), (ids[:, 0], torch.zeros(2, H), torch.zeros(2, 4, 2 * H)),
         [b, b, {0: B, 1: "source"}, b, b, {0: B, 1: "source"}], "GRU with attention", "encoder and decoder",
         names=(["token", "hidden", "context"], ["logits", "hidden_out", "attention"]), arrays={2: source},
         states={1: (1, 0)}, roles={"context": ["context"], "attention": "attention"}, token=(0, "B"),
         out=(0, "BV"),
         run="steps", notes="context [B, source, 2H] from the encoder; hidden starts at zero here",
         by="d")  # fmt: skip
    case("encoder", lambda: zoo.Encoder(), (ids,), [BT, {0: B, 1: "source"}, b], "GRU, bidirectional",
         "encoder and decoder",
         names=(["source"], ["context", "hidden"]), out=(0, "BTV"), width=2 * H, expect="encoder",
         truth_run="whole",
         notes="the encoder of the attention fixture: context and the first hidden state",
         by="l")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    PARTS = sys.argv[1:]

    def WANTED(name):
        return not PARTS or any(part in name for part in PARTS)

    for group in (sequences, windows, states, inputs):
        group()
