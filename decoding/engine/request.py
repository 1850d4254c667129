"""What a search is asked for, and what it gives back."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decoding.model.graph.types import Array
from decoding.processors import History, Processor
from decoding.results import FinishReason
from decoding.strategies import Strategy

if TYPE_CHECKING:
    from decoding.engine.latents import Latents


@dataclass(frozen=True)
class Request:
    """One prompt, checked.

    Attributes:
        ids: int64, at least one; the last is the first that the step loop feeds.
        temperature: of `Sample`.
        teacher: int64 ids to feed at random instead of the choices; empty without a teacher.
        context: the model's contexts for this prompt, without a batch axis.
        states: what the states start from, without a batch axis, where that is not the model's own initial value.
        read: how many of the ids these states come after; the rest is read.
        source: what the encoders read, see `decoding.sources`.
        latents: values of the model's latents that are drawn once a sequence; `draws` has those of every step.
        max_new_tokens: longest output, where it is shorter than the job's.
        index: which prompt it is; where each sequence has latents of its own, which sequence.
    """

    index: int
    ids: Array
    temperature: float
    teacher: Array
    context: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    latents: Mapping[str, Array] = field(default_factory=dict)
    draws: Latents | None = None
    read: int = 0
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Settings:
    """What holds for every prompt, checked and with defaults filled in.

    Attributes:
        outputs: sequences wanted for each prompt.
        seed: key of the random generator.
        eos: ids that end a sequence; `stop`: id sequences that do; `stop_strings`: texts that do.
        top_logprobs: how many of the best log-probabilities to record at each step.
        teacher_ratio: probability of feeding the teacher's token; below 0 without a teacher.
        batch_size: rows that run together.
        step_inputs: gives contexts anew for each step.
        return_attention: give the weights over the source for each token.
        latents: of a model that has some.
    """

    strategy: Strategy
    outputs: int
    seed: int
    eos: tuple[int, ...]
    stop: tuple[Array, ...]
    stop_strings: tuple[str, ...]
    min_new_tokens: int
    max_new_tokens: int
    processors: tuple[Processor, ...]
    top_logprobs: int
    teacher_ratio: float
    batch_size: int
    step_inputs: Callable[[History], Mapping[str, Array]] | None = None
    return_attention: bool = False
    latents: Latents | None = None


@dataclass(frozen=True)
class FinishedSequence:
    """One finished row.

    Attributes:
        sequence: prompt index * outputs + number of the output.
        tokens: new ids, EOS excluded; `logprobs`: of each, EOS included; `logprob`: their sum.
        score: what the strategy ranks by.
        siblings: outputs that its prompt has, itself included.
        top: ids and log-probabilities [length, k] of the best tokens at each step, where asked for.
        teacher: log-probabilities of the teacher's tokens, where there is one.
        attention: weights [tokens, source], where asked for.
        eos: the id that ended a sampled row, where one did.
    """

    sequence: int
    tokens: Array
    logprobs: Array
    logprob: float
    reason: FinishReason
    score: float
    siblings: int
    top: tuple[Array, Array] | None = None
    teacher: Array | None = None
    attention: Array | None = None
    eos: int | None = None


@dataclass(frozen=True)
class Choice:
    """One token of one sequence; `reason` says why the sequence ends with it, or is None."""

    sequence: int
    token: int
    logprob: float
    reason: FinishReason | None


@dataclass
class RequestQueue:
    """Where searches take their prompts from; several may take from one, in several threads.

    Attributes:
        prepare: what is done to the rows before they are taken, as late as that: sources are encoded.
        stopped: set when the caller has left: searches end at their next step.
    """

    prompts: Iterable[Request]
    outputs: int
    prepare: Callable[[Iterator[tuple[int, Request]]], Iterator[tuple[int, Request]]] = iter
    stopped: threading.Event = field(init=False, default_factory=threading.Event)
    _rows: Iterator[tuple[int, Request]] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        rows = ((p.index * self.outputs + n, p) for p in self.prompts for n in range(self.outputs))
        self._rows = self.prepare(rows)

    def take(self, count: int) -> list[tuple[int, Request]]:
        """The next sequences, as (sequence, prompt), `count` of them or as many as are left."""
        with self._lock:
            return list(itertools.islice(self._rows, count))
