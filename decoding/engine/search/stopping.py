"""Stop sequences: ids, and texts that may lie across tokens."""

from __future__ import annotations

import numpy as np

from decoding.engine.request import Settings
from decoding.model.graph.types import Array
from decoding.model.model import Model


def stops(model: Model, settings: Settings, output: Array) -> bool:
    """Does this output, which did not stop before its last token, end with a stop sequence?"""
    by_ids = any(len(output) >= len(s) and np.array_equal(output[-len(s) :], s) for s in settings.stop)
    return by_ids or (bool(settings.stop_strings) and text_stops(model, settings, output))


def text_stops(model: Model, settings: Settings, output: Array) -> bool:
    """Does the end of this output, which did not stop before its last token, hold a stop string?"""
    assert model.tokenizer is not None  # checked with the options
    # Every token but an empty or a partial one (a byte of a character) adds at least one character.
    longest = max(map(len, settings.stop_strings))
    tail = model.tokenizer.decode(output[-4 * longest - 4 :].tolist())
    return any(stop in tail for stop in settings.stop_strings)
