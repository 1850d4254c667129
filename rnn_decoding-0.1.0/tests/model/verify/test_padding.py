"""decoding/model/verify/padding.py: contexts of unequal length share a batch only where padding changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from decoding import ModelError
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.contract.pad import pad_together
from decoding.model.verify.padding import verify_padding

FLOAT, BOOL = np.dtype(np.float32), np.dtype(bool)
MEMORY = AuxiliaryInput("memory", "context", FLOAT, 3, (None, 3), source_axis=0)
MASK = AuxiliaryInput("mask", "source_mask", BOOL, 2, (None,), source="memory")
LENGTH = AuxiliaryInput("length", "source_length", np.dtype(np.int64), 1, source="memory")


def runs(result):
    """A network of one output: `result` of the padded inputs, a row each."""
    return lambda inputs, rows: [[row] for row in result(pad_together(inputs, rows))]


def masked_mean(given):
    weights = given["mask"][..., None].astype(np.float64)
    return ((given["memory"] + 1) * weights).sum(1) / np.maximum(weights.sum(1), 1)


def test_a_mask_that_is_read_makes_padding_harmless():
    assert verify_padding([MEMORY, MASK], runs(masked_mean)) == [MEMORY, MASK]


def test_a_mask_may_be_true_where_there_is_padding():
    found = verify_padding([MEMORY, MASK], runs(lambda given: masked_mean({**given, "mask": ~given["mask"]})))
    assert found == [MEMORY, replace(MASK, inverted=True)]


def test_a_length_that_is_read_makes_padding_harmless():
    def last(given):
        return given["memory"][np.arange(len(given["length"])), given["length"] - 1]

    assert verify_padding([MEMORY, LENGTH], runs(last)) == [MEMORY, LENGTH]


def test_a_mask_that_is_ignored_leaves_padding_harmful():
    assert verify_padding([MEMORY, MASK], runs(lambda given: given["memory"].mean(1))) is None


def test_padding_with_what_changes_nothing_needs_no_mask():
    assert verify_padding([MEMORY], runs(lambda given: given["memory"].sum(1))) == [MEMORY]


def test_a_network_that_is_right_for_sorted_lengths_alone_does_not_pass():
    """As torch's packed sequences with enforce_sorted, whose unsorted rows are cut at the length of a later one."""

    def packed(given):
        ends = np.minimum.accumulate(given["length"])
        return np.stack([row[:end].sum(0) for row, end in zip(given["memory"], ends, strict=True)])

    assert verify_padding([MEMORY, LENGTH], runs(packed)) is None


def test_results_along_the_source_are_compared_as_far_as_both_reach():
    assert verify_padding([MEMORY], runs(lambda given: given["memory"] * 2)) == [MEMORY]


def test_of_a_fixed_length_the_padding_itself_must_not_matter():
    fixed = replace(MEMORY, sizes=(9, 3))
    mask = replace(MASK, sizes=(None,))
    assert verify_padding([fixed, mask], runs(masked_mean)) == [fixed, mask]
    assert verify_padding([fixed, mask], runs(lambda given: given["memory"].sum(1))) is None


@pytest.mark.parametrize("result", [np.nan, np.inf])
def test_results_that_are_no_numbers_verify_nothing(result):
    assert verify_padding([MEMORY], runs(lambda given: np.full((len(given["memory"]), 1), result))) is None


def test_a_mask_that_the_graph_refuses_is_tried_the_other_way_round():
    def refuse(given):
        if given["mask"][:, 0].all():
            raise ModelError("the first position must be padding")
        return masked_mean({**given, "mask": ~given["mask"]})

    assert verify_padding([MEMORY, MASK], runs(refuse)) == [MEMORY, replace(MASK, inverted=True)]


def test_numbers_to_probe_with_may_be_sampled():
    asked = []

    def sample(aux, rng, shape):
        asked.append(shape)
        return np.ones(shape, aux.dtype)

    verify_padding([MEMORY], runs(lambda given: given["memory"].sum(1)), sample)
    assert asked == [(4, 3), (7, 3), (2, 3)] * 2  # at two scales


def test_a_softmax_that_large_numbers_saturate_does_not_hide_padding():
    """Attention without a mask: between numbers of a few units it sees one position, and no padding (issue 14)."""

    def attended(given):
        energy = 40 * (given["memory"].sum(-1) + 1)
        weights = np.exp(energy - energy.max(1, keepdims=True))
        return (weights[..., None] * given["memory"]).sum(1) / weights.sum(1, keepdims=True)

    assert verify_padding([MEMORY], runs(attended)) is None


def test_inputs_with_a_value_for_each_token_take_as_many_as_the_run_has():
    frames = AuxiliaryInput("frames", "step_context", FLOAT, 3, (None, 2))
    shapes = []

    def run(inputs, rows):
        shapes.extend(row["frames"].shape for row in rows)
        return [[row["memory"].sum(0)] for row in rows]

    assert verify_padding([MEMORY, frames], run, time=5) == [MEMORY, frames]
    assert set(shapes) == {(5, 2)}
