"""Image captions, the usual way: a CNN turns a picture into one vector, and the decoder reads it at every step.

    python examples/caption_vector.py

The pictures show things such as "three small red squares". One in ten of all such captions is not in the training
data, with any picture: the network has to put these captions together from their parts. `decode()` takes the vectors
as ready arrays, with `context=`.
"""

import itertools
import random

import numpy as np
import torch
from common import COLOURS, SHAPES, Words, draw_shape, export, fit, next_token_loss
from torch import nn

import decoding

NUMBERS = ("a", "two", "three", "four")
SIZES = {"small": 6, "large": 9}
WORDS = Words([*NUMBERS, *SIZES, *COLOURS, *SHAPES, *(f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES)])  # fmt: skip
KINDS = random.Random(0).sample(list(itertools.product(range(4), SIZES, COLOURS, SHAPES)), 160)
HELD_OUT, TRAINED = KINDS[:16], KINDS[16:]


def picture_of(rng: np.random.Generator, kind) -> tuple[np.ndarray, str]:
    """A picture [3, 32, 32] with its caption; the things are in different cells of a 3x3 grid."""
    count, size, colour, shape = kind
    picture = rng.normal(0, 0.05, (3, 32, 32)).astype(np.float32)
    for cell in rng.choice(9, count + 1, replace=False):
        top, left = 10 * np.array(divmod(cell, 3)) + rng.integers(1, 12 - SIZES[size], 2)
        draw_shape(picture, shape, colour, SIZES[size], top, left)
    noun = shape if count == 0 else f"{shape}es" if shape == "cross" else f"{shape}s"
    return picture, f"{NUMBERS[count]} {size} {colour} {noun}"


def pictures_of(rng: np.random.Generator, kinds, n: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures [n, 3, 32, 32] and captions."""
    pictures, captions = zip(*(picture_of(rng, kinds[rng.integers(len(kinds))]) for _ in range(n)), strict=True)
    return torch.tensor(np.stack(pictures)), list(captions)


class Decoder(nn.Module):
    """A GRU whose input is the word before and the picture's vector."""

    def __init__(self, vector: int, hidden: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS.vocab), 32)
        self.gru = nn.GRU(32 + vector, hidden, batch_first=True)
        self.head = nn.Linear(hidden, len(WORDS.vocab))

    def forward(self, tokens, image):
        """Tokens [B, T] and vectors [B, D] to logits [B, T, V]."""
        image = image[:, None].expand(-1, tokens.shape[1], -1)
        return self.head(self.gru(torch.cat([self.embedding(tokens), image], 2))[0])


def make_network(vector: int = 64) -> nn.ModuleDict:
    """The CNN and the decoder."""
    cnn = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, vector), nn.ReLU(),
    )  # fmt: skip
    return nn.ModuleDict({"cnn": cnn, "decoder": Decoder(vector)})


def main() -> float:
    """Train, decode captions that were held out; return the share that is right in every word."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = make_network()

    def loss():
        pictures, captions = pictures_of(rng, TRAINED, 64)
        tokens = WORDS.tensor(captions)
        return next_token_loss(network["decoder"](tokens[:, :-1], network["cnn"](pictures)), tokens)

    fit(network, loss, 1500)
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "image": torch.zeros(2, 64)}
    file = export(
        network["decoder"], inputs, ["logits"], {"tokens": {1: "time"}}, vocab=WORDS.vocab, bos=WORDS.BOS, eos=WORDS.EOS
    )
    model = decoding.load(file)
    print(model.describe())

    pictures, captions = pictures_of(rng, HELD_OUT, 300)
    with torch.no_grad():
        vectors = network["cnn"](pictures).numpy()
    out = decoding.decode(model, [[WORDS.BOS]] * 300, decoding.Beam(3), context={"image": vectors})
    for wanted, found in zip(captions[:5], out.text[:5], strict=True):
        print(f"{wanted:32}{found}")
    right = np.mean([found.strip() == wanted for wanted, found in zip(captions, out.text, strict=True)])
    print(f"{right:.0%} of 300 captions are right, of kinds that were never trained on")
    return right


if __name__ == "__main__":
    assert main() >= 0.85
