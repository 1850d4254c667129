"""Inputs that the caller gives: the same at every step of a prompt, or computed anew for each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from decoding.engine.job import Prompt
from decoding.errors import OptionError
from decoding.model.contract import Fill
from decoding.model.graph import Array
from decoding.processors import History

StepInputs = Callable[[History], Mapping[str, Array]]


class ContextRows:
    """The contexts of a batch's rows, in buffers that stay where they are.

    Args:
        fills: the contract's contexts.
        step_inputs: gives some of them anew before each step; the prompts have the others.

    Attributes:
        version: how often the buffers were written to, for whoever keeps a copy.
    """

    def __init__(self, fills: Sequence[Fill], capacity: int, step_inputs: StepInputs | None) -> None:
        self._fills = {f.name: f for f in fills}
        self._capacity, self._step_inputs = capacity, step_inputs
        self._buffers: dict[str, Array] = {}
        self._owners = np.full(capacity, -1)
        self.version = 0

    def put(self, places: Array, prompts: Sequence[Prompt]) -> None:
        """Give these rows the contexts of their prompts."""
        self._owners[places] = [p.index for p in prompts]
        for name in prompts[0].context:
            self._write(name, places, np.stack([p.context[name] for p in prompts]))

    def keep(self, places: Array) -> None:
        """Move the rows at `places` to the front; nothing moves among the beams of one prompt."""
        owners = self._owners[places]
        if not np.array_equal(owners, self._owners[: len(places)]):
            self.version += 1
            for buffer in self._buffers.values():
                buffer[: len(places)] = buffer[places]
        self._owners[: len(places)] = owners

    def refresh(self, histories: Callable[[], History], size: int) -> None:
        """Ask for this step's inputs, where there are any."""
        if self._step_inputs is None:
            return
        given = step_values(self._fills, self._step_inputs, histories(), size)
        for name, value in given.items():
            self._write(name, np.arange(size), value)

    def rows(self, size: int) -> dict[str, Array]:
        """The first `size` rows of each context."""
        return {name: buffer[:size] for name, buffer in self._buffers.items()}

    def _write(self, name: str, places: Array, values: Array) -> None:
        if name not in self._buffers:
            self._buffers[name] = np.zeros((self._capacity, *values.shape[1:]), self._fills[name].dtype)
        if self._buffers[name].shape[1:] != values.shape[1:]:
            raise OptionError(
                f"context {name!r}: shape {list(values.shape[1:])} a row; the rows before had {list(self._buffers[name].shape[1:])}"
            )
        self._buffers[name][places] = values
        self.version += 1


def step_values(fills: Mapping[str, Fill], step_inputs: StepInputs, history: History, rows: int) -> dict[str, Array]:
    """What `step_inputs` gives for these rows, checked.

    Raises:
        OptionError: an input that the model does not have, or one of a wrong shape.
    """
    given = step_inputs(history)
    if not isinstance(given, Mapping):
        raise OptionError(
            f"step_inputs gave {type(given).__name__}: expected a dict from input names to arrays [rows, ...]"
        )
    values = {}
    for name, value in given.items():
        if name not in fills:
            raise OptionError(f"step_inputs gave {name!r}: the model's contexts are {', '.join(fills) or 'none'}")
        values[name] = check_context(fills[name], value, rows, "step_inputs")
    return values


def check_context(fill: Fill, value: Array, rows: int, option: str) -> Array:
    """A context for `rows` rows, of the input's dtype.

    Raises:
        OptionError: its shape is not the input's.
    """
    try:
        array = np.asarray(value).astype(fill.dtype)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{option}[{fill.name!r}]: expected {fill.dtype} numbers: {error}") from error
    expected = (rows, *fill.sizes)
    fits = array.ndim == len(expected) and all(e is None or e == d for e, d in zip(expected, array.shape, strict=True))
    if not fits:
        shown = ", ".join("any" if e is None else str(e) for e in expected)
        raise OptionError(
            f"{option}[{fill.name!r}] has shape {list(array.shape)}: expected [{shown}], one entry for each prompt or row"
        )
    return array
