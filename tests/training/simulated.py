"""A simulated machine for the training loop: its clock, devices, data and checkpoints.

The loop is the program's own. What takes time on a real machine takes it on the simulated clock
here, and a failure at any moment of that ends the process as `kill -9` does.
"""

from __future__ import annotations

from glamm_jax.training.clock import RunClock


class Killed(BaseException):
    """The simulated process ends at once."""


class SimulatedClock(RunClock):
    """Passes only by `advance`.

    Args:
        failures: moments at which the process is killed, increasing.
    """

    def __init__(self, failures: tuple[float, ...] = ()):
        self.now = 0.0
        self._failures = [*failures]

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1e9 + self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, until the next failure at most.

        Raises:
            Killed: the failure comes first.
        """
        self.advance_to(self.now + seconds)

    def advance_to(self, moment: float) -> None:
        """Let time pass until a moment; as `advance`."""
        if self._failures and self._failures[0] <= moment:
            self.now = max(self._failures.pop(0), self.now)
            raise Killed
        self.now = max(moment, self.now)
