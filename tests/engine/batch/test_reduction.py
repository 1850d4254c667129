"""Which part of a step's logits comes down from a device."""

from dataclasses import replace

import numpy as np
import pytest

from decoding import Beam, Greedy, RepetitionPenalty, Sample, TopN, load
from decoding.engine.batch.reduction import Candidates, reduction_for
from decoding.inputs.options import make_call
from tests.helpers import build


def test_the_best_come_down_where_they_are_few_bytes_of_many():
    """A rule of bytes, and of what is looked at."""

    def reduced(strategy, rows=64, vocab=5000, **options):
        model = load(build.unigram(np.zeros(vocab, np.float32)))
        call = make_call(model, strategy, **options)
        return reduction_for(model._network, call, rows)

    assert reduced(Greedy()).count == 2
    assert reduced(TopN(5)).count == 6
    assert reduced(Sample()).how == "draw"
    assert reduced(Sample(top_k=40)).count == 41
    assert reduced(Beam(num_beams=5)).count == 11
    for strategy in (Sample(top_p=0.9), Sample(replacement=False), Sample(top_k=2000)):
        assert reduced(strategy) is None
    assert reduced(Greedy(), rows=2) is None  # 40 KB
    assert reduced(Greedy(), vocab=100, rows=64) is None


@pytest.mark.parametrize(
    "options",
    [{"processors": [RepetitionPenalty(1.3)]}, {"logprobs": 2}, {"min_new_tokens": 3, "eos_token_id": 1}],
    ids=lambda options: next(iter(options)),
)
def test_all_come_down_where_something_looks_at_them(options):
    model = load(build.unigram(np.zeros(5000, np.float32)))
    call = make_call(model, Greedy(), **options)
    assert reduction_for(model._network, call, 64) is None
    assert reduction_for(model._network, make_call(model, Greedy()), 64) is not None
    assert reduction_for(model._network, replace(make_call(model, Greedy()), teacher_ratio=0.0), 64) is None


def test_candidates_know_their_log_probabilities():
    normalizers = np.array([1.0, np.nan, np.inf])
    candidates = Candidates(np.array([[0, 4], [1, 2], [1, 2]]), normalizers)
    found = candidates.logprobs(np.array([[0.5, -1], [0, 0], [0, 0]], np.float32))
    np.testing.assert_array_equal(found, np.float32([[-0.5, -2], [np.nan] * 2, [np.inf] * 2]))
