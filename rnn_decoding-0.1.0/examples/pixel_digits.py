"""Digits drawn pixel by pixel: a pixel RNN (van den Oord et al. 2016), conditioned on the label.

    python examples/pixel_digits.py digits.png

The tokens are scikit-learn's 17 shades of gray, the rows of its 8x8 digits read one after the other. At each step the
network also sees the three pixels above, which are outputs of an earlier step: `step_inputs` finds them in the history.
All 64 images are decoded in one batch. A classifier that has learned real digits then reads them.
"""

import sys

import numpy as np
import torch
from common import export, fit, save_grid
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

import decoding

SIZE, SHADES = 8, 17
BOS = SHADES


class PixelRNN(nn.Module):
    """A GRU over pixels; each input is the pixel before, the three above, the position and the label."""

    def __init__(self, hidden: int = 192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SHADES + 1, 32)
        self.place = nn.Embedding(SIZE * SIZE, 32)
        self.above = nn.Linear(3, 32)
        self.label = nn.Linear(10, 32)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden + 32, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, SHADES + 1))

    def forward(self, tokens, position, above, label):
        """Tokens and positions [B, T], pixels above [B, T, 3] or [B, 3], labels [B, 10] to logits [B, T, 18]."""
        above = above if above.ndim == 3 else above[:, None]
        x = self.embedding(tokens) + self.place(position) + self.above(above) + self.label(label)[:, None]
        return self.head(torch.cat([self.gru(torch.relu(x))[0], x], 2))


def three_above(pixels: np.ndarray, place: int) -> np.ndarray:
    """The three pixels above a position [N, 3], from pixels [N, at least those before it]; zero outside the image."""
    row, column = divmod(place, SIZE)
    found = np.zeros((len(pixels), 3), np.float32)
    for i, c in enumerate((column - 1, column, column + 1)):
        if row and 0 <= c < SIZE:
            found[:, i] = pixels[:, (row - 1) * SIZE + c] / (SHADES - 1)
    return found


def above_of_rows(history: decoding.History) -> dict[str, np.ndarray]:
    """The step input; the rows of a batch may be at different positions."""
    return {"above": np.concatenate([three_above(pixels[None], len(pixels)) for pixels in history.outputs])}


def train(steps: int = 900) -> tuple[PixelRNN, np.ndarray, np.ndarray]:
    """Train; return the network, and the digits [N, 64] and labels [N] of the training."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.astype(np.int64)
    above = np.stack([three_above(pixels, place) for place in range(SIZE * SIZE)], 1)
    tokens = torch.tensor(pixels)
    fed = nn.functional.pad(tokens[:, :-1], (1, 0), value=BOS)
    label, above = nn.functional.one_hot(torch.tensor(labels), 10).float(), torch.tensor(above)
    place = torch.arange(SIZE * SIZE)[None]
    network = PixelRNN()

    def loss():
        rows = torch.randint(len(tokens), (64,))
        logits = network(fed[rows], place.expand(64, -1), above[rows], label[rows])
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[rows].flatten())

    fit(network, loss, steps)
    return network, pixels, labels


def main(path: str = "digits.png") -> float:
    """Draw and save images; return the share that the classifier reads as its label."""
    torch.manual_seed(0)
    network, pixels, labels = train()
    inputs = {
        "tokens": torch.zeros(2, 1, dtype=torch.int64),
        "position": torch.zeros(2, 1, dtype=torch.int64),
        "above": torch.zeros(2, 3),
        "label": torch.zeros(2, 10),
    }
    model = decoding.load(export(network, inputs, ["logits"], bos=BOS))
    print(model.describe())

    wanted = np.sort(np.arange(64) % 10)
    out = decoding.decode(
        model,
        [[BOS]] * 64,
        decoding.Sample(temperature=0.8),
        context={"label": np.eye(10)[wanted]},
        step_inputs=above_of_rows,
        max_new_tokens=SIZE * SIZE,
        seed=1,
    )
    drawn = np.array(out.tokens)
    save_grid(path, drawn.reshape(-1, SIZE, SIZE) / (SHADES - 1), 8)
    read = SVC(gamma=0.001).fit(pixels, labels).predict(drawn)
    print(f"{(read == wanted).mean():.0%} of 64 drawn digits are read as what they were to be; wrote {path}")
    return (read == wanted).mean()


if __name__ == "__main__":
    assert main(*sys.argv[1:]) >= 0.85
