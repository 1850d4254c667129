"""OpenAI's completions, with OpenAI's own client against a live server."""

import asyncio
import itertools
import threading
from functools import partial

import httpx2
import openai
import pytest

from decoding import Beam, Ensemble, Greedy, Guidance, MustContain, Request, Sample, decode
from decoding.processors import FrequencyPenalty, LogitBias, PresencePenalty, RepetitionPenalty
from tests.serve.conftest import Settings, running


@pytest.fixture(scope="module")
def client(live):
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, model="shakespeare", prompt="ROMEO:", *, extra=None, **fields):
    return client.completions.create(model=model, prompt=prompt, extra_body=extra, **fields)


def test_a_completion_has_the_tokens_of_decode(client, models):
    found = ask(client, max_tokens=30, temperature=0.8, top_p=0.9, seed=7, n=3)
    expected = decode(models["shakespeare"], "ROMEO:", Sample(0.8, top_p=0.9), max_new_tokens=30, seed=7, num_return_sequences=3)  # fmt: skip
    assert [choice.token_ids for choice in found.choices] == expected.tokens
    assert [choice.text for choice in found.choices] == expected.text
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (6, 90, 96)
    assert found.object == "text_completion"
    assert found.model == "shakespeare"


@pytest.mark.parametrize(
    ("fields", "strategy", "options"),
    [
        ({"temperature": 0}, Greedy(), {}),
        ({"extra": {"num_beams": 3, "length_penalty": 0.5}, "n": 2}, Beam(3, 0.5), {"num_return_sequences": 2}),
        ({"extra": {"top_k": 5, "min_p": 0.01, "typical_p": 0.95}}, Sample(top_k=5, min_p=0.01, typical_p=0.95), {}),
        ({"logit_bias": {"1": 3, "40": -100}}, Sample(), {"processors": [LogitBias({1: 3, 40: -100})]}),
        (
            {"frequency_penalty": 0.7, "presence_penalty": -0.5, "extra": {"repetition_penalty": 1.3}},
            Sample(),
            {"processors": [RepetitionPenalty(1.3), FrequencyPenalty(0.7), PresencePenalty(-0.5)]},
        ),
    ],
)
def test_options_are_those_of_decode(client, models, fields, strategy, options):
    found = ask(client, max_tokens=20, seed=3, **fields)
    expected = decode(models["shakespeare"], "ROMEO:", strategy, max_new_tokens=20, seed=3, **options)
    assert [choice.text for choice in found.choices] == expected.text


def test_prompts_of_all_forms(client, models):
    model = models["shakespeare"]
    ids = model.tokenizer.encode("JULIET:")
    requests = [Request(prompt, seed=5) for prompt in ("ROMEO:", ids)]
    expected = decode(model, requests, Sample(), max_new_tokens=9).text
    mixed = ask(client, prompt=["ROMEO:", ids], max_tokens=9, seed=5)
    assert [choice.text for choice in mixed.choices] == expected
    assert [choice.index for choice in mixed.choices] == [0, 1]
    assert ask(client, prompt=ids, max_tokens=9, seed=5).choices[0].text == expected[1]
    assert ask(client, prompt=[ids, ids], max_tokens=9, seed=5).choices[1].text == expected[1]


def test_a_model_of_ids_reads_and_writes_ids(client, models):
    found = ask(client, "ids", "4 5", max_tokens=12, seed=2, echo=True).choices[0]
    (expected,) = decode(models["ids"], [[4, 5]], Sample(), max_new_tokens=12, seed=2)
    assert found.token_ids == expected.tokens
    assert found.text == " ".join(map(str, [4, 5, *expected.tokens]))
    from_bos = ask(client, "ids", None, max_tokens=5, temperature=0).choices[0]
    assert from_bos.token_ids == decode(models["ids"], None, max_new_tokens=5)[0].tokens


