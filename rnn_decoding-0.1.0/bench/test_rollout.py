"""One round of SeqGAN's action values: 64 sequences of 20 tokens, 16 completions of every prefix, vocabulary 5000.

The reward is the mean log-likelihood of a sequence's tokens under an oracle of the policy's shape, which each peer computes
by its own means. Beside it, the same round in torch: as the published code has it (https://github.com/LantaoYu/SeqGAN,
rollout.py), which reads every prefix anew for each position and each of the 16 rollouts, and with the states of the
prefixes kept and the 16 rollouts of a position in one batch.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[bench]')")

import decoding  # noqa: E402
from bench.networks import make  # noqa: E402

BATCH, LENGTH, ROLLOUTS, VOCABULARY, START = 64, 20, 16, 5000, 0


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def networks():
    """Policy and oracle, each in torch and loaded."""
    pairs = []
    for seed in (0, 1):
        net, file = make(32, 1, VOCABULARY, seed=seed, metadata={"decoding.bos": START})
        pairs.append((net, decoding.load(file, threads=1)))
    return pairs


@pytest.fixture(scope="module")
def sequences():
    return np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH))


def by_decoding(networks, sequences):
    (_, policy), (_, oracle) = networks

    def reward(ids):
        return np.mean(decoding.score(oracle, ids), axis=1)

    return decoding.rollout(policy, sequences, reward, n=ROLLOUTS, seed=1)


class Torch:
    """The same in torch."""

    def __init__(self, networks, sequences):
        (self.policy, _), (self.oracle, _) = networks
        self.sequences = torch.from_numpy(sequences)

    def reward(self, ids):
        inputs = torch.nn.functional.pad(ids[:, :-1], (1, 0), value=START)
        logits, _, _ = self.oracle(inputs, *self.oracle.zero_state(len(ids)))
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        return -losses.view(ids.shape).mean(1)

    def read(self, token, state):
        """The state after one more token [N]; no logits are computed."""
        return self.policy.lstm(self.policy.embedding(token[:, None]), state)[1]

    def complete(self, prefix, state):
        """`prefix` [N, t], drawn on to LENGTH from the state before its last token."""
        tokens = list(prefix.T)
        while len(tokens) < LENGTH:
            output, state = self.policy.lstm(self.policy.embedding(tokens[-1][:, None]), state)
            probabilities = self.policy.head(output[:, 0]).softmax(-1)
            tokens.append(torch.multinomial(probabilities, 1)[:, 0])
        return torch.stack(tokens, 1)

    @torch.inference_mode()
    def replayed(self):
        """Every prefix is read from its start, for each position and each rollout."""
        values = torch.zeros(BATCH, LENGTH)
        start = torch.full((BATCH,), START)
        for _ in range(ROLLOUTS):
            for given in range(1, LENGTH):
                state = self.policy.zero_state(BATCH)
                for token in (start, *self.sequences[:, : given - 1].T):
                    state = self.read(token, state)
                values[:, given - 1] += self.reward(self.complete(self.sequences[:, :given], state))
            values[:, -1] += self.reward(self.sequences)
        return (values / ROLLOUTS).numpy()

    @torch.inference_mode()
    def kept(self):
        """Every prefix is read once; the rollouts of a position are one batch."""
        values = torch.zeros(BATCH, LENGTH)
        state = self.read(torch.full((BATCH,), START), self.policy.zero_state(BATCH))
        for given in range(1, LENGTH):
            prefix = self.sequences[:, :given].repeat(ROLLOUTS, 1)
            ids = self.complete(prefix, tuple(part.repeat(1, ROLLOUTS, 1) for part in state))
            values[:, given - 1] = torch.stack([self.reward(rows) for rows in ids.split(BATCH)]).mean(0)
            state = self.read(self.sequences[:, given - 1], state)
        values[:, -1] = self.reward(self.sequences)
        return values.numpy()


def record(benchmark, peer, run):
    benchmark.group = "a round of action values"
    benchmark.extra_info.update(workload="round of action values (each a step)", peer=peer, steps=1)
    return benchmark.pedantic(run, rounds=1, warmup_rounds=1)


@pytest.fixture(scope="module")
def values(networks, sequences):
    return by_decoding(networks, sequences)


def assert_same_means(a, b):
    """Two estimates of the same values: the last ones are no estimates, the others differ by chance."""
    np.testing.assert_allclose(a[:, -1], b[:, -1], atol=1e-4)
    np.testing.assert_allclose(a.mean(0), b.mean(0), atol=0.02)


def test_rollout(benchmark, networks, sequences):
    record(benchmark, "rollout", lambda: by_decoding(networks, sequences))


def test_torch_with_the_states_kept(benchmark, networks, sequences, values):
    assert_same_means(record(benchmark, "torch, states kept", Torch(networks, sequences).kept), values)


def test_torch_as_published(benchmark, networks, sequences, values):
    assert_same_means(record(benchmark, "torch, as published", Torch(networks, sequences).replayed), values)
