"""Export models of Keras 3, on TensorFlow or on torch."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.errors import ModelError, OptionError, shown
from decoding.export.written import ROWS, Annotations, Ids, annotate, beside, check_same, logprobs_of, random_ids
from decoding.model.load import load
from decoding.model.model import Model

# The size of what may have any size, in an example.
_EXAMPLE_SIZE = 6


def keras_model(model: Any, path: str | Path, **annotations: Any) -> Model:
    """Export a model of Keras 3, and return it loaded, as shown to equal the model.

    Its first input takes the tokens: ids ``keras.Input((None,), dtype="int32")``, or one-hot ``keras.Input((None, V))``. Its first
    output gives logits or probabilities, [batch, time, V] or of the last token alone, [batch, V]. Where it has as many more outputs as more
    inputs, these are states, as in Keras' decoder of sequences (`return_state=True`); other inputs are contexts. A subclassed model is
    called on ids [batch, time], and the first of its outputs counts.

    On TensorFlow (``KERAS_BACKEND=tensorflow``, with tf2onnx) layers of recurrent cells are exported as loops. On torch Keras traces them for a
    fixed number of tokens, so that only a step with states as inputs and outputs, ``keras.Input((1,))``, can be decoded.

    Args:
        model: a functional, `Sequential` or subclassed model; not stateful.
        path: the file to write; it appears only if everything went well.
        annotations: metadata of the file: `vocab` (or `tokenizer`), `bos_token_id`, `eos_token_id`, `pad_token_id`,
            `max_new_tokens` and `roles`, as `load()` takes them.

    Returns:
        The loaded model. It gives the model's scores on random tokens, within 0.001 of each log-probability.

    Raises:
        OptionError: an argument is wrong, or Keras is not installed.
        ModelError: the model cannot be exported, or the file gives different scores; the message says what to change.

    Example::

        model = decoding.export.keras_model(keras_lm, "char_rnn.onnx", vocab=vocabulary)
    """
    keras, said = _keras(), Annotations.of(**annotations)
    if not isinstance(model, keras.Model):
        raise OptionError(f"model={shown(model)}: expected a keras.Model")
    name, model = model.name, _functional(keras, model)
    _check(keras, model)
    network = _Network(keras, model)
    one, two = (network.scores(random_ids(2)) for _ in range(2))
    if not np.allclose(one, two, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ModelError(
            f"{name}: two runs on the same tokens give different scores: it draws random numbers (a layer that is called with training=True?), or keeps "
            "something between calls; make it depend on its inputs alone"
        )
    vocab = one.shape[-1]
    entries, ids = said.metadata(vocab), random_ids(network.count_of_ids(vocab))
    expected = logprobs_of(name, network.scores(ids))
    with beside(path) as file:
        _write(keras, model, file)
        annotate(file, entries)
        try:
            check_same(name, load(file), ids, expected, given=network.contexts)
        except ModelError as error:
            raise ModelError(f"{error}{_advice(keras)}") from error
    return load(path)


class _Network:
    """A model of Keras as a function from ids to scores."""

    def __init__(self, keras: Any, model: Any) -> None:
        self._keras, self._model = keras, model
        tokens, *others = model.inputs
        self._one_hot = tokens.shape[-1] if len(tokens.shape) == 3 else None
        self._dtype = str(tokens.dtype)
        draw = np.random.default_rng(1)
        stateful = len(others) > 0 and len(model.outputs) == 1 + len(others)
        shapes = {one.name: [d or _EXAMPLE_SIZE for d in one.shape[1:]] for one in others}
        self._states = [np.zeros((ROWS, *shape), np.float32) for shape in shapes.values()] if stateful else []
        self.contexts: Mapping[str, npt.NDArray[Any]] = (
            {} if stateful else {key: draw.normal(size=(ROWS, *shape)).astype(np.float32) for key, shape in shapes.items()}
        )  # fmt: skip

    def count_of_ids(self, vocab: int) -> int:
        """Return below which number ids are."""
        tables = [
            layer.input_dim
            for layer in self._model._flatten_layers()
            if isinstance(layer, self._keras.layers.Embedding)
        ]
        return min(
            [vocab if self._one_hot is None else int(self._one_hot), *(int(rows) for rows in tables if rows > 1)]
        )

    def scores(self, ids: Ids) -> npt.NDArray[Any]:
        """Return the scores [rows, TOKENS, V] after each token of ids [rows, TOKENS].

        Raises:
            ModelError: the model returns something else.
        """
        if self._states:
            found, states = [], list(self._states)
            for t in range(ids.shape[1]):
                step, *states = self._run(ids[:, t : t + 1], states)
                found.append(step.reshape(len(ids), -1))
            return np.stack(found, axis=1)
        first, *_ = self._run(ids, list(self.contexts.values()))
        if first.ndim == 3 and first.shape[:2] == ids.shape:
            return first
        if first.ndim == 2 and len(first) == len(ids):
            contexts = list(self.contexts.values())
            return np.stack([self._run(ids[:, : t + 1], contexts)[0] for t in range(ids.shape[1])], axis=1)
        raise ModelError(
            f"{self._model.name}: its first output is {first.dtype} {list(first.shape)}; expected scores [batch, time, vocabulary], here {[*ids.shape, 'V']}, "
            "or those after the last token, [batch, V]"
        )

    def _run(self, ids: Ids, others: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        tokens = ids.astype(self._dtype) if self._one_hot is None else np.eye(self._one_hot, dtype=self._dtype)[ids]
        outputs = self._model([tokens, *others] if others else tokens, training=False)
        flat = self._keras.tree.flatten(outputs)
        return [np.asarray(self._keras.ops.convert_to_numpy(value)) for value in flat]


def _keras() -> Any:
    """Return Keras.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return import_module("keras")
    except ImportError as error:
        raise OptionError("decoding.export.keras_model needs Keras 3; pip install keras tensorflow tf2onnx") from error


