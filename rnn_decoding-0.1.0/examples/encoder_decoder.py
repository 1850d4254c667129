"""Sequence to sequence, without attention (Sutskever et al. 2014): number words to digits.

    python examples/encoder_decoder.py

An LSTM reads "two hundred and five thousand and six"; its last h and c are the initial states of the LSTM that writes
205006, so they hold the number. The exported encoder takes no lengths: `load()` finds that padding would change its
answer, and sources of unequal length run apart. One in twenty of the numbers below a million is not in the training
data.
"""

import random

import numpy as np
import torch
from common import Words, export, fit, next_token_loss
from torch import nn

import decoding

ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SOURCE, TARGET = Words([*ONES, *TENS, "hundred", "thousand", "and"]), Words("0123456789", space="")


def in_words(n: int) -> str:
    """English words of a number below a million."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    rest = "" if n % size == 0 else f" and {in_words(n % size)}" if n % size < 100 else f" {in_words(n % size)}"
    return f"{in_words(n // size)} {name}{rest}"


def numbers(rng: random.Random, count: int, *, held_out: bool) -> list[int]:
    """Random numbers of one to six digits, equally many of each length."""
    found: list[int] = []
    while len(found) < count:
        n = rng.randrange(10 ** rng.randint(1, 6))
        if (random.Random(n).random() < 0.05) == held_out:
            found.append(n)
    return found


class Encoder(nn.Module):
    """An LSTM over the words; returns its last h and c."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(SOURCE.vocab), 32)
        self.lstm = nn.LSTM(32, hidden, batch_first=True)

    def forward(self, tokens, lengths=None):
        """Tokens [B, S] to h and c, each [1, B, H]; sources that are padded, as in training, need their lengths [B]."""
        x = self.embedding(tokens)
        if lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(x)[1]


class Decoder(nn.Module):
    """An LSTM over the digits, with its states as inputs and outputs."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(TARGET.vocab), 32)
        self.lstm = nn.LSTM(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(TARGET.vocab))

    def forward(self, tokens, h, c):
        """Tokens [B, T] and states [1, B, H] to logits [B, T, V] and the next states."""
        y, (h, c) = self.lstm(self.embedding(tokens), (h, c))
        return self.head(y), h, c


def train(steps: int = 1500) -> nn.ModuleDict:
    """Train encoder and decoder together."""
    rng = random.Random(0)
    network = nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})

    def loss():
        chosen = numbers(rng, 128, held_out=False)
        sources, lengths = SOURCE.padded([in_words(n) for n in chosen])
        targets = TARGET.tensor([str(n) for n in chosen])
        return next_token_loss(network["decoder"](targets[:, :-1], *network["encoder"](sources, lengths))[0], targets)

    fit(network, loss, steps)
    return network


def main() -> float:
    """Train, decode numbers that were held out; return the share that is right in every digit."""
    torch.manual_seed(0)
    network = train()
    words = {"tokens": torch.ones(2, 4, dtype=torch.int64)}
    digits = {"tokens": torch.ones(2, 3, dtype=torch.int64), "h": torch.zeros(1, 2, 128), "c": torch.ones(1, 2, 128)}
    encoder = export(network["encoder"], words, ["h", "c"], {"tokens": {1: "source"}}, vocab=SOURCE.vocab)
    decoder = export(
        network["decoder"], digits, ["logits", "h_out", "c_out"], {"tokens": {1: "time"}},
        batch_axis={"h": 1, "c": 1}, vocab=TARGET.vocab, bos=TARGET.BOS, eos=TARGET.EOS,
    )  # fmt: skip
    model = decoding.load(decoder, encoder=encoder)
    print(model.describe())

    wanted = numbers(random.Random(1), 500, held_out=True)
    out = decoding.decode(model, [f" {in_words(n)}" for n in wanted], decoding.Beam(4))
    for n, found in zip(wanted[:5], out.text[:5], strict=True):
        print(f"{in_words(n):70}{found}")
    right = np.mean([found == str(n) for n, found in zip(wanted, out.text, strict=True)])
    print(f"{right:.1%} of 500 numbers that were never trained on are right in every digit")
    return right


if __name__ == "__main__":
    assert main() >= 0.95
