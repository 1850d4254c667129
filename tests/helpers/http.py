"""Requests over plain sockets, and waiting for what they do."""

import json
import socket
import time


def message(body, path="/v1/completions", **headers):
    """Return a POST request as it goes over the wire."""
    data = json.dumps(body).encode()
    fields = {"Host": "x", "Content-Type": "application/json", "Content-Length": len(data), **headers}
    return b"".join(
        [f"POST {path} HTTP/1.1\r\n".encode(), *(f"{k}: {v}\r\n".encode() for k, v in fields.items()), b"\r\n", data]
    )


def until(condition, seconds=10):
    """Wait until a condition holds, and return how long that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.002)
    return time.monotonic() - start


def connect(live):
    """Return a socket to a server of `tests/serve/conftest.py`."""
    return socket.create_connection(("127.0.0.1", live.port), timeout=20)
