"""Reads the JSON of requests: each field checked, an error names it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from decoding.errors import OptionError, finite_number, shown
from decoding.processors import FrequencyPenalty, LogitBias, PresencePenalty, Processor, RepetitionPenalty
from decoding.serve.errors import ApiError, api_error, wrong
from decoding.serve.gate import Limits
from decoding.strategies import Beam, Greedy, MustContain, Sample, Strategy

# More than OpenAI's 5 and 4.
_MOST_LOGPROBS, _MOST_STOPS = 20, 16
_MOST_PHRASES = 16
_LONGEST_NAME = 256

Prompt = str | list[int] | None


def read_json(body: bytes) -> dict[str, Any]:
    """Return the object that a body holds.

    Raises:
        ApiError: it is no JSON, or no object.
    """
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
        # A half of a surrogate pair is a character for JSON, but no text: no tokenizer takes it.
        body.decode() if b"\\u" not in body.lower() else json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, f"the body is a JSON {_kind(found)}; expected an object", code="invalid_json")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


class Fields:
    """Takes the fields of a JSON object one by one; null is the default of each.

    Raises:
        ApiError: by every method, where the field is missing or of a wrong kind or out of its range.
    """

    def __init__(self, values: Mapping[str, Any], inside: str = "") -> None:
        self._values, self._inside, self._known = values, inside, list[str]()

    def take(self, name: str) -> Any:
        """Return a field as it is; None where it is missing."""
        self._known.append(name)
        return self._values.get(name)

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number."""
        value = self.take(name)
        if value is None:
            return default
        number = finite_number(value)
        if number is None or not low <= number <= high:
            ends = f"a number from {low:g} to {high:g}" if math.isfinite(high) else f"a number of at least {low:g}"
            raise self._wrong(name, value, ends)
        return number

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is missing."""
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        """Return a string."""
        value = self.take(name)
        if value is not None and not (isinstance(value, str) and len(value) <= _LONGEST_NAME):
            raise self._wrong(name, value, f"a string of at most {_LONGEST_NAME} characters")
        return value

    def has(self, name: str) -> bool:
        """Return whether a field is there and not null."""
        return self._values.get(name) is not None

    def end(self) -> None:
        """Refuse fields that nobody took."""
        for name in self._values:
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                where = f"{self._inside}{name}"[:_LONGEST_NAME]
                raise wrong(where, f"unknown field{hint}", code="unknown_field")

    def _wrong(self, name: str, value: Any, expected: str) -> ApiError:
        return wrong(f"{self._inside}{name}", f"found {shown(value)}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What `POST /v1/completions` asks for.

    Attributes:
        outputs: to decode for each prompt; `n` of them are returned.
        logprobs: alternatives of each token; None returns no log-probabilities at all.
        max_tokens: None is the model's own.
    """

    model: str | None
    prompts: Sequence[Prompt]
    source: Any
    strategy: Strategy
    n: int
    outputs: int
    max_tokens: int | None
    min_tokens: int
    stop: tuple[str | tuple[int, ...], ...]
    seed: int | None
    processors: tuple[Processor, ...]
    logprobs: int | None
    echo: bool
    stream: bool
    include_usage: bool
    session: str | None
    return_attention: bool
    return_beams: bool


def read_completion(values: Mapping[str, Any], limits: Limits) -> Completion:
    """Return what a JSON object asks for.

    Raises:
        ApiError: a field is unknown or wrong, or does not go with another.
    """
    fields = Fields(values)
    n = fields.whole("n", 1, 1, limits.n)
    echo, stream = fields.flag("echo"), fields.flag("stream")
    try:
        strategy = _strategy(fields, limits)
    except OptionError as error:
        raise api_error(error, "temperature") from error
    found = Completion(
        model=fields.text("model"),
        prompts=read_prompts(fields.take("prompt"), limits),
        source=fields.take("source"),
        strategy=strategy,
        n=n,
        outputs=fields.whole("best_of", n, 1, limits.n),
        max_tokens=fields.whole("max_tokens", 0, 0 if echo else 1, limits.max_tokens)
        if fields.has("max_tokens")
        else fields.take("max_tokens"),
        min_tokens=fields.whole("min_tokens", 0, 0, limits.max_tokens),
        stop=_stop(fields),
        seed=_seed(fields),
        processors=_processors(fields),
        logprobs=fields.whole("logprobs", 0, 0, _MOST_LOGPROBS) if fields.has("logprobs") else fields.take("logprobs"),
        echo=echo,
        stream=stream,
        include_usage=_include_usage(fields, stream),
        session=fields.text("session"),
        return_attention=fields.flag("return_attention"),
        return_beams=fields.flag("return_beams"),
    )
    fields.text("user")  # for logs that this server does not keep
    if fields.take("suffix"):
        raise wrong("suffix", "this model continues texts, it does not fill gaps; leave it out")
    fields.end()
    _check_together(found)
    return found


