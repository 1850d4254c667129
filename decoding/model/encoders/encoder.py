"""Encoders: graphs run once over a whole source, whose outputs feed a decoder or another encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import Rows, pad_together, shape_of
from decoding.model.encoders.probe import Output, Probed, probed_freely
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import STATE_SLOTS, Array, Port
from decoding.model.passes import normalize
from decoding.model.roles.given import json_metadata
from decoding.model.roles.latents import find_latents
from decoding.model.roles.token import embedding_rows
from decoding.model.runtime.session import Session
from decoding.model.verify.padding import verify_padding
from decoding.tokenizers import Tokenizer, make_tokenizer

# Rows of one run, so that the memory of a long list of sources is bounded.
_ROWS = 32
_LENGTH_NAMES, _MASK_NAMES = re.compile(r"len", re.I), re.compile(r"mask", re.I)
ENCODER_ROLES = ("latent", "batch_axis", "constant", "source_mask", "source_length")


@dataclass(frozen=True)
class Encoder:
    """A graph that reads whole sources.

    Attributes:
        fills: its inputs: sources ("context"), what tells where they end, and latents.
        ids: of the inputs that take ids, how many ids there are; 0 where that is not known.
        pads: sources of unequal length may share a run: padding was seen to change nothing.
        alone: it takes one row a run.
        bos, eos: ids put before and behind a text.
    """

    graph: Graph
    session: Session
    auxiliary_inputs: tuple[AuxiliaryInput, ...]
    outputs: tuple[Output, ...]
    ids: Mapping[str, int]
    pads: bool
    alone: bool
    tokenizer: Tokenizer | None
    bos: tuple[int, ...]
    eos: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.graph.name

    @property
    def sources(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are neither filled nor drawn."""
        return tuple(f for f in self.auxiliary_inputs if f.kind == "context")

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn."""
        return tuple(f for f in self.auxiliary_inputs if f.kind == "latent")

    def run(self, rows: Rows) -> list[dict[str, Array]]:
        """The outputs of each row, without a batch axis and without padding.

        Args:
            rows: of each, its sources and latents, without a batch axis.
        """
        results: list[dict[str, Array]] = [{} for _ in rows]
        for group in self._groups(rows):
            own = [rows[i] for i in group]
            values = self.session.run(pad_together(self.auxiliary_inputs, own), [o.name for o in self.outputs])
            for output, value in zip(self.outputs, values, strict=True):
                for i, item in zip(group, np.moveaxis(value, output.batch_axis, 0), strict=True):
                    results[i][output.name] = self._cut(output, item, rows[i]).copy()
        return results

    def _groups(self, rows: Rows) -> Iterator[list[int]]:
        """Which rows run together: of all lengths, or of one."""
        shapes = [shape_of(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: shapes[i])
        size = 1 if self.alone else _ROWS
        start = 0
        while start < len(order):
            end = start + 1
            while end < min(start + size, len(order)) and (self.pads or shapes[order[end]] == shapes[order[start]]):
                end += 1
            yield order[start:end]
            start = end

    def _cut(self, output: Output, item: Array, row: Mapping[str, Array]) -> Array:
        """An output without what belongs to padding."""
        length = source_length(self.auxiliary_inputs, row)
        return (
            item
            if output.follows is None or length is None
            else item[(slice(None),) * output.follows + (slice(length),)]
        )

    def save(self, path: Path) -> None:
        """Write the graph with its roles, so that it loads again as it is."""
        graph = self.graph.copy()
        for aux in self.auxiliary_inputs:
            sizes = [f"{aux.name}_{axis}" if size is None else size for axis, size in enumerate(aux.sizes)]
            batch = 1 if self.alone else "batch"
            graph.set_shape(aux.name, [batch, *(sizes or [1] * (aux.rank - 1))])
        roles = {
            "latent": {f.name: {"distribution": f.draw.distribution, "every": f.draw.every} for f in self.latents},
            "source_mask": [f.name for f in self.auxiliary_inputs if f.kind == "source_mask"],
            "source_length": [f.name for f in self.auxiliary_inputs if f.kind == "source_length"],
        }
        graph.set_metadata({"decoding.roles": json.dumps(roles)})
        path.write_bytes(graph.serialize())

    def describe(self) -> str:
        """Inputs and outputs as lines that a person can read."""
        lines = []
        for aux in self.auxiliary_inputs:
            sizes = ", ".join(["batch", *("?" if size is None else str(size) for size in aux.sizes)])
            what = {"context": "source", "latent": f"latent ({aux.draw})"}.get(
                aux.kind, f"filled: {aux.kind.replace('_', ' ')}"
            )
            lines.append(
                f"  {aux.name} {aux.dtype}[{sizes}]: {what}" + (", 0 where there is no padding" if aux.inverted else "")
            )
        text = "" if self.tokenizer is None else f", {self.tokenizer}"
        together = "padded together" if self.pads else "run with those of their own length"
        return "\n".join(
            [
                f"encoder {self.name}: sources of unequal length are {together}{text}",
                *lines,
                *(f"  note: {n}" for n in self.notes),
            ]
        )


def source_length(auxiliary_inputs: Sequence[AuxiliaryInput], row: Mapping[str, Array]) -> int | None:
    """Length of a row's source, None where no input may vary."""
    return next(
        (row[f.name].shape[f.source_axis] for f in auxiliary_inputs if f.source_axis is not None and f.name in row),
        None,
    )


