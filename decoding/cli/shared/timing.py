"""Times how long steps take: what `decoding bench` and `decoding compare` measure with."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.api import decode
from decoding.engine.batch.batch import make_batch
from decoding.engine.encode import with_latents_of
from decoding.inputs.latents import with_latents
from decoding.inputs.options import make_call
from decoding.inputs.requests import Start, make_requests
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.model import Model
from decoding.strategies import Sample

# Positions of a context, where its size is free.
SOURCE = 16
# A measurement of this length tells enough: shorter ones are the clock's, longer ones make the command slow.
SECONDS = 0.05
MOST_STEPS = 500


def least_times(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the least time of each call in seconds; they are run in turn, so that a busy moment meets all of them."""
    best = [np.inf] * len(calls)
    for _, (place, call) in itertools.product(range(rounds), enumerate(calls)):
        start = time.perf_counter()
        call()
        best[place] = min(best[place], time.perf_counter() - start)
    return best


def sampling(model: Model, batch: int, steps: int) -> Callable[[], object]:
    """Return a call that samples `steps` tokens in each of `batch` rows, in one thread, from BOS or the first id."""
    options: dict[str, Any] = {"seed": 0, "max_new_tokens": steps, "eos_token_id": None, "batch_size": batch, "workers": 1}  # fmt: skip
    context = _random_contexts(model, batch, steps + 1) or None
    return lambda: decode(model, _prompts(model, batch), Sample(), context=context, **options)


def network(model: Model, batch: int, steps: int) -> Callable[[], object]:
    """Return a call that runs the network alone: `steps` steps of `batch` rows, without a choice of tokens."""
    call = make_call(model, Sample(), seed=0, batch_size=batch, max_new_tokens=steps)
    context = _random_contexts(model, batch, steps + 1) or None
    starts = [Start(np.array(prompt, np.int64)) for prompt in _prompts(model, batch)]
    call, requests = with_latents(model, call, make_requests(model, call, starts, [{}] * batch, context), None)
    requests = [one for _, one in with_latents_of(call.latents, enumerate(requests), model._network.contract)]
    rows = make_batch(model._network, batch, call, reduce=False)
    rows.grow(batch)
    rows.start(np.arange(batch), requests, np.zeros(batch, np.int64))

    def run() -> None:
        for _ in range(steps):
            rows.step()

    return run


def fitting_steps(model: Model, batch: int) -> int:
    """Return a number of steps that take about `SECONDS`."""
    few = 4
    sampling(model, batch, few)()  # the first run binds buffers
    (once,) = least_times([sampling(model, batch, few)], 2)
    longest = model._network.contract.longest or MOST_STEPS
    return int(np.clip(SECONDS / (once / few), 2, min(MOST_STEPS, longest - 1)))


def _prompts(model: Model, batch: int) -> list[list[int]]:
    return [[model.bos_token_id or 0]] * batch


def _random_contexts(model: Model, batch: int, tokens: int) -> dict[str, npt.NDArray[Any]]:
    """Return random values for the inputs that the caller gives: a source of `SOURCE` positions, a value for each token."""
    contract, draw = model._network.contract, np.random.default_rng(0)
    shapes: dict[str, tuple[AuxiliaryInput, Sequence[int | None]]] = {
        **{aux.name: (aux, aux.sizes) for aux in contract.contexts},
        **{aux.name: (aux, [tokens, *aux.step_sizes]) for aux in contract.step_contexts},
    }
    return {
        name: draw.normal(size=[batch, *(size or SOURCE for size in shape)]).astype(aux.dtype)
        for name, (aux, shape) in shapes.items()
    }
