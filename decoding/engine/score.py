"""Scores given sequences: the log-probability of each of their tokens; and outputs, by each member of an ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from decoding import kernels
from decoding.engine.batch.batch import failed_step, make_batch
from decoding.engine.batch.contexts import initial_states, step_contexts
from decoding.engine.batch.ensemble import member_call, part
from decoding.engine.encode import alike, encoded, tokens_taken
from decoding.engine.request import Call, EngineRequest, FinishedSequence
from decoding.engine.search.prefixes import with_prefixes_read
from decoding.errors import ModelError
from decoding.model.contract.pad import pad_together
from decoding.model.ensembles.network import EnsembleNetwork
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
    """Return by index float32 log-probabilities of every token of a sequence after its `start`, given those before it.

    A first id, before which there is nothing, has none; nor has one that the states of its request have read.

    Args:
        advance: is told after each run how many more tokens have their scores.
    """
    scores: dict[int, Array] = {}
    c = network.contract
    takes_runs = _takes_runs(network)
    for group in alike(network.contract, sequences, len(sequences)):
        order = sorted(group, key=lambda r: _begin(r) - len(r.ids))
        for start in range(0, len(order), call.batch_size):
            own = with_prefixes_read(network, call, encoded(network, order[start : start + call.batch_size]))
            for request in own:
                tokens_taken(c, request, request.longest - 1)
            by_runs = (
                takes_runs
                and not any(r.read or r.prefixes for r in own)
                and (network.on_device or len(own) * c.logits.vocab_size < _LARGE_STEP)
            )
            try:
                values = (_by_runs if by_runs else _by_steps)(network, call, own, advance)
            except ModelError as error:
                raise failed_step(network, error, History([r.ids for r in own], [r.ids[:0] for r in own])) from error
            scores |= {r.index: v[max(0, len(v) - len(r.ids) + r.start) :] for r, v in zip(own, values, strict=True)}
    return scores


def _begin(request: EngineRequest) -> int:
    """Return how many ids come before the first that is scored, less one."""
    return max(request.read, request.start - 1) if request.prefixes else request.read


def member_logprobs(network: EnsembleNetwork, call: Call, finished: Sequence[FinishedSequence]) -> list[Array]:
    """Return float32 [members, tokens] for each sequence: the log-probabilities of its new tokens, EOS included, under each member alone."""
    ends = [f.tokens if f.eos is None else np.append(f.tokens, f.eos) for f in finished]
    whole = [
        replace(f.request, index=index, ids=np.concatenate([f.request.ids, end]))
        for index, (f, end) in enumerate(zip(finished, ends, strict=True))
    ]
    rows = []
    for member in network.members:
        own = [part(member, request) for request in whole]
        scores = score_sequences(member.network, member_call(call, member), own, lambda count: None)
        rows.append([scores[index][len(scores[index]) - len(end) :] for index, end in enumerate(ends)])
    return [np.stack(own) for own in zip(*rows, strict=True)]


class _Reader:
    """Reads sequences side by side, many tokens in a run."""

    def __init__(self, network: Network, call: Call, requests: Sequence[EngineRequest]) -> None:
        self._network, self._call, self._requests = network, call, requests
        self._states = initial_states(network.contract, requests)

    def read(self, live: int, start: int, end: int) -> Array:
        """Return the logits [live * (end - start), V] after each of the tokens from `start` to `end` of the first `live` sequences."""
        c, latents, requests = self._network.contract, self._call.latents, self._requests[:live]
        at, count = np.full(live, start), end - start
        context = pad_together(c.row_inputs, [r.context for r in requests])
        context |= step_contexts(c.auxiliary_inputs, requests, at, count)
        if latents is not None:
            context |= latents.steps(c.auxiliary_inputs, np.array([r.key for r in requests]), at, count)
        feeds = c.feeds(np.stack([r.ids[start:end] for r in requests]), start, context)
        for s, values in zip(c.states, self._states, strict=True):
            feeds[s.input] = np.ascontiguousarray(values.take(range(live), axis=s.batch_axis))
        names = [c.logits.name, *(s.output for s in c.states)]
        logits, *self._states = self._network.read_session.run(feeds, names)
        return np.ascontiguousarray(c.logits.arrange(logits)).reshape(-1, c.logits.vocab_size)


class _MemberReaders:
    """Reads sequences by every member of an ensemble, and combines what they give."""

    def __init__(self, network: EnsembleNetwork, call: Call, requests: Sequence[EngineRequest]) -> None:
        self._weights = [member.weight for member in network.members]
        self._how: Literal["logits", "probs"] = "probs" if network.combine == "probs" else "logits"
        self._readers = [
            _reader(member.network, member_call(call, member), [part(member, request) for request in requests])
            for member in network.members
        ]

    def read(self, live: int, start: int, end: int) -> Array:
        """Return the scores as `_Reader.read` returns logits."""
        logits = [reader.read(live, start, end) for reader in self._readers]
        out: Array = np.empty_like(logits[0])
        kernels.combine(logits, self._weights, self._how, out)
        return out


def _reader(network: Network, call: Call, requests: Sequence[EngineRequest]) -> _Reader | _MemberReaders:
    if isinstance(network, EnsembleNetwork):
        return _MemberReaders(network, call, requests)
    return _Reader(network, call, requests)


def _takes_runs(network: Network) -> bool:
    """Return whether a run gives the logits after each of several tokens."""
    if isinstance(network, EnsembleNetwork):
        return all(_takes_runs(member.network) for member in network.members)
    c = network.contract
    return network.reads_chunks and c.window is None and c.logits.layout != "BV"


def _by_runs(
    network: Network, call: Call, requests: Sequence[EngineRequest], advance: Callable[[int], object]
) -> list[Array]:
    """Return scores of sequences of descending length, read many tokens in a run.

    Unequal sequences are read in chunks that all of them fill, as prompts are (see prefill.py).
    """
    c = network.contract
    sequences = [r.ids for r in requests]
    reader = _reader(network, call, requests)
    scores = [np.zeros(len(s) - 1, np.float32) for s in sequences]
    cost = network.weight_bytes // 4 + _OVERHEAD
    most = _PRODUCTS * (_DEVICE if network.on_device else 1)
    width = c.logits.vocab_size * len(network.parts)
    read, longest = 0, len(sequences[0]) - 1
    while read < longest:
        live = sum(len(s) - 1 > read for s in sequences)
        chunk = max(1, min(_LOGITS // (live * width), most // (live * cost)))
        end = min(len(sequences[live - 1]) - 1, read + min(chunk, c.longest_run or chunk))
        next_ids = np.stack([s[read + 1 : end + 1] for s in sequences[:live]])
        values = kernels.token_logprobs(reader.read(live, read, end), next_ids.ravel()).reshape(live, -1)
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
    read = np.array([r.read for r in requests])
    lengths = np.array([len(r.ids) for r in requests]) - read
    ids = np.zeros((len(requests), lengths[0]), np.int64)
    for row, request in zip(ids, requests, strict=True):
        row[: len(request.ids) - request.read] = request.ids[request.read :]
    c = network.contract
    # Sequences with contexts, latents, initial states or ids read before have no beginning in common.
    own = c.contexts or c.latents or c.row_inputs or call.latents is not None
    own = own or any(r.states or r.read or r.prefixes for r in requests)
    apart = np.arange(len(requests)) if own else np.zeros(len(requests), np.int64)
    first, row = _distinct(apart, ids[:, 0])
    batch = make_batch(network, len(requests), call, reduce=False)
    batch.size = len(first)
    batch.start(np.arange(batch.size), [requests[i] for i in first], read[first])
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