def test_streams_join_to_the_whole_answer(client):
    fields = {"prompt": ["ROMEO:", "JULIET:"], "n": 2, "max_tokens": 40, "seed": 11, "logprobs": 2}
    whole = ask(client, **fields)
    texts, tokens, reasons = ([[] for _ in range(4)] for _ in range(3))
    chunks = list(ask(client, **fields, stream=True, stream_options={"include_usage": True}))
    for choice in itertools.chain(*(chunk.choices for chunk in chunks)):
        texts[choice.index].append(choice.text)
        tokens[choice.index] += choice.logprobs.tokens
        reasons[choice.index].append(choice.finish_reason)
    for pair in (slice(0, 2), slice(2, 4)):  # outputs of a prompt come best first in a whole answer
        streamed = {("".join(text), tuple(own)) for text, own in zip(texts[pair], tokens[pair], strict=True)}
        assert streamed == {(choice.text, tuple(choice.logprobs.tokens)) for choice in whole.choices[pair]}
    assert all(own[-1] == "length" and not any(own[:-1]) for own in reasons)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_logprobs_are_those_of_decode(client, models):
    (expected,) = decode(models["shakespeare"], "ROMEO:", Sample(), max_new_tokens=15, seed=4, logprobs=3)
    choice = ask(client, max_tokens=15, seed=4, logprobs=3).choices[0]
    found = choice.logprobs
    assert found.tokens == expected.token_texts
    assert found.token_logprobs == pytest.approx(expected.token_logprobs.tolist())
    assert found.text_offset == list(range(6, 21))
    ids, values = expected.top_logprobs
    texts = [[models["shakespeare"].tokenizer.decode([i]) for i in step] for step in ids.tolist()]
    for top, names, logprobs, token, own in zip(found.top_logprobs, texts, values.tolist(), found.tokens, found.token_logprobs, strict=True):  # fmt: skip
        assert top == pytest.approx({**dict(zip(names, logprobs, strict=True)), token: own})
    plain = ask(client, max_tokens=15, seed=4, logprobs=0).choices[0].logprobs
    assert plain.top_logprobs == [{text: value} for text, value in zip(found.tokens, found.token_logprobs, strict=True)]


