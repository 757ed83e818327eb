"""Something is due by steps, by time, or by either."""

from __future__ import annotations

from glamm_jax.training.intervals import Interval
from tests.training.simulated import SimulatedClock


def test_it_is_due_at_the_multiples_of_every_number_of_steps() -> None:
    interval = Interval(4, 6, 0)
    assert [step for step in range(1, 13) if interval.is_due(step, False)] == [4, 6, 8, 12]


def test_it_is_due_when_the_minutes_have_passed_since_the_restart() -> None:
    clock = SimulatedClock()
    interval = Interval(0, minutes=2, clock=clock)
    assert not interval.is_due(1, interval.is_late)
    clock.advance(119)
    assert not interval.is_due(2, interval.is_late)
    clock.advance(1)
    assert interval.is_due(3, interval.is_late) and interval.is_due(4, interval.is_late)
    interval.restart()
    assert not interval.is_due(5, interval.is_late)
    clock.advance(120)
    assert interval.is_due(6, interval.is_late)


def test_the_clock_of_process_0_decides() -> None:
    interval = Interval(0, minutes=1, clock=SimulatedClock())
    assert not interval.is_late
    assert interval.is_due(1, is_late=True)
