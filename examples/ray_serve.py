"""An `Engine` as a deployment of Ray Serve: HTTP in, tokens out, in as many replicas as the cluster has room for.

    pip install 'rnn-decoding[ray]' 'ray[serve]' && python examples/ray_serve.py

Starts a cluster on this machine, deploys the shipped model twice, sends 40 requests at once, checks that each has the tokens that
`decode()` gives it whichever replica answered, and ends.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from starlette.requests import Request as HTTPRequest

import decoding

with socket.socket() as free:  # a port that nobody has
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Generator:
    """One model and one engine a replica; requests that come together share its batch."""

    def __init__(self, model: str) -> None:
        self.engine = decoding.Engine(decoding.load(model, threads=1), decoding.Sample(0.8), batch_size=64)

    async def __call__(self, http: HTTPRequest) -> dict[str, Any]:
        """Answer ``{"prompt": ..., "seed": ..., "max_new_tokens": ...}``; a request that is wrong is told so."""
        try:
            (best, *_) = await self.engine.generate(decoding.Request(**await http.json()))
        except decoding.OptionError as error:
            return {"error": str(error)}
        return {"text": best.text, "tokens": best.tokens, "finish_reason": best.finish_reason, "process": os.getpid()}


def ask(body: dict[str, Any]) -> dict[str, Any]:
    """Send one request, and return the answer."""
    http = urllib.request.Request(f"http://127.0.0.1:{PORT}/", json.dumps(body).encode())
    with urllib.request.urlopen(http, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> None:
    """Deploy, ask, compare."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(Generator.bind("shakespeare"))
        bodies = [{"prompt": "ROMEO:", "seed": seed, "max_new_tokens": 40} for seed in range(40)]
        with ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(ask, bodies))
        expected = decoding.decode("shakespeare", [decoding.Request(**body) for body in bodies], decoding.Sample(0.8))
        assert [answer["tokens"] for answer in answers] == expected.tokens
        assert "no such field" in ask({"prompt": "a", "temprature": 1})["error"]
        replicas = len({answer["process"] for answer in answers})
        print(f"{len(answers)} answers from {replicas} replicas, each with the tokens of decode()")
        print(answers[0]["text"])
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
