"""SeqGAN's synthetic experiment (Yu et al. 2017, section 4): every sample, score and rollout by `decoding`.

    python examples/seqgan/train.py seqgan_oracle_lstm.npz --output run

The oracle is the LSTM that the paper's authors published (README.md says where). It draws the training data and says
how good generated sequences are: their negative log-likelihood (NLL) under the oracle, in nats a token. A generator
of the same size is trained by maximum likelihood, then as SeqGAN. Torch computes gradients, nothing else.

The experiment is repeated for each seed, with training data of its own. Writes run.json and learning_curve.png into
the output folder, and there a folder of each seed with its pretrained.pt and seed.json. What is already there is not
made again, so seeds can be run side by side, by one command each; the same command with all seeds collects them.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from networks import LENGTH, START, Discriminator, LanguageModel, export, read_oracle
from plot import draw_curves

import decoding

# What is seen while training: the epoch or round, the oracle's NLL of samples; in rounds, the NLL of the oracle's data too.
Observation = tuple[int, float] | tuple[int, float, float]


@dataclass(frozen=True)
class Schedule:
    """How long each part is trained, and how. README.md compares it with the published one.

    Attributes:
        sequences: training sequences, and samples drawn for each evaluation.
        epochs: of maximum likelihood.
        warm_up: times the discriminator is given new samples before the adversarial rounds, each for `warm_up_epochs`.
        rounds: adversarial rounds: one step of the generator, then `discriminator_steps` of the discriminator.
        rollouts: completions of each prefix.
        lag: weight of the roll-out policy's old weights when it follows the generator.
        clip: largest norm of the generator's gradient.
        penalty: of the discriminator's output weights.
    """

    sequences: int = 10_000
    batch: int = 64
    epochs: int = 30
    warm_up: int = 2
    warm_up_epochs: int = 2
    rounds: int = 100
    discriminator_steps: int = 20
    evaluate_every: int = 10
    rollouts: int = 4
    lag: float = 0.8
    learning_rate: float = 0.01
    discriminator_learning_rate: float = 1e-4
    clip: float = 5.0
    penalty: float = 0.2


SMOKE = Schedule(
    sequences=128, epochs=2, warm_up=1, warm_up_epochs=1, rounds=2, discriminator_steps=2, evaluate_every=1, rollouts=2
)


class Sampler:
    """Sequences of the oracle, and of a generator as it is now, drawn and scored by `decoding`."""

    def __init__(self, oracle: LanguageModel, schedule: Schedule, seed: int) -> None:
        self.oracle = decoding.load(export(oracle), threads=1)
        self.policy = self.oracle  # until it follows a generator
        self._schedule = schedule
        self._seeds = iter(np.random.default_rng(seed).permutation(2**20).tolist())

    def next_seed(self) -> int:
        """Return a seed that was not used before."""
        return next(self._seeds)

    def follow(self, generator: LanguageModel) -> None:
        """Draw from these weights from now on."""
        self.policy = self.oracle.with_weights(generator.weights())

    def draw(self, model: decoding.Model, count: int | None = None, temperature: float = 1.0) -> torch.Tensor:
        """New sequences, int64 [count, LENGTH]."""
        count, strategy = count or self._schedule.sequences, decoding.Sample(temperature=temperature)
        out = decoding.decode(
            model, None, strategy, max_new_tokens=LENGTH, num_return_sequences=count, seed=self.next_seed()
        )
        return torch.from_numpy(out.padded(START))

    def evaluate(self, temperature: float = 1.0) -> float:
        """The oracle's NLL of new samples of the generator."""
        return nll(self.oracle, self.draw(self.policy, temperature=temperature))


def nll(model: decoding.Model, sequences: torch.Tensor) -> float:
    """Mean negative log-likelihood of a token, in nats."""
    return float(-np.mean(decoding.score(model, sequences)))


def batches(data: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """The rows in random order, in whole batches."""
    order = torch.randperm(len(data))
    for start in range(0, len(data) - size + 1, size):
        yield data[order[start : start + size]]


class GeneratorTraining:
    """The published optimizer: Adam on clipped gradients."""

    def __init__(self, generator: LanguageModel, schedule: Schedule) -> None:
        self._parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, schedule.learning_rate)
        self._clip = schedule.clip

    def step(self, loss: torch.Tensor) -> None:
        """One step."""
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()


def maximum_likelihood(
    generator: LanguageModel, data: torch.Tensor, sampler: Sampler, schedule: Schedule
) -> Iterator[tuple[int, float]]:
    """Train on the data; yield each epoch and the oracle's NLL of samples after it."""
    training = GeneratorTraining(generator, schedule)
    for epoch in range(1, schedule.epochs + 1):
        for batch in batches(data, schedule.batch):
            training.step(-generator.logprobs(batch).mean())
        sampler.follow(generator)
        yield epoch, sampler.evaluate()


