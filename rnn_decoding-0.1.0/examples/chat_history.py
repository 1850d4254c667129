"""Answers that depend on an earlier turn: a hierarchical encoder (Sordoni et al. 2015, Serban et al. 2016).

    python examples/chat_history.py

One GRU reads each utterance, a second one reads the turns, a third one answers. `load()` takes the first two as a
list of encoders, `decode()` takes a list of turns for each conversation. A later turn may correct an earlier one, and
some questions have no answer in the conversation. The conversations that are counted at the end are new, and mostly
longer than those of the training.
"""

import random

import numpy as np
import torch
from common import Words, export, fit, next_token_loss
from torch import nn

import decoding

FACTS = {
    "name": ("my name is {}", "what is my name", "your name is {}", "anna ben carla david emma felix greta hugo ida jan"),
    "city": ("i live in {}", "where do i live", "you live in {}", "rome paris berlin madrid lisbon vienna oslo prague"),
    "drink": ("i like {}", "what do i like", "you like {}", "tea coffee milk water juice cocoa"),
    "pet": ("i have a {}", "what animal do i have", "you have a {}", "dog cat bird fish horse rabbit"),
}  # fmt: skip
CHATTER = ("hello", "how are you", "the weather is nice", "i am tired today", "do you know what", "that is all")
NEVER_TOLD = "you have not told me"
SENTENCES = [*CHATTER, NEVER_TOLD, "now", *(text for row in FACTS.values() for text in row)]
WORDS = Words(sorted({word for sentence in SENTENCES for word in sentence.split()} - {"{}"}))


def conversation(rng: random.Random, turns: int) -> tuple[list[str], str]:
    """The user's turns, the last of them a question, and the answer."""
    told: dict[str, str] = {}
    said = []
    for _ in range(turns - 1):
        if rng.random() < 0.3:
            said.append(rng.choice(CHATTER))
            continue
        fact = rng.choice(list(FACTS))
        value = rng.choice(FACTS[fact][3].split())
        said.append(("now " if fact in told else "") + FACTS[fact][0].format(value))
        told[fact] = value
    fact = rng.choice(list(FACTS))
    return [*said, FACTS[fact][1]], FACTS[fact][2].format(told[fact]) if fact in told else NEVER_TOLD


class Reader(nn.Module):
    """A GRU over sequences of unequal length; returns its output at the end of each [B, H]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)

    def forward(self, x, lengths):
        """Vectors [B, T, D], lengths [B] to [B, H]."""
        return self.gru(x)[0][torch.arange(x.shape[0]), lengths - 1]


class Utterance(nn.Module):
    """The first encoder: words of one turn to a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.reader = nn.Embedding(len(WORDS.vocab), 32), Reader(32, width)

    def forward(self, tokens, lengths):
        """Tokens [B, T], lengths [B] to [B, D]."""
        return self.reader(self.embedding(tokens), lengths)


class Decoder(nn.Module):
    """A GRU over the answer's words that starts from the history."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS.vocab), 32)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(WORDS.vocab))

    def forward(self, tokens, state):
        """Tokens [B, T], state [B, H] to logits [B, T, V] and the next state."""
        y, state = self.gru(self.embedding(tokens), state[None])
        return self.head(y), state[0]


WIDTH, HIDDEN = 64, 192


def train(steps: int = 3500) -> nn.ModuleDict:
    """Train the three networks together."""
    rng = random.Random(0)
    network = nn.ModuleDict(
        {"utterance": Utterance(WIDTH), "history": Reader(WIDTH, HIDDEN), "decoder": Decoder(HIDDEN)}
    )

    def loss():
        turns, answers = zip(*(conversation(rng, rng.randint(2, 8)) for _ in range(64)), strict=True)
        vectors = network["utterance"](*WORDS.padded([turn for one in turns for turn in one]))
        counts = [len(one) for one in turns]
        history = nn.utils.rnn.pad_sequence(vectors.split(counts), batch_first=True)
        state = network["history"](history, torch.tensor(counts))
        targets = WORDS.tensor(answers)
        return next_token_loss(network["decoder"](targets[:, :-1], state)[0], targets)

    fit(network, loss, steps)
    return network


def main() -> float:
    """Train, answer at the end of new conversations; return the share of right answers."""
    torch.manual_seed(0)
    network = train()
    lengths, tokens = torch.tensor([4, 2]), torch.ones(2, 4, dtype=torch.int64)
    utterance = export(
        network["utterance"], {"tokens": tokens, "lengths": lengths}, ["utterance"], {"tokens": {1: "words"}},
        vocab=WORDS.vocab,
    )  # fmt: skip
    history = export(
        network["history"],
        {"utterances": torch.zeros(2, 4, WIDTH), "lengths": lengths},
        ["state"],
        {"utterances": {1: "turns"}},
    )
    decoder = export(
        network["decoder"], {"tokens": tokens, "state": torch.zeros(2, HIDDEN)}, ["logits", "next_state"],
        {"tokens": {1: "time"}}, vocab=WORDS.vocab, bos=WORDS.BOS, eos=WORDS.EOS,
    )  # fmt: skip
    model = decoding.load(decoder, encoder=[utterance, history])
    print(model.describe())

    rng = random.Random(1)
    turns, answers = zip(*(conversation(rng, rng.randint(2, 10)) for _ in range(300)), strict=True)
    out = decoding.decode(model, [[f" {turn}" for turn in one] for one in turns], decoding.Greedy())
    for one, found in zip(turns[:4], out.text[:4], strict=True):
        print(" / ".join(one), "->", found)
    right = np.mean([found.strip() == wanted for wanted, found in zip(answers, out.text, strict=True)])
    print(f"{right:.1%} of 300 answers are right")
    return right


if __name__ == "__main__":
    assert main() >= 0.9
