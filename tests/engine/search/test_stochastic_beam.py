"""Sampling without replacement."""

import numpy as np
import pytest

from decoding import Beam, DecodeError, Sample, decode, kernels, load
from tests.helpers.build import recurrent


def test_a_row_is_asked_for_no_more_candidates_than_there_are_tokens(monkeypatch):
    """Asked for n of them, n = 10,000 took 114 s and 3.3 GB (issue 13)."""
    asked = []
    search = kernels.gumbel_top_k
    monkeypatch.setattr(kernels, "gumbel_top_k", lambda logits, k, **more: asked.append(k) or search(logits, k, **more))
    out = decode(
        load(recurrent()), [[1]], Sample(replacement=False), num_return_sequences=200, max_new_tokens=4, seed=1
    )
    assert len({tuple(h.tokens) for h in out}) == 200
    assert set(asked) == {11}


@pytest.mark.parametrize("strategy", [Beam(2), Sample(replacement=False)])
@pytest.mark.parametrize(
    ("value", "fault"), [(np.nan, "has a NaN"), (-np.inf, "has nothing to choose"), (np.inf, r"has \+inf")]
)
def test_a_search_over_several_rows_names_the_sequence_and_the_step(strategy, value, fault):
    def spoil(history, logits):
        for row, output in enumerate(history.outputs):
            if history.requests[row] == 1 and len(output) == 2:
                logits[row] = value

    prompts = [[1], [2], [3]]
    with pytest.raises(DecodeError, match=f"^sequence 2, step 2: .*{fault}") as caught:
        decode(load(recurrent()), prompts, strategy, num_return_sequences=2, max_new_tokens=4, seed=1, processors=[spoil])  # fmt: skip
    assert (caught.value.row, caught.value.step) == (2, 2)
