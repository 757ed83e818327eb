"""What is due by steps and by time, such as checkpoints."""

from __future__ import annotations

from glamm_jax.training.clock import SYSTEM_CLOCK, RunClock


class Interval:
    """Tells after each step whether something is due.

    saving = Interval(500, minutes=20)
    if saving.is_due(num_done, saving.is_late): ...; saving.restart()
    """

    def __init__(self, *steps: int, minutes: float = 0.0, clock: RunClock = SYSTEM_CLOCK):
        """Start now.

        Args:
            steps: it is due at the multiples of each; 0: of none.
            minutes: it is due when so many have passed since `restart`; 0: time does not matter.
            clock: of the run.
        """
        self._steps, self._seconds, self._clock = steps, 60 * minutes, clock
        self._started = clock.monotonic()

    @property
    def is_late(self) -> bool:
        """Whether the minutes have passed, by the clock of this process."""
        return bool(self._seconds) and self._clock.monotonic() - self._started >= self._seconds

    def is_due(self, num_done: int, is_late: bool) -> bool:
        """Return whether it is due after so many steps.

        Args:
            num_done: finished steps.
            is_late: `is_late` of process 0, so that all processes decide the same.
        """
        return is_late or any(step and num_done % step == 0 for step in self._steps)

    def restart(self) -> None:
        """Measure the time from now on."""
        self._started = self._clock.monotonic()
