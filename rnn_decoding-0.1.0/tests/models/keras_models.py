"""The Keras models that make_keras.py and make_tf2onnx.py export, for Keras 2.15 and Keras 3 alike.

Each entry of `table` is name -> (build, manifest fields); a field called "keras_tf" or "keras_torch" holds
what differs for that exporter (None: no fixture, which is the rule for "keras_torch"). Vocabulary V,
embedding E, hidden size H, window W.
"""

import os
import tempfile
import zlib

import numpy as np
import onnx
from fixture import add

V, E, H, W = 9, 4, 6, 6
PROBS = {"output": "probs"}
LENGTH = "time|step|length|unroll"


def randomise(model, name):
    """Give a model reproducible weights that make its outputs differ visibly between tokens."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    for variable in model.trainable_variables:
        scale = 1 if "relu" in name else 2
        variable.assign(draw.uniform(-scale, scale, tuple(variable.shape)).astype("float32"))
    return model


def table(keras):
    """Return {name: (build, fields)}; fields are those of fixture.add and the `special` ones of `write`."""
    layers = keras.layers
    rnn = {"LSTM": layers.LSTM, "GRU": layers.GRU, "SimpleRNN": layers.SimpleRNN}

    def sequence(kind, *, layer=1, last=False, softmax=True, dtype="int32", mask=False, wrap=None,
                 length=None,
                 distributed=False, batch_size=None, **options):  # fmt: skip
        def build():
            tokens = keras.Input((length,), dtype=dtype, name="tokens", batch_size=batch_size)
            x = layers.Embedding(V, E, mask_zero=mask)(tokens)
            for i in range(layer):
                cell = rnn[kind](H, return_sequences=not (last and i == layer - 1), **options)
                x = wrap(cell)(x) if wrap else cell(x)
                x = layers.Dropout(0.2)(x) if i < layer - 1 else x
            dense = layers.Dense(V, activation="softmax" if softmax else None)
            return keras.Model(tokens, layers.TimeDistributed(dense)(x) if distributed else dense(x))

        return build

    def stacked_cells():
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = layers.Embedding(V, E)(tokens)
        x = layers.RNN([layers.LSTMCell(H), layers.GRUCell(H)], return_sequences=True)(x)
        return keras.Model(tokens, layers.Dense(V, activation="softmax")(x))

    def onehot(length=None, last=False):
        def build():
            x = keras.Input((length, V), name="x")
            y = layers.LSTM(H, return_sequences=not last)(x)
            return keras.Model(x, layers.Dense(V, activation="softmax")(y))

        return build

    def stateful(units, size, make=layers.LSTM):
        """Keras's classic example: two stateful layers, one-hot input, batch and time fixed at 1."""

        def build():
            x = keras.Input(batch_shape=(1, 1, size), name="x")
            y = make(units, return_sequences=True, stateful=True)(x)
            y = make(units, return_sequences=True, stateful=True)(y)
            return keras.Model(x, layers.Dense(size, activation="softmax")(y))

        return build

    def states(kind):
        """The inference decoder of Keras's seq2seq tutorial: states as inputs and outputs."""

        def build():
            tokens = keras.Input((None,), dtype="int32", name="tokens")
            start = [keras.Input((H,), name=n + "_in") for n in ("hc" if kind == "LSTM" else "h")]
            x = layers.Embedding(V, E)(tokens)
            y, *news = rnn[kind](H, return_sequences=True, return_state=True)(x, initial_state=start)
            return keras.Model([tokens, *start], [layers.Dense(V, activation="softmax")(y), *news])

        return build

    def pooled():
        """Textgenrnn in small: two LSTMs, a skip connection, an attention-weighted average over a window."""
        tokens = keras.Input((W,), dtype="float32", name="tokens")
        x = layers.Embedding(V, E)(tokens)
        a = layers.LSTM(H, return_sequences=True)(x)
        b = layers.LSTM(H, return_sequences=True)(a)
        y = layers.Concatenate()([x, a, b])
        weights = layers.Softmax(axis=1)(layers.Dense(1, use_bias=False)(y))
        average = layers.Flatten()(layers.Dot(axes=1)([weights, y]))
        return keras.Model(tokens, layers.Dense(V, activation="softmax")(average))

    one = {"token": (0, "BTV"), **PROBS}
    last = {"out": (0, "BV"), "run": "prefixes", **PROBS}
    traced = {"run": "whole:1", "expect": "refuse", "reason": LENGTH,
              "notes": "cells of plain operators, traced at time 1, whatever the file declares"}  # fmt: skip
    traced_last = {**traced, "run": "prefix:1", "truth_run": "prefixes"}
    t1 = {"run": "steps", "notes": "time 1 baked, whatever the file declares"}
    unrolled = {
        "expect": "refuse",
        "accept": ["refuse", "window"],
        "reason": LENGTH,
        "notes": "the cell unrolled",
    }
    first = {**one, "run": "whole:1", "stateful": True, "row": "Keras, stateful",
             "notes": "stateful, batch and time fixed at 1; the file has lost its state",
             "keras_torch": None}  # fmt: skip
    relu = sequence("LSTM", activation="relu", recurrent_activation="hard_sigmoid")
    gru, masked = "GRU, reset_after", "mask_zero: at id 0 the state stays and the last output is repeated"
    return {
        "lstm": (sequence("LSTM", softmax=False), {"cell": "LSTM", "keras_torch": traced}),
        "lstm2_softmax": (sequence("LSTM", layer=2), {"cell": "LSTM", **PROBS}),
        "lstm_float_ids": (sequence("LSTM", dtype="float32"), {"cell": "LSTM", "notes": "ids as float32",
            **PROBS}),
        "lstm_last": (sequence("LSTM", last=True), {"cell": "LSTM", **last, "keras_torch": traced_last}),
        "lstm_relu": (relu, {"cell": "LSTM, relu and hard_sigmoid", "tolerance": 1e-4, **PROBS}),
        "lstm_masked": (sequence("LSTM", mask=True), {"cell": "LSTM", "notes": masked, **PROBS,
                                                      "keras_torch": traced}),
        "gru": (sequence("GRU"), {"cell": gru, **PROBS, "keras_torch": traced}),
        "gru2_last": (sequence("GRU", layer=2, last=True), {"cell": gru, **last, "keras_tf": None}),
        "gru_reset_before": (sequence("GRU", reset_after=False), {"cell": "GRU, reset_after=False", **PROBS,
            "keras_tf": None}),
        "gru_masked_last": (sequence("GRU", mask=True, last=True), {"cell": gru, "notes": masked, **last}),
        "simple_rnn": (sequence("SimpleRNN"), {"cell": "SimpleRNN", **PROBS, "keras_torch": traced}),
        "simple_rnn2": (sequence("SimpleRNN", layer=2), {"cell": "SimpleRNN", **PROBS, "keras_tf": None}),
        "stacked_cells": (stacked_cells, {"cell": "LSTM and GRU cells in one RNN", **PROBS}),
        "time_distributed": (sequence("LSTM", distributed=True), {"cell": "LSTM", **PROBS, "keras_tf": {
            "run": "whole:1", "expect": "refuse", "accept": ["refuse", "step"], "reason": "batch|time|output",
            "notes": "a broken file: TimeDistributed runs over the batch: [B, T] gives [B, B, V]"}}),
        "static": (sequence("LSTM", length=5, batch_size=1), {
            "cell": "LSTM", **PROBS, "run": "whole:5", "static": True, "free": sequence("LSTM"),
            "notes": "batch 1 and time 5 fixed", "keras_torch": unrolled}),
        "onehot": (onehot(), {"cell": "LSTM", **one, "keras_torch": traced}),
        "onehot_window": (onehot(W, True), {
            "cell": "LSTM", **one, "out": (0, "BV"), "run": f"prefix:{W}", "lengths": (3, W, 9),
            "free": onehot(None, True),
            "accept": ["step", "window"], "keras_torch": unrolled,
            "notes": f"Keras's lstm_text_generation: {W} characters in; expected: whole prefixes, unpadded"}),
        "stateful": (stateful(8, 12), {"cell": "LSTM", "vocab": 12, **first, "keras_torch": {
            "run": "none", "expect": "refuse", "reason": LENGTH + "|state",
            "notes": "plain operators; the initial state is a constant left over from the export itself"}}),
        "stateful_gru": (stateful(8, 12, layers.GRU), {"cell": gru, "vocab": 12, **first, "keras_tf": None}),
        "stateful_leftover": (stateful(8, 12), {"cell": "LSTM", "vocab": 12, **first, "leftover": True,
                                                "keras_tf": None,
                              "notes": "exported after two calls: their state is a constant"}),
        "stateful_full": (stateful(128, 256), {"cell": "LSTM", "vocab": 256, **first, "on_request": True}),
        "lstm_states": (states("LSTM"), {"cell": "LSTM", "states": {1: (1, 0), 2: (2, 0)}, **PROBS,
                                         "keras_torch": t1}),
        "gru_states": (states("GRU"), {"cell": gru, "states": {1: (1, 0)}, **PROBS, "keras_torch": t1}),
        "bidirectional": (sequence("LSTM", wrap=layers.Bidirectional),
                          {"cell": "LSTM", **PROBS, "expect": "refuse",
                           "reason": "bidirectional|reverse|backward"}),
        "go_backwards": (sequence("GRU", go_backwards=True),
                         {"cell": gru, **PROBS, "expect": "refuse", "reason": "reverse|backward|time"}),
        "pooled": (pooled, {"cell": "LSTM, pooled", "low": 1, "out": (0, "BV"), "run": f"window:{W}", **PROBS,
                            "expect": "window", "row": "attention or pooling over past positions",
                            "notes": f"window of {W}, float ids left-padded with 0 (like textgenrnn)"}),
    }  # fmt: skip


