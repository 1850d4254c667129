"""`from_generation_config()`: what a GenerationConfig of transformers says, as `decode()` takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decoding.errors import OptionError, shown, whole_number
from decoding.processors import (
    ForcedTokens,
    LogitBias,
    NoRepeatNgram,
    Processor,
    RepetitionPenalty,
    SuppressTokens,
)
from decoding.strategies import Beam, Greedy, Sample, Strategy

FILE = "generation_config.json"

# What generate() of transformers 5.23 takes where a config says nothing (GenerationConfig._get_default_generation_params).
_MAX_NEW_TOKENS, _TOP_K = 20, 50

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAM = ("num_beams", "length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty")

# Fields that change no token: speed, memory, what generate() returns, and ids that load() takes.
_IGNORED = frozenset(
    {"use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile", "low_memory", "prefill_chunk_size",
     "continuous_batching_config", "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
     "pad_token_id", "bos_token_id", "decoder_start_token_id", "is_assistant", "transformers_version", "_from_model_config", "_commit_hash",
     # Of assisted generation: they do nothing without an assistant, which generate() is given by itself.
     "assistant_lookbehind", "target_lookbehind"}
)  # fmt: skip

# Fields with no counterpart: the values that leave generate() as it is, and what to do about others.
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "penalty_alpha": ((0, 0.0), "contrastive search reads hidden states, which a model that is stepped does not return"),
    "dola_layers": ((), "DoLa reads the layers of a transformer"),
    "num_assistant_tokens": ((20,), "assisted generation is for models whose steps cost more than a check of several tokens"),
    "num_assistant_tokens_schedule": (("constant",), "of assisted generation"),
    "assistant_confidence_threshold": ((0.4,), "of assisted generation"),
    "assistant_early_exit": ((), "of assisted generation"),
    "assistant_ensemble_weight": ((), "of assisted generation"),
    "speculation_type": ((), "of assisted generation"),
    "prompt_lookup_num_tokens": ((), "of assisted generation"),
    "max_matching_ngram_size": ((), "of assisted generation"),
    "use_mtp": ((False,), "of assisted generation"),
    "constraints": ((), "constrained beam search takes other arguments here"),
    "force_words_ids": ((), "constrained beam search takes other arguments here"),
    "guidance_scale": ((1, 1.0), "guidance runs the network twice a step"),
    "watermarking_config": ((), "pass a processor of your own"),
    "top_h": ((), "there is no such filter; top_p and typical_p are near"),
    "encoder_repetition_penalty": ((1, 1.0), "pass a processor of your own"),
    "encoder_no_repeat_ngram_size": ((0,), "pass a processor of your own"),
    "exponential_decay_length_penalty": ((), "pass a processor of your own"),
    "begin_suppress_tokens": ((), "pass a processor of your own, which sees the first token by len(history.outputs[row]) == 0"),
    "forced_bos_token_id": ((), "pass processors=[ForcedTokens({0: id})] for a model with an encoder, or the id as the end of the prompt"),
    "remove_invalid_values": ((False,), "logits that are NaN are an error here"),
    "renormalize_logits": ((False,), "log-probabilities are not normalised again after processors"),
    "token_healing": ((False,), "give the prompt without its last token"),
    "max_time": ((), "stop an iteration over stream(), or cancel a ticket of an Engine"),
}  # fmt: skip


def from_generation_config(config: Any, *, prompt_length: int | None = None) -> dict[str, Any]:
    """Return the arguments of `decode()` that correspond to a GenerationConfig of transformers.

    Where the config says nothing, `generate()`'s own defaults hold: 20 new tokens, and `top_k` 50 with sampling. Greedy and beam
    search then give generate()'s tokens; sampling draws from the same distribution, with other random numbers.

    Args:
        config: a `transformers.GenerationConfig`, a dict of its fields, or the path of a generation_config.json or of its folder.
        prompt_length: number of tokens of the prompt, where the config has `max_length` or `min_length`, which count it; 1 for a model with an
            encoder, whose decoder starts from one token.

    Returns:
        ``{"strategy": ..., "max_new_tokens": ..., ...}``; BOS and padding are `load()`'s, and what only changes speed or the form of the
        result is left out.

    Raises:
        OptionError: a field has no counterpart, such as contrastive search or assisted generation; the message names it.

    Example::

        >>> from decoding import decode, from_generation_config
        >>> options = from_generation_config({"num_beams": 3, "max_new_tokens": 12})
        >>> options["strategy"]
        Beam(num_beams=3, length_penalty=1.0, early_stopping=False, num_beam_groups=1, diversity_penalty=0.0, coverage_penalty=0.0, must_contain=None)
        >>> decode("shakespeare", "ROMEO:", **options)[0].finish_reason
        'length'
    """
    fields = {name: value for name, value in _fields(config).items() if value is not None}
    known = {*_SAMPLING, *_BEAM, *_OPTIONS, *_UNSUPPORTED, *_IGNORED}
    if unknown := [name for name in fields if name not in known]:
        raise OptionError(f"generation config: {unknown[0]}={shown(fields[unknown[0]])}: no field of transformers' GenerationConfig that is known here; leave it out")  # fmt: skip
    for name, (neutral, why) in _UNSUPPORTED.items():
        if name in fields and fields[name] not in neutral:
            raise OptionError(f"generation config: {name}={shown(fields[name])} has no counterpart: {why}")
    options: dict[str, Any] = {"strategy": _strategy(fields), **_lengths(fields, prompt_length)}
    if "eos_token_id" in fields:
        options["eos_token_id"] = fields["eos_token_id"]
    if stops := fields.get("stop_strings"):
        options["stop"] = [stops] if isinstance(stops, str) else list(stops)
    if fields.get("num_return_sequences", 1) != 1:
        options["num_return_sequences"] = fields["num_return_sequences"]
    if processors := _processors(fields, options["max_new_tokens"]):
        options["processors"] = processors
    return options


def _fields(config: Any) -> dict[str, Any]:
    """Return the fields of a config by name.

    Raises:
        OptionError: it is none, or its file cannot be read.
    """
    if isinstance(config, str | Path):
        path = Path(config)
        path = path / FILE if path.is_dir() else path
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise OptionError(f"generation config: {path} cannot be read: {error}; give a {FILE}") from error
    elif hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise OptionError(f"generation config: {shown(config)}: expected a GenerationConfig of transformers, a dict, or the path of a {FILE}")  # fmt: skip
    return dict(config)


def _strategy(fields: Mapping[str, Any]) -> Strategy:
    """Return the strategy that generate() would choose."""
    samples, beams = fields.get("do_sample", False), fields.get("num_beams", 1)
    if samples and beams != 1:
        raise OptionError(f"generation config: do_sample=True with num_beams={beams}: sampling within a beam search has no counterpart; Sample(replacement=False) draws distinct sequences")  # fmt: skip
    if samples:
        given = {name: fields[name] for name in _SAMPLING if name in fields}
        return Sample(**{"top_k": _TOP_K, **given})
    if beams == 1:
        if fields.get("num_beam_groups", 1) != 1:
            raise OptionError(f"generation config: num_beam_groups={fields['num_beam_groups']} with one beam; set num_beams")  # fmt: skip
        return Greedy()
    return Beam(**{name: fields[name] for name in _BEAM if name in fields})


def _lengths(fields: Mapping[str, Any], prompt_length: int | None) -> dict[str, int]:
    """Return the longest and the shortest output in new tokens."""
    found = {}
    for kind, default in (("max", _MAX_NEW_TOKENS), ("min", 0)):
        new, whole = fields.get(f"{kind}_new_tokens"), fields.get(f"{kind}_length")
        if new is None and whole:  # min_length=0 says nothing
            if prompt_length is None:
                raise OptionError(f"generation config: {kind}_length={whole} counts the prompt too; set {kind}_new_tokens, or pass prompt_length=")  # fmt: skip
            prompt = whole_number("prompt_length", prompt_length, 0)
            new = max(0, whole_number(f"generation config: {kind}_length", whole, prompt + 1 if kind == "max" else 0) - prompt)  # fmt: skip
        new = default if new is None else new
        found[f"{kind}_new_tokens"] = whole_number(f"generation config: {kind}_new_tokens", new, int(kind == "max"))
    return {name: value for name, value in found.items() if value or name == "max_new_tokens"}


def _processors(fields: Mapping[str, Any], longest: int) -> list[Processor]:
    """Return the processors in the order in which generate() applies them."""
    found: list[Processor] = []
    if bias := fields.get("sequence_bias"):
        try:
            pairs = [(list(ids), value) for ids, value in (bias.items() if isinstance(bias, Mapping) else bias)]
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"generation config: sequence_bias={shown(bias)}: expected [[[id], bias], ...]"
            ) from error
        _check_single("sequence_bias", [ids for ids, _ in pairs])
        found.append(LogitBias({ids[0]: value for ids, value in pairs}))
    if fields.get("repetition_penalty", 1) != 1:
        found.append(RepetitionPenalty(fields["repetition_penalty"]))
    if fields.get("no_repeat_ngram_size", 0):
        found.append(NoRepeatNgram(fields["no_repeat_ngram_size"]))
    if bad := fields.get("bad_words_ids"):
        _check_single("bad_words_ids", bad)
        found.append(SuppressTokens([ids[0] for ids in bad]))
    if (forced := fields.get("forced_eos_token_id")) is not None:
        ids = forced if isinstance(forced, list | tuple) else [forced]
        if len(ids) != 1:
            raise OptionError(f"generation config: forced_eos_token_id={shown(forced)}: one id can be forced")
        found.append(ForcedTokens({longest - 1: ids[0]}))
    if fields.get("suppress_tokens"):
        found.append(SuppressTokens(fields["suppress_tokens"]))
    return found


def _check_single(name: str, sequences: Any) -> None:
    """Check that sequences of ids have one each.

    Raises:
        OptionError: one has several.
    """
    if longer := [ids for ids in sequences if len(ids) != 1]:
        raise OptionError(f"generation config: {name} has {shown(longer[0])}: sequences of several tokens have no counterpart; write a logits processor for them")  # fmt: skip


# Fields that become options of decode(), or processors.
_OPTIONS = frozenset(
    {"do_sample", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "eos_token_id", "stop_strings", "num_return_sequences",
     "sequence_bias", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "forced_eos_token_id", "suppress_tokens"}
)  # fmt: skip
