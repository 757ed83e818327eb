"""Stop signals of a run: SIGTERM, which schedulers send before they take a machine, and Ctrl-C."""

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
        while not stop.received(): ...
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

    def received(self) -> str:
        """Return the name of the signal, or "" before there is one.

        All processes must call it after the same steps: a signal to one of them stops all.
        """
        if not any_process(bool(self._signal)):
            return ""
        return self._signal or "another process received a signal"

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name


def any_process(value: bool) -> bool:
    """Return whether the value is true in any process; all processes must call it together."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


def of_first_process(value: bool) -> bool:
    """Return the value of process 0; all processes must call it together."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))
