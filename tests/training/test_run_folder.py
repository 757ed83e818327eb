"""A run's files hold what happened, as JSON, whatever the numbers were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.cli.train_progress import HEARTBEAT_SECONDS, Heartbeat, progress_line
from glamm_jax.errors import GLaMMError
from glamm_jax.training.metric_writers import Scalars
from glamm_jax.training.run_folder import RunError, RunFolder, read_lines
from glamm_jax.training.training_page import make_training_page
from tests.small_experiment import get_config

RECORD = {
    **dict.fromkeys(("loss", "ce", "bce", "dice", "grad_norm", "learning_rate"), 0.5),
    "step": 4,
    "grad_norms": {"llama": 0.25},
    "skipped": False,
    "seconds": 2.0,
    "input_seconds": 0.5,
    "prepare_seconds": 0.25,
    "goodput": 0.975,
    "images": {"ade20k": 1, "grand": 3},
    "row_fill": 0.5,
    "fill": {"rows": 1.0, "tokens": 0.5},
}


def test_numbers_that_json_cannot_say_are_null(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 0, "loss": float("nan"), "grad_norms": {"clip": float("inf")}})
    folder.append_event("skipped", 0, loss=float("-inf"))
    folder.close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [
        {"step": 0, "loss": None, "grad_norms": {"clip": None}}
    ]
    [event] = read_lines(tmp_path / "events.jsonl")
    assert (event["event"], event["step"], event["loss"]) == ("skipped", 0, None)


def test_lines_behind_a_checkpoint_are_forgotten_and_a_cut_one_with_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(5)) + '{"st')
    RunFolder(tmp_path).discard_steps_from(3)
    assert [record["step"] for record in read_lines(path)] == [0, 1, 2]
    path.write_text('{"step": 0}\nrubbish\n{"step": 1}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 2: not valid JSON"):
        list(read_lines(path))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file/run: cannot be created"):
        RunFolder(tmp_path / "file" / "run").claim(get_config())


def test_panels_are_images(tmp_path: Path) -> None:
    RunFolder(tmp_path).save_panels(7, [np.zeros((2, 3, 3), np.uint8)])
    assert (tmp_path / "panels" / "7" / "0.png").read_bytes().startswith(b"\x89PNG")


def test_metric_writers_get_the_mixture_since_the_beginning() -> None:
    scalars = Scalars()
    scalars.from_record(RECORD)
    values = scalars.from_record({**RECORD, "images": {"ade20k": 4}})
    assert values["mixture/ade20k"] == 5 / 8
    assert values["mixture/grand"] == 3 / 8
    assert values["grad_norm/llama"] == 0.25
    assert values["time/images_per_second"] == 2.0


def test_the_progress_line_says_losses_speed_and_waiting() -> None:
    line = progress_line([RECORD, RECORD, {**RECORD, "skipped": True}])
    assert "loss 0.500 ce 0.500 bce 0.500 dice 0.500" in line
    assert "2.00 images/s" in line
    assert "2.00 s/step" in line
    assert "input 25%" in line
    assert line.endswith("SKIPPED")


def test_a_log_has_a_heartbeat_with_the_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    heartbeat = Heartbeat(11, peak_step_seconds=lambda fill: fill["tokens"], clock=lambda: now)
    records = []
    for step in range(4, 11):
        records.append({**RECORD, "step": step, "skipped": step == 10})
        heartbeat.step_finished(records)
        now += HEARTBEAT_SECONDS / 2
    assert capsys.readouterr().err.splitlines() == [
        "step 5/11  loss 0.500  2.00 s/step  MFU 25%  input 25%  goodput 97.5%",
        "step 7/11  loss 0.500  2.00 s/step  MFU 25%  input 25%  goodput 97.5%  ETA 1 min",
        "step 9/11  loss 0.500  2.00 s/step  MFU 25%  input 25%  goodput 97.5%  ETA 30 s",
        "step 11/11  loss 0.500  2.00 s/step  MFU 25%  input 25%  goodput 97.5%  ETA 0 s  SKIPPED",
    ]


STEP = {"step": 0, "loss": 1.0, "images": {"a": 1}, "grad_norms": {"llama": 1.0}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"[1]\n", "line 1: .* is not an object"),
        (b'{"loss": 1}\n', "line 1: no field 'step'"),
        (b"\xff\n", "byte 0 is not UTF-8"),
        (b"[" * 9999 + b"\n", "line 1: nested too deeply"),
        (
            json.dumps(STEP | {"loss": [1]}).encode() + b"\n",
            r"loss = \[1\] is not a number",
        ),
        (json.dumps(STEP | {"images": 3}).encode() + b"\n", "images: 3 is not an object"),
        (json.dumps(STEP | {"skipped": {}}).encode() + b"\n", "is not true or false"),
    ],
)
def test_a_damaged_line_of_a_run_is_one_line_of_the_page(tmp_path, lines, message):
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    with pytest.raises(GLaMMError, match=message):
        make_training_page([tmp_path])


def test_an_event_without_its_fields_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(STEP) + "\n" + '{"step": 1, "lo')
    (tmp_path / "events.jsonl").write_text('{"step": 3, "time": "now"}\n')
    with pytest.raises(GLaMMError, match=r"events.jsonl: step 3: no field 'event'"):
        make_training_page([tmp_path])