def _check_together(found: Completion) -> None:
    """Refuse fields that do not go together."""
    searches = isinstance(found.strategy, Beam)
    if found.outputs < found.n:
        raise wrong("best_of", f"found {found.outputs}, less than n={found.n}; expected at least that many")
    if found.outputs > found.n and found.stream:
        raise wrong("best_of", "the best is known only at the end; leave best_of or stream out")
    if found.outputs > found.n and searches:
        raise wrong("best_of", "beam search ranks its outputs itself; leave best_of or num_beams out")
    if isinstance(found.strategy, Greedy) and found.outputs > 1:
        name = "n" if found.n > 1 else "best_of"
        raise wrong(name, "with temperature 0 all outputs are equal; leave it out, or pass a temperature above 0")
    if isinstance(found.strategy, Beam) and found.n > found.strategy.num_beams:
        raise wrong("n", f"found {found.n}, more than num_beams={found.strategy.num_beams}")
    if searches and found.logprobs:
        raise wrong("logprobs", "beam search keeps no alternatives; pass 0, or leave num_beams out")
    if found.max_tokens is not None and found.min_tokens > found.max_tokens:
        raise wrong("min_tokens", f"found {found.min_tokens}, more than max_tokens={found.max_tokens}")
    if found.session is not None and (len(found.prompts) > 1 or found.outputs > 1):
        raise wrong("session", "a session has one prompt and one output at a time; leave n and best_of out")
    if found.session is not None and found.echo and found.logprobs is not None:
        raise wrong("echo", "prompts of a session have no log-probabilities; leave logprobs or echo out")
    if found.return_attention and found.stream:
        raise wrong("return_attention", "attention is returned with the whole output; leave stream out")
    if found.return_beams and (not searches or found.stream or len(found.prompts) > 1):
        raise wrong("return_beams", "pass one prompt and num_beams, and leave stream out")


def read_prompts(value: Any, limits: Limits) -> list[Prompt]:
    """Return the prompts of a field that holds a text, ids, or a list of both.

    Raises:
        ApiError: it holds something else, or too many.
    """
    expected = "a string, a list of ids, or a list of these"
    if value is None or isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise wrong("prompt", f"found {shown(value)}; expected {expected}")
    if all(_is_id(entry) for entry in value):
        return [value]
    for place, entry in enumerate(value):
        if not isinstance(entry, str) and not (isinstance(entry, list) and all(map(_is_id, entry))):
            raise wrong("prompt", f"entry {place} is {shown(entry)}; expected {expected}")
    if len(value) > limits.prompts:
        raise ApiError(413, f"prompt: found {len(value)}; the limit is {limits.prompts} prompts", param="prompt")
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _strategy(fields: Fields, limits: Limits) -> Strategy:
    """Return how tokens are chosen.

    Raises:
        OptionError: a value is out of its range.
    """
    sampling = ("temperature", "top_k", "top_p", "min_p", "typical_p")
    if fields.has("num_beams"):
        if given := [name for name in sampling if fields.has(name)]:
            raise wrong(given[0], "beam search does not sample; leave it or num_beams out")
        beams = fields.whole("num_beams", 4, 1, limits.n)
        penalty = fields.number("length_penalty", 1.0, -1000, 1000)
        for name in sampling:
            fields.take(name)
        return Beam(num_beams=beams, length_penalty=penalty, must_contain=_must_contain(fields))
    fields.take("num_beams")
    for name in ("length_penalty", "must_contain"):
        if fields.has(name):
            raise wrong(name, "it is for beam search; pass num_beams too, or leave it out")
        fields.take(name)
    temperature = fields.number("temperature", 1.0, 0, math.inf)
    filters: dict[str, Any] = {
        "top_k": fields.whole("top_k", 0, 0, 2**31 - 1),
        "top_p": fields.number("top_p", 1.0, 0, 1),
        "min_p": fields.number("min_p", 0.0, 0, 1),
        "typical_p": fields.number("typical_p", 1.0, 0, 1),
    }
    chosen = Sample(temperature=temperature or 1.0, **filters)
    return chosen if temperature else Greedy()


