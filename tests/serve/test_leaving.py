"""Clients that leave, hang, or read nothing: their rows get free. With plain sockets."""

import socket
import struct

import pytest

from tests.helpers.http import connect, message, until
from tests.serve.conftest import Settings, running

ENDLESS = {"model": "slow", "prompt": [1], "max_tokens": 100_000}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", ENDLESS),
        ("/v1/completions", ENDLESS | {"stream": True}),
        ("/v1/completions", ENDLESS | {"n": 3, "prompt": [[1], [2]]}),
        ("/v1/completions", ENDLESS | {"num_beams": 3}),
        ("/v1/completions", ENDLESS | {"session": "left"}),
        (
            "/v2/models/slow/infer",
            {
                "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["1 2"]}],
                "parameters": {"max_tokens": 100_000},
            },
        ),
    ],
    ids=["whole", "stream", "many", "beams", "session", "kserve"],
)
def test_the_rows_of_a_client_that_leaves_get_free(live, path, body, reset):
    statistics = live.engine("slow").statistics
    before = statistics()
    with connect(live) as client:
        client.sendall(message(body, path))
        until(lambda: statistics().batch_fill > 0)
        if body.get("stream"):
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        if reset:  # no goodbye: RST
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    seconds = until(lambda: statistics().batch_fill == 0)
    after = statistics()
    assert seconds < 2  # the request itself takes a hundred times as long
    assert (after.running, after.queued) == (0, 0)
    assert after.cancelled > before.cancelled
    assert after.finished == before.finished
    until(lambda: live.gate.running == 0)


def test_a_client_that_leaves_before_its_row_has_begun_is_forgotten(live):
    statistics = live.engine("slow").statistics
    with connect(live) as first:
        first.sendall(message(ENDLESS | {"n": 8, "prompt": [[1], [2]], "stream": True}))  # all 16 slots
        until(lambda: statistics().batch_fill == 1)
        before = statistics()
        with connect(live) as second:
            second.sendall(message(ENDLESS))
            until(lambda: statistics().queued == 1)
        until(lambda: statistics().queued == 0)
        assert statistics().cancelled == before.cancelled + 1
    until(lambda: statistics().batch_fill == 0)


def test_a_client_that_leaves_within_its_body_leaves_nothing(live):
    with connect(live) as client:
        client.sendall(message(ENDLESS)[:-10])
        until(lambda: live.gate.running == 1)
    assert until(lambda: live.gate.running == 0) < 5


def test_a_client_that_reads_nothing_is_left_after_a_while(models, monkeypatch):
    monkeypatch.setattr("decoding.serve.server._PATIENCE", 0.5)
    with running({"ids": models["ids"]}, settings=Settings(batch_size=4)) as live:
        with connect(live) as silent, connect(live) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = {
                "prompt": [[5]] * 64,
                "n": 8,
                "max_tokens": 4000,
                "min_tokens": 4000,
                "logprobs": 20,
                "stream": True,
            }
            deaf.sendall(message(body))
            until(lambda: live.gate.running == 1)
            until(lambda: live.gate.running == 0, 30)
            assert silent.recv(10) == b""  # it has never sent a request
        until(lambda: live.engine("ids").statistics().batch_fill == 0)


def test_requests_beside_a_slow_reader_are_answered(live):
    with connect(live) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(message({"model": "ids", "prompt": [5], "n": 8, "max_tokens": 5000, "min_tokens": 5000, "logprobs": 9, "stream": True}))  # fmt: skip
        until(lambda: live.engine("ids").statistics().finished > 0 and live.gate.running == 1)
        with connect(live) as client:
            client.sendall(message({"model": "ids", "prompt": [5], "max_tokens": 3}, Connection="close"))
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert b'"completion_tokens": ' in answer
    until(lambda: live.gate.running == 0)
