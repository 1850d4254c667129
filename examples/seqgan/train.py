"""SeqGAN's synthetic experiment (Yu et al. 2017, section 4): every sample, score and rollout by `decoding`.

    python examples/seqgan/train.py seqgan_oracle_lstm.npz

The oracle is the LSTM that the paper's authors published (see README.md for the file). It draws the training data and
says how good generated sequences are: their negative log-likelihood, in nats a token, under the oracle. A generator of
the same size is trained by maximum likelihood, then as SeqGAN. Torch computes gradients, nothing else.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from networks import LENGTH, VOCABULARY, Discriminator, LanguageModel, export, read_oracle

import decoding

PUBLISHED = {"random": 10.310, "maximum likelihood": 9.038, "SeqGAN": 8.736}


@dataclass(frozen=True)
class Schedule:
    """How long each part is trained; the defaults of what the published code fixes are its own.

    Attributes:
        sequences: training sequences, and samples drawn for each evaluation.
        epochs: of maximum likelihood.
        warm_up: rounds of the discriminator before the adversarial ones, each with new samples of the generator.
        warm_up_epochs: passes over the data in each of them.
        rounds: adversarial rounds: one step of the generator, then `discriminator_steps` of the discriminator.
        evaluate_every: rounds.
        rollouts: completions of each prefix.
        lag: weight of the roll-out policy's old weights when it follows the generator.
    """

    sequences: int = 10_000
    batch: int = 64
    epochs: int = 120
    warm_up: int = 10
    warm_up_epochs: int = 3
    rounds: int = 120
    discriminator_steps: int = 30
    evaluate_every: int = 5
    rollouts: int = 16
    lag: float = 0.8
    learning_rate: float = 0.01
    discriminator_learning_rate: float = 1e-4
    penalty: float = 0.2
    seed: int = 88


class Sampler:
    """Sequences of a generator as it is now, drawn and scored by `decoding`."""

    def __init__(self, oracle: LanguageModel, seed: int) -> None:
        self._oracle = decoding.load(export(oracle), threads=1)
        self.policy = decoding.load(export(LanguageModel()), threads=1)
        self._seeds = iter(np.random.default_rng(seed).permutation(2**20).tolist())

    def next_seed(self) -> int:
        """A seed that was not used before."""
        return next(self._seeds)

    def follow(self, generator: LanguageModel) -> None:
        """Draw from these weights from now on."""
        self.policy = self.policy.with_weights(generator.weights())

    def draw(self, count: int, model: decoding.Model | None = None) -> np.ndarray:
        """New sequences, int64 [count, LENGTH]."""
        out = decoding.decode(
            model or self.policy,
            None,
            decoding.Sample(),
            max_new_tokens=LENGTH,
            num_return_sequences=count,
            seed=self.next_seed(),
        )
        return out.padded(0)

    def training_data(self, count: int) -> np.ndarray:
        """Sequences that the oracle draws."""
        return self.draw(count, self._oracle)

    def nll(self, sequences: np.ndarray) -> float:
        """Mean negative log-likelihood of a token under the oracle, in nats."""
        return float(-np.mean(decoding.score(self._oracle, sequences)))


def batches(data: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """The rows in random order, in whole batches."""
    order = torch.randperm(len(data))
    for start in range(0, len(data) - size + 1, size):
        yield data[order[start : start + size]]


def generator_step(generator: LanguageModel, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of the published optimizer: Adam on gradients of norm 5 at most."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(generator.parameters(), 5.0)
    optimizer.step()


def pretrain(
    generator: LanguageModel, data: torch.Tensor, sampler: Sampler, schedule: Schedule, checkpoint: Path
) -> list[float]:
    """Maximum likelihood; leaves the generator as it was after the epoch whose samples the oracle liked best.

    Returns:
        The oracle's NLL of samples after each epoch.
    """
    optimizer = torch.optim.Adam(trained(generator), schedule.learning_rate)
    curve: list[float] = []
    for epoch in range(schedule.epochs):
        losses = []
        for batch in batches(data, schedule.batch):
            loss = -generator.logprobs(batch).mean()
            generator_step(generator, optimizer, loss)
            losses.append(loss.item())
        sampler.follow(generator)
        curve.append(sampler.nll(sampler.draw(schedule.sequences)))
        if curve[-1] == min(curve):
            torch.save({"generator": generator.state_dict(), "epoch": epoch}, checkpoint)
        print(f"maximum likelihood {epoch + 1}: loss {np.mean(losses):.3f}  oracle NLL {curve[-1]:.4f}", flush=True)
    generator.load_state_dict(torch.load(checkpoint)["generator"])
    sampler.follow(generator)
    return curve


def trained(generator: LanguageModel) -> list[torch.nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in generator.parameters() if parameter.requires_grad]


if __name__ == "__main__":
    import sys
    torch.set_num_threads(1)
    s = Schedule()
    torch.manual_seed(s.seed)
    sampler = Sampler(read_oracle(Path(sys.argv[1])), s.seed)
    data = sampler.training_data(s.sequences)
    print('data', sampler.nll(data))
    work = Path(sys.argv[2])
    np.save(work / 'data.npy', data)
    rng = np.random.default_rng(s.seed)
    print('random', sampler.nll(rng.choice(data.ravel(), data.shape)), 'uniform', sampler.nll(rng.integers(0, VOCABULARY, data.shape)))
    g = LanguageModel()
    t = time.time()
    curve = pretrain(g, torch.from_numpy(data), sampler, s, work / 'pretrained.pt')
    print(time.time() - t)
    (work / 'curve.json').write_text(json.dumps(curve))
