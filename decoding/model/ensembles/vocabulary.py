"""Checks that models have one vocabulary: the same token for each id, and the same special ids."""

from __future__ import annotations

from collections.abc import Mapping

from decoding.errors import ModelError
from decoding.model.model import Model
from decoding.tokenizers import Tokenizer, token_strings


def check_vocabularies(members: Mapping[str, Model]) -> None:
    """Refuse models whose ids do not mean the same.

    Ids are compared by their tokens where both models have a tokenizer, else by their number alone. A special id that only
    some of the models declare is that of all.

    Raises:
        ModelError: names the first id whose token differs, or the special id.
    """
    (first, model), *others = members.items()
    for name, other in others:
        pair = f"{first} ({model.name}) and {name} ({other.name})"
        if model.vocab_size != other.vocab_size:
            raise ModelError(
                f"Ensemble: {pair} have vocabularies of {model.vocab_size} and {other.vocab_size} tokens; "
                "the members of an ensemble choose among the same tokens: train or export them with one vocabulary"
            )
    _check_tokens({name: model for name, model in members.items() if model.tokenizer is not None})
    for kind in ("bos_token_id", "eos_token_id", "pad_token_id", "_text_start"):
        declared = {name: getattr(model, kind) for name, model in members.items()}
        declared = {name: value for name, value in declared.items() if value is not None and value != ()}
        (first, wanted), *rest = list(declared.items()) or [("", None)]
        for name, value in rest:
            if _as_set(value) != _as_set(wanted):
                what = "ids before a text" if kind == "_text_start" else kind
                raise ModelError(
                    f"Ensemble: {what} is {_shown(wanted)} in {first} and {_shown(value)} in {name}; "
                    "pass the same to load() for both"
                )


def _check_tokens(members: Mapping[str, Model]) -> None:
    if len(members) < 2:
        return
    (first, model), *others = members.items()
    for name, other in others:
        assert model.tokenizer is not None
        assert other.tokenizer is not None
        for index, (mine, its) in enumerate(
            zip(*_tokens(model.tokenizer, other.tokenizer, model.vocab_size), strict=True)
        ):
            if mine != its:
                raise ModelError(
                    f"Ensemble: id {index} is {mine!r} in {first} ({model.name}) and {its!r} in {name} ({other.name}); "
                    "the members of an ensemble choose among the same tokens: train or export them with one vocabulary"
                )


def _tokens(mine: Tokenizer, its: Tokenizer, size: int) -> tuple[list[str | None], list[str | None]]:
    """Return the token of each id in two tokenizers: as they write it where they are of one kind, else its text."""
    if type(mine) is type(its):
        return token_strings(mine, size), token_strings(its, size)
    return [mine.decode([i]) for i in range(size)], [its.decode([i]) for i in range(size)]


def _as_set(value: object) -> object:
    """Return several ids without their order; one id as it is."""
    return set(value) if isinstance(value, tuple) else value


def _shown(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
