"""The constraints that callers write: what they refuse before the first step, and what they say."""

import pickle
import sys

import pytest

from decoding import (
    Choices,
    Engine,
    Grammar,
    JSONSchema,
    OptionError,
    Regex,
    Request,
    decode,
    jobs,
    load,
    rollout,
    stream,
)
from tests.helpers import build

pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")

LETTERS = [chr(i) for i in range(32, 127)]


@pytest.fixture(scope="module")
def model():
    return load(build.recurrent("GRU", vocab=len(LETTERS), hidden=8, seed=1), tokenizer=LETTERS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Regex(3), r"Regex\(pattern=3\): expected a string"),
        (lambda: Regex("\ud800"), "it is no text"),
        (lambda: Regex("(a"), r"(?s)Regex\('\(a'\): .*unclosed group"),
        (lambda: Regex("a(?=b)"), "look-around, including look-ahead and look-behind, is not supported"),
        (lambda: Regex(r"(a)\1"), "backreferences are not supported"),
        (lambda: Regex(r"a\b"), "not supported"),
        (lambda: Regex(r"[^\s\S]"), "it matches no text at all"),
        (lambda: Regex("é"), "its texts begin with 'é', and no token of the model's vocabulary does"),
        (lambda: Regex("[é-ö]x"), "its texts begin with the byte 0xC3, and no token"),
        (lambda: JSONSchema(3), r"JSONSchema\(schema=3\): expected a dict"),
        (lambda: JSONSchema("{"), "it is no JSON"),
        (lambda: JSONSchema({"type": {1}}), "it is no JSON"),
        (lambda: JSONSchema({"type": "integer", "minimum": 5, "maximum": 3}), r"minimum \(5\) is greater than maximum"),
        (lambda: JSONSchema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: Grammar("start: rule"), 'at 1.8.: unknown name: "rule"'),
        (lambda: Grammar("start: !"), "Grammar"),
        (lambda: Choices([]), "at least one text is needed"),
        (lambda: Choices("yes"), "expected a list of strings"),
        (lambda: Choices(["yes", 3]), "expected a string"),
    ],
)
def test_wrong_constraints_are_named_before_the_first_step(model, tmp_path, make, message):
    calls = [
        lambda: decode(model, "a", processors=[make()]),
        lambda: decode(model, [Request("a", processors=[make()])]),
        lambda: next(stream(model, "a", processors=[make()])),
        lambda: Engine(model, processors=[make()]),
        lambda: jobs.run(model, ["a"], tmp_path / "out.jsonl", processors=[make()]),
        lambda: rollout(model, "ab", lambda ids: ids[:, 0], n=1, processors=[make()]),
    ]
    for call in calls:
        with pytest.raises(OptionError, match=message):
            call()
    assert not (tmp_path / "out.jsonl").exists()
    with Engine(model) as engine, pytest.raises(OptionError, match=message):
        engine.submit(Request("a", processors=[make()]))


def test_a_model_without_vocabulary_is_refused():
    with pytest.raises(OptionError, match="has no vocabulary, and constraints are about text"):
        decode(load(build.recurrent()), [1], processors=[Regex("a")])


def test_a_class_that_was_not_called_is_refused(model):
    with pytest.raises(OptionError, match="Regex is a class; pass an object of it"):
        decode(model, "a", processors=[Regex])


def test_choices_are_taken_as_they_are(model):
    for text in ('a"b', "a\\b", "[a]*", "a/b", " ", "{"):
        assert decode(model, "a", processors=[Choices([text])])[0].text == text


@pytest.mark.parametrize(
    "constraint", [Regex("a+"), JSONSchema({"type": "null"}), Grammar('start: "a"'), Choices(["a"])], ids=repr
)
def test_constraints_can_be_pickled(model, constraint):
    before = decode(model, "a", processors=[constraint], max_new_tokens=4)[0].text
    again = pickle.loads(pickle.dumps(constraint))
    assert decode(model, "a", processors=[again], max_new_tokens=4)[0].text == before
    assert repr(again) == repr(constraint)


def test_a_json_schema_may_be_text(model):
    schema = '{"const": [1, "a"], "x-guidance": {"whitespace_flexible": false}}'
    assert decode(model, "a", processors=[JSONSchema(schema)])[0].text == '[1,"a"]'


def test_without_llguidance_the_error_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(OptionError, match=r"pip install 'rnn-decoding\[constraints\]'"):
        decode(model, "a", processors=[Regex("b")])
