"""The recipes of docs/constraints.md for the model's own distribution given that it obeys, against enumeration."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decoding import Regex, Sample, decode, score
from scripts.run_pages import examples
from tests.helpers.languages import SMALL, outputs, small

pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")

PAGE = Path(__file__).parents[2] / "docs" / "constraints.md"
LANGUAGE, EOS, LONGEST, DRAWS = "(ab|ba){1,2}c?", 4, 6, 20_000


@pytest.fixture(scope="module")
def weighted():
    """The page's function."""
    (code,) = [example.code for example in examples(PAGE.read_text()) if "def weighted" in example.code]
    names = {"decode": decode, "Sample": Sample}
    exec(code, names)
    return names["weighted"]


@pytest.fixture(scope="module", params=[0, 1])
def exact(request):
    """A model, its prompt, and the probability of each output of the language, EOS included."""
    model, prompt = small(request.param), [0]
    texts = list(outputs(LANGUAGE, LONGEST - 1))
    scores = score(model, [[*prompt, *ids, EOS] for ids in texts])
    return model, prompt, {ids: np.exp(own[1:].sum(dtype=np.float64)) for ids, own in zip(texts, scores, strict=True)}


def chi_square(found, expected):
    """The p-value of outputs against their distribution; rare ones count together."""
    drawn = Counter(tuple(h.tokens) for h in found)
    counts = np.array([drawn[ids] for ids in expected])
    assert counts.sum() == len(found)
    means = len(found) * np.array(list(expected.values()))
    common = means >= 10
    split = [np.append(own[common], own[~common].sum()) for own in (counts, means)]
    observed, wanted = (own[:-1] if split[1][-1] == 0 else own for own in split)
    return stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue  # of sums that agree to 1e-8


def test_kept_draws_have_the_exact_distribution(exact):
    model, prompt, probability = exact
    drawn = decode(model, prompt, Sample(), num_return_sequences=DRAWS, max_new_tokens=LONGEST, eos_token_id=EOS, seed=3)  # fmt: skip
    kept = [h for h in drawn if h.finish_reason == "eos" and re.fullmatch(LANGUAGE, "".join(SMALL[i] for i in h.tokens))]  # fmt: skip
    total = sum(probability.values())
    assert stats.binomtest(len(kept), DRAWS, total).pvalue > 1e-6
    assert chi_square(kept, {ids: p / total for ids, p in probability.items()}) > 1e-6


def test_weights_turn_the_draws_into_the_exact_distribution(exact, weighted):
    """A weight is the probability of an output over that of drawing it: so the draws have probability / weight."""
    model, prompt, probability = exact
    found, weights = weighted(model, prompt, Regex(LANGUAGE), DRAWS, max_new_tokens=LONGEST, eos_token_id=EOS, seed=4)
    assert all(h.finish_reason == "eos" for h in found)  # the language has no longer texts
    by_output = {}
    for h, weight in zip(found, weights, strict=True):
        assert by_output.setdefault(tuple(h.tokens), weight) == pytest.approx(weight, rel=1e-4)
    assert by_output.keys() <= probability.keys()
    drawn = {ids: probability[ids] / weight for ids, weight in by_output.items()}
    missing = {ids: 1e-9 for ids in probability if ids not in drawn}
    assert sum(drawn.values()) == pytest.approx(1, abs=1e-3)  # all but what was too rare to be drawn
    assert chi_square(found, drawn | missing) > 1e-6
    # The page's estimates, by the spread that the draws themselves have.
    total = sum(probability.values())
    assert abs(weights.mean() - total) < 5 * weights.std() / np.sqrt(DRAWS)
    size = weights.sum() ** 2 / (weights**2).sum()
    for ids in sorted(probability, key=probability.get)[-3:]:
        mine = np.array([tuple(h.tokens) == ids for h in found])
        expected = probability[ids] / total
        assert abs(mine @ weights / weights.sum() - expected) < 6 * np.sqrt(0.25 / size)
    # Without the weights, the draws are another distribution.
    assert chi_square(found, {ids: p / total for ids, p in probability.items()}) < 1e-6
