"""Greedy and sampling search: every row goes its own way."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from decoding.engine.batch import make_batch
from decoding.engine.prefill import prefill
from decoding.engine.steps import RowSampler
from decoding.model.graph import Array
from decoding.model.model import Model
from decoding.results import FinishReason


@dataclass(frozen=True)
class Job:
    """Everything that a search needs to know, checked and with defaults filled in.

    Attributes:
        prompts: ids of each prompt, int64 [length >= 1].
        outputs: sequences wanted for each prompt.
        temperature: float32, one for each prompt; None for the most probable token.
        seed: key of the random generator.
        eos: ids that end a sequence.
        max_new_tokens: longest output.
        batch_size: rows that run together.
    """

    prompts: Sequence[Array]
    outputs: int
    temperature: Array | None
    seed: int
    eos: tuple[int, ...]
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class Finished:
    """One finished row: `sequence` is prompt_index * outputs + output_index."""

    sequence: int
    tokens: Array
    logprobs: Array
    reason: FinishReason


@dataclass(frozen=True)
class Choice:
    """One token of one sequence; `reason` says why the sequence ends with it, or is None."""

    sequence: int
    token: int
    logprob: float
    reason: FinishReason | None


class SamplingSearch:
    """The step loop over a job: fill the places, step, retire what is finished, refill or shrink."""

    def __init__(self, model: Model, job: Job) -> None:
        self._model, self._job = model, job
        self._waiting = deque(range(len(job.prompts) * job.outputs))
        self._batch = make_batch(model, min(job.batch_size, len(self._waiting)))
        self._sampler = RowSampler(self._batch.logits, self._batch.tokens, seed=job.seed, greedy=job.temperature is None,
                                   eos=job.eos, max_new_tokens=job.max_new_tokens)  # fmt: skip
        self._carried: tuple[int, list[Array]] = (-1, [])

    def run(self) -> Iterator[Finished]:
        """Decode the whole job, giving each sequence as it finishes."""
        for finished in self._steps():
            if finished:
                yield from self._retire()

    def choices(self) -> Iterator[Choice]:
        """Decode the whole job, giving every token as it is chosen."""
        for finished in self._steps():
            yield from itertools.starmap(Choice, self._sampler.chosen(self._batch.size))
            if finished:
                deque(self._retire(), maxlen=0)

    def _steps(self) -> Iterator[int]:
        """Take steps until nothing is left, giving how many rows finished in each; the caller retires them."""
        batch, sampler = self._batch, self._sampler
        batch.size = batch.capacity
        self._admit(np.arange(batch.size))
        while batch.size:
            batch.step()
            yield sampler.advance(batch.size)

    def _retire(self) -> Iterator[Finished]:
        """Give the finished rows; put waiting sequences in their places, or shrink the batch."""
        done = self._sampler.finished(self._batch.size)
        for position in done:
            yield Finished(*self._sampler.take(position))
        if self._waiting:
            self._admit(done[: len(self._waiting)])
        running = self._sampler.running(self._batch.size)
        # Idle rows are computed for nothing; shrinking copies the states once. An eighth balances the two.
        if 8 * (self._batch.size - len(running)) >= self._batch.size:
            self._batch.keep(running)
            self._sampler.keep(running)

    def _admit(self, positions: Array) -> None:
        """Start the next waiting sequences at these positions."""
        sequences = np.array([self._waiting.popleft() for _ in positions])
        prompts, which = np.unique(sequences // self._job.outputs, return_inverse=True)
        own = [self._job.prompts[p] for p in prompts[which]]
        self._batch.put(positions, self._states_after(prompts), which, own)
        temperature = None if self._job.temperature is None else self._job.temperature[prompts[which]]
        self._sampler.admit(positions, sequences, temperature)

    def _states_after(self, prompts: Array) -> list[Array]:
        """States after each of these prompts, each prompt read only once.

        Sequences wait in the order of their prompts, so only the last prompt of one call can come again in
        the next, where it is the first.
        """
        carried, states = self._carried
        new = [self._job.prompts[p] for p in prompts if p != carried]
        axes = [s.batch_axis for s in self._model.contract.states]
        if new:
            read = prefill(self._model, new)
            again = len(new) < len(prompts)
            states = (
                [np.concatenate(pair, axis) for *pair, axis in zip(states, read, axes, strict=True)] if again else read
            )
        self._carried = (
            int(prompts[-1]),
            [value.take([-1], axis) for value, axis in zip(states, axes, strict=True)],
        )
        return states
