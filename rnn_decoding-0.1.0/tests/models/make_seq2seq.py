"""Make the encoder-decoder fixtures: `python tests/models/make_seq2seq.py [part of a name ...]`.

Needs torch, onnxscript and onnx. Each system is exported as people do it, one file for each encoder and one for the decoder
(seq2seq/NAME.onnx beside NAME.encoder.onnx, or NAME.encoder1.onnx and so on), with what the modules themselves give in
float64 for one source at a time (NAME.npz):
`source_i` (turns: `source_i_j`), `tokens_i` [T] that the decoder is fed, `logits_i` [T, V], `attention_i` [T, source].
The modules are in seq2seq_modules.py.
"""

import copy
import io
import logging
import multiprocessing
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import onnx
import torch
from seq2seq_modules import (
    Additive,
    Answer,
    Caption,
    Encoder,
    Grid,
    H,
    History,
    Last,
    Luong,
    OneHot,
    OneHotDecoder,
    Plain,
    Reader,
    S,
    ShowAttend,
    StackedEncoder,
    TimeMajorDecoder,
    TimeMajorEncoder,
    Utterance,
    V,
)
from torch import nn

HERE = Path(__file__).parent / "seq2seq"


def export(*args):
    """As `exported`, in a process of its own: an export leaves traces in its process that break the next."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return onnx.load_from_string(pool.apply(exported, args))


def exported(module, args, ins, outs, axes, dynamo):
    """The exported model as bytes; axes: {axis: name} for each of `ins`, then of `outs`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            dims = [dict.fromkeys(a, torch.export.Dim.DYNAMIC) for a in axes[: len(ins)]]
            model = torch.onnx.export(
                module, args, dynamo=True, verbose=False, input_names=ins, output_names=outs, dynamic_shapes=tuple(dims)
            ).model_proto
        else:
            buffer = io.BytesIO()
            named = {n: a for n, a in zip([*ins, *outs], axes, strict=False) if a}
            torch.onnx.export(
                module,
                args,
                buffer,
                dynamo=False,
                input_names=ins,
                output_names=outs,
                dynamic_axes=named,
                opset_version=17,
            )
            model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    return model.SerializeToString()


def save(name, models, data):
    """Write decoder (last) and encoders, and the arrays."""
    *encoders, decoder = models
    paths = (
        [f"{name}.encoder.onnx"]
        if len(encoders) == 1
        else [f"{name}.encoder{k + 1}.onnx" for k in range(len(encoders))]
    )
    for path, model in zip([*paths, f"{name}.onnx"], [*encoders, decoder], strict=True):
        (HERE / path).write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(HERE / f"{name}.npz", **data)
    print(f"{name:24} {sum((HERE / p).stat().st_size for p in [*paths, f'{name}.onnx']):7} bytes", flush=True)


def random_weights(name, *modules):
    torch.manual_seed(zlib.crc32(name.encode()))
    for module in modules:
        module.eval()
        for p in module.parameters():
            nn.init.uniform_(p, -1, 1)


def truth(sources, run, prefix=2):
    """Arrays of the fixture: run(source) gives a function (tokens [T]) -> logits [T, V], attention [T, source] or None."""
    rng, data = np.random.default_rng(5), {}
    for i, source in enumerate(sources):
        for j, turn in enumerate(source if isinstance(source, list) else [source]):
            data[f"source_{i}_{j}" if isinstance(source, list) else f"source_{i}"] = turn
        tokens = np.concatenate([[prefix], rng.integers(0, V, 7)])
        with torch.no_grad():
            logits, attention = run(source, torch.tensor(tokens)[None])
        data[f"tokens_{i}"], data[f"logits_{i}"] = tokens, logits.numpy().astype(np.float32)
        if attention is not None:
            data[f"attention_{i}"] = attention.numpy().astype(np.float32)
    return data


def double(*modules):
    return [copy.deepcopy(m).double() for m in modules]


def ids(*lengths):
    rng = np.random.default_rng(1)
    return [rng.integers(1, S, n) for n in lengths]


B = {0: "batch"}
BS = {0: "batch", 1: "source"}
SOURCES = (4, 7, 1, 5, 7, 2)


