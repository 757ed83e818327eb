"""A step that takes too long is reported once, with the stacks of all threads; pauses are not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from glamm_jax.training.watchdog import MIN_STEPS, Watchdog, print_stacks


class SlowSteps:
    """Collects what a watchdog reports."""

    def __init__(self) -> None:
        self.reported: list[tuple[int, float, float]] = []
        self.event = threading.Event()

    def __call__(self, step: int, seconds: float, median: float) -> None:
        self.reported.append((step, seconds, median))
        self.event.set()


def finish_steps(watchdog: Watchdog, number: int, seconds: float) -> None:
    for step in range(number):
        assert not watchdog.step_finished(step, seconds)


def test_a_step_of_ten_times_the_median_is_reported_once() -> None:
    slow = SlowSteps()
    with Watchdog(slow, min_seconds=0.0) as watchdog:
        watchdog.step_finished(0, 100.0)  # it compiles
        assert watchdog.limit is None
        for step in range(1, MIN_STEPS + 1):
            watchdog.step_finished(step, 0.02)
        assert watchdog.limit == pytest.approx(0.2)
        assert slow.event.wait(20)
        assert watchdog.step_finished(MIN_STEPS + 1, 0.3)
        [(step, seconds, median)] = slow.reported[:1]
        assert (step, median) == (MIN_STEPS + 1, 0.02)
        assert seconds >= 0.2


def test_a_pause_is_not_a_step() -> None:
    slow = SlowSteps()
    with Watchdog(slow, min_seconds=0.0) as watchdog, watchdog.paused():
        finish_steps(watchdog, MIN_STEPS + 1, 0.001)
        assert not slow.event.wait(0.2)
    assert slow.reported == []


def test_short_steps_have_the_minimum_as_limit_and_few_have_none() -> None:
    with Watchdog(SlowSteps(), min_seconds=60) as watchdog:
        finish_steps(watchdog, MIN_STEPS, 0.001)
        assert watchdog.limit is None
        watchdog.step_finished(MIN_STEPS, 0.001)
        assert watchdog.limit == 60


def test_the_stacks_of_all_threads_are_printed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="waiting")
    thread.start()
    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr("sys.stderr", file)
        print_stacks(7, 31.0, 3.0)
    release.set()
    thread.join()
    printed = (tmp_path / "stderr").read_text()
    assert "step 7 has taken 31 s so far, the median is 3.00 s" in printed
    assert "test_the_stacks_of_all_threads_are_printed" in printed
    assert "in wait" in printed  # the other thread
