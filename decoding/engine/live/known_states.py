"""States that an engine remembers, so that a prompt which extends a known one reads only what is new."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decoding.engine.request import EngineRequest
from decoding.model.graph.types import Array

Key = tuple[bytes, bytes]


class KnownStates:
    """The states after sequences of ids, at most `limit` of them: the one that was not used for the longest time goes first.

    A recurrent state has a fixed size, whatever the length of what was read. Contexts are part of what a state comes from.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[Key, Mapping[str, Array]] = OrderedDict()
        self._lengths = Counter[int]()
        self._lock = threading.Lock()

    def put(self, request: EngineRequest, ids: Array, states: Mapping[str, Array]) -> None:
        """Remember the states after these ids, which a row of the request has read."""
        if request.prefixes:  # its states come from several texts
            return
        key = _key(request, ids)
        with self._lock:
            if key not in self._states:
                self._lengths[len(ids)] += 1
            self._states[key] = states
            self._states.move_to_end(key)
            while len(self._states) > self._limit:
                (_, old), _ = self._states.popitem(last=False)
                self._forget_length(len(old) // 8)

    def extended(self, request: EngineRequest) -> EngineRequest:
        """Return the request with the states after its longest known beginning, which need not be read again."""
        with self._lock:
            for length in sorted(self._lengths, reverse=True):
                if request.read < length < len(request.ids):
                    key = _key(request, request.ids[:length])
                    if (states := self._states.get(key)) is not None:
                        self._states.move_to_end(key)
                        return replace(request, states=states, read=length)
        return request

    def _forget_length(self, length: int) -> None:
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]


def _key(request: EngineRequest, ids: Array) -> Key:
    contexts = b"".join(
        name.encode() + str(value.shape).encode() + np.ascontiguousarray(value).tobytes()
        for name, value in sorted(request.context.items())
    )
    return contexts, np.ascontiguousarray(ids, np.int64).tobytes()
