"""Logits processors: they edit the logits of a batch of rows in place, before the strategy chooses.

A processor is any callable ``f(history, logits)``: `history` is a `History`, `logits` a float32 array [rows, V];
-inf forbids a token. They run in the order given. In `Greedy`, `Sample` and `TopN` they see the logits, in `Beam` the
log-probabilities, which are not normalised again (as in Hugging Face).

Constraints (`decoding.constraints`) are given among them. They are no callables: the search keeps for each row how far it
is in its grammar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from decoding import kernels
from decoding.constraints import BoundConstraint
from decoding.errors import OptionError, finite_number, shown, whole_number

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_LARGEST = float(np.finfo(np.float32).max)


class History(Sequence[Ids]):
    """The prompt and output of each row so far: ``history[i]`` is both of row i, int64.

    Attributes:
        prompts: each row's prompt.
        outputs: each row's new tokens.
        requests: the number of each row's prompt in the call, or of its request in an `Engine`.
    """

    def __init__(self, prompts: Sequence[Ids], outputs: Sequence[Ids], requests: Sequence[int] = ()) -> None:
        self.prompts = prompts
        self.outputs = outputs
        self.requests = requests

    @overload
    def __getitem__(self, index: int) -> Ids: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ids]: ...
    def __getitem__(self, index: int | slice) -> Ids | list[Ids]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return np.concatenate([self.prompts[index], self.outputs[index]])

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        return f"<History of {len(self)} rows>"


Processor = Callable[[History, Logits], None]


def apply_processors(
    processors: Sequence[Processor | BoundConstraint],
    history: Callable[[], History],
    logits: Logits,
    masks: Iterable[npt.NDArray[np.uint32]] = (),
) -> None:
    """Let each processor edit the logits in turn.

    Args:
        history: returns the history of the rows; not called where all processors are constraints.
        masks: of each constraint, the tokens that it allows the rows, as `kernels.allow_bits` takes them.

    Raises:
        OptionError: one returns something instead of editing in place, or has ids outside the vocabulary.
    """
    own, seen = iter(masks), None
    for index, processor in enumerate(processors):
        if isinstance(processor, BoundConstraint):
            kernels.allow_bits(logits, next(own))
            continue
        seen = history() if seen is None else seen
        name = f"processors[{index}] ({getattr(processor, '__name__', type(processor).__name__)})"
        try:
            returned: Any = processor(seen, logits)
        except OptionError as error:
            raise OptionError(f"{name}: {error}") from error
        if returned is not None:
            raise OptionError(
                f"{name} returned {type(returned).__name__}: a processor edits the logits in place and returns None"
            )


@dataclass(frozen=True)
class RepetitionPenalty:
    """Multiplies negative logits of tokens in prompt or output by `penalty` and divides others (Keskar et al. 2019).

    Args:
        penalty: above 0; above 1 discourages repetition.
    """

    penalty: float

    def __post_init__(self) -> None:
        _finite(self, "penalty", above_zero=True)

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.repetition_penalty(logits, history, self.penalty)


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracts `penalty` from the logit of every token that the output has."""

    penalty: float

    def __post_init__(self) -> None:
        _finite(self, "penalty")

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.presence_penalty(logits, history.outputs, self.penalty)


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts `penalty` from a token's logit for every time that the output has it."""

    penalty: float

    def __post_init__(self) -> None:
        _finite(self, "penalty")

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.frequency_penalty(logits, history.outputs, self.penalty)


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids every token that would make an n-gram of prompt and output come a second time.

    Args:
        n: length of the n-grams, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole_number("NoRepeatNgram(n", self.n, 1, close=")"))

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.no_repeat_ngram(logits, history, self.n)


class LogitBias:
    """Adds a bias to the logits of given tokens; -inf forbids one.

    Args:
        bias: ``{id: bias}``.
    """

    def __init__(self, bias: Mapping[int, float]) -> None:
        if not isinstance(bias, Mapping):
            raise OptionError(f"LogitBias(bias={shown(bias)}): expected a dict from ids to numbers")
        self.ids = _ids("LogitBias(bias", list(bias))
        for token, value in bias.items():
            forbids = isinstance(value, float | np.floating) and value == -math.inf
            if not forbids and (finite_number(value) is None or abs(value) > _LARGEST):
                raise OptionError(
                    f"LogitBias(bias={{{token}: {shown(value)}}}): expected finite numbers or -inf, which float32 holds"
                )
        self.values = np.array([float(value) for value in bias.values()], np.float32)

    def __repr__(self) -> str:
        return f"LogitBias({{{_listed(f'{i}: {b:g}' for i, b in zip(self.ids, self.values, strict=True))}}})"

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.logit_bias(logits, self.ids, self.values)


