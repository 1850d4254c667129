"""decoding/arguments.py: values by input name, numbers, seeds."""

import numpy as np
import pytest

from decoding.arguments import named_values, numbers, seed_of
from decoding.errors import OptionError


def test_a_value_alone_is_for_the_only_input():
    assert named_values("context", [1, 2], "m.onnx", {"image": "image"}) == {"image": [1, 2]}
    assert named_values("context", {"image": 1, "h0": 2}, "m.onnx", {"image": "image"}, {"h0"}) == {"image": 1, "h0": 2}
    assert named_values("context", None, "m.onnx", {}) == {}


@pytest.mark.parametrize(
    ("value", "names", "message"),
    [
        (3, {}, r"context: int: expected a dict from input names to arrays for m.onnx; it takes no context"),
        ([1], {"a": "a", "b": "b [3]"}, r"context: list: expected a dict .* for m.onnx; it takes a; b \[3\]"),
        ({"x": 1}, {"a": "a"}, r"context: m.onnx has no 'x'; it takes a"),
    ],
)
def test_what_is_wrong_with_names_is_said_in_one_form(value, names, message):
    with pytest.raises(OptionError, match=message):
        named_values("context", value, "m.onnx", names)


def test_numbers_take_the_inputs_dtype():
    assert numbers("context['a']", [1, 2.5], np.float32).dtype == np.float32
    with pytest.raises(OptionError, match=r"context\['a'\]: expected float32 numbers: could not convert"):
        numbers("context['a']", ["x"], np.float32)


def test_seeds():
    assert seed_of(np.int64(7)) == 7
    assert seed_of(None) != seed_of(None)
    with pytest.raises(OptionError, match=r"below 2\*\*64"):
        seed_of(2**64)
