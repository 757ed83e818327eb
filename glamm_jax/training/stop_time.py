"""How long a run may take from a stop signal to its checkpoint, compared with what machines leave.

A stop waits for the step that runs and for the one that is queued behind it; several processes vote
in front of each step, which may be one step later. Then the checkpoint is written.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

PREEMPTION_SECONDS = 30.0  # from the notice to the end of a preempted VM of Google Cloud
WINDOW = 20  # latest steps
MIN_STEPS = 3  # of which the first may have compiled


class StopTime:
    """Estimates the time from a signal to a complete checkpoint.

    Args:
        num_processes: of the run.
    """

    def __init__(self, num_processes: int):
        self._max_steps = 2 if num_processes == 1 else 3
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._save: float | None = None
        self._is_reported = False

    def add_steps(self, seconds: Iterable[Any]) -> None:
        """Add the seconds of finished steps; what is no number, as in a changed file, is not."""
        self._steps.extend(x for x in seconds if isinstance(x, float))

    def add_save(self, seconds: Any) -> None:
        """Add the seconds from the start of a checkpoint until it was complete; None: unknown."""
        if isinstance(seconds, float):
            self._save = seconds

    @property
    def seconds(self) -> float | None:
        """The longest time from a signal to the checkpoint; None: not known yet."""
        if len(self._steps) < MIN_STEPS or self._save is None:
            return None
        return self._max_steps * statistics.median(self._steps) + self._save

    def problem(self) -> str:
        """Return, once, that a stop may take longer than a preemption leaves; "" otherwise."""
        seconds = self.seconds
        if self._is_reported or seconds is None or seconds <= PREEMPTION_SECONDS:
            return ""
        self._is_reported = True
        return (
            f"a stop may take {seconds:.0f} s: up to {self._max_steps} steps of "
            f"{statistics.median(self._steps):.1f} s, and {self._save:.1f} s for the checkpoint. A "
            f"preempted machine has {PREEMPTION_SECONDS:.0f} s; without time for it, the run "
            "continues from the checkpoint before. Shorter steps (more devices, fewer "
            "optim.accumulation_steps) or a faster place for the checkpoints help, and "
            "checkpoint.every_minutes bounds what is lost"
        )
