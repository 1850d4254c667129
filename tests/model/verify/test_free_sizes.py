"""Sizes that differ from row to row: states as wide as a source or growing with the tokens, scores over a source's positions."""

import numpy as np
import onnx
import pytest

from decoding import ModelError, OptionError, decode, load, score
from decoding.model.contract.io import AuxiliaryInput
from decoding.model.verify.free_sizes import with_free_axis
from decoding.model.verify.layouts import StateShape
from tests.helpers.exports import CONTEXTS, context_names, with_contexts

FLOAT = np.dtype(np.float32)
MEMORY = AuxiliaryInput("memory", "context", FLOAT, 3, (None, 4), source_axis=0)
OTHER = AuxiliaryInput("other", "context", FLOAT, 3, (None, 4), source_axis=0)
DECLARED = {"memory": ("batch", "source", 4), "other": ("batch", "elsewhere", 4)}


@pytest.mark.parametrize(
    ("taken", "given", "contexts", "width_of"),
    [
        (("batch", "source"), ("batch", "source"), [MEMORY, OTHER], "memory"),
        (("batch", "elsewhere"), None, [MEMORY, OTHER], "other"),
        (("batch", "weights"), ("batch", "weights"), [MEMORY], "memory"),  # it keeps its size, and there is one source
        (("batch", "weights"), ("batch", "weights"), [MEMORY, OTHER], ""),
        (("batch", "past"), ("batch", "past + 1"), [MEMORY], ""),
        (("batch", "past"), None, [], ""),
    ],
)
def test_names_of_dimensions_tell_what_a_state_follows(taken, given, contexts, width_of):
    state = with_free_axis(StateShape("s", "s_next", (None, None), (0,), FLOAT), taken, given, contexts, DECLARED)
    assert (state.free_axis, state.width_of, state.sizes) == (1, width_of, (None, 4))
    assert state.after((5, 4), 3) == ((5, 4) if width_of else (5, 7))


def test_states_of_fixed_sizes_have_no_free_axis():
    state = StateShape("h", "h_next", (1, None, 8), (1,), FLOAT)
    assert with_free_axis(state, (1, "batch", 8), (1, "batch", 8), [MEMORY], DECLARED) is state
    assert state.after((1, 5, 8), 3) == (1, 5, 8)


@pytest.mark.parametrize("name", context_names("pointer"))
def test_scores_over_the_positions_of_a_source_are_no_vocabulary(name):
    with pytest.raises(ModelError, match=r"the output logits scores the positions of memory, as a pointer network's does.* 5 scores and not 4"):  # fmt: skip
        load(CONTEXTS / f"{name}.onnx")


@pytest.mark.parametrize("name", context_names("coverage", "location", "history", "hybrid"))
def test_what_takes_states_of_fixed_sizes_refuses_these(name):
    with pytest.raises(ModelError, match=r"executor='native': in the way is the state .*, which has no fixed size"):
        load(CONTEXTS / f"{name}.onnx", executor="native")


@pytest.mark.parametrize("name", context_names("coverage", "history"))
def test_int8_keeps_them(name):
    _, tokens, contexts, _ = with_contexts(name)
    model = load(CONTEXTS / f"{name}.onnx", quantize="int8")
    out = decode(model, [ids[:2] for ids in tokens], context=contexts or None, max_new_tokens=3, eos_token_id=None)
    assert [len(h.tokens) for h in out] == [3] * len(tokens)


def test_describe_says_what_a_state_follows():
    assert "float32 [batch, that of memory]" in with_contexts("legacy_coverage")[0].describe()
    assert "float32 [batch, 2, tokens so far, 4]" in with_contexts("legacy_hybrid")[0].describe()


def test_initial_values_of_any_length():
    model = with_contexts("legacy_history")[0]
    past = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    options = {"max_new_tokens": 3, "eos_token_id": None}
    together = decode(model, [[1], [2]], context={"past": past}, **options).tokens
    assert together == [decode(model, [[row + 1]], context={"past": past[row : row + 1]}, **options)[0].tokens for row in (0, 1)]  # fmt: skip
    assert together != decode(model, [[1], [2]], **options).tokens
    with pytest.raises(OptionError, match=r"context\['past'\] has shape \[2, 5, 7\]: expected \[2, any, 8\]"):
        decode(model, [[1], [2]], context={"past": past[:, :, :7]}, **options)


def test_weights_over_sources_of_unequal_length():
    _, tokens, contexts, _ = with_contexts("dynamo_location")
    model = load(CONTEXTS / "dynamo_location.onnx", roles={"attention": "weights"})
    out = decode(model, [ids[:2] for ids in tokens], context=contexts, return_attention=True, max_new_tokens=3, eos_token_id=None)  # fmt: skip
    assert [h.attention.shape for h in out] == [(3, len(source)) for source in contexts["memory"]]
    for hypothesis in out:
        np.testing.assert_allclose(hypothesis.attention.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("name", context_names("window_source", "coverage"))
def test_a_source_that_is_called_as_the_tokens_time_is_no_step_context(name):
    """The legacy exporter lets the caller give one name to the time of the tokens and to that of the source."""
    _, tokens, contexts, logprobs = with_contexts(name)
    proto = onnx.load(CONTEXTS / f"{name}.onnx")
    for port in proto.graph.input:
        for dim in port.type.tensor_type.shape.dim:
            if dim.dim_param == "source":
                dim.dim_param = "time"
    model = load(proto)
    assert [aux.kind for aux in model._network.contract.auxiliary_inputs] == ["context"]
    found = score(model, tokens, context=contexts)
    for own, ids, x in zip(found, tokens, logprobs, strict=True):
        np.testing.assert_allclose(own[1:], x[np.arange(len(ids) - 1), ids[1:]], atol=2e-5)


def test_a_plain_run_needs_a_value_for_each_token():
    model = with_contexts("dynamo_frames")[0]
    with pytest.raises(OptionError, match="needs 'mel' too; it takes tokens, mel"):
        model.run({"tokens": [[1, 2]]})
    assert model.run({"tokens": [[1, 2]], "mel": np.zeros((1, 2, 3))})["logits"].shape == (1, 2, 11)


def test_a_state_that_keeps_an_unnamed_size_is_asked_about():
    proto = onnx.load(CONTEXTS / "legacy_coverage.onnx")
    next(p for p in proto.graph.input if p.name == "coverage").type.tensor_type.shape.dim[1].dim_param = "unnamed"
    with pytest.raises(ModelError, match="the state coverage of no fixed size stays as long as it is; if it is as long as a source, export both with one name"):  # fmt: skip
        load(proto)