def _functional(keras: Any, model: Any) -> Any:
    """Return a model whose inputs are known: itself, or a functional model over one that was subclassed, which is given ids.

    Raises:
        OptionError: it cannot be called on ids alone.
    """
    if getattr(model, "inputs", None):
        return model
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    try:
        outputs = keras.tree.flatten(model(tokens, training=False) if _takes_training(model) else model(tokens))
    except Exception as error:  # of the caller's own code
        first = str(error).splitlines()[:1] or [""]
        raise OptionError(
            f"{model.name}: its call() fails on ids [batch, time] alone: {type(error).__name__}: {first[0][:200]}; make a functional model of its layers, "
            "keras.Model(inputs, outputs)"
        ) from error
    return keras.Model(tokens, outputs[0], name=model.name)


def _takes_training(model: Any) -> bool:
    return "training" in inspect.signature(model.call).parameters


def _check(keras: Any, model: Any) -> None:
    """Check that a model can be decoded, as far as its layers tell.

    Raises:
        OptionError: it is stateful, or takes a fixed number of tokens.
    """
    if stateful := [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", False)]:
        raise OptionError(f"{model.name}: the layer {stateful[0]} is stateful: ONNX has no state between runs; make the model with stateful=False and set_weights()")  # fmt: skip
    tokens = model.inputs[0]
    steps = tokens.shape[1] if len(tokens.shape) > 1 else 0
    if len(tokens.shape) not in (2, 3) or (steps not in (None, 1)):
        raise OptionError(
            f"{model.name}: its first input {tokens.name} is {list(tokens.shape)}; expected ids [batch, time] or one-hot [batch, time, V] for any number "
            "of tokens: make the same model on keras.Input((None,)) and set_weights()"
        )


def _write(keras: Any, model: Any, file: Path) -> None:
    """Export the model to a file.

    Raises:
        ModelError: Keras fails; the message is its own.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
            warnings.simplefilter("ignore")
            model.export(str(file), format="onnx", verbose=False)
    except Exception as error:  # Keras and tf2onnx raise errors of many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise ModelError(f"{model.name}: Keras cannot export it: {type(error).__name__}: {lines[0][:300]}{_advice(keras)}") from error  # fmt: skip


def _advice(keras: Any) -> str:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return ""
    return f". Keras on {backend} traces recurrent layers for a fixed number of tokens; set KERAS_BACKEND=tensorflow (with tf2onnx) and load the same weights"
