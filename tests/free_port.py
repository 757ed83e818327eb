"""A free port of this host, for tests with several processes."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
