"""Train the peephole LSTM that ships as decoding/pretrained/tang.onnx, and write it.

    python examples/train_tang.py tang_quatrains.txt decoding/pretrained/tang.onnx

The text holds one quatrain a line (chinese-poetry/chinese-poetry, 全唐诗); the script uses those of the form `FORM`. A
twentieth of them chooses when to stop, another is held out to the end. The figure that the script prints is that of
the weights in the file, after rounding to float16. The file has one ONNX LSTM node with peepholes (input P), states
in and out.
"""

import argparse
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from training import TimedAdamW

FORM = re.compile(r"(?:[^，。？]{5}，[^，。？]{5}。){2}|(?:[^，。？]{7}，[^，。？]{7}。){2}")
END = "\n"  # comes before and after every poem
LONGEST = 4 * 8 + 1  # tokens of a poem of 4x7 with its marks and its end


class PeepholeCell(nn.Module):
    """Gers and Schmidhuber's LSTM with peepholes, in ONNX's order of gates: i, o, f, c; peepholes: i, o, f."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = hidden**-0.5
        self.W = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-bound, bound))
        self.R = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(4, hidden).index_fill_(0, torch.tensor(2), 1.0).flatten())
        self.P = nn.Parameter(torch.zeros(3 * hidden))

    def forward(self, from_input, h, c):  # x @ W.T + b [B, 4 * hidden], states [B, hidden]
        i, o, f, g = (from_input + h @ self.R.T).chunk(4, -1)
        p_i, p_o, p_f = self.P.chunk(3)
        c_next = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        return torch.sigmoid(o + p_o * c_next) * torch.tanh(c_next), c_next


class Tang(nn.Module):
    """Embedding, peephole LSTM, and the embedding again as output projection (Press and Wolf 2017)."""

    def __init__(self, vocab_size: int, hidden: int = 256, dropout: float = 0.4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        self.cell = PeepholeCell(hidden, hidden)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens, h, c):  # tokens [B, T], states [1, B, hidden]
        x = self.drop(self.embedding(tokens)) * self.embedding.embedding_dim**0.5
        from_input, h, c, outputs = x @ self.cell.W.T + self.cell.b, h[0], c[0], []
        for t in range(tokens.shape[1]):
            h, c = self.cell(from_input[:, t], h, c)
            outputs.append(h)
        logits = self.drop(torch.stack(outputs, 1)) @ self.embedding.weight.T + self.bias
        return logits, h[None], c[None]

    def zero_state(self, batch: int):
        shape = (1, batch, self.embedding.embedding_dim)
        return torch.zeros(shape), torch.zeros(shape)

    def loss(self, poems: torch.Tensor, reduction: str = "mean") -> torch.Tensor:  # [B, T], first and last token END
        logits, _, _ = self(poems[:, :-1], *self.zero_state(len(poems)))
        return nn.functional.cross_entropy(logits.flatten(0, 1), poems[:, 1:].flatten(), reduction=reduction)


def split(text: str) -> tuple[list[str], list[str], list[str]]:
    """The poems that have the form, shuffled: to train on, to choose when to stop, held out."""
    poems = [line for line in text.split() if FORM.fullmatch(line)]
    shuffled = [poems[i] for i in torch.randperm(len(poems), generator=torch.Generator().manual_seed(1))]
    part = len(poems) // 20
    return shuffled[2 * part :], shuffled[part : 2 * part], shuffled[:part]


def by_length(poems: list[str], vocab: list[str]) -> list[torch.Tensor]:
    """The poems as ids, END before and after; those of one length in one tensor, so that nothing is padded."""
    ids = {token: index for index, token in enumerate(vocab)}
    rows = [[ids[token] for token in END + poem + END] for poem in poems]
    return [torch.tensor([row for row in rows if len(row) == length]) for length in sorted({len(r) for r in rows})]


def batches(groups: list[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield shuffled batches of poems of one length, without end."""
    while True:
        cut = [b for group in groups for b in group[torch.randperm(len(group))].split(size)]
        yield from (cut[i] for i in torch.randperm(len(cut)))