def train_discriminator(
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    real: torch.Tensor,
    generated: torch.Tensor,
    schedule: Schedule,
) -> float:
    """Train for one pass over real and generated sequences; return the share that it classified correctly."""
    discriminator.train()
    data = torch.cat([real, generated])
    labels = torch.cat([torch.ones(len(real), dtype=torch.int64), torch.zeros(len(generated), dtype=torch.int64)])
    right = []
    for rows in batches(torch.arange(len(data)), schedule.batch):
        scores = discriminator(data[rows])
        loss = torch.nn.functional.cross_entropy(scores, labels[rows]) + schedule.penalty * discriminator.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append((scores.argmax(1) == labels[rows]).double().mean().item())
    discriminator.eval()
    return float(np.mean(right))


def constant_reward(generator: LanguageModel, sampler: Sampler, schedule: Schedule) -> Iterator[int]:
    """Take as many steps on samples that all have the same reward, so nothing says which are better; yield each."""
    training = GeneratorTraining(generator, schedule)
    for turn in range(1, schedule.rounds + 1):
        training.step(-generator.logprobs(sampler.draw(sampler.policy, schedule.batch)).sum())
        sampler.follow(generator)
        yield turn


def adversarial(generator: LanguageModel, data: torch.Tensor, sampler: Sampler, schedule: Schedule) -> Iterator[int]:
    """Train by policy gradient with rollout values; yield each round."""
    discriminator = Discriminator(generator.embedding.num_embeddings)
    optimizer = torch.optim.Adam(discriminator.parameters(), schedule.discriminator_learning_rate)
    for turn in range(1, schedule.warm_up + 1):
        generated = sampler.draw(sampler.policy)
        for _ in range(schedule.warm_up_epochs):
            accuracy = train_discriminator(discriminator, optimizer, data, generated, schedule)
        print(f"discriminator, warm-up {turn}: accuracy {accuracy:.3f}", flush=True)

    @torch.no_grad()
    def reward(ids: np.ndarray) -> np.ndarray:
        return discriminator(torch.from_numpy(ids)).softmax(1)[:, 1].numpy()

    training, lagged = GeneratorTraining(generator, schedule), generator.weights()
    for turn in range(1, schedule.rounds + 1):
        sequences = sampler.draw(sampler.policy, schedule.batch)
        values = decoding.rollout(
            sampler.oracle.with_weights(lagged), sequences, reward, n=schedule.rollouts, seed=sampler.next_seed()
        )
        training.step(-(generator.logprobs(sequences) * torch.from_numpy(values)).sum())
        sampler.follow(generator)
        lagged = follow_slowly(lagged, generator.weights(), schedule.lag)

        count = schedule.discriminator_steps * schedule.batch // 2
        real, generated = data[torch.randperm(len(data))[:count]], sampler.draw(sampler.policy, count)
        accuracy = train_discriminator(discriminator, optimizer, real, generated, schedule)
        print(f"round {turn}: reward {values[:, -1].mean():.3f}, accuracy {accuracy:.3f}", flush=True)
        yield turn


def follow_slowly(old: dict[str, np.ndarray], new: dict[str, np.ndarray], lag: float) -> dict[str, np.ndarray]:
    """The roll-out policy's next weights. Its embedding does not lag, as in the published code."""
    mixed = {name: (lag * value + (1 - lag) * new[name]).astype(np.float32) for name, value in old.items()}
    return {**mixed, "embedding.weight": new["embedding.weight"]}


def observe(
    training: Iterator[int], sampler: Sampler, fresh: torch.Tensor, schedule: Schedule
) -> Iterator[tuple[int, float, float]]:
    """Yield every few rounds the oracle's NLL of samples, and the generator's of the oracle's data."""
    for turn in training:
        if turn % schedule.evaluate_every == 0:
            yield turn, sampler.evaluate(), nll(sampler.policy, fresh)


def best_of(
    name: str, training: Iterator[Observation], generator: LanguageModel, sampler: Sampler
) -> list[Observation]:
    """Train to the end, then restore the weights whose samples had the lowest NLL; return all that was seen."""
    curve: list[Observation] = []
    best: dict[str, torch.Tensor] = {}
    for seen in training:
        curve.append(seen)
        print(name, *seen, flush=True)
        if seen[1] == min(value for _, value, *_ in curve):
            best = copy.deepcopy(generator.state_dict())
    generator.load_state_dict(best)
    sampler.follow(generator)
    return curve


