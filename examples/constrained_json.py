"""JSON from a character model: a small LSTM that has learnt records, under their schema.

    python examples/constrained_json.py

The network learns to write records such as {"name":"Mira Sol","age":41,"tags":["chess"]}. Many outputs of so small
a network are no JSON, or not of the schema. Under `JSONSchema` every whole output is.
"""

import json
import random
import re

import torch
from common import Words, export, fit, next_token_loss
from torch import nn

import decoding
from decoding import JSONSchema, Sample

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]+ [A-Z][a-z]+$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["chess", "music", "chemistry"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
NAMES = ["Mira", "Sol", "Ada", "Karl", "Lin", "Ibo", "Una", "Rem", "Toma", "Vera", "Kai", "Nils"]
LETTERS = Words([chr(i) for i in range(32, 127)], space="")


class Writer(nn.Module):
    """Characters to logits of the next one; the states come in and go out."""

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS.vocab), hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(LETTERS.vocab))

    def forward(self, tokens, h, c):
        """Ids [B, T] and states [1, B, hidden], to logits [B, T, V] and states."""
        y, (h, c) = self.lstm(self.embedding(tokens), (h, c))
        return self.head(y), h, c


def record(rng: random.Random) -> str:
    """A record of the schema."""
    tags = rng.sample(["chess", "music", "chemistry"], rng.randrange(3))
    value = {"name": " ".join(rng.sample(NAMES, 2)), "age": rng.randrange(100), "tags": tags}
    return json.dumps(value, separators=(",", ":"))


def fits(text: str) -> bool:
    """Return whether a text is a record of the schema, by Python's own `json`."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if not isinstance(value, dict) or list(value) != ["name", "age", "tags"] or not isinstance(value["name"], str):
        return False
    named = re.fullmatch("[A-Z][a-z]+ [A-Z][a-z]+", value["name"]) is not None
    of_age = isinstance(value["age"], int) and 0 <= value["age"] <= 120
    tagged = isinstance(value["tags"], list) and len(value["tags"]) <= 2
    tagged = tagged and all(tag in ("chess", "music", "chemistry") for tag in value["tags"])
    return named and of_age and tagged


def main() -> None:
    """Train, export, and count the records that fit, without and with the constraint."""
    rng = random.Random(0)
    torch.manual_seed(0)
    network = Writer()
    zero = torch.zeros(1, 32, 96)

    def loss() -> torch.Tensor:
        tokens = LETTERS.tensor([record(rng) for _ in range(32)])
        return next_token_loss(network(tokens[:, :-1], zero, zero)[0], tokens)

    fit(network, loss, 250)
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "h": torch.zeros(1, 2, 96), "c": torch.zeros(1, 2, 96)}
    file = export(
        network, inputs, ["logits", "h_out", "c_out"], {"tokens": {1: "time"}}, batch_axis={"h": 1, "c": 1},
        vocab=LETTERS.vocab, bos=Words.BOS, eos=Words.EOS,
    )  # fmt: skip
    model = decoding.load(file)
    options = {"num_return_sequences": 200, "seed": 3, "max_new_tokens": 200}
    free = decoding.decode(model, None, Sample(), **options)
    held = decoding.decode(model, None, Sample(), processors=[JSONSchema(SCHEMA)], **options)
    whole = [h for h in held if h.finish_reason == "eos"]
    print(f"of 200 outputs, {sum(fits(h.text) for h in free)} are records of the schema")
    print(
        f"under the schema {sum(fits(h.text) for h in whole)} of {len(whole)} are; max_new_tokens cut {200 - len(whole)}"
    )
    print(whole[0].text)
    assert all(fits(h.text) for h in whole)
    assert len(whole) > 150


if __name__ == "__main__":
    main()