def attention_loop(step, memory, hidden, tokens, told):
    logits, weights = [], []
    for t in range(tokens.shape[1]):
        scores, hidden, w = step(tokens[:, t], hidden, memory, told)
        logits.append(scores[0])
        weights.append(w.reshape(-1))
    return torch.stack(logits), torch.stack(weights)


def additive(name, tells, *, packed, dynamo, decoder_dynamo, keep_axis=False):
    """Attention over a bidirectional encoder, told where sources end in one way or another."""
    encoder, decoder = Encoder(packed), Additive(tells, keep_axis)
    random_weights(name, encoder, decoder)
    source, lengths = torch.ones(3, 5, dtype=torch.int64), torch.tensor([5, 3, 4])
    args, ins = ((source, lengths), ["source", "lengths"]) if packed else ((source,), ["source"])
    axes = [BS, B] if packed else [BS]
    first = export(encoder, args, ins, ["memory", "hidden"], [*axes, BS, B], dynamo)
    told = {
        "mask": torch.ones(3, 5, dtype=torch.int64),
        "padding": torch.zeros(3, 5, dtype=torch.bool),
        "length": lengths,
        "": None,
    }[tells]
    named = {"mask": "source_mask", "padding": "source_padding_mask", "length": "source_lengths", "": ""}[tells]
    args = (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, H),
        torch.zeros(3, 5, 2 * H),
        *([] if told is None else [told]),
    )
    ins = ["token", "hidden", "memory", *([named] if named else [])]
    shown = {0: "batch", 2: "source"} if keep_axis else BS
    axes = [B, B, BS, *([B if tells == "length" else BS] if named else []), B, B, shown]
    second = export(decoder, args, ins, ["logits", "hidden_out", "attention"], axes, decoder_dynamo)
    e, d = double(encoder, decoder)

    def run(ids, tokens):
        source, n = torch.tensor(ids)[None], len(ids)
        memory, hidden = e(source, torch.tensor([n])) if packed else e(source)
        told = {
            "mask": torch.ones(1, n),
            "padding": torch.zeros(1, n, dtype=torch.bool),
            "length": torch.tensor([n]),
            "": None,
        }[tells]
        return attention_loop(d, memory, hidden, tokens, told)

    save(name, [first, second], truth(ids(*SOURCES), run))


def time_major(name):
    encoder, decoder = TimeMajorEncoder(), TimeMajorDecoder()
    random_weights(name, encoder, decoder)
    sb = {0: "source", 1: "batch"}
    args = (torch.ones(5, 3, dtype=torch.int64), torch.tensor([5, 3, 4]))
    first = export(encoder, args, ["src", "src_len"], ["encoder_outputs", "hidden"], [sb, B, sb, B], False)
    args = (
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, H),
        torch.zeros(5, 3, 2 * H),
        torch.ones(3, 5, dtype=torch.int64),
    )
    second = export(
        decoder, args, ["input_token", "hidden", "encoder_outputs", "mask"], ["prediction", "hidden_out", "attention"],
        [B, B, sb, BS, B, B, BS], False,
    )  # fmt: skip
    e, d = double(encoder, decoder)

    def run(ids, tokens):
        memory, hidden = e(torch.tensor(ids)[:, None], torch.tensor([len(ids)]))
        return attention_loop(d, memory, hidden, tokens, torch.ones(1, len(ids)))

    save(name, [first, second], truth(ids(*SOURCES), run))


def luong(name, dynamo):
    encoder, decoder = StackedEncoder(), Luong()
    random_weights(name, encoder, decoder)
    layers = {1: "batch"}
    first = export(
        encoder,
        (torch.ones(3, 5, dtype=torch.int64),),
        ["source"],
        ["memory", "hn", "cn"],
        [BS, BS, layers, layers],
        dynamo,
    )
    args = (
        torch.zeros(3, 4, dtype=torch.int64),
        *[torch.zeros(2, 3, H)] * 2,
        torch.zeros(3, 5, H),
        torch.zeros(3, 5, dtype=torch.bool),
    )
    args = tuple(a.clone() for a in args)
    bt = {0: "batch", 1: "time"}
    second = export(
        decoder, args, ["tokens", "h0", "c0", "memory", "memory_padding_mask"], ["logits", "h", "c"],
        [bt, layers, layers, BS, BS, bt, layers, layers], dynamo,
    )  # fmt: skip
    e, d = double(encoder, decoder)

    def run(ids, tokens):
        memory, h, c = e(torch.tensor(ids)[None])
        return d(tokens, h, c, memory, torch.zeros(1, len(ids), dtype=torch.bool))[0][0], None

    save(name, [first, second], truth(ids(*SOURCES), run))


