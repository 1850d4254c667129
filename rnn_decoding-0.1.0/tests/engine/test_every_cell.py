"""Every strategy on random models of every cell and several shapes, beside the plain loop over the unchanged file."""

import numpy as np
import pytest

from decoding import Beam, Greedy, RepetitionPenalty, Sample, TopN, decode, kernels, load, score, stream
from tests.helpers import build

SHAPES = [  # hidden, layers, vocabulary
    (1, 1, 2),
    (5, 3, 17),
    (33, 1, 300),
    (130, 2, 64),  # wide enough to be folded
]
PROMPTS = [[1], [0, 1, 1], [1, 0]]
STEPS = 7


@pytest.fixture(
    scope="module",
    params=[(cell, *shape) for cell in build.CELLS for shape in SHAPES],
    ids=lambda p: f"{p[0]}-{p[2]}x{p[1]}-V{p[3]}",
)
def pair(request):
    """The loaded model, and float64 log-probabilities [T, V] of the unchanged file after each prefix."""
    cell, hidden, layers, vocab = request.param
    options = {"hidden": hidden, "layers": layers, "vocab": vocab, "seed": hidden, "scale": 1.5 / np.sqrt(hidden)}
    proto = build.recurrent(cell, **options)
    exposed = build.recurrent(cell, exposed=layers > 1, **options)

    def logprobs(ids):
        logits = build.whole_run(proto, [ids])[0].astype(np.float64)
        return (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )

    return load(exposed), logprobs


def follow(logprobs, prompt, tokens):
    """Log-probabilities [n, V] after the prompt and each of the new tokens but the last."""
    return logprobs([*prompt, *tokens])[len(prompt) - 1 : -1]


def test_greedy(pair):
    model, logprobs = pair
    for prompt, h in zip(PROMPTS, decode(model, PROMPTS, max_new_tokens=STEPS, eos_token_id=None), strict=True):
        expected = follow(logprobs, prompt, h.tokens)
        best = expected.max(-1)
        np.testing.assert_allclose(expected[np.arange(STEPS), h.tokens], best, atol=1e-5)
        np.testing.assert_allclose(h.token_logprobs, best, atol=1e-5)


@pytest.mark.parametrize("strategy", [Sample(temperature=0.8, top_p=0.9), TopN(2)], ids=["Sample", "TopN"])
def test_draws(pair, strategy):
    """What was drawn has the model's own log-probabilities, and is what the kernel draws from the file's own logits."""
    model, logprobs = pair
    out = decode(model, PROMPTS, strategy, max_new_tokens=STEPS, eos_token_id=None, seed=9, num_return_sequences=3)
    for prompt, group in zip(PROMPTS, out.by_prompt(), strict=True):
        for h in group:
            expected = follow(logprobs, prompt, h.tokens)
            np.testing.assert_allclose(h.token_logprobs, expected[np.arange(STEPS), h.tokens], atol=1e-5)
            if isinstance(strategy, TopN):
                assert all((row > row[token] + 1e-5).sum() < 2 for row, token in zip(expected, h.tokens, strict=True))
    single = decode(model, PROMPTS, Sample(temperature=0.8), max_new_tokens=STEPS, eos_token_id=None, seed=9)
    for row, (prompt, h) in enumerate(zip(PROMPTS, single, strict=True)):
        logits = follow(logprobs, prompt, h.tokens).astype(np.float32)
        drawn, _ = kernels.draw(logits, temperature=0.8, seed=9, rows=[row] * STEPS, step=np.arange(STEPS))
        assert h.tokens == drawn.tolist()


def test_beam_is_at_least_as_good_as_greedy_and_its_scores_are_true(pair):
    model, logprobs = pair
    beams = decode(model, PROMPTS, Beam(num_beams=4, length_penalty=0.0), max_new_tokens=STEPS, eos_token_id=0,
                   num_return_sequences=2)  # fmt: skip
    greedy = decode(model, PROMPTS, Greedy(), max_new_tokens=STEPS, eos_token_id=0)
    for prompt, group, best in zip(PROMPTS, beams.by_prompt(), greedy, strict=True):
        assert group[0].score >= best.logprob - 0.5  # a beam may lose the greedy path, but not by much on these
        for h in group:
            ids = h.tokens + [0] * (h.finish_reason == "eos")
            expected = follow(logprobs, prompt, ids)
            assert h.score == pytest.approx(expected[np.arange(len(ids)), ids].sum(), abs=1e-4)


def test_distinct_samples(pair):
    model, logprobs = pair
    out = decode(model, [[1]], Sample(replacement=False), max_new_tokens=3, eos_token_id=None, seed=4,
                 num_return_sequences=6)  # fmt: skip
    assert len({tuple(t) for t in out.tokens}) == len(out) == min(6, model.vocab_size**3)
    for h in out:
        expected = follow(logprobs, [1], h.tokens)
        assert h.logprob == pytest.approx(expected[np.arange(3), h.tokens].sum(), abs=1e-4)


def test_scores_streams_processors_and_the_shortest_length(pair):
    model, logprobs = pair
    options = {"max_new_tokens": STEPS, "min_new_tokens": 3, "eos_token_id": 0, "seed": 2}
    processors = [RepetitionPenalty(1.2)]
    out = decode(model, PROMPTS, Sample(), processors=processors, **options)
    events = list(stream(model, PROMPTS, Sample(), processors=processors, **options))
    for i, (prompt, h) in enumerate(zip(PROMPTS, out, strict=True)):
        ids = h.tokens + [0] * (h.finish_reason == "eos")
        assert len(ids) >= 3
        assert [e.token for e in events if e.prompt_index == i] == ids
        expected = follow(logprobs, prompt, ids)[np.arange(len(ids)), ids]
        np.testing.assert_allclose(h.token_logprobs, expected, atol=1e-5)
        np.testing.assert_allclose(score(model, [prompt + ids])[0][len(prompt) :], expected, atol=1e-5)
