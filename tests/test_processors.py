"""decoding/processors.py: built-in processors beside a slow loop, and callables."""

import math

import numpy as np
import pytest

from decoding import (
    AllowedTokens,
    Beam,
    DecodeError,
    ForcedTokens,
    FrequencyPenalty,
    Greedy,
    LogitBias,
    NoRepeatNgram,
    OptionError,
    PrefixAllowed,
    PresencePenalty,
    RepetitionPenalty,
    Sample,
    SuppressTokens,
    decode,
    load,
    score,
)
from tests.helpers import build

PROMPTS = [[1], [2, 3, 4], [5, 6], [7], [1, 2, 3, 4, 5, 6, 7, 8], [9], [3, 3], [0, 1, 2], [4], [10, 9]]


@pytest.fixture(scope="module")
def lstm():
    return load(build.recurrent("LSTM", layers=2, scale=0.7, seed=3))


def reference_loop(model, prompt, edit, steps):
    """Greedy decoding with an edit of the logits, by scoring whole prefixes."""
    ids, out = list(prompt), []
    for _ in range(steps):
        logits = model(ids)
        edit(ids, out, logits)
        token = int(np.argmax(logits))
        ids.append(token)
        out.append(token)
    return out


def no_second_ngram(n):
    def edit(ids, out, logits):
        for start in range(len(ids) - n + 1):
            if ids[start : start + n - 1] == ids[len(ids) - n + 1 :]:
                logits[ids[start + n - 1]] = -np.inf

    return edit


def repetition(ids, out, logits):
    for token in set(ids):
        logits[token] = logits[token] * 1.7 if logits[token] < 0 else logits[token] / 1.7


def presence(ids, out, logits):
    for token in set(out):
        logits[token] -= 0.8


def frequency(ids, out, logits):
    for token in out:
        logits[token] -= 0.4


def set_to(value, tokens):
    def edit(ids, out, logits):
        logits[tokens] = value

    return edit


@pytest.mark.parametrize(
    ("processor", "edit"),
    [
        (RepetitionPenalty(1.7), repetition),
        (PresencePenalty(0.8), presence),
        (FrequencyPenalty(0.4), frequency),
        (NoRepeatNgram(2), no_second_ngram(2)),
        (NoRepeatNgram(1), no_second_ngram(1)),
        (SuppressTokens([1, 5, 6, 7]), set_to(-np.inf, [1, 5, 6, 7])),
        (AllowedTokens([2, 9]), set_to(-np.inf, [0, 1, 3, 4, 5, 6, 7, 8, 10])),
        (LogitBias({4: 100.0}), set_to(100.0, [4])),
        (
            PrefixAllowed(lambda ids: [int(ids[-1] + 1) % 11]),
            lambda ids, out, logits: set_to(100.0, [(ids[-1] + 1) % 11])(ids, out, logits),
        ),
    ],
    ids=lambda p: type(p).__name__ if not callable(p) or hasattr(p, "__dict__") else "",
)
def test_processors_do_what_the_slow_loop_does(lstm, processor, edit):
    proto = build.recurrent("LSTM", layers=2, scale=0.7, seed=3)
    steps = 7
    out = decode(lstm, PROMPTS[:4], Greedy(), max_new_tokens=steps, processors=[processor], batch_size=3)
    for prompt, tokens in zip(PROMPTS, out.tokens, strict=False):
        assert tokens == reference_loop(lambda ids: build.whole_run(proto, [ids])[0, -1], prompt, edit, steps)


