"""The models of a server: each with its engine, its facts and its sessions."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from decoding.errors import OptionError
from decoding.inputs.prompts import encode_prompts
from decoding.inputs.sources import encode_sources, source_length
from decoding.model.load import load
from decoding.model.model import Model
from decoding.serve.errors import ApiError, wrong
from decoding.serve.fields import Prompt
from decoding.serve.gate import Limits
from decoding.service import Engine, Statistics
from decoding.tokenizers import token_texts

# Tokens of all turns of a session, whose ids are a part of its state.
_LONGEST_SESSION = 1 << 20


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as it is decoded.

    Attributes:
        text: that is echoed: what the client sent, or the ids' text.
        shown: how many of the ids are the text's: not those that are put before it.
    """

    ids: list[int]
    text: str
    shown: int


@dataclass(frozen=True)
class Settings:
    """How the models of a server are loaded and run: `load_options` are arguments of `load()`, the others those of `Engine`."""

    load_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    max_queue: int = 1024
    workers: int = 1


class Sessions:
    """The states after the last outputs of conversations, by the names that clients gave them.

    At most `limit` are kept, each for `seconds` after its last use; the one that was not used for the longest time goes first.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._states: OrderedDict[str, tuple[float, Mapping[str, Any]]] = OrderedDict()
        self._busy = set[str]()
        self._lock = threading.Lock()

    def begin(self, name: str) -> Mapping[str, Any] | None:
        """Return the state of a session, or None for a new one; nobody else gets it until `end()`.

        Raises:
            ApiError: another request of the session runs.
        """
        with self._lock:
            self._forget_old()
            if name in self._busy:
                message = f"session: {name!r} has a request that runs; wait for its end"
                raise ApiError(409, message, param="session", code="session_busy", retry_after=1)
            self._busy.add(name)
            return self._states.get(name, (0.0, None))[1]

    def end(self, name: str, state: Mapping[str, Any] | None) -> None:
        """Keep the state after a request, or leave the old one where it has none."""
        with self._lock:
            self._busy.discard(name)
            if state is not None:
                self._states[name] = time.monotonic() + self._seconds, state
                self._states.move_to_end(name)
                while len(self._states) > self._limit:
                    self._states.popitem(last=False)

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._states and next(iter(self._states.values()))[0] < now:
            self._states.popitem(last=False)

    def __len__(self) -> int:
        return len(self._states)


class Served:
    """A model that is loaded, with its engine.

    Attributes:
        name: clients ask for it by this name; created: when it was loaded, in seconds since 1970.
        reads_source: whether it has an encoder, so that requests have a `source`.
        has_attention: whether it returns attention weights.
        longest: outputs have at most that many tokens unless a request says otherwise.
    """

    def __init__(self, name: str, model: Model, settings: Settings, limits: Limits) -> None:
        self.name, self.model, self.created = name, model, int(time.time())
        self.reads_source = model._network.encoders is not None
        self.has_attention = model._network.contract.attention is not None
        self.text_start = list(model._text_start)
        self.longest = min(model.max_new_tokens or 16, limits.max_tokens)  # 16: OpenAI's default
        self.fingerprint = f"fp_{model.fingerprint[:12]}"
        self.sessions = Sessions(limits.sessions, limits.session_seconds)
        self.engine = Engine(
            model, batch_size=settings.batch_size, max_queue=settings.max_queue, workers=settings.workers
        )
        self._limits = limits
        self._texts: dict[int, str] = {}

    def text_of(self, token: int) -> str:
        """Return the text of a token within a text: with the space that it may begin with. An id's number without a vocabulary."""
        if (known := self._texts.get(token)) is None:
            known = self._texts[token] = self._text_of(token)
        return known

    def _text_of(self, token: int) -> str:
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return f" {token}"
        once, twice = tokenizer.decode([token]), tokenizer.decode([token, token])
        return twice.removeprefix(once) if twice.startswith(once) else once

    def read_prompt(self, prompt: Prompt, *, goes_on: bool = False, name: str = "prompt") -> ReadPrompt:
        """Return a prompt as ids, with the text that echoes it.

        Args:
            goes_on: it comes after a state, so that nothing is put before it, and it may be empty.
            name: the field in messages.

        Raises:
            ApiError: it is too long.
            OptionError: it has no ids, or wrong ones.
        """
        model, is_text = self.model, isinstance(prompt, str)
        if isinstance(prompt, str) and model.tokenizer is None:
            prompt = self._ids_of_words(prompt, name)
        if goes_on and not prompt:
            return ReadPrompt([], "", 0)
        given = prompt if prompt or isinstance(prompt, str) else None
        ids: list[int] = encode_prompts(model, given, bos=not goes_on, name=name)[0].tolist()
        self._check_length(name, len(ids))
        before = 0
        if not prompt:
            before = len(ids)
        elif is_text and model.tokenizer is not None and not goes_on:
            before = len(self.text_start)
        text = prompt if isinstance(prompt, str) else "".join(self.texts_of(ids[before:]))
        return ReadPrompt(ids, text, len(ids) - before)

    def _ids_of_words(self, text: str, name: str) -> list[int]:
        """Return the ids that a text has, split by spaces: the prompt of a model without a vocabulary."""
        words = text.split()
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise wrong(name, f"{self.name} has no vocabulary; give ids, or a text of ids such as '3 17 4'")
        return [int(word) for word in words]

    def read_source(self, source: Any) -> tuple[dict[str, Any], int]:
        """Return the inputs of the encoders by name, and how many tokens they read: 0 where it is no tokens.

        Raises:
            ApiError: the source is wrong, or too long.
        """
        try:
            values = encode_sources(self.model, source, single=True)[0]
        except (OptionError, ValueError) as error:
            raise ApiError(400, f"source: {error}", param="source") from error
        length = source_length(self.model, values)
        self._check_length("source", length)
        return values, length

    def _check_length(self, name: str, length: int) -> None:
        if length > self._limits.prompt_tokens:
            message = f"{name}: it has {length} tokens; the limit is {self._limits.prompt_tokens}"
            raise ApiError(413, message, param=name, code="prompt_too_long")

    def texts_of(self, ids: Sequence[int]) -> list[str]:
        """Return the text that each id adds; its number where the model has no vocabulary."""
        if self.model.tokenizer is None:
            return [str(token) if at == 0 else f" {token}" for at, token in enumerate(ids)]
        return token_texts(self.model.tokenizer, ids)

    def facts(self) -> dict[str, Any]:
        """Return what `/v1/models` says: OpenAI's fields, then ours."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "rnn-decoding",
            "vocabulary": self.model.vocab_size,
            "has_text": self.model.tokenizer is not None,
            "needs_source": self.reads_source,
            "needs_prompt": not self.reads_source and self.model.bos_token_id is None,
            "has_attention": self.has_attention,
            "executor": self.model.executor,
            "max_tokens": self.longest,
        }


class Models:
    """All models of a server. They are loaded in a thread, so that the server answers probes meanwhile.

    Args:
        sources: what `load()` takes, by the names that clients use.

    Attributes:
        error: why a model could not be loaded, or None.
    """

    def __init__(self, sources: Mapping[str, str | Path | Model], settings: Settings, limits: Limits) -> None:
        self._sources, self._settings, self._limits = dict(sources), settings, limits
        self._served: dict[str, Served] = {}
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to load."""
        # A daemon: a server that is told to end does not wait for the rest of a long load().
        threading.Thread(target=self._load, daemon=True, name="decoding-load").start()

    def _load(self) -> None:
        for name, source in self._sources.items():
            try:
                model = source if isinstance(source, Model) else load(source, **self._settings.load_options)
                self._served[name] = Served(name, model, self._settings, self._limits)
            except Exception as error:  # kept for the server, which ends with it
                self.error = error
                return

    @property
    def ready(self) -> bool:
        """Whether all are loaded."""
        return len(self._served) == len(self._sources)

    def __iter__(self) -> Any:
        return iter(list(self._served.values()))

    def has(self, name: str) -> bool:
        """Return whether there is a model of this name, loaded or not."""
        return name in self._sources

    def get(self, name: str | None) -> Served:
        """Return the model that a request names; the only one where it names none.

        Raises:
            ApiError: there is no such model, or it is not loaded yet.
        """
        if name is None and len(self._sources) == 1:
            (name,) = self._sources
        names = ", ".join(self._sources)
        if name is None:
            raise ApiError(400, f"model: missing; this server has {names}", param="model", code="missing_field")
        if name not in self._sources:
            message = f"model: there is no {name!r}; this server has {names}"
            raise ApiError(404, message, param="model", code="model_not_found")
        if name not in self._served:
            raise ApiError(503, f"model: {name!r} is still being loaded", code="model_loading", retry_after=1)
        return self._served[name]

    def statistics(self) -> dict[str, Statistics]:
        """Return how each engine is doing."""
        return {served.name: served.engine.statistics() for served in self}

    def close(self, *, drain: bool) -> None:
        """End all engines; the requests that run are cancelled unless `drain`."""
        for served in self:
            served.engine.close(drain=drain)


def named_sources(arguments: Sequence[str]) -> dict[str, str]:
    """Return the models of a command line by their names: NAME=FILE, a FILE, or the name of a shipped model.

    Raises:
        OptionError: two have the same name.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, given, path = argument.partition("=")
        if not given:
            name, path = Path(argument).stem, argument
        if not name or not path:
            raise OptionError(f"MODEL {argument!r}: expected NAME=FILE, a FILE, or the name of a shipped model")
        if name in found:
            raise OptionError(f"MODEL {argument!r}: the name {name!r} is taken by {found[name]!r}; pass NAME=FILE")
        found[name] = path
    return found


def check_session(state: Mapping[str, Any] | None) -> None:
    """Refuse to go on with a session that is too long.

    Raises:
        ApiError: it is.
    """
    length = 0 if state is None else int(np.size(state["decoding.ids"]))
    if length > _LONGEST_SESSION:
        raise ApiError(400, f"session: it has {length} tokens already; begin another one", param="session")