class SuppressTokens:
    """Forbids the given tokens.

    Args:
        ids: token ids.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = _ids("SuppressTokens(ids", ids)

    def __repr__(self) -> str:
        return f"SuppressTokens([{_listed(self.ids)}])"

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.suppress_tokens(logits, self.ids)


class AllowedTokens:
    """Forbids all but the given tokens.

    Args:
        ids: token ids.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self.ids = _ids("AllowedTokens(ids", ids)
        if not self.ids.size:
            raise OptionError("AllowedTokens(ids=[]): at least one token must be allowed")

    def __repr__(self) -> str:
        return f"AllowedTokens([{_listed(self.ids)}])"

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        kernels.allow_tokens(logits, self.ids)


class ForcedTokens:
    """Makes the output have given tokens at given positions.

    The logit of such a token becomes 0, so in `Beam` it costs a hypothesis nothing (as in Hugging Face).

    Args:
        tokens: ``{position: id}``; the first new token has position 0.
    """

    def __init__(self, tokens: Mapping[int, int]) -> None:
        if not isinstance(tokens, Mapping):
            raise OptionError(f"ForcedTokens(tokens={shown(tokens)}): expected a dict from positions to ids")
        self.tokens = {
            whole_number("ForcedTokens(position", position, 0, close=")"): int(_ids("ForcedTokens(id", [token])[0])
            for position, token in tokens.items()
        }

    @property
    def ids(self) -> Ids:
        """The tokens, without their positions."""
        return np.array(list(self.tokens.values()), np.int64)

    def __repr__(self) -> str:
        return f"ForcedTokens({{{_listed(f'{position}: {token}' for position, token in self.tokens.items())}}})"

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        for row, output in enumerate(history.outputs):
            if (token := self.tokens.get(len(output))) is not None:
                kernels.allow_tokens(logits[row : row + 1], [token])
                if np.isfinite(logits[row, token]):  # -inf forbids it, and NaN is an error
                    logits[row, token] = 0


# Those that name tokens, as `ids`.
TokenProcessor = LogitBias | SuppressTokens | AllowedTokens | ForcedTokens


class PrefixAllowed:
    """Allows only the tokens that a function returns for the prompt and output of a row.

    Args:
        function: ``f(ids) -> allowed ids``, called for each row at each step with its prompt and output.
    """

    def __init__(self, function: Callable[[Ids], Iterable[int]]) -> None:
        if not callable(function) or isinstance(function, type):
            raise OptionError(f"PrefixAllowed({shown(function)}): expected a function from ids to allowed ids")
        self.function = function

    def __repr__(self) -> str:
        return f"PrefixAllowed({getattr(self.function, '__qualname__', repr(self.function))})"

    def __call__(self, history: History, logits: Logits) -> None:
        """Edit the logits in place."""
        for row, ids in enumerate(history):
            kernels.allow_tokens(logits[row : row + 1], _ids("PrefixAllowed(ids", self.function(ids)))


def _finite(processor: Any, name: str, *, above_zero: bool = False) -> None:
    value = getattr(processor, name)
    number = finite_number(value)
    if number is None or abs(number) > _LARGEST or (above_zero and np.float32(number) <= 0):
        expected = "a finite number above 0" if above_zero else "a finite number"
        raise OptionError(
            f"{type(processor).__name__}({name}={shown(value)}): expected {expected}, which float32 holds"
        )


def _listed(items: Iterable[Any]) -> str:
    """Up to ten of the items, and how many more there are."""
    shown = [str(item) for item in items]
    return ", ".join(shown if len(shown) <= 10 else [*shown[:10], f"... {len(shown) - 10} more"])


def _ids(name: str, ids: Any) -> Ids:
    """Return token ids as an array.

    Raises:
        OptionError: they are no whole numbers, or none of any vocabulary; `name` is the option in the message.
    """
    if isinstance(ids, str | bytes | Mapping) or not _is_iterable(ids):
        raise OptionError(f"{name}={shown(ids)}): expected a list of token ids")
    return np.array([whole_number(name, i, 0, below=2**31, close=")") for i in ids], np.int64)


def _is_iterable(value: Any) -> bool:
    """Return whether a value has items: an array without axes says that it is iterable, and is not."""
    return isinstance(value, Iterable) and not isinstance(value, type) and getattr(value, "ndim", 1) > 0
