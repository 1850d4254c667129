"""One encoder: finds its inputs and outputs, and runs sources through it in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import ModelError
from decoding.model.contract.io import AuxiliaryInput, AuxiliaryKind
from decoding.model.contract.pad import Rows, pad_together, shape_of
from decoding.model.encoders.probe import Output, Probed, probe_encoder
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array, Port
from decoding.model.passes import normalize
from decoding.model.roles.auxiliary_inputs import make_auxiliary_inputs
from decoding.model.roles.given import special_id
from decoding.model.roles.latents import find_latents
from decoding.model.roles.masks import find_kind, find_sources
from decoding.model.roles.text import NO_TEXT, EncoderText, text_edges
from decoding.model.roles.token import embedding_rows
from decoding.model.runtime.session import Session
from decoding.model.verify.padding import verify_padding
from decoding.tokenizers import Tokenizer, tokenizer_metadata

# Rows of one run: a long list of sources takes no more memory than this many.
_ROWS = 32
ENCODER_ROLES = ("latent", "batch_axis", "constant", "source_mask", "source_length")


@dataclass(frozen=True)
class Encoder:
    """A graph that reads whole sources.

    Attributes:
        auxiliary_inputs: its inputs: sources (of kind "context"), the masks and lengths that tell where they end, and latents.
        ids: for each input that takes ids the number of ids; 0 where it is not known.
        pads: sources of unequal length may share a run: padding changes no output, as runs showed.
        alone: a run takes one source.
        bos, eos: ids put before and after a text.
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
        """What messages call it: the path of its file, where it has one."""
        return self.graph.name

    @property
    def sources(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that take sources."""
        return tuple(f for f in self.auxiliary_inputs if f.kind == "context")

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn."""
        return tuple(f for f in self.auxiliary_inputs if f.kind == "latent")

    def run(self, rows: Rows) -> list[dict[str, Array]]:
        """The outputs for each row, without a batch axis and without padding.

        Args:
            rows: the sources and latents of each, without a batch axis.
        """
        results: list[dict[str, Array]] = [{} for _ in rows]
        for group in self._groups(rows):
            found = _run_together(self.session, self.auxiliary_inputs, self.outputs, [rows[i] for i in group])
            for i, values in zip(group, found, strict=True):
                results[i] = {o.name: value.copy() for o, value in zip(self.outputs, values, strict=True)}
        return results

    def _groups(self, rows: Rows) -> Iterator[list[int]]:
        """Indices of the rows of each run. They have equal shapes, unless the encoder pads."""
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

    def save(self, path: Path) -> None:
        """Write the graph and its roles to a file that loads as the same encoder."""
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
        graph.set_metadata({"decoding.roles": json.dumps(roles), **tokenizer_metadata(self.tokenizer)})
        path.write_bytes(graph.serialize())

    def describe(self) -> str:
        """Inputs and notes, as lines for a person to read."""
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


def _run_together(
    session: Session, auxiliary_inputs: Sequence[AuxiliaryInput], outputs: Sequence[Output], rows: Rows
) -> list[list[Array]]:
    """The outputs for each row, cut to the length of its source, from one run over all rows padded together."""
    values = session.run(pad_together(auxiliary_inputs, rows), [o.name for o in outputs])
    by_row = zip(*(np.moveaxis(value, o.batch_axis, 0) for o, value in zip(outputs, values, strict=True)), strict=True)
    lengths = [_source_length(auxiliary_inputs, row) for row in rows]
    return [
        [
            value if o.follows is None else value[(slice(None),) * o.follows + (slice(length),)]
            for o, value in zip(outputs, items, strict=True)
        ]
        for length, items in zip(lengths, by_row, strict=True)
    ]


def _source_length(auxiliary_inputs: Sequence[AuxiliaryInput], row: Mapping[str, Array]) -> int | None:
    """Length of a row's source; None where no input may differ in length."""
    return next(
        (row[f.name].shape[f.source_axis] for f in auxiliary_inputs if f.source_axis is not None and f.name in row),
        None,
    )


def load_encoder(
    graph: Graph, given: Mapping[str, Any], start: Callable[[Graph], Session], text: EncoderText = NO_TEXT
) -> Encoder:
    """Load an encoder: find its sources, and by running it, where the batch is and whether padding changes an output.

    Args:
        given: roles of its inputs; their keys are `ENCODER_ROLES`.
        start: starts a session.
        text: its tokenizer.

    Raises:
        ModelError: it does not run on small sources, a source changes the outputs of another, or the file's tokenizer does not fit.
        OptionError: the caller's tokenizer does not fit.
    """
    notes: list[str] = []
    normalize.fix_constants(graph, given.get("constant", {}))
    normalize.inline_decided_ifs(graph)
    normalize.time_major(graph)
    ids = {p.name: rows for p in graph.inputs if (rows := _count_ids(graph, p, given)) is not None}
    pad = special_id(graph, "decoding.pad")
    failure: ModelError | None = None
    for axis in (0, 1):
        trial, own_notes = graph.copy(), list(notes)
        _put_batch_first(trial, given.get("batch_axis", {}), axis)
        auxiliary_inputs = _auxiliary_inputs(trial, given, ids, pad, own_notes)
        for port in trial.inputs:
            trial.set_shape(port.name, None if port.shape is None else [None] * len(port.shape))
        trial.forget_shapes()
        for output in trial.outputs:
            trial.set_shape(output.name, None)
        try:
            found = probe_encoder(
                start(trial),
                [p.name for p in trial.outputs],
                auxiliary_inputs,
                ids,
                pads=pad is not None,
                alone=_declares_one_row(graph),
            )
        except ModelError as error:
            failure = failure or error
            continue
        if found.auxiliary_inputs != auxiliary_inputs:
            own_notes.append("its sources may have any length, whatever the file declares: seen by running")
        if axis and not given.get("batch_axis"):
            own_notes.append("the batch is the second axis of its inputs: seen by running")
        return _make_encoder(trial, found, ids, text, own_notes)
    raise ModelError(
        f"{graph.name}: the encoder cannot be run on small sources: {failure}; export it with dynamic batch and source axes"
    ) from failure


def _count_ids(graph: Graph, port: Port, given: Mapping[str, Any]) -> int | None:
    """The number of ids that an input takes, 0 where it is not known; None for an input that takes no ids."""
    rows = embedding_rows(graph, port.name)
    if rows is not None:
        return rows
    return 0 if port.dtype.kind in "iu" and find_kind(graph, port, given) in (None, "position") else None


def _put_batch_first(graph: Graph, given: Mapping[str, int], axis: int) -> None:
    """Make the batch the first axis of every input; `axis` is where it is, unless `given` says otherwise."""
    for port in graph.inputs:
        at = given.get(port.name, axis if len(port.shape or ()) > 1 else 0)
        if at:
            normalize.batch_first(graph, port.name, at)


def _declares_one_row(graph: Graph) -> bool:
    """Return whether the file declares a batch of one."""
    return any((p.shape or (None,))[0] == 1 for p in graph.inputs)


def _auxiliary_inputs(
    graph: Graph, given: Mapping[str, Any], ids: Mapping[str, int], pad: int | None, notes: list[str]
) -> tuple[AuxiliaryInput, ...]:
    """The encoder's inputs: sources, the masks and lengths that tell where these end, and latents."""
    draws = find_latents(graph, given, graph.inputs, None, notes)
    kinds: dict[str, AuxiliaryKind] = {}
    for port in graph.inputs:
        kind = "latent" if port.name in draws else None if port.name in ids else find_kind(graph, port, given)
        kinds[port.name] = "context" if kind in (None, "position") else kind
    sources = find_sources(graph, given, None, kinds, notes)
    found = make_auxiliary_inputs(graph.inputs, kinds, sources, draws)
    if pad is None:
        return found
    # A file that says what it pads ids with means their length, too.
    return tuple(
        replace(aux, pad_value=pad, source_axis=aux.source_axis if None in aux.sizes or not aux.sizes else 0)
        if aux.name in ids
        else aux
        for aux in found
    )


def _make_encoder(graph: Graph, found: Probed, ids: Mapping[str, int], text: EncoderText, notes: list[str]) -> Encoder:
    """The encoder that probing found, after runs that show whether padding changes an output."""
    auxiliary_inputs, pads = found.auxiliary_inputs, False
    steady = all(size is not None or i == o.follows for o in found.outputs for i, size in enumerate(o.sizes))
    if not found.alone and steady and any(f.source_axis is not None for f in auxiliary_inputs):

        def run(trial: Sequence[AuxiliaryInput], rows: Rows) -> list[list[Array]]:
            return _run_together(found.session, trial, found.outputs, rows)

        verified = verify_padding(auxiliary_inputs, run, found.sample)
        pads = verified is not None
        auxiliary_inputs = tuple(verified or auxiliary_inputs)
    elif found.alone:
        notes.append("it takes one source a run: its batch is fixed at 1 in the file")
    takes = _text_sizes(auxiliary_inputs, ids)
    before, after = text_edges(graph)
    return Encoder(
        graph,
        found.session,
        auxiliary_inputs,
        found.outputs,
        dict(ids),
        pads,
        found.alone,
        text.fitted(max(takes), graph.name) if takes else None,
        before,
        after,
        tuple(notes),
    )


def _text_sizes(auxiliary_inputs: Sequence[AuxiliaryInput], ids: Mapping[str, int]) -> list[int]:
    """For each source that may be a text the number of ids, 0 where it is not known: ids, or one-hot vectors of them."""
    sources = [aux for aux in auxiliary_inputs if aux.kind == "context"]
    return [
        ids[aux.name] if aux.name in ids else aux.sizes[-1] or 0
        for aux in sources
        if aux.name in ids or len(aux.sizes) == 2
    ]
