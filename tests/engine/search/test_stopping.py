"""Why sequences end and when they must not: one rule, the same in every search."""

from types import SimpleNamespace

import numpy as np
import pytest

from decoding import Beam, Greedy, RepetitionPenalty, Sample, TopN, decode, load
from decoding.engine.loop import decode_requests
from decoding.engine.request import EngineRequest
from decoding.engine.search.stopping import FINISH_REASONS, GOES_ON, Stopping
from decoding.inputs.options import make_call
from decoding.tokenizers import read_tokenizer
from tests.helpers import build
from tests.helpers.tokenizers import TEXT, trained

STRATEGIES = [Greedy(), Sample(), TopN(5), Sample(replacement=False), Beam(num_beams=3)]
VOCAB = ["a", "b", "ab", "c", "é", "", "bc", "x", "y", "z", "w"]
NONE = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def model():
    return load(build.recurrent("GRU", seed=2, metadata={"decoding.vocab": VOCAB}))


@pytest.fixture(scope="module")
def unigram():
    """A model that chooses token 0 most often."""
    return load(build.unigram(np.log([0.4, 0.25, 0.15, 0.15, 0.05])))


def rules(**options):
    settings = {"eos": (), "stop": (), "stop_strings": (), "min_new_tokens": 0, "max_new_tokens": 10} | options
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(VOCAB[i] for i in ids))
    return Stopping(SimpleNamespace(**settings), len(VOCAB), tokenizer)


def reason(stopping, output, limit=10):
    """The finish reason of one output with its last token."""
    output = np.array(output)
    (found,) = stopping.finish_reasons(output[-1:], np.array([len(output)]), np.array([limit]), lambda i: output)
    return FINISH_REASONS[found]


def requests_for(call, ids, own):
    """A request for each of the ids, with a longest length of its own or None."""
    settings = call.settings
    return [
        EngineRequest(i, np.array([token]), settings, call.seed, i * settings.outputs, max_new_tokens=longest)
        for i, (token, longest) in enumerate(zip(ids, own, strict=True))
    ]


@pytest.mark.parametrize(
    ("output", "limit", "expected"),
    [
        ([7], 10, None),
        ([7, 3], 10, "eos"),
        ([7, 3], 2, "eos"),  # EOS before length,
        ([5, 9, 3], 10, "eos"),  # and before a stop
        ([5, 9], 10, "stop"),
        ([8, 5, 9], 3, "stop"),  # a stop before length
        ([9], 10, None),  # shorter than the stop
        ([8, 0, 6], 10, "stop"),  # "abc"
        ([2, 3], 10, "eos"),
        ([8, 8], 2, "length"),
        ([8, 8, 8], 2, "length"),
    ],
)
def test_of_several_reasons_the_first_counts(output, limit, expected):
    stopping = rules(eos=(3, 4), stop=(np.array([5, 9]), np.array([9, 3])), stop_strings=("abc",))
    assert reason(stopping, output, limit) == expected


def test_an_entry_without_a_token_goes_on():
    reasons = rules(eos=(3,)).finish_reasons(np.array([-1, 3]), np.array([10, 1]), np.array([10, 10]), None)
    assert reasons.tolist() == [GOES_ON, FINISH_REASONS.index("eos")]


def test_the_output_is_looked_at_only_where_there_are_stops():
    assert rules().finish_reasons(np.array([1]), np.array([1]), np.array([10]), None).tolist() == [GOES_ON]


def test_eos_is_not_read_as_text():
    assert reason(rules(eos=(3,), stop_strings=("c",)), [0, 3]) == "eos"
    assert not rules(eos=(3,), stop_strings=("c",)).stops(np.array([0, 3]))


def test_a_stop_string_may_begin_long_before_the_last_token():
    assert reason(rules(stop_strings=("aaaa",)), [1, 0, 5, 5, 0, 5, 5, 0, 5, 5, 0], 20) == "stop"


def test_eos_is_hidden_from_short_rows_alone():
    stopping = rules(eos=(3, 3, 7), min_new_tokens=2)
    logits = np.zeros((4, len(VOCAB)), np.float32)
    stopping.hide_eos(logits, np.array([0, 1, 2, 3]))
    assert np.isinf(logits).tolist() == [[i in (3, 7) and row < 2 for i in range(11)] for row in range(4)]
    assert stopping.hides_eos(np.array([5, 1]))
    assert not stopping.hides_eos(np.array([2]))
    assert not rules(min_new_tokens=2).hides_eos(np.array([0]))  # there is no EOS


