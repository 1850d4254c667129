"""Contexts and initial states that the caller gives: context= and step_inputs=."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from decoding import OptionError, decode, load, stream

MODELS = Path(__file__).parents[1] / "models"
VECTORS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
PROMPTS = [[1, 2, 3], [4], [1, 2, 3], [5, 6]]


@pytest.fixture(scope="module")
def captioner():
    return load(MODELS / "torch_legacy_gru_context.onnx")


def test_without_prompts_every_context_has_one():
    proto = onnx.load(MODELS / "torch_legacy_gru_context.onnx")
    onnx.helper.set_model_props(proto, {"decoding.bos": "2"})
    model = load(proto)
    options = {"max_new_tokens": 6, "eos_token_id": None}
    out = decode(model, context=VECTORS, **options)
    assert out.tokens == decode(model, [[2]] * 4, context=VECTORS, **options).tokens
    assert out.tokens == decode(model, context={"context": VECTORS}, **options).tokens
    assert sorted({e.prompt_index for e in stream(model, context=VECTORS, **options)}) == [0, 1, 2, 3]
    with pytest.raises(OptionError, match=r"has shape \[\]: expected \[1, 3\]"):
        decode(model, context=3.0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"context: the model needs 'context'; pass context=\{'context': array \[prompts, 3\]\}"),
        ({"context": {"image": VECTORS}}, r"context: .* has no 'image'; it takes context"),
        ({"context": VECTORS[:2]}, r"context\['context'\] has shape \[2, 3\]: expected \[4, 3\]"),
        ({"context": VECTORS[:, :2]}, r"has shape \[4, 2\]: expected \[4, 3\]"),
        ({"context": VECTORS[0]}, r"has shape \[3\]: expected \[4, 3\]"),
        ({"context": [["a"] * 3] * 4}, r"expected float32 numbers"),
        ({"step_inputs": 3}, r"step_inputs=3: expected a function"),
        ({"step_inputs": lambda history: 3}, r"step_inputs returned int: expected a dict"),
        ({"step_inputs": lambda history: {"x": 3}}, r"step_inputs returned 'x': the model's contexts are context"),
        (
            {"step_inputs": lambda history: {"context": [[1, 2], [3]]}},
            r"step_inputs\['context'\]: expected float32 numbers",
        ),
        ({"step_inputs": lambda history: {"context": np.zeros(3)}}, r"step_inputs\['context'\] has shape \[3\]"),
    ],
)
def test_wrong_contexts(captioner, options, message):
    with pytest.raises(OptionError, match=message):
        decode(captioner, PROMPTS, **options)


def test_a_model_without_contexts_is_given_one():
    with pytest.raises(OptionError, match=r"context: .* has no 'x'; it takes no context"):
        decode("shakespeare", "A", context={"x": VECTORS})


def test_step_inputs_are_asked_at_every_step_of_a_prompt(captioner):
    """A wrong result is refused while a prompt is read as it is at a new token."""
    asked = []

    def last_tokens(history):
        asked.append([ids.tolist() for ids in history])
        return {"context": np.zeros((len(history), 2 if len(asked) == 2 else 3))}

    with pytest.raises(OptionError, match=r"step_inputs\['context'\] has shape \[1, 2\]: expected \[1, 3\]"):
        decode(captioner, [[1, 2, 3]], step_inputs=last_tokens)
    assert asked == [[[1]], [[1, 2]]]
