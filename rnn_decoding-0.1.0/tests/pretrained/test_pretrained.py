"""The models that ship: what they write, and what they weigh."""

import re
from importlib import resources

import pytest

from decoding import Beam, Greedy, Sample, decode, load
from decoding.cli.main import main

# A quatrain of five or of seven characters a line, with its marks.
FORM = re.compile(r"([^，。\n]{5}，[^，。\n]{5}。){2}|([^，。\n]{7}，[^，。\n]{7}。){2}")


@pytest.fixture(scope="module")
def tang():
    return load("tang")


def test_all_together_stay_under_8_mb():
    folder = resources.files("decoding") / "pretrained"
    assert sum(len(f.read_bytes()) for f in folder.iterdir() if f.name.endswith(".onnx")) < 8_000_000


@pytest.mark.parametrize("temperature", [0.7, 0.8, 1.0])
def test_at_least_95_of_100_poems_have_the_form(tang, temperature):
    out = decode(tang, None, Sample(temperature=temperature), num_return_sequences=100, seed=1)
    in_form = [h for h in out if FORM.fullmatch(h.text)]
    assert len(in_form) >= 95
    assert all(h.finish_reason == "eos" for h in in_form)
    assert len({h.text for h in out}) == 100
    assert {len(h.text) for h in in_form} == {24, 32}  # both kinds


def test_a_poem_goes_on_from_its_first_characters(tang):
    starts = ["春", "明月", "白日依山盡，", "孤帆遠影"]
    out = decode(tang, starts, Sample(temperature=0.7), num_return_sequences=25, seed=2)
    assert sum(bool(FORM.fullmatch(starts[h.prompt_index] + h.text)) for h in out) >= 95


@pytest.mark.parametrize("strategy", [Greedy(), Beam(num_beams=4)], ids=str)
def test_the_likeliest_poem_has_the_form(tang, strategy):
    assert FORM.fullmatch("春" + decode(tang, "春", strategy)[0].text)


def test_the_command_line_prints_a_poem(capsys):
    assert main(["generate", "tang", "春", "--seed", "1"]) == 0
    assert FORM.fullmatch(capsys.readouterr().out.strip())


def test_int8_poems_have_the_form_too():
    out = decode(load("tang", quantize="int8"), None, Sample(temperature=0.8), num_return_sequences=100, seed=1)
    assert sum(bool(FORM.fullmatch(h.text)) for h in out) >= 95
