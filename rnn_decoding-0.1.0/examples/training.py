"""Code that the training scripts of the shipped models share: the optimizer, and a schedule by the clock."""

import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import nn


class TimedAdamW:
    """AdamW with a short warm-up and a cosine over the minutes given, gradients clipped to norm 1."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, minutes: float) -> None:
        self._parameters, self._learning_rate, self._seconds = list(parameters), learning_rate, 60 * minutes
        self._adam = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=0.01)

    def steps(self) -> Iterator[tuple[int, float]]:
        """Yield (number of the step, part of the time that is over) until the time is over."""
        start, step = time.monotonic(), 0
        while (done := (time.monotonic() - start) / self._seconds) < 1:
            for group in self._adam.param_groups:
                cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
                group["lr"] = self._learning_rate * min(1.0, step / 100) * cosine
            step += 1
            yield step, done

    def descend(self, loss: torch.Tensor) -> None:
        """One step down the gradient of `loss`."""
        self._adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.step()