def stateful_layers(model):
    return [layer for layer in model.layers if getattr(layer, "stateful", False) and layer.states]


def truth(model, stateful, vocab, to_numpy):
    """Return what fixture.add needs to get the expected outputs from Keras itself."""

    def original(*arrays):
        result = model(arrays[0] if len(arrays) == 1 else list(arrays))
        return [to_numpy(r) for r in (result if isinstance(result, (list, tuple)) else [result])]

    if not stateful:
        return {"truth": None, "original": original}
    states = [state for layer in stateful_layers(model) for state in layer.states]
    start = [to_numpy(state) for state in states]

    def stepped(ids):
        for state, value in zip(states, start, strict=True):
            state.assign(value)
        rows = np.eye(vocab, dtype="float32")[ids]
        return np.stack([to_numpy(model.predict(row[None, None], verbose=0))[0, 0] for row in rows])

    return {"truth": stepped}


def write(keras, prefix, export, to_numpy, parts, fork=False, **common):
    """Export and check all of the table; export(model, path, fixed) writes path or returns a ModelProto."""
    for name, (build, fields) in table(keras).items():
        full, fields = (
            f"{prefix}_{name}",
            {"vocab": V, "token": (0, "BT"), "out": (0, "BTV"), **common, **fields},
        )
        by_exporter = fields.get(prefix, None if prefix == "keras_torch" else {})
        fields = {k: v for k, v in {**fields, **(by_exporter or {})}.items() if not k.startswith("keras_")}
        special = {k: fields.pop(k, None) for k in ("stateful", "on_request", "free", "leftover", "static")}
        wanted = any(part in full for part in parts) if parts else not special["on_request"]
        if by_exporter is None or not wanted:
            continue
        pid = os.fork() if fork else 0
        if pid:
            os.waitpid(pid, 0)
            continue
        try:
            keras.utils.set_random_seed(1)
            model = randomise(build(), name)
            original = randomise(special["free"](), name) if special["free"] else model
            ones = [np.ones([d or 1 for d in t.shape], "float32" if len(t.shape) > 2 or i else "int32")
                    for i, t in enumerate(model.inputs)]  # fmt: skip
            for _ in range(2):  # Keras exports only what has been called; stateful models remember it
                model(ones if len(ones) > 1 else ones[0])
            if not special["leftover"]:
                for state in (state for layer in stateful_layers(model) for state in layer.states):
                    state.assign(np.zeros(state.shape, "float32"))
            expected = truth(original, special["stateful"], fields["vocab"], to_numpy)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.onnx")
                proto = export(model, path, special["stateful"] or special["static"]) or onnx.load(path)
            if special["on_request"]:
                expected["listed"] = False
            if special["free"]:
                expected["truth_run"] = "prefixes" if fields["out"][1] == "BV" else "whole"
            add(full, proto, **{**expected, **fields})
        except (Exception, SystemExit) as error:
            print(f"{full:36} FAILED {type(error).__name__}: {str(error)[-400:]!r}", flush=True)
        if fork:
            os._exit(0)
