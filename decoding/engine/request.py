"""The data of a search: requests with their settings, the call they come from, the queue of requests, finished sequences."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from decoding.constraints import BoundConstraint, Matchers, begun, must_end, why_stuck
from decoding.engine.flags import Flag
from decoding.engine.latents import Latents
from decoding.model.graph.types import Array
from decoding.processors import History, Processor
from decoding.results import FinishReason
from decoding.strategies import Beam, Strategy
from decoding.tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class Settings:
    """The options of a request, checked and with defaults filled in. Requests without options of their own share one object.

    Attributes:
        outputs: sequences wanted.
        eos: ids that end a sequence; `stop`: id sequences that do; `stop_strings`: texts that do.
        phrases: ids that every output of `Beam` contains.
        top_logprobs: how many of the best log-probabilities to record at each step.
        return_attention: return the weights over the source for each token.
        return_state: return the state after each output.
        return_member_logprobs: return the log-probabilities under each member of an ensemble.
    """

    strategy: Strategy
    outputs: int
    eos: tuple[int, ...]
    stop: tuple[Array, ...]
    stop_strings: tuple[str, ...]
    min_new_tokens: int
    max_new_tokens: int
    processors: tuple[Processor | BoundConstraint, ...]
    top_logprobs: int
    return_attention: bool = False
    return_state: bool = False
    return_member_logprobs: bool = False
    phrases: tuple[tuple[int, ...], ...] = ()

    @property
    def constraints(self) -> tuple[BoundConstraint, ...]:
        """The constraints among the processors."""
        return tuple(p for p in self.processors if isinstance(p, BoundConstraint))

    @property
    def rows_per_request(self) -> int:
        """How many rows of a batch a request takes."""
        return self.strategy.num_beams if isinstance(self.strategy, Beam) else self.outputs

    @property
    def searches_per_request(self) -> int:
        """How many searches find the outputs of a request."""
        return 1 if self.strategy.searches_together else self.outputs


@dataclass(frozen=True, eq=False)
class EngineRequest:
    """One thing to decode, with its settings, checked.

    Attributes:
        index: the number of the request in the call.
        ids: int64, at least one; the step loop feeds the last one first.
        settings: its options, or those of the call.
        seed: key of the random generator.
        first: the number of its first output among all outputs of the call; its other outputs follow.
        own_stream: the number by which the draws of its first output are keyed, where `seed` is the request's own; None: `first`.
        temperature: of `Sample`.
        teacher: int64 ids to feed at random instead of the choices; empty without a teacher.
        context: the model's contexts for this prompt, without a batch axis.
        states: initial states, without a batch axis, that replace those of the model.
        source: the inputs of the encoders, see `decoding.inputs.sources`.
        given_latents: the caller's values of latents, one for each output that is searched by itself.
        latents: values of the model's latents that are drawn once a sequence.
        read: how many of the ids the `states` already include; the rest is read.
        encoded: whether `context` and `states` already have what the encoders give.
        max_new_tokens: longest output, where it is shorter than that of the settings.
        written: how many of the last ids constraints count as the beginning of the output.
        sequence: the sequence whose latents these are; None where the model has no latents, so that all sequences of
            the prompt read the same.
        prefixes: ids that members of an ensemble read in place of the first `start` ids, by their names: "lm", or "pair.lm" for a member of a member.
        prefixes_read: whether the `states` already include these, but for their last ids.
    """

    index: int
    ids: Array
    settings: Settings
    seed: int
    first: int = 0
    own_stream: int | None = None
    temperature: float = 1.0
    teacher: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    context: Mapping[str, Array] = field(default_factory=dict)
    states: Mapping[str, Array] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    given_latents: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    latents: Mapping[str, Array] = field(default_factory=dict)
    read: int = 0
    encoded: bool = False
    max_new_tokens: int | None = None
    written: int = 0
    sequence: int | None = None
    prefixes: Mapping[str, Array] = field(default_factory=dict)
    start: int = 0
    prefixes_read: bool = False

    @property
    def longest(self) -> int:
        """The number of ids of the member that reads most; of all ids, where all read the same."""
        return len(self.ids) - self.start + max([self.start, *map(len, self.prefixes.values())])

    def matchers(self) -> Matchers:
        """Return where a new output is in the grammars of its constraints."""
        return begun(self.settings.constraints, self.ids[len(self.ids) - self.written :].tolist())

    @property
    def ends_at_once(self) -> bool:
        """Whether its constraints leave only the empty output, and there is no EOS to choose: it ends before the first step.

        Where the state after it is wanted, the prompt would have to be read, and phrases are not in it: such requests fail at
        their first step.
        """
        constraints, settings = self.settings.constraints, self.settings
        if not constraints or settings.eos or settings.return_state or settings.phrases:
            return False
        if self.written:
            return must_end(self.matchers())
        return all(c.may_be_empty for c in constraints) and any(c.must_be_empty for c in constraints)

    @property
    def stream(self) -> int:
        """The number by which the draws of its first output are keyed; those of its other outputs follow."""
        return self.first if self.own_stream is None else self.own_stream

    def why_stuck(self, matchers: Matchers, output: Array) -> str:
        """Return why no token can follow an output, where constraints forbid all; its matchers are after it."""
        return why_stuck(matchers, [*self.ids[len(self.ids) - self.written :].tolist(), *output.tolist()])

    @property
    def latent_stream(self) -> int:
        """The number by which its latents are drawn: the outputs that one search finds share theirs, so it counts searches."""
        together = self.settings.strategy.searches_together
        return self.stream // self.settings.outputs if together else self.stream

    @property
    def key(self) -> int:
        """A number that the rows of a call have in common where they read the same, so that it is read once."""
        return self.index if self.sequence is None else self.sequence


# Is told the ids that a row has read, and its states then.
Remember = Callable[[EngineRequest, Array, Mapping[str, Array]], None]


def strategy_key(strategy: Strategy) -> tuple[object, ...]:
    """Return what is equal for equal strategies; it is hashable, unless a temperature is an array."""
    return type(strategy), *vars(strategy).values()


# A sequence to decode: its number among all outputs of the call, and its request.
Row = tuple[int, EngineRequest]


@dataclass(frozen=True)
class Call:
    """What holds for all requests of a call, and the settings of those that have none of their own.

    Attributes:
        seed: key of the random generator, for requests without one.
        batch_size: rows that run together.
        tokenizer: of the model, or None.
        teacher_ratio: probability of feeding the teacher's token; None without a teacher.
        step_inputs: computes contexts anew for each step.
        latents: the latents of all sequences; None where the model has none.
        mixed: whether requests have settings of their own.
        attention: whether one of the requests wants attention weights.
        live: requests come while others run, and an error in one ends that one alone.
        remember: keeps states; None where nobody wants them.
        own: the settings of requests by the options that these set.
    """

    settings: Settings
    seed: int
    batch_size: int
    tokenizer: Tokenizer | None = None
    teacher_ratio: float | None = None
    step_inputs: Callable[[History], Mapping[str, Array]] | None = None
    latents: Latents | None = None
    mixed: bool = False
    attention: bool = False
    live: bool = False
    remember: Remember | None = None
    own: dict[object, Settings] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FinishedSequence:
    """One finished sequence.

    Attributes:
        request: what it is an output of.
        sequence: its number among all outputs of the call: `request.first` + the number of the output.
        tokens: new ids, EOS excluded; `logprobs`: of each, EOS included; `logprob`: their sum.
        score: the strategy ranks by it.
        siblings: outputs that its request has, itself included.
        eos: the id that ended it, where EOS did.
        top: ids and log-probabilities [length, k] of the best tokens at each step, where asked for.
        teacher: log-probabilities of the teacher's tokens, where there is a teacher.
        attention: weights [tokens, source], where asked for.
        state: where asked for, the state after it.
    """

    request: EngineRequest
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
    state: Mapping[str, Array] | None = None


def empty_output(row: Row) -> FinishedSequence:
    """Return the output of a row whose request ends at once."""
    sequence, request = row
    nothing, top = np.zeros(0, np.int64), request.settings.top_logprobs
    return FinishedSequence(
        request=request,
        sequence=sequence,
        tokens=nothing,
        logprobs=nothing.astype(np.float32),
        logprob=0.0,
        finish_reason="stop",
        score=0.0,
        siblings=request.settings.searches_per_request,
        top=(np.zeros((0, top), np.int64), np.zeros((0, top), np.float32)) if top else None,
        attention=np.zeros((0, 0), np.float32) if request.settings.return_attention else None,
    )


# Of a row that runs: its request, its sequence, its new tokens and their log-probabilities so far, and, where asked for, ids
# and log-probabilities [length, k] of the best tokens at each step; all are views.
RunningOutput = tuple[EngineRequest, int, Array, Array, tuple[Array, Array] | None]


@dataclass(frozen=True)
class FailedRequest:
    """A request that an error ended."""

    request: EngineRequest
    error: Exception


@dataclass(frozen=True)
class Choice:
    """One token of one sequence.

    Attributes:
        finish_reason: why the sequence ends with it, or None.
        top: ids and log-probabilities [k] of the best tokens at its step, where asked for.
    """

    request: EngineRequest
    sequence: int
    token: int
    logprob: float
    finish_reason: FinishReason | None
    top: tuple[Array, Array] | None = None


class RowSource(Protocol):
    """What a search takes its rows from.

    Attributes:
        stopped: set when the caller has left: searches end at their next step.
        step_by_step: while it is set, searches take one step at a time, as something else waits for its turn.
    """

    stopped: Flag
    step_by_step: Flag

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""


@dataclass
class RequestQueue:
    """The requests of a call that wait to be decoded; several searches, in several threads, may take from one queue.

    Attributes:
        prepare: completes rows as they are taken, so as late as possible: it encodes their sources.
        stopped, step_by_step: as in `RowSource`.
        ended: the outputs of rows that ended at once, which no search gets.
    """

    requests: Iterable[EngineRequest]
    prepare: Callable[[Iterator[Row]], Iterator[Row]] = iter
    stopped: Flag = field(init=False, default_factory=Flag)
    step_by_step: Flag = field(init=False, default_factory=Flag)
    ended: list[FinishedSequence] = field(init=False, default_factory=list)
    _rows: Iterator[Row] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        rows = ((r.first + n, r) for r in self.requests for n in range(r.settings.searches_per_request))
        self._rows = self._that_run(self.prepare(rows))

    def take(self, count: int) -> list[Row]:
        """Return the next `count` rows, or those that are left."""
        with self._lock:
            return list(itertools.islice(self._rows, count))

    def _that_run(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows that do not end at once."""
        for row in rows:
            if row[1].ends_at_once:
                self.ended.append(empty_output(row))
            else:
                yield row
