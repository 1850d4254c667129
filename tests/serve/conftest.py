"""A live server on a free local port, in a thread of the test process."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
import uvicorn

from decoding import load
from decoding.serve import Limits, create_app
from decoding.serve.models import Settings
from decoding.serve.server import Server
from tests.helpers import build

LIMITS = Limits(body_bytes=200_000, prompt_tokens=2000, prompts=8, n=8, max_tokens=100_000, sessions=3)


class Live:
    """A server that runs: its port, and the application behind it."""

    def __init__(self, app, port, server):
        self.app, self.port, self.server = app, port, server
        self.url = f"http://127.0.0.1:{port}"
        self.gate, self.models = app.state.gate, app.state.models

    def engine(self, name):
        return self.models.get(name).engine


@contextmanager
def running(models, *, until_ready=True, **options):
    """Serve models on a free port."""
    app = create_app(models, **options)
    config = uvicorn.Config(app, port=0, log_level="error", access_log=False, lifespan="on", ws="none")
    server = Server(config, app, drain_seconds=20)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        while until_ready and not app.state.models.ready:
            assert app.state.models.error is None
        yield Live(app, server.servers[0].sockets[0].getsockname()[1], server)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="package")
def models():
    """Three models: characters; with an encoder, attention, BOS and EOS; ids alone."""
    ids = build.recurrent("GRU", vocab=23, hidden=16, seed=8, metadata={"decoding.eos": 3, "decoding.bos": 1})
    slow = build.recurrent("LSTM", vocab=40, hidden=256, layers=3, scale=0.1)
    return {
        "shakespeare": load("shakespeare", threads=1),
        "dates": load("dates", threads=1),
        "ids": load(ids, executor="native", threads=1),
        "slow": load(slow, executor="native", threads=1),
    }


@pytest.fixture(scope="package")
def live(models):
    with running(models, limits=LIMITS, settings=Settings(batch_size=16)) as server:
        yield server
