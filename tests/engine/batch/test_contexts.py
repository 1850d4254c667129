"""Inputs that the caller gives: context= and step_inputs=."""

from pathlib import Path

import numpy as np
import pytest

from decoding import Beam, Greedy, OptionError, Sample, decode, load, score, stream
from decoding.model.verify import equivalence

MODELS = Path(__file__).parents[2] / "models"
VECTORS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
PROMPTS = [[1, 2, 3], [4], [1, 2, 3], [5, 6]]


@pytest.fixture(scope="module")
def captioner():
    return load(MODELS / "torch_legacy_gru_context.onnx")


def whole(model, ids, vector):
    """Logits of a whole-sequence run with this context."""
    c = model._network.contract
    states = {s.input: s.initial_rows(1) for s in c.states}
    feeds = {**c.feeds(np.array([ids]), context={"context": vector[None]}), **states}
    return c.logits.arrange(model._network.session.run(feeds, [c.logits.name])[0])[0]


def test_the_context_is_what_the_original_framework_was_given(captioner):
    data = np.load(MODELS / "torch_legacy_gru_context.npz")
    for i in range(3):
        np.testing.assert_allclose(
            whole(captioner, data[f"ids_{i}"], data["feed_context"][0]), data[f"out_{i}"], atol=1e-5
        )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_prompt_sees_its_own_context_at_every_step(captioner, batch_size):
    out = decode(captioner, PROMPTS, Greedy(), context={"context": VECTORS}, max_new_tokens=8, batch_size=batch_size)
    for prompt, vector, tokens in zip(PROMPTS, VECTORS, out.tokens, strict=True):
        ids = list(prompt)
        for token in tokens:
            assert token == int(whole(captioner, ids, vector)[-1].argmax())
            ids.append(token)
    assert out.tokens[0] != out.tokens[2]


@pytest.mark.parametrize("strategy", [Sample(), Beam(num_beams=3), Sample(replacement=False)])
def test_contexts_follow_their_rows_through_every_search(captioner, strategy):
    options = {"max_new_tokens": 7, "eos_token_id": [0, 3], "seed": 2, "num_return_sequences": 3}
    found = decode(captioner, PROMPTS * 5, strategy, context=np.tile(VECTORS, (5, 1)), batch_size=7, **options)
    for h in found:
        prompt, vector = (PROMPTS * 5)[h.prompt_index], VECTORS[h.prompt_index % 4]
        ends = [0, 3] if h.finish_reason == "eos" else [None]
        logits = [whole(captioner, prompt + h.tokens + [e] * (e is not None), vector) for e in ends]
        expected = []
        for e, rows in zip(ends, logits, strict=True):
            tokens = h.tokens + [e] * (e is not None)
            rows = rows[len(prompt) - 1 : len(prompt) - 1 + len(tokens)].astype(float)
            own = rows[np.arange(len(tokens)), tokens] - np.log(np.exp(rows).sum(-1))
            expected.append(own.sum())
        assert min(abs(h.logprob - e) for e in expected) < 1e-4


def test_scores_and_streams_take_contexts(captioner):
    out = decode(captioner, PROMPTS, Greedy(), context=VECTORS, max_new_tokens=5)
    scores = score(captioner, [p + t for p, t in zip(PROMPTS, out.tokens, strict=True)], context=VECTORS)
    for h, values in zip(out, scores, strict=True):
        np.testing.assert_allclose(values[-5:], h.token_logprobs, atol=1e-5)
    events = list(stream(captioner, PROMPTS, Greedy(), context=VECTORS, max_new_tokens=5))
    assert [[e.token for e in events if e.prompt_index == i] for i in range(4)] == out.tokens


