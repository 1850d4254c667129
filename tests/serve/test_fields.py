"""Wrong requests: each error names its field; nothing that a client sends is a 500."""

import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoding.serve.errors import ApiError
from decoding.serve.fields import read_completion, read_json
from decoding.serve.gate import Limits

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(live):
    with httpx2.Client(base_url=live.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_token": 3}, "max_token", "unknown field; did you mean 'max_tokens'?"),
        ({"tools": []}, "tools", "unknown field"),
        ({"suffix": "end"}, "suffix", "does not fill gaps"),
        ({"prompt": 5}, "prompt", "expected a string, a list of ids"),
        ({"prompt": [[1], "a", 2]}, "prompt", "entry 2 is 2"),
        ({"prompt": []}, "prompt", "expected a string"),
        ({"prompt": [99]}, "prompt", "id 99"),
        ({"prompt": "ROMEO€"}, "prompt", "€"),
        ({"prompt": None}, "prompt", "no BOS"),
        ({"prompt": ["a"] * 9}, "prompt", "the limit is 8 prompts"),
        ({"n": 0}, "n", "found 0; expected a whole number from 1 to 8"),
        ({"n": 9}, "n", "from 1 to 8"),
        ({"n": True}, "n", "found True"),
        ({"n": 2.0}, "n", "found 2.0"),
        ({"n": 2, "temperature": 0}, "n", "all outputs are equal"),
        ({"n": 3, "num_beams": 2}, "n", "more than num_beams=2"),
        ({"best_of": 1, "n": 2}, "best_of", "less than n=2"),
        ({"best_of": 2, "stream": True}, "best_of", "stream out"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to"),
        ({"max_tokens": 10**30}, "max_tokens", "from 1 to"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens", "more than max_tokens=3"),
        ({"min_tokens": 17}, "min_tokens", "by default 16"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"temperature": 1e-60}, "temperature", "float32"),
        ({"temperature": "hot"}, "temperature", "found 'hot'"),
        ({"top_p": 0}, "top_p", "(0, 1]"),
        ({"top_p": 1.5}, "top_p", "from 0 to 1"),
        ({"top_k": -1}, "top_k", "found -1"),
        ({"num_beams": 2, "temperature": 0.5}, "temperature", "beam search does not sample"),
        ({"num_beams": 2, "logprobs": 1}, "logprobs", "beam search keeps no alternatives"),
        ({"length_penalty": 2}, "length_penalty", "num_beams too"),
        ({"must_contain": ["a"]}, "must_contain", "num_beams too"),
        ({"num_beams": 2, "must_contain": "a"}, "must_contain", "a list of strings"),
        ({"num_beams": 2, "must_contain": {"phrase": ["a"]}}, "must_contain", "phrases and ordered"),
        ({"num_beams": 2, "must_contain": {"phrases": ["a"], "ordered": 1}}, "must_contain", "ordered"),
        ({"num_beams": 2, "must_contain": ["a"] * 17}, "must_contain", "at most 16"),
        ({"num_beams": 2, "must_contain": [[99]]}, "must_contain", "id 99"),
        ({"num_beams": 2, "must_contain": ["€"]}, "must_contain", "€"),
        ({"num_beams": 2, "must_contain": ["long"], "max_tokens": 2}, "max_tokens", "a phrase of MustContain has 4"),
        ({"num_beams": 2, "must_contain": ["ab"], "stop": ["a"]}, "must_contain", "has all phrases"),
        ({"logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": {"a": 1}}, "stop", "found {'a': 1}"),
        ({"stop": [[99]]}, "stop", "the id 99"),
        ({"seed": "x"}, "seed", "found 'x'"),
        ({"seed": 2**64}, "seed", "a whole number from"),
        ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "found 0"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "found 'a'"),
        ({"logit_bias": {"99": 1}}, "logit_bias", "the id 99"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "from -100 to 100"),
        ({"logit_bias": [1]}, "logit_bias", "expected an object"),
        ({"stream": 1}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "together with stream=true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
        ({"source": "x"}, "source", "has no encoder"),
        ({"return_attention": True}, "return_attention", "no attention"),
        ({"return_beams": True}, "return_beams", "num_beams"),
        ({"session": "s", "n": 2}, "session", "one output"),
        ({"session": "s" * 300}, "session", "at most 256"),
        ({"user": 4}, "user", "a string"),
        ({"model": 4}, "model", "a string"),
        ({"model": "dates"}, "source", "has an encoder"),
        ({"model": "dates", "source": "€"}, "source", "€"),
        ({"model": "dates", "source": [[[1]]]}, "source", "nested"),
        ({"model": "dates", "source": "1", "stream": True, "return_attention": True}, "return_attention", "stream out"),
        ({"model": "ids", "prompt": "1 b"}, "prompt", "no vocabulary"),
        ({"model": "ids", "prompt": [1], "stop": "x"}, "stop", "no vocabulary"),
    ],
)
def test_an_error_names_the_field(client, fields, param, says):
    answer = client.post("/v1/completions", json={"model": "shakespeare", "prompt": "ROMEO:"} | fields if fields.get("model") != "dates" else fields)  # fmt: skip
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (413 if "limit is" in says else 400, param)
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


