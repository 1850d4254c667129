"""from_generation_config() against transformers' own generate(): tests/models/make_generation_configs.py made its outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decoding import OptionError, decode, from_generation_config, load

MODELS = Path(__file__).parents[1] / "models"
STORED = json.loads((MODELS / "generation_configs.json").read_text())
PROMPTS = json.loads((MODELS / "beam_huggingface.json").read_text())["prompts"]


@pytest.fixture(scope="module")
def model():
    return load(MODELS / "beam_huggingface.onnx")


@pytest.mark.parametrize("case", STORED["searches"], ids=lambda case: str(case["config"]))
def test_greedy_and_beam_search_give_the_tokens_of_generate(model, case):
    options = from_generation_config(case["config"], prompt_length=len(PROMPTS[0]))
    assert decode(model, PROMPTS, **options).tokens == case["tokens"]


@pytest.mark.parametrize("case", STORED["samples"], ids=lambda case: str(case["config"]))
def test_sampling_draws_from_the_distribution_of_generate(model, case):
    options = from_generation_config(case["config"])
    count = 4000
    out = decode(model, PROMPTS, **options | {"num_return_sequences": count, "eos_token_id": None}, seed=1)
    drawn = np.array([h.tokens[0] for h in out]).reshape(len(PROMPTS), count)
    for tokens, probs in zip(drawn, np.array(case["probs"]), strict=True):
        found = np.bincount(tokens, minlength=len(probs))
        assert not found[probs == 0].any()
        kept = probs > 0
        if kept.sum() > 1:
            expected = probs[kept] * count
            rare = expected < 5  # together, as the test needs counts that are not tiny
            pairs = [np.append(x[~rare], x[rare].sum()) if rare.any() else x for x in (found[kept], expected)]
            assert stats.chisquare(*pairs).pvalue > 1e-6


def test_a_config_is_an_object_a_dict_a_file_or_a_folder(tmp_path):
    config = {"num_beams": 3, "max_new_tokens": 5, "transformers_version": "5.23.0", "pad_token_id": 0}

    class Config:
        def to_dict(self):
            return {**config, "temperature": None}

    expected = from_generation_config(config)
    assert expected["max_new_tokens"] == 5
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    for given in (Config(), tmp_path, str(tmp_path / "generation_config.json")):
        assert from_generation_config(given) == expected


def test_a_config_of_transformers_that_says_nothing_is_taken():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    options = from_generation_config(transformers.GenerationConfig())
    assert str(options) == "{'strategy': Greedy(), 'max_new_tokens': 20}"


def message(config):
    try:
        from_generation_config(config)
    except OptionError as error:
        return str(error)
    return ""


def test_every_field_of_transformers_is_known():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    messages = [message({name: "nonsense"}) for name in transformers.GenerationConfig().to_dict()]
    assert not [text for text in messages if "that is known here" in text]
    assert sum(bool(text) for text in messages) > 30


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_assistant_tokens": 5}, "num_assistant_tokens=5 has no counterpart"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6 has no counterpart: contrastive search"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2"),
        ({"max_length": 30}, "max_length=30 counts the prompt too; set max_new_tokens, or pass prompt_length="),
        ({"min_length": 3, "max_new_tokens": 9}, "min_length=3 counts the prompt too"),
        ({"bad_words_ids": [[1], [2, 3]]}, r"bad_words_ids has \[2, 3\]"),
        ({"sequence_bias": {(1, 2): 0.5}}, "sequence_bias has"),
        ({"guidance_scale": 1.5}, "guidance_scale=1.5 has no counterpart"),
        ({"forced_bos_token_id": 3}, "ForcedTokens"),
        ({"no_such_field": 3}, "no_such_field=3: no field"),
        ({"temperature": -1, "do_sample": True}, "temperature=-1"),
        ({"forced_eos_token_id": [1, 2]}, "one id can be forced"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 with one beam"),
        (7, "expected a GenerationConfig"),
        ("nowhere.json", "nowhere.json cannot be read"),
    ],
)
def test_what_has_no_counterpart_is_named(config, message):
    with pytest.raises(OptionError, match=message):
        from_generation_config(config)


def test_max_length_that_the_prompt_fills_is_refused():
    with pytest.raises(OptionError, match="max_length=9: expected a whole number of at least 13"):
        from_generation_config({"max_length": 9}, prompt_length=12)


def test_values_that_say_nothing_are_taken():
    neutral = {"guidance_scale": 1.0, "penalty_alpha": 0.0, "num_assistant_tokens": 20, "remove_invalid_values": False,
               "encoder_repetition_penalty": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True,
               "min_length": 0, "num_beam_groups": 1, "diversity_penalty": 0.0}  # fmt: skip
    assert str(from_generation_config(neutral)) == "{'strategy': Greedy(), 'max_new_tokens': 20}"
