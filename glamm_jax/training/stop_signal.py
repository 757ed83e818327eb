"""Stop signals of a run: SIGTERM, which schedulers send before they take a machine, and Ctrl-C.

Other parts of the program may request a stop as well (`glamm_jax.training.maintenance`).
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopSignal:
    """Records the first stop signal. A second Ctrl-C interrupts the program at once.

    with StopSignal() as stop:
        while not stop.name: ...
    """

    def __init__(self) -> None:
        self._signal = ""
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python handles signals in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @property
    def name(self) -> str:
        """The first signal or request that this process has received, "" before there is one."""
        return self._signal

    def request(self, reason: str) -> None:
        """Request a stop, as a signal does; from any thread."""
        self._signal = self._signal or reason

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(signal.Signals(number).name)


def any_process(value: bool) -> bool:
    """Return whether the value is true in any process; all processes must call it together."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())