def random_baselines(data: torch.Tensor, sampler: Sampler, seed: int) -> dict[str, float]:
    """NLL of tokens drawn one by one: by their frequency in the data, and uniformly (as by an untrained generator)."""
    rng = np.random.default_rng(seed)
    tokens = data.numpy()
    drawn = {
        "random, by frequency": rng.choice(tokens.ravel(), tokens.shape),
        "random, uniform": rng.integers(0, sampler.oracle.vocab_size, tokens.shape),
    }
    return {name: nll(sampler.oracle, torch.from_numpy(ids)) for name, ids in drawn.items()}


def run(oracle_file: Path, schedule: Schedule, seed: int, output: Path) -> dict:
    """Run the whole experiment with one seed; return the content of its seed.json."""
    output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    torch.manual_seed(seed)
    oracle = read_oracle(oracle_file)
    sampler = Sampler(oracle, schedule, seed)
    data = sampler.draw(sampler.oracle)
    figures = {"oracle": nll(sampler.oracle, data), **random_baselines(data, sampler, seed)}
    print(figures, flush=True)

    generator, saved = LanguageModel(*oracle.sizes), output / "pretrained.pt"
    if saved.exists():
        checkpoint = torch.load(saved)
        generator.load_state_dict(checkpoint["generator"])
        curve, minutes = checkpoint["curve"], checkpoint["minutes"]
        sampler.follow(generator)
    else:
        training = maximum_likelihood(generator, data, sampler, schedule)
        curve, minutes = best_of("epoch", training, generator, sampler), (time.monotonic() - start) / 60
        torch.save({"generator": generator.state_dict(), "curve": curve, "minutes": minutes}, saved)
    fresh = sampler.draw(sampler.oracle)
    pretrained = copy.deepcopy(generator.state_dict())
    figures["maximum likelihood"] = sampler.evaluate()
    figures["oracle's data, by maximum likelihood"] = nll(sampler.policy, fresh)
    figures["maximum likelihood, temperature 0.9"] = sampler.evaluate(temperature=0.9)

    torch.manual_seed(seed + 1)
    steps = observe(constant_reward(generator, sampler, schedule), sampler, fresh, schedule)
    control = best_of("constant reward", steps, generator, sampler)
    figures["constant reward"] = sampler.evaluate()
    figures["oracle's data, by constant reward"] = nll(sampler.policy, fresh)

    start = time.monotonic()
    generator.load_state_dict(pretrained)
    sampler.follow(generator)
    steps = observe(adversarial(generator, data, sampler, schedule), sampler, fresh, schedule)
    rounds = best_of("SeqGAN", steps, generator, sampler)
    figures["SeqGAN"] = sampler.evaluate()
    figures["oracle's data, by SeqGAN"] = nll(sampler.policy, fresh)
    return {
        "nll": {name: round(value, 4) for name, value in figures.items()},
        "minutes": {"maximum likelihood": round(minutes, 1), "SeqGAN": round((time.monotonic() - start) / 60, 1)},
        "epochs": rounded(curve),
        "constant reward": rounded(control),
        "SeqGAN": rounded(rounds),
    }


def rounded(curve: list[Observation]) -> list[list[float]]:
    """The curve with four decimals."""
    return [[turn, *(round(value, 4) for value in values)] for turn, *values in curve]


def summary(figures: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The mean of each figure over the seeds, and from two seeds on its standard error."""
    found = {}
    for name in figures[0]:
        values = [each[name] for each in figures]
        found[name] = {"mean": round(statistics.mean(values), 4)}
        if len(values) > 1:
            found[name]["standard error"] = round(statistics.stdev(values) / len(values) ** 0.5, 4)
    return found


def main() -> None:
    """Run the experiment and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=Path, help="the oracle's arrays (.npz)")
    parser.add_argument("--output", type=Path, default=Path("run"), help="folder to write into; default: run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[88, 89, 90, 91], help="default: 88 89 90 91")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads; default: 1")
    parser.add_argument("--smoke", action="store_true", help="a schedule that shows nothing but that all parts run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    schedule, runs = SMOKE if args.smoke else Schedule(), {}
    for seed in args.seeds:
        folder = args.output / f"seed-{seed}"
        saved = folder / "seed.json"
        if not saved.exists():
            found = run(args.oracle, schedule, seed, folder)
            saved.write_text(json.dumps({"schedule": asdict(schedule), **found}))
        runs[seed] = json.loads(saved.read_text())
        if runs[seed].pop("schedule") != asdict(schedule):
            parser.error(f"{saved} is of a run with another schedule: remove it, or give another --output")
    found = {
        "nll": summary([each["nll"] for each in runs.values()]),
        "schedule": asdict(schedule),
        "versions": {"decoding": decoding.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "seeds": runs,
    }
    (args.output / "run.json").write_text(json.dumps(found, indent=1) + "\n")
    draw_curves(found, args.output / "learning_curve.png")
    print(json.dumps(found["nll"], indent=1))


if __name__ == "__main__":
    main()
