"""A run says once that a stop may take longer than a preemption leaves."""

from __future__ import annotations

from glamm_jax.training.stop_time import StopTime


def test_a_stop_waits_for_two_steps_and_the_checkpoint() -> None:
    stop = StopTime(num_processes=1)
    stop.add_save(14.9)
    stop.add_steps([100.0, 9.8])  # the first compiled
    assert stop.seconds is None and not stop.problem()
    stop.add_steps([9.8])
    assert stop.seconds == 2 * 9.8 + 14.9
    message = stop.problem()
    assert message.startswith(
        "a stop may take 34 s: up to 2 steps of 9.8 s, and 14.9 s for the checkpoint. A preempted "
        "machine has 30 s"
    )
    assert not stop.problem()


def test_several_processes_may_vote_a_step_later() -> None:
    stop = StopTime(num_processes=2)
    stop.add_steps([5.0] * 5)
    stop.add_save(16.0)
    assert stop.seconds == 31.0 and "up to 3 steps of 5.0 s" in stop.problem()


def test_what_is_not_known_is_no_problem() -> None:
    stop = StopTime(num_processes=1)
    stop.add_steps([50.0, None, "50", 50.0, 50.0])
    stop.add_save(None)
    assert not stop.problem()
    short = StopTime(num_processes=1)
    short.add_steps([1.0] * 5)
    short.add_save(5.0)
    assert not short.problem()