def bridge(name, which, layers=1):
    """The encoder's last h, c, or both start the decoder; what it does not give starts at zero."""
    encoder, decoder = Last(which, layers), Plain(layers)
    random_weights(name, encoder, decoder)
    axis, bt = {1: "batch"}, {0: "batch", 1: "time"}
    outs = {"h": ["last"], "c": ["last"], "hc": ["h_n", "c_n"], "vector": ["summary"]}[which]
    axes = [BS, *[B if which == "vector" else axis] * len(outs)]
    first = export(encoder, (torch.ones(3, 5, dtype=torch.int64),), ["source"], outs, axes, False)
    args = (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(layers, 3, H), torch.zeros(layers, 3, H))
    second = export(decoder, args, ["tokens", "h0", "c0"], ["logits", "h", "c"], [bt, axis, axis, bt, axis, axis], True)
    e, d = double(encoder, decoder)

    def run(ids, tokens):
        given = e(torch.tensor(ids)[None])
        zero = torch.zeros(layers, 1, H, dtype=torch.float64)
        h, c = {
            "h": (given, zero),
            "c": (zero, given),
            "hc": given,
            "vector": (given[None] if which == "vector" else zero, zero),
        }[which]
        return d(tokens, h, c)[0][0], None

    save(name, [first, second], truth(ids(*SOURCES), run))


def images():
    rng = np.random.default_rng(2)
    return [rng.normal(size=(1, *size)).astype(np.float32) for size in ((8, 12), (8, 12), (16, 8), (8, 20))]


def ocr(name):
    """A CNN, then an RNN over its columns, then attention."""
    cnn, rnn, decoder = Grid(columns=True), Reader(), Additive("")
    random_weights(name, cnn, rnn, decoder)
    image = {0: "batch", 2: "height", 3: "width"}
    first = export(cnn, (torch.zeros(3, 1, 8, 12),), ["image"], ["features"], [image, BS], False)
    second = export(rnn, (torch.zeros(3, 5, 2 * H),), ["columns"], ["memory"], [BS, BS], False)
    args = (torch.zeros(3, dtype=torch.int64), torch.zeros(3, H), torch.zeros(3, 5, 2 * H))
    third = export(
        decoder, args, ["token", "hidden", "memory"], ["logits", "hidden_out", "attention"], [B, B, BS, B, B, BS], True
    )
    c, r, d = double(cnn, rnn, decoder)

    def run(image, tokens):
        memory = r(c(torch.tensor(image).double()[None]))
        return attention_loop(d, memory, torch.zeros(1, H, dtype=torch.float64), tokens, None)

    save(name, [first, second, third], truth(images(), run))


def caption(name, starts):
    """A CNN's mean vector seen at every step, or made into the first state inside the decoder's graph."""
    cnn, decoder = Grid(mean=True), Caption(starts)
    random_weights(name, cnn, decoder)
    image, bt = {0: "batch", 2: "height", 3: "width"}, {0: "batch", 1: "time"}
    first = export(cnn, (torch.zeros(3, 1, 8, 12),), ["pixels"], ["vector"], [image, B], False)
    args = (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 2 * H))
    second = export(decoder, args, ["tokens", "image"], ["logits"], [bt, B, bt], True)
    c, d = double(cnn, decoder)
    save(
        name,
        [first, second],
        truth(images(), lambda image, tokens: (d(tokens, c(torch.tensor(image).double()[None]))[0], None)),
    )


