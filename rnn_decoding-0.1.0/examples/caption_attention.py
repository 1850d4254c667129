"""Image captions with attention over a grid (Xu et al. 2015): where the network looks while it writes a word.

    python examples/caption_attention.py

A CNN turns a picture into a 7x7 grid of vectors; the decoder names the things from left to right: "red square, blue
cross". With `return_attention=True` every word comes with its weights over the 49 places. NumPy then checks that the
largest one falls on the thing whose colour is being named. (The shape often needs no second look: the state has kept
it from the first.)
"""

import numpy as np
import torch
from common import COLOURS, SHAPES, Words, draw_shape, export, fit, next_token_loss
from torch import nn

import decoding

WORDS = Words([*COLOURS, *SHAPES, "and"])
SIDE, CELL, THING = 28, 4, 8


def pictures_of(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[str], list[list[tuple[int, int]]]]:
    """Pictures [n, 3, 28, 28] of one to three things, captions, and the top left corner of each thing."""
    pictures = rng.normal(0, 0.05, (n, 3, SIDE, SIDE)).astype(np.float32)
    captions, corners = [], []
    for picture in pictures:
        things, places = [], []
        for column in np.flatnonzero(rng.permutation(3) < rng.integers(1, 4)):
            shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
            places.append((int(rng.integers(SIDE - THING + 1)), int(9 * column + rng.integers(3))))
            draw_shape(picture, shape, colour, THING, *places[-1])
            things.append(f"{colour} {shape}")
        captions.append(" and ".join(things))
        corners.append(places)
    return pictures, captions, corners


class Encoder(nn.Module):
    """A CNN; each place of the grid has a learned vector of its own."""

    def __init__(self, width: int = 64, state: int = 96) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1),
        )
        self.places = nn.Parameter(0.1 * torch.randn(SIDE * SIDE // CELL**2, width))
        self.bridge = nn.Linear(width, state)

    def forward(self, picture):
        """Pictures [B, 3, 28, 28] to a grid [B, 49, D] and the decoder's initial state [B, H]."""
        grid = torch.relu(self.cnn(picture).flatten(2).transpose(1, 2) + self.places)
        return grid, torch.tanh(self.bridge(grid.mean(1)))


class Decoder(nn.Module):
    """One step: additive attention over the grid, then a GRU cell."""

    def __init__(self, width: int = 64, state: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS.vocab), 32)
        self.key, self.query, self.energy = nn.Linear(width, 64), nn.Linear(state + 32, 64), nn.Linear(64, 1)
        self.cell = nn.GRUCell(32 + width, state)
        self.head = nn.Linear(state + width, len(WORDS.vocab))

    def forward(self, tokens, state, grid):
        """Tokens [B], states [B, H], grids [B, 49, D] to logits [B, V], next states, attention [B, 49]."""
        word = self.embedding(tokens)
        query = self.query(torch.cat([word, state], 1))
        attention = torch.softmax(self.energy(torch.tanh(self.key(grid) + query[:, None]))[..., 0], 1)
        seen = (attention[:, None] @ grid)[:, 0]
        state = self.cell(torch.cat([word, seen], 1), state)
        return self.head(torch.cat([state, seen], 1)), state, attention


def train(steps: int = 1000) -> nn.ModuleDict:
    """Train encoder and decoder together, on the captions alone: no label says where to look."""
    rng = np.random.default_rng(0)
    network = nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})

    def loss():
        pictures, captions, _ = pictures_of(rng, 64)
        tokens = WORDS.tensor(captions)
        grid, state = network["encoder"](torch.tensor(pictures))
        logits = []
        for word in tokens[:, :-1].T:
            row, state, _ = network["decoder"](word, state, grid)
            logits.append(row)
        return next_token_loss(torch.stack(logits, 1), tokens)

    fit(network, loss, steps)
    return network


def looks_at(weights: np.ndarray, corner: tuple[int, int]) -> bool:
    """Return whether the cell of the largest weight [49] overlaps the thing."""
    row, column = np.array(divmod(int(weights.argmax()), SIDE // CELL)) * CELL
    top, left = corner
    return top - CELL < row < top + THING and left - CELL < column < left + THING


def main() -> tuple[float, float]:
    """Train, decode new pictures; return the shares of right captions and of colours that look at their thing."""
    torch.manual_seed(0)
    network = train()
    grid, state = torch.zeros(2, 49, 64), torch.zeros(2, 96)
    encoder = export(network["encoder"], {"picture": torch.zeros(2, 3, SIDE, SIDE)}, ["grid", "state"])
    decoder = export(
        network["decoder"], {"tokens": torch.zeros(2, dtype=torch.int64), "state": state, "grid": grid},
        ["logits", "next_state", "attention"], vocab=WORDS.vocab, bos=WORDS.BOS, eos=WORDS.EOS,
    )  # fmt: skip
    model = decoding.load(decoder, encoder=encoder)
    print(model.describe())

    pictures, captions, corners = pictures_of(np.random.default_rng(1), 300)
    out = decoding.decode(model, {"picture": pictures}, decoding.Beam(3), return_attention=True)
    right, looks = [], []
    for wanted, places, found in zip(captions, corners, out, strict=True):
        right.append(found.text.strip() == wanted)
        if right[-1]:  # the colours are words 0, 3 and 6
            looks += [looks_at(weights, corner) for weights, corner in zip(found.attention[::3], places, strict=True)]
    print(
        f"{np.mean(right):.1%} of 300 captions are right; {np.mean(looks):.1%} of their colours look at the thing they name"
    )
    return np.mean(right), np.mean(looks)


if __name__ == "__main__":
    assert min(main()) >= 0.9
