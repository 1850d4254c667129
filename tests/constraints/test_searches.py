"""Constraints under every strategy: against enumeration, judged by Python's re and json, alone and in mixed batches."""

import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats

from decoding import (
    Beam,
    Choices,
    DecodeError,
    Engine,
    Grammar,
    Greedy,
    JSONSchema,
    LogitBias,
    MustContain,
    OptionError,
    Regex,
    RepetitionPenalty,
    Request,
    Sample,
    TopN,
    decode,
    decode_iter,
    load,
    rollout,
    score,
    stream,
)
from tests.helpers import build
from tests.helpers.languages import SMALL, outputs, small

pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")

LETTERS = [chr(i) for i in range(32, 127)]
DATE = r"\d{4}-\d\d-\d\d"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}},
    "required": ["a", "b"],
}
STRATEGIES = [
    Greedy(),
    Sample(),
    TopN(3),
    Beam(3),
    Beam(4, num_beam_groups=2, diversity_penalty=0.5),
    Sample(replacement=False),
]


@pytest.fixture(scope="module", params=["onnxruntime", "native"])
def model(request):
    net = build.recurrent("LSTM", vocab=len(LETTERS), hidden=8, seed=1, scale=2.0)
    return load(net, tokenizer=LETTERS, executor=request.param)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'num_beam_groups', 1)}")
def test_every_strategy_obeys(model, strategy):
    n = 1 if isinstance(strategy, Greedy) else 3
    found = decode(model, ["ab", "x", "12"], strategy, num_return_sequences=n, processors=[Regex(DATE)], seed=1)
    assert len(found) == 3 * n
    for h in found:
        assert re.fullmatch(DATE, h.text)
        assert h.finish_reason == "stop"  # the model has no EOS, and the text must end
        prompt = ["ab", "x", "12"][h.prompt_index]
        own = score(model, [prompt + h.text])[0][len(prompt) :]
        np.testing.assert_allclose(h.token_logprobs, own, atol=1e-4)  # the model's own, not renormalised


@pytest.mark.parametrize("eos", [None, 4])
@pytest.mark.parametrize("language", ["(ab)*c", "a(b|c){0,3}", "(ab|abc)?"])
def test_beams_find_what_exhaustive_search_finds(eos, language):
    for seed in range(3):
        model = small(seed)
        every = {}
        for ids in outputs(language, 4):
            if not ids and eos is None:
                continue
            text = "".join(SMALL[i] for i in ids)
            goes_on = any(
                re.fullmatch(language, text + more) for more in ("a", "b", "c", "ab", "bc", "abc", "bab", "abab")
            )
            if eos is None and goes_on:
                continue  # without EOS a text ends where it must
            whole = [*ids, eos] if eos is not None else ids
            if len(whole) <= 5:
                every[tuple(whole)] = np.nansum(score(model, [[0, *whole]])[0][1:], dtype=np.float64)
        best = sorted((value / len(ids) for ids, value in every.items()), reverse=True)
        beam = Beam(num_beams=300, early_stopping="never")
        found = decode(
            model, [0], beam, max_new_tokens=5 if eos else 4, eos_token_id=eos, num_return_sequences=300,
            processors=[Regex(language)],
        )  # fmt: skip
        found = [h for h in found if h.finish_reason == ("stop" if eos is None else "eos")]
        assert len(found) == len(best)
        np.testing.assert_allclose([h.score for h in found], best, atol=1e-4)


def renormalised(model, language, eos, longest):
    """The probability of each output when every step draws from what the language allows."""
    texts = ["".join(SMALL[i] for i in ids) for ids in outputs(language, longest)]
    found = {}

    def extend(ids, probability):
        text = "".join(SMALL[i] for i in ids)
        allowed = [i for i in range(4) if any(t.startswith(text + SMALL[i]) for t in texts)]
        allowed += [eos] if text in texts else []
        logprobs = np.array([score(model, [[0, *ids, i]])[0][-1] for i in allowed], np.float64)
        shares = np.exp(logprobs) / np.exp(logprobs).sum()
        for token, share in zip(allowed, shares, strict=True):
            if token == eos:
                found[ids] = probability * share
            else:
                extend((*ids, token), probability * share)

    extend((), 1.0)
    return found


