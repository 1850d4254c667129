"""Torch modules whose inputs, states or outputs follow something else than the token: a source, frames, the past.

Each is exported to contexts/NAME.onnx. contexts/NAME.npz has what torch gives, in float64, for each of three rows:
`tokens_R` [T], the row's own contexts `context_R_INPUT`, and `logits_R` [T, V]: after every token the scores of the next.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from tests.models.fixture import _shorten, _strip

FOLDER = Path(__file__).parent / "contexts"
VOCAB, WIDTH = 11, 8
LENGTHS, SOURCES = (6, 9, 4), (5, 3, 7)
torch.set_num_threads(1)


class FullContext(nn.Module):
    """Causal self-attention over all tokens, which no state carries, and a vector of each prompt."""

    def __init__(self):
        super().__init__()
        self.embed, self.speak = nn.Embedding(VOCAB, WIDTH), nn.Linear(4, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens, speaker):
        x = self.embed(tokens) + torch.tanh(self.speak(speaker)).unsqueeze(1)
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        seen = torch.ones_like(scores).cumsum(-1) <= torch.ones_like(scores).cumsum(-2)
        return self.out(x + torch.softmax(scores.masked_fill(~seen, -1e9), -1) @ self.v(x))


class FullSource(FullContext):
    """The same, which also attends to a source of any length."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(4, WIDTH)

    def forward(self, tokens, source):
        x, memory = self.embed(tokens), self.read(source)
        x = x + torch.softmax(self.q(x) @ memory.transpose(1, 2), -1) @ memory
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        seen = torch.ones_like(scores).cumsum(-1) <= torch.ones_like(scores).cumsum(-2)
        return self.out(x + torch.softmax(scores.masked_fill(~seen, -1e9), -1) @ self.v(x))


class Coverage(nn.Module):
    """A GRU step with additive attention and a coverage vector, the sum of all weights so far (See et al. 2017)."""

    def __init__(self, mask=False):
        super().__init__()
        self.embed, self.cell = nn.Embedding(VOCAB, WIDTH), nn.GRUCell(2 * WIDTH, WIDTH)
        self.key, self.query, self.cover = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(1, WIDTH)
        self.energy, self.value, self.out = nn.Linear(WIDTH, 1), nn.Linear(4, WIDTH), nn.Linear(2 * WIDTH, VOCAB)

    def start(self, memory):
        return torch.zeros(1, WIDTH), torch.zeros(1, memory.shape[1])

    def forward(self, token, h, coverage, memory, mask=None):
        energy = self.key(memory) + self.query(h).unsqueeze(1) + self.cover(coverage.unsqueeze(-1))
        energy = self.energy(torch.tanh(energy)).squeeze(-1)
        if mask is not None:
            energy = energy.masked_fill(mask == 0, -1e9)
        weights = torch.softmax(energy, -1)
        read = (weights.unsqueeze(-1) * self.value(memory)).sum(1)
        h = self.cell(torch.cat([self.embed(token), read], -1), h)
        return self.out(torch.cat([h, read], -1)), h, coverage + weights


class Location(Coverage):
    """The same with location-sensitive attention: a convolution over the last step's weights (Chorowski et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.near = nn.Conv1d(1, WIDTH, 3, padding=1)

    def forward(self, token, h, weights, memory):
        near = self.near(weights.unsqueeze(1)).transpose(1, 2)
        energy = self.energy(torch.tanh(self.key(memory) + self.query(h).unsqueeze(1) + near)).squeeze(-1)
        weights = torch.softmax(energy, -1)
        read = (weights.unsqueeze(-1) * self.value(memory)).sum(1)
        h = self.cell(torch.cat([self.embed(token), read], -1), h)
        return self.out(torch.cat([h, read], -1)), h, weights


class History(nn.Module):
    """A GRU step that attends to all of its own earlier states, which it keeps in a growing array."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(VOCAB, WIDTH), nn.GRUCell(WIDTH, WIDTH)
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, VOCAB)

    def start(self):
        return torch.zeros(1, WIDTH), torch.zeros(1, 0, WIDTH)

    def forward(self, token, h, past):
        h = self.cell(self.embed(token), h)
        past = torch.cat([past, h.unsqueeze(1)], 1)
        weights = torch.softmax((past @ self.q(h).unsqueeze(-1)).squeeze(-1), -1)
        read = (weights.unsqueeze(-1) * past).sum(1)
        return self.out(torch.cat([h, read], -1)), h, past


