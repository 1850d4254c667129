"""Runs the application in uvicorn: a first signal drains, a second one stops."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from decoding.errors import OptionError

# Seconds without a sign of a client after which its connection is closed.
_PATIENCE = 60.0


class Server(uvicorn.Server):
    """uvicorn, with signals of its own.

    The first SIGTERM or SIGINT lets the requests that run finish. Meanwhile new ones get status 503, and so does `/ready`, so
    that a load balancer looks elsewhere. The second one cancels everything. uvicorn itself would close its socket at the first
    signal and not hear a second SIGTERM.

    Args:
        drain_seconds: how long the first signal waits.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette, drain_seconds: float) -> None:
        super().__init__(config)
        self._app, self._drain_seconds = app, drain_seconds
        self._deadline: float | None = None
        self._stuck: dict[Any, float] = {}  # connections that wait for their client, and since when

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Hear a signal."""
        if self._deadline is not None:
            self._deadline = 0.0
            self.should_exit = self.force_exit = True
            return
        self._deadline = time.monotonic() + self._drain_seconds
        self._app.state.gate.is_closing = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; called ten times a second."""
        if self._app.state.models.error is not None:
            return True
        self._drop_stuck()
        if self._deadline is not None and not self.should_exit:
            late = time.monotonic() > self._deadline
            self.should_exit = late or not self._app.state.gate.running
            self.force_exit = self.force_exit or late
        return await super().on_tick(counter)

    def _drop_stuck(self) -> None:
        """Close connections whose client has not read, or not sent the head of a request, for a minute."""
        now, connections = time.monotonic(), list[Any](self.server_state.connections)
        stuck = [c for c in connections if c.cycle is None or c.flow.write_paused]
        self._stuck = {connection: self._stuck.get(connection, now) for connection in stuck}
        for connection, since in self._stuck.items():
            if now - since > _PATIENCE:
                connection.transport.abort()

    async def shutdown(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        """Close all connections, then the engines."""
        if self.force_exit:
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # its request hears that the client has left, and frees its rows
            await asyncio.sleep(0)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves it out then
            await self.lifespan.shutdown()


def run(app: Starlette, host: str, port: int, *, drain_seconds: float, log_level: str) -> None:
    """Serve until a signal comes.

    Raises:
        DecodingError: the address cannot be listened on, or a model cannot be loaded.
    """
    _check_address(host, port)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=30,
        backlog=1024,
    )
    Server(config, app, drain_seconds).run()
    if (error := app.state.models.error) is not None:
        raise error


def _check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on before the models are loaded; uvicorn would only log it.

    Raises:
        OptionError: says why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            if os.name != "nt":  # where it would share the address with whoever listens there
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise OptionError(f"--host {host} --port {port}: nothing can listen there: {error.strerror}; give another port, or an address of this machine") from error  # fmt: skip
