"""The Open Inference Protocol."""

import httpx2
import pytest

from decoding import Request, Sample, decode


@pytest.fixture(scope="module")
def client(live):
    with httpx2.Client(base_url=f"{live.url}/v2", timeout=30) as client:
        yield client


def tensor(name, *texts, **more):
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | more


def test_metadata(client, live):
    assert httpx2.get(f"{live.url}/v2").json()["name"] == "rnn-decoding"
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True}
    assert client.get("/models/dates/ready").json() == {"name": "dates", "ready": True}
    found = client.get("/models/dates").json()
    assert [entry["name"] for entry in found["inputs"]] == ["source", "text_input"]
    assert [entry["name"] for entry in client.get("/models/ids/versions/1").json()["inputs"]] == ["text_input"]
    missing = client.get("/models/none")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])


def test_texts_come_for_texts(client, models):
    body = {
        "id": "7",
        "inputs": [tensor("text_input", "ROMEO:", "JULIET:")],
        "parameters": {"max_tokens": 9, "seed": 3},
    }
    found = client.post("/models/shakespeare/infer", json=body).json()
    expected = decode(
        models["shakespeare"], [Request(p, seed=3) for p in ("ROMEO:", "JULIET:")], Sample(), max_new_tokens=9
    )
    assert (found["id"], found["model_name"]) == ("7", "shakespeare")
    assert found["outputs"] == [tensor("text_output", *expected.text), tensor("finish_reason", "length", "length")]


def test_an_encoder_reads_a_source(client):
    body = {"inputs": [tensor("source", "May 3, 2026")], "parameters": {"temperature": 0}}
    found = client.post("/models/dates/versions/1/infer", json=body).json()
    assert found["outputs"][0]["data"] == ["2026-05-03"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "inputs: found None"),
        ({"inputs": []}, "text_input is missing"),
        ({"inputs": [tensor("x", "a")]}, "found the name 'x'"),
        ({"inputs": [tensor("text_input", "a", datatype="FP32")]}, "datatype BYTES"),
        ({"inputs": [tensor("text_input", "a", shape=[2])]}, "found the shape [2]; expected [1]"),
        ({"inputs": [tensor("text_input", "a", more=1)]}, "inputs[0].more: unknown field"),
        ({"inputs": [tensor("text_input", "a")], "parameters": {"stream": True}}, "parameters.stream"),
        ({"inputs": [tensor("text_input", "a")], "parameters": {"top_q": 1}}, "did you mean 'top_p'"),
        ({"inputs": [tensor("text_input", "a")], "parameters": [1]}, "expected an object"),
        ({"inputs": [tensor("text_input", "a")], "outputs": [{"name": "x"}]}, "text_output and finish_reason"),
        ({"inputs": [tensor("text_input", "€")]}, "€"),
    ],
)
def test_errors_are_the_protocols(client, body, says):
    answer = client.post("/models/shakespeare/infer", json=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]
