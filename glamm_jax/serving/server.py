"""The process: a socket, the engine, and the end at SIGTERM.

At the first SIGTERM or SIGINT no more questions are taken (/ready answers 503), those that were
accepted are answered, and the process ends. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from glamm_jax.serving.app import ServerOptions, make_app
from glamm_jax.serving.engine import Engine

BACKLOG = 1024  # connections that are not accepted yet
POLL_SECONDS = 0.05
CLOSE_SECONDS = 5  # for responses that are being sent when the engine is empty


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


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
        listener: as `listen` returns it.
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


class _DrainingServer(uvicorn.Server):
    """Drains the engine at the first signal, before connections are closed."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float):
        super().__init__(config)
        self.engine, self.drain_seconds = engine, drain_seconds
        self._signalled = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; the process ends with status 0 after them."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

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