@pytest.mark.parametrize("strategy", [Greedy(), Beam(num_beams=2)])
def test_step_inputs_give_a_context_anew_for_every_step(captioner, strategy):
    """The context of a step is a function of the last three tokens; the plain loop computes it for each prefix."""

    def last_three(history):
        return {"context": np.array([np.resize(ids, 3) if len(ids) < 3 else ids[-3:] for ids in history]) / 4}

    out = decode(captioner, PROMPTS, strategy, step_inputs=last_three, max_new_tokens=6, batch_size=3)
    c = captioner._network.contract
    for prompt, h in zip(PROMPTS, out, strict=True):
        ids, total, scores = [], 0.0, np.zeros(0)
        states = {s.input: s.initial_rows(1) for s in c.states}
        for step, token in enumerate(prompt + h.tokens):
            if step >= len(prompt):
                row = scores.astype(float)
                total += row[token] - np.log(np.exp(row).sum())
            ids.append(token)
            feeds = c.feeds(
                np.array([[token]]), context={k: v.astype(np.float32) for k, v in last_three([np.array(ids)]).items()}
            )
            logits, *after = captioner._network.session.run(
                {**feeds, **states}, [c.logits.name, *(s.output for s in c.states)]
            )
            states = {s.input: v for s, v in zip(c.states, after, strict=True)}
            scores = c.logits.arrange(logits)[0, -1]
        assert h.logprob == pytest.approx(total, abs=1e-4)


def test_describe_says_what_to_give(captioner):
    assert "context  context" in captioner.describe()
    assert "float32 [batch, 3]" in captioner.describe()
    assert equivalence.gives_probabilities(captioner._network.session, captioner._network.contract) is False


# -- attention -----------------------------------------------------------------------------------------------

SOURCES = np.random.default_rng(2).normal(size=(3, 5, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def attentive():
    return load(MODELS / "torch_dynamo_attention.onnx")


def plain_attention(model, prompt, tokens, source):
    """Weights [tokens, source] of a plain loop: those with which each new token was chosen; and their log-probabilities."""
    c = model._network.contract
    states = {s.input: s.initial_rows(1) for s in c.states}
    names = [c.logits.name, c.attention, *(s.output for s in c.states)]
    weights, logprobs, logits, attention = [], [], None, None
    for step, token in enumerate([*prompt, *tokens]):
        if step >= len(prompt):
            row = logits[0].astype(float)
            weights.append(attention[0])
            logprobs.append(row[token] - np.log(np.exp(row).sum()))
        feeds = c.feeds(np.array([[token]]), context={"context": source[None]})
        logits, attention, *after = model._network.session.run({**feeds, **states}, names)
        states = {s.input: v for s, v in zip(c.states, after, strict=True)}
    return np.array(weights), np.array(logprobs)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(num_beams=3)])
def test_attention_is_what_each_token_was_chosen_with(attentive, strategy):
    prompts = [[1, 2], [3], [4, 5, 6]]
    outputs = 2 if isinstance(strategy, Beam) else 1
    out = decode(
        attentive, prompts, strategy, context=SOURCES, return_attention=True, max_new_tokens=6, seed=1, eos_token_id=0,
        num_return_sequences=outputs, batch_size=7,
    )  # fmt: skip
    for h in out:
        expected, _ = plain_attention(attentive, prompts[h.prompt_index], h.tokens, SOURCES[h.prompt_index])
        assert h.attention.shape == (len(h.tokens), 5)
        np.testing.assert_allclose(h.attention, expected.reshape(-1, 5), atol=1e-5)
        np.testing.assert_allclose(h.attention.sum(1), 1, atol=1e-5)


def test_coverage_is_gnmts(attentive):
    beam = Beam(num_beams=4, coverage_penalty=0.7, length_penalty=0.5)
    out = decode(
        attentive, [[1]], beam, context=SOURCES[:1], max_new_tokens=5, eos_token_id=None, num_return_sequences=4
    )
    for h in out:
        weights, logprobs = plain_attention(attentive, [1], h.tokens, SOURCES[0])
        coverage = np.log(np.minimum(weights.sum(0), 1)).sum()
        assert h.score == pytest.approx(logprobs.sum() / 5**0.5 + 0.7 * coverage, abs=1e-4)
    assert list(out.scores) == sorted(out.scores, reverse=True)


def test_a_model_without_attention(captioner):
    with pytest.raises(OptionError, match=r"return_attention=True: .* has no attention output"):
        decode(captioner, PROMPTS, context=VECTORS, return_attention=True)
    with pytest.raises(OptionError, match=r"Beam\(coverage_penalty=...\): .* has no attention output"):
        decode(captioner, PROMPTS, Beam(coverage_penalty=0.2), context=VECTORS)
