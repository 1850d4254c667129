"""Limits of sequences and runs, found at loading and kept while decoding."""

import numpy as np
import pytest

from decoding import Beam, DecodeError, Greedy, ModelError, OptionError, Sample, decode, load, score
from decoding.model.verify.lengths import _most
from tests.helpers.exports import CONTEXTS, context_names


@pytest.mark.parametrize("limit", [1, 2, 40, 63, 64, 65, 200, 511])
def test_the_limit_is_found_exactly(limit):
    def run(size):
        if size > limit:
            raise ModelError(f"{size} is too many")

    assert _most(run, 512) == (limit, f"{limit + 1} is too many")
    assert _most(run, limit) == (None, "")


@pytest.mark.parametrize("name", context_names("window_positions", "offset"))
@pytest.mark.parametrize("strategy", [Greedy(), Beam(2), Sample(replacement=False)])
def test_a_table_of_positions_ends_the_output(name, strategy):
    roles = {"position": "offset"} if "offset" in name else None
    model = load(CONTEXTS / f"{name}.onnx", roles=roles)
    longest = model._network.contract.longest
    assert longest == (40 if "offset" in name else 64)
    assert f"a sequence has at most {longest} tokens" in model.describe()
    out = decode(model, [[1, 2, 3], [4]], strategy, eos_token_id=None, max_new_tokens=100)
    # Every token but the last is read.
    assert [len(h.tokens) for h in out] == [longest - 2, longest]
    assert {h.finish_reason for h in out} == {"length"}
    with pytest.raises(OptionError, match=rf"prompts\[0\]: {longest + 1} tokens with BOS, but the model takes at most {longest}"):  # fmt: skip
        decode(model, [[1] * (longest + 1)], strategy)
    with pytest.raises(OptionError, match=rf"{longest + 1} tokens with BOS"):
        score(model, [[1] * (longest + 2)])
    assert np.isfinite(score(model, [[1] * (longest + 1)])[0][1:]).all()


@pytest.mark.parametrize("strategy", [Greedy(), Beam(2), Sample(replacement=False)])
def test_what_was_not_verified_fails_in_words(strategy):
    model = load(CONTEXTS / "dynamo_offset.onnx", roles={"position": "offset"}, verify=False)
    with pytest.raises(DecodeError, match=r"the run from token 41 on of the longest of .* rows: .*Likely the graph holds only up to some length") as caught:  # fmt: skip
        decode(model, [[1, 2, 3], [4]], strategy, eos_token_id=None)
    assert caught.value.step == 41
    with pytest.raises(DecodeError, match="Likely the graph holds only up to some length"):
        decode(model, [[1] * 60], strategy)
    with pytest.raises(DecodeError, match="Likely the graph holds only up to some length"):
        score(model, [[1] * 60])


def test_graphs_of_recurrent_layers_have_no_limit():
    contract = load("shakespeare")._network.contract
    assert (contract.longest, contract.longest_run) == (None, None)
