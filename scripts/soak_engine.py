"""Submit requests of all kinds from many threads and from asyncio, cancel some at random, and check every one.

    python scripts/soak_engine.py --seconds 60 --threads 32 --seed 0

Every request ends exactly once, and those that finish have the tokens of `decode()`: the model has a native step, whose rows do not
depend on the batch. Prints how many ended how.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import decoding  # noqa: E402
from decoding import Beam, Cancelled, Engine, Greedy, QueueFull, RepetitionPenalty, Request, Sample, TopN  # noqa: E402
from tests.helpers import build  # noqa: E402

OPTIONS = {"max_new_tokens": 30, "eos_token_id": 3}


def fail(history, logits):
    """A processor with a defect."""
    raise ValueError("a defect of the processor's own")


def requests(model, count, seed):
    """Requests of all kinds, with seeds of their own; some go on from a state."""
    rng = random.Random(seed)
    states = [decoding.decode(model, [n], return_state=True, **OPTIONS)[0].state for n in range(8)]
    kinds = [
        lambda: {"strategy": Greedy()},
        lambda: {"strategy": Sample(temperature=rng.uniform(0.5, 2))},
        lambda: {"strategy": Sample(top_k=5, top_p=0.9), "num_return_sequences": rng.randint(1, 8)},
        lambda: {"strategy": TopN(3), "stop": [[rng.randrange(23)]]},
        lambda: {"strategy": Sample(min_p=0.1), "processors": [RepetitionPenalty(1.3)]},
        lambda: {"strategy": Beam(num_beams=rng.choice([2, 3])), "num_return_sequences": 2},
        lambda: {"strategy": Beam(num_beams=4, length_penalty=0.0), "stop": [[rng.randrange(23)]]},
        lambda: {"strategy": Sample(replacement=False), "num_return_sequences": 3},
        lambda: {"strategy": Sample(), "state": rng.choice(states)},
        lambda: {"strategy": Beam(num_beams=3), "state": rng.choice(states)},
    ]
    return [
        Request(
            [rng.randrange(23) for _ in range(rng.randint(1, 9))],
            seed=rng.randrange(2**64),
            max_new_tokens=rng.randint(1, 30),
            **rng.choice(kinds)(),
        )
        for _ in range(count)
    ]


class Soak:
    """Counts how requests ended, and what was wrong."""

    def __init__(self, model, count, seed):
        self.requests = requests(model, count, seed)
        self.expected = [decoding.decode(model, r, **OPTIONS).tokens for r in self.requests]
        self.counts, self.wrong = Counter(), []
        self.lock = threading.Lock()

    def note(self, how, number=None, tokens=None):
        """Count a request that ended; compare its tokens."""
        with self.lock:
            self.counts[how] += 1
            if tokens is not None and tokens != self.expected[number]:
                self.wrong.append((number, self.requests[number], tokens, self.expected[number]))

    def thread(self, engine, seed, until):
        """Submit requests one after the other, or a few at once."""
        rng = random.Random(seed)
        while time.monotonic() < until:
            self.turn(engine, rng)

    def turn(self, engine, rng):
        """Submit a few requests and see how they end."""
        tickets = []
        for _ in range(rng.randint(1, 4)):
            number = rng.randrange(len(self.requests))
            try:
                tickets.append((number, engine.submit(self.requests[number])))
            except QueueFull:
                self.note("queue full")
        if rng.random() < 0.1:
            try:
                engine.submit(Request([1], processors=[fail])).result(60)
            except ValueError:
                self.note("failed, as it should")
            except QueueFull:
                self.note("queue full")
        for number, ticket in tickets:
            how = rng.random()
            if how < 0.3:
                time.sleep(rng.random() * 0.01)
                ticket.cancel()
            elif how < 0.5:
                for place, _ in enumerate(ticket):
                    if place == 5 and how < 0.4:
                        ticket.cancel()
                        break
            try:
                self.note("finished", number, ticket.result(60).tokens)
            except Cancelled:
                self.note("cancelled")

    async def task(self, engine, seed, until):
        """The same with asyncio."""
        rng = random.Random(seed)
        while time.monotonic() < until:
            number = rng.randrange(len(self.requests))
            try:
                if rng.random() < 0.5:
                    timeout = rng.random() * 0.05 if rng.random() < 0.3 else 60
                    found = await asyncio.wait_for(engine.generate(self.requests[number]), timeout)
                    self.note("generated", number, found.tokens)
                else:
                    events = engine.stream(self.requests[number])
                    async for _ in events:
                        if rng.random() < 0.02:
                            break
                    await events.aclose()
                    self.note("streamed")
            except TimeoutError:
                self.note("timed out")
            except QueueFull:
                await asyncio.sleep(0.01)


def soak(seconds, threads, seed, count=300):
    """Return a `Soak` after that many seconds, and the engine's statistics."""
    model = decoding.load(build.recurrent("LSTM", vocab=23, hidden=16, layers=2, seed=8), executor="native", threads=1)
    state, until = Soak(model, count, seed), time.monotonic() + seconds
    with Engine(model, Sample(), batch_size=16, max_queue=48, workers=2, **OPTIONS) as engine:
        workers = [threading.Thread(target=state.thread, args=(engine, seed + n, until)) for n in range(threads)]
        for worker in workers:
            worker.start()

        async def tasks():
            await asyncio.gather(*(state.task(engine, seed - n, until) for n in range(8)))

        asyncio.run(tasks())
        for worker in workers:
            worker.join(120)
        if any(worker.is_alive() for worker in workers):
            state.wrong.append(("a thread hangs", engine.statistics()))
    return state, engine.statistics()


def main():
    """Soak for as long as the command line asks; 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    state, statistics = soak(given.seconds, given.threads, given.seed)
    print(dict(state.counts), statistics)
    for wrong in state.wrong[:5]:
        print("WRONG", wrong)
    left = statistics.queued + statistics.running
    return 1 if state.wrong or left else 0


if __name__ == "__main__":
    sys.exit(main())
