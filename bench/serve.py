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

# Its weights are random.
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
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=clients, args=(port, count, tokens, vocab, answers))
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


async def _soak_one(port: int, number: int, rng: random.Random, vocab: int) -> tuple[str, bool]:
    """Send one request, well or badly, and return its kind and whether the answer was right."""
    kind = rng.choices(("hangs up", "malformed", "slow", "good"), (1 / 3, 0.1, 0.1, 1 - 1 / 3 - 0.2))[0]
    tokens, stream = rng.randint(5, 60), rng.random() < 0.5
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12 if kind == "slow" else 1 << 16)
    try:
        if kind == "malformed":
            data = rng.choice((b"{", b"[1]", b"\xff\xfe", b'{"prompt": [1], "n": -1}', b'{"prompt": [1], "x": 1}'))
            writer.write(message(data))
            answer = await reader.read()
            return kind, answer.startswith(b"HTTP/1.1 400") and b'"error"' in answer
        if kind == "hangs up":
            writer.write(message(body(number, 2000, vocab) | {"stream": stream})[: rng.choice((40, 10_000))])
            await asyncio.sleep(rng.random() * 0.2)
            if rng.random() < 0.5:
                writer.transport.abort()
            return kind, True
        request = body(number, tokens, vocab) | {"stream": stream}
        writer.write(message(request))
        answer = b""
        while piece := await reader.read(200 if kind == "slow" else 1 << 16):
            answer += piece
            if kind == "slow":
                await asyncio.sleep(0.02)
        found = [
            int(i) for ids in re.findall(rb'"token_ids": ?\[([\d, ]*)\]', answer) for i in ids.split(b",") if i.strip()
        ]
        return kind, found == EXPECTED[number % len(EXPECTED)][:tokens]
    finally:
        writer.close()


EXPECTED: list[list[int]] = []  # the first tokens of each seed


async def _soak(port: int, count: int, at_once: int, vocab: int, rng: random.Random) -> dict[str, list[bool]]:
    places, found = asyncio.Semaphore(at_once), {}

    async def one() -> None:
        async with places:
            kind, right = await _soak_one(port, rng.randrange(len(EXPECTED)), rng, vocab)
            found.setdefault(kind, []).append(right)

    await asyncio.gather(*(one() for _ in range(count)))
    return found


def memory(process: subprocess.Popen) -> float:
    """MiB that a process has."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


async def _metrics(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^(decoding_\w+)\{model=\"m\"\} (\S+)", text, re.M)}


def soak(count: int, at_once: int = 64, seed: int = 0) -> None:
    """Send requests of which many are bad, in rounds, and print what came of them."""
    layers, hidden, vocab = NETWORKS["LSTM 2x128, vocabulary 256"]
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "m.onnx")
        file.write_bytes(network(layers, hidden, vocab).SerializeToString())
        with Engine(load(file, threads=1)) as engine:
            requests = [Request([i % vocab], Sample(), seed=i, max_new_tokens=60) for i in range(200)]
            EXPECTED[:] = [ticket.result()[0].tokens for ticket in [engine.submit(r) for r in requests]]
        with server(str(file)) as (port, process):
            rounds = 4
            for part in range(rounds):
                start = time.perf_counter()
                found = asyncio.run(asyncio.wait_for(_soak(port, count // rounds, at_once, vocab, rng), TIMEOUT))
                seconds = time.perf_counter() - start
                counts = ", ".join(f"{kind} {sum(own)} of {len(own)} right" for kind, own in sorted(found.items()))
                time.sleep(1)
                state = asyncio.run(_metrics(port))
                left = {
                    name: value for name, value in state.items() if value and not name.endswith(("total", "created"))
                }
                print(f"round {part + 1}, {seconds:.1f} s: {counts}; {memory(process):.1f} MiB; left: {left}", flush=True)  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=int, nargs="?", const=2000, metavar="REQUESTS", help="requests that misbehave")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 16, 64, 256])
    args = parser.parse_args()
    if args.soak:
        soak(args.soak)
    else:
        throughput(args.rounds, args.counts)


if __name__ == "__main__":
    main()
