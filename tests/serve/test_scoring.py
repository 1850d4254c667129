"""Scores of texts, and text to ids and back."""

import httpx2
import numpy as np
import pytest

from decoding import score


@pytest.fixture(scope="module")
def client(live):
    with httpx2.Client(base_url=live.url, timeout=30) as client:
        yield client


def test_scores_are_those_of_score(client, models):
    texts = ["To be", "or not to be"]
    data = client.post("/v1/score", json={"model": "shakespeare", "input": texts}).json()["data"]
    for own, text, expected in zip(data, texts, score(models["shakespeare"], texts), strict=True):
        assert own["tokens"] == list(text)
        assert own["token_logprobs"][0] is None
        assert own["token_logprobs"][1:] == pytest.approx(expected[1:].tolist())
        assert own["logprob"] == pytest.approx(float(np.nansum(expected)))
        assert own["perplexity"] == pytest.approx(np.exp(-np.nanmean(expected)))


def test_ids_and_sources_are_scored(client, models):
    (ids,) = client.post("/v1/score", json={"model": "ids", "input": [4, 5, 6]}).json()["data"]
    assert ids["token_logprobs"] == pytest.approx(score(models["ids"], [4, 5, 6])[0].tolist())
    body = {"model": "dates", "input": "2026-05-03", "source": "May 3, 2026"}
    (own,) = client.post("/v1/score", json=body).json()["data"]
    assert own["logprob"] == pytest.approx(float(score(models["dates"], "2026-05-03", prompts="May 3, 2026")[0].sum()))


def test_text_to_ids_and_back(client, models):
    found = client.post("/tokenize", json={"model": "shakespeare", "prompt": "To be"}).json()
    assert found["tokens"] == models["shakespeare"].tokenizer.encode("To be")
    assert found["texts"] == list("To be")
    assert found["count"] == 5
    back = client.post("/detokenize", json={"model": "shakespeare", "tokens": found["tokens"]}).json()
    assert back["prompt"] == "To be"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/score", {"input": "a", "max_tokens": 1}, "max_tokens"),
        ("/v1/score", {"input": ""}, "input"),
        ("/v1/score", {"input": [99]}, "input"),
        ("/v1/score", {"input": "€"}, "input"),
        ("/v1/score", {"input": "a", "source": "b"}, "source"),
        ("/v1/score", {"input": "a", "model": "dates"}, "source"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "€"}, "prompt"),
        ("/detokenize", {"tokens": [65]}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_errors_name_the_field(client, path, body, param):
    answer = client.post(path, json={"model": "shakespeare"} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
