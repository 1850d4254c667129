"""One step of a network of PyTorch: how it is called, what it returns, and the loop over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.export.torch_exporters import flat_states
from decoding.export.torch_networks import (
    EXAMPLE_ROWS,
    EXAMPLE_TOKENS,
    Sizes,
    as_tokens,
    check_equal,
    dtype_and_device,
    random_examples,
    run_network,
)
from decoding.export.written import Ids


@dataclass(frozen=True)
class Step:
    """A network of one step, with a flat list of states, and examples of what it takes.

    Attributes:
        token: the sizes of the tokens.
        vocab: number of scores.
    """

    torch: Any
    net: Any
    name: str
    module: Any
    token: Sizes
    states: Mapping[str, Sizes]
    others: Sequence[Any]
    vocab: int

    def example(self, ids: Ids) -> tuple[Any, ...]:
        """Return arguments of the module for the first tokens of `ids`."""
        zeros = [zero_state(self.torch, self.net, sizes, len(ids)) for sizes in self.states.values()]
        first = ids[:, :1] if self.token[1:] == (1,) else ids if len(self.token) == 2 else ids[:, 0]
        return (as_tokens(self.torch, self.net, first, None), *zeros, *self.others)

    def loop(self, ids: Ids, initial: Mapping[str, Any], others: Sequence[Any]) -> Any:
        """Return the scores [rows, tokens, V] of the loop that feeds one token after the other."""
        states = [
            zero_state(self.torch, self.net, sizes, len(ids)) if name not in initial
            else _rows(self.torch, self.net, initial[name], sizes, len(ids))
            for name, sizes in self.states.items()
        ]  # fmt: skip
        found = []
        for t in range(ids.shape[1]):
            one = ids[:, t] if len(self.token) == 1 else ids[:, t : t + 1]
            tokens = as_tokens(self.torch, self.net, one, None)
            scores, *states = run_network(self.torch, self.module, self.name, (tokens, *states, *others))
            found.append(scores.double().cpu().numpy().reshape(len(ids), -1))
        return np.stack(found, axis=1)


def zero_state(torch: Any, net: Any, sizes: Sizes, rows: int) -> Any:
    """Return a state of zeros for this many rows."""
    return torch.zeros([rows if d == "batch" else d for d in sizes], **dtype_and_device(torch, net))


def _rows(torch: Any, net: Any, value: Any, sizes: Sizes, rows: int) -> Any:
    """Return the initial value of a state for each row: a tensor of all rows as it is, an array of one repeated."""
    if isinstance(value, torch.Tensor) and value.dim() == len(sizes):
        return value
    axis = list(sizes).index("batch")
    one = torch.as_tensor(np.asarray(value)).to(**dtype_and_device(torch, net))
    return one.unsqueeze(axis).expand([rows if d == "batch" else d for d in sizes]).contiguous()


def step_of(
    torch: Any,
    net: Any,
    name: str,
    states: Mapping[str, Sizes],
    inputs: Mapping[str, Sizes],
    token: Sizes | None,
    given: Mapping[str, Any] | None = None,
) -> Step:
    """Return the step of a network, called in the way that works: tokens with or without a time axis, states flat or in a tuple.

    Raises:
        ModelError: none works; the message has the reason of the first.
    """
    random_examples(torch, net, states, EXAMPLE_ROWS, EXAMPLE_TOKENS)  # checks the sizes
    others = list(given.values()) if given is not None else random_examples(torch, net, inputs, EXAMPLE_ROWS, 1)
    failures: list[ModelError] = []
    for sizes in [tuple(token)] if token is not None else [("batch",), ("batch", 1)]:
        for nested in (False, True):
            step = Step(torch, net, name, flat_states(torch, net, len(states), nested), sizes, states, others, 0)
            try:
                vocab = _checked_step(torch, step, name, states)
            except ModelError as error:
                failures.append(error)
            else:
                return Step(torch, net, name, step.module, sizes, states, others, vocab)
    raise failures[0]


def _checked_step(torch: Any, step: Step, name: str, states: Mapping[str, Sizes]) -> int:
    """Return the number of scores of a step, after a check of what it returns.

    Raises:
        ModelError: it does not run, its outputs are no scores and states, or two runs differ.
    """
    ids = np.zeros((EXAMPLE_ROWS, EXAMPLE_TOKENS), np.int64)
    arguments = step.example(ids)
    one, two = (run_network(torch, step.module, name, arguments) for _ in range(2))
    batch, time = arguments[0].shape[0], arguments[0].shape[1:]
    wanted = [tuple(value.shape) for value in arguments[1 : 1 + len(states)]]
    found = [tuple(value.shape) for value in one]
    scores = found[0] if found else ()
    if len(scores) < 2 or scores[:-1] not in ((batch,), (batch, *time), (batch, 1)) or found[1:] != wanted:
        raise ModelError(
            f"{name}: forward() returns tensors of shapes {[list(s) for s in found]}; expected scores [{batch}, V] (or with the time axis of "
            f"the tokens) and then the next states, {[list(s) for s in wanted]}"
        )
    for a, b in zip(one, two, strict=True):
        check_equal(name, a.double().cpu().numpy(), b.double().cpu().numpy())
    return int(scores[-1])
