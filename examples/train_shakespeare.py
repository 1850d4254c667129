"""Train the character LSTM that ships as decoding/pretrained/shakespeare.onnx, and export it.

    python examples/train_shakespeare.py tinyshakespeare.txt decoding/pretrained/shakespeare.onnx

The text is karpathy/char-rnn's data/tinyshakespeare/input.txt. The last tenth is held out: the script
trains on the rest and prints bits per character on the held-out part, for the weights that it exports.
The ONNX file comes from torch's own exporter; its metadata holds the vocabulary (``decoding.vocab``).
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import nn
from training import TimedAdamW


class CharLSTM(nn.Module):
    """Embedding, stacked LSTM, linear. The states are inputs and outputs, so that the file can be run step by step."""

    def __init__(self, vocab_size: int, embedding: int = 64, hidden: int = 224, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=0.1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(hidden, vocab_size)

    def forward(self, tokens, h, c):  # tokens [B, T], states [layers, B, hidden]
        y, (h, c) = self.lstm(self.embedding(tokens), (h, c))
        return self.head(self.drop(y)), h, c

    def zero_state(self, batch: int):
        shape = (self.lstm.num_layers, batch, self.lstm.hidden_size)
        return torch.zeros(shape), torch.zeros(shape)


def split(text: str) -> tuple[str, str]:
    """The training text, and the last tenth, which is held out."""
    end = len(text) * 9 // 10
    return text[:end], text[end:]


def held_out_bits(model: CharLSTM, ids: torch.Tensor) -> float:
    """Bits per character over one pass through `ids`, the state carried all the way."""
    model.eval()
    nll, h, c = 0.0, *model.zero_state(1)
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 4096):
            chunk = ids[start : start + 4097]
            logits, h, c = model(chunk[None, :-1], h, c)
            nll += nn.functional.cross_entropy(logits[0], chunk[1:], reduction="sum").item()
    model.train()
    return nll / (len(ids) - 1) / math.log(2)


def train(model: CharLSTM, ids: torch.Tensor, held_out: torch.Tensor, minutes: float, batch=64, length=96):
    """Adam on truncated back-propagation through time; one-cycle learning rate over the time given."""
    streams = ids[: len(ids) // batch * batch].view(batch, -1)
    optimizer = TimedAdamW(model.parameters(), 4e-3, minutes)
    position = 0
    h, c = model.zero_state(batch)
    for step, done in optimizer.steps():
        if position + length + 1 > streams.shape[1]:
            position = int(torch.randint(length, ()))
            h, c = model.zero_state(batch)
        x = streams[:, position : position + length]
        y = streams[:, position + 1 : position + length + 1]
        logits, h, c = model(x, h.detach(), c.detach())
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.descend(loss)
        position += length
        if step % 100 == 0:
            bits = held_out_bits(model, held_out)
            print(
                f"step {step}  {done:5.1%}  train {loss.item() / math.log(2):.3f}  held-out {bits:.3f}",
                flush=True,
            )


def export(model: CharLSTM, vocab: list[str], path: Path) -> None:
    """torch.onnx.export with batch and time dynamic, then the vocabulary into the file's metadata."""
    model.eval()
    batch, time_ = torch.export.Dim("batch"), torch.export.Dim("time")
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, dtype=torch.int64), *model.zero_state(2)),
        input_names=["tokens", "h", "c"],
        output_names=["logits", "h_out", "c_out"],
        dynamic_shapes=({0: batch, 1: time_}, {1: batch}, {1: batch}),
        dynamo=True,
    )
    for node in program.model.graph:
        node.metadata_props.clear()  # traces that name files of the exporting machine
    program.model.metadata_props["decoding.vocab"] = json.dumps(vocab)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))


def main() -> None:
    """Read the text, train, print the held-out figure, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    text = args.text.read_text(encoding="utf-8")
    vocab = sorted(set(text))
    ids, held_out = (torch.tensor([vocab.index(ch) for ch in part]) for part in split(text))
    model = CharLSTM(len(vocab))
    train(model, ids, held_out, args.minutes)
    print(f"held-out bits per character: {held_out_bits(model, held_out):.3f}")
    export(model, vocab, args.output)
    print(f"wrote {args.output}: {args.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
