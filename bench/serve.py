"""The server beside its engine: throughput and first tokens at 1 to 256 streams, and a soak with clients that misbehave.

    python -m bench.serve            # the table of docs/benchmarks/serve.md
    python -m bench.serve --soak     # 2,000 requests, of which many hang up, read slowly or are malformed

Both are bounded in requests and time, and use the loopback device only. The server is a process of its own, and so are the
clients, which read with plain sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from decoding import Engine, Request, Sample, load
from tests.helpers import build

NETWORKS = {"LSTM 3x512, vocabulary 64": (3, 512, 64), "LSTM 2x128, vocabulary 256": (2, 128, 256)}
TIMEOUT = 300


def network(layers: int, hidden: int, vocab: int):
    """An LSTM without a vocabulary, as an ONNX file."""
    return build.recurrent("LSTM", exposed=True, hidden=hidden, layers=layers, vocab=vocab, scale=1 / np.sqrt(hidden))


@contextmanager
def server(file: str, *options: str):
    """A running server: its port and its process."""
    command = [sys.executable, "-m", "decoding", "serve", f"m={file}", "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            log = []
            while not (found := re.search(r"http://[\d.]+:(\d+)", log[-1] if log else "")):
                log.append(process.stderr.readline())
                assert log[-1], "".join(log)
            port = int(found.group(1))
            asyncio.run(_until_ready(port))
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=90)


async def _until_ready(port: int) -> None:
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer.split(b"\r\n")[0]:
            return
        await asyncio.sleep(0.1)


def message(body: dict | bytes) -> bytes:
    """A request over HTTP."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    )
    return head.encode() + b"Connection: close\r\n\r\n" + data


def body(number: int, tokens: int, vocab: int, **more) -> dict:
    """A request for that many tokens."""
    return {"prompt": [number % vocab], "max_tokens": tokens, "seed": number, "stream": True, **more}


async def one_stream(port: int, request: dict) -> tuple[float, int]:
    """Return the seconds to the first token, and how many tokens came."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(request))
    await reader.readuntil(b"data: ")
    first, tail = time.perf_counter() - start, b""
    while piece := await reader.read(1 << 16):
        tail = (tail + piece)[-600:]
    writer.close()
    (tokens,) = re.findall(rb'"completion_tokens":(\d+)', tail)
    return first, int(tokens)


async def _streams(port: int, count: int, tokens: int, vocab: int) -> tuple[list[float], int]:
    usage = {"stream_options": {"include_usage": True}}
    found = await asyncio.gather(*(one_stream(port, body(i, tokens, vocab, **usage)) for i in range(count)))
    return [first for first, _ in found], sum(own for _, own in found)


def clients(port: int, count: int, tokens: int, vocab: int, answers) -> None:
    """A process with that many streams."""
    start = time.perf_counter()
    firsts, total = asyncio.run(asyncio.wait_for(_streams(port, count, tokens, vocab), TIMEOUT))
    answers.put((time.perf_counter() - start, firsts, total))


def by_server(port: int, count: int, tokens: int, vocab: int):
    """Tokens a second over HTTP, and the seconds to each first token."""
    answers = multiprocessing.Queue()
    process = multiprocessing.get_context("spawn").Process(
        target=clients, args=(port, count, tokens, vocab, answers := multiprocessing.get_context("spawn").Queue())
    )
    process.start()
    seconds, firsts, total = answers.get(timeout=TIMEOUT)
    process.join()
    return total / seconds, firsts


def by_engine(engine: Engine, count: int, tokens: int, vocab: int) -> float:
    """Tokens a second without HTTP."""
    start = time.perf_counter()
    requests = [Request([i % vocab], Sample(), seed=i, max_new_tokens=tokens) for i in range(count)]
    total = sum(len(ticket.result(TIMEOUT)[0].tokens) for ticket in [engine.submit(r) for r in requests])
    return total / (time.perf_counter() - start)


def by_streams(engine: Engine, count: int, tokens: int, vocab: int) -> float:
    """Tokens a second of as many asyncio streams of the engine, without HTTP."""

    async def read(number: int) -> int:
        request = Request([number % vocab], Sample(), seed=number, max_new_tokens=tokens)
        return len([event async for event in engine.stream(request)])

    async def read_all() -> int:
        return sum(await asyncio.gather(*map(read, range(count))))

    start = time.perf_counter()
    return asyncio.run(read_all()) / (time.perf_counter() - start)


def throughput(rounds: int, counts=(1, 16, 64, 256)) -> None:
    """Print the table."""
    print("| network | streams | engine, tokens/s | engine's streams | server | of engine | first token p50 | p99 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (layers, hidden, vocab) in NETWORKS.items():
            file = Path(folder, "m.onnx")
            file.write_bytes(network(layers, hidden, vocab).SerializeToString())
            with server(str(file)) as (port, _), Engine(load(file, threads=1)) as engine:
                for count in counts:
                    tokens = max(40, min(1000, 8000 // count))
                    rows = []
                    for _ in range(rounds):
                        plain = by_engine(engine, count, tokens, vocab)
                        streams = by_streams(engine, count, tokens, vocab)
                        rows.append((plain, streams, *by_server(port, count, tokens, vocab)))
                    plain, streams, served = (statistics.median(row[i] for row in rows) for i in range(3))
                    ratio = statistics.median(row[2] / row[0] for row in rows)
                    firsts = np.concatenate([row[3] for row in rows]) * 1000
                    p50, p99 = np.percentile(firsts, (50, 99))
                    cells = f"{plain:.0f} | {streams:.0f} | {served:.0f} | {ratio:.2f} | {p50:.0f} ms | {p99:.0f} ms"
                    print(f"| {name} | {count} | {cells} |", flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 16, 64, 256])
    args = parser.parse_args()
    throughput(args.rounds, args.counts)


if __name__ == "__main__":
    main()
