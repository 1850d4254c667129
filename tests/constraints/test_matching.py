"""Tokens that a grammar forces are read without choosing them: everything that comes back is as if they had been chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import (
    Beam,
    Choices,
    DecodeError,
    Engine,
    Grammar,
    Greedy,
    JSONSchema,
    LogitBias,
    Regex,
    Request,
    Sample,
    TopN,
    decode,
    load,
    score,
    stream,
)
from decoding.engine.batch.host import RUN, HostBatch
from decoding.engine.search.sampling import SamplingSearch
from tests.helpers import build

pytest.importorskip("llguidance", reason="llguidance is not installed (pip install '.[constraints]')")

TOKENS = ["a", "b", "c", " ", "ab", "abc", "<e>"]  # several tokenizations of one text; the last may be EOS
SCHEMA = {
    "type": "object",
    "properties": {"temperature": {"type": "integer"}, "verified": {"type": "boolean"}},
    "required": ["temperature", "verified"],
    "x-guidance": {"whitespace_flexible": False},
}
LONG = "a long text that nothing varies"


def network(vocab, **options):
    return build.recurrent("GRU", vocab=vocab, hidden=8, seed=3, scale=2.0, **options)


MODELS = {
    "native": load(network(len(TOKENS)), tokenizer=TOKENS, executor="native"),
    "onnxruntime": load(network(len(TOKENS)), tokenizer=TOKENS, executor="onnxruntime"),
}
LETTERS = [chr(i) for i in range(32, 127)]


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def letters(request):
    return load(network(len(LETTERS)), tokenizer=LETTERS, executor=request.param)


@pytest.fixture
def runs(monkeypatch):
    """How many tokens each run of forced ones had."""
    found, read = [], HostBatch.read_run

    def counted(self, ids):
        found.append(ids.shape[1])
        return read(self, ids)

    monkeypatch.setattr(HostBatch, "read_run", counted)
    return found


def stepped(function):
    """What it returns where every token is chosen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SamplingSearch, "_read_forced", lambda self: None)
        return function()


def assert_equal(found, expected, *, exact):
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        assert (mine.tokens, mine.finish_reason, mine.text) == (other.tokens, other.finish_reason, other.text)
        if exact:
            assert list(mine.token_logprobs) == list(other.token_logprobs)
        np.testing.assert_allclose(mine.token_logprobs, other.token_logprobs, atol=1e-5)
        np.testing.assert_allclose(mine.logprob, other.logprob, atol=1e-4)


words = st.text("abc ", min_size=1, max_size=12)
choices = st.lists(words, min_size=1, max_size=3).map(Choices)
patterns = st.tuples(words, st.sampled_from(["", "[ab]{1,3}", "(c|ab)*"]), words).map(
    lambda parts: Regex("".join(parts))
)
constraints = choices | patterns


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(list(MODELS)),
    languages=st.lists(st.none() | constraints, min_size=1, max_size=4),
    strategy=st.sampled_from([Greedy(), Sample(), Sample(temperature=3.0, top_k=4), TopN(2)]),
    eos=st.sampled_from([None, 6]),
    more=st.sampled_from([{}, {"logprobs": 2}, {"min_new_tokens": 1}, {"stop": ["c "]}, {"return_state": True}]),
    limit=st.integers(1, 20),
    batch_size=st.integers(1, 4),
)
def test_everything_is_as_if_each_token_had_been_chosen(kind, languages, strategy, eos, more, limit, batch_size):
    requests = [
        Request([i % 4], strategy, processors=None if one is None else [one], seed=i) for i, one in enumerate(languages)
    ]

    def job():
        return decode(
            MODELS[kind], requests, max_new_tokens=limit, eos_token_id=eos, batch_size=batch_size, workers=1, **more
        )

    found, expected = job(), stepped(job)
    assert_equal(found, expected, exact=kind != "onnxruntime")
    for mine, other in zip(found, expected, strict=True):
        assert repr(mine.top_logprobs) == repr(other.top_logprobs) or kind == "onnxruntime"
        if mine.state is not None:
            for name, value in mine.state.items():
                same = (
                    np.allclose(value, other.state[name], atol=1e-5)
                    if value.dtype.kind == "f"
                    else (value == other.state[name]).all()
                )
                assert same, name


