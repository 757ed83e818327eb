"""The process: a socket, the engine, and the end at SIGTERM.

At the first SIGTERM or SIGINT no more questions are taken (/ready answers 503), those that were
accepted are answered, and the process ends. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from glamm_jax.http_server import CLOSE_SECONDS, SignalServer
from glamm_jax.serving.app import ServerOptions, make_app
from glamm_jax.serving.engine import Engine

POLL_SECONDS = 0.05


def serve(
    engine: Engine,
    options: ServerOptions,
    listener: socket.socket,
    *,
    drain_seconds: float,
    on_ready: Callable[[str], Any] = print,
) -> None:
    """Answer requests until a signal ends the process.

    Args:
        engine: which is started and stopped here.
        options: limits of requests.
        listener: as `glamm_jax.http_server.listen` returns it.
        drain_seconds: that accepted questions may take after a signal.
        on_ready: called with the address when the first question can be answered.
    """
    config = uvicorn.Config(
        make_app(engine, options),
        log_level="info",
        timeout_graceful_shutdown=CLOSE_SECONDS,
        server_header=False,
    )
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    server = _DrainingServer(config, engine, drain_seconds)
    engine.start()

    def announce() -> None:
        engine.ready.wait()
        while not server.started and not server.should_exit:
            time.sleep(POLL_SECONDS)
        if engine.failure is None:
            on_ready(address)
        else:
            server.should_exit = True

    threading.Thread(target=announce, daemon=True).start()
    try:
        asyncio.run(server.serve([listener]))
    finally:
        engine.stop()
    if engine.failure is not None:
        raise engine.failure


class _DrainingServer(SignalServer):
    """Drains the engine at the first signal, before connections are closed."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float):
        super().__init__(config)
        self.engine, self.drain_seconds = engine, drain_seconds
        self._signalled = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain the engine; at the second signal, end."""
        if self._signalled:
            self.should_exit = self.force_exit = True
            return
        self._signalled = True
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        self.engine.drain(self.drain_seconds)
        self.engine.stop()  # what is not answered by now fails, so that its connections end
        self.should_exit = True
