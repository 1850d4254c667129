"""`Guidance`: classifier-free guidance, an ensemble of a model with itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decoding.arguments import ids_below, numbers
from decoding.errors import OptionError, finite_number, shown
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.ensembles.network import Member
from decoding.model.graph.types import Array
from decoding.model.load import load
from decoding.model.model import Model

_WITH, _WITHOUT = "conditional", "unconditional"


class Guidance(Ensemble):
    """A model guided by its condition: the same model runs with its condition and without, and the difference is scaled.

    The score of a token is ``unconditional + scale * (conditional - unconditional)`` over log-probabilities: classifier-free
    guidance (Ho and Salimans 2022; for text Sanchez et al. 2023, Hugging Face's `guidance_scale`). 1 is the model itself, more follows
    the condition more closely, 0 ignores it. `Ensemble` says what a `logprob` and the `score` of a beam are.

    With a `negative_prompt` the run without the condition reads it in place of every prompt, then the same new tokens: the output
    follows its prompt and leaves the other (Hugging Face's `negative_prompt_ids`). It is for models whose condition is the prompt.

    Else the condition is the inputs other than tokens: contexts, and the outputs of an encoder; in a model that has neither, its
    latents. Without its condition the model reads zeros there, or the values of `null`. Guidance is as good as the model is
    without its condition: train it with the condition left out (zeros, or that value) in a tenth or so of the examples.

    Prompts, contexts and latents are given as to the model itself. Prompts may also be a dict, ``{"conditional": prompts,
    "unconditional": prompts}``, in which the second ones stand for this call in the place of the `negative_prompt`.

    Args:
        model: a model that `load()` returned, or what `load()` takes.
        scale: how far to follow the condition, a finite number.
        null: the inputs that are left out in the run without the condition: a list of names, or a dict from names to the arrays that
            stand in their place (of an input's shape without the axis of prompts, or what NumPy broadcasts to it). Default: zeros for all.
            A state that an encoder feeds is an input too. With a `negative_prompt`: nothing is left out.
        negative_prompt: a string or ids, which the run without the condition reads; a model with an encoder has none.

    Attributes:
        scale: as given.
        negative_prompt: its ids; empty without one.

    Raises:
        ModelError: the model cannot be loaded.
        OptionError: the scale is no number, or the model has no condition, or no input of such a name; the negative prompt is no text or ids of the model.
    """

    def __init__(
        self,
        model: Model | str | Path,
        scale: float,
        *,
        null: Mapping[str, npt.ArrayLike] | list[str] | None = None,
        negative_prompt: str | Sequence[int] | None = None,
    ) -> None:
        number = finite_number(scale)
        if number is None:
            raise OptionError(f"Guidance(scale={shown(scale)}): expected a finite number")
        self.scale = number
        guided = model if isinstance(model, Model) else load(model)
        network = guided._network
        self.members = {_WITH: guided}
        self.combine = "logprobs"
        self.weights = {_WITH: number, _WITHOUT: 1 - number}
        self.negative_prompt = () if negative_prompt is None else _negative_ids(guided, negative_prompt)
        self._null = {} if null is None and self.negative_prompt else _null(guided, null)
        self._join(
            f"Guidance({guided.name}, scale={number:g})",
            [
                Member(_WITH, network, number),
                Member(_WITHOUT, network, 1 - number, reads=_WITH, null=self._null, prompt=self.negative_prompt),
            ],
        )

    def describe(self) -> str:
        """The scale, the inputs that are left out, then the model."""
        left_out = ", ".join(
            f"{name} ({'zeros' if value is None else 'a given value'})" for name, value in self._null.items()
        )
        model = self.members[_WITH]
        parts = [f"without its condition the model has {left_out}"] if left_out else []
        if self.negative_prompt:
            text = None if model.tokenizer is None else model.tokenizer.decode(self.negative_prompt)
            parts.append(f"its negative prompt is {shown(list(self.negative_prompt) if text is None else text)}")
        return f"guidance of scale {self.scale:g}; {'; '.join(parts)}\n{model.describe()}"


def _negative_ids(model: Model, given: Any) -> tuple[int, ...]:
    """Return the ids of a negative prompt, after BOS where it is a text."""
    if model._network.encoders is not None:
        raise OptionError(
            f"Guidance(negative_prompt=...): {model.name} has an encoder, whose source is its condition; null={{input: array}} puts another value in its place"
        )
    if isinstance(given, str):
        if model.tokenizer is None:
            raise OptionError(
                f"Guidance(negative_prompt={shown(given)}): {model.name} has no vocabulary; pass ids, or load(..., tokenizer=...)"
            )
        given = [*model._text_start, *model.tokenizer.encode(given)]
    ids = ids_below(model.vocab_size, given, "Guidance(negative_prompt)").tolist() or [model.bos_token_id]
    if ids == [None]:
        raise OptionError(
            f"Guidance(negative_prompt={shown(given)}): it is empty, and {model.name} has no BOS; give at least one token"
        )
    return tuple(ids)


def _null(model: Model, given: Any) -> dict[str, Array | None]:
    """Return the inputs that are left out, with the values in their place; None for zeros."""
    network = model._network
    c = network.contract
    conditions = [aux.name for aux in (*c.contexts, *c.step_contexts)]
    conditions += sorted(set() if network.encoders is None else network.encoders.fed - set(conditions))
    latents = [aux.name for aux in network.contract.latents]
    if given is None:
        given = conditions or latents
        if not given:
            raise OptionError(
                f"Guidance: {model.name} has no condition: no context, no encoder and no latent that its decoder reads; "
                "pass negative_prompt=, which the run without a condition reads in place of the prompt"
            )
    if isinstance(given, str) or not isinstance(given, Mapping | list | tuple):
        raise OptionError(
            f"Guidance(null={shown(given)}): expected a list of input names, or a dict from names to arrays"
        )
    names = [*conditions, *latents]
    if unknown := [name for name in given if name not in names]:
        raise OptionError(
            f"Guidance(null=...): {model.name} has no condition {shown(unknown[0])}; it has {', '.join(names)}"
        )
    if not given:
        raise OptionError(
            f"Guidance(null={shown(given)}): nothing is left out; name at least one of {', '.join(names)}"
        )
    if not isinstance(given, Mapping):
        return dict.fromkeys(given)
    sizes: dict[str, Sequence[int | None]] = {aux.name: aux.sizes for aux in c.all_auxiliary_inputs}
    sizes |= {s.input: (*s.initial.shape[: s.batch_axis], *s.initial.shape[s.batch_axis + 1 :]) for s in c.states}
    dtypes = {aux.name: aux.dtype for aux in c.all_auxiliary_inputs} | {s.input: s.dtype for s in c.states}
    return {name: _value(name, value, sizes[name], dtypes[name]) for name, value in given.items()}


def _value(name: str, value: Any, sizes: Sequence[int | None], dtype: np.dtype[Any]) -> Array:
    """Return what stands in the place of an input, which NumPy broadcasts to the input's sizes, whatever the free ones are."""
    array = numbers(f"null[{name!r}]", value, dtype)
    own = sizes[len(sizes) - array.ndim :]
    if array.ndim > len(sizes) or any(n not in (1, size) for n, size in zip(array.shape, own, strict=True)):
        shown_sizes = ", ".join("any" if size is None else str(size) for size in sizes)
        raise OptionError(
            f"null[{name!r}] has shape {list(array.shape)}: expected [{shown_sizes}] or what NumPy broadcasts to it, with 1 for any"
        )
    return array
