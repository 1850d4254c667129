"""The three networks of SeqGAN's synthetic experiment, and their export to ONNX.

Sizes and initial values are those of the published code, https://github.com/LantaoYu/SeqGAN (Yu et al. 2017,
https://arxiv.org/abs/1609.05473).
"""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

LENGTH, START = 20, 0


class LanguageModel(nn.Module):
    """Embedding, one LSTM layer and a linear output: the oracle and the generator."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.sizes = vocabulary, embedding, hidden
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)
        # Torch's layer has two biases where the published cell has one.
        nn.init.zeros_(self.lstm.bias_hh_l0).requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] -> logits [B, T, V]
        return self.output(self.lstm(self.embedding(tokens))[0])

    def logprobs(self, sequences: torch.Tensor) -> torch.Tensor:
        """Log-probability of each token of `sequences` [B, T], the first one after the start token."""
        inputs = nn.functional.pad(sequences[:, :-1], (1, 0), value=START)
        losses = nn.functional.cross_entropy(self(inputs).flatten(0, 1), sequences.flatten(), reduction="none")
        return -losses.view(sequences.shape)

    def weights(self) -> dict[str, np.ndarray]:
        """The parameters by the names that the exported file gives its initializers."""
        return {name: value.detach().numpy().copy() for name, value in self.named_parameters()}


def read_oracle(path: Path) -> LanguageModel:
    """The published oracle, from a file of its arrays.

    `embedding` [V, E]; for each gate g of i, f, o, c: `W_g` [E, H], `U_g` [H, H], `b_g` [H]; `W_out` [H, V], `b_out` [V].
    """
    arrays = np.load(path)
    model = LanguageModel(*arrays["embedding"].shape, arrays["U_i"].shape[0])
    values = {
        "embedding.weight": arrays["embedding"],
        "output.weight": arrays["W_out"].T,
        "output.bias": arrays["b_out"],
    }
    for ours, theirs in (("weight_ih", "W"), ("weight_hh", "U"), ("bias_ih", "b")):
        values[f"lstm.{ours}_l0"] = np.concatenate([arrays[f"{theirs}_{gate}"].T for gate in "ifco"])  # torch's order
    state = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()}
    model.load_state_dict({**state, "lstm.bias_hh_l0": torch.zeros_like(state["lstm.bias_ih_l0"])})
    return model


class Discriminator(nn.Module):
    """Convolutions of many widths over time, their maxima, a highway layer and two classes (Zhang & LeCun 2015)."""

    WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    FILTERS = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)

    def __init__(self, vocabulary: int, embedding: int = 64, keep: float = 0.75) -> None:
        super().__init__()
        features = sum(self.FILTERS)
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(embedding, count, width) for width, count in zip(self.WIDTHS, self.FILTERS, strict=True)
        )
        self.transform, self.gate = nn.Linear(features, features), nn.Linear(features, features)
        self.dropout = nn.Dropout(1 - keep)
        self.output = nn.Linear(features, 2)
        nn.init.uniform_(self.embedding.weight, -1, 1)
        for layer in (*self.convolutions, self.output):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.constant_(layer.bias, 0.1)
        for layer in (self.transform, self.gate):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # [B, T] -> logits of (generated, real) [B, 2]
        embedded = self.embedding(tokens).transpose(1, 2)
        pooled = torch.cat([conv(embedded).relu().amax(2) for conv in self.convolutions], 1)
        gate = self.gate(pooled).sigmoid()
        return self.output(self.dropout(gate * self.transform(pooled).relu() + (1 - gate) * pooled))

    def penalty(self) -> torch.Tensor:
        """Half the sum of the squares of the output layer's weights; the published loss adds 0.2 times that."""
        return sum(parameter.square().sum() for parameter in self.output.parameters()) / 2


def export(model: LanguageModel) -> bytes:
    """The model as torch's exporter writes it: tokens [batch, time] in, logits out, the states inside."""
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    program = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, dtype=torch.int64),),
        input_names=["tokens"],
        output_names=["logits"],
        dynamic_shapes=(sizes,),
        dynamo=True,
        optimize=False,  # else the exporter re-arranges the weights and gives them other names
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file)
    proto = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(proto, {"decoding.bos": json.dumps(START)})
    return proto.SerializeToString()
