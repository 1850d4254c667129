"""`Model`: a step program with its tokenizer, its special ids and its encoders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy.typing as npt

from decoding.errors import ModelError, OptionError, shown
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.program import FoldedStep, StepProgram
from decoding.model.encoders.chain import Encoders
from decoding.model.graph.graph import Graph
from decoding.model.graph.history import PassRecord
from decoding.model.graph.types import Array
from decoding.model.native.step import native_session
from decoding.model.network import Network
from decoding.model.passes.fold_embedding import fold_embedding
from decoding.model.roles.given import json_metadata
from decoding.model.roles.text import text_edges
from decoding.model.save import save_model
from decoding.model.single_run import checked_inputs, count_rows, feeds_of
from decoding.model.weights import FileWeights
from decoding.tokenizers import Tokenizer


class Model:
    """A network that can be stepped. Made by `load()`; safe to use from several threads.

    Attributes:
        name: the file's path, or what it was loaded from.
        tokenizer: turns text into ids and back, or None.
        bos_token_id, pad_token_id: special ids, or None.
        eos_token_id: ids that end a sequence; there may be none.
        max_new_tokens: the longest output that the file asks for, in tokens, or None.
    """

    def __init__(
        self, program: StepProgram, tokenizer: Tokenizer | None, file: FileWeights, encoders: Encoders | None = None
    ) -> None:
        self._network, self._graph, self._file = Network(program, encoders), program.graph, file
        self.name = program.graph.name
        self.tokenizer = tokenizer
        graph, vocab_size = program.graph, program.contract.logits.vocab_size
        self.bos_token_id = _number(graph, "decoding.bos", 0, vocab_size)
        self.pad_token_id = _number(graph, "decoding.pad", 0, vocab_size)
        eos = json_metadata(graph, "decoding.eos", [])
        eos = eos if isinstance(eos, list) else [eos]
        self.eos_token_id = tuple(_checked(graph, "decoding.eos", e, 0, vocab_size) for e in eos)
        # The ids before a text prompt: BOS where there is one, or those that the tokenizer itself puts there.
        self._text_start = text_edges(graph)[0]
        self.max_new_tokens = _number(graph, "decoding.max_new_tokens", 1, 2**31)

    @property
    def vocab_size(self) -> int:
        """Number of logits, one for each token of the vocabulary."""
        return self._network.vocab_size

    @property
    def latents(self) -> tuple[AuxiliaryInput, ...]:
        """The inputs that are drawn: the encoders' first, and one of each name."""
        return self._network.latents

    @property
    def fingerprint(self) -> str:
        """A number of the graph and its weights, as text: states of a model fit those with the same one."""
        return self._network.fingerprint

    @property
    def passes(self) -> tuple[PassRecord, ...]:
        """What each pass of `load()` did to the file's graph on the way to the graph of single steps."""
        return self._network.program.step_graph.history

    @property
    def executor(self) -> str:
        """What decodes: "native" or "onnxruntime"."""
        return "native" if self._network.is_native else "onnxruntime"

    @property
    def providers(self) -> list[str]:
        """Names of the onnxruntime providers that the session runs on, the preferred one first."""
        return self._network.session.providers

    @property
    def weight_bytes(self) -> int:
        """Size of the network's weights in bytes."""
        return self._graph.weight_bytes

    def with_weights(self, weights: Mapping[str, npt.ArrayLike]) -> Model:
        """The same model with other values for some of its weights, without reading and verifying the file again.

        For a model that is trained while it is decoded: a network of a few hundred thousand weights takes a few
        milliseconds. The new model equals `load()` of the file with these weights; this one stays as it is. Encoders
        keep theirs.

        Args:
            weights: arrays by the names of the initializers of the file's main graph, each of its initializer's shape and
                dtype; they are copied. Other weights stay as they are. (Torch's dynamo exporter keeps the
                parameters' own names with ``torch.onnx.export(..., dynamo=True, optimize=False)``.)

        Raises:
            OptionError: the file has no such initializer, an array does not fit it, or nothing that is run reads it.
            ModelError: onnxruntime cannot run the graph with them.
        """
        values = self._file.checked(self.name, weights, self._graph)
        old = self._network.program
        graph, contract, file = self._graph.with_values(values), old.contract, self._file.changed(values)
        if file is not self._file:
            contract = file.with_initial_states(contract)
        native = old.native and native_session(graph, contract, int8=False)
        # With a native step only run() uses the session, which a trainer may never call.
        session = old.session_over(graph, later=native is not None)
        program = replace(old, graph=graph, session=session, contract=contract, native=native)
        if program.folded is not None:
            folded = fold_embedding(graph, contract)
            program = replace(program, folded=None if folded is None else FoldedStep(folded, old.session_over(folded)))
        return Model(program, self.tokenizer, file, self._network.encoders)

    def describe(self) -> str:
        """Name, vocabulary, special ids, provider and executor, then the contract and the encoders, as a table to read."""
        ids = {"bos": self.bos_token_id, "eos": list(self.eos_token_id) or None, "pad": self.pad_token_id}
        if self._text_start != (() if self.bos_token_id is None else (self.bos_token_id,)):
            ids["text start"] = list(self._text_start)
        special = ", ".join(f"{name} {value}" for name, value in ids.items() if value is not None) or "no special ids"
        text = "no tokenizer" if self.tokenizer is None else f"tokenizer: {self.tokenizer}"
        runs_on = "the native step" if self._network.is_native else self.providers[0]
        encoders = self._network.encoders
        parts = [
            f"{self.name}: vocabulary {self.vocab_size}, {text}, {special}, on {runs_on}",
            self._network.contract.describe(),
            *([] if encoders is None else [encoders.describe()]),
        ]
        return "\n".join(parts)

    def run(
        self, inputs: Mapping[str, Any] | None = None, *, seed: int | None = None, batch_size: int | None = None
    ) -> dict[str, Array]:
        """Run the graph once, without the encoders.

        Args:
            inputs: arrays by input name, [batch, ...] (states in the graph's own shape): the token's ids [batch] or
                [batch, time], the contexts, and any other input. Latents that are not given are drawn; states that are not
                given are the initial ones.
            seed: key of the latents, 0 to 2**64 - 1; row i takes the numbers of sequence i. None takes one from the
                operating system.
            batch_size: number of rows, where no input tells; default 1.

        Returns:
            Every output of the graph by its name: logits float32 [batch, time, vocabulary] in the layout that
            `describe()` shows, and the next value of each state.

        Raises:
            OptionError: an input is unknown, missing or of a wrong number of rows.
            ModelError: the run failed.
        """
        contract = self._network.contract
        dtypes = {p.name: p.dtype for p in self._graph.inputs}
        dtypes |= {f.name: f.dtype for f in contract.all_auxiliary_inputs}
        given = checked_inputs(self.name, dtypes, inputs)
        feeds = feeds_of(contract, given, seed, self.name)
        if batch_size is not None:
            count_rows({contract.token.name: given[contract.token.name]}, batch_size)
        names = [p.name for p in self._graph.outputs]
        return dict(zip(names, self._network.session.run(feeds, names), strict=True))

    def __repr__(self) -> str:
        return f"<Model {self.describe()}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        raise TypeError(
            f"{self.name}: a Model cannot be pickled or copied, as it holds a running onnxruntime session; threads can share it, "
            "and another process can load() its file, or the one that Model.save() writes"
        )

    def save(self, path: str | Path) -> None:
        """Write the step graph with its tokenizer and special ids, which loads again without any rewriting.

        Encoders are written to the same folder, NAME.encoder.onnx (or NAME.encoder1.onnx, NAME.encoder2.onnx, ... where there are
        several) for NAME.onnx, where `load(path)` finds them.

        Raises:
            OptionError: `path` is no path, or the tokenizer is an object that cannot be written into a file.
            ModelError: the graph computes its initial states from a context or a latent, or a file cannot be written.
        """
        if not isinstance(path, str | os.PathLike):
            raise OptionError(f"path={shown(path)}: expected the path of the file to write")
        save_model(self._network.program, self._network.encoders, Path(path), self.tokenizer)


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
