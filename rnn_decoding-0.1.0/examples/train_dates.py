"""Train the encoder and decoder that ship as decoding/pretrained/dates.encoder.onnx and dates.onnx, and export them.

    python examples/train_dates.py decoding/pretrained/dates.onnx

dates_data.py makes new data without end; the printed figures are those of the dates that it holds out. The network is
that of Bahdanau et al. 2015 (arXiv:1409.0473): a bidirectional GRU reads the characters, a GRU writes the ISO date and
chooses at each step where to read. Both files come from torch's own exporters; their metadata holds the characters.
"""

import argparse
import itertools
import random
from pathlib import Path

import dates_data
import onnx
import torch
from common import export
from torch import nn
from training import TimedAdamW

# The encoder's characters; the decoder's begin with BOS and EOS. Both have no text.
SOURCE = ["", *" ',-./:’°º0123456789", *dates_data.LETTERS]
TARGET = ["", "", *"-0123456789"]
PAD, BOS, EOS = 0, 0, 1


class Encoder(nn.Module):
    """Bidirectional GRU. It also computes the keys, which the decoder needs at every step but which never change."""

    def __init__(self, embedding: int = 32, hidden: int = 96, state: int = 128, attention: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(SOURCE), embedding)
        self.gru = nn.GRU(embedding, hidden, bidirectional=True, batch_first=True)
        self.keys = nn.Linear(2 * hidden, attention)
        self.bridge = nn.Linear(2 * hidden, state)
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens, lengths):
        """Tokens [B, S] and lengths [B] to annotations [B, S, 2H], keys [B, S, A] and the initial state [B, D]."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.drop(self.embedding(tokens)), lengths, batch_first=True, enforce_sorted=False
        )
        y, h = self.gru(packed)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=tokens.shape[1])
        return y, self.keys(y), torch.tanh(self.bridge(torch.cat([h[0], h[1]], 1)))


class Decoder(nn.Module):
    """One step: additive attention with the previous state, then a GRU over the token and the attended annotations."""

    def __init__(self, embedding: int = 32, hidden: int = 96, state: int = 128, attention: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TARGET), embedding)
        self.query = nn.Linear(state, attention, bias=False)
        self.energy = nn.Linear(attention, 1, bias=False)
        self.gru = nn.GRUCell(embedding + 2 * hidden, state)
        self.head = nn.Linear(state + 2 * hidden, len(TARGET))
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens, state, annotations, keys, mask):
        """Tokens [B], state [B, D] and the encoder's outputs to logits [B, V], next state [B, D], attention [B, S]."""
        energy = self.energy(torch.tanh(keys + self.query(state)[:, None]))[..., 0]
        attention = torch.softmax(energy.masked_fill(~mask, -1e9), 1)
        read = (attention[:, None] @ annotations)[:, 0]
        state = self.gru(torch.cat([self.embedding(tokens), read], 1), state)
        return self.head(self.drop(torch.cat([state, read], 1))), state, attention


def source_mask(tokens, lengths):
    """Bool [B, S]: whether a position belongs to the source, rather than to padding."""
    return torch.arange(tokens.shape[1]) < lengths[:, None]


def batches(pairs, size: int):
    """Tensors (tokens [B, S], lengths [B], ISO ids [B, 11] with EOS), sources of similar length together."""
    number = {character: i for i, character in enumerate(SOURCE) if character}
    while pool := sorted(itertools.islice(pairs, 32 * size), key=lambda pair: len(pair[0])):
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        for chunk in random.sample(chunks, len(chunks)):
            sources = [torch.tensor([number[c] for c in written]) for written, _ in chunk]
            targets = torch.tensor([[TARGET.index(c) for c in iso] + [EOS] for _, iso in chunk])
            lengths = torch.tensor([len(s) for s in sources])
            yield nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=PAD), lengths, targets


