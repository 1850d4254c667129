"""A generator without steps: a conditional variational autoencoder (Sohn et al. 2015) that draws a whole digit at once.

    python examples/plain_generator.py digits.png

Its decoder takes a latent and a label and has neither tokens nor states, so there is nothing to decode: `Model.run`
draws the latents, by the same keyed generator as everywhere, and runs it once. A classifier that has learned real
digits then reads the images.
"""

import sys

import numpy as np
import torch
from common import export, fit, save_grid
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import nn

import decoding

SIZE, Z = 8, 6


class Decoder(nn.Module):
    """Two layers from latent and label to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(Z + 10, 256), nn.ReLU(), nn.Linear(256, SIZE * SIZE), nn.Sigmoid())

    def forward(self, z, label):
        """Latents [B, 6] and labels [B, 10] to images [B, 8, 8] in [0, 1]."""
        return self.layers(torch.cat([z, label], 1)).unflatten(1, (SIZE, SIZE))


def train(steps: int = 3000) -> tuple[nn.ModuleDict, np.ndarray, np.ndarray]:
    """Train; return the autoencoder, and the digits [N, 64] and labels [N] of the training."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32) / 16
    label = nn.functional.one_hot(torch.tensor(labels), 10).float()
    encoder = nn.Sequential(nn.Linear(SIZE * SIZE + 10, 256), nn.ReLU(), nn.Linear(256, 2 * Z))
    network = nn.ModuleDict({"encoder": encoder, "decoder": Decoder()})

    def loss():
        rows = torch.randint(len(images), (128,))
        mean, log_variance = network["encoder"](torch.cat([images[rows], label[rows]], 1)).chunk(2, 1)
        drawn = network["decoder"](mean + torch.randn_like(mean) * torch.exp(log_variance / 2), label[rows])
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return 20 * ((drawn.flatten(1) - images[rows]) ** 2).sum(1).mean() + divergence

    fit(network, loss, steps)
    return network, pixels, labels


def main(path: str = "digits.png") -> float:
    """Draw and save images; return the share that the classifier reads as its label."""
    torch.manual_seed(0)
    network, pixels, labels = train()
    file = export(network["decoder"], {"z": torch.zeros(2, Z), "label": torch.zeros(2, 10)}, ["image"])
    model = decoding.load(file, roles={"latent": {"z": "normal"}})
    print(model.describe())

    wanted = np.sort(np.arange(64) % 10)
    drawn = model.run({"label": np.eye(10)[wanted]}, seed=1)["image"]
    save_grid(path, drawn, 8)
    read = SVC(gamma=0.001).fit(pixels, labels).predict(16 * drawn.reshape(64, -1))
    print(f"{(read == wanted).mean():.0%} of 64 drawn digits are read as what they were to be; wrote {path}")
    return (read == wanted).mean()


if __name__ == "__main__":
    assert main(*sys.argv[1:]) >= 0.9