@pytest.mark.parametrize("max_tokens", [0, 6])
def test_echo_has_the_scores_of_the_prompt(client, live, max_tokens):
    prompt = "To be, or not"
    choice = ask(client, prompt=prompt, max_tokens=max_tokens, seed=1, echo=True, logprobs=1).choices[0]
    scored = httpx2.post(f"{live.url}/v1/score", json={"model": "shakespeare", "input": choice.text}).json()["data"][0]
    assert choice.text.startswith(prompt)
    assert len(choice.text) == len(prompt) + max_tokens
    assert choice.logprobs.tokens == scored["tokens"] == list(choice.text)
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(scored["token_logprobs"][1:], abs=1e-4)
    for text, own, top in zip(*(getattr(choice.logprobs, n)[1:] for n in ("tokens", "token_logprobs", "top_logprobs")), strict=True):  # fmt: skip
        assert top[text] == own <= max(top.values())
    streamed = list(ask(client, prompt=prompt, max_tokens=max_tokens, seed=1, echo=True, logprobs=1, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
    assert streamed[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_texts_end_before_their_stop(client, models, stream):
    model = models["shakespeare"]
    (free,) = decode(model, "ROMEO:", Sample(), max_new_tokens=60, seed=9)
    for stop in (free.text[20:24], free.text[31], [free.text[25:27], free.text[40:45]], "never, never"):
        found = ask(client, max_tokens=60, seed=9, stop=stop, stream=stream, logprobs=0)
        choices = [chunk.choices[0] for chunk in found] if stream else found.choices
        text = "".join(choice.text for choice in choices)
        ends = [end for one in ([stop] if isinstance(stop, str) else stop) if (end := free.text.find(one)) >= 0]
        assert text == free.text[: min(ends, default=None)]
        assert choices[-1].finish_reason == ("stop" if ends else "length")
        assert "".join(itertools.chain(*(choice.logprobs.tokens for choice in choices))) == text


@pytest.mark.parametrize("stream", [False, True])
def test_ids_stop_a_model_without_a_vocabulary(client, models, stream):
    (free,) = decode(models["ids"], [[4]], Sample(), max_new_tokens=40, seed=6, eos_token_id=3)
    ids = free.tokens[5:7]
    end = next(i for i in range(len(free.tokens)) if free.tokens[i : i + 2] == ids)
    found = ask(client, "ids", [4], max_tokens=40, seed=6, stream=stream, extra={"stop": [ids]})
    choices = [chunk.choices[0] for chunk in found] if stream else found.choices
    assert "".join(c.text for c in choices) == "".join(f" {token}" for token in free.tokens[:end])
    assert list(itertools.chain(*(c.token_ids for c in choices))) == free.tokens[: end + 2]


def test_best_of_returns_the_greatest_mean_log_probability(client, models):
    many = decode(models["ids"], [[4]], Sample(), max_new_tokens=30, seed=1, num_return_sequences=8)
    best = sorted(many, key=lambda h: -h.logprob / len(h.token_logprobs))[:2]
    found = ask(client, "ids", [4], max_tokens=30, seed=1, n=2, best_of=8)
    assert [choice.token_ids for choice in found.choices] == [h.tokens for h in best]
    assert found.usage.completion_tokens == sum(len(h.token_logprobs) for h in many)


def test_an_encoder_reads_the_source_and_goes_on_after_the_prompt(client, models):
    found = ask(client, "dates", None, temperature=0, extra={"source": "May 3, 2026", "return_attention": True})
    choice = found.choices[0]
    (expected,) = decode(models["dates"], ["May 3, 2026"], return_attention=True)
    assert (choice.text, choice.finish_reason) == (expected.text, "stop")
    assert len(choice.attention) == len(expected.attention)
    assert sum(choice.attention[0]) == pytest.approx(1, abs=0.01)
    assert found.source_tokens == list("May 3, 2026")
    assert ask(client, "dates", "2026-", temperature=0, echo=True, logprobs=1, extra={"source": "May 3, 2026"}).choices[0].text == "2026-05-03"  # fmt: skip


def test_beams_tell_how_they_grew(client, models):
    found = ask(client, max_tokens=8, n=3, extra={"num_beams": 3, "return_beams": True})
    steps = found.beams
    assert [len(steps[0]), len(steps)] == [1, 10]
    for rank, choice in enumerate(found.choices):
        (place,) = [i for i, node in enumerate(steps[-1]) if node["end"] and node["best"] == rank]
        text, at = "", place
        for step in range(len(steps) - 1, 0, -1):
            node = steps[step][at]
            text, at = ("" if node["end"] else node["text"]) + text, node["parent"]
        assert text == choice.text
    assert any(node["best"] is None for step in steps for node in step)


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_goes_on_where_it_was(client, models, stream):
    model, session = models["shakespeare"], {"session": f"one-{stream}"}

    def say(prompt, seed):
        found = ask(client, prompt=prompt, max_tokens=20, seed=seed, stream=stream, extra=session)
        return "".join(chunk.choices[0].text for chunk in found) if stream else found.choices[0].text

    (first,) = decode(model, "ROMEO:", Sample(), max_new_tokens=20, seed=1, return_state=True)
    assert say("ROMEO:", 1) == first.text
    for prompt, seed in (("\n\nJULIET:", 2), ("", 3)):
        (first,) = decode(model, Request(prompt, state=first.state), Sample(), max_new_tokens=20, seed=seed, return_state=True)  # fmt: skip
        assert say(prompt, seed) == first.text


def test_sessions_are_bounded_and_one_at_a_time(client, live):
    sessions = live.models.get("shakespeare").sessions
    for number in range(5):
        ask(client, max_tokens=2, extra={"session": f"many-{number}"})
    assert len(sessions) == 3
    stream = ask(client, "slow", [1], max_tokens=50_000, stream=True, extra={"session": "busy"})
    next(stream)
    with pytest.raises(openai.ConflictError, match="session: 'busy' has a request that runs"):
        ask(client, "slow", [1], max_tokens=1, extra={"session": "busy"})
    stream.close()


def test_equal_seeds_give_equal_tokens_at_any_load(live, models):
    requests = [{"prompt": [i % 40], "seed": i % 7, "max_tokens": 5 + i % 11, "n": 1 + i % 3} for i in range(60)]

    async def load_it():
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:

            async def one(fields, stream):
                found = await client.completions.create(model="slow", stream=stream, **fields)
                outputs = [[] for _ in range(fields["n"])]
                if stream:
                    async for chunk in found:
                        outputs[chunk.choices[0].index] += chunk.choices[0].token_ids
                else:
                    outputs = [choice.token_ids for choice in found.choices]
                return sorted(outputs)

            return await asyncio.gather(*(one(fields, i % 2 == 0) for i, fields in enumerate(requests)))

    for fields, outputs in zip(requests, asyncio.run(load_it()), strict=True):
        own = {"max_new_tokens": fields["max_tokens"], "num_return_sequences": fields["n"]}
        expected = decode(models["slow"], [fields["prompt"]], Sample(), seed=fields["seed"], **own)
        assert outputs == sorted(expected.tokens)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["shakespeare", "dates", "ids", "slow"]
    assert client.models.retrieve("dates").needs_source
    with pytest.raises(openai.NotFoundError, match="there is no 'other'"):
        client.models.retrieve("other")


def test_the_client_tries_again_while_the_queue_is_full(live, models):
    with running({"slow": models["slow"]}, settings=Settings(batch_size=1, max_queue=1)) as small:
        fields = {"model": "slow", "prompt": [1], "max_tokens": 100_000, "stream": True}
        with openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client:
            first = client.completions.create(**{**fields, "max_tokens": 4096})
            next(first)
            second = partial(client.completions.with_raw_response.create, **{**fields, "max_tokens": 3})
            thread = threading.Thread(target=second, daemon=True)
            thread.start()
            while small.engine("slow").statistics().queued < 1:
                pass
            with pytest.raises(openai.RateLimitError) as error:
                client.completions.create(model="slow", prompt=[1], max_tokens=2)
            assert error.value.response.headers["retry-after"] == "1"
            assert error.value.code == "queue_full"
            patient = client.with_options(max_retries=5)
            first.close()
            assert patient.completions.create(model="slow", prompt=[1], max_tokens=2).usage.completion_tokens == 2
            thread.join(20)


@pytest.mark.parametrize("fields", [{}, {"logprobs": 1}, {"stop": "-"}, {"n": 2}, {"extra": {"num_beams": 2}}], ids=str)
def test_an_output_that_is_eos_alone(client, fields):
    fields = {**fields, "extra": {"source": "3 May 1999", **fields.get("extra", {})}}
    found = ask(client, "dates", "", max_tokens=9, logit_bias={"1": 100}, **fields)
    for choice in found.choices:
        assert (choice.text, choice.token_ids, choice.finish_reason) == ("", [], "stop")
    assert found.usage.completion_tokens == len(found.choices)


def test_ensembles_of_models_with_encoders(models):
    dates, source = models["dates"], "21 November 2026"
    own = {"both": Ensemble([dates, Ensemble([dates])]), "guided": Guidance(dates, 2)}
    with running(own) as live:
        for name, model in own.items():
            sent = {"model": name, "source": source, "max_tokens": 14, "temperature": 0}
            answer = httpx2.post(f"{live.url}/v1/completions", json=sent).json()
            (choice,) = answer["choices"]
            assert choice["text"] == decode(model, [source])[0].text == "2026-11-21"
            assert (
                answer["usage"]["prompt_tokens"] == len(source) + 1
            )  # and its EOS; once, though several members read it


def test_phrases_that_every_output_contains(client, models):
    fields = {"num_beams": 4, "must_contain": {"phrases": ["sun", "a"], "ordered": True}}
    (choice,) = ask(client, "shakespeare", "ROMEO:", max_tokens=12, extra=fields).choices
    strategy = Beam(4, must_contain=MustContain(["sun", "a"], ordered=True))
    assert choice.text == decode(models["shakespeare"], "ROMEO:", strategy, max_new_tokens=12)[0].text
    assert "a" in choice.text[choice.text.index("sun") + 3 :]


def test_a_negative_prompt_and_a_session(models):
    """Every prompt is the conditional one; the second turn goes on after both."""
    guided = Guidance(models["shakespeare"], 1.5, negative_prompt="CORIOLANUS:\nYou common cry of curs! ")
    with running({"guided": guided}) as live:
        for _ in range(2):  # the engine's known states are not those of other prompts
            sent = {"max_tokens": 6, "temperature": 0, "session": "s"}
            turns = []
            for prompt in ("ROMEO:\n", " and"):
                answer = httpx2.post(f"{live.url}/v1/completions", json={**sent, "prompt": prompt}).json()
                turns.append(answer["choices"][0]["token_ids"])
            live.models.get("guided").sessions.end("s", None)
            live.models.get("guided").sessions._states.clear()
            first = decode(guided, Request("ROMEO:\n", return_state=True), max_new_tokens=6)[0]
            second = decode(guided, Request(" and", state=first.state), max_new_tokens=6)[0]
            assert turns == [first.tokens, second.tokens]
        refused = httpx2.post(f"{live.url}/v1/completions", json={"prompt": {"conditional": "a"}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    assert first.tokens != decode(models["shakespeare"], "ROMEO:\n", max_new_tokens=6)[0].tokens
