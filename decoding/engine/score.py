"""Scores given sequences: the log-probability of each of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from decoding import kernels
from decoding.engine.batch.batch import failed_step, make_batch
from decoding.engine.batch.contexts import initial_states, step_contexts
from decoding.engine.encode import alike, encoded, tokens_taken
from decoding.engine.request import Call, EngineRequest
from decoding.errors import ModelError
from decoding.model.contract.pad import pad_together
from decoding.model.graph.types import Array
from decoding.model.network import Network
from decoding.processors import History

# Logits of one run over whole sequences, in floats (64 MiB): longer ones are read in chunks.
_LOGITS = 1 << 24
# Products of one run: about 20 ms of one core. Ctrl-C is answered between two runs (issue 13: up to 36 s without).
_PRODUCTS = 1 << 29
# What a token of a row takes besides its products with the weights, in products.
_OVERHEAD = 1 << 14
# Times that a GPU is faster than a core, at least: a run of a core's size would be over before the next is started.
_DEVICE = 64
# Logits of one step, in floats (1 MiB), from which on a run over several tokens gains nothing: they leave the
# cache before they are scored (bench/test_rollout.py).
_LARGE_STEP = 1 << 18


def score_sequences(
    network: Network, call: Call, sequences: Sequence[EngineRequest], advance: Callable[[int], object]
) -> dict[int, Array]:
    """Return by index float32 log-probabilities of every token of a sequence but the first, given those before it.

    Args:
        advance: is told after each run how many more tokens have their scores.
    """
    scores: dict[int, Array] = {}
    c = network.contract
    takes_runs = network.reads_chunks and c.window is None and c.logits.layout != "BV"
    for group in alike(network.contract, sequences, len(sequences)):
        order = sorted(group, key=lambda r: -len(r.ids))
        for start in range(0, len(order), call.batch_size):
            own = encoded(network, order[start : start + call.batch_size])
            for request in own:
                tokens_taken(c, request, len(request.ids) - 1)
            by_runs = takes_runs and (network.on_device or len(own) * c.logits.vocab_size < _LARGE_STEP)
            try:
                values = (_by_runs if by_runs else _by_steps)(network, call, own, advance)
            except ModelError as error:
                raise failed_step(network, error, History([r.ids for r in own], [r.ids[:0] for r in own])) from error
            scores |= {r.index: value for r, value in zip(own, values, strict=True)}
    return scores


def _by_runs(
    network: Network, call: Call, requests: Sequence[EngineRequest], advance: Callable[[int], object]
) -> list[Array]:
    """Return scores of sequences of descending length, read many tokens in a run.

    Unequal sequences are read in chunks that all of them fill, as prompts are (see prefill.py).
    """
    c = network.contract
    sequences = [r.ids for r in requests]
    names = [c.logits.name, *(s.output for s in c.states)]
    states = initial_states(c, requests)
    scores = [np.zeros(len(s) - 1, np.float32) for s in sequences]
    cost = network.weight_bytes // 4 + _OVERHEAD
    most = _PRODUCTS * (_DEVICE if network.on_device else 1)
    read, longest = 0, len(sequences[0]) - 1
    while read < longest:
        live = sum(len(s) - 1 > read for s in sequences)
        chunk = max(1, min(_LOGITS // (live * c.logits.vocab_size), most // (live * cost)))
        end = min(len(sequences[live - 1]) - 1, read + min(chunk, c.longest_run or chunk))
        ids = np.stack([s[read : end + 1] for s in sequences[:live]])
        context = pad_together(c.row_inputs, [r.context for r in requests[:live]])
        context |= step_contexts(c.auxiliary_inputs, requests[:live], np.full(live, read), end - read)
        if call.latents is not None:
            keys = np.array([r.key for r in requests[:live]])
            context |= call.latents.steps(c.auxiliary_inputs, keys, np.full(live, read), end - read)
        feeds = c.feeds(ids[:, :-1], read, context)
        cut = [
            np.ascontiguousarray(v.take(range(live), axis=s.batch_axis)) for s, v in zip(c.states, states, strict=True)
        ]
        feeds |= {s.input: v for s, v in zip(c.states, cut, strict=True)}
        logits, *states = network.read_session.run(feeds, names)
        flat = np.ascontiguousarray(c.logits.arrange(logits)).reshape(-1, c.logits.vocab_size)
        values = kernels.token_logprobs(flat, ids[:, 1:].ravel()).reshape(live, -1)
        for row in range(live):
            scores[row][read:end] = values[row]
        advance(values.size)
        read = end
    return scores


def _by_steps(
    network: Network, call: Call, requests: Sequence[EngineRequest], advance: Callable[[int], object]
) -> list[Array]:
    """Return scores of sequences of descending length, read a token at a time.

    A row of the batch is a beginning that one or several sequences have: it is read once.
    """
    lengths = np.array([len(r.ids) for r in requests])
    ids = np.zeros((len(requests), lengths[0]), np.int64)
    for row, request in zip(ids, requests, strict=True):
        row[: len(request.ids)] = request.ids
    c = network.contract
    # Sequences with contexts, latents or initial states of their own have no beginning in common.
    own = c.contexts or c.latents or c.row_inputs or call.latents is not None or any(r.states for r in requests)
    apart = np.arange(len(requests)) if own else np.zeros(len(requests), np.int64)
    first, row = _distinct(apart, ids[:, 0])
    batch = make_batch(network, len(requests), call, reduce=False)
    batch.size = len(first)
    batch.start(np.arange(batch.size), [requests[i] for i in first], np.zeros(batch.size, np.int64))
    scores = np.zeros((len(requests), lengths[0] - 1), np.float32)
    for t in range(lengths[0] - 1):
        batch.context.refresh(_nothing, batch.size)
        batch.step()
        live, going_on = int((lengths > t + 1).sum()), int((lengths > t + 2).sum())
        first, after = _distinct(row[:live], ids[:live, t + 1])
        parents, tokens = row[first], ids[first, t + 1]
        branching = not np.array_equal(parents, np.arange(batch.size))
        logits = batch.logits[parents] if branching else batch.logits[: batch.size]
        scores[:live, t] = kernels.token_logprobs(logits, tokens)[after]
        advance(live)
        row = after[:going_on]
        count = int(row.max(initial=-1)) + 1
        if branching or count < batch.size:
            batch.keep(parents[:count])
        batch.tokens[:count] = tokens[:count]
    return [values[: n - 1] for values, n in zip(scores, lengths, strict=True)]


def _distinct(group: Array, token: Array) -> tuple[Array, Array]:
    """Number the pairs (group, token) by first appearance; return where each appears first, and the number of each row's."""
    _, first, number = np.unique(group * (token.max() + 1) + token, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[number]


def _nothing() -> History:
    """Return an empty history: given sequences have no inputs that are computed from them."""
    return History([], [])
