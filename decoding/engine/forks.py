"""Which models are in use: by several calls now, or by another thread when the process was forked.

A forked child has the model, but not that thread. Locks of onnxruntime that the thread held stay locked in the child, so
the child's first step may wait for ever (as 5 of 60 did, issue 13).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from decoding.errors import ModelError
from decoding.model.network import Network

# Calls that run: the model, and the thread that steps it; None for threads of our own.
_calls: dict[object, tuple[Network, int | None]] = {}
_lost: weakref.WeakSet[Network] = weakref.WeakSet()


@contextmanager
def using(network: Network, *, in_threads: bool = False) -> Iterator[None]:
    """Mark the network as in use by this thread, or by threads of our own, while the block runs."""
    call = object()
    _calls[call] = network, None if in_threads else threading.get_ident()
    try:
        yield
    finally:
        _calls.pop(call, None)


def is_shared(network: Network) -> bool:
    """Return whether several calls use the network now."""
    return sum(used is network for used, _ in list(_calls.values())) > 1


def check_usable(network: Network) -> None:
    """Refuse a model that another thread was using when this process was forked.

    Raises:
        ModelError: it was.
    """
    if network in _lost:
        raise ModelError(
            f"{network.name}: another thread was decoding with this model when the process was forked, so that its session may "
            "be locked for good in the child; load the model in the child, or start processes by 'spawn'"
        )


def _after_fork() -> None:
    for call, (network, thread) in list(_calls.items()):
        if thread != threading.get_ident():
            _lost.add(network)
            del _calls[call]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
