"""`Ensemble`: several models that choose each token together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy.typing as npt

from decoding.errors import OptionError, finite_number, shown
from decoding.model.ensembles.network import Combine, EnsembleNetwork, Member
from decoding.model.ensembles.vocabulary import check_vocabularies
from decoding.model.graph.types import Array
from decoding.model.load import load
from decoding.model.model import Model

Members = Sequence[Model | str | Path] | Mapping[str, Model | str | Path]
Weights = Sequence[float] | Mapping[str, float]


class Ensemble(Model):
    """Models that choose each token together. It stands wherever a `Model` does.

    With ``combine="logprobs"`` the score of a token is the weighted sum of its log-probabilities under the members: a geometric
    mean, and with weights such as [1, 0.3] the shallow fusion of a translator with a language model (Gülçehre et al. 2015);
    a negative weight subtracts a model. With ``combine="probs"`` it is the logarithm of the weighted mean of the members'
    probabilities, as in the ensembles of fairseq.

    `Greedy`, `Sample`, `TopN`, stochastic beam search, `score()` and every `logprob` use the distribution that is
    proportional to exp(score): the renormalised combination. `Beam` adds up the scores themselves, as is usual in shallow
    fusion: the `score` of its hypotheses is the weighted sum of the members' log-probabilities. With "probs" both are the same.

    A token that a member forbids (log-probability -inf, and a weight other than 0) is forbidden.

    Members may differ in architecture, encoders, states and executor, not in vocabulary: ids are compared token by token where two
    models have tokenizers, else by their number; special ids that both declare must be equal.

    Every member reads the same tokens. A member with an encoder reads the prompts as its sources; one without reads the `prefix`
    alone where another has an encoder, else the prompts. Prompts may be a dict by the members' names, where sources differ. An
    input (of `context=`, `latents=`, `step_inputs=`) belongs to every member that has one of its name, and "NAME.input" to
    one alone. Latents are drawn for each member as if it were alone.

    Args:
        members: models that `load()` returned, or what `load()` takes: a list, whose members are called member0, member1 and so
            on, or a dict by name. A member may be an ensemble or a `Guidance`.
        weights: a number for each member, which need not sum to 1; default: the mean of all. With "probs" they are at least 0.
        combine: "logprobs" or "probs".

    Attributes:
        members: the models by their names.
        weights: their weights, by name.
        combine: as given.

    Raises:
        ModelError: a member cannot be loaded, or the vocabularies differ.
        OptionError: an argument is wrong.

    Examples:
        >>> import decoding
        >>> shakespeare = decoding.load("shakespeare")
        >>> ensemble = decoding.Ensemble([shakespeare, shakespeare], weights=[0.7, 0.3])
        >>> decoding.decode(ensemble, "To be", max_new_tokens=12).tokens == decoding.decode(shakespeare, "To be", max_new_tokens=12).tokens
        True
    """

    def __init__(self, members: Members, weights: Weights | None = None, combine: Combine = "logprobs") -> None:
        self.members = _loaded(members)
        self.combine = _combine(combine)
        self.weights = _weights(weights, list(self.members), self.combine)
        self._check_names()
        self._join(
            f"Ensemble({', '.join(model.name for model in self.members.values())})",
            [Member(name, model._network, self.weights[name]) for name, model in self.members.items()],
        )

    def _join(self, name: str, members: Sequence[Member]) -> None:
        """Set what a `Model` has."""
        models = list(self.members.values())
        check_vocabularies(self.members)
        self.name = name
        self._network: EnsembleNetwork = EnsembleNetwork(name, members, self.combine)
        self.tokenizer = _first(model.tokenizer for model in models)
        self.bos_token_id = _first(model.bos_token_id for model in models)
        self.pad_token_id = _first(model.pad_token_id for model in models)
        self.eos_token_id = next((model.eos_token_id for model in models if model.eos_token_id), ())
        self._text_start = next((model._text_start for model in models if model._text_start), ())
        self.max_new_tokens = min((m.max_new_tokens for m in models if m.max_new_tokens is not None), default=None)

    @property
    def executor(self) -> str:
        """What runs the members: "native", "onnxruntime", or both with a comma between."""
        return ", ".join(sorted({model.executor for model in self.members.values()}))

    @property
    def providers(self) -> list[str]:
        """Names of the onnxruntime providers of all members."""
        return list(dict.fromkeys(name for model in self.members.values() for name in model.providers))

    @property
    def weight_bytes(self) -> int:
        """Size of the weights of all members in bytes."""
        return self._network.weight_bytes

    def describe(self) -> str:
        """How the members are combined, then each of them as `Model.describe()` shows it."""
        how = {"logprobs": "log-probabilities", "probs": "probabilities"}[self.combine]
        lines = [
            f"ensemble of {len(self.members)}: the weighted {'sum' if self.combine == 'logprobs' else 'mean'} of {how}"
        ]
        for name, model in self.members.items():
            lines.append(f"{name}, weight {self.weights[name]:g}:")
            lines += [f"  {line}" for line in model.describe().splitlines()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    def run(
        self, inputs: Mapping[str, Any] | None = None, *, seed: int | None = None, batch_size: int | None = None
    ) -> dict[str, Array]:
        """Raise an OptionError: an ensemble has no graph.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"{self.name}: an ensemble has no graph; call run() of a member")

    def with_weights(self, weights: Mapping[str, npt.ArrayLike]) -> NoReturn:
        """Refuse: the weights are those of the members.

        Raises:
            OptionError: always; it says what to do.
        """
        raise OptionError(
            f"{self.name}: the weights of networks are those of the members; call with_weights() on a member and make an Ensemble of the results"
        )

    def save(self, path: str | Path) -> NoReturn:
        """Raise an OptionError: the members are separate files.

        Raises:
            OptionError: always; it says what to do.
        """
        raise OptionError(
            f"{self.name}: an ensemble is no file; save() each of its members, and make an Ensemble of them again"
        )

    def _readers(self) -> dict[str, Model]:
        """Return the members that have inputs of their own, by name."""
        return self.members

    def _check_names(self) -> None:
        for name, model in self.members.items():
            encoders = model._network.encoders
            inputs = set() if encoders is None or isinstance(model, Ensemble) else set(encoders.sources)
            if taken := inputs & self.members.keys():
                raise OptionError(
                    f"Ensemble: {sorted(taken)[0]!r} is an input of {name}'s encoder, and the name of a member; call that member something else"
                )


