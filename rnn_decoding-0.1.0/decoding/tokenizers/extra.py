"""Calls into packages of tokenizers, which are optional, and whose exceptions are of many types."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from decoding.errors import DecodingError, OptionError


def extra(package: str, needed_by: str) -> Any:
    """Return an optional package.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise OptionError(
            f"tokenizer: {needed_by} needs the package {package}; pip install 'rnn-decoding[text]'"
        ) from error


def from_package(call: Callable[[], Any], error: type[DecodingError], message: str) -> Any:
    """Return what a call returns; any exception of it becomes an `error`.

    tokenizers raises bare Exceptions, SentencePiece RuntimeErrors, and components in Python whatever they like.
    """
    try:
        return call()
    except (DecodingError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as problem:  # a panic in Rust is no Exception
        raise error(f"{message}: {type(problem).__name__}: {problem}") from problem