def test_forced_tokens_and_the_models_own_logprobs(lstm):
    (h,) = decode(lstm, [1], Sample(), max_new_tokens=5, seed=1, processors=[ForcedTokens({0: 7, 3: 2})])
    assert (h.tokens[0], h.tokens[3]) == (7, 2)
    np.testing.assert_allclose(h.token_logprobs, score(lstm, [1, *h.tokens])[0][1:], atol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_forced_token_costs_a_beam_nothing(length_penalty):
    """The best hypotheses are the most probable beginnings, whatever the model thinks of the token after them."""
    model = load(build.recurrent("GRU", vocab=5, scale=2.0, seed=4))
    beginnings = [(a, b) for a in range(5) for b in range(5) if 1 not in (a, b)]
    logprobs = [float(lp[1:].sum(dtype=np.float64)) for lp in score(model, [[0, *tokens] for tokens in beginnings])]
    expected = sorted(zip(logprobs, beginnings, strict=True), reverse=True)[:6]
    beam, processors = Beam(25, length_penalty=length_penalty), [SuppressEos(), ForcedTokens({2: 1})]
    found = decode(model, [0], beam, max_new_tokens=3, eos_token_id=1, num_return_sequences=6, processors=processors)
    assert [tuple(h.tokens) for h in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([h.score for h in found], [lp / 3**length_penalty for lp, _ in expected], atol=1e-4)


class SuppressEos:
    """Forbids EOS before the last token, so that every hypothesis has three tokens."""

    def __call__(self, history, logits):
        logits[[len(output) < 2 for output in history.outputs], 1] = -np.inf


def test_a_forbidden_token_is_not_forced(lstm):
    with pytest.raises(DecodeError, match=r"sequence 0, step 1: .* all -inf"):
        decode(lstm, [1], max_new_tokens=3, processors=[SuppressTokens([7]), ForcedTokens({1: 7})])


def test_a_callable_sees_running_rows_only_and_in_order(lstm):
    seen = []

    def watch(history, logits):
        seen.append((len(history), logits.shape[0], [len(h) for h in history.outputs]))
        assert all(len(history[i]) == len(history.prompts[i]) + len(history.outputs[i]) for i in range(len(history)))

    decode(lstm, [p[:1] for p in PROMPTS], Sample(), max_new_tokens=20, seed=1, eos_token_id=[1, 2], processors=[watch])
    assert all(a == b for a, b, _ in seen)
    assert seen[0][0] == len(PROMPTS)
    assert seen[-1][0] < len(PROMPTS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_processor_that_spoils_the_logits(lstm, value):
    def spoil(history, logits):
        logits[1, 3] = value  # the second of the rows that have read their prompts: those of one token

    with pytest.raises(DecodeError, match=r"sequence 3, step 0: the model's logits, after the processors, hold"):
        decode(lstm, PROMPTS, Sample(), processors=[spoil])


def test_a_processor_that_forbids_everything(lstm):
    with pytest.raises(DecodeError, match=r"sequence 0, step 0: .*after the processors.*all -inf"):
        decode(lstm, PROMPTS, Greedy(), processors=[SuppressTokens(range(11))])


def test_a_processor_that_raises_leaves_the_model_usable(lstm):
    def fail(history, logits):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        decode(lstm, PROMPTS, Sample(), processors=[fail])
    assert len(decode(lstm, PROMPTS, Sample(), max_new_tokens=3)) == len(PROMPTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepetitionPenalty(0), r"RepetitionPenalty\(penalty=0\): expected a finite number above 0"),
        (lambda: PresencePenalty(math.inf), r"PresencePenalty\(penalty=inf\): expected a finite number"),
        (lambda: NoRepeatNgram(0), r"NoRepeatNgram\(n=0\)"),
        (lambda: LogitBias({1: math.nan}), r"LogitBias\(bias=.*finite numbers or -inf"),
        (lambda: AllowedTokens([]), r"AllowedTokens\(ids=\[\]\): at least one"),
        (lambda: SuppressTokens([-1]), r"SuppressTokens\(ids=-1\): expected a whole number of at least 0"),
        (lambda: ForcedTokens({-1: 2}), r"ForcedTokens\(position=-1\)"),
        (lambda: PrefixAllowed(3), r"PrefixAllowed\(3\): expected a function"),
    ],
)
def test_wrong_fields_fail_when_the_object_is_made(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize(
    ("processor", "shown"),
    [
        (RepetitionPenalty(1.2), "RepetitionPenalty(penalty=1.2)"),
        (LogitBias({3: -math.inf, 4: 0.5}), "LogitBias({3: -inf, 4: 0.5})"),
        (SuppressTokens([1, 2]), "SuppressTokens([1, 2])"),
        (AllowedTokens(range(40)), "AllowedTokens([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... 30 more])"),
        (ForcedTokens({0: 7, 2: 1}), "ForcedTokens({0: 7, 2: 1})"),
        (PrefixAllowed(no_second_ngram), "PrefixAllowed(no_second_ngram)"),
    ],
)
def test_processors_show_what_they_do(processor, shown):
    assert repr(processor) == shown
