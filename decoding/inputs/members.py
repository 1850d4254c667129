"""What the caller gives for the members of an ensemble: by the plain names of inputs, for all, or by the members' own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.model import Model


def for_members(model: Model, values: Any, names: Collection[str]) -> Any:
    """Return the values by the ensemble's names of inputs; anything that is not of an ensemble, or not by name, as it is.

    Args:
        values: a dict, in which a plain name stands for the inputs of that name in all members, and "MEMBER.name" for one; or
            the values alone, where all `names` have one plain name.
        names: the ensemble's names of the inputs.
    """
    if not isinstance(model, Ensemble) or values is None:
        return values
    plain = {name: model._network.plain(name) for name in names}
    if not isinstance(values, Mapping):
        return dict.fromkeys(names, values) if len(set(plain.values())) == 1 else values
    found = {name: value for name, value in values.items() if name in plain or name not in plain.values()}
    for name, own in plain.items():
        if own in values:
            found.setdefault(name, values[own])
    return found