def test_limits_have_their_status(client):
    long = client.post("/v1/completions", json={"model": "shakespeare", "prompt": "a" * 2001})
    assert (long.status_code, long.json()["error"]["code"]) == (413, "prompt_too_long")
    source = client.post("/v1/completions", json={"model": "dates", "source": "1" * 2001})
    assert (source.status_code, source.json()["error"]["param"]) == (413, "source")
    large = client.post("/v1/completions", content=b"{" + b" " * 200_000, headers=JSON)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    pieces = client.post("/v1/completions", content=iter([b" " * 100_000] * 3), headers=JSON)
    assert pieces.status_code == 413


def test_other_errors_have_their_status(client):
    assert client.post("/v1/completions", json={"model": "gpt", "prompt": "a"}).json()["error"]["code"] == "model_not_found"  # fmt: skip
    assert client.post("/v1/completions", json={"prompt": "a"}).json()["error"]["param"] == "model"
    assert client.post("/v1/completions", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/etc/passwd").status_code == 404
    for wrong in (b"{", b"[]", b"\xff", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "\\ud800"}', b"1" * 5000):
        answer = client.post("/v1/completions", content=wrong, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


NAMES = sorted(
    [
        "model",
        "prompt",
        "source",
        "n",
        "best_of",
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "num_beams",
        "length_penalty",
        "must_contain",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "echo",
        "stream",
        "stream_options",
        "session",
        "return_attention",
        "return_beams",
        "user",
        "suffix",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["shakespeare", "dates", "ids", "ROMEO:", "1 2"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("0123456789abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["shakespeare", "dates", "ids"]),
        "prompt": st.sampled_from(["RO", "1 2", [1, 2], ["RO", "JU"], [[1], [2, 3]], "", None]),
        "source": st.sampled_from(["May", "1", [1, 2], None]),
        "max_tokens": st.integers(0, 6),
        "n": st.integers(1, 3),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "num_beams": st.integers(1, 3),
        "logprobs": st.integers(0, 5),
        "echo": st.booleans(),
        "stream": st.booleans(),
        "stop": st.sampled_from(["e", ["a", " "], [[1]], None]),
        "session": st.sampled_from(["a", "b", None]),
        "return_beams": st.booleans(),
        "return_attention": st.booleans(),
        "min_tokens": st.integers(0, 3),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIKELY, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
def test_no_request_is_a_failure_of_the_server(client, likely, odd):
    body = {"max_tokens": 4} | likely | odd
    if isinstance(body["max_tokens"], int) and body["max_tokens"] > 50:
        body["max_tokens"] = 50
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code in (200, 400, 404, 413, 409), (body, answer.text)
    if answer.status_code == 200:
        assert '{"error"' not in answer.text, body
    else:
        assert answer.json()["error"]["message"], body


def outcome(function, *arguments):
    """Return what a function returns, or the error that it answers."""
    try:
        return function(*arguments)
    except ApiError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_json_or_an_error(data):
    found = outcome(read_json, data)
    assert found.status == 400 if isinstance(found, ApiError) else found == json.loads(data)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5))
def test_fields_are_read_or_an_error(values):
    found = outcome(read_completion, values, Limits())
    if isinstance(found, ApiError):
        assert found.status in (400, 413)
        assert found.param is not None
    else:
        assert 1 <= found.n <= found.outputs <= Limits().n
