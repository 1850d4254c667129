"""Estimates the memory of a call before anything is allocated.

So a typo ends in an error that gives the sizes, not in a machine that swaps.
"""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path

from decoding.engine.request import Call, Settings
from decoding.errors import OptionError
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.model import Model
from decoding.strategies import Beam

if sys.platform == "win32":
    import ctypes
else:
    import resource

# Bytes of an output in Python objects beside its tokens, and those of a beam's or a branch's candidates; both measured.
_OUTPUT, _CANDIDATE = 500, 200


def check_memory(
    model: Model,
    call: Call,
    workers: int,
    requests: int | None,
    *,
    taught: bool = False,
    ids: int = 0,
    settings: Settings | None = None,
) -> None:
    """Refuse a call whose buffers do not fit the machine.

    The rule: rows that run together (`batch_size`, or what the requests of the call need if that is less, for each worker) times
    the bytes of a row, plus the outputs that are held at once, are at most the memory that this process may have: that of
    the machine, of its control group, or of its limit of address space, whichever is least. A row has its logits (twice
    with processors; of an ensemble also those of its members), its states (twice), one value of each context and latent, the ids of a fixed window, and for each of
    `max_new_tokens` an id, a log-probability and what `logprobs=` and a teacher add. Outputs count with what their Python
    objects take at least: all of the call, or those of one prompt where prompts come from an iterable. What the
    network itself needs between its layers is not in it.

    Args:
        requests: how many there are; None for an iterable.
        taught: whether there is a teacher.
        ids: bytes that the call needs besides.
        settings: of requests with options of their own; default those of the call.

    Raises:
        OptionError: it would take more; with the sizes.
    """
    limit, settings = _memory(), settings or call.settings
    row, parts = _bytes_of_row(model, settings, taught)
    wanted = settings.rows_per_request * (math.inf if requests is None else requests)
    # A search over several rows a request holds at least one request, also where the batch is smaller.
    rows = int(min(max(call.batch_size, _least_rows(settings)), wanted / workers + settings.rows_per_request, wanted))
    rows = max(1, rows) * min(workers, int(min(wanted, workers)))
    outputs = settings.outputs * (1 if requests is None else requests)
    total = rows * row + outputs * _OUTPUT + ids
    if total > limit:
        raise OptionError(
            f"this call would take {_shown(total)}, and there are {_shown(limit)}: {rows:,} rows of {_shown(row)} ({parts}), and "
            f"{outputs:,} outputs; pass a smaller batch_size, max_new_tokens, num_return_sequences, num_beams, logprobs or workers"
        )


def _least_rows(settings: Settings) -> int:
    return settings.rows_per_request if settings.strategy.searches_together else 1


def _bytes_of_row(model: Model, settings: Settings, taught: bool) -> tuple[int, str]:
    """Return the bytes of a row, and what they are for in words."""
    c = model._network.contract
    copies = 1 + bool(settings.processors) + (2 * len(model.members) if isinstance(model, Ensemble) else 0)
    logits = 4 * model.vocab_size * copies
    states = 2 * sum(s.initial.nbytes for s in c.states)
    inputs = sum(f.dtype.itemsize * math.prod(s or 1 for s in f.sizes) for f in c.row_inputs)
    window = 8 * (c.window.size or 1) if c.window is not None else 0
    tokens = settings.max_new_tokens * (12 + 12 * settings.top_logprobs + 4 * taught)
    candidates = _CANDIDATE if settings.strategy.searches_together else 0
    if isinstance(settings.strategy, Beam):
        candidates *= 2
    parts = {
        f"logits of {model.vocab_size:,} tokens": logits,
        "states": states,
        "contexts": inputs,
        "window": window,
        f"max_new_tokens={settings.max_new_tokens:,}"
        + f" with logprobs={settings.top_logprobs}" * bool(settings.top_logprobs): tokens,
    }
    shown = ", ".join(f"{name} {_shown(size)}" for name, size in parts.items() if size)
    return sum(parts.values()) + candidates, shown


def _shown(size: float) -> str:
    unit = min(4, max(0, (int(size).bit_length() - 1) // 10))
    return f"{size / 1024**unit:.{0 if unit == 0 else 1}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def _memory() -> float:
    """Return how many bytes this process may have: infinitely many where the system does not say."""
    if sys.platform == "win32":
        return _of_machine()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _of_machine() if soft == resource.RLIM_INFINITY else min(_of_machine(), soft)


@cache
def _of_machine() -> float:
    """Return the memory of the machine, or of this process's control group where that is less."""
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: its own size, then the bytes of the machine
        return float(status[1]) if ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(status) else math.inf
    try:
        machine: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        machine = math.inf
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            machine = min(machine, int(Path(path).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return machine
