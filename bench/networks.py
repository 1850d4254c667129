"""The networks that benchmarks run, in torch and as torch's own ONNX export."""

from __future__ import annotations

import io
import json
import math
import warnings
from typing import Any

import onnx
import torch
from torch import nn


class LanguageModel(nn.Module):
    """Embedding, stacked LSTM, linear; states come in and go out."""

    def __init__(self, hidden: int, layers: int, vocab: int, embedding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embedding or hidden)
        self.lstm = nn.LSTM(embedding or hidden, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, tokens, h, c):
        y, (h, c) = self.lstm(self.embedding(tokens), (h, c))
        return self.head(y), h, c

    def zero_state(self, batch: int):
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return torch.zeros(shape), torch.zeros(shape)


def make(
    hidden: int,
    layers: int,
    vocab: int,
    *,
    embedding: int | None = None,
    end: int | None = None,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
) -> tuple[LanguageModel, bytes]:
    """A network with random weights, and its export with dynamic batch and time.

    `end` is a token that is made to come about once in fifty; `metadata` goes into the file.
    """
    torch.manual_seed(seed)
    net = LanguageModel(hidden, layers, vocab, embedding).eval()
    if end is not None:
        with torch.no_grad():
            net.head.bias[end] += math.log(vocab / 50)
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    file = io.BytesIO()
    with warnings.catch_warnings():  # of torch's own insides, and pytest makes errors of warnings
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (torch.zeros(2, 3, dtype=torch.int64), *net.zero_state(2)),
            input_names=["tokens", "h", "c"],
            output_names=["logits", "h_out", "c_out"],
            dynamic_shapes=({0: batch, 1: time}, {1: batch}, {1: batch}),
            dynamo=True,
            verbose=False,
        )
    program.save(file)
    model = onnx.load_from_string(file.getvalue())
    # The exporter writes the example's length for axes that are dynamic, and a bound output is held to it.
    del model.graph.value_info[:]
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[1].dim_param = "time"
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in (metadata or {}).items()})
    return net, model.SerializeToString()
