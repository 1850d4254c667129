"""Every field of every strategy has a flag, and what contradicts itself is named by both flags."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

import decoding
from decoding import Beam, Greedy, OptionError, Sample, TopN, decode, load
from decoding.cli.shared.load_options import add_load_options, load_arguments
from decoding.cli.shared.parser import Parser
from decoding.cli.shared.strategy_options import (
    TEMPERATURE,
    add_decode_options,
    add_strategy_options,
    decode_options,
    strategy_of,
)
from decoding.processors import FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty, SuppressTokens
from tests.helpers import build


def parsed(*flags):
    parser = Parser()
    add_strategy_options(parser)
    add_decode_options(parser)
    add_load_options(parser)
    return parser.parse_args(flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--greedy"], Greedy()),
        (["--top-n", "3"], TopN(3)),
        (["--num-beams", "4", "--length-penalty", "0.5"], Beam(4, length_penalty=0.5)),
        (["--num-beams", "4", "--early-stopping", "true"], Beam(4, early_stopping=True)),
        (["--num-beams", "4", "--early-stopping", "false"], Beam(4)),
        (["--num-beams", "4", "--early-stopping", "never"], Beam(4, early_stopping="never")),
        (["--num-beams", "6", "--num-beam-groups", "3", "--diversity-penalty", "0.5"], Beam(6, num_beam_groups=3, diversity_penalty=0.5)),
        (["--num-beams", "2", "--coverage-penalty", "0.2"], Beam(2, coverage_penalty=0.2)),
    ],
)  # fmt: skip
def test_flags_make_strategies(flags, expected):
    assert strategy_of(parsed(*flags)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], Sample(TEMPERATURE)),
        (["--temperature", "1.5"], Sample(1.5)),
        (["--top-k", "3", "--top-p", "0.9", "--min-p", "0.1"], Sample(TEMPERATURE, top_k=3, top_p=0.9, min_p=0.1)),
        (["--typical-p", "0.5", "--epsilon-cutoff", "0.01", "--eta-cutoff", "0.02"], Sample(TEMPERATURE, typical_p=0.5, epsilon_cutoff=0.01, eta_cutoff=0.02)),
        (["--no-replacement"], Sample(TEMPERATURE, replacement=False)),
    ],
)  # fmt: skip
def test_flags_make_samples(flags, expected):
    made = strategy_of(parsed(*flags))
    assert {f.name: getattr(made, f.name) for f in fields(Sample)} == {
        f.name: getattr(expected, f.name) for f in fields(Sample)
    }


def test_every_field_of_a_strategy_has_a_flag():
    args = vars(parsed())
    assert {f.name for kind in (Sample, Beam) for f in fields(kind)} <= set(args)
    assert [f.name for f in fields(TopN)] == ["n"]  # --top-n
    assert fields(Greedy) == ()


def test_every_argument_of_load_has_a_flag():
    wanted = {name for name, p in inspect.signature(load).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(load_arguments(parsed())) == wanted
    defaults = {name: p.default for name, p in inspect.signature(load).parameters.items() if name in wanted}
    assert load_arguments(parsed()) == defaults


def test_every_option_of_decode_has_a_flag_or_a_reason():
    elsewhere = {"model", "prompts", "strategy", "prefix"}  # arguments of the commands themselves
    arrays = {"context", "latents", "step_inputs", "teacher", "teacher_ratio", "return_attention", "return_state",
              "return_member_logprobs"}  # fmt: skip
    running = {"batch_size", "workers", "progress"}  # of `decoding batch`
    model = load(build.recurrent())
    found = set(decode_options(parsed(), model))
    assert found == set(inspect.signature(decode).parameters) - elsewhere - arrays - running


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--greedy", "--num-beams", "2"], ["--greedy", "--num-beams"]),
        (["--num-beams", "2", "--top-n", "2"], ["--num-beams", "--top-n"]),
        (["--greedy", "--temperature", "0.8"], ["--greedy", "--temperature"]),
        (["--num-beams", "2", "--top-p", "0.8"], ["--num-beams", "--top-p"]),
        (["--top-n", "2", "--no-replacement"], ["--top-n", "--no-replacement"]),
        (["--length-penalty", "2"], ["--length-penalty", "--num-beams"]),
        (["--greedy", "--early-stopping", "true"], ["--greedy", "--early-stopping"]),
        (["--temperature", "1", "--coverage-penalty", "2"], ["--coverage-penalty", "--num-beams"]),
    ],
)
def test_contradictions_name_both_flags(flags, named):
    with pytest.raises(OptionError) as raised:
        strategy_of(parsed(*flags))
    assert all(flag in str(raised.value) for flag in named)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--top-p", "2"], "top_p=2"), (["--num-beams", "0"], "num_beams=0"), (["--num-beams", "4", "--num-beam-groups", "3"], "num_beam_groups=3")],
)  # fmt: skip
def test_ranges_are_those_of_the_strategies(flags, message):
    with pytest.raises(OptionError, match=message):
        strategy_of(parsed(*flags))


def test_flags_of_an_output_are_options_of_decode():
    flags = ["--max-new-tokens", "5", "--min-new-tokens", "2", "-n", "3", "--seed", "7", "--stop", "a\\nb", "--stop", "c",
             "--ignore-eos", "--logprobs", "2"]  # fmt: skip
    options = decode_options(parsed(*flags), load("shakespeare"))
    assert options == {
        "max_new_tokens": 5, "min_new_tokens": 2, "num_return_sequences": 3, "seed": 7, "stop": ["a\nb", "c"],
        "eos_token_id": None, "logprobs": 2, "processors": [],
    }  # fmt: skip


def test_penalties_are_processors_in_the_order_of_hugging_face():
    flags = ["--no-repeat-ngram-size", "3", "--suppress-tokens", "4,5 6", "--frequency-penalty", "0.25",
             "--presence-penalty", "0.5", "--repetition-penalty", "1.25"]  # fmt: skip
    *made, suppressed = decode_options(parsed(*flags), load(build.recurrent()))["processors"]
    assert made == [RepetitionPenalty(1.25), PresencePenalty(0.5), FrequencyPenalty(0.25), NoRepeatNgram(3)]
    assert isinstance(suppressed, SuppressTokens)
    np.testing.assert_array_equal(suppressed.ids, [4, 5, 6])


@pytest.mark.parametrize("flag", ["--suppress-tokens", "--stop"])
@pytest.mark.parametrize("token", [11, -1])
def test_ids_that_the_model_does_not_have_are_named_with_their_flag(flag, token):
    message = f"{flag}: id {token} at position 1 is out of range; the model's ids go from 0 to 10"
    with pytest.raises(OptionError, match=message):
        decode_options(parsed(f"{flag}=4 {token}"), load(build.recurrent()))


def test_stops_are_ids_where_there_is_no_vocabulary():
    model = load(build.recurrent())
    assert decode_options(parsed("--stop", "3 4", "--stop", "5"), model)["stop"] == [[3, 4], [5]]
    with pytest.raises(OptionError, match="--stop 'ROMEO': expected ids split by spaces"):
        decode_options(parsed("--stop", "ROMEO"), model)


def test_roles_are_json_or_a_file_of_it(tmp_path):
    (tmp_path / "r.json").write_text('{"token": "x"}')
    for given in ('{"token": "x"}', str(tmp_path / "r.json")):
        assert load_arguments(parsed("--roles", given))["roles"] == {"token": "x"}
    for given in ("{token}", str(tmp_path / "no.json")):
        with pytest.raises(OptionError, match="--roles: not JSON"):
            load_arguments(parsed("--roles", given))


def test_several_encoders_providers_and_ids():
    flags = ["--encoder", "a.onnx", "--encoder", "b.onnx", "--providers", "cuda,cpu", "--eos", "1", "--eos", "2"]
    read = load_arguments(parsed(*flags))
    assert (read["encoder"], read["providers"], read["eos_token_id"]) == (
        ["a.onnx", "b.onnx"],
        ["cuda", "cpu"],
        [1, 2],
    )


def test_a_regular_expression_is_a_constraint_of_the_outputs():
    model = load(build.recurrent())
    (constraint,) = decode_options(parsed("--regex", "a+"), model)["processors"]
    assert repr(constraint) == repr(decoding.Regex("a+"))


def test_phrases_that_beams_contain():
    beam = strategy_of(parsed("--num-beams", "4", "--must-contain", "ab", "--must-contain", "c"))
    assert beam == decoding.Beam(4, must_contain=decoding.MustContain(["ab", "c"]))
    with pytest.raises(OptionError, match="--must-contain: an option of beam search"):
        strategy_of(parsed("--must-contain", "ab"))
