"""The command as a process: how it starts, drains and stops."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from tests.helpers import build


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "slow.onnx"
    path.write_bytes(build.recurrent("LSTM", vocab=40, hidden=256, layers=2, scale=0.1).SerializeToString())
    return str(path)


class Process:
    """A server that was started from the command line."""

    def __init__(self, *arguments, key=None):
        environment = {**os.environ, **({"DECODING_API_KEY": key} if key else {})}
        command = [sys.executable, "-m", "decoding", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.log = ""
        while "Uvicorn running" not in self.log:
            line = self.process.stderr.readline()
            assert line, self.log
            self.log += line
        self.client = httpx2.Client(base_url=re.search(r"http://[\d.:]+", self.log).group(), timeout=30)

    def wait(self, seconds=30):
        status = self.process.wait(seconds)
        self.log += self.process.stderr.read()
        return status

    def until_ready(self):
        while self.client.get("/ready").status_code != 200:
            time.sleep(0.02)

    def stream(self, tokens, found):
        """Read a stream into `found` in a thread, and return when its first event is there."""
        begun = threading.Event()

        def read():
            body = {"prompt": [1], "max_tokens": tokens, "stream": True}
            try:
                with self.client.stream("POST", "/v1/completions", json=body) as answer:
                    for line in answer.iter_lines():
                        found.append(line)
                        begun.set()
            except httpx2.TransportError as error:
                found.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(30)
        return thread

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_refuses_new_ones(file, number):
    with Process(f"m={file}", "--max-tokens", "50000") as server:
        server.until_ready()
        found = []
        thread = server.stream(8_000, found)
        server.process.send_signal(number)
        time.sleep(0.05)
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/ready").status_code == 503
        refused = server.client.post("/v1/completions", json={"prompt": [1], "max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "closing")
        assert refused.headers["retry-after"] == "1"
        assert server.wait() == 0
        thread.join()
        assert [line for line in found if line][-1] == "data: [DONE]"
        tokens = [json.loads(line[6:])["choices"][0]["token_ids"] for line in found if line.startswith("data: {")]
        assert sum(map(len, tokens)) == 8_000
        assert "Traceback" not in server.log


def test_a_second_signal_stops_at_once(file):
    with Process(f"m={file}", "--max-tokens", "10000000") as server:
        server.until_ready()
        found = []
        thread = server.stream(10_000_000, found)
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        start = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - start < 10
        thread.join()
        assert "data: [DONE]" not in found
        assert "Traceback" not in server.log


def test_draining_ends_after_a_while(file):
    with Process(f"m={file}", "--max-tokens", "10000000", "--drain-seconds", "0.5") as server:
        server.until_ready()
        thread = server.stream(10_000_000, [])
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
        thread.join()


def test_the_key_comes_from_the_environment(file):
    with Process(f"m={file}", key="secret") as server:
        assert server.client.get("/v1/models").status_code == 401
        assert server.client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with Process(str(tmp_path / "bad.onnx")) as server:
        assert server.wait() == 1
        assert re.search(r"^decoding: .*bad\.onnx", server.log, re.M)
        assert "Traceback" not in server.log
