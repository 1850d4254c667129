"""The scores of several models together, against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import OptionError, kernels
from decoding.kernels import reference
from tests.helpers.ensembles import combined, log_softmax
from tests.helpers.kernels import in_every_instruction_set


def run(how, logits, weights):
    out = np.full(logits[0].shape, 7, np.float32)
    kernels.combine(logits, weights, how, out)
    return out


@st.composite
def members(draw, *, least):
    count, rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 7, 65, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = [
        rng.normal(0, draw(st.sampled_from([0.1, 3.0, 60.0])), (rows, width)).astype(np.float32) for _ in range(count)
    ]
    for own in logits:
        own[:, 1:][rng.random((rows, width - 1)) < draw(st.sampled_from([0.0, 0.3]))] = -np.inf
    weights = draw(st.lists(st.sampled_from([least, 0.0, 0.3, 1.0, 2.5]), min_size=count, max_size=count))
    weights[draw(st.integers(0, count - 1))] = 1.0
    return logits, weights


@settings(deadline=None)
@given(members(least=-1.5))
def test_sums_of_log_probabilities_are_those_of_numpy(given_members):
    logits, weights = given_members
    expected = combined([log_softmax(x) for x in logits], weights)
    scale = 1e-5 * (1 + np.abs(np.concatenate(logits)[np.isfinite(np.concatenate(logits))]).max())
    found = run("logprobs", logits, weights)
    np.testing.assert_array_equal(found == -np.inf, expected == -np.inf)
    np.testing.assert_allclose(found, expected, atol=scale)
    np.testing.assert_allclose(reference.combine(logits, weights, "logprobs"), expected, atol=scale)
    np.testing.assert_allclose(log_softmax(run("logits", logits, weights)), log_softmax(expected), atol=scale)


@settings(deadline=None)
@given(members(least=0.0))
def test_means_of_probabilities_are_those_of_numpy(given_members):
    logits, weights = given_members
    total = sum(weights)
    parts = [log_softmax(x) + np.log(w / total) for x, w in zip(logits, weights, strict=True) if w]
    expected = np.logaddexp.reduce(parts, axis=0)
    found = run("probs", logits, weights)
    np.testing.assert_allclose(reference.combine(logits, weights, "probs"), expected, atol=1e-9)
    np.testing.assert_allclose(found, expected, atol=1e-5 * (1 + np.abs(expected[np.isfinite(expected)]).max()))


def test_a_single_member_keeps_its_bits():
    logits = np.random.default_rng(0).normal(0, 9, (3, 50)).astype(np.float32)
    np.testing.assert_array_equal(run("logits", [logits], [1.0]), logits)
    np.testing.assert_array_equal(run("logits", [logits, logits], [0.5, 0.5]), logits)
    np.testing.assert_array_equal(run("logits", [logits, logits], [0.0, 1.0]), logits)


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("how", ["logits", "logprobs", "probs"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_score_of_a_member_is_none_of_the_combination(how, wrong, weight):
    """And the other rows are as if it were not there."""
    good = np.zeros((3, 4), np.float32)
    bad = good.copy()
    bad[1, 2] = wrong
    found = run(how, [good, bad], [2.0, abs(weight) if how == "probs" else weight])
    assert not np.isfinite(found[1, 2])
    assert found[1, 2] != -np.inf
    assert np.isfinite(found[[0, 2]]).all()


def test_a_row_in_which_a_member_forbids_everything_has_no_token():
    good, bad = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    bad[0] = -np.inf
    for how in ("logits", "logprobs"):
        found = run(how, [good, bad], [1.0, 1.0])
        assert (found[0] == -np.inf).all()
        assert np.isfinite(found[1]).all()


def test_an_impossible_token_is_no_reason_to_prefer_it():
    """A token that a subtracted model forbids is forbidden, as it is where both do."""
    first = np.array([[0, 1, -np.inf, 2]], np.float32)
    second = np.array([[0, -np.inf, -np.inf, 1]], np.float32)
    for how in ("logits", "logprobs"):
        assert (run(how, [first, second], [3.0, -2.0]) == -np.inf).tolist() == [[False, True, True, False]]


def test_probabilities_too_small_for_float32_keep_their_logarithm():
    first, second = np.array([[0, -200, -300]], np.float32), np.array([[0, -150, -400]], np.float32)
    np.testing.assert_allclose(run("probs", [first, second], [1.0, 1.0])[0, 1:], [-150.693147, -300.693147], rtol=1e-6)


def test_arrays_that_do_not_fit_are_refused():
    row, out = np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32)
    for logits, weights in (
        ([row], [1, 1]),
        ([], []),
        ([row, row[:1]], [1, 1]),
        ([row, row.astype(np.float64)], [1, 1]),
        ([row[:, ::2]], [1]),
    ):
        with pytest.raises(OptionError, match="expected as many, and arrays like out"):
            kernels.combine(logits, weights, "logits", out)


def test_every_instruction_set_gives_the_same_sums():
    """A product and a sum are rounded each by themselves, and so are the sums of exponentials."""
    printed = in_every_instruction_set(
        "import numpy as np; from decoding import kernels; x = np.random.default_rng(0).normal(0, 5, (2, 3, 700)).astype(np.float32);"
        "out = np.zeros((3, 700), np.float32); kernels.combine(list(x), [1, -0.3], 'logits', out); print(out.tobytes().hex(), end='')"
    )
    assert len(set(printed.values())) == 1