def test_a_request_may_ask_for_less_but_not_for_more():
    assert [rules().limit(own) for own in (None, 3, 30)] == [10, 3, 10]


@pytest.mark.parametrize("processors", [(), (RepetitionPenalty(1.3),)], ids=["plain", "edited"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_no_search_ends_by_eos_before_the_shortest_length(unigram, strategy, processors):
    options = {"max_new_tokens": 30, "eos_token_id": 0, "seed": 2, "processors": processors,
               "num_return_sequences": 1 if strategy == Greedy() else 3}  # fmt: skip
    free = decode(unigram, [[1]] * 9, strategy, **options)
    out = decode(unigram, [[1]] * 9, strategy, min_new_tokens=4, **options)
    assert min(len(h.token_logprobs) for h in free) < 4
    assert min(len(h.token_logprobs) for h in out) == 5  # four tokens, then EOS
    assert {h.finish_reason for h in out} >= {"eos"}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_search_honours_a_requests_own_longest_length(model, strategy):
    own = [1, 4, None, 30, 2]
    outputs = 1 if strategy == Greedy() else 2
    call = make_call(model, strategy, seed=4, eos_token_id=None, max_new_tokens=6, num_return_sequences=outputs)
    out = sorted(
        decode_requests(model._network, call, requests_for(call, range(1, 6), own), 1), key=lambda f: f.sequence
    )
    assert [f.sequence for f in out] == list(range(len(own) * outputs))
    assert [len(f.tokens) for f in out] == [n for longest in (1, 4, 6, 6, 2) for n in [longest] * outputs]
    assert {f.finish_reason for f in out} == {"length"}


@pytest.mark.parametrize("stop", ["text", "ids"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_stop_that_the_last_allowed_token_completes_is_a_stop(model, strategy, stop):
    options = {"max_new_tokens": 2, "eos_token_id": None, "seed": 4}
    prompts = [[i] for i in range(11)]
    stopped = 0
    for i, h in enumerate(decode(model, prompts, strategy, **options)):
        assert h.finish_reason == "length"
        if not h.token_texts[-1]:
            continue  # the text would be whole one token before
        found = decode(model, prompts, strategy, stop=h.text if stop == "text" else [h.tokens], **options)[i]
        if found.tokens == h.tokens:  # a search may have found the same text in fewer tokens
            assert found.finish_reason == "stop"
            stopped += 1
    assert stopped


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_the_eos_id_is_kept(unigram, strategy):
    call = make_call(unigram, strategy, seed=4, eos_token_id=[0, 2], max_new_tokens=3)
    out = list(decode_requests(unigram._network, call, requests_for(call, [i % 5 for i in range(40)], [None] * 40), 1))
    ended = [f for f in out if f.finish_reason == "eos"]
    assert ended
    assert all(f.eos in (0, 2) and len(f.logprobs) == len(f.tokens) + 1 for f in ended)
    assert all(f.eos is None and len(f.logprobs) == len(f.tokens) for f in out if f.finish_reason != "eos")


@pytest.mark.parametrize("kind", ["gemma", "llama", "byte_level", "bpe_bytes", "metaspace"])
@pytest.mark.parametrize("stop", ["有", "理性", "😄", "б", "ei", "\ufffd"])
def test_a_stop_string_is_found_where_it_is_in_the_text(kind, stop):
    """In a run of ByteFallback's bytes, too: cut within a character, all of its bytes would be U+FFFD."""
    pytest.importorskip("tokenizers", reason="the text extra is not installed")
    tokenizer = read_tokenizer(trained(kind))
    settings = {"eos": (), "stop": (), "stop_strings": (stop,), "min_new_tokens": 0, "max_new_tokens": 10}
    stopping = Stopping(SimpleNamespace(**settings), tokenizer.size, tokenizer)
    text = TEXT.replace("\ufffd", "")
    for start in range(0, len(text), 25):
        ids = np.array(tokenizer.encode(text[start : start + 120]))
        for end in range(1, len(ids) + 1):
            found = stopping.stops(ids[:end])
            assert found == (stop in tokenizer.decode(ids[:end].tolist()))
            if found:
                break
