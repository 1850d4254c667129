"""Roles that are given: by the caller in `roles=`, or by the file's metadata.

Both are checked here, by one table, before anything reads them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from decoding.errors import DecodingError, ModelError, OptionError, shown
from decoding.model.graph.graph import Graph
from decoding.model.graph.types import Array

# The largest rank of a tensor, and how deep lists and dicts may nest in metadata.
_RANK, _DEPTH = 32, 40
# Tokens of the longest window. At every step a graph runs over all of them.
_WINDOW = 2**20


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(map(_text, value)))


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _dict_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(_text(k) and fits(v) for k, v in value.items())


def _axis(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < _RANK


def _draw(value: Any) -> bool:
    return _text(value) or _dict_of(lambda part: part is None or isinstance(part, str | int | float))(value)


def _texts_or_none(value: Any) -> bool:
    return value is None or _texts(value)


def _about_source(value: Any) -> bool:
    return _texts_or_none(value) or _dict_of(_text)(value)


def _links(value: Any) -> bool:
    one = _dict_of(_texts_or_none)
    return value is None or one(value) or (isinstance(value, list | tuple) and all(map(one, value)))


def _window(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _WINDOW)


# For each role: whether a value is of its kind, and that kind in words.
_ROLES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "token": (_text_or_none, "the name of an input"),
    "logits": (_text_or_none, "the name of an output"),
    "state": (_dict_of(_text), "{input: output}"),
    "output": (_one_of("logits", "probs", "logprobs"), "'logits', 'probs' or 'logprobs'"),
    "batch_axis": (_dict_of(_axis), f"{{input: axis}}, each axis a whole number from 0 to {_RANK - 1}"),
    "constant": (_dict_of(lambda value: True), "{input: value}"),
    "context": (_texts_or_none, "a list of names of inputs"),
    "step_context": (_texts_or_none, "a list of names of inputs"),
    "position": (_texts_or_none, "the name of an input, or a list of them"),
    "attention": (_text_or_none, "the name of an output"),
    "window": (_window, f"a number of tokens of at least 1, or None for the whole prefix, and at most {_WINDOW:,}"),
    "pad": (_one_of("left", "right"), "'left' or 'right'"),
    "encoder": (_links, "{encoder output: decoder input, or None to leave it out}, or a list of these, one for each encoder"),
    "latent": (_dict_of(_draw), "{input: 'normal' or 'uniform'} or {input: {'distribution': ..., 'every': ...}}"),
    "source_mask": (_about_source, "the name of an input, or {input: context}"),
    "source_length": (_about_source, "the name of an input, or {input: context}"),
}  # fmt: skip
ROLE_KEYS = tuple(_ROLES)
# The roles that an input has only one of; it may have a batch_axis beside it.
_OF_INPUTS = (
    "token",
    "state",
    "constant",
    "context",
    "step_context",
    "position",
    "latent",
    "source_mask",
    "source_length",
)
# The roles that hold names of inputs alone.
_NAMES = ("context", "step_context", "position")


def caller_roles(roles: Any) -> dict[str, Any]:
    """The roles that the caller gives, each of its kind.

    Raises:
        OptionError: one is unknown or of another kind.
    """
    return {} if roles is None else _checked(roles, "roles", OptionError)


def file_roles(graph: Graph) -> dict[str, Any]:
    """The roles in a file's metadata, each of its kind.

    Raises:
        ModelError: one is of another kind.
    """
    return _checked(json_metadata(graph, "decoding.roles", {}), f"{graph.name}: metadata 'decoding.roles'", ModelError)


def _checked(roles: Any, where: str, error: type[DecodingError]) -> dict[str, Any]:
    if not isinstance(roles, Mapping):
        raise error(f"{where}: {shown(roles)}: expected a dict with some of {', '.join(ROLE_KEYS)}")
    for key, value in roles.items():
        if not isinstance(key, str):
            raise error(f"{where}: unknown key {shown(key)}; expected some of {', '.join(ROLE_KEYS)}")
        fits, expected = _ROLES.get(key, (None, ""))
        if fits is not None and not fits(value):
            raise error(f"{where}[{key!r}]={shown(value)}: expected {expected}")
    return {key: names_in(value) if key in _NAMES else value for key, value in roles.items()}


def given_roles(graph: Graph, roles: Mapping[str, Any] | None) -> dict[str, Any]:
    """The roles in the file's metadata, overridden by the caller's; checked against the graph.

    Raises:
        OptionError: an unknown key, a name that the graph does not have, or one that has two roles.
        ModelError: the metadata hold something else.
    """
    merged = {**file_roles(graph), **caller_roles(roles)}
    if unknown := sorted(set(merged) - set(ROLE_KEYS)):
        raise OptionError(f"roles: unknown key {shown(unknown[0])}; expected some of {', '.join(ROLE_KEYS)}")
    ins, outs = [p.name for p in graph.inputs], [p.name for p in graph.outputs]
    states = merged.get("state", {})
    for key, names, known in (
        *((key, names_in(merged.get(key)), ins) for key in (*_OF_INPUTS, "batch_axis")),
        *((key, names_in(merged.get(key)), outs) for key in ("logits", "attention")),
        ("state", list(states.values()), outs),
    ):
        check_names(graph, key, names, known)
    _check_one_role(graph, "input", [(n, key) for key in _OF_INPUTS for n in dict.fromkeys(names_in(merged.get(key)))])
    scores = [(name, key) for key in ("logits", "attention") for name in names_in(merged.get(key))]
    _check_one_role(graph, "output", [*scores, *((name, "state") for name in states.values())])
    check_axes(graph, merged.get("batch_axis", {}))
    return merged


def _check_one_role(graph: Graph, what: str, named: list[tuple[str, str]]) -> None:
    """Check that no input or output (`what`) is named by two roles.

    Args:
        named: each name with the role that names it.

    Raises:
        OptionError: one is.
    """
    counts = Counter(name for name, _ in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        keys = [key for name, key in named if name == twice[0]]
        raise OptionError(
            f"roles: {graph.name}: the {what} {twice[0]!r} has the roles {' and '.join(keys)}; give it one"
        )


def check_names(graph: Graph, key: str, names: list[str], known: list[str]) -> None:
    """Check that a graph has the inputs or outputs that a role names.

    Raises:
        OptionError: it lacks one.
    """
    for name in names:
        if name not in known:
            raise OptionError(f"roles[{key!r}]: {graph.name} has no {shown(name)} there; it has {', '.join(known)}")


def check_axes(graph: Graph, axes: Mapping[str, int]) -> None:
    """Check that the inputs have the axes that `roles["batch_axis"]` says.

    Raises:
        OptionError: one has not, or does not declare how many it has.
    """
    for port in graph.inputs:
        if axes.get(port.name, 0) >= max(1, len(port.shape or ())):
            raise OptionError(
                f"roles['batch_axis'][{port.name!r}]={axes[port.name]}: {graph.name} has the input {port}; expected one of its axes, from 0"
            )


def names_in(value: Any) -> list[str]:
    """The inputs or outputs that a role names: a string, the entries of a list or the keys of a dict.

    >>> names_in("mask"), names_in({"mask": "memory"}), names_in(None)
    (['mask'], ['mask'], [])
    """
    return [value] if isinstance(value, str) else list(value or ())


def json_metadata(graph: Graph, key: str, default: Any) -> Any:
    """A JSON value of the file's metadata, or `default` where there is none.

    Raises:
        ModelError: the value is not JSON, or nests deeper than anything that is written there.
    """
    text = graph.metadata.get(key)
    if text is None:
        return default
    too_deep = ModelError(
        f"{graph.name}: metadata {key!r} nests deeper than {_DEPTH} lists and dicts; export the file again"
    )
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{graph.name}: metadata {key!r} is not JSON ({error}); write it with json.dumps") from error
    except RecursionError as error:
        raise too_deep from error
    level = [value]
    for _ in range(_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if not inner:
            return value
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
    raise too_deep


def vocabulary(graph: Graph) -> list[Any] | dict[str, Any] | None:
    """The vocabulary in the file's metadata; None where there is none.

    Raises:
        ModelError: it is neither a list nor a dict.
    """
    value = json_metadata(graph, "decoding.vocab", None)
    if value is not None and not isinstance(value, list | dict):
        raise ModelError(
            f"{graph.name}: metadata 'decoding.vocab' is {shown(value)}; expected a list of strings, one an id, or a dict from string to id"
        )
    return value


def special_ids(graph: Graph, key: str) -> tuple[int, ...]:
    """The ids that an entry of the metadata holds: one, or a list of them.

    Raises:
        ModelError: one is no id.
    """
    value = json_metadata(graph, key, [])
    ids = value if isinstance(value, list) else [value]
    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < 2**31:
            raise ModelError(
                f"{graph.name}: metadata {key!r} is {shown(one)}; expected a whole number from 0 to {2**31 - 1}"
            )
    return tuple(ids)


def special_id(graph: Graph, key: str) -> int | None:
    """The id that an entry of the metadata holds; None where there is none.

    Raises:
        ModelError: it is no id, or there are several.
    """
    if json_metadata(graph, key, None) is None:
        return None
    if len(ids := special_ids(graph, key)) != 1:
        raise ModelError(f"{graph.name}: metadata {key!r} holds {len(ids)} ids; expected one")
    return ids[0]


def initial_value(graph: Graph, name: str, sizes: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The initial state of one row that the file's metadata give a state input; zeros where they give none.

    Raises:
        ModelError: it is no array of that many finite numbers.
    """
    given = json_metadata(graph, "decoding.initial", {})
    if not isinstance(given, dict):
        raise ModelError(
            f"{graph.name}: metadata 'decoding.initial' is {shown(given)}; expected {{state input: numbers}}"
        )
    if given.get(name) is None:
        return np.zeros(sizes, dtype)
    try:
        array = np.asarray(given[name], np.float64 if dtype.kind == "f" else dtype)
        fits = array.size == np.prod(sizes) and bool(np.isfinite(array).all())
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ModelError(
            f"{graph.name}: metadata 'decoding.initial' has {shown(given[name])} for the state {name}; expected finite numbers of the shape {list(sizes)}"
        )
    return array.astype(dtype).reshape(sizes)
