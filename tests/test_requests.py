"""Requests with options of their own, among others and alone."""

import itertools

import numpy as np
import pytest

from decoding import (
    Beam,
    Engine,
    Greedy,
    OptionError,
    RepetitionPenalty,
    Request,
    Sample,
    TopN,
    decode,
    decode_iter,
    load,
    score,
    stream,
)
from tests.helpers import build

SEEDED = [
    Request([3], Sample(temperature=0.7), seed=5, max_new_tokens=9),
    Request([4, 1], Sample(top_k=7, top_p=0.8), seed=5, num_return_sequences=3),
    Request([2, 2, 2], TopN(4), seed=9, min_new_tokens=4, logprobs=2),
    Request([6], Greedy(), stop=[[8]], max_new_tokens=30),
    Request([7, 7], Sample(min_p=0.05, typical_p=0.9), seed=1, processors=[RepetitionPenalty(1.5)]),
    Request([1], Beam(num_beams=3), num_return_sequences=2, max_new_tokens=7),
    Request([1, 5], Beam(num_beams=2, length_penalty=0.5), eos_token_id=None, max_new_tokens=5),
    Request([9, 3], Sample(replacement=False), seed=3, num_return_sequences=4, max_new_tokens=6),
    Request([5] * 12, Sample(eta_cutoff=0.01), seed=2**64 - 1, eos_token_id=[4, 5]),
]


@pytest.fixture(scope="module")
def model():
    return load(build.recurrent("LSTM", vocab=23, hidden=16, layers=2, seed=8), executor="native")


def shown(hypotheses):
    return [(h.tokens, h.finish_reason, h.rank, h.token_logprobs.tobytes()) for h in hypotheses]


def alone(model, request):
    return shown(decode(model, request, max_new_tokens=20, eos_token_id=3, seed=77))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_request_with_a_seed_has_equal_tokens_alone_and_among_others_in_any_order(model, batch_size):
    """Bit for bit, as the native step's rows do not depend on the batch."""
    expected = {id(r): alone(model, r) for r in SEEDED}
    rng = np.random.default_rng(batch_size)
    for _ in range(4):
        order = [SEEDED[i] for i in rng.permutation(len(SEEDED))]
        mixed = list(itertools.chain.from_iterable((r, [int(rng.integers(23))]) for r in order))
        out = decode(model, mixed, Sample(), max_new_tokens=20, eos_token_id=3, seed=1, batch_size=batch_size)
        groups = out.by_prompt()
        assert [g[0].prompt_index for g in groups] == list(range(len(mixed)))
        for request, group in zip(order, groups[::2], strict=True):
            assert shown(group) == expected[id(request)]


def test_an_iterable_and_workers_give_the_same(model):
    expected = [alone(model, r) for r in SEEDED]
    for workers in (1, 3):
        found = list(decode_iter(model, iter(SEEDED), max_new_tokens=20, eos_token_id=3, workers=workers, batch_size=3))
        assert [shown(h for h in found if h.prompt_index == i) for i in range(len(SEEDED))] == expected


def test_a_stream_gives_the_same(model):
    requests = [r for r in SEEDED if not (r.strategy.searches_together)]
    events = list(stream(model, requests, max_new_tokens=20, eos_token_id=3))
    for i, request in enumerate(requests):
        outputs = request.num_return_sequences or 1
        found = sorted([e.token for e in events if (e.prompt_index, e.output_index) == (i, n)] for n in range(outputs))
        expected = decode(model, request, max_new_tokens=20, eos_token_id=3)
        assert sorted(f[:-1] if f[-1] in (request.eos_token_id if isinstance(request.eos_token_id, list) else [3]) else f for f in found) == sorted(expected.tokens)  # fmt: skip


def test_plain_prompts_keep_their_tokens_beside_requests(model):
    """A prompt's draws are keyed by its number, which requests of one output do not change."""
    prompts = [[i] for i in range(12)]
    expected = decode(model, prompts, Sample(), max_new_tokens=15, seed=4)
    mixed = [Request(p, Greedy()) if i % 3 == 0 else p for i, p in enumerate(prompts)]
    out = decode(model, mixed, Sample(), max_new_tokens=15, seed=4)
    greedy = decode(model, prompts, max_new_tokens=15)
    assert out.tokens == [(greedy if i % 3 == 0 else expected)[i].tokens for i in range(12)]


def test_a_request_leaves_the_rest_to_the_call(model):
    call = {"max_new_tokens": 6, "eos_token_id": 3, "logprobs": 2, "seed": 4}
    request, plain = decode(model, [Request([5]), [5]], Greedy(), **call)
    assert shown([request]) == shown([plain])
    assert request.top_logprobs[0].shape == (len(request.token_logprobs), 2)


def test_processors_see_the_requests_of_their_rows(model):
    seen = []

    def look(history, logits):
        seen.append([(n, p[0]) for n, p in zip(history.requests, history.prompts, strict=True)])

    prompts = [Request([i + 10], num_return_sequences=i + 1) for i in range(3)]
    decode(model, prompts, Sample(), processors=[look], max_new_tokens=3, eos_token_id=None)
    assert sorted(seen[0]) == [(0, 10), (1, 11), (1, 11), (2, 12), (2, 12), (2, 12)]
    decode(model, [Request([4], Beam(num_beams=2)), [9]], processors=[look], max_new_tokens=2)
    assert {pair for step in seen for pair in step} >= {(0, 4), (1, 9)}


