"""A day with a failure an hour: the program's loop on a simulated clock."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from configs.finetune_gcg import get_config as recipe
from glamm_jax.config.experiment import CheckpointConfig, ExperimentConfig
from glamm_jax.training.goodput import read_goodput
from glamm_jax.training.run_folder import EVENTS, METRICS, RunError, read_lines
from tests.small_experiment import get_config
from tests.training.simulated import MachineTimes, SimulatedMachine

HOUR = 3600.0
# Four TPU hosts (v5e-32) with 160 images a step; train/README.md says where the times come from.
TIMES = MachineTimes(
    step=2.45, save=0.25, write=3.7, restart=8, start_up=22, restore=10, compilation=9
)


def config(total_steps: int) -> ExperimentConfig:
    """Return a small model with the checkpoints of the recipes, each minute."""
    small = get_config()
    optim = replace(small.optim, total_steps=total_steps)
    return replace(small, optim=optim, checkpoint=replace(recipe().checkpoint, every_minutes=1.0))


def failures(hours: int, seed: int) -> list[float]:
    """Return a moment of each hour."""
    moments = random.Random(seed)
    return [(hour + moments.random()) * HOUR for hour in range(hours)]


@pytest.mark.parametrize("hours", [3, pytest.param(24, marks=pytest.mark.slow)])
def test_with_a_failure_an_hour_the_goodput_is_97_percent(
    hours: int, tmp_path: Path, unchecked: None
) -> None:
    machine = SimulatedMachine(TIMES, failures(hours, seed=18))
    steps = round(0.97 * hours * HOUR / TIMES.step)
    records = machine.run(config(steps), tmp_path / "run", steps)
    goodput = read_goodput(tmp_path / "run")
    assert goodput is not None
    print(goodput.summary())
    assert goodput.share >= 0.97
    assert records[-1]["goodput"] == pytest.approx(goodput.share, abs=1e-3)
    # The records agree with what happened on the clock.
    assert goodput.num_starts == hours + 1
    assert goodput.total == pytest.approx(machine.clock.now, abs=1)
    assert goodput.seconds["steps"] == pytest.approx(steps * TIMES.step, abs=1)
    assert [line["step"] for line in read_lines(tmp_path / "run" / METRICS)] == [*range(steps)]


def test_a_slow_stop_is_reported_when_it_is_measured_and_when_the_run_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = SimulatedMachine(MachineTimes(step=9.0, save=1.0, write=14.0), failures=[100.0])
    small = replace(config(total_steps=14), checkpoint=CheckpointConfig(every=4))
    machine.run(small, tmp_path / "run", 14)
    printed = capsys.readouterr().err
    assert printed.count("a stop may take 33 s: up to 2 steps of 9.0 s, and 15.0 s") == 2
    saved = [x for x in read_lines(tmp_path / "run" / EVENTS) if x["event"] == "saved"]
    assert {event["seconds"] for event in saved} == {15.0}


def test_too_many_skipped_steps_end_a_resumed_run_at_the_step_of_an_unbroken_one(
    tmp_path: Path,
) -> None:
    small = replace(config(total_steps=30), checkpoint=CheckpointConfig(every=5))
    small = replace(small, optim=replace(small.optim, max_skipped_steps=4))
    skipped = {2, 8, 9, 10, 11, 12}
    failed = []
    for name, failures in (("unbroken", ()), ("resumed", (10.5,))):
        machine = SimulatedMachine(MachineTimes(step=1.0), failures, skipped)
        with pytest.raises(RunError, match=r"4 consecutive steps .* last is step 11"):
            machine.run(small, tmp_path / name, 30)
        lines = read_lines(tmp_path / name / METRICS)
        events = read_lines(tmp_path / name / EVENTS)
        failed.append(
            (
                [(line["step"], line["skipped"]) for line in lines],
                {event["step"] for event in events if event["event"] == "skipped"},
            )
        )
    assert failed[0] == failed[1]
    assert failed[0][1] == {2, 8, 9, 10, 11}
