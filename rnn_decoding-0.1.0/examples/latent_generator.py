"""A generator with a latent: a variational autoencoder of molecules (Bowman et al. 2016, Gomez-Bombarelli et al. 2018).

    python examples/latent_generator.py

The sequences are SMILES of small molecules, which the script makes itself. The keyed generator that draws tokens
draws one vector z for each sequence; decoding is greedy, so all variety comes from z. The `latent` of a hypothesis
gives its molecule again, and latents between two others give molecules that change little by little.
"""

import random

import numpy as np
import torch
from common import Words, export, fit, next_token_loss
from torch import nn

import decoding

BONDS = {"C": 4, "N": 3, "O": 2, "F": 1}
WORDS = Words([*BONDS, *"=#()1"], space="")
Z = 24


def molecule(rng: random.Random) -> str:
    """SMILES of a chain with branches, sometimes with a ring of carbon."""

    def grow(atoms: int, bonds: int) -> str:
        """That many atoms; the first has `bonds` bonds to the atom before it."""
        if atoms == 1:
            return rng.choice([a for a in BONDS if BONDS[a] >= bonds])
        atom = rng.choice([a for a in "CCCCNO" if BONDS[a] > bonds])
        free, branch = BONDS[atom] - bonds, ""
        if free > 1 and atoms > 2 and rng.random() < 0.3:
            branch, free, atoms = f"({grow(1, 1)})", free - 1, atoms - 1
        order = rng.choices((1, 2, 3), (8, 2, 1))[0]
        order = min(order, free)
        return atom + branch + "-=#"[order - 1].strip("-") + grow(atoms - 1, order)

    if rng.random() < 0.3:
        side = f"({grow(1, 1)})" if rng.random() < 0.5 else ""
        return f"C1C{side}{'C' * rng.randint(1, 3)}C1{grow(rng.randint(1, 3), 1)}"
    return grow(rng.randint(3, 8), 0)


def is_molecule(smiles: str) -> bool:
    """Return whether brackets and rings are closed, and no atom has more bonds than it can have."""
    used: list[int] = []
    atoms, stack, last, order, ring = "", [], -1, 1, -1
    for i, c in enumerate(smiles, 1):
        if c in BONDS:
            atoms, used = atoms + c, [*used, 0]
            if last >= 0:
                used[last] += order
                used[-1] += order
            last, order = len(used) - 1, 1
        elif c in "=#" and order == 1 and last >= 0:
            order = "-=#".index(c) + 1
        elif c == "(" and order == 1 and last >= 0 and smiles[i : i + 1] not in ("", ")"):
            stack.append(last)
        elif c == ")" and order == 1 and stack:
            last = stack.pop()
        elif c == "1" and order == 1 and last >= 0 and (ring < 0 or last - ring > 1):
            used[last] += 1
            ring = last if ring < 0 else len(smiles)  # no second ring
        else:
            return False
    closed = not stack and order == 1 and smiles.count("1") in (0, 2)
    return bool(atoms) and closed and all(n <= BONDS[a] for a, n in zip(atoms, used, strict=True))


class Encoder(nn.Module):
    """A GRU over the sequence; mean and log-variance of z."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS.vocab), 32)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2 * Z)

    def forward(self, tokens):
        """Tokens [B, T], padded with EOS, to two arrays [B, Z]."""
        return self.head(self.gru(self.embedding(tokens))[1][0]).chunk(2, 1)


class Decoder(nn.Module):
    """A GRU that reads z with every token."""

    def __init__(self, hidden: int = 192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS.vocab), 32)
        self.gru = nn.GRU(32 + Z, hidden, batch_first=True)
        self.head = nn.Linear(hidden + Z, len(WORDS.vocab))

    def forward(self, tokens, z):
        """Tokens [B, T], z [B, Z] to logits [B, T, V]."""
        z = z[:, None].expand(-1, tokens.shape[1], -1)
        return self.head(torch.cat([self.gru(torch.cat([self.embedding(tokens), z], 2))[0], z], 2))


def train(steps: int = 1500) -> nn.ModuleDict:
    """Train the autoencoder; the divergence's weight grows, and at first half of the decoder's tokens are hidden."""
    rng = random.Random(0)
    network = nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})
    done = 0

    def loss():
        nonlocal done
        done += 1
        tokens = WORDS.tensor([molecule(rng) for _ in range(128)])
        mean, log_variance = network["encoder"](tokens[:, 1:])
        z = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        fed = tokens[:, :-1].masked_fill(torch.rand(tokens[:, :-1].shape) < 0.2, WORDS.BOS)
        length = (tokens != WORDS.EOS).sum(1).float().mean()
        return (
            next_token_loss(network["decoder"](fed, z), tokens) + 0.5 * min(1, 2 * done / steps) * divergence / length
        )

    fit(network, loss, steps)
    return network


def main() -> tuple[float, float]:
    """Train, draw molecules, walk from one to another; return the shares that are valid and that are different."""
    torch.manual_seed(0)
    network = train()
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "z": torch.zeros(2, Z)}
    file = export(
        network["decoder"], inputs, ["logits"], {"tokens": {1: "time"}}, vocab=WORDS.vocab, bos=WORDS.BOS, eos=WORDS.EOS
    )
    model = decoding.load(file, roles={"latent": {"z": "normal"}})
    print(model.describe())

    out = decoding.decode(model, [[WORDS.BOS]] * 300, max_new_tokens=40, seed=1)
    valid, different = np.mean([is_molecule(text) for text in out.text]), len(set(out.text)) / len(out)
    print(
        f"{valid:.1%} of 300 drawn molecules are valid, {different:.1%} are different; some: {' '.join(out.text[:8])}"
    )

    ends = [h.latent for h in out if is_molecule(h.text) and len(h.text) > 7][:2]
    path = np.stack([(1 - t) * ends[0] + t * ends[1] for t in np.linspace(0, 1, 9)])
    walk = decoding.decode(model, [[WORDS.BOS]] * 9, latents=path, max_new_tokens=40).text
    print("between two latents:", " -> ".join(dict.fromkeys(walk)))
    return valid, different


if __name__ == "__main__":
    assert min(main()) >= 0.7
