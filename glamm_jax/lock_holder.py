"""The process that holds a lock: the line in a lock file or a lock object."""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple

MAX_BYTES = 1000  # of a lock that are read


class LockHolder(NamedTuple):
    """The process that holds a lock.

    Attributes:
        host: its name; "": the lock does not say.
        pid: number of the process.
        since: when it took or renewed the lock.
    """

    host: str = ""
    pid: str = ""
    since: str = ""

    @classmethod
    def this_process(cls) -> LockHolder:
        """Return this process, at this time."""
        return cls(socket.gethostname(), str(os.getpid()), time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    @classmethod
    def from_bytes(cls, content: bytes) -> LockHolder:
        """Read what `to_bytes` wrote; anything else is an unknown process."""
        words = content[:MAX_BYTES].decode(errors="replace").split()
        return cls(*words) if len(words) == 3 else cls()

    def to_bytes(self) -> bytes:
        """Return the content of the lock."""
        return f"{self.host} {self.pid} {self.since}\n".encode()

    @property
    def has_ended(self) -> bool:
        """Whether it is a process of this host that does not exist."""
        if self.host != socket.gethostname() or not self.pid.isdigit():
            return False
        try:
            os.kill(int(self.pid), 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def __str__(self) -> str:
        if not self.host:
            return "another process"
        return f"process {self.pid} on host {self.host} since {self.since}"
