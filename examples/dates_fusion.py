"""Shallow fusion and the density ratio: the shipped `dates` reads damaged dates with the help of a language model.

    python examples/dates_fusion.py

The dates are those of invoices, from 2020 to 2026, and one character of each is wrong: replaced, lost, or exchanged with
its neighbour. `dates` was trained on sound dates from 1600 to 2199. A language model of the dates of invoices, a GRU over
the 13 tokens that `dates` writes, knows what is likely before anything is read:

* shallow fusion (Gulcehre et al. 2015) adds its log-probabilities, with a small weight;
* the density ratio (McDermott et al. 2019) also subtracts those of a language model of the dates that `dates` was trained
  on, as these are in `dates` already: a negative weight. Where neither language model expects a character, the difference
  of their log-probabilities is noise, and a large weight follows it into texts that are no dates: a Regex forbids them.

No model has seen the days that are read here (dates_data.py holds them out).
"""

import itertools
import random

import dates_data
import torch
from common import Words, export, fit, next_token_loss
from torch import nn

import decoding
from decoding import Beam, Ensemble, Regex

COUNT, YEARS = 1000, ("2020", "2021", "2022", "2023", "2024", "2025", "2026")
DIGITS = Words("-0123456789", space="")
DATE = Regex(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")


class LanguageModel(nn.Module):
    """A GRU over the characters of a date."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(DIGITS.vocab), 16)
        self.gru = nn.GRU(16, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(DIGITS.vocab))

    def forward(self, tokens, h):
        """Tokens [B, T] and the state [1, B, H] to logits [B, T, V] and the next state."""
        y, h = self.gru(self.embedding(tokens), h)
        return self.head(y), h


def language_model(written: list[str], steps: int = 400) -> decoding.Model:
    """A language model of ISO dates, trained for some seconds, loaded."""
    network, rng = LanguageModel(), random.Random(0)

    def loss():
        tokens = DIGITS.tensor(rng.sample(written, 128))
        return next_token_loss(network(tokens[:, :-1], torch.zeros(1, 128, 64))[0], tokens)

    fit(network, loss, steps, learning_rate=1e-2)
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "h": torch.zeros(1, 2, 64)}
    free = {"tokens": {1: "time"}}
    return decoding.load(export(network, inputs, ["logits", "h_out"], free, batch_axis={"h": 1}, dynamo=False,
                                vocab=DIGITS.vocab, bos=Words.BOS, eos=Words.EOS))  # fmt: skip


def damaged(rng: random.Random, text: str) -> str:
    """The text with one character wrong: another of its kind, none, or in the other order."""
    at = rng.randrange(len(text) - 1)
    kind = "0123456789" if text[at].isdigit() else "abcdefghijklmnopqrstuvwxyz" if text[at].isalpha() else " ./-"
    return rng.choice((
        text[:at] + rng.choice(kind) + text[at + 1 :],
        text[:at] + text[at + 1 :],
        text[:at] + text[at + 1] + text[at] + text[at + 2 :],
    ))  # fmt: skip


def invoices(seed: int, *, held_out: bool) -> list[tuple[str, str]]:
    """Pairs of a written date of 2020 to 2026 and its ISO form."""
    pairs = (pair for pair in dates_data.pairs(seed, held_out=held_out) if pair[1][:4] in YEARS)
    return list(itertools.islice(pairs, COUNT))


def main() -> dict[str, float]:
    """Train both language models; return and print how many dates are read exactly."""
    torch.manual_seed(0)
    domain = language_model([meant for _, meant in invoices(1, held_out=False)])
    everything = language_model([meant for _, meant in itertools.islice(dates_data.pairs(1), 20 * COUNT)])
    dates, rng = decoding.load("dates"), random.Random(3)
    sound, meant = zip(*invoices(2, held_out=True), strict=True)
    broken = [damaged(rng, text) for text in sound]
    readers = {"dates": (dates, ())}
    for weight in (0.3, 1.0):
        readers[f"+ {weight} invoices"] = Ensemble({"mt": dates, "lm": domain}, weights=[1, weight]), ()
    members = {"mt": dates, "lm": domain, "source": everything}
    for weight in (0.3, 1.0):
        readers[f"+ {weight} invoices - {weight} all"] = Ensemble(members, weights=[1, weight, -weight]), ()
    readers["the same, under a Regex"] = readers["+ 1.0 invoices - 1.0 all"][0], [DATE]
    right = {}
    print(f"{'of 1,000 dates':28}sound  damaged")
    for name, (reader, processors) in readers.items():
        found = [decoding.decode(reader, texts, Beam(4), processors=processors).text for texts in (sound, broken)]
        shares = [sum(a == b for a, b in zip(own, meant, strict=True)) / COUNT for own in found]
        right[name] = shares[1]
        print(f"{name:28}{shares[0]:5.1%}  {shares[1]:7.1%}", flush=True)
    return right


if __name__ == "__main__":
    share = main()
    assert share["+ 1.0 invoices"] > share["dates"] + 0.05
