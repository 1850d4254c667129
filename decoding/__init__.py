"""Decode any recurrent ONNX model: `load()` an exported file, `decode()` sequences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a type checker reads these imports; Python makes them when a name is first used
    from decoding import export as export
    from decoding import jobs as jobs
    from decoding import plot as plot
    from decoding import serve as serve
    from decoding.api import decode, decode_iter, rollout, score, stream
    from decoding.constraints import Choices, Grammar, JSONSchema, Regex
    from decoding.errors import Cancelled, DecodeError, DecodingError, ModelError, OptionError, QueueFull
    from decoding.inputs.generation_config import from_generation_config
    from decoding.model.discriminator import Discriminator
    from decoding.model.ensembles.ensemble import Ensemble
    from decoding.model.ensembles.guidance import Guidance
    from decoding.model.load import load
    from decoding.model.model import Model
    from decoding.processors import (
        AllowedTokens,
        ForcedTokens,
        FrequencyPenalty,
        History,
        LogitBias,
        NoRepeatNgram,
        PrefixAllowed,
        PresencePenalty,
        RepetitionPenalty,
        SuppressTokens,
    )
    from decoding.requests import Request
    from decoding.reranking import mbr, rerank
    from decoding.results import Decoded, Hypothesis, TokenEvent
    from decoding.service import Engine, Ticket
    from decoding.strategies import Beam, Greedy, MustContain, Sample, TopN

__version__ = "0.1.0"

__all__ = [
    "AllowedTokens",
    "Beam",
    "Cancelled",
    "Choices",
    "DecodeError",
    "Decoded",
    "DecodingError",
    "Discriminator",
    "Engine",
    "Ensemble",
    "ForcedTokens",
    "FrequencyPenalty",
    "Grammar",
    "Greedy",
    "Guidance",
    "History",
    "Hypothesis",
    "JSONSchema",
    "LogitBias",
    "Model",
    "ModelError",
    "MustContain",
    "NoRepeatNgram",
    "OptionError",
    "PrefixAllowed",
    "PresencePenalty",
    "QueueFull",
    "Regex",
    "RepetitionPenalty",
    "Request",
    "Sample",
    "SuppressTokens",
    "Ticket",
    "TokenEvent",
    "TopN",
    "decode",
    "decode_iter",
    "from_generation_config",
    "load",
    "mbr",
    "rerank",
    "rollout",
    "score",
    "stream",
]

# The module of each public name, imported when the name is first used. All of them, with onnx and onnxruntime, take half a
# second, for which `decoding --help` and a program that makes no model need not wait.
_MODULES = {
    name: module
    for module, names in {
        "api": "decode decode_iter rollout score stream",
        "constraints": "Choices Grammar JSONSchema Regex",
        "errors": "Cancelled DecodeError DecodingError ModelError OptionError QueueFull",
        "inputs.generation_config": "from_generation_config",
        "model.discriminator": "Discriminator",
        "model.ensembles.ensemble": "Ensemble",
        "model.ensembles.guidance": "Guidance",
        "model.load": "load",
        "model.model": "Model",
        "processors": "AllowedTokens ForcedTokens FrequencyPenalty History LogitBias "
        "NoRepeatNgram PrefixAllowed PresencePenalty RepetitionPenalty SuppressTokens",
        "requests": "Request",
        "reranking": "mbr rerank",
        "results": "Decoded Hypothesis TokenEvent",
        "service": "Engine Ticket",
        "strategies": "Beam Greedy MustContain Sample TopN",
    }.items()
    for name in names.split()
}
# Packages of the public face; most need packages that are extras.
_PACKAGES = ("export", "jobs", "plot", "serve")


def __getattr__(name: str) -> Any:
    """Import a public name, or a package of the public face, when it is first used (PEP 562)."""
    if name in _PACKAGES:
        return import_module(f"decoding.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"decoding.{_MODULES[name]}"), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
