"""Decode any recurrent ONNX model: `load()` an exported file, `decode()` sequences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from decoding.api import decode, decode_iter, rollout, score, stream
from decoding.errors import Cancelled, DecodeError, DecodingError, ModelError, OptionError, QueueFull
from decoding.inputs.generation_config import from_generation_config
from decoding.model.discriminator import Discriminator
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
from decoding.rerank import mbr, rerank
from decoding.results import Decoded, Hypothesis, TokenEvent
from decoding.service import Engine, Ticket
from decoding.strategies import Beam, Greedy, Sample, TopN

if TYPE_CHECKING:
    from decoding import export as export
    from decoding import jobs as jobs
    from decoding import plot as plot
    from decoding import serve as serve

__version__ = "0.1.0"

__all__ = [
    "AllowedTokens",
    "Beam",
    "Cancelled",
    "DecodeError",
    "Decoded",
    "DecodingError",
    "Discriminator",
    "Engine",
    "ForcedTokens",
    "FrequencyPenalty",
    "Greedy",
    "History",
    "Hypothesis",
    "LogitBias",
    "Model",
    "ModelError",
    "NoRepeatNgram",
    "OptionError",
    "PrefixAllowed",
    "PresencePenalty",
    "QueueFull",
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


def __getattr__(name: str) -> Any:
    """`decoding.plot`, `export`, `jobs` and `serve`, imported when asked for: most need packages of their own."""
    if name in ("plot", "export", "jobs", "serve"):
        return import_module(f"decoding.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