def _must_contain(fields: Fields) -> MustContain | None:
    """Return the phrases that every output contains."""
    value = fields.take("must_contain")
    if value is None:
        return None
    try:
        found = MustContain.of_json(value)
    except OptionError as error:
        raise api_error(error, "must_contain") from error
    if len(found.phrases) > _MOST_PHRASES:
        raise wrong("must_contain", f"found {len(found.phrases)} phrases; expected at most {_MOST_PHRASES}")
    return found


def _stop(fields: Fields) -> tuple[str | tuple[int, ...], ...]:
    """Return the stop sequences: texts, and tuples of ids."""
    value = fields.take("stop")
    listed = [] if value is None else [value] if isinstance(value, str) else value
    expected = f"a string, or a list of at most {_MOST_STOPS} strings and lists of ids"
    if not isinstance(listed, list) or len(listed) > _MOST_STOPS:
        raise wrong("stop", f"found {shown(value)}; expected {expected}")
    found: list[str | tuple[int, ...]] = []
    for entry in listed:
        ids = [entry] if _is_id(entry) else entry
        if (not entry and entry != 0) or not (
            isinstance(ids, str) or (isinstance(ids, list) and all(map(_is_id, ids)))
        ):
            raise wrong("stop", f"found {shown(entry)}; expected {expected}, none of them empty")
        found.append(ids if isinstance(ids, str) else tuple(ids))
    return tuple(found)


def _seed(fields: Fields) -> int | None:
    """Return the seed; OpenAI's may be negative."""
    if not fields.has("seed"):
        fields.take("seed")
        return None
    return fields.whole("seed", 0, -(2**63), 2**64 - 1) % 2**64


def _processors(fields: Fields) -> tuple[Processor, ...]:
    """Return what edits the logits."""
    found: list[Processor] = []
    if (repetition := fields.number("repetition_penalty", 1.0, 1e-6, 1e6)) != 1:
        found.append(RepetitionPenalty(repetition))
    if frequency := fields.number("frequency_penalty", 0.0, -2, 2):
        found.append(FrequencyPenalty(frequency))
    if presence := fields.number("presence_penalty", 0.0, -2, 2):
        found.append(PresencePenalty(presence))
    if (bias := fields.take("logit_bias")) is not None:
        found += _logit_bias(bias)
    return tuple(found)


def _logit_bias(bias: Any) -> list[Processor]:
    """Return what adds to the logits of tokens, whose ids are the names of a JSON object."""
    if not isinstance(bias, dict):
        raise wrong("logit_bias", f"found {shown(bias)}; expected an object from ids to numbers")
    by_id: dict[int, float] = {}
    for name, value in bias.items():
        number = finite_number(value)
        if not (name.isascii() and name.isdigit() and len(name) < 10) or number is None or abs(number) > 100:
            raise wrong("logit_bias", f"found {name!r}: {shown(value)}; expected an id and a number from -100 to 100")
        by_id[int(name)] = number
    return [LogitBias(by_id)] if by_id else []


def _include_usage(fields: Fields, stream: bool) -> bool:
    options = fields.take("stream_options")
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise wrong("stream_options", f"found {shown(options)}; expected an object, together with stream=true")
    inside = Fields(options, "stream_options.")
    usage = inside.flag("include_usage")
    inside.end()
    return usage


def _kind(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