def show_attend(name):
    """A CNN's grid, captioned: the first states are computed inside the decoder's graph."""
    cnn, decoder = Grid(), ShowAttend()
    random_weights(name, cnn, decoder)
    image, grid, bt = {0: "batch", 2: "height", 3: "width"}, {0: "batch", 1: "positions"}, {0: "batch", 1: "time"}
    first = export(cnn, (torch.zeros(3, 1, 8, 12),), ["image"], ["annotations"], [image, grid], False)
    args = (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 5, 2 * H), torch.tensor([5, 3, 4]))
    second = export(decoder, args, ["captions", "annotations", "lengths"], ["logits"], [bt, grid, B, bt], True)
    c, d = double(cnn, decoder)

    def run(image, tokens):
        annotations = c(torch.tensor(image).double()[None])
        return d(tokens, annotations, torch.tensor([annotations.shape[1]]))[0], None

    save(name, [first, second], truth(images(), run))


def one_hot(name):
    """Characters as one-hot vectors on both sides, as in Keras's example; h and c as the bridge."""
    encoder, decoder = OneHot(), OneHotDecoder()
    random_weights(name, encoder, decoder)
    bt = {0: "batch", 1: "time"}
    first = export(encoder, (torch.zeros(3, 5, S),), ["characters"], ["state_h", "state_c"], [BS, B, B], False)
    args = (torch.zeros(3, 4, V), torch.zeros(3, H), torch.zeros(3, H))
    ins, outs = ["input_characters", "state_h", "state_c"], ["characters", "h_out", "c_out"]
    second = export(decoder, args, ins, outs, [bt, B, B, bt, B, B], False)
    e, d = double(encoder, decoder)
    vectors = [np.eye(S, dtype=np.float32)[i] for i in ids(*SOURCES)]

    def run(source, tokens):
        fed = nn.functional.one_hot(tokens, V).double()
        return torch.log(d(fed, *e(torch.tensor(source).double()[None]))[0][0]), None

    save(name, [first, second], truth(vectors, run))


def chat(name):
    """An RNN over each utterance, an RNN over the conversation, an answer."""
    utterance, history, answer = Utterance(), History(), Answer()
    random_weights(name, utterance, history, answer)
    layer, bt = {1: "batch"}, {0: "batch", 1: "time"}
    args = (torch.ones(3, 5, dtype=torch.int64), torch.tensor([5, 3, 4]))
    first = export(utterance, args, ["utterance", "length"], ["vector"], [BS, B, B], False)
    second = export(
        history, (torch.zeros(3, 4, 2 * H),), ["turns"], ["state"], [{0: "batch", 1: "turns"}, layer], False
    )
    third = export(
        answer,
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(1, 3, H)),
        ["tokens", "h0"],
        ["logits", "h"],
        [bt, layer, bt, layer],
        True,
    )
    u, r, a = double(utterance, history, answer)

    def run(turns, tokens):
        vectors = [u(torch.tensor(t)[None], torch.tensor([len(t)])) for t in turns]
        return a(tokens, r(torch.stack(vectors, 1)))[0][0], None

    save(name, [first, second, third], truth([ids(4, 2, 6), ids(3), ids(1, 5), ids(4, 4, 4, 4)], run))


def main(parts):
    systems = {
        "additive_mask": lambda n: additive(n, "mask", packed=True, dynamo=False, decoder_dynamo=True),
        "additive_padding": lambda n: additive(n, "padding", packed=True, dynamo=False, decoder_dynamo=False, keep_axis=True),
        "additive_length": lambda n: additive(n, "length", packed=False, dynamo=True, decoder_dynamo=True),
        "additive_bare": lambda n: additive(n, "", packed=False, dynamo=False, decoder_dynamo=False),
        "time_major": time_major,
        "luong": lambda n: luong(n, dynamo=True),
        "luong_legacy": lambda n: luong(n, dynamo=False),
        "bridge_h": lambda n: bridge(n, "h"),
        "bridge_c": lambda n: bridge(n, "c"),
        "bridge_stacked": lambda n: bridge(n, "hc", 2),
        "bridge_vector": lambda n: bridge(n, "vector"),
        "ocr": ocr,
        "caption": lambda n: caption(n, starts=False),
        "caption_start": lambda n: caption(n, starts=True),
        "show_attend": show_attend,
        "one_hot": one_hot,
        "chat": chat,
    }  # fmt: skip
    for name, make in systems.items():
        if not parts or any(part in name for part in parts):
            make(name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    HERE.mkdir(exist_ok=True)
    main(sys.argv[1:])
