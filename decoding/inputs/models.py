"""The model of a call: loaded, or what `load()` takes."""

from __future__ import annotations

from pathlib import Path

from decoding.engine.forks import check_usable
from decoding.model.load import load
from decoding.model.model import Model


def loaded(model: Model | str | Path) -> Model:
    """Return the model, loaded where a path or a name stands for it.

    Raises:
        ModelError: it cannot be loaded, is a plain generator, which has no contract to decode by, or was in use at a fork.
    """
    found = model if isinstance(model, Model) else load(model)
    network = found._network
    check_usable(network)
    return found