def test_another_processor_for_each_request():
    model = load(build.unigram(np.log([0.4, 0.3, 0.2, 0.1])))

    def only(token):
        def processor(history, logits):
            logits[:, [t for t in range(4) if t != token]] = -np.inf

        return processor

    requests = [Request([0], processors=[only(i % 4)]) if i % 5 else [0] for i in range(40)]
    out = decode(model, requests, Greedy(), max_new_tokens=2, batch_size=7)
    assert [h.tokens for h in out] == [[i % 4 if i % 5 else 0] * 2 for i in range(40)]


@pytest.mark.parametrize(
    "strategy", [Greedy(), Sample(), TopN(3), Beam(num_beams=3), Sample(replacement=False)], ids=str
)
@pytest.mark.parametrize("executor", ["native", "onnxruntime"])
def test_decoding_goes_on_from_a_state_as_from_the_whole_text(strategy, executor, tmp_path):
    model = load(build.recurrent("LSTM", vocab=23, hidden=16, layers=2, seed=8), executor=executor)
    options = {"max_new_tokens": 8, "seed": 6, "num_return_sequences": 1 if strategy == Greedy() else 2}
    for eos in (None, [1, 2, 3, 4, 5]):
        first = decode(model, [[4, 2, 9], [7]], strategy, eos_token_id=eos, return_state=True, **options)
        for h, prompt in zip(
            first, [p for p in ([4, 2, 9], [7]) for _ in range(options["num_return_sequences"])], strict=True
        ):
            np.savez(tmp_path / "state.npz", **h.state)
            state = np.load(tmp_path / "state.npz")
            for more in (None, [11], [8, 1, 1, 6]):
                whole = decode(model, Request([*prompt, *h.tokens, *(more or [])], seed=3), strategy, **options)
                found = decode(model, Request(more, seed=3, state=state), strategy, **options)
                assert found.tokens == whole.tokens
                np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-5)


def test_a_state_has_the_history_that_penalties_look_at(model):
    options = {"processors": [RepetitionPenalty(3.0)], "max_new_tokens": 6, "eos_token_id": None}
    (h,) = decode(model, [[4, 2]], return_state=True, **options)
    assert (
        decode(model, Request(state=h.state), **options).tokens == decode(model, [[4, 2, *h.tokens]], **options).tokens
    )


WRONG = [
    (
        lambda: Request([1], temprature=1),
        r"Request\(temprature=1\): no such field; did you mean 'strategy'|no such field",
    ),
    (lambda: Request([1], max_new_token=1), "did you mean 'max_new_tokens'"),
    (lambda: [[1], Request([1], Sample(temperature=[1.0, 2.0]))], "request 1: .*one request has one temperature"),
    (lambda: [Request([1], num_return_sequences=2)], "request 0: num_return_sequences=2: Greedy"),
    (lambda: [Request([99])], "request 0: prompts.*id 99"),
    (lambda: [Request([1], strategy="beam")], "request 0: strategy='beam': expected a strategy object"),
    (lambda: [Request([1], state={"h0": 1})], "state: it lacks 'decoding.ids'"),
    (lambda: [Request([1], state=[1])], "state=.*expected the `state` of a hypothesis"),
    (lambda: [Request([1], min_new_tokens=9, max_new_tokens=3)], "min_new_tokens=9: more than"),
    (lambda: [Request([1], logprobs=1000)], "the model has only 23 tokens"),
    (lambda: [Request([1], prefix=[2])], "prefix: .*has no encoder"),
    (lambda: [Request([1], context=np.zeros(3))], "request 0: context"),
    (lambda: [Request([1], seed=-1)], "request 0: seed"),
]


@pytest.mark.parametrize(("prompts", "message"), WRONG)
def test_a_wrong_request_is_named(model, prompts, message):
    with pytest.raises(OptionError, match=message):
        decode(model, prompts())


def test_the_state_of_another_model_is_refused(model):
    other = load(build.recurrent("LSTM", vocab=23, hidden=16, layers=2, seed=9))
    (h,) = decode(other, [[1]], return_state=True, max_new_tokens=2)
    with pytest.raises(OptionError, match="it is of another model"):
        decode(model, Request(state=h.state))


def test_a_stream_refuses_a_request_that_searches(model):
    with pytest.raises(OptionError, match="knows no token before the end"):
        stream(model, [[1], Request([2], Beam())])


def test_a_request_without_a_prompt_starts_from_bos():
    model = load(build.recurrent(metadata={"decoding.bos": 3}))
    expected = decode(model, None, max_new_tokens=5).tokens
    assert decode(model, [Request(None)], max_new_tokens=5).tokens == expected
    assert [h.tokens for h in decode_iter(model, [None], max_new_tokens=5)] == expected
    with Engine(model, max_new_tokens=5) as engine:
        assert engine.submit(None).result().tokens == expected
    with pytest.raises(OptionError, match="no BOS"):
        decode(load(build.recurrent()), Request(None))


def test_a_state_of_another_kind_of_model_is_named_as_one():
    lstm, gru = (load(build.recurrent(cell)) for cell in ("LSTM", "GRU"))
    state = decode(gru, [1], max_new_tokens=2, return_state=True)[0].state
    with pytest.raises(OptionError, match="it is of another model"):
        decode(lstm, Request([1], state=state))


def test_there_is_no_request_to_score():
    with pytest.raises(OptionError, match=r"score\(\) has no Request.*pass their prompts"):
        score(load(build.recurrent("GRU")), [[1, 2], Request([1, 2])])
