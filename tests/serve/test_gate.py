"""Keys, limits of connections, other origins, and what is counted."""

import threading

import httpx2
import pytest

from decoding.serve import Limits
from tests.helpers.http import connect, message, until
from tests.serve.conftest import running


@pytest.fixture(scope="module")
def guarded(models):
    limits = Limits(connections=2, max_tokens=100_000)
    options = {"limits": limits, "api_key": "sécret", "allow_origins": ("https://good.example",)}
    with running({"slow": models["slow"]}, **options) as live:
        yield live


KEY = {"Authorization": "Bearer sécret".encode()}


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "sécret".encode()}])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v2", "/v1/completions", "/nowhere"])
def test_nothing_is_answered_without_the_key(guarded, path, header):
    answer = httpx2.get(guarded.url + path, headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_and_the_page_need_no_key(guarded):
    for path in ("/", "/health", "/ready", "/v2/health/live", "/v2/health/ready"):
        assert httpx2.get(guarded.url + path).status_code == 200
    assert httpx2.get(f"{guarded.url}/v1/models", headers=KEY).status_code == 200


def test_too_many_requests_at_once_are_refused(guarded):
    streams = [connect(guarded) for _ in range(2)]
    for stream in streams:
        stream.sendall(message({"prompt": [1], "max_tokens": 100_000, "stream": True}, Authorization="Bearer sécret"))
    until(lambda: guarded.gate.running == 2)
    answer = httpx2.get(f"{guarded.url}/v1/models", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_connections")
    assert httpx2.get(f"{guarded.url}/health").status_code == 200
    for stream in streams:
        stream.close()
    until(lambda: guarded.gate.running == 0)


def test_other_origins_are_allowed_by_name_alone(guarded, live):
    asks = {"Origin": "https://good.example", "Access-Control-Request-Method": "POST"}
    allowed = httpx2.options(f"{guarded.url}/v1/completions", headers=asks)
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    other = httpx2.options(f"{guarded.url}/v1/completions", headers=asks | {"Origin": "https://bad.example"})
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in httpx2.get(f"{live.url}/health", headers=asks).headers


def test_metrics_count_what_happens(models):
    with running({"ids": models["ids"]}) as live:
        body = {"model": "ids", "prompt": [4, 5], "max_tokens": 7, "min_tokens": 7}
        httpx2.post(f"{live.url}/v1/completions", json=body)
        httpx2.post(f"{live.url}/v1/completions", json=body | {"stream": True})
        httpx2.post(f"{live.url}/v1/completions", json=body | {"n": 0})
        httpx2.get(f"{live.url}/other/{'x' * 50}")
        text = httpx2.get(f"{live.url}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    path = 'path="/v1/completions"'
    assert float(lines[f'decoding_requests_total{{model="ids",{path},status="200"}}']) == 2
    assert float(lines[f'decoding_requests_total{{model="",{path},status="400"}}']) == 1
    assert float(lines['decoding_requests_total{model="",path="other",status="404"}']) == 1
    assert float(lines['decoding_tokens_total{kind="prompt",model="ids"}']) == 4
    assert float(lines['decoding_tokens_total{kind="output",model="ids"}']) == 14
    assert float(lines['decoding_time_to_first_token_seconds_count{model="ids"}']) == 1
    assert float(lines['decoding_time_between_tokens_seconds_count{model="ids"}']) == 6
    assert float(lines['decoding_batch_fill{model="ids"}']) == 0


def test_a_model_that_is_still_loaded_answers_later(models, monkeypatch):
    go_on = threading.Event()

    def slow_load(source, **options):
        assert go_on.wait(20)
        return models["ids"]

    monkeypatch.setattr("decoding.serve.models.load", slow_load)
    with running({"a": models["ids"], "b": "b.onnx"}, until_ready=False) as live:
        until(lambda: httpx2.get(f"{live.url}/v2/models/a/ready").status_code == 200)
        assert httpx2.get(f"{live.url}/health").status_code == 200
        assert httpx2.get(f"{live.url}/ready").status_code == 503
        assert httpx2.get(f"{live.url}/v2/models/b/ready").status_code == 503
        answer = httpx2.post(f"{live.url}/v1/completions", json={"model": "b", "prompt": [1]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
        go_on.set()
        until(lambda: httpx2.get(f"{live.url}/ready").status_code == 200)
        assert httpx2.post(f"{live.url}/v1/completions", json={"model": "b", "prompt": [4]}).status_code == 200
