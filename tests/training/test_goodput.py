"""All time of a run has a cause, over all its processes, and is recorded in small lines."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from glamm_jax.errors import GLaMMError
from glamm_jax.line_log import remove_unfinished_line
from glamm_jax.training.clock import process_start
from glamm_jax.training.goodput import RECORD_SECONDS, RunTimes, read_goodput
from glamm_jax.training.run_folder import RunFolder
from glamm_jax.training.training_page import make_training_page
from tests.training.simulated import SimulatedClock


def first_process(run: Path, clock: SimulatedClock) -> None:
    """Train six steps, save the first four, and be killed."""
    folder = RunFolder(run)
    times = RunTimes(folder, started=clock.wall() - 5, clock=clock)
    clock.advance(15)
    times.spent("start_up")
    times.process_started(0)
    with times.compilation():
        clock.advance(8)
    clock.advance(4)
    assert times.step_finished(0, 1.0, False) == 12
    for step in (1, 2, 3):
        clock.advance(4)
        times.step_finished(step, 0.0, is_skipped=step == 2)
    times.record()
    clock.advance(2)
    times.spent("checkpoint")
    for step in (4, 5):
        clock.advance(11)
        times.step_finished(step, 0.0, False)
    folder.close()


def second_process(run: Path, clock: SimulatedClock) -> RunTimes:
    folder = RunFolder(run)
    times = RunTimes(folder, started=clock.wall(), clock=clock)
    clock.advance(7)
    times.spent("restore")
    times.process_started(4)
    clock.advance(12)
    times.step_finished(4, 0.0, False)
    clock.advance(3)
    times.spent("validation")
    times.record()
    folder.close()
    return times


def test_the_time_of_all_processes_has_a_cause(tmp_path: Path) -> None:
    clock = SimulatedClock()
    first_process(tmp_path, clock)
    with (tmp_path / "goodput.jsonl").open("a") as file:
        file.write('{"step": 6, "ti')  # killed while it wrote
    clock.advance(30)
    times = second_process(tmp_path, clock)
    goodput = read_goodput(tmp_path)
    assert goodput is not None
    spent = {cause: seconds for cause, seconds in goodput.seconds.items() if seconds}
    assert spent == {
        "start_up": 20,
        "compilation": 8,
        "input": 1,
        "steps": 3 + 4 + 4 + 12,
        "skipped": 4,
        "checkpoint": 2,
        "repeated": 22,
        "idle": 30,
        "restore": 7,
        "validation": 3,
    }
    assert goodput.num_starts == 2
    assert goodput.total == clock.now + 5
    assert goodput.share == times.share == 23 / 120
    assert goodput.summary() == (
        "goodput 19.2% of 0.03 h, 2 starts; lost: idle 25.0%, repeated 18.3%, start_up 16.7%, "
        "compilation 6.7%, restore 5.8%, skipped 3.3%, validation 2.5%, checkpoint 1.7%, input 0.8%"
    )


def test_the_records_are_few_and_none_of_a_checkpoint_is_lost(tmp_path: Path) -> None:
    clock = SimulatedClock()
    first_process(tmp_path, clock)
    lines = [json.loads(line) for line in (tmp_path / "goodput.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 4, 6]
    assert lines[0]["start"] == 1e9 - 5 and lines[1]["first"] == 0
    assert lines[1]["seconds"] == {"compilation": 8, "input": 1, "steps": 7, "skipped": 4}
    assert (lines[2]["first"], lines[2]["seconds"]) == (3, {"steps": 4})
    folder = RunFolder(tmp_path)
    times = RunTimes(folder, clock.wall(), clock)
    times.process_started(6)
    for step in range(1000):
        clock.advance(RECORD_SECONDS / 100)
        times.step_finished(step, 0.0, False)
    folder.close()
    assert len((tmp_path / "goodput.jsonl").read_text().splitlines()) in range(14, 17)


def test_a_run_without_records_has_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_goodput(tmp_path) is None
    path = tmp_path / "goodput.jsonl"
    path.write_text('{"step": 1, "time": 3, "seconds": {"steps": "2"}}\n')
    with pytest.raises(GLaMMError, match=r"goodput.jsonl: line 1: seconds: steps = '2' is not a"):
        read_goodput(tmp_path)
    path.write_text('{"step": 1, "time": 3}\n')
    with pytest.raises(GLaMMError, match=r"line 1: no field 'seconds'"):
        read_goodput(tmp_path)


@pytest.mark.parametrize("text", [b"", b"one", b"one\n", b"one\ntwo", b"one\n" + 70000 * b"2"])
def test_an_unfinished_line_is_removed(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(text)
    remove_unfinished_line(path)
    assert path.read_bytes() == (b"one\n" if b"\n" in text else b"")


def test_this_process_started_some_time_ago() -> None:
    assert 0 < time.time() - process_start() < 24 * 3600


def test_the_page_of_a_run_has_its_goodput(tmp_path: Path) -> None:
    clock = SimulatedClock()
    first_process(tmp_path, clock)
    second_process(tmp_path, clock)
    step = {"step": 4, "loss": 1.0, "images": {"a": 1}, "grad_norms": {"llama": 1.0}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(step | {"goodput": 0.25}) + "\n")
    (tmp_path / "config.json").write_text("{}")
    make_training_page([tmp_path]).save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "goodput 25.6% of 0.03 h, 2 starts; lost: repeated 24.4%" in page
    assert "Goodput so far" in page
    assert "steps that ran again" in page and "between two processes" not in page