def load_encoder(graph: Graph, given: Mapping[str, Any], start: Callable[[Graph], Session]) -> Encoder:
    """Find out by running which inputs are sources, where the batch is, and whether padding changes anything.

    Args:
        given: roles of its inputs, see `ENCODER_ROLES`.

    Raises:
        ModelError: it does not run on small sources, or mixes rows.
    """
    notes: list[str] = []
    normalize.fix_constants(graph, given.get("constant", {}))
    normalize.inline_decided_ifs(graph)
    normalize.time_major(graph)
    ids = {p.name: rows for p in graph.inputs if (rows := _ids_of(graph, p)) is not None}
    pad = json_metadata(graph, "decoding.pad", None)
    failure: ModelError | None = None
    for axis in (0, 1):
        trial, own_notes = graph.copy(), list(notes)
        _put_batch_first(trial, given.get("batch_axis", {}), axis)
        auxiliary_inputs = _find_fills(trial, given, ids, pad, own_notes)
        for port in trial.inputs:
            trial.set_shape(port.name, None if port.shape is None else [None] * len(port.shape))
        trial.forget_shapes()
        for output in trial.outputs:
            trial.set_shape(output.name, None)
        try:
            found = probed_freely(
                trial, start(trial), auxiliary_inputs, ids, pads=pad is not None, alone=_declares_one_row(graph)
            )
        except ModelError as error:
            failure = failure or error
            continue
        if found.auxiliary_inputs != auxiliary_inputs:
            own_notes.append("its sources may have any length, whatever the file declares: seen by running")
        if axis and not given.get("batch_axis"):
            own_notes.append("the batch is the second axis of its inputs: seen by running")
        return _finished(trial, found, ids, own_notes)
    raise ModelError(
        f"{graph.name}: the encoder cannot be run on small sources: {failure}; export it with dynamic batch and source axes"
    ) from failure


def _ids_of(graph: Graph, port: Port) -> int | None:
    """How many ids an input takes (0: not known), None where it takes no ids."""
    rows = embedding_rows(graph, port.name)
    if rows is not None:
        return rows
    whole = np.issubdtype(port.dtype, np.integer)
    return 0 if whole and not _LENGTH_NAMES.search(port.name) and not _MASK_NAMES.search(port.name) else None


def _put_batch_first(graph: Graph, given: Mapping[str, int], axis: int) -> None:
    for port in graph.inputs:
        at = given.get(port.name, axis if len(port.shape or ()) > 1 else 0)
        if at:
            normalize.batch_first(graph, port.name, at)


def _declares_one_row(graph: Graph) -> bool:
    return any((p.shape or (None,))[0] == 1 for p in graph.inputs)


