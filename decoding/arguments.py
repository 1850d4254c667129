"""Checks of arguments that every part of the package shares: values by input name, numbers, ids, seeds.

`Model.run()` and `decoding.inputs` both use them, so this module is below the models in the order of imports.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError, shown, whole_number


def named_values(
    option: str, value: Any, owner: str, names: Mapping[str, str], others: Collection[str] = ()
) -> dict[str, Any]:
    """Return the caller's values by input name: they come as a dict, or alone where there is one input.

    Args:
        option: the argument that holds the values.
        owner: the model or encoder that has the inputs.
        names: the inputs that the option is for, each with the text that shows it in messages.
        others: inputs that a dict may name too.

    Raises:
        OptionError: a name is unknown, or there is no dict where there are several inputs, or none.
    """
    if value is None:
        return {}
    takes = f"it takes {'; '.join(names.values()) or f'no {option}'}"
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise OptionError(
                f"{option}: {type(value).__name__}: expected a dict from input names to arrays for {owner}; {takes}"
            )
        return {next(iter(names)): value}
    if unknown := [name for name in value if name not in names and name not in others]:
        raise OptionError(f"{option}: {owner} has no {shown(unknown[0])}; {takes}")
    return dict(value)


def numbers(name: str, value: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a value as an array of this dtype.

    Raises:
        OptionError: it holds no numbers; `name` is the value in the message.
    """
    try:
        return np.asarray(value).astype(dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise OptionError(f"{name}: expected {np.dtype(dtype)} numbers: {error}") from error


def ids_below(vocab_size: int, ids: Any, name: str) -> npt.NDArray[np.int64]:
    """Return one sequence of ids as int64, each within the vocabulary.

    Raises:
        OptionError: it is no such sequence; `name` is the sequence in the message.
    """
    if isinstance(ids, str):
        raise OptionError(f"{name}: strings and ids together; pass all as strings or all as ids")
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise OptionError(f"{name}: not one sequence of ids: {error}") from error
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise OptionError(f"{name}: {array.dtype} of shape {list(array.shape)}; expected whole-number ids of shape [T]")
    if array.min() < 0 or array.max() >= vocab_size:
        position = int(((array < 0) | (array >= vocab_size)).argmax())
        raise OptionError(
            f"{name}: id {array[position]} at position {position} is out of range; the model's ids go from 0 to {vocab_size - 1}"
        )
    return array.astype(np.int64)


def seed_of(seed: int | None) -> int:
    """Return the key of the random draws, 64 bits: the caller's, or one from the operating system.

    Raises:
        OptionError: the seed is no whole number from 0 to 2**64 - 1.
    """
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    return whole_number("seed", seed, 0, below=2**64)
