"""The manifest beside an output: which job the output is of, so that no other job goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from decoding.constraints import BoundConstraint
from decoding.engine.request import Settings
from decoding.errors import OptionError, shown
from decoding.model.ensembles.ensemble import Ensemble
from decoding.model.model import Model
from decoding.processors import TokenProcessor
from decoding.tokenizers import Tokenizer, tokenizer_metadata

# Of the manifest's own form, and the facts of a job in it.
_FORM = 1
_FACTS = {"form", "version", "kind", "model", "options", "input", "seed"}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return what a manifest says; None where there is none.

    Raises:
        OptionError: it cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"manifest {path}: cannot be read: {error}; {_ANOTHER}") from error
    job = found.get("job") if isinstance(found, dict) else None
    if not isinstance(job, dict) or "form" not in job:
        raise OptionError(f"manifest {path}: it is not one that a job wrote; {_ANOTHER}")
    if job["form"] != _FORM:
        raise OptionError(
            f"manifest {path}: its form is {shown(job['form'])}, of another version of rnn-decoding ({shown(job.get('version'))}); {_ANOTHER}"
        )
    if job.keys() != _FACTS or not _is_finish(found.get("finished")):
        raise OptionError(f"manifest {path}: it is not as the job wrote it; {_ANOTHER}")
    return dict(found)


def _is_finish(value: Any) -> bool:
    """Return whether a manifest says so of a finished job, or says nothing as it has not finished."""
    return value is None or (
        isinstance(value, dict) and all(isinstance(value.get(name), int) for name in ("bytes", "rows", "failed"))
    )


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest whole, or leave the one that is there."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    replace_file(temporary, path)


def replace_file(written: Path, path: Path) -> None:
    """Put a file that is written and synced in the place of another, so that no crash leaves half of it."""
    written.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_same_job(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with the output of another job.

    Raises:
        OptionError: something differs; the message names it, with both values.
    """
    old, new = dict(_flat(found)), dict(_flat(json.loads(json.dumps(wanted))))
    differs = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differs:
        shown_ones = "; ".join(f"{name} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in differs)
        raise OptionError(f"manifest {path}: it is of another job: {shown_ones}; {_ANOTHER}")


_ANOTHER = "choose another output, or remove this one with its manifest"


def describe_job(kind: str, model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the results of a job depend on beside its input and its seed, as JSON takes it.

    The batch size and the number of workers are not in it, as no result depends on them.
    """
    return {
        "form": _FORM,
        "version": version("rnn-decoding"),
        "kind": kind,
        "model": _model_facts(model),
        "options": options,
    }


def describe_settings(settings: Settings, prefix: Mapping[str, list[int]] | None, step_inputs: Any) -> dict[str, Any]:
    """Return the options of a call, with defaults filled in; `prefix` is its ids, by the members that read them."""
    return {
        "strategy": repr(settings.strategy),
        "num_return_sequences": settings.outputs,
        "max_new_tokens": settings.max_new_tokens,
        "min_new_tokens": settings.min_new_tokens,
        "eos_token_id": list(settings.eos),
        "stop": [*settings.stop_strings, *(ids.tolist() for ids in settings.stop)],
        "processors": [_callable_name(processor) for processor in settings.processors],
        "step_inputs": None if step_inputs is None else _callable_name(step_inputs),
        "logprobs": settings.top_logprobs,
        "return_attention": settings.return_attention,
        "prefix": prefix,
    }


def _model_facts(model: Model) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "fingerprint": model.fingerprint,
        "executor": model.executor,
        "providers": model.providers,
        "tokenizer": _text_fingerprint(model.tokenizer),
        "bos": model.bos_token_id,
        "text_start": list(model._text_start),
        "latents": [f"{latent.name}: {latent.draw}" for latent in model.latents],
    }
    encoders = model._network.encoders
    if isinstance(model, Ensemble):
        facts["members"] = {name: _model_facts(member) for name, member in model.members.items()}
    elif encoders is not None:
        facts["encoders"] = [
            [stage.graph.fingerprint(), _text_fingerprint(stage.tokenizer), [*stage.bos], [*stage.eos]]
            for stage in encoders.stages
        ]
        facts["links"] = [f"{link.stage}: {link.output.name} -> {link.target.name}" for link in encoders.links]
    return facts


def _text_fingerprint(tokenizer: Tokenizer | None) -> str | None:
    """Return a hash of a tokenizer; of an object of the caller's, the name of its class."""
    if tokenizer is None:
        return None
    try:
        entries = tokenizer_metadata(tokenizer)
    except OptionError:
        return repr(tokenizer)
    return _hash(json.dumps(entries).encode())


def _callable_name(value: Any) -> str:
    """Return what tells a processor from another: a function's name, an object's repr, or its class with a hash of what is pickled."""
    # The repr of these is cut where it is long.
    if isinstance(value, BoundConstraint):
        return f"{value} {_hash(value.grammar.encode())}"
    if isinstance(value, TokenProcessor):
        own = {name: part.tolist() if isinstance(part, np.ndarray) else part for name, part in vars(value).items()}
        return f"{value} {_hash(repr(own).encode())}"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if getattr(type(value), "__repr__", None) is not object.__repr__:
        return repr(value)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        return f"{name} {_hash(pickle.dumps(value))}"
    except (pickle.PicklingError, TypeError, AttributeError):  # it holds a function, or a model
        return name


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, own in value.items():
        if isinstance(own, Mapping):
            yield from _flat(own, f"{before}{name}.")
        else:
            yield f"{before}{name}", own


def _short(value: Any) -> str:
    long = isinstance(value, str) and len(value) == 64
    return f"{value[:12]}..." if long else shown(value)