def _find_fills(
    graph: Graph, given: Mapping[str, Any], ids: Mapping[str, int], pad: int | None, notes: list[str]
) -> tuple[AuxiliaryInput, ...]:
    """Sources, what tells where they end, latents."""
    ports = graph.inputs
    draws = find_latents(graph, given, ports, None, notes)
    lengths = {node.input(4) for node in graph.nodes if node.op in STATE_SLOTS and node.input(4)}
    upstream = {name for length in lengths for name in graph.ancestors(length, stop_ops=("Shape",))}
    auxiliary_inputs: dict[str, AuxiliaryInput] = {}
    for port in ports:
        sizes: tuple[int | None, ...] = tuple(d if isinstance(d, int) else None for d in (port.shape or (None,))[1:])
        rank = len(port.shape or (None,))
        if port.name in draws:
            auxiliary_inputs[port.name] = AuxiliaryInput(
                port.name, "latent", port.dtype, rank, sizes, draw=draws[port.name]
            )
        elif port.name in given.get("source_mask", ()) or (_MASK_NAMES.search(port.name) and port.name not in ids):
            auxiliary_inputs[port.name] = AuxiliaryInput(
                port.name, "source_mask", port.dtype, rank, tuple(1 if d == 1 else None for d in sizes)
            )
        elif port.name in given.get("source_length", ()) or _is_length(port, upstream, ids):
            auxiliary_inputs[port.name] = AuxiliaryInput(port.name, "source_length", port.dtype, rank)
        else:
            auxiliary_inputs[port.name] = AuxiliaryInput(port.name, "context", port.dtype, rank, sizes)
    told = [f for f in auxiliary_inputs.values() if f.kind in ("source_mask", "source_length")]
    for aux in [f for f in auxiliary_inputs.values() if f.kind == "context"]:
        known = pad if aux.name in ids else None
        auxiliary_inputs[aux.name] = replace(
            aux, source_axis=_source_axis(aux, bool(told), known is not None), pad_value=known or 0
        )
    varying = [f.name for f in auxiliary_inputs.values() if f.source_axis is not None]
    for aux in told:
        about = _about(graph, ports, aux.name, varying)
        auxiliary_inputs[aux.name] = replace(aux, source=about)
        notes.append(
            f"{aux.name} tells where {about} ends: {'it gives a recurrent layer its lengths' if aux.name in upstream else 'its name'}"
        )
    return tuple(auxiliary_inputs.values())


def _is_length(port: Port, upstream: set[str], ids: Mapping[str, int]) -> bool:
    whole = np.issubdtype(port.dtype, np.integer) and len(port.shape or ()) < 3
    return whole and (port.name in upstream or bool(_LENGTH_NAMES.search(port.name))) and not ids.get(port.name)


def _source_axis(aux: AuxiliaryInput, told: bool, padded: bool) -> int | None:
    """The dimension along which sources differ in length: the only free one; a fixed one where its padding is known."""
    free = [axis for axis, size in enumerate(aux.sizes) if size is None]
    if len(free) == 1:
        return free[0]
    return 0 if not free and aux.sizes and (told or padded) else None


def _about(graph: Graph, ports: Sequence[Port], name: str, varying: Sequence[str]) -> str:
    """The source that a mask or length is about: the only one that varies, or the one that shares its dimension."""
    dims = {p.name: {d for d in (p.shape or ())[1:] if d not in (1, None)} for p in ports}
    sharing = [other for other in varying if dims[other] & dims[name]]
    for found in (sharing, list(varying)):
        if len(found) == 1:
            return found[0]
    raise ModelError(
        f"{graph.name}: {name} could tell where any of {', '.join(varying) or 'no input (none has a dynamic source axis)'} ends; "
        "export the encoder with the mask's dimension named as the source's, or without the mask"
    )


def _finished(graph: Graph, found: Probed, ids: Mapping[str, int], notes: list[str]) -> Encoder:
    """The encoder, with what running says of padding."""
    auxiliary_inputs, pads = found.auxiliary_inputs, False
    steady = all(size is not None or i == o.follows for o in found.outputs for i, size in enumerate(o.sizes))
    if not found.alone and steady and any(f.source_axis is not None for f in auxiliary_inputs):

        def run(trial: Sequence[AuxiliaryInput], rows: Rows) -> list[list[Array]]:
            values = found.session.run(pad_together(trial, rows), [o.name for o in found.outputs])
            moved = [np.moveaxis(v, o.batch_axis, 0) for o, v in zip(found.outputs, values, strict=True)]
            lengths = [source_length(trial, row) for row in rows]
            return [
                [
                    v[i][(slice(None),) * (o.follows or 0) + (slice(n if o.follows is not None else None),)]
                    for o, v in zip(found.outputs, moved, strict=True)
                ]
                for i, n in enumerate(lengths)
            ]

        proved = verify_padding(auxiliary_inputs, run, found.sample)
        pads = proved is not None
        auxiliary_inputs = tuple(proved or auxiliary_inputs)
    elif found.alone:
        notes.append("it takes one source a run: its batch is fixed at 1 in the file")
    vocab = json_metadata(graph, "decoding.vocab", None)
    tokenizer = None if vocab is None else make_tokenizer(None, vocab, max([len(vocab), *ids.values()]))
    special = {key: json_metadata(graph, f"decoding.{key}", []) for key in ("bos", "eos")}
    around = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in special.items()}
    return Encoder(
        graph,
        found.session,
        auxiliary_inputs,
        found.outputs,
        dict(ids),
        pads,
        found.alone,
        tokenizer,
        around["bos"],
        around["eos"][:1],
        tuple(notes),
    )