@pytest.mark.parametrize("strategy", [Sample(), Sample(replacement=False)], ids=["draws", "without-replacement"])
def test_draws_are_the_models_renormalised_at_each_step(strategy):
    model, language, n = small(5), "a(b|c){0,2}|c", 3000
    expected = renormalised(model, language, 4, 3)
    assert sum(expected.values()) == pytest.approx(1)
    if strategy.replacement:
        found = decode(
            model, [0], strategy, num_return_sequences=n, eos_token_id=4, processors=[Regex(language)], seed=7
        )
    else:  # the first of several is drawn as a single one
        found = decode(
            model, [[0]] * n, strategy, num_return_sequences=2, eos_token_id=4, processors=[Regex(language)], seed=7
        )
        found = [h for h in found if h.rank == 0]
    counts = dict.fromkeys(expected, 0)
    for h in found:
        counts[tuple(h.tokens)] += 1
    often = [ids for ids in expected if expected[ids] * n >= 5]
    seen = [*(counts[ids] for ids in often), sum(counts[ids] for ids in expected if ids not in often)]
    shares = [*(expected[ids] for ids in often), sum(expected[ids] for ids in expected if ids not in often)]
    keep = [i for i, share in enumerate(shares) if share > 0]
    _, p = stats.chisquare([seen[i] for i in keep], [shares[i] * n for i in keep])
    assert p > 1e-6


def test_eos_comes_only_where_the_text_may_end():
    model = small(2)
    found = decode(model, [[0]] * 300, Sample(temperature=2.0), eos_token_id=4, processors=[Regex("(ab){1,3}")], seed=3)
    assert {h.finish_reason for h in found} == {"eos"}
    assert {h.text for h in found} == {"ab", "abab", "ababab"}
    with pytest.raises(DecodeError, match=r"after the processors and min_new_tokens.*only the end may come"):
        decode(model, [0], eos_token_id=4, min_new_tokens=9, processors=[Choices(["a"])])


def test_eos_may_be_a_character_of_the_texts():
    """Where the id of "c" ends outputs, no text has a "c"."""
    model = small(4)
    found = decode(
        model, [[0]] * 100, Sample(temperature=3.0), eos_token_id=2, processors=[Regex("[abc]{2,4}")], seed=3
    )
    assert {h.finish_reason for h in found} == {"eos"}
    assert all(re.fullmatch("[ab]{2,4}", h.text) for h in found)


def test_long_outputs_are_cut(model):
    h = decode(model, "a", processors=[Regex("[a-z]{50}")], max_new_tokens=7)[0]
    assert (h.finish_reason, len(h.tokens)) == ("length", 7)


def test_a_state_with_no_way_on_shows_where():
    model = load(build.recurrent("GRU", vocab=3, hidden=4), tokenizer=["a", "b", "x"])
    for strategy in (Greedy(), Sample(), Sample(replacement=False), Beam(2)):
        with pytest.raises(
            DecodeError, match=r"Regex\('abé'\): after 'ab' must come 'é'; no token of the vocabulary begins so"
        ):
            decode(model, [0], strategy, processors=[Regex("abé")])
    with pytest.raises(DecodeError, match="must come 'é', or the end, but there is no EOS"):
        decode(model, [0], processors=[Regex("ab(é)?")])


def test_beams_without_a_way_on_leave_the_others():
    model = load(build.recurrent("GRU", vocab=3, hidden=4), tokenizer=["a", "b", "x"])
    found = decode(model, [0], Beam(4), num_return_sequences=4, processors=[Regex("aé|bx|ab|xé")])
    assert {h.text for h in found} == {"bx", "ab"}


def test_several_constraints_hold_together():
    model = small(1)
    both = [Regex("[ab]*"), Regex("(a|b|c){2,3}")]
    found = decode(model, [[0]] * 50, Sample(), eos_token_id=4, processors=both, seed=1)
    assert all(re.fullmatch("[ab]{2,3}", h.text) for h in found)
    with pytest.raises(DecodeError, match="all -inf"):
        decode(model, [0], processors=[Choices(["a"]), Choices(["b"])])


