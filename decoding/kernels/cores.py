"""How many processor cores there are to use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may run on, which a container or taskset may limit; at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