@settings(max_examples=15, deadline=None)
@given(one=constraints, other=constraints, seed=st.integers(0, 99))
def test_all_of_several_constraints_force(one, other, seed):
    def job():
        options = {"max_new_tokens": 15, "seed": seed, "eos_token_id": 6}
        try:
            return decode(MODELS["native"], [[0], [1]], Sample(), processors=[one, other], **options)
        except DecodeError as error:
            return str(error)

    found, expected = job(), stepped(job)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert_equal(found, expected, exact=True)


@pytest.mark.parametrize(
    "constraint", [JSONSchema(SCHEMA), Choices([LONG]), Grammar(f'start: "{LONG}" /[0-9]/')], ids=repr
)
def test_long_runs_are_read_and_scored(letters, constraint, runs):
    found = decode(letters, ["x", "y"], Sample(), processors=[constraint], max_new_tokens=80, seed=1)
    assert max(runs) >= 15 > RUN
    assert_equal(
        found,
        stepped(lambda: decode(letters, ["x", "y"], Sample(), processors=[constraint], max_new_tokens=80, seed=1)),
        exact=False,
    )
    for h, prompt in zip(found, "xy", strict=True):
        np.testing.assert_allclose(h.token_logprobs, score(letters, [prompt + h.text])[0][1:], atol=1e-4)


def test_rows_at_different_places_and_free_rows_take_steps(letters, runs):
    requests = [Request("x", Greedy(), processors=[Choices([LONG])]), Request("x", Greedy(), max_new_tokens=50)]
    found = decode(letters, requests, max_new_tokens=50, workers=1)
    assert found[0].text == LONG
    assert not runs  # the free row outlives the other


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": Beam(3)},
        {"strategy": Sample(replacement=False)},
        {"processors": [Choices([LONG]), LogitBias({3: 0.5})]},
        {"logprobs": 3},
        {"stop": ["z"]},
        {"return_state": True},
    ],
    ids=repr,
)
def test_what_needs_every_step_gets_it(letters, runs, options):
    options = {"processors": [Choices([LONG])], **options}
    found = decode(letters, ["x"], options.pop("strategy", Greedy()), **options)
    assert found[0].text == LONG
    assert not runs


def test_streams_give_each_token(letters, runs):
    events = list(stream(letters, "x", processors=[Choices([LONG])]))
    assert "".join(e.text for e in events) == LONG
    assert [e.finish_reason for e in events] == [None] * (len(LONG) - 1) + ["stop"]
    assert not runs


def test_an_engine_reads_runs_too(letters, runs):
    with Engine(letters) as engine:
        found = engine.submit(Request("x", processors=[JSONSchema(SCHEMA)], max_new_tokens=80, seed=4)).result()
    assert runs
    expected = stepped(
        lambda: decode(letters, [Request("x", processors=[JSONSchema(SCHEMA)], max_new_tokens=80, seed=4)])
    )
    assert_equal(found, expected, exact=False)


def test_a_cancelled_request_leaves_the_engine_well(letters):
    """At the next step no row runs."""
    endless = Regex("[a-z]{1,60} and so on and so on")
    with Engine(letters) as engine:
        for _ in range(20):
            ticket = engine.submit(Request("x", processors=[endless], max_new_tokens=500))
            next(iter(ticket))
            ticket.cancel()
        assert engine.submit(Request("x", processors=[Choices([LONG])])).result()[0].text == LONG


@pytest.mark.parametrize("where", ["decode", "engine"])
def test_a_network_that_breaks_in_a_run_is_named_at_its_step(letters, monkeypatch, where):
    read = HostBatch.read_run

    def broken(self, ids):
        logits = read(self, ids)
        logits[0, 5] = np.nan
        return logits

    monkeypatch.setattr(HostBatch, "read_run", broken)
    message = "sequence 0, step 5: the model's logits.* hold a NaN"
    if where == "decode":
        with pytest.raises(DecodeError, match=message):
            decode(letters, "x", processors=[Choices([LONG])])
    else:
        with Engine(letters) as engine:
            ticket = engine.submit(Request("x", processors=[Choices([LONG])]))
            with pytest.raises(DecodeError, match="hold a NaN"):
                ticket.result()
            assert engine.submit(Request("x", Greedy(), max_new_tokens=3)).result()[0].finish_reason == "length"