def test_other_processors_see_the_history_and_keep_their_order(model):
    seen = []

    def look(history, logits):
        seen.append(np.isneginf(logits).sum(1))
        assert len(history) == len(logits)

    plain = [LogitBias({LETTERS.index("7"): 100.0})]
    h = decode(model, "a", processors=[look, Regex(DATE), look, *plain, RepetitionPenalty(1.2)])[0]
    assert h.text == "7777-77-77"
    assert (seen[0][0], seen[1][0]) == (0, len(LETTERS) - 10)


def test_rows_alone_and_together_have_equal_tokens(model):
    languages = [DATE, "[a-z]{3,9}!", "(ab|cd){2,6}", "x{1,30}y"]
    requests = [
        Request("q", Sample(), seed=i, processors=[Regex(languages[i % 4])], max_new_tokens=20) for i in range(12)
    ]
    together = decode(model, requests, batch_size=5)
    alone = [decode(model, [request])[0] for request in requests]
    assert together.tokens == [h.tokens for h in alone]
    in_threads = decode(model, requests, batch_size=4, workers=3)
    assert in_threads.tokens == together.tokens
    streamed = {i: [] for i in range(12)}
    reasons = {}
    for event in stream(model, requests):
        streamed[event.prompt_index].append(event.token)
        reasons[event.prompt_index] = event.finish_reason
    assert list(streamed.values()) == together.tokens
    assert [reasons[i] for i in range(12)] == [h.finish_reason for h in together]
    assert {h.prompt_index: h.tokens for h in decode_iter(model, iter(requests), batch_size=3)} == dict(
        enumerate(together.tokens)
    )


def test_an_engine_serves_mixed_requests(model):
    constraints = [
        Regex(DATE),
        JSONSchema(SCHEMA),
        Choices(["yes", "no"]),
        Grammar('start: ("(" start ")"){0,2}'),
        None,
    ]
    strategies = [Greedy(), Sample(), Beam(2), Sample(replacement=False), TopN(4)]
    requests = [
        Request("a" * (i % 3 + 1), strategies[i % 5], seed=i, max_new_tokens=400, processors=[c] if c else None)
        for i, c in zip(range(32), itertools.cycle([c for c in constraints for _ in range(2)]), strict=False)
    ]
    for request in requests:
        if request.processors is None:
            request.max_new_tokens = 5
    with Engine(model, batch_size=16) as engine:
        tickets = [engine.submit(request) for request in requests]
        found = [ticket.result()[0] for ticket in tickets]
    for request, h in zip(requests, found, strict=True):
        constraint = request.processors[0] if request.processors else None
        if isinstance(constraint, Regex):
            assert re.fullmatch(constraint.pattern, h.text)
        elif isinstance(constraint, Choices):
            assert h.text in constraint.texts
        elif isinstance(constraint, JSONSchema) and h.finish_reason == "stop":
            assert set(json.loads(h.text)) >= {"a", "b"}
        alone = decode(model, [request])[0]
        assert alone.tokens == h.tokens


def test_an_error_in_an_engine_ends_one_request_alone():
    model = load(build.recurrent("GRU", vocab=3, hidden=4), tokenizer=["a", "b", "x"])
    with Engine(model) as engine:
        bad = engine.submit(Request([0], processors=[Regex("abé")]))
        good = engine.submit(Request([0], processors=[Regex("ab")]))
        assert good.result()[0].text == "ab"
        with pytest.raises(DecodeError, match="after 'ab' must come 'é'"):
            bad.result()


def test_an_output_that_goes_on_from_a_state_is_a_new_one(model):
    first = decode(model, "a", processors=[Regex(r"\d{3}")], return_state=True)[0]
    second = decode(model, [Request(state=first.state, processors=[Regex("-[a-z]{2}")])])[0]
    assert re.fullmatch("-[a-z]{2}", second.text)
    again = decode(model, "a" + first.text, processors=[Regex("-[a-z]{2}")])[0]
    assert again.tokens == second.tokens


