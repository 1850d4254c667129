"""Checks what the caller gives for the model's contexts and initial states: context= and step_inputs=."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoding._types import StepInputs
from decoding.arguments import named_values, numbers
from decoding.errors import OptionError, shown
from decoding.inputs.members import for_members
from decoding.model.contract.io import AuxiliaryInput, State
from decoding.model.graph.types import Array
from decoding.model.model import Model
from decoding.processors import History


@dataclass(frozen=True)
class Given:
    """What the caller gives for each prompt: contexts and initial states, by input name."""

    contexts: Mapping[str, list[Array] | Array]
    states: Mapping[str, list[Array] | Array]


def check_contexts(model: Model, context: Any, step_inputs: StepInputs | None, prompts: int) -> Given:
    """Return the contexts and initial states that the caller gives for all prompts.

    Args:
        context: {input: [prompts, ...]}, or the array alone where there is one context that no encoder gives. One with a
            value for each token is [prompts, tokens, ...].
        step_inputs: gives contexts too, so that none is missing.

    Raises:
        OptionError: one is missing, unknown or of a wrong shape.
    """
    network, c = model._network, model._network.contract
    needed = (*c.contexts, *c.step_contexts)
    if context is None and not needed:  # as nearly always, and for every request
        return Given({}, {})
    inputs = {f.name: f for f in (*c.contexts, *c.row_inputs) if f.kind != "latent"}
    states = {s.input: s for s in c.states}
    encoded = set() if network.encoders is None else network.encoders.fed & inputs.keys()
    wanted = {f.name: f.name for f in needed if f.name not in encoded}
    named = [name for name in (*inputs, *states) if name not in encoded] if isinstance(context, Mapping) else wanted
    context = for_members(model, context, named)
    given = named_values("context", context, model.name, wanted, others=(*inputs, *states))
    if fed := [name for name in given if name in encoded]:
        raise OptionError(
            f"context: {fed[0]!r} comes from the encoder; the contexts that it does not give are {', '.join(wanted) or 'none'}"
        )
    missing = sorted(wanted.keys() - given.keys())
    if step_inputs is not None:  # it computes the values of one token, and a window shows many
        missing = [name for name in missing if network.reads_windows(name) and inputs[name].timed]
    if missing:
        sizes = ", ".join(["prompts", *("any" if s is None else str(s) for s in _sizes(inputs[missing[0]]))])
        raise OptionError(
            f"context: the model needs {missing[0]!r}; pass context={{{missing[0]!r}: array [{sizes}]}}, or step_inputs="
        )
    return Given(
        {
            name: _context(inputs[name], value, prompts, "context", _sizes(inputs[name]))
            for name, value in given.items()
            if name in inputs
        },
        {name: _initial_state(states[name], value, prompts) for name, value in given.items() if name not in inputs},
    )


def check_step_inputs(model: Model, step_inputs: Any) -> StepInputs | None:
    """Return the caller's function with a check of all that it returns, so that a search need not look at it again.

    Raises:
        OptionError: it is no function.
    """
    if step_inputs is None:
        return None
    if not callable(step_inputs):
        raise OptionError(
            f"step_inputs={shown(step_inputs)}: expected a function from a History to a dict of arrays [rows, ...]"
        )
    inputs = {f.name: f for f in model._network.contract.row_inputs if f.kind != "latent"}

    def checked(history: History) -> dict[str, Array]:
        given = for_members(model, step_inputs(history), inputs)
        if not isinstance(given, Mapping):
            raise OptionError(
                f"step_inputs returned {type(given).__name__}: expected a dict from input names to arrays [rows, ...]"
            )
        if unknown := [name for name in given if name not in inputs]:
            raise OptionError(
                f"step_inputs returned {shown(unknown[0])}: the model's contexts are {', '.join(inputs) or 'none'}"
            )
        rows = len(history)
        return {name: _of_step(inputs[name], value, rows) for name, value in given.items()}

    return checked


def _of_step(aux: AuxiliaryInput, value: Any, rows: int) -> Array:
    """Return what `step_inputs` computed for an input, [rows, ...]; the time axis of one with a value for each token may be missing."""
    array = _array(aux.name, value, aux.dtype)
    if aux.timed and np.ndim(array) == len(aux.sizes):
        array = array[:, None]
    return np.asarray(_context(aux, array, rows, "step_inputs", aux.sizes))


def _array(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Return what `step_inputs` computed for a context as one array: the rows of a step are equally long."""
    return value if isinstance(value, np.ndarray) else numbers(f"step_inputs[{name!r}]", value, dtype)


def _sizes(aux: AuxiliaryInput) -> tuple[int | None, ...]:
    """Return the sizes of what a request has for an input, None for any."""
    if aux.kind == "step_context":
        return (None, *aux.step_sizes)
    return aux.sizes if aux.kind == "context" else (None,) * (aux.rank - 1)


def _context(
    aux: AuxiliaryInput, value: Any, rows: int, option: str, expected: tuple[int | None, ...]
) -> list[Array] | Array:
    """Return a context of this many rows in the input's dtype: one array, or a list where rows differ in length.

    Raises:
        OptionError: its shape is not the input's.
    """
    name = f"{option}[{aux.name!r}]"
    try:
        ragged = isinstance(value, list | tuple) and len({np.shape(one) for one in value}) > 1
    except ValueError as error:
        raise OptionError(f"{name}: expected {aux.dtype} numbers: {error}") from error
    arrays = [numbers(name, one, aux.dtype) for one in value] if ragged else numbers(name, value, aux.dtype)
    shapes = [one.shape for one in arrays] if ragged or np.ndim(arrays) else []
    if len(shapes) != rows or not all(_fits(shape, expected) for shape in shapes):
        found = f"shapes {[list(shape) for shape in shapes[:4]]}" if ragged else f"shape {list(np.shape(arrays))}"
        shown = ", ".join("any" if e is None else str(e) for e in (rows, *expected))
        raise OptionError(f"{name} has {found}: expected [{shown}], one entry for each prompt or row")
    return arrays


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Return whether a shape is the expected one, where None stands for any size."""
    return len(shape) == len(expected) and all(e in (None, d) for e, d in zip(expected, shape, strict=True))


def _initial_state(state: State, value: Any, prompts: int) -> Array:
    """Return the initial values of a state, one for each prompt.

    Raises:
        OptionError: their shape is not the state's without its batch axis.
    """
    name, shape = f"context[{state.input!r}]", state.initial.shape
    sizes = [None if i == state.free_axis else size for i, size in enumerate(shape) if i != state.batch_axis]
    array = numbers(name, value, state.dtype)
    if not _fits(array.shape, (prompts, *sizes)):
        shown = ", ".join("any" if size is None else str(size) for size in (prompts, *sizes))
        raise OptionError(f"{name} has shape {list(array.shape)}: expected [{shown}], the initial state of each prompt")
    return array
