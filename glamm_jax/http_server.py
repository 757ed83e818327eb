"""What the HTTP servers of this library share: their socket, and their end at a signal.

with listen("127.0.0.1", 8000) as listener:
    asyncio.run(SignalServer(uvicorn.Config(app)).serve([listener]))
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

BACKLOG = 1024  # connections that are not accepted yet
CLOSE_SECONDS = 5  # for responses that are being sent at the end
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class SignalServer(uvicorn.Server):
    """Ends with status 0 after a signal; uvicorn would raise the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals by `handle_exit`."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
