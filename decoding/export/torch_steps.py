"""One step of a network of PyTorch: how it is called, what it returns, and the loop over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import ModelError
from decoding.export.torch_exporters import NESTINGS, Ports, flat_states
from decoding.export.torch_networks import (
    EXAMPLE_ROWS,
    EXAMPLE_TOKENS,
    AttentionOutput,
    Sizes,
    as_tokens,
    check_equal,
    dtype_and_device,
    find_attention,
    named_sizes,
    random_examples,
    run_network,
)
from decoding.export.written import Ids

# Ways to take one token of each row, in the order in which they are tried.
_TOKENS: tuple[Sizes, ...] = (("batch",), ("batch", 1), (1, "batch"))
# What to do about a network that cannot be called so.
_CALLED = (
    "it was given tokens [batch], [batch, 1] and [1, batch], and float32 states one by one, in a tuple and as pairs (h, c); "
    "name all that it takes, in its order, with the sizes that it has; token= tries one shape of the tokens alone"
)


@dataclass(frozen=True)
class Step:
    """A network of one step, with a flat list of states, and examples of what it takes.

    Attributes:
        token: the sizes of the tokens.
        inputs: the sizes of what it takes after the states; `others`: an example of each.
        vocab: number of scores.
        attention: the output with the weights over a source; None where there is none.
    """

    torch: Any
    net: Any
    name: str
    module: Any
    token: Sizes
    states: Mapping[str, Sizes]
    inputs: Mapping[str, Sizes]
    others: Sequence[Any]
    vocab: int = 0
    attention: AttentionOutput | None = None

    @property
    def ports(self) -> Ports:
        """The names of the inputs and outputs, and the sizes of the inputs."""
        outputs = ["logits", *(f"new_{state}" for state in self.states)]
        if self.attention is not None:
            outputs.insert(self.attention.output, "attention")
        return Ports(
            ("tokens", *self.states, *self.inputs),
            outputs,
            (self.token, *self.states.values(), *self.inputs.values()),
        )

    @property
    def example(self) -> tuple[Any, ...]:
        """Arguments of the module."""
        known: dict[int | str, int] = {"batch": EXAMPLE_ROWS, "time": EXAMPLE_TOKENS, 1: 1}
        tokens = np.zeros([known[d] for d in self.token], np.int64)
        zeros = [zero_state(self.torch, self.net, sizes, EXAMPLE_ROWS) for sizes in self.states.values()]
        return (as_tokens(self.torch, self.net, tokens, None), *zeros, *self.others)

    def loop(
        self, ids: Ids, initial: Mapping[str, Any], others: Sequence[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Feed one token after the other; return the scores [rows, tokens, V] and the attention [rows, tokens, source], if any."""
        states = [
            zero_state(self.torch, self.net, sizes, len(ids)) if name not in initial
            else _rows(self.torch, self.net, initial[name], sizes, len(ids))
            for name, sizes in self.states.items()
        ]  # fmt: skip
        one = [len(ids) if d == "batch" else 1 for d in self.token]
        found, weights = [], []
        for t in range(ids.shape[1]):
            tokens = as_tokens(self.torch, self.net, ids[:, t].reshape(one), None)
            arguments = dict(zip(self.ports.inputs, (tokens, *states, *others), strict=True))
            scores, *states = run_network(self.torch, self.module, self.name, arguments)
            if self.attention is not None:
                weights.append(states.pop(self.attention.output - 1).double().cpu().numpy())
            found.append(scores.double().cpu().numpy().reshape(len(ids), -1))
        return np.stack(found, axis=1), np.stack(weights, axis=1) if weights else None


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
    """Return the step of a network, called in the way that works: each shape of tokens, states flat, in a tuple or in pairs.

    Args:
        given: an example of each of the inputs; default random ones.

    Raises:
        ModelError: none works; the message has the reasons.
    """
    random_examples(torch, net, states, EXAMPLE_ROWS, EXAMPLE_TOKENS)  # checks the sizes
    others = list((random_examples(torch, net, inputs, EXAMPLE_ROWS, 1) if given is None else given).values())
    failures: list[ModelError] = []
    for sizes in _TOKENS if token is None else [tuple(token)]:
        for nested in NESTINGS if len(states) % 2 == 0 else NESTINGS[:2]:
            step = Step(torch, net, name, flat_states(torch, net, len(states), nested), sizes, states, inputs, others)
            try:
                vocab, attention = _checked_step(step)
            except ModelError as error:
                failures.append(error)
            else:
                module = flat_states(torch, net, len(states), nested, attention)
                return replace(step, module=module, vocab=vocab, attention=attention)
    # Where states come in a tuple, those that were given one by one were too many: that is not the reason.
    raise next((error for error in failures if "positional argument" not in str(error)), failures[0])


def _checked_step(step: Step) -> tuple[int, AttentionOutput | None]:
    """Return the number of scores of a step, and its attention, after a check of what it returns.

    Raises:
        ModelError: it does not run, its outputs are no scores and states, or two runs differ.
    """
    arguments = step.example
    named = dict(zip(step.ports.inputs, arguments, strict=True))
    one, two = (run_network(step.torch, step.module, step.name, named, _CALLED) for _ in range(2))
    wanted = [tuple(value.shape) for value in arguments[1 : 1 + len(step.states)]]
    found = [tuple(value.shape) for value in one]
    batch, time = EXAMPLE_ROWS, tuple(arguments[0].shape)
    attention = find_attention(one, wanted, named_sizes(step.inputs, step.others))
    after = [shape for i, shape in enumerate(found) if i and (attention is None or i != attention.output)]
    if not found or len(found[0]) < 2 or found[0][:-1] not in ((batch,), time, (batch, 1)) or after != wanted:
        source = f", and besides these only the attention over the source, [{batch}, source], whose numbers sum to one (of several heads the mean)"
        raise ModelError(
            f"{step.name}: forward() returns tensors of shapes {[list(s) for s in found]}; expected scores [{batch}, V] (or with the time axis of "
            f"the tokens) and then the next states, {[list(s) for s in wanted]}{source if step.inputs else ''}"
        )
    for a, b in zip(one, two, strict=True):
        check_equal(step.name, a.double().cpu().numpy(), b.double().cpu().numpy())
    return int(found[0][-1]), attention
