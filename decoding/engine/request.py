"""The data of a search: requests, the settings of a call, the queue of requests, finished sequences."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from decoding.engine.latents import Latents
from decoding.model.graph.types import Array
from decoding.processors import History, Processor
from decoding.results import FinishReason
from decoding.strategies import Beam, Strategy


@dataclass(frozen=True)
class Request:
    """One prompt and the options of its own, checked.

    Attributes:
        index: the number of the prompt in the call.
        ids: int64, at least one; the step loop feeds the last one first.
        temperature: of `Sample`.
        teacher: int64 ids to feed at random instead of the choices; empty without a teacher.
        context: the model's contexts for this prompt, without a batch axis.
        states: initial states, without a batch axis, that replace those of the model.
        source: the inputs of the encoders, see `decoding.inputs.sources`.
        latents: values of the model's latents that are drawn once a sequence.
        read: how many of the ids the `states` already include; the rest is read.
        max_new_tokens: longest output, where it is shorter than that of the call.
        sequence: the sequence whose latents these are; None where the model has no latents, so that all sequences of
            the prompt read the same.
    """

    index: int
    ids: Array
    temperature: float
    teacher: Array
    context: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    latents: Mapping[str, Array] = field(default_factory=dict)
    read: int = 0
    max_new_tokens: int | None = None
    sequence: int | None = None

    @property
    def key(self) -> int:
        """A number that the rows of a call have in common where they read the same, so that it is read once."""
        return self.index if self.sequence is None else self.sequence


# A sequence to decode: its number (index of its request * outputs + number of the output), and its request.
Row = tuple[int, Request]


@dataclass(frozen=True)
class Settings:
    """The options that hold for every request of a call, checked and with defaults filled in.

    Attributes:
        outputs: sequences wanted for each request.
        seed: key of the random generator.
        eos: ids that end a sequence; `stop`: id sequences that do; `stop_strings`: texts that do.
        top_logprobs: how many of the best log-probabilities to record at each step.
        teacher_ratio: probability of feeding the teacher's token; None without a teacher.
        batch_size: rows that run together.
        step_inputs: computes contexts anew for each step.
        return_attention: return the weights over the source for each token.
        latents: the latents of all sequences; None where the model has none.
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
    teacher_ratio: float | None
    batch_size: int
    step_inputs: Callable[[History], Mapping[str, Array]] | None = None
    return_attention: bool = False
    latents: Latents | None = None

    @property
    def rows_per_request(self) -> int:
        """How many rows of a batch a request takes."""
        return self.strategy.num_beams if isinstance(self.strategy, Beam) else self.outputs

    @property
    def searches_per_request(self) -> int:
        """How many searches find the outputs of a request."""
        return 1 if self.strategy.searches_together else self.outputs


@dataclass(frozen=True, kw_only=True)
class FinishedSequence:
    """One finished sequence.

    Attributes:
        sequence: index of the request * outputs + number of the output.
        tokens: new ids, EOS excluded; `logprobs`: of each, EOS included; `logprob`: their sum.
        score: the strategy ranks by it.
        siblings: outputs that its request has, itself included.
        eos: the id that ended it, where EOS did.
        top: ids and log-probabilities [length, k] of the best tokens at each step, where asked for.
        teacher: log-probabilities of the teacher's tokens, where there is a teacher.
        attention: weights [tokens, source], where asked for.
    """

    sequence: int
    tokens: Array
    logprobs: Array
    logprob: float
    finish_reason: FinishReason
    score: float
    siblings: int
    eos: int | None = None
    top: tuple[Array, Array] | None = None
    teacher: Array | None = None
    attention: Array | None = None


@dataclass(frozen=True)
class Choice:
    """One token of one sequence; `finish_reason` says why the sequence ends with it, or is None."""

    sequence: int
    token: int
    logprob: float
    finish_reason: FinishReason | None


class StopFlag:
    """Says that the caller has left. It is set without a lock.

    `threading.Event` has a lock in Python code: Ctrl-C between its acquire and release leaves it locked for good (issue 13).
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Tell every search to end at its next step."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether searches are to end."""
        return self._is_set


class RowSource(Protocol):
    """What a search takes its rows from.

    Attributes:
        stopped: set when the caller has left: searches end at their next step.
    """

    stopped: StopFlag

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""


@dataclass
class RequestQueue:
    """The requests of a call that wait to be decoded; several searches, in several threads, may take from one queue.

    Attributes:
        searches: how many searches find the outputs of a request.
        prepare: completes rows as they are taken, so as late as possible: it encodes their sources.
        stopped: set when the caller has left: searches end at their next step.
    """

    requests: Iterable[Request]
    searches: int
    prepare: Callable[[Iterator[Row]], Iterator[Row]] = iter
    stopped: StopFlag = field(init=False, default_factory=StopFlag)
    _rows: Iterator[Row] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        rows = ((r.index * self.searches + n, r) for r in self.requests for n in range(self.searches))
        self._rows = self.prepare(rows)

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""
        with self._lock:
            return list(itertools.islice(self._rows, count))
