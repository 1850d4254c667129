"""Steps of several networks at once, in threads."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from decoding.kernels.cores import usable_cores
from decoding.model.ensembles.network import EnsembleNetwork
from decoding.model.network import Network

Job = Callable[[], None]

# Products of a member's step (rows times weights) from which on a thread is worth starting: about 100 microseconds of one core.
_WORTH_A_THREAD = 8 << 20


class Together:
    """Runs one step of each member: the first in the caller's thread, the others in threads of their own where that is faster.

    What comes out is the same: the steps share nothing, and all of them end before `run` returns.

    Args:
        worth_threads: rows from which on threads are faster.
    """

    def __init__(self, steps: Sequence[Job], worth_threads: float) -> None:
        self._steps, self._worth_threads = list(steps), worth_threads
        self._helpers: list[_Helper] = []

    def run(self, rows: int) -> None:
        """Run one step of each over `rows` rows.

        Raises:
            Whatever a step raises; of several errors that of the first.
        """
        if rows < self._worth_threads:
            for step in self._steps:
                step()
            return
        if not self._helpers:
            self._helpers = [_Helper(step) for step in self._steps[1:]]
        for helper in self._helpers:
            helper.start()
        error: BaseException | None = None
        try:
            self._steps[0]()
        except BaseException as own:  # raised after the others have ended
            error = own
        for helper in self._helpers:
            error = helper.wait(error)
        if error is not None:
            raise error


def rows_worth_threads(network: EnsembleNetwork) -> float:
    """Return from how many rows on a step is faster with a thread for each member; infinity where members use more cores than one, or there are no more."""
    members = [member.network for member in network.members]
    if (
        min(len(members), usable_cores()) < 2
        or not network.in_threads
        or not all(_uses_one_core(each) for each in members)
    ):
        return math.inf
    return _WORTH_A_THREAD / max(1, min(each.weight_bytes // 4 for each in members))


class _Helper:
    """A thread that runs one step whenever it is told to; it ends with the object.

    Everything between the threads is one C call on a `SimpleQueue`, so that Ctrl-C cannot leave a lock held (issue 13).
    """

    def __init__(self, step: Job) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self._step = step
        threading.Thread(target=_work, args=(self._jobs, self._ended), daemon=True, name="decoding-member").start()
        weakref.finalize(self, self._jobs.put, None)

    def start(self) -> None:
        """Run the step."""
        self._jobs.put(self._step)

    def wait(self, error: BaseException | None) -> BaseException | None:
        """Wait until the step has ended, also through Ctrl-C, and return the first error."""
        while True:
            try:
                own = self._ended.get()
            except KeyboardInterrupt as interrupt:
                error = error or interrupt
            else:
                return error or own


def _work(jobs: SimpleQueue[Job | None], ended: SimpleQueue[BaseException | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)
        del job


def _uses_one_core(network: Network) -> bool:
    return all(part.is_native or part.threads == 1 for part in network.parts) and not network.on_device