def test_rollouts_complete_the_text_of_the_prefix():
    model = small(1)
    texts = []

    def reward(ids):
        texts.extend("".join(SMALL[i] for i in row if i < 4) for row in ids)
        return np.zeros(len(ids))

    sequences = [model.tokenizer.encode(text) for text in ("abab", "aba")]
    rollout(
        model, sequences, reward, n=8, eos_token_id=4, max_new_tokens=6, seed=1, processors=[Regex("(ab|ba|a){2,3}")]
    )
    assert len(texts) > 16
    assert all(re.fullmatch("(ab|ba|a){2,3}", text) for text in texts[2:])
    with pytest.raises(OptionError, match="no text of it begins with 'ab'"):
        rollout(model, sequences, reward, n=2, eos_token_id=4, processors=[Regex("b+")])


def test_ten_thousand_outputs_in_short(model):
    found = decode(
        model, ["a"] * 400, Sample(temperature=1.5), max_new_tokens=600, seed=5, processors=[JSONSchema(SCHEMA)]
    )
    whole = [json.loads(h.text) for h in found if h.finish_reason == "stop"]
    assert len(whole) > 300
    for value in whole:
        assert isinstance(value["a"], int)
        assert value["b"] in ("x", "yy")


@pytest.mark.parametrize("strategy", [Greedy(), Sample(), Beam(3)])
@pytest.mark.parametrize(("one", "other", "texts"), [("a*", "a?b?é?", {"", "a"}), ("[ab]+", "[abx]{3}", {3})])
def test_an_output_ends_where_its_constraints_agree_on_no_further_token(strategy, one, other, texts):
    """Each alone could go on; the model has no EOS."""
    model = load(build.recurrent("GRU", vocab=4, seed=1), tokenizer=list("abéx"))
    constraints = [Regex(one), Regex(other)]
    (found,) = decode(model, [[1]], strategy, processors=constraints, max_new_tokens=6, seed=1, eos_token_id=None)
    assert found.finish_reason == "stop"
    assert found.text in texts or len(found.text) in texts


@pytest.mark.parametrize("constraints", [[Regex("")], [Choices([""])], [Regex("a*"), Regex("b{0}")]], ids=repr)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'num_beam_groups', 1)}")
def test_where_only_the_empty_text_obeys_an_output_ends_at_once(constraints, strategy):
    model = small(1)
    found = decode(model, ["a", "ab", "c"], strategy, processors=constraints)
    assert [(h.text, h.tokens, h.finish_reason, h.logprob) for h in found] == [("", [], "stop", 0.0)] * 3
    request = Request(
        "a",
        strategy,
        processors=constraints,
        logprobs=2 if isinstance(strategy, Sample) and strategy.replacement else None,
    )
    other = Request("b", strategy, max_new_tokens=2)
    mixed = decode(model, [request, other, request], strategy, batch_size=1, max_new_tokens=2)
    assert [len(h.tokens) for h in mixed] == [0, 2, 0]
    with Engine(model, batch_size=1) as engine:
        tickets = [engine.submit(r) for r in (request, request, other, request)]
        assert [len(t.result()[0].tokens) for t in tickets] == [0, 0, 2, 0]
        assert list(engine.submit(request)) == []
    ended = decode(model, ["a"], strategy, processors=constraints, eos_token_id=4)[0]
    assert (ended.text, ended.finish_reason) == ("", "eos")  # which the model chooses, with its log-probability


def test_several_outputs_and_streams_of_only_the_empty_text():
    model = small(1)
    found = decode(model, ["a", "b"], Sample(), num_return_sequences=3, processors=[Regex("")], workers=2)
    assert [(h.prompt_index, h.rank, h.text) for h in found] == [(p, r, "") for p in (0, 1) for r in range(3)]
    assert list(stream(model, ["a", "b"], processors=[Regex("")])) == []
    assert {h.prompt_index for h in decode_iter(model, iter(["a"] * 5), batch_size=2, processors=[Regex("")])} == set(
        range(5)
    )
    np.testing.assert_allclose(score(model, ["ab" + found[0].text])[0], score(model, ["ab"])[0])
    with pytest.raises(DecodeError):  # as it has no phrase
        decode(model, ["a"], Beam(2, must_contain=MustContain(["a"])), processors=[Regex("")])
    with pytest.raises(DecodeError, match="or the end, but there is no EOS"):  # it is the vocabulary that has no more
        decode(model, ["a"], processors=[Regex("(é)?")])
