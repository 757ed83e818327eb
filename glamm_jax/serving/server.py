"""The process: a socket, the engine, and the end at SIGTERM.

At the first SIGTERM or SIGINT no more questions are taken (/ready answers 503), those that were
accepted are answered, and the process ends. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from glamm_jax.serving.app import ServerOptions, make_app
from glamm_jax.serving.engine import Engine

POLL_SECONDS = 0.05
CLOSE_SECONDS = 5  # for responses that are being sent when the engine is empty


def serve(
    engine: Engine,
    options: ServerOptions,
    *,
    host: str,
    port: int,
    drain_seconds: float,
    on_ready: Callable[[str], Any] = print,
) -> None:
    """Answer requests until a signal ends the process.

    Args:
        engine: which is started and stopped here.
        options: limits of requests.
        host: address to listen on.
        port: to listen on; 0: any free one.
        drain_seconds: that accepted questions may take after a signal.
        on_ready: called with the address when the first question can be answered.

    Raises:
        OSError: the port cannot be listened on.
    """
    config = uvicorn.Config(
        make_app(engine, options),
        host=host,
        port=port,
        log_level="info",
        timeout_graceful_shutdown=CLOSE_SECONDS,
        server_header=False,
    )
    socket = config.bind_socket()
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{socket.getsockname()[1]}"
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
        asyncio.run(server.serve([socket]))
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