@torch.no_grad()
def bits_per_character(model: Tang, groups: list[torch.Tensor]) -> float:
    """Bits per character, over all characters and ends."""
    model.eval()
    total = sum(model.loss(b, "sum").item() for group in groups for b in group.split(128))
    model.train()
    return total / sum(g.shape[0] * (g.shape[1] - 1) for g in groups) / math.log(2)


def train(model: Tang, poems: list[torch.Tensor], validation: list[torch.Tensor], minutes: float, batch=64) -> None:
    """Train for the time given; the model ends with the weights that were best on `validation`."""
    adam, best, kept = TimedAdamW(model.parameters(), 3e-3, minutes), math.inf, model.state_dict()
    for (step, done), poems_now in zip(adam.steps(), batches(poems, batch), strict=False):
        loss = model.loss(poems_now)
        adam.descend(loss)
        if step % 100 == 0:
            bits = bits_per_character(model, validation)
            if bits < best:
                best, kept = bits, {name: value.clone() for name, value in model.state_dict().items()}
            print(f"step {step}  {done:5.1%}  train {loss.item() / math.log(2):.3f}  validation {bits:.3f}", flush=True)
    model.load_state_dict(kept)


def round_to_float16(model: Tang) -> None:
    """Round the weights to float16, as in the file, so that the figure is that of the file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()


def write(model: Tang, vocab: list[str], path: Path) -> None:
    """One LSTM node with P; weights as float16 with a Cast, which onnxruntime folds when it loads the file."""
    hidden, cell = model.embedding.embedding_dim, model.cell
    weights = {
        "embedding": model.embedding.weight,
        "W": cell.W[None] * hidden**0.5,
        "R": cell.R[None],
        "B": torch.cat([cell.b, torch.zeros_like(cell.b)])[None],
        "P": cell.P[None],
        "bias": model.bias,
    }
    initializers = [
        numpy_helper.from_array(value.detach().numpy().astype(np.float16), f"{name}_half")
        for name, value in weights.items()
    ]
    nodes = [helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT) for name in weights] + [
        helper.make_node("Gather", ["embedding", "tokens"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c", "P"], ["y", "h_out", "c_out"], hidden_size=hidden),
        helper.make_node("Squeeze", ["y", "direction"], ["forward"]),
        helper.make_node("Transpose", ["forward"], ["hidden"], perm=[1, 0, 2]),
        helper.make_node("Transpose", ["embedding"], ["projection"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "projection"], ["scores"]),
        helper.make_node("Add", ["scores", "bias"], ["logits"]),
    ]
    state = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "batch", hidden]) for name in ("h", "c", "h_out", "c_out")}  # fmt: skip
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", len(vocab)])
    initializers.append(numpy_helper.from_array(np.array([1]), "direction"))
    graph = helper.make_graph(
        nodes, "tang", [tokens, state["h"], state["c"]], [logits, state["h_out"], state["c_out"]], initializers
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    end = json.dumps(vocab.index(END))
    helper.set_model_props(
        file,
        {
            "decoding.vocab": json.dumps(vocab),
            "decoding.bos": end,
            "decoding.eos": end,
            "decoding.max_new_tokens": json.dumps(LONGEST),
        },
    )
    onnx.checker.check_model(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(file, path)


def main() -> None:
    """Read the poems, train, print the held-out figure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=28)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    parts = split(args.text.read_text(encoding="utf-8"))
    vocab = [END, *sorted({character for part in parts for poem in part for character in poem})]
    poems, validation, held_out = (by_length(part, vocab) for part in parts)
    print(f"{len(vocab)} tokens; {', '.join(str(len(part)) for part in parts)} poems to train, validate, hold out")
    model = Tang(len(vocab))
    train(model, poems, validation, args.minutes)
    round_to_float16(model)
    print(f"held-out bits per character: {bits_per_character(model, held_out):.3f}")
    write(model, vocab, args.output)
    print(f"wrote {args.output}: {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