def _loaded(members: Any) -> dict[str, Model]:
    """Return the members by name, loaded where a path stands for one."""
    if isinstance(members, Mapping):
        named = dict(members)
    elif isinstance(members, Sequence) and not isinstance(members, str | bytes):
        named = {f"member{number}": one for number, one in enumerate(members)}
    else:
        raise OptionError(f"Ensemble({shown(members)}): expected a list of models, or a dict of models by name")
    if not named:
        raise OptionError("Ensemble: it has no members; pass at least one model")
    for name in named:
        if not isinstance(name, str) or not name.isidentifier():
            raise OptionError(
                f"Ensemble: {shown(name)} is no name of a member; expected letters, digits and underscores"
            )
    return {name: one if isinstance(one, Model) else load(one) for name, one in named.items()}


def _combine(combine: Any) -> Combine:
    if combine not in ("logprobs", "probs"):
        raise OptionError(f"combine={shown(combine)}: expected 'logprobs' or 'probs'")
    found: Combine = combine
    return found


def _weights(weights: Any, names: Sequence[str], combine: Combine) -> dict[str, float]:
    """Return the weight of each member."""
    if weights is None:
        return dict.fromkeys(names, 1 / len(names))
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise OptionError(
                f"weights: they are for {', '.join(map(str, weights))}; expected one for each of {', '.join(names)}"
            )
        weights = [weights[name] for name in names]
    if isinstance(weights, str) or not hasattr(weights, "__len__") or len(weights) != len(names):
        count = len(weights) if hasattr(weights, "__len__") and not isinstance(weights, str) else shown(weights)
        raise OptionError(f"weights: found {count}; expected {len(names)} numbers, one for each member")
    found: dict[str, float] = {}
    for name, given in zip(names, weights, strict=True):
        number = finite_number(given)
        if number is None:
            raise OptionError(f"weights: {shown(given)} for {name}; expected a finite number")
        if combine == "probs" and number < 0:
            raise OptionError(
                f"weights: {number} for {name}; with combine='probs' a weight is at least 0; 'logprobs' subtracts"
            )
        found[name] = number
    if not any(found.values()):
        raise OptionError("weights: all are 0, so every token would be equally likely; pass at least one that is not 0")
    return found


def _first(values: Any) -> Any:
    """Return the first value that is not None; None where there is none."""
    return next((value for value in values if value is not None), None)
