"""The clocks that a run measures its time with; a simulation replaces them."""

from __future__ import annotations

import os
import time
from pathlib import Path


class RunClock:
    """The clocks of this machine."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary moment on, which never go back."""
        return time.monotonic()

    def wall(self) -> float:
        """Return the seconds since the epoch, for comparison with those of other processes."""
        return time.time()


SYSTEM_CLOCK = RunClock()


def process_start() -> float:
    """Return when this process was started, in seconds since the epoch.

    Where the system does not say it, this is now.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # the 22nd of all fields; the name of the program ends the second
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.time()
    return time.time() - max(age, 0.0)