class Hybrid(nn.Module):
    """A recurrent layer, then an attention layer of two heads with a cache of keys and values, over any number of tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, VOCAB)

    def start(self):
        cache = torch.zeros(1, 2, 0, WIDTH // 2)
        return torch.zeros(1, 1, WIDTH), cache, cache.clone()

    def forward(self, input_ids, state, past_key, past_value, attention_mask=None):
        hidden = torch.zeros(1, dtype=torch.bool) if attention_mask is None else attention_mask[:, None, None] == 0
        x, state = self.rnn(self.embed(input_ids), state)
        q, k, v = (self.heads(part) for part in self.qkv(x).chunk(3, -1))
        key, value = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        scores = q @ key.transpose(2, 3)
        column = torch.ones_like(scores).cumsum(-1) - 1
        row = torch.ones_like(scores).cumsum(-2) - 1 + past_key.shape[2]
        weights = torch.softmax(scores.masked_fill((column > row) | hidden, -1e9), -1)
        x = x + (weights @ value).transpose(1, 2).flatten(2)
        return self.out(x), state, key, value

    def heads(self, x):
        return x.unflatten(-1, (2, WIDTH // 2)).transpose(1, 2)


class Pointer(Coverage):
    """A step whose scores are those of the source's positions (Vinyals et al. 2015)."""

    def start(self, memory):
        return (torch.zeros(1, WIDTH),)

    def forward(self, token, h, memory):
        index = token.reshape(-1, 1, 1).expand(-1, -1, memory.shape[2])
        x = self.value(torch.gather(memory, 1, index)[:, 0])
        h = self.cell(torch.cat([x, x], -1), h)
        return self.energy(torch.tanh(self.key(memory) + self.query(h).unsqueeze(1))).squeeze(-1), h


class Frames(nn.Module):
    """A GRU over samples and a frame of features for each of them, as WaveRNN reads mel frames; its state is hidden."""

    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH + 3, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens, mel):
        return self.out(self.rnn(torch.cat([self.embed(tokens), mel], -1))[0])


class FramesTB(Frames):
    """The same with the time first."""

    def forward(self, tokens, mel):
        return super().forward(tokens.t(), mel.transpose(0, 1)).transpose(0, 1)


class FrameStep(Frames):
    """The same for one sample a run: the frame has no time axis."""

    def start(self):
        return (torch.zeros(1, 1, WIDTH),)

    def forward(self, token, h, mel):
        y, h = self.rnn(torch.cat([self.embed(token), mel], -1).unsqueeze(1), h)
        return self.out(y[:, -1]), h


class Factors(nn.Module):
    """An LSTM over words and their parts of speech, `pos`, two tables of ids."""

    def __init__(self):
        super().__init__()
        self.words, self.tags = nn.Embedding(VOCAB, WIDTH), nn.Embedding(4, 3)
        self.rnn, self.out = nn.LSTM(WIDTH + 3, WIDTH, batch_first=True), nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens, pos):
        return self.out(self.rnn(torch.cat([self.words(tokens), self.tags(pos)], -1))[0])


class FullFrames(FullContext):
    """Self-attention, which cannot be stepped, over tokens and their frames."""

    def __init__(self):
        super().__init__()
        self.speak = nn.Linear(3, WIDTH)

    def forward(self, tokens, mel):
        x = self.embed(tokens) + self.speak(mel)
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        seen = torch.ones_like(scores).cumsum(-1) <= torch.ones_like(scores).cumsum(-2)
        return self.out(x + torch.softmax(scores.masked_fill(~seen, -1e9), -1) @ self.v(x))


class Positions(nn.Module):
    """A GRU with a table of 40 positions; `offset` is the position of the first token of a run."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(40, WIDTH)
        self.rnn, self.out = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, VOCAB)

    def start(self):
        return (torch.zeros(1, 1, WIDTH),)

    def forward(self, token, h, offset):
        at = offset.unsqueeze(1) + torch.ones_like(token).cumsum(-1) - 1
        y, h = self.rnn(self.embed(token) + self.place(at), h)
        return self.out(y), h


class FullPositions(FullContext):
    """Self-attention with a table of 64 positions."""

    def __init__(self):
        super().__init__()
        self.place = nn.Embedding(64, WIDTH)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.ones_like(tokens).cumsum(-1) - 1)
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        seen = torch.ones_like(scores).cumsum(-1) <= torch.ones_like(scores).cumsum(-2)
        return self.out(x + torch.softmax(scores.masked_fill(~seen, -1e9), -1) @ self.v(x))


class Conditioner(nn.Module):
    """An encoder that makes a frame of each vector of features, for `frames`."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, WIDTH, batch_first=True, bidirectional=True), nn.Linear(2 * WIDTH, 3)

    def forward(self, features):
        return self.out(self.rnn(features)[0])


