"""`Request`: one thing to decode, with its own options."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from decoding._types import Latents, Processors, StateValues
from decoding.errors import OptionError, shown
from decoding.strategies import Strategy


class Request:
    """One prompt with its own options, for `decode()`, `stream()`, `decode_iter()` and `Engine`.

    What a request leaves out (None) is that of the call or the engine. Prompts and requests may be mixed in one call, and rows of
    different requests run in one batch.

    Args:
        prompt: a string, a sequence of ids, or None to start from BOS, or from `state`. With an encoder it is the source that the
            encoder reads: a string, ids, an array, a list of turns, or a dict ``{encoder input: value}``.
        strategy: `Greedy()`, `Sample(...)`, `TopN(n)` or `Beam(...)`; a temperature is one number.
        max_new_tokens, min_new_tokens, stop, processors, logprobs, num_return_sequences: as in `decode()`.
        return_attention, return_state, return_member_logprobs: as in `decode()`.
        eos_token_id: as in `decode()`; "call", the default, is that of the call.
        seed: key of this request's draws, 0 to 2**64 - 1. A token then depends only on the seed, the number of the output and its
            step, and on the logits: it is the same alone, in any batch, streamed, and in an `Engine`.
        prefix: with an encoder, the decoder's own first tokens: a string or ids.
        context: ``{input name: array}`` without an axis of prompts, or the array alone where there is one context.
        latents: ``{input name: array}`` without an axis of prompts, or the array alone where there is one latent: what a
            hypothesis has as `latent`.
        state: the `state` of a hypothesis, or what `numpy.load` made of one saved by `numpy.savez`: decoding continues after that
            hypothesis, as if its prompt and tokens were given again, with `prompt` after them.

    Raises:
        OptionError: there is no such field.
    """

    __slots__ = (
        "context",
        "eos_token_id",
        "latents",
        "logprobs",
        "max_new_tokens",
        "min_new_tokens",
        "num_return_sequences",
        "prefix",
        "processors",
        "prompt",
        "return_attention",
        "return_member_logprobs",
        "return_state",
        "seed",
        "state",
        "stop",
        "strategy",
    )

    def __init__(
        self,
        prompt: Any = None,
        strategy: Strategy | None = None,
        *,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        stop: str | Sequence[str | int | Sequence[int]] | None = None,
        eos_token_id: int | Sequence[int] | Literal["model", "call"] | None = "call",
        seed: int | None = None,
        processors: Processors | None = None,
        logprobs: int | None = None,
        num_return_sequences: int | None = None,
        prefix: str | Sequence[int] | None = None,
        context: Any = None,
        latents: Latents = None,
        state: StateValues | None = None,
        return_attention: bool | None = None,
        return_state: bool | None = None,
        return_member_logprobs: bool | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            name = next(iter(unknown))
            near = difflib.get_close_matches(name, self.__slots__, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"Request({name}={shown(unknown[name])}): no such field{hint} A request has {', '.join(self.__slots__)}")  # fmt: skip
        self.prompt = prompt
        self.strategy = strategy
        self.max_new_tokens = max_new_tokens
        self.min_new_tokens = min_new_tokens
        self.stop = stop
        self.eos_token_id = eos_token_id
        self.seed = seed
        self.processors = processors
        self.logprobs = logprobs
        self.num_return_sequences = num_return_sequences
        self.prefix = prefix
        self.context = context
        self.latents = latents
        self.state = state
        self.return_attention = return_attention
        self.return_state = return_state
        self.return_member_logprobs = return_member_logprobs

    def given(self) -> list[str]:
        """The names of all options that this request sets."""
        names = [n for n in self.__slots__ if n not in ("prompt", "eos_token_id") and getattr(self, n) is not None]
        return names if self.eos_token_id == "call" else [*names, "eos_token_id"]

    def options(self) -> Mapping[str, Any]:
        """The options of `decode()` that this request sets."""
        own = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        return own if self.eos_token_id == "call" else {**own, "eos_token_id": self.eos_token_id}

    def __repr__(self) -> str:
        own = [f"{name}={shown(getattr(self, name))}" for name in self.given()]
        return f"Request({', '.join([shown(self.prompt), *own])})"


# Those that are checked as the options of a call are.
_OPTIONS = (
    "strategy",
    "max_new_tokens",
    "min_new_tokens",
    "stop",
    "processors",
    "logprobs",
    "num_return_sequences",
    "return_attention",
    "return_state",
    "return_member_logprobs",
)
