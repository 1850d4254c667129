"""`Model`: a prepared step graph with its session and its special ids."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy.typing as npt

from decoding.errors import ModelError
from decoding.model.contract import Contract
from decoding.model.folding import Folded, fold_embedding
from decoding.model.graph import Graph
from decoding.model.roles import json_metadata
from decoding.model.session import Session
from decoding.model.weights import FileWeights
from decoding.text import Tokenizer


class Model:
    """A prepared step graph with its session. Made by `load()`; safe to use from several threads.

    Attributes:
        contract: roles of every input and output.
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
    ) -> None:
        self._graph = graph
        self._folded = folded
        self._file = file
        self.step_session = session if folded is None else folded.session
        self.contract = contract
        self.session = session
        self.tokenizer = tokenizer
        self.name = graph.name
        self._alone: Model | None = self if session.threads == 1 else None
        self._lock = threading.Lock()
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
                session = Session(self._graph, providers=self.providers, threads=1)
                folded = self._folded
                if folded is not None:
                    folded = replace(folded, session=Session(folded.graph, providers=self.providers, threads=1))
                self._alone = Model(self._graph, self.contract, session, self.tokenizer, self._file, folded)
        return self._alone

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self.contract.logits.vocab_size

    @property
    def providers(self) -> list[str]:
        """The onnxruntime providers that the session runs on."""
        return self.session.providers

    def with_weights(self, weights: Mapping[str, npt.ArrayLike]) -> Model:
        """The same model with other values for some of its weights, without reading and proving the file again.

        For a model that is trained while it is decoded: a network of a few hundred thousand weights takes a few
        milliseconds. What comes back equals `load()` of the file with these weights; `self` stays as it is.

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
            contract = replace(contract, states=file.started(contract.states))

        def start(graph: Graph) -> Session:
            return Session(graph, providers=self.providers, threads=self.session.threads)

        folded = None if self._folded is None else fold_embedding(graph, contract)
        return Model(
            graph,
            contract,
            start(graph),
            self.tokenizer,
            file,
            None if folded is None else Folded(folded, start(folded)),
        )

    def describe(self) -> str:
        """Name, special ids and the contract, as a table that a person can read."""
        ids = {"bos": self.bos_token_id, "eos": list(self.eos_token_id) or None, "pad": self.pad_token_id}
        special = ", ".join(f"{name} {value}" for name, value in ids.items() if value is not None) or "no special ids"
        text = "no tokenizer" if self.tokenizer is None else f"tokenizer: {self.tokenizer}"
        return f"{self.name}: vocabulary {self.vocab_size}, {text}, {special}, on {self.providers[0]}\n{self.contract.describe()}"

    def __repr__(self) -> str:
        return f"<Model {self.describe()}>"

    def __reduce__(self) -> NoReturn:
        """Neither pickled nor copied, in words rather than by the error of one of its parts."""
        raise TypeError(
            f"{self.name}: a Model cannot be pickled or copied, as it holds a running onnxruntime session; threads can share it, "
            "and another process can load() its file, or the one that Model.save() writes"
        )

    def save(self, path: str | Path) -> None:
        """Write the prepared step graph, which loads again without any rewriting."""
        graph, c = self._graph.copy(), self.contract
        for state in c.states:
            shape: list[int | str] = list(state.initial.shape)
            shape[state.batch_axis] = "batch"
            graph.set_shape(state.input, shape)
            graph.set_shape(state.output, shape)
        for fill in c.contexts:
            graph.set_shape(fill.name, ["batch", *fill.sizes])
        roles = {
            "token": c.token.name,
            "logits": c.logits.name,
            "output": "logits",
            "state": {s.input: s.output for s in c.states},
            "batch_axis": {s.input: s.batch_axis for s in c.states},
            "context": [f.name for f in c.contexts],
            **({"attention": c.attention} if c.attention else {}),
            **({"window": c.window.size, "pad": c.window.pad} if c.window else {}),
        }
        initial = {s.input: s.initial.tolist() for s in c.states if s.initial.any()}
        graph.set_metadata({"decoding.roles": json.dumps(roles), "decoding.initial": json.dumps(initial)})
        Path(path).write_bytes(graph.serialize())


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