def train(encoder: Encoder, decoder: Decoder, minutes: float, seed: int = 0, size: int = 128) -> None:
    """Train on the cross-entropy of the ISO date; the decoder reads the right characters."""
    optimizer = TimedAdamW([*encoder.parameters(), *decoder.parameters()], 3e-3, minutes)
    held_out = list(itertools.islice(dates_data.pairs(seed + 1, held_out=True), 500))
    data = batches(dates_data.pairs(seed), size)
    for step, done in optimizer.steps():
        tokens, lengths, targets = next(data)
        annotations, keys, state = encoder(tokens, lengths)
        mask = source_mask(tokens, lengths)
        fed = nn.functional.pad(targets[:, :-1], (1, 0), value=BOS)
        rows = []
        for previous in fed.T:
            logits, state, _ = decoder(previous, state, annotations, keys, mask)
            rows.append(logits)
        loss = nn.functional.cross_entropy(torch.stack(rows, 2), targets, label_smoothing=0.02)
        optimizer.descend(loss)
        if step % 500 == 0:
            right = exact_match(encoder, decoder, held_out)
            print(f"step {step}  {done:5.1%}  loss {loss.item():.4f}  held-out exact {right:.2%}", flush=True)


@torch.no_grad()
def exact_match(encoder: Encoder, decoder: Decoder, pairs: list[dates_data.Pair]) -> float:
    """Return the share of the pairs that a greedy loop gets right in every character."""
    encoder.eval(), decoder.eval()
    right = 0
    for tokens, lengths, targets in batches(iter(pairs), 250):
        annotations, keys, state = encoder(tokens, lengths)
        mask = source_mask(tokens, lengths)
        token, written = torch.full((len(tokens),), BOS), []
        for _ in range(targets.shape[1]):
            logits, state, _ = decoder(token, state, annotations, keys, mask)
            token = logits.argmax(1)
            written.append(token)
        right += int((torch.stack(written, 1) == targets).all(1).sum())
    encoder.train(), decoder.train()
    return right / len(pairs)


def export_pair(encoder: Encoder, decoder: Decoder, path: Path) -> None:
    """Write the decoder's step to PATH, and the encoder beside it as NAME.encoder.onnx, where `load()` finds it.

    The dynamo exporter of torch 2.13 cannot export packed sequences; the older one gives the GRU its sequence lengths.
    """
    encoder.eval()
    read = {"tokens": torch.ones(2, 5, dtype=torch.int64), "lengths": torch.tensor([5, 3])}
    annotations, keys, state = encoder(*read.values())
    step = {
        "tokens": read["tokens"][:, 0],
        "state": state,
        "annotations": annotations,
        "keys": keys,
        "mask": source_mask(*read.values()),
    }
    source = {1: "source"}
    files = {
        path.with_suffix(".encoder.onnx"): export(
            encoder, read, ["annotations", "keys", "state"], {"tokens": source}, dynamo=False, vocab=SOURCE, pad=PAD
        ),
        path: export(
            decoder, step, ["logits", "next_state", "attention"], dict.fromkeys(["annotations", "keys", "mask"], source),
            vocab=TARGET, bos=BOS, eos=EOS, max_new_tokens=len("2026-05-03") + 1,
        ),
    }  # fmt: skip
    for place, file in files.items():
        onnx.save(file, place)
        print(f"wrote {place}: {place.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    """Train, print the held-out figures, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(1)
    random.seed(1)
    torch.set_num_threads(args.threads)
    encoder, decoder = Encoder(), Decoder()
    train(encoder, decoder, args.minutes)
    for language in [None, "numbers", *dates_data.LANGUAGES]:
        held_out = list(itertools.islice(dates_data.pairs(2, held_out=True, language=language), 2000))
        print(f"greedy, {language or 'all'}: {exact_match(encoder, decoder, held_out):.2%} of 2,000 held-out strings")
    export_pair(encoder, decoder, args.output)


if __name__ == "__main__":
    main()
