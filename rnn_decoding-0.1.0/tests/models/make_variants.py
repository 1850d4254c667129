"""Make the fixtures of causal convolutions and of unusual recurrent layers: `python tests/models/make_variants.py [part of a name ...]`.

Needs what make_torch.py needs, whose `case` exports and writes them. The modules are in torch_variants.py.
"""

import logging
import sys

import make_torch
import torch
import torch_variants as zoo
from make_torch import BT, TOKENS, B

NAMES = (["tokens"], ["logits"])


def case(name, module, cell, row, **more):
    more = {"names": NAMES, "args": (TOKENS,), "axes": [BT, BT], "script": "make_variants.py", **more}
    make_torch.case(name, module, more.pop("args"), more.pop("axes"), cell, row, **more)


def convolutions():
    """The last inputs of a causal convolution are a state."""
    row = "causal convolution, token shift"
    case("conv_gru", zoo.ConvGru, "causal convolution, GRU", row, notes="F.pad, dilation 2")
    case("gru_conv", lambda: zoo.ConvGru(after=True), "GRU, causal convolution", row, notes="F.pad, dilation 2")
    case("tcn_gru", zoo.TcnGru, "TCN, GRU", row, notes="padded at both ends, the right one cut; dilations 1 and 2")
    case("token_shift", zoo.TokenShift, "token shift, GRU", row, notes="ZeroPad2d((0, 0, 1, -1))")
    case("token_shift_learned", lambda: zoo.TokenShift(learned=True), "token shift, GRU", row, by="d", notes="a learned vector before the first")  # fmt: skip
    case("flipped", zoo.Flipped, "GRU", "bidirectional or reverse", by="l", expect="refuse", reason="reverse order")


def loops():
    """Layers in a scripted loop."""
    scripted = {"by": "l", "prepare": torch.jit.script, "row": "torch legacy, scripted loop"}
    case("sru", lambda: zoo.Stack(zoo.Sru, 2), "SRU in Loop", notes="the outputs so far are a list that grows", **scripted)  # fmt: skip
    case("qrnn", lambda: zoo.Stack(zoo.Qrnn, 2), "QRNN, convolution and Loop", **scripted)
    case("clockwork", lambda: zoo.Stack(zoo.Clockwork, 1), "clockwork RNN in Loop", expect="window", accept=["window", "step"],
         notes="it reads the number of its turn, which stepping does not carry", **scripted)  # fmt: skip


def number_types():
    """Half precision at ordinary sizes."""
    half = {"prepare": zoo.half, "tolerance": 2e-2, "crashes": True, "row": "float16 weights"}
    case("lstm_float16_h64", lambda: zoo.Wide("LSTM"), "LSTM", **half)
    case("gru_float16_h64", lambda: zoo.Wide("GRU"), "GRU", by="d", **half, optimize=False, notes="optimize=False")
    case("conv_gru_float16", zoo.ConvGru, "causal convolution, GRU", by="d", **half)
    case("lstm_bfloat16", lambda: zoo.Wide("LSTM", 1, 8), "LSTM", "bfloat16 weights", by="d", prepare=zoo.Wide.bfloat16, run="never",
         truth_run="whole", expect="refuse", reason=r"bfloat16, .* model\.float\(\) before the export")  # fmt: skip


def fixed_steps():
    """The batch alone is dynamic, so that the exporter fixes the number of steps."""
    five = {"by": "d", "axes": [{0: B}, {0: B}], "run": "whole:5", "expect": "refuse", "reason": "exactly 5 steps.*dynamic_shapes="}  # fmt: skip
    case("rnn_5_steps", lambda: make_torch.zoo.Sequence("RNN"), "RNN, plain operators", "torch, unrolled", **five)
    case("self_attention_5_steps", lambda: make_torch.zoo.SelfAttention(), "LSTM, causal self-attention",
         "attention or pooling over past positions", **five)  # fmt: skip


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    PARTS = sys.argv[1:]
    make_torch.WANTED = lambda name: not PARTS or any(part in name for part in PARTS)
    for group in (convolutions, loops, number_types, fixed_steps):
        group()
