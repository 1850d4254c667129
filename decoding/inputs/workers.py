"""Chooses the number of workers: the threads in which a call decodes."""

from __future__ import annotations

from decoding.engine.loop import LARGE_NETWORK
from decoding.engine.request import Call
from decoding.errors import OptionError, whole_number
from decoding.kernels.cores import usable_cores
from decoding.model.model import Model

# Rows that make a worker worth it, fewer with the native step, which has nothing else that needs threads. A large network
# takes a whole batch. Measured in docs/benchmarks/decode.md.
ROWS_OF_A_WORKER, ROWS_OF_A_NATIVE_WORKER = 64, 16

# Each has a batch and a thread of its own: 2**31 of them were made one after the other until the machine was full.
MOST_WORKERS = 1024


def choose_workers(model: Model, call: Call, workers: int | None, rows: int, *, processors: bool) -> int:
    """Return the number of workers: the caller's, else one that suits the number of rows and the network.

    A worker is worth it when it has enough rows of its own: then two of them beat two intra-op threads (measured in
    docs/benchmarks/decode.md). Fewer rows, and a model whose threads the caller chose, stay in one.

    Args:
        rows: how many the requests of the call take together.
        processors: whether some of them have processors.

    Raises:
        OptionError: as `check_workers()`.
    """
    if workers is not None or model._network.on_device:
        return check_workers(model, 1 if workers is None else workers)
    if model._network.threads is not None or processors:
        return 1
    worth_it = ROWS_OF_A_NATIVE_WORKER if model.executor == "native" else ROWS_OF_A_WORKER
    enough = call.batch_size if model.weight_bytes > LARGE_NETWORK else min(call.batch_size, worth_it)
    return max(1, min(usable_cores(), rows // enough))


def check_workers(model: Model, workers: int) -> int:
    """Return the number of workers that was given; a device runs one batch after the other, so that more would only wait.

    Raises:
        OptionError: it is no whole number from 1 to `MOST_WORKERS`, or more than one on a device.
    """
    count = whole_number("workers", workers, 1)
    if count > MOST_WORKERS:
        raise OptionError(f"workers={count}: expected at most {MOST_WORKERS:,}; more threads than cores only wait")
    if count > 1 and model._network.on_device:
        raise OptionError(f"workers={count}: expected 1 on a GPU; pass a larger batch_size")
    return count