B, T, S, P = "batch", "time", "source", "past"
# NAME: module, inputs, their dimensions after the order of forward(), outputs, contexts with their sizes.
# In `inputs` and `outputs` a dimension is a name where it is dynamic.
CASES = {
    "window_vector": (FullContext, {"tokens": [B, T], "speaker": [B, 4]}, ["logits"]),
    "window_source": (FullSource, {"tokens": [B, T], "source": [B, S, 4]}, ["logits"]),
    "window_frames": (FullFrames, {"tokens": [B, T], "mel": [B, T, 3]}, ["logits"]),
    "window_positions": (FullPositions, {"tokens": [B, T]}, ["logits"]),
    "coverage": (Coverage, {"token": [B], "h": [B, WIDTH], "coverage": [B, S], "memory": [B, S, 4]}, ["logits", "h_next", "coverage_next"]),
    "coverage_mask": (Coverage, {"token": [B], "h": [B, WIDTH], "coverage": [B, S], "memory": [B, S, 4], "mask": [B, S]}, ["logits", "h_next", "coverage_next"]),
    "location": (Location, {"token": [B], "h": [B, WIDTH], "prev_weights": [B, S], "memory": [B, S, 4]}, ["logits", "h_next", "weights"]),
    "history": (History, {"token": [B], "h": [B, WIDTH], "past": [B, P, WIDTH]}, ["logits", "h_next", "past_next"]),
    "hybrid": (Hybrid, {"input_ids": [B, T], "state": [1, B, WIDTH], "past_key": [B, 2, P, WIDTH // 2], "past_value": [B, 2, P, WIDTH // 2]}, ["logits", "state_out", "present_key", "present_value"]),
    "hybrid_mask": (Hybrid, {"input_ids": [B, T], "state": [1, B, WIDTH], "past_key": [B, 2, P, WIDTH // 2], "past_value": [B, 2, P, WIDTH // 2], "attention_mask": [B, "total"]}, ["logits", "state_out", "present_key", "present_value"]),
    "pointer": (Pointer, {"token": [B], "h": [B, WIDTH], "memory": [B, S, 4]}, ["logits", "h_next"]),
    "frames": (Frames, {"tokens": [B, T], "mel": [B, T, 3]}, ["logits"]),
    "frames_tb": (FramesTB, {"tokens": [T, B], "mel": [T, B, 3]}, ["logits"]),
    "frame_step": (FrameStep, {"token": [B], "h": [1, B, WIDTH], "mel": [B, 3]}, ["logits", "h_next"]),
    "conditioner": (Conditioner, {"features": [B, S, 2]}, ["mel"]),
    "factors": (Factors, {"tokens": [B, T], "pos": [B, T]}, ["logits"]),
    "offset": (Positions, {"token": [B, T], "h": [1, B, WIDTH], "offset": [B]}, ["logits", "h_next"]),
}  # fmt: skip
STATES = ("h", "coverage", "prev_weights", "past", "state", "past_key", "past_value")
SIZES = {B: 2, T: 5, S: 6, P: 3, "total": 8}


def example(name, dims, draw):
    shape = [SIZES.get(d, d) for d in dims]
    if name in ("tokens", "token", "input_ids", "pos", "offset"):
        return torch.tensor(draw.integers(0, 4, shape))
    return (
        torch.tensor(draw.standard_normal(shape), dtype=torch.float32)
        if "mask" not in name
        else torch.ones(shape, dtype=torch.int64 if "_" in name else torch.float32)
    )


def export(name, module, inputs, outputs, dynamo):
    draw = np.random.default_rng(0)
    given = tuple(example(key, dims, draw) for key, dims in inputs.items())
    path = FOLDER / f"{name}.onnx"
    if dynamo:
        auto = any(P in own for own in inputs.values())  # named, the time is taken for a constant
        dims = {d: torch.export.Dim.DYNAMIC if auto else torch.export.Dim(d, min=1, max=4096) for d in (B, T, S, P)}
        shapes = tuple({i: dims[d] for i, d in enumerate(own) if d in dims} for own in inputs.values())
        torch.onnx.export(module, given, path, input_names=list(inputs), output_names=outputs, dynamo=True,
                          dynamic_shapes=shapes, external_data=False, verbose=False)  # fmt: skip
    else:
        names = {key: {i: d for i, d in enumerate(own) if isinstance(d, str)} for key, own in inputs.items()}
        names["logits"] = names[next(iter(inputs))]
        names["mel"] = names.get("mel", {0: B, 1: S})
        for output in outputs[1:]:
            names[output] = {0: B} if "past" not in output and "key" not in output else {0: B, 1: "present"}
        torch.onnx.export(module, given, path, input_names=list(inputs), output_names=outputs, dynamo=False,
                          dynamic_axes=names, opset_version=17)  # fmt: skip
    proto = onnx.load(path)
    _strip(proto)
    _shorten(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def truth(module, inputs, tokens, contexts):
    """The scores [T, V] of one row, in float64: of a run over all tokens, or step by step."""
    contexts = {key: torch.tensor(value)[None] for key, value in contexts.items()}
    if any(key in STATES for key in inputs):
        memory = [contexts["memory"]] if "memory" in contexts else []
        states = [s.double() for s in module.start(*memory)]
        rows = []
        for t, token in enumerate(tokens):
            own = dict(zip([key for key in inputs if key in STATES], states, strict=True))
            now = {"offset": torch.tensor([t]), "attention_mask": torch.ones(1, t + 1)}
            if "mel" in inputs:
                now["mel"] = contexts["mel"][:, t]
            values = {
                **contexts,
                **own,
                **now,
                "token": torch.tensor([[token]] if T in next(iter(inputs.values())) else [token]),
                "input_ids": torch.tensor([[token]]),
            }
            logits, *states = module(*(values[key] for key in inputs))
            rows.append(logits.reshape(-1).numpy())
        return np.stack(rows)
    given = [torch.tensor(tokens)[None], *(contexts[key] for key in inputs if key in contexts)]
    if next(iter(inputs.values())) == [T, B]:
        return module(*(value.transpose(0, 1) for value in given))[:, 0].numpy()
    return module(*given)[0].numpy()


def make(name):
    build, inputs, outputs = CASES[name]
    for exporter in (
        ("dynamo", "legacy") if name not in ("hybrid", "hybrid_mask", "frames_tb") else ("legacy",)
    ):  # dynamo bakes their time
        torch.manual_seed(0)
        module = build().eval()
        for parameter in module.parameters():
            parameter.data *= 2  # so that every input matters
        path = export(f"{exporter}_{name}", module, inputs, outputs, exporter == "dynamo")
        draw, data = np.random.default_rng(1), {}
        if name == "conditioner":
            features = draw.standard_normal((1, 7, 2)).astype(np.float32)
            with torch.no_grad():
                mel = module.double()(torch.tensor(features).double()).numpy()
            np.savez_compressed(FOLDER / f"{exporter}_{name}.npz", features=features, mel=mel.astype(np.float32))
            continue
        for row, (length, source) in enumerate(zip(LENGTHS, SOURCES, strict=True)):
            sizes, contexts = {T: length, S: source}, {}
            for key, dims in inputs.items():
                if key in STATES or key in ("token", "tokens", "input_ids", "offset", "attention_mask"):
                    continue
                shape = [sizes.get(d, d) for d in dims if d != B]
                shape = [length, *shape] if name == "frame_step" else shape
                contexts[key] = draw.integers(0, 4, shape) if key == "pos" else np.ones(shape) if key == "mask" else draw.standard_normal(shape)  # fmt: skip
                contexts[key] = contexts[key] if key == "pos" else contexts[key].astype(np.float32)
            tokens = draw.integers(0, min(SOURCES) if name == "pointer" else VOCAB, length)
            data[f"tokens_{row}"] = tokens
            data |= {f"context_{row}_{key}": value for key, value in contexts.items()}
            exact = {key: value if key == "pos" else value.astype(np.float64) for key, value in contexts.items()}
            with torch.no_grad():
                data[f"logits_{row}"] = truth(module.double(), inputs, tokens, exact).astype(np.float32)
        np.savez_compressed(FOLDER / f"{exporter}_{name}.npz", **data)
        print(f"{path.name:32} {path.stat().st_size:7} bytes", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        if not sys.argv[1:] or any(part in case for part in sys.argv[1:]):
            make(case)
