"""Decode any recurrent ONNX model: `load()` an exported file, `decode()` sequences."""

from decoding.api import TokenEvent, decode, stream
from decoding.errors import DecodeError, DecodingError, ModelError, OptionError
from decoding.model.loading import load
from decoding.model.model import Model
from decoding.results import Decoded, Hypothesis
from decoding.strategies import Greedy, Sample

__version__ = "0.1.0"

__all__ = [
    "DecodeError",
    "Decoded",
    "DecodingError",
    "Greedy",
    "Hypothesis",
    "Model",
    "ModelError",
    "OptionError",
    "Sample",
    "TokenEvent",
    "decode",
    "load",
    "stream",
]
