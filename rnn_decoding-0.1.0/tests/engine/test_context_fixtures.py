"""Every export of tests/models/contexts/: decoded in all ways, and compared with what torch gave for each row alone."""

import numpy as np
import pytest

from decoding import Beam, Greedy, Sample, decode, load, rollout, score, stream
from tests.helpers.exports import context_names, with_contexts

# The conditioner is an encoder.
OTHERS = ("pointer", "conditioner")
NAMES = [name for name in context_names() if name.split("_", 1)[1] not in OTHERS]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return with_contexts(request.param)


def expected(tokens, logprobs):
    """Torch's log-probability of every token but the first."""
    return [x[np.arange(len(ids) - 1), ids[1:]] for ids, x in zip(tokens, logprobs, strict=True)]


def prompts_of(tokens):
    """Beginnings of unequal length, each with at least two tokens to go."""
    return [ids[: 1 + row].tolist() for row, ids in enumerate(tokens)]


def cut(contexts, row):
    return {name: values[row : row + 1] for name, values in contexts.items()} or None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_torch(case, batch_size):
    model, tokens, contexts, logprobs = case
    found = score(model, tokens, context=contexts or None, batch_size=batch_size)
    for own, wanted in zip(found, expected(tokens, logprobs), strict=True):
        np.testing.assert_allclose(own[1:], wanted, atol=2e-5)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(temperature=2.0), Beam(3), Sample(replacement=False)])
def test_decoded_tokens_have_the_scores_of_whole_sequences(case, strategy):
    """Rows at different steps, beams that are reordered, prompts of unequal length: log-probabilities are those of score()."""
    model, tokens, contexts, _ = case
    several = 1 if isinstance(strategy, Greedy) else 3
    out = decode(model, prompts_of(tokens), strategy, context=contexts or None, max_new_tokens=3, seed=1, num_return_sequences=several, eos_token_id=None)  # fmt: skip
    prompts = prompts_of(tokens)
    for hypothesis in out:
        row = hypothesis.prompt_index
        found = score(model, [[*prompts[row], *hypothesis.tokens]], context=cut(contexts, row))[0]
        assert 0 < len(hypothesis.tokens) <= 3
        np.testing.assert_allclose(hypothesis.token_logprobs, found[len(prompts[row]) :], atol=5e-5)


def test_a_row_gets_the_same_in_every_batch(case):
    model, tokens, contexts, _ = case
    options = {"max_new_tokens": 3, "eos_token_id": None}
    prompts = prompts_of(tokens)
    together = decode(model, prompts, context=contexts or None, **options)
    one_slot = decode(model, prompts, context=contexts or None, batch_size=1, **options)
    alone = [
        decode(model, [prompts[row]], context=cut(contexts, row), **options)[0].tokens for row in range(len(prompts))
    ]
    streamed = [[] for _ in prompts]
    for event in stream(model, prompts, context=contexts or None, **options):
        streamed[event.prompt_index].append(event.token)
    assert together.tokens == one_slot.tokens == alone == streamed


def test_saved_and_loaded_again(case, tmp_path):
    model, tokens, contexts, logprobs = case
    model.save(tmp_path / "again.onnx")
    again = load(tmp_path / "again.onnx")
    found = score(again, tokens, context=contexts or None)
    for own, wanted in zip(found, expected(tokens, logprobs), strict=True):
        np.testing.assert_allclose(own[1:], wanted, atol=2e-5)


@pytest.mark.parametrize("name", context_names("frames", "coverage", "history", "hybrid"))
def test_rollouts_read_prefixes_as_prompts(name):
    model, tokens, contexts, _ = with_contexts(name)
    sequences = [ids[:4].tolist() for ids in tokens]
    values = rollout(model, sequences, lambda ids: ids[:, -1], n=1, strategy=Greedy(), context=contexts or None, eos_token_id=None)  # fmt: skip
    for row, ids in enumerate(sequences):
        for end in range(3):
            out = decode(model, [ids[: end + 1]], context=cut(contexts, row), max_new_tokens=3 - end, eos_token_id=None)
            assert values[row, end] == out[0].tokens[-1]
