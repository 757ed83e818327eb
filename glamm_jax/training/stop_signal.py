"""A run is asked to stop: by SIGTERM, as schedulers do before they take a machine, or by Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopSignal:
    """Remembers the first signal; a second Ctrl-C ends the program at once.

    with Stop() as stop:
        while not stop.asked(step): ...
    """

    def __init__(self) -> None:
        self._signal = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        # Python lets the main thread alone handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def received(self, step: int) -> str:
        """The signal's name, in all processes after the same step; "" while there was none."""
        if jax.process_count() == 1:
            return self._signal
        told = multihost_utils.process_allgather(np.asarray(bool(self._signal)))
        return (self._signal or "another process was asked") if told.any() else ""

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
