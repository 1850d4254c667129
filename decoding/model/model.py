"""`Model`: a prepared step graph with its session and its special ids."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from decoding.errors import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.encoders.chain import Encoders
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array
from decoding.model.passes.device_step import (
    DeviceStep,
    Reduction,
    can_reduce,
    device_graph,
    start_device_step,
    step_feeds,
)
from decoding.model.passes.fold_embedding import Folded, fold_embedding
from decoding.model.passes.lower_recurrent import left_to_the_cpu, plain_steps
from decoding.model.paths import encoder_paths
from decoding.model.roles.given import json_metadata
from decoding.model.runtime.session import NodeRun, Session
from decoding.model.single_run import checked_inputs, count_rows, feeds_of
from decoding.model.verify.equivalence import same_step
from decoding.model.weights import FileWeights
from decoding.tokenizers import Tokenizer


class Model:
    """A prepared step graph with its session. Made by `load()`; safe to use from several threads.

    Attributes:
        contract: roles of every input and output.
        encoders: what reads the sources that the contexts and first states come from, or None.
        tokenizer: turns text into ids and back, or None.
        bos_token_id, pad_token_id: special ids, or None.
        eos_token_id: ids that end a sequence; there may be none.
        max_new_tokens: the longest output that the file asks for, or None.
        session: runs the graph; `step_session` does for single tokens, by a faster graph where there is one.
    """

    def __init__(
        self,
        graph: Graph,
        contract: Contract,
        session: Session,
        tokenizer: Tokenizer | None,
        file: FileWeights,
        folded: Folded | None = None,
        encoders: Encoders | None = None,
    ) -> None:
        self._graph = graph
        self.encoders = encoders
        self._folded = folded
        self._file = file
        self.step_session = session if folded is None else folded.session
        self.contract = contract
        self.session = session
        self.tokenizer = tokenizer
        self.name = graph.name
        self._alone: Model | None = self if session.threads == 1 else None
        self._lock = threading.Lock()
        self._lowered: Graph | None = None
        self._device_steps: dict[Reduction | None, DeviceStep] = {}
        v = contract.logits.vocab_size
        self.bos_token_id = _number(graph, "decoding.bos", 0, v)
        self.pad_token_id = _number(graph, "decoding.pad", 0, v)
        eos = json_metadata(graph, "decoding.eos", [])
        eos = eos if isinstance(eos, list) else [eos]
        self.eos_token_id = tuple(_checked(graph, "decoding.eos", e, 0, v) for e in eos)
        self.max_new_tokens = _number(graph, "decoding.max_new_tokens", 1, 2**31)

    def single_threaded(self) -> Model:
        """The same model over a session of one intra-op thread, for several workers to share; made once."""
        with self._lock:
            if self._alone is None:
                session = Session(self._graph, providers=self.session.wanted, threads=1)
                folded = self._folded
                if folded is not None:
                    folded = replace(folded, session=Session(folded.graph, providers=self.session.wanted, threads=1))
                self._alone = Model(
                    self._graph, self.contract, session, self.tokenizer, self._file, folded, self.encoders
                )
        return self._alone

    @property
    def on_device(self) -> bool:
        """Is the model stepped on a device with memory of its own?"""
        return self.session.device != "cpu" and self.contract.window is None

    @property
    def can_reduce(self) -> bool:
        """Can the device's step graph choose among the logits?"""
        return can_reduce(self._graph)

    @property
    def reads_chunks_on_device(self) -> bool:
        """Do the recurrent layers read whole sequences on the device?"""
        return self.session.device == "cpu" or not left_to_the_cpu(self._graph, self.contract)

    def device_step(self, reduction: Reduction | None) -> DeviceStep:
        """Sessions for steps on the device with this reduction of the logits; made once.

        Raises:
            ModelError: a layer would run on the CPU, its states copied both ways at every step.
        """
        with self._lock:
            if reduction not in self._device_steps:
                step = start_device_step(self._lower(), self.contract, reduction, self._start)
                self._device_steps[reduction] = step
            return self._device_steps[reduction]

    def placement(self) -> list[NodeRun]:
        """The operators of one step with the provider that runs each, from onnxruntime's profile of a run."""
        if not self.on_device:
            graph = self._graph if self._folded is None else self._folded.graph
            states = {s.input: s.start(1) for s in self.contract.states}
            length = self.contract.window.shown(1) if self.contract.window is not None else 1
            feeds = {**self.contract.feeds(np.zeros((1, length), np.int64)), **states}
        else:
            with self._lock:
                graph = device_graph(self._lower(), self.contract, None)
            feeds = step_feeds(self.contract, 1)
        session = self._start(graph, profile=True)
        session.run(feeds, [self.contract.logits.name, *(s.output for s in self.contract.states)])
        return session.profiled()

    def _lower(self) -> Graph:
        """The graph with its layers written out; compared on the CPU with the graph as it is, where it is kept if it differs."""
        if self._lowered is None:
            plain = plain_steps(self._graph, self.contract).graph
            same = same_step(Session(self._graph, threads=1), Session(plain, threads=1), self.contract)
            self._lowered = plain if same else self._graph
            lost = left_to_the_cpu(self._lowered, self.contract)
            if lost and self.session.device != "cpu":
                raise ModelError(
                    f"{self.name}: the layer {lost[0]} cannot run on the GPU: cuDNN has no such cell, and it cannot be written as "
                    "plain operators (weights that an input decides, or an unknown activation). Pass providers='cpu'"
                )
        return self._lowered

    def _start(self, graph: Graph, **options: bool) -> Session:
        return Session(graph, providers=self.session.wanted, threads=self.session.threads, **options)

    @property
    def weight_bytes(self) -> int:
        """Size of the network's weights."""
        sizes = self._graph.initializers.values()
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in sizes)

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.contract.logits.vocab_size

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn, those of the encoders first; of equal names the first."""
        every = (*(self.encoders.latents if self.encoders is not None else ()), *self.contract.latents)
        return tuple({f.name: f for f in reversed(every)}[name] for name in dict.fromkeys(f.name for f in every))

    @property
    def providers(self) -> list[str]:
        """The onnxruntime providers that the session runs on."""
        return self.session.providers

    def with_weights(self, weights: Mapping[str, npt.ArrayLike]) -> Model:
        """The same model with other values for some of its weights, without reading and proving the file again.

        For a model that is trained while it is decoded: a network of a few hundred thousand weights takes a few
        milliseconds. What comes back equals `load()` of the file with these weights; `self` stays as it is. Encoders
        keep theirs.

        Args:
            weights: arrays by the names that the file gives the initializers of its main graph, each of its initializer's shape and
                dtype; they are copied. Weights that are not named stay as they are. (Torch's dynamo exporter keeps the
                parameters' own names with ``torch.onnx.export(..., dynamo=True, optimize=False)``.)

        Raises:
            OptionError: the file has no such initializer, an array does not fit it, or nothing that is run reads it.
            ModelError: onnxruntime cannot run the graph with them.
        """
        values = self._file.checked(self.name, weights, self._graph)
        graph = self._graph.with_values(values)
        file = self._file.changed(values)
        contract = self.contract
        if file is not self._file:
            contract = file.started(contract)
        folded = None if self._folded is None else fold_embedding(graph, contract)
        return Model(
            graph,
            contract,
            self._start(graph),
            self.tokenizer,
            file,
            None if folded is None else Folded(folded, self._start(folded)),
            self.encoders,
        )

    def describe(self) -> str:
        """Name, special ids and the contract, as a table that a person can read."""
        ids = {"bos": self.bos_token_id, "eos": list(self.eos_token_id) or None, "pad": self.pad_token_id}
        special = ", ".join(f"{name} {value}" for name, value in ids.items() if value is not None) or "no special ids"
        text = "no tokenizer" if self.tokenizer is None else f"tokenizer: {self.tokenizer}"
        parts = [
            f"{self.name}: vocabulary {self.vocab_size}, {text}, {special}, on {self.providers[0]}",
            self.contract.describe(),
            *([] if self.encoders is None else [self.encoders.describe()]),
        ]
        return "\n".join(parts)

    def run(
        self, inputs: Mapping[str, Any] | None = None, *, seed: int | None = None, batch_size: int | None = None
    ) -> dict[str, Array]:
        """One plain run of the graph, encoders left out.

        Args:
            inputs: arrays by input name, [batch, ...] (states as the graph has them): the token's ids [batch] or [batch, time],
                contexts, and whatever else is to be set. Latents that are not among them are drawn, states start as in decoding.
            seed: key of the latents, 0 to 2**64 - 1; row i takes the numbers of sequence i. None takes one from the
                operating system.
            batch_size: rows, where no input tells; default 1.

        Returns:
            Every output of the graph by its name.

        Raises:
            OptionError: an input is unknown, missing or of a wrong number of rows.
            ModelError: the run failed.
        """
        dtypes = {p.name: p.dtype for p in self._graph.inputs} | {
            f.name: f.dtype for f in self.contract.all_auxiliary_inputs
        }
        given = checked_inputs(self.name, dtypes, inputs)
        feeds = feeds_of(self.contract, given, seed, self.name)
        if batch_size is not None:
            count_rows({self.contract.token.name: given[self.contract.token.name]}, batch_size)
        names = [p.name for p in self._graph.outputs]
        return dict(zip(names, self.session.run(feeds, names), strict=True))

    def __repr__(self) -> str:
        return f"<Model {self.describe()}>"

    def __reduce__(self) -> NoReturn:
        """Neither pickled nor copied, in words rather than by the error of one of its parts."""
        raise TypeError(
            f"{self.name}: a Model cannot be pickled or copied, as it holds a running onnxruntime session; threads can share it, "
            "and another process can load() its file, or the one that Model.save() writes"
        )

    def save(self, path: str | Path) -> None:
        """Write the prepared step graph, which loads again without any rewriting.

        Encoders are written beside it, NAME.encoder.onnx (or NAME.encoder1.onnx, NAME.encoder2.onnx, ... where there are
        several) for NAME.onnx, where `load(path)` finds them.
        """
        graph, c = self._graph.copy(), self.contract
        if c.initial_state_graph is not None:
            raise ModelError(
                f"{self.name}: it computes its first states from {c.initial_state_graph.auxiliary_inputs[0].name}, for which a step graph has no place, so it cannot be saved; "
                "keep the file as it was exported"
            )
        for state in c.states:
            shape: list[int | str] = list(state.initial.shape)
            shape[state.batch_axis] = "batch"
            graph.set_shape(state.input, shape)
            graph.set_shape(state.output, shape)
        for aux in c.row_inputs:
            sizes = [f"{aux.name}_{axis}" if size is None else size for axis, size in enumerate(aux.sizes)]
            graph.set_shape(aux.name, ["batch", *(sizes or [1] * (aux.rank - 1))])
        stages = list(self.encoders or ())
        initial = {s.input: s.initial.tolist() for s in c.states if s.initial.any()}
        graph.set_metadata({"decoding.roles": json.dumps(self._roles()), "decoding.initial": json.dumps(initial)})
        for stage, place in zip(stages, encoder_paths(Path(path), len(stages)), strict=True):
            stage.save(place)
        Path(path).write_bytes(graph.serialize())

    def _roles(self) -> dict[str, Any]:
        """The roles of the step graph, as `load(roles=...)` takes them."""
        c = self.contract
        ends = {
            kind: {f.name: f.source for f in c.auxiliary_inputs if f.kind == kind}
            for kind in ("source_mask", "source_length")
        }
        roles: dict[str, Any] = {
            "token": c.token.name,
            "logits": c.logits.name,
            "output": "logits",
            "state": {s.input: s.output for s in c.states},
            "batch_axis": {s.input: s.batch_axis for s in c.states},
            "context": [f.name for f in c.contexts],
            "latent": {f.name: {"distribution": f.draw.distribution, "every": f.draw.every} for f in c.latents},
            **{kind: names for kind, names in ends.items() if names},
            **({"window": c.window.size, "pad": c.window.pad} if c.window else {}),
        }
        if c.attention:
            roles["attention"] = c.attention
        if self.encoders is not None:
            roles["encoder"] = self.encoders.roles()
        return roles


def _number(graph: Graph, key: str, low: int, end: int) -> int | None:
    """A whole number of the file's metadata, None where there is none.

    Raises:
        ModelError: it is something else, or not in range.
    """
    value = json_metadata(graph, key, None)
    return None if value is None else _checked(graph, key, value, low, end)


def _checked(graph: Graph, key: str, value: object, low: int, end: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < end:
        raise ModelError(
            f"{graph.name}: metadata {key!r} is {value!r}; expected a whole number from {low} to {end - 1}"
        )
    return value
