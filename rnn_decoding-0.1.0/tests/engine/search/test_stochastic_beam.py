"""Sampling without replacement."""

from decoding import Sample, decode, kernels, load
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
