"""`Discriminator`: an ONNX file that scores whole sequences of ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from decoding.arguments import numbers
from decoding.errors import ModelError, OptionError, shown, whole_number
from decoding.model.graph.graph import ModelFile
from decoding.model.graph.types import Array, Port, listing
from decoding.model.runtime.session import Session
from decoding.model.runtime.versions import read_graph


class Discriminator:
    """Scores whole sequences, as a reward for `rollout()`: called with ids [N, T] it returns scores float64 [N].

    Args:
        model: path of an ONNX file, its bytes or an onnx.ModelProto.
        token: the input that takes ids [N, T], of any number type; it may be left out where there is one input.
        score: the output with the scores, [N] or [N, 1], or one for each class [N, classes]; it may be left out where there is one.
        label: which class's score to take, where the output has several.
        providers: onnxruntime's providers, or "cpu" and "cuda"; default the CPU.
        threads: intra-op threads of onnxruntime; None leaves the choice to it.

    Raises:
        ModelError: the file cannot be used, or the inputs and outputs do not tell which to take.
        OptionError: `token` or `score` is not one of its ports, or `label` is not a whole number.
    """

    def __init__(
        self,
        model: ModelFile,
        *,
        token: str | None = None,
        score: str | None = None,
        label: int | None = None,
        providers: Any = None,
        threads: int | None = None,
    ) -> None:
        graph = read_graph(model)
        self.name = graph.name
        self._token = _the_one(graph.name, "token", "input", graph.inputs, token)
        self._score = _the_one(graph.name, "score", "output", graph.outputs, score)
        self._label = None if label is None else whole_number("label", label, 0)
        graph.keep_outputs([self._score.name])
        if others := [p for p in graph.inputs if p.name != self._token.name]:
            raise ModelError(
                f"{graph.name}: besides the token {self._token.name} it needs {listing(others)}; export it with ids alone, or pass a function as the reward"
            )
        self._session = Session(graph, providers=providers, threads=threads)

    def __call__(self, ids: Array) -> Array:
        """Scores float64 [N] of ids [N, T].

        Raises:
            OptionError: they are no array of numbers [N, T].
            ModelError: the file does not run with them, or returns something else than scores.
        """
        given = numbers("ids", ids, self._token.dtype)
        if given.ndim != 2:
            raise OptionError(f"ids: shape {list(given.shape)}: expected [N, T], one sequence in each row")
        (scores,) = self._session.run({self._token.name: given}, [self._score.name])
        if scores.ndim == 2 and scores.shape[1] > 1:
            return self._of_label(scores)
        if scores.size != len(given) or scores.ndim not in (1, 2):
            raise ModelError(
                f"{self.name}: the output {self._score.name} has shape {list(scores.shape)} for {len(given)} sequences; "
                "expected [N], [N, 1] or [N, classes]"
            )
        return scores.reshape(len(given)).astype(np.float64)

    def _of_label(self, scores: Array) -> Array:
        if self._label is None or self._label >= scores.shape[1]:
            raise ModelError(
                f"{self.name}: the output {self._score.name} has {scores.shape[1]} classes; say whose score is the reward "
                f"with Discriminator(..., label=...), from 0 to {scores.shape[1] - 1}"
            )
        return scores[:, self._label].astype(np.float64)


def _the_one(model: str, option: str, kind: str, ports: list[Port], name: str | None) -> Port:
    """The port called `name`, or the only one where that is None.

    Raises:
        OptionError: there is no such port.
        ModelError: there are several.
    """
    if name is not None:
        if not isinstance(name, str):
            raise OptionError(f"{option}={shown(name)}: expected the name of an {kind}; {model} has {listing(ports)}")
        found = [p for p in ports if p.name == name]
        if not found:
            raise OptionError(f"{option}={name!r}: {model} has no such {kind}; it has {listing(ports)}")
        return found[0]
    if len(ports) != 1:
        raise ModelError(
            f"{model}: which {kind} is the {option}? It has {listing(ports)}; pass Discriminator(..., {option}=name)"
        )
    return ports[0]
