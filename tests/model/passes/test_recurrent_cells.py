"""Recurrent cells with random options, stepped, beside the same cells in float64 NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import load
from decoding.model.verify import equivalence
from tests.helpers.cells import VOCAB, built, cells


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cells(), st.integers(1, 3), st.integers(1, 6))
def test_a_cell_with_any_options_steps_as_its_formulas_say(cell, batch, time):
    proto, truth = built(*cell)
    model = load(proto)
    assert model._network.contract.window is None, model.describe()
    ids = np.random.default_rng(0).integers(0, VOCAB, (batch, time))
    found = equivalence.stepped_run(model._network.session, model._network.contract, ids)
    expected = truth(ids)
    np.testing.assert_allclose(found, expected, atol=2e-5 * (1 + np.abs(expected).max()))
